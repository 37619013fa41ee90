"""Stopping on request: Ctrl-C and SIGTERM let the step that is running end, and a checkpoint be written."""

import signal
from types import FrameType
from typing import Any


class StopRequest:
    """While it is entered, Ctrl-C and SIGTERM only set `requested`, so that a step is never cut in half.

    A second Ctrl-C interrupts at once. Outside of the main thread signals stay as they are.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        except ValueError:  # not the main thread
            pass
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
