"""The spool: what has been read of a corpus that is not finished, kept across interruptions.

In: readings, one after another. Out: their facts, and their arrays by reading them back from disk, so that a
corpus of any size is made in little memory. It is one SQLite file, which one process writes. If that process
is killed, at any instant, all readings that it committed before are kept.
"""

import errno
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from midigen_jax.data.reading import Facts, Reading
from midigen_jax.errors import InputError
from midigen_jax.files import check_folder
from midigen_jax.vocab import Tokens

FILE = "spool.sqlite"
_BYTES = 8  # of a window
_SECONDS_BETWEEN_COMMITS = 0.25  # what a kill may lose; to commit after every file is slow
_TABLES = """
CREATE TABLE IF NOT EXISTS settings (hash TEXT);
CREATE TABLE IF NOT EXISTS reading (name TEXT PRIMARY KEY, facts TEXT, tokens BLOB, windows BLOB);
"""


class Entry(NamedTuple):
    """A source in the spool: its facts, and how many windows it has."""

    facts: Facts
    windows: int


class Spool:
    """The spool in a folder, made if need be; a context manager that closes its file."""

    def __init__(self, folder: Path, settings: str):
        """Raises InputError when a command with other settings left the folder, or it holds other things."""
        check_folder(folder, (FILE, f"{FILE}-journal", "corpus"))
        self.folder = folder
        with self._told(), ExitStack() as opened:
            # Who opens it has the lock of the folder, and some disks know no locks of files.
            place = (folder / FILE).absolute().as_uri() + "?nolock=1"
            self._file = opened.enter_context(closing(sqlite3.connect(place, uri=True)))
            self._file.executescript(_TABLES)
            first = self._file.execute("SELECT hash FROM settings").fetchone()
            if first is None:
                self._file.execute("INSERT INTO settings VALUES (?)", (settings,))
                self._file.commit()
            elif first[0] != settings:
                raise InputError(
                    f"{folder}: left by an unfinished command with other settings; "
                    "finish that one, or delete the folder"
                )
            opened.callback(self._file.commit)
            self._end = opened.pop_all()
        self._committed = time.monotonic()

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Keep what there is, and close the file; more than once does no harm."""
        with self._told():
            self._end.close()

    def __getitem__(self, name: str) -> Entry:
        entry = self.get(name)
        if entry is None:
            raise KeyError(name)
        return entry

    def get(self, name: str) -> Entry | None:
        """What was read under that name, if anything was; of two readings the later one."""
        found = self._row("facts, length(windows)", name)
        if found is None:
            return None
        facts = json.loads(found[0])
        return Entry(
            Facts(**facts | {name: tuple(facts[name]) for name in ("meter", "remarks")}), found[1] // _BYTES
        )

    def append(self, reading: Reading) -> None:
        """Add a reading. A moment later it outlives this process."""
        facts = json.dumps(reading.facts._asdict(), ensure_ascii=False)
        arrays = (np.asarray(reading.tokens, "<i4"), np.asarray(reading.windows, "<u8"))
        values = (reading.facts.name, facts, *(array.tobytes() for array in arrays))
        with self._told():
            self._file.execute("REPLACE INTO reading VALUES (?, ?, ?, ?)", values)
            if time.monotonic() - self._committed > _SECONDS_BETWEEN_COMMITS:
                self._file.commit()
                self._committed = time.monotonic()

    def tokens(self, entry: Entry, streams: int) -> Tokens:
        """(E, S) of one source, in so many streams."""
        return np.frombuffer(self._row("tokens", entry.facts.name)[0], "<i4").reshape(-1, streams)

    def windows(self, entry: Entry) -> NDArray[np.uint64]:
        """(W,) of one source."""
        return np.frombuffer(self._row("windows", entry.facts.name)[0], "<u8")

    def _row(self, columns: str, name: str) -> Any:
        with self._told():
            return self._file.execute(f"SELECT {columns} FROM reading WHERE name = ?", (name,)).fetchone()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A full disk is told as the system tells it, and what else SQLite stumbles over in a line."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder / FILE)) from None
            raise InputError(
                f"{self.folder}: cannot go on from there ({error}); delete the folder, or give another --out"
            ) from None
