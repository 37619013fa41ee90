"""The `chord` vocabulary, the article's: one event a slice, whose set of pitches is one symbol."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, combinations, islice, pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from midigen_jax.config import PrepareConfig
from midigen_jax.music.clock import TWELFTHS, Clock
from midigen_jax.music.notes import Notes, pitch_name
from midigen_jax.music.piece import Piece
from midigen_jax.music.slices import Slices, canonical, from_entries, to_notes
from midigen_jax.vocab.base import (
    BRACKETS,
    END,
    PITCHES,
    START,
    IdTable,
    PitchAndDuration,
    Tokens,
    clock_from_json,
    edges,
    events_of,
    id_table,
    split_long,
)

if TYPE_CHECKING:
    from midigen_jax.vocab.rules import FreeRules

UNKNOWN, REST, CHORDS = 2, 3, 4
"""Chord ids: of any that the vocabulary lacks; of a rest; of the most frequent chord."""


@dataclass(frozen=True)
class ChordVocabulary(PitchAndDuration):
    """One event a slice, its pitches one symbol out of a vocabulary that is learned from the training split.

    There is no held mark, so every pitch is struck in every slice: nothing is lost of slices that are all
    attacked, in the vocabulary and no longer than `max_duration` (rests: of any length). A longer chord is
    struck again after `max_duration`. An unknown one becomes <unk>: a rest when decoded.
    """

    chords: tuple[tuple[int, ...], ...]
    max_duration: int = 96
    clock: Clock = TWELFTHS
    name: ClassVar[str] = "chord"
    drops: ClassVar[tuple[str, ...]] = ("track", "velocity", "held", "rare chords")
    learned: ClassVar[bool] = True
    transposes: ClassVar[bool] = False
    slice_events: ClassVar[int] = 1

    @classmethod
    def make(cls, config: PrepareConfig, pieces: Iterable[Piece] = ()) -> "ChordVocabulary":
        """The chords in at least `min_chord_count` slices of the training `pieces`, most frequent first."""
        counts = Counter(chord for piece in pieces for chord in _chords(piece.slices) if chord)
        kept = [chord for chord, count in counts.items() if count >= config.min_chord_count]
        ranked = tuple(sorted(kept, key=lambda chord: (-counts[chord], chord)))
        return cls(ranked, config.longest, Clock(config.ticks_per_quarter))

    @classmethod
    def typical(cls, config: PrepareConfig, symbols: int) -> "ChordVocabulary":
        """So many ids, of chords that mean little."""
        sizes = (combinations(range(PITCHES), size) for size in range(2, PITCHES))
        chords = islice(chain.from_iterable(sizes), max(0, symbols - CHORDS))
        return cls(tuple(chords), config.longest, Clock(config.ticks_per_quarter))

    def __hash__(self) -> int:  # of tens of thousands of chords: found once
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.chords, self.max_duration, self.clock))

    @cached_property
    def rules(self) -> "FreeRules":
        """Any chord may follow any other, and all but <start> and <end> last."""
        from midigen_jax.vocab.rules import FreeRules

        return FreeRules(self.streams)

    @cached_property
    def _ids(self) -> dict[tuple[int, ...], int]:
        return {(): REST} | {chord: CHORDS + i for i, chord in enumerate(self.chords)}

    @cached_property
    def _symbols(self) -> Slices:
        """The vocabulary itself as slices, one an id, so that decoding is indexing."""
        chords = [(), (), (), (), *self.chords]
        start = np.cumsum([0, *map(len, chords)])
        pitch = np.array([pitch for chord in chords for pitch in chord], np.int32)
        return Slices(np.ones(len(chords), np.int32), start, pitch, np.ones(len(pitch), np.bool_))

    def encode(self, piece: Piece) -> Tokens:
        """(E, 2) ids, from <start> to <end>."""
        slices = piece.slices
        ids = np.array([self._ids.get(chord, UNKNOWN) for chord in _chords(slices)], np.int32)
        origin, _, duration = split_long(slices.duration, self.max_duration)
        body = np.stack([ids[origin], duration], axis=1)
        return np.concatenate([[[START, 0]], body, [[END, 0]]]).astype(np.int32)

    def decode(self, tokens: Tokens, trim: bool = True) -> Notes:
        """The notes of any ids, up to the first <end>, all struck. Without `trim` a first rest stays."""
        pitch, duration = events_of(tokens).T
        pitch, duration = pitch[duration > 0], duration[duration > 0]
        symbols = self._symbols
        count = symbols.count[pitch]
        owner = np.repeat(np.arange(len(pitch)), count)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
        entry = symbols.start[pitch][owner] + within
        pitches, attacked = symbols.pitch[entry], symbols.attacked[entry]
        return to_notes(canonical(from_entries(duration, owner, pitches, attacked), trim))

    def transpose(self, events: Any, semitones: Any) -> Any:
        """Not possible: the chord that is meant may not be in the vocabulary."""
        raise NotImplementedError("chords are symbols and cannot be transposed")

    def pitch_symbol(self, id: int) -> str:
        """C4.E4.G4, rest, <unk>."""
        fixed = BRACKETS | {UNKNOWN: "<unk>", REST: "rest"}
        return fixed[id] if id in fixed else ".".join(map(pitch_name, self.chords[id - CHORDS]))

    def pitch_table(self) -> IdTable:
        """As `PitchAndDuration`: a chord has several pitches."""
        size, symbols = CHORDS + len(self.chords), self._symbols
        sounds = np.zeros((size, PITCHES), bool)
        sounds[symbols.owner, symbols.pitch] = True
        return id_table(size, closes=edges(size), sounds=sounds, unknown=np.arange(size) == UNKNOWN)

    def to_json(self) -> dict[str, Any]:
        """All that `from_json` needs."""
        chords = [list(chord) for chord in self.chords]
        return super().to_json() | {"name": self.name, "chords": chords}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ChordVocabulary":
        """The inverse of `to_json`."""
        chords = tuple(tuple(int(pitch) for pitch in chord) for chord in data["chords"])
        return cls(chords, int(data["max_duration"]), clock_from_json(data))


def _chords(slices: Slices) -> list[tuple[int, ...]]:
    """The pitches of each slice."""
    pitch, start = slices.pitch.tolist(), slices.start.tolist()
    return [tuple(pitch[a:b]) for a, b in pairwise(start)]
