"""The recurrent core: one LSTM layer over a chunk of time, with a gradient written by hand.

In: a carry, inputs over time, a mask. Out: the carry after the chunk and the state at every step.

All that needs no earlier state stands outside the loop: the input projection is one matrix product over
all times, and so are the gradients of the weights, which autodiff would sum up step by step inside the
backward scan. Gates are ordered input, forget, candidate, output.

Source: Hochreiter & Schmidhuber 1997.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from midigen_jax.model.precision import Product, product, rounded

_UNROLL = 4  # steps a turn of a loop on a GPU, which pays for every turn


class LSTMCarry(NamedTuple):
    """What a layer remembers: output and cell state, both float32; zeros to begin with."""

    hidden_BD: Array
    cell_BD: Array


class LSTMWeights(NamedTuple):
    """Gates side by side: I is the width of the input, 4D the four gates of D units each."""

    input_IG: Array
    recurrent_DG: Array
    bias_G: Array


class States(NamedTuple):
    """What the backward pass needs of all times, in the dtype of products."""

    hidden_TBD: Array
    cell_TBD: Array
    gates_TBG: Array


class Kernels(NamedTuple):
    """What runs the recurrence on one platform in place of the scans: as `_states` and `_gradients`."""

    platform: str
    states: Callable[..., tuple[LSTMCarry, States]]
    gradients: Callable[..., tuple[LSTMCarry, Array]]


def lstm(
    weights: LSTMWeights,
    carry: LSTMCarry,
    inputs_BTI: Array,
    mask_BT: Array,
    projected_BTG: Array | None = None,
    compute_dtype: str = "float32",
    kernels: Kernels | None = None,
) -> tuple[LSTMCarry, Array]:
    """Run one layer; a step that the mask hides keeps the carry and is invisible, even if it is NaN.

    `projected_BTG` is added to the gates: a part of the input that was multiplied elsewhere (I may be 0).
    Operands of products, and what is kept of the gates of all times, have the `compute_dtype`. `kernels` take
    the place of the scans on the platform that they are for.

    Returns the carry after the last step and the outputs (B, T, D); where the mask hides a step, its
    output is the one of the step before.
    """
    # A hidden NaN would survive in `0 * NaN` of the weight gradient, so it goes before the product.
    visible_TBI, projected_TBG = jax.tree.map(
        lambda part_BT: jnp.swapaxes(jnp.where(mask_BT[..., None], part_BT, 0), 0, 1),
        (inputs_BTI, projected_BTG),
    )
    after, hidden_TBD = _recurrence(
        compute_dtype, kernels, weights, carry, visible_TBI, projected_TBG, jnp.swapaxes(mask_BT, 0, 1)
    )
    return after, jnp.swapaxes(hidden_TBD, 0, 1)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _recurrence(
    dtype: str,
    kernels: Kernels | None,
    weights: LSTMWeights,
    carry: LSTMCarry,
    inputs_TBI: Array,
    projected_TBG: Array | None,
    mask_TB: Array,
) -> tuple[LSTMCarry, Array]:
    """The carry after the last step, and the outputs at all times."""
    return _recurrence_forward(dtype, kernels, weights, carry, inputs_TBI, projected_TBG, mask_TB)[0]


def _recurrence_forward(
    dtype: str,
    kernels: Kernels | None,
    weights: LSTMWeights,
    carry: LSTMCarry,
    inputs_TBI: Array,
    projected_TBG: Array | None,
    mask_TB: Array,
) -> tuple[tuple[LSTMCarry, Array], tuple]:
    times, rows, width = inputs_TBI.shape
    product_NG = product(dtype)(inputs_TBI.reshape(times * rows, width), weights.input_IG)
    sum_TBG = (product_NG + weights.bias_G[None]).reshape(times, rows, -1)
    if projected_TBG is not None:
        sum_TBG += projected_TBG
    own = {} if kernels is None else {kernels.platform: kernels.states}
    after, states = lax.platform_dependent(
        weights.recurrent_DG,
        carry,
        rounded(sum_TBG, dtype),
        mask_TB,
        **_forms(dtype, _states, _states_on_chip, own),
    )
    residuals = (weights, carry, inputs_TBI, projected_TBG, mask_TB, states)
    return (after, states.hidden_TBD.astype(carry.hidden_BD.dtype)), residuals


def _recurrence_backward(
    dtype: str, kernels: Kernels | None, residuals: tuple, cotangents: tuple[LSTMCarry, Array]
) -> tuple:
    weights, carry, inputs_TBI, projected_TBG, mask_TB, states = residuals
    dot = product(dtype)
    own = {} if kernels is None else {kernels.platform: kernels.gradients}
    d_carry, d_gates_TBG = lax.platform_dependent(
        weights.recurrent_DG,
        _before(carry.cell_BD, states.cell_TBD),
        states,
        mask_TB,
        *cotangents,
        **_forms(dtype, _gradients, _gradients_on_chip, own),
    )
    times, rows, width = inputs_TBI.shape
    d_gates_NG = d_gates_TBG.reshape(times * rows, -1)
    inputs_NI = inputs_TBI.reshape(times * rows, width)
    before_ND = _before(carry.hidden_BD, states.hidden_TBD).reshape(times * rows, -1)
    # One product for the weight gradients: the rows of [x, h] against the gates.
    d_weights_KG, d_bias_G = lax.platform_dependent(
        jnp.concatenate([inputs_NI, before_ND], axis=1),
        d_gates_NG,
        cpu=partial(_against_ones, dot),
        default=partial(_summed_apart, dot),
    )
    d_weights = LSTMWeights(d_weights_KG[:width], d_weights_KG[width:], d_bias_G)
    d_inputs_TBI = dot(d_gates_NG, weights.input_IG.T).reshape(inputs_TBI.shape)
    d_projected_TBG = None if projected_TBG is None else d_gates_TBG.astype(projected_TBG.dtype)
    return d_weights, d_carry, d_inputs_TBI, d_projected_TBG, None


def _forms(dtype: str, cpu: Callable, chip: Callable, kernels: dict[str, Callable]) -> dict[str, Callable]:
    """What `lax.platform_dependent` chooses from; `kernels` take the place of a platform's scan."""
    scans = {"cpu": partial(cpu, dtype), "tpu": partial(chip, dtype, 1)}
    scans["default"] = partial(chip, dtype, _UNROLL)
    return scans | {platform: partial(kernel, dtype) for platform, kernel in kernels.items()}


def _before(first_BD: Array, state_TBD: Array) -> Array:
    """States before each step."""
    return jnp.concatenate([first_BD[None].astype(state_TBD.dtype), state_TBD[:-1]])


def _step(dot: Product, recurrent_DG: Array, carry: LSTMCarry, sum_BG: Array, seen: Array) -> tuple:
    """The carry after a step, and its gates; `seen` (B, 1) or (B, D) says which rows it changes."""
    gates_BG = _activate(sum_BG + dot(carry.hidden_BD, recurrent_DG))
    input_BD, forget_BD, candidate_BD, output_BD = jnp.split(gates_BG, 4, axis=-1)
    cell_BD = jnp.where(seen, forget_BD * carry.cell_BD + input_BD * candidate_BD, carry.cell_BD)
    hidden_BD = jnp.where(seen, output_BD * jnp.tanh(cell_BD), carry.hidden_BD)
    return LSTMCarry(hidden_BD, cell_BD), gates_BG


def _activate(sum_BG: Array) -> Array:
    """Sigmoid of all gates but the candidate, which takes the tanh: one tanh for all four.

    sigmoid(x) = tanh(x / 2) / 2 + 1 / 2. The barrier keeps XLA from computing a gate again for each use.
    """
    width = sum_BG.shape[-1] // 4
    gate_BG = lax.broadcasted_iota(jnp.int32, sum_BG.shape, sum_BG.ndim - 1)
    half_BG = jnp.where((gate_BG >= 2 * width) & (gate_BG < 3 * width), 1.0, 0.5).astype(sum_BG.dtype)
    return lax.optimization_barrier(jnp.tanh(sum_BG * half_BG) * half_BG + (1 - half_BG))


def _states(
    dtype: str, recurrent_DG: Array, carry: LSTMCarry, sum_TBG: Array, mask_TB: Array
) -> tuple[LSTMCarry, States]:
    """The carry after the last step, and the states at all times."""
    dot = product(dtype)

    def step(carry: LSTMCarry, now: tuple[Array, Array]) -> tuple[LSTMCarry, States]:
        sum_BG, mask_B = now
        carry, gates_BG = _step(dot, recurrent_DG, carry, sum_BG, mask_B[:, None])
        return carry, States(*(rounded(part, dtype) for part in (*carry, gates_BG)))

    return lax.scan(step, carry, (sum_TBG, mask_TB))


def _gradients(
    dtype: str,
    recurrent_DG: Array,
    before_TBD: Array,
    states: States,
    mask_TB: Array,
    d_after: LSTMCarry,
    d_hidden_TBD: Array,
) -> tuple[LSTMCarry, Array]:
    """Gradients of the first carry and of the gates' sums at all times; `before_TBD` are cell states."""
    dot, recurrent_GD = product(dtype), recurrent_DG.T

    def step(later: LSTMCarry, now: tuple[Array, ...]) -> tuple[LSTMCarry, Array]:
        """From the gradient of the carry after a step to that of the carry before it."""
        d_hidden_BD, cell_BD, before_BD, gates_BG, mask_B = now
        d_hidden_BD += later.hidden_BD
        seen_B1 = mask_B[:, None]
        input_BD, forget_BD, candidate_BD, output_BD = jnp.split(gates_BG, 4, axis=-1)
        squashed_BD = jnp.tanh(cell_BD)
        through_BD = jnp.where(seen_B1, d_hidden_BD, 0)
        inner_BD = jnp.where(seen_B1, later.cell_BD, 0) + through_BD * output_BD * (1 - squashed_BD**2)
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
            inner_BD * forget_BD + jnp.where(seen_B1, 0, later.cell_BD),
        )
        return earlier, rounded(d_gates_BG, dtype)

    over_time = (d_hidden_TBD, states.cell_TBD, before_TBD, states.gates_TBG, mask_TB)
    return lax.scan(step, d_after, over_time, reverse=True)


def _states_on_chip(
    dtype: str, unroll: int, recurrent_DG: Array, carry: LSTMCarry, sum_TBG: Array, mask_TB: Array
) -> tuple[LSTMCarry, States]:
    """As `_states`, where each operation of a turn costs more than its arithmetic.

    A turn writes one array; where it is rounded, three, since XLA would round each part before it joins them.
    The mask comes as wide as the states, so that it is read where it is used.
    """
    step, width = partial(_step, product(dtype), recurrent_DG), len(recurrent_DG)
    seen_TBD = _by_time(jnp.broadcast_to(mask_TB[..., None], (*mask_TB.shape, width)))

    def turn(carry: LSTMCarry, now: tuple[Array, Array]) -> tuple[LSTMCarry, tuple[Array, ...]]:
        carry, gates_BG = step(carry, *now)
        parts = *carry, gates_BG
        joined = (jnp.concatenate(parts, axis=-1),) if dtype == "float32" else parts
        return carry, tuple(rounded(part, dtype) for part in joined)

    after, parts = lax.scan(turn, carry, (sum_TBG, seen_TBD), unroll=unroll)
    parts = tuple(_by_time(part) for part in parts)
    return after, States(*(jnp.split(parts[0], [width, 2 * width], axis=-1) if len(parts) == 1 else parts))


def _gradients_on_chip(
    dtype: str,
    unroll: int,
    recurrent_DG: Array,
    before_TBD: Array,
    states: States,
    mask_TB: Array,
    d_after: LSTMCarry,
    d_hidden_TBD: Array,
) -> tuple[LSTMCarry, Array]:
    """As `_gradients`, likewise: all that needs no later gradient stands outside of the loop."""
    dot, recurrent_GD = product(dtype), recurrent_DG.T
    above = d_hidden_TBD.dtype  # where derivatives are computed
    input_TBD, forget_TBD, candidate_TBD, output_TBD = jnp.split(states.gates_TBG.astype(above), 4, axis=-1)
    squashed_TBD, seen_TB1 = jnp.tanh(states.cell_TBD.astype(above)), mask_TB[..., None]
    slopes = [
        candidate_TBD * input_TBD * (1 - input_TBD),
        before_TBD * forget_TBD * (1 - forget_TBD),
        input_TBD * (1 - candidate_TBD**2),
        squashed_TBD * output_TBD * (1 - output_TBD),
    ]
    # Of a step that is hidden nothing reaches the gates, and all reaches the carry before it.
    slope_TBG = rounded(jnp.where(seen_TB1, jnp.concatenate(slopes, axis=-1), 0), dtype)
    through_TBD = rounded(jnp.where(seen_TB1, output_TBD * (1 - squashed_TBD**2), 0), dtype)
    keeps_TBD = rounded(jnp.where(seen_TB1, forget_TBD, 1), dtype)
    hidden_TBD = jnp.broadcast_to(~seen_TB1, d_hidden_TBD.shape)

    def turn(later: LSTMCarry, now: tuple[Array, ...]) -> tuple[LSTMCarry, Array]:
        slope_BG, through_BD, keeps_BD, hidden_BD, d_hidden_BD = now
        d_hidden_BD += later.hidden_BD
        inner_BD = later.cell_BD + d_hidden_BD * through_BD
        d_gates_BG = slope_BG * jnp.concatenate([*[inner_BD] * 3, d_hidden_BD], axis=-1)
        passed_BD = jnp.where(hidden_BD, d_hidden_BD, 0)
        earlier = LSTMCarry(dot(d_gates_BG, recurrent_GD) + passed_BD, inner_BD * keeps_BD)
        return earlier, rounded(d_gates_BG, dtype)

    over_time = jax.tree.map(_by_time, (slope_TBG, through_TBD, keeps_TBD, hidden_TBD, d_hidden_TBD))
    d_carry, d_gates_TBG = lax.scan(turn, d_after, over_time, reverse=True, unroll=unroll)
    return d_carry, _by_time(d_gates_TBG)


def _by_time(part_TBX: Array) -> Array:
    """The same numbers, in memory time after time: a step of a loop finds its own side by side."""
    times, rows, size = part_TBX.shape
    return lax.optimization_barrier(part_TBX.reshape(times * rows, size)).reshape(times, rows, size)


def _against_ones(dot: Product, stacked_NK: Array, d_gates_NG: Array) -> tuple[Array, Array]:
    """Gradients of weights and bias in one pass over those of the gates: the bias has an input that is 1."""
    ones_N1 = jnp.ones((len(stacked_NK), 1), stacked_NK.dtype)
    d_weights_KG = dot(jnp.concatenate([stacked_NK, ones_N1], axis=1).T, d_gates_NG)
    return d_weights_KG[:-1], d_weights_KG[-1]


def _summed_apart(dot: Product, stacked_NK: Array, d_gates_NG: Array) -> tuple[Array, Array]:
    """The same where matrices are padded to tiles: one more row may be a tile more."""
    at_least = jnp.promote_types(d_gates_NG.dtype, jnp.float32)
    return dot(stacked_NK.T, d_gates_NG), d_gates_NG.sum(axis=0, dtype=at_least)


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)


def lstm_carry(rows: int, width: int) -> LSTMCarry:
    """Zeros for `rows` sequences."""
    # Two arrays, not one twice: a donated carry may not alias itself.
    return LSTMCarry(jnp.zeros((rows, width), jnp.float32), jnp.zeros((rows, width), jnp.float32))
