"""How much of a piece stands in the training music: its longest run of slices that is there, in any key.

In: slices of training pieces, slices of other pieces. Out: for each the longest run, and where it stands.
Two runs are the same if their slices last as long and hold the same pitches, up to one transposition of the
whole run; struck or held is not looked at, and a run begins with a slice that sounds. Human pieces share runs
too: a figure means something beside that of pieces which nobody made from the training music.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from midigen_jax.music.clock import TWELFTHS, Clock
from midigen_jax.music.slices import Slices

Ids = NDArray[np.int64]


class Run(NamedTuple):
    """The longest run of a piece that is in the training music; of length 0 where no slice is."""

    slices: int
    quarters: float
    start: int  # its first slice in the piece
    source: int  # the training piece
    place: int  # its first slice there


class _Line(NamedTuple):
    """Slices of many pieces one after another, M in all, and one beyond each piece."""

    chord_M: Ids  # what a slice is in any key; a rest is none
    step_M: Ids  # the same, and how far its lowest pitch is from that of the slice before
    piece_M: Ids
    slice_M: Ids


class Training:
    """Training music, to look runs up in."""

    def __init__(self, pieces: Sequence[Slices], clock: Clock = TWELFTHS):
        self.clock = clock
        self._ids: dict[Hashable, int] = {}
        self._line = self._numbered(pieces, learn=True)

    def longest(self, piece: Slices) -> Run:
        """The longest run of `piece` that is in the training music, the first of several."""
        own = self._numbered([piece], learn=False)
        found, best = (0, 0), 0
        low, high = 0, len(piece)
        while low < high:  # a run holds all shorter ones, so the longest is found by halving
            length = (low + high + 1) // 2
            match = self._match(own, length)
            if match is None:
                high = length - 1
            else:
                low, found, best = length, match, length
        start, place = found
        quarters = self.clock.quarters(float(piece.duration[start : start + best].sum()))
        line = self._line
        source, there = (int(line.piece_M[place]), int(line.slice_M[place])) if best else (0, 0)
        return Run(best, quarters, start, source, there)

    def _match(self, own: _Line, length: int) -> tuple[int, int] | None:
        """Where a run of so many slices begins here and in training."""
        here, there = (_windows(line, length) for line in (own, self._line))
        shared, starts, places = np.intersect1d(here, there, return_indices=True)
        valid = np.flatnonzero(shared >= 0)
        if len(valid) == 0:
            return None
        first = valid[starts[valid].argmin()]
        return int(starts[first]), int(places[first])

    def _numbered(self, pieces: Sequence[Slices], learn: bool) -> _Line:
        columns: list[list[int]] = [[], [], [], []]
        for number, piece in enumerate(pieces):
            before = None
            for place, (chord, lowest) in enumerate(_chords(piece)):
                step: int | None = None if lowest is None or before is None else lowest - before
                whole = -1 if place == 0 else self._id((step, chord), learn)
                first = -1 if lowest is None else self._id(chord, learn)
                for column, value in zip(columns, (first, whole, number, place), strict=True):
                    column.append(value)
                before = lowest if lowest is not None else before
            for column in columns:
                column.append(-1)
        return _Line(*(np.array(column, np.int64) for column in columns))

    def _id(self, symbol: Hashable, learn: bool) -> int:
        """A number for what was seen in training; -1 for anything else."""
        return self._ids.setdefault(symbol, len(self._ids)) if learn else self._ids.get(symbol, -1)


def _chords(piece: Slices) -> list[tuple[Hashable, int | None]]:
    """Each slice without its key, and its lowest pitch; None for a rest."""
    found: list[tuple[Hashable, int | None]] = []
    for number in range(len(piece)):
        pitches = piece.pitch[piece.start[number] : piece.start[number + 1]].tolist()
        lowest = pitches[0] if pitches else None
        shape = tuple(pitch - pitches[0] for pitch in pitches)
        found.append(((int(piece.duration[number]), shape), lowest))
    return found


def _windows(line: _Line, length: int) -> Ids:
    """(M,) a hash of the run of `length` slices that begins at each; -1 where there is none.

    The first slice of a run has no slice before it.
    """
    count = len(line.chord_M)
    if length > count:
        return np.full(count, -1, np.int64)
    broken_M = np.concatenate([[0], np.cumsum(line.step_M < 0)])
    hash_M = line.chord_M.astype(np.uint64)
    whole_M = line.chord_M >= 0
    with np.errstate(over="ignore"):
        # The sum of id_k * base^k over a window, from running sums: equal windows have equal hashes.
        power_M = np.multiply.accumulate(np.full(count + 1, _BASE, np.uint64))
        inverse_M = np.multiply.accumulate(np.full(count + 1, _INVERSE, np.uint64))
        terms_M = (line.step_M.astype(np.uint64) + np.uint64(1)) * power_M[:count]
        sums_M = np.concatenate([[np.uint64(0)], np.cumsum(terms_M, dtype=np.uint64)])
        begin = np.arange(count - length + 1)
        inner = (sums_M[begin + length] - sums_M[begin + 1]) * inverse_M[begin]
        mixed = (hash_M[begin] + np.uint64(1)) * _SALT ^ inner * _BASE
    clean = whole_M[begin] & (broken_M[begin + length] == broken_M[begin + 1])
    found = np.full(count, -1, np.int64)
    found[begin] = np.where(clean, (mixed >> np.uint64(1)).astype(np.int64), -1)
    return found


_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse modulo 2**64
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
_SALT = np.uint64(0xD1B54A32D192ED03)
