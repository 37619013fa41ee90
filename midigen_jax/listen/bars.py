"""Bar charts in the manner of a page: what the pictures of an inspection have in common.

In: labels and heights. Out: matplotlib figures, and with its sentence a `Chart`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from midigen_jax.listen.svg import BLUE, ORANGE, dress, legend, new_figure

_FEWEST = 6  # places on an axis: one bar alone should be no wall


class Chart(NamedTuple):
    """A picture, and a sentence that says what it shows."""

    figure: Figure
    sentence: str


def draw_bars(title: str, x: str, y: str, labels: Sequence[str], heights: ArrayLike) -> Figure:
    """A bar for each label; an empty label is a bar without a name."""
    figure = new_figure()
    axes = figure.subplots()
    axes.bar(range(len(labels)), heights, width=0.8, color=BLUE)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.6, max(len(labels), _FEWEST) - 0.4)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=y == "pieces"))
    dress(axes, title, x, y, grid="y")
    return figure


def draw_pairs(
    title: str, x: str, y: str, labels: Sequence[str], series: Mapping[str, ArrayLike], slant: float = 0
) -> Figure:
    """Two bars for each label, one of each series; the labels may be slanted by so many degrees."""
    figure = new_figure()
    axes = figure.subplots()
    for place, (name, heights), colour in zip((-0.2, 0.2), series.items(), (BLUE, ORANGE), strict=True):
        axes.bar(np.arange(len(labels)) + place, heights, width=0.4, color=colour, label=name)
    axes.set_xticks(range(len(labels)), labels)
    axes.tick_params(axis="x", rotation=slant)
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=y == "pieces"))
    dress(axes, title, x, y, grid="y")
    legend(axes)
    return figure


def percent(counts: ArrayLike) -> NDArray[np.float64]:
    """Counts as shares of their sum, in percent; of no counts at all the share is 0."""
    array = np.asarray(counts, np.float64)
    return 100 * array / max(array.sum(), 1)
