"""The pieces of a page: kept for a while, cut, told note by note, and made into files.

In: pieces that were written or dropped in. Out: what the page draws and plays, and files to keep. All is in
memory, and there is no more of it than a number of pieces.
"""

import secrets
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from midigen_jax.config import SampleConfig
from midigen_jax.errors import InputError
from midigen_jax.listen.notation import engrave
from midigen_jax.music import sandbox
from midigen_jax.music.notes import Notes
from midigen_jax.music.notes import until as notes_until
from midigen_jax.music.piece import Piece
from midigen_jax.sample.formats import write_piece
from midigen_jax.sample.generate import Task, first_bar_of, moved, music_of, names_of
from midigen_jax.train.checkpoint import LoadedModel
from midigen_jax.vocab import Tokens, closes_of, length_of

MOST_PIECES = 64
MOST_NOTES = 20_000  # of a file that is dropped in: an hour of piano, and what a page can draw
_LONGEST_SOUND = 1800  # seconds of an MP3: it is made in memory

_Note = tuple[int, int, int]  # onset, pitch, track


class Pieces:
    """The last pieces, by names that nobody guesses; who asks for an older one is told."""

    def __init__(self, most: int = MOST_PIECES):
        self._most, self._kept = most, OrderedDict[str, Piece]()
        self._lock = threading.Lock()  # files are made in threads

    def add(self, piece: Piece) -> str:
        """Keep a piece; its name."""
        name = secrets.token_urlsafe(9)
        self.put(name, piece)
        return name

    def put(self, name: str, piece: Piece) -> None:
        """Keep a piece under a name that `add` gave."""
        with self._lock:
            self._kept[name] = piece
            self._kept.move_to_end(name)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)

    def get(self, name: object) -> Piece:
        """The piece of that name. Raises InputError where there is none, or none any more."""
        with self._lock:
            if not isinstance(name, str) or name not in self._kept:
                raise InputError(f"no such piece: the last {self._most} are kept; write or drop it again")
            self._kept.move_to_end(name)
            return self._kept[name]


class Growing:
    """A piece that is being written: what was heard of it, and what of that is new."""

    def __init__(self, loaded: LoadedModel, task: Task, config: SampleConfig):
        self._loaded, self.task, self._config = loaded, task, config
        self._tokens: list[Tokens] = []
        self._told: dict[_Note, int] = {}
        self.piece = Piece(
            np.zeros((0, 4), np.int32) if task.given is None else task.given,
            task.tempo,
            task.meter,
            program=task.program,
            first_bar=first_bar_of(task, config),
            clock=loaded.metadata.vocabulary.clock,
            voiced=len(names_of(loaded.metadata.vocabulary)),
        )

    def add(self, tokens: Sequence[Tokens]) -> tuple[list[list[int]], int]:
        """What is new with some events more: notes, and the tick up to which nothing is missing.

        A note is onset, duration, pitch, track; one that is told again sounds on longer than was known.
        """
        vocabulary = self._loaded.metadata.vocabulary
        self._tokens += tokens
        written = np.concatenate(self._tokens)
        closed = np.flatnonzero(closes_of(vocabulary.tables, written))
        whole = written[: closed[-1] + 1 if len(closed) else 0]  # a slice is heard when all of it is there
        notes = music_of(self._loaded, self.task, self._config, whole)
        self.piece = replace(self.piece, notes=notes)
        heard = min(length_of(vocabulary, whole), self.task.ticks)
        if self.task.given is not None:
            heard += self.task.onset + length_of(vocabulary, self.task.prompt)
        return self._new(notes), heard

    def _new(self, notes: Notes) -> list[list[int]]:
        found = []
        for onset, duration, pitch, track in notes.tolist():
            if self._told.get((onset, pitch, track)) != duration:
                self._told[onset, pitch, track] = duration
                found.append([onset, duration, pitch, track])
        return found


def about(piece: Piece) -> dict[str, Any]:
    """What a page has to know of a piece besides its notes, as JSON; times in ticks."""
    clock, meter = piece.clock, piece.meter
    return {
        "quarter": clock.quarter,
        "beat": clock.beat(meter),
        "bar": clock.bar(meter),
        "firstBar": piece.first_bar,
        "meter": list(meter),
        "tempo": round(piece.tempo, 2),
    }


def until(piece: Piece, tick: int) -> Piece | None:
    """What of a piece sounds before a tick; None where nothing does."""
    kept = notes_until(piece.notes, tick)
    return replace(piece, notes=kept) if len(kept) else None


def melody_of(piece: Piece) -> Piece:
    """The highest track, by its mean pitch; a piece of one track is its own."""
    tracks = np.unique(piece.notes[:, 3])
    means = [piece.notes[piece.notes[:, 3] == track, 2].mean() for track in tracks]
    return replace(piece, notes=piece.notes[piece.notes[:, 3] == tracks[int(np.argmax(means))]])


def heard(piece: Piece, semitones: int, tempo: float | None) -> Piece:
    """A piece as it is to be heard: so much higher, and so fast. Raises InputError beyond MIDI's pitches."""
    there = moved(piece.notes, semitones)
    signature = piece.signature if not semitones else None
    return replace(piece, notes=there, tempo=piece.tempo if tempo is None else tempo, signature=signature)


class File(NamedTuple):
    """A kind of file that a piece can be had as, with the names of its voices."""

    media: str
    make: Callable[[Piece, Sequence[str]], bytes]


def _written(piece: Piece, names: Sequence[str], suffix: str) -> bytes:
    """A piece as a file that ends so."""
    with tempfile.TemporaryDirectory(prefix="midigen-") as folder:
        path = Path(folder) / f"piece{suffix}"
        write_piece(piece, path, names)
        return path.read_bytes()


def _mp3(piece: Piece, names: Sequence[str]) -> bytes:
    seconds = piece.clock.seconds(int((piece.notes[:, 0] + piece.notes[:, 1]).max()), piece.tempo)
    if seconds > _LONGEST_SOUND:
        limit = f"{_LONGEST_SOUND // 60} minutes"
        raise InputError(
            f"the piece lasts {seconds / 60:.0f} minutes; an MP3 may have {limit}: save it as MIDI"
        )
    return _written(piece, names, ".mp3")


def _svg(piece: Piece, names: Sequence[str]) -> bytes:
    return sandbox.call(engrave, _written(piece, names, ".musicxml").decode()).encode()


FILES = {
    "mid": File("audio/midi", partial(_written, suffix=".mid")),
    "musicxml": File("application/vnd.recordare.musicxml+xml", partial(_written, suffix=".musicxml")),
    "mp3": File("audio/mpeg", _mp3),
    "svg": File("image/svg+xml", _svg),
}
"""what a piece can be had as, by what the name of the file ends in"""
