"""The dtype of matrix products: operands are rounded to it, sums are float32; forward and backward alike.

What an LSTM layer keeps of all times has this dtype too. Weights, the carried state, softmax and loss are
float32 whatever it is. `float32` means what XLA makes of it: on a GPU products may be TF32, on a TPU they
take one bfloat16 pass (`jax_default_matmul_precision` rules that).
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

Product = Callable[[Array, Array], Array]


@cache
def product(dtype: str) -> Product:
    """The product of two matrices with operands of `dtype`; the same function for the same dtype."""
    return jnp.dot if dtype == "float32" else partial(_rounded, "ij,jk->ik", dtype)


def rounded(array: Array, dtype: str) -> Array:
    """What is kept for later of an array: float32 is kept as it is (and float64, in tests of gradients)."""
    return array if dtype == "float32" else array.astype(dtype)


def dense(features: int, dtype: str, **options: Any) -> nn.Dense:
    """A dense layer whose product has operands of `dtype`; its bias and its output are float32."""
    if dtype != "float32":
        options["dot_general"] = lambda inputs, kernel, *_, **__: _rounded(
            "...i,io->...o", dtype, inputs, kernel
        )
    return nn.Dense(features, **options)


def einsum(equation: str, left: Array, right: Array, dtype: str, precision: str | None = None) -> Array:
    """`jnp.einsum` of two arrays with operands of `dtype`; its result is float32.

    Each index of an array is one of the other array or of the result. `precision` is XLA's, of float32.
    """
    if dtype == "float32":
        return jnp.einsum(equation, left, right, precision=precision)
    return _rounded(equation, dtype, left, right)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _rounded(equation: str, dtype: str, left: Array, right: Array) -> Array:
    return jnp.einsum(equation, left.astype(dtype), right.astype(dtype), preferred_element_type=jnp.float32)


def _forward(equation: str, dtype: str, left: Array, right: Array) -> tuple[Array, tuple[Array, Array]]:
    # What the gradient needs is kept rounded: half the memory.
    left, right = left.astype(dtype), right.astype(dtype)
    return _rounded(equation, dtype, left, right), (left, right)


def _backward(equation: str, dtype: str, kept: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    """JAX's own rule would multiply float32 cotangents with rounded operands, which is done in float32."""
    operands, result = equation.split("->")
    first, second = operands.split(",")
    left, right = kept
    d_left = _rounded(f"{result},{second}->{first}", dtype, cotangent, right)
    return d_left, _rounded(f"{first},{result}->{second}", dtype, left, cotangent)


_rounded.defvjp(_forward, _backward)
