"""The least time that a step of decoding can take: its matrix products, one after another, and nothing else.

In: a network's parameters. Out: a compiled loop over the same weights. At one row it streams all weights
through the core once a step; at many rows it multiplies as many numbers as a step must.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from midigen_jax.model.network import Network
from midigen_jax.model.precision import product


def step_weights(network: Network, params: dict) -> list[Array]:
    """(D, K) the matrices that a step multiplies a state by; the first block's input is looked up."""
    found = []
    for path, leaf in jax.tree.leaves_with_path(params):
        names = [part.key for part in path]
        multiplied = names[-1] in ("input", "recurrent", "kernel") and names != ["blocks_0", "input"]
        if multiplied and leaf.shape[0] == network.config.width:
            found.append(leaf)
    return found


@partial(jax.jit, static_argnames=("dtype", "steps"))
def floor(weights: list[Array], state_BD: Array, *, dtype: str, steps: int) -> Array:
    """The state after `steps` times all products, each of which needs the one before it."""
    dot = product(dtype)

    def step(number: int, state_BD: Array) -> Array:
        for weight_DK in weights:
            state_BD = _fold(lax.optimization_barrier(dot(state_BD, weight_DK)), state_BD)
        return state_BD

    return lax.fori_loop(0, steps, step, state_BD)


def _fold(product_BK: Array, state_BD: Array) -> Array:
    """A state in [0.5, 1] that depends on every number of the product: no step can drop or reorder one."""
    width = state_BD.shape[1]
    if product_BK.shape[1] % width == 0:
        largest_BD = product_BK.reshape(len(product_BK), -1, width).max(axis=1)
    else:
        largest_BD = jnp.maximum(product_BK.max(axis=1, keepdims=True), state_BD)
    # Within bounds, so that nothing fades into numbers that are slow to multiply.
    return jnp.clip(largest_BD, 0.5, 1)
