"""What a network costs to train: its matrix products, and the operations in them.

In: a network and the shape of a batch. Out: counts. What is elementwise or looked up counts nothing.
"""

from midigen_jax.model.network import Network


def flops(network: Network, rows: int, length: int) -> float:
    """Floating-point operations of the matrix products of one training step on `rows` sequences of `length`.

    A product of (M, K) and (K, N) is 2 M K N, and training does three for each of the network: forward, and
    backward to its input and to its weights.
    """
    return sum(3 * product.flops for product in network.matmuls(rows, length))


def flops_per_event(network: Network, rows: int, length: int) -> float:
    """An event's part of them."""
    return flops(network, rows, length) / (rows * length)


def tile_share(network: Network, rows: int, length: int) -> float:
    """The share of those operations in what a TPU does for them: it pads rows to 8 and the others to 128."""
    padded = sum(
        3 * 2 * times * _padded(rows, 8) * _padded(inner, 128) * _padded(columns, 128)
        for times, rows, inner, columns in network.matmuls(rows, length)
    )
    return flops(network, rows, length) / padded


def _padded(size: int, tile: int) -> int:
    return -(-size // tile) * tile
