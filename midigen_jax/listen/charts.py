"""What sounds in some music, and when, as pictures: pitches, keys, durations, tempi, chords and so on.

In: a census. Out: charts, each with the sentence that goes with it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from midigen_jax.listen.figures import BLUE, EBONY, INK, IVORY, ORANGE, dress, legend, new_figure
from midigen_jax.listen.tables import many
from midigen_jax.music.census import Census, covered, unseen
from midigen_jax.music.clock import Clock
from midigen_jax.music.key import Key
from midigen_jax.music.notes import pitch_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOTE_VALUES = {
    0.5: "1/64t",
    0.75: "1/64",
    1: "1/32t",
    1.5: "1/32",
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
"""Twelfths of a quarter and what they are called: t is a triplet, a dot half as long again."""

_FEWEST = 6  # places on an axis: one bar alone should be no wall
_BLACK_KEYS = (1, 3, 6, 8, 10)
_MOST_SOUNDING = 12  # pitches at once: more stand in one bar with it
_STEP, _FASTEST = 10, 240  # quarters a minute: what is faster stands in the last bar
_METERS = 9  # that there is room for
_POINTS = 200  # of a curve: enough on a logarithmic axis


class Chart(NamedTuple):
    """A picture, and a sentence that says what it shows."""

    figure: "Figure"
    sentence: str


def draw_pitches(census: Census) -> Chart:
    """Notes by pitch, above the keys of a piano."""
    figure, (bars, keys) = new_figure(nrows=2, sharex=True, height_ratios=(9, 1))
    used = np.flatnonzero(census.pitch)
    # Whole octaves, and the middle in any case, so that a few notes are no huge bars.
    low = int(used.min(initial=48)) // 12 * 12
    high = int(used.max(initial=83)) // 12 * 12 + 11
    pitches = np.arange(low, min(high, 127) + 1)
    bars.bar(pitches, _percent(census.pitch)[pitches], width=0.86, color=BLUE)
    dress(bars, "pitch", "", "% of notes", grid="y")
    bars.tick_params(labelbottom=False)
    _draw_keyboard(keys, pitches)
    reached = np.cumsum(_percent(census.pitch))
    lower, middle, upper = (pitch_name(int(np.searchsorted(reached, share))) for share in (25, 50, 75))
    return Chart(
        figure,
        f"The share of the notes that are struck on each key of a piano. They lie between "
        f"{pitch_name(int(used[0]))} and {pitch_name(int(used[-1]))}, half of them between {lower} and "
        f"{upper}; the middle one is {middle}.",
    )


def draw_keys(census: Census) -> Chart:
    """Pieces by key, by fifths, the two keys of a signature side by side."""
    major = [Key(7 * fifths % 12, "major") for fifths in range(-5, 7)]
    minor = [Key((key.tonic + 9) % 12, "minor") for key in major]
    labels = [
        f"{str(one).split()[0]}\n{str(other).split()[0]}m" for one, other in zip(major, minor, strict=True)
    ]
    series = {"major": [census.keys[key] for key in major], "minor": [census.keys[key] for key in minor]}
    best, count = census.keys.most_common(1)[0]
    in_major, in_minor = (sum(counts) for counts in series.values())
    return Chart(
        _draw_bars("key", "key, by fifths: major, and below it its relative minor", "pieces", labels, series),
        "The key that fits the notes of each piece best, as found in its source: "
        f"{many(in_major, 'piece')} in major, {in_minor:,} in minor; the most frequent: {best} ({count:,}). "
        "Transposing the music when it is prepared lays all these pairs upon one.",
    )


def draw_polyphony(census: Census) -> Chart:
    """Time by how many pitches sound in it."""
    shares = _percent(census.sounding)
    heights = [*shares[:_MOST_SOUNDING], shares[_MOST_SOUNDING:].sum()]
    labels = [*map(str, range(_MOST_SOUNDING)), f"{_MOST_SOUNDING}+"]
    mean = float(shares @ np.arange(len(shares))) / 100
    label = "pitches that sound at once (0: silence)"
    return Chart(
        _draw_bars("polyphony", label, "% of time", labels, {"": heights}),
        f"The share of the time in which so many pitches sound at once: {mean:.1f} on average, "
        f"{int(np.flatnonzero(census.sounding).max(initial=0))} at the most.",
    )


def draw_durations(census: Census) -> Chart:
    """Notes and slices by how long they last, in note values."""
    counts = {
        "notes": _by_value(census.note_ticks, census.clock),
        "slices": _by_value(census.slice_ticks, census.clock),
    }
    series = {name: _percent([*values.values()]) for name, values in counts.items()}
    often = {name: max(values, key=values.__getitem__) for name, values in counts.items()}
    share = {name: f"{often[name]} ({series[name].max():.0f} %)" for name in series}
    label = "note value (t: triplet; dot: half as long again)"
    return Chart(
        _draw_bars("duration", label, "% of each", [*counts["notes"]], series, slant=50),
        "How long notes sound, and how long slices last, silent ones too. The most frequent value of a note "
        f"is {share['notes']}, that of a slice {share['slices']}.",
    )


def draw_tempos(census: Census) -> Chart:
    """Pieces by the tempo that they begin with."""
    # A file holds microseconds a quarter, so that 76 comes back as 75.99997.
    tempos = np.round(census.tempos, 2)
    counts, edges = np.histogram(np.minimum(tempos, _FASTEST), np.arange(0, _FASTEST + 2 * _STEP, _STEP))
    labels = [f"{edge}" if edge % 40 == 0 else "" for edge in edges[:-1].tolist()]
    labels[-1] += "+"
    usual = int((tempos == 120).sum())
    return Chart(
        _draw_bars("tempo", f"quarters a minute, in steps of {_STEP}", "pieces", labels, {"": counts}),
        f"The tempo that each piece begins with; the middle one is {np.median(tempos):.0f}. "
        f"At 120, which is also what a MIDI file means that names none: {many(usual, 'piece')}.",
    )


def draw_meters(census: Census) -> Chart:
    """Pieces by the meter that they begin with."""
    bars = {f"{above}/{below}": count for (above, below), count in census.meters.most_common(_METERS)}
    if rest := census.meters.total() - sum(bars.values()):
        bars["others"] = rest
    return Chart(
        _draw_bars("meter", "meter", "pieces", [*bars], {"": [*bars.values()]}),
        "The meter that each piece begins with. In 4/4, which is also what a MIDI file means that names "
        f"none: {many(bars.get('4/4', 0), 'piece')}.",
    )


def draw_vocabulary(census: Census) -> Chart:
    """Slices that the most frequent chords cover; where there are splits, held-out ones that they do not."""
    training, held_out = census.training, census.held_out
    whose = "training slices" if held_out.pieces else "slices"
    shares = covered(training.chords, training.unknown)
    curves = [(shares, BLUE, f"{whose} covered")]
    if held_out.pieces:
        left = unseen(training.chords, held_out.chords, held_out.unknown)
        curves.append((left, ORANGE, "held-out slices unseen"))
    figure, axes = new_figure()
    size = len(training.chords)
    counts = np.unique(np.rint(np.geomspace(1, max(size, 1), _POINTS)).astype(np.int64))[:size]
    for curve, colour, label in curves:
        axes.plot(counts, 100 * curve[counts], color=colour, linewidth=2, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
    axes.xaxis.set_minor_formatter("")
    axes.set_ylim(0, 100)
    dress(axes, "chords", "chord symbols, the most frequent first", "% of slices that sound")
    legend(axes)

    enough = min(int(np.searchsorted(shares, 0.9)), size)
    some = f"the {enough:,} most frequent of them" if enough < size else "all of them together"
    text = f"Chord symbols: {size:,}; {some} cover {100 * shares[enough]:.0f} % of the {whose} that sound."
    lost = f"{100 * census.unseen_share:.1f} %"
    if held_out.pieces:
        text += f" With all of them {lost} of the held-out slices are still unseen."
    elif training.pieces > 1:
        text += (
            f" {lost} of these slices have a chord that is in no other piece: a vocabulary learned from the "
            "others would not know it."
        )
    return Chart(figure, text)


def _draw_bars(
    title: str, x: str, y: str, labels: Sequence[str], series: Mapping[str, ArrayLike], slant: float = 0
) -> "Figure":
    """A bar for each label, or two side by side; the labels may be slanted by so many degrees."""
    figure, axes = new_figure()
    width = 0.8 / len(series)
    for number, ((name, heights), colour) in enumerate(zip(series.items(), (BLUE, ORANGE), strict=False)):
        places = np.arange(len(labels)) + width * (number - (len(series) - 1) / 2)
        axes.bar(places, heights, width=width, color=colour, label=name)
    axes.set_xticks(range(len(labels)), labels)
    axes.tick_params(axis="x", rotation=slant)
    axes.locator_params(axis="y", nbins=6, integer=y == "pieces")
    dress(axes, title, x, y, grid="y")
    if len(series) > 1:
        legend(axes)
    else:
        axes.set_xlim(-0.6, max(len(labels), _FEWEST) - 0.4)
    return figure


def _draw_keyboard(axes: "Axes", pitches: NDArray[np.int64]) -> None:
    """White keys meet behind the middle of the black ones, so that a semitone is as wide everywhere."""
    white = np.array([pitch for pitch in pitches if pitch % 12 not in _BLACK_KEYS])
    left = white - np.where(np.isin((white - 1) % 12, _BLACK_KEYS), 1, 0.5)
    right = white + np.where(np.isin((white + 1) % 12, _BLACK_KEYS), 1, 0.5)
    axes.bar(left, 1, right - left, align="edge", color=IVORY, edgecolor=INK, linewidth=0.5)
    axes.bar(np.setdiff1d(pitches, white), 0.6, 0.8, bottom=0.4, color=EBONY)
    dress(axes, "", "pitch (C4 is middle C)", "")
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    tonics = pitches[pitches % 12 == 0]
    axes.set_xticks(tonics, [pitch_name(pitch) for pitch in tonics.tolist()])
    axes.set(yticks=[], ylim=(0, 1), xlim=(left[0], right[-1]))


def _by_value(ticks: Counter[int], clock: Clock) -> dict[str, int]:
    """Counts by the name of the note value; what lies between the names or above them is gathered."""
    names = {lasts * clock.quarter / 12: name for lasts, name in NOTE_VALUES.items()}
    names = {lasts: name for lasts, name in names.items() if lasts == int(lasts)}
    counts = dict.fromkeys([*names.values(), "longer", "others"], 0)
    for length, count in ticks.items():
        counts[names.get(length, "longer" if length > max(names) else "others")] += count
    return counts


def _percent(counts: ArrayLike) -> NDArray[np.float64]:
    """Counts as shares of their sum, in percent; of no counts at all the share is 0."""
    array = np.asarray(counts, np.float64)
    return 100 * array / max(array.sum(), 1)
