"""Nats of events in, figures that can be laid beside published ones out.

A model is scored by what it gives to whole pieces, event by event; the sum is exact, so it may be divided by
anything that the pieces hold: events, slices, quarter notes, frames. Each figure has a 95 % interval from a
bootstrap over pieces: they are what was sampled, while the events within one depend on each other.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from midigen_jax.data.corpus import Corpus, CorpusPiece
from midigen_jax.music.notes import TICKS_PER_QUARTER

Unit = Literal["event", "slice", "quarter", "frame"]
Head = Literal["both", "pitch", "duration"]

_RESAMPLES = 10_000
_MOST_COUNTS = 10_000_000  # that are held for them: with more than 1,000 pieces they become fewer
INTERVAL = (0.025, 0.975)


class PieceNats(NamedTuple):
    """What a model gave to one piece, in nats, and what that can be divided by; `<end>` apart."""

    source: str
    leaked: bool
    pitch: float
    duration: float
    end: float
    event: int
    slice: int
    quarter: float
    frame: float  # 0 where the corpus has no frames


class Figure(NamedTuple):
    """Nats per unit, and the 95 % interval from a bootstrap over pieces."""

    unit: Unit
    weight: Literal["units", "pieces"]  # all nats over all units; or the mean over pieces, each alike
    head: Head
    end: bool  # are the nats of `<end>` in it?
    value: float
    low: float
    high: float
    pieces: int


def tally(corpus: Corpus, piece: CorpusPiece, nats_E2: NDArray[np.floating]) -> PieceNats:
    """A piece's nats, given (E, 2) of all its events but `<start>`: of the pitch id, of the duration id."""
    duration_E = corpus.tokens[piece.start + 1 : piece.stop, 1]
    pitch, duration = nats_E2[:-1].sum(axis=0, dtype=np.float64).tolist()
    return PieceNats(
        source=piece.source,
        leaked=piece.leaked,
        pitch=pitch,
        duration=duration,
        end=float(nats_E2[-1].sum()),
        event=len(duration_E) - 1,
        slice=int(np.count_nonzero(duration_E)),
        quarter=float(duration_E.sum()) / TICKS_PER_QUARTER,
        frame=float(duration_E.sum()) / piece.frame if piece.frame else 0.0,
    )


def units_of(pieces: Sequence[PieceNats]) -> tuple[Unit, ...]:
    """The units that all pieces can be divided by."""
    units: tuple[Unit, ...] = ("event", "slice", "quarter", "frame")
    return tuple(unit for unit in units if all(getattr(piece, unit) > 0 for piece in pieces))


def figures(pieces: Sequence[PieceNats]) -> list[Figure]:
    """All figures of some pieces."""
    cases: tuple[tuple[Head, bool], ...]
    cases = ("both", False), ("both", True), ("pitch", False), ("duration", False)
    found = []
    for unit in units_of(pieces):
        divisor_N = np.array([getattr(piece, unit) for piece in pieces], np.float64)
        for head, end in cases:
            interval = ratio(_nats(pieces, head, end), divisor_N)
            found.append(Figure(unit, "units", head, end, *interval, len(pieces)))
        each_N = _nats(pieces, "both", end=False) / divisor_N
        interval = ratio(each_N, np.ones(len(pieces)))
        found.append(Figure(unit, "pieces", "both", False, *interval, len(pieces)))
    return found


def pick(
    found: Iterable[Figure],
    unit: Unit,
    weight: Literal["units", "pieces"] = "units",
    head: Head = "both",
    end: bool = False,
) -> Figure:
    """The one figure of that kind."""
    (figure,) = (f for f in found if (f.unit, f.weight, f.head, f.end) == (unit, weight, head, end))
    return figure


def ratio(total_N: NDArray[np.float64], divisor_N: NDArray[np.float64]) -> tuple[float, float, float]:
    """The ratio of two sums over N pieces, and its 95 % interval from a bootstrap over pieces."""
    counts_RN = resamples(len(total_N))
    low, high = np.quantile((counts_RN @ total_N) / (counts_RN @ divisor_N), INTERVAL)
    return float(total_N.sum() / divisor_N.sum()), float(low), float(high)


def parts_of(pieces: Iterable[PieceNats]) -> dict[str, list[PieceNats]]:
    """All pieces; and, where some of them share music with the training split, these and the others apart."""
    every = list(pieces)
    clean = [piece for piece in every if not piece.leaked]
    leaked = [piece for piece in every if piece.leaked]
    return {"all": every} | ({"clean": clean, "leaked": leaked} if clean and leaked else {})


def _nats(pieces: Sequence[PieceNats], head: Head, end: bool) -> NDArray[np.float64]:
    pitch, duration, last = np.array([(piece.pitch, piece.duration, piece.end) for piece in pieces]).T
    of_heads = {"both": pitch + duration, "pitch": pitch, "duration": duration}[head]
    return of_heads + last if end else of_heads


@lru_cache(maxsize=4)
def resamples(count: int) -> NDArray[np.float64]:
    """(R, N): how often each of N pieces is in each resample; the same for the same N."""
    times = min(_RESAMPLES, max(1000, _MOST_COUNTS // count))
    rng = np.random.default_rng(0)
    return rng.multinomial(count, np.full(count, 1 / count), times).astype(np.float64)
