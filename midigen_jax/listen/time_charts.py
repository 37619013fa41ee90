"""When things happen in some music, as pictures: note values, tempi, meters.

In: a census. Out: charts, each with the sentence that goes with it.
"""

from collections import Counter

import numpy as np

from midigen_jax.listen.bars import Chart, draw_bars, draw_pairs, percent
from midigen_jax.listen.tables import many
from midigen_jax.music.census import Census

NOTE_VALUES = {
    1: "1/32t",
    2: "1/16t",
    3: "1/16",
    4: "1/8t",
    6: "1/8",
    8: "1/4t",
    9: "1/8.",
    12: "1/4",
    16: "1/2t",
    18: "1/4.",
    24: "1/2",
    36: "1/2.",
    48: "1/1",
}
"""Ticks and what they are called: t is a triplet, a dot half as long again."""

_STEP, _FASTEST = 10, 240  # quarters a minute: what is faster stands in the last bar
_METERS = 9  # that there is room for


def draw_durations(census: Census) -> Chart:
    """Notes and slices by how long they last, in note values."""
    counts = {"notes": _by_value(census.note_ticks), "slices": _by_value(census.slice_ticks)}
    series = {name: percent([*values.values()]) for name, values in counts.items()}
    often = {name: max(values, key=values.__getitem__) for name, values in counts.items()}
    share = {name: f"{often[name]} ({series[name].max():.0f} %)" for name in series}
    label = "note value (t: triplet; dot: half as long again)"
    return Chart(
        draw_pairs("duration", label, "% of each", [*counts["notes"]], series, slant=50),
        "How long notes sound, and how long slices last, silent ones too. The most frequent value of a note "
        f"is {share['notes']}, that of a slice {share['slices']}.",
    )


def _by_value(ticks: Counter[int]) -> dict[str, int]:
    """Counts by the name of the note value; what lies between the names or above them is gathered."""
    counts = dict.fromkeys([*NOTE_VALUES.values(), "longer", "others"], 0)
    for length, count in ticks.items():
        counts[NOTE_VALUES.get(length, "longer" if length > max(NOTE_VALUES) else "others")] += count
    return counts


def draw_tempos(census: Census) -> Chart:
    """Pieces by the tempo that they begin with."""
    # A file holds microseconds a quarter, so that 76 comes back as 75.99997.
    tempos = np.round(census.tempos, 2)
    counts, edges = np.histogram(np.minimum(tempos, _FASTEST), np.arange(0, _FASTEST + 2 * _STEP, _STEP))
    labels = [f"{edge}" if edge % 40 == 0 else "" for edge in edges[:-1].tolist()]
    labels[-1] += "+"
    usual = int((tempos == 120).sum())
    return Chart(
        draw_bars("tempo", f"quarters a minute, in steps of {_STEP}", "pieces", labels, counts),
        f"The tempo that each piece begins with; the middle one is {np.median(tempos):.0f}. "
        f"At 120, which is also what a MIDI file means that names none: {many(usual, 'piece')}.",
    )


def draw_meters(census: Census) -> Chart:
    """Pieces by the meter that they begin with."""
    bars = {f"{above}/{below}": count for (above, below), count in census.meters.most_common(_METERS)}
    if rest := census.meters.total() - sum(bars.values()):
        bars["others"] = rest
    return Chart(
        draw_bars("meter", "meter", "pieces", [*bars], [*bars.values()]),
        "The meter that each piece begins with. In 4/4, which is also what a MIDI file means that names "
        f"none: {many(bars.get('4/4', 0), 'piece')}.",
    )
