"""What a corpus holds out although it is trained on: pieces whose relatives are in the training split.

In: a corpus, whose splits may have been given. Out: lines that say which pieces, what they share, and where.
A split that `prepare` drew has none.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from midigen_jax.data.corpus import HELD_OUT, CorpusPiece, load_corpus, load_groups
from midigen_jax.data.works import REASONS


def describe_leaks(folder: Path) -> Iterator[str]:
    """The leaks of the corpus in a folder: a line a split, then one for each held-out piece.

    Raises InputError when there is no corpus, or it is damaged.
    """
    corpus = load_corpus(folder)
    pieces = {piece.source: piece for piece in corpus.pieces}
    for split in HELD_OUT:
        held_out = corpus.split(split)
        leaked = sum(piece.leaked for piece in held_out)
        yield f"{split}: {leaked} of {len(held_out)} pieces share music with the training split"
    reasons: Counter[str] = Counter()
    lines: list[str] = []
    for group in load_groups(folder):
        for name in group["pieces"]:
            if pieces[name].leaked:
                reason, line = _leak(pieces[name], group, pieces)
                reasons[reason] += 1
                lines.append(line)
    yield from (f"  {count} by {reason}" for reason, count in reasons.most_common())
    yield from lines


def _leak(piece: CorpusPiece, group: dict[str, Any], pieces: dict[str, CorpusPiece]) -> tuple[str, str]:
    """Why a held-out piece is a leak, in a word and in a line: its nearest relative in the training split."""
    near = [
        relation
        for relation in group["relations"]
        for other in [_other(relation, piece.source)]
        if other is not None and pieces[other].split == "train"
    ]
    if not near:
        trained = next(name for name in group["pieces"] if pieces[name].split == "train")
        return "relatives of relatives", f"{piece.source}: with {trained}, through others of its group"
    nearest = max(near, key=lambda relation: relation.get("share", 1.0))
    other = _other(nearest, piece.source)
    if nearest["why"] != "music":
        return REASONS[nearest["why"]], f"{piece.source}: with {other}: {REASONS[nearest['why']]}"
    ours, theirs = ("one", "other") if nearest["one"] == piece.source else ("other", "one")
    bars = [f"bars {nearest[f'{side}_bars'][0]} to {nearest[f'{side}_bars'][1]}" for side in (ours, theirs)]
    shared = f"{100 * nearest['share']:.0f} % of the smaller one's lines"
    more = f", and {len(near) - 1} more" if len(near) > 1 else ""
    reason = "half or more of their lines" if nearest["share"] >= 0.5 else "less than half of their lines"
    return reason, f"{piece.source}, {bars[0]}: with {other}, {bars[1]}: {shared}{more}"


def _other(relation: dict[str, Any], name: str) -> str | None:
    """The piece that this relation says to be one with the named one."""
    sides: list[str] = [relation["one"], relation["other"]]
    return sides[1 - sides.index(name)] if name in sides else None
