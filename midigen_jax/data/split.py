"""Which pieces are kept out of training: whole groups of related pieces go to one split.

In: the group of every piece, as `works` finds it. Out: a split for each.
Collections hold the same music under several names, in several keys and in several editions; a piece
whose twin was trained on says nothing about what a model has learned.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from midigen_jax.errors import InputError


def split(
    groups: NDArray[np.integer],
    shares: Mapping[str, float],
    seed: int,
    given: Sequence[str | None] | None = None,
) -> list[str]:
    """The name of each piece's split; `shares` maps names to the parts of the pieces that they want.

    Groups are dealt in random order, larger ones first, each to the split that lacks most pieces, so
    that the shares come out as nearly as whole groups allow. A piece whose split is `given` (a
    benchmark's) stays there, and takes those of its group with it that have none. No split is left empty:
    raises InputError when there are fewer groups than splits.
    """
    given = given or [None] * len(groups)
    placed: dict[int, str] = {}
    for group, own in zip(groups.tolist(), given, strict=True):
        # What has relatives in training goes there too, whatever others of its group are held out for.
        if own and (group not in placed or own == next(iter(shares))):
            placed[group] = own
    members = np.bincount(groups)
    empty = set(shares) - set(given)
    free = [group for group in range(len(members)) if group not in placed]
    if len(free) < len(empty):
        raise InputError(
            f"too few pieces to split: {len(groups)} in {len(members)} groups of related music; "
            f"give at least {len(shares)} unrelated ones, for {', '.join(shares)}, or train on all of them: "
            "--valid-share 0 --test-share 0"
        )
    order = np.array(free, np.int64)[np.random.default_rng(seed).permutation(len(free))]
    order = order[np.argsort(-members[order], kind="stable")]
    lacking = {name: share / sum(shares.values()) * members[order].sum() for name, share in shares.items()}
    for dealt, group in enumerate(order.tolist()):
        must_fill = len(order) - dealt <= len(empty)
        name = max((name for name in shares if name in empty or not must_fill), key=lacking.__getitem__)
        placed[group] = name
        lacking[name] -= members[group]
        empty.discard(name)
    return [own or placed[group] for own, group in zip(given, groups.tolist(), strict=True)]


def with_relatives(groups: Iterable[int]) -> int:
    """How many pieces have a relative among the others."""
    return sum(size for size in Counter(groups).values() if size > 1)


def leaked(groups: NDArray[np.integer], names: Sequence[str]) -> NDArray[np.bool_]:
    """(N,) Does a piece outside of the training split have a relative in it? Only given splits do that."""
    held_out = np.array([name != "train" for name in names], bool)
    return held_out & np.isin(groups, groups[~held_out])
