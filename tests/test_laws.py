"""The laws that every network obeys, for each kind of block, heads and vocabulary.

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
from midigen_jax.model.blocks.lstm_scan import LSTMCarry, LSTMWeights
from midigen_jax.model.network import Network, init_params, score
from midigen_jax.music.piece import Piece
from midigen_jax.vocab import END, START, by_stream, note, to_tokens
from midigen_jax.vocab.chord import ChordVocabulary
from midigen_jax.vocab.note import NoteVocabulary
from midigen_jax.vocab.voice import VoiceVocabulary
from midigen_jax.vocab.voice_rules import LAST, WITHIN
from tests.tiny import chord_vocabulary

# All of it on, of which at most the last slices are remembered.
CONTEXT = ContextConfig(
    place=True, meters=(6,), previous=True, lags=(1, 3), relative=(1, 5), intervals=True, slices=3, width=4
)
# By name; contexts replace the states in `replaced`, and are added to them in all others.
STACKS = {
    "gru": ("gru", "gru(residual=true)"),
    "lstm": ("lstm", "lstm"),
    "pooled": ("lstm", "lstm(residual=true)", "pooled"),
    "replaced": ("lstm", "lstm", "pooled(window=3, residual=false)"),
    "states": ("lstm", "lstm", "multihead(heads=2, window=3, residual=false)"),
    "events": ("lstm", "lstm(residual=true)", "multihead(heads=2, window=9, values=events)"),
}
HEADS, VOCABULARIES = ["independent", "chained"], ["note", "chord", "told", "voice"]
# Blocks, heads and vocabulary meet in `score` alone. So `make test` tries every stack of blocks, both kinds
# of heads and every vocabulary; `make test-all` tries the whole product. ("told" are notes with all context.)
COVER = {
    ("gru", "independent", "chord"),
    ("lstm", "independent", "voice"),
    ("pooled", "independent", "told"),
    ("replaced", "chained", "note"),
    ("states", "independent", "note"),
    ("events", "chained", "told"),
}
PRODUCT = list(itertools.product(STACKS, HEADS, VOCABULARIES))
assert set(PRODUCT) > COVER
KINDS = [
    pytest.param(
        *kind,
        id="-".join(kind),
        marks=[] if kind in COVER else pytest.mark.slow,
    )
    for kind in PRODUCT
]
ROWS, TIMES = 3, 6
NOTE = NoteVocabulary(4)
# Called with few shapes and compiled for each, once: op by op, every scan would compile on every call.
compiled_score = jax.jit(score, static_argnames="network")
follow = jax.jit(lambda rules, *events: rules.follow(*events), static_argnums=0)
allowed_by = jax.jit(
    lambda rules, after, stream, earlier: rules.allowed(after, rules.limits(), stream, earlier),
    static_argnums=(0, 2),
)
# Sums over time are taken in another order when a sequence is cut; float32 keeps about seven digits.
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


def tiny(stack, heads, vocabulary):
    told = vocabulary in ("told", "voice")
    config = ModelConfig(
        pitch_embedding=5,
        duration_embedding=3,
        width=8,
        blocks=STACKS[stack],
        context=CONTEXT if told else ContextConfig(),
        heads=heads,
        dropout=0.0,
    )
    others = {"chord": chord_vocabulary(5, 9), "voice": VoiceVocabulary(3, 4)}
    network = Network(config, others.get(vocabulary, NOTE))
    params = init_params(network, jax.random.key(3))
    # Larger than fresh weights, so that a mistake shows.
    return network, jax.tree.map(lambda leaf: 3 * leaf, params)


def some_music(vocabulary, rows=ROWS, times=TIMES + 1, seed=0):
    """Ids (B, T) by stream, drawn evenly from all that the rules allow; START first."""
    rng, rules = np.random.default_rng(seed), vocabulary.rules
    events = {name: np.zeros((rows, times), np.int32) for name, _ in vocabulary.streams}
    carry, after, seen = rules.initial_carry(rows), None, jnp.ones((rows, 1), bool)
    for time in range(times):
        event = {}
        for name in events if time else ():
            options = np.asarray(allowed_by(rules, after, name, event))[:, 0]
            if not event:
                options = options & (np.arange(options.shape[1]) != END)
            events[name][:, time] = [rng.choice(np.flatnonzero(row)) for row in options]
            event[name] = events[name][:, time : time + 1]
        carry, after = follow(rules, carry, part(events, time, time + 1), seen)
    return jax.tree.map(jnp.asarray, events)


def part(events, first, last):
    return {name: ids[:, first:last] for name, ids in events.items()}


def run(network, params, events, mask, cuts=()):
    """Nats of each event, stream by stream, read in one piece or cut at `cuts`."""
    carry = network.initial_carry(len(mask))
    found = []
    for first, last in itertools.pairwise([0, *cuts, mask.shape[1]]):
        given = carry, part(events, first, last + 1), mask[:, first:last]
        carry, nats = compiled_score(network, params, *given)
        found.append(jnp.stack([nats[name] for name, _ in network.vocabulary.streams]))
    return carry, jnp.concatenate(found, axis=-1)


def padded(lengths, times=TIMES):
    return jnp.arange(times)[None] < jnp.asarray(lengths)[:, None]


@pytest.mark.parametrize(("stack", "heads", "vocabulary"), KINDS)
def test_each_part_of_a_carry_may_be_given_away(stack, heads, vocabulary):
    """Programs take the memory of the carry that they are given: no two parts may be one array."""
    network, _ = tiny(stack, heads, vocabulary)
    parts = jax.tree.leaves(network.initial_carry(ROWS))
    assert len({id(part) for part in parts}) == len(parts)


@pytest.mark.parametrize(("stack", "heads", "vocabulary"), KINDS)
def test_whole_is_step_by_step_is_any_chunking(stack, heads, vocabulary):
    network, params = tiny(stack, heads, vocabulary)
    events, mask = some_music(network.vocabulary), padded([TIMES, 4, 1])

    def loss(params, cuts):
        carry, nats = run(network, params, events, mask, cuts)
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


@pytest.mark.parametrize(("stack", "heads", "vocabulary"), KINDS)
def test_an_event_that_comes_later_changes_nothing_before_it(stack, heads, vocabulary):
    network, params = tiny(stack, heads, vocabulary)
    events, others = (some_music(network.vocabulary, seed=seed) for seed in (0, 9))
    mask = jnp.ones((ROWS, TIMES), bool)
    _, nats = run(network, params, events, mask)
    for time in (1, 5, TIMES):
        mixed = {
            name: jnp.concatenate([ids[:, :time], others[name][:, time:]], axis=1)
            for name, ids in events.items()
        }
        _, changed = run(network, params, mixed, mask)
        np.testing.assert_array_equal(changed[..., : time - 1], nats[..., : time - 1])
    assert not np.allclose(changed[..., -1], nats[..., -1])


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


@pytest.mark.parametrize(("stack", "heads", "vocabulary"), KINDS)
def test_padding_changes_nothing(stack, heads, vocabulary):
    network, params = tiny(stack, heads, vocabulary)
    events, lengths = some_music(network.vocabulary), [TIMES, 4, 1]
    mask = padded(lengths)
    _, nats = run(network, params, events, mask)
    shown = padded(np.array(lengths) + 1, TIMES + 1)
    garbage = events | {"pitch": jnp.where(shown, events["pitch"], START)}
    _, other = run(network, params, garbage, mask)
    np.testing.assert_array_equal(other, nats)
    for row, length in enumerate(lengths):
        own = {name: ids[row : row + 1, : length + 1] for name, ids in events.items()}
        _, alone = run(network, params, own, jnp.ones((1, length), bool))
        np.testing.assert_allclose(nats[:, row, :length], alone[:, 0], **CLOSE)
        assert (nats[:, row, length:] == 0).all()


@pytest.mark.parametrize(("stack", "heads", "vocabulary"), KINDS)
def test_likelihoods_of_all_events_that_may_come_next_sum_to_one(stack, heads, vocabulary):
    """As `score` has them, of all ids of one stream with all of the other; those that may not come have 0."""
    network, params = tiny(stack, heads, vocabulary)
    vocabulary, events = network.vocabulary, some_music(network.vocabulary, rows=1)
    rules, size_of = vocabulary.rules, dict(vocabulary.streams)
    every = dict(zip(size_of, np.indices(size_of.values()).reshape(len(size_of), -1), strict=True))
    count = len(every["pitch"])
    for read in (1, 3, TIMES):
        tried = {name: np.tile(ids, (count, 1)) for name, ids in events.items()}
        for name, ids in every.items():
            tried[name][:, read] = ids
        mask = np.tile(np.arange(TIMES) < read, (count, 1))
        _, nats = run(network, params, tried, mask)
        likelihood = np.exp(-np.asarray(nats, np.float64).sum(axis=0)[:, read - 1])
        np.testing.assert_allclose(likelihood.sum(), 1, rtol=1e-5)
        given = part(events, 0, read), jnp.ones((1, read), bool)
        _, after = follow(rules, rules.initial_carry(1), *given)
        newest = jax.tree.map(lambda leaf: jnp.repeat(leaf[:, -1:], count, axis=0), after)
        possible, earlier = np.ones(count, bool), {}
        for name, ids in every.items():
            allowed = np.asarray(allowed_by(rules, newest, name, earlier))[:, 0]
            possible &= allowed[np.arange(count), ids]
            earlier = earlier | {name: ids[:, None]}
        np.testing.assert_array_equal(likelihood > 0, possible)


@pytest.mark.parametrize("heads", ["independent", "chained"])
def test_probabilities_of_all_short_pieces_of_a_tiny_vocabulary_sum_to_one(heads):
    """All pieces of at most three events, and all beginnings of longer ones, share the mass 1."""
    vocabulary = ChordVocabulary(((60,), (60, 64)), max_duration=2)
    config = ModelConfig(
        pitch_embedding=4, duration_embedding=4, width=6, blocks=("lstm", "pooled"), heads=heads, dropout=0.0
    )
    network = Network(config, vocabulary)
    params = jax.tree.map(lambda leaf: 3 * leaf, init_params(network, jax.random.key(2)))
    events = [(p, d) for p in range(2, vocabulary.streams[0].size) for d in (1, 2)]
    ended = [(*body, (END, 0)) for n in range(3) for body in itertools.product(events, repeat=n)]
    open_ended = list(itertools.product(events, repeat=3))
    sequences = [((START, 0), *piece) for piece in ended + open_ended]
    tokens = np.zeros((len(sequences), 4, 2), np.int32)
    mask = np.zeros((len(sequences), 3), bool)
    for row, piece in enumerate(sequences):
        tokens[row, : len(piece)] = piece
        mask[row, : len(piece) - 1] = True
    _, nats = run(network, params, by_stream(vocabulary, tokens), mask)
    mass = jnp.exp(-nats.sum(axis=(0, 2)))
    np.testing.assert_allclose(mass.sum(), 1, rtol=1e-5)


@pytest.mark.parametrize("vocabulary", [NOTE, VoiceVocabulary(2, 4)], ids=["note", "voice"])
@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_any_music_that_the_rules_allow_decodes_to_music_that_encodes_to_what_they_allow(vocabulary, seed):
    """What is sampled under the rules is music, and what encodes music is never forbidden."""
    written = some_music(vocabulary, rows=1, times=20, seed=seed)
    again = vocabulary.encode(Piece(vocabulary.decode(to_tokens(vocabulary, written)[0])))
    tokens = np.full((1, 128, 2), END, np.int32)
    tokens[0, : len(again)] = again
    mask = np.arange(128)[None] < len(again)
    rules, events = vocabulary.rules, by_stream(vocabulary, tokens)
    _, after = follow(rules, rules.initial_carry(1), events, mask)
    earlier = {}
    for name, ids in events.items():
        following = np.roll(ids, -1, axis=1)
        allowed = np.asarray(allowed_by(rules, after, name, earlier))
        is_allowed = np.take_along_axis(allowed, following[..., None], axis=2)
        assert is_allowed[:, : len(again) - 1].all()
        earlier = earlier | {name: following}


def after_each(vocabulary, events):
    """What may follow each of these events of one row, and what `allowed` reads."""
    rules, tokens = vocabulary.rules, np.array([events], np.int32)
    given = by_stream(vocabulary, tokens), jnp.ones(tokens.shape[:2], bool)
    return follow(rules, rules.initial_carry(1), *given)[1], rules.limits()


def test_voices_come_in_turn_and_hold_their_own_pitches_alone():
    attack, hold = note.ATTACKED, note.HELD
    events = [(START, 0), (attack + 48, 0), (attack + 60, 2), (note.REST, 0), (hold + 60, 1), (END, 0)]
    after, limits = after_each(VoiceVocabulary(2, 4), events)
    allowed, kind = np.asarray(after.pitch_BTP)[0], np.asarray(after.kind_BT)[0]
    assert kind[:5].tolist() == [WITHIN, LAST, WITHIN, LAST, WITHIN]
    assert allowed[:5, END].tolist() == [True, False, True, False, True]
    held = [(np.flatnonzero(row[hold:])).tolist() for row in allowed[:5]]
    assert held == [[], [], [48], [60], []]
    assert not allowed[:, START].any()
    assert allowed[:, note.REST : hold].all()
    assert np.flatnonzero(limits.duration_KPR[WITHIN, attack + 60]).tolist() == [0]
    assert np.flatnonzero(limits.duration_KPR[LAST, note.REST]).tolist() == [1, 2, 3, 4]


def test_voices_that_are_read_from_the_middle_are_judged_mildly_until_a_slice_was_seen():
    attack = note.ATTACKED
    events = [(attack + 60, 2), (attack + 48, 0), (attack + 62, 1), (attack + 50, 0)]
    after, limits = after_each(VoiceVocabulary(2, 4), events)
    allowed, kind = np.asarray(after.pitch_BTP)[0], np.asarray(after.kind_BT)[0]
    assert kind.tolist() == [WITHIN, LAST, WITHIN, LAST]
    assert allowed[:2, note.HELD :].all()
    assert np.flatnonzero(allowed[2, note.HELD :]).tolist() == [48]
    after, _ = after_each(VoiceVocabulary(2, 4), events[1:2])
    assert limits.duration_KPR[after.kind_BT[0, 0], attack].all()


def test_a_pitch_never_falls_within_a_slice_and_is_held_only_if_it_sounded():
    attack, hold = note.ATTACKED, note.HELD
    events = [(START, 0), (attack + 60, 0), (attack + 64, 2), (hold + 60, 0)]
    allowed_BTP, _ = after_each(NOTE, events)
    after_start, after_60, after_slice, after_hold = np.asarray(allowed_BTP)[0]
    assert not after_start[hold:].any()
    assert after_start[attack : attack + 128].all()
    assert after_start[END]
    assert not after_start[START]
    assert not after_60[: attack + 61].any()
    assert after_60[attack + 61 : attack + 128].all()
    assert np.flatnonzero(after_slice[hold:]).tolist() == [60, 64]
    assert after_slice[[END, note.REST]].all()
    assert np.flatnonzero(after_hold[hold:]).tolist() == [64]


def test_a_row_that_begins_inside_a_piece_forbids_no_hold_until_its_second_slice():
    events = [(note.HELD + 60, 0), (note.HELD + 64, 2), (note.HELD + 60, 1)]
    allowed_BTP, _ = after_each(NOTE, events)
    _, after_first, after_second = np.asarray(allowed_BTP)[0]
    assert after_first[note.HELD :].all()
    assert np.flatnonzero(after_second[note.HELD :]).tolist() == [60]
