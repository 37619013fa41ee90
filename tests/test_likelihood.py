"""Metrics and their figures: what they divide by, their intervals, and the models that need no network."""

from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midigen_jax.config import PrepareConfig
from midigen_jax.data.corpus import Corpus, CorpusPiece
from midigen_jax.data.prepare import prepare
from midigen_jax.errors import InputError
from midigen_jax.music.notes import make_notes
from midigen_jax.music.piece import Piece
from midigen_jax.music.slices import from_entries, to_notes
from midigen_jax.study.baselines import Copy, SliceNGram, Unigram, baselines, events_of, score
from midigen_jax.study.evaluate import evaluate_baselines, rows_of, table
from midigen_jax.study.metrics import (
    EventScores,
    PieceScores,
    event_scores,
    figures,
    find_metric,
    measure,
    parts_of,
    pick,
)
from midigen_jax.study.ngram import NGram
from midigen_jax.vocab import END, START, by_stream, note
from midigen_jax.vocab.note import NoteVocabulary
from midigen_jax.vocab.voice import VoiceVocabulary
from tests.tiny import chord_vocabulary

A, H, REST = note.ATTACKED, note.HELD, note.REST
NOTE = NoteVocabulary(3)
VOICE = VoiceVocabulary(2, max_duration=3)


def piece(nats, frames, source="a", leaked=False):
    units = {"event": frames * 4, "slice": frames // 2, "quarter": frames / 2, "frame": frames}
    parts = {"": nats, ".end": nats + 1.0, ".pitch": nats * 0.75, ".duration": nats * 0.25}
    ratios = {
        f"nats_per_{unit}{part}": (float(value), float(count))
        for unit, count in units.items()
        for part, value in parts.items()
    }
    return PieceScores(source, leaked, ratios)


def test_nats_are_all_nats_over_all_units_or_the_mean_of_each_piece():
    found = {(f.metric, f.weight, f.part): f.value for f in figures([piece(100, 20), piece(60, 10)])}
    assert found["nats_per_frame", "units", ""] == pytest.approx(160 / 30)
    assert found["nats_per_frame", "pieces", ""] == pytest.approx((5 + 6) / 2)
    assert found["nats_per_frame", "units", "end"] == pytest.approx(162 / 30)
    assert found["nats_per_frame", "units", "pitch"] == pytest.approx(120 / 30)
    assert found["nats_per_frame", "units", "duration"] == pytest.approx(40 / 30)
    assert found["nats_per_event", "units", ""] == pytest.approx(160 / 120)
    assert found["nats_per_slice", "units", ""] == pytest.approx(160 / 15)
    assert found["nats_per_quarter", "units", ""] == pytest.approx(160 / 15)


def test_what_one_piece_cannot_be_divided_by_has_no_figure():
    frameless = piece(60, 10)
    frameless.ratios.update(
        {name: (value, 0.0) for name, (value, _) in frameless.ratios.items() if "per_frame" in name}
    )
    metrics = {figure.metric for figure in figures([piece(100, 20), frameless])}
    assert metrics == {"nats_per_event", "nats_per_slice", "nats_per_quarter"}


def test_an_interval_covers_what_it_should_about_as_often_as_it_says():
    """Pieces from a population whose ratio is known: of 200 samples about 95 % of intervals hold it."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        frames = rng.integers(20, 60, 40)
        pieces = [piece(float(n * rng.normal(5, 1)), int(n)) for n in frames]
        figure = pick(figures(pieces), "nats_per_frame")
        hits += figure.low <= 5 <= figure.high
    assert 180 <= hits <= 199


def scores_of(vocabulary, tokens, nats, hits=None, meter=(4, 4), frame=3):
    """What a model said of a piece of these events; <start> is not among them."""
    ticks = int(np.array(tokens)[:, 1].sum())
    facts = CorpusPiece(
        0, 1 + len(tokens), "test", "a", "", 0, False, "C major", 0, 90.0, meter, 0, 0, ticks, 0, True, frame
    )
    ranks = None if hits is None else 1 - np.array(hits)  # one id was likelier where the first was wrong
    return EventScores(facts, vocabulary, np.array(tokens, np.int32), np.array(nats, np.float32), ranks)


# Two pitches; a rest, from tick 12; six pitches, from 18; one pitch, from 36, of which the whole is 48 long.
EIGHT = [
    *[(A + 60, 0), (A + 64, 12), (REST, 6), (H + 60, 0), (A + 62, 0), (A + 64, 0)],
    *[(A + 65, 0), (A + 67, 0), (A + 69, 18), (A + 60, 12), (END, 0)],
]
# Each a power of two, so that a sum tells what is in it; durations cost a thousandth of pitches.
EIGHT_NATS = [(2.0**number, 2.0**number / 1024) for number in range(len(EIGHT))]


def test_nats_are_divided_by_events_slices_quarters_and_frames():
    found = measure(scores_of(NoteVocabulary(), EIGHT, EIGHT_NATS)).ratios
    pitch, duration = 1023.0, 1023 / 1024
    for unit, count in {"event": 10, "slice": 4, "quarter": 4, "frame": 16}.items():
        assert found[f"nats_per_{unit}"] == (pitch + duration, count)
        assert found[f"nats_per_{unit}.pitch"] == (pitch, count)
        assert found[f"nats_per_{unit}.duration"] == (duration, count)
        assert found[f"nats_per_{unit}.end"] == (2047 + 2047 / 1024, count)


def test_accuracy_counts_events_whose_likeliest_ids_were_right_but_for_the_end():
    pitch = [1, 1, 0, 0, 1, 1, 0, 1, 0, 0, 1]
    duration = [1, 1, 1, 1, 1, 0, 1, 1, 1, 0, 0]
    hits = np.stack([pitch, duration], axis=1)
    found = measure(scores_of(NoteVocabulary(), EIGHT, EIGHT_NATS, hits))
    assert found.ratios["accuracy.pitch"] == (5, 10)
    assert found.ratios["accuracy.duration"] == (8, 10)
    assert found.ratios["accuracy"] == (4, 10)
    assert pick(figures([found, found]), "accuracy").value == pytest.approx(0.4)
    assert find_metric("accuracy").higher_is_better
    unknown = measure(scores_of(NoteVocabulary(), EIGHT, EIGHT_NATS))
    assert not any(figure.metric == "accuracy" for figure in figures([unknown]))


def shared_out(ratios, metric):
    """Which events are in each part of a metric that has any."""
    parts = {}
    for name, (nats, count) in ratios.items():
        if name.startswith(f"{metric}.") and count:
            whole = round(nats * 1024 / 1025)
            parts[name.partition(".")[2]] = [k for k in range(len(EIGHT)) if whole >> k & 1]
            assert len(parts[name.partition(".")[2]]) == count
    return parts


def test_nats_by_position_are_those_of_slices_that_begin_there():
    """A bar of 3/4 has 36 ticks and three beats, of 6/8 six beats of an eighth, of 2/4 24 ticks."""
    of_three, of_six, of_two = (
        shared_out(
            measure(scores_of(NoteVocabulary(), EIGHT, EIGHT_NATS, meter=meter)).ratios, "nats_by_position"
        )
        for meter in ((3, 4), (6, 8), (2, 4))
    )
    assert of_three == {"bar line": [0, 1, 9], "beat": [2], "between": [3, 4, 5, 6, 7, 8]}
    assert of_six == {"bar line": [0, 1, 9], "beat": [2, 3, 4, 5, 6, 7, 8]}
    assert of_two == {"bar line": [0, 1], "beat": [2, 9], "between": [3, 4, 5, 6, 7, 8]}


def test_nats_by_voice_are_those_of_a_place_in_the_slice_from_the_lowest_voice_up():
    ratios = measure(scores_of(NoteVocabulary(), EIGHT, EIGHT_NATS)).ratios
    assert shared_out(ratios, "nats_by_voice") == {
        "1": [0, 2, 3, 9],
        "2": [1, 4],
        "3": [5],
        "4": [6],
        "5 and above": [7, 8],
    }
    voices = [(A + 48, 0), (REST, 12), (H + 48, 0), (A + 60, 3), (END, 0)]
    found = measure(scores_of(VoiceVocabulary(2), voices, EIGHT_NATS[: len(voices)]))
    assert shared_out(found.ratios, "nats_by_voice") == {"1": [0, 2], "2": [1, 3]}
    high_first = VoiceVocabulary(2, order="high-first")
    turned = measure(scores_of(high_first, voices, EIGHT_NATS[: len(voices)]))
    assert shared_out(turned.ratios, "nats_by_voice") == {"1": [1, 3], "2": [0, 2]}
    # What no piece has is no figure; the two voices are.
    assert [f.part for f in figures([found]) if f.metric == "nats_by_voice"] == ["1", "2"]


def test_what_only_some_pieces_have_has_an_interval_of_them():
    slow = measure(scores_of(NoteVocabulary(), [(A + 60, 48), (END, 0)], [(3.0, 1.0), (0.5, 0.5)]))
    quick = measure(scores_of(NoteVocabulary(), [(A + 60, 3), (A + 62, 45), (END, 0)], [(1.0, 1.0)] * 3))
    between = pick(figures([slow, slow, quick]), "nats_by_position", "between")
    assert (between.value, between.low, between.high) == (2, 2, 2)


def test_a_piece_without_music_is_measured():
    silence = measure(scores_of(NoteVocabulary(), [(END, 0)], [(0.5, 0.25)], [(True, True)]))
    assert silence.ratios["nats_per_event.end"] == (0.75, 0)
    assert all(ratio == (0, 0) for name, ratio in silence.ratios.items() if not name.endswith(".end"))


def test_a_metric_that_is_not_there_is_told_with_those_like_it():
    with pytest.raises(InputError, match="no metric nats_per_bra; did you mean nats_per_frame"):
        find_metric("nats_per_bra")


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
    for _ in range(count):
        owner = np.repeat(np.arange(12), rng.integers(0, 4, 12))
        pitch, attacked = rng.integers(124, 128, len(owner)), rng.random(len(owner)) < 0.5
        slices = from_entries(rng.integers(1, 5, 12), owner, pitch, attacked)
        made.append(NOTE.encode(Piece(to_notes(slices), length=int(slices.duration.sum()))))
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
        made.append(VOICE.encode(Piece(notes[kept])))
    return made


def what_may_follow(vocabulary, tokens):
    """After each event, (T, V, R): which pitch ids may come next, and which duration ids with each."""
    rules, limits = vocabulary.rules, vocabulary.rules.limits()
    mask = np.ones((1, len(tokens)), bool)

    @jax.jit
    def of_all(events):
        _, after = rules.follow(rules.initial_carry(1), events, mask)

        def lasting(id):
            earlier = {"pitch": jax.numpy.full(mask.shape, id)}
            return rules.allowed(after, limits, "duration", earlier)[0]

        ids = jax.numpy.arange(vocabulary.streams[0].size)
        return rules.allowed(after, limits, "pitch", {})[0], jax.vmap(lasting, out_axes=1)(ids)

    pitch, duration = map(np.asarray, of_all(by_stream(vocabulary, tokens[None])))
    return pitch[:, :, None] & duration


def all_next(vocabulary, tokens, count, allowed):
    """All that the rules allow after the first `count` events, as baselines see it."""
    for pitch in np.flatnonzero(allowed[count - 1].any(axis=1)).tolist():
        longer = np.concatenate([tokens[:count], np.array([[pitch, 0]], np.int32)])
        *_, event = events_of(vocabulary, longer)
        # Nothing else of an event depends on its last stream.
        for duration in np.flatnonzero(allowed[count - 1, pitch]).tolist():
            yield event._replace(ids=(event.ids[0], duration))


@pytest.mark.parametrize(
    ("vocabulary", "some"),
    [(NOTE, some_pieces), (chord_vocabulary(4, 6), some_chords), (VOICE, some_voices)],
    ids=["note", "chord", "voice"],
)
def test_baselines_give_probability_one_to_all_that_the_rules_allow_next(vocabulary, some):
    unigram = Unigram(vocabulary)
    learned = {"unigram": unigram, "copy": Copy(unigram), "ngram": SliceNGram(unigram)}
    for tokens in some(0):
        for event in events_of(vocabulary, tokens):
            for model in learned.values():
                model.learn(event)
    (tokens,) = some(9, count=1)
    allowed = what_may_follow(vocabulary, tokens)
    for count in range(1, len(tokens)):
        events = list(all_next(vocabulary, tokens, count, allowed))
        for name, model in {"uniform": Unigram(vocabulary), **learned}.items():
            chances = [model.probabilities(event) for event in events]
            assert np.prod(chances, axis=1).sum() == pytest.approx(1), (name, count)


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
    found = [measure(event_scores(chorales, *each)).ratios for each in zip(pieces, ones, strict=True)]
    assert (len(found), sum(ratios["nats_per_frame"][1] for ratios in found)) == (77, 4725)
    assert sum(ratios["nats_per_quarter"][1] for ratios in found) == 4725
    for ratios in found:
        pitches, events = ratios["nats_per_event.pitch"]
        assert pitches == events
        assert ratios["nats_per_event.end"][0] == ratios["nats_per_event"][0] + 2


def test_every_baseline_is_better_than_the_one_before_on_the_chorales(chorales):
    models = list(evaluate_baselines(chorales, "valid"))
    assert [model.model for model in models] == ["uniform", "unigram", "copy", "ngram"]
    found = [pick(figures(m.pieces), "nats_per_frame").value for m in models]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 7
    lines = table(models)
    assert lines[0].split()[:3] == ["nats", "per", "frame"]
    assert sum(line.startswith("  clean (47 pieces)") for line in lines) == 4
    names = {row["name"] for row in rows_of(models[0], {"split": "valid"}, command="midigen evaluate")}
    units = [f"nats_per_{unit}" for unit in ("event", "slice", "quarter", "frame")]
    assert names == {f"evaluate.{name}" for name in (*units, "nats_by_position", "nats_by_voice")}


def test_baselines_find_what_they_were_counted_from_likelier(chorales):
    """Counts come from the training split, so that validation is new to them."""
    split_of = {name: chorales.split(name)[:20] for name in ("train", "valid")}
    ngram = baselines(chorales)["ngram"]
    means = {
        name: np.concatenate(score("ngram", ngram, chorales, pieces)).sum()
        / sum(p.stop - p.start for p in pieces)
        for name, pieces in split_of.items()
    }
    assert means["train"] < 0.7 * means["valid"]
