"""Music of voices as tokens: one event a voice in every slice, from the lowest voice to the highest.

In: Notes whose tracks are voices, each with one note at a time. Out: tokens with the ids of `NoteTokenizer`,
and back. Four voices make four events a slice, as the literature on chorales scores them. Who sings what is
kept, and so are unisons and crossings, which a slice as a set of pitches does not know.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from midigen_jax.errors import InputError
from midigen_jax.music.notes import Notes, make_notes
from midigen_jax.music.slices import Slices, slice_notes
from midigen_jax.music.tokens import END, START, NoteTokenizer, Tokens, events_of, split_long

_REST, _ATTACKED, _HELD = NoteTokenizer.REST, NoteTokenizer.ATTACKED, NoteTokenizer.HELD
_SILENT = -1


@dataclass(frozen=True)
class VoiceTokenizer:
    """`voices` events a slice: a pitch that is struck or held, or the rest of a voice.

    The duration id is 0 on all events of a slice but the last. A slice that is longer than `max_duration` is
    split; with that of a frame, every frame is a slice.
    """

    voices: int
    max_duration: int = 96
    name: ClassVar[str] = "voice"
    REST: ClassVar[int] = _REST

    @property
    def pitch_size(self) -> int:
        return _HELD + 128

    @property
    def duration_size(self) -> int:
        return self.max_duration + 1

    def encode(self, notes: Notes, length: int | None = None) -> Tokens:
        """(E, 2) ids, from <start> to <end>: of all music from its first onset to its last release.

        With a `length` in ticks it goes from tick 0 to there. Voices are the tracks, in the order of their
        mean pitch; missing ones rest. Raises InputError for more tracks than voices, and for a track with two
        notes at once.
        """
        cuts, pitch_SV, struck_SV = voice_grid(notes, self.voices, length)
        origin, first, lasting = split_long(np.diff(cuts).astype(np.int32), self.max_duration)
        kind_SV = np.where(struck_SV[origin] & first[:, None], _ATTACKED, _HELD)
        id_SV = np.where(pitch_SV[origin] == _SILENT, _REST, kind_SV + pitch_SV[origin])
        tokens = np.zeros((2 + id_SV.size, 2), np.int32)
        tokens[0, 0], tokens[-1, 0] = START, END
        tokens[1:-1, 0] = id_SV.ravel()
        tokens[self.voices : -1 : self.voices, 1] = lasting
        return tokens

    def notes(self, tokens: Tokens, trim: bool = True) -> Notes:
        """The notes of any ids of this tokenizer, up to the first <end>; track v is voice v.

        An unfinished last slice is dropped. A held pitch that did not sound in its voice is struck. Without
        `trim` a rest at the beginning stays.
        """
        ids, durations = events_of(tokens)
        slices = len(ids) // self.voices
        id_SV = ids[: slices * self.voices].reshape(slices, self.voices)
        duration_S = durations[self.voices - 1 : slices * self.voices : self.voices]
        time = np.concatenate([[0], np.cumsum(duration_S, dtype=np.int64)])
        pitch_SV = np.where(id_SV < _ATTACKED, _SILENT, (id_SV - _ATTACKED) % 128)
        columns = []
        for voice, (id_S, pitch_S) in enumerate(zip(id_SV.T, pitch_SV.T, strict=True)):
            before_S = np.concatenate([[_SILENT], pitch_S[:-1]])
            first = np.flatnonzero((id_S < _HELD) | (pitch_S != before_S))
            last = np.append(first[1:], slices)[: len(first)]
            onset, lasting = time[first], time[last] - time[first]
            heard = (pitch_S[first] != _SILENT) & (lasting > 0)
            track = np.full(int(heard.sum()), voice)
            columns.append((onset[heard], lasting[heard], pitch_S[first][heard], track))
        onset, lasting, pitch, track = (np.concatenate(parts) for parts in zip(*columns, strict=True))
        begin = onset.min(initial=time[-1]) if trim else 0
        return make_notes(onset - begin, lasting, pitch, track)

    def decode(self, tokens: Tokens, trim: bool = True) -> Slices:
        """The canonical slices of all voices together; without `trim` rests at the ends stay."""
        ticks = int(events_of(tokens)[1].sum())
        return slice_notes(self.notes(tokens, trim), None if trim else ticks)

    def sounding(self, pitch_ids: NDArray[np.int32]) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """As `NoteTokenizer.sounding`: a pitch of two voices is there once, attacked if one of them is."""
        pitches, attacked = NoteTokenizer().sounding(pitch_ids)
        struck = {pitch for pitch, begins in zip(pitches, attacked, strict=True) if begins}
        distinct = tuple(sorted(set(pitches)))
        return distinct, tuple(pitch in struck for pitch in distinct)

    def symbol(self, pitch_id: int) -> str:
        """As `NoteTokenizer.symbol`."""
        return NoteTokenizer().symbol(pitch_id)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "voices": self.voices, "max_duration": self.max_duration}


def voice_grid(
    notes: Notes, voices: int, length: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """(S + 1,) times at which a note begins or ends; (S, V) the pitch of each voice, and "it begins here".

    Voices are the tracks, by their mean pitch; -1 is a rest. Raises InputError as `VoiceTokenizer.encode`.
    """
    onset, duration, pitch, track = notes.astype(np.int64).T
    tracks, rank = np.unique(track, return_inverse=True)
    if len(tracks) > voices:
        raise InputError(f"{len(tracks)} tracks are more than {voices} voices; choose with --voices")
    means = np.bincount(rank, pitch) / np.bincount(rank)
    ends = [] if length is None else [0, length]
    cuts = np.unique(np.concatenate([onset, onset + duration, np.array(ends, np.int64)]))
    pitch_SV = np.full((len(cuts) - 1, voices), _SILENT, np.int64)
    struck_SV = np.zeros(pitch_SV.shape, bool)
    for voice, number in enumerate(np.argsort(means, kind="stable")):
        own = rank == number
        begin, end = onset[own], (onset + duration)[own]  # notes are sorted by onset
        if (begin[1:] < end[:-1]).any():
            raise InputError("a track with two notes at once is no voice; leave --voices out")
        first, last = np.searchsorted(cuts, begin), np.searchsorted(cuts, end)
        spans = last - first
        place = np.arange(spans.sum()) + np.repeat(first - (np.cumsum(spans) - spans), spans)
        pitch_SV[place, voice] = np.repeat(pitch[own], spans)
        struck_SV[first, voice] = True
    return cuts, pitch_SV, struck_SV
