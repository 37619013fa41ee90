"""Tokens: nothing is lost on the way to ids and back."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midigen_jax.errors import InputError
from midigen_jax.music.notes import make_notes
from midigen_jax.music.slices import Slices, canonical, from_entries, slice_notes
from midigen_jax.music.tokenizers import Tokenizer, tokenizer_from_json
from midigen_jax.music.tokens import END, START, ChordTokenizer, NoteTokenizer
from midigen_jax.music.voices import VoiceTokenizer

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


def slices_of(*rows: tuple[int, int, int]) -> Slices:
    """Slices of (onset, duration, pitch)."""
    onset, duration, pitch = np.array(rows).T
    return slice_notes(make_notes(onset, duration, pitch, np.zeros(len(rows))))


def test_one_event_a_pitch() -> None:
    assert NoteTokenizer().encode(slices_of((0, 12, 60), (0, 6, 64), (6, 6, 67))).tolist() == [
        [0, 0],
        [63, 0],  # C4 is struck …
        [67, 6],  # … with E4, for 6 ticks
        [191, 0],  # C4 is held …
        [70, 6],  # … while G4 is struck
        [1, 0],
    ]


def test_a_rest_is_one_event() -> None:
    tokens = NoteTokenizer().encode(slices_of((0, 3, 0), (9, 3, 127)))
    assert tokens.tolist() == [[0, 0], [3, 3], [2, 6], [130, 3], [1, 0]]


def test_long_slices_are_split_and_held() -> None:
    tokens = NoteTokenizer(max_duration=10).encode(slices_of((0, 25, 60), (0, 25, 64), (45, 10, 60)))
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
    silence = slice_notes(make_notes([], [], [], []))
    for tokenizer in (NoteTokenizer(), ChordTokenizer(())):
        assert tokenizer.encode(silence).tolist() == [[0, 0], [1, 0]]
        assert tokenizer.decode(tokenizer.encode(silence)) == silence


@given(SLICES, st.integers(1, 300))
def test_any_slices_survive_the_note_tokenizer(slices: Slices, max_duration: int) -> None:
    tokenizer = NoteTokenizer(max_duration)
    tokens = tokenizer.encode(slices)
    assert tokenizer.decode(tokens) == slices
    assert tokens.dtype == np.int32
    assert tokens[[0, -1]].tolist() == [[START, 0], [END, 0]]
    assert tokens[1:-1, 0].min(initial=2) >= 2
    assert tokens[:, 0].max() < tokenizer.pitch_size
    assert tokens[:, 1].max() < tokenizer.duration_size
    assert tokens[:, 1].sum() == slices.duration.sum()


@given(st.lists(st.tuples(st.integers(0, 258), st.sampled_from([0, 0, 1, 5, 96])), max_size=40))
def test_any_ids_decode_to_canonical_slices(rows: list[tuple[int, ...]]) -> None:
    tokenizer = NoteTokenizer()
    slices = tokenizer.decode(np.array(rows, np.int32).reshape(-1, 2))
    assert canonical(slices) == slices
    assert tokenizer.decode(tokenizer.encode(slices)) == slices


def test_decoding_ends_at_the_first_end_and_drops_what_is_unfinished() -> None:
    tokens = np.array([[0, 0], [63, 6], [67, 0], [1, 0], [63, 6]], np.int32)
    assert NoteTokenizer().decode(tokens) == slices_of((0, 6, 60))
    assert NoteTokenizer().decode(tokens[:3]) == slices_of((0, 6, 60))
    assert NoteTokenizer().decode(tokens[4:]) == slices_of((0, 6, 60))


def test_one_event_a_chord() -> None:
    slices = slices_of((0, 12, 60), (0, 6, 64), (6, 6, 64), (24, 3, 60), (27, 3, 61))
    tokenizer = ChordTokenizer(((60,), (60, 64)))
    tokens = tokenizer.encode(slices)
    assert tokens.tolist() == [[0, 0], [5, 6], [5, 6], [3, 12], [4, 3], [2, 3], [1, 0]]
    assert tokenizer.unknown_share(tokens) == pytest.approx(1 / 5)
    assert tokenizer.decode(tokens) == slices_of((0, 6, 60), (0, 6, 64), (6, 6, 60), (6, 6, 64), (24, 3, 60))


def test_chords_are_learned_by_count_and_then_by_pitch() -> None:
    pieces = [slices_of((0, 3, 62), (3, 3, 60), (6, 3, 62)), slices_of((0, 3, 64), (9, 3, 60), (12, 3, 61))]
    assert ChordTokenizer.learn(pieces).chords == ((60,), (62,), (61,), (64,))
    assert ChordTokenizer.learn(pieces, min_count=2).chords == ((60,), (62,))


@given(struck_slices())
def test_any_struck_slices_survive_the_chord_tokenizer(slices: Slices) -> None:
    tokenizer = ChordTokenizer.learn([slices])
    tokens = tokenizer.encode(slices)
    assert tokenizer.decode(tokens) == slices
    assert tokenizer.unknown_share(tokens) == 0
    assert len(tokens) >= len(slices) + 2


@given(SLICES)
def test_the_chord_tokenizer_keeps_time_and_pitches_of_any_slices(slices: Slices) -> None:
    tokenizer = ChordTokenizer.learn([slices], max_duration=7)
    tokens = tokenizer.encode(slices)
    assert tokens[:, 1].max() <= 7
    assert tokens[:, 1].sum() == slices.duration.sum()
    decoded = tokenizer.decode(tokens)
    assert decoded.attacked.all()
    assert (decoded.duration * decoded.count).sum() == (slices.duration * slices.count).sum()


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 96)), max_size=30))
def test_any_chord_ids_decode_to_canonical_slices(rows: list[tuple[int, ...]]) -> None:
    tokenizer = ChordTokenizer(((60,), (60, 64), (64, 67, 71)))
    slices = tokenizer.decode(np.array(rows, np.int32).reshape(-1, 2))
    assert canonical(slices) == slices


def test_symbols_for_people() -> None:
    note, chord = NoteTokenizer(), ChordTokenizer(((60, 64, 67), (61,)))
    assert [note.symbol(i) for i in (0, 1, 2, 63, 66, 191, 3, 258)] == [
        *("<start>", "<end>", "rest", "C4", "D#4", "(C4)", "C-1", "(G9)")
    ]
    assert [chord.symbol(i) for i in range(6)] == ["<start>", "<end>", "<unk>", "rest", "C4.E4.G4", "C#4"]


@pytest.mark.parametrize(
    "tokenizer", [NoteTokenizer(48), ChordTokenizer(((60,), (60, 64)), 24), VoiceTokenizer(3, 12)]
)
def test_json_and_back(tokenizer: Tokenizer) -> None:
    again = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert again == tokenizer
    assert hash(again) == hash(tokenizer)
    assert (again.pitch_size, again.duration_size) == (tokenizer.pitch_size, tokenizer.duration_size)


@pytest.mark.parametrize("data", [{}, {"name": "note"}, {"name": "word", "max_duration": 3}])
def test_json_of_nothing_that_we_wrote_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="tokenizer"):
        tokenizer_from_json(data)
