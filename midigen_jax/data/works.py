"""Which pieces are the same work, in whatever key, tempo, ornaments and arrangement.

In: the music of each piece, and what the user knows of it. Out: relations, each of two pieces, with what they
share and where; and groups of pieces that relations connect, which a split has to keep together.

A piece is heard as lines: its highest and its lowest notes, and the highest of each track. A line loses what
is much shorter than its neighbours (ornaments) and repeats, and keeps nothing of time but its order (tempo,
rubato). What is left is cut into windows of successive intervals (any key). Windows weigh by their rarity, as
in text retrieval (Spärck Jones 1972, inverse document frequency). Two pieces are related when they share
much, or when what they share comes in the same order and all over the shorter one, which chance does not do.
"""

import csv
import difflib
import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from midigen_jax.errors import InputError
from midigen_jax.music.piece import Piece
from midigen_jax.music.slices import Slices
from midigen_jax.music.sources import Source

WINDOW = 6
"""Intervals in a window: short enough that some stay whole between ornaments."""

_FEWEST = 6  # windows that two pieces have to share: fewer are a phrase, which may be anybody's
_PLAIN = 0.25  # share of the smaller one, by weight, that makes them one work wherever it lies
_IN_ORDER = 0.12  # share that does so if it comes in the same order …
_ORDERED = 0.5  # … which at least so much of what is shared has to do
_PARTS, _FEWEST_PARTS = 16, 6  # … and lies in 6 sixteenths of the smaller one or more

_ORNAMENT = 0.45  # of the median distance of 15 notes around it: what is shorter is an ornament
_NEIGHBOURS = 7
_TOGETHER = 0.2  # of a long distance of attacks: notes of one chord, played, are no further apart

_UNSEEN = 100  # pieces that a small corpus is thought to be larger by: else all it holds would be common
_NEAREST = 32
"""Pieces that each piece is compared with through one window: bounds the work that a commonplace makes."""
_WINDOWS_AT_ONCE = 1 << 17
# The low bits of a window: 16 say where it lies, in parts of 65,536 of the piece. In an index of all windows
# 24 say whose it is: 40 are left for its hash, and the few that are equal by chance are too few to matter.
_DIGITS = np.uint64(256) ** np.arange(WINDOW, dtype=np.uint64)
_PLACE, _OWNER = np.uint64(16), np.uint64(2**24 - 1)

Line = tuple[NDArray[np.integer], NDArray[np.integer]]
"""Onsets and pitches of successive notes."""

REASONS = {
    "bytes": "the same file",
    "notes": "the same notes, in any key",
    "given": "said so by --group-by",
    "music": "shared lines",
}
"""What makes two pieces one work, in words."""


class Relation(NamedTuple):
    """Why two pieces, by their numbers, are one work."""

    one: int
    other: int
    why: str
    """one of `REASONS`; of marks their name"""
    share: float = 1.0
    """of the smaller one's weighted windows; 1 for marks"""
    in_one: tuple[float, float] = (0.0, 1.0)
    """from where to where it lies in the first piece, as shares of its length"""
    in_other: tuple[float, float] = (0.0, 1.0)


def fingerprint(piece: Piece) -> tuple[str, NDArray[np.uint64]]:
    """What tells relatives: a mark that is equal for pieces whose slices are equal up to transposition, and
    (W,) windows of its lines, each a hash (48 bits) with the place of its first note (16 bits).

    The hashes are distinct and ascending.
    """
    slices = piece.slices
    shape = hashlib.sha256()
    relative = slices.pitch - slices.pitch.min(initial=128)
    for array in (slices.duration, slices.start, relative, slices.attacked):
        shape.update(np.ascontiguousarray(array).tobytes())
    ticks = max(1, int(slices.duration.sum()))
    windows = [_windows(*line, ticks) for line in _lines(piece)]
    every = np.sort(np.concatenate([np.empty(0, np.uint64), *windows]))
    hashes = every >> _PLACE
    return shape.hexdigest()[:32], every[np.append(True, hashes[1:] != hashes[:-1])[: len(every)]]


def known_groups(rule: str, sources: Sequence[Source]) -> dict[str, str]:
    """What is said of sources, by their names: those of one group are one work.

    rule: `none`; `folder`, the one that each lies in; `stem`, the name of each file without its folder and
    ending; or a CSV file with the columns `source` and `group`, whose sources are named as `pieces.jsonl`
    names them. Raises InputError for a file that is none of that, or that names what is not there.
    """
    if rule == "none":
        return {}
    if rule in ("folder", "stem"):
        first: dict[Any, str] = {}
        group_of = _folder_of if rule == "folder" else _stem_of
        return {source.name: first.setdefault(group_of(source), source.name) for source in sources}
    names = {source.name for source in sources}
    try:
        with Path(rule).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            for column in ("source", "group"):
                if column not in (reader.fieldnames or ()):
                    raise InputError(
                        f"{rule}: has no column {column!r}; its first line has to be source,group"
                    )
            found = {line["source"]: line["group"] or "" for line in reader}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"--group-by {rule}: not none, folder, stem or a CSV file that can be read ({reason})"
        ) from None
    for name in found:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            remedy = f"did you mean {near[0]}?" if near else "name pieces as pieces.jsonl does"
            raise InputError(f"{rule}: {name} is no piece of these sources; {remedy}")
    return found


def _folder_of(source: Source) -> tuple[str, ...]:
    """Where the file lies: on disk, or in an archive."""
    *around, name = (source.path.absolute().as_posix(), *source.members)
    return (*around, PurePosixPath(name).parent.as_posix())


def _stem_of(source: Source) -> tuple[str, str | None]:
    """The name of the file, and that of the piece in it if it holds several."""
    return PurePosixPath(source.file_name.removesuffix(".gz")).stem, source.part


def relations(
    marks: Sequence[Mapping[str, str]], sizes: Sequence[int], windows_of: Callable[[int], NDArray[np.uint64]]
) -> list[Relation]:
    """What makes pieces one work.

    `marks` are of each piece, by the reason that they give: pieces with an equal one are related, and so is
    each with the first that has it. `windows_of(i)` are those of piece i, `sizes[i]` in number. Where more
    than `_NEAREST` pieces have a window in common, it counts only between pieces that stand near each other
    in that list, which still chains copies together.
    """
    found: list[Relation] = []
    first: dict[tuple[str, str], int] = {}
    for number, own in enumerate(marks):
        before = {
            first.setdefault((why, mark), number): why for why, mark in reversed(list(own.items())) if mark
        }
        found += [Relation(other, number, why) for other, why in before.items() if other != number]
    marked = {(relation.one, relation.other) for relation in found}
    kept = lru_cache(maxsize=1024)(windows_of)
    for one, other, share in _sharing(np.asarray(sizes, np.int64), windows_of):
        if (one, other) not in marked and (relation := _relation(one, other, share, kept)) is not None:
            found.append(relation)
    return found


def groups(count: int, relations: Iterable[Relation]) -> NDArray[np.int64]:
    """(count,) a group for each piece, from 0 in order of first appearance: relatives of relatives too."""
    one, other = np.array([pair[:2] for pair in relations], np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _lines(piece: Piece) -> list[Line]:
    """Onsets and pitches of each line of a piece, in ticks from the beginning of its slices."""
    notes, lines = piece.notes, _outer(piece.slices)
    track = notes[:, 3]
    if len(notes) and track.min() != track.max():
        # By track, then time, then pitch: the last of each time is the highest.
        order = np.lexsort((notes[:, 2], notes[:, 0], track))
        onset, _, pitch, track = notes[order].T.astype(np.int64)
        onset -= 0 if piece.length is not None else onset.min()
        new_track = np.append(track[1:] != track[:-1], True)
        highest = new_track | np.append(onset[1:] != onset[:-1], True)
        ends = np.cumsum(highest)[new_track]
        lines += zip(np.split(onset[highest], ends), np.split(pitch[highest], ends), strict=True)
    return lines


def _outer(slices: Slices) -> list[Line]:
    """The notes that are highest, and those that are lowest, in a slice when they begin, or just after.

    Just after, since the notes of a chord that is played do not begin at once, nor end when the next begins.
    """
    begin, owner = np.cumsum(slices.duration) - slices.duration, slices.owner
    strikes = np.zeros(len(slices), bool)
    strikes[owner[slices.attacked]] = True
    attacks = begin[strikes]
    if len(attacks) < 3:
        return []
    # When each entry's note began: that of the last attack of its pitch, since each pitch begins with one.
    by_pitch = np.argsort(slices.pitch.astype(np.uint8), kind="stable")  # few bits are sorted fast
    struck = slices.attacked[by_pitch]
    latest = np.maximum.accumulate(np.where(struck, np.arange(len(struck)), 0))
    onset = np.empty(len(owner), np.int64)
    onset[by_pitch] = begin[owner[by_pitch]][latest]
    distance = np.diff(attacks)
    long = np.partition(distance, 3 * len(distance) // 4)[3 * len(distance) // 4]
    sounding = slices.count > 0
    found = []
    for entry in (slices.start[1:][sounding] - 1, slices.start[:-1][sounding]):
        entry = entry[begin[sounding] - onset[entry] <= max(1, _TOGETHER * long)]
        at, pitch = onset[entry], slices.pitch[entry]
        new = np.append(True, (at[1:] != at[:-1]) | (pitch[1:] != pitch[:-1]))[: len(at)]
        order = np.argsort(at[new], kind="stable")
        found.append((at[new][order], pitch[new][order]))
    return found


def _windows(onset: NDArray[np.integer], pitch: NDArray[np.integer], ticks: int) -> NDArray[np.uint64]:
    """A line's windows, with their places in a piece of so many ticks."""
    if len(onset) <= WINDOW:
        return np.empty(0, np.uint64)
    distance = onset[1:] - onset[:-1]
    ends = [distance[:1]] * _NEIGHBOURS, [distance[-1:]] * (_NEIGHBOURS + 1)
    around = sliding_window_view(np.concatenate([*ends[0], distance, *ends[1]]), 2 * _NEIGHBOURS + 1)
    median = np.partition(around, _NEIGHBOURS, axis=1)[:, _NEIGHBOURS]
    long = np.append(distance, distance[-1]) >= _ORNAMENT * median
    onset, pitch = onset[long], pitch[long]
    new = np.append(True, pitch[1:] != pitch[:-1])[: len(pitch)]
    onset, pitch = onset[new], pitch[new]
    if len(onset) <= WINDOW:
        return np.empty(0, np.uint64)
    intervals = np.diff(pitch).astype(np.int8).astype(np.uint8)
    hashes = _mix(sliding_window_view(intervals, WINDOW).astype(np.uint64) @ _DIGITS)
    place = (np.minimum(onset[: len(hashes)], ticks - 1) * 65_536 // ticks).astype(np.uint64)
    return (hashes >> _PLACE << _PLACE) | place


def _mix(number: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele et al. 2014): every bit of the result depends on every bit."""
    number = (number ^ (number >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    number = (number ^ (number >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return number ^ (number >> np.uint64(31))


def _sharing(
    sizes: NDArray[np.int64], windows_of: Callable[[int], NDArray[np.uint64]]
) -> Iterator[tuple[int, int, float]]:
    """Pairs of pieces that may be related, one before the other, and the share of the smaller one.

    Memory holds 8 bytes of each window, and the pairs of a few pieces at a time.
    """
    count = len(sizes)
    index = np.empty(int(sizes.sum()), np.uint64)
    for number, end in enumerate(np.cumsum(sizes).tolist()):
        index[end - sizes[number] : end] = _codes(windows_of(number), number)
    index.sort()  # by window, and the owners of one in their order
    blocks = np.split(np.arange(count), np.flatnonzero(np.diff(np.cumsum(sizes) // _WINDOWS_AT_ONCE)) + 1)
    whole = np.zeros(count)
    for block in blocks:
        owned = [_codes(windows_of(number), number) for number in block.tolist()]
        whole[block] = [_owners(index, codes, count)[2].sum() for codes in owned]
    for block in blocks:
        codes = np.concatenate([_codes(windows_of(number), number) for number in block.tolist()] or [index])
        place, later, weight = _owners(index, codes, count)
        # The owners of a window stand side by side: those after each are its pairs.
        pairs = np.repeat(np.arange(len(codes)), later)
        step = np.arange(len(pairs)) - np.repeat(np.cumsum(later) - later, later) + 1
        other = index[place[pairs] + step] & _OWNER
        pair = ((codes[pairs] & _OWNER) * np.uint64(count) + other).astype(np.int64)
        order = np.argsort(pair, kind="stable")
        pair, first = np.unique(pair[order], return_index=True)
        if not len(pair):
            continue
        one, two = np.divmod(pair, count)
        share = np.add.reduceat(weight[pairs][order], first) / np.minimum(whole[one], whole[two])
        shared = np.diff(first, append=len(order))
        near = (shared >= _FEWEST) & (share >= _IN_ORDER)
        yield from zip(one[near].tolist(), two[near].tolist(), share[near].tolist(), strict=True)


def _codes(windows: NDArray[np.uint64], number: int) -> NDArray[np.uint64]:
    """The windows of piece `number` with the piece in place of where they lie."""
    return (windows & ~_OWNER) | np.uint64(number)


def _owners(
    index: NDArray[np.uint64], codes: NDArray[np.uint64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Of each window: its place, how many owners are looked at after it, its weight among `count` pieces."""
    begin, end = np.searchsorted(index, codes & ~_OWNER), np.searchsorted(index, codes | _OWNER, "right")
    place = np.searchsorted(index, codes)
    return place, np.minimum(end - place - 1, _NEAREST), np.log((count + _UNSEEN) / (end - begin))


def _relation(
    one: int, other: int, share: float, windows_of: Callable[[int], NDArray[np.uint64]]
) -> Relation | None:
    """That of two pieces which share so much, if they are related at all."""
    mine, theirs = windows_of(one), windows_of(other)
    _, at_one, at_other = np.intersect1d(
        mine >> _PLACE, theirs >> _PLACE, assume_unique=True, return_indices=True
    )
    low = np.uint64(65_535)
    in_one, in_other = (mine[at_one] & low) / 65_536, (theirs[at_other] & low) / 65_536
    chain = _longest_rising(in_one, in_other)
    smaller = in_one if len(mine) <= len(theirs) else in_other
    parts = len(np.unique((smaller[chain] * _PARTS).astype(int)))
    in_order = len(chain) >= _ORDERED * len(at_one) and parts >= _FEWEST_PARTS
    if share < _PLAIN and not in_order:
        return None
    spans = ((float(place[chain].min()), float(place[chain].max())) for place in (in_one, in_other))
    return Relation(one, other, "music", min(round(share, 3), 1.0), *spans)


def _longest_rising(first: NDArray[np.float64], second: NDArray[np.float64]) -> list[int]:
    """The indices of a longest run of places that rises in both, by patience sorting (Fredman 1975)."""
    tops: list[float] = []  # of the piles
    piles: list[int] = []  # the index on top of each
    below: dict[int, int] = {}  # of each index, that on top of the pile before its own; -1: none
    for index in np.lexsort((-second, first)).tolist():
        pile = bisect_left(tops, second[index])
        tops[pile : pile + 1], piles[pile : pile + 1] = [second[index]], [index]
        below[index] = piles[pile - 1] if pile else -1
    run: list[int] = []
    index = piles[-1] if piles else -1
    while index >= 0:
        run.append(index)
        index = below[index]
    return run[::-1]
