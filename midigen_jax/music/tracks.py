"""Tracks: which of a piece's notes are wanted: all, the piano's, the melody, or those of one track.

In: rows of notes and what is known of their tracks. Out: the rows that are wanted. It is asked before notes
are quantised, so a piece is read as if it held nothing else.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from midigen_jax.errors import InputError

Rows = TypeVar("Rows", NDArray[np.int32], NDArray[np.int64])
"""(N, 4): onset, any measure of length, pitch, index of the track: Notes, or what is to become notes."""

_PIANOS = range(8)  # General MIDI programs: grand, upright and electric pianos, harpsichord, clavinet
_MELODY = re.compile(r"\b(melod|vocal|voice|lead\b)", re.IGNORECASE)
_ALMOST_EMPTY = 0.1


class Track(NamedTuple):
    """What is known of the notes with one index."""

    name: str = ""
    program: int = 0
    """General MIDI, 0 to 127; 0 is the grand piano, and what plays where nothing is said"""
    number: int = 0
    """the track of the file that it is part of: one with many channels or programs has many indices"""


def choose(rows: Rows, tracks: Sequence[Track], wanted: str) -> Rows:
    """The rows of the `wanted` tracks: all, piano, melody, or a number; tracks[i] describes index i.

    - piano: what programs 0 to 7 play.
    - melody: the track whose name says so (melody, vocal, voice, lead). If none or several do: the one whose
      top line lies highest on average, the "top channel" of Uitdenbogerd and Zobel, Manipulation of music for
      melody matching (1998); a track with at most a tenth of the busiest one's onsets does not count.
    - a number: the first, second … of the file's tracks that have notes.

    Raises InputError where there is no such track.
    """
    if wanted == "all" or len(rows) == 0:
        return rows
    number = np.array([track.number for track in tracks])[rows[:, 3]]
    if wanted == "piano":
        pianos = [index for index, track in enumerate(tracks) if track.program in _PIANOS]
        kept = np.isin(rows[:, 3], pianos)
        if not kept.any():
            raise InputError("no piano in it (programs 0 to 7); choose other tracks")
        return rows[kept]
    if wanted == "melody":
        return rows[number == _melody(rows, number, tracks)]
    if not re.fullmatch("[1-9][0-9]{0,4}", wanted):
        raise InputError(f"tracks = {wanted!r}: give all, piano, melody, or a number from 1 on")
    sounding = np.unique(number)
    if int(wanted) > len(sounding):
        raise InputError(f"no track {wanted}: it has {len(sounding)} with notes; choose another")
    return rows[number == sounding[int(wanted) - 1]]


def _melody(rows: Rows, number: NDArray[np.int64], tracks: Sequence[Track]) -> int:
    """The number of the track with the melody; `number` (N,) is that of each row."""
    onset, pitch = rows[:, 0], rows[:, 2]
    order = np.lexsort((pitch, onset, number))
    is_top = np.append((np.diff(number[order]) != 0) | (np.diff(onset[order]) != 0), True)
    top = order[is_top]
    onsets = np.bincount(number[top])
    height = np.bincount(number[top], weights=pitch[top]) / np.maximum(onsets, 1)
    sounding = np.flatnonzero(onsets)
    named = np.intersect1d([track.number for track in tracks if _MELODY.search(track.name)], sounding)
    asked = named if len(named) else sounding
    asked = asked[onsets[asked] > _ALMOST_EMPTY * onsets[asked].max()]
    return int(asked[height[asked].argmax()])


def main_program(rows: Rows, tracks: Sequence[Track]) -> int:
    """The program of the most notes; 0 if there are none."""
    if len(rows) == 0:
        return 0
    programs = np.array([track.program for track in tracks])
    return int(np.bincount(programs[rows[:, 3]]).argmax())
