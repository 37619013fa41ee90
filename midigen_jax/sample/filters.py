"""Drawing an id from logits: temperature, top-k, top-p, min-p, repetition penalty; values for each row.

In: logits and 32 random bits a row. Out: one id a row.

An id is drawn by inverting the distribution function at one uniform. Top-k, top-p and min-p each keep
the ids that are likely enough, so whether one is kept shows from those that are likelier: their number and
their mass. An id that is drawn and not kept is drawn again, from the likelier ones only, until one is kept.
That is exact: all that is kept is likelier than what was thrown away, so each draw is from a distribution
that holds all of it in its right proportions. Nothing is sorted, and seldom is there a second round.

Sources: Fan et al. 2018 (top-k), Holtzman et al. 2020 (top-p), Nguyen et al. 2024 (min-p), Keskar et al. 2019
(repetition penalty); rejection in place of sorting as in FlashInfer (Ye et al. 2025).
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

_LANES = 64
_COLD = 1e-30  # a temperature at which the likeliest id is all that is left in float32


class Controls(NamedTuple):
    """How the ids of one head are drawn, for each row; any of them may change without compiling again."""

    temperature_B: Array  # float32; 0 takes the likeliest id
    top_k_B: Array  # int32; the k likeliest are kept (ties all of them); 0: all
    top_p_B: Array  # float32 in (0, 1]; the fewest that hold this much of the mass are kept; 1: all
    min_p_B: (
        Array  # float32 in [0, 1]; those are kept that are at least so likely as this share of the likeliest
    )
    repetition_B: (
        Array  # float32 > 0; logits of ids that were there are divided by it, or multiplied if negative
    )


def penalized(logits_BV: Array, seen_BV: Array, repetition_B: Array) -> Array:
    """Logits with those of ids that were `seen` moved down (a penalty below 1 moves them up)."""
    penalty_B1 = repetition_B[:, None]
    moved_BV = jnp.where(logits_BV > 0, logits_BV / penalty_B1, logits_BV * penalty_B1)
    return jnp.where(seen_BV, moved_BV, logits_BV)


def draw(logits_BV: Array, controls: Controls, bits_B: Array, filtered: bool = True) -> Array:
    """One int32 id a row, from the softmax of `logits / temperature` over the ids that all filters keep.

    Each filter looks at the whole distribution, not at what another one left. `bits_B` are uint32. Without
    `filtered` only the temperature counts. An id of probability 0 is never drawn.
    """
    rows, size = logits_BV.shape
    # Id i lies in lane i mod L: sums go over ids in steps of L first, so that lanes are summed side by side.
    padded_BV = jnp.pad(logits_BV, ((0, 0), (0, -size % _LANES)), constant_values=-jnp.inf)
    logits_BKL = padded_BV.reshape(rows, -1, _LANES)
    likeliest_B = logits_BKL.max(axis=1).max(axis=-1)
    hot_B = controls.temperature_B > 0
    scale_B = jnp.where(hot_B, controls.temperature_B, _COLD)
    mass_BKL = jnp.exp((logits_BKL - likeliest_B[:, None, None]) / scale_B[:, None, None])
    # Of ids that are equally the likeliest, a cold row always takes the same.
    bits_B = jnp.where(hot_B, bits_B, jnp.uint32(0))
    if not filtered:
        return _invert(mass_BKL, bits_B)[0]
    total_B = mass_BKL.sum(axis=1).sum(axis=-1)

    def again(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        bits_B, floor_B, id_B, kept_B = state
        new_B, own_B = _invert(jnp.where(mass_BKL > floor_B[:, None, None], mass_BKL, 0), bits_B)
        above_BKL = mass_BKL > own_B[:, None, None]
        count_B = above_BKL.astype(jnp.int32).sum(axis=1).sum(axis=-1)
        heavier_B = jnp.where(above_BKL, mass_BKL, 0).sum(axis=1).sum(axis=-1)
        # The likeliest id has mass 1 and none above it: it is kept by every filter, so this ends.
        passes_B = (
            ((controls.top_k_B == 0) | (count_B < controls.top_k_B))
            & (heavier_B < controls.top_p_B * total_B)
            & (own_B >= controls.min_p_B)
        )
        floor_B = jnp.where(kept_B, floor_B, own_B)
        return mix(bits_B), floor_B, jnp.where(kept_B, id_B, new_B), kept_B | passes_B

    # The first round stands before the loop, which is hardly ever entered.
    first = again((bits_B, jnp.zeros(rows), jnp.zeros(rows, jnp.int32), jnp.zeros(rows, bool)))
    return lax.while_loop(lambda state: ~state[3].all(), again, first)[2]


def _invert(mass_BKL: Array, bits_B: Array) -> tuple[Array, Array]:
    """The id at which the running sum of the masses passes the share of all that the bits say, and its mass.

    Ids are summed lane by lane: first the lane is found, then the id in it. One running sum over all ids
    would cost as much as half of an LSTM step.
    """
    lane_BL = mass_BKL.sum(axis=1)
    running_BL = jnp.cumsum(lane_BL, axis=-1)
    # 23 bits: the share of the sum is below the sum itself, even when rounded.
    uniform_B1 = (bits_B >> 9).astype(jnp.float32)[:, None] * jnp.float32(2**-23)
    passed_B1 = uniform_B1 * running_BL[:, -1:]
    lane_B1 = _first(running_BL > passed_B1, lane_BL > 0)
    before_B1 = jnp.where(lane_B1 > 0, jnp.take_along_axis(running_BL, lane_B1 - 1, axis=-1), 0)
    mass_BK = jnp.take_along_axis(mass_BKL, lane_B1[:, None], axis=-1)[..., 0]
    place_B1 = _first(jnp.cumsum(mass_BK, axis=-1) > passed_B1 - before_B1, mass_BK > 0)
    own_B1 = jnp.take_along_axis(mass_BK, place_B1, axis=-1)
    return (place_B1 * _LANES + lane_B1)[:, 0], own_B1[:, 0]


def _first(reached_BN: Array, possible_BN: Array) -> Array:
    """(B, 1) the first place that is possible and reached; the last possible one, were none reached."""
    size = reached_BN.shape[-1]
    place_1N = jnp.arange(size)[None]
    rank_BN = jnp.where(reached_BN, place_1N, 2 * size - place_1N)
    rank_B1 = jnp.where(possible_BN, rank_BN, 2 * size).min(axis=-1, keepdims=True)
    return jnp.where(rank_B1 < size, rank_B1, 2 * size - rank_B1)


def mix(bits: Array) -> Array:
    """Other bits from uint32 bits, one to one and without a visible relation (Wellons 2018, "lowbias32")."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)
