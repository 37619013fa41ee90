"""What is measured of a model on whole pieces: an entry a metric, and figures with intervals made of them.

A metric takes what a model said of each event of a piece, and gives a numerator and a denominator: nats and
quarter notes, right guesses and events. A figure is the sum of the ones over the sum of the others, so it is
exact for likelihoods, and its 95 % interval is from a bootstrap over pieces: they are what was sampled, while
the events within one depend on each other. `evaluate`, studies, tables and pages show whatever stands in
`METRICS`; docs/extending.md adds one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from midigen_jax.config import nearest
from midigen_jax.data.corpus import Corpus, CorpusPiece
from midigen_jax.errors import InputError
from midigen_jax.vocab import Tokens, Vocabulary, closes_of, ticks_of

Ratio = tuple[float, float]
"""A numerator and a denominator."""

_RESAMPLES = 10_000
_MOST_COUNTS = 10_000_000  # that are held for them: with more than 1,000 pieces they become fewer
INTERVAL = (0.025, 0.975)
_VOICES = 4  # of a slice, that are told apart


class EventScores(NamedTuple):
    """The E events of one piece after `<start>`, the last of them `<end>`, and what a model said of them."""

    piece: CorpusPiece
    vocabulary: Vocabulary
    tokens: Tokens  # (E, S)
    nats: NDArray[np.floating]  # (E, S) of each stream's id, given those of earlier streams
    ranks: NDArray[np.integer] | None = None  # (E, S) how many ids were likelier; None: of no network

    @property
    def ticks(self) -> NDArray[np.int32]:
        """(E,) the time that goes by after each event."""
        return ticks_of(self.vocabulary.tables, self.tokens)

    @property
    def by_stream(self) -> Iterable[tuple[str, int]]:
        """Names of streams, and the column of each."""
        return ((stream.name, place) for place, stream in enumerate(self.vocabulary.streams))


class Metric(NamedTuple):
    """What is measured: for one piece, a ratio of each part of the metric; the part "" is all of it.

    A piece that has nothing of a part leaves it out, or gives it a denominator of 0.
    """

    unit: str
    of: Callable[[EventScores], Mapping[str, Ratio]]
    higher_is_better: bool = False


def nats_per(units: Callable[[EventScores], float]) -> Callable[[EventScores], Mapping[str, Ratio]]:
    """Nats over what `units` counts: of all streams together, of each, and with those of `<end>`."""

    def of(scores: EventScores) -> dict[str, Ratio]:
        count, nats = units(scores), scores.nats.astype(np.float64)
        music = nats[:-1].sum(axis=0)
        parts = {name: (float(music[place]), count) for name, place in scores.by_stream}
        return {"": (float(music.sum()), count), "end": (float(nats.sum()), count), **parts}

    return of


def _slices(scores: EventScores) -> float:
    return float(np.count_nonzero(scores.ticks))


def _quarters(scores: EventScores) -> float:
    return scores.vocabulary.clock.quarters(float(scores.ticks.sum()))


def _frames(scores: EventScores) -> float:
    return float(scores.ticks.sum()) / scores.piece.frame if scores.piece.frame else 0.0


def accuracy(scores: EventScores) -> dict[str, Ratio]:
    """Events whose likeliest id was the right one, stream by stream (given earlier ids), and all streams."""
    if scores.ranks is None:
        return {}
    count, hits = float(len(scores.ranks) - 1), scores.ranks[:-1] == 0
    parts = {name: (float(hits[:, place].sum()), count) for name, place in scores.by_stream}
    return {"": (float(hits.all(axis=1).sum()), count), **parts}


def nats_by_position(scores: EventScores) -> dict[str, Ratio]:
    """Nats of an event by where its slice begins: on a bar line, on a beat, between beats."""
    clock, meter = scores.vocabulary.clock, scores.piece.meter
    bar, beat = clock.bar(meter), clock.beat(meter)
    ticks = scores.ticks[:-1]
    onset = np.cumsum(ticks) - ticks - scores.piece.first_bar
    where = np.select([onset % bar == 0, onset % bar % beat == 0], [0, 1], 2)
    return _shared_out(scores, where, ("bar line", "beat", "between"))


def nats_by_voice(scores: EventScores) -> dict[str, Ratio]:
    """Nats of an event by its voice, or by the rank of its pitch in its slice, from below."""
    number = np.arange(len(scores.tokens) - 1)
    closes = closes_of(scores.vocabulary.tables, scores.tokens[:-1])
    first = np.maximum.accumulate(np.where(np.append(True, closes[:-1])[: len(number)], number, 0))
    places = scores.vocabulary.voice_places
    voice_at = np.argsort([*places, *range(len(places), 1 + len(number))])
    names = [str(1 + voice) for voice in range(_VOICES)] + [f"{_VOICES + 1} and above"]
    return _shared_out(scores, np.minimum(voice_at[number - first], _VOICES), names)


def _shared_out(scores: EventScores, where: NDArray[np.integer], names: Sequence[str]) -> dict[str, Ratio]:
    """Nats and events of each kind of event, but for `<end>`."""
    nats = scores.nats[:-1].sum(axis=1, dtype=np.float64)
    sums, counts = (np.bincount(where, weights, len(names)) for weights in (nats, None))
    return {
        name: (float(total), float(count)) for name, total, count in zip(names, sums, counts, strict=True)
    }


METRICS: dict[str, Metric] = {
    "nats_per_event": Metric("nats/event", nats_per(lambda scores: float(len(scores.tokens) - 1))),
    "nats_per_slice": Metric("nats/slice", nats_per(_slices)),
    "nats_per_quarter": Metric("nats/quarter", nats_per(_quarters)),
    "nats_per_frame": Metric("nats/frame", nats_per(_frames)),
    "accuracy": Metric("share", accuracy, higher_is_better=True),
    "nats_by_position": Metric("nats/event", nats_by_position),
    "nats_by_voice": Metric("nats/event", nats_by_voice),
}


def find_metric(name: str) -> Metric:
    """The metric of `NAME` or `NAME.PART`. Raises InputError for one that is not there."""
    metric = METRICS.get(name.partition(".")[0])
    if metric is None:
        raise InputError(f"no metric {name}; {nearest(name, METRICS)}")
    return metric


class PieceScores(NamedTuple):
    """One piece, measured: the ratio of each metric, by `NAME` or `NAME.PART`."""

    source: str
    leaked: bool
    ratios: dict[str, Ratio]


class Figure(NamedTuple):
    """A metric over some pieces, and its 95 % interval from a bootstrap over them."""

    metric: str
    part: str  # "" is all of it
    weight: Literal["units", "pieces"]  # all numerators over all denominators; or the mean over pieces
    value: float
    low: float
    high: float
    pieces: int


def measure(scores: EventScores) -> PieceScores:
    """All metrics of one piece."""
    ratios: dict[str, Ratio] = {}
    for name, metric in METRICS.items():
        found_of = metric.of(scores)
        if not isinstance(found_of, Mapping):
            raise TypeError(f"metric {name} gave {found_of!r}; give {{'': (numerator, denominator)}}")
        for part, found in found_of.items():
            ratios[f"{name}.{part}" if part else name] = found
    return PieceScores(scores.piece.source, scores.piece.leaked, ratios)


def event_scores(corpus: Corpus, piece: CorpusPiece, nats: Any, ranks: Any = None) -> EventScores:
    """Of a piece of a corpus, given what a model said of all its events but `<start>`."""
    return EventScores(piece, corpus.vocabulary, corpus.tokens[piece.start + 1 : piece.stop], nats, ranks)


def names_of(pieces: Sequence[PieceScores]) -> list[str]:
    """The metrics of these pieces, those left out that one piece cannot have; parts may be those of some."""
    every = dict.fromkeys(name for piece in pieces for name in piece.ratios)
    return [
        name
        for name in every
        if all(piece.ratios.get(name.partition(".")[0], (0, 1))[1] > 0 for piece in pieces)
        and sum(piece.ratios.get(name, (0, 0))[1] for piece in pieces) > 0
    ]


def columns(pieces: Sequence[PieceScores], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(P,) numerators and denominators of a metric."""
    pairs = np.array([piece.ratios.get(name, (0.0, 0.0)) for piece in pieces], np.float64)
    return pairs[:, 0], pairs[:, 1]


def figures(pieces: Sequence[PieceScores]) -> list[Figure]:
    """All figures of some pieces."""
    found = []
    for key in names_of(pieces):
        metric, _, part = key.partition(".")
        numerator_P, denominator_P = columns(pieces, key)
        found.append(Figure(metric, part, "units", *ratio(numerator_P, denominator_P), len(pieces)))
        if not part:
            mean = ratio(numerator_P / denominator_P, np.ones(len(pieces)))
            found.append(Figure(metric, part, "pieces", *mean, len(pieces)))
    return found


def pick(
    found: Iterable[Figure],
    metric: str,
    part: str = "",
    weight: Literal["units", "pieces"] = "units",
) -> Figure:
    """The one figure of that kind."""
    (figure,) = (f for f in found if (f.metric, f.part, f.weight) == (metric, part, weight))
    return figure


def ratio(total_N: NDArray[np.float64], divisor_N: NDArray[np.float64]) -> tuple[float, float, float]:
    """The ratio of two sums over N pieces, and its 95 % interval from a bootstrap over pieces."""
    counts_RN = resamples(len(total_N))
    totals_R, divisors_R = counts_RN @ total_N, counts_RN @ divisor_N
    there_R = divisors_R > 0  # what few pieces have, a resample may lack
    low, high = np.quantile(totals_R[there_R] / divisors_R[there_R], INTERVAL)
    return float(total_N.sum() / divisor_N.sum()), float(low), float(high)


def parts_of(pieces: Iterable[PieceScores]) -> dict[str, list[PieceScores]]:
    """All pieces; and, where some of them share music with the training split, these and the others apart."""
    every = list(pieces)
    clean = [piece for piece in every if not piece.leaked]
    leaked = [piece for piece in every if piece.leaked]
    return {"all": every} | ({"clean": clean, "leaked": leaked} if clean and leaked else {})


@lru_cache(maxsize=4)
def resamples(count: int) -> NDArray[np.float64]:
    """(R, N): how often each of N pieces is in each resample; the same for the same N."""
    times = min(_RESAMPLES, max(1000, _MOST_COUNTS // count))
    rng = np.random.default_rng(0)
    return rng.multinomial(count, np.full(count, 1 / count), times).astype(np.float64)
