"""Figures of likelihood: what they divide by, their intervals, and the models that need no network."""

from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midigen_jax.config import PrepareConfig
from midigen_jax.data.corpus import Corpus
from midigen_jax.data.prepare import prepare
from midigen_jax.model.grammar import ChordGrammar, NoteGrammar, VoiceGrammar
from midigen_jax.music.notes import make_notes
from midigen_jax.music.slices import from_entries
from midigen_jax.music.tokens import END, START, NoteTokenizer
from midigen_jax.music.voices import VoiceTokenizer
from midigen_jax.study.baselines import Copy, SliceNGram, Unigram, baselines, events_of, score
from midigen_jax.study.evaluate import evaluate_baselines, rows_of, table
from midigen_jax.study.likelihood import PieceNats, figures, parts_of, tally
from midigen_jax.study.ngram import NGram

A = NoteTokenizer.ATTACKED
NOTE = NoteGrammar(duration_size=4)
VOICE_TOKENS = VoiceTokenizer(2, max_duration=3)
VOICE = VoiceGrammar(2, duration_size=4)


def piece(nats, frames, source="a", leaked=False):
    return PieceNats(
        source, leaked, nats * 0.75, nats * 0.25, 1.0, frames * 4, frames // 2, frames / 2, frames
    )


def test_nats_are_all_nats_over_all_units_or_the_mean_of_each_piece():
    found = {(f.unit, f.weight, f.head, f.end): f.value for f in figures([piece(100, 20), piece(60, 10)])}
    assert found["frame", "units", "both", False] == pytest.approx(160 / 30)
    assert found["frame", "pieces", "both", False] == pytest.approx((5 + 6) / 2)
    assert found["frame", "units", "both", True] == pytest.approx(162 / 30)
    assert found["frame", "units", "pitch", False] == pytest.approx(120 / 30)
    assert found["frame", "units", "duration", False] == pytest.approx(40 / 30)
    assert found["event", "units", "both", False] == pytest.approx(160 / 120)
    assert found["slice", "units", "both", False] == pytest.approx(160 / 15)
    assert found["quarter", "units", "both", False] == pytest.approx(160 / 15)


def test_an_interval_covers_what_it_should_about_as_often_as_it_says():
    """Pieces from a population whose ratio is known: of 200 samples about 95 % of intervals hold it."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        frames = rng.integers(20, 60, 40)
        pieces = [piece(float(n * rng.normal(5, 1)), int(n)) for n in frames]
        figure = next(f for f in figures(pieces) if f.unit == "frame" and not f.end)
        hits += figure.low <= 5 <= figure.high
    assert 180 <= hits <= 199


def test_leaked_pieces_stand_apart_where_there_are_any():
    clean, leaked = piece(1, 2), piece(1, 2, leaked=True)
    assert list(parts_of([clean, clean])) == ["all"]
    assert {name: len(part) for name, part in parts_of([clean, leaked, clean]).items()} == {
        "all": 3,
        "clean": 2,
        "leaked": 1,
    }


def contexts(before):
    """The last 0, 1 and 2 symbols."""
    return [tuple(before[len(before) - length :]) for length in range(min(2, len(before)) + 1)]


@settings(max_examples=30)
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=6), max_size=4), st.lists(st.sampled_from("abcd")))
def test_an_ngram_gives_probability_one_to_all_that_may_come_next(sequences, before):
    ngram, base = NGram(), {"a": 0.5, "b": 0.25, "c": 0.125, "d": 0.125}
    for sequence in sequences:
        for place, symbol in enumerate(sequence):
            ngram.learn(symbol, contexts(sequence[:place]))
    total = sum(ngram.probability(symbol, contexts(before), chance) for symbol, chance in base.items())
    assert total == pytest.approx(1)


def test_an_ngram_interpolates_as_witten_and_bell_do():
    ngram = NGram()
    for place, symbol in enumerate("aab"):  # after nothing: a 2, b 1; after a: a 1, b 1
        ngram.learn(symbol, contexts("aab"[:place])[:2])
    whole = (2 + 2 * 0.25) / (3 + 2)
    assert ngram.probability("a", [()], 0.25) == pytest.approx(whole)
    assert ngram.probability("a", [(), ("a",)], 0.25) == pytest.approx((1 + 2 * whole) / (2 + 2))
    assert ngram.probability("a", [(), ("x",)], 0.25) == pytest.approx(whole)


def some_pieces(seed, count=6):
    """Random `note` tokens that decode to music, of few pitches, so that things come again."""
    rng, made = np.random.default_rng(seed), []
    tokenizer = NoteTokenizer(max_duration=3)
    for _ in range(count):
        owner = np.repeat(np.arange(12), rng.integers(0, 4, 12))
        pitch, attacked = rng.integers(124, 128, len(owner)), rng.random(len(owner)) < 0.5
        made.append(tokenizer.encode(from_entries(rng.integers(1, 5, 12), owner, pitch, attacked)))
    return made


def some_chords(seed, count=6):
    rng = np.random.default_rng(seed)
    bodies = [np.stack([rng.integers(2, 6, 9), rng.integers(1, 4, 9)], axis=1) for _ in range(count)]
    return [np.concatenate([[[START, 0]], body, [[END, 0]]]) for body in bodies]


def some_voices(seed, count=6):
    """Random `voice` tokens of two voices, of few pitches."""
    rng, made = np.random.default_rng(seed), []
    onset = np.tile(np.arange(0, 30, 3), 2)
    for _ in range(count):
        track = np.repeat([0, 1], 10)
        kept = rng.random(20) < 0.8
        notes = make_notes(onset, rng.integers(1, 4, 20), rng.integers(60, 63, 20) + 10 * track, track)
        made.append(VOICE_TOKENS.encode(notes[kept]))
    return made


# Of a whole piece at once, so that it is compiled once.
what_follows = jax.jit(
    lambda rules, *events: rules.follow(rules.initial_carry(1), *events)[1], static_argnums=0
)


def all_next(rules, tokens, count):
    """The first `count` events, and each that the grammar allows after them."""
    after = what_follows(rules, tokens[None, :, 0], tokens[None, :, 1], np.ones((1, len(tokens)), bool))
    durations_PR = rules.durations()[after.kind_BT[0, count - 1]]
    for pitch in np.flatnonzero(np.asarray(after.allowed_BTP)[0, count - 1]):
        for duration in np.flatnonzero(durations_PR[pitch]):
            yield np.concatenate([tokens[:count], [[pitch, duration]]])


@pytest.mark.parametrize("kind", ["uniform", "unigram", "copy", "ngram"])
@pytest.mark.parametrize("rules", [NOTE, ChordGrammar(4, 6), VOICE], ids=["note", "chord", "voice"])
def test_baselines_give_probability_one_to_all_that_the_grammar_allows_next(kind, rules):
    made = {NOTE: some_pieces, VOICE: some_voices}.get(rules, some_chords)
    training = [events_of(rules, tokens) for tokens in made(0)]
    unigram = Unigram(rules, [] if kind == "uniform" else training)
    models = {"copy": Copy(unigram, training), "ngram": SliceNGram(unigram, training)}
    model = models.get(kind, unigram)
    tokens = made(9, count=1)[0]
    for count in range(1, len(tokens)):
        chances = [model.both(events_of(rules, longer)[-1]) for longer in all_next(rules, tokens, count)]
        assert np.prod(chances, axis=1).sum() == pytest.approx(1), count


CHORALES = Path(__file__).resolve().parents[2] / "shared" / "data" / "JSB_Chorales.mat"


@pytest.fixture(scope="module")
def chorales(tmp_path_factory) -> Corpus:
    if not CHORALES.is_file():
        pytest.skip("the JSB chorales are not beside the checkout")
    return prepare([str(CHORALES)], tmp_path_factory.mktemp("jsb") / "corpus", PrepareConfig(), workers=1)


def test_frames_quarters_and_slices_of_the_chorales_are_those_of_the_benchmark(chorales):
    """4,725 frames of a quarter in 77 test pieces: what published figures divide by."""
    pieces = chorales.split("test")
    ones = [np.ones((p.stop - p.start - 1, 2)) for p in pieces]
    found = [tally(chorales, p, nats) for p, nats in zip(pieces, ones, strict=True)]
    assert (len(found), sum(p.frame for p in found)) == (77, 4725)
    assert sum(p.quarter for p in found) == 4725
    assert all(p.pitch == p.event and p.end == 2 for p in found)


def test_every_baseline_is_better_than_the_one_before_on_the_chorales(chorales):
    models = list(evaluate_baselines(chorales, "valid"))
    assert [model.model for model in models] == ["uniform", "unigram", "copy", "ngram"]
    found = [next(f.value for f in figures(m.pieces) if f.unit == "frame") for m in models]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 7
    lines = table(models)
    assert lines[0].split()[:3] == ["nats", "per", "frame"]
    assert sum(line.startswith("  clean (63 pieces)") for line in lines) == 4
    names = {row["name"] for row in rows_of(models[0], {"split": "valid"}, command="midigen evaluate")}
    assert names == {f"evaluate.nats_per_{unit}" for unit in ("event", "slice", "quarter", "frame")}


def test_baselines_find_what_they_were_counted_from_likelier(chorales):
    """Counts come from the training split, so that validation is new to them."""
    split_of = {name: chorales.split(name)[:20] for name in ("train", "valid")}
    *_, ngram = baselines(chorales)
    means = {
        name: np.concatenate(score(ngram, chorales, pieces)).sum() / sum(p.stop - p.start for p in pieces)
        for name, pieces in split_of.items()
    }
    assert means["train"] < 0.7 * means["valid"]
