"""What a run writes beside what people wrote: statistics, histograms, and how much was copied.

In: samples and a corpus. Out: rows, and a table of them. A figure of samples says little alone; beside it
stands that of the pieces of a split, those left out that share music with training, and a copied run beside
the runs that such pieces have in common with the training music all the same.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from midigen_jax import rows
from midigen_jax.data.copying import Run, Training
from midigen_jax.data.corpus import Corpus
from midigen_jax.errors import InputError
from midigen_jax.music.notes import Notes
from midigen_jax.music.piece import Split
from midigen_jax.music.slices import slice_notes
from midigen_jax.progress import Progress
from midigen_jax.study.evaluate import pieces_of
from midigen_jax.study.metrics import ratio
from midigen_jax.study.statistics import (
    HISTOGRAMS,
    Statistics,
    divergence,
    histogram,
    overlap,
    statistics,
)


class Measured(NamedTuple):
    """Some pieces: statistics of each, its longest run that is in the training music, histograms of all."""

    statistics: list[Statistics]
    runs: list[Run]
    histograms: dict[str, NDArray[np.float64]]


class Compared(NamedTuple):
    """Samples beside the pieces of a split, and the names of the training pieces, to which runs point."""

    samples: Measured
    pieces: Measured
    split: Split
    sources: list[str]
    leaked: int  # pieces of the split that are left out
    unknown: float  # the share of the split's chords that are not in the vocabulary, and rests in `pieces`


def compare(
    samples: Sequence[Notes], meter: tuple[int, int], corpus: Corpus, split: Split, first_bar: int = 0
) -> Compared:
    """Samples beside the pieces of a split that share no music with training.

    All samples are in one meter, and have their first bar line at one tick.

    Grooves are measured in that meter, and of pieces in another one not at all.

    Raises InputError for a split that is empty, or all of which is left out.
    """
    training = corpus.split("train")
    clock = corpus.vocabulary.clock
    known = Training([slice_notes(corpus.notes(piece)) for piece in training], clock)
    every = pieces_of(corpus, split)
    people = [piece for piece in every if not piece.leaked]
    if not people:
        raise InputError(f"{corpus.path}: all of {split} shares music with training; leave --samples out")
    with Progress("comparing", len(samples) + len(people), "pieces") as progress:
        bar = clock.bar(meter)
        ours = _measure(samples, [(bar, first_bar)] * len(samples), known, progress)
        notes = [corpus.notes(piece) for piece in people]
        bars = [(bar if piece.meter == meter else None, piece.first_bar) for piece in people]
        theirs = _measure(notes, bars, known, progress)
    unknown = corpus.manifest["summary"].get("unknown_share", {}).get(split, 0.0)
    sources = [piece.source for piece in training]
    return Compared(ours, theirs, split, sources, len(every) - len(people), unknown)


def rows_of(compared: Compared, settings: dict[str, Any], **fields: Any) -> list[rows.Row]:
    """A row for each figure; those of the split say so in their config."""
    found = []
    for name, measured in (("samples", compared.samples), (compared.split, compared.pieces)):
        about = {"config": settings | {"of": name}, "pieces": len(measured.runs)} | fields
        if measured is compared.pieces:
            about |= {"leaked": compared.leaked, "unknown_share": compared.unknown}
        for statistic in Statistics._fields:
            value, low, high = _mean(measured, statistic)
            found.append(
                rows.make(f"samples.{statistic}", value, _unit(statistic), low=low, high=high, **about)
            )
        median, most, longest = _quantiles(measured)
        each = [run._asdict() | {"source": compared.sources[run.source]} for run in measured.runs]
        more = {"p90": most, "max": longest, "runs": each}
        found.append(rows.make("samples.longest_run", median, "slices", **more, **about))
    for kind in HISTOGRAMS:
        ours, theirs = compared.samples.histograms[kind], compared.pieces.histograms[kind]
        about = {"config": settings, "pieces": len(compared.samples.runs)} | fields
        found.append(rows.make(f"samples.overlap.{kind}", overlap(ours, theirs), "share", **about))
        found.append(rows.make(f"samples.divergence.{kind}", divergence(ours, theirs), "nats", **about))
    return [row for row in found if np.isfinite(row["value"])]


def table(compared: Compared) -> list[str]:
    """Lines of text: a figure a line, of the samples and of the split."""
    ours, theirs = compared.samples, compared.pieces
    clean = len(theirs.runs)
    part = f" ({clean} clean of {clean + compared.leaked} pieces)" if compared.leaked else ""
    lines = [f"{'mean of pieces':<22} {'samples':<26} {compared.split}{part}"]
    for statistic in Statistics._fields:
        cells = [_cell(*_mean(measured, statistic)) for measured in (ours, theirs)]
        lines.append(f"{statistic.replace('_', ' '):<22} {cells[0]:<26} {cells[1]}")
    lines += ["", f"{'histograms':<22} {'overlap':<26} divergence in nats"]
    for kind in HISTOGRAMS:
        one, other = ours.histograms[kind], theirs.histograms[kind]
        cells = [f"{overlap(one, other):.3f}", f"{divergence(one, other):.3f}"]
        lines.append(f"{kind.replace('_', ' '):<22} {cells[0]:<26} {cells[1]}")
    lines += ["", "longest run of slices that is in the training music, in any key"]
    for name, measured in (("samples", ours), (compared.split, theirs)):
        median, most, longest = _quantiles(measured)
        run = max(measured.runs, key=lambda run: run.slices)
        where = f"in {compared.sources[run.source]}, {run.quarters:g} quarters" if run.slices else "none"
        lines.append(f"{name:<22} median {median:g}, 90 % up to {most:g}, longest {longest:g} ({where})")
    if compared.unknown:
        share = f"{compared.unknown:.1%} of the chords of {compared.split} are not in the vocabulary"
        lines += ["", f"{share}, and rests here: its figures are not those of what people wrote"]
    return lines


def _measure(
    pieces: Sequence[Notes], bars: Sequence[tuple[int | None, int]], known: Training, progress: Progress
) -> Measured:
    """`bars`: of each piece the ticks of a bar, if it is to have a groove, and those before the first."""
    each, runs = [], []
    for notes, (bar, first_bar) in zip(pieces, bars, strict=True):
        each.append(statistics(notes, bar, first_bar, known.clock))
        runs.append(known.longest(slice_notes(notes)))
        progress.advance()
    return Measured(each, runs, {kind: histogram(kind, pieces, known.clock) for kind in HISTOGRAMS})


def _mean(measured: Measured, statistic: str) -> tuple[float, float, float]:
    """Of the pieces that have it, with the 95 % interval of a bootstrap over them."""
    values = np.array([getattr(one, statistic) for one in measured.statistics])
    values = values[np.isfinite(values)]
    return ratio(values, np.ones(len(values))) if len(values) else (np.nan,) * 3


def _quantiles(measured: Measured) -> tuple[float, float, float]:
    """The median, the ninth decile and the greatest of the longest runs, in slices."""
    lengths = [run.slices for run in measured.runs]
    return float(np.median(lengths)), float(np.quantile(lengths, 0.9)), float(max(lengths))


def _cell(value: float, low: float, high: float) -> str:
    return "none" if np.isnan(value) else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _unit(statistic: str) -> str:
    if statistic.endswith("entropy"):
        return "bits"
    return {"polyphony": "pitches", "parallel_fifths": "%", "parallel_octaves": "%"}.get(statistic, "share")
