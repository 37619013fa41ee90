"""What the network is told: features against a plain reading of the past, crops that know what was before."""

import itertools
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midigen_jax.config import BatchConfig, ContextConfig, ModelConfig
from midigen_jax.data.batches import batch, crops_of, row_numbers
from midigen_jax.errors import InputError
from midigen_jax.model.network import Dropout, DropoutRates, Network, init_params, predict, score
from midigen_jax.model.past import NONE, FeatureEmbedding, IntervalHead, anchors, empty_history, update
from midigen_jax.music.piece import Piece
from midigen_jax.music.slices import canonical, from_entries, to_notes
from midigen_jax.vocab import START, by_stream, note
from midigen_jax.vocab.note import NoteVocabulary
from tests.tiny import chord_vocabulary

CONFIG = ContextConfig(
    place=True, meters=(7,), previous=True, lags=(1, 4), relative=(4, 9), intervals=True, slices=4, width=3
)
VOICES = 16  # pitches of a slice that are told in their order
NOTES = NoteVocabulary(max_duration=5)
TIMES = 40


@partial(jax.jit, static_argnums=0)
def read(config, *given):
    return update(config, NOTES.tables, *given)


def encoded(*entries):
    """The tokens of slices, as `from_entries` takes them, with rests at both ends."""
    slices = canonical(from_entries(*entries), trim=False)
    return NOTES.encode(Piece(to_notes(slices), length=int(slices.duration.sum())))


@st.composite
def music(draw):
    """Tokens of random slices, rests and large chords among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 7))
    sizes = np.where(rng.random(count) < 0.1, 60, rng.integers(0, 4, count))
    owner = np.repeat(np.arange(count), sizes)
    low = np.where(sizes[owner] > 3, 30, 58)  # a large chord has more pitches than are told in their order
    pitch, attacked = rng.integers(low, 64), rng.random(len(owner)) < 0.5
    return encoded(rng.integers(1, 9, count), owner, pitch, attacked)


def plain(tokens, config):
    """The features after each event as a list of dicts, by walking through lists of slices."""
    slices, current, time = [], [], 0  # (onset, pitches in order)
    for pitch, duration in tokens.tolist():
        if pitch >= note.ATTACKED:
            current.append((pitch - note.ATTACKED) % 128)
        if duration:
            slices.append((time, time + duration, current))
            current, time = [], time + duration
        place = len(current)
        before = slices[-1][2] if slices else []
        previous = before[place] if place < min(len(before), VOICES) else NONE
        seen = slices[-(config.slices - 1) :]
        lags = {}
        for lag in config.all_lags:
            there = [part for part in seen if part[0] <= time - lag < part[1]]
            if there:
                onset, stop, pitches = there[0]
                lags[lag] = (set(pitches), stop - (time - lag), onset == time - lag)
            else:
                lags[lag] = (set(), 0, False)
        yield {
            "place": place,
            "time": time,
            "previous": previous,
            "reference": current[-1] if current else previous,
            "chord": current[:VOICES],
            "lags": lags,
        }


def padded(tokens):
    """One row of TIMES events, by stream, and its mask."""
    events = np.full((1, TIMES, 2), 3, np.int32)
    events[0, : min(len(tokens), TIMES)] = tokens[:TIMES]
    return by_stream(NOTES, events), (np.arange(TIMES) < len(tokens))[None]


@settings(max_examples=40)
@given(music(), st.sets(st.integers(1, TIMES - 1)) | st.just(set(range(1, TIMES))), st.integers(-50, 50))
def test_features_are_those_of_a_plain_reading_of_the_past_however_it_is_cut(tokens, cuts, begin):
    """And whenever it begins: before the first bar line, in an upbeat, or after it."""
    arrays, begin_B = padded(tokens), np.full(1, begin, np.int32)
    carry, found = empty_history(CONFIG, 1, begin_B), []
    for first, last in itertools.pairwise([0, *sorted(cuts), TIMES]):
        chunk = jax.tree.map(lambda part, here=slice(first, last): part[:, here], arrays)
        carry, features = read(CONFIG, carry, *chunk)
        found.append(features)
    whole = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1)[0], *found)
    for step, expected in zip(range(min(len(tokens) - 1, TIMES)), plain(tokens, CONFIG), strict=False):
        now = type(whole)(*(part[step] for part in whole))
        for name in ("place", "time", "previous", "reference"):
            later = begin if name == "time" else 0
            assert getattr(now, f"{name}_BT") == expected[name] + later, (name, step)
        chord = now.chord_BTV
        assert chord[chord != NONE].tolist() == expected["chord"]
        for number, lag in enumerate(CONFIG.all_lags):
            pitches, lasted, begun = expected["lags"][lag]
            assert set(np.flatnonzero(now.heard_BTLK[number]).tolist()) == pitches, (lag, step)
            assert (now.lasted_BTL[number], bool(now.begun_BTL[number])) == (lasted, begun), (lag, step)
    at_once, _ = read(CONFIG, empty_history(CONFIG, 1, begin_B), *arrays)
    jax.tree.map(np.testing.assert_array_equal, carry, at_once)


def test_the_vector_and_the_interval_logits_move_with_the_music():
    """Around the last pitch, and from it, music looks the same a fifth higher."""
    config = ContextConfig(relative=(2, 4), intervals=True, width=5)
    pitches = [60, 64, 60, 65, 67, 62, 66]
    ids = np.array([[START, *(note.ATTACKED + pitch for pitch in pitches)]])
    ticks = np.array([[0, 0, 2, 2, 0, 3, 1, 4]])
    mask = np.ones(ids.shape, bool)
    vectors, logits = [], []
    hidden = jax.random.normal(jax.random.key(1), (1, ids.shape[1], 6))
    nothing = jnp.zeros((1, ids.shape[1], note.HELD + 128), bool)
    for shift in (0, 7):
        moved = np.where(ids >= note.ATTACKED, ids + shift, ids)
        _, features = read(config, empty_history(config, 1), {"pitch": moved, "duration": ticks}, mask)
        layer, head = FeatureEmbedding(config), IntervalHead(NoteVocabulary().pitch_table())
        vectors.append(layer.init_with_output(jax.random.key(0), features)[0])
        logits.append(head.init_with_output(jax.random.key(0), hidden, anchors(features), nothing)[0])
    np.testing.assert_allclose(vectors[1], vectors[0], rtol=1e-6)
    low, high = note.ATTACKED + 40, note.ATTACKED + 80
    np.testing.assert_allclose(
        logits[1][:, 2:, low + 7 : high + 7], logits[0][:, 2:, low:high], rtol=1e-5, atol=1e-6
    )
    assert (logits[0][:, 0] == 0).all()  # nothing to measure from yet
    assert (np.asarray(logits[0][:, 2:]) != 0).any()


def test_a_pitch_that_is_held_scores_apart_from_one_that_is_struck():
    hidden = jax.random.normal(jax.random.key(1), (1, 1, 6))
    allowed = jnp.zeros((1, 1, note.HELD + 128), bool)
    reference = jnp.full((1, 1, 1), 60)
    head = IntervalHead(NoteVocabulary().pitch_table())
    logits, variables = head.init_with_output(jax.random.key(0), hidden, reference, allowed)
    struck = logits[0, 0, note.ATTACKED : note.HELD]
    held = logits[0, 0, note.HELD :]
    assert not np.isclose(struck, held).any()
    # Beyond two octaves all are alike, on each side of the reference.
    assert (struck[: 60 - 24] == struck[-1]).all()
    assert len(np.unique(struck[60 - 24 : 60 + 25])) == 49
    # What may be held has one more score for being struck again, whatever its pitch.
    sounding = allowed.at[..., note.HELD + jnp.array([40, 62])].set(True)
    more = head.apply(variables, hidden, reference, sounding) - logits
    changed = note.ATTACKED + np.array([40, 62])
    assert np.flatnonzero(more[0, 0]).tolist() == changed.tolist()
    np.testing.assert_allclose(more[0, 0, changed[0]], more[0, 0, changed[1]], rtol=1e-5)


def first_batch(piece, config, seed):
    number = row_numbers(config, jnp.int32(0))
    given = config.transpose_share, jax.random.key(seed), number
    return batch(crops_of([piece], config, NOTES), config, NOTES, *given)


@pytest.mark.parametrize("before", [6, 40])
def test_a_crop_knows_of_the_music_before_it(before):
    """As far as it is told of: its features and what its rules allow are those of the whole piece."""
    rng = np.random.default_rng(5)
    count = 40
    owner = np.repeat(np.arange(count), 2)
    pitch = np.stack([rng.integers(50, 60, count), rng.integers(60, 70, count)], axis=1).ravel()
    piece = encoded(rng.integers(1, 4, count), owner, pitch, rng.random(len(owner)) < 0.5)
    config = BatchConfig(rows=7, length=12, crops="fixed", before=before, transpose_share=0.0)
    before_rows, rows = first_batch(piece, config, seed=0)
    context = ContextConfig(lags=(2,), relative=(3,), slices=3, width=2)
    network = Network(ModelConfig(width=2, context=context), NOTES)
    whole = by_stream(NOTES, piece[None]), np.ones((1, len(piece)), bool)
    _, expected = read(context, empty_history(context, 1), *whole)
    _, allowed = NOTES.rules.follow(NOTES.rules.initial_carry(1), *whole)
    carry = network.warm_carry(*before_rows)
    events = {name: ids[:, :-1] for name, ids in rows.events.items()}, rows.mask_BT
    _, found = read(context, carry.past, *events)
    _, allowed_here = NOTES.rules.follow(carry.rules, *events)
    seen = 0
    for row in range(config.rows):
        mask = np.asarray(rows.mask_BT[row])
        starts = [
            start
            for start in range(0, len(piece) - 1, 12)
            if np.array_equal(piece[start : start + mask.sum(), 0], rows.events["pitch"][row, : mask.sum()])
        ]
        (start,) = starts
        window = slice(start, start + int(mask.sum()))
        for name in ("time_BT", "reference_BT", "heard_BTLK", "lasted_BTL"):
            here, there = getattr(found, name)[row][mask], getattr(expected, name)[0, window]
            np.testing.assert_array_equal(here, there, err_msg=name)
        np.testing.assert_array_equal(allowed_here[row][mask], allowed[0, window])
        seen += int(mask.sum())
    assert seen == len(piece) - 1


def test_what_was_before_is_transposed_with_its_crop():
    pitch = note.ATTACKED + 40 + np.arange(60)
    piece = np.stack([pitch, np.ones(60, int)], axis=1).astype(np.int32)
    config = BatchConfig(rows=24, length=10, before=8, transpose_share=1.0)
    told_before, rows = first_batch(piece, config, seed=3)
    mask = np.asarray(told_before.mask)
    shift = np.asarray(rows.events["pitch"][:, 0] - told_before.tick_B - mask.sum(axis=1)) - pitch[0]
    assert len(np.unique(shift)) > 5
    for row in range(config.rows):
        start = int(told_before.tick_B[row])
        told = np.asarray(told_before.events["pitch"][row])[mask[row]]
        np.testing.assert_array_equal(told, pitch[start : start + mask[row].sum()] + shift[row])


def test_units_and_recurrent_weights_are_dropped_by_the_step_and_its_rows_alone():
    """The same keys drop the same; another step's key changes all rows, another row's key that row."""
    network = Network(ModelConfig(pitch_embedding=4, duration_embedding=2, width=8), NoteVocabulary(4))
    rates = DropoutRates(units=0.0, embeddings=0.5, weights=0.5)
    params = jax.tree.map(lambda leaf: 3 * leaf, init_params(network, jax.random.key(0)))
    pitch = jnp.full((2, 6), note.ATTACKED + 60)
    events, mask = {"pitch": pitch, "duration": pitch % 4}, jnp.ones((2, 5), bool)
    run = partial(score, network, params, network.initial_carry(2), events, mask)
    keys = jax.random.split(jax.random.key(1), 3)
    first = run(Dropout(keys[:2], jax.random.key(7), rates))[1]["pitch"]
    np.testing.assert_array_equal(run(Dropout(keys[:2], jax.random.key(7), rates))[1]["pitch"], first)
    other_step = run(Dropout(keys[:2], jax.random.key(8), rates))[1]["pitch"]
    assert (np.abs(other_step - first).max(axis=1) > 1e-3).all()
    other_row = run(Dropout(keys[jnp.array([0, 2])], jax.random.key(7), rates))[1]["pitch"]
    np.testing.assert_array_equal(other_row[0], first[0])
    assert np.abs(other_row[1] - first[1]).max() > 1e-3


def test_durations_can_be_hidden_from_the_layers():
    """Then pitches are all that a prediction knows of."""
    config = ModelConfig(pitch_embedding=4, duration_embedding=2, width=8)
    pitch, mask = jnp.full((1, 4), note.ATTACKED + 60), jnp.ones((1, 3), bool)
    apart = []
    for shown in (True, False):
        network = Network(replace(config, duration_input=shown), NoteVocabulary(4))
        params = init_params(network, jax.random.key(0))
        logits = [
            predict(network, params, network.initial_carry(1), events, mask)[1]
            for events in (
                {"pitch": pitch, "duration": jnp.array([durations])}
                for durations in ([1, 2, 3, 4], [4, 4, 1, 1])
            )
        ]
        apart.append(float(jnp.abs(logits[0]["duration"] - logits[1]["duration"]).max()))
    assert apart[0] > 1e-4
    assert apart[1] == 0


def test_chords_have_no_context():
    network = Network(ModelConfig(context=CONFIG), chord_vocabulary(5, 9))
    with pytest.raises(InputError, match=r"model\.context"):
        init_params(network, jax.random.key(0))


@pytest.mark.parametrize("wrong", [{"lags": (0,)}, {"meters": (3, 3)}, {"slices": 1}, {"relative": (-1,)}])
def test_wrong_settings_are_named(wrong):
    with pytest.raises(InputError, match=f"model.context.{next(iter(wrong))}"):
        ContextConfig(**wrong)
