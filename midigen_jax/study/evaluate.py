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
from midigen_jax.study.metrics import (
    METRICS,
    Figure,
    PieceScores,
    event_scores,
    figures,
    measure,
    parts_of,
    pick,
)
from midigen_jax.train.checkpoint import LoadedModel
from midigen_jax.train.scoring import Scorer


class Evaluated(NamedTuple):
    """One model on the pieces of a split, in corpus order, and its figures for each part of them."""

    model: str
    pieces: list[PieceScores]
    parts: dict[str, list[Figure]]


def evaluate(restored: LoadedModel, corpus: Corpus, split: Split, name: str) -> Evaluated:
    """What a checkpoint gives to each piece, the state carried from its first event to its last.

    Raises InputError for a corpus whose ids mean something else than the run's, and for an empty split.
    """
    if corpus.vocabulary != restored.metadata.vocabulary:
        raise InputError(
            f"{corpus.path}: its ids are not those of the run; give the run's own corpus, or, with note "
            "tokens, prepare this one with the run's --max-duration"
        )
    pieces = pieces_of(corpus, split)
    scorer = Scorer(restored.network, corpus, pieces, bars=restored.metadata.knows_bar_lines)
    found: dict[int, PieceScores] = {}
    with Progress(name, len(pieces), "pieces") as progress:
        for number, said in scorer(restored.params):
            found[number] = measure(event_scores(corpus, pieces[number], *said))
            progress.advance()
    return _evaluated(name, [found[number] for number in range(len(pieces))])


def evaluate_baselines(corpus: Corpus, split: Split) -> Iterator[Evaluated]:
    """The same of each model that needs no network."""
    pieces = pieces_of(corpus, split)
    for name, baseline in baselines.baselines(corpus).items():
        pairs = zip(pieces, baselines.score(name, baseline, corpus, pieces), strict=True)
        yield _evaluated(name, [measure(event_scores(corpus, piece, nats)) for piece, nats in pairs])


def _evaluated(model: str, pieces: list[PieceScores]) -> Evaluated:
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
            end = figure.part == "end"
            head = "both" if end or not figure.part else figure.part
            about = {"weight": figure.weight, "head": head, "end": end, "part": part}
            config = settings | {"model": evaluated.model} | about
            unit = METRICS[figure.metric].unit.partition("/")[0]
            interval = {"low": figure.low, "high": figure.high, "pieces": figure.pieces}
            name = f"evaluate.{figure.metric}"
            found.append(rows.make(name, figure.value, unit, config=config, **interval, **fields))
    return found


def sizes(evaluated: Evaluated) -> str:
    """How much was read, in words."""
    totals = [
        (name.removeprefix("nats_per_"), sum(piece.ratios[name][1] for piece in evaluated.pieces))
        for name in _units(evaluated.parts["all"])
    ]
    words = (f"{total:,.0f} {unit}s" for unit, total in totals)
    return ", ".join([f"{len(evaluated.pieces):,} pieces", *words])


def table(models: Sequence[Evaluated]) -> list[str]:
    """Lines of text: a model a line, in nats per each unit; then its parts, and its other metrics.

    The first model comes first.
    """
    units = _units(models[0].parts["all"])
    main = units[-1] if units[-1] == "nats_per_frame" else "nats_per_quarter"
    order = (main, *(unit for unit in units if unit != main))
    words = [unit.removeprefix("nats_per_") for unit in order]
    lines: list[tuple[str, ...]] = [
        ("nats per", *words, f"{words[0]}, <end> too", f"{words[0]}, mean of pieces")
    ]
    for evaluated in models:
        for part, of_part in evaluated.parts.items():
            label = evaluated.model if part == "all" else f"  {part} ({of_part[0].pieces} pieces)"
            lines.append((label, *_cells(of_part, order)))
        for figure in evaluated.parts["all"]:
            if figure.weight == "pieces" or figure.part == "end":
                continue
            if figure.metric == main and figure.part:
                lines.append((f"  {figure.part}", _cell(figure)))
            elif figure.metric not in units:
                label = f"  {figure.metric} {figure.part}".replace("_", " ").rstrip()
                lines.append((label, _cell(figure)))
    widths = [max(len(line[place]) for line in lines if place < len(line)) for place in range(len(lines[0]))]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=False)] for line in lines)
    return ["  ".join(cells).rstrip() for cells in padded]


def _units(found: Sequence[Figure]) -> list[str]:
    """The metrics that are nats per something which all pieces have."""
    return list(dict.fromkeys(f.metric for f in found if f.metric.startswith("nats_per_")))


def _cells(found: Sequence[Figure], order: Sequence[str]) -> Iterator[str]:
    main = order[0]
    yield _cell(pick(found, main))
    for figure in (
        *(pick(found, unit) for unit in order[1:]),
        pick(found, main, "end"),
        pick(found, main, weight="pieces"),
    ):
        yield f"{figure.value:.4f}"


def _cell(figure: Figure) -> str:
    return f"{figure.value:.4f} [{figure.low:.3f}, {figure.high:.3f}]"
