"""Tokens: slices as two parallel streams of ids, pitch and duration, and back.

All tokenizers give arrays of one shape, so the model and all else are the same. A duration id is a number of
ticks; 0 means "same slice, more to come", and stands with <start> and <end>, which take no time.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from midigen_jax.music.notes import Notes
from midigen_jax.music.slices import Slices, canonical, from_entries, to_notes

Tokens = NDArray[np.int32]
"""(E, 2): pitch id, duration id."""

START, END = 0, 1

_BRACKETS = {START: "<start>", END: "<end>"}
_LETTERS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


def pitch_name(pitch: int) -> str:
    """The name of a MIDI pitch: 60 is C4."""
    return f"{_LETTERS[pitch % 12]}{pitch // 12 - 1}"


@dataclass(frozen=True)
class NoteTokenizer:
    """One event a pitch, low to high within a slice: attacked, held, or the one event of a rest.

    Nothing is unseen and nothing is lost: decode(encode(slices)) = slices for any canonical slices. The
    duration id is 0 on all events of a slice but the last. A slice longer than `max_duration` is split
    into one that is attacked and others that are held.
    """

    max_duration: int = 96
    name: ClassVar[str] = "note"
    REST: ClassVar[int] = 2
    ATTACKED: ClassVar[int] = 3
    HELD: ClassVar[int] = 131

    @property
    def pitch_size(self) -> int:
        return self.HELD + 128

    @property
    def duration_size(self) -> int:
        return self.max_duration + 1

    def encode(self, slices: Slices) -> Tokens:
        """(E, 2) ids, from <start> to <end>."""
        origin, first, duration = split_long(slices.duration, self.max_duration)
        count = slices.count[origin]
        part = np.repeat(np.arange(len(origin)), np.maximum(count, 1))
        end = np.cumsum(np.maximum(count, 1))
        within = np.arange(len(part)) - (end - np.maximum(count, 1))[part]
        rest = count[part] == 0
        # A rest owns no entry; the one looked at in its place (index 0 of a padded array) is not used.
        entry = np.where(rest, 0, slices.start[origin[part]] + within)
        pitch, attacked = np.append(slices.pitch, 0)[entry], np.append(slices.attacked, False)[entry]
        kind = np.where(attacked & first[part], self.ATTACKED, self.HELD)
        ids = np.zeros((len(part) + 2, 2), np.int32)
        ids[1:-1, 0] = np.where(rest, self.REST, kind + pitch)
        ids[end, 1] = duration
        ids[0, 0], ids[-1, 0] = START, END
        return ids

    def decode(self, tokens: Tokens, trim: bool = True) -> Slices:
        """The canonical slices of any ids of this tokenizer: total, so that a model's output can be heard.

        Reads up to the first <end>. An unfinished last slice is dropped, and so is a rest beside pitches.
        Without `trim` rests at the ends stay.
        """
        pitch, duration = events_of(tokens)
        ends = np.flatnonzero(duration)
        owner = np.searchsorted(ends, np.arange(len(pitch)))
        sounds = (owner < len(ends)) & (pitch != self.REST)
        attacked = pitch[sounds] < self.HELD
        pitches = pitch[sounds] - np.where(attacked, self.ATTACKED, self.HELD)
        return canonical(from_entries(duration[ends], owner[sounds], pitches, attacked), trim)

    def notes(self, tokens: Tokens, trim: bool = True) -> Notes:
        """The notes of any ids, as `decode`."""
        return to_notes(self.decode(tokens, trim))

    def sounding(self, pitch_ids: NDArray[np.int32]) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """The pitches of one slice's events, <start> or <end> among them or not; which are attacked."""
        ids = [id for id in pitch_ids.tolist() if id >= self.ATTACKED]
        pitches = tuple((id - self.ATTACKED) % 128 for id in ids)
        return pitches, tuple(id < self.HELD for id in ids)

    def symbol(self, pitch_id: int) -> str:
        """A pitch id for people: C4 attacked, (C4) held, rest."""
        if pitch_id in _BRACKETS:
            return _BRACKETS[pitch_id]
        if pitch_id == self.REST:
            return "rest"
        if pitch_id < self.HELD:
            return pitch_name(pitch_id - self.ATTACKED)
        return f"({pitch_name(pitch_id - self.HELD)})"

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "max_duration": self.max_duration}


@dataclass(frozen=True)
class ChordTokenizer:
    """One event a slice, the article's way: its set of pitches is one symbol out of a learned vocabulary.

    There is no held mark, so every pitch is struck in every slice: decode(encode(slices)) = slices for
    slices that are all attacked, in the vocabulary and no longer than `max_duration` (rests: of any length).
    A longer chord is struck again after `max_duration`. An unknown one becomes <unk>: a rest when decoded.
    """

    chords: tuple[tuple[int, ...], ...]
    max_duration: int = 96
    name: ClassVar[str] = "chord"
    UNKNOWN: ClassVar[int] = 2
    REST: ClassVar[int] = 3
    CHORDS: ClassVar[int] = 4

    @classmethod
    def learn(cls, pieces: Iterable[Slices], max_duration: int = 96, min_count: int = 1) -> "ChordTokenizer":
        """The vocabulary of `pieces`: chords in at least `min_count` slices, the most frequent first."""
        counts = Counter(chord for slices in pieces for chord in _chords(slices) if chord)
        kept = [chord for chord, count in counts.items() if count >= min_count]
        return cls(tuple(sorted(kept, key=lambda chord: (-counts[chord], chord))), max_duration)

    @property
    def pitch_size(self) -> int:
        return self.CHORDS + len(self.chords)

    @property
    def duration_size(self) -> int:
        return self.max_duration + 1

    @cached_property
    def _ids(self) -> dict[tuple[int, ...], int]:
        return {(): self.REST} | {chord: self.CHORDS + i for i, chord in enumerate(self.chords)}

    @cached_property
    def _table(self) -> Slices:
        """The vocabulary itself as slices, one an id, so that decoding is indexing."""
        chords = [(), (), (), (), *self.chords]
        start = np.cumsum([0, *map(len, chords)])
        pitch = np.array([pitch for chord in chords for pitch in chord], np.int32)
        return Slices(np.ones(len(chords), np.int32), start, pitch, np.ones(len(pitch), np.bool_))

    def encode(self, slices: Slices) -> Tokens:
        """(E, 2) ids, from <start> to <end>."""
        ids = np.array([self._ids.get(chord, self.UNKNOWN) for chord in _chords(slices)], np.int32)
        origin, _, duration = split_long(slices.duration, self.max_duration)
        body = np.stack([ids[origin], duration], axis=1)
        return np.concatenate([[[START, 0]], body, [[END, 0]]]).astype(np.int32)

    def decode(self, tokens: Tokens, trim: bool = True) -> Slices:
        """The canonical slices of any ids of this tokenizer, up to the first <end>; all pitches attacked.

        Without `trim` rests at the ends stay.
        """
        pitch, duration = events_of(tokens)
        pitch, duration = pitch[duration > 0], duration[duration > 0]
        count = self._table.count[pitch]
        owner = np.repeat(np.arange(len(pitch)), count)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
        entry = self._table.start[pitch][owner] + within
        pitches, attacked = self._table.pitch[entry], self._table.attacked[entry]
        return canonical(from_entries(duration, owner, pitches, attacked), trim)

    def notes(self, tokens: Tokens, trim: bool = True) -> Notes:
        """As `NoteTokenizer.notes`."""
        return to_notes(self.decode(tokens, trim))

    def sounding(self, pitch_ids: NDArray[np.int32]) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """As `NoteTokenizer.sounding`."""
        symbols = [self.chords[id - self.CHORDS] for id in pitch_ids.tolist() if id >= self.CHORDS]
        pitches = tuple(pitch for chord in symbols for pitch in chord)
        return pitches, (True,) * len(pitches)

    def unknown_share(self, tokens: Tokens) -> float:
        """The share of events, <start> and <end> apart, whose chord is not in the vocabulary."""
        body = tokens[tokens[:, 0] > END, 0]
        return float(np.mean(body == self.UNKNOWN)) if len(body) else 0.0

    def symbol(self, pitch_id: int) -> str:
        """A pitch id for people: C4.E4.G4, rest, <unk>."""
        fixed = _BRACKETS | {self.UNKNOWN: "<unk>", self.REST: "rest"}
        if pitch_id in fixed:
            return fixed[pitch_id]
        return ".".join(map(pitch_name, self.chords[pitch_id - self.CHORDS]))

    def to_json(self) -> dict[str, Any]:
        chords = [list(chord) for chord in self.chords]
        return {"name": self.name, "max_duration": self.max_duration, "chords": chords}


def _chords(slices: Slices) -> list[tuple[int, ...]]:
    """The pitches of each slice."""
    pitch, start = slices.pitch.tolist(), slices.start.tolist()
    return [tuple(pitch[a:b]) for a, b in pairwise(start)]


def split_long(duration: NDArray[np.int32], longest: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Durations cut into parts of at most `longest` ticks: each part's slice, "is the first", and ticks."""
    parts = -(-duration // longest)
    origin = np.repeat(np.arange(len(duration)), parts)
    number = np.arange(len(origin)) - (np.cumsum(parts) - parts)[origin]
    return origin, number == 0, np.minimum(duration[origin] - number * longest, longest)


def events_of(tokens: Tokens) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Pitch and duration ids up to the first <end>, without <start>."""
    ends = np.flatnonzero(tokens[:, 0] == END)
    body = tokens[: ends[0]] if len(ends) else tokens
    body = body[body[:, 0] != START]
    return body[:, 0], body[:, 1]
