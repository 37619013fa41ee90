"""The process that reads scores for us, with limits on time and memory, and is replaced when it breaks them.

In: the bytes of a score. Out: its notes, or InputError. There is one for each process that asks, started with
the first score and kept, because importing music21 takes a while. However we end, it ends too: it sees its
standard input close.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from typing import Any, NamedTuple

import numpy as np

from midigen_jax.errors import InputError
from midigen_jax.music.notes import Notes, make_notes
from midigen_jax.music.scores import OUT_OF_MEMORY

LIMIT_SECONDS = 60.0
LIMIT_BYTES = 2 << 30

# It imports from where we do, and from nowhere else: not from the folder that happens to be the current one.
_PROGRAM = (
    "import sys; limit, *sys.path = sys.argv[1:]; "
    "from midigen_jax.music.scores import serve; serve(int(limit))"
)


class Score(NamedTuple):
    """What a score holds; tempo (quarters a minute) and meter are None where it says nothing of them."""

    notes: Notes
    parts: list[tuple[str, int]]
    """name and General MIDI program of each; a note's track is its part"""
    tempo: float | None
    meter: tuple[int, int] | None


def read_score(suffix: str, content: bytes) -> Score:
    """The score in the bytes of a file whose name ends in `suffix` (one of `scores.SUFFIXES`).

    Raises InputError for what is no score, is damaged, or takes more than `LIMIT_SECONDS` or `LIMIT_BYTES`.
    """
    with _lock:
        answer = _ask(json.dumps([suffix, len(content)]).encode() + b"\n" + content)
    if "refused" in answer:
        raise InputError(answer["refused"])
    onset, duration, pitch, track = np.array(answer["notes"], np.int64).reshape(-1, 4).T
    parts = [(name, program) for name, program in answer["parts"]]
    meter = answer["meter"] and (answer["meter"][0], answer["meter"][1])
    return Score(make_notes(onset, duration, pitch, track), parts, answer["tempo"], meter)


class _Worker:
    """A running process."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(LIMIT_BYTES), *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # numpy's threads reserve memory that is never used, but would count.
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        )
        self.expired = False
        if self.exchange(b"") != b"ready\n":
            self.stop()
            raise RuntimeError("the process that reads scores did not start; is music21 installed?")

    def exchange(self, request: bytes) -> bytes:
        """The line that answers `request`; b"" from a process that died, or was killed for its slowness."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        timer = threading.Timer(LIMIT_SECONDS, self._expire)
        timer.start()
        try:
            self.process.stdin.write(request)
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            timer.cancel()
            timer.join()
        return b"" if self.expired else line

    def _expire(self) -> None:
        self.expired = True
        self.process.kill()

    def stop(self) -> None:
        self.process.kill()
        # Closes the pipes and waits, so that neither a zombie nor a warning is left behind.
        self.process.communicate()


_lock = threading.Lock()
_workers: dict[int, _Worker] = {}
"""By the id of the process that asks: one that was forked must not share its parent's pipes."""


def _ask(request: bytes) -> dict[str, Any]:
    worker = _workers.get(os.getpid())
    if worker is None or worker.process.poll() is not None:
        close()
        worker = _workers[os.getpid()] = _Worker()
    line = b""
    try:
        line = worker.exchange(request)
    finally:
        # Also after a Ctrl-C, or the answer would stand for the next question.
        if not line:
            close()
    if line:
        return dict(json.loads(line))
    if worker.expired:
        raise InputError(f"takes longer than {LIMIT_SECONDS:g} s to read; leave it out or simplify it")
    if worker.process.returncode == OUT_OF_MEMORY:
        raise InputError(f"takes more than {LIMIT_BYTES >> 20} MiB to read; leave it out or simplify it")
    raise InputError(f"music21 dies of it (code {worker.process.returncode}); leave it out")


@atexit.register
def close() -> None:
    """End the process, if there is one; the next score starts another."""
    worker = _workers.pop(os.getpid(), None)
    if worker is not None:
        worker.stop()
