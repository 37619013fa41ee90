"""Models that need no network, scored on the same pieces: what any network must beat.

    uniform   every pitch that the grammar allows is as likely as every other, and so is every duration
    unigram   as often as in training, whatever came before
    copy      the slice before comes again, with the share that it has in training; else the unigram
    ngram     slices after slices, interpolated down to notes after notes, and these down to the unigram

All give the impossible probability 0, as networks do, and all are exact: the probabilities of everything that
may come next sum to one. Whether a pitch that sounded is struck again or held is a coin of its own, which all
but the first learn.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from midigen_jax.data.corpus import Corpus, CorpusPiece
from midigen_jax.model.grammar import LAST, WITHIN, ChordGrammar, Grammar, VoiceGrammar, grammar
from midigen_jax.music.tokens import END, START, NoteTokenizer, Tokens
from midigen_jax.progress import Progress
from midigen_jax.study.ngram import NGram

_SLICES = 3  # whose durations the n-gram looks back on; of their pitches, those of the last one
_PITCHES = 128
_ALONE = {END, NoteTokenizer.REST, NoteTokenizer.ATTACKED + _PITCHES - 1}

Slice = tuple[tuple[int, int], ...]
"""Pitch id and duration id of its events."""

Nats = NDArray[np.float64]
"""(E, 2) of a piece's events but the first: of the pitch id, of the duration id."""


class Baseline(NamedTuple):
    """What was learned from the training split."""

    name: str
    score: Callable[[Tokens], Nats]


class Event(NamedTuple):
    """An event as baselines see it: every pitch as if it were struck, and what is there already."""

    pitch: int
    duration: int
    held: bool
    sounded: bool  # in the slice before, so that it may be held
    above: int  # the least pitch id that may stand here; 0: any
    kind: int  # as the grammar calls it
    written: Slice  # of its slice
    before: tuple[Slice, ...]  # the last slices, the newest last

    @property
    def again(self) -> tuple[int, int] | None:
        """Pitch and duration at the same place in the slice before."""
        place = len(self.written)
        return self.before[-1][place] if self.before and place < len(self.before[-1]) else None


def baselines(corpus: Corpus) -> Iterator[Baseline]:
    """Each of them, learned from the training split of `corpus`."""
    rules = grammar(corpus.tokenizer)
    training = [events_of(rules, corpus.tokens[p.start : p.stop]) for p in corpus.split("train")]
    yield Baseline("uniform", _scored(rules, Unigram(rules).both))
    unigram = Unigram(rules, training)
    yield Baseline("unigram", _scored(rules, unigram.both))
    yield Baseline("copy", _scored(rules, Copy(unigram, training).both))
    yield Baseline("ngram", _scored(rules, SliceNGram(unigram, training).both))


def score(baseline: Baseline, corpus: Corpus, pieces: Sequence[CorpusPiece]) -> list[Nats]:
    """The nats of each piece."""
    found = []
    with Progress(baseline.name, len(pieces), "pieces") as progress:
        for piece in pieces:
            found.append(baseline.score(corpus.tokens[piece.start : piece.stop]))
            progress.advance()
    return found


def events_of(rules: Grammar, tokens: Tokens) -> list[Event]:
    """All events of a piece but `<start>`."""
    found: list[Event] = []
    before: tuple[Slice, ...] = ()
    written: Slice = ()
    pitched = not isinstance(rules, ChordGrammar)
    for id, duration in tokens[1:].tolist():
        held = pitched and id >= NoteTokenizer.HELD
        pitch = id - _PITCHES if held else id
        above, kind, holdable = _here(rules, written, before[-1] if before else ())
        sounded = pitched and id >= NoteTokenizer.ATTACKED and pitch in holdable
        found.append(Event(pitch, duration, held, sounded, above, kind, written, before))
        written = (*written, (pitch, duration))
        if duration:
            before, written = (*before, written)[-_SLICES:], ()
    return found


def _here(rules: Grammar, written: Slice, before: Slice) -> tuple[int, int, list[int]]:
    """The least pitch id that may come next in a slice, the kind of that event, and what it may hold."""
    place, sounding = len(written), [pitch for pitch, _ in before]
    if isinstance(rules, VoiceGrammar):
        # <end>, whose id is below all others, stands between slices.
        kind = LAST if place == rules.voices - 1 else WITHIN
        return NoteTokenizer.REST if written else 0, kind, sounding[place : place + 1]
    if isinstance(rules, ChordGrammar):
        return 0, 0, []
    return written[-1][0] + 1 if written else 0, 0, sounding


class Unigram:
    """Probabilities in proportion to counts of what is allowed; without training, all counts are one."""

    def __init__(self, rules: Grammar, training: Sequence[Sequence[Event]] = ()):
        every = [event for events in training for event in events]
        pitches = np.array([event.pitch for event in every], int)
        durations = np.array([event.duration for event in every], int)
        self._pitch_P = 1.0 + np.bincount(pitches, minlength=rules.pitch_size)
        self._pitch_P[START] = 0
        if not isinstance(rules, ChordGrammar):
            self._pitch_P[NoteTokenizer.HELD :] = 0
        self._from_P = np.cumsum(self._pitch_P[::-1])[::-1]
        weight_KPR = rules.durations() * (1.0 + np.bincount(durations, minlength=rules.duration_size))
        self._duration_KPR = weight_KPR / np.maximum(weight_KPR.sum(axis=2, keepdims=True), 1e-300)
        sounded = [event.held for event in every if event.sounded]
        self._held = (1 + sum(sounded)) / (2 + len(sounded))

    def both(self, event: Event) -> tuple[float, float]:
        """The probability of the pitch id, and of the duration id given it."""
        return self.pitch(event) * self.hold(event), self.duration(event)

    def pitch(self, event: Event) -> float:
        """Of the pitch, struck or held."""
        return float(self._pitch_P[event.pitch] / self._from_P[event.above])

    def hold(self, event: Event) -> float:
        """Of striking it or holding it, whichever it was."""
        if not event.sounded:
            return 1.0
        return self._held if event.held else 1 - self._held

    def duration(self, event: Event) -> float:
        """Of the duration, given the pitch."""
        return self.lasting(event, event.duration)

    def lasting(self, event: Event, duration: int) -> float:
        """Of another duration; 0 where the event cannot have it."""
        return float(self._duration_KPR[event.kind, event.pitch, duration])


class Copy:
    """The event at the same place in the slice before comes again, with a probability; else the unigram."""

    def __init__(self, unigram: Unigram, training: Sequence[Sequence[Event]]):
        self._unigram = unigram
        every = [event for events in training for event in events]
        pitches = [self._again(event)[0] == event.pitch for event in every if self._again(event)[0]]
        durations = [self._again(event)[1] == event.duration for event in every if self._again(event)[1] >= 0]
        self._pitch = sum(pitches) / (1 + len(pitches))
        self._duration = sum(durations) / (1 + len(durations))

    def both(self, event: Event) -> tuple[float, float]:
        """As `Unigram.both`."""
        pitch, duration = self._again(event)
        of_pitch, of_duration = self._unigram.pitch(event), self._unigram.duration(event)
        if pitch:
            of_pitch = (1 - self._pitch) * of_pitch + self._pitch * (pitch == event.pitch)
        if duration >= 0:
            of_duration = (1 - self._duration) * of_duration + self._duration * (duration == event.duration)
        return of_pitch * self._unigram.hold(event), of_duration

    def _again(self, event: Event) -> tuple[int, int]:
        """What a copy would be, where it may be; else pitch 0, or duration -1."""
        pitch, duration = event.again or (0, -1)
        pitch = pitch if pitch >= event.above else 0
        may_last = duration >= 0 and self._unigram.lasting(event, duration) > 0
        return pitch, duration if may_last else -1


class SliceNGram:
    """Slices after slices, note by note: the last notes and slices are the context, down to the unigram."""

    def __init__(self, unigram: Unigram, training: Sequence[Sequence[Event]]):
        self._unigram = unigram
        self._pitches, self._durations = NGram(), NGram()
        for event in (event for events in training for event in events):
            self._pitches.learn(event.pitch, _pitch_contexts(event))
            self._durations.learn(event.duration, _duration_contexts(event))

    def both(self, event: Event) -> tuple[float, float]:
        """As `Unigram.both`."""
        base = self._unigram.pitch(event), self._unigram.duration(event)
        of_pitch = self._pitches.probability(event.pitch, _pitch_contexts(event), base[0])
        of_duration = self._durations.probability(event.duration, _duration_contexts(event), base[1])
        return of_pitch * self._unigram.hold(event), of_duration


def _pitch_contexts(event: Event) -> list[Hashable]:
    """Each knows the last note of the slice: what was counted after it may come after it."""
    last = event.written[-1][0] if event.written else None
    before, written = (tuple(pitch for pitch, _ in part) for part in (_newest(event), event.written))
    place = len(written)
    here, above = (before[k] if k < len(before) else None for k in (place, place + 1))
    return [(0, last), (1, last, here), (2, last, here, above, place), (3, written, before)]


def _duration_contexts(event: Event) -> list[Hashable]:
    """Each knows what kind of pitch it is: rests, `<end>` and the highest cannot stand below others."""
    lasted = [part[-1][1] for part in event.before]
    place, rest = len(event.written), len(_newest(event)) - len(event.written)
    kind = event.pitch if event.pitch in _ALONE else None
    whole = tuple(pitch for pitch, _ in (*event.written, (event.pitch, 0)))
    counts = (kind, place, rest)
    return [
        (0, *counts),
        (1, *counts, *lasted[-1:]),
        (2, *counts, *lasted[-2:]),
        (3, *counts, *lasted),
        (4, whole, tuple(pitch for pitch, _ in _newest(event)), *lasted),
    ]


def _newest(event: Event) -> Slice:
    return event.before[-1] if event.before else ()


def _scored(rules: Grammar, both: Callable[[Event], tuple[float, float]]) -> Callable[[Tokens], Nats]:
    return lambda tokens: -np.log([both(event) for event in events_of(rules, tokens)])
