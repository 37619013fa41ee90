"""What pieces are like, in figures that have a definition and a source; and how far two sets of pieces agree.

In: notes of pieces, their meter. Out: a value of each statistic for each piece; histograms of a set of
pieces, and of two sets the overlap and the divergence of their histograms. These are of all notes of a set:
Yang & Lerch 2020, "On the evaluation of generative models in music", compare distances between pieces, which
is another thing.

Pitch entropies, polyphony, scale consistency are those of MusPy (Dong et al. 2020), groove consistency that
of Wu & Yang 2020, "The Jazz Transformer on the front line". MusPy has one more bar, an empty one, where a
piece ends on a bar line, and its beats are not empty where a note has just ended. Time is in ticks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from midigen_jax.errors import InputError
from midigen_jax.music.clock import TWELFTHS, Clock
from midigen_jax.music.notes import Notes
from midigen_jax.music.slices import Slices, slice_notes
from midigen_jax.music.voices import voice_grid

_MAJOR = (0, 2, 4, 5, 7, 9, 11)
_LONGEST = 8  # quarters: the last bin of a histogram of times holds all that is longer
_DISSONANT = (1, 2, 6, 10, 11)  # seconds, sevenths and the tritone, in semitones modulo 12
_FIFTH, _OCTAVE = 7, 0


class Statistics(NamedTuple):
    """One piece. NaN where it has nothing to measure."""

    pitch_class_entropy: float
    """bits: of the pitch classes of its notes"""
    pitch_entropy: float
    """bits: of the pitches of its notes"""
    polyphony: float
    """pitches that sound at once, on average over the time in which any does"""
    scale_consistency: float
    """the largest share of notes that lie in one major scale (or its relative natural minor)"""
    groove_consistency: float
    """1 less the mean share of ticks in a bar at which one of two neighbouring bars has an onset alone"""
    empty_beat_rate: float
    """the share of quarters in which nothing sounds"""
    held_share: float
    """of the pitches in all slices, those that are held over from the slice before"""
    dissonance: float
    """of the pairs of pitches that sound at once, by time, seconds, sevenths and tritones"""
    parallel_fifths: float
    """of a hundred pairs of slices, those in which two voices move alike from a fifth to a fifth"""
    parallel_octaves: float
    """the same from octaves to octaves"""
    voice_crossing: float
    """of the time in which two voices or more sound, that in which a lower one is above a higher one"""


HISTOGRAMS = ("pitch_class", "note_length", "inter_onset")


def statistics(notes: Notes, bar: int | None, first_bar: int = 0, clock: Clock = TWELFTHS) -> Statistics:
    """Of one piece whose bars have so many ticks, from `first_bar` on; None: it has no groove.

    Parallels count between slices of equally many pitches. Voices are tracks with a note at a time, by their
    mean pitch; of pieces without them nothing is known of crossings.
    """
    if len(notes) == 0:
        return Statistics(*[float("nan")] * len(Statistics._fields))
    slices = slice_notes(notes)
    fifths, octaves = _parallels(slices)
    return Statistics(
        pitch_class_entropy=_entropy(np.bincount(notes[:, 2] % 12)),
        pitch_entropy=_entropy(np.bincount(notes[:, 2])),
        polyphony=_polyphony(slices),
        scale_consistency=_scale_consistency(notes),
        groove_consistency=float("nan") if bar is None else _groove_consistency(notes, bar, first_bar),
        empty_beat_rate=_empty_beat_rate(notes, clock.quarter),
        held_share=float(1 - slices.attacked.mean()),
        dissonance=_dissonance(slices),
        parallel_fifths=fifths,
        parallel_octaves=octaves,
        voice_crossing=_voice_crossing(notes),
    )


def histogram(kind: str, pieces: Sequence[Notes], clock: Clock = TWELFTHS) -> NDArray[np.float64]:
    """Counts over all pieces: 12 pitch classes; or note lengths, or steps from onset to onset, in ticks."""
    longest = clock.ticks(_LONGEST)
    if kind == "pitch_class":
        values, bins = [notes[:, 2] % 12 for notes in pieces], 12
    elif kind == "note_length":
        values, bins = [np.minimum(notes[:, 1], longest) for notes in pieces], longest + 1
    elif kind == "inter_onset":
        steps = [np.diff(np.unique(notes[:, 0])) for notes in pieces]
        values, bins = [np.minimum(step, longest) for step in steps], longest + 1
    else:
        raise ValueError(f"no histogram {kind!r}")
    joined = np.concatenate([np.zeros(0, int), *values])
    return np.bincount(joined, minlength=bins).astype(np.float64)


def overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The area that two histograms have in common, each scaled to 1: 1 if they are alike, 0 if apart.

    Histogram intersection, of Swain & Ballard 1991, "Color indexing".
    """
    if not one.sum() or not other.sum():
        return float("nan")
    return float(np.minimum(one / one.sum(), other / other.sum()).sum())


def divergence(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Kullback-Leibler, in nats, of `one` from `other`, in which each bin counts one more than it has."""
    if not one.sum():
        return float("nan")
    p, q = one / one.sum(), (other + 1) / (other + 1).sum()
    there = p > 0
    return float((p[there] * np.log(p[there] / q[there])).sum())


def _entropy(counts: NDArray[np.integer]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _polyphony(slices: Slices) -> float:
    sounds = slices.count > 0
    return float(np.average(slices.count[sounds], weights=slices.duration[sounds]))


def _scale_consistency(notes: Notes) -> float:
    classes = np.bincount(notes[:, 2] % 12, minlength=12)
    return float(max(np.roll(classes, -tonic)[list(_MAJOR)].sum() for tonic in range(12)) / len(notes))


def _groove_consistency(notes: Notes, bar: int, first_bar: int) -> float:
    onset = notes[:, 0] + -first_bar % bar  # an upbeat ends a bar of its own
    bars = -(-int((onset + notes[:, 1]).max()) // bar)
    if bars < 2:
        return float("nan")
    onsets = np.zeros((bars, bar), bool)
    onsets[onset // bar, onset % bar] = True
    return float(1 - (onsets[1:] != onsets[:-1]).mean())


def _empty_beat_rate(notes: Notes, quarter: int) -> float:
    first, stop = notes[:, 0] // quarter, notes[:, 0] + notes[:, 1]
    last = -(-stop // quarter)
    steps = np.bincount(first, minlength=last.max() + 1) - np.bincount(last, minlength=last.max() + 1)
    return float((np.cumsum(steps)[:-1] == 0).mean())


def _dissonance(slices: Slices) -> float:
    total = harsh = 0
    for number, ticks in enumerate(slices.duration.tolist()):
        pitches = slices.pitch[slices.start[number] : slices.start[number + 1]]
        intervals = (pitches[None] - pitches[:, None])[np.triu_indices(len(pitches), 1)] % 12
        total += ticks * len(intervals)
        harsh += ticks * int(np.isin(intervals, _DISSONANT).sum())
    return harsh / total if total else float("nan")


def _parallels(slices: Slices) -> tuple[float, float]:
    """Fifths and octaves for a hundred pairs of slices; voices are ranks, from the lowest pitch up."""
    pairs = fifths = octaves = 0
    for number in range(len(slices) - 1):
        cuts = slices.start[number : number + 3]
        before, after = slices.pitch[cuts[0] : cuts[1]], slices.pitch[cuts[1] : cuts[2]]
        if len(before) != len(after) or len(before) < 2:
            continue
        pairs += 1
        low, high = np.triu_indices(len(before), 1)
        moves = np.sign(after - before)
        together = (moves[low] == moves[high]) & (moves[low] != 0)
        intervals = ((before[high] - before[low]) % 12, (after[high] - after[low]) % 12)
        same = together & (intervals[0] == intervals[1])
        fifths += int((same & (intervals[0] == _FIFTH)).any())
        octaves += int((same & (intervals[0] == _OCTAVE)).any())
    return (100 * fifths / pairs, 100 * octaves / pairs) if pairs else (float("nan"), float("nan"))


def _voice_crossing(notes: Notes) -> float:
    voices = len(np.unique(notes[:, 3]))
    try:
        cuts, pitch_SV, _ = voice_grid(notes, voices)
    except InputError:
        return float("nan")
    ticks_S = np.diff(cuts)
    together_S = (pitch_SV >= 0).sum(axis=1) > 1
    lower_SV = np.maximum.accumulate(pitch_SV, axis=1)[:, :-1]
    crossed_S = ((pitch_SV[:, 1:] >= 0) & (pitch_SV[:, 1:] < lower_SV)).any(axis=1)
    total = ticks_S[together_S].sum()
    return float(ticks_S[crossed_S].sum() / total) if total else float("nan")
