"""What is in some music, as counts: pitches, note values, chords, keys, tempi; some of them split by split.

In: pieces, one after another. Out: a `Census`, which does not grow with the number of notes. Everything is
counted on slices, where a pitch that two voices sound at once is one: so music counts the same before and
after it was tokens.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from midigen_jax.music.clock import TWELFTHS, Clock
from midigen_jax.music.key import Key
from midigen_jax.music.notes import Notes
from midigen_jax.music.slices import Slices, to_notes

Chords = Counter[bytes]
"""How often each chord symbol comes; a symbol is the sorted pitches, a byte each, and no rest."""


@dataclass(frozen=True)
class Counted:
    """A piece, and what is known of it."""

    slices: Slices
    key: Key
    tempo: float
    """quarters a minute"""
    meter: tuple[int, int]
    ticks: int
    events: int
    split: str = ""
    """empty where nothing has been split yet"""
    unknown: int = 0
    """events whose chord is lost, because the vocabulary lacks it"""
    first_bar: int = 0
    """ticks from the first note to the next bar line"""
    clock: Clock = TWELFTHS

    @property
    def minutes(self) -> float:
        return self.clock.quarters(self.ticks) / self.tempo


@dataclass
class Part:
    """The counts of one split."""

    pieces: int = 0
    events: int = 0
    notes: int = 0
    slices: int = 0
    minutes: float = 0.0
    unknown: int = 0
    chords: Chords = field(default_factory=Counter)

    def add(self, piece: Counted, notes: int, chords: list[bytes]) -> None:
        self.pieces += 1
        self.events += piece.events
        self.notes += notes
        self.slices += len(piece.slices)
        self.minutes += piece.minutes
        self.unknown += piece.unknown
        self.chords.update(chords)


class Census:
    """Counts of all pieces that were added."""

    def __init__(self) -> None:
        self.parts: dict[str, Part] = {}
        """by the name of the split, in the order in which they came"""
        self.pitch = np.zeros(128, np.int64)
        """(128,) notes that are struck on each pitch"""
        self.sounding = np.zeros(129, np.int64)
        """(129,) ticks in which so many pitches sound at once; 0 is silence"""
        self.note_ticks: Counter[int] = Counter()
        self.slice_ticks: Counter[int] = Counter()
        self.keys: Counter[Key] = Counter()
        self.meters: Counter[tuple[int, int]] = Counter()
        self.tempos: list[float] = []
        self.minutes: list[float] = []
        self.clock = TWELFTHS
        """of all pieces"""
        self._pieces_with: Chords = Counter()

    def add(self, piece: Counted) -> None:
        """Count one more piece."""
        self.clock = piece.clock
        notes = to_notes(piece.slices)
        chords = _chords(piece.slices)
        self.parts.setdefault(piece.split, Part()).add(piece, len(notes), chords)
        self.pitch += np.bincount(notes[:, 2], minlength=128)
        self.sounding += np.bincount(piece.slices.count, piece.slices.duration, 129).astype(np.int64)
        self.note_ticks.update(notes[:, 1].tolist())
        self.slice_ticks.update(piece.slices.duration.tolist())
        self.keys[piece.key] += 1
        self.meters[piece.meter] += 1
        self.tempos.append(piece.tempo)
        self.minutes.append(piece.minutes)
        self._pieces_with.update(set(chords))

    def together(self, splits: Iterable[str]) -> Part:
        """The counts of those of these splits that there are, as one."""
        parts = [self.parts[name] for name in splits if name in self.parts]
        whole = Part()
        for part in parts:
            whole.chords.update(part.chords)
        for name in ("pieces", "events", "notes", "slices", "minutes", "unknown"):
            setattr(whole, name, sum(getattr(part, name) for part in parts))
        return whole

    @property
    def whole(self) -> Part:
        """The counts of everything."""
        return self.together(self.parts)

    @property
    def training(self) -> Part:
        """The counts of the training split; where nothing is split, of everything."""
        return self.together(("", "train"))

    @property
    def held_out(self) -> Part:
        """The counts of all other splits."""
        return self.together(name for name in self.parts if name not in ("", "train"))

    @property
    def unseen_share(self) -> float:
        """The share of sounding slices that a vocabulary of chords lacks.

        Of held-out slices, the share whose chord is not in the training split; where nothing is split, the
        share of slices whose chord is in no other piece: held out, it would be unseen.
        """
        held_out = self.held_out
        if held_out.pieces:
            return float(unseen(self.training.chords, held_out.chords, held_out.unknown)[-1])
        chords = self.whole.chords
        alone = sum(chords[chord] for chord, pieces in self._pieces_with.items() if pieces == 1)
        return alone / max(chords.total(), 1)


@dataclass(frozen=True)
class Opening:
    """The first bars of a piece, to be looked at."""

    name: str
    key: Key
    tempo: float
    meter: tuple[int, int]
    notes: Notes
    first_bar: int
    """the tick of the first bar line after what comes before it"""
    clock: Clock = TWELFTHS


@dataclass(frozen=True)
class Work:
    """Pieces that are one work, by name, and what makes them so, in words."""

    pieces: tuple[str, ...]
    why: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """What was found where the user pointed."""

    arguments: tuple[str, ...]
    there: int
    """pieces of a corpus, or files: all that there are"""
    drawn: int
    """how many of them were looked at, evenly drawn"""
    census: Census
    refused: Mapping[str, str]
    """what could not be read -> why"""
    related: int
    """pieces that share music with another one of those that were looked at"""
    openings: tuple[Opening, ...]
    works: tuple[Work, ...] = ()
    """of a corpus: all that have several pieces"""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    """a corpus's own; empty for sources"""


def ranked(chords: Chords) -> list[tuple[bytes, int]]:
    """The most frequent first; of equals the lower, as the vocabulary of the `chord` tokenizer has them."""
    return sorted(chords.items(), key=lambda item: (-item[1], item[0]))


def covered(chords: Chords, unknown: int = 0) -> NDArray[np.float64]:
    """(1 + V,) the share of sounding slices whose chord is among the 0, 1 … V most frequent ones.

    `unknown` more slices have a chord that is known to be none of them.
    """
    counts = np.array([0, *(count for _, count in ranked(chords))], np.float64)
    return np.cumsum(counts) / max(counts.sum() + unknown, 1)


def unseen(chords: Chords, held_out: Chords, unknown: int = 0) -> NDArray[np.float64]:
    """(1 + V,) the share of `held_out` that is not among the 0, 1 … V most frequent ones of `chords`.

    `unknown` more slices of `held_out` have a chord that is none of them.
    """
    known = np.array([0, *(held_out[chord] for chord, _ in ranked(chords))], np.float64)
    total = held_out.total() + unknown
    return (total - np.cumsum(known)) / max(total, 1)


def _chords(slices: Slices) -> list[bytes]:
    """The symbol of each slice that sounds."""
    pitches = slices.pitch.astype(np.uint8).tobytes()
    return [pitches[begin:end] for begin, end in pairwise(slices.start.tolist()) if end > begin]
