"""A census counts what sounds, exactly, and what a vocabulary of chords would cover."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midigen_jax.music.census import Census, Counted, covered, ranked, unseen
from midigen_jax.music.key import Key
from midigen_jax.music.notes import make_notes
from midigen_jax.music.slices import slice_notes

C = Key(0, "major")
THIRD, FIFTH, LOW = bytes([60, 64]), bytes([60, 67]), bytes([60])


def counted(*rows: tuple[int, int, int], split: str = "", unknown: int = 0, key: Key = C) -> Counted:
    """A piece of notes (onset, duration, pitch) at 60 quarters a minute in 3/4."""
    onset, duration, pitch = zip(*rows, strict=True)
    slices = slice_notes(make_notes(onset, duration, pitch, np.zeros(len(rows))))
    return Counted(slices, key, 60.0, (3, 4), int(slices.duration.sum()), 7, split, unknown)


@pytest.fixture
def tiny():
    """A held C4 under E4, silence, and a C4 alone: 24 + 12 + 12 ticks in four slices."""
    census = Census()
    census.add(counted((0, 24, 60), (0, 12, 64), (36, 12, 60)))
    return census


def test_notes_are_counted_where_they_are_struck(tiny):
    assert tiny.whole.notes == 3
    assert {pitch: count for pitch, count in enumerate(tiny.pitch.tolist()) if count} == {60: 2, 64: 1}
    assert tiny.note_ticks == {24: 1, 12: 2}


def test_time_is_counted_by_what_sounds_in_it(tiny):
    assert tiny.sounding[:3].tolist() == [12, 24, 12]
    assert tiny.sounding.sum() == 48
    assert tiny.slice_ticks == {12: 4}
    assert tiny.whole.slices == 4
    assert tiny.whole.minutes == pytest.approx(4 / 60)  # four quarters at 60


def test_silence_is_no_chord(tiny):
    assert tiny.whole.chords == {THIRD: 1, LOW: 2}


def test_a_piece_is_counted_with_its_key_tempo_and_meter(tiny):
    tiny.add(counted((0, 12, 60), key=Key(9, "minor")))
    assert tiny.keys == {C: 1, Key(9, "minor"): 1}
    assert tiny.tempos == [60.0, 60.0]
    assert tiny.meters == {(3, 4): 2}
    assert (tiny.whole.pieces, tiny.whole.events) == (2, 14)


def test_splits_are_counted_apart_and_together():
    census = Census()
    for split, pitch in (("train", 60), ("train", 62), ("valid", 60), ("test", 64)):
        census.add(counted((0, 12, pitch), split=split))
    assert {name: part.pieces for name, part in census.parts.items()} == {"train": 2, "valid": 1, "test": 1}
    assert census.training.chords == {bytes([60]): 1, bytes([62]): 1}
    assert census.held_out.chords == {bytes([60]): 1, bytes([64]): 1}
    assert census.whole.pieces == 4


def test_the_most_frequent_chords_come_first_and_of_equals_the_lower():
    chords = Counter({FIFTH: 1, THIRD: 1, LOW: 5})
    assert ranked(chords) == [(LOW, 5), (THIRD, 1), (FIFTH, 1)]


def test_coverage_grows_with_the_vocabulary_and_ends_where_the_unknown_begins():
    chords = Counter({LOW: 2, THIRD: 1, FIFTH: 1})
    assert covered(chords).tolist() == [0, 0.5, 0.75, 1]
    assert covered(chords, unknown=4).tolist() == [0, 0.25, 0.375, 0.5]


def test_a_held_out_chord_is_unseen_until_the_vocabulary_reaches_it():
    chords, held_out = Counter({LOW: 2, THIRD: 1}), Counter({THIRD: 1, FIFTH: 1})
    assert unseen(chords, held_out).tolist() == [1, 1, 0.5]
    assert unseen(chords, held_out, unknown=2).tolist() == [1, 1, 0.75]


def test_unseen_is_what_the_training_split_lacks_or_without_splits_every_other_piece():
    census, split = Census(), Census()
    census.add(counted((0, 12, 60), (12, 12, 62), (24, 12, 60)))
    census.add(counted((0, 12, 60), (12, 12, 64)))
    assert census.unseen_share == 2 / 5
    split.add(counted((0, 12, 60), (12, 12, 62), split="train"))
    split.add(counted((0, 12, 60), (12, 12, 64), split="valid", unknown=1))
    assert split.unseen_share == 2 / 3


notes = st.tuples(st.integers(0, 200), st.integers(1, 60), st.integers(0, 127))


@given(st.lists(st.lists(notes, min_size=1, max_size=20), min_size=1, max_size=4))
def test_for_any_pieces_all_counts_tell_of_the_same_music(pieces):
    census = Census()
    for rows in pieces:
        census.add(counted(*rows))
    whole = census.whole
    assert census.pitch.sum() == whole.notes == census.note_ticks.total()
    assert census.slice_ticks.total() == whole.slices
    ticks = sum(length * count for length, count in census.slice_ticks.items())
    assert census.sounding.sum() == ticks == pytest.approx(12 * 60 * whole.minutes)
    assert whole.chords.total() <= whole.slices
    shares = covered(whole.chords)
    assert np.all(np.diff(shares) > 0)
    assert shares[-1] == pytest.approx(1)
    assert unseen(whole.chords, whole.chords) == pytest.approx(1 - shares)
    assert 0 <= census.unseen_share <= 1
