"""Copying: the longest run of slices that stands in the training music, against looking everywhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midigen_jax.data.copying import Training
from midigen_jax.music.slices import Slices, from_entries


def piece_of(*chords) -> Slices:
    """Slices of (ticks, pitches)."""
    owner = np.repeat(np.arange(len(chords)), [len(pitches) for _, pitches in chords])
    pitch = np.array([p for _, pitches in chords for p in pitches], int)
    return from_entries(np.array([ticks for ticks, _ in chords]), owner, pitch, np.ones(len(pitch), bool))


def random_piece(rng, count):
    chords = [(60,), (60, 64), (62,), (62, 65), ()]
    shift = rng.integers(0, 5)
    return piece_of(
        *((int(rng.integers(1, 3)), [p + shift for p in chords[rng.integers(5)]]) for _ in range(count))
    )


def same(one, other) -> bool:
    """Are two runs the same up to transposition, and does the first slice sound?"""
    if not one[0][1] or not other[0][1]:
        return False
    shift = other[0][1][0] - one[0][1][0]
    return all(a[0] == b[0] and [p + shift for p in a[1]] == b[1] for a, b in zip(one, other, strict=True))


def listed(piece):
    return [
        (int(ticks), piece.pitch[a:b].tolist())
        for ticks, a, b in zip(piece.duration, piece.start, piece.start[1:], strict=False)
    ]


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_the_longest_run_is_that_of_looking_everywhere(seed):
    rng = np.random.default_rng(seed)
    training = [random_piece(rng, count) for count in (1, 9, 14, 6)]
    piece = random_piece(rng, 12)
    found = Training(training).longest(piece)
    own, theirs = listed(piece), [listed(other) for other in training]
    longest = max(
        (
            length
            for length in range(1, len(own) + 1)
            for start in range(len(own) - length + 1)
            for other in theirs
            for place in range(len(other) - length + 1)
            if same(own[start : start + length], other[place : place + length])
        ),
        default=0,
    )
    assert found.slices == longest
    if longest:
        there = theirs[found.source][found.place : found.place + longest]
        here = own[found.start : found.start + longest]
        assert same(here, there)
        assert found.quarters == pytest.approx(sum(ticks for ticks, _ in here) / 12)


def test_a_piece_that_was_copied_in_another_key_is_found_whole():
    melody = [(3, [60]), (3, [62, 65]), (6, []), (3, [64]), (12, [60, 67])]
    training = Training([piece_of((3, [50]), (2, [51])), piece_of((1, [40]), *melody)])
    moved = [(ticks, [p + 7 for p in pitches]) for ticks, pitches in melody]
    found = training.longest(piece_of(*moved))
    assert (found.slices, found.start, found.source, found.place) == (5, 0, 1, 1)
    assert found.quarters == 27 / 12


def test_a_run_ends_where_a_training_piece_does_and_where_the_interval_is_another():
    training = Training([piece_of((1, [60]), (1, [62])), piece_of((1, [64]), (1, [65]))])
    assert training.longest(piece_of((1, [60]), (1, [62]), (1, [64]))).slices == 2
    assert training.longest(piece_of((1, [60]), (1, [63]))).slices == 1
    assert training.longest(piece_of((2, [60]))).slices == 0
    assert training.longest(piece_of()).slices == 0
