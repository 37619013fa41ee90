"""Notes to a picture: time to the right in bars, pitch upwards, a dark edge at each attack.

In: Notes. Out: a PNG of 900 x 260 pixels, or an SVG. The plot fills the same place in each (LEFT to RIGHT),
so that a page can move a line over it while the music plays.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from midigen_jax.listen import check_installed
from midigen_jax.listen.figures import save
from midigen_jax.music.clock import TWELFTHS, Clock
from midigen_jax.music.notes import Notes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEFT, RIGHT = 0.045, 0.99  # where the plot begins and ends, as shares of the picture's width

_SIZE = (9.0, 2.6)  # inches at 100 dots each
_TRACKS = ("#3b6fd4", "#d9822b", "#2f9e77", "#b0509e", "#8a8d3a", "#c8504b", "#3f9bb5", "#7d68c9")
_PAPER, _BLACK_KEY, _LINE, _BAR, _INK = "#fdfcf9", "#f3f1eb", "#e6e3da", "#cbc6ba", "#5c5a55"


def draw(
    notes: Notes,
    path: Path,
    title: str = "",
    tempo: float | None = None,
    meter: tuple[int, int] = (4, 4),
    first_bar: int = 0,
    clock: Clock = TWELFTHS,
) -> None:
    """Draw `notes` (N, 4) into the PNG (or, if it is named so, the SVG) at `path`, a colour a track.

    With `tempo` (quarters a minute) the length in minutes and seconds stands below; `meter` decides where
    the bar lines are, from the tick `first_bar` on.
    """
    check_installed()
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=100, facecolor=_PAPER)
    axes = figure.add_axes((LEFT, 0.15, RIGHT - LEFT, 0.74 if title else 0.81))
    bar = clock.bar(meter)
    end = int((notes[:, 0] + notes[:, 1]).max(initial=bar))
    _draw_paper(axes, notes[:, 2], end, clock.quarter, bar, first_bar)
    _draw_notes(axes, notes, end)
    if title:
        axes.set_title(title, loc="left", fontsize=11, color=_INK, pad=4, parse_math=False)
    if tempo:
        seconds = round(clock.seconds(end, tempo))
        lasts = f"{seconds // 60}:{seconds % 60:02d} at {tempo:.4g} quarters a minute"
        figure.text(RIGHT, 0.02, lasts, ha="right", va="bottom", fontsize=9.5, color=_INK)
    save(figure, path)


def _draw_paper(
    axes: "Axes", pitches: NDArray[np.int32], end: int, quarter: int, bar: int, first_bar: int
) -> None:
    """Axes, bar lines, and the black keys as darker rows."""
    low, high = (int(pitches.min()), int(pitches.max())) if len(pitches) else (60, 60)
    spare = max(24 - (high - low), 4)  # two octaves at least, so that a few notes are no huge blocks
    low, high = low - spare // 2, high + spare - spare // 2
    axes.set(xlim=(0, end), ylim=(low - 0.5, high + 0.5), facecolor=_PAPER)
    for pitch in range(low, high + 1):
        if pitch % 12 in (1, 3, 6, 8, 10):
            axes.axhspan(pitch - 0.5, pitch + 0.5, color=_BLACK_KEY, linewidth=0, zorder=0)
    tonics = [pitch for pitch in range(low, high + 1) if pitch % 12 == 0]
    axes.set_yticks(tonics, [f"C{pitch // 12 - 1}" for pitch in tonics])

    bars = max(1, -(-(end - first_bar) // bar))
    between = next(step for step in (2**n for n in range(31)) if bars / step <= 14)
    axes.set_xticks(
        [first_bar + number * bar for number in range(0, bars, between)],
        ["bar 1" if number == 0 else str(number + 1) for number in range(0, bars, between)],
    )
    if bars <= 16:
        beats = np.arange(first_bar % quarter, end, quarter)
        axes.vlines(beats, low - 1, high + 1, colors=_LINE, linewidth=0.6, zorder=0.5)
    lines = np.arange(first_bar, end, bar * (1 if bars <= 40 else between))
    axes.vlines(lines, low - 1, high + 1, colors=_BAR, linewidth=0.8, zorder=0.6)
    axes.hlines(np.array(tonics) - 0.5, 0, end, colors=_LINE, linewidth=0.6, zorder=0.5)
    axes.tick_params(length=0, labelsize=11, colors=_INK, pad=3)
    for tick in axes.get_xticklabels():
        tick.set(horizontalalignment="left", verticalalignment="baseline", y=-0.055)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_notes(axes: "Axes", notes: Notes, end: int) -> None:
    """A bar a note, with its first pixels darker: a repeated note is not a long one."""
    if not len(notes):
        axes.text(0.5, 0.5, "no notes", transform=axes.transAxes, ha="center", va="center", color=_INK)
        return
    from matplotlib.collections import PolyCollection

    onset, duration, pitch, track = notes.T
    colours = [_TRACKS[number % len(_TRACKS)] for number in track]
    pixel = end / (_SIZE[0] * 100 * (RIGHT - LEFT))
    attack = np.minimum(2.5 * pixel, duration / 3)
    bars = _rectangles(onset, onset + np.maximum(duration - 0.5 * pixel, duration / 2), pitch)
    axes.add_collection(PolyCollection(bars, facecolors=colours, alpha=0.62, zorder=2))
    axes.add_collection(
        PolyCollection(_rectangles(onset, onset + attack, pitch), facecolors=colours, zorder=3)
    )


def _rectangles(left: NDArray[Any], right: NDArray[Any], pitch: NDArray[Any]) -> list[NDArray[Any]]:
    """The corners, (N, 4, 2), of bars that are 0.84 of a semitone high."""
    low, high = pitch - 0.42, pitch + 0.42
    corners = ((left, low), (right, low), (right, high), (left, high))
    return list(np.stack([np.stack(corner, -1) for corner in corners], 1))
