"""Notes: the form that every reader gives and every writer takes, in whole ticks of a `clock.Clock`."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from midigen_jax.errors import InputError

Notes = NDArray[np.int32]
"""(N, 4): onset and duration in ticks, MIDI pitch 0..127, track. Made by `make_notes`."""


_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


def pitch_name(pitch: int) -> str:
    """The name of a MIDI pitch: 60 is C4."""
    return f"{_NAMES[pitch % 12]}{pitch // 12 - 1}"


_Column = NDArray[np.int64]


def make_notes(onset: ArrayLike, duration: ArrayLike, pitch: ArrayLike, track: ArrayLike) -> Notes:
    """Four integer columns of length N as canonical notes, sorted by onset, pitch and track.

    A duration below 1 becomes 1. Of notes that overlap on one pitch of one track the earlier ends where
    the later begins, and of those that begin together the longest stays, as on a keyboard.
    Raises InputError for a pitch outside 0..127, a negative onset, or a time too large for 32 bits;
    ValueError for a track outside 0..2**24 - 1.
    """
    columns = [np.asarray(column, np.int64).reshape(-1) for column in (onset, duration, pitch, track)]
    onsets, durations, pitches, tracks = columns
    if len(onsets) == 0:
        return np.zeros((0, 4), np.int32)
    durations = np.maximum(durations, 1)
    _require_in_range(onsets, durations, pitches, tracks)
    # Whole numbers that sort as the rows do: sorting these is several times faster than sorting rows.
    place = (tracks << 7 | pitches) << 31 | onsets
    order = np.argsort(place, kind="stable")
    place = place[order]
    first = np.flatnonzero(np.append(True, place[1:] != place[:-1]))
    durations, place = np.maximum.reduceat(durations[order], first), place[first]
    key, onsets = place >> 31, place & 0x7FFFFFFF
    room = np.where(key[1:] == key[:-1], np.diff(onsets), durations[:-1])
    durations[:-1] = np.minimum(durations[:-1], room)
    pitches, tracks = key & 0x7F, key >> 7
    notes = np.stack([onsets, durations, pitches, tracks], axis=1).astype(np.int32)
    return notes.take(np.argsort(onsets << 31 | pitches << 24 | tracks, kind="stable"), axis=0)


def until(notes: Notes, tick: int) -> Notes:
    """The notes that begin before a tick, each as long as there is room."""
    onset, duration, pitch, track = notes[notes[:, 0] < tick].T
    return make_notes(onset, np.minimum(duration, tick - onset), pitch, track)


def _require_in_range(onsets: _Column, durations: _Column, pitches: _Column, tracks: _Column) -> None:
    if pitches.min() < 0 or pitches.max() > 127:
        wrong = pitches[(pitches < 0) | (pitches > 127)][0]
        raise InputError(f"pitch {wrong} is outside 0..127: transpose the music into the range")
    if onsets.min() < 0:
        raise InputError(f"onset {onsets.min()} is negative: shift the music to begin at 0")
    if (onsets + durations).max() > np.iinfo(np.int32).max:
        raise InputError("the music is longer than 2**31 ticks: cut it into pieces")
    if tracks.min() < 0 or tracks.max() >= 1 << 24:
        raise ValueError("a track is outside 0..2**24 - 1")
