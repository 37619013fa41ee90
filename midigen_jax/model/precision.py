"""The dtype of matrix products: operands are rounded to it, sums are float32.

Weights, states, softmax and loss are float32 whatever this dtype is. `float32` means what XLA makes of it: on
a GPU products may be TF32, on a TPU they take one bfloat16 pass (`jax_default_matmul_precision` rules that).
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

Product = Callable[[Array, Array], Array]


def rounded(operation: Callable[..., Array], dtype: str) -> Callable[..., Array]:
    """A product of two arrays, such as `lax.dot_general`, with operands of `dtype`; its result is float32."""
    if dtype == "float32":
        return operation

    def on_rounded(left: Array, right: Array, *more: Any, **_: Any) -> Array:
        left, right = left.astype(dtype), right.astype(dtype)
        return operation(left, right, *more, preferred_element_type=jnp.float32)

    return on_rounded


@cache
def product(dtype: str) -> Product:
    """The product of two matrices with operands of `dtype`; the same function for the same dtype."""
    return rounded(jnp.dot, dtype)


def dense(features: int, dtype: str, **options: Any) -> nn.Dense:
    """A dense layer whose product has operands of `dtype`; its bias and its output are float32."""
    return nn.Dense(features, dot_general=rounded(lax.dot_general, dtype), **options)


def einsum(equation: str, left: Array, right: Array, dtype: str) -> Array:
    """`jnp.einsum` of two arrays with operands of `dtype`; its result is float32."""
    return rounded(partial(jnp.einsum, equation), dtype)(left, right)
