"""How fast a configuration trains on this machine, and how near that is to what the machine can multiply.

In: a config, a corpus or none. Out: rows, and on request a trace of one call. Every figure is the median of
warm, blocked calls that take turns with the machine's own peak; compiling is a row of its own.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from midigen_jax import rows
from midigen_jax.config import Config, override
from midigen_jax.data.batches import Crops, crops_of, make_crops
from midigen_jax.data.corpus import Corpus, load_corpus
from midigen_jax.files import check_folder
from midigen_jax.model.cost import flops_per_event, tile_share
from midigen_jax.model.network import Network
from midigen_jax.progress import Progress
from midigen_jax.train.batch_size import says_what_fits, with_rows
from midigen_jax.train.distributed import DATA, data_mesh, replicated
from midigen_jax.train.replicas import make_train_steps, start_alone
from midigen_jax.vocab import typical_vocabulary

_ROUNDS = 5
_PEAK_SIZE = 2048  # of the square matrices whose product is the peak, one for each device
_STEPS = 1000  # that the schedule is made for: it decides no speed


class Measured(NamedTuple):
    """What was found: a value for each round where there are several."""

    compile_seconds: float
    events_per_s: list[float]
    peak_flops_per_s: list[float]
    flops_per_event: float
    tile_share: float


def measure_training(config: Config, corpus: str | None, profile: str | None) -> Iterator[rows.Finding]:
    """The benchmark of a config, and where a trace of it lies if `profile` names a folder for one.

    Raises InputError where there is no such corpus, where the folder has something in it, and for a batch
    that the device has no room for.
    """
    trace = None if profile is None else Path(profile)
    if trace is not None:
        check_folder(trace)
    music = None if corpus is None else load_corpus(Path(corpus))
    config = with_rows(config)
    with says_what_fits(config.batch.rows, data_mesh(config.batch.rows).size):
        measured = bench_train(config, music, profile=trace)
    found = rows_of(measured, config)
    yield rows.Finding(rows.in_words(found), found)
    if trace is not None:
        place = next(trace.rglob("perfetto_trace.json.gz"))
        yield rows.Finding([f"Trace in {place}: open it on ui.perfetto.dev."])


def bench_train(
    config: Config, corpus: Corpus | None = None, seconds: float = 1.0, profile: Path | None = None
) -> Measured:
    """Train for five rounds of `seconds` on the crops of `corpus`, or on random `note` tokens.

    `profile` is a folder that takes a trace of one call, for Perfetto (ui.perfetto.dev) or XProf.
    """
    config = override(config, {"batch.stream": False})  # steps are measured, and not the disk
    network, crops = subject_of(config, corpus)
    mesh = data_mesh(config.batch.rows)
    steps = make_train_steps(network, config, _STEPS, False, mesh)
    state, hyper, crops = start_alone(network, config, crops, mesh)
    began = time.perf_counter()
    compiled = steps.lower(state, hyper, crops, np.ones(1, np.int32)).compile()  # type: ignore[attr-defined]
    compile_seconds = time.perf_counter() - began

    def train(count: int) -> None:
        nonlocal state
        state, metrics_K = compiled(state, hyper, crops, np.full(1, count, np.int32))
        jax.block_until_ready(metrics_K)

    train(1)
    count = int(np.clip(seconds / elapsed(partial(train, 1)), 1, config.train.steps_per_call))
    multiply, operations = peak_product(mesh)
    multiply()
    rates, peaks = [], []
    with Progress("timing", _ROUNDS, "rounds") as progress:
        for _ in range(_ROUNDS):
            events = count * config.batch.rows * config.batch.length
            rates.append(events / elapsed(partial(train, count)))
            peaks.append(operations / min(elapsed(multiply) for _ in range(3)))
            progress.advance()
    if profile is not None:
        with jax.profiler.trace(profile, create_perfetto_trace=True):
            train(1)
    share = config.batch.rows // mesh.size, config.batch.length
    each = flops_per_event(network, *share)
    return Measured(compile_seconds, rates, peaks, each, tile_share(network, *share))


def rows_of(measured: Measured, config: Config, **fields: Any) -> list[rows.Row]:
    """The rows of a benchmark; `fields`, such as the command, go into each of them."""
    model, batch = config.model, config.batch
    sizes = {"batch": batch.rows, "length": batch.length, "devices": data_mesh(batch.rows).size}
    sizes |= model.summary
    shares = [
        rate * measured.flops_per_event / peak
        for rate, peak in zip(measured.events_per_s, measured.peak_flops_per_s, strict=True)
    ]
    values = [
        ("train.events_per_s", measured.events_per_s, "events/s"),
        ("train.compile_seconds", [measured.compile_seconds], "s"),
        ("train.peak_gflops_per_s", [peak / 1e9 for peak in measured.peak_flops_per_s], "Gflop/s"),
        ("train.share_of_peak", shares, "share"),
        ("train.tpu_tile_share", [measured.tile_share], "share"),
    ]
    return [rows.of_runs(name, runs, unit, config=sizes, **fields) for name, runs, unit in values]


def subject_of(config: Config, corpus: Corpus | None = None) -> tuple[Network, Crops]:
    """The network and the crops to train on; without a corpus, random events."""
    if corpus is not None:
        return Network(config.model, corpus.vocabulary), make_crops(corpus, "train", config.batch)
    vocabulary = typical_vocabulary(config.prepare)
    sizes = [size for _, size in vocabulary.streams]
    shape = 4 * config.batch.rows, config.batch.length + 1, len(sizes)
    pieces = np.random.default_rng(0).integers((2, *[0] * (len(sizes) - 1)), sizes, shape)
    return Network(config.model, vocabulary), crops_of(list(pieces), config.batch, vocabulary)


def peak_product(mesh: jax.sharding.Mesh) -> tuple[Callable[[], None], float]:
    """A large float32 product on every device at once, and its floating-point operations."""
    left = jnp.ones((_PEAK_SIZE * mesh.size, _PEAK_SIZE), jnp.float32)
    by_rows = PartitionSpec(DATA)
    dot = jax.jit(jax.shard_map(jnp.dot, mesh=mesh, in_specs=(by_rows, PartitionSpec()), out_specs=by_rows))
    right = jnp.ones((_PEAK_SIZE, _PEAK_SIZE), jnp.float32)
    left = jax.device_put(left, jax.sharding.NamedSharding(mesh, by_rows))
    right = jax.device_put(right, replicated(mesh))
    return lambda: jax.block_until_ready(dot(left, right)), 2.0 * mesh.size * _PEAK_SIZE**3


def elapsed(call: Callable[[], Any], count: int = 1) -> float:
    """The seconds that so many calls take."""
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start
