"""What TPUs and GPUs compute in a form of their own is what the CPU's form computes.

`lax.platform_dependent` chooses between the forms when a program is lowered. Here, on a CPU, the other one is
taken instead. That the programs suit the chips is for test_compile.py.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from midigen_jax.model.blocks.lstm_scan import lstm
from midigen_jax.model.blocks.pooled import PooledCarry, _sums_at_once, _sums_in_turn
from midigen_jax.model.network import score
from midigen_jax.model.past import _looked_up, _moved_to_anchor, placed, window
from midigen_jax.vocab import END, START, note
from midigen_jax.vocab.note import NoteVocabulary
from midigen_jax.vocab.voice import VoiceVocabulary
from tests.test_laws import ROWS, TIMES, follow, lstm_case, padded, plain_lstm, some_music, tiny


def take(platform, *arguments, default, **others):
    return others.get(platform, default)(*arguments)


@pytest.fixture(params=["cpu", "tpu", "default"])
def platform(request, monkeypatch):
    """Each form in turn: that of a CPU, of a TPU, and of what is neither."""
    jax.clear_caches()
    monkeypatch.setattr(lax, "platform_dependent", partial(take, request.param))
    yield request.param
    jax.clear_caches()


@pytest.mark.parametrize("seen", [[TIMES] * ROWS, [TIMES, 4, 0], "holes"])
def test_the_gradient_written_by_hand_is_that_of_the_plain_recurrence_in_float64(platform, seen):
    with jax.enable_x64(True):
        weights, carry, inputs, _ = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), lstm_case())
        mask = (
            jax.random.bernoulli(jax.random.key(3), 0.6, (ROWS, TIMES)) if seen == "holes" else padded(seen)
        )
        salt = jax.random.normal(jax.random.key(7), (ROWS, TIMES, 4), jnp.float64)

        def loss(function, weights, carry, inputs):
            after, hidden = function(weights, carry, inputs, mask)
            return (hidden * salt).sum() + (after.hidden_BD**2).sum() + jnp.sin(after.cell_BD).sum()

        gradient = jax.value_and_grad(loss, (1, 2, 3))
        expected = gradient(plain_lstm, weights, carry, inputs)
        found = gradient(lstm, weights, carry, inputs)
        # float64 keeps sixteen digits; sums of a few dozen terms lose one or two.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13), found, expected)
        assert found[0].dtype == jnp.float64


def test_what_the_mask_hides_is_invisible_to_the_lstm_even_if_it_is_nan(platform):
    weights, carry, inputs, _ = lstm_case()
    mask = padded([TIMES, 5, 0])

    def loss(weights, carry, inputs):
        after, hidden = lstm(weights, carry, inputs, mask)
        return (jnp.where(mask[..., None], hidden, 0) ** 2).sum() + sum(part.sum() for part in after)

    gradient = jax.value_and_grad(loss, (0, 1, 2))
    clean, dirty = (jnp.where(mask[..., None], inputs, other) for other in (0, jnp.nan))
    expected, found = gradient(weights, carry, clean), gradient(weights, carry, dirty)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert (found[1][2][1, 5:] == 0).all()
    after, _ = lstm(weights, carry, dirty, mask)
    np.testing.assert_array_equal(after.hidden_BD[2], carry.hidden_BD[2])
    np.testing.assert_array_equal(after.cell_BD[2], carry.cell_BD[2])


def test_in_bfloat16_the_state_is_carried_in_float32_and_the_gradient_is_near_that_of_float32(platform):
    weights, carry, inputs, mask = lstm_case(width=16)

    def loss(weights, dtype):
        after, hidden = lstm(weights, carry, inputs, mask, compute_dtype=dtype)
        return (hidden**2).sum() + after.cell_BD.sum(), after

    gradient = jax.grad(loss, has_aux=True)
    exact, _ = gradient(weights, "float32")
    found, after = gradient(weights, "bfloat16")
    assert after.hidden_BD.dtype == after.cell_BD.dtype == jnp.float32
    assert (after.cell_BD != after.cell_BD.astype(jnp.bfloat16)).any()
    for name, near, wanted in zip(weights._fields, found, exact, strict=True):
        assert near.dtype == jnp.float32
        # bfloat16 keeps eight bits of each operand: about 1 % of a gradient after six steps.
        assert jnp.linalg.norm(near - wanted) < 0.03 * jnp.linalg.norm(wanted), name


@pytest.mark.parametrize(
    ("stack", "heads", "vocabulary"),
    [
        ("pooled", "chained", "note"),
        ("events", "chained", "told"),
        ("lstm", "independent", "voice"),
    ],
)
def test_a_network_says_the_same_of_music_and_learns_the_same(monkeypatch, stack, heads, vocabulary):
    network, params = tiny(stack, heads, vocabulary)
    events, mask = some_music(network.vocabulary), padded([TIMES, 4, 1])

    def gradient_of(params):
        def loss(params):
            _, nats = score(network, params, network.initial_carry(ROWS), events, mask)
            return nats["pitch"].sum() + nats["duration"].sum()

        return jax.jit(jax.value_and_grad(loss))(params)

    expected = gradient_of(params)
    monkeypatch.setattr(lax, "platform_dependent", partial(take, "tpu"))
    found = gradient_of(params)
    # Gradients are sums over time.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_rules_follow_all_events_at_once_as_they_follow_one_after_another(data):
    """Any events, also such as no music has, under any mask."""
    vocabularies = [NoteVocabulary(4), VoiceVocabulary(1, 4), VoiceVocabulary(3, 4)]
    rules = data.draw(st.sampled_from(vocabularies)).rules
    pitch_id = st.sampled_from([START, END, note.REST, 3, 4, 130, 131, 132, 258])
    ids, numbers, times = st.tuples(pitch_id, st.integers(0, 4), st.booleans()), st.integers(0, 8), 7
    events = data.draw(st.lists(st.lists(ids, min_size=times, max_size=times), min_size=2, max_size=2))
    pitch, duration, mask = (np.array(part) for part in np.moveaxis(np.array(events, np.int32), 2, 0))

    def at(now):
        return {"pitch": pitch[:, now], "duration": duration[:, now]}, mask[:, now] > 0

    before = data.draw(numbers)
    one, whole = rules.initial_carry(2), rules.initial_carry(2)
    said = []
    for time in range(times):
        now = slice(time, time + 1)
        one, after = follow(rules, one, *at(now))
        said.append(after)
    parts = []
    for now in (slice(0, before), slice(before, times)):  # of any length, 0 and 1 among them
        if pitch[:, now].shape[1]:
            whole, after = follow(rules, whole, *at(now))
            parts.append(after)
    together = partial(jax.tree.map, lambda *found: np.concatenate(found, axis=1))
    jax.tree.map(np.testing.assert_array_equal, together(*parts), together(*said))
    jax.tree.map(np.testing.assert_array_equal, whole, one)


@pytest.mark.parametrize(("dtype", "close"), [("float32", 1e-6), ("bfloat16", 2**-7)])
def test_running_sums_at_once_are_those_of_one_term_after_another(dtype, close):
    keys = jax.random.split(jax.random.key(0), 3)
    weight = jax.random.uniform(keys[0], (3, 50))
    terms = PooledCarry(jax.random.normal(keys[1], (3, 50, 8)), weight)
    carry = PooledCarry(jax.random.normal(keys[2], (3, 1, 8)), weight[:, :1])
    sizes = jax.tree.map(lambda part: jnp.cumsum(jnp.abs(part), axis=1), terms)
    expected, found = _sums_in_turn(carry, terms), _sums_at_once(dtype, carry, terms)
    for a, b, size in zip(found, expected, sizes, strict=True):
        assert (jnp.abs(a - b) <= close * (1 + size)).all()


def test_scores_of_intervals_move_to_their_reference_without_a_gather():
    keys = jax.random.split(jax.random.key(0), 3)
    score_BTNR = jax.random.normal(keys[0], (4, 32, 3, 101))
    reference_BTN = jnp.arange(4 * 32 * 3).reshape(4, 32, 3) % 128
    salt = jax.random.normal(keys[1], (4, 32, 3, 259))

    def loss(form, scores):
        found = form(scores, reference_BTN)
        return (found * salt).sum(), found

    looked_up, moved = (
        partial(form, NoteVocabulary().pitch_table()) for form in (_looked_up, _moved_to_anchor)
    )
    (_, expected), gradient = jax.value_and_grad(partial(loss, looked_up), has_aux=True)(score_BTNR)
    (_, found), other = jax.value_and_grad(partial(loss, moved), has_aux=True)(score_BTNR)
    np.testing.assert_array_equal(found, expected)
    # A far score's is a sum over a hundred pitches, which may cancel.
    np.testing.assert_allclose(other, gradient, rtol=1e-5, atol=1e-5)


def test_a_window_is_read_where_it_is_asked_for_and_placed_where_it_was_read():
    numbers = jnp.arange(1, 177).reshape(1, 1, 1, 176)
    for shift in (0, 1, 2, 63, 64, 126, 127):
        places = jnp.full((1, 1, 1), shift)
        found = window(numbers, places)
        np.testing.assert_array_equal(found[0, 0, 0], np.arange(shift + 1, shift + 50))
        expected = np.zeros(176, np.int32)
        expected[shift : shift + 49] = found[0, 0, 0]
        np.testing.assert_array_equal(placed(found, places)[0, 0, 0], expected)
