"""Requests to stop, and readers that go away: a training keeps what it has, and a command ends when asked."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from midigen_jax import rows
from midigen_jax.cli import main
from midigen_jax.commands import Report
from midigen_jax.train.stop import StopRequest, ends_at_once
from tests.tiny import free_port, train_words

# Whether or not the tests themselves were started by `nohup`.
_HEEDS_HANGUPS = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
_MIDIGEN = "import sys\nfrom midigen_jax.cli import main\nsys.exit(main())\n"


def test_a_connection_that_drops_leaves_a_checkpoint(corpus, tmp_path):
    """`midigen train … 2>&1 | head -1`, and the SIGHUP that follows when a terminal is gone."""
    run = tmp_path / "run"
    words = train_words(corpus, run, **{"train.steps": 100_000, "train.evaluate_every": 50_000})
    command = [sys.executable, "-c", _HEEDS_HANGUPS + _MIDIGEN, *words]
    training = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert b"sequences a step" in training.stdout.readline()
        training.stdout.close()
        until = time.monotonic() + 240
        while not (
            (run / "rows.jsonl").is_file() and any(r["step"] > 20 for r in rows.read(run / "rows.jsonl"))
        ):
            assert training.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        training.send_signal(signal.SIGHUP)
        assert training.wait(timeout=120) == 130
    finally:
        training.kill()
        training.wait()
    assert max(int(path.name) for path in (run / "checkpoints").iterdir()) > 20


@pytest.mark.skipif(sys.platform == "win32", reason="the shell of this test is a POSIX one")
def test_a_command_without_standard_streams_does_its_work(tmp_path, write_melodies):
    music = write_melodies(tmp_path / "music", count=10)
    words = f"-m midigen_jax.cli prepare {music} --out {tmp_path / 'out'}"
    assert subprocess.run(["sh", "-c", f"exec {sys.executable} {words} >&- 2>&-"]).returncode == 0
    assert (tmp_path / "out" / "manifest.json").is_file()


# Says when it begins to compile what takes XLA long.
_COMPILES = """
import sys
import jax, jax.numpy as jnp
from jax import lax
from midigen_jax.cli import main
from midigen_jax.commands import Report

def compile(*_):
    def long(x):
        for _ in range(500):
            x = lax.sort(lax.sin(lax.dot(x, x)))
        return x
    lowered = jax.jit(long).lower(jnp.ones((8, 8)))
    print("compiling", flush=True)
    lowered.compile()
    print("compiled", flush=True)
    return 0

Report.__call__ = compile
sys.argv = ["midigen", "report", "run", "--out", "page"]
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_request_while_xla_compiles_is_heard(number):
    compiling = subprocess.Popen(
        [sys.executable, "-c", _HEEDS_HANGUPS + _COMPILES],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert compiling.stdout.readline() == "compiling\n"
        time.sleep(0.5)
        compiling.send_signal(number)
        said, told = compiling.communicate(timeout=240)
    finally:
        compiling.kill()
        compiling.wait()
    assert (said, compiling.returncode) == ("", 130)
    assert "midigen: interrupted; the same command goes on where it was" in told


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has loaded is read from /proc")
def test_a_request_while_others_are_awaited_is_heard(corpus, tmp_path):
    """Where Python itself is not there to hear: in `jax.distributed.initialize`."""
    words = [*train_words(corpus, tmp_path / "run"), "--coordinator", f"127.0.0.1:{free_port()}"]
    command = [sys.executable, "-m", "midigen_jax.cli", *words, "--processes", "2", "--process", "1"]
    waiting = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 240
        while "libjax" not in Path(f"/proc/{waiting.pid}/maps").read_text():
            assert time.monotonic() < until
            time.sleep(0.1)
        time.sleep(3)  # by then it waits; before, it would hear it too
        waiting.send_signal(signal.SIGTERM)
        _, told = waiting.communicate(timeout=240)
    finally:
        waiting.kill()
        waiting.wait()
    assert waiting.returncode == 130, told
    assert "midigen: interrupted" in told


def test_a_ctrl_c_ends_any_command_with_one_line(monkeypatch, capsys):
    monkeypatch.setattr(Report, "__call__", lambda _: signal.raise_signal(signal.SIGINT))
    before = signal.getsignal(signal.SIGINT)
    assert main(["report", "run", "--out", "page"]) == 130
    assert capsys.readouterr().err == "midigen: interrupted; the same command goes on where it was\n"
    assert signal.getsignal(signal.SIGINT) is before


def test_from_its_beginning_requests_are_noted_and_a_second_ctrl_c_interrupts():
    with ends_at_once(), StopRequest() as stop:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        stop.begin()
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGTERM):  # they may come in pairs
            signal.raise_signal(number)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_hangup_that_nohup_has_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ends_at_once(), StopRequest() as stop:
            stop.begin()
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)
