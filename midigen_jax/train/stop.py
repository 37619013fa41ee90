"""Stopping on request: Ctrl-C, SIGTERM, and SIGHUP, which comes when a terminal or its connection is gone.

While a training has steps that no checkpoint holds, a request lets those that are running end, and a
checkpoint be written. Before that nothing would be lost, and a command ends at once, even while XLA compiles.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from midigen_jax.errors import INTERRUPTED, INTERRUPTION

_HEARD_WITHIN = 2.0  # seconds
_REQUESTS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class StopRequest:
    """A context manager; from `begin` on, requests only set `requested`, so that a step is never cut in half.

    A Ctrl-C after another request interrupts at once. Outside of the main thread signals stay as they are;
    so does one that whoever started the process has had ignored, as `nohup` does SIGHUP.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        return self

    def begin(self) -> None:
        """From now on there is something to lose. Called again it changes nothing."""
        if not self._before:
            self._before = _handle(self._ask)

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        # Others may come in pairs: a terminal that closes, a cloud that insists.
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def ends_at_once() -> Iterator[None]:
    """Within, where no `StopRequest` has begun, a Ctrl-C is a KeyboardInterrupt, as ever. Other requests end
    the process with the exit code of an interruption, as by themselves they would with another.

    Python hears them between two of its own instructions, and JAX while it compiles. Where neither does for
    two seconds, because a process waits for others, say, this one ends all the same.
    """
    heard = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        heard.set()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        leave(INTERRUPTED, INTERRUPTION)

    before = _handle(interrupt)
    if not before:
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    # The number of a signal is written there at once, whatever Python is doing.
    wakes = signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def watch() -> None:
        while number := os.read(read, 1):
            ours = number[0] in before and signal.getsignal(number[0]) is interrupt
            if ours and not heard.wait(_HEARD_WITHIN) and signal.getsignal(number[0]) is interrupt:
                leave(INTERRUPTED, INTERRUPTION)
        os.close(read)

    threading.Thread(target=watch, name="midigen-stop", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakes)
        os.close(write)
        for number, handler in before.items():
            signal.signal(number, handler)


def heed_signals_again() -> None:
    """After something that is not Python has taken signals, as JAX takes SIGTERM: give them back.

    (JAX's own notice of a SIGTERM asks that all processes are at the same step when they look for it.)
    """
    if threading.current_thread() is threading.main_thread():
        for number in _REQUESTS:
            signal.signal(number, signal.getsignal(number))


def leave(code: int, line: str) -> NoReturn:
    """End this process now, waiting for nothing and nobody."""
    try:
        print(f"midigen: {line}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def _handle(handler: Any) -> dict[int, Any]:
    """Have requests go to `handler`; returns what they went to before, of those that were changed."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {
        number: signal.signal(number, handler)
        for number in _REQUESTS
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN
    }
