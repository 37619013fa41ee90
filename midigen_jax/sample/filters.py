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

from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
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

    CPUs have a form of their own. The other one draws the same ids, unless the bits fall between two ids to
    within rounding.
    """
    return lax.platform_dependent(
        logits_BV,
        controls,
        bits_B,
        cpu=partial(draw_by_gathers, filtered=filtered),
        default=partial(draw_by_products, filtered=filtered),
    )


def draw_by_gathers(logits_BV: Array, controls: Controls, bits_B: Array, filtered: bool) -> Array:
    """`draw` for a CPU, which looks things up at little cost."""
    rows, size = logits_BV.shape
    # Id i lies in lane i mod L: sums go over ids in steps of L first, so that lanes are summed side by side.
    padded_BV = jnp.pad(logits_BV, ((0, 0), (0, -size % _LANES)), constant_values=-jnp.inf)
    logits_BKL = padded_BV.reshape(rows, -1, _LANES)
    likeliest_B = logits_BKL.max(axis=1).max(axis=-1)
    scale_B, bits_B = _heat(controls, bits_B)
    mass_BKL = jnp.exp((logits_BKL - likeliest_B[:, None, None]) / scale_B[:, None, None])
    if not filtered:
        return _invert_by_gathers(mass_BKL, bits_B)[0]
    total_B = mass_BKL.sum(axis=1).sum(axis=-1)

    def attempt(floor_B: Array, bits_B: Array) -> _Attempt:
        id_B, own_B = _invert_by_gathers(jnp.where(mass_BKL > floor_B[:, None, None], mass_BKL, 0), bits_B)
        above_BKL = mass_BKL > own_B[:, None, None]
        count_B = above_BKL.astype(jnp.int32).sum(axis=1).sum(axis=-1)
        heavier_B = jnp.where(above_BKL, mass_BKL, 0).sum(axis=1).sum(axis=-1)
        return _Attempt(id_B, own_B, count_B, heavier_B, total_B)

    return _until_kept(attempt, controls, bits_B)


def draw_by_products(logits_BV: Array, controls: Controls, bits_B: Array, filtered: bool) -> Array:
    """`draw` for chips that multiply at less cost than they look up, and where each kernel has a price.

    Every L ids are an array of their own, so that lanes stay where they are: a TPU copies any other layout.
    """
    size = logits_BV.shape[1]
    padded_BV = jnp.pad(logits_BV, ((0, 0), (0, -size % _LANES)), constant_values=-jnp.inf)
    likeliest_B1 = logits_BV.max(axis=-1, keepdims=True)
    scale_B, bits_B = _heat(controls, bits_B)
    masses_BL = [
        jnp.exp((padded_BV[:, first : first + _LANES] - likeliest_B1) / scale_B[:, None])
        for first in range(0, size, _LANES)
    ]
    if not filtered:
        return _invert_by_products(masses_BL, bits_B)[0]

    def attempt(floor_B: Array, bits_B: Array) -> _Attempt:
        left_BL = [jnp.where(mass_BL > floor_B[:, None], mass_BL, 0) for mass_BL in masses_BL]
        id_B, own_B = _invert_by_products(left_BL, bits_B)
        zero_BL = jnp.zeros_like(masses_BL[0])
        count_BL, heavier_BL, total_BL = zero_BL, zero_BL, zero_BL
        for mass_BL in masses_BL:
            above_BL = mass_BL > own_B[:, None]
            count_BL += above_BL
            heavier_BL += jnp.where(above_BL, mass_BL, 0)
            total_BL += mass_BL
        # Three sums in one kernel.
        sums = lax.reduce(
            (count_BL, heavier_BL, total_BL),
            (jnp.float32(0),) * 3,
            lambda some, others: tuple(one + other for one, other in zip(some, others, strict=True)),
            dimensions=(1,),
        )
        return _Attempt(id_B, own_B, *sums)

    return _until_kept(attempt, controls, bits_B)


class _Attempt(NamedTuple):
    """An id that was drawn, and what the filters ask about it; masses are shares of the likeliest id's."""

    id_B: Array
    own_B: Array  # its mass
    count_B: Array  # how many ids are likelier
    heavier_B: Array  # their mass
    total_B: Array  # that of all ids


def _heat(controls: Controls, bits_B: Array) -> tuple[Array, Array]:
    """What logits are divided by, and the bits: of several likeliest ids a cold row always takes the same."""
    hot_B = controls.temperature_B > 0
    return jnp.where(hot_B, controls.temperature_B, _COLD), jnp.where(hot_B, bits_B, jnp.uint32(0))


def _until_kept(attempt: Callable[[Array, Array], _Attempt], controls: Controls, bits_B: Array) -> Array:
    """The first ids that all filters keep, each drawn by `attempt` from those above a floor of mass."""

    def again(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        bits_B, floor_B, id_B, kept_B = state
        drawn = attempt(floor_B, bits_B)
        # The likeliest id has mass 1 and none above it: it is kept by every filter, so this ends.
        passes_B = (
            ((controls.top_k_B == 0) | (drawn.count_B < controls.top_k_B))
            & (drawn.heavier_B < controls.top_p_B * drawn.total_B)
            & (drawn.own_B >= controls.min_p_B)
        )
        floor_B = jnp.where(kept_B, floor_B, drawn.own_B)
        return mix(bits_B), floor_B, jnp.where(kept_B, id_B, drawn.id_B), kept_B | passes_B

    # The first round stands before the loop, which is hardly ever entered.
    rows = len(bits_B)
    first = again((bits_B, jnp.zeros(rows), jnp.zeros(rows, jnp.int32), jnp.zeros(rows, bool)))
    return lax.while_loop(lambda state: ~state[3].all(), again, first)[2]


def _uniform(bits_B: Array) -> Array:
    """Numbers below 1 of 23 bits: that share of a sum is below the sum itself, even when rounded."""
    return (bits_B >> 9).astype(jnp.float32) * jnp.float32(2**-23)


def _invert_by_gathers(mass_BKL: Array, bits_B: Array) -> tuple[Array, Array]:
    """The id at which the running sum of the masses passes the share of all that the bits say, and its mass.

    Ids are summed lane by lane: first the lane is found, then the id in it. One running sum over all ids
    would cost as much as half of an LSTM step.
    """
    lane_BL = mass_BKL.sum(axis=1)
    running_BL = jnp.cumsum(lane_BL, axis=-1)
    passed_B1 = _uniform(bits_B)[:, None] * running_BL[:, -1:]
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


def _invert_by_products(masses_BL: list[Array], bits_B: Array) -> tuple[Array, Array]:
    """The same of masses that lie in K arrays; ids come one after another in the same order, lane by lane.

    Where the running sum falls back by a rounding, an id that it had passed before is not reached again:
    the first that is reached counts, and only those of some mass can be.
    """
    parts = len(masses_BL)
    size = parts * _LANES
    until_BL = list(accumulate(masses_BL))  # in each lane, with the ids of this part
    lane_BL = until_BL[-1]
    # Products with 0 and 1 are exact in bfloat16: the masses alone are multiplied in three parts.
    earlier_LL = np.tri(_LANES, k=-1, dtype=np.float32).T
    before_BL = lax.dot(lane_BL, earlier_LL, precision=(lax.Precision.HIGHEST, lax.Precision.DEFAULT))
    passed_B1 = (_uniform(bits_B) * lane_BL.sum(axis=-1))[:, None]
    # As in `_first`, over all ids at once; floats, since vectors have no minimum of whole numbers.
    rank_BL, own_BL = jnp.float32(2 * size), jnp.float32(0)
    for part, mass_BL in enumerate(masses_BL):
        place_1L = np.arange(part, size, parts, dtype=np.float32)[None]
        reached_BL = before_BL + until_BL[part] > passed_B1
        its_BL = jnp.where(mass_BL > 0, jnp.where(reached_BL, place_1L, 2 * size - place_1L), 2 * size)
        own_BL = jnp.where(its_BL < rank_BL, mass_BL, own_BL)
        rank_BL = jnp.minimum(its_BL, rank_BL)
    rank_B, own_B = lax.reduce(
        (rank_BL, own_BL), (jnp.float32(2 * size), jnp.float32(0)), _lesser, dimensions=(1,)
    )
    place_B = jnp.where(rank_B < size, rank_B, 2 * size - rank_B).astype(jnp.int32)
    return place_B % parts * _LANES + place_B // parts, own_B


def _lesser(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
    """The pair that has the lesser rank."""
    is_one = one[0] < other[0]
    return jnp.where(is_one, one[0], other[0]), jnp.where(is_one, one[1], other[1])


def mix(bits: Array) -> Array:
    """Other bits from uint32 bits, one to one and without a visible relation (Wellons 2018, "lowbias32")."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)
