"""A network as a picture: a box for each part, from the embeddings at the bottom to the heads at the top.

In: the parts of a network, as `model.summary` or a run's `network.json` has them. Out: a figure, a table.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from midigen_jax.listen.figures import BLUE, GRID, INK, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDE, _HIGH, _GAP = 3.4, 0.74, 0.5  # inches of a box, and between rows of boxes
_LEVELS = {"embed": 0, "features": 0, "enter": 1, "blocks": 2, "head": 3, "interval": 3}


def draw_network(parts: Sequence[Mapping[str, Any]]) -> "Figure":
    """The boxes of a network. What stands side by side reads the same, or is read together."""
    levels = _levels(parts)
    columns = max(map(len, levels))
    size = _WIDE * columns + 0.4, (_HIGH + _GAP) * len(levels) + 0.5
    figure, axes = new_figure(*size)
    axes.set_title("The network", loc="left", fontsize=11, color=INK)
    axes.set_xlim(0, _WIDE * columns)
    axes.set_ylim(-_GAP, (_HIGH + _GAP) * len(levels))
    axes.axis("off")
    middles: list[list[float]] = []
    for row, level in enumerate(levels):
        bottom = row * (_HIGH + _GAP)
        left = (columns - len(level)) * _WIDE / 2
        middles.append([left + (place + 0.5) * _WIDE for place in range(len(level))])
        for middle, part in zip(middles[-1], level, strict=True):
            _box(axes, middle, bottom, part)
    for row, (lower, upper) in enumerate(pairwise(middles)):
        for begin in lower:
            for end in upper:
                start, stop = row * (_HIGH + _GAP) + _HIGH, (row + 1) * (_HIGH + _GAP)
                arrow = {"arrowstyle": "-|>", "color": INK, "linewidth": 0.9}
                axes.annotate("", (end, stop), (begin, start), arrowprops=arrow)
    return figure


def network_table(parts: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """A line a part, and their sum, as (label, value)."""
    lines = [(part["says"], _numbers(part)) for part in parts]
    total = {name: sum(part[name] for part in parts) for name in ("parameters", "flops")}
    return [*lines, ("all", _numbers(total))]


def _levels(parts: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Parts that stand side by side, from the bottom; every block stands alone."""
    levels: list[list[Mapping[str, Any]]] = []
    kinds: list[int] = []
    for part in parts:
        kind = _LEVELS[part["name"].partition("_")[0]]
        if kinds and kinds[-1] == kind and kind in (0, 3):
            levels[-1].append(part)
        else:
            levels.append([part])
            kinds.append(kind)
    return levels


def _box(axes: Any, middle: float, bottom: float, part: Mapping[str, Any]) -> None:
    from matplotlib.patches import FancyBboxPatch

    colour = BLUE if part["name"].startswith("blocks") else ORANGE
    corner, size = (middle - _WIDE / 2 + 0.12, bottom), (_WIDE - 0.24, _HIGH)
    shape = FancyBboxPatch(
        corner, *size, boxstyle="round,pad=0,rounding_size=0.08", facecolor="none", edgecolor=GRID
    )
    axes.add_patch(shape)
    words = part["says"] if len(part["says"]) < 44 else part["says"].replace("(", "\n(", 1)
    axes.text(middle, bottom + 0.62 * _HIGH, words, ha="center", va="center", fontsize=8, color=colour)
    axes.text(middle, bottom + 0.18 * _HIGH, _numbers(part), ha="center", va="center", fontsize=7, color=INK)


def _numbers(part: Mapping[str, Any]) -> str:
    """Widths, parameters and what an event costs, in words."""
    found = [f"{part['inputs']:,} → {part['outputs']:,}"] if part.get("inputs") else []
    found.append(f"{part['parameters']:,} parameters")
    if part["flops"]:
        found.append(f"{part['flops'] / 1e6:.3g} Mflop an event")
    return " · ".join(found)
