"""Make docs/benchmarks.md from docs/benchmarks.jsonl: one table for each first part of the rows' names.

Of the rows with the same name, config and device, the newest stands in the table. With `--check` nothing
is written, and the exit code is 1 if the file is not what the rows say.
"""

import argparse
import json
import sys
from itertools import groupby
from pathlib import Path

from midigen_jax import config, rows
from midigen_jax.errors import InputError
from midigen_jax.rows import Row

DOCS = Path(__file__).resolve().parent.parent / "docs"

INTRO = """# Benchmarks

Made by `make benchmarks` from [benchmarks.jsonl](benchmarks.jsonl); edit nothing here. Each line is the
newest run of its name, config and device: the median, and the least and the greatest of its runs.
"""

COLUMNS = ("name", "config", "median", "min–max", "runs", "device", "versions", "commit", "command")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=Path, default=DOCS / "benchmarks.jsonl", help="what was measured")
    parser.add_argument("--out", type=Path, default=DOCS / "benchmarks.md", help="the page to write")
    parser.add_argument("--check", action="store_true", help="write nothing; is the page up to date?")
    options = parser.parse_args(arguments)
    try:
        text = page(rows.read(options.rows))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if not options.check:
        options.out.write_text(text, encoding="utf-8")
    elif not options.out.is_file() or options.out.read_text(encoding="utf-8") != text:
        print(f"{options.out}: not up to date; run `make benchmarks`", file=sys.stderr)
        return 1
    return 0


def page(measured: list[Row]) -> str:
    """The whole page. Raises InputError for a row without a name, a value, a unit, a device or a time."""
    newest: dict[str, Row] = {}
    for row in sorted(measured, key=lambda row: need(row, "time")):
        newest[identity(row)] = row
    parts = [INTRO]
    ordered = [newest[key] for key in sorted(newest)]
    for part, group in groupby(ordered, key=lambda row: row["name"].split(".")[0]):
        table = [cells(row) for row in group]
        lines = [COLUMNS, ("---",) * len(COLUMNS), *table]
        parts.append(f"## {part}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines))
    return "\n".join(parts)


def need(row: Row, name: str) -> str:
    """A field that every row has, as text."""
    if name not in row:
        raise InputError(f"a row has no {name!r}: mend or remove it: {json.dumps(row, ensure_ascii=False)}")
    return str(row[name])


def identity(row: Row) -> str:
    """What a row measures, and where; it also orders the page, the first part of the name before all."""
    name = need(row, "name").split(".")
    return json.dumps([name, row.get("config", {}), need(row, "device")], sort_keys=True)


def cells(row: Row) -> tuple[str, ...]:
    """One row's line of the table."""
    least_greatest = f"{number(row['min'])}–{number(row['max'])}" if {"min", "max"} <= row.keys() else ""
    texts = (
        f"`{row['name']}`",
        ", ".join(f"{name} {value}" for name, value in config.flatten(row.get("config", {})).items()),
        f"{number(float(need(row, 'value')))} {need(row, 'unit')}",
        least_greatest,
        str(row.get("runs", "")),
        row["device"],
        versions(row),
        str(row.get("commit", "")),
        f"`{row['command']}`" if "command" in row else "",
    )
    return tuple(text.replace("|", "\\|").replace("\n", " ") for text in texts)


def number(value: float) -> str:
    """Three digits that count, and no exponent for what is large."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def versions(row: Row) -> str:
    """Python's, JAX's, and that of each package which the row's name speaks of."""
    shown = {"python", "jax", *row["name"].split(".")}
    known = row.get("versions", {})
    return ", ".join(f"{name} {known[name]}" for name in known if name in shown)


if __name__ == "__main__":
    sys.exit(main())
