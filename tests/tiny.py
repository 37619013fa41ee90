"""The smallest training: the settings that tests begin with, its command, a port for it, what it measured."""

import socket
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

from midigen_jax import rows
from midigen_jax.config import PrepareConfig
from midigen_jax.data.corpus import Corpus
from midigen_jax.data.prepare import prepare
from midigen_jax.model.network import Nats, Network, score
from midigen_jax.vocab.chord import ChordVocabulary

SMALLEST: dict[str, object] = {
    "model.width": 8,
    "model.pitch_embedding": 4,
    "model.duration_embedding": 4,
    "model.blocks": "lstm,pooled",
    "batch.rows": 2,
    "batch.length": 16,
}
_COMMAND = SMALLEST | {
    "batch.rows": 4,
    "train.steps": 12,
    "train.warmup": 2,
    "train.evaluate_every": 4,
    "train.steps_per_call": 2,
    "sample.count": 1,
    "sample.events": 16,
}


def chord_vocabulary(durations: int, symbols: int) -> ChordVocabulary:
    """Of so many ids in each stream."""
    return ChordVocabulary.typical(PrepareConfig(tokenizer="chord", max_duration=durations - 1), symbols)


def tiny_corpus(tmp_path_factory, write_melodies, config: PrepareConfig) -> Corpus:
    """Of a few melodies that wander about."""
    folder = tmp_path_factory.mktemp("corpus")
    return prepare([str(write_melodies(folder / "music"))], folder / "out", config, workers=1)


def at_once_and_step_by_step(network: Network, params: dict, events: dict) -> tuple[Nats, Nats]:
    """The nats of one row, ids (1, T + 1) by stream, that is read in one call, and in T."""
    run, times = jax.jit(partial(score, network)), next(iter(events.values())).shape[1] - 1
    _, whole = run(params, network.initial_carry(1), events, jnp.ones((1, times), bool))
    carry, parts = network.initial_carry(1), []
    for time in range(times):
        event = {name: ids[:, time : time + 2] for name, ids in events.items()}
        carry, nats = run(params, carry, event, jnp.ones((1, 1), bool))
        parts.append(nats)
    return whole, jax.tree.map(lambda *steps: jnp.concatenate(steps, axis=1), *parts)


def train_words(corpus: Path, run: Path, **changes: object) -> list[str]:
    """`midigen train` of twelve steps and a sample, but for what changes."""
    flags = (f"--{name}={value}" for name, value in (_COMMAND | changes).items())
    return ["train", str(corpus), "--out", str(run), *flags]


def free_port() -> int:
    """A port of this machine that nobody has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def measured(run: Path, part: str = "") -> list[tuple[int, str, float]]:
    """Step, name and nats of all rows whose name begins so."""
    found = rows.read(run / "rows.jsonl")
    chosen = [row for row in found if row["name"].startswith(part) and "nats" in row["name"]]
    return [(row["step"], row["name"], row["value"]) for row in chosen]
