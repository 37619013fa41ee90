"""A study in pictures: what each arm changes, how it learns, and what it costs.

In: figures of the arms by name. Out: matplotlib figures. The base is drawn in the colour of the text, and an
arm looks the same in all pictures that show it as a line or a point.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from midigen_jax.listen.figures import BLUE, INK, ORANGE, dress, new_figure
from midigen_jax.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

# The first two have a light and a dark side; the others can be told from either background, and apart.
COLOURS = (BLUE, ORANGE, "#2f9668", "#c8506e", "#8563d6", "#1f8fa6", "#cc55c0", "#8a8334")
_DASHES: tuple[tuple[float, ...], ...] = ((), (4, 1.5), (1, 1.2))  # lengths of ink and of gaps; none: solid
_WIDE = 10.0  # inches: the picture has the page's width to itself
_LONGEST_NAME = 44
_TEXT = 8.5  # points
_LINE = 12.0  # points from one label to the next


class Look(NamedTuple):
    """How an arm is drawn."""

    colour: str
    dashes: tuple[float, ...]
    width: float


class Interval(NamedTuple):
    """A figure, and the interval that it lies in with 95 %."""

    value: float
    low: float
    high: float


class Band(NamedTuple):
    """Runs that differ in their seed: at each step the mean, the least and the greatest of them."""

    steps: list[int]
    mean: list[float]
    least: list[float]
    greatest: list[float]


def looks(arms: Sequence[str], base: str) -> dict[str, Look]:
    """A look for each arm; all differ as long as there are no more than 24 beside the base."""
    others = [arm for arm in arms if arm != base]
    found = {}
    for number, arm in enumerate(others):
        turn, colour = divmod(number, len(COLOURS))
        found[arm] = Look(COLOURS[colour], _DASHES[turn % len(_DASHES)], 1.6)
    return {base: Look(INK, (), 2.6), **found}


def band(runs: Sequence[tuple[Sequence[int], Sequence[float]]]) -> Band:
    """The runs, each (steps, values), as one band over the steps that all of them have."""
    points = [dict(zip(steps, values, strict=True)) for steps, values in runs]
    steps = sorted(set.intersection(*(set(run) for run in points))) if points else []
    at_step = [[run[step] for run in points] for step in steps]
    mean = [sum(values) / len(values) for values in at_step]
    return Band(steps, mean, [min(values) for values in at_step], [max(values) for values in at_step])


def draw_differences(
    differences: Mapping[str, Interval], clear: set[str], base: str, measure: str, sign: int = -1
) -> "Figure":
    """A point and its interval for each arm, the first on top: filled where it is clear of zero.

    `sign` is 1 where more of the measure is better.
    """
    figure, axes = new_figure(_WIDE, 1.0 + 0.3 * len(differences))
    axes.axvline(0, color=INK, linewidth=1, dashes=(4, 3))
    for place, (arm, (value, low, high)) in enumerate(differences.items()):
        colour = INK if arm not in clear else BLUE if value * sign > 0 else ORANGE
        fill = colour if arm in clear else "none"
        axes.plot([low, high], [place, place], color=colour, linewidth=1.8, solid_capstyle="butt")
        axes.plot([value], [place], "o", color=colour, markersize=7, markerfacecolor=fill, label=arm)
    axes.set_yticks(range(len(differences)), [_label(arm) for arm in differences])
    axes.set_ylim(len(differences) - 0.4, -0.6)
    axes.margins(x=0.08)
    better = "right" if sign > 0 else "left"
    dress(axes, f"Difference from {_label(base)}", f"{measure} ({better} of zero: better)", "", grid="x")
    return figure


def draw_learning(bands: Mapping[str, Band], look: Mapping[str, Look]) -> "Figure":
    """Validation over steps: the mean of each arm's seeds as a line, from the least to the greatest a band.

    What is higher than all arms are after a fifth of the steps is cut off.
    """
    figure, axes = new_figure(_WIDE, 4.2)
    for arm, (steps, mean, least, greatest) in bands.items():
        colour, dashes, width = look[arm]
        axes.fill_between(steps, least, greatest, color=colour, alpha=0.13, linewidth=0)
        few = "o" if len(steps) < 3 else None
        axes.plot(steps, mean, color=colour, linestyle=(0, dashes), linewidth=width, marker=few, markersize=4)
    last = max(max(band.steps) for band in bands.values())
    late = [
        greatest
        for band in bands.values()
        for step, greatest in zip(band.steps, band.greatest, strict=True)
        if step >= last / 5
    ]
    lowest = min(min(band.least) for band in bands.values())
    room = 0.05 * ((max(late) - lowest) or 1)
    axes.set_ylim(lowest - room, max(late) + room)
    axes.locator_params(axis="x", nbins=8, integer=True)
    dress(axes, "Validation", "step", "nats per event")
    _legend(figure, list(bands), look)
    return figure


def draw_costs(
    points: Mapping[str, tuple[float, Interval]], cost: str, measure: str, look: Mapping[str, Look]
) -> "Figure":
    """The measure, with intervals, over the `cost` of a run; each point has its name beside it."""
    figure, axes = new_figure(_WIDE, 4.2)
    for arm, (spent, (value, low, high)) in points.items():
        colour = look[arm].colour
        axes.plot([spent, spent], [low, high], color=colour, linewidth=1.2, alpha=0.7)
        axes.plot([spent], [value], "o", color=colour, markersize=7, label=arm)
    spent_by = [spent for spent, _ in points.values()]
    if min(spent_by) > 0 and max(spent_by) > 20 * min(spent_by):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter("")
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
    axes.margins(x=0.16, y=0.1)
    dress(axes, f"{measure.capitalize()} over {cost}", f"{cost} of a run", measure)
    _name_points(figure, points, look)
    return figure


def draw_law(row: Row, points: Sequence[tuple[float, float, Interval]], measure: str) -> "Figure":
    """A point (parameters, events, nats) for each arm, and the law as a curve for each amount of data."""
    figure, axes = new_figure(_WIDE, 4.2)
    sizes = sorted({parameters for parameters, _, _ in points})
    curve = np.geomspace(sizes[0] / 1.2, sizes[-1] * 1.2, 60).tolist()
    for number, amount in enumerate(sorted({events for _, events, _ in points})):
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(curve, [expected(row, size, amount) for size in curve], color=colour, linewidth=1.6)
        for size, (value, low, high) in ((size, nats) for size, events, nats in points if events == amount):
            axes.plot([size, size], [low, high], color=colour, linewidth=1.2, alpha=0.5)
            axes.plot([size], [value], "o", color=colour, markersize=7)
        axes.plot([], [], "o-", color=colour, label=f"{amount:,.0f} training events")
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter("")
    axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes], rotation=20)
    dress(axes, f"{measure.capitalize()} over size, and the law", "parameters", measure)
    axes.legend(frameon=False, fontsize=_TEXT)
    return figure


def expected(row: Row, parameters: float, events: float) -> float:
    """The nats of a network of so many parameters that is trained on so many events."""
    law, largest = row["law"], row["config"]
    of_size = law["size"] * (parameters / largest["parameters"]) ** -law["alpha"]
    of_data = law["data"] * (events / largest["events"]) ** -law["beta"]
    return float(law["floor"] + of_size + of_data)


def constants(row: Row, measure: str) -> list[tuple[str, str]]:
    """What each constant means, and its value with its interval."""
    largest = row["config"]
    meanings = {
        "floor": f"{measure} that neither buys",
        "size": f"{measure} to gain beyond {largest['parameters']:,.0f} parameters",
        "alpha": "exponent of parameters, α",
        "data": f"{measure} to gain beyond {largest['events']:,.0f} training events",
        "beta": "exponent of training events, β",
    }
    return [
        (meaning, f"{row['law'][name]:.3g} ({row['low'][name]:.3g} to {row['high'][name]:.3g})")
        for name, meaning in meanings.items()
    ]


def short(value: float) -> str:
    """Three digits of a number that may be large: 950, 1.24e15."""
    return f"{value:.3g}".replace("e+0", "e").replace("e+", "e")


def _label(arm: str) -> str:
    """The name of an arm as matplotlib is to be given it: not too long, and no formula."""
    name = arm if len(arm) <= _LONGEST_NAME else f"{arm[: _LONGEST_NAME - 1]}…"
    return name.replace("$", r"\$")


def _legend(figure: "Figure", arms: Sequence[str], look: Mapping[str, Look]) -> None:
    """To the right of the picture: inside it would cover the curves."""
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], color=look[arm].colour, linestyle=(0, look[arm].dashes), linewidth=look[arm].width)
        for arm in arms
    ]
    names = [_label(arm).lstrip("_") for arm in arms]  # matplotlib hides what begins with _
    figure.legend(
        *(lines, names),
        loc="outside right upper",
        frameon=False,
        fontsize=_TEXT,
        labelcolor=INK,
        ncols=-(-len(arms) // 19),
    )


def _name_points(
    figure: "Figure", points: Mapping[str, tuple[float, Interval]], look: Mapping[str, Look]
) -> None:
    """Each name beside its point; higher or lower, with a line to it, where it would cover something."""
    from matplotlib.transforms import Bbox

    axes = figure.axes[0]
    figure.draw_without_rendering()  # or it is not known yet where the points are
    scale = 72 / figure.dpi
    edge = axes.bbox.x1 * scale
    places, taken = {}, []
    for arm, (spent, interval) in points.items():
        (x, y), (_, low), (_, high) = (axes.transData.transform((spent, value)) * scale for value in interval)
        places[arm] = (x, y)
        taken += [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5), Bbox.from_extents(x - 2, low, x + 2, high)]
    for arm, (x, y) in sorted(places.items(), key=lambda item: -item[1][1]):
        name = _label(arm)
        to_left, shift = _free_place(taken, x, y, 0.56 * _TEXT * len(name), edge)
        spent, interval = points[arm]
        line = {"arrowstyle": "-", "color": look[arm].colour, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3}
        line["relpos"] = (1 if to_left else 0, 0.5)  # from the side of the name that looks to the point
        axes.annotate(
            *(name, (spent, interval.value)),
            xytext=(-9 if to_left else 9, shift),
            textcoords="offset points",
            ha="right" if to_left else "left",
            va="center",
            fontsize=_TEXT,
            color=INK,
            arrowprops=line if shift else None,
        ).set_in_layout(False)


def _free_place(taken: list["Bbox"], x: float, y: float, width: float, edge: float) -> tuple[bool, float]:
    """Whether to the left of the point, and how much higher; the box of that place is added to `taken`."""
    from matplotlib.transforms import Bbox

    for shift in (sign * rows * _LINE / 2 for rows in range(60) for sign in (1, -1)):
        for to_left in (False, True):
            left = x - 9 - width if to_left else x + 9
            box = Bbox.from_extents(left, y + shift - _LINE / 2, left + width, y + shift + _LINE / 2)
            if (to_left or box.x1 <= edge) and not box.count_overlaps(taken):
                taken.append(box)
                return to_left, shift
    return False, 0.0
