"""The recurrent core: one LSTM layer over a chunk of time, with a gradient written by hand.

In: a carry, inputs over time, a mask. Out: the carry after the chunk and the state at every step.

All that needs no earlier state stands outside the loop: the input projection is one matrix product over
all times, and so are the gradients of the weights, which autodiff would sum up step by step inside the
backward scan. Gates are ordered input, forget, candidate, output.

Source: Hochreiter & Schmidhuber 1997.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from midigen_jax.model.precision import Product


class LSTMCarry(NamedTuple):
    """What a layer remembers: output and cell state, both float32; zeros to begin with."""

    hidden_BD: Array
    cell_BD: Array


class LSTMWeights(NamedTuple):
    """Gates side by side: I is the width of the input, 4D the four gates of D units each."""

    input_IG: Array
    recurrent_DG: Array
    bias_G: Array


def lstm(
    weights: LSTMWeights,
    carry: LSTMCarry,
    inputs_BTI: Array,
    mask_BT: Array,
    projected_BTG: Array | None = None,
    dot: Product = jnp.dot,
) -> tuple[LSTMCarry, Array]:
    """Run one layer; a step that the mask hides keeps the carry and is invisible, even if it is NaN.

    `projected_BTG` is added to the gates: a part of the input that was multiplied elsewhere (I may be 0).
    `dot` multiplies two matrices and returns float32; all else is computed in the dtype of the weights.

    Returns the carry after the last step and the outputs (B, T, D); where the mask hides a step, its
    output is the one of the step before.
    """
    # A hidden NaN would survive in `0 * NaN` of the weight gradient, so it goes before the product.
    visible_TBI, projected_TBG = jax.tree.map(
        lambda part_BT: jnp.swapaxes(jnp.where(mask_BT[..., None], part_BT, 0), 0, 1),
        (inputs_BTI, projected_BTG),
    )
    hidden_TBD, cell_TBD = _recurrence(
        dot, weights, carry, visible_TBI, projected_TBG, jnp.swapaxes(mask_BT, 0, 1)
    )
    return LSTMCarry(hidden_TBD[-1], cell_TBD[-1]), jnp.swapaxes(hidden_TBD, 0, 1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recurrence(
    dot: Product,
    weights: LSTMWeights,
    carry: LSTMCarry,
    inputs_TBI: Array,
    projected_TBG: Array | None,
    mask_TB: Array,
) -> tuple[Array, Array]:
    return _recurrence_forward(dot, weights, carry, inputs_TBI, projected_TBG, mask_TB)[0]


def _recurrence_forward(
    dot: Product,
    weights: LSTMWeights,
    carry: LSTMCarry,
    inputs_TBI: Array,
    projected_TBG: Array | None,
    mask_TB: Array,
) -> tuple[tuple[Array, Array], tuple]:
    """States (hidden, cell) at every time, and what the backward pass needs of them and of the gates."""
    times, rows, width = inputs_TBI.shape
    product_NG = dot(inputs_TBI.reshape(times * rows, width), weights.input_IG) + weights.bias_G[None]
    sum_TBG = product_NG.reshape(times, rows, -1)
    if projected_TBG is not None:
        sum_TBG += projected_TBG

    def step(carry: LSTMCarry, now: tuple[Array, Array]) -> tuple[LSTMCarry, tuple[Array, Array, Array]]:
        sum_BG, mask_B = now
        gates_BG = _activate(sum_BG + dot(carry.hidden_BD, weights.recurrent_DG))
        input_BD, forget_BD, candidate_BD, output_BD = jnp.split(gates_BG, 4, axis=-1)
        seen_B1 = mask_B[:, None]
        cell_BD = jnp.where(seen_B1, forget_BD * carry.cell_BD + input_BD * candidate_BD, carry.cell_BD)
        hidden_BD = jnp.where(seen_B1, output_BD * jnp.tanh(cell_BD), carry.hidden_BD)
        return LSTMCarry(hidden_BD, cell_BD), (hidden_BD, cell_BD, gates_BG)

    _, (hidden_TBD, cell_TBD, gates_TBG) = lax.scan(step, carry, (sum_TBG, mask_TB))
    residuals = (weights, carry, inputs_TBI, projected_TBG, mask_TB, hidden_TBD, cell_TBD, gates_TBG)
    return (hidden_TBD, cell_TBD), residuals


def _activate(sum_BG: Array) -> Array:
    """Sigmoid of all gates but the candidate, which takes the tanh: one tanh for all four.

    sigmoid(x) = tanh(x / 2) / 2 + 1 / 2. The barrier keeps XLA from computing a gate again for each use.
    """
    width = sum_BG.shape[-1] // 4
    half_G = jnp.full(4 * width, 0.5, sum_BG.dtype).at[2 * width : 3 * width].set(1)
    gates_BG = jnp.tanh(sum_BG * half_G[None]) * half_G[None] + (1 - half_G)[None]
    return lax.optimization_barrier(gates_BG)


def _recurrence_backward(dot: Product, residuals: tuple, cotangents: tuple[Array, Array]) -> tuple:
    weights, carry, inputs_TBI, projected_TBG, mask_TB, hidden_TBD, cell_TBD, gates_TBG = residuals
    before_hidden_TBD = jnp.concatenate([carry.hidden_BD[None], hidden_TBD[:-1]])
    before_cell_TBD = jnp.concatenate([carry.cell_BD[None], cell_TBD[:-1]])
    recurrent_GD = weights.recurrent_DG.T

    def step(later: LSTMCarry, now: tuple[Array, ...]) -> tuple[LSTMCarry, Array]:
        """From the gradient of the carry after a step to that of the carry before it."""
        d_hidden_BD, d_cell_BD, cell_BD, before_BD, gates_BG, mask_B = now
        d_hidden_BD += later.hidden_BD
        d_cell_BD += later.cell_BD
        seen_B1 = mask_B[:, None]
        input_BD, forget_BD, candidate_BD, output_BD = jnp.split(gates_BG, 4, axis=-1)
        squashed_BD = jnp.tanh(cell_BD)
        through_BD = jnp.where(seen_B1, d_hidden_BD, 0)
        inner_BD = jnp.where(seen_B1, d_cell_BD, 0) + through_BD * output_BD * (1 - squashed_BD**2)
        d_gates_BG = jnp.concatenate(
            [
                inner_BD * candidate_BD * input_BD * (1 - input_BD),
                inner_BD * before_BD * forget_BD * (1 - forget_BD),
                inner_BD * input_BD * (1 - candidate_BD**2),
                through_BD * squashed_BD * output_BD * (1 - output_BD),
            ],
            axis=-1,
        )
        earlier = LSTMCarry(
            dot(d_gates_BG, recurrent_GD) + jnp.where(seen_B1, 0, d_hidden_BD),
            inner_BD * forget_BD + jnp.where(seen_B1, 0, d_cell_BD),
        )
        return earlier, d_gates_BG

    zero = LSTMCarry(jnp.zeros_like(carry.hidden_BD), jnp.zeros_like(carry.cell_BD))
    d_carry, d_gates_TBG = lax.scan(
        step, zero, (*cotangents, cell_TBD, before_cell_TBD, gates_TBG, mask_TB), reverse=True
    )

    times, rows, width = inputs_TBI.shape
    d_gates_NG = d_gates_TBG.reshape(times * rows, -1)
    inputs_NI = inputs_TBI.reshape(times * rows, width)
    before_ND = before_hidden_TBD.reshape(times * rows, -1)
    # One product for the weight gradients: the rows of [x, h] against the gates.
    d_weights_KG, d_bias_G = lax.platform_dependent(
        jnp.concatenate([inputs_NI, before_ND], axis=1),
        d_gates_NG,
        cpu=partial(_against_ones, dot),
        default=partial(_summed_apart, dot),
    )
    d_weights = LSTMWeights(d_weights_KG[:width], d_weights_KG[width:], d_bias_G)
    d_inputs_TBI = dot(d_gates_NG, weights.input_IG.T).reshape(inputs_TBI.shape)
    return d_weights, d_carry, d_inputs_TBI, None if projected_TBG is None else d_gates_TBG, None


def _against_ones(dot: Product, stacked_NK: Array, d_gates_NG: Array) -> tuple[Array, Array]:
    """Gradients of weights and bias in one pass over those of the gates: the bias has an input that is 1."""
    ones_N1 = jnp.ones((len(stacked_NK), 1), stacked_NK.dtype)
    d_weights_KG = dot(jnp.concatenate([stacked_NK, ones_N1], axis=1).T, d_gates_NG)
    return d_weights_KG[:-1], d_weights_KG[-1]


def _summed_apart(dot: Product, stacked_NK: Array, d_gates_NG: Array) -> tuple[Array, Array]:
    """The same where matrices are padded to tiles: one more row may be a tile more."""
    return dot(stacked_NK.T, d_gates_NG), d_gates_NG.sum(axis=0)


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)


def lstm_carry(rows: int, width: int) -> LSTMCarry:
    """Zeros for `rows` sequences."""
    # Two arrays, not one twice: a donated carry may not alias itself.
    return LSTMCarry(jnp.zeros((rows, width), jnp.float32), jnp.zeros((rows, width), jnp.float32))
