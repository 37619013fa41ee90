"""The spool: what has been read of a corpus that is not finished, kept across interruptions.

In: readings, one after another. Out: their facts, and their arrays by reading them back from disk, so that a
corpus of any size is made in little memory. In the folder

    settings        a hash of the settings that decide what a reading is
    facts.jsonl     a line a source: its facts, and how long its arrays are
    tokens.bin      int32 tokens of all sources, one after another
    windows.bin     uint64 fingerprints, likewise

One process writes. Whatever instant it is killed at, some number of first lines is whole and has its arrays;
what stands behind them, in any of the files, is cut off when the spool is opened.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from midigen_jax.data.reading import Facts, Reading
from midigen_jax.errors import InputError
from midigen_jax.files import check_folder, replacing
from midigen_jax.music.tokens import Tokens

_TOKEN_BYTES, _WINDOW_BYTES = 8, 8
_SECONDS_BETWEEN_FLUSHES = 0.25  # what a kill may lose; to flush after every file is slow


class Entry(NamedTuple):
    """A source in the spool: its facts, and where its arrays lie, in events and in windows."""

    facts: Facts
    token: int
    tokens: int
    window: int
    windows: int


class Spool:
    """The spool in a folder, made if need be; a context manager that closes its files."""

    def __init__(self, folder: Path, settings: str):
        """Raises InputError when the folder was left by a command with other settings, or cannot be made."""
        mark = folder / "settings"
        if not mark.is_file():
            check_folder(folder)
            with replacing(mark) as partial:
                partial.write_text(settings)
        if mark.read_text() != settings:
            raise InputError(
                f"{folder}: left by an unfinished command with other settings; "
                "finish that one, or delete the folder"
            )
        self.folder = folder
        self._entries: dict[str, Entry] = {}
        self._token = self._window = 0
        self._flushed = time.monotonic()
        for name in ("facts.jsonl", "tokens.bin", "windows.bin"):
            (folder / name).touch()
        self._recover()
        self._facts, self._tokens, self._windows = (
            (folder / name).open("a+b") for name in ("facts.jsonl", "tokens.bin", "windows.bin")
        )

    def __enter__(self) -> "Spool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; more than once does no harm."""
        for file in (self._tokens, self._windows, self._facts):
            file.close()

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def get(self, name: str) -> Entry | None:
        """What was read under that name, if anything was; of two readings the later one."""
        return self._entries.get(name)

    def append(self, reading: Reading) -> None:
        """Add a reading: its arrays first, then its line. A moment later it outlives this process."""
        self._tokens.write(np.ascontiguousarray(reading.tokens, np.int32).tobytes())
        self._windows.write(np.ascontiguousarray(reading.windows, np.uint64).tobytes())
        lengths = {"tokens": len(reading.tokens), "windows": len(reading.windows)}
        line = json.dumps(reading.facts._asdict() | lengths, ensure_ascii=False) + "\n"
        self._facts.write(line.encode())
        self._add(reading.facts, **lengths)
        if time.monotonic() - self._flushed > _SECONDS_BETWEEN_FLUSHES:
            for file in (self._tokens, self._windows, self._facts):
                file.flush()
            self._flushed = time.monotonic()

    def tokens(self, entry: Entry) -> Tokens:
        """(E, 2) of one source."""
        self._tokens.seek(entry.token * _TOKEN_BYTES)
        return np.frombuffer(self._tokens.read(entry.tokens * _TOKEN_BYTES), np.int32).reshape(-1, 2)

    def windows(self, entry: Entry) -> NDArray[np.uint64]:
        """(W,) of one source."""
        self._windows.seek(entry.window * _WINDOW_BYTES)
        return np.frombuffer(self._windows.read(entry.windows * _WINDOW_BYTES), np.uint64)

    def _add(self, facts: Facts, tokens: int, windows: int) -> None:
        self._entries[facts.name] = Entry(facts, self._token, tokens, self._window, windows)
        self._token += tokens
        self._window += windows

    def _recover(self) -> None:
        """Take in the lines whose arrays are there, and cut off whatever stands behind them."""
        token_room = (self.folder / "tokens.bin").stat().st_size // _TOKEN_BYTES
        window_room = (self.folder / "windows.bin").stat().st_size // _WINDOW_BYTES
        whole = 0
        for size, fields in self._whole_lines():
            tokens, windows = fields.pop("tokens"), fields.pop("windows")
            if self._token + tokens > token_room or self._window + windows > window_room:
                break
            self._add(Facts(**fields | {"meter": tuple(fields["meter"])}), tokens, windows)
            whole += size
        for name, length in (
            ("facts.jsonl", whole),
            ("tokens.bin", self._token * _TOKEN_BYTES),
            ("windows.bin", self._window * _WINDOW_BYTES),
        ):
            with (self.folder / name).open("r+b") as file:
                file.truncate(length)

    def _whole_lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The bytes of each line, and what it says, up to the first one that is not whole."""
        with (self.folder / "facts.jsonl").open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    fields = json.loads(line)
                except ValueError:
                    return
                yield len(line), fields
