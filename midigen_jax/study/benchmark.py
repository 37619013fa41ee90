"""How fast a configuration trains on this machine, and how near that is to what the machine can multiply.

In: a config, a corpus or none. Out: rows, and on request a trace of one call. Every figure is the median of
warm, blocked calls that take turns with the machine's own peak; compiling is a row of its own.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from midigen_jax import rows
from midigen_jax.config import Config
from midigen_jax.data.batches import Crops, make_crops
from midigen_jax.data.corpus import Corpus
from midigen_jax.model.grammar import grammar
from midigen_jax.model.network import Network
from midigen_jax.music.tokens import NoteTokenizer
from midigen_jax.progress import Progress
from midigen_jax.train.devices import DATA, data_mesh, everywhere
from midigen_jax.train.optimizer import make_optimizer
from midigen_jax.train.state import init_state, make_train_steps

_ROUNDS = 5
_PEAK_SIZE = 2048  # of the square matrices whose product is the peak, one for each device
_STEPS = 1000  # that the schedule is made for: it decides no speed


class Measured(NamedTuple):
    """What the rounds gave: a value each, but for `compile_seconds`."""

    compile_seconds: float
    events_per_s: list[float]
    peak_flops_per_s: list[float]
    flops_per_event: float


def bench_train(
    config: Config, corpus: Corpus | None = None, seconds: float = 1.0, profile: Path | None = None
) -> Measured:
    """Train for five rounds of `seconds` on the crops of `corpus`, or on random `note` tokens.

    `profile` is a folder that takes a trace of one call, for Perfetto (ui.perfetto.dev) or XProf.
    """
    network, crops = _subject(config, corpus)
    optimizer = make_optimizer(config.train, _STEPS)
    mesh = data_mesh(config.batch.rows)
    steps = make_train_steps(network, optimizer, config, False, mesh)
    start = (init_state(network, optimizer, config.train.seed), crops)
    state, crops = jax.device_put(start, everywhere(mesh))
    began = time.perf_counter()
    compiled = steps.lower(state, crops, 1).compile()  # type: ignore[attr-defined]
    compile_seconds = time.perf_counter() - began

    def train(count: int) -> None:
        nonlocal state
        state, metrics_K = compiled(state, crops, count)
        jax.block_until_ready(metrics_K)

    train(1)
    count = int(np.clip(seconds / _seconds(partial(train, 1)), 1, config.train.steps_per_call))
    multiply, flops = _product(mesh)
    multiply()
    rates, peaks = [], []
    with Progress("timing", _ROUNDS, "rounds") as progress:
        for _ in range(_ROUNDS):
            events = count * config.batch.rows * config.batch.length
            rates.append(events / _seconds(partial(train, count)))
            peaks.append(flops / min(_seconds(multiply) for _ in range(3)))
            progress.advance()
    if profile is not None:
        with jax.profiler.trace(profile, create_perfetto_trace=True):
            train(1)
    events = config.batch.rows // mesh.size * config.batch.length
    return Measured(compile_seconds, rates, peaks, flops_per_event(network, events))


def rows_of(measured: Measured, config: Config, **fields: Any) -> list[rows.Row]:
    """The rows of a benchmark; `fields`, such as the command, go into each of them."""
    model, batch = config.model, config.batch
    sizes = {"batch": batch.rows, "length": batch.length, "devices": data_mesh(batch.rows).size}
    sizes |= {
        name: getattr(model, name) for name in ("width", "layers", "attention", "heads", "compute_dtype")
    }
    shares = [
        rate * measured.flops_per_event / peak
        for rate, peak in zip(measured.events_per_s, measured.peak_flops_per_s, strict=True)
    ]
    values = [
        ("train.events_per_s", measured.events_per_s, "events/s"),
        ("train.compile_seconds", [measured.compile_seconds], "s"),
        ("train.peak_gflops_per_s", [peak / 1e9 for peak in measured.peak_flops_per_s], "Gflop/s"),
        ("train.share_of_peak", shares, "share"),
    ]
    return [rows.of_runs(name, runs, unit, config=sizes, **fields) for name, runs, unit in values]


def flops_per_event(network: Network, events: int) -> float:
    """Floating-point operations of matrix products that training does for one event of `events` at once.

    A product of (M, K) and (K, N) is 2 M K N, and training does three for each of the network: forward, and
    backward to its input and to its weights. What is elementwise, and what is looked up, counts nothing.
    """
    model, rules = network.config, network.grammar
    gates, width = 4 * model.width, model.width
    inputs = model.pitch_embedding + model.duration_embedding
    if network.looks_up(events, drops=True):
        tables = rules.pitch_size * model.pitch_embedding + rules.duration_size * model.duration_embedding
        first = tables / events
    else:
        first = inputs
    weights = gates * (first + width + (model.layers - 1) * 2 * width)
    weights += width * (rules.pitch_size + rules.duration_size)
    if model.attention == "pooled":
        weights += width + width * width * model.attention_residual
    if model.heads == "chained":
        weights += width * width
    return 3 * 2 * weights


def _subject(config: Config, corpus: Corpus | None) -> tuple[Network, Crops]:
    """The network and the crops to train on."""
    if corpus is not None:
        tokenizer = corpus.tokenizer
        rules = grammar(corpus.config.tokenizer, tokenizer.pitch_size, tokenizer.duration_size)
        return Network(config.model, rules), make_crops(corpus, "train", config.batch)
    notes = NoteTokenizer(config.prepare.max_duration)
    length, pieces = config.batch.length + 1, 4 * config.batch.rows
    rng = np.random.default_rng(0)
    tokens_M2 = rng.integers((2, 0), (notes.pitch_size, notes.duration_size), (pieces * length, 2))
    first_C = np.arange(pieces) * length
    columns = (tokens_M2, first_C, *(np.full(pieces, value) for value in (length - 1, 0, 1)))
    crops = Crops(*(jnp.asarray(column, jnp.int32) for column in columns))
    return Network(config.model, grammar("note", notes.pitch_size, notes.duration_size)), crops


def _product(mesh: jax.sharding.Mesh) -> tuple[Callable[[], None], float]:
    """A large float32 product on every device at once, and its floating-point operations."""
    left = jnp.ones((_PEAK_SIZE * mesh.size, _PEAK_SIZE), jnp.float32)
    by_rows = PartitionSpec(DATA)
    dot = jax.jit(jax.shard_map(jnp.dot, mesh=mesh, in_specs=(by_rows, PartitionSpec()), out_specs=by_rows))
    right = jnp.ones((_PEAK_SIZE, _PEAK_SIZE), jnp.float32)
    left = jax.device_put(left, jax.sharding.NamedSharding(mesh, by_rows))
    right = jax.device_put(right, everywhere(mesh))
    return lambda: jax.block_until_ready(dot(left, right)), 2.0 * mesh.size * _PEAK_SIZE**3


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
