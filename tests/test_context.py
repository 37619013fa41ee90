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
from midigen_jax.model.context import NONE, context_carry, observe
from midigen_jax.model.grammar import ChordGrammar, NoteGrammar
from midigen_jax.model.network import Drops, Network, Rates, init_params, predict, score
from midigen_jax.model.told import ContextInput, IntervalHead, references
from midigen_jax.music.slices import from_entries
from midigen_jax.music.tokens import START, NoteTokenizer

CONFIG = ContextConfig(
    place=True, meters=(7,), previous=True, lags=(1, 4), relative=(4, 9), intervals=True, slices=4, width=3
)
VOICES = 16  # pitches of a slice that are told in their order
TOKENIZER = NoteTokenizer(max_duration=5)
TIMES = 40
read = jax.jit(observe, static_argnums=0)


@st.composite
def music(draw):
    """Tokens of random slices, rests and large chords among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 7))
    sizes = np.where(rng.random(count) < 0.1, 60, rng.integers(0, 4, count))
    owner = np.repeat(np.arange(count), sizes)
    low = np.where(sizes[owner] > 3, 30, 58)  # a large chord has more pitches than are told in their order
    pitch, attacked = rng.integers(low, 64), rng.random(len(owner)) < 0.5
    return TOKENIZER.encode(from_entries(rng.integers(1, 9, count), owner, pitch, attacked))


def plain(tokens, config):
    """The features after each event as a list of dicts, by walking through lists of slices."""
    slices, current, time = [], [], 0  # (onset, pitches in order)
    for pitch, duration in tokens.tolist():
        if pitch >= NoteTokenizer.ATTACKED:
            current.append((pitch - NoteTokenizer.ATTACKED) % 128)
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
    """One row of TIMES events and its mask."""
    events = np.full((TIMES, 2), 3, np.int32)
    events[: min(len(tokens), TIMES)] = tokens[:TIMES]
    return events[None, :, 0], events[None, :, 1], (np.arange(TIMES) < len(tokens))[None]


@settings(max_examples=40)
@given(music(), st.sets(st.integers(1, TIMES - 1)) | st.just(set(range(1, TIMES))))
def test_features_are_those_of_a_plain_reading_of_the_past_however_it_is_cut(tokens, cuts):
    arrays = padded(tokens)
    carry, found = context_carry(CONFIG, 1), []
    for first, last in itertools.pairwise([0, *sorted(cuts), TIMES]):
        carry, features = read(CONFIG, carry, *(part[:, first:last] for part in arrays))
        found.append(features)
    whole = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1)[0], *found)
    for step, expected in zip(range(min(len(tokens) - 1, TIMES)), plain(tokens, CONFIG), strict=False):
        now = type(whole)(*(part[step] for part in whole))
        for name in ("place", "time", "previous", "reference"):
            assert getattr(now, f"{name}_BT") == expected[name], (name, step)
        chord = now.chord_BTV
        assert chord[chord != NONE].tolist() == expected["chord"]
        for number, lag in enumerate(CONFIG.all_lags):
            pitches, lasted, begun = expected["lags"][lag]
            assert set(np.flatnonzero(now.heard_BTLK[number]).tolist()) == pitches, (lag, step)
            assert (now.lasted_BTL[number], bool(now.begun_BTL[number])) == (lasted, begun), (lag, step)
    at_once, _ = read(CONFIG, context_carry(CONFIG, 1), *arrays)
    jax.tree.map(np.testing.assert_array_equal, carry, at_once)


def test_the_vector_and_the_interval_logits_move_with_the_music():
    """Around the last pitch, and from it, music looks the same a fifth higher."""
    config = ContextConfig(relative=(2, 4), intervals=True, width=5)
    pitches = [60, 64, 60, 65, 67, 62, 66]
    ids = np.array([[START, *(NoteTokenizer.ATTACKED + pitch for pitch in pitches)]])
    ticks = np.array([[0, 0, 2, 2, 0, 3, 1, 4]])
    mask = np.ones(ids.shape, bool)
    vectors, logits = [], []
    hidden = jax.random.normal(jax.random.key(1), (1, ids.shape[1], 6))
    nothing = jnp.zeros((1, ids.shape[1], NoteTokenizer.HELD + 128), bool)
    for shift in (0, 7):
        moved = np.where(ids >= NoteTokenizer.ATTACKED, ids + shift, ids)
        _, features = observe(config, context_carry(config, 1), moved, ticks, mask)
        layer, head = ContextInput(config), IntervalHead()
        vectors.append(layer.init_with_output(jax.random.key(0), features)[0])
        logits.append(head.init_with_output(jax.random.key(0), hidden, references(features), nothing)[0])
    np.testing.assert_allclose(vectors[1], vectors[0], rtol=1e-6)
    low, high = NoteTokenizer.ATTACKED + 40, NoteTokenizer.ATTACKED + 80
    np.testing.assert_allclose(
        logits[1][:, 2:, low + 7 : high + 7], logits[0][:, 2:, low:high], rtol=1e-5, atol=1e-6
    )
    assert (logits[0][:, 0] == 0).all()  # nothing to measure from yet
    assert (np.asarray(logits[0][:, 2:]) != 0).any()


def test_a_pitch_that_is_held_scores_apart_from_one_that_is_struck():
    hidden = jax.random.normal(jax.random.key(1), (1, 1, 6))
    allowed = jnp.zeros((1, 1, NoteTokenizer.HELD + 128), bool)
    reference = jnp.full((1, 1, 1), 60)
    logits, variables = IntervalHead().init_with_output(jax.random.key(0), hidden, reference, allowed)
    struck = logits[0, 0, NoteTokenizer.ATTACKED : NoteTokenizer.HELD]
    held = logits[0, 0, NoteTokenizer.HELD :]
    assert not np.isclose(struck, held).any()
    # Beyond two octaves all are alike, on each side of the reference.
    assert (struck[: 60 - 24] == struck[-1]).all()
    assert len(np.unique(struck[60 - 24 : 60 + 25])) == 49
    # What may be held has one more score for being struck again, whatever its pitch.
    sounding = allowed.at[..., NoteTokenizer.HELD + jnp.array([40, 62])].set(True)
    more = IntervalHead().apply(variables, hidden, reference, sounding) - logits
    changed = NoteTokenizer.ATTACKED + np.array([40, 62])
    assert np.flatnonzero(more[0, 0]).tolist() == changed.tolist()
    np.testing.assert_allclose(more[0, 0, changed[0]], more[0, 0, changed[1]], rtol=1e-5)


def first_batch(piece, config, seed):
    number = row_numbers(config, jnp.int32(0))
    return batch(crops_of([piece], config), config, config.transpose_share, jax.random.key(seed), number)


@pytest.mark.parametrize("before", [6, 40])
def test_a_crop_knows_of_the_music_before_it(before):
    """As far as it is told of: its features and what its grammar allows are those of the whole piece."""
    rng = np.random.default_rng(5)
    count = 40
    owner = np.repeat(np.arange(count), 2)
    pitch = np.stack([rng.integers(50, 60, count), rng.integers(60, 70, count)], axis=1).ravel()
    piece = TOKENIZER.encode(
        from_entries(rng.integers(1, 4, count), owner, pitch, rng.random(len(owner)) < 0.5)
    )
    config = BatchConfig(rows=7, length=12, crops="fixed", before=before, transpose_share=0.0)
    before_rows, rows = first_batch(piece, config, seed=0)
    context = ContextConfig(lags=(2,), relative=(3,), slices=3, width=2)
    network = Network(ModelConfig(width=2, context=context), NoteGrammar(TOKENIZER.duration_size))
    whole = piece[None, :, 0], piece[None, :, 1], np.ones((1, len(piece)), bool)
    _, expected = observe(context, context_carry(context, 1), *whole)
    _, (allowed, _) = network.grammar.follow(network.grammar.initial_carry(1), *whole)
    carry = network.carry_after(*before_rows)
    events = rows.pitch_BS[:, :-1], rows.duration_BS[:, :-1], rows.mask_BT
    _, found = observe(context, carry.context, *events)
    _, (allowed_here, _) = network.grammar.follow(carry.grammar, *events)
    seen = 0
    for row in range(config.rows):
        mask = np.asarray(rows.mask_BT[row])
        starts = [
            start
            for start in range(0, len(piece) - 1, 12)
            if np.array_equal(piece[start : start + mask.sum(), 0], rows.pitch_BS[row, : mask.sum()])
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
    pitch = NoteTokenizer.ATTACKED + 40 + np.arange(60)
    piece = np.stack([pitch, np.ones(60, int)], axis=1).astype(np.int32)
    config = BatchConfig(rows=24, length=10, before=8, transpose_share=1.0)
    told_before, rows = first_batch(piece, config, seed=3)
    mask = np.asarray(told_before.mask_BL)
    shift = np.asarray(rows.pitch_BS[:, 0] - told_before.tick_B - mask.sum(axis=1)) - pitch[0]
    assert len(np.unique(shift)) > 5
    for row in range(config.rows):
        start = int(told_before.tick_B[row])
        told = np.asarray(told_before.pitch_BL[row])[mask[row]]
        np.testing.assert_array_equal(told, pitch[start : start + mask[row].sum()] + shift[row])


def test_units_and_recurrent_weights_are_dropped_by_the_step_and_its_rows_alone():
    """The same keys drop the same; another step's key changes all rows, another row's key that row."""
    network = Network(ModelConfig(pitch_embedding=4, duration_embedding=2, width=8), NoteGrammar(5))
    rates = Rates(units=0.0, embeddings=0.5, weights=0.5)
    params = jax.tree.map(lambda leaf: 3 * leaf, init_params(network, jax.random.key(0)))
    pitch = jnp.full((2, 6), NoteTokenizer.ATTACKED + 60)
    run = partial(score, network, params, network.initial_carry(2), pitch, pitch % 4, jnp.ones((2, 5), bool))
    keys = jax.random.split(jax.random.key(1), 3)
    first = run(Drops(keys[:2], jax.random.key(7), rates))[1].pitch_BT
    np.testing.assert_array_equal(run(Drops(keys[:2], jax.random.key(7), rates))[1].pitch_BT, first)
    other_step = run(Drops(keys[:2], jax.random.key(8), rates))[1].pitch_BT
    assert (np.abs(other_step - first).max(axis=1) > 1e-3).all()
    other_row = run(Drops(keys[jnp.array([0, 2])], jax.random.key(7), rates))[1].pitch_BT
    np.testing.assert_array_equal(other_row[0], first[0])
    assert np.abs(other_row[1] - first[1]).max() > 1e-3


def test_durations_can_be_hidden_from_the_layers():
    """Then pitches are all that a prediction knows of."""
    config = ModelConfig(pitch_embedding=4, duration_embedding=2, width=8)
    pitch, mask = jnp.full((1, 4), NoteTokenizer.ATTACKED + 60), jnp.ones((1, 3), bool)
    apart = []
    for shown in (True, False):
        network = Network(replace(config, duration_input=shown), NoteGrammar(5))
        params = init_params(network, jax.random.key(0))
        logits = [
            predict(network, params, network.initial_carry(1), pitch, jnp.array([durations]), mask)[1]
            for durations in ([1, 2, 3, 4], [4, 4, 1, 1])
        ]
        apart.append(float(jnp.abs(logits[0].duration_BTR - logits[1].duration_BTR).max()))
    assert apart[0] > 1e-4
    assert apart[1] == 0


def test_chords_have_no_context():
    network = Network(ModelConfig(context=CONFIG), ChordGrammar(5, 9))
    with pytest.raises(InputError, match=r"model\.context"):
        init_params(network, jax.random.key(0))


@pytest.mark.parametrize("wrong", [{"lags": (0,)}, {"meters": (3, 3)}, {"slices": 1}, {"relative": (-1,)}])
def test_wrong_settings_are_named(wrong):
    with pytest.raises(InputError, match=f"model.context.{next(iter(wrong))}"):
        ContextConfig(**wrong)
