"""Models that need no network, scored on the same pieces: what any network must beat.

    uniform   every id that the rules allow is as likely as every other; struck or held is one choice more
    unigram   as often as in training, whatever came before
    copy      the slice before comes again, with the share that it has in training; else the unigram
    ngram     slices after slices, interpolated down to notes after notes, and these down to the unigram

All give the impossible probability 0, as networks do, and all are exact: the probabilities of everything that
may come next sum to one. Whether a pitch that sounded is struck again or held is a coin of its own, which all
but the first learn. They see events as the tables of a vocabulary tell them, and serve any.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np
from numpy.typing import NDArray

from midigen_jax.data.corpus import Corpus, CorpusPiece
from midigen_jax.progress import Progress
from midigen_jax.study.ngram import NGram
from midigen_jax.vocab import Tokens, Vocabulary, by_stream, closes_of
from midigen_jax.vocab.traced import allowed_next, pitch_stream

_SLICES = 3  # whose durations the n-gram looks back on; of their pitches, those of the last one
_PADDED = 256  # pieces are filled up to a multiple: fewer lengths are compiled

Slice = tuple[tuple[int, ...], ...]
"""The ids of its events, every pitch as if it were struck."""

Nats = NDArray[np.float64]
"""(E, S) of a piece's events but the first; whether a pitch is held belongs to the stream of pitches."""


class Event(NamedTuple):
    """An event as baselines see it: every pitch as if it were struck, and what is there already."""

    ids: tuple[int, ...]  # one of each stream
    allowed: tuple[NDArray[np.bool_], ...]  # (V,) of each stream: the ids that it may have, likewise
    held: bool
    sounded: bool  # in the slice before, so that it may be held
    written: Slice  # of its slice
    before: tuple[Slice, ...]  # the last slices, the newest last

    def again(self, stream: int) -> int | None:
        """What stands at the same place in the slice before, if it may come here."""
        place = len(self.written)
        if not self.before or place >= len(self.before[-1]):
            return None
        id = self.before[-1][place][stream]
        return id if self.allowed[stream][id] else None


class Baseline(Protocol):
    """Counts of training events in, probabilities of other events out."""

    def learn(self, event: Event) -> None:
        """Count an event of the training split."""

    def probabilities(self, event: Event) -> list[float]:
        """Of the event's id in each stream, given its earlier ids."""


def baselines(corpus: Corpus) -> dict[str, Baseline]:
    """Each of them by name, learned from the training split of `corpus`."""
    unigram = Unigram(corpus.vocabulary)
    learning: dict[str, Baseline] = {
        "unigram": unigram,
        "copy": Copy(unigram),
        "ngram": SliceNGram(unigram),
    }
    for piece in corpus.split("train"):
        for event in events_of(corpus.vocabulary, corpus.tokens[piece.start : piece.stop]):
            for baseline in learning.values():
                baseline.learn(event)
    return {"uniform": Unigram(corpus.vocabulary)} | learning


def score(name: str, baseline: Baseline, corpus: Corpus, pieces: Sequence[CorpusPiece]) -> list[Nats]:
    """The nats of each piece."""
    found = []
    with Progress(name, len(pieces), "pieces") as progress:
        for piece in pieces:
            tokens = corpus.tokens[piece.start : piece.stop]
            shares = [baseline.probabilities(event) for event in events_of(corpus.vocabulary, tokens)]
            found.append(-np.log(shares))
            progress.advance()
    return found


def events_of(vocabulary: Vocabulary, tokens: Tokens) -> Iterator[Event]:
    """All events of a piece but `<start>`."""
    names = [stream.name for stream in vocabulary.streams]
    pitch = names.index(pitch_stream(vocabulary.tables))
    table, closes = vocabulary.tables[names[pitch]], closes_of(vocabulary.tables, tokens)
    allowed = list(_allowed(vocabulary, tokens))
    # Ids that hold what others strike.
    held_H = np.flatnonzero(table.struck_twin != np.arange(len(table.held)))
    struck_H = table.struck_twin[held_H]
    both_EH = allowed[pitch][:, held_H] & allowed[pitch][:, struck_H]
    may_hold = np.zeros_like(allowed[pitch])
    may_hold[:, struck_H] = both_EH
    allowed[pitch] = allowed[pitch].copy()
    allowed[pitch][:, struck_H] |= allowed[pitch][:, held_H]
    allowed[pitch][:, held_H] = False
    before: tuple[Slice, ...] = ()
    written: Slice = ()
    for number, ids in enumerate(tokens[1:].tolist()):
        held = bool(table.held[ids[pitch]])
        ids[pitch] = int(table.struck_twin[ids[pitch]])
        sounded = bool(may_hold[number, ids[pitch]])
        rows = tuple(part[number] for part in allowed)
        yield Event(tuple(ids), rows, held, sounded, written, before)
        written = (*written, tuple(ids))
        if closes[1 + number]:
            before, written = (*before, written)[-_SLICES:], ()


def _allowed(vocabulary: Vocabulary, tokens: Tokens) -> Iterator[NDArray[np.bool_]]:
    """For each stream (E, V): what the rules allow of each event but the first, given its earlier ids."""
    events, room = len(tokens), -len(tokens) % _PADDED
    padded = by_stream(vocabulary, np.pad(tokens, ((0, room), (0, 0)))[None])
    mask_BT = (np.arange(events + room - 1) < events - 1)[None]
    found = _allowed_next(vocabulary, padded, mask_BT)
    for name, _ in vocabulary.streams:
        yield np.asarray(found[name])[0, : events - 1]


_allowed_next = jax.jit(allowed_next, static_argnames="vocabulary")


class Unigram:
    """Probabilities in proportion to counts of what is allowed; without training, all counts are one."""

    def __init__(self, vocabulary: Vocabulary):
        tables = vocabulary.tables
        self.counts = [np.ones(size) for _, size in vocabulary.streams]
        self.pitch = list(tables).index(pitch_stream(tables))
        self.silent = [not sounds.any() for sounds in tables[pitch_stream(tables)].sounds]
        self.timed = [bool(table.ticks.any()) for table in tables.values()]
        self._held, self._sounded = 1, 2

    def learn(self, event: Event) -> None:
        """As `Baseline`."""
        for counts_V, id in zip(self.counts, event.ids, strict=True):
            counts_V[id] += 1
        self._held += event.sounded and event.held
        self._sounded += event.sounded

    def probabilities(self, event: Event) -> list[float]:
        """As `Baseline`."""
        return self.with_hold(event, [self.share(event, stream) for stream in range(len(event.ids))])

    def share(self, event: Event, stream: int) -> float:
        """Of an id; of a pitch, struck or held."""
        counts_V, id = self.counts[stream], event.ids[stream]
        return float(counts_V[id] / counts_V[event.allowed[stream]].sum())

    def with_hold(self, event: Event, shares: list[float]) -> list[float]:
        """Shares with that of striking the pitch or holding it, whichever it was."""
        if event.sounded:
            held = self._held / self._sounded
            shares[self.pitch] *= held if event.held else 1 - held
        return shares


class Copy:
    """The event at the same place in the slice before comes again, with a probability; else the unigram."""

    def __init__(self, unigram: Unigram):
        self._unigram = unigram
        self._again = [0] * len(unigram.counts)
        self._seen = [1] * len(unigram.counts)

    def learn(self, event: Event) -> None:
        """As `Baseline`."""
        for stream, id in enumerate(event.ids):
            again = event.again(stream)
            self._again[stream] += again == id
            self._seen[stream] += again is not None

    def probabilities(self, event: Event) -> list[float]:
        """As `Baseline`."""
        shares = []
        for stream, id in enumerate(event.ids):
            share, again = self._unigram.share(event, stream), event.again(stream)
            copied = self._again[stream] / self._seen[stream]
            shares.append(share if again is None else (1 - copied) * share + copied * (again == id))
        return self._unigram.with_hold(event, shares)


class SliceNGram:
    """Slices after slices, note by note: the last notes and slices are the context, down to the unigram."""

    def __init__(self, unigram: Unigram):
        self._unigram = unigram
        self._grams = [NGram() for _ in unigram.counts]

    def learn(self, event: Event) -> None:
        """As `Baseline`."""
        for stream, gram in enumerate(self._grams):
            gram.learn(event.ids[stream], self._contexts(event, stream))

    def probabilities(self, event: Event) -> list[float]:
        """As `Baseline`."""
        shares = [
            gram.probability(
                event.ids[stream], self._contexts(event, stream), self._unigram.share(event, stream)
            )
            for stream, gram in enumerate(self._grams)
        ]
        return self._unigram.with_hold(event, shares)

    def _contexts(self, event: Event, stream: int) -> list[Hashable]:
        unigram = self._unigram
        if stream == unigram.pitch:
            return _pitch_contexts(event, stream)
        pitch = event.ids[unigram.pitch] if unigram.pitch < stream else None
        if unigram.timed[stream]:
            alone = pitch if pitch is not None and unigram.silent[pitch] else None
            return _time_contexts(event, stream, unigram.pitch, pitch, alone)
        last = event.written[-1][stream] if event.written else None
        return [(0, pitch), (1, pitch, last), (2, pitch, last, event.again(stream))]


def _pitch_contexts(event: Event, stream: int) -> list[Hashable]:
    """Each knows the last note of the slice: what was counted after it may come after it."""
    last = event.written[-1][stream] if event.written else None
    before, written = (tuple(ids[stream] for ids in part) for part in (_newest(event), event.written))
    place = len(written)
    here, above = (before[k] if k < len(before) else None for k in (place, place + 1))
    return [(0, last), (1, last, here), (2, last, here, above, place), (3, written, before)]


def _time_contexts(
    event: Event, stream: int, place_of_pitch: int, pitch: int | None, alone: int | None
) -> list[Hashable]:
    """Each knows what the rules allow here, so that nothing is counted in it that cannot come again."""
    lasted = [part[-1][stream] for part in event.before]
    place, rest = len(event.written), len(_newest(event)) - len(event.written)
    written, newest = (tuple(ids[place_of_pitch] for ids in part) for part in (event.written, _newest(event)))
    counts = (alone, place, rest, event.allowed[stream].tobytes())
    return [
        (0, *counts),
        (1, *counts, *lasted[-1:]),
        (2, *counts, *lasted[-2:]),
        (3, *counts, *lasted),
        (4, (*written, pitch), newest, *lasted),
    ]


def _newest(event: Event) -> Slice:
    return event.before[-1] if event.before else ()
