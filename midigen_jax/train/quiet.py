"""Silence for what Orbax, and clients of buckets, say and nobody needs to know."""

import logging
import sys
from functools import cache
from typing import Any

# Of what is meant to be: a run that is opened for reading, and what a kill left being replaced.
_EXPECTED = ("is read only", "Attempted to create temporary directory")
# Orbax reads and writes many arrays at once: where one fails each of the others complains in its own thread.
_ECHOES = ("Event loop is closed", "in OCDBT database", "Encountered error while reading array")


@cache
def hush() -> None:
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
