"""Rows to loss curves, one picture a head.

In: the rows that training wrote. Out: a matplotlib figure, or SVG that stands in a page and takes the page's
colours and font. Both heads are measured in nats per event, each averaged over all events.
"""

import io
import math
import re
from collections.abc import Collection, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from midigen_jax.rows import Row

HEADS = ("pitch", "duration")

# Colour in a picture of its own -> CSS variable in a page that has a dark and a light side.
_TRAIN, _VALID, _INK, _GRID = "#d9822b", "#3b6fd4", "#5c5a55", "#e6e3da"
_VARIABLES = {_TRAIN: "var(--train)", _VALID: "var(--valid)", _INK: "var(--soft)", _GRID: "var(--line)"}


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


def draw_curves(rows: Sequence[Row], head: str, kept: Collection[int] = ()) -> Figure:
    """Training and validation nats per event of one head ("pitch" or "duration") over steps.

    A ring marks the step that was best on both heads together; triangles mark the steps in `kept`.
    """
    figure = Figure(figsize=(5.6, 3.0), dpi=120, layout="constrained")
    axes = figure.subplots()
    steps, values = series(rows, f"train.nats_per_event.{head}")
    axes.plot(steps, values, color=_TRAIN, linewidth=1.3, label="training")
    steps, values = series(rows, f"valid.nats_per_event.{head}")
    few = "o" if len(steps) < 30 else None
    axes.plot(steps, values, color=_VALID, linewidth=2, marker=few, markersize=3.5, label="validation")
    best = best_step(rows)
    if best in steps:
        height = values[steps.index(best)]
        axes.plot(
            [best],
            [height],
            color=_VALID,
            marker="o",
            markersize=10,
            markerfacecolor="none",
            markeredgewidth=1.6,
            linestyle="none",
            label="best validation",
        )
    if kept:
        axes.plot(
            sorted(kept),
            [0.035] * len(kept),
            transform=axes.get_xaxis_transform(),
            marker="^",
            markersize=7,
            linestyle="none",
            color=_INK,
            zorder=3,
            label="checkpoint kept",
        )
    _dress(axes, head)
    return figure


def _dress(axes: Axes, head: str) -> None:
    axes.set_title(f"{head} head", loc="left", fontsize=11, color=_INK)
    axes.set_xlabel("step", fontsize=9, color=_INK)
    axes.set_ylabel("nats per event", fontsize=9, color=_INK)
    axes.tick_params(colors=_INK, labelsize=9, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_GRID)
    axes.legend(frameon=False, fontsize=9, labelcolor=_INK)


def svg(figure: Figure) -> str:
    """`figure` as an <svg> element for an HTML page: no outside reference, its colours CSS variables."""
    text = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    # The salt makes element ids the same in every run, and the title keeps those of two figures apart.
    salt = figure.axes[0].get_title(loc="left")
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    element = text.getvalue()
    element = element[element.index("<svg") :]
    element = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", element)  # an HTML parser knows them
    element = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 role="img"', element, count=1)
    # Names that a second figure would repeat, and rules that would reach the whole page.
    element = element.replace("<g id=", "<g data-part=")
    element = re.sub(r"<defs>\s*<style.*?</defs>", "", element, count=1, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        element = element.replace(colour, variable)
    return element
