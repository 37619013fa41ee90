"""The recurrent core: one LSTM layer over a chunk of time, with a gradient written by hand.

In: a carry, inputs over time, a mask. Out: the carry after the chunk and the state at every step.

All that needs no earlier state stands outside the loop: the input projection is one matrix product over
all times, and so are the gradients of the weights, which autodiff would sum up step by step inside the
backward scan. Gates are ordered input, forget, candidate, output.

Source: Hochreiter & Schmidhuber 1997; forget bias of 1 after Jozefowicz et al. 2015.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax


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
    weights: LSTMWeights, carry: LSTMCarry, inputs_BTI: Array, mask_BT: Array
) -> tuple[LSTMCarry, Array]:
    """Run one layer; a step that the mask hides keeps the carry and is invisible, even if it is NaN.

    Returns the carry after the last step and the outputs (B, T, D); where the mask hides a step, its
    output is the one of the step before.
    """
    # A hidden NaN would survive in `0 * NaN` of the weight gradient, so it goes before the product.
    visible_BTI = jnp.where(mask_BT[..., None], inputs_BTI, 0)
    hidden_TBD, cell_TBD = _recurrence(
        weights, carry, jnp.swapaxes(visible_BTI, 0, 1), jnp.swapaxes(mask_BT, 0, 1)
    )
    return LSTMCarry(hidden_TBD[-1], cell_TBD[-1]), jnp.swapaxes(hidden_TBD, 0, 1)


@jax.custom_vjp
def _recurrence(
    weights: LSTMWeights, carry: LSTMCarry, inputs_TBI: Array, mask_TB: Array
) -> tuple[Array, Array]:
    (hidden_TBD, cell_TBD), _ = _forward(weights, carry, inputs_TBI, mask_TB)
    return hidden_TBD, cell_TBD


def _forward(
    weights: LSTMWeights, carry: LSTMCarry, inputs_TBI: Array, mask_TB: Array
) -> tuple[tuple[Array, Array], Array]:
    """States (hidden, cell) at every time, and the activated gates."""
    times, rows, width = inputs_TBI.shape
    projected_NG = inputs_TBI.reshape(times * rows, width) @ weights.input_IG + weights.bias_G[None]
    projected_TBG = projected_NG.reshape(times, rows, -1)

    def step(carry: LSTMCarry, now: tuple[Array, Array]) -> tuple[LSTMCarry, tuple[Array, Array, Array]]:
        projected_BG, mask_B = now
        gates_BG = _activate(projected_BG + carry.hidden_BD @ weights.recurrent_DG)
        input_BD, forget_BD, candidate_BD, output_BD = jnp.split(gates_BG, 4, axis=-1)
        seen_B1 = mask_B[:, None]
        cell_BD = jnp.where(seen_B1, forget_BD * carry.cell_BD + input_BD * candidate_BD, carry.cell_BD)
        hidden_BD = jnp.where(seen_B1, output_BD * jnp.tanh(cell_BD), carry.hidden_BD)
        return LSTMCarry(hidden_BD, cell_BD), (hidden_BD, cell_BD, gates_BG)

    _, (hidden_TBD, cell_TBD, gates_TBG) = lax.scan(step, carry, (projected_TBG, mask_TB))
    return (hidden_TBD, cell_TBD), gates_TBG


def _activate(gates_BG: Array) -> Array:
    width = gates_BG.shape[-1] // 4
    return jnp.concatenate(
        [
            nn.sigmoid(gates_BG[:, : 2 * width]),
            jnp.tanh(gates_BG[:, 2 * width : 3 * width]),
            nn.sigmoid(gates_BG[:, 3 * width :]),
        ],
        axis=-1,
    )


def _recurrence_forward(
    weights: LSTMWeights, carry: LSTMCarry, inputs_TBI: Array, mask_TB: Array
) -> tuple[tuple[Array, Array], tuple]:
    (hidden_TBD, cell_TBD), gates_TBG = _forward(weights, carry, inputs_TBI, mask_TB)
    return (hidden_TBD, cell_TBD), (weights, carry, inputs_TBI, mask_TB, hidden_TBD, cell_TBD, gates_TBG)


def _recurrence_backward(residuals: tuple, cotangents: tuple[Array, Array]) -> tuple:
    weights, carry, inputs_TBI, mask_TB, hidden_TBD, cell_TBD, gates_TBG = residuals
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
            d_gates_BG @ recurrent_GD + jnp.where(seen_B1, 0, d_hidden_BD),
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
    # One product for the three weight gradients: the rows of [x, h, 1] against the gates.
    ones_N1 = jnp.ones((times * rows, 1), inputs_NI.dtype)
    stacked_NK = jnp.concatenate([inputs_NI, before_ND, ones_N1], axis=1)
    d_weights_KG = stacked_NK.T @ d_gates_NG
    d_weights = LSTMWeights(d_weights_KG[:width], d_weights_KG[width:-1], d_weights_KG[-1])
    d_inputs_TBI = (d_gates_NG @ weights.input_IG.T).reshape(inputs_TBI.shape)
    return d_weights, d_carry, d_inputs_TBI, None


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)


class LSTM(nn.Module):
    """The weights of one layer of `width` units; `lstm` does the work."""

    width: int

    @nn.compact
    def __call__(self, carry: LSTMCarry, inputs_BTI: Array, mask_BT: Array) -> tuple[LSTMCarry, Array]:
        """As `lstm`."""
        gates = 4 * self.width
        weights = LSTMWeights(
            self.param("input", nn.initializers.lecun_normal(), (inputs_BTI.shape[-1], gates)),
            # One orthogonal factor for the four gates: four would be four QR decompositions.
            self.param("recurrent", nn.initializers.orthogonal(), (self.width, gates)),
            self.param("bias", _forget_bias, (gates,)),
        )
        return lstm(weights, carry, inputs_BTI, mask_BT)


def lstm_carry(rows: int, width: int) -> LSTMCarry:
    """Zeros for `rows` sequences."""
    # Two arrays, not one twice: a donated carry may not alias itself.
    return LSTMCarry(jnp.zeros((rows, width), jnp.float32), jnp.zeros((rows, width), jnp.float32))


def _forget_bias(key: Array, shape: tuple[int], dtype: jnp.dtype = jnp.float32) -> Array:
    """Zero but for the forget gate, which starts open."""
    width = shape[0] // 4
    return jnp.zeros(shape, dtype).at[width : 2 * width].set(1)
