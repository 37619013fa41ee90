"""Kill trainings and preparations at random instants, start them again, and see what was lost.

    python scripts/bench_faults.py --kills 200 --out faults.jsonl

One of each is left alone first. Then each is killed with SIGKILL (`kill -9`), at instants that are drawn
evenly from the time that it took, and started again with the same command until it ends by itself; then the
next one begins, until there have been so many kills. What it left is compared with what the one left that was
left alone: rows of training and validation with their values to the bit, and every byte of a corpus.
"""

import argparse
import json
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from melodies import write_melodies
from midigen_jax import rows
from midigen_jax.progress import Progress

_PIECES, _NOTES = 300, 60
_SETTINGS = {
    "model.width": 32,
    "model.pitch_embedding": 16,
    "model.duration_embedding": 8,
    "batch.rows": 8,
    "batch.length": 32,
    "train.steps": 600,
    "train.evaluate_every": 20,
    "train.steps_per_call": 4,
    "sample.count": 1,
    "sample.events": 16,
}


class Work(NamedTuple):
    """A command that can be started again, the folder that it makes, and what is compared of that."""

    name: str
    command: Sequence[str]
    out: Path
    found: Callable[[Path], dict[Any, Any]]


class Count(NamedTuple):
    """What has happened to a command so far."""

    kills: int = 0
    starts: int = 0
    ended: int = 0  # by themselves
    refused: int = 0  # starts after a kill that ended with an error
    lost: int = 0  # rows, or files
    doubled: int = 0
    different: int = 0


def main() -> int:
    """Kill until there have been enough kills; write a row for each command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="in all (default: 20)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="decides the instants (default: 0)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a .jsonl file that rows are added to")
    given = parser.parse_args()
    random.seed(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        for work in _works(Path(folder)):
            counted = _kill(work, given.kills // 2)
            config = {"command": work.name, **counted._asdict()}
            row = rows.make(
                "scale.kill9",
                counted.lost + counted.doubled + counted.different + counted.refused,
                "faults",
                config=config,
                command=shlex.join(["python", "scripts/bench_faults.py", *sys.argv[1:]]),
            )
            print(rows.line(row), flush=True)
            if given.out is not None:
                rows.append(given.out, [row])
    return 0


def _works(folder: Path) -> list[Work]:
    """The commands; training needs the corpus that preparing left when it was left alone."""
    music, corpus = folder / "music", folder / "corpus"
    write_melodies(music, _PIECES, _NOTES)
    midigen = [sys.executable, "-m", "midigen_jax.cli"]
    settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
    prepare = [*midigen, "prepare", str(music), "--workers", "2", "--out", str(folder / "again")]
    subprocess.run([*prepare[:-1], str(corpus)], check=True, capture_output=True)
    train = [*midigen, "train", str(corpus), *settings, "--out", str(folder / "run")]
    return [
        Work("prepare", prepare, folder / "again", _bytes),
        Work("train", train, folder / "run", _rows),
    ]


def _kill(work: Work, kills: int) -> Count:
    """Start, kill, start again; compare what is left each time that the command came to its end."""
    # Twice: what the first one compiles the others find.
    for _ in range(2):
        shutil.rmtree(work.out, ignore_errors=True)
        began = time.perf_counter()
        subprocess.run(work.command, check=True, capture_output=True)
        took = time.perf_counter() - began
    expected = work.found(work.out)
    shutil.rmtree(work.out)
    count = Count()
    with Progress(f"killing {work.name}", kills, "kills") as progress:
        # The last one is let go on to its end.
        while count.kills < kills or work.out.exists() or _partial(work.out).exists():
            last = count.kills >= kills
            process = subprocess.Popen(work.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            count = count._replace(starts=count.starts + 1)
            try:
                _, said = process.communicate(timeout=None if last else random.uniform(0, took))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                count = count._replace(kills=count.kills + 1)
                progress.advance(note=f"{count.ended} ended")
                continue
            if process.returncode:
                print(said.decode(), file=sys.stderr)
                count = count._replace(refused=count.refused + 1)
            else:
                count = _compare(count, expected, work.found(work.out))
            shutil.rmtree(work.out, ignore_errors=True)
            shutil.rmtree(_partial(work.out), ignore_errors=True)
    return count


def _partial(out: Path) -> Path:
    return out.parent / f"{out.name}.partial"


def _compare(count: Count, expected: dict[Any, Any], found: dict[Any, Any]) -> Count:
    doubled = sum(len(values) - 1 for values in found.values())
    different = sum(found[key][0] != value[0] for key, value in expected.items() if key in found)
    return count._replace(
        ended=count.ended + 1,
        lost=count.lost + len(expected.keys() - found.keys()),
        doubled=count.doubled + doubled + len(found.keys() - expected.keys()),
        different=count.different + different,
    )


def _rows(run: Path) -> dict[Any, Any]:
    """Values by step and name, but for what the clock and the memory decide; samples as bytes."""
    found: dict[Any, Any] = {}
    for row in rows.read(run / "rows.jsonl"):
        if not row["name"].endswith(("_per_s", "seconds", "most_memory", "share_of_peak")):
            found.setdefault((row["step"], row["name"]), []).append(row["value"])
    return found | {path.name: [path.read_bytes()] for path in run.glob("samples/*/*.mid")}


def _bytes(corpus: Path) -> dict[Any, Any]:
    """The files of a corpus, and its manifest but for the command."""
    files = {path.name: [path.read_bytes()] for path in corpus.iterdir() if path.name != "rows.jsonl"}
    names = [json.loads(line)["name"] for line in (corpus / "rows.jsonl").read_text().splitlines()]
    return files | {name: [None] * names.count(name) for name in names}


if __name__ == "__main__":
    sys.exit(main())
