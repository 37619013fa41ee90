"""How fast a training step is: ours against Flax's cell, PyTorch's LSTM and the article's Keras model.

    python scripts/bench_train.py --quick --data tokens.json

prints rows as JSON lines; append them to docs/benchmarks.jsonl and run `make tables`. --quick takes 5
rounds: about 5 minutes.

Each side is a process of its own with as many cores as threads. All are warm, and take turns: one works for
a round of blocked steps while the others wait, so that what else the machine does befalls all of them.

Ours, Flax and PyTorch train one model with AdamW on random events: the article's, but pooling over the whole
past, with a loss at every position. With --data, a JSON list of pieces that are lists of [chord, quarters],
ours trains the recipe `article` on them, and Keras the article's model on their windows, each of which gives
one loss. The peak is what the product of two large matrices reaches.

A ratio is of the medians, ours to theirs; its least and greatest are of single rounds. `cores` are those that
a side kept busy: fewer than its threads if it had to share them. Settings of rivals are those that --tune
found best on 2 cores. A side whose package is not installed is named and left out:

    pip install torch==2.13.0 keras tensorflow
"""

import argparse
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from midigen_jax import rows
from midigen_jax.errors import InputError
from midigen_jax.progress import Progress
from midigen_jax.recipes import read_config
from midigen_jax.rows import Row
from rivals.side import MissingPackageError, SideProcess
from train_sides.job import Job, music_of

_MODULES = {
    "ours": "ours",
    "flax": "flax_cell",
    "torch": "torch_lstm",
    "keras.tensorflow": "keras_article",
    "keras.jax": "keras_article",
    "peak": "peak",
}
_SAME_MODEL = ("ours", "flax", "torch", "peak")
_ON_DATA = ("ours", "keras.tensorflow", "keras.jax")
_SIDES = tuple(dict.fromkeys(_SAME_MODEL + _ON_DATA))
_COMPILED = ("ours", "flax")


class Measured(NamedTuple):
    """A side: its first answer (see `rivals.child`), and for each round calls a second and cores."""

    warm: dict[str, Any]
    calls: list[float]
    cores: list[float]

    def rates(self, amount: str) -> list[float]:
        """Tokens, losses or flops a second, for each round."""
        return [calls * self.warm["amounts"][amount] for calls in self.calls]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the rows of every shape, and of the data, on every number of threads."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parse(arguments)
    rounds = options.rounds or (5 if options.quick else 15)
    command = " ".join(["python scripts/bench_train.py", *arguments])
    try:
        for jobs in _cases(options):
            for row in _rows(jobs[0], _measure(jobs, rounds)):
                print(rows.line(row | {"command": command}), flush=True)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shapes = [(64, 32), (32, 256)]
    parser.add_argument("--quick", action="store_true", help="5 rounds instead of 15")
    parser.add_argument("--data", default="", help="pieces for the article's model; otherwise without it")
    parser.add_argument("--chords", type=int, default=0, help="of --data, the commonest; 0: all of them")
    parser.add_argument("--tune", action="store_true", help="try each rival's settings, and take the best")
    parser.add_argument("--sides", nargs="+", choices=_SIDES, default=_SIDES, help="otherwise all")
    parser.add_argument("--shapes", nargs="+", type=_shape, default=shapes, help="otherwise 64x32 32x256")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="otherwise 1 2")
    parser.add_argument("--rounds", type=int, help="otherwise 15, or 5 with --quick")
    parser.add_argument("--seconds", type=float, default=1.0, help="the shortest round; otherwise 1")
    return parser.parse_args(arguments)


def _shape(text: str) -> tuple[int, int]:
    rows_, _, length = text.partition("x")
    if not (rows_.isdecimal() and length.isdecimal() and int(rows_) and int(length)):
        raise argparse.ArgumentTypeError(f"{text!r}: give rows and length, as in 64x32")
    return int(rows_), int(length)


def _cases(options: argparse.Namespace) -> Iterator[list[Job]]:
    """The jobs that are measured together. Raises InputError for more threads than there are cores."""
    cores = len(os.sched_getaffinity(0))
    batch = read_config("article").batch
    data = {"data": options.data, "chords": options.chords}
    for threads in options.threads:
        if not 1 <= threads <= cores:
            raise InputError(f"--threads {threads}: this process may use {cores} cores; give 1 up to {cores}")
        cases: list[tuple[tuple[str, ...], tuple[int, int], dict]] = [
            (_SAME_MODEL, shape, {}) for shape in options.shapes
        ]
        if options.data:
            cases.append((_ON_DATA, (batch.rows, batch.length), data))
        for sides, shape, more in cases:
            jobs = [
                Job(
                    side,
                    threads,
                    options.seconds,
                    options.tune,
                    rows=shape[0],
                    length=shape[1],
                    **more,
                )
                for side in sides
                if side in options.sides
            ]
            if jobs:
                yield jobs


def _measure(jobs: Sequence[Job], rounds: int) -> dict[str, Measured]:
    """Every side that can be started, in turn, back and forth. Raises InputError for data that is none."""
    music_of(jobs[0])
    running: dict[str, SideProcess] = {}
    with ExitStack() as stack:
        for job in jobs:
            try:
                running[job.side] = stack.enter_context(_process(job))
            except MissingPackageError as missing:
                print(f"{job.side} left out: {missing} is not installed; see --help", file=sys.stderr)
        measured = {side: Measured(process.warm, [], []) for side, process in running.items()}
        with Progress(_label(jobs[0]), rounds, "rounds") as progress:
            for number in range(rounds):
                for side in list(running)[:: -1 if number % 2 else 1]:
                    calls, cores = running[side].round()
                    measured[side].calls.append(calls)
                    measured[side].cores.append(cores)
                progress.advance()
    return measured


def _process(job: Job) -> SideProcess:
    module, backend = f"train_sides.{_MODULES[job.side]}", job.side.rpartition(".")[2]
    return SideProcess(module, job, keras_backend=backend)


def _label(job: Job) -> str:
    return f"{'data' if job.data else 'random'} {job.rows} x {job.length}, threads {job.threads}"


def _rows(job: Job, measured: dict[str, Measured]) -> Iterator[Row]:
    """What each side reached, and ours against each of the others."""
    music = music_of(job)
    config: dict[str, Any] = {"batch": job.rows, "length": job.length, "threads": job.threads}
    config |= {"vocabulary": {"pitch": music.pitch_size, "duration": music.duration_size}}
    if job.data:
        config |= {"data": Path(job.data).name}
    for side, found in measured.items():
        yield from _alone(side, found, config)
    if "ours" not in measured:
        return
    ours = measured["ours"]
    threads = f"{job.threads}thread{'s' if job.threads > 1 else ''}"
    for side, name, amount in (
        ("flax", "ratio.flax", "tokens"),
        ("torch", f"ratio.torch.{threads}", "tokens"),
        (_better_keras(measured), "ratio.keras_losses", "losses"),
        ("peak", "share_of_peak", "flops"),
    ):
        if side in measured:
            yield _ratio(f"train.{name}", ours, measured[side], amount, config)


def _alone(side: str, found: Measured, config: dict[str, Any]) -> Iterator[Row]:
    """What one side reached."""
    suffix = "" if side == "ours" else f".{side}"
    config = config | found.warm["settings"]
    cores = {"cores": float(f"{statistics.median(found.cores):.3g}")}
    for amount in found.warm["amounts"]:
        name = f"train.{amount}_per_s{suffix}"
        yield rows.of_runs(name, found.rates(amount), f"{amount}/s", config=config, **cores)
    if side in _COMPILED:
        seconds = found.warm["first_call"] - 1 / statistics.median(found.calls)
        yield rows.of_runs(f"train.compile_seconds{suffix}", [seconds], "s", config=config)


def _ratio(name: str, ours: Measured, theirs: Measured, amount: str, config: dict[str, Any]) -> Row:
    """Ours to theirs: of the medians, and the least and the greatest of a round."""
    our, their = ours.rates(amount), theirs.rates(amount)
    of_rounds = [a / b for a, b in zip(our, their, strict=True)]
    unit = "share" if name.endswith("share_of_peak") else "x"
    row = rows.of_runs(name, of_rounds, unit, config=config | theirs.warm["settings"])
    return row | {"value": float(f"{statistics.median(our) / statistics.median(their):.6g}")}


def _better_keras(measured: dict[str, Measured]) -> str:
    backends = [side for side in measured if side.startswith("keras")]
    return max(backends, key=lambda side: statistics.median(measured[side].calls), default="")


if __name__ == "__main__":
    sys.exit(main())
