"""Quantisers: raw MIDI ticks to those of a clock.

`adaptive` and `uniform` are exact integer arithmetic on all notes of a piece at once. `music21` repeats,
track by track, what music21's own MIDI reader does (`midi/translate.py` and `Stream.quantize`), down to its
floating-point comparisons, so that work which was done with it can be done again without it.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from midigen_jax.errors import InputError
from midigen_jax.music.clock import TWELFTHS, Clock
from midigen_jax.music.smf import DRUMS, Ticks

_FINER = 4  # raw ticks to one of the clock's: in coarser files times lie on the grid by chance


def lies_on_grid(times: Ticks, per_quarter: int, clock: Clock = TWELFTHS) -> bool:
    """Do all times, in raw ticks, lie on ticks of the clock, and not because there are no others?

    Then someone has put them there, and a quantizer could only move them away.
    """
    is_fine = per_quarter >= _FINER * clock.quarter
    return is_fine and not (times * clock.quarter % per_quarter).any()


def is_far(
    raw: NDArray[Any], snapped: NDArray[Any], per_quarter: int, clock: Clock = TWELFTHS
) -> NDArray[np.bool_]:
    """Which times ticks move by more than 1/32 of a quarter; `per_quarter`: raw ones in a quarter."""
    return np.abs(raw * clock.quarter - snapped * per_quarter) * 32 > clock.quarter * per_quarter


def uniform(onset: Ticks, release: Ticks, per_quarter: int, clock: Clock = TWELFTHS) -> tuple[Ticks, Ticks]:
    """Every time to the nearest tick of the clock; half-way goes down. `per_quarter`: raw ticks."""
    return _nearest(onset, per_quarter, clock.quarter), _nearest(release, per_quarter, clock.quarter)


def adaptive(onset: Ticks, release: Ticks, per_quarter: int, clock: Clock = TWELFTHS) -> tuple[Ticks, Ticks]:
    """Each beat's times to every third tick or to every fourth, whichever its onsets lie nearer to.

    On a clock of 12 these are sixteenths and eighth triplets; a clock without thirds has its ticks alone. The
    sum of distances decides; a tie, or a beat without onsets, takes every third tick. A release follows the
    grid of the beat that it falls into, and a note lasts at least one step of the grid that it begins on:
    otherwise staccato would litter the music with slices of a tick. `per_quarter`: raw ticks in a quarter.
    """
    if clock.quarter % 12:
        return uniform(onset, release, per_quarter, clock)
    even, triplet = clock.quarter // 3, clock.quarter // 4  # steps in a quarter
    # Distances in units of 1 / (even * triplet * per_quarter) quarters, where both are whole numbers.
    to_even = triplet * np.abs(even * onset - _nearest(onset, per_quarter, even) * per_quarter)
    to_triplet = even * np.abs(triplet * onset - _nearest(onset, per_quarter, triplet) * per_quarter)
    beats = int(release.max(initial=0)) // per_quarter + 1
    gain = np.bincount(onset // per_quarter, weights=to_even - to_triplet, minlength=beats)
    step = np.where(gain > 0, 4, 3)
    onset_step, release_step = step[onset // per_quarter], step[release // per_quarter]

    def snap(time: Ticks, step: Ticks) -> Ticks:
        return step * _nearest(time, per_quarter, clock.quarter // step)

    begin = snap(onset, onset_step)
    return begin, np.maximum(snap(release, release_step), begin + onset_step)


def _nearest(time: Ticks, per_quarter: int, parts: int | Ticks) -> Ticks:
    """The nearest multiple of a quarter / `parts`, as a count of them; half-way goes down, as in music21."""
    return (2 * parts * time + per_quarter - 1) // (2 * per_quarter)


class RawTrack(NamedTuple):
    """One MIDI track as music21 sees it, in file order and raw ticks."""

    notes: Ticks
    """(N, 4): onset, release, pitch, channel 0..15"""
    marks: Ticks
    """(M,): the times of meters, keys, tempi, names and programs, which its look-ahead sees too"""


# A few seconds' worth. Ordinary notes have some ten others near them.
_MOST_COMPARISONS = 50_000_000


def pair_music21(events: Ticks) -> Ticks:
    """Note-ons with their releases: (E, 4) time, pitch, channel, velocity to (N, 4) as in `RawTrack`.

    A note ends at the next note-off on its pitch and channel, even if that ended another note already;
    without one it is lost. Velocity 0 is a note-off.
    """
    time, pitch, channel, velocity = events.T
    key = channel << 7 | pitch
    order = np.argsort(key, kind="stable")
    ons, offs = np.flatnonzero(velocity[order]), np.flatnonzero(velocity[order] == 0)
    following = np.searchsorted(offs, ons)
    found = following < len(offs)
    begin, end = order[ons[found]], order[offs[following[found]]]
    same_key = np.flatnonzero(key[begin] == key[end])
    in_file_order = same_key[np.argsort(begin[same_key])]
    begin, end = begin[in_file_order], end[in_file_order]
    return np.stack([time[begin], time[end], pitch[begin], channel[begin]], axis=1)


def music21(track: RawTrack, per_quarter: int) -> tuple[Ticks, Ticks, Ticks]:
    """Onset, duration (both in twelfths of a quarter) and pitch of the track's notes, chords taken apart.

    Notes on the drum channel are left out, and with them, as in music21, the chords that hold one.
    Raises InputError for thousands of notes at once.
    """
    owner, pitch, onset, length, pitched = _chords(track.notes, per_quarter)
    if not len(onset):
        return onset, length, pitch
    element_onset = _best_match(onset / per_quarter)
    others = _best_match(np.concatenate([onset, track.marks]) / per_quarter)
    others.sort()
    later = np.searchsorted(others, element_onset, side="right")
    next_onset = np.append(others, 0)[later]
    # The last element has no successor, and so no gap that it should fill.
    gap = np.where(later < len(others), next_onset - element_onset, 0) / TWELFTHS.quarter
    duration = _best_match(length / per_quarter, gap, zero_allowed=length == 0)
    kept = pitched[owner]
    onset, duration, pitch = element_onset[owner][kept], duration[owner][kept], pitch[kept]
    return onset, _outlasting(onset, duration, pitch), pitch


def _chords(notes: Ticks, per_quarter: int) -> tuple[Ticks, Ticks, Ticks, Ticks, NDArray[np.bool_]]:
    """Notes that begin and end almost together, gathered into chords.

    Returns the chord of each note and the notes' pitches, then onset, length and "no drum" of each chord.
    The order of the notes decides here, and one note can come into two chords, so this is a loop.
    Raises InputError where it would take minutes.
    """
    tolerance = per_quarter / 4
    release = notes[:, 1].tolist()
    near = np.searchsorted(notes[:, 0], notes[:, 0] + tolerance)
    if (near - np.arange(len(near))).sum() > _MOST_COMPARISONS:
        raise InputError("too many notes at once for the quantizer music21; use adaptive")
    gathered = [False] * len(notes)
    members: list[int] = []
    sizes: list[int] = []
    for i, end in enumerate(near.tolist()):
        if gathered[i]:
            continue
        chord = [j for j in range(i + 1, end) if abs(release[j] - release[i]) <= tolerance]
        for j in chord:
            gathered[j] = True
        members += [i, *chord]
        sizes.append(1 + len(chord))
    member, size = np.array(members, np.int64), np.array(sizes, np.int64)
    # music21 places a chord by its first note and measures it by its last.
    last = np.cumsum(size) - 1
    onset, length = notes[member[last - size + 1], 0], (notes[:, 1] - notes[:, 0])[member[last]]
    owner = np.repeat(np.arange(len(size)), size)
    drums = np.bincount(owner, weights=notes[member, 3] == DRUMS, minlength=len(size))
    return owner, notes[member, 2], onset, length, drums == 0


def _best_match(
    quarters: NDArray[np.float64],
    gap: NDArray[np.float64] | float = 0.0,
    zero_allowed: NDArray[np.bool_] | bool = True,
) -> Ticks:
    """`bestMatch` of `Stream.quantize` on the grids of 1/4 and 1/3, in twelfths of a quarter.

    The grid that leaves the smaller rest of `gap` wins, then the smaller error, then the grid of 1/4.
    """
    left, error, match = [], [], []
    for unit in (1 / 4, 1 / 3):
        low = unit * np.floor(quarters / unit)
        high = unit * (np.floor(quarters / unit) + 1)
        near = np.where((low <= quarters) & (quarters <= low + unit / 2), low, high)
        near = np.where((near == 0) & ~np.asarray(zero_allowed), unit, near)
        left.append(np.where(np.mod(gap, unit) == 0, 0.0, np.maximum(gap - near, 0.0)))
        error.append(np.round(np.abs(quarters - near), 7))
        match.append(near)
    thirds = (left[1] < left[0]) | ((left[1] == left[0]) & (error[1] < error[0]))
    return np.rint(np.where(thirds, match[1], match[0]) * TWELFTHS.quarter).astype(np.int64)


def _outlasting(onset: Ticks, duration: Ticks, pitch: Ticks) -> Ticks:
    """Durations by which no note ends before one that began earlier on its pitch.

    In music21 both sound on, but `make_notes` ends the earlier where the later begins.
    """
    order = np.lexsort((onset, pitch))
    release = (onset + duration)[order]
    # Lifted above those of the pitch before, the releases of all pitches have one running maximum.
    lift = pitch[order] * (release.max(initial=0) + 1)
    longest = np.empty_like(release)
    longest[order] = np.maximum.accumulate(release + lift) - lift
    return longest - onset
