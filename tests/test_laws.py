"""The laws that every network obeys, for each kind of attention, heads and tokenizer.

Whole = step by step = any chunking; nothing flows backwards; what a mask hides is invisible; probabilities
sum to one. The networks are tiny and their weights random: a law holds for any weights.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midigen_jax.config import ContextConfig, ModelConfig
from midigen_jax.model.attention import PooledAttention, pooled_carry
from midigen_jax.model.grammar import LAST, WITHIN, ChordGrammar, NoteGrammar, VoiceGrammar
from midigen_jax.model.lstm import LSTMCarry, LSTMWeights, lstm
from midigen_jax.model.multihead import MultiHeadAttention, ring_carry
from midigen_jax.model.network import Network, init_params, score
from midigen_jax.music.tokens import END, START, ChordTokenizer, NoteTokenizer
from midigen_jax.music.voices import VoiceTokenizer

# All of it on, of which at most the last slices are remembered.
CONTEXT = ContextConfig(
    place=True, meters=(6,), previous=True, lags=(1, 3), relative=(1, 5), intervals=True, slices=3, width=4
)
# With the window 3 contexts replace the states; in all others they are added to them.
ATTENTION = [("none", 0), ("pooled", 0), ("pooled", 3), ("multihead", 3), ("multihead", 9)]
HEADS, TOKENIZERS = ["independent", "chained"], ["note", "chord"]
# Attention, heads and vocabulary meet in `score` alone. So `make test` tries every attention, and every pair
# of heads and vocabulary; `make test-all` tries the whole product. ("told" are notes with all context.)
COVER = {
    (("none", 0), "independent", "note"),
    (("none", 0), "chained", "told"),
    (("none", 0), "independent", "voice"),
    (("pooled", 0), "chained", "chord"),
    (("pooled", 0), "independent", "told"),
    (("pooled", 3), "independent", "chord"),
    (("pooled", 3), "chained", "note"),
    (("multihead", 3), "independent", "note"),
    (("multihead", 9), "chained", "told"),
    (("multihead", 9), "chained", "voice"),
}
PRODUCT = list(itertools.product(ATTENTION, HEADS, (*TOKENIZERS, "told", "voice")))
assert set(PRODUCT) > COVER
KINDS = [
    pytest.param(
        *kind,
        id=f"{kind[0][0]}{kind[0][1]}-{kind[1]}-{kind[2]}",
        marks=[] if kind in COVER else pytest.mark.slow,
    )
    for kind in PRODUCT
]
ROWS, TIMES = 3, 6
NOTE = NoteGrammar(duration_size=5)
# Called with few shapes and compiled for each, once: op by op, every scan would compile on every call.
compiled_score = jax.jit(score, static_argnames="network")
follow = jax.jit(lambda rules, *events: rules.follow(*events), static_argnums=0)
# Sums over time are taken in another order when a sequence is cut; float32 keeps about seven digits.
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


def tiny(attention, heads, tokenizer):
    kind, window = attention
    told = tokenizer in ("told", "voice")
    config = ModelConfig(
        pitch_embedding=5,
        duration_embedding=3,
        width=8,
        layers=2,
        attention=kind,
        attention_window=window,
        attention_heads=2,
        attention_residual=window != 3,
        attention_values="events" if told and kind == "multihead" else "states",
        context=CONTEXT if told else ContextConfig(),
        residual=told,
        heads=heads,
        dropout=0.0,
    )
    rules = {"chord": ChordGrammar(5, pitch_size=9), "voice": VoiceGrammar(3, 5)}.get(tokenizer, NOTE)
    network = Network(config, rules)
    params = init_params(network, jax.random.key(1))
    # Larger than fresh weights, so that a mistake shows.
    return network, jax.tree.map(lambda leaf: 3 * leaf, params)


def some_music(network, rows=ROWS, times=TIMES + 1, seed=0):
    """Events that the grammar allows, drawn evenly from all that it allows; START first."""
    rng = np.random.default_rng(seed)
    rules = network.grammar
    pitch, duration = np.zeros((2, rows, times), np.int32)
    carry = rules.initial_carry(rows)
    seen = jnp.ones((rows, 1), bool)
    allowed, kind = jnp.ones((rows, 1, rules.pitch_size), bool), jnp.zeros((rows, 1), jnp.int32)
    for time in range(times):
        if time:
            for row in range(rows):
                choice = np.flatnonzero(np.asarray(allowed)[row, 0])
                pitch[row, time] = rng.choice(choice[choice != END])
        options = rules.durations()[kind[:, 0], pitch[:, time]]
        duration[:, time] = [rng.choice(np.flatnonzero(row)) for row in options]
        now = slice(time, time + 1)
        carry, (allowed, kind) = follow(rules, carry, pitch[:, now], duration[:, now], seen)
    return jnp.asarray(pitch), jnp.asarray(duration)


def run(network, params, pitch, duration, mask, cuts=()):
    """Nats of each event, read in one piece or cut at `cuts`."""
    carry = network.initial_carry(len(pitch))
    edges = [0, *cuts, mask.shape[1]]
    parts = []
    for first, last in itertools.pairwise(edges):
        carry, nats = compiled_score(
            network,
            params,
            carry,
            pitch[:, first : last + 1],
            duration[:, first : last + 1],
            mask[:, first:last],
        )
        parts.append(jnp.stack(nats))
    return carry, jnp.concatenate(parts, axis=-1)


def padded(lengths, times=TIMES):
    return jnp.arange(times)[None] < jnp.asarray(lengths)[:, None]


@pytest.mark.parametrize(("attention", "heads", "tokenizer"), KINDS)
def test_each_part_of_a_carry_may_be_given_away(attention, heads, tokenizer):
    """Programs take the memory of the carry that they are given: no two parts may be one array."""
    network, _ = tiny(attention, heads, tokenizer)
    parts = jax.tree.leaves(network.initial_carry(ROWS))
    assert len({id(part) for part in parts}) == len(parts)


@pytest.mark.parametrize(("attention", "heads", "tokenizer"), KINDS)
def test_whole_is_step_by_step_is_any_chunking(attention, heads, tokenizer):
    network, params = tiny(attention, heads, tokenizer)
    pitch, duration = some_music(network)
    mask = padded([TIMES, 4, 1])

    def loss(params, cuts):
        carry, nats = run(network, params, pitch, duration, mask, cuts)
        return nats.sum(), (carry, nats)

    gradient_of = jax.grad(loss, has_aux=True)
    whole_gradient, (whole_carry, whole) = gradient_of(params, ())
    for cuts in (tuple(range(1, TIMES)), (2, 4)):
        gradient, (carry, nats) = gradient_of(params, cuts)
        np.testing.assert_allclose(nats, whole, **CLOSE)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), carry, whole_carry)
        # Gradients add up over time: their error is that of a longer sum.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), gradient, whole_gradient
        )


@pytest.mark.parametrize(("attention", "heads", "tokenizer"), KINDS)
def test_an_event_that_comes_later_changes_nothing_before_it(attention, heads, tokenizer):
    network, params = tiny(attention, heads, tokenizer)
    pitch, duration = some_music(network)
    other_pitch, other_duration = some_music(network, seed=9)
    mask = jnp.ones((ROWS, TIMES), bool)
    _, nats = run(network, params, pitch, duration, mask)
    for time in (1, 5, TIMES):
        mixed = [
            jnp.concatenate([mine[:, :time], other[:, time:]], axis=1)
            for mine, other in ((pitch, other_pitch), (duration, other_duration))
        ]
        _, changed = run(network, params, *mixed, mask)
        np.testing.assert_array_equal(changed[..., : time - 1], nats[..., : time - 1])
    assert not np.allclose(changed[..., -1], nats[..., -1])


def attention_case(kind, window, mask):
    """Attention over states of 4 units as `attend(variables, hidden) -> (carry, context)`, and variables."""
    if kind == "pooled":
        attention, past, rest = PooledAttention(window), pooled_carry(window, ROWS, 4), (mask,)
    else:
        attention, past = MultiHeadAttention(2, window), ring_carry(2, window, ROWS, 4)
        rest = (jnp.arange(ROWS * TIMES).reshape(ROWS, TIMES) % 7, mask)
    variables = attention.init(jax.random.key(1), past, jnp.zeros((ROWS, TIMES, 4)), *rest)
    return lambda variables, hidden: attention.apply(variables, past, hidden, *rest), variables


@pytest.mark.parametrize(("kind", "window"), ATTENTION[1:])
def test_no_gradient_flows_from_an_output_to_a_later_input(kind, window):
    weights, carry, inputs, mask = lstm_case()
    attend, variables = attention_case(kind, window, mask)

    @jax.jit
    @jax.grad
    def gradient_of(inputs, time):
        _, hidden = lstm(weights, carry, inputs, mask)
        _, context = attend(variables, hidden)
        return context[:, time].sum()

    for time in (0, 4, TIMES - 1):
        gradient = gradient_of(inputs, time)
        assert (gradient[:, time + 1 :] == 0).all()
        assert (gradient[:, time] != 0).any()


def lstm_case(seed=0, width=4, inputs=3):
    keys = jax.random.split(jax.random.key(seed), 6)
    weights = LSTMWeights(
        jax.random.normal(keys[0], (inputs, 4 * width)),
        jax.random.normal(keys[1], (width, 4 * width)),
        jax.random.normal(keys[2], (4 * width,)),
    )
    carry = LSTMCarry(*(jax.random.normal(key, (ROWS, width)) for key in keys[3:5]))
    return weights, carry, jax.random.normal(keys[5], (ROWS, TIMES, inputs)), jnp.ones((ROWS, TIMES), bool)


def plain_lstm(weights, carry, inputs, mask):
    """The recurrence as the textbook has it, for autodiff to differentiate."""
    hidden, cell = carry
    outputs = []
    for time in range(inputs.shape[1]):
        gates = inputs[:, time] @ weights.input_IG + hidden @ weights.recurrent_DG + weights.bias_G[None]
        enter, forget, candidate, leave = jnp.split(gates, 4, axis=-1)
        new_cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(candidate)
        new_hidden = jax.nn.sigmoid(leave) * jnp.tanh(new_cell)
        seen = mask[:, time, None]
        hidden, cell = jnp.where(seen, new_hidden, hidden), jnp.where(seen, new_cell, cell)
        outputs.append(hidden)
    return LSTMCarry(hidden, cell), jnp.stack(outputs, axis=1)


@pytest.mark.parametrize(("kind", "window"), ATTENTION[1:])
def test_what_the_mask_hides_is_invisible_to_attention_even_if_it_is_nan(kind, window):
    hidden = jax.random.normal(jax.random.key(0), (ROWS, TIMES, 4))
    mask = padded([TIMES, 5, 0])
    attend, variables = attention_case(kind, window, mask)

    def loss(variables, hidden):
        after, context = attend(variables, hidden)
        return (jnp.where(mask[..., None], context, 0) ** 2).sum() + sum((part**2).sum() for part in after)

    expected = jax.value_and_grad(loss, (0, 1))(variables, jnp.where(mask[..., None], hidden, 0))
    found = jax.value_and_grad(loss, (0, 1))(variables, jnp.where(mask[..., None], hidden, jnp.nan))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(("attention", "heads", "tokenizer"), KINDS)
def test_padding_changes_nothing(attention, heads, tokenizer):
    network, params = tiny(attention, heads, tokenizer)
    pitch, duration = some_music(network)
    lengths = [TIMES, 4, 1]
    mask = padded(lengths)
    _, nats = run(network, params, pitch, duration, mask)
    garbage = jnp.where(padded(np.array(lengths) + 1, TIMES + 1), pitch, START)
    _, other = run(network, params, garbage, duration, mask)
    np.testing.assert_array_equal(other, nats)
    for row, length in enumerate(lengths):
        alone = run(
            network,
            params,
            pitch[row : row + 1, : length + 1],
            duration[row : row + 1, : length + 1],
            jnp.ones((1, length), bool),
        )[1]
        np.testing.assert_allclose(nats[:, row, :length], alone[:, 0], **CLOSE)
        assert (nats[:, row, length:] == 0).all()


@pytest.mark.parametrize(("attention", "heads", "tokenizer"), KINDS)
def test_likelihoods_of_all_events_that_may_come_next_sum_to_one(attention, heads, tokenizer):
    """As `score` has them, of every pitch id with every duration id, and those that may not come have 0."""
    network, params = tiny(attention, heads, tokenizer)
    rules, (pitch, duration) = network.grammar, some_music(network, rows=1)
    ids_P, ids_R = np.arange(rules.pitch_size), np.arange(rules.duration_size)
    next_pitch, next_duration = (ids.ravel() for ids in np.meshgrid(ids_P, ids_R, indexing="ij"))
    for read in (1, 3, TIMES):
        pitches, durations = (
            np.tile(part[:, : TIMES + 1], (len(next_pitch), 1)) for part in (pitch, duration)
        )
        pitches[:, read], durations[:, read] = next_pitch, next_duration
        mask = np.tile(np.arange(TIMES) < read, (len(next_pitch), 1))
        _, nats = run(network, params, pitches, durations, mask)
        likelihood = np.exp(-np.asarray(nats, np.float64).sum(axis=0)[:, read - 1])
        np.testing.assert_allclose(likelihood.sum(), 1, rtol=1e-5)
        events = pitch[:, :read], duration[:, :read], jnp.ones((1, read), bool)
        _, (allowed_BTP, kind_BT) = follow(rules, rules.initial_carry(1), *events)
        durations_PR = rules.durations()[int(kind_BT[0, -1])]
        possible_PR = np.asarray(allowed_BTP)[0, -1, :, None] & durations_PR
        np.testing.assert_array_equal(likelihood > 0, possible_PR.ravel())


@pytest.mark.parametrize("heads", ["independent", "chained"])
def test_probabilities_of_all_short_pieces_of_a_tiny_vocabulary_sum_to_one(heads):
    """All pieces of at most three events, and all beginnings of longer ones, share the mass 1."""
    tokenizer = ChordTokenizer(((60,), (60, 64)), max_duration=2)
    config = ModelConfig(pitch_embedding=4, duration_embedding=4, width=6, layers=1, heads=heads, dropout=0.0)
    network = Network(config, ChordGrammar(tokenizer.duration_size, tokenizer.pitch_size))
    params = jax.tree.map(lambda leaf: 3 * leaf, init_params(network, jax.random.key(2)))
    events = [(p, d) for p in range(2, tokenizer.pitch_size) for d in (1, 2)]
    ended = [(*body, (END, 0)) for n in range(3) for body in itertools.product(events, repeat=n)]
    open_ended = list(itertools.product(events, repeat=3))
    sequences = [((START, 0), *piece) for piece in ended + open_ended]
    tokens = np.zeros((len(sequences), 4, 2), np.int32)
    mask = np.zeros((len(sequences), 3), bool)
    for row, piece in enumerate(sequences):
        tokens[row, : len(piece)] = piece
        mask[row, : len(piece) - 1] = True
    _, nats = run(network, params, tokens[..., 0], tokens[..., 1], mask)
    mass = jnp.exp(-nats.sum(axis=(0, 2)))
    np.testing.assert_allclose(mass.sum(), 1, rtol=1e-5)


@pytest.mark.parametrize("rules", [NOTE, VoiceGrammar(2, 5)], ids=["note", "voice"])
@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_any_music_that_the_grammar_allows_decodes_to_music_that_encodes_to_what_it_allows(rules, seed):
    """What is sampled under the grammar is music, and what encodes music is never forbidden."""
    network = Network(ModelConfig(width=1), rules)
    pitch, duration = (np.asarray(part)[0] for part in some_music(network, rows=1, times=20, seed=seed))
    tokens = np.stack([pitch, duration], axis=1)
    if rules is NOTE:
        again = NoteTokenizer(max_duration=4).encode(NoteTokenizer(max_duration=4).decode(tokens))
    else:
        again = VoiceTokenizer(2, max_duration=4).encode(VoiceTokenizer(2, max_duration=4).notes(tokens))
    events = np.full((1, 128, 2), END, np.int32)
    events[0, : len(again)] = again
    pitch, duration = events[..., 0], events[..., 1]
    mask = np.arange(128)[None] < len(again)
    _, (allowed, kind) = follow(rules, rules.initial_carry(1), pitch, duration, mask)
    here, after = slice(len(again) - 1), slice(1, len(again))
    assert np.take_along_axis(np.asarray(allowed)[:, here], pitch[:, after, None], axis=2).all()
    assert rules.durations()[kind[:, here], pitch[:, after], again[None, after, 1]].all()


def test_voices_come_in_turn_and_hold_their_own_pitches_alone():
    rules, names = VoiceGrammar(2, 5), NoteTokenizer(max_duration=4)
    attack, hold = names.ATTACKED, names.HELD
    events = [(START, 0), (attack + 48, 0), (attack + 60, 2), (names.REST, 0), (hold + 60, 1), (END, 0)]
    tokens = np.array([events], np.int32)
    _, after = follow(rules, rules.initial_carry(1), tokens[..., 0], tokens[..., 1], jnp.ones((1, 6), bool))
    allowed, kind = np.asarray(after.allowed_BTP)[0], np.asarray(after.kind_BT)[0]
    assert kind[:5].tolist() == [WITHIN, LAST, WITHIN, LAST, WITHIN]
    assert allowed[:5, END].tolist() == [True, False, True, False, True]
    held = [(np.flatnonzero(row[hold:])).tolist() for row in allowed[:5]]
    assert held == [[], [], [48], [60], []]
    assert not allowed[:, START].any()
    assert allowed[:, names.REST : hold].all()
    durations = rules.durations()
    assert np.flatnonzero(durations[WITHIN, attack + 60]).tolist() == [0]
    assert np.flatnonzero(durations[LAST, names.REST]).tolist() == [1, 2, 3, 4]


def test_voices_that_are_read_from_the_middle_are_judged_mildly_until_a_slice_was_seen():
    rules, attack = VoiceGrammar(2, 5), NoteTokenizer.ATTACKED
    tokens = np.array([[(attack + 60, 2), (attack + 48, 0), (attack + 62, 1), (attack + 50, 0)]], np.int32)
    _, after = follow(rules, rules.initial_carry(1), tokens[..., 0], tokens[..., 1], jnp.ones((1, 4), bool))
    allowed, kind = np.asarray(after.allowed_BTP)[0], np.asarray(after.kind_BT)[0]
    assert kind.tolist() == [WITHIN, LAST, WITHIN, LAST]
    assert allowed[:2, NoteTokenizer.HELD :].all()
    assert np.flatnonzero(allowed[2, NoteTokenizer.HELD :]).tolist() == [48]
    one = slice(1, 2)
    _, after = follow(
        rules, rules.initial_carry(1), tokens[:, one, 0], tokens[:, one, 1], jnp.ones((1, 1), bool)
    )
    assert rules.durations()[after.kind_BT[0, 0], attack].all()


def test_a_pitch_never_falls_within_a_slice_and_is_held_only_if_it_sounded():
    names = NoteTokenizer(max_duration=4)
    attack, hold = names.ATTACKED, names.HELD
    events = [(START, 0), (attack + 60, 0), (attack + 64, 2), (hold + 60, 0)]
    tokens = np.array([events], np.int32)
    mask = jnp.ones((1, 4), bool)
    _, (allowed, _) = follow(NOTE, NOTE.initial_carry(1), tokens[..., 0], tokens[..., 1], mask)
    after_start, after_60, after_slice, after_hold = np.asarray(allowed)[0]
    assert not after_start[hold:].any()
    assert after_start[attack : attack + 128].all()
    assert after_start[END]
    assert not after_start[START]
    assert not after_60[: attack + 61].any()
    assert after_60[attack + 61 : attack + 128].all()
    assert np.flatnonzero(after_slice[hold:]).tolist() == [60, 64]
    assert after_slice[[END, names.REST]].all()
    assert np.flatnonzero(after_hold[hold:]).tolist() == [64]


def test_a_row_that_begins_inside_a_piece_forbids_no_hold_until_its_second_slice():
    names = NoteTokenizer(max_duration=4)
    tokens = np.array([[(names.HELD + 60, 0), (names.HELD + 64, 2), (names.HELD + 60, 1)]], np.int32)
    mask = jnp.ones((1, 3), bool)
    _, (allowed, _) = follow(NOTE, NOTE.initial_carry(1), tokens[..., 0], tokens[..., 1], mask)
    _, after_first, after_second = np.asarray(allowed)[0]
    assert after_first[names.HELD :].all()
    assert np.flatnonzero(after_second[names.HELD :]).tolist() == [60]
