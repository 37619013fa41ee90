"""Rows: everything measured is one JSON line, and tables, plots and reports are made from lines alone.

In: a name, a value, a unit and what is needed to make the value again. Out: lines appended to a `.jsonl`
file, and the same lines read back. A reader keeps fields that it does not know.
"""

import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from midigen_jax import __version__
from midigen_jax.errors import InputError
from midigen_jax.files import replacing

Row = dict[str, Any]


class Finding(NamedTuple):
    """Something that was measured: in lines of text, and in rows."""

    lines: Sequence[str]
    rows: Sequence[Row] = ()


_PACKAGES = (
    *("jax", "libtpu", "flax", "optax", "orbax-checkpoint", "numpy", "music21", "symusic"),
    *("torch", "keras", "tensorflow", "onnxruntime"),
)


def make(name: str, value: float, unit: str, **fields: Any) -> Row:
    """One row: the measurement, `fields` (config, seed, step, command …), and where and when it was made.

    `name` is dotted, lower-case and stable; `value` is the median where there are several runs.
    """
    return {
        "name": name,
        "value": value,
        "unit": unit,
        **fields,
        "device": device(),
        "versions": versions(),
        "commit": commit(),
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def of_runs(name: str, values: Sequence[float], unit: str, **fields: Any) -> Row:
    """One row for several runs of a benchmark: their median, least and greatest, and how many they were."""
    median, least, greatest = (
        float(f"{number:.6g}") for number in (statistics.median(values), min(values), max(values))
    )
    return make(name, median, unit, min=least, max=greatest, runs=len(values), **fields)


def line(row: Row) -> str:
    """A row as the line that stands for it in a file, without its end."""
    return json.dumps(row, ensure_ascii=False)


def append(path: Path, rows: Iterable[Row]) -> None:
    """Add `rows` to the end of the file at `path`, which is made if it is not there.

    A last line that a kill cut short goes first, or the next row would be glued to it.
    """
    lines = "".join(line(row) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                _end_last_line(file)
        file.write(lines.encode())


def show(findings: Iterable[Finding], out: str | None) -> None:
    """Print what is measured as it comes, and add its rows, with this process's command, to the file `out`.

    Raises InputError, before anything is measured, where `out` is a folder.
    """
    if out is not None and Path(out).is_dir():
        raise InputError(f"--out {out}: is a folder; give a .jsonl file")
    for lines, found in findings:
        print(*lines, sep="\n", flush=True)
        if out is not None:
            append(Path(out), [row | {"command": command()} for row in found])
    if out is not None:
        print(f"Rows added to {out}.", flush=True)


def command() -> str:
    """The command line of this process, as one types it."""
    return shlex.join(["midigen", *sys.argv[1:]])


def in_words(rows: Sequence[Row]) -> list[str]:
    """A line for each row of several runs: its median, least and greatest."""
    width = max(len(row["name"]) for row in rows)
    return [
        f"{row['name']:{width}} {row['value']:>12,.6g} {row['unit']}  "
        f"({row['min']:,.6g} to {row['max']:,.6g})"
        for row in rows
    ]


def _end_last_line(file: BinaryIO) -> None:
    file.seek(0)
    content = file.read()
    whole = content.rfind(b"\n") + 1
    try:
        json.loads(content[whole:])
    except ValueError:
        file.truncate(whole)
    else:
        file.write(b"\n")


def read(path: Path) -> list[Row]:
    """The rows of a file, in order. A last line that a kill cut short is left out.

    Raises InputError when the file is not there, or when a line before the last is no JSON object.
    """
    if not path.is_file():
        raise InputError(f"{path}: no rows there; give a .jsonl file that a command wrote")
    rows: list[Row] = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            row = json.loads(line)
        except ValueError:  # no JSON, or a character cut in two
            if number == len(lines):
                break
            raise InputError(f"{path}, line {number}: no JSON; mend or remove the line") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: not a row; mend or remove the line")
        rows.append(row)
    return rows


def last(rows: Sequence[Row], name: str) -> Any:
    """The value of the last row of that name; None where there is none."""
    return next((row["value"] for row in reversed(rows) if row.get("name") == name), None)


def rewrite(path: Path, rows: Iterable[Row]) -> None:
    """Replace the file at `path` by `rows`, so that a reader sees the old file or the new one."""
    with replacing(path) as partial:
        append(partial, rows)


def device() -> str:
    """The machine in words: the accelerator that JAX runs on, or the processor and its cores."""
    jax = sys.modules.get("jax")  # not imported for this: rows are also written without JAX
    if jax is not None and jax.default_backend() != "cpu":
        return f"{jax.devices()[0].device_kind} x {jax.device_count()}"
    return _processor()


@cache
def _processor() -> str:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return f"{model}, {os.cpu_count()} cores"


@cache
def versions() -> dict[str, str]:
    """Versions of this package, of Python, and of those packages that a figure may depend on."""
    found = {"midigen-jax": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def commit() -> str:
    """The short commit of the checkout that the package runs from, or `unknown` outside of one."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return "unknown"
    command = ["git", "-C", str(here), "rev-parse", "--short", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return answer.stdout.strip() or "unknown"
