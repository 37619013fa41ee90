"""What training on more devices, from disk and with checkpoints costs, and what it compiles again.

    python scripts/bench_scale.py --out rows.jsonl

trains the default model on random note tokens. Rivals take turns, warm and blocked; a row has the median over
rounds of the ratio within each round.

    scale.two_devices     speed on two devices, a core each, over that on one: on one core, in a process of
                          its own, or over both cores, which XLA then shares each operation among
    scale.grain_cost      share of a step that reading batches from disk adds (64 rows of 64 events)
    scale.save_stall      steps that an asynchronous checkpoint holds training up for
    scale.recompilations  programs that are compiled after the first validation of a training
"""

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from melodies import write_melodies
from midigen_jax import rows
from midigen_jax.config import Config, override
from midigen_jax.data.corpus import Corpus
from midigen_jax.data.prepare import prepare
from midigen_jax.study.benchmark import elapsed
from midigen_jax.train.checkpoint import Checkpoints, Metadata
from midigen_jax.train.distributed import data_mesh, split_cpu
from midigen_jax.train.loop import fit
from midigen_jax.train.replicas import DataSource, by_replica, make_train_steps, stack, take
from midigen_jax.train.step import hyperparameters, init_state, make_network
from rivals.side import SideProcess
from train_sides.job import Job

_STEPS = 8  # a call
_PIECES, _NOTES = 64, 400
_COMPILED = "/jax/core/compile/backend_compile_duration"


class Trainer:
    """A lone training on some devices, a call at a time."""

    def __init__(self, config: Config, corpus: Corpus, mesh: Mesh):
        self.config = override(config, {"train.steps_per_call": _STEPS})
        network, steps = make_network(config, corpus.vocabulary), 1_000_000
        self._program = make_train_steps(network, self.config, steps, True, mesh)
        own = stack([(init_state(network, config.train), hyperparameters(config))])
        self._state, self._hyper = jax.device_put(own, by_replica(mesh))
        self._source = DataSource(corpus, self.config, transposable=True)
        self._source.start(0, steps, mesh)
        self()

    @property
    def state(self) -> Any:
        """As it is after the last call."""
        return take(self._state, 0)

    def __call__(self) -> None:
        given = self._source.next(_STEPS), np.full(1, _STEPS, np.int32)
        self._state, metrics = self._program(self._state, self._hyper, *given)
        jax.block_until_ready(metrics)


def main() -> int:
    """Print the rows, and add them to a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="default: 9")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a .jsonl file that rows are added to")
    given = parser.parse_args()
    split_cpu(2)
    with tempfile.TemporaryDirectory() as folder:
        for row in measure(Path(folder), given.rounds):
            print(rows.line(row), flush=True)
            if given.out is not None:
                rows.append(given.out, [row])
    return 0


def measure(folder: Path, rounds: int) -> Iterator[rows.Row]:
    """All rows."""
    command = shlex.join(["python", "scripts/bench_scale.py", *sys.argv[1:]])
    music = write_melodies(folder / "music", _PIECES, _NOTES)
    corpus = prepare([str(music)], folder / "corpus", Config().prepare)

    def row(name: str, values: list[float], unit: str, **config: Any) -> rows.Row:
        config |= {"devices": jax.device_count()}
        return rows.of_runs(f"scale.{name}", values, unit, config=config, command=command)

    base = Config()
    wide = override(base, {"batch.rows": 64, "batch.length": 64})
    for config in (base, wide):
        shape = {"batch": config.batch.rows, "length": config.batch.length, "width": config.model.width}
        yield row("two_devices", over_a_core(config, rounds), "x", **shape, one="on one core")
        sides = {number: Trainer(config, corpus, data_mesh(number)) for number in (1, 2)}
        ratios = [elapsed(sides[1]) / elapsed(sides[2]) for _ in range(rounds)]
        yield row("two_devices", ratios, "x", **shape, one="over both cores")

    mesh = data_mesh(64)
    held, streamed = (
        Trainer(override(wide, {"batch.stream": stream}), corpus, mesh) for stream in (False, True)
    )
    costs = [elapsed(streamed) / elapsed(held) - 1 for _ in range(rounds)]
    yield row("grain_cost", costs, "1", batch=64, length=64, width=base.model.width)

    metadata = Metadata(held.config, corpus.vocabulary, 120.0, (4, 4))
    stalls = []
    with Checkpoints(folder / "run" / "checkpoints") as checkpoints:
        for number in range(rounds):
            alone = elapsed(held) / _STEPS
            began = time.perf_counter()
            state = held.state
            checkpoints.save(state._replace(step=state.step + number), metadata, {})
            held()
            stalls.append((time.perf_counter() - began) / alone - _STEPS)
    yield row("save_stall", stalls, "steps", batch=64, length=64, width=base.model.width)

    small = override(base, {"model.width": 32, "train.steps": 120, "train.evaluate_every": 20})
    again = recompilations(small, corpus, folder / "small")
    yield row("recompilations", [again], "programs", steps=120, validations=6)


def over_a_core(config: Config, rounds: int) -> list[float]:
    """The speed of two devices on two cores over that of one on one, as bench_train.py has its sides."""
    jobs = [Job("ours", cores, rows=config.batch.rows, length=config.batch.length) for cores in (1, 2)]
    with ExitStack() as opened:
        one, two = (opened.enter_context(SideProcess("train_sides.ours", job)) for job in jobs)
        return [two.round()[0] / one.round()[0] for _ in range(rounds)]


def recompilations(config: Config, corpus: Corpus, run: Path) -> int:
    """Programs that a training compiles after its first validation."""
    compiled: list[str] = []
    marks: list[int] = []

    def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == _COMPILED:
            compiled.append(event)

    def mark(step: int, written: Sequence[rows.Row]) -> None:
        if any(row["name"].startswith("valid") for row in written):
            marks.append(len(compiled))

    jax.monitoring.register_event_duration_secs_listener(note)
    fit(corpus, config, run, [mark])
    return marks[-1] - marks[0]


if __name__ == "__main__":
    sys.exit(main())
