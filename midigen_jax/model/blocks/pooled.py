"""Pooled attention: the article's weighting of past states, made causal and cheap to carry.

In: a carry, LSTM states over time, a mask. Out: the carry after the chunk and one context a step.

The score of a state is `tanh(w . h + b)`, the context of step t the softmax-weighted sum of the states up
to t. There is no query, so a state's weight never changes once it is written, and because scores lie in
[-1, 1] the exponentials need no running maximum. Over the whole past two running sums are all that must be
carried; with a window of W events the last W - 1 terms are.
"""

from functools import partial
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from midigen_jax.errors import InputError
from midigen_jax.model.blocks.base import LONGEST_WINDOW, Block, DropConnect, Matmul, Step
from midigen_jax.model.precision import dense, einsum


class PooledCarry(NamedTuple):
    """The terms of the past that later contexts need, zeros to begin with.

    K is 1 over the whole past (the sum of all terms), and W - 1 with a window of W (the last terms).
    """

    weighted_BKD: Array
    weight_BK: Array


class Pooled(Block):
    """Contexts over the last `window` states, or over all of them when it is 0.

    With `residual` a context is added to its state, through a layer of its own; else it takes its place.
    """

    window: int = 0
    residual: bool = True

    any_inputs: ClassVar[bool] = False

    def check(self) -> None:
        """Raises InputError for settings that cannot be."""
        if not 0 <= self.window <= LONGEST_WINDOW:
            raise InputError(f"pooled: give window = 1 to {LONGEST_WINDOW:,}, or 0 for the whole past")

    def initial_carry(self, rows: int, keep_cache: bool = True) -> PooledCarry:
        """Zeros for `rows` sequences: nothing to pool over yet."""
        kept = 1 if self.window == 0 else self.window - 1
        return PooledCarry(jnp.zeros((rows, kept, self.inputs)), jnp.zeros((rows, kept)))

    @nn.compact
    def __call__(
        self, carry: PooledCarry, x_BTD: Array, now: Step, drop: DropConnect | None = None
    ) -> tuple[PooledCarry, Array]:
        """As `Block`; the width is that of the input."""
        mask_BT = now.mask_BT
        visible_BTD = jnp.where(mask_BT[..., None], x_BTD, 0)
        score_BT = jnp.tanh(dense(1, self.compute_dtype, name="score")(visible_BTD)[..., 0])
        weight_BT = jnp.where(mask_BT, jnp.exp(score_BT), 0)
        terms = PooledCarry(weight_BT[..., None] * visible_BTD, weight_BT)
        if self.window == 0:
            carry, sums = _running(carry, terms, self.compute_dtype)
        else:
            carry, sums = _windowed(carry, terms, mask_BT)
        # Before the first visible state there is nothing to weigh: the context is zero there, not 0 / 0.
        total_BT = jnp.where(sums.weight_BK > 0, sums.weight_BK, 1)
        context_BTD = sums.weighted_BKD / total_BT[..., None]
        if not self.residual:
            return carry, context_BTD
        return carry, x_BTD + dense(self.width, self.compute_dtype, name="output")(context_BTD)

    def matmuls(self, rows: int, length: int) -> list[Matmul]:
        """As `Block`."""
        scores = [Matmul(1, rows * length, self.inputs, 1)]
        return scores + [Matmul(1, rows * length, self.inputs, self.width)] * self.residual


def _running(carry: PooledCarry, terms: PooledCarry, dtype: str) -> tuple[PooledCarry, PooledCarry]:
    """Sums of all terms up to each step, and the last of them as the carry."""
    sums = lax.platform_dependent(carry, terms, cpu=_sums_in_turn, default=partial(_sums_at_once, dtype))
    return PooledCarry(*(part_BT[:, -1:] for part_BT in sums)), sums


def _sums_in_turn(carry: PooledCarry, terms: PooledCarry) -> PooledCarry:
    """Running sums that go on from the carry: on a CPU it is quickest to read each term once."""

    def step(sums: PooledCarry, now: PooledCarry) -> tuple[PooledCarry, PooledCarry]:
        sums = PooledCarry(*(part_B + now_B for part_B, now_B in zip(sums, now, strict=True)))
        return sums, sums

    start = PooledCarry(*(part_B1[:, 0] for part_B1 in carry))
    _, sums = lax.scan(step, start, jax.tree.map(lambda part_BT: jnp.swapaxes(part_BT, 0, 1), terms))
    return jax.tree.map(lambda part_TB: jnp.swapaxes(part_TB, 0, 1), sums)


def _sums_at_once(dtype: str, carry: PooledCarry, terms: PooledCarry) -> PooledCarry:
    """The same as one product, where each operation of a loop costs more than its arithmetic."""
    times = terms.weight_BK.shape[1]
    up_to_TS = jnp.tril(jnp.ones((times, times), terms.weight_BK.dtype))

    def summed(terms_BSD: Array) -> Array:
        return einsum("TS,BSD->BTD", up_to_TS, terms_BSD, dtype, precision="highest")

    return PooledCarry(
        carry.weighted_BKD + summed(terms.weighted_BKD),
        carry.weight_BK + summed(terms.weight_BK[..., None])[..., 0],
    )


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
