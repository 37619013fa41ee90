"""A piece: what every reader gives."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from midigen_jax.errors import InputError
from midigen_jax.music.clock import TWELFTHS, Clock
from midigen_jax.music.notes import Notes, make_notes
from midigen_jax.music.slices import Slices, slice_notes

Quantizer = Literal["adaptive", "music21", "uniform"]

Repeats = Literal["written", "played"]

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")

DEFAULT_TEMPO = 120.0
DEFAULT_METER = (4, 4)
# Thirteen hours at 120: a longer "piece" is a broken delta time, and would become endless rests.
LONGEST_QUARTERS = 100_000
MAX_PIECE_BYTES = 64 << 20
"""of one file, and of one member of a zip when unpacked"""


@dataclass(frozen=True)
class Piece:
    """What a source holds: its notes, and how fast, in what meter and on what instrument it begins.

    How hard a note is struck is not modelled, and not read.
    """

    notes: Notes
    tempo: float = DEFAULT_TEMPO
    """quarters a minute"""
    meter: tuple[int, int] = DEFAULT_METER
    length: int | None = None
    """ticks, where rests at the ends count (frame files): notes are anywhere in 0..length"""
    frame: int | None = None
    """ticks in a frame (frame files)"""
    program: int = 0
    """General MIDI program, 0 to 127, of the most notes"""
    first_bar: int = 0
    """the tick of a bar line: after an upbeat, of the first; bars of the meter go on from there"""
    remarks: tuple[str, ...] = ()
    """what was out of order in the source, and read all the same"""
    merged: int = 0
    """onsets that the grid puts on another's, though they were a sixteenth of a quarter apart, or more"""
    moved: int = 0
    """notes that the grid moves by more than 1/32 of a quarter"""
    has_beat: bool = True
    """False: it was played without regard to the beats of its file, and its rhythm on a grid is noise"""
    clock: Clock = TWELFTHS
    """what its ticks are"""
    voiced: int = 0
    """of how many voices its tracks are, track v voice v from the lowest up; 0: its source names no voices"""
    signature: int | None = None
    """sharps in the key signature that the source says first, or flats, less than 0; None: it says none"""
    stuck: int = 0
    """keys that are still down when their track ends; what they hold has no length, and is left out"""

    @cached_property
    def slices(self) -> Slices:
        """The canonical slices of all tracks together, as `slice_notes` has them."""
        return slice_notes(self.notes, self.length)

    def bar_of(self, tick: int) -> int:
        """The number of the bar in which a tick lies; an upbeat's is 0."""
        return (tick - self.first_bar) // self.clock.bar(self.meter) + 1

    def bars(self, first: int, last: int) -> tuple[int, int]:
        """The ticks between which bars `first` to `last` lie, within the music; an upbeat is bar 0.

        Raises InputError for bars that are not there.
        """
        bar, onset = self.clock.bar(self.meter), self.notes[:, 0]
        begin, stop = (self.first_bar + (number - 1) * bar for number in (first, last + 1))
        start = int(onset.min()) if len(onset) else 0
        end = int((onset + self.notes[:, 1]).max(initial=start))
        if first > last:
            raise InputError(f"bars {first}-{last}: the first comes after the last; give {last}-{first}")
        if begin >= end or stop - bar >= end or stop <= start:
            there = f"{self.bar_of(start)} to {-(-(end - self.first_bar) // bar)}"
            raise InputError(f"bars {first}-{last}: the piece has bars {there}; give some of these")
        return max(begin, start), min(stop, end)

    def top_line(self) -> "Piece":
        """The highest pitch of each slice, as one voice: what is held on is not struck again."""
        slices = self.slices
        columns: list[list[int]] = []
        start = np.cumsum(np.append(0, slices.duration))
        for number in np.flatnonzero(slices.count).tolist():
            last = slices.start[number + 1] - 1  # pitches ascend
            pitch, begin, stop = int(slices.pitch[last]), int(start[number]), int(start[number + 1])
            goes_on = columns and not slices.attacked[last] and columns[-1][1:] == [begin, pitch]
            if goes_on:
                columns[-1][1] = stop
            else:
                columns.append([begin, stop, pitch])
        first = int(self.notes[:, 0].min()) if len(self.notes) and self.length is None else 0
        rows = [[begin + first, stop - begin, pitch, 0] for begin, stop, pitch in columns]
        return replace(self, notes=make_notes(*np.array(rows, np.int32).reshape(-1, 4).T), voiced=0)

    def excerpt(self, first: int, last: int) -> "Piece":
        """These bars alone, from tick 0; what sounds into them is struck, what sounds beyond them is cut.

        Raises InputError as `bars` does, and where nothing sounds in them.
        """
        begin, stop = self.bars(first, last)
        onset, duration, pitch, track = self.notes[self.notes[:, 0] < stop].T
        onset, release = np.maximum(onset, begin), np.minimum(onset + duration, stop)
        notes = np.stack([onset - begin, release - onset, pitch, track], axis=1)[release > onset]
        if not len(notes):
            raise InputError(f"bars {first}-{last}: nothing sounds there; give other bars")
        line = (self.first_bar - begin) % self.clock.bar(self.meter)
        return replace(self, notes=make_notes(*notes.T), length=None, first_bar=line)


def tempo_or(default: float, tempo: float | None) -> float:
    """A tempo in quarters a minute, where it is there and makes sense; else `default`."""
    return float(tempo) if tempo is not None and 4 <= tempo <= 1000 else default


def meter_or_default(meter: tuple[int, int] | None) -> tuple[int, int]:
    """A meter, where it is there and makes sense; else 4/4."""
    above, below = meter or DEFAULT_METER
    fits = 1 <= above <= 64 and below in (1, 2, 4, 8, 16, 32, 64)
    return (above, below) if fits else DEFAULT_METER
