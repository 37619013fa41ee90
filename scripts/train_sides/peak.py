"""What the machine can do at most: the product of two large float32 matrices in JAX."""

import jax
import jax.numpy as jnp

from train_sides.job import Job, Settings, Side

CANDIDATES: tuple[Settings, ...] = ({},)

_SIZE = 2048


def build(job: Job, settings: Settings) -> Side:
    """One product a call."""
    matrix_NN = jax.random.normal(jax.random.key(0), (_SIZE, _SIZE))
    product = jax.jit(jnp.matmul)

    def call() -> float:
        product(matrix_NN, matrix_NN).block_until_ready()
        return 0.0

    return Side(call, {"flops": 2 * _SIZE**3})
