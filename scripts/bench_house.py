"""What a change of the house costs: this checkout beside an earlier one, command by command, in turn.

    python scripts/bench_house.py --before ../before --rounds 5 --out rows.jsonl

Both run the same commands of `midigen`, each in a process of its own and with its own package, one after
the other in every round. A row is the new figure over the old one, the median of the rounds: above 1 is
faster for rates, slower for seconds. Lines are those of the package. Music is made up, the same for both.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from melodies import write_melodies
from midigen_jax import rows
from midigen_jax.progress import Progress

HERE = Path(__file__).resolve().parent.parent
_PIECES, _NOTES = 400, 200
COMMANDS = {
    "train": ["bench", "train"],
    "decode": ["bench", "decode", "--batches", "1,64", "--quick"],
}
# name of the row: command, row of that command, batch (None: any)
MEASURED = {
    "train": ("train", "train.events_per_s", None),
    "decode.1": ("decode", "decode.events_per_s", 1),
    "decode.64": ("decode", "decode.events_per_s", 64),
    "compile.train": ("train", "train.compile_seconds", None),
    "compile.decode.1": ("decode", "decode.compile_seconds", 1),
    "compile.decode.64": ("decode", "decode.compile_seconds", 64),
}


def main() -> int:
    """Print the rows, and add them to a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, required=True, metavar="CHECKOUT", help="the earlier one")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a .jsonl file that rows are added to")
    given = parser.parse_args()
    command = f"python scripts/bench_house.py --before CHECKOUT --rounds {given.rounds}"
    for row in measure(given.before.resolve(), given.rounds, command):
        print(rows.line(row), flush=True)
        if given.out is not None:
            rows.append(given.out, [row])
    return 0


def measure(before: Path, rounds: int, command: str) -> Iterator[rows.Row]:
    """All rows."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=before, capture_output=True, text=True, check=True
    ).stdout.strip()
    fields = {"config": {"before": commit}, "command": command}
    ratios: dict[str, list[float]] = {name: [] for name in ("prepare", *MEASURED)}
    with tempfile.TemporaryDirectory() as place, Progress("turns", rounds, "rounds") as progress:
        folder = Path(place)
        music = write_melodies(folder / "music", _PIECES, _NOTES)
        for number in range(rounds):
            sides = (HERE, before) if number % 2 else (before, HERE)  # who comes first changes
            found = {side: _turn(side, music, folder / f"{number}-{sides.index(side)}") for side in sides}
            for name in ratios:
                ratios[name].append(found[HERE][name] / found[before][name])
            progress.advance()
    for name, values in ratios.items():
        yield rows.of_runs(f"house.{name}", values, "x", **fields)
    yield rows.make("house.lines", _lines(HERE), "lines", **fields, before=_lines(before))


def _turn(side: Path, music: Path, folder: Path) -> dict[str, float]:
    """The figures of one checkout: files a second, and what its benchmarks say."""
    folder.mkdir()
    began = time.perf_counter()
    _run(side, folder, "prepare", str(music), "--out", str(folder / "corpus"), "--workers", "1")
    found = {"prepare": _PIECES / (time.perf_counter() - began)}
    said = {}
    for name, words in COMMANDS.items():
        _run(side, folder, *words, "--out", str(folder / f"{name}.jsonl"))
        said[name] = rows.read(folder / f"{name}.jsonl")
    for name, (of, row_name, batch) in MEASURED.items():
        chosen = [
            row["value"]
            for row in said[of]
            if row["name"] == row_name and batch in (None, row["config"]["batch"])
        ]
        found[name] = chosen[0]
    return found


def _run(side: Path, folder: Path, *words: str) -> None:
    env = os.environ | {"PYTHONPATH": str(side), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    command = [sys.executable, "-m", "midigen_jax.cli", *words]
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)


def _lines(side: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in (side / "midigen_jax").rglob("*.py"))


if __name__ == "__main__":
    sys.exit(main())
