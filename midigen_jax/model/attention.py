"""Pooled attention: the article's weighting of past states, made causal and cheap to carry.

In: a carry, LSTM states over time, a mask. Out: the carry after the chunk and one context a step.

The score of a state is `tanh(w . h + b)`, the context of step t the softmax-weighted sum of the states up
to t. There is no query, so a state's weight never changes once it is written, and because scores lie in
[-1, 1] the exponentials need no running maximum. Over the whole past two running sums are all that must be
carried; with a window of W events the last W - 1 terms are.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from midigen_jax.model.precision import dense


class PooledCarry(NamedTuple):
    """The terms of the past that later contexts need, zeros to begin with.

    K is 1 over the whole past (the sum of all terms), and W - 1 with a window of W (the last terms).
    """

    weighted_BKD: Array
    weight_BK: Array


class PooledAttention(nn.Module):
    """Contexts over the last `window` states, or over all of them when it is 0."""

    window: int
    compute_dtype: str = "float32"

    @nn.compact
    def __call__(self, carry: PooledCarry, hidden_BTD: Array, mask_BT: Array) -> tuple[PooledCarry, Array]:
        """Contexts (B, T, D). The mask must hide a row's last steps only: padding follows music."""
        visible_BTD = jnp.where(mask_BT[..., None], hidden_BTD, 0)
        score_BT = jnp.tanh(dense(1, self.compute_dtype, name="score")(visible_BTD)[..., 0])
        weight_BT = jnp.where(mask_BT, jnp.exp(score_BT), 0)
        terms = PooledCarry(weight_BT[..., None] * visible_BTD, weight_BT)
        carry, sums = _running(carry, terms) if self.window == 0 else _windowed(carry, terms, mask_BT)
        # Before the first visible state there is nothing to weigh: the context is zero there, not 0 / 0.
        total_BT = jnp.where(sums.weight_BK > 0, sums.weight_BK, 1)
        return carry, sums.weighted_BKD / total_BT[..., None]


def pooled_carry(window: int, rows: int, width: int) -> PooledCarry:
    """Zeros for `rows` sequences of states of `width` units: nothing to pool over yet."""
    kept = 1 if window == 0 else window - 1
    return PooledCarry(jnp.zeros((rows, kept, width)), jnp.zeros((rows, kept)))


def _running(carry: PooledCarry, terms: PooledCarry) -> tuple[PooledCarry, PooledCarry]:
    """Sums of all terms up to each step, and the last of them as the carry."""

    def step(sums: tuple[Array, Array], now: tuple[Array, Array]) -> tuple[tuple, tuple]:
        sums = (sums[0] + now[0], sums[1] + now[1])
        return sums, sums

    start = (carry.weighted_BKD[:, 0], carry.weight_BK[:, 0])
    over_time = (jnp.swapaxes(terms.weighted_BKD, 0, 1), jnp.swapaxes(terms.weight_BK, 0, 1))
    last, (weighted_TBD, weight_TB) = lax.scan(step, start, over_time)
    sums = PooledCarry(jnp.swapaxes(weighted_TBD, 0, 1), jnp.swapaxes(weight_TB, 0, 1))
    return PooledCarry(last[0][:, None], last[1][:, None]), sums


def _windowed(carry: PooledCarry, terms: PooledCarry, mask_BT: Array) -> tuple[PooledCarry, PooledCarry]:
    """Sums of the last W terms up to each step, and the last W - 1 visible terms as the carry."""
    kept, times = carry.weight_BK.shape[1], mask_BT.shape[1]
    weighted_BSD = jnp.concatenate([carry.weighted_BKD, terms.weighted_BKD], axis=1)
    weight_BS = jnp.concatenate([carry.weight_BK, terms.weight_BK], axis=1)
    sums = PooledCarry(_sliding_sum(weighted_BSD, times), _sliding_sum(weight_BS, times))
    # A row with n visible steps goes on from its n-th term: hidden steps take no place in the window.
    last_BK = mask_BT.sum(axis=1)[:, None] + jnp.arange(kept)[None]
    carry = PooledCarry(
        jnp.take_along_axis(weighted_BSD, last_BK[..., None], axis=1),
        jnp.take_along_axis(weight_BS, last_BK, axis=1),
    )
    return carry, sums


def _sliding_sum(terms_BS: Array, times: int) -> Array:
    """Sums over each run of W = S - times + 1 neighbours along axis 1.

    Built from sums over runs of 1, 2, 4 … neighbours: log2(W) additions, and no difference of two large
    running sums, which would lose precision as a piece grows.
    """
    window = terms_BS.shape[1] - times + 1
    total, first, size, run_BS = jnp.zeros_like(terms_BS[:, :times]), 0, 1, terms_BS
    while size <= window:
        if window & size:
            total = total + run_BS[:, first : first + times]
            first += size
        if 2 * size <= window:
            run_BS = run_BS[:, :-size] + run_BS[:, size:]
        size *= 2
    return total
