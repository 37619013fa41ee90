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
from functools import partial, reduce
from itertools import accumulate
from operator import add
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl

_LANES = 64
_MOST_IDS = 1024  # of forms that write each L ids out: of 27,806 XLA made 2,581 kernels in 45 s
_TILE, _MOST_ROWS = 8, 128  # rows that a kernel draws for at once: a multiple of a vector's, at the most
_COLD = 1e-30  # a temperature at which the likeliest id is all that is left in float32


class SamplingParams(NamedTuple):
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


def draw(
    logits_BV: Array, controls: SamplingParams, bits_B: Array, filtered: bool = True, kernel: bool = False
) -> Array:
    """One int32 id a row, from the softmax of `logits / temperature` over the ids that all filters keep.

    Each filter looks at the whole distribution, not at what another one left. `bits_B` are uint32. Without
    `filtered` only the temperature counts. An id of probability 0 is never drawn.

    There are three forms: on CPUs, and of more than 1,024 ids anywhere, by looking up; on GPUs by products;
    and with `kernel`, which TPUs alone can run, by one kernel. All draw the same ids, unless the bits fall
    between two ids to within rounding.
    """
    by_gathers = partial(draw_by_gathers, filtered=filtered)
    if logits_BV.shape[1] > _MOST_IDS:
        return by_gathers(logits_BV, controls, bits_B)
    if kernel:
        return draw_by_kernel(logits_BV, controls, bits_B, filtered)
    by_products = partial(draw_by_products, filtered=filtered)
    return lax.platform_dependent(logits_BV, controls, bits_B, cpu=by_gathers, default=by_products)


def draw_by_gathers(logits_BV: Array, controls: SamplingParams, bits_B: Array, filtered: bool) -> Array:
    """`draw` for a CPU, which looks things up at little cost, and for many ids anywhere."""
    # Id i lies in lane i mod L: sums go over ids in steps of L first, so that lanes are summed side by side.
    logits_BKL = _in_lanes(logits_BV).reshape(len(logits_BV), -1, _LANES)
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


def draw_by_products(logits_BV: Array, controls: SamplingParams, bits_B: Array, filtered: bool) -> Array:
    """`draw` for chips that multiply at less cost than they look up, and where each kernel has a price."""
    columns = SamplingParams(*(part_B[:, None] for part_B in controls))
    return _draw_in_columns(_in_lanes(logits_BV), columns, bits_B[:, None], filtered)[:, 0]


def draw_by_kernel(
    logits_BV: Array, controls: SamplingParams, bits_B: Array, filtered: bool, interpret: bool = False
) -> Array:
    """`draw` as one kernel of a TPU, in which an id is drawn again as well.

    XLA makes nine kernels of it, and eight of each further round. `interpret` runs it anywhere, slowly,
    to test it.
    """
    rows, size = logits_BV.shape
    tile = _TILE * -(-rows // _TILE) if rows <= _MOST_ROWS else _MOST_ROWS
    numbers_B5 = jnp.stack(controls, axis=1, dtype=jnp.float32)
    # Rows that fill a tile are copies of the last one: whatever it keeps they keep, so that all end.
    filled = [
        jnp.pad(part, ((0, -rows % tile), (0, 0)), mode="edge")
        for part in (logits_BV, numbers_B5, bits_B[:, None])
    ]

    def kernel(logits_ref: Any, numbers_ref: Any, bits_ref: Any, id_ref: Any) -> None:
        # Beyond the last id is whatever lay there.
        logits_BV = logits_ref[...]
        logits_BV = jnp.where(_number(logits_BV.shape, 1) < size, logits_BV, -jnp.inf)
        columns = SamplingParams(*(numbers_ref[:, one : one + 1] for one in range(len(controls))))
        id_ref[...] = _draw_in_columns(logits_BV, columns, bits_ref[...], filtered)

    def rows_of(width: int) -> pl.BlockSpec:
        return pl.BlockSpec((tile, width), lambda group: (group, 0))

    id_B1 = pl.pallas_call(
        kernel,
        grid=(len(filled[0]) // tile,),
        in_specs=[rows_of(size + -size % 128), rows_of(len(controls)), rows_of(1)],
        out_specs=rows_of(1),
        out_shape=jax.ShapeDtypeStruct((len(filled[0]), 1), jnp.int32),
        interpret=interpret,
        name="draw",
    )(*filled)
    return id_B1[:rows, 0]


def _in_lanes(logits_BV: Array) -> Array:
    """Logits with as many impossible ids as fill the last lanes."""
    return jnp.pad(logits_BV, ((0, 0), (0, -logits_BV.shape[1] % _LANES)), constant_values=-jnp.inf)


def _draw_in_columns(logits_BV: Array, controls: SamplingParams, bits_B1: Array, filtered: bool) -> Array:
    """(B, 1) ids; the arrays of `controls` are columns too.

    Every L ids are an array of their own, so that lanes stay where they are: a TPU copies any other layout.
    """
    likeliest_B1 = logits_BV.max(axis=-1, keepdims=True)
    scale_B1, bits_B1 = _heat(controls, bits_B1)
    masses_BL = [
        jnp.exp((logits_BV[:, first : first + _LANES] - likeliest_B1) / scale_B1)
        for first in range(0, logits_BV.shape[1], _LANES)
    ]
    if not filtered:
        return _invert_by_products(masses_BL, bits_B1)[0]

    total_B1 = _sum_of_all(masses_BL)

    def attempt(floor_B1: Array, bits_B1: Array) -> _Attempt:
        left_BL = [jnp.where(mass_BL > floor_B1, mass_BL, 0) for mass_BL in masses_BL]
        id_B1, own_B1 = _invert_by_products(left_BL, bits_B1)
        count_B1 = _sum_of_all([(mass_BL > own_B1).astype(jnp.float32) for mass_BL in masses_BL])
        heavier_B1 = _sum_of_all([jnp.where(mass_BL > own_B1, mass_BL, 0) for mass_BL in masses_BL])
        return _Attempt(id_B1, own_B1, count_B1, heavier_B1, total_B1)

    return _until_kept(attempt, controls, bits_B1)


class _Attempt(NamedTuple):
    """An id that was drawn, and what the filters ask about it; masses are shares of the likeliest id's.

    Arrays (B,), or columns (B, 1).
    """

    id_B: Array
    own_B: Array  # its mass
    count_B: Array  # how many ids are likelier
    heavier_B: Array  # their mass
    total_B: Array  # that of all ids


def _heat(controls: SamplingParams, bits_B: Array) -> tuple[Array, Array]:
    """What logits are divided by, and the bits: of several likeliest ids a cold row always takes the same."""
    hot_B = controls.temperature_B > 0
    return jnp.where(hot_B, controls.temperature_B, _COLD), jnp.where(hot_B, bits_B, jnp.uint32(0))


def _until_kept(
    attempt: Callable[[Array, Array], _Attempt], controls: SamplingParams, bits_B: Array
) -> Array:
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
        # Numbers, since a kernel hands no bools from turn to turn.
        floor_B = jnp.where(kept_B > 0, floor_B, drawn.own_B)
        id_B = jnp.where(kept_B > 0, id_B, drawn.id_B)
        return mix(bits_B), floor_B, id_B, jnp.where(passes_B, 1.0, kept_B)

    # The first round stands before the loop, which is hardly ever entered.
    none_B = jnp.zeros_like(controls.temperature_B)
    first = again((bits_B, none_B, none_B.astype(jnp.int32), none_B))
    return lax.while_loop(lambda state: state[3].min() < 1, again, first)[2]


def _uniform(bits_B: Array) -> Array:
    """Numbers below 1 of 23 bits: that share of a sum is below the sum itself, even when rounded."""
    return (bits_B >> 9).astype(jnp.int32).astype(jnp.float32) * jnp.float32(2**-23)


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


def _invert_by_products(masses_BL: list[Array], bits_B1: Array) -> tuple[Array, Array]:
    """The same of masses that lie in K arrays; ids come one after another in the same order, lane by lane.

    Where the running sum falls back by a rounding, an id that it had passed before is not reached again:
    the first that is reached counts, and only those of some mass can be.
    """
    parts = len(masses_BL)
    size = parts * _LANES
    until_BL = list(accumulate(masses_BL))  # in each lane, with the ids of this part
    lane_BL = until_BL[-1]
    earlier_LL = _number((_LANES, _LANES), 0) < _number((_LANES, _LANES), 1)
    before_BL = jnp.dot(lane_BL, earlier_LL.astype(jnp.float32), precision=lax.Precision.HIGHEST)
    passed_B1 = _uniform(bits_B1) * _sum_of_all([lane_BL])
    # As in `_first`, over all ids at once; floats, since vectors have no minimum of whole numbers.
    lane_1L = _number((1, _LANES), 1).astype(jnp.float32)
    rank_BL, own_BL = jnp.float32(2 * size), jnp.float32(0)
    for part, mass_BL in enumerate(masses_BL):
        place_1L = lane_1L * parts + part
        reached_BL = before_BL + until_BL[part] > passed_B1
        its_BL = jnp.where(mass_BL > 0, jnp.where(reached_BL, place_1L, 2 * size - place_1L), 2 * size)
        own_BL = jnp.where(its_BL < rank_BL, mass_BL, own_BL)
        rank_BL = jnp.minimum(its_BL, rank_BL)
    rank_B1 = rank_BL.min(axis=-1, keepdims=True)
    own_B1 = jnp.where(rank_BL == rank_B1, own_BL, 0).max(axis=-1, keepdims=True)
    place_B1 = jnp.where(rank_B1 < size, rank_B1, 2 * size - rank_B1).astype(jnp.int32)
    return lax.rem(place_B1, parts) * _LANES + lax.div(place_B1, parts), own_B1


def _sum_of_all(parts_BL: list[Array]) -> Array:
    """(B, 1) the sum of a row in all arrays: they are added first, then their lanes."""
    return reduce(add, parts_BL).sum(axis=-1, keepdims=True)


def _number(shape: tuple[int, int], axis: int) -> Array:
    return lax.broadcasted_iota(jnp.int32, shape, axis)


def mix(bits: Array) -> Array:
    """Other bits from uint32 bits, one to one and without a visible relation (Wellons 2018, "lowbias32")."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)
