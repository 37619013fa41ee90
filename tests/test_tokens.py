"""Vocabularies: nothing is lost on the way to ids and back."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midigen_jax.config import PrepareConfig
from midigen_jax.errors import InputError
from midigen_jax.music.notes import make_notes
from midigen_jax.music.piece import Piece
from midigen_jax.music.slices import Slices, canonical, from_entries, slice_notes, to_notes
from midigen_jax.vocab import (
    END,
    START,
    Tokens,
    Vocabulary,
    slices_of,
    unknown_of,
    vocabulary_from_json,
)
from midigen_jax.vocab.chord import ChordVocabulary
from midigen_jax.vocab.note import NoteVocabulary
from midigen_jax.vocab.voice import VoiceVocabulary

# Every canonical slices is the slices of some notes (test_slices), so these are any canonical slices.
SLICES = st.lists(
    st.tuples(st.integers(0, 300), st.integers(1, 250), st.integers(0, 127), st.just(0)), max_size=25
).map(lambda rows: slice_notes(make_notes(*np.array(rows, np.int64).reshape(-1, 4).T)))


@st.composite
def struck_slices(draw: st.DrawFn, longest: int = 96) -> Slices:
    """Canonical slices that are all attacked, with rests among them."""
    chords = draw(st.lists(st.sets(st.integers(50, 56), max_size=3), max_size=12))
    duration = draw(st.lists(st.integers(1, longest), min_size=len(chords), max_size=len(chords)))
    entries = np.array([(i, p) for i, chord in enumerate(chords) for p in chord], int).reshape(-1, 2)
    owner, pitch = entries.T
    return canonical(from_entries(np.array(duration, int), owner, pitch, np.ones(len(owner), bool)))


def piece_of(*rows: tuple[int, int, int]) -> Piece:
    """Notes of (onset, duration, pitch)."""
    onset, duration, pitch = np.array(rows).T
    return Piece(make_notes(onset, duration, pitch, np.zeros(len(rows))))


def sounding(slices: Slices) -> Piece:
    """The piece of these slices."""
    return Piece(to_notes(slices))


def unknown_share(vocabulary: Vocabulary, tokens: Tokens) -> float:
    """Of all events but `<start>` and `<end>`."""
    return float(unknown_of(vocabulary.tables, tokens[1:-1]).mean())


def chords_of(*pieces: Piece, **settings: Any) -> ChordVocabulary:
    """The chords of pieces, all of them where the settings do not say otherwise."""
    config = PrepareConfig(tokenizer="chord", **({"min_chord_count": 1} | settings))
    return ChordVocabulary.make(config, pieces)


def test_one_event_a_pitch() -> None:
    assert NoteVocabulary().encode(piece_of((0, 12, 60), (0, 6, 64), (6, 6, 67))).tolist() == [
        [0, 0],
        [63, 0],  # C4 is struck …
        [67, 6],  # … with E4, for 6 ticks
        [191, 0],  # C4 is held …
        [70, 6],  # … while G4 is struck
        [1, 0],
    ]


def test_a_rest_is_one_event() -> None:
    tokens = NoteVocabulary().encode(piece_of((0, 3, 0), (9, 3, 127)))
    assert tokens.tolist() == [[0, 0], [3, 3], [2, 6], [130, 3], [1, 0]]


def test_long_slices_are_split_and_held() -> None:
    tokens = NoteVocabulary(max_duration=10).encode(piece_of((0, 25, 60), (0, 25, 64), (45, 10, 60)))
    assert tokens.tolist() == [
        [0, 0],
        [63, 0],
        [67, 10],
        [191, 0],
        [195, 10],
        [191, 0],
        [195, 5],
        [2, 10],
        [2, 10],
        [63, 10],
        [1, 0],
    ]


def test_silence_is_a_start_and_an_end() -> None:
    silence = Piece(make_notes([], [], [], []))
    for vocabulary in (NoteVocabulary(), ChordVocabulary(()), VoiceVocabulary(3)):
        assert vocabulary.encode(silence).tolist() == [[0, 0], [1, 0]]
        assert slices_of(vocabulary, vocabulary.encode(silence)) == silence.slices


@given(SLICES, st.integers(1, 300))
def test_any_slices_survive_the_note_vocabulary(slices: Slices, max_duration: int) -> None:
    vocabulary = NoteVocabulary(max_duration)
    tokens = vocabulary.encode(sounding(slices))
    assert slices_of(vocabulary, tokens) == slices
    assert tokens.dtype == np.int32
    assert tokens[[0, -1]].tolist() == [[START, 0], [END, 0]]
    assert tokens[1:-1, 0].min(initial=2) >= 2
    assert (tokens.max(axis=0) < [size for _, size in vocabulary.streams]).all()
    assert tokens[:, 1].sum() == slices.duration.sum()


@given(st.lists(st.tuples(st.integers(0, 258), st.sampled_from([0, 0, 1, 5, 96])), max_size=40))
def test_any_ids_decode_to_canonical_slices(rows: list[tuple[int, ...]]) -> None:
    vocabulary = NoteVocabulary()
    slices = slices_of(vocabulary, np.array(rows, np.int32).reshape(-1, 2))
    assert canonical(slices) == slices
    assert slices_of(vocabulary, vocabulary.encode(sounding(slices))) == slices


def test_decoding_ends_at_the_first_end_and_drops_what_is_unfinished() -> None:
    tokens = np.array([[0, 0], [63, 6], [67, 0], [1, 0], [63, 6]], np.int32)
    for written in (tokens, tokens[:3], tokens[4:]):
        assert slices_of(NoteVocabulary(), written) == piece_of((0, 6, 60)).slices


def test_one_event_a_chord() -> None:
    vocabulary = ChordVocabulary(((60,), (60, 64)))
    tokens = vocabulary.encode(piece_of((0, 12, 60), (0, 6, 64), (6, 6, 64), (24, 3, 60), (27, 3, 61)))
    assert tokens.tolist() == [[0, 0], [5, 6], [5, 6], [3, 12], [4, 3], [2, 3], [1, 0]]
    assert unknown_share(vocabulary, tokens) == pytest.approx(1 / 5)
    struck = piece_of((0, 6, 60), (0, 6, 64), (6, 6, 60), (6, 6, 64), (24, 3, 60))
    assert slices_of(vocabulary, tokens) == struck.slices


def test_chords_are_learned_by_count_and_then_by_pitch() -> None:
    pieces = piece_of((0, 3, 62), (3, 3, 60), (6, 3, 62)), piece_of((0, 3, 64), (9, 3, 60), (12, 3, 61))
    assert chords_of(*pieces).chords == ((60,), (62,), (61,), (64,))
    assert chords_of(*pieces, min_chord_count=2).chords == ((60,), (62,))


@given(struck_slices())
def test_any_struck_slices_survive_the_chord_vocabulary(slices: Slices) -> None:
    vocabulary = chords_of(sounding(slices))
    tokens = vocabulary.encode(sounding(slices))
    assert slices_of(vocabulary, tokens) == slices
    assert not unknown_of(vocabulary.tables, tokens).any()
    assert len(tokens) >= len(slices) + 2


@given(SLICES)
def test_the_chord_vocabulary_keeps_time_and_pitches_of_any_slices(slices: Slices) -> None:
    vocabulary = chords_of(sounding(slices), max_duration=7)
    tokens = vocabulary.encode(sounding(slices))
    assert tokens[:, 1].max() <= 7
    assert tokens[:, 1].sum() == slices.duration.sum()
    decoded = slices_of(vocabulary, tokens)
    assert decoded.attacked.all()
    assert (decoded.duration * decoded.count).sum() == (slices.duration * slices.count).sum()


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 96)), max_size=30))
def test_any_chord_ids_decode_to_canonical_slices(rows: list[tuple[int, ...]]) -> None:
    vocabulary = ChordVocabulary(((60,), (60, 64), (64, 67, 71)))
    slices = slices_of(vocabulary, np.array(rows, np.int32).reshape(-1, 2))
    assert canonical(slices) == slices


def test_symbols_for_people() -> None:
    note, chord = NoteVocabulary(), ChordVocabulary(((60, 64, 67), (61,)))
    assert [note.symbol("pitch", i) for i in (0, 1, 2, 63, 66, 191, 3, 258)] == [
        *("<start>", "<end>", "rest", "C4", "D#4", "(C4)", "C-1", "(G9)")
    ]
    assert [chord.symbol("pitch", i) for i in range(6)] == [
        "<start>",
        "<end>",
        "<unk>",
        "rest",
        "C4.E4.G4",
        "C#4",
    ]
    assert [vocabulary.symbol("duration", 12) for vocabulary in (note, chord, VoiceVocabulary(2))] == [
        "12"
    ] * 3


@pytest.mark.parametrize(
    "vocabulary", [NoteVocabulary(48), ChordVocabulary(((60,), (60, 64)), 24), VoiceVocabulary(3, 12)]
)
def test_json_and_back(vocabulary: Vocabulary) -> None:
    again = vocabulary_from_json(json.loads(json.dumps(vocabulary.to_json())))
    assert again == vocabulary
    assert hash(again) == hash(vocabulary)
    assert again.streams == vocabulary.streams


@pytest.mark.parametrize("data", [{}, {"name": "note"}, {"name": "word", "max_duration": 3}])
def test_json_of_nothing_that_we_wrote_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="vocabulary"):
        vocabulary_from_json(data)
