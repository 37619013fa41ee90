"""The parts of a score in quarters, as readers give them, and their bars laid side by side.

A part may leave out the rests at the end of a bar, and then all that follows would come too early in it. So
a bar begins where the longest bar before it ends in any part.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from midigen_jax.music.clock import TWELFTHS, Clock
from midigen_jax.music.notes import Notes, make_notes
from midigen_jax.music.quantize import is_far

Quarters = NDArray[np.float64]

_CLOSE = 1e-6  # quarters; readers may count in floats


class Part(NamedTuple):
    """What one player plays."""

    name: str
    program: int
    """General MIDI, 0 to 127"""
    notes: Quarters
    """(N, 3): onset, end, MIDI pitch"""
    bars: Quarters
    """(M, 2): where each bar begins and ends; M is 0 where nothing is known of bars"""


class Written(NamedTuple):
    """A score as it is written; tempo (quarters a minute) and meter are None where it says nothing."""

    parts: list[Part]
    tempo: float | None
    meter: tuple[int, int] | None
    first_bar: float | None = None
    """quarters in the first bar, where bars are not known part by part"""
    signature: int | None = None
    """sharps of the first key signature, or flats, less than 0"""


def side_by_side(parts: list[Part]) -> tuple[list[Quarters], Quarters, list[str]]:
    """The notes of each part on a common time, the common bar lines (M + 1,), and what was out of step."""
    count = max((len(part.bars) for part in parts), default=0)
    if count == 0:
        return [part.notes for part in parts], np.zeros(0), []
    lengths = np.full((len(parts), count), np.nan)
    for row, part in zip(lengths, parts, strict=True):
        row[: len(part.bars)] = part.bars[:, 1] - part.bars[:, 0]
    longest = np.nanmax(lengths, axis=0)
    lines = np.append(0, np.cumsum(longest))
    moved = []
    for part in parts:
        notes, begins = part.notes.copy(), part.bars[:, 0]
        if len(notes) and len(begins):
            later = lines[: len(begins)] - begins
            # A note that ends with a bar belongs to that bar, and one that begins there to the next.
            bars = np.searchsorted(begins, notes[:, :2] + [_CLOSE, -_CLOSE]) - 1
            notes[:, :2] += later[np.maximum(bars, 0)]
        moved.append(notes)
    return moved, lines, _out_of_step(parts, lengths, longest)


def in_ticks(parts: Sequence[Quarters], clock: Clock = TWELFTHS) -> Notes:
    """The notes of all parts, a track for each."""
    track = np.repeat(np.arange(len(parts)), np.array([len(notes) for notes in parts], int))
    columns = np.concatenate([np.zeros((0, 3)), *parts])
    # A half of a tick goes to the even one, whatever floats made of it.
    begin, end = np.rint(np.round(columns[:, :2].T * clock.quarter, 6)).astype(np.int64)
    return make_notes(begin, end - begin, columns[:, 2], track)


def moved_far(parts: Sequence[Quarters], clock: Clock = TWELFTHS) -> tuple[int, ...]:
    """How many notes of each part begin or end more than 1/32 of a quarter away from a tick."""
    times = [part[:, :2] for part in parts]
    far = [is_far(time, np.rint(time * clock.quarter), 1, clock) for time in times]
    return tuple(int(one.any(axis=1).sum()) for one in far)


def _out_of_step(parts: list[Part], lengths: Quarters, longest: Quarters) -> list[str]:
    sounding = np.array([len(part.notes) > 0 for part in parts])
    said = []
    ended = sounding & (np.isfinite(lengths).sum(axis=1) < len(longest))
    if ended.any():
        said.append(f"parts that end before others: {ended.sum()}")
    short = (lengths[sounding] < longest[None] - _CLOSE).any(axis=0)
    if short.any():
        said.append(f"bars that are shorter in one part than in another: {short.sum()}")
    return said
