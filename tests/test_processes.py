"""Several processes are one training: the same steps, one voice, and all of them end when one does."""

import itertools
import os
import signal
import subprocess
import sys
import time

import jax
import pytest

from midigen_jax import rows
from midigen_jax.cli import main
from midigen_jax.errors import AGAIN
from midigen_jax.train import distributed
from midigen_jax.train.distributed import SharedPace
from tests.tiny import free_port, measured, train_words


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """What one process measures, with two devices."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert main(train_words(corpus, run)) == 0
    return measured(run)


# The command line, but that each process says which programs it compiles between its first call and its last,
# and ends where anything is transferred that was not asked for.
WATCHED = """
import sys
import jax
from midigen_jax import cli
from midigen_jax.train import loop
train, compiled = loop._train, set()
def note(event, seconds, fun_name="", **more):
    if event == "/jax/core/compile/backend_compile_duration":
        compiled.add(fun_name)
def watched(*given):
    jax.monitoring.register_event_duration_secs_listener(note)
    with jax.transfer_guard("disallow"):
        state = train(*given)
    print("compiled meanwhile:", *sorted(compiled), file=sys.stderr)
    jax.monitoring.unregister_event_duration_listener(note)
    return state
loop._train = watched
sys.exit(cli.main())
"""


def start(folder, given, count, devices=1, program=("-m", "midigen_jax.cli")):
    """`count` processes that are one training, each with so many devices."""
    address = f"127.0.0.1:{free_port()}"
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    command = [
        sys.executable,
        *program,
        *given,
        "--coordinator",
        address,
        "--processes",
        str(count),
    ]
    processes = []
    for number in range(count):
        with (folder / f"{number}.log").open("w") as log:
            process = subprocess.Popen(
                [*command, "--process", str(number)], stderr=log, stdout=subprocess.DEVNULL, env=environment
            )
        processes.append(process)
    return processes


def end(processes, seconds=240):
    """Their exit codes."""
    try:
        return [process.wait(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()


def wait_for(path, processes, step):
    """Until a training has written rows of this step."""
    until = time.monotonic() + 240
    while not (path.is_file() and any(row["step"] >= step for row in rows.read(path))):
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize(
    "stream", ["false", pytest.param("true", marks=pytest.mark.slow)], ids=["held", "streamed"]
)
def test_two_processes_are_one_training_to_the_bit(corpus, whole, tmp_path, stream):
    run = tmp_path / "run"
    given = train_words(corpus, run, **{"batch.stream": stream})
    assert end(start(tmp_path / "logs", given, 2, program=("-c", WATCHED))) == [0, 0]
    assert measured(run) == whole
    assert (run / "samples" / "step-000012" / "1.mid").is_file()
    logs = [(tmp_path / "logs" / f"{number}.log").read_text() for number in range(2)]
    assert "training: 12/12 steps" in logs[0]
    assert "training:" not in logs[1]
    # Steps, and what validations run: no gather with which processes agree, which would wait for the steps.
    for log in logs:
        (said,) = (line for line in log.splitlines() if line.startswith("compiled meanwhile: "))
        named = set(said.split()[2:]) - {"jit(_spans_of_steps)"}  # of a stream, on the host
        assert named == {"jit(program)", "jit(_at)", "jit(initial_carry)", "jit(eval_step)"}


# Reads two steps in a process of two, whose devices take turns in the mesh as along the torus of a TPU.
_READS = """
import sys
import jax
import numpy as np
from pathlib import Path
from jax.sharding import Mesh
from midigen_jax.config import Config, override
from midigen_jax.data.corpus import load_corpus
from midigen_jax.data.stream import Stream
from midigen_jax.train.distributed import data_mesh
from midigen_jax.train.replicas import DataSource
from midigen_jax.train.distributed import Place, join
from midigen_jax.train.step import batch_key

corpus, _, address, _, count, _, process = sys.argv[1:]
join(Place(address, int(count), int(process)))
config = override(Config(), {"batch.rows": 8, "batch.length": 16, "batch.stream": True})
music = load_corpus(Path(corpus))
mesh = data_mesh(8)
turns = Mesh(mesh.devices.reshape(2, -1).T.reshape(mesh.devices.shape), mesh.axis_names)
assert [one.process_index for one in turns.devices.ravel()] == [0, 1, 0, 1]
source = DataSource(music, config, transposable=True)
source.start(5, 100, turns)
read = source.next(2)
stream = Stream(music, config.batch, config.batch.transpose_share, batch_key(config.train.seed))
for step in range(2):
    whole = jax.tree.leaves(stream.read(5 + step, np.arange(8)))
    for placed, all_B in zip(jax.tree.leaves(read), whole, strict=True):
        for shard in placed.addressable_shards:
            np.testing.assert_array_equal(shard.data[step], all_B[shard.index[1]])
"""


def test_processes_whose_devices_are_no_neighbours_read_the_rows_of_each(corpus, tmp_path):
    readers = start(tmp_path / "logs", [str(corpus)], 2, devices=2, program=("-c", _READS))
    assert end(readers) == [0, 0], (tmp_path / "logs" / "0.log").read_text()


@pytest.mark.slow
def test_four_processes_and_two_that_go_on_are_it_too(corpus, whole, tmp_path):
    """A training that one SIGTERM has stopped, in all four, goes on in two processes of two devices."""
    run = tmp_path / "run"
    given = train_words(corpus, run, **{"train.steps": 4000, "train.evaluate_every": 1000})
    processes = start(tmp_path / "logs", given, 4)
    wait_for(run / "rows.jsonl", processes, 20)
    processes[2].send_signal(signal.SIGTERM)
    assert end(processes) == [130] * 4
    stopped = max(int(path.name) for path in (run / "checkpoints").iterdir())
    assert 0 < stopped < 4000
    processes = start(tmp_path / "again", given, 2, devices=2)
    wait_for(run / "rows.jsonl", processes, stopped + 20)
    processes[1].send_signal(signal.SIGTERM)
    assert end(processes) == [130] * 2
    assert max(int(path.name) for path in (run / "checkpoints").iterdir()) > stopped
    steps = [step for step, name, _ in measured(run) if name == "train.nats_per_event.pitch"]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("lost", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_where_one_process_is_killed_the_other_ends_and_says_so(corpus, tmp_path, lost):
    run = tmp_path / "run"
    given = train_words(corpus, run, **{"train.steps": 100_000, "train.evaluate_every": 50})
    processes = start(tmp_path / "logs", given, 2)
    wait_for(run / "rows.jsonl", processes, 100)
    processes[lost].kill()
    killed = time.monotonic()
    codes = end(processes, seconds=120)
    assert codes[lost] == -signal.SIGKILL
    said = (tmp_path / "logs" / f"{1 - lost}.log").read_text()
    assert time.monotonic() - killed < 60
    if lost == 0 and codes[1] == -signal.SIGABRT:  # JAX's runtime was the first to notice
        assert "This most likely indicates that another task died" in said
    else:
        assert codes[1 - lost] == AGAIN, said
        assert "another process of this training has ended" in said
        assert "start all of them again" in said
    reached = max(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdecimal())
    processes = start(tmp_path / "again", given, 2)
    wait_for(run / "rows.jsonl", processes, reached + 60)
    processes[lost].send_signal((signal.SIGTERM, signal.SIGINT)[lost])
    assert end(processes) == [130, 130]
    stopped = max(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdecimal())
    assert reached + 60 <= stopped < 100_000


class Service(dict):
    """What JAX's coordination service keeps."""

    key_value_set, key_value_delete = dict.__setitem__, dict.__delitem__

    def blocking_key_value_get(self, key, timeout_in_ms):
        return self[key]

    def key_value_dir_get(self, folder):
        return [entry for entry in self.items() if entry[0].startswith(folder)]


def test_process_0_decides_each_call_of_all_and_hears_the_others_before_the_next_one(monkeypatch):
    service = Service()
    monkeypatch.setattr(distributed, "_service", lambda: service)
    monkeypatch.setattr(distributed, "_trainings", itertools.repeat(0))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    members = [SharedPace(), SharedPace()]

    def call(*own):
        decided = []
        for number, (member, given) in enumerate(zip(members, own, strict=True)):
            monkeypatch.setattr(jax, "process_index", lambda number=number: number)
            decided.append(member.next(*given))
        return decided

    assert call((1, False), (1, False)) == [1, 1]
    for pace in range(2, 50):
        assert call((pace, False), (99, False)) == [pace, pace]
    assert len(service) == 2  # what all have read is forgotten
    assert call((50, False), (99, True)) == [50, 50]  # decided before it is heard
    assert call((51, False), (99, True)) == [0, 0]
    members = [SharedPace(), SharedPace()]
    service.clear()
    assert call((1, True), (1, False)) == [0, 0]


def test_what_the_processes_cannot_share_is_told_by_all(corpus, tmp_path):
    processes = start(tmp_path / "logs", train_words(corpus, tmp_path / "run", **{"batch.rows": 5}), 2)
    assert end(processes) == [2, 2]
    for number in range(2):
        said = (tmp_path / "logs" / f"{number}.log").read_text()
        assert "batch.rows = 5: all 2 devices of 2 processes must share them evenly; give 4 or 6" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_where_one_process_has_no_corpus_none_waits_for_minutes(corpus, tmp_path):
    """A disk that is not mounted on one machine of several."""
    address, begun = f"127.0.0.1:{free_port()}", []
    for number, place in enumerate((corpus, tmp_path / "nowhere")):
        words = [*train_words(place, tmp_path / "run"), "--coordinator", address]
        command = [
            sys.executable,
            "-m",
            "midigen_jax.cli",
            *words,
            "--processes",
            "2",
            "--process",
            str(number),
        ]
        with (tmp_path / f"{number}.log").open("w") as log:
            begun.append(subprocess.Popen(command, stderr=log, stdout=subprocess.DEVNULL))
    codes = end(begun, seconds=150)
    assert codes[1] == 2
    assert "nowhere: no corpus there" in (tmp_path / "1.log").read_text()
    said = (tmp_path / "0.log").read_text()
    if codes[0] != -signal.SIGABRT:  # JAX's runtime was the first to notice
        assert codes[0] == AGAIN, said
        assert "another process of this training has ended" in said


def test_processes_without_an_address_are_told(corpus, tmp_path, capsys):
    given = train_words(corpus, tmp_path / "run")
    assert main([*given, "--coordinator", "127.0.0.1:1"]) == 2
    assert "give --processes N and --process I besides, or auto" in capsys.readouterr().err
    assert main([*given, "--processes", "2"]) == 2
    assert "--processes: give --coordinator besides, or leave it out" in capsys.readouterr().err
