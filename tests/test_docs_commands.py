"""The commands of docs/tpu.md, run as they are written on machines and slices that are emulated.

As written means: the words of the page, with its flags and their values. Put in their place are paths
(corpus, music, run), the coordinator's address, and the bucket, which is left out (`test_buckets.py` has
one). Added at the end, where the last of two flags counts, is what makes a training tiny: sizes of the model,
length, steps. Chips are XLA's virtual devices of the CPU, workers of a slice are processes of this machine,
and what tells `--coordinator auto` who they are is an environment as Slurm's. What installs, mounts, or asks
Google for machines is not run.
"""

import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from midigen_jax import cli, commands, rows
from midigen_jax.sample import training
from midigen_jax.train import distributed
from tests.tiny import free_port

PAGE = Path(__file__).parent.parent / "docs" / "tpu.md"
CHIPS = {"v5litepod-32": (8, 4)}  # workers, chips of each
TINY = {
    "model.width": 8,
    "model.pitch_embedding": 4,
    "model.duration_embedding": 4,
    "model.blocks": "lstm,pooled",
    "batch.length": 16,
    "train.steps": 4,
    "train.warmup": 2,
    "sample.count": 1,
    "sample.events": 16,
}


def shell_lines():
    """What the page would have one type, a command a line."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return "".join(blocks).replace("\\\n", " ").splitlines()


def midigen_commands():
    """The words of each `midigen` command of the page; what a shell does with it is left out."""
    found = []
    for line in shell_lines():
        said = re.search(r"(?:^|[' ])(midigen (?:train|prepare)\b[^'#;>]*)", line)
        if said is not None:
            found.append(shlex.split(said[1])[1:])
    return found


COMMANDS = midigen_commands()
SLICE = [words for words in COMMANDS if any("~/disk" in word for word in words)]


def named(words):
    return " ".join(word for word in words if not word.startswith("gs://"))


def flag(words, name):
    return words[words.index(name) + 1] if name in words else None


def tiny(words, corpus, run, port=None):
    """A command of the page with what is substituted."""
    words = list(words)
    if "--train.checkpoints" in words:
        place = words.index("--train.checkpoints")
        del words[place : place + 2]
    if port is not None and flag(words, "--coordinator") not in (None, "auto"):
        words[words.index("--coordinator") + 1] = f"127.0.0.1:{port}"
    words[1], words[words.index("--out") + 1] = str(corpus), str(run)
    return [*words, *(f"--{name}={value}" for name, value in TINY.items())]


def test_the_page_has_the_commands_that_are_run_here():
    assert len(COMMANDS) == 8
    assert len(SLICE) == 2
    assert any("v5litepod-32" in line for line in shell_lines())
    assert sum("--coordinator" in words for words in COMMANDS) == 5


@pytest.mark.parametrize("words", COMMANDS, ids=named)
def test_a_command_of_the_page_is_understood(words, monkeypatch):
    """With all of its words, and nothing in place of them."""
    taken = []
    monkeypatch.setattr(training, "train", lambda *given: taken.append(given) or True)
    monkeypatch.setattr(commands.Prepare, "__call__", lambda given: taken.append(given))
    monkeypatch.setattr(distributed, "join", lambda place: taken.append(place))
    assert cli.main(words) == 0
    assert len(taken) == 1 + ("--coordinator" in words)
    if words in SLICE:
        workers, chips = CHIPS["v5litepod-32"]
        assert taken[-1][2].batch.rows % (8 * workers * chips) == 0  # 8 rows fill a tile


def run_all(folder, each, devices, environments=None, seconds=500):
    """Run commands at once, each in a process with so many devices; returns exit codes and what they said."""
    folder.mkdir()
    begun = []
    for number, words in enumerate(each):
        own = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
        environment = os.environ | own | (environments[number] if environments else {})
        with (folder / f"{number}.log").open("w") as log:
            command = [sys.executable, "-m", "midigen_jax.cli", *words]
            begun.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
    try:
        codes = [process.wait(timeout=seconds) for process in begun]
    finally:
        for process in begun:
            process.kill()
    return codes, [(folder / f"{number}.log").read_text() for number in range(len(each))]


def is_trained(run):
    return any(
        row["name"] == "valid.nats_per_event" and row["step"] == 4 for row in rows.read(run / "rows.jsonl")
    )


@pytest.mark.slow
def test_one_machine_of_eight_chips(tmp_path, write_melodies):
    prepare, train = COMMANDS[:2]
    assert prepare[0] == "prepare"
    music = write_melodies(tmp_path / "music", count=20)
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    prepare = [str(music) if word == "music/" else word for word in prepare]
    prepare[prepare.index("--out") + 1] = str(corpus)
    assert run_all(tmp_path / "prepare", [prepare], 8)[0] == [0]
    codes, said = run_all(tmp_path / "train", [tiny(train, corpus, run)], 8)
    assert codes == [0], said
    assert "128 sequences a step on 8 devices, 16 on each" in said[0]
    assert is_trained(run)
    assert (run / "tensorboard").is_dir()
    assert list((run / "samples").glob("*/1.mid"))


@pytest.mark.slow
def test_two_machines_that_are_given_an_address(corpus, tmp_path):
    given = [words for words in COMMANDS if "--process" in words]
    assert len(given) == 2
    port, run = free_port(), tmp_path / "run"
    codes, said = run_all(tmp_path / "logs", [tiny(words, corpus, run, port) for words in given], 4)
    assert codes == [0, 0], said
    assert "16 sequences a step on 8 devices of 2 processes, 2 on each" in said[0]
    assert is_trained(run)


def of_slurm(count):
    """The environments of the tasks of a job, which `--coordinator auto` reads."""
    job = {"SLURM_JOB_ID": str(random.randrange(10**6)), "SLURM_STEP_NODELIST": "localhost"}
    job |= {"SLURM_NTASKS": str(count), "SLURM_STEP_NUM_NODES": str(count), "SLURM_LOCALID": "0"}
    return [job | {"SLURM_PROCID": str(number)} for number in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("words", [words for words in COMMANDS if "auto" in words], ids=named)
def test_workers_that_find_each_other_by_themselves(corpus, tmp_path, words):
    workers, chips = CHIPS["v5litepod-32"] if words in SLICE else (2, 4)
    run = tmp_path / "run"
    each = [tiny(words, corpus, run)] * workers
    codes, said = run_all(tmp_path / "logs", each, chips, of_slurm(workers))
    assert codes == [0] * workers, said
    assert f"on {workers * chips} devices of {workers} processes" in said[0]
    assert is_trained(run)


@pytest.mark.slow
def test_the_loop_that_starts_a_training_again(corpus, tmp_path):
    """As a shell runs it: a training that is taken away goes on, one that cannot be done is left."""
    lines = shell_lines()
    first = next(number for number, line in enumerate(lines) if line.startswith("until midigen"))
    loop = lines[first : first + next(n for n, line in enumerate(lines[first:]) if line == "done") + 1]
    written = shlex.split(loop[0].removeprefix("until midigen ").removesuffix("; do"))
    run = tmp_path / "run"
    long = [*tiny(written, corpus, run), "--train.steps=3000", "--train.steps_per_call=4"]
    program = f"{shlex.quote(sys.executable)} -m midigen_jax.cli "

    def start(words):
        script = "\n".join([f"until {program}{shlex.join(words)}; do", *loop[1:]])
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
        return subprocess.Popen(["bash", "-c", script], env=environment, start_new_session=True)

    shell = start(long)
    try:
        until = time.monotonic() + 240
        while not (
            (run / "rows.jsonl").is_file() and any(r["step"] > 20 for r in rows.read(run / "rows.jsonl"))
        ):
            assert time.monotonic() < until
            time.sleep(0.05)
        training = subprocess.run(["pgrep", "-P", str(shell.pid)], capture_output=True, text=True).stdout
        os.kill(int(training), signal.SIGTERM)
        assert shell.wait(timeout=400) == 0
    finally:
        os.killpg(shell.pid, signal.SIGKILL) if shell.poll() is None else None
    assert max(row["step"] for row in rows.read(run / "rows.jsonl")) == 3000
    refused = start([*long, "--train.steps=7"])  # another training than the one that is there
    assert refused.wait(timeout=240) == 0  # it is left, not tried for ever
