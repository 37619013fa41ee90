"""Progress of long work: a bar with rate and time left, a table of what stands how; plain lines in a log.

Where nobody can read it any more, nothing is said, and the work goes on.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0
_HIDDEN = ContextVar("hidden", default=False)


class _Onlooker:
    """A file that may be closed, or a pipe whose other end is gone: then what is written goes nowhere."""

    def __init__(self, file: TextIO | None):
        self._file = file

    def __getattr__(self, name: str) -> Any:  # what tqdm asks of a terminal
        return getattr(self._file, name)

    def isatty(self) -> bool:
        return bool(self._try("isatty"))

    def write(self, text: str) -> None:
        self._try("write", text)

    def flush(self) -> None:
        self._try("flush")

    def _try(self, name: str, *given: str) -> Any:
        try:
            return None if self._file is None else getattr(self._file, name)(*given)
        except (OSError, ValueError):
            self._file = None


@contextmanager
def hidden() -> Iterator[None]:
    """Within, work says nothing of how far it has come: it is a part of other work, or of a page's."""
    token = _HIDDEN.set(True)
    try:
        yield
    finally:
        _HIDDEN.reset(token)


class Progress:
    """A context manager around work of known length.

    On a terminal it draws a tqdm bar; in a log it prints a line every ten seconds and one at the end. The
    time left there is by the pace since the first advance, before which programs are compiled. One that is
    not `shown` says nothing.
    """

    def __init__(
        self,
        label: str,
        total: int,
        unit: str,
        done: int = 0,
        file: TextIO | None = None,
        shown: bool = True,
    ):
        self._file: Any = _Onlooker(file or sys.stderr)
        self._label, self._total, self._unit = label, total, unit
        self._first = self._done = done
        self._note = ""
        self._shown = shown = shown and not _HIDDEN.get()
        self._start = self._printed = time.monotonic()
        self._paced: tuple[float, int] | None = None  # when the first advance was, and what was done then
        self._bar = None
        if shown and self._file.isatty():
            self._bar = tqdm(
                total=total, initial=done, desc=label, unit=f" {unit}", file=self._file, dynamic_ncols=True
            )

    def __enter__(self) -> "Progress":
        return self

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Say that `amount` more is done; `note` stands at the end of the line until the next one."""
        self._done += amount
        self._paced = self._paced or (time.monotonic(), self._done)
        self._note = note or self._note
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(amount)
        elif time.monotonic() - self._printed >= _SECONDS_BETWEEN_LINES:
            self._line()

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()
        else:
            self._line()

    def _line(self) -> None:
        if not self._shown:
            return
        self._printed = time.monotonic()
        elapsed = max(self._printed - self._start, 1e-9)
        rate = (self._done - self._first) / elapsed
        line = f"{self._label}: {self._done}/{self._total} {self._unit}, {rate:.2f} {self._unit}/s"
        since, before = self._paced or (self._printed, self._done)
        if before < self._done < self._total:
            left = (self._total - self._done) * (self._printed - since) / (self._done - before)
            line += f", {left:.0f} s left"
        else:
            line += f", {elapsed:.0f} s"
        print(line + (f", {self._note}" if self._note else ""), file=self._file, flush=True)


class Board:
    """A context manager around work on several things: on a terminal, a line for each says how it stands.

    A log has the lines of `Progress` alone.
    """

    def __init__(self, labels: Sequence[str], file: TextIO | None = None):
        self._file: Any = _Onlooker(file or sys.stderr)
        width = max(map(len, labels), default=0)
        self._lines: dict[str, tqdm] = {}
        if self._file.isatty():
            for label in labels:
                line = tqdm(bar_format="{desc}", desc=label.ljust(width), file=self._file, dynamic_ncols=True)
                self._lines[label] = line
        self._width = width

    def __enter__(self) -> "Board":
        return self

    def show(self, label: str, text: str) -> None:
        """Say how one of them stands."""
        if label in self._lines:
            self._lines[label].set_description_str(f"{label.ljust(self._width)}  {text}")

    def __exit__(self, *exception: object) -> None:
        for line in self._lines.values():
            line.close()
