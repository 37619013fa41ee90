"""Make docs/benchmarks.md and docs/results.md from the rows beside them (.jsonl).

Of the rows that measure the same thing in the same place the newest stands in a table. With `--check` nothing
is written, and the exit code is 1 if a page is not what its rows say.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from statistics import mean

from midigen_jax import config, rows
from midigen_jax.errors import InputError
from midigen_jax.rows import Row

DOCS = Path(__file__).resolve().parent.parent / "docs"

BENCHMARKS = """# Benchmarks

Made by `make tables` from [benchmarks.jsonl](benchmarks.jsonl); edit nothing here. Each line is the
newest run of its name, config and device: the median, and the least and the greatest of its runs.
"""

RESULTS = """# Results

Made by `make tables` from [results.jsonl](results.jsonl); edit nothing here. How likely models find whole
pieces that they have not seen: exact nats, less is better, with the 95 % interval of a bootstrap over pieces.
Units, splits and the models without a network are explained in [evaluating.md](evaluating.md). Each model of
ours is one network with the state carried through a piece and no training at test time; settings were chosen
on the validation split ([evaluating.md](evaluating.md) says how often the test was read, and which models got
their temperatures only after training). *Clean* pieces share no music with the training split, *leaked* ones
do, by a rule that found fewer than today's: more than half of the windows of 16 intervals of the highest
notes ([leaks.md](leaks.md) has the counts of both). The splits of the article's music were drawn by that rule
too, and are other ones today; those of `bach` are today's. Minutes are of one core, while something else had
the other one. Commands are those that were run: of the chorales at sixteenths the .json is read today, whose
pieces are the same, and the recipe `article` is `article_music`.
"""

RATIOS = """## decode, ratios over machines and days

How many times as fast ours is: the least and the greatest median of all runs, also of older ones and of other
machines, for a figure of one run is that machine's and that day's. A run is a row of another time.
"""

# What a run finds out about its machine, or has of it: runs that differ in nothing else are compared.
OF_MACHINE = {"devices", "cores", "form", "peer_threads", "jit_compile"}

COLUMNS = ("name", "config", "median", "min–max", "runs", "device", "versions", "commit", "command")


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the pages, or check them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder of rows and pages")
    parser.add_argument("--check", action="store_true", help="write nothing; are the pages up to date?")
    options = parser.parse_args(arguments)
    stale = False
    for name, page in PAGES.items():
        measured, out = options.docs / f"{name}.jsonl", options.docs / f"{name}.md"
        if not measured.is_file():
            continue
        try:
            text = page(rows.read(measured))
        except InputError as error:
            print(error, file=sys.stderr)
            return 2
        if not options.check:
            out.write_text(text, encoding="utf-8")
        elif not out.is_file() or out.read_text(encoding="utf-8") != text:
            print(f"{out}: not up to date; run `make tables`", file=sys.stderr)
            stale = True
    return int(stale)


def benchmarks(measured: Iterable[Row]) -> str:
    """The page of benchmarks. Raises InputError for a row without name, value, unit, device or time."""
    measured, parts = list(measured), [BENCHMARKS]
    for part, group in groupby(newest(measured), key=lambda row: row["name"].split(".")[0]):
        parts.append(f"## {part}\n\n" + table([COLUMNS, *map(cells, group)]))
        if part == "decode" and (lines := ratios(measured)):
            parts.append(
                f"{RATIOS}\n" + table([("over", "config", "ratio", "runs", "days", "machines"), *lines])
            )
    return "\n".join(parts)


def ratios(measured: Iterable[Row]) -> list[tuple[str, ...]]:
    """A line for each rival of decoding and what was decoded: the range of its ratios, and over how many."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in measured:
        name = need(row, "name")
        if name.startswith("decode.ratio."):
            told = {key: value for key, value in row.get("config", {}).items() if key not in OF_MACHINE}
            same = ", ".join(f"{key} {value}" for key, value in config.flatten(told).items())
            found.setdefault((name.removeprefix("decode.ratio."), same), []).append(row)
    lines: list[tuple[str, ...]] = []
    for (rival, same), runs in found.items():
        values = sorted(float(need(row, "value")) for row in runs)
        least, greatest = number(values[0]), number(values[-1])
        span = least if least == greatest else f"{least} to {greatest}"
        days = {need(row, "time")[:10] for row in runs}
        counts = len(runs), len(days), len({need(row, "device") for row in runs})
        lines.append((f"`{rival}`", same, f"{span} x", *map(str, counts)))
    return lines


def results(measured: Iterable[Row]) -> str:
    """The page of models, a table for each benchmark and split. Raises InputError as `benchmarks` does."""
    parts = [RESULTS]
    for name, group in groupby(newest(measured), key=lambda row: row["name"].removeprefix("quality.")):
        of_name = list(group)
        for split in ("test", "valid"):
            there = [row for row in of_name if row["config"]["split"] == split]
            if there:
                parts.append(f"## {name}, {split}\n\n" + of_split(there))
    return "\n".join(parts)


def of_split(there: Sequence[Row]) -> str:
    """The table of one benchmark's split: our models, then what they stand beside, and how it was made."""
    figures: dict[tuple[str, int | None], dict[str, Row]] = {}
    for row in there:
        model = row["config"]["model"], row.get("seed")
        figures.setdefault(model, {})[row["config"]["part"]] = row
    ours = [of_model for (_, seed), of_model in figures.items() if seed is not None]
    others = [of_model for (_, seed), of_model in figures.items() if seed is None]
    others.sort(key=lambda of_model: of_model["all"]["value"])
    columns = [part for part in ("all", "clean", "leaked") if part in next(iter(figures.values()))]
    lines = [("model", *columns, "trained, minutes")]
    for of_model in ours:
        minutes = f"{of_model['all']['train_seconds'] / 60:.0f}"
        lines.append((f"ours, seed {of_model['all']['seed']}", *figures_of(of_model, columns), minutes))
    if len(ours) > 1:
        means = [f"{mean(one[part]['value'] for one in ours):.3f}" for part in columns]
        lines.append((f"ours, mean of {len(ours)} seeds", *means, ""))
    for of_model in others:
        lines.append((f"`{of_model['all']['config']['model']}`", *figures_of(of_model, columns), ""))
    tried = {row["tried"] for row in there if "tried" in row}
    about = [f"{there[0]['unit']}, {there[0]['pieces']} pieces"]
    about += [
        "1 configuration was tried" if many == 1 else f"{many} configurations were tried"
        for many in sorted(tried)
    ]
    commands = sorted({f"`{row['command']}` (commit {row.get('commit')}, {row['device']})" for row in there})
    return f"{'; '.join(about)}.\n\n{table(lines)}\n" + "".join(f"- {command}\n" for command in commands)


def figures_of(of_model: dict[str, Row], parts: Iterable[str]) -> list[str]:
    """A model's figure and its interval for each part of the split."""
    found = [of_model[part] for part in parts]
    return [f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" for row in found]


def table(lines: Iterable[Sequence[str]]) -> str:
    """Lines of Markdown; the first is the head."""
    head, *body = lines
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ("---",) * len(head), *body))


def newest(measured: Iterable[Row]) -> list[Row]:
    """Of the rows that measure the same in the same place the last one, in order of what they measure."""
    found: dict[str, Row] = {}
    for row in sorted(measured, key=lambda row: need(row, "time")):
        found[identity(row)] = row
    return [found[key] for key in sorted(found)]


def need(row: Row, name: str) -> str:
    """A field that every row has, as text."""
    if name not in row:
        raise InputError(f"a row has no {name!r}: mend or remove it: {json.dumps(row, ensure_ascii=False)}")
    return str(row[name])


def identity(row: Row) -> str:
    """What a row measures, and where; it also orders the page, the first part of the name before all."""
    name = need(row, "name").split(".")
    return json.dumps([name, row.get("config", {}), row.get("seed"), need(row, "device")], sort_keys=True)


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


PAGES: dict[str, Callable[[Iterable[Row]], str]] = {"benchmarks": benchmarks, "results": results}

if __name__ == "__main__":
    sys.exit(main())
