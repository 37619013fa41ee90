"""What sounds in some music, as pictures: pitches, keys, polyphony.

In: a census. Out: charts, each with the sentence that goes with it.
"""

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from midigen_jax.listen.bars import Chart, draw_bars, draw_pairs, percent
from midigen_jax.listen.svg import BLUE, EBONY, INK, IVORY, dress, new_figure
from midigen_jax.listen.tables import many
from midigen_jax.music.census import Census
from midigen_jax.music.key import Key
from midigen_jax.music.tokens import pitch_name

_BLACK_KEYS = (1, 3, 6, 8, 10)
_MOST_SOUNDING = 12  # pitches at once: more stand in one bar with it


def draw_pitches(census: Census) -> Chart:
    """Notes by pitch, above the keys of a piano."""
    figure = new_figure()
    bars, keys = figure.subplots(2, 1, sharex=True, height_ratios=(9, 1))
    used = np.flatnonzero(census.pitch)
    # Whole octaves, and the middle in any case, so that a few notes are no huge bars.
    low = int(used.min(initial=48)) // 12 * 12
    high = int(used.max(initial=83)) // 12 * 12 + 11
    pitches = np.arange(low, min(high, 127) + 1)
    bars.bar(pitches, percent(census.pitch)[pitches], width=0.86, color=BLUE)
    dress(bars, "pitch", "", "% of notes", grid="y")
    bars.tick_params(labelbottom=False)
    _draw_keyboard(keys, pitches)
    reached = np.cumsum(percent(census.pitch))
    lower, middle, upper = (pitch_name(int(np.searchsorted(reached, share))) for share in (25, 50, 75))
    return Chart(
        figure,
        f"The share of the notes that are struck on each key of a piano. They lie between "
        f"{pitch_name(int(used[0]))} and {pitch_name(int(used[-1]))}, half of them between {lower} and "
        f"{upper}; the middle one is {middle}.",
    )


def _draw_keyboard(axes: Axes, pitches: NDArray[np.int64]) -> None:
    """White keys meet behind the middle of the black ones, so that a semitone is as wide everywhere."""
    white = np.array([pitch for pitch in pitches if pitch % 12 not in _BLACK_KEYS])
    left = white - np.where(np.isin((white - 1) % 12, _BLACK_KEYS), 1, 0.5)
    right = white + np.where(np.isin((white + 1) % 12, _BLACK_KEYS), 1, 0.5)
    axes.bar(left, 1, right - left, align="edge", color=IVORY, edgecolor=INK, linewidth=0.5)
    axes.bar(np.setdiff1d(pitches, white), 0.6, 0.8, bottom=0.4, color=EBONY)
    dress(axes, "", "pitch (C4 is middle C)", "")
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    tonics = pitches[pitches % 12 == 0]
    axes.set_xticks(tonics, [pitch_name(pitch) for pitch in tonics.tolist()])
    axes.set(yticks=[], ylim=(0, 1), xlim=(left[0], right[-1]))


def draw_keys(census: Census) -> Chart:
    """Pieces by key, by fifths, the two keys of a signature side by side."""
    major = [Key(7 * fifths % 12, "major") for fifths in range(-5, 7)]
    minor = [Key((key.tonic + 9) % 12, "minor") for key in major]
    labels = [f"{_tonic(one)}\n{_tonic(other)}m" for one, other in zip(major, minor, strict=True)]
    series = {"major": [census.keys[key] for key in major], "minor": [census.keys[key] for key in minor]}
    best, count = census.keys.most_common(1)[0]
    in_major, in_minor = (sum(counts) for counts in series.values())
    return Chart(
        draw_pairs("key", "key, by fifths: major, and below it its relative minor", "pieces", labels, series),
        "The key that fits the notes of each piece best, as found in its source: "
        f"{many(in_major, 'piece')} in major, {in_minor:,} in minor; the most frequent: {best} ({count:,}). "
        "Transposing the music when it is prepared lays all these pairs upon one.",
    )


def _tonic(key: Key) -> str:
    return str(key).split()[0]


def draw_polyphony(census: Census) -> Chart:
    """Time by how many pitches sound in it."""
    shares = percent(census.sounding)
    heights = [*shares[:_MOST_SOUNDING], shares[_MOST_SOUNDING:].sum()]
    labels = [*map(str, range(_MOST_SOUNDING)), f"{_MOST_SOUNDING}+"]
    mean = float(shares @ np.arange(len(shares))) / 100
    return Chart(
        draw_bars("polyphony", "pitches that sound at once (0: silence)", "% of time", labels, heights),
        f"The share of the time in which so many pitches sound at once: {mean:.1f} on average, "
        f"{int(np.flatnonzero(census.sounding).max(initial=0))} at the most.",
    )
