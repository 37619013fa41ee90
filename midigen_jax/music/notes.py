"""Notes: the form that every reader gives and every writer takes, in whole ticks, 12 to the quarter.

Sixteenths and eighth triplets both fall on that grid, so no floats and no fractions exist past the reader.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from midigen_jax.errors import InputError

TICKS_PER_QUARTER = 12

Notes = NDArray[np.int32]
"""(N, 4): onset and duration in ticks, MIDI pitch 0..127, track. Made by `make_notes`."""


def make_notes(onset: ArrayLike, duration: ArrayLike, pitch: ArrayLike, track: ArrayLike) -> Notes:
    """Four integer columns of length N as canonical notes, sorted by onset, pitch and track.

    A duration below 1 becomes 1. Of notes that overlap on one pitch of one track the earlier ends where
    the later begins, and of those that begin together the longest stays, as on a keyboard.
    Raises InputError for a pitch outside 0..127, a negative onset, or a time too large for 32 bits.
    """
    columns = [np.asarray(column, np.int64).reshape(-1) for column in (onset, duration, pitch, track)]
    onsets, durations, pitches, tracks = columns
    if len(onsets) == 0:
        return np.zeros((0, 4), np.int32)
    if pitches.min() < 0 or pitches.max() > 127:
        wrong = pitches[(pitches < 0) | (pitches > 127)][0]
        raise InputError(f"pitch {wrong} is outside 0..127: transpose the music into the range")
    if onsets.min() < 0:
        raise InputError(f"onset {onsets.min()} is negative: shift the music to begin at 0")
    if (onsets + durations).max() > np.iinfo(np.int32).max:
        raise InputError("the music is longer than 2**31 ticks: cut it into pieces")
    order = np.lexsort((-durations, onsets, pitches, tracks))
    onsets, durations, pitches, tracks = (column[order] for column in columns)
    same_key = (pitches[1:] == pitches[:-1]) & (tracks[1:] == tracks[:-1])
    first = np.append(True, ~(same_key & (onsets[1:] == onsets[:-1])))
    onsets, durations, pitches, tracks = (c[first] for c in (onsets, durations, pitches, tracks))
    same_key = (pitches[1:] == pitches[:-1]) & (tracks[1:] == tracks[:-1])
    durations = np.maximum(durations, 1)
    room = np.where(same_key, np.diff(onsets), durations[:-1])
    durations[:-1] = np.minimum(durations[:-1], room)
    notes = np.stack([onsets, durations, pitches, tracks], axis=1).astype(np.int32)
    return notes[np.lexsort((tracks, pitches, onsets))]
