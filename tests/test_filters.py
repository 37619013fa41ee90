"""Drawing: frequencies as the distribution says, filters as a sorted reference has them, nothing sorted."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midigen_jax.model.network import IMPOSSIBLE
from midigen_jax.sample.filters import (
    SamplingParams,
    draw,
    draw_by_gathers,
    draw_by_kernel,
    draw_by_products,
    mix,
    penalized,
)

DRAWS = 20_000  # rows of more than one group of the kernel, and no multiple of one
FORMS = [draw_by_gathers, draw_by_products, partial(draw_by_kernel, interpret=True)]
jitted = jax.jit(draw)
LOGITS = np.array([0.3, -1.0, IMPOSSIBLE, 2.0, 0.0, 1.4, -3.0, 1.9], np.float32)


def controls(rows, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repetition=1.0):
    values = (temperature, np.int32(top_k), top_p, min_p, repetition)
    return SamplingParams(*(jnp.full(rows, value, jnp.result_type(value)) for value in values))


def reference(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """Probabilities, with sorting: each filter looks at the whole distribution, and ties stay together."""
    mass = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    probability = mass / mass.sum()
    ordered = np.sort(probability)[::-1]
    before = np.concatenate([[0], np.cumsum(ordered)[:-1]])
    threshold = max(
        ordered[min(top_k, len(ordered)) - 1] if top_k else 0,
        ordered[np.flatnonzero(before < top_p)[-1]],
        min_p * ordered[0],
    )
    kept = np.where(probability >= threshold * (1 - 1e-9), probability, 0)
    return kept / kept.sum()


def drawn(logits, seed, filtered=True, form=draw, **settings):
    bits = jax.random.bits(jax.random.key(seed), (DRAWS,))
    ids = form(jnp.tile(logits, (DRAWS, 1)), controls(DRAWS, **settings), bits, filtered)
    return np.bincount(ids, minlength=len(logits))


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.5},
        {"temperature": 1.0},
        {"temperature": 2.0},
        {"top_k": 3},
        {"top_k": 1},
        {"top_k": 100},
        {"top_p": 0.5},
        {"top_p": 0.9, "temperature": 2.0},
        {"top_p": 1e-6},
        {"min_p": 0.3},
        {"min_p": 1.0},
        {"top_k": 4, "top_p": 0.8, "min_p": 0.1, "temperature": 1.5},
    ],
    ids=str,
)
def test_draws_come_as_often_as_the_filtered_distribution_says(settings):
    _compare(drawn(LOGITS, 3, **settings), reference(LOGITS, **settings))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_plain_draws_come_as_often_as_the_distribution_says(temperature):
    found = drawn(LOGITS, 3, filtered=False, temperature=temperature)
    _compare(found, reference(LOGITS, temperature))


def test_many_ids_are_drawn_as_often_as_they_should_be():
    """More than a lane has: the id is found by its lane and its place in it."""
    logits = np.sin(np.arange(200, dtype=np.float32))
    _compare(drawn(logits, 5), reference(logits), most=267)  # 199 degrees of freedom: once in a thousand


def _compare(found, probability, most=22.5):
    """A chi-squared test. Seven possible ids leave six degrees of freedom: 22.5 comes once in a thousand."""
    possible = probability > 0
    assert (found[~possible] == 0).all()
    expected = DRAWS * probability[possible]
    assert ((found[possible] - expected) ** 2 / expected).sum() < most


@settings(max_examples=60, deadline=None)
@given(
    logits=st.lists(st.integers(-6, 6), min_size=2, max_size=12),
    temperature=st.sampled_from([0.3, 1.0, 3.0]),
    top_k=st.integers(0, 12),
    top_p=st.sampled_from([0.05, 0.33, 0.77, 1.0]),
    min_p=st.sampled_from([0.0, 0.11, 0.52, 1.0]),
)
def test_what_is_drawn_is_what_a_sort_would_keep(logits, temperature, top_k, top_p, min_p):
    logits = np.array([*logits, *[-20] * (12 - len(logits))], np.float32)
    wanted = reference(logits, temperature, top_k, top_p, min_p)
    bits = jnp.arange(512, dtype=jnp.uint32) << 23
    ids = jitted(jnp.tile(logits, (512, 1)), controls(512, temperature, top_k, top_p, min_p), bits)
    assert (wanted[np.asarray(ids)] > 0).all()


@pytest.mark.parametrize("draw", FORMS)
@pytest.mark.parametrize("filtered", [True, False])
def test_temperature_nought_takes_the_first_of_the_likeliest(filtered, draw):
    logits = jnp.array([[0.0, 3.0, 1.0], [5.0, 3.0, 5.0]])
    for bits in (0, 2**31, 2**32 - 1):
        cold = controls(2, temperature=0.0)
        assert draw(logits, cold, jnp.full(2, bits, jnp.uint32), filtered).tolist() == [1, 0]


@pytest.mark.parametrize("draw", FORMS)
@pytest.mark.parametrize("filtered", [True, False])
def test_an_impossible_id_is_not_drawn_at_the_edges_of_the_uniform(filtered, draw):
    logits = jnp.array([[IMPOSSIBLE, 0.0, IMPOSSIBLE]])
    for bits in (0, 2**32 - 1):
        assert draw(logits, controls(1), jnp.full(1, bits, jnp.uint32), filtered).tolist() == [1]


def test_a_row_has_settings_of_its_own():
    together = SamplingParams(
        jnp.array([0.0, 1.0, 1.0, 50.0]),
        jnp.array([0, 2, 0, 0]),
        jnp.array([1.0, 1.0, 0.6, 1.0]),
        jnp.array([0.0, 0.0, 0.0, 0.9]),
        jnp.ones(4),
    )
    bits = jax.random.bits(jax.random.key(1), (4,))
    logits = jnp.tile(LOGITS, (4, 1))

    def alone(row):
        own = jax.tree.map(lambda part: part[row : row + 1], (logits, together, bits))
        return int(draw(*own)[0])

    assert draw(logits, together, bits).tolist() == [alone(row) for row in range(4)]


def test_a_repetition_penalty_moves_what_was_there_down_whatever_its_sign():
    logits, seen = jnp.array([[2.0, -2.0, 2.0, -2.0]]), jnp.array([[True, True, False, False]])
    assert penalized(logits, seen, jnp.array([4.0])).tolist() == [[0.5, -8.0, 2.0, -2.0]]
    assert penalized(logits, seen, jnp.array([1.0])).tolist() == logits.tolist()


def test_mixed_bits_are_one_to_one_and_even():
    bits = np.asarray(mix(jnp.arange(1 << 16, dtype=jnp.uint32)))
    assert len(np.unique(bits)) == 1 << 16
    assert abs(np.unpackbits(bits.view(np.uint8)).mean() - 0.5) < 0.002


@pytest.mark.parametrize("form", FORMS[1:])
@pytest.mark.parametrize("filtered", [True, False])
@pytest.mark.parametrize("size", [8, 97, 259])
def test_all_forms_of_drawing_draw_the_same_ids(size, filtered, form):
    """Of 20,000 at most two may lie so near the border of two ids that rounding decides."""
    key = jax.random.key(size)
    logits = 3 * jax.random.normal(key, (DRAWS, size))
    logits = jnp.where(jax.random.bernoulli(key, 0.3, logits.shape), IMPOSSIBLE, logits).at[:, 5].set(0)
    bits = jax.random.bits(jax.random.key(1), (DRAWS,))
    bits = bits.at[:2].set(jnp.array([0, 2**32 - 1], jnp.uint32))
    own = controls(DRAWS, 0.0, 20, 0.8, 0.02)._replace(temperature_B=jnp.arange(DRAWS) % 4 / 2.0)
    ids = draw_by_gathers(logits, own, bits, filtered)
    others = form(logits, own, bits, filtered)
    assert (ids != others).sum() <= 2
    chosen = jnp.take_along_axis(logits, others[:, None], axis=1)
    assert (chosen > IMPOSSIBLE).all()


@pytest.mark.parametrize("form", FORMS[1:])
@pytest.mark.parametrize(
    "settings", [{}, {"top_k": 4, "top_p": 0.8, "min_p": 0.1, "temperature": 1.5}], ids=str
)
def test_draws_of_chips_come_as_often_as_the_filtered_distribution_says(settings, form):
    found = drawn(LOGITS, 3, form=form, **settings)
    _compare(found, reference(LOGITS, **settings))


def test_a_running_sum_that_falls_back_draws_ids_in_one_piece_and_none_of_no_mass():
    """Masses far apart, so that sums in another order round up and down."""
    logits = jnp.array([jnp.where(jnp.arange(200) % 3 == 0, IMPOSSIBLE, -(jnp.arange(200.0) * 7 % 18))])
    bits = jnp.concatenate(
        [jnp.arange(4096, dtype=jnp.uint32) << 20, ~jnp.arange(4096, dtype=jnp.uint32) << 9]
    )
    ids = np.asarray(draw_by_products(jnp.tile(logits, (8192, 1)), controls(8192), bits, False))
    assert (ids % 3 != 0).all()
    assert (ids < 200).all()
    # Along the uniform ids come lane by lane, each in one piece.
    order = (ids % 64 * 4 + ids // 64)[np.argsort(np.asarray(bits >> 9), kind="stable")]
    assert (np.diff(order) >= 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_sorted(form):
    shapes = jax.ShapeDtypeStruct((4, 300), jnp.float32), controls(4), jax.ShapeDtypeStruct((4,), jnp.uint32)
    text = jax.jit(form, static_argnums=3).lower(*shapes, True).as_text()
    assert not re.search(r"stablehlo\.sort|chlo\.top_k|TopK", text)
