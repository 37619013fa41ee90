"""Musical statistics: worked by hand, and held to MusPy."""

import math

import numpy as np
import pytest

from midigen_jax.music.notes import make_notes
from midigen_jax.study.statistics import (
    HISTOGRAMS,
    Statistics,
    divergence,
    histogram,
    overlap,
    statistics,
)


def notes_of(*notes):
    """Notes from (onset, duration, pitch)."""
    onset, duration, pitch = np.array(notes).T
    return make_notes(onset, duration, pitch, np.zeros_like(pitch))


def some_notes(seed, count=60):
    rng = np.random.default_rng(seed)
    onset = np.sort(rng.integers(0, 300, count))
    return make_notes(onset, rng.integers(1, 30, count), rng.integers(48, 80, count), np.zeros(count, int))


# What MusPy 0.5.0 says of `some_notes(0)` in bars of 48 ticks; the test below makes it say so again.
MUSPY = {
    "pitch_class_entropy": 3.4163525897,
    "pitch_entropy": 4.6318323712,
    "polyphony": 2.8963210702,
    "scale_consistency": 0.7166666667,
    "groove_consistency": 0.7326388889,
}


def test_statistics_are_those_of_muspy():
    found = statistics(some_notes(0), bar=48)
    assert {name: getattr(found, name) for name in MUSPY} == pytest.approx(MUSPY)


@pytest.mark.parametrize("seed", range(4))
def test_muspy_itself_agrees(seed):
    muspy = pytest.importorskip("muspy", reason="pip install muspy")
    notes = some_notes(seed)
    track = muspy.Track(notes=[muspy.Note(int(on), int(pitch), int(long)) for on, long, pitch, _ in notes])
    music = muspy.Music(resolution=12, tracks=[track])
    found = statistics(notes, bar=48)
    theirs = {name: getattr(muspy, name)(music) for name in MUSPY if name != "groove_consistency"}
    theirs["groove_consistency"] = muspy.groove_consistency(music, 48)
    assert theirs == pytest.approx({name: getattr(found, name) for name in MUSPY})
    if seed == 0:
        assert theirs == pytest.approx(MUSPY)


def test_a_small_piece_by_hand():
    """C and G for a quarter, D and A for a quarter: parallel fifths; then a rest, and C under B and C."""
    piece = notes_of(
        (0, 12, 60), (0, 12, 67), (12, 12, 62), (12, 12, 69), (36, 24, 60), (36, 12, 71), (48, 12, 72)
    )
    found = statistics(piece, bar=24)
    assert found.pitch_class_entropy == pytest.approx(-sum(p * math.log2(p) for p in (3 / 7, *[1 / 7] * 4)))
    assert found.polyphony == 2
    assert found.scale_consistency == 1
    # Bars of two quarters: onsets at 0 and 12; at 12 alone; at 0 alone.
    assert found.groove_consistency == pytest.approx(1 - (1 / 24 + 2 / 24) / 2)
    assert found.empty_beat_rate == pytest.approx(1 / 5)
    assert found.held_share == pytest.approx(1 / 8)
    assert found.dissonance == pytest.approx(12 / 48)
    # Of two pairs of neighbouring chords one: C-G to D-A. B to C over a C that stays is no octave.
    assert found.parallel_fifths == pytest.approx(100 / 2)
    assert found.parallel_octaves == 0


def test_voices_cross_where_a_lower_one_is_above_a_higher_one():
    """For 6 of the 24 ticks in which both sound; a rest and what one voice sings alone count for nothing."""
    notes = make_notes(
        [0, 12, 18, 0, 6, 24], [12, 6, 6, 6, 18, 12], [48, 66, 50, 60, 65, 64], [1, 1, 1, 0, 0, 0]
    )
    assert statistics(notes, bar=48).voice_crossing == pytest.approx(6 / 24)
    alone = make_notes([0, 12], [12, 12], [60, 48], [0, 0])
    assert math.isnan(statistics(alone, bar=48).voice_crossing)


def test_octaves_in_contrary_motion_are_no_parallels():
    alike = statistics(notes_of((0, 6, 48), (0, 6, 60), (6, 6, 50), (6, 6, 62)), bar=12)
    apart = statistics(notes_of((0, 6, 48), (0, 6, 60), (6, 6, 46), (6, 6, 70)), bar=12)
    assert (alike.parallel_octaves, apart.parallel_octaves) == (100, 0)


def test_silence_has_no_statistics():
    assert all(math.isnan(value) for value in statistics(notes_of((0, 1, 60))[:0], bar=48))
    lone = statistics(notes_of((0, 1, 60)), bar=48)
    nothing = {name for name in Statistics._fields if math.isnan(getattr(lone, name))}
    assert nothing == {
        *("groove_consistency", "dissonance", "parallel_fifths", "parallel_octaves", "voice_crossing")
    }


def test_histograms_count_over_all_pieces():
    pieces = [notes_of((0, 12, 60), (12, 500, 62)), notes_of((0, 12, 72), (0, 12, 76), (3, 6, 60))]
    assert histogram("pitch_class", pieces).tolist() == [3, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    lengths = histogram("note_length", pieces)
    assert {int(bin): int(lengths[bin]) for bin in np.flatnonzero(lengths)} == {6: 1, 12: 3, 96: 1}
    steps = histogram("inter_onset", pieces)
    assert {int(bin): int(steps[bin]) for bin in np.flatnonzero(steps)} == {3: 1, 12: 1}
    assert all(histogram(kind, []).sum() == 0 for kind in HISTOGRAMS)


def test_overlap_and_divergence_tell_sets_apart():
    one, other = np.array([2.0, 2, 0, 0]), np.array([0.0, 4, 4, 0])
    assert overlap(one, one) == 1
    assert overlap(one, other) == 0.5
    assert overlap(one, np.array([0, 0, 0, 3.0])) == 0
    expected = 0.5 * math.log(0.5 / (1 / 12)) + 0.5 * math.log(0.5 / (5 / 12))
    assert divergence(one, other) == pytest.approx(expected)
    assert math.isnan(overlap(one, np.zeros(4)))
