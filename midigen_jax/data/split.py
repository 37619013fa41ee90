"""Which pieces are kept out of training: whole families of related pieces go to one split.

In: a fingerprint of every piece. Out: a family number and a split for each.
Collections hold the same music under several names, in several keys and in several editions; a piece
whose twin was trained on says nothing about what a model has learned.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from midigen_jax.errors import InputError
from midigen_jax.music.slices import Slices

WINDOW = 16
"""Intervals in a window of the top line: long enough that two pieces rarely share one by chance."""

_WINDOWS_AT_ONCE = 1 << 20

_NEAREST = 32
"""Pieces that each piece is compared with through one window: bounds the work that a commonplace makes."""


def fingerprint(piece: Slices) -> tuple[str, NDArray[np.uint64]]:
    """What tells relatives: a mark that is equal for pieces whose slices are equal up to transposition, and
    the set of `WINDOW` successive intervals of the top line, as distinct 64-bit hashes (W,).

    The top line is the highest pitch of each slice, where that pitch is struck and not held.
    """
    relative = piece.pitch - piece.pitch.min(initial=128)
    shape = hashlib.sha256()
    for array in (piece.duration, piece.start, relative, piece.attacked):
        shape.update(np.ascontiguousarray(array).tobytes())
    last = piece.start[1:][np.diff(piece.start) > 0] - 1
    intervals = np.diff(piece.pitch[last[piece.attacked[last]]]).astype(np.int8)
    if len(intervals) < WINDOW:
        return shape.hexdigest()[:32], np.empty(0, np.uint64)
    windows = np.lib.stride_tricks.sliding_window_view(intervals, WINDOW)
    halves = np.ascontiguousarray(windows).view(np.uint64)
    return shape.hexdigest()[:32], np.unique(_mix(_mix(halves[:, 0]) + halves[:, 1]))


def families(
    marks: Sequence[Sequence[str]], sizes: Sequence[int], windows_of: Callable[[int], NDArray[np.uint64]]
) -> NDArray[np.int64]:
    """A family number for each of N pieces, from 0 in order of first appearance.

    Two pieces are of one family when they have a mark in common (the digest of their bytes, the shape of
    their slices), or share more than half of the smaller one's windows: `windows_of(i)` are those of piece
    i, `sizes[i]` in number. Where more than `_NEAREST` pieces have a window in common, it counts only
    between pieces that stand near each other in that list, which still chains copies together.
    """
    first: dict[str, int] = {}
    alike = [
        (number, first.setdefault(mark, number)) for number, own in enumerate(marks) for mark in own if mark
    ]
    return _components(len(marks), [*alike, *_overlapping(np.asarray(sizes, np.int64), windows_of)])


def split(
    families: NDArray[np.integer],
    shares: Mapping[str, float],
    seed: int,
    given: Sequence[str | None] | None = None,
) -> list[str]:
    """The name of each piece's split; `shares` maps names to the parts of the pieces that they want.

    Families are dealt in random order, larger ones first, each to the split that lacks most pieces, so
    that the shares come out as nearly as whole families allow. A piece whose split is `given` (a
    benchmark's) stays there, and takes those of its family with it that have none. No split is left empty:
    raises InputError when there are fewer families than splits.
    """
    given = given or [None] * len(families)
    placed = {family: name for family, name in zip(families.tolist(), given, strict=True) if name}
    members = np.bincount(families)
    empty = set(shares) - set(given)
    free = [family for family in range(len(members)) if family not in placed]
    if len(free) < len(empty):
        raise InputError(
            f"too few pieces to split: {len(families)} in {len(members)} families of related music; "
            f"give at least {len(shares)} unrelated ones, for {', '.join(shares)}"
        )
    order = np.array(free, np.int64)[np.random.default_rng(seed).permutation(len(free))]
    order = order[np.argsort(-members[order], kind="stable")]
    lacking = {name: share / sum(shares.values()) * members[order].sum() for name, share in shares.items()}
    for dealt, family in enumerate(order.tolist()):
        must_fill = len(order) - dealt <= len(empty)
        name = max((name for name in shares if name in empty or not must_fill), key=lacking.__getitem__)
        placed[family] = name
        lacking[name] -= members[family]
        empty.discard(name)
    return [own or placed[family] for own, family in zip(given, families.tolist(), strict=True)]


def in_company(families: Iterable[int]) -> int:
    """How many pieces have a relative among the others."""
    return sum(size for size in Counter(families).values() if size > 1)


def leaked(families: NDArray[np.integer], names: Sequence[str]) -> NDArray[np.bool_]:
    """(N,) Does a piece outside of the training split have a relative in it? Only given splits do that."""
    held_out = np.array([name != "train" for name in names], bool)
    return held_out & np.isin(families, families[~held_out])


def _overlapping(
    sizes: NDArray[np.int64], windows_of: Callable[[int], NDArray[np.uint64]]
) -> list[tuple[int, int]]:
    """The pairs of pieces that share more than half of the smaller one's windows.

    Windows are looked at in parts, by their hash, so that memory does not grow with the corpus.
    """
    parts = -(-int(sizes.sum()) // _WINDOWS_AT_ONCE)
    pairs, shared = np.empty(0, np.int64), np.empty(0, np.int64)
    for part in range(parts):
        found, counts = _pairs_in(part, parts, sizes, windows_of)
        pairs, place = np.unique(np.append(pairs, found), return_inverse=True)
        shared = np.bincount(place, np.append(shared, counts)).astype(np.int64)
    one, other = np.divmod(pairs, max(len(sizes), 1))
    related = 2 * shared > np.minimum(sizes[one], sizes[other])
    return list(zip(one[related].tolist(), other[related].tolist(), strict=True))


def _pairs_in(
    part: int, parts: int, sizes: NDArray[np.int64], windows_of: Callable[[int], NDArray[np.uint64]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of pieces, as one * N + other, with the number of windows that they share in one part."""
    chosen = [windows[windows % np.uint64(parts) == part] for windows in map(windows_of, range(len(sizes)))]
    owner = np.repeat(np.arange(len(sizes)), [len(windows) for windows in chosen])
    window = np.concatenate(chosen)
    order = np.argsort(window, kind="stable")  # and by owner, since they came in that order
    owner, window = owner[order], window[order]
    # The inverted index: owners of one window stand side by side, so pairs are shifts of the list.
    found = [np.empty(0, np.int64)]
    for shift in range(1, _NEAREST + 1):
        same = window[shift:] == window[:-shift]
        if not same.any():
            break
        found.append(owner[:-shift][same] * len(sizes) + owner[shift:][same])
    return np.unique(np.concatenate(found), return_counts=True)


def _mix(number: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele et al. 2014): every bit of the result depends on every bit."""
    number = (number ^ (number >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    number = (number ^ (number >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return number ^ (number >> np.uint64(31))


def _components(count: int, edges: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """The connected component of each of `count` nodes, numbered in order of first appearance."""
    one, other = np.array(edges, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)
