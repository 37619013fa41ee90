"""The one exception that stands for a mistake of the user's, not of ours; and errors in words."""

import re

OUT_OF_MEMORY = "out of memory; lower --batch.rows, --batch.length or --model.width"  # of a device
MISTAKE, AGAIN = 2, 3  # exit codes: what was asked for cannot be done; it can, but not now or here
FAULT = 1  # of the program, with its traceback
INTERRUPTED = 130  # after a Ctrl-C, a SIGTERM or a SIGHUP
INTERRUPTION = "interrupted; the same command goes on where it was"


class InputError(Exception):
    """What was asked for cannot be done as asked: one line that names the thing and the remedy.

    The command line prints the line and exits with `MISTAKE`; a library user catches it like any other.
    Every other exception is a fault of the program and keeps its traceback.
    """


class DiskError(InputError):
    """A disk or a bucket takes, or gives, nothing: what was being done goes on once that is mended.

    The exit code is `AGAIN`.
    """


class OutOfMemoryError(InputError):
    """A program does not fit into the memory of a device; the line says what would, where that is known."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether JAX raised it for want of a device's memory, as the code of its error says."""
    return getattr(error, "error_code_string", "") == "RESOURCE_EXHAUSTED"


def one_line(error: Exception) -> str:
    """What an exception of somebody else's says, as part of a line: its name, if it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def kind_of(reason: str) -> str:
    """The message of an InputError without what is particular to the file, and the remedy: to count by."""
    return re.split(r"[(;:]", reason)[0].strip()
