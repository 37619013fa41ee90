"""Rows to loss curves, one picture a head.

In: the rows that training wrote. Out: matplotlib figures. Both heads are measured in nats per event, each
averaged over all events.
"""

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from midigen_jax.listen.figures import BLUE, INK, ORANGE, dress, legend, new_figure
from midigen_jax.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def series(rows: Sequence[Row], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of the rows of that name, in order of steps.

    A step measured twice counts once, the later time; what is no finite number is left out.
    """
    found = [row for row in rows if row.get("name") == name and "step" in row]
    points = {row["step"]: row["value"] for row in found if math.isfinite(row["value"])}
    steps = sorted(points)
    return steps, [points[step] for step in steps]


def best_step(rows: Sequence[Row]) -> int | None:
    """The step whose validation, both heads together, was lowest; None where there was no validation."""
    steps, values = series(rows, "valid.nats_per_event")
    return min(zip(values, steps, strict=True))[1] if steps else None


def draw_curves(rows: Sequence[Row], head: str, kept: Collection[int] = ()) -> "Figure":
    """Training and validation nats per event of one head ("pitch" or "duration") over steps.

    A ring marks the step that was best on both heads together; triangles mark the steps in `kept`.
    """
    figure, axes = new_figure()
    steps, values = series(rows, f"train.nats_per_event.{head}")
    axes.plot(steps, values, color=ORANGE, linewidth=1.3, label="training")
    steps, values = series(rows, f"valid.nats_per_event.{head}")
    few = "o" if len(steps) < 30 else None
    axes.plot(steps, values, color=BLUE, linewidth=2, marker=few, markersize=3.5, label="validation")
    best = best_step(rows)
    if best in steps:
        ring = {"markersize": 10, "markerfacecolor": "none", "markeredgewidth": 1.6}
        axes.plot([best], [values[steps.index(best)]], "o", color=BLUE, label="best validation", **ring)
    if kept:
        at_the_foot = {"transform": axes.get_xaxis_transform(), "markersize": 7, "zorder": 3}
        heights = [0.035] * len(kept)
        axes.plot(sorted(kept), heights, "^", color=INK, label="checkpoint kept", **at_the_foot)
    axes.locator_params(axis="x", nbins=6, integer=True)
    dress(axes, f"{head} head", "step", "nats per event")
    legend(axes)
    return figure
