"""Slices: what sounds when, and what was struck."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midigen_jax.errors import InputError
from midigen_jax.music.notes import Notes, make_notes
from midigen_jax.music.slices import Slices, canonical, from_entries, slice_notes, to_notes

NOTES = st.lists(
    st.tuples(st.integers(0, 80), st.integers(1, 60), st.integers(56, 68), st.integers(0, 2)), max_size=30
).map(lambda rows: make_notes(*np.array(rows, np.int64).reshape(-1, 4).T))


@st.composite
def loose_slices(draw: st.DrawFn) -> Slices:
    """Any slices at all: rests anywhere, held pitches that never began, slices in which nothing changes."""
    size = draw(st.integers(0, 8))
    entry = st.tuples(st.integers(0, max(size - 1, 0)), st.integers(60, 64), st.booleans())
    owner, pitch, attacked = np.array(draw(st.lists(entry, max_size=25 if size else 0))).reshape(-1, 3).T
    duration = np.array(draw(st.lists(st.integers(1, 30), min_size=size, max_size=size)), np.int32)
    return from_entries(duration, owner.astype(int), pitch.astype(int), attacked.astype(bool))


def pictured(slices: Slices) -> list:
    """[(ticks, {pitch: attacked})]"""
    marks = list(zip(slices.pitch.tolist(), slices.attacked.tolist(), strict=True))
    return [
        (ticks, dict(marks[a:b]))
        for ticks, a, b in zip(slices.duration.tolist(), slices.start[:-1], slices.start[1:], strict=True)
    ]


def roll(notes: Notes) -> tuple[np.ndarray, np.ndarray]:
    """Two boolean arrays (time, pitch), one row a tick from the first onset: sounding, and struck."""
    onset, duration, pitch, _ = notes.T
    first, last = (onset.min(), (onset + duration).max()) if len(notes) else (0, 0)
    sounding, struck = np.zeros((2, last - first, 128), bool)
    for at, ticks, key in zip(onset - first, duration, pitch, strict=True):
        sounding[at : at + ticks, key] = True
        struck[at, key] = True
    return sounding, struck


def test_cut_at_every_attack_and_every_release() -> None:
    notes = make_notes([0, 0, 6], [12, 6, 12], [60, 64, 67], [0, 0, 0])
    assert pictured(slice_notes(notes)) == [
        (6, {60: True, 64: True}),
        (6, {60: False, 67: True}),
        (6, {67: False}),
    ]


def test_a_pitch_struck_again_is_attacked_again() -> None:
    assert pictured(slice_notes(make_notes([0, 6], [6, 6], [60, 60], [0, 0]))) == [
        (6, {60: True}),
        (6, {60: True}),
    ]


def test_a_unison_of_two_tracks_is_one_pitch() -> None:
    notes = make_notes([0, 3, 3], [12, 3, 3], [60, 60, 67], [0, 1, 1])
    assert pictured(slice_notes(notes)) == [
        (3, {60: True}),
        (3, {60: True, 67: True}),
        (6, {60: False}),
    ]


def test_a_release_that_another_track_covers_is_no_cut() -> None:
    assert pictured(slice_notes(make_notes([0, 0], [12, 6], [60, 60], [0, 1]))) == [(12, {60: True})]


def test_rests_are_inside_only() -> None:
    assert pictured(slice_notes(make_notes([7, 20], [3, 4], [60, 62], [0, 0]))) == [
        (3, {60: True}),
        (10, {}),
        (4, {62: True}),
    ]


def test_canonical_merges_and_mends() -> None:
    loose = from_entries(
        np.array([5, 2, 4, 4, 1, 1, 9]),
        np.array([1, 2, 3]),
        np.array([60, 60, 60]),
        np.array([False, False, True]),
    )
    assert pictured(canonical(loose)) == [(6, {60: True}), (4, {60: True})]


def test_nothing_sounds_in_nothing() -> None:
    assert len(slice_notes(make_notes([], [], [], []))) == 0
    none = np.zeros(0, int)
    silence = from_entries(np.array([3, 4]), none, none, none > 0)
    assert canonical(silence) == slice_notes(make_notes([], [], [], []))
    assert to_notes(canonical(silence)).shape == (0, 4)


def test_slices_are_equal_by_content() -> None:
    one, two = (slice_notes(make_notes([0], [ticks], [60], [0])) for ticks in (6, 7))
    assert one == slice_notes(make_notes([3], [6], [60], [4]))
    assert one != two
    assert one != "slices"


def test_what_would_take_gigabytes_is_refused_before_it_is_made() -> None:
    """A hundred pitches that are held while a million notes begin."""
    onset = np.append(np.zeros(100), np.arange(1_000_000))
    duration = np.append(np.full(100, 1_000_000), np.ones(1_000_000))
    pitch = np.append(np.arange(100), 100 + np.arange(1_000_000) % 20)
    notes = make_notes(onset, duration, pitch, np.zeros(1_000_100))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"101,000,000 pitches in 1,000,000 slices .* cut the piece up"):
        slice_notes(notes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6


@given(NOTES)
def test_any_notes_sound_the_same_when_sliced(notes: Notes) -> None:
    expected, found = roll(notes), roll(to_notes(slice_notes(notes)))
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@given(NOTES)
def test_slices_of_any_notes_are_canonical(notes: Notes) -> None:
    slices = slice_notes(notes)
    assert canonical(slices) == slices
    assert slices.duration.dtype == slices.start.dtype == slices.pitch.dtype == np.int32
    before: dict[int, bool] = {}
    for number, (ticks, pitches) in enumerate(pictured(slices)):
        assert ticks >= 1
        assert list(pitches) == sorted(pitches)
        assert all(attacked or pitch in before for pitch, attacked in pitches.items())
        assert number == 0 or any(pitches.values()) or set(pitches) != set(before)
        before = pitches
    if len(slices):
        assert slices.count[0] > 0
        assert slices.count[-1] > 0


@given(loose_slices())
def test_any_canonical_slices_survive_notes(loose: Slices) -> None:
    slices = canonical(loose)
    assert canonical(slices) == slices
    assert slice_notes(to_notes(slices)) == slices


@given(loose_slices())
def test_canonical_changes_nothing_that_can_be_heard(loose: Slices) -> None:
    np.testing.assert_array_equal(roll(to_notes(loose))[0], roll(to_notes(canonical(loose)))[0])
    np.testing.assert_array_equal(roll(to_notes(loose))[1], roll(to_notes(canonical(loose)))[1])
