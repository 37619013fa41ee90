"""Notes: canonical whatever came in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from midigen_jax.errors import InputError
from midigen_jax.music.notes import make_notes

ROWS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(-3, 40), st.integers(58, 64), st.integers(0, 2)), max_size=40
)


def columns(rows: list[tuple[int, ...]]) -> NDArray[np.int64]:
    return np.array(rows, np.int64).reshape(-1, 4).T


def test_sorted_by_onset_pitch_and_track() -> None:
    notes = make_notes([6, 0, 0, 0], [6, 6, 6, 6], [60, 64, 60, 60], [0, 0, 1, 0])
    assert notes.tolist() == [[0, 6, 60, 0], [0, 6, 60, 1], [0, 6, 64, 0], [6, 6, 60, 0]]
    assert notes.dtype == np.int32


def test_no_duration_becomes_one_tick() -> None:
    assert make_notes([5], [0], [60], [0]).tolist() == [[5, 1, 60, 0]]


def test_an_earlier_note_ends_where_the_next_on_its_pitch_begins() -> None:
    assert make_notes([0, 4], [12, 2], [60, 60], [0, 0]).tolist() == [[0, 4, 60, 0], [4, 2, 60, 0]]


def test_other_tracks_and_pitches_do_not_end_it() -> None:
    notes = make_notes([0, 4, 4], [12, 2, 2], [60, 60, 61], [0, 1, 0])
    assert notes[0].tolist() == [0, 12, 60, 0]


def test_of_notes_that_begin_together_the_longest_stays() -> None:
    assert make_notes([0, 0, 0], [3, 9, 6], [60, 60, 60], [0, 0, 0]).tolist() == [[0, 9, 60, 0]]


@given(ROWS)
def test_any_notes_come_out_canonical(rows: list[tuple[int, ...]]) -> None:
    notes = make_notes(*columns(rows))
    _, duration, pitch, track = notes.T
    assert (duration >= 1).all()
    assert notes[:, [0, 2, 3]].tolist() == sorted(notes[:, [0, 2, 3]].tolist())
    assert {(o, p, t) for o, _, p, t in notes.tolist()} == {(o, p, t) for o, _, p, t in rows}
    for number in set(track.tolist()):
        for key in set(pitch.tolist()):
            line = notes[(pitch == key) & (track == number)]
            assert (line[:-1, 0] + line[:-1, 1] <= line[1:, 0]).all()
    np.testing.assert_array_equal(make_notes(*notes.T), notes)


@pytest.mark.parametrize(
    ("onset", "duration", "pitch", "words"),
    [(0, 1, 128, "pitch 128"), (0, 1, -1, "pitch -1"), (-1, 1, 60, "onset -1"), (2**31, 1, 60, "longer")],
)
def test_what_cannot_be_is_refused(onset: int, duration: int, pitch: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_notes([onset], [duration], [pitch], [0])


def test_a_track_that_cannot_be_counted_is_a_mistake_of_ours() -> None:
    for track in (-1, 2**24):
        with pytest.raises(ValueError, match="track"):
            make_notes([0], [1], [60], [track])


def test_no_notes() -> None:
    assert make_notes([], [], [], []).shape == (0, 4)
