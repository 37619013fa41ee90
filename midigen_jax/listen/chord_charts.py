"""Chords as a vocabulary, as a picture: how many symbols cover how much, and how much they leave unseen.

In: a census. Out: a chart, with the sentence that goes with it.
"""

import numpy as np
from matplotlib.ticker import FuncFormatter, NullFormatter

from midigen_jax.listen.bars import Chart
from midigen_jax.listen.svg import BLUE, ORANGE, dress, legend, new_figure
from midigen_jax.music.census import Census, covered, unseen

_POINTS = 200  # of a curve: enough on a logarithmic axis


def draw_vocabulary(census: Census) -> Chart:
    """Slices that the most frequent chords cover; where there are splits, held-out ones that they do not."""
    training, held_out = census.training, census.held_out
    whose = "training slices" if held_out.pieces else "slices"
    curves = [(covered(training.chords, training.unknown), BLUE, f"{whose} covered")]
    if held_out.pieces:
        left = unseen(training.chords, held_out.chords, held_out.unknown)
        curves.append((left, ORANGE, "held-out slices unseen"))
    figure = new_figure()
    axes = figure.subplots()
    size = len(training.chords)
    counts = np.unique(np.rint(np.geomspace(1, max(size, 1), _POINTS)).astype(np.int64))[:size]
    for shares, colour, label in curves:
        axes.plot(counts, 100 * shares[counts], color=colour, linewidth=2, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, 100)
    dress(axes, "chords", "chord symbols, the most frequent first", "% of slices that sound")
    legend(axes)
    return Chart(figure, _about(census))


def _about(census: Census) -> str:
    """In words: how large the vocabulary is, and what it leaves out."""
    training = census.training
    shares = covered(training.chords, training.unknown)
    size = len(shares) - 1
    enough = min(int(np.searchsorted(shares, 0.9)), size)
    some = f"the {enough:,} most frequent of them" if enough < size else "all of them together"
    where = "training slices" if census.held_out.pieces else "slices"
    text = f"Chord symbols: {size:,}; {some} cover {100 * shares[enough]:.0f} % of the {where} that sound. "
    left = f"{100 * census.unseen_share:.1f} %"
    if census.held_out.pieces:
        return text + f"With all of them {left} of the held-out slices are still unseen."
    if training.pieces == 1:
        return text
    return text + (
        f"{left} of these slices have a chord that is in no other piece: a vocabulary learned from the "
        "others would not know it."
    )
