"""How fast the way of the data is, from files to music: prepare, train, decode, each on its own.

    python scripts/bench_pipeline.py --quick

prints rows as JSON lines; append them to docs/benchmarks.jsonl and run `make benchmarks`. Compile time is a
row of its own; every figure is the median of warm, blocked calls. No rival is measured here.
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from midigen_jax import rows
from midigen_jax.config import ModelConfig, PrepareConfig, preset
from midigen_jax.data.batches import make_crops
from midigen_jax.data.corpus import load_corpus
from midigen_jax.data.prepare import prepare
from midigen_jax.music.notes import make_notes
from midigen_jax.music.write import write_midi
from midigen_jax.sample.decode import Prompt, Temperature, decode
from midigen_jax.train.checkpoint import make_network
from midigen_jax.train.devices import data_mesh, everywhere, split_cpu
from midigen_jax.train.optimizer import make_optimizer
from midigen_jax.train.state import init_state, make_train_steps

_COMMAND = "python scripts/bench_pipeline.py"


def main() -> int:
    """Print the rows of all three parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under a minute: fewer runs")
    quick = parser.parse_args().quick
    runs = 5 if quick else 20
    split_cpu()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        _write_music(home / "music", files=40)
        bench_prepare(home, runs=3 if quick else 9)
        corpus = load_corpus(home / "corpus-0")
        config = preset("default")
        network = make_network(config, corpus.tokenizer)
        optimizer = make_optimizer(config.train, 100)
        state = init_state(network, optimizer, 0)
        crops = make_crops(corpus, "train", config.batch)
        for batch_size in (1, 64):
            bench_decode(network, state.params, batch_size, runs)
        mesh = data_mesh(config.batch.rows)
        train_steps = make_train_steps(network, optimizer, config, True, mesh)
        state, crops = jax.device_put((state, crops), everywhere(mesh))

        def step() -> None:
            nonlocal state
            state, metrics = train_steps(state, crops, 1)
            jax.block_until_ready(metrics)

        compile_seconds = _seconds(step)
        times = [_seconds(step) for _ in range(runs)]
        events = config.batch.rows * config.batch.length
        settings = {"batch": config.batch.rows, "length": config.batch.length} | _sizes(config.model)
        _print("train.events_per_s", [events / seconds for seconds in times], "events/s", settings)
        _print("train.compile_seconds", [compile_seconds], "s", settings)
    return 0


def bench_prepare(home: Path, runs: int) -> None:
    """Files to a corpus folder, one process."""
    times = []
    for run in range(runs):
        start = time.perf_counter()
        prepare([str(home / "music")], home / f"corpus-{run}", PrepareConfig(), workers=1)
        times.append(time.perf_counter() - start)
    files = len(list((home / "music").iterdir()))
    _print(
        "prepare.synthetic_ms_per_file", [1000 * seconds / files for seconds in times], "ms", {"files": files}
    )


def bench_decode(network: Any, params: dict, batch_size: int, runs: int, events: int = 256) -> None:
    """Events written from an empty prompt by fresh weights, which hardly ever end a piece."""
    nothing = np.zeros((batch_size, 1), np.int32)
    arguments = (
        params,
        jax.random.split(jax.random.key(0), batch_size),
        Prompt(nothing, nothing, np.ones((batch_size, 1), bool)),  # type: ignore[arg-type]
        Temperature(np.ones(batch_size, np.float32), np.ones(batch_size, np.float32)),  # type: ignore[arg-type]
    )
    start = time.perf_counter()
    compiled = decode.lower(network, *arguments, events=events, forbidden=()).compile()
    settings = {"batch": batch_size, "events": events} | _sizes(network.config)
    _print("decode.compile_seconds", [time.perf_counter() - start], "s", settings)
    rates = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        decoded = jax.block_until_ready(compiled(*arguments))
        rates.append(int(decoded.length_B.sum()) / (time.perf_counter() - start))
    _print("decode.events_per_s", rates[1:], "events/s", settings)


def _write_music(folder: Path, files: int) -> None:
    """Four random voices of 400 notes a file."""
    rng = np.random.default_rng(0)
    for number in range(files):
        onset, pitch, track = (
            np.array(column)
            for column in zip(*itertools.product(range(0, 2400, 6), range(48, 84, 9), [0]), strict=True)
        )
        notes = make_notes(
            onset, rng.integers(1, 4, len(onset)) * 3, pitch + rng.integers(-4, 5, len(onset)), track
        )
        write_midi(notes, folder / f"{number}.mid")


def _sizes(model: ModelConfig) -> dict[str, Any]:
    """What the speed of a model depends on most."""
    return {name: getattr(model, name) for name in ("width", "layers", "attention", "heads")}


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _print(name: str, values: list[float], unit: str, config: dict) -> None:
    row = rows.of_runs(name, values, unit, config=config, command=" ".join([_COMMAND, *sys.argv[1:]]))
    print(rows.line(row), flush=True)


if __name__ == "__main__":
    sys.exit(main())
