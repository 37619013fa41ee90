"""The process that reads scores may be slow, greedy, interrupted or dead: the next score is read as ever."""

import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from midigen_jax.errors import InputError
from midigen_jax.music import sandbox, scores

SMALL = b"X:1\nK:C\nC"


def read_score(suffix: str, content: bytes) -> scores.Score:
    return sandbox.call(scores.read_score, suffix, content)


def test_a_score_that_takes_too_long_is_given_up_and_the_next_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read_score(".abc", SMALL)
    with monkeypatch.context() as limits:
        limits.setattr(sandbox, "LIMIT_SECONDS", 0.2)
        with pytest.raises(InputError, match=r"takes longer than 0\.2 s"):
            sandbox.call(time.sleep, 60)
    assert len(read_score(".abc", SMALL).notes) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="memory cannot be limited everywhere")
def test_a_score_that_takes_too_much_memory_is_given_up_and_the_next_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """25 kB in the zip, 25 MB unpacked, and many times that as a tree."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.xml", f"<a>{'<b/>' * 6_000_000}</a>")
    sandbox.close()  # the limit is set when the process starts
    with monkeypatch.context() as limits:
        limits.setattr(sandbox, "LIMIT_BYTES", 400 << 20)
        with pytest.raises(InputError, match="takes more than 400 MiB"):
            read_score(".mxl", file.getvalue())
    assert len(read_score(".abc", SMALL).notes) == 1


def test_a_process_that_died_meanwhile_is_replaced() -> None:
    read_score(".abc", SMALL)
    worker = sandbox.call(os.getpid)
    os.kill(worker, signal.SIGKILL)
    assert len(read_score(".abc", SMALL).notes) == 1
    assert sandbox.call(os.getpid) != worker


def test_a_file_that_kills_the_process_is_refused_and_the_next_is_read() -> None:
    for code in (signal.SIGSEGV, signal.SIGKILL):
        with pytest.raises(InputError, match="what reads it dies of it; leave it out"):
            sandbox.call(signal.raise_signal, code)
        assert len(read_score(".abc", SMALL).notes) == 1


SCRIPT = """
import os, signal, sys, time
from midigen_jax.music import sandbox, scores
signal.signal(signal.SIGINT, {"heeds": signal.default_int_handler, "goes on": lambda *_: None}[sys.argv[1]])
small, seconds = b"X:1\\nK:C\\nC", float(sys.argv[2])
sandbox.call(scores.read_score, ".abc", small)
print(sandbox.call(os.getpid), flush=True)
try:
    print(sandbox.call(time.sleep, seconds), flush=True)
except KeyboardInterrupt:
    print(len(sandbox.call(scores.read_score, ".abc", small).notes), flush=True)
"""


def started(seconds: float, manner: str = "heeds") -> "tuple[subprocess.Popen[str], int]":
    """A program that reads for so long, whatever it does on a Ctrl-C; and the process that does it for it."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT, manner, str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    time.sleep(0.3)
    return process, worker


posix = pytest.mark.skipif(os.name != "posix", reason="signals to groups of processes")


@posix
def test_a_ctrl_c_ends_the_score_and_leaves_nothing_behind() -> None:
    process, worker = started(60)
    os.killpg(process.pid, signal.SIGINT)
    said, complaints = process.communicate(timeout=60)
    assert (process.returncode, said.split(), complaints) == (0, ["1"], "")
    assert not alive(worker)


@posix
def test_a_ctrl_c_that_the_program_does_not_heed_does_not_hurt_the_score() -> None:
    process, _ = started(2, "goes on")
    os.killpg(process.pid, signal.SIGINT)
    said, complaints = process.communicate(timeout=60)
    assert (process.returncode, said.split(), complaints) == (0, ["None"], "")


@posix
def test_the_process_ends_with_the_one_that_asked_even_in_the_middle_of_a_score() -> None:
    process, worker = started(60)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)


def alive(process: int) -> bool:
    """A zombie whose parent is gone is dead too; who buries it is not our business."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
