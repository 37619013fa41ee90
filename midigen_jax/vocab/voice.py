"""The `voice` vocabulary: one event a voice in every slice, from the lowest up or from the highest down.

Four voices make four events a slice, as the literature on chorales scores them. Who sings what is kept, and
so are unisons and crossings, which a slice as a set of pitches does not know. Ids are those of `note`. What
is written first in a slice is drawn without having seen the rest: from the highest voice down, a given melody
is there before its bass.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import numpy as np

from midigen_jax.config import PrepareConfig, VoiceOrder
from midigen_jax.music.clock import TWELFTHS, Clock
from midigen_jax.music.notes import Notes, make_notes
from midigen_jax.music.piece import Piece
from midigen_jax.music.voices import SILENT, voice_grid
from midigen_jax.vocab.base import (
    END,
    PITCHES,
    START,
    Tokens,
    clock_from_json,
    events_of,
    split_long,
)
from midigen_jax.vocab.note import ATTACKED, HELD, REST, PitchIds

if TYPE_CHECKING:
    from midigen_jax.vocab.voice_rules import VoiceRules


@dataclass(frozen=True)
class VoiceVocabulary(PitchIds):
    """`voices` events a slice: a pitch that is struck or held, or the rest of a voice.

    The duration id is 0 on all events of a slice but the last. A slice that is longer than `max_duration` is
    split; with that of a frame, every frame is a slice.
    """

    voices: int
    max_duration: int = 96
    clock: Clock = TWELFTHS
    order: VoiceOrder = "low-first"
    name: ClassVar[str] = "voice"
    drops: ClassVar[tuple[str, ...]] = ("velocity",)

    @classmethod
    def make(cls, config: PrepareConfig, pieces: Iterable[Piece] = ()) -> "VoiceVocabulary":
        """That of any corpus with these settings."""
        return cls(config.voices, config.longest, Clock(config.ticks_per_quarter), config.voice_order)

    @property
    def slice_events(self) -> int:
        """One for each voice."""
        return self.voices

    @property
    def voice_places(self) -> tuple[int, ...]:
        """The place of each voice in its slice, from the lowest voice up."""
        places = range(self.voices)
        return tuple(places if self.order == "low-first" else reversed(places))

    @cached_property
    def rules(self) -> "VoiceRules":
        """A slice has an event for each voice; a held pitch sounded in its voice; <end> is between slices."""
        from midigen_jax.vocab.voice_rules import VoiceRules

        return VoiceRules(self.voices, self.max_duration + 1)

    def encode(self, piece: Piece) -> Tokens:
        """(E, 2) ids, from <start> to <end>: of all music from its first onset to its last release.

        A piece with a length goes from tick 0 to there. Voices are the tracks, as the piece's source names
        them, or else in the order of their mean pitch; missing ones rest. Raises InputError for more tracks
        than voices, and for a track with two notes at once.
        """
        named = piece.voiced == self.voices
        cuts, pitch_SV, struck_SV = voice_grid(piece.notes, self.voices, piece.length, named)
        origin, first, lasting = split_long(np.diff(cuts).astype(np.int32), self.max_duration)
        kind_SV = np.where(struck_SV[origin] & first[:, None], ATTACKED, HELD)
        id_SV = np.where(pitch_SV[origin] == SILENT, REST, kind_SV + pitch_SV[origin])
        tokens = np.zeros((2 + id_SV.size, 2), np.int32)
        tokens[0, 0], tokens[-1, 0] = START, END
        tokens[1:-1, 0] = id_SV[:, np.argsort(self.voice_places)].ravel()
        tokens[self.voices : -1 : self.voices, 1] = lasting
        return tokens

    def decode(self, tokens: Tokens, trim: bool = True) -> Notes:
        """The notes of any ids, up to the first <end>; track v is voice v, from the lowest up.

        An unfinished last slice is dropped. A held pitch that did not sound in its voice is struck. Without
        `trim` a rest at the beginning stays.
        """
        ids, durations = events_of(tokens).T
        slices = len(ids) // self.voices
        id_SV = ids[: slices * self.voices].reshape(slices, self.voices)[:, self.voice_places]
        duration_S = durations[self.voices - 1 : slices * self.voices : self.voices]
        time = np.concatenate([[0], np.cumsum(duration_S, dtype=np.int64)])
        pitch_SV = np.where(id_SV < ATTACKED, SILENT, (id_SV - ATTACKED) % PITCHES)
        columns = []
        for voice, (id_S, pitch_S) in enumerate(zip(id_SV.T, pitch_SV.T, strict=True)):
            before_S = np.concatenate([[SILENT], pitch_S[:-1]])
            first = np.flatnonzero((id_S < HELD) | (pitch_S != before_S))
            last = np.append(first[1:], slices)[: len(first)]
            onset, lasting = time[first], time[last] - time[first]
            heard = (pitch_S[first] != SILENT) & (lasting > 0)
            track = np.full(int(heard.sum()), voice)
            columns.append((onset[heard], lasting[heard], pitch_S[first][heard], track))
        onset, lasting, pitch, track = (np.concatenate(parts) for parts in zip(*columns, strict=True))
        begin = onset.min(initial=time[-1]) if trim else 0
        return make_notes(onset - begin, lasting, pitch, track)

    def to_json(self) -> dict[str, Any]:
        """All that `from_json` needs."""
        return super().to_json() | {"name": self.name, "voices": self.voices, "order": self.order}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "VoiceVocabulary":
        """The inverse of `to_json`; older ones do not name their order, and go from the lowest voice up."""
        order = data.get("order", "low-first")
        if order not in get_args(VoiceOrder):
            raise ValueError(f"no order of voices {order!r}")
        return cls(int(data["voices"]), int(data["max_duration"]), clock_from_json(data), order)
