"""Checkpoints in a bucket, against an emulator of Google's: a machine that is lost takes nothing with it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from midigen_jax import rows
from midigen_jax.config import TrainConfig
from midigen_jax.errors import AGAIN, InputError
from tests.tiny import free_port, measured, train_words

ADDRESS = "gs://bucket/runs/mine"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """A function that starts a command that can reach the bucket; with the file that takes what it says."""
    folder = tmp_path_factory.mktemp("bucket")
    port = free_port()
    emulator = [sys.executable, str(Path(__file__).parent / "bucket_server.py"), str(port)]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(emulator, stdout=log, stderr=log)
    environment = os.environ | {
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",  # for gcsfs
        "TENSORSTORE_GCS_HTTP_URL": f"http://127.0.0.1:{port}",
        "GCE_METADATA_HOST": "127.0.0.1:1",
        "NO_GCE_CHECK": "true",
    }

    begun = []

    def begin(words, script=None, **more):
        program = ["-m", "midigen_jax.cli"] if script is None else ["-c", script]
        command = [sys.executable, *program, *map(str, words)]
        said = folder / f"{len(begun)}.log"
        with said.open("w") as err:
            process = subprocess.Popen(command, env=environment | more, stderr=err, stdout=subprocess.DEVNULL)
        begun.append(process)
        return process, said

    until = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except ConnectionRefusedError:
            assert time.monotonic() < until
            time.sleep(0.1)
    yield begin
    for process in (*begun, server):
        process.kill()
        process.wait()


def ended(begun):
    """The exit code of a command, and what it said."""
    process, said = begun
    return process.wait(timeout=240), said.read_text()


@pytest.mark.slow
def test_a_run_whose_machine_is_lost_goes_on_from_its_bucket(bucket, corpus, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    length = {"train.steps": 80, "train.evaluate_every": 20}
    alone = bucket(train_words(corpus, whole, **length))
    words = train_words(corpus, run, **length, **{"train.checkpoints": ADDRESS})
    first, said = bucket(words)
    # A checkpoint is begun when the one before it is whole.
    while not ((run / "rows.jsonl").is_file() and any(step > 40 for step, *_ in measured(run))):
        assert first.poll() is None, said.read_text()
        time.sleep(0.05)
    first.kill()
    assert ended((first, said))[0] == -signal.SIGKILL, said.read_text()
    assert not (run / "checkpoints").exists()
    before = [row for row in rows.read(run / "rows.jsonl") if row["step"] <= 20]
    shutil.rmtree(run)

    code, said = ended(bucket(words))
    assert code == 0, said
    assert ended(alone)[0] == 0
    assert measured(run) == measured(whole)
    assert rows.read(run / "rows.jsonl")[: len(before)] == before  # their hours too: they were not done again

    music = tmp_path / "music"
    few = ["--count", "1", "--events", "8"]
    code, said = ended(bucket(["generate", ADDRESS, "--out", music, *few]))
    assert code == 0, said
    assert [path.name for path in music.glob("*.mid")] == ["1.mid"]

    other = tmp_path / "corpus"
    shutil.copytree(corpus, other)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"plan": "another"}))
    words[words.index(str(corpus))] = str(other)
    code, said = ended(bucket([*words, "--out", str(tmp_path / "other")]))
    assert code == 2
    assert f"{ADDRESS}: holds checkpoints of another experiment; give another --train.checkpoints" in said


def test_a_bucket_that_is_not_there_is_told(bucket, corpus, tmp_path):
    words = train_words(corpus, tmp_path / "run", **{"train.checkpoints": "gs://nowhere/runs/mine"})
    for given in (words, ["generate", "gs://nowhere/runs/mine", "--out", tmp_path / "music"]):
        code, said = ended(bucket(given))
        assert code == AGAIN, said
        assert said.splitlines()[-1].startswith("midigen: gs://nowhere/runs/mine: cannot be reached (")


def test_an_address_names_a_bucket_and_a_folder():
    assert TrainConfig(checkpoints=ADDRESS).checkpoints == ADDRESS
    for wrong in ("gs://bucket", "gs://bucket/", "s3://bucket/runs/mine", "runs/mine"):
        with pytest.raises(InputError, match=r"train\.checkpoints = .*: give gs://BUCKET/FOLDER, or"):
            TrainConfig(checkpoints=wrong)


COMPILES = """
import sys
import jax
import midigen_jax.train.checkpoint  # as every command has it
from midigen_jax.train.distributed import keep_compiled
events = []
jax.monitoring.register_event_listener(lambda event, **more: events.append(event.rpartition("/")[2]))
keep_compiled()
jax.jit(lambda x: x * 3 + 1)(2.0)
print("hits:", events.count("cache_hits"), file=sys.stderr)
"""


def test_compiled_programs_are_kept_in_the_bucket_for_all_hosts(bucket, tmp_path):
    """Each process here is a host with a disk of its own, on which nothing is kept."""
    for number, hits in enumerate([0, 1]):
        cache = tmp_path / str(number)
        given = {
            "JAX_COMPILATION_CACHE_DIR": "gs://bucket/compiled",
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XDG_CACHE_HOME": str(cache),
        }
        code, said = ended(bucket([], COMPILES, **given))
        assert code == 0, said
        assert f"hits: {hits}" in said.splitlines()
        assert not (cache / "midigen-jax").exists()
