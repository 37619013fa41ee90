"""What a network costs to train: its matrix products, and the operations in them.

In: a network and the shape of a batch. Out: counts. What is elementwise or looked up counts nothing.
"""

import math
from typing import NamedTuple

from midigen_jax.model.network import Network


class Matmul(NamedTuple):
    """A product of (rows, inner) and (inner, columns), done so many times in a forward pass."""

    times: int
    rows: int
    inner: int
    columns: int


def flops(network: Network, rows: int, length: int) -> float:
    """Floating-point operations of the matrix products of one training step on `rows` sequences of `length`.

    A product of (M, K) and (K, N) is 2 M K N, and training does three for each of the network: forward, and
    backward to its input and to its weights.
    """
    return sum(3 * 2 * math.prod(product) for product in matmuls(network, rows, length))


def flops_per_event(network: Network, rows: int, length: int) -> float:
    """An event's part of them."""
    return flops(network, rows, length) / (rows * length)


def tile_share(network: Network, rows: int, length: int) -> float:
    """The share of those operations in what a TPU does for them: it pads rows to 8 and the others to 128."""
    padded = sum(
        3 * 2 * times * _padded(rows, 8) * _padded(inner, 128) * _padded(columns, 128)
        for times, rows, inner, columns in matmuls(network, rows, length)
    )
    return flops(network, rows, length) / padded


def matmuls(network: Network, rows: int, length: int) -> list[Matmul]:
    """The products of the network over `rows` sequences of `length` events."""
    model, rules, events = network.config, network.grammar, rows * length
    width, gates = model.width, 4 * model.width
    if network.looks_up(events, drops=True):
        found = [
            Matmul(1, rules.pitch_size, model.pitch_embedding, gates),
            Matmul(1, rules.duration_size, model.duration_embedding, gates),
        ]
    else:
        found = [Matmul(1, events, model.pitch_embedding + model.duration_embedding, gates)]
    found += [Matmul(1, events, width, gates)] * (model.layers - 1)
    found += [Matmul(length, rows, width, gates)] * model.layers
    if model.attention == "pooled":
        found += [Matmul(1, events, width, 1)]
        found += [Matmul(1, events, width, width)] * model.attention_residual
    if model.attention == "multihead":
        heads, size = model.attention_heads, width // model.attention_heads
        found += [Matmul(1, events, width, 3 * width), Matmul(1, events, width, width)]
        # Each step meets the ring and its own chunk.
        seen = model.attention_window + length
        found += [Matmul(rows * heads, length, size, seen), Matmul(rows * heads, length, seen, size)]
    if model.heads == "chained":
        found += [Matmul(1, events, width, width)]
    return [*found, Matmul(1, events, width, rules.pitch_size), Matmul(1, events, width, rules.duration_size)]


def _padded(size: int, tile: int) -> int:
    return -(-size // tile) * tile
