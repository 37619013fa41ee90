"""A vocabulary that nobody foresaw, in one file: a melody as events of pitch, duration and track."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from midigen_jax.config import PrepareConfig
from midigen_jax.errors import InputError
from midigen_jax.music.clock import TWELFTHS, Clock
from midigen_jax.music.notes import Notes, make_notes
from midigen_jax.music.piece import Piece
from midigen_jax.vocab.base import (
    BRACKETS,
    END,
    PITCHES,
    START,
    IdTable,
    Stream,
    Tokens,
    edges,
    events_of,
    id_table,
    split_long,
)
from midigen_jax.vocab.rules import FreeRules

REST, NOTE, TRACKS = 2, 3, 4


@dataclass(frozen=True)
class MelodyVocabulary:
    """One event a note, with the track that plays it; rests between them are events of the first track."""

    max_duration: int = 24
    clock: ClassVar[Clock] = TWELFTHS
    name: ClassVar[str] = "melody"
    drops: ClassVar[tuple[str, ...]] = ("velocity",)
    learned: ClassVar[bool] = False
    transposes: ClassVar[bool] = True
    slice_events: ClassVar[int] = 1
    voice_places: ClassVar[tuple[int, ...]] = ()

    @classmethod
    def make(cls, config: PrepareConfig, pieces: Iterable[Piece] = ()) -> "MelodyVocabulary":
        return cls(config.longest)

    @classmethod
    def typical(cls, config: PrepareConfig, symbols: int) -> "MelodyVocabulary":
        return cls.make(config)

    @property
    def streams(self) -> tuple[Stream, ...]:
        durations = Stream("duration", self.max_duration + 1)
        return Stream("pitch", NOTE + PITCHES), durations, Stream("track", 1 + TRACKS)

    @cached_property
    def tables(self) -> Mapping[str, IdTable]:
        size = NOTE + PITCHES
        sounds = np.zeros((size, PITCHES), bool)
        sounds[NOTE:] = np.eye(PITCHES)
        pitch = id_table(size, closes=edges(size), sounds=sounds)
        ticks = np.arange(self.max_duration + 1)
        duration = id_table(len(ticks), ticks=ticks, closes=ticks > 0)
        return {"pitch": pitch, "duration": duration, "track": id_table(1 + TRACKS)}

    @cached_property
    def rules(self) -> FreeRules:
        return FreeRules(self.streams)

    def encode(self, piece: Piece) -> Tokens:
        onset, duration, _, track = piece.notes.T
        if (onset[1:] < (onset + duration)[:-1]).any() or track.max(initial=0) >= TRACKS:
            raise InputError("a melody has one note at a time, on four tracks at the most")
        events = [(START, 0, 0)]
        time = 0 if piece.length is not None else int(onset.min(initial=0))
        ends = [] if piece.length is None else [(piece.length, 0, 0, 0)]
        for begin, lasts, midi, own in [*piece.notes.tolist(), *ends]:
            _, _, gaps = split_long(np.array([begin - time]), self.max_duration)
            events += [(REST, int(gap), 1) for gap in gaps if begin > time]
            if lasts > self.max_duration:
                raise InputError(f"a note of {lasts} ticks is longer than {self.max_duration}")
            events += [(NOTE + midi, lasts, 1 + own)] if lasts else []
            time = begin + lasts
        return np.array([*events, (END, 0, 0)], np.int32)

    def decode(self, tokens: Tokens, trim: bool = True) -> Notes:
        pitch, duration, track = events_of(tokens).T
        onset = np.cumsum(duration) - duration
        heard = (pitch >= NOTE) & (duration > 0)
        first = onset[heard].min(initial=onset[-1] if len(onset) else 0) if trim else 0
        columns = onset[heard] - first, duration[heard], pitch[heard] - NOTE, np.maximum(track[heard] - 1, 0)
        return make_notes(*columns)

    def transpose(self, events: Any, semitones: Any) -> Any:
        pitch = events["pitch"]
        xp = pitch.__array_namespace__()
        moved = xp.where(pitch >= NOTE, pitch + semitones, pitch)
        fits = ((pitch < NOTE) | ((moved >= NOTE) & (moved < NOTE + PITCHES))).all()
        return {**events, "pitch": xp.where(fits, moved, pitch)}

    def symbol(self, stream: str, id: int) -> str:
        return BRACKETS.get(id, str(id)) if stream == "pitch" else str(id)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "max_duration": self.max_duration}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "MelodyVocabulary":
        return cls(int(data["max_duration"]))
