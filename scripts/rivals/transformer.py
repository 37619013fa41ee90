"""A Transformer of as many parameters as a network of ours, with a static cache of keys and values.

Pre-norm (RMSNorm), rotary positions, GELU; width, layers, embeddings and output heads are those of our
network, and its feed-forward layers are as wide as makes the parameters equal. Like ours it looks up its
first projection in tables, draws with `sample.filters.draw` and runs in one jitted loop: a `StepModel`.

In: a network. Out: `(init, step, about)`. `init` sets room for a number of events aside, and each step
attends over all of it: that is what a static cache costs. Weights are random: no figure depends on them.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.tree_util import Partial

from midigen_jax.model.network import IMPOSSIBLE, Network, init_params
from midigen_jax.music.clock import TWELFTHS
from midigen_jax.recipes import pooling_article
from midigen_jax.sample.filters import SamplingParams, draw, mix
from midigen_jax.study.subject import CHORDS
from midigen_jax.vocab import END, START
from rivals.job import lstm_layers

_HEAD = 64  # units of a head of attention
_TEMPO = 120  # quarters a minute


class Shape(NamedTuple):
    """What decides how many parameters there are."""

    pitches: int
    durations: int
    pitch_embedding: int
    duration_embedding: int
    width: int
    layers: int
    feed_forward: int


class Cache(NamedTuple):
    """What is kept of the past, for each layer: (B * heads, room, units) keys and values."""

    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    position: Array  # int32: how many events have been read


def article() -> tuple[Any, Any, dict[str, Any]]:
    """The rival of the article's network: `midigen bench decode --model` takes it by this name."""
    return equal_to(Network(pooling_article(), CHORDS))


def equal_to(network: Network) -> tuple[Any, Any, dict[str, Any]]:
    """`(init, step, about)` of a Transformer with as many parameters as `network`; weights are fresh."""
    shape = shape_of(network)
    params = fresh(shape, jax.random.key(0))
    weights = tables_of(params)
    about = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "dtype": "float32",
        "seconds": lambda ids_NS: TWELFTHS.seconds(ids_NS[:, 1], _TEMPO),
        "read": Partial(_read, weights),
    }
    return partial(begin, shape), Partial(_step, weights), about


def shape_of(network: Network) -> Shape:
    """Of as many parameters as `network` has, to the nearest width of the feed-forward layers."""
    model, size_of = network.config, dict(network.vocabulary.streams)
    ours = jax.eval_shape(partial(init_params, network), jax.random.key(0))
    wanted = sum(leaf.size for leaf in jax.tree.leaves(ours))
    sizes = size_of["pitch"], size_of["duration"], model.pitch_embedding, model.duration_embedding
    layers = lstm_layers(model)
    bare = Shape(*sizes, model.width, layers, 0)
    others = sum(
        leaf.size for leaf in jax.tree.leaves(jax.eval_shape(partial(fresh, bare), jax.random.key(0)))
    )
    exact = (wanted - others) / (2 * model.width * layers)
    multiple = 8 if exact >= 64 else 1  # as vector units like it
    return bare._replace(feed_forward=max(1, multiple * round(exact / multiple)))


def fresh(shape: Shape, key: Array) -> dict[str, Any]:
    """Random parameters; <start>, <end> and durations of no ticks are impossible."""
    width, inner = shape.width, shape.feed_forward
    keys = iter(jax.random.split(key, 5 + 4 * shape.layers))

    def normal(rows: int, columns: int) -> Array:
        return jax.random.normal(next(keys), (rows, columns)) / math.sqrt(max(1, rows))

    def head(size: int, never: tuple[int, ...]) -> dict[str, Array]:
        return {"kernel": normal(width, size), "bias": jnp.zeros(size).at[jnp.array(never)].set(IMPOSSIBLE)}

    return {
        "embed_pitch": normal(shape.pitches, shape.pitch_embedding),
        "embed_duration": normal(shape.durations, shape.duration_embedding),
        "input": normal(shape.pitch_embedding + shape.duration_embedding, width),
        "layers": [
            {
                "attention_norm": jnp.ones(width),
                "attention": normal(width, 3 * width),
                "output": normal(width, width),
                "feed_norm": jnp.ones(width),
                "up": normal(width, inner),
                "down": normal(inner, width),
            }
            for _ in range(shape.layers)
        ],
        "norm": jnp.ones(width),
        "head_pitch": head(shape.pitches, (START, END)),
        "head_duration": head(shape.durations, (0,)),
    }


def tables_of(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters with each id's embedding multiplied once for all: looking it up is projecting it."""
    weights = dict(params)
    pitch_PD, duration_RD, kernel = (weights.pop(name) for name in ("embed_pitch", "embed_duration", "input"))
    split = pitch_PD.shape[1]
    return weights | {"pitch_PD": pitch_PD @ kernel[:split], "duration_RD": duration_RD @ kernel[split:]}


def begin(shape: Shape, rows: int, events: int) -> tuple[Cache, Array]:
    """An empty cache with room for so many events, and the first ids: pitch and duration of <start>."""
    units = _units(shape.width)
    room = rows * (shape.width // units), events, units
    keys, values = (tuple(jnp.zeros(room) for _ in range(shape.layers)) for _ in range(2))
    return Cache(keys, values, jnp.int32(0)), jnp.tile(jnp.array([[START, 0]], jnp.int32), (rows, 1))


def forward(weights: dict[str, Any], cache: Cache, ids_BTS: Array) -> tuple[Cache, Array]:
    """The cache and the states (B, T, D) after T events, which must have room."""
    hidden_BTD = weights["pitch_PD"][ids_BTS[..., 0]] + weights["duration_RD"][ids_BTS[..., 1]]
    keys, values = [], []
    for layer, key, value in zip(weights["layers"], cache.keys, cache.values, strict=True):
        normed_BTD = _norm(hidden_BTD, layer["attention_norm"])
        key, value, mixed_BTD = _attend(layer, key, value, cache.position, normed_BTD)
        hidden_BTD += mixed_BTD @ layer["output"]
        hidden_BTD += jax.nn.gelu(_norm(hidden_BTD, layer["feed_norm"]) @ layer["up"]) @ layer["down"]
        keys.append(key)
        values.append(value)
    after = Cache(tuple(keys), tuple(values), cache.position + ids_BTS.shape[1])
    return after, _norm(hidden_BTD, weights["norm"])


def logits(weights: dict[str, Any], hidden_BTD: Array) -> tuple[Array, Array]:
    """Logits (B, T, P) and (B, T, R) of the next pitch and duration ids."""
    heads = weights["head_pitch"], weights["head_duration"]
    pitch_BTP, duration_BTR = (hidden_BTD @ head["kernel"] + head["bias"][None, None] for head in heads)
    return pitch_BTP, duration_BTR


def _step(weights: dict[str, Any], cache: Cache, ids_BS: Array, key: Array) -> tuple[Cache, Array]:
    rows = len(ids_BS)
    cache, hidden_BTD = forward(weights, cache, ids_BS[:, None])
    # Numbers of the key and of the row, mixed: cheaper than a stream of threefry's in the loop.
    first, second = jax.random.key_data(key)
    bits_SB = mix(mix(jnp.arange(2 * rows, dtype=jnp.uint32) + first) ^ second).reshape(2, rows)
    ones_B, zeros_B = jnp.ones(rows), jnp.zeros(rows)
    controls = SamplingParams(ones_B, zeros_B.astype(jnp.int32), ones_B, zeros_B, ones_B)
    drawn = [
        draw(logits_BTV[:, 0], controls, bits_B, filtered=False)
        for logits_BTV, bits_B in zip(logits(weights, hidden_BTD), bits_SB, strict=True)
    ]
    return cache, jnp.stack(drawn, axis=1)


def _read(weights: dict[str, Any], cache: Cache, ids_BTS: Array) -> Cache:
    return forward(weights, cache, ids_BTS)[0]


def _attend(
    layer: dict[str, Array], keys: Array, values: Array, position: Array, hidden_BTD: Array
) -> tuple[Array, Array, Array]:
    """Keys and values with those of T events in their places, and what the events attend to, (B, T, D)."""
    rows, times, width = hidden_BTD.shape
    _, room, units = keys.shape
    # B and H are one axis, so that the cache is written and read in one shape: with two, XLA for CPUs copies
    # the whole cache twice a step.
    split = (hidden_BTD @ layer["attention"]).reshape(rows, times, 3, width // units, units)
    query, key, value = split.transpose(2, 0, 3, 1, 4).reshape(3, -1, times, units)
    place_T = position + jnp.arange(times)
    keys = lax.dynamic_update_slice(keys, _rotate(key, place_T), (0, position, 0))
    values = lax.dynamic_update_slice(values, value, (0, position, 0))
    by_head = ((0,), (0,))
    score = lax.dot_general(_rotate(query, place_T), keys, (((2,), (2,)), by_head)) / math.sqrt(units)
    seen = jnp.arange(room)[None, None] <= place_T[None, :, None]
    share = jax.nn.softmax(jnp.where(seen, score, IMPOSSIBLE), axis=-1)
    mixed = lax.dot_general(share, values, (((2,), (1,)), by_head))
    return keys, values, mixed.reshape(rows, -1, times, units).swapaxes(1, 2).reshape(rows, times, width)


def _rotate(vectors: Array, place_T: Array) -> Array:
    """Vectors (N, T, units) turned by angles of their places: scores then tell how far two are apart."""
    half = vectors.shape[-1] // 2
    turn = jnp.asarray(10_000.0 ** (-np.arange(half) / max(1, half)), jnp.float32)
    angle = place_T[None, :, None] * turn[None, None]
    left, right = vectors[..., :half], vectors[..., half : 2 * half]
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    turned = [left * cosine - right * sine, right * cosine + left * sine, vectors[..., 2 * half :]]
    return jnp.concatenate(turned, axis=-1)


def _norm(hidden_BTD: Array, scale_D: Array) -> Array:
    return (
        hidden_BTD
        * lax.rsqrt(jnp.square(hidden_BTD).mean(axis=-1, keepdims=True) + 1e-6)
        * scale_D[None, None]
    )


def _units(width: int) -> int:
    """Units of a head: the most that divide the width, 64 at the most."""
    return max(units for units in range(1, min(_HEAD, width) + 1) if width % units == 0)
