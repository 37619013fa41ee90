"""The dtype of matrix products: operands are rounded to it, sums are float32.

Weights, states, softmax and loss are float32 whatever this dtype is. `float32` means what XLA makes of it: on
a GPU products may be TF32, on a TPU they take one bfloat16 pass (`jax_default_matmul_precision` rules that).
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

Product = Callable[[Array, Array], Array]


@cache
def product(dtype: str) -> Product:
    """The product of two matrices with operands of `dtype`; the same function for the same dtype."""
    if dtype == "float32":
        return jnp.dot

    def dot(left_MK: Array, right_KN: Array) -> Array:
        return jnp.dot(left_MK.astype(dtype), right_KN.astype(dtype), preferred_element_type=jnp.float32)

    return dot


def dense(features: int, dtype: str, **options: Any) -> nn.Dense:
    """A dense layer whose product has operands of `dtype`; its bias and its output are float32."""
    if dtype == "float32":
        return nn.Dense(features, **options)

    def dot_general(left: Array, right: Array, dimensions: Any, **_: Any) -> Array:
        return lax.dot_general(
            left.astype(dtype), right.astype(dtype), dimensions, preferred_element_type=jnp.float32
        )

    return nn.Dense(features, dot_general=dot_general, **options)


def einsum(equation: str, left: Array, right: Array, dtype: str) -> Array:
    """`jnp.einsum` of two arrays with operands of `dtype`; its result is float32."""
    if dtype == "float32":
        return jnp.einsum(equation, left, right)
    return jnp.einsum(equation, left.astype(dtype), right.astype(dtype), preferred_element_type=jnp.float32)
