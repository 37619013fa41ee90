"""Arms against a base: differences paired by piece and seed, with intervals that know of both.

In: nats of S seeds on P pieces, what they are divided by. Out: figures with intervals from a hierarchical
bootstrap: seeds are drawn with replacement and so are pieces, the same ones for both arms and for all seeds,
since every model reads the same pieces.

Few seeds drawn from themselves vary too little: by (S - 1) / S of what they should, and with the tails of a
normal distribution where they have those of Student's. So what the draw of seeds adds is stretched by both.
One seed says nothing of another: its intervals are of pieces alone.

Sources: bootstrap of crossed factors after Owen 2007, "The pigeonhole bootstrap"; correction for many arms
after Holm 1979.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from midigen_jax.study.metrics import INTERVAL, resamples

Nats = NDArray[np.float64]


class Level(NamedTuple):
    """Nats per unit, the mean over seeds, with its 95 % interval."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """An arm's figure less the base's: below 0 the arm is better, or above 0 where more is better."""

    value: float
    low: float
    high: float
    better: float  # share of resamples in which it is: how sure one may be that it is better at all
    p: float  # two-sided, of no difference


def level(nats_SP: Nats, divisor_P: Nats) -> Level:
    """All nats of a seed over all units of the pieces, the mean over seeds."""
    found_R = _resampled(nats_SP, divisor_P)
    low, high = np.quantile(found_R, INTERVAL)
    return Level(_ratio(nats_SP, divisor_P), float(low), float(high))


def difference(arm_SP: Nats, base_SP: Nats, divisor_P: Nats, higher_is_better: bool = False) -> Difference:
    """`level` of the differences of each seed and piece: what both find hard, or easy, falls out.

    S seeds of the arm stand beside the same seeds of the base.
    """
    apart_SP = arm_SP - base_SP
    found_R = _resampled(apart_SP, divisor_P)
    low, high = np.quantile(found_R, INTERVAL)
    # Where an arm is the base, neither is better.
    wins_R = found_R > 0 if higher_is_better else found_R < 0
    better = float(wins_R.mean() + (found_R == 0).mean() / 2)
    # One more, as if what was observed were a resample: no finite number of them proves a p of 0.
    fewer = min((found_R <= 0).sum(), (found_R >= 0).sum())
    p = min(1.0, 2 * (int(fewer) + 1) / (len(found_R) + 1))
    return Difference(_ratio(apart_SP, divisor_P), float(low), float(high), better, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p when all are looked at: times how many are not smaller, and never below one before it."""
    order = np.argsort(p_values, kind="stable")
    left = len(p_values) - np.arange(len(p_values))
    corrected = np.maximum.accumulate(np.minimum(1, np.asarray(p_values)[order] * left))
    found = np.empty(len(p_values))
    found[order] = corrected
    return [float(p) for p in found]


def _ratio(nats_SP: Nats, divisor_P: Nats) -> float:
    return float(nats_SP.sum(axis=1).mean() / divisor_P.sum())


def _resampled(nats_SP: Nats, divisor_P: Nats) -> Nats:
    """(R,) ratios, each of seeds and pieces drawn anew."""
    count_RP = resamples(len(divisor_P))
    of_seed_RS = count_RP @ nats_SP.T
    rng = np.random.default_rng(1)
    drawn_RS = rng.integers(len(nats_SP), size=of_seed_RS.shape)
    mean_R = of_seed_RS.mean(axis=1)
    drawn_R = np.take_along_axis(of_seed_RS, drawn_RS, axis=1).mean(axis=1)
    stretched_R, divisor_R = mean_R + stretch(len(nats_SP)) * (drawn_R - mean_R), count_RP @ divisor_P
    there_R = divisor_R > 0  # what few pieces have, a resample may lack
    return stretched_R[there_R] / divisor_R[there_R]


def stretch(seeds: int) -> float:
    """What the deviations of a bootstrap of so many seeds are multiplied by."""
    if seeds == 1:
        return 1.0  # there are none
    freedom = seeds - 1
    tail = stdtrit(freedom, INTERVAL[1]) / ndtri(INTERVAL[1])
    return float(np.sqrt(seeds / freedom) * tail)
