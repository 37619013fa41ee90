"""Sources to readings: everything of a piece that needs no other piece, in one process or shared by many.

In: sources and the settings. Out: one `Reading` a source, in the order of the sources whatever the number of
processes, so that what is made of them does not depend on it. A source that cannot be read gives a reading
that says why.
"""

import hashlib
import itertools
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from loky import ProcessPoolExecutor
from numpy.typing import NDArray

from midigen_jax.config import PrepareConfig
from midigen_jax.data.works import fingerprint
from midigen_jax.errors import InputError
from midigen_jax.music import key as keys
from midigen_jax.music import sandbox
from midigen_jax.music.clock import Clock
from midigen_jax.music.piece import Piece
from midigen_jax.music.read import read_content
from midigen_jax.music.sources import Source
from midigen_jax.vocab import Tokens, interim_vocabulary

_FILES_PER_TASK = 16
_TASKS_AHEAD = 3  # of each other process: enough to keep it busy
_MOST_HELD = 256  # readings and tasks that wait for an earlier one: few enough to keep memory flat
_FEWEST_PER_PROCESS = 64  # starting a process costs about as much as reading that many files


class Facts(NamedTuple):
    """What is known of a source, but for its arrays; all of it plain values."""

    name: str
    digest: str
    """SHA-256 of the bytes; empty where they could not be had"""
    refused: str = ""
    """why it could not be read; empty if it was"""
    wanted: bool = True
    """False: it was read, but is in another key than the one that is kept"""
    key: str = ""
    shift: int = 0
    tempo: float = 0.0
    frame: int = 0
    """ticks a frame, where the source has frames"""
    meter: tuple[int, int] = (4, 4)
    first_bar: int = 0
    """ticks from the first note (the first frame) to the next bar line"""
    program: int = 0
    remarks: tuple[str, ...] = ()
    """what was out of order, and read all the same"""
    merged: int = 0
    """onsets that the grid puts on another's"""
    has_beat: bool = True
    """False: it was played without regard to the beats of its file"""
    stuck: int = 0
    """keys that were never let go, and whose notes are therefore left out"""
    ticks: int = 0
    notes: int = 0
    slices: int = 0
    shape: str = ""
    """equal for two pieces whose slices are equal up to transposition"""

    @property
    def marks(self) -> dict[str, str]:
        """What is equal for pieces that are one work, by what makes them so: see `works.REASONS`."""
        return {"bytes": self.digest, "notes": self.shape}


class Reading(NamedTuple):
    """A source that was read, or refused: then its arrays are empty."""

    facts: Facts
    tokens: Tokens
    """(E, S) of `interim_vocabulary`, from which the music can be had again"""
    windows: NDArray[np.uint64]
    """(W,) windows of its lines: see `works.fingerprint`"""


def read_all(sources: Sequence[Source], config: PrepareConfig, workers: int) -> Iterator[Reading]:
    """Readings in the order of `sources`; as many processes share them as pay, `workers` at most.

    This process is one of them.
    """
    workers = min(workers, len(sources) // _FEWEST_PER_PROCESS)
    if workers < 2:
        for source in sources:
            yield read_source(source, config)
        return
    # Each process has a core to itself: more threads would only get in each other's way.
    own = {"initializer": sandbox.begin_worker, "initargs": (os.getpid(),), "env": {"OMP_NUM_THREADS": "1"}}
    with ProcessPoolExecutor(workers - 1, **own) as pool:
        yield from _in_order(pool, sources, config, (workers - 1) * _TASKS_AHEAD)


def read_source(source: Source, config: PrepareConfig) -> Reading:
    """Read, find the key, transpose, slice, encode, fingerprint. Never raises for what a file holds."""
    digest = ""
    try:
        content = source.content()
        digest = _digest(content)
        piece = read_as(source, config, content)
        key = keys.find_key(piece.notes, config.profile)
        if config.only_key != "none" and not keys.matches(key, keys.parse_key(config.only_key)):
            return _without_music(Facts(source.name, digest, wanted=False, key=str(key)))
        shift = 0 if config.transpose == "none" else keys.shift_to(key, keys.parse_key(config.transpose))
        piece = replace(piece, notes=keys.transpose(piece.notes, shift))
        slices = piece.slices
        tokens = interim_vocabulary(config).encode(piece)
    except InputError as error:
        reason = str(error).removeprefix(f"{source.name}: ")
        return _without_music(Facts(source.name, digest, refused=reason))
    shape, windows = fingerprint(piece)
    begin = 0 if piece.length is not None else int(piece.notes[:, 0].min())
    to_bar_line = (piece.first_bar - begin) % piece.clock.bar(piece.meter)
    facts = Facts(
        source.name,
        digest,
        key=str(key),
        shift=shift,
        tempo=piece.tempo,
        meter=piece.meter,
        first_bar=to_bar_line if config.bar_lines == "written" else 0,
        program=piece.program,
        remarks=piece.remarks,
        merged=piece.merged,
        has_beat=piece.has_beat,
        stuck=piece.stuck,
        frame=piece.frame or 0,
        ticks=int(slices.duration.sum()),
        notes=len(piece.notes),
        slices=len(slices),
        shape=shape,
    )
    return Reading(facts, tokens, windows)


def read_as(source: Source, config: PrepareConfig, content: bytes | None = None) -> Piece:
    """The piece at `source` as `read_piece` has it, with a corpus's settings; `content`, where one has it."""
    content = source.content() if content is None else content
    how = config.quantizer, config.tracks, config.frame_ticks, config.voices > 0, config.repeats
    return read_content(source, content, *how, Clock(config.ticks_per_quarter))


def digest_or_nothing(source: Source) -> str:
    """SHA-256 of the source's bytes; empty where they cannot be had."""
    try:
        return _digest(source.content())
    except InputError:
        return ""


def nothing_read(arguments: Sequence[str], name: str, reason: str) -> InputError:
    """What to raise when nothing could be read: `name` and `reason` are of the first that was refused."""
    return InputError(f"no music in {', '.join(arguments)}: nothing could be read ({name}: {reason})")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _without_music(facts: Facts) -> Reading:
    return Reading(facts, np.empty((0, 2), np.int32), np.empty(0, np.uint64))


def _in_order(
    pool: ProcessPoolExecutor, sources: Sequence[Source], config: PrepareConfig, ahead: int
) -> Iterator[Reading]:
    """As `pool.map`, but with `ahead` tasks in flight at most; this process reads rather than waits."""
    rest = iter(sources)
    pending: deque[Future[list[Reading]] | list[Reading]] = deque()
    flying = 0
    try:
        while True:
            while flying < ahead and (some := list(itertools.islice(rest, _FILES_PER_TASK))):
                pending.append(pool.submit(_read_task, some, config))
                flying += 1
            if not pending:
                return
            first = pending[0]
            if isinstance(first, Future):
                has_room = len(pending) < _MOST_HELD
                if has_room and not first.done() and (source := next(rest, None)) is not None:
                    pending.append([read_source(source, config)])
                    continue
                flying -= 1
                first = first.result()
            pending.popleft()
            yield from first
    finally:
        # What has not begun is of no use to who does not ask any more.
        for task in pending:
            if isinstance(task, Future):
                task.cancel()


def _read_task(sources: Sequence[Source], config: PrepareConfig) -> list[Reading]:
    return [read_source(source, config) for source in sources]
