"""What all vocabularies share: streams, tables of what ids mean by themselves, `<start>` and `<end>`.

NumPy alone: the processes that read files encode what they read, and need not wait for JAX.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from midigen_jax.music.clock import TWELFTHS, Clock

PITCHES = 128  # MIDI's
NONE = -1  # no pitch

START, END = 0, 1
"""Ids of the first stream, in every vocabulary: before and after a piece. Other streams then have id 0."""

BRACKETS = {START: "<start>", END: "<end>"}

Tokens = NDArray[np.int32]
"""(E, S): the ids of E events in each of S streams, in the order of the vocabulary's streams."""


class Stream(NamedTuple):
    """One of the numbers that make an event."""

    name: str  # "pitch", "duration", …
    size: int  # ids are 0 to size - 1


@dataclass(frozen=True, eq=False)
class IdTable:
    """What each of the V ids of a stream means by itself; all about time and pitch is read from here."""

    ticks: NDArray[np.int32]
    """(V,) the time that goes by after an event with this id"""
    closes: NDArray[np.bool_]
    """(V,) whether the event is the last one of its slice"""
    sounds: NDArray[np.bool_]
    """(V, 128) which MIDI pitches sound; or (V, 0) in a stream that says nothing of pitches"""
    held: NDArray[np.bool_]
    """(V,) whether these pitches sound on, and do not begin here"""
    unknown: NDArray[np.bool_]
    """(V,) whether it stands for what the vocabulary cannot say: never to be written"""

    @property
    def says_pitches(self) -> bool:
        """Whether this stream is where pitches are."""
        return self.sounds.shape[1] > 0

    @cached_property
    def midi(self) -> NDArray[np.int32] | None:
        """(V,) the MIDI pitch of each id or `NONE`; None where an id may have several."""
        count_V = self.sounds.sum(axis=1)
        if not self.says_pitches or count_V.max() > 1:
            return None
        return np.where(count_V == 0, NONE, self.sounds.argmax(axis=1)).astype(np.int32)

    @cached_property
    def struck_twin(self) -> NDArray[np.int32]:
        """(V,) for a held id the one that strikes the same pitches; for any other id itself."""
        twin_V = np.arange(len(self.ticks), dtype=np.int32)
        struck = {self.sounds[id].tobytes(): id for id in np.flatnonzero(~self.held)[::-1].tolist()}
        for id in np.flatnonzero(self.held).tolist():
            twin_V[id] = struck.get(self.sounds[id].tobytes(), id)
        return twin_V


def id_table(size: int, **columns: NDArray[Any]) -> IdTable:
    """A table of `size` ids, of the columns that say anything; in the others all is 0 or false."""
    return IdTable(
        ticks=columns.get("ticks", np.zeros(size)).astype(np.int32),
        closes=columns.get("closes", np.zeros(size)).astype(np.bool_),
        sounds=columns.get("sounds", np.zeros((size, 0))).astype(np.bool_),
        held=columns.get("held", np.zeros(size)).astype(np.bool_),
        unknown=columns.get("unknown", np.zeros(size)).astype(np.bool_),
    )


class PitchAndDuration:
    """What vocabularies of two streams share: ids of pitches or chords, and durations in ticks.

    A duration id of 0 means "same slice, more to come".
    """

    max_duration: int
    clock: Clock = TWELFTHS

    def pitch_table(self) -> IdTable:
        """What the ids of the first stream mean."""
        raise NotImplementedError

    def pitch_symbol(self, id: int) -> str:
        """An id of the first stream, for people."""
        raise NotImplementedError

    @property
    def voice_places(self) -> tuple[int, ...]:
        """None: an event is no voice."""
        return ()

    @property
    def streams(self) -> tuple[Stream, ...]:
        """Pitch, then duration."""
        pitch, duration = (len(self.tables[name].ticks) for name in ("pitch", "duration"))
        return Stream("pitch", pitch), Stream("duration", duration)

    @cached_property
    def tables(self) -> Mapping[str, IdTable]:
        """What the ids mean."""
        ticks = np.arange(self.max_duration + 1)
        durations = id_table(len(ticks), ticks=ticks, closes=ticks > 0)
        return {"pitch": self.pitch_table(), "duration": durations}

    def symbol(self, stream: str, id: int) -> str:
        """An id for people; a duration is its ticks."""
        return str(id) if stream == "duration" else self.pitch_symbol(id)

    def to_json(self) -> dict[str, Any]:
        """What all of them need to be made again."""
        return {"max_duration": self.max_duration, "ticks_per_quarter": self.clock.quarter}


def clock_from_json(data: Mapping[str, Any]) -> Clock:
    """The clock of a vocabulary that was written as JSON; older ones do not name it, and count twelfths."""
    return Clock(int(data.get("ticks_per_quarter", TWELFTHS.quarter)))


def edges(size: int) -> NDArray[np.bool_]:
    """(V,) which ids of a first stream are `<start>` and `<end>`."""
    return np.isin(np.arange(size), [START, END])


def ticks_of(tables: Mapping[str, IdTable], tokens: Tokens) -> NDArray[np.int32]:
    """(E,) the time that goes by after each event."""
    return np.sum([table.ticks[tokens[:, place]] for place, table in enumerate(tables.values())], axis=0)


def closes_of(tables: Mapping[str, IdTable], tokens: Tokens) -> NDArray[np.bool_]:
    """(E,) whether each event is the last one of its slice."""
    return np.any([table.closes[tokens[:, place]] for place, table in enumerate(tables.values())], axis=0)


def unknown_of(tables: Mapping[str, IdTable], tokens: Tokens) -> NDArray[np.bool_]:
    """(E,) whether each event stands for what the vocabulary cannot say."""
    return np.any([table.unknown[tokens[:, place]] for place, table in enumerate(tables.values())], axis=0)


def events_of(tokens: Tokens) -> Tokens:
    """The events of a piece up to the first <end>, without <start>."""
    ends = np.flatnonzero(tokens[:, 0] == END)
    body = tokens[: ends[0]] if len(ends) else tokens
    return body[body[:, 0] != START]


def split_long(duration: NDArray[np.int32], longest: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Durations cut into parts of at most `longest` ticks: each part's slice, "is the first", and ticks."""
    parts = -(-duration // longest)
    origin = np.repeat(np.arange(len(duration)), parts)
    number = np.arange(len(origin)) - (np.cumsum(parts) - parts)[origin]
    return origin, number == 0, np.minimum(duration[origin] - number * longest, longest)
