"""Multi-head attention: a plain attention over the whole past, the ring, musical time, the null slot."""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midigen_jax.model.blocks.base import Step
from midigen_jax.model.blocks.multihead import (
    LONGEST,
    SHORTEST,
    MultiHead,
    rotate,
    rotation_periods,
)

ROWS, TIMES, HEADS, SIZE = 2, 9, 2, 6
WIDTH = HEADS * SIZE
# float32 against float64, and sums in another order.
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


def attention_over(window):
    return MultiHead(WIDTH, WIDTH, (), heads=HEADS, window=window, residual=False)


@partial(jax.jit, static_argnums=0)
def attend(window, variables, carry, hidden, ticks, mask):
    return attention_over(window).apply(variables, carry, hidden, Step({}, ticks, mask))


@cache
def case(window, seed=0):
    """Random weights, the null slot's among them, and random states and ticks; a carry of zeros."""
    keys = jax.random.split(jax.random.key(seed), 3)
    carry = attention_over(window).initial_carry(ROWS)
    hidden = jax.random.normal(keys[0], (ROWS, TIMES, WIDTH))
    ticks = jax.random.randint(keys[1], (ROWS, TIMES), 0, 97)
    mask = jnp.ones((ROWS, TIMES), bool)
    shapes = jax.eval_shape(attention_over(window).init, keys[2], carry, hidden, Step({}, ticks, mask))
    leaves, tree = jax.tree.flatten(shapes)
    drawn = [
        jax.random.normal(key, leaf.shape) / 2
        for leaf, key in zip(leaves, jax.random.split(keys[2], len(leaves)), strict=True)
    ]
    return jax.tree.unflatten(tree, drawn), carry, hidden, ticks, mask


def in_chunks(window, variables, carry, hidden, ticks, mask, cuts):
    """The carry after, and the contexts of, a reading that is cut at `cuts`."""
    parts = []
    for first, last in itertools.pairwise([0, *cuts, hidden.shape[1]]):
        now = slice(first, last)
        carry, context = attend(window, variables, carry, hidden[:, now], ticks[:, now], mask[:, now])
        parts.append(context)
    return carry, jnp.concatenate(parts, axis=1)


def plain_attention(variables, hidden, ticks, window):
    """One row in float64: no ring, no chunks, time as a running sum; pairs of units as complex numbers."""
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    query, key, value = np.moveaxis(
        (hidden @ weights["query_key_value"]["kernel"]).reshape(len(hidden), 3, HEADS, SIZE), 1, 0
    )
    start = np.cumsum(ticks) - ticks
    turn = np.exp(2j * np.pi * start[:, None] / rotation_periods(SIZE // 2))[:, None]

    def turned(vector):
        return (vector[..., : SIZE // 2] + 1j * vector[..., SIZE // 2 :]) * turn

    contexts = []
    for time in range(len(hidden)):
        past = slice(max(0, time + 1 - window), time + 1)
        score = np.einsum("hf,shf->hs", turned(query)[time], turned(key)[past].conj()).real
        null = np.einsum("hf,hf->h", query[time], weights["null_key"])[:, None]
        weight = np.exp(np.concatenate([null, score], axis=1) / np.sqrt(SIZE))
        weight /= weight.sum(axis=1, keepdims=True)
        seen = np.concatenate([weights["null_value"][None], value[past]])
        contexts.append(np.einsum("hs,shf->hf", weight, seen).reshape(WIDTH))
    return np.array(contexts) @ weights["output"]["kernel"]


@settings(max_examples=20)
@given(st.sampled_from([1, 3, 12]), st.sets(st.integers(1, TIMES - 1)), st.integers(0, 3))
def test_contexts_are_those_of_a_plain_attention_over_the_past_however_it_is_cut(window, cuts, seed):
    """With a window of 1 or 3 the ring goes round many times, also within a chunk; 12 is never full."""
    variables, carry, hidden, ticks, mask = case(window, seed)
    _, context = in_chunks(window, variables, carry, hidden, ticks, mask, sorted(cuts))
    for row in range(ROWS):
        expected = plain_attention(
            variables, np.asarray(hidden[row], np.float64), np.asarray(ticks[row]), window
        )
        np.testing.assert_allclose(context[row], expected, **CLOSE)


@settings(max_examples=20)
@given(st.sampled_from([1, 3, 12]), st.sets(st.integers(1, TIMES - 1)))
def test_event_n_is_in_slot_n_modulo_the_window_and_an_unused_slot_is_zero(window, cuts):
    variables, carry, hidden, ticks, mask = case(window)
    carry, _ = in_chunks(window, variables, carry, hidden, ticks, mask, sorted(cuts))
    _, _, value = np.split(hidden @ variables["params"]["query_key_value"]["kernel"], 3, axis=-1)
    value = value.reshape(ROWS, TIMES, HEADS, SIZE)
    newest = {number % window: number for number in range(TIMES)}
    for slot in range(window):
        expected = value[:, newest[slot]] if slot in newest else np.zeros((ROWS, HEADS, SIZE))
        np.testing.assert_allclose(carry.value_BHKF[:, :, slot], expected, **CLOSE)
        assert (np.asarray(carry.key_BHKF[:, :, slot]) == 0).all() == (slot not in newest)


@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("cuts", [(TIMES - 1,), (2, 7), tuple(range(1, TIMES))])
def test_gradients_go_through_the_ring_as_far_as_the_window_and_no_farther(window, cuts):
    variables, carry, hidden, ticks, mask = case(window)

    def gradient(cuts):
        def last_context(variables, hidden):
            context = in_chunks(window, variables, carry, hidden, ticks, mask, cuts)[1]
            return (context[:, -1] ** 2).sum()

        return jax.grad(last_context, (0, 1))(variables, hidden)

    whole, cut = gradient(()), gradient(cuts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), cut, whole)
    reached = (np.asarray(cut[1]) != 0).any(axis=(0, 2))
    assert reached.tolist() == [False] * (TIMES - window) + [True] * window


@pytest.mark.parametrize("window", [1, 4])
def test_a_step_writes_its_own_slot_and_a_hidden_one_writes_nothing(window):
    variables, carry, hidden, ticks, mask = case(window)
    before, _ = attend(window, variables, carry, hidden, ticks, mask)
    now = (hidden[:, :1], ticks[:, :1], jnp.array([[True], [False]]))
    after, _ = attend(window, variables, before, *now)
    slot = TIMES % window
    for ring_before, ring_after in zip(before[:2], after[:2], strict=True):
        changed = (np.asarray(ring_before) != np.asarray(ring_after)).any(axis=(1, 3))
        assert np.argwhere(changed).tolist() == [[0, slot]]
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[1]), before, after)
    assert after.events_B.tolist() == [TIMES + 1, TIMES]


@pytest.mark.parametrize("rows", [1, 3])
def test_steps_in_a_loop_need_no_second_ring(rows):
    """A decode loop may not copy the ring: XLA's own account of the memory says whether it does."""
    window = 4096
    attention, carry = attention_over(window), attention_over(window).initial_carry(rows)
    ticks, mask = jnp.ones((rows, 1), jnp.int32), jnp.ones((rows, 1), bool)
    hidden = jnp.ones((rows, 1, WIDTH))
    now = Step({}, ticks, mask)
    variables = attention.init(jax.random.key(0), carry, hidden, now)

    @partial(jax.jit, donate_argnums=1)
    def steps(variables, carry):
        def step(_, before):
            return attention.apply(variables, *before, now)

        return jax.lax.fori_loop(0, 8, step, (carry, hidden))

    memory = steps.lower(variables, carry).compile().memory_analysis()
    # Scores and weights are in there too: a few numbers for each slot and head, where a ring has SIZE.
    assert memory.temp_size_in_bytes < carry.key_BHKF.nbytes


@pytest.mark.parametrize("window", [3, 12])
def test_a_chunk_that_is_padded_hands_on_the_carry_of_its_visible_part(window):
    """As when prompts of several lengths are read side by side, and music goes on from each."""
    variables, carry, hidden, ticks, mask = case(window)
    lengths = np.array([6, 4])
    visible = jnp.arange(7)[None] < lengths[:, None]
    dirty = jnp.where(visible[..., None], hidden[:, :7], jnp.nan)
    padded, _ = attend(window, variables, carry, dirty, jnp.where(visible, ticks[:, :7], 5), visible)
    rest = (hidden[:, 7:], ticks[:, 7:], mask[:, 7:])
    after, context = attend(window, variables, padded, *rest)
    for row, length in enumerate(lengths):
        row_of = partial(jax.tree.map, lambda leaf, row=row: leaf[row : row + 1])
        begun, _ = attend(
            window, variables, row_of(carry), *(part[:, :length] for part in row_of((hidden, ticks, mask)))
        )
        expected_after, expected = attend(window, variables, begun, *row_of(rest))
        np.testing.assert_allclose(context[row], expected[0], **CLOSE)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), row_of(after), expected_after)


@given(st.integers(0, LONGEST - 1))
def test_contexts_depend_on_differences_of_musical_time_alone(shift):
    variables, carry, hidden, ticks, mask = case(3)
    _, context = attend(3, variables, carry, hidden, ticks, mask)
    later = carry._replace(time_B=jnp.full(ROWS, shift, jnp.int32))
    after, shifted = attend(3, variables, later, hidden, ticks, mask)
    # The angles differ, so their sines are rounded otherwise.
    np.testing.assert_allclose(shifted, context, rtol=2e-4, atol=1e-5)
    np.testing.assert_array_equal(after.time_B, (shift + ticks.sum(axis=1)) % LONGEST)


def test_contexts_do_depend_on_musical_time():
    variables, carry, hidden, ticks, mask = case(3)
    _, context = attend(3, variables, carry, hidden, ticks, mask)
    _, slower = attend(3, variables, carry, hidden, 2 * ticks, mask)
    np.testing.assert_array_equal(slower[:, 0], context[:, 0])
    assert not np.allclose(slower[:, 1:], context[:, 1:], atol=1e-2)


def test_phases_are_exact_after_any_time():
    """A rest of weeks that is a whole number of the longest period changes no bit."""
    variables, carry, hidden, ticks, mask = case(12)
    after, context = attend(12, variables, carry, hidden, ticks, mask)
    long = ticks + 900_000 * LONGEST
    far_after, far = attend(12, variables, carry, hidden, long, mask)
    np.testing.assert_array_equal(far, context)
    jax.tree.map(np.testing.assert_array_equal, far_after, after)


@pytest.mark.parametrize("count", [1, 2, 4, 32, 100])
def test_periods_are_whole_ticks_that_divide_the_longest_from_short_to_long(count):
    periods = rotation_periods(count)
    assert periods.dtype == np.int32
    assert len(periods) == count
    assert (LONGEST % periods == 0).all()
    assert (np.diff(periods) >= 0).all()
    assert periods[0] == SHORTEST
    assert count == 1 or periods[-1] == LONGEST
    # 1152 and 2304 are the neighbours that are farthest apart: a factor of 2, so to the nearer one its root.
    wanted = np.geomspace(SHORTEST, LONGEST, count)
    assert (np.abs(np.log(periods / wanted)) < np.log(2) / 2).all()


def test_a_pair_of_units_comes_full_circle_after_its_period():
    vector = jax.random.normal(jax.random.key(0), (1, 1, 1, SIZE))
    still = rotate(vector, jnp.zeros((1, 1), jnp.int32))
    np.testing.assert_array_equal(still, vector)
    for pair, period in enumerate(rotation_periods(SIZE // 2)):
        units = np.array([pair, SIZE // 2 + pair])
        np.testing.assert_array_equal(
            rotate(vector, jnp.full((1, 1), period))[..., units], vector[..., units]
        )
        # Half of an odd period is no whole tick: a third of a circle does for every one of them.
        third = rotate(vector, jnp.full((1, 1), period // 3))[..., units]
        assert not np.allclose(third, vector[..., units], atol=1e-2)


def test_a_row_with_no_visible_event_keeps_its_carry_and_has_a_gradient_of_zero():
    variables, carry, hidden, ticks, mask = case(3)
    hidden = hidden.at[1].set(jnp.nan)
    mask = mask.at[1].set(False)

    def loss(hidden):
        after, context = attend(3, variables, carry, hidden, ticks, mask)
        return (context**2).sum() + (after.key_BHKF**2).sum(), (after, context)

    gradient, (after, context) = jax.grad(loss, has_aux=True)(hidden)
    assert np.isfinite(context).all()
    assert np.isfinite(gradient).all()
    assert (gradient[1] == 0).all()
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b[1]), after, carry)


def test_a_query_may_attend_to_nothing():
    """With a null key that every query likes, contexts are the null value, whatever happened."""
    variables, carry, hidden, ticks, mask = case(3)
    weights = variables["params"]
    query = jnp.split(hidden @ weights["query_key_value"]["kernel"], 3, axis=-1)[0][0, 0]
    loud = {"params": weights | {"null_key": 1e3 * query.reshape(HEADS, SIZE)}}
    _, context = attend(3, loud, carry, hidden[:, :1], ticks[:, :1], mask[:, :1])
    expected = weights["null_value"].reshape(WIDTH) @ weights["output"]["kernel"]
    np.testing.assert_allclose(context[0, 0], expected, **CLOSE)


@pytest.mark.parametrize("window", [4, TIMES])
@pytest.mark.parametrize("times", [1, TIMES])
def test_a_chunk_that_nothing_comes_after_needs_no_ring(window, times):
    variables, carry, hidden, ticks, mask = case(window)
    chunk = hidden[:, :times], ticks[:, :times], mask.at[0, 6:].set(False)[:, :times]
    after, expected = attend(window, variables, carry, *chunk)
    alone, found = attend(
        window, variables, attention_over(window).initial_carry(ROWS, keep_cache=False), *chunk
    )
    np.testing.assert_allclose(found, expected, **CLOSE)
    assert alone.key_BHKF.size == alone.value_BHKF.size == 0
    np.testing.assert_array_equal(alone.time_B, after.time_B)
