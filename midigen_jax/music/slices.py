"""Slices ("salami slices", chordify): time is cut at every attack and every release, never at bar lines.

In: Notes. Out: Slices, each a duration and a set of sounding pitches, every one marked attacked or held.
Without that mark a sounding note would be struck again at every slice. No Python loop runs over notes
or slices: the form is CSR, one flat array of entries with offsets into it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from midigen_jax.errors import InputError
from midigen_jax.music.notes import Notes, make_notes

_PITCHES = 128
# Half a gigabyte while they are made; a million notes of real music have three million.
_MOST_ENTRIES = 10_000_000


@dataclass(frozen=True, eq=False)
class Slices:
    """S slices with E entries in all; slice i owns the entries start[i] to start[i + 1].

    A slice without entries is a rest. Slices are *canonical* when none could be merged with the one before,
    none is a rest at either end, and every held pitch sounds in the slice before: see `canonical`.
    """

    duration: NDArray[np.int32]
    """(S,) ticks, each at least 1"""
    start: NDArray[np.int32]
    """(S + 1,) offsets of the entries, from 0 to E"""
    pitch: NDArray[np.int32]
    """(E,) 0..127, ascending within a slice"""
    attacked: NDArray[np.bool_]
    """(E,) does the pitch begin here, or sound on?"""

    def __len__(self) -> int:
        return len(self.duration)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Slices):
            return NotImplemented
        return all(map(np.array_equal, vars(self).values(), vars(other).values()))

    @property
    def count(self) -> NDArray[np.int32]:
        """(S,) the sounding pitches of each slice; 0 is a rest."""
        return np.diff(self.start)

    @property
    def owner(self) -> NDArray[np.int64]:
        """(E,) the slice of each entry."""
        return np.repeat(np.arange(len(self)), self.count)


def from_entries(
    duration: NDArray[np.integer],
    owner: NDArray[np.integer],
    pitch: NDArray[np.integer],
    attacked: NDArray[np.bool_],
) -> Slices:
    """Slices from loose entries in any order; owner (E,) is the slice of each.

    A pitch that comes more than once in a slice is one sounding pitch, attacked if any of them is.
    The result is not yet canonical.
    """
    # Of equal entries an attacked one sorts first.
    code = np.sort((owner.astype(np.int64) * _PITCHES + pitch) * 2 + ~attacked, kind="stable")
    place = code >> 1
    first = _changes(place)
    start = np.searchsorted(place[first], np.arange(len(duration) + 1) * _PITCHES)
    return Slices(
        duration.astype(np.int32),
        start.astype(np.int32),
        (place[first] % _PITCHES).astype(np.int32),
        code[first] % 2 == 0,
    )


def _changes(values: NDArray[np.integer]) -> NDArray[np.int64]:
    """Where sorted values differ from the one before; np.unique, which hashes, takes twenty times as long."""
    return np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(values)])


def canonical(slices: Slices, trim: bool = True) -> Slices:
    """The same music without what is redundant.

    A held pitch that did not sound in the slice before becomes attacked; a slice in which nothing changes
    joins the one before, so neighbouring rests merge; leading and trailing rests go, unless `trim` is false.
    """
    if len(slices) == 0:
        return slices
    owner = slices.owner
    place = owner * _PITCHES + slices.pitch
    by_pitch = np.argsort(slices.pitch.astype(np.uint8), kind="stable")
    sounded = np.zeros(len(place), np.bool_)
    sounded[by_pitch[1:]] = np.diff(place[by_pitch]) == _PITCHES
    attacked = slices.attacked | ~sounded
    attacks = np.bincount(owner, weights=attacked, minlength=len(slices))
    # All pitches held, and as many as before: then they are the same ones. Rests are the case of none.
    changes = np.append(True, (attacks[1:] > 0) | (np.diff(slices.count) != 0))
    kept = np.flatnonzero(changes)
    duration = np.add.reduceat(slices.duration, kept)
    sounds = (slices.count[kept] > 0) | (not trim)
    if not sounds.any():
        return Slices(slices.duration[:0], slices.start[:1], slices.pitch, slices.attacked)
    inside = slice(int(sounds.argmax()), len(sounds) - int(sounds[::-1].argmax()))
    kept, duration = kept[inside], duration[inside]
    is_kept = np.zeros(len(slices), np.bool_)
    is_kept[kept] = True
    entries = is_kept[owner]
    start = np.append(0, np.cumsum(slices.count[kept]))
    return Slices(duration.astype(np.int32), start.astype(np.int32), slices.pitch[entries], attacked[entries])


def slice_notes(notes: Notes, length: int | None = None) -> Slices:
    """The canonical slices of notes from all tracks together, from the first onset to the last release.

    A pitch that sounds in two tracks is one sounding pitch, attacked whenever a note on it begins. With a
    `length` in ticks the slices go from tick 0 to there, rests at the ends and all.
    Raises InputError for more than ten million entries: notes that are held through very many others.
    """
    onset, duration, pitch, _ = notes.T
    ends = [] if length is None else [0, length]
    times = np.sort(np.concatenate([onset, onset + duration, np.array(ends, onset.dtype)]), kind="stable")
    cuts = times[_changes(times)]
    first, last = np.searchsorted(cuts, onset), np.searchsorted(cuts, onset + duration)
    spans = last - first
    if spans.sum() > _MOST_ENTRIES:
        raise InputError(
            f"{spans.sum():,} pitches in {len(cuts) - 1:,} slices are too many; cut the piece up"
        )
    within = np.arange(spans.sum()) - np.repeat(np.cumsum(spans) - spans, spans)
    owner = np.repeat(first, spans) + within
    entries = from_entries(np.diff(cuts), owner, np.repeat(pitch, spans), within == 0)
    return canonical(entries, trim=length is None)


def to_notes(slices: Slices) -> Notes:
    """The inverse of `slice_notes`, on track 0, with the first slice at tick 0."""
    order = np.lexsort((slices.owner, slices.pitch))
    owner, pitch = slices.owner[order], slices.pitch[order]
    goes_on = (np.diff(owner) == 1) & (np.diff(pitch) == 0) & ~slices.attacked[order][1:]
    first = np.flatnonzero(np.append(True, ~goes_on)[: len(owner)])
    last = np.append(first[1:], len(owner))[: len(first)] - 1
    time = np.append(0, np.cumsum(slices.duration, dtype=np.int64))
    onset = time[owner[first]]
    return make_notes(onset, time[owner[last] + 1] - onset, pitch[first], np.zeros_like(first))
