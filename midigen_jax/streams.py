"""What a command says: standard output and error that outlive whoever reads them, and libraries in silence.

A command that is started over ssh, or into `head`, goes on when its reader is gone. What it says from then on
goes nowhere, and nothing fails for it.
"""

import errno
import io
import logging
import os
import sys
from functools import cache
from typing import Any

_GONE = {errno.EPIPE, errno.EIO, errno.EBADF, errno.ECONNRESET}  # EIO: a terminal that hung up

# What Orbax warns of and is meant to be: a run opened for reading, and what a kill left being replaced.
_EXPECTED = ("is read only", "Attempted to create temporary directory")
# It reads and writes many arrays at once: where one fails each of the others complains in its own thread.
_ECHOES = ("Event loop is closed", "in OCDBT database", "Encountered error while reading array")


@cache
def silence_orbax() -> None:
    """Leave out such warnings, and errors that follow from one that is raised; once for a process."""
    logging.getLogger("absl").addFilter(
        lambda record: not any(text in record.getMessage() for text in _EXPECTED)
    )
    logging.getLogger("asyncio").addFilter(
        lambda record: not (record.exc_info and _is_echo(record.exc_info[1]))
    )
    # They warn with every call of what they go without; and what they cannot go without is raised.
    for client in ("gcsfs", "google.auth"):
        logging.getLogger(client).setLevel(logging.CRITICAL)
    show, show_unraisable = sys.excepthook, sys.unraisablehook

    def excepthook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not _is_echo(error):
            show(kind, error, trace)

    def unraisablehook(unraisable: Any) -> None:
        if not _is_echo(unraisable.exc_value):
            show_unraisable(unraisable)

    sys.excepthook, sys.unraisablehook = excepthook, unraisablehook


def _is_echo(error: BaseException | None) -> bool:
    return any(words in str(error) for words in _ECHOES)


def outlive_readers() -> None:
    """Make the streams of this process so, as far as they are its own and not a notebook's or a test's."""
    for number in (1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed from the start: whatever is opened next would take its place
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and (stream is None or _writes_to(stream, number)):
            setattr(sys, name, _lasting(stream, number))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _writes_to(stream: Any, number: int) -> bool:
    """Whether a stream writes to this file, and is not one of ours."""
    try:
        # What is asked to be unbuffered (PYTHONUNBUFFERED) has no buffer around its file.
        raw = getattr(stream.buffer, "raw", stream.buffer)
        return stream.fileno() == number and not isinstance(raw, _Lasting)
    except (AttributeError, OSError, ValueError):
        return False


def _lasting(stream: Any, number: int) -> io.TextIOWrapper:
    """As the stream was; one that was not there or not buffered is written line by line."""
    lines = True
    if stream is not None:
        stream.flush()
        lines = stream.line_buffering or stream.write_through
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(number, "w", closefd=False)),
        encoding="utf-8" if stream is None else stream.encoding,
        errors="replace",  # a terminal that lacks a letter is no reason to fail
        line_buffering=lines,
    )


class _Lasting(io.FileIO):
    """A file that becomes the null device once its reader is gone."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return memoryview(data).nbytes
