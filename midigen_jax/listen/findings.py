"""What was found, in words: for a terminal and for a page alike.

In: an `Inspection`. Out: lines, and tables of (label, text).
"""

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from midigen_jax.errors import kind_of
from midigen_jax.listen.tables import aligned, many
from midigen_jax.music.census import Inspection, Work, ranked
from midigen_jax.music.notes import pitch_name
from midigen_jax.music.piece import SPLITS

_NAMED = 200  # refused files of one kind that are listed by name
_COMMON = 8  # chords that a table names
_WORKS = 3  # of related pieces, that are named
_KINDS = 3  # of refusals, that one line has room for


class Refusal(NamedTuple):
    """Files that could not be read for one kind of reason."""

    kind: str
    times: int
    files: tuple[tuple[str, str], ...]
    """(name, the whole reason); where there are very many, the first ones"""


def describe(found: Inspection) -> Iterator[str]:
    """What was found, as lines of a terminal."""
    yield title(found)
    table = figures(found)
    if splits := by_split(found):
        heads = splits[0][1:]
        table += [
            (name, " · ".join(f"{value} {head}" for value, head in zip(values, heads, strict=True)))
            for name, *values in splits[1:]
        ]
    yield from aligned(table)
    yield from notices(found)


def title(found: Inspection) -> str:
    """The name of what was looked at."""
    first, *others = (Path(argument).resolve().name for argument in found.arguments)
    return first if not others else f"{first} and {len(others)} more"


def lead(found: Inspection) -> list[str]:
    """The figures that stand above all."""
    whole = found.census.whole
    shown = [many(whole.pieces, "piece"), f"{_hours(whole.minutes)} of music", many(whole.notes, "note")]
    return [*shown, f"{many(len(found.refused), 'file')} refused"] if found.refused else shown


def figures(found: Inspection) -> list[tuple[str, str]]:
    """The main figures, as (label, text)."""
    census, whole = found.census, found.census.whole
    used = np.flatnonzero(census.pitch).tolist()
    return [
        ("pieces", f"{whole.pieces:,}"),
        ("refused", _refused(found)),
        ("music", _hours(whole.minutes)),
        (
            "median piece",
            f"{_clock(median(census.minutes))} minutes; the longest {_clock(max(census.minutes))}",
        ),
        ("notes", f"{whole.notes:,}, from {pitch_name(used[0])} to {pitch_name(used[-1])}" if used else "0"),
        ("slices", f"{whole.slices:,}"),
        ("chord symbols", f"{len(whole.chords):,}"),
        ("unseen chords", _unseen(found)),
        ("events", f"{whole.events:,}, as the {_tokenizer(found)} tokenizer writes them"),
        ("sharing music", f"{many(found.related, 'piece')} with another one"),
    ]


def by_split(found: Inspection) -> list[tuple[str, ...]]:
    """A line for each split under a line of headings; nothing where nothing is split."""
    parts = [(name, found.census.parts[name]) for name in SPLITS if name in found.census.parts]
    if not parts:
        return []
    return [
        ("split", "pieces", "events", "notes", "slices", "hours"),
        *(
            (
                name,
                *(f"{count:,}" for count in (part.pieces, part.events, part.notes, part.slices)),
                f"{part.minutes / 60:.2f}",
            )
            for name, part in parts
        ),
    ]


def commonest(found: Inspection) -> list[tuple[str, str]]:
    """The most frequent chord symbols, as (pitches, share of the slices that sound and how many)."""
    whole = found.census.whole
    sounding = whole.chords.total() + whole.unknown
    return [
        (".".join(map(pitch_name, chord)), f"{100 * count / sounding:.2f} % ({count:,})")
        for chord, count in ranked(whole.chords)[:_COMMON]
    ]


def notices(found: Inspection) -> list[str]:
    """What must be known to read the figures rightly."""
    said = []
    if found.drawn < found.there:
        said.append(
            f"Of {found.there:,} {'pieces' if found.manifest else 'files'} {found.drawn:,} were looked at, "
            "evenly drawn, and all figures are of these; --limit takes more."
        )
    if found.works:
        largest = sorted(found.works, key=lambda work: -len(work.pieces))[:_WORKS]
        said.append(
            f"{many(len(found.works), 'group')} of pieces that are one work; the largest: "
            f"{'; '.join(map(_work, largest))}. {Path(found.arguments[0]) / 'groups.jsonl'} has all, with "
            "what they share and where."
        )
    config = found.manifest.get("config", {})
    if config.get("transpose", "none") != "none":
        said.append(
            f"The corpus was transposed to {config['transpose']}: keys are those of the sources, pitches and "
            "chords those of the corpus."
        )
    summary = found.manifest.get("summary", {})
    if "held" in summary.get("drops", ()):
        said.append(
            f"A corpus of {_tokenizer(found)} events strikes every pitch again in every slice, and so its "
            "notes are counted here."
        )
    if "unknown_share" in summary:
        said.append(
            f"{found.census.whole.unknown:,} of its events are not in its vocabulary: they are silence here."
        )
    return said


def _work(work: Work) -> str:
    """How many pieces, which, and why."""
    first, second, *others = work.pieces
    why = " and ".join(work.why)
    return f"{2 + len(others)} pieces ({first}, {second}{', …' if others else ''}: {why})"


def refusals(found: Inspection) -> list[Refusal]:
    """What could not be read, by kind of reason, the most frequent first."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for name, reason in found.refused.items():
        kinds.setdefault(kind_of(reason), []).append((name, reason))
    ranked = sorted(kinds.items(), key=lambda item: -len(item[1]))
    return [Refusal(kind, len(files), tuple(files[:_NAMED])) for kind, files in ranked]


def _refused(found: Inspection) -> str:
    if not found.refused:
        return "no file"
    kinds = [f"{refusal.times:,} × {refusal.kind}" for refusal in refusals(found)]
    more = f"; and {many(len(kinds) - _KINDS, 'other reason')}" if len(kinds) > _KINDS else ""
    return f"{many(len(found.refused), 'file')}: {', '.join(kinds[:_KINDS])}{more}"


def _unseen(found: Inspection) -> str:
    share = f"{100 * found.census.unseen_share:.1f} %"
    if found.census.held_out.pieces:
        return f"{share} of the held-out slices"
    return f"{share} of the slices, if their piece were held out"


def _tokenizer(found: Inspection) -> str:
    return found.manifest["config"]["tokenizer"] if found.manifest else "note"


def _hours(minutes: float) -> str:
    return f"{minutes / 60:.2f} hours" if minutes >= 60 else f"{minutes:.1f} minutes"


def _clock(minutes: float) -> str:
    seconds = round(60 * minutes)
    return f"{seconds // 60}:{seconds % 60:02d}"
