"""The law of a study, in words and as a picture: how nats fall with size and data.

In: the row `ablate.scaling`. Out: its constants as lines of a table, and a matplotlib figure.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from midigen_jax.listen.study_charts import COLOURS, TEXT, WIDE, Interval
from midigen_jax.listen.svg import dress, new_figure
from midigen_jax.rows import Row


def expected(row: Row, parameters: float, events: float) -> float:
    """The nats of a network of so many parameters that is trained on so many events."""
    law, largest = row["law"], row["config"]
    of_size = law["size"] * (parameters / largest["parameters"]) ** -law["alpha"]
    of_data = law["data"] * (events / largest["events"]) ** -law["beta"]
    return float(law["floor"] + of_size + of_data)


def constants(row: Row, unit: str) -> list[tuple[str, str]]:
    """What each constant means, and its value with its interval."""
    largest = row["config"]
    meanings = {
        "floor": f"nats per {unit} that neither buys",
        "size": f"nats per {unit} to gain beyond {largest['parameters']:,.0f} parameters",
        "alpha": "exponent of parameters, α",
        "data": f"nats per {unit} to gain beyond {largest['events']:,.0f} training events",
        "beta": "exponent of training events, β",
    }
    return [
        (meaning, f"{row['law'][name]:.3g} ({row['low'][name]:.3g} to {row['high'][name]:.3g})")
        for name, meaning in meanings.items()
    ]


def draw_law(row: Row, points: Sequence[tuple[float, float, Interval]], unit: str) -> Figure:
    """A point (parameters, events, nats) for each arm, and the law as a curve for each amount of data."""
    figure = new_figure()
    figure.set_size_inches(WIDE, 4.2)
    axes = figure.subplots()
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
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes], rotation=20)
    dress(axes, f"Nats per {unit} over size, and the law", "parameters", f"nats per {unit}")
    axes.legend(frameon=False, fontsize=TEXT)
    return figure
