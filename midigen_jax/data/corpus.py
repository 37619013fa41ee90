"""The corpus folder: tokens of all pieces in one memory-mapped array, and what is known of each piece.

    tokens.npy      int32, events by streams; pieces one after another, each <start> … <end>
    pieces.jsonl    a line a piece: where it lies in tokens.npy, its split, source, key …
    vocab.json      the vocabulary
    manifest.json   the settings and their hash, counts, and what could not be read, with the reason
    groups.jsonl    a line a group of related pieces: its pieces, and what makes them one work
    rows.jsonl      what preparing measured

A folder is written beside its place and renamed, so a reader never sees half of one.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from midigen_jax import config as configs
from midigen_jax.config import PrepareConfig
from midigen_jax.data.works import Relation
from midigen_jax.errors import InputError
from midigen_jax.files import read_json, write_json
from midigen_jax.music.clock import Clock
from midigen_jax.music.notes import Notes
from midigen_jax.music.piece import SPLITS, Split
from midigen_jax.vocab import END, START, Tokens, Vocabulary, vocabulary_from_json

FORMAT = 3

HELD_OUT = SPLITS[1:]


@dataclass(frozen=True)
class CorpusPiece:
    """One piece: events `start` to `stop` of the corpus, and where they come from."""

    start: int
    stop: int
    split: Split
    source: str
    digest: str  # SHA-256 of the source's bytes
    group: int  # pieces of one group are one work, and in one split, unless a benchmark's split was given
    leaked: bool  # held out, but a relative of it is in the training split
    key: str  # as found in the source
    shift: int  # semitones from the source to the corpus
    tempo: float  # quarters a minute
    meter: tuple[int, int]
    first_bar: int  # ticks from the first event to the next bar line; bars of the meter go on from there
    program: int  # General MIDI, 0 to 127, of the most notes
    ticks: int  # length
    merged: int  # onsets that the grid puts on another's, though they were well apart
    has_beat: bool  # False: played without regard to the beats of its file, and noise on a grid
    frame: int  # ticks a frame, where the source has frames; else 0

    def bar_at(self, share: float, clock: Clock) -> int:
        """The bar in which this share of the piece is over; the first is 1, an upbeat's 0."""
        return (round(share * self.ticks) - self.first_bar) // clock.bar(self.meter) + 1


@dataclass(frozen=True, eq=False)
class Corpus:
    """An open corpus folder; `tokens` stays on disk until it is read."""

    path: Path
    tokens: Tokens
    pieces: tuple[CorpusPiece, ...]
    vocabulary: Vocabulary
    manifest: dict[str, Any]

    @property
    def config(self) -> PrepareConfig:
        """The settings that the corpus was prepared with."""
        return configs.from_json(PrepareConfig, self.manifest["config"])

    def split(self, name: Split) -> list[CorpusPiece]:
        """The pieces of one split, in corpus order."""
        return [piece for piece in self.pieces if piece.split == name]

    def notes(self, piece: CorpusPiece) -> Notes:
        """What the tokens of a piece say; a rest at its beginning stays."""
        return self.vocabulary.decode(self.tokens[piece.start : piece.stop], trim=False)


def seen_ids(corpus: Corpus, shifts: Iterable[int] = (0,)) -> dict[str, tuple[int, ...]]:
    """By stream, the ids that the training pieces have, moved by any of `shifts` semitones.

    `<start>`, `<end>` and what stands for what the vocabulary lacks are among them; a stream that has all of
    its ids is left out.
    """
    vocabulary, pieces = corpus.vocabulary, corpus.split("train")
    counts = [np.zeros(stream.size, np.int64) for stream in vocabulary.streams]
    for piece in pieces:
        tokens = corpus.tokens[piece.start : piece.stop]
        for place, count in enumerate(counts):
            count += np.bincount(tokens[:, place], minlength=len(count))
    found: dict[str, tuple[int, ...]] = {}
    for (name, table), count in zip(vocabulary.tables.items(), counts, strict=True):
        is_seen = (count > 0) | table.unknown
        if not found:
            is_seen[[START, END]] = True  # in the first stream
        here = np.flatnonzero(is_seen)
        if table.says_pitches:
            others = {other: np.zeros(1, np.int32) for other in vocabulary.tables}
            for id in here.tolist():
                moved = {**others, name: np.array([id], np.int32)}
                for shift in filter(None, shifts):
                    is_seen[vocabulary.transpose(moved, shift)[name]] = True
        found[name] = tuple(np.flatnonzero(is_seen).tolist())
    return {name: ids for name, ids in found.items() if len(ids) < len(vocabulary.tables[name].ticks)}


def write_tokens(path: Path, pieces: Iterable[Tokens], streams: int) -> list[int]:
    """Write `tokens.npy` into the folder `path`, piece by piece; returns how many events each has."""
    lengths = []
    with (path / "tokens.npy").open("wb") as file:
        _write_header(file, 0, streams)
        for piece in pieces:
            file.write(np.ascontiguousarray(piece, "<i4").tobytes())
            lengths.append(len(piece))
        file.seek(0)
        _write_header(file, sum(lengths), streams)
    return lengths


def _write_header(file: BinaryIO, events: int, streams: int) -> None:
    """Of the same number of bytes whatever `events` is: NumPy leaves room for it to grow."""
    header = {"descr": "<i4", "fortran_order": False, "shape": (events, streams)}
    np.lib.format.write_array_header_1_0(file, header)


def write_facts(
    path: Path, pieces: Iterable[CorpusPiece], vocabulary: Vocabulary, manifest: dict[str, Any]
) -> None:
    """Write all else into the folder `path`; the caller renames it into place."""
    with (path / "pieces.jsonl").open("w", encoding="utf-8") as file:
        for piece in pieces:
            file.write(json.dumps(vars(piece), ensure_ascii=False) + "\n")
    write_json(path / "vocab.json", vocabulary.to_json())
    write_json(path / "manifest.json", {"format": FORMAT} | manifest)


def write_groups(
    path: Path, pieces: Sequence[CorpusPiece], relations: Iterable[Relation], clock: Clock
) -> None:
    """Write `groups.jsonl` into the folder `path`: each group of related pieces, and why they are."""
    of_group: dict[int, list[dict[str, Any]]] = {}
    for one, other, why, share, *spans in relations:
        told: dict[str, Any] = {"one": pieces[one].source, "other": pieces[other].source, "why": why}
        if why == "music":
            told["share"] = share
            for name, number, span in zip(("one", "other"), (one, other), spans, strict=True):
                told[f"{name}_bars"] = [pieces[number].bar_at(place, clock) for place in span]
        of_group.setdefault(pieces[one].group, []).append(told)
    members: dict[int, list[str]] = {group: [] for group in of_group}
    for piece in pieces:
        if piece.group in members:
            members[piece.group].append(piece.source)
    with (path / "groups.jsonl").open("w", encoding="utf-8") as file:
        for group, told_of in sorted(of_group.items()):
            line = {"group": group, "pieces": members[group], "relations": told_of}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def load_groups(path: Path) -> list[dict[str, Any]]:
    """The groups of related pieces of the corpus at `path`, as `write_groups` wrote them."""
    try:
        with (path / "groups.jsonl").open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: damaged corpus ({error}); prepare it again") from None


def load_corpus(path: Path) -> Corpus:
    """Open the corpus folder at `path`.

    Raises InputError when it is not there, is no corpus, or was written in another format.
    """
    if not (path / "manifest.json").is_file():
        raise InputError(f"{path}: no corpus there; `midigen prepare SOURCE --out CORPUS` makes one")
    manifest = read_json(path / "manifest.json", "prepare it again")
    if manifest.get("format") != FORMAT:
        raise InputError(
            f"{path}: written in corpus format {manifest.get('format')}, this version reads {FORMAT}; "
            "prepare it again"
        )
    try:
        tokens = np.load(path / "tokens.npy", mmap_mode="r", allow_pickle=False)
        with (path / "pieces.jsonl").open(encoding="utf-8") as file:
            parsed = [json.loads(line) for line in file]
        pieces = tuple(CorpusPiece(**piece | {"meter": tuple(piece["meter"])}) for piece in parsed)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: damaged corpus ({error}); prepare it again") from None
    vocabulary = vocabulary_from_json(read_json(path / "vocab.json", "prepare it again"))
    return Corpus(path, tokens, pieces, vocabulary, manifest)
