"""Rows to a picture of speed: events a second by the size of the batch, for whoever was measured.

In: the rows that `midigen bench decode` wrote. Out: a PNG or an SVG.
"""

from collections.abc import Sequence
from pathlib import Path

from midigen_jax.listen.figures import ORANGE, dress, legend, new_figure, save
from midigen_jax.rows import Row

_NAME = "decode.events_per_s"
# Of one lightness, and told apart by their markers too.
_OTHERS = {
    "step": ("JAX, step by step", "#3b6fd4", "s"),
    "transformer": ("Transformer of equal parameters", "#7a6fd0", "h"),
    "window": ("JAX, window of 32", "#3f9bb5", "D"),
    "onnxruntime": ("ONNX Runtime", "#2f9e77", "^"),
    "torch": ("PyTorch", "#b0509e", "v"),
    "keras_function": ("Keras, tf.function", "#8a8d3a", "P"),
    "keras": ("Keras, predict", "#c8504b", "X"),
}


def draw_rates(rows: Sequence[Row], path: Path) -> None:
    """Draw the file at `path`: a line for each side, both axes logarithmic."""
    figure, axes = new_figure(6.4, 4.2, dpi=150)
    batches, rates = _series(rows, _NAME)
    axes.plot(batches, rates, color=ORANGE, linewidth=2.4, marker="o", label="midigen-jax", zorder=3)
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(batches)
    for name, (label, colour, marker) in _OTHERS.items():
        batches, rates = _series(rows, f"{_NAME}.{name}")
        if batches:
            axes.plot(batches, rates, color=colour, linewidth=1.4, marker=marker, markersize=5, label=label)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axis.set_minor_formatter("")
    dress(axes, "Decoding", "pieces written at once", "events a second")
    legend(axes)
    save(figure, path)


def _series(rows: Sequence[Row], name: str) -> tuple[list[int], list[float]]:
    """Sizes of batches and what was reached, ascending; of a size measured twice the later one."""
    found = {row["config"]["batch"]: row["value"] for row in rows if row["name"] == name}
    return sorted(found), [found[batch] for batch in sorted(found)]
