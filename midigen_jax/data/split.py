"""Which pieces are kept out of training: whole families of related pieces go to one split.

In: the slices of every piece and the digests of their files. Out: a family number and a split for each.
Collections hold the same music under several names, in several keys and in several editions; a piece
whose twin was trained on says nothing about what a model has learned.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from midigen_jax.errors import InputError
from midigen_jax.music.slices import Slices

WINDOW = 16
"""Intervals in a window of the top line: long enough that two pieces rarely share one by chance."""

_NEAREST = 32
"""Pieces that each piece is compared with through one window: bounds the work that a commonplace makes."""


def families(pieces: Sequence[Slices], digests: Sequence[str]) -> NDArray[np.int64]:
    """A family number for each piece, from 0 in order of first appearance.

    Two pieces are of one family when their digests are equal, when their slices are equal up to
    transposition, or when they share more than half of the `WINDOW`-interval windows of their top lines
    (of the smaller one's, compared as sets). Where more than `_NEAREST` pieces have a window in common, it
    counts only between pieces that stand near each other in that list, which still chains copies together.
    """
    first: dict[str | tuple[bytes, ...], int] = {}
    alike = [
        (number, first.setdefault(mark, number))
        for number, (piece, digest) in enumerate(zip(pieces, digests, strict=True))
        for mark in (digest, _shape(piece))
    ]
    return _components(len(pieces), [*alike, *_overlapping(pieces)])


def split(families: NDArray[np.integer], shares: Mapping[str, float], seed: int) -> list[str]:
    """The name of each piece's split; `shares` maps names to the parts of the pieces that they want.

    Families are dealt in random order, larger ones first, each to the split that lacks most pieces, so
    that the shares come out as nearly as whole families allow. No split is left empty: raises InputError
    when there are fewer families than splits.
    """
    members = np.bincount(families)
    if len(members) < len(shares):
        raise InputError(
            f"too few pieces to split: {len(families)} in {len(members)} families of related music; "
            f"give at least {len(shares)} unrelated ones, for {', '.join(shares)}"
        )
    order = np.random.default_rng(seed).permutation(len(members))
    order = order[np.argsort(-members[order], kind="stable")]
    lacking = {name: share / sum(shares.values()) * len(families) for name, share in shares.items()}
    empty = set(shares)
    placed = {}
    for dealt, family in enumerate(order):
        must_fill = len(order) - dealt <= len(empty)
        name = max((name for name in shares if name in empty or not must_fill), key=lacking.__getitem__)
        placed[family] = name
        lacking[name] -= members[family]
        empty.discard(name)
    return [placed[family] for family in families]


def _shape(piece: Slices) -> tuple[bytes, ...]:
    """Equal for two pieces exactly when their slices are equal up to transposition."""
    relative = piece.pitch - piece.pitch.min(initial=128)
    return tuple(array.tobytes() for array in (piece.duration, piece.start, relative, piece.attacked))


def top_windows(piece: Slices) -> NDArray[np.void]:
    """The set of `WINDOW` successive intervals of the top line, each window as so many bytes.

    The top line is the highest pitch of each slice, where that pitch is struck and not held.
    """
    last = piece.start[1:][np.diff(piece.start) > 0] - 1
    intervals = np.diff(piece.pitch[last[piece.attacked[last]]]).astype(np.int8)
    if len(intervals) < WINDOW:
        return np.empty(0, f"V{WINDOW}")
    windows = np.lib.stride_tricks.sliding_window_view(intervals, WINDOW)
    return np.unique(np.ascontiguousarray(windows).view(f"V{WINDOW}"))


def _overlapping(pieces: Sequence[Slices]) -> list[tuple[int, int]]:
    """The pairs of pieces that share more than half of the smaller one's windows."""
    sets = [top_windows(piece) for piece in pieces]
    sizes = np.array([len(windows) for windows in sets], dtype=np.int64)
    if sizes.sum() == 0:
        return []
    owner = np.repeat(np.arange(len(pieces)), sizes)
    _, window = np.unique(np.concatenate(sets), return_inverse=True)
    order = np.lexsort((owner, window))
    owner, window = owner[order], window[order]
    # The inverted index: owners of one window stand side by side, so pairs are shifts of the list.
    found = []
    for shift in range(1, _NEAREST + 1):
        same = window[shift:] == window[:-shift]
        if not same.any():
            break
        found.append(owner[:-shift][same] * len(pieces) + owner[shift:][same])
    if not found:
        return []
    pairs, shared = np.unique(np.concatenate(found), return_counts=True)
    one, other = np.divmod(pairs, len(pieces))
    related = 2 * shared > np.minimum(sizes[one], sizes[other])
    return list(zip(one[related].tolist(), other[related].tolist(), strict=True))


def _components(count: int, edges: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    """The connected component of each of `count` nodes, numbered in order of first appearance: union-find."""
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for one, other in edges:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return np.unique([root(node) for node in range(count)], return_inverse=True)[1].astype(np.int64)
