"""A corpus folder, or sources that are none yet, to an `Inspection`: what is in there, counted.

In: the words of the command line. Out: counts, and the first bars of a few pieces. Sources are read as
`midigen prepare` reads them by default; what it would refuse is listed here with the same words.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from midigen_jax.config import PrepareConfig
from midigen_jax.data import works
from midigen_jax.data.corpus import Corpus, CorpusPiece, load_corpus, load_groups
from midigen_jax.data.reading import Reading, nothing_read, read_all
from midigen_jax.data.split import with_relatives
from midigen_jax.errors import InputError
from midigen_jax.music import key as keys
from midigen_jax.music.census import Census, Counted, Inspection, Opening, Work
from midigen_jax.music.notes import Notes
from midigen_jax.music.read import read_piece
from midigen_jax.music.slices import to_notes
from midigen_jax.music.sources import Source, find_sources
from midigen_jax.progress import Progress
from midigen_jax.vocab import interim_vocabulary, slices_of, unknown_of

T = TypeVar("T")

_CONFIG = PrepareConfig()
_OPENINGS, _BARS = 6, 8  # how many beginnings are shown, and how long they are


def inspect(arguments: Sequence[str], limit: int) -> Inspection:
    """Look at one corpus folder, or at any number of sources: at `limit` pieces at most, evenly drawn.

    Raises InputError for what is not there, for a corpus among other things, and for sources of which
    nothing can be read.
    """
    corpora = [argument for argument in arguments if (Path(argument) / "manifest.json").is_file()]
    if corpora and len(arguments) > 1:
        raise InputError(f"{corpora[0]}: is a corpus; inspect it alone, or the sources without it")
    if corpora:
        return _of_corpus(corpora[0], limit)
    return _of_sources(arguments, limit)


def _of_sources(arguments: Sequence[str], limit: int) -> Inspection:
    sources = find_sources(arguments)
    drawn = _evenly(sources, limit)
    census, refused = Census(), {}
    read: list[tuple[Source, Reading]] = []
    with Progress("reading", len(drawn), "files") as progress:
        for source, reading in zip(drawn, read_all(drawn, _CONFIG, 1), strict=True):
            if reading.facts.refused:
                refused[source.name] = reading.facts.refused
            else:
                census.add(_count(source, reading))
                read.append((source, reading))
            progress.advance()
    if not read:
        raise nothing_read(arguments, *next(iter(refused.items())))
    return Inspection(
        arguments=tuple(arguments),
        there=len(sources),
        drawn=len(drawn),
        census=census,
        refused=refused,
        related=with_relatives(_groups([reading for _, reading in read])),
        openings=tuple(
            # Read once more, for the tracks: tokens have none.
            _open(
                source.name,
                _count(source, reading),
                read_piece(source, _CONFIG.quantizer).notes,
                reading.facts.frame > 0,
            )
            for source, reading in _evenly(read, _OPENINGS)
        ),
    )


def _of_corpus(argument: str, limit: int) -> Inspection:
    corpus = load_corpus(Path(argument))
    drawn = _evenly(corpus.pieces, limit)
    shown = {piece.start for piece in _evenly(drawn, _OPENINGS)}
    census = Census()
    openings: list[Opening] = []
    with Progress("decoding", len(drawn), "pieces") as progress:
        for piece in drawn:
            counted = _decode(corpus, piece)
            census.add(counted)
            if piece.start in shown:
                openings.append(_open(piece.source, counted, to_notes(counted.slices), piece.frame > 0))
            progress.advance()
    return Inspection(
        arguments=(argument,),
        there=len(corpus.pieces),
        drawn=len(drawn),
        census=census,
        refused=corpus.manifest["quarantine"],
        related=with_relatives(piece.group for piece in drawn),
        openings=tuple(openings),
        works=tuple(map(_work, load_groups(corpus.path))),
        manifest=corpus.manifest,
    )


def _count(source: Source, reading: Reading) -> Counted:
    """A piece as `midigen prepare` would write it by default."""
    facts = reading.facts
    return Counted(
        slices_of(interim_vocabulary(_CONFIG), reading.tokens),
        keys.parse_key(facts.key).key,
        facts.tempo,
        facts.meter,
        ticks=facts.ticks,
        events=len(reading.tokens),
        first_bar=facts.first_bar,
        split=source.split or "",
    )


def _decode(corpus: Corpus, piece: CorpusPiece) -> Counted:
    """A piece as the corpus holds it."""
    tokens = np.asarray(corpus.tokens[piece.start : piece.stop])
    return Counted(
        slices_of(corpus.vocabulary, tokens),
        keys.parse_key(piece.key).key,
        piece.tempo,
        piece.meter,
        ticks=piece.ticks,
        events=len(tokens),
        first_bar=piece.first_bar,
        split=piece.split,
        unknown=int(unknown_of(corpus.vocabulary.tables, tokens).sum()),
        clock=corpus.vocabulary.clock,
    )


def _work(group: Mapping[str, Any]) -> Work:
    """A line of `groups.jsonl`."""
    reasons = Counter(relation["why"] for relation in group["relations"])
    return Work(tuple(group["pieces"]), tuple(works.REASONS[why] for why, _ in reasons.most_common()))


def _open(name: str, piece: Counted, notes: Notes, frames: bool) -> Opening:
    """What begins in the first eight bars, and in the upbeat; only frames may begin with silence."""
    onset, duration, pitch, track = notes.T
    end = piece.first_bar + _BARS * piece.clock.bar(piece.meter)
    onset = onset if frames else onset - onset.min(initial=np.iinfo(np.int32).max)
    duration = np.minimum(duration, end - onset)
    begun = np.stack([onset, duration, pitch, track], 1)[onset < end]
    return Opening(name, piece.key, piece.tempo, piece.meter, begun, piece.first_bar, piece.clock)


def _evenly(items: Sequence[T], limit: int) -> list[T]:
    """`limit` of the items at most, at equal distances."""
    count = min(limit, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def _groups(readings: Sequence[Reading]) -> list[int]:
    marks = [reading.facts.marks for reading in readings]
    windows = [reading.windows for reading in readings]
    related = works.relations(marks, list(map(len, windows)), windows.__getitem__)
    return works.groups(len(readings), related).tolist()
