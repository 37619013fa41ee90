"""Comparisons of arms: paired, with intervals that cover the truth, corrected for how many there are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from midigen_jax.study.comparison import difference, holm, level, stretch

SEEDS, PIECES = 4, 30


def models(rng, mean, seeds=SEEDS, pieces=PIECES, spread=1.0):
    """Nats of models on pieces of like difficulty, and the lengths of the pieces."""
    length_P = rng.integers(20, 60, pieces).astype(float)
    hard_P = rng.normal(0, spread, pieces)
    return (mean + hard_P + rng.normal(0, 0.05, (seeds, 1)) + rng.normal(0, 0.05, (seeds, pieces))), length_P


def test_a_level_is_the_mean_over_seeds_of_nats_over_units():
    nats = np.array([[10.0, 20.0], [30.0, 60.0]])
    found = level(nats, np.array([5.0, 10.0]))
    assert found.value == pytest.approx((30 / 15 + 90 / 15) / 2)
    # The extremes are one seed twice, 2 from the mean; both pieces have the same nats a unit.
    assert (found.low, found.high) == pytest.approx((4 - 2 * stretch(2), 4 + 2 * stretch(2)))
    assert stretch(2) == pytest.approx(2**0.5 * 12.706 / 1.96, rel=1e-4)  # of tables


def test_what_pieces_have_in_common_falls_out_of_a_difference():
    rng = np.random.default_rng(0)
    each, length = models(rng, 4.0, spread=2.0)
    base, arm = each * length, (each - 0.3) * length
    found = difference(arm, base, length)
    assert found[:3] == pytest.approx((-0.3, -0.3, -0.3))
    apart = level(arm, length), level(base, length)
    assert apart[0].high > apart[1].low  # unpaired intervals overlap
    assert found.better == 1
    assert found.p < 0.001


def test_where_more_is_better_an_arm_that_has_less_is_worse():
    each, length = models(np.random.default_rng(0), 4.0)
    base, arm = each * length, (each - 0.3) * length
    fewer, more = difference(arm, base, length), difference(arm, base, length, higher_is_better=True)
    assert (fewer.better, more.better) == (1, 0)
    assert fewer._replace(better=0) == more


def test_an_arm_that_is_the_base_is_no_better():
    nats, length = models(np.random.default_rng(0), 4.0)
    found = difference(nats, nats, length)
    assert found == (0, 0, 0, 0.5, 1)


@pytest.mark.parametrize("seeds", [2, 3, 8])
@pytest.mark.parametrize("of_pieces", [0.0, 0.1])
def test_an_interval_covers_the_truth_as_often_as_it_says(seeds, of_pieces):
    """Of two arms that are alike but for chance, with few seeds too."""
    covered, wrong = 0, 0
    for number in range(300):
        rng = np.random.default_rng(number)
        hard = rng.normal(0, 1, 40)
        arm, base = (
            hard + rng.normal(0, 0.05, (seeds, 1)) + rng.normal(0, 1, (seeds, 40)) * of_pieces
            for _ in range(2)
        )
        found = difference(arm, base, np.ones(40))
        covered += found.low <= 0 <= found.high
        wrong += found.p < 0.05
    # Three standard errors of 300 trials are 0.04; it errs to the careful side.
    assert covered / 300 >= 0.91
    assert wrong / 300 <= 0.09


@given(arrays(float, (3, 5), elements=st.floats(1, 100)), st.floats(0.1, 10))
def test_units_scale_and_arms_change_places(nats, scale):
    other, length = np.flip(nats), np.arange(1.0, 6.0)
    found, mirrored = difference(nats, other, length), difference(other, nats, length)
    assert found.value == pytest.approx(-mirrored.value, abs=1e-9)
    assert found.better == pytest.approx(1 - mirrored.better)
    assert found.p == mirrored.p
    scaled = difference(scale * nats, scale * other, length)
    assert scaled.value == pytest.approx(scale * found.value, abs=1e-9)


def test_holm():
    """The example of Holm 1979's procedure: sorted p times 4, 3, 2, 1, and never below one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
