"""Figures in the manner of a page: matplotlib draws them, the page gives them its colours and its font.

In: what a figure is of. Out: dressed axes to draw on, and the finished figure as an <svg> element or a file.
"""

import html
import io
import re
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from midigen_jax.files import replacing
from midigen_jax.listen import check_installed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colour in a picture of its own -> CSS variable in a page that has a dark and a light side.
ORANGE, BLUE, INK, GRID = "#d9822b", "#3b6fd4", "#5c5a55", "#e6e3da"
IVORY, EBONY = "#fbfaf4", "#2b2a26"
_VARIABLES = {
    ORANGE: "var(--orange)",
    BLUE: "var(--blue)",
    INK: "var(--soft)",
    GRID: "var(--line)",
    IVORY: "var(--ivory)",
    EBONY: "var(--ebony)",
}


def new_figure(
    width: float = 5.0, height: float = 2.9, dpi: float = 120, **subplots: Any
) -> tuple["Figure", Any]:
    """An empty figure and its axes; `subplots` says which, where there are several.

    Two of this size stand beside each other on a wide screen, and one can be read on a phone.
    """
    check_installed()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    return figure, figure.subplots(**subplots)


def dress(axes: "Axes", title: str, x: str, y: str, grid: Literal["both", "x", "y"] = "both") -> None:
    """Title, labels with their units, and as little ink besides as possible."""
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.tick_params(which="both", colors=INK, labelsize=9, length=0)
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)


def legend(axes: "Axes") -> None:
    """A legend in the manner of `dress`, once everything is drawn."""
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)


def save(figure: "Figure", path: Path, **options: Any) -> None:
    """Write the picture at `path` in the format of its suffix; the same figure gives the same bytes."""
    if path.suffix == ".svg":
        options["metadata"] = {"Date": None}
    with replacing(path) as partial:
        _render(figure, partial, "midigen-jax", **options)


def svg(figure: "Figure") -> str:
    """`figure` as an <svg> element for an HTML page: no outside reference, its colours CSS variables."""
    text = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    title = figure.axes[0].get_title(loc="left")
    _render(figure, text, title, format="svg", transparent=True, metadata=nothing)
    element = text.getvalue()
    element = element[element.index("<svg") :]
    element = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", element)  # an HTML parser knows them
    element = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", element, count=1)
    name = f' role="img" aria-label="{html.escape(title)}"'
    element = re.sub(r'(<svg[^>]*?) height="[^"]*"', lambda found: found[1] + name, element, count=1)
    # Names that a second figure would repeat, and rules that would reach the whole page.
    element = element.replace("<g id=", "<g data-part=")
    element = re.sub(r"<defs>\s*<style.*?</defs>", "", element, count=1, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        element = element.replace(colour, variable)
    return element


def _render(figure: "Figure", file: Path | IO[str], salt: str, **options: Any) -> None:
    """The salt makes the ids in an SVG the same in every run, and keeps those of two figures apart."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}), warnings.catch_warnings():
        # A title may hold letters that the font lacks: they become boxes, which is no reason to fail.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure.savefig(file, **options)
