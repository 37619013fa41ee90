"""What a side is told to do, and the model and the music that are the same for every side.

In: the fields of a job, and a file of pieces or none. Out: its config and its events. No library that could
start threads of its own is imported here.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from midigen_jax.config import Config, override
from midigen_jax.errors import InputError
from midigen_jax.recipes import POOLING_BLOCKS, read_config
from midigen_jax.vocab import END, Tokens
from rivals import side

_PITCHES, _DURATIONS = 1000, 50  # vocabulary of the random events


@dataclass(frozen=True, kw_only=True)
class Job(side.Job):
    """One side, how it is measured, and what it trains on."""

    rows: int
    length: int
    data: str = ""  # a file of pieces; none: random events
    chords: int = 0  # of the file, the commonest; all others are one symbol; 0: all are kept


class Music(NamedTuple):
    """Pieces as (events, 2) ids, without a `<start>` or `<end>`, and the sizes of both vocabularies."""

    pieces: tuple[Tokens, ...]
    pitch_size: int
    duration_size: int


def config_of(job: Job) -> Config:
    """The recipe `article`; on random events it pools over the whole past, and AdamW trains it."""
    sizes = {"batch.rows": job.rows, "batch.length": job.length}
    if job.data:
        return override(read_config("article"), sizes)
    adamw = {"train.optimizer": "adamw", "train.weight_decay": 0.01}
    return override(read_config("article"), sizes | adamw | {"model.blocks": POOLING_BLOCKS})


def music_of(job: Job) -> Music:
    """The pieces of the job's file, or a random one for each row.

    Raises InputError for a file that is none of pieces, or in which no piece has a window and an event more.
    """
    if job.data:
        music = _read(Path(job.data), job.chords)
        if all(len(piece) <= job.length for piece in music.pieces):
            raise InputError(f"{job.data}: no piece of more than {job.length} events; give another --data")
        return music
    rng = np.random.default_rng(0)
    shape = (job.rows, job.length + 1)
    # No edge and no duration 0: what is left is possible in any order.
    events_BS2 = np.stack([rng.integers(END + 1, _PITCHES, shape), rng.integers(1, _DURATIONS, shape)], 2)
    return Music(tuple(events_BS2.astype(np.int32)), _PITCHES, _DURATIONS)


def _read(path: Path, most: int) -> Music:
    """A JSON list of pieces, each a list of [chord, quarters]; chords but the `most` common share an id."""
    try:
        pieces = [[(str(chord), float(quarters)) for chord, quarters in piece] for piece in _json(path)]
    except (TypeError, ValueError):
        raise InputError(f"{path}: give a JSON list of pieces, each a list of [chord, quarters]") from None
    pieces = [piece for piece in pieces if len(piece) > 1]
    events = list(chain.from_iterable(pieces))
    chords = [chord for chord, _ in Counter(chord for chord, _ in events).most_common()]
    common = chords[:most] if most else chords
    chord_ids = dict.fromkeys(chords, END + 1 + len(common)) | _ids(common, END + 1)
    duration_ids = _ids(sorted({quarters for _, quarters in events}), 1)
    tokens = tuple(
        np.array([(chord_ids[chord], duration_ids[quarters]) for chord, quarters in piece], np.int32)
        for piece in pieces
    )
    return Music(tokens, 1 + max(chord_ids.values(), default=END), 1 + len(duration_ids))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a file of pieces as --data") from None


def _ids(symbols: Sequence[Any], first: int) -> dict[Any, int]:
    return {symbol: number for number, symbol in enumerate(symbols, start=first)}
