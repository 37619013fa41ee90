"""What a machine does to a training: it is told in one line, and nothing that was there is lost."""

import os
import signal
import subprocess
import sys
import time

import jax
import pytest

from midigen_jax.cli import main
from midigen_jax.errors import AGAIN, DiskError, InputError, is_out_of_memory
from midigen_jax.files import locked
from midigen_jax.study.ablation import run_study
from midigen_jax.study.plan import make_study
from tests.tiny import SMALLEST, measured, train_words


@pytest.fixture(scope="module")
def music(tmp_path_factory, write_melodies):
    return write_melodies(tmp_path_factory.mktemp("music"), count=20)


@pytest.fixture(scope="module")
def corpus(music, tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus") / "out"
    assert main(["prepare", str(music), "--out", str(out)]) == 0
    return out


@pytest.fixture
def elsewhere(tmp_path):
    """A function that has another process take a folder."""
    processes = []

    def take(folder):
        folder.mkdir(parents=True, exist_ok=True)
        script = (
            "import pathlib, sys, time\nfrom midigen_jax.files import locked\n"
            "with locked(pathlib.Path(sys.argv[1])):\n    print('taken', flush=True)\n    time.sleep(300)\n"
        )
        process = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE)
        processes.append(process)
        assert process.stdout.readline() == b"taken\n"
        return process

    yield take
    for process in processes:
        process.kill()
        process.communicate()


def test_a_folder_that_another_process_works_in_is_refused(corpus, music, tmp_path, capsys, elsewhere):
    run = tmp_path / "run"
    holder = elsewhere(run)
    assert main(train_words(corpus, run)) == 2
    assert f"{run}: another process is at work there; wait for it" in capsys.readouterr().err
    elsewhere(tmp_path / "other.partial")
    assert main(["prepare", str(music), "--out", str(tmp_path / "other")]) == 2
    assert "another process is at work there" in capsys.readouterr().err
    elsewhere(tmp_path / "study")
    study = make_study({"corpus": [str(music)], "budget": {"steps": 1}}, "tiny")
    with pytest.raises(InputError, match="study: another process is at work there"):
        run_study(study, tmp_path / "study")
    # A lock goes with its process, however that ends.
    holder.kill()
    holder.wait()
    assert main(train_words(corpus, run)) == 0


def test_a_lock_is_given_back_and_can_be_taken_again(tmp_path):
    for _ in range(2):
        with locked(tmp_path), pytest.raises(InputError), locked(tmp_path):
            pass


# A command whose process is killed as it gives a folder its name: before that, or right after it.
_KILLED = """
import os, pathlib, signal, sys
from midigen_jax.cli import main
moment, name, *words = sys.argv[1:]

def killing(real):
    def rename(source, target, *others, **more):
        if str(target).endswith(name):
            if moment == "after":
                real(source, target)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(source, target, *others, **more)
    return rename

for module, function in ((os, "rename"), (os, "replace")):
    setattr(module, function, killing(getattr(module, function)))
sys.exit(main(words))
"""


def killed_at(name, moment, words):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(jax.device_count())}
    command = [sys.executable, "-c", _KILLED, moment, name, *words]
    return subprocess.run(command, env=environment, capture_output=True, timeout=240).returncode


@pytest.mark.parametrize("moment", [pytest.param("before", marks=pytest.mark.slow), "after"])
def test_a_prepare_that_is_killed_at_its_rename_is_done_again(corpus, music, tmp_path, moment):
    out = tmp_path / "out"
    words = ["prepare", str(music), "--out", str(out)]
    assert killed_at("/out", moment, words) == -signal.SIGKILL
    assert out.exists() == (moment == "after")
    assert main(words) == 0
    for name in ("tokens.npy", "pieces.jsonl", "vocab.json", "manifest.json"):
        assert (out / name).read_bytes() == (corpus / name).read_bytes(), name


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_training_that_is_killed_as_a_checkpoint_becomes_whole_loses_no_row(corpus, tmp_path, moment):
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert main(train_words(corpus, whole)) == 0
    assert killed_at("/checkpoints/8", moment, train_words(corpus, run)) == -signal.SIGKILL
    steps = {path.name for path in (run / "checkpoints").iterdir() if path.name.isdecimal()}
    assert ("8" in steps) == (moment == "after")
    assert main(train_words(corpus, run)) == 0
    assert measured(run) == measured(whole)


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a disk of so many bytes, or makes it another size."""
    place = tmp_path / "disk"
    place.mkdir()

    def resize(size, remount=""):
        command = ["mount", "-t", "tmpfs", "-o", f"{remount}size={size}", "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("only the superuser can mount a small disk")
        return place

    yield resize
    subprocess.run(["umount", str(place)], capture_output=True, check=False)


def test_a_full_disk_is_told_and_nothing_is_lost(corpus, tmp_path, small_disk, capsys):
    disk = small_disk(3_000_000)
    given = train_words(corpus, disk / "run", **{"model.width": 64, "train.steps_per_call": 1})
    assert main(given) == AGAIN  # the second checkpoint finds no room
    said = capsys.readouterr().err.splitlines()[-1]
    assert "MB are free where a checkpoint takes" in said
    assert "the same command goes on from" in said
    small_disk(64_000_000, "remount,")
    assert main(given) == 0
    assert main(train_words(corpus, tmp_path / "run", **{"model.width": 64, "train.steps_per_call": 1})) == 0
    assert measured(disk / "run", "valid.nats") == measured(tmp_path / "run", "valid.nats")


def test_a_disk_that_fills_while_a_checkpoint_is_written_is_told(corpus, tmp_path, monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing in OCDBT database: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("orbax.checkpoint.CheckpointManager.save", refuse)
        assert main(train_words(corpus, tmp_path / "run")) == AGAIN
    said = capsys.readouterr().err.splitlines()[-1]
    assert "a checkpoint could not be written (RESOURCE_EXHAUSTED" in said
    assert "goes on from its start" in said
    assert main(train_words(corpus, tmp_path / "run")) == 0


def test_a_study_on_a_full_disk_blames_no_arm(music, tmp_path, small_disk, capsys):
    disk = small_disk(3_000_000)
    base = SMALLEST | {"model.width": 64, "train.evaluate_every": 4, "train.steps_per_call": 2}
    described = {"corpus": [str(music)], "budget": {"steps": 8}, "base": base, "seeds": [0, 1]}
    study = make_study(described | {"measure": ["nats_per_quarter"]}, "tiny")
    with pytest.raises(DiskError, match="MB are free"):
        run_study(study, disk / "study")
    assert not list((disk / "study").rglob("failure.json"))
    small_disk(64_000_000, "remount,")
    found = run_study(study, disk / "study")
    assert [row["seed"] for row in found if row["name"].endswith(".seed")] == [0, 1]


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for the superuser")
def test_a_folder_that_takes_nothing_is_told(corpus, tmp_path, capsys):
    place = tmp_path / "closed"
    place.mkdir(mode=0o500)
    assert main(train_words(corpus, place / "run")) == 2
    assert f"{place / 'run'}: cannot be made (Permission denied)" in capsys.readouterr().err


def test_a_device_without_memory_says_so_in_the_code_of_its_error():
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.block_until_ready(jax.numpy.zeros(1 << 46))
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: in another sense"))


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(corpus, tmp_path, monkeypatch):
    """Rows say when; nothing is decided by it."""
    assert main(train_words(corpus, tmp_path / "run")) == 0
    hours = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: next(hours))
    assert main(train_words(corpus, tmp_path / "back")) == 0
    assert measured(tmp_path / "back", "valid.nats") == measured(tmp_path / "run", "valid.nats")
