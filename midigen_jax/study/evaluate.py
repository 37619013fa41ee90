"""A run, or what needs no network, on whole pieces of a split: exact nats, rows, and a table of them.

In: a checkpoint and a corpus. Out: what each model gave to each piece, and from that rows and lines of text,
in which every model stands beside the baselines.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from midigen_jax import rows
from midigen_jax.data.corpus import Corpus, CorpusPiece
from midigen_jax.errors import InputError
from midigen_jax.music.piece import Split
from midigen_jax.progress import Progress
from midigen_jax.study import baselines
from midigen_jax.study.likelihood import (
    Figure,
    Head,
    PieceNats,
    Unit,
    figures,
    parts_of,
    pick,
    tally,
    units_of,
)
from midigen_jax.train.experiment import Restored
from midigen_jax.train.scoring import Scorer


class Evaluated(NamedTuple):
    """One model on the pieces of a split, in corpus order, and its figures for each part of them."""

    model: str
    pieces: list[PieceNats]
    parts: dict[str, list[Figure]]


def evaluate(restored: Restored, corpus: Corpus, split: Split, name: str) -> Evaluated:
    """What a checkpoint gives to each piece, the state carried from its first event to its last.

    Raises InputError for a corpus whose ids mean something else than the run's, and for an empty split.
    """
    if corpus.tokenizer != restored.experiment.tokenizer:
        raise InputError(
            f"{corpus.path}: its ids are not those of the run; give the run's own corpus, or, with note "
            "tokens, prepare this one with the run's --max-duration"
        )
    pieces = pieces_of(corpus, split)
    scorer = Scorer(restored.network, corpus, pieces)
    found: dict[int, PieceNats] = {}
    with Progress(name, len(pieces), "pieces") as progress:
        for number, nats_E2 in scorer(restored.weights):
            found[number] = tally(corpus, pieces[number], nats_E2)
            progress.advance()
    return _evaluated(name, [found[number] for number in range(len(pieces))])


def evaluate_baselines(corpus: Corpus, split: Split) -> Iterator[Evaluated]:
    """The same of each model that needs no network."""
    pieces = pieces_of(corpus, split)
    for baseline in baselines.baselines(corpus):
        scores = baselines.score(baseline, corpus, pieces)
        tallied = [tally(corpus, piece, nats_E2) for piece, nats_E2 in zip(pieces, scores, strict=True)]
        yield _evaluated(baseline.name, tallied)


def _evaluated(model: str, pieces: list[PieceNats]) -> Evaluated:
    return Evaluated(model, pieces, {part: figures(there) for part, there in parts_of(pieces).items()})


def pieces_of(corpus: Corpus, split: Split) -> list[CorpusPiece]:
    """The pieces of a split. Raises InputError where there is none."""
    pieces = corpus.split(split)
    if not pieces:
        raise InputError(f"{corpus.path}: no piece in the {split} split; give another --split")
    return pieces


def rows_of(evaluated: Evaluated, settings: dict[str, Any], **fields: Any) -> list[rows.Row]:
    """A row for each figure of each part: all pieces, those that share music with training, the others."""
    found = []
    for part, of_part in evaluated.parts.items():
        for figure in of_part:
            about = {"weight": figure.weight, "head": figure.head, "end": figure.end, "part": part}
            config = settings | {"model": evaluated.model} | about
            name = f"evaluate.nats_per_{figure.unit}"
            interval = {"low": figure.low, "high": figure.high, "pieces": figure.pieces}
            found.append(rows.make(name, figure.value, "nats", config=config, **interval, **fields))
    return found


def sizes(evaluated: Evaluated) -> str:
    """How much was read, in words."""
    pieces = evaluated.pieces
    totals = [(unit, sum(getattr(piece, unit) for piece in pieces)) for unit in units_of(pieces)]
    return ", ".join([f"{len(pieces):,} pieces", *(f"{total:,.0f} {unit}s" for unit, total in totals)])


def table(models: Sequence[Evaluated]) -> list[str]:
    """Lines of text: a model a line, in nats per each unit; then its parts. The first model comes first."""
    units = units_of(models[0].pieces)
    main: Unit = units[-1] if units[-1] == "frame" else "quarter"
    order = (main, *(unit for unit in units if unit != main))
    lines = [("nats per", *order, f"{main}, <end> too", f"{main}, mean of pieces")]
    for evaluated in models:
        for part, of_part in evaluated.parts.items():
            label = evaluated.model if part == "all" else f"  {part} ({of_part[0].pieces} pieces)"
            lines.append((label, *_cells(of_part, order)))
        heads: tuple[Head, ...] = "pitch", "duration"
        lines += [(f"  {head}", _cell(pick(evaluated.parts["all"], main, head=head))) for head in heads]
    widths = [max(len(line[place]) for line in lines if place < len(line)) for place in range(len(lines[0]))]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=False)] for line in lines)
    return ["  ".join(cells).rstrip() for cells in padded]


def _cells(found: Sequence[Figure], order: Sequence[Unit]) -> Iterator[str]:
    main = order[0]
    yield _cell(pick(found, main))
    others = (*(pick(found, unit) for unit in order[1:]), pick(found, main, end=True))
    for figure in (*others, pick(found, main, "pieces")):
        yield f"{figure.value:.4f}"


def _cell(figure: Figure) -> str:
    return f"{figure.value:.4f} [{figure.low:.3f}, {figure.high:.3f}]"
