"""How fast files become tokens: ours against music21 on the same files, and what a second process is worth.

    python scripts/bench_prepare.py --data midi_dataset.zip --quick

prints rows as JSON lines; append them to docs/benchmarks.jsonl and run `make tables`. --quick takes a
seeded sample of the files and fewer generated ones: less than 5 minutes.

Ours is what `prepare` does with each file: it reads, finds the key, transposes, slices, makes tokens, and
takes the fingerprints that show which pieces share music. music21 parses (without its cache, as a file
that it never saw), chordifies, finds the key and transposes in place, which is its fastest way to the same
music; nothing is read out of it. Both are warm and take turns, file by file, in one process. A file that one
of them cannot read is named, and left out of both.
"""

import argparse
import gc
import itertools
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from midigen_jax import rows
from midigen_jax.config import PrepareConfig
from midigen_jax.data.prepare import prepare
from midigen_jax.data.reading import read_source
from midigen_jax.errors import InputError
from midigen_jax.music.notes import make_notes
from midigen_jax.music.read import Source, find_sources
from midigen_jax.music.write import write_midi
from midigen_jax.progress import Progress

_OUR_RUNS = 5  # on each file, of which the median counts: a few milliseconds are easily disturbed


class Seconds(NamedTuple):
    """What one call took, by two clocks."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Measured:
    """What a row says of its own: a value for each run or each file, of which the median stands for all."""

    name: str
    values: list[float]
    unit: str
    config: dict[str, Any]
    more: dict[str, Any] = field(default_factory=dict)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the rows of both comparisons."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="MIDI files: a file, a folder or a zip")
    parser.add_argument("--quick", action="store_true", help="40 files, 4,000 generated ones, 3 rounds")
    parser.add_argument("--files", type=int, help="a sample of so many files; otherwise all")
    parser.add_argument("--generated", type=int, help="files for 1 and 2 processes; otherwise 20,000")
    parser.add_argument("--rounds", type=int, help="rounds with 1 and 2 processes; otherwise 5")
    parser.add_argument("--seed", type=int, default=0, help="of the sample and of the generated music")
    options = parser.parse_args(arguments)
    files, generated, rounds = (40, 4000, 3) if options.quick else (None, 20_000, 5)
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        try:
            sources = _sample(options.data, options.files or files, options.seed, home / "data")
            _warm_up(home / "warm", rng)
            for measured in _against_music21(sources):
                _print(measured, options)
            for measured in _with_workers(
                home, options.generated or generated, options.rounds or rounds, rng
            ):
                _print(measured, options)
        except InputError as error:
            print(error, file=sys.stderr)
            return 2
    return 0


def _sample(data: Path, count: int | None, seed: int, folder: Path) -> list[Source]:
    """`count` of the MIDI files of `data`, each a file of its own, which both sides read from the disk."""
    sources = [
        source for source in find_sources([str(data)]) if source.name.lower().endswith((".mid", ".midi"))
    ]
    if not sources:
        raise InputError(f"{data}: no MIDI files in it; give a file, a folder or a zip of some")
    random.Random(seed).shuffle(sources)
    folder.mkdir()
    copies = []
    for number, source in enumerate(sources[:count]):
        path = folder / f"{number}.mid"
        path.write_bytes(source.content())
        copies.append(Source(source.name, path))
    return copies


def _ours(source: Source) -> None:
    """What `prepare` does with each file, fingerprints and all."""
    reading = read_source(source, PrepareConfig(transpose="C"))
    if reading.facts.refused:
        raise InputError(reading.facts.refused)


def _music21(source: Source) -> None:
    from music21 import converter

    score: Any = converter.parse(source.path, forceSource=True)
    chords = score.chordify()
    key = score.analyze("key")
    tonic = 0 if key.mode == "major" else 9
    shift = (tonic - key.tonic.pitchClass + 6) % 12 - 6
    if shift:
        chords.transpose(shift, inPlace=True)


def _warm_up(folder: Path, rng: np.random.Generator) -> None:
    """Imports and first calls are paid for before anything is timed."""
    write_music(folder, 1, rng)
    for side in (_ours, _music21):
        side(Source("warm", folder / "0.mid"))


def _against_music21(sources: Sequence[Source]) -> Iterator[Measured]:
    """Both sides on each file in turn. Raises InputError if there is none that both can read."""
    ours: list[Seconds] = []
    theirs: list[Seconds] = []
    left_out: list[str] = []
    with warnings.catch_warnings(), Progress("timing", len(sources), "files") as progress:
        warnings.simplefilter("ignore")
        for source in sources:
            try:
                our, their = _timed(_ours, source, _OUR_RUNS), _timed(_music21, source, 1)
            # music21 raises whatever it stumbles over.
            except Exception as error:
                print(f"left out: {source.name} ({' '.join(str(error).split())})", file=sys.stderr)
                left_out.append(source.name)
            else:
                ours.append(our)
                theirs.append(their)
            progress.advance()
    if not ours:
        raise InputError("no file that both can read; give others as --data")
    for clock in range(len(Seconds._fields)):
        yield from _compared(
            [seconds[clock] for seconds in ours],
            [seconds[clock] for seconds in theirs],
            {"files": len(ours), "clock": Seconds._fields[clock]},
            left_out,
        )


def _compared(
    ours: list[float], theirs: list[float], config: dict[str, Any], left_out: list[str]
) -> Iterator[Measured]:
    """The ratio over all files together, over each file, and what a file takes."""
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    together = sum(theirs) / sum(ours)
    yield Measured("prepare.ratio.music21", [together], "x", config, {"left_out": left_out})
    yield Measured("prepare.ratio_per_file.music21", ratios, "x", config)
    for name, seconds in (("prepare.ms_per_file", ours), ("prepare.ms_per_file.music21", theirs)):
        values = [1000 * value for value in seconds]
        yield Measured(name, values, "ms", config, {"mean": float(f"{statistics.mean(values):.6g}")})


def _timed(side: Callable[[Source], None], source: Source, runs: int) -> Seconds:
    """The median of `runs` calls, each without the garbage of those before it."""
    times = []
    for _ in range(runs):
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        side(source)
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    walls, cpus = zip(*times, strict=True)
    return Seconds(statistics.median(walls), statistics.median(cpus))


def _with_workers(home: Path, files: int, rounds: int, rng: np.random.Generator) -> Iterator[Measured]:
    """`prepare` with 1 and with 2 processes, on all generated files and on a quarter of them, in turn.

    Two sizes tell the time that each file takes from the time before the first.
    """
    sizes = (files // 4, files)
    for size in sizes:
        write_music(home / str(size), size, rng)
    times: dict[tuple[int, int], list[float]] = defaultdict(list)
    for number, size, workers in itertools.product(range(rounds), sizes, (1, 2)):
        start = time.perf_counter()
        out = home / f"corpus-{number}-{size}-{workers}"
        prepare([str(home / str(size))], out, PrepareConfig(), workers=workers)
        times[size, workers].append(time.perf_counter() - start)
    median = {case: statistics.median(seconds) for case, seconds in times.items()}
    each = {w: (median[files, w] - median[sizes[0], w]) / (files - sizes[0]) for w in (1, 2)}
    config = {"files": files}
    ratios = [one / two for one, two in zip(times[files, 1], times[files, 2], strict=True)]
    yield Measured("prepare.scaling.2workers", ratios, "x", config)
    yield Measured("prepare.scaling_after_start.2workers", [each[1] / each[2]], "x", config)
    yield Measured("prepare.start_seconds.2workers", [median[files, 2] - files * each[2]], "s", config)


def write_music(folder: Path, files: int, rng: np.random.Generator) -> None:
    """Four random voices of 400 notes a file: the size of a piano piece."""
    grid = itertools.product(range(0, 2400, 6), range(48, 84, 9))
    onset, pitch = np.array(list(grid)).T
    for number in range(files):
        duration, step = 3 * rng.integers(1, 4, len(onset)), rng.integers(-4, 5, len(onset))
        write_midi(make_notes(onset, duration, pitch + step, np.zeros_like(onset)), folder / f"{number}.mid")


def _print(measured: Measured, options: argparse.Namespace) -> None:
    given = {"data": options.data.name, "files": options.files, "generated": options.generated}
    given |= {"rounds": options.rounds, "seed": options.seed}
    command = [f"--{name} {value}" for name, value in given.items() if value] + ["--quick"] * options.quick
    line = " ".join(["python scripts/bench_prepare.py", *command])
    fields = {"config": measured.config, "command": line, **measured.more}
    print(rows.line(rows.of_runs(measured.name, measured.values, measured.unit, **fields)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
