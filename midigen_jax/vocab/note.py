"""The `note` vocabulary: one event a pitch of a slice, low to high; nothing is unseen and nothing is lost."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from midigen_jax.config import PrepareConfig
from midigen_jax.music.clock import TWELFTHS, Clock
from midigen_jax.music.notes import Notes, pitch_name
from midigen_jax.music.piece import Piece
from midigen_jax.music.slices import canonical, from_entries, to_notes
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
    from midigen_jax.vocab.note_rules import NoteRules

REST, ATTACKED, HELD = 2, 3, 131
"""Pitch ids: of a rest; of MIDI pitch 0 that begins; of MIDI pitch 0 that sounds on."""
SIZE = HELD + PITCHES


class PitchIds(PitchAndDuration):
    """What `note` and `voice` share: an id is a pitch that begins, or one that sounds on, or a rest."""

    learned: ClassVar[bool] = False
    transposes: ClassVar[bool] = True

    @classmethod
    def make(cls, config: PrepareConfig, pieces: Iterable[Piece] = ()) -> Self:
        """That of any corpus with these settings."""
        raise NotImplementedError

    @classmethod
    def typical(cls, config: PrepareConfig, symbols: int) -> Self:
        """The same."""
        return cls.make(config)

    def pitch_table(self) -> IdTable:
        """As `PitchAndDuration`."""
        ids = np.arange(SIZE)
        sounds = np.zeros((SIZE, PITCHES), bool)
        sounds[ids[ATTACKED:], (ids[ATTACKED:] - ATTACKED) % PITCHES] = True
        return id_table(SIZE, closes=edges(SIZE), sounds=sounds, held=ids >= HELD)

    def pitch_symbol(self, id: int) -> str:
        """C4 attacked, (C4) held, rest."""
        if id in BRACKETS:
            return BRACKETS[id]
        if id == REST:
            return "rest"
        return pitch_name(id - ATTACKED) if id < HELD else f"({pitch_name(id - HELD)})"

    def transpose(self, events: Any, semitones: Any) -> Any:
        """Events, a dict of arrays (N,) by stream, of NumPy or of JAX, moved by `semitones`.

        They are unchanged if any pitch would leave the range of MIDI.
        """
        pitch_N = events["pitch"]
        xp = pitch_N.__array_namespace__()
        sounds_N = pitch_N >= ATTACKED
        midi_N = (pitch_N - ATTACKED) % PITCHES
        lowest = xp.where(sounds_N, midi_N, PITCHES - 1).min()
        highest = xp.where(sounds_N, midi_N, 0).max()
        fits = (lowest + semitones >= 0) & (highest + semitones < PITCHES)
        return {**events, "pitch": xp.where(sounds_N & fits, pitch_N + semitones, pitch_N)}


@dataclass(frozen=True)
class NoteVocabulary(PitchIds):
    """One event a pitch, low to high within a slice: attacked, held, or the one event of a rest.

    The duration id, in ticks, is 0 on all events of a slice but the last. A slice longer than `max_duration`
    is split into one that is attacked and others that are held.
    """

    max_duration: int = 96
    clock: Clock = TWELFTHS
    name: ClassVar[str] = "note"
    drops: ClassVar[tuple[str, ...]] = ("track", "velocity")
    slice_events: ClassVar[int] = 1

    @classmethod
    def make(cls, config: PrepareConfig, pieces: Iterable[Piece] = ()) -> "NoteVocabulary":
        """That of any corpus with these settings."""
        return cls(config.longest, Clock(config.ticks_per_quarter))

    @cached_property
    def rules(self) -> "NoteRules":
        """Within a slice pitches rise; a held one sounded just before; rests and <end> stand alone."""
        from midigen_jax.vocab.note_rules import NoteRules

        return NoteRules(self.max_duration + 1)

    def encode(self, piece: Piece) -> Tokens:
        """(E, 2) ids, from <start> to <end>."""
        slices = piece.slices
        origin, first, duration = split_long(slices.duration, self.max_duration)
        count = slices.count[origin]
        part = np.repeat(np.arange(len(origin)), np.maximum(count, 1))
        end = np.cumsum(np.maximum(count, 1))
        within = np.arange(len(part)) - (end - np.maximum(count, 1))[part]
        rest = count[part] == 0
        # A rest owns no entry; the one looked at in its place (index 0 of a padded array) is not used.
        entry = np.where(rest, 0, slices.start[origin[part]] + within)
        pitch, attacked = np.append(slices.pitch, 0)[entry], np.append(slices.attacked, False)[entry]
        kind = np.where(attacked & first[part], ATTACKED, HELD)
        ids = np.zeros((len(part) + 2, 2), np.int32)
        ids[1:-1, 0] = np.where(rest, REST, kind + pitch)
        ids[end, 1] = duration
        ids[0, 0], ids[-1, 0] = START, END
        return ids

    def decode(self, tokens: Tokens, trim: bool = True) -> Notes:
        """The notes of any ids: total, so that whatever a model writes can be heard.

        Reads up to the first <end>. An unfinished last slice is dropped, and so is a rest beside pitches. A
        held pitch that did not sound before is struck. Without `trim` a rest at the beginning stays.
        """
        pitch, duration = events_of(tokens).T
        ends = np.flatnonzero(duration)
        owner = np.searchsorted(ends, np.arange(len(pitch)))
        sounds = (owner < len(ends)) & (pitch != REST)
        attacked = pitch[sounds] < HELD
        pitches = pitch[sounds] - np.where(attacked, ATTACKED, HELD)
        return to_notes(canonical(from_entries(duration[ends], owner[sounds], pitches, attacked), trim))

    def to_json(self) -> dict[str, Any]:
        """All that `from_json` needs."""
        return super().to_json() | {"name": self.name}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "NoteVocabulary":
        """The inverse of `to_json`."""
        return cls(int(data["max_duration"]), clock_from_json(data))
