"""What the benchmark of decoding lets write: fresh weights that draw as a trained model's do, or a run's.

In: the settings of a model, or a checkpoint. Out: a network and its weights, which never draw `<end>`.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from midigen_jax.config import Config, ContextConfig, ModelConfig, PrepareConfig, override
from midigen_jax.model.network import IMPOSSIBLE, Network, init_params
from midigen_jax.sample.decode import Decoded
from midigen_jax.study.turns import Loop
from midigen_jax.train.checkpoint import LoadedModel
from midigen_jax.vocab import END, typical_vocabulary

PITCHES, DURATIONS = 1000, 50  # vocabulary of fresh weights
CHORDS = typical_vocabulary(PrepareConfig(tokenizer="chord", max_duration=DURATIONS - 1), PITCHES)

_NATS = 2.0  # what a trained model's next pitch is worth, about
_ROWS, _EVENTS = 16, 64  # that are written to see it


class Subject(NamedTuple):
    """What writes: `params` for all that is measured, `flat` for the filters once more, if there is any."""

    network: Network
    params: dict
    flat: dict | None = None  # weights whose distributions are nearly flat, as fresh ones have them
    origin: str = "fresh"
    tempo: float = 120.0  # quarters a minute: of a run, that of its training pieces
    meter: tuple[int, int] = (4, 4)  # likewise


def fresh(model: ModelConfig) -> Subject:
    """Random weights for a `chord` vocabulary; those of the heads are scaled until they are as a trained
    model's, with two nats a pitch."""
    network = Network(model, CHORDS)
    flat = without_end(network, jax.jit(partial(init_params, network))(jax.random.key(0)))
    loop = Loop(network, flat, _ROWS, _EVENTS)
    low, high = 0.0, 20.0  # binary logarithms of the scale: entropy falls as it grows
    for _ in range(12):
        middle = (low + high) / 2
        params = _scaled(flat, 2**middle)
        written = loop.other(params)()
        low, high = (middle, high) if pitch_entropy(network, params, written) > _NATS else (low, middle)
    return Subject(network, _scaled(flat, 2**low), flat)


def unscaled(model: ModelConfig) -> Subject:
    """As `fresh`, of numbers that NumPy draws: nothing is compiled to make them."""
    network = Network(model, CHORDS)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(partial(init_params, network), jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.1, leaf.shape), jnp.float32), shapes)
    return Subject(network, params)


def untold(subject: Subject) -> Subject:
    """The same network without context, with fresh weights: what it would cost to be told nothing."""
    bare = replace(subject.network.config, context=ContextConfig())
    network = Network(bare, subject.network.vocabulary)
    return Subject(network, without_end(network, jax.jit(partial(init_params, network))(jax.random.key(0))))


def trained(restored: LoadedModel, name: str, settings: Mapping[str, object]) -> Subject:
    """The network and the weights of a checkpoint, under other `settings`; `name` is the run's."""
    config = override(Config(model=restored.network.config), settings).model
    network, experiment = Network(config, restored.network.vocabulary), restored.metadata
    params = without_end(network, restored.params)
    return Subject(
        network,
        params,
        origin=name,
        tempo=experiment.tempo,
        meter=experiment.meter,
    )


def without_end(network: Network, params: dict) -> dict:
    """A copy of the parameters that never draws `<end>`."""
    name = f"head_{network.vocabulary.streams[0].name}"
    return params | {name: params[name] | {"bias": params[name]["bias"].at[END].set(IMPOSSIBLE)}}


def _scaled(params: dict, scale: float) -> dict:
    heads = {name: params[name] for name in params if name.startswith("head_")}
    return params | {name: head | {"kernel": head["kernel"] * scale} for name, head in heads.items()}


def pitch_entropy(network: Network, params: dict, written: Decoded) -> float:
    """Nats of the next pitch at temperature 1, the mean over events that were written; some of them do."""
    return float(_entropy(network, params, {name: ids[:64, :256] for name, ids in written.events.items()}))


@partial(jax.jit, static_argnames="network")
def _entropy(network: Network, params: dict, events: dict[str, Array]) -> Array:
    model = network.bind({"params": params})
    first = network.vocabulary.streams[0].name
    mask_BT = jnp.ones(events[first].shape, bool)
    _, trunk = model(network.initial_carry(len(mask_BT)), events, mask_BT)
    share_BTP = jax.nn.softmax(model.stream_logits(first, trunk, {}))
    return -jax.scipy.special.xlogy(share_BTP, share_BTP).sum(axis=-1).mean()
