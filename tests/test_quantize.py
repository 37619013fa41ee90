"""Quantisers: exact on the grid, near it off the grid; that of music21 is held to it in test_parity."""

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from midigen_jax.music import quantize
from midigen_jax.music.quantize import Ticks


def snapped(
    quantizer: Callable[[Ticks, Ticks, int], tuple[Ticks, Ticks]],
    onset: Sequence[int],
    release: Sequence[int],
    per_quarter: int = 480,
) -> tuple[list[int], list[int]]:
    onsets, releases = quantizer(np.array(onset, np.int64), np.array(release, np.int64), per_quarter)
    return onsets.tolist(), releases.tolist()


def test_a_beat_of_sixteenths_and_a_beat_of_triplets() -> None:
    onset = [3, 118, 243, 355, 480, 645, 795]
    release = [*onset[1:], 955]
    assert snapped(quantize.adaptive, onset, release) == ([0, 3, 6, 9, 12, 16, 20], [3, 6, 9, 12, 16, 20, 24])


def test_a_tie_and_a_beat_without_onsets_take_quarters() -> None:
    assert snapped(quantize.adaptive, [0], [480 + 150]) == ([0], [15])


def test_a_staccato_note_lasts_one_step_of_its_grid() -> None:
    assert snapped(quantize.adaptive, [0, 480, 640, 800], [20, 490, 650, 810]) == (
        [0, 12, 16, 20],
        [3, 16, 20, 24],
    )


def test_uniform_goes_to_the_nearest_twelfth_and_down_from_half_way() -> None:
    assert snapped(quantize.uniform, [19, 20, 21, 60], [61, 80, 99, 101]) == ([0, 0, 1, 1], [2, 2, 2, 3])


def spans(limit: int) -> st.SearchStrategy[list[list[int]]]:
    return st.lists(
        st.tuples(st.integers(0, limit), st.integers(0, limit)).map(sorted), min_size=1, max_size=12
    )


@given(spans(4000), st.sampled_from([24, 96, 100, 480, 1001]))
def test_adaptive_is_what_fractions_give(pairs: list[list[int]], per_quarter: int) -> None:
    def snap(time: int, parts: int) -> Fraction:
        low = Fraction(time * parts, per_quarter).__floor__()
        above = Fraction(time * parts, per_quarter) - low > Fraction(1, 2)
        return Fraction(low + above, parts)

    def error(beat: int, parts: int) -> Fraction | int:
        onsets = [a for a, _ in pairs if a // per_quarter == beat]
        return sum(abs(snap(a, parts) - Fraction(a, per_quarter)) for a in onsets)

    def parts_of(time: int) -> int:
        beat = time // per_quarter
        return 3 if error(beat, 3) < error(beat, 4) else 4

    onset, release = zip(*pairs, strict=True)
    begin = [int(12 * snap(a, parts_of(a))) for a in onset]
    end = [
        max(int(12 * snap(b, parts_of(b))), s + 12 // parts_of(a))
        for (a, b), s in zip(pairs, begin, strict=True)
    ]
    assert snapped(quantize.adaptive, onset, release, per_quarter) == (begin, end)


@given(spans(400), st.integers(1, 50))
def test_uniform_leaves_the_grid_alone(pairs: list[list[int]], scale: int) -> None:
    onset, release = (list(column) for column in zip(*pairs, strict=True))
    raw = ([scale * a for a in onset], [scale * b for b in release])
    assert snapped(quantize.uniform, *raw, 12 * scale) == (onset, release)


def test_in_music21_mode_a_note_inside_a_longer_one_on_its_pitch_does_not_end_it() -> None:
    notes = np.array([[0, 24, 60, 0], [6, 12, 60, 1], [24, 36, 60, 0]], np.int64)
    onset, duration, _ = quantize.music21(quantize.RawTrack(notes, np.zeros(0, np.int64)), per_quarter=12)
    assert (onset.tolist(), duration.tolist()) == ([0, 6, 24], [24, 18, 12])


def test_times_lie_on_the_grid_only_where_the_file_has_finer_ones():
    on_the_grid = np.array([[0, 40], [40, 80], [120, 440]])
    assert quantize.lies_on_grid(on_the_grid, 480)
    assert not quantize.lies_on_grid(np.add(on_the_grid, [0, 1]), 480)
    assert not quantize.lies_on_grid(on_the_grid, 12)  # there, all times do
