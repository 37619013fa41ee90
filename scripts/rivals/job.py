"""What a rival of the decode loop is told, and the weights that it shares with ours.

In: parameters of the network. Out: a file of them, and the same arrays in the rival's process, where no JAX
is imported: what our rules forbid is impossible by a bias there, for a side that has no rules.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from midigen_jax.config import ModelConfig
from midigen_jax.vocab import START
from rivals import side

Weights = dict[str, Any]  # nested as the network's parameters, of float32 arrays

_IMPOSSIBLE = -1e9  # as in `model.network`


@dataclass(frozen=True, kw_only=True)
class Job(side.Job):
    """One side, how it is measured, and what it writes."""

    rows: int
    weights: str  # the file that `save_weights` wrote
    events: int = 16  # a row, in one call


def save_weights(path: Path, params: Weights) -> None:
    """The parameters of a network with `chord` rules, `independent` heads, in a file."""
    np.savez(path, **_flat(with_rules(params)))


def with_rules(params: Weights) -> Weights:
    """A copy of the parameters that makes <start> and durations of no ticks impossible."""
    params = {name: dict(part) for name, part in params.items()}
    for head, never in (("head_pitch", START), ("head_duration", 0)):
        bias = np.array(params[head]["bias"])
        bias[never] = _IMPOSSIBLE
        params[head]["bias"] = bias
    return params


def load_weights(path: str) -> Weights:
    """The inverse of `save_weights`."""
    weights: Weights = {}
    with np.load(path) as file:
        for name, array in file.items():
            *parents, leaf = name.split("/")
            inner = weights
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[leaf] = array
    return weights


def layers_of(weights: Weights) -> list[dict[str, NDArray[np.float32]]]:
    """The `input`, `recurrent` and `bias` of each LSTM layer."""
    count = sum(name.startswith("blocks_") for name in weights)
    blocks = (weights[f"blocks_{place}"] for place in range(count))
    return [block for block in blocks if "recurrent" in block]


def lstm_layers(config: ModelConfig) -> int:
    """How many of a network's blocks are LSTM layers."""
    return sum(block.startswith("lstm") for block in config.blocks)


def score_of(weights: Weights) -> dict[str, NDArray[np.float32]]:
    """The `kernel` and the `bias` by which attention scores a state; its block comes after the layers."""
    score: dict[str, NDArray[np.float32]] = weights[f"blocks_{len(layers_of(weights))}"]["score"]
    return score


def tables_of(weights: Weights) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What each id adds to the gates of the first layer, as ours looks it up; the bias is in the first."""
    pitch, duration = (weights[f"embed_{stream}"]["embedding"] for stream in ("pitch", "duration"))
    first = weights["blocks_0"]
    width = pitch.shape[1]
    return pitch @ first["input"][:width] + first["bias"], duration @ first["input"][width:]


def first_event(rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pitch and the duration ids that a piece begins with."""
    return np.full(rows, START), np.zeros(rows, np.int64)


def draw(share_BV: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.int64]:
    """One id a row: the first at which the running sum passes a uniform share of the whole."""
    running_BV = np.cumsum(share_BV, axis=-1)
    passed_B1 = rng.random((len(share_BV), 1), np.float32) * running_BV[:, -1:]
    drawn_B: NDArray[np.int64] = (running_BV <= passed_B1).sum(axis=-1)
    return drawn_B


def _flat(nested: Weights, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in nested.items():
        found |= _flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: value}
    return found
