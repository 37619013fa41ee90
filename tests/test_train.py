"""Training: what is cut goes on as if it had not been; what is damaged is named; what diverges stops."""

import dataclasses
import json
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from midigen_jax import rows
from midigen_jax.config import Config, TrainConfig, override
from midigen_jax.data.prepare import prepare
from midigen_jax.errors import InputError
from midigen_jax.progress import Progress
from midigen_jax.train import loop
from midigen_jax.train.checkpoint import open_run
from midigen_jax.train.loop import Training, fit, fit_all
from midigen_jax.train.optimizer import learning_rate
from midigen_jax.train.scoring import METRIC
from midigen_jax.train.step import loss_weight
from tests.tiny import SMALLEST

TINY = override(
    Config(),
    SMALLEST
    | {
        "train.steps": 12,
        "train.warmup": 2,
        "train.evaluate_every": 4,
    },
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, write_melodies):
    folder = tmp_path_factory.mktemp("corpus")
    music = write_melodies(folder / "music", tempo=100, meter=(3, 4))
    return prepare([str(music)], folder / "out", TINY.prepare, workers=1)


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """A run of 12 steps that nothing interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert fit(corpus, TINY, run).step == 12
    return run


def interrupt_at(monkeypatch, step, number):
    advance = Progress.advance

    def cut(progress, *args, **kwargs):
        advance(progress, *args, **kwargs)
        if progress._done == step:
            signal.raise_signal(number)

    monkeypatch.setattr(Progress, "advance", cut)


def measured(run):
    """What training and validation measured, but for times."""
    kept = [row for row in rows.read(run / "rows.jsonl") if "nats" in row["name"] and row["step"] % 4 == 0]
    return [(row["step"], row["name"], row["value"]) for row in kept if row["name"].startswith("valid")]


@pytest.mark.parametrize(("step", "number"), [(3, signal.SIGTERM), (8, signal.SIGINT)])
def test_a_training_that_was_stopped_anywhere_goes_on_to_the_same_bits(
    corpus, whole, tmp_path, monkeypatch, number, step
):
    with monkeypatch.context() as patch:
        interrupt_at(patch, step, number)
        assert fit(corpus, TINY, tmp_path / "run").step == step
    assert fit(corpus, TINY, tmp_path / "run").step == 12
    assert measured(tmp_path / "run") == measured(whole)
    states = []
    for run in (tmp_path / "run", whole):
        with open_run(run) as checkpoints:
            states.append(checkpoints.restore("latest").state)
    jax.tree.map(np.testing.assert_array_equal, *states)


@pytest.fixture
def guarded(monkeypatch):
    """From the first call to the last, nothing goes to a device or comes from it that was not asked for.

    An eager operation with a number of the host's sends it, and then waits for the call that is running.
    """
    train = loop._train

    def watched(*given):
        with jax.transfer_guard("disallow"):
            return train(*given)

    monkeypatch.setattr(loop, "_train", watched)


@pytest.mark.parametrize(
    "changes",
    [
        {"train.average": 0.9, "train.on_nan": "skip"},
        {"batch.stream": True, "train.optimizer": "rmsprop", "train.schedule": "constant"},
    ],
    ids=["held", "streamed"],
)
def test_calls_rows_validations_and_checkpoints_name_all_that_they_send_and_fetch(
    corpus, tmp_path, guarded, changes
):
    config = override(TINY, {"train.steps_per_call": 2} | changes)
    assert fit(corpus, config, tmp_path / "run").step == 12
    written = rows.read(tmp_path / "run" / "rows.jsonl")
    found = {row["step"]: row["value"] for row in written if row["name"] == "train.learning_rate"}
    rate = learning_rate(config.train, 12)
    assert set(found) == {1, 4, 8, 10, 12}
    for step, value in found.items():
        assert value == pytest.approx(
            config.train.learning_rate * float(rate(step - 1)), rel=1e-5
        )  # a cosine, fused or not


def test_so_do_replicas_some_of_which_have_ended(corpus, tmp_path, guarded):
    wild = {"train.learning_rate": 100.0, "train.weight_decay": 1e6}
    config = override(TINY, {"train.steps_per_call": 4, "train.clip": 0})
    trainings = [
        Training(override(config, changes), tmp_path / name)
        for name, changes in {"one": {}, "wild": wild, "two": {"train.seed": 1}}.items()
    ]
    done = fit_all(corpus, trainings)
    assert [one.step for one in done if one.failure is None] == [12, 12]


def test_a_checkpoint_holds_all_that_restoring_needs(corpus, whole):
    with open_run(whole) as checkpoints:
        assert checkpoints.steps() == [1, 12]
        restored = checkpoints.restore("best")
    assert restored.step == 12
    assert restored.metadata.config.model == TINY.model
    assert restored.metadata.config.prepare == corpus.config
    assert restored.metadata.vocabulary == corpus.vocabulary
    assert (round(restored.metadata.tempo, 3), restored.metadata.meter) == (100, (3, 4))
    assert restored.metrics[METRIC] == measured(whole)[-3][2]


def cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def turn_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_short, turn_a_bit, Path.unlink], ids=["cut", "bit", "missing"])
@pytest.mark.parametrize("part", ["experiment", "state"])
def test_a_damaged_newest_checkpoint_is_named_and_passed_over(corpus, whole, tmp_path, capsys, damage, part):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    pattern = {"experiment": "*", "state": "ocdbt.*/d/*"}[part]
    files = [path for path in (run / "checkpoints" / "12" / part).glob(pattern) if path.is_file()]
    # All of them: on a busy machine a commit that was tried again leaves files behind that nothing refers to.
    for path in files:
        if path.stat().st_size:
            damage(path)
    with open_run(run) as checkpoints:
        assert checkpoints.restore("latest").step == 1
        assert "12: damaged checkpoint" in capsys.readouterr().err
        with pytest.raises(InputError, match="12: damaged checkpoint"):
            checkpoints.restore("12")


def test_a_run_without_a_checkpoint_and_a_step_that_is_not_there_are_refused(whole, tmp_path):
    with open_run(whole) as checkpoints, pytest.raises(InputError, match="there is best, latest, 1, 12"):
        checkpoints.restore("7")
    with pytest.raises(InputError, match="no run there"):
        open_run(tmp_path)


def test_a_training_that_diverges_stops_with_the_remedy_and_its_rows_stay_json(corpus, tmp_path):
    wild = override(TINY, {"train.learning_rate": 100, "train.clip": 0, "train.schedule": "constant"})
    wild = override(wild, {"train.steps": 4000, "train.evaluate_every": 50, "train.weight_decay": 1e6})
    with pytest.raises(InputError, match=r"diverged: .* at step \d+; lower --train.learning_rate"):
        fit(corpus, wild, tmp_path / "run")
    for line in (tmp_path / "run" / "rows.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_a_folder_where_no_step_was_made_can_be_given_other_settings(corpus, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(InputError, match="given to nobody"):
        fit(dataclasses.replace(corpus, manifest=_Broken(corpus.manifest)), TINY, run)
    assert fit(corpus, override(TINY, {"train.steps": 1}), run).step == 1
    with pytest.raises(InputError, match=r"holds a run with train\.seed = 0, not 1"):
        fit(corpus, override(TINY, {"train.steps": 1, "train.seed": 1}), run)


def test_a_run_of_an_older_version_goes_on_with_the_defaults_of_what_it_did_not_know(corpus, whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    settings = json.loads((run / "config.json").read_text())
    del settings["model"]["embedding"]
    (run / "config.json").write_text(json.dumps(settings))
    assert fit(corpus, TINY, run).step == 12
    with pytest.raises(InputError, match=r"holds a run with model\.embedding = 32, not 2"):
        fit(corpus, override(TINY, {"model.embedding": 2}), run)


def test_rows_of_somebody_else_are_not_taken_for_a_run(corpus, tmp_path):
    rows.append(tmp_path / "run" / "rows.jsonl", [rows.make("mine", 1, "1")])
    with pytest.raises(InputError, match=r"holds something else \(rows\.jsonl\)"):
        fit(corpus, TINY, tmp_path / "run")
    assert len(rows.read(tmp_path / "run" / "rows.jsonl")) == 1


class _Broken(dict):
    """A manifest that fails after the run folder was made."""

    def __getitem__(self, name):
        if name == "plan":
            raise InputError("given to nobody")
        return super().__getitem__(name)


def test_the_last_position_alone_can_give_the_loss():
    mask_BT = jnp.array([[True, True, True], [True, False, False], [False, False, False]])
    last = loss_weight(mask_BT, TrainConfig(loss_positions="last"))
    np.testing.assert_array_equal(last, [[0, 0, 1], [1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(loss_weight(mask_BT, TrainConfig()), mask_BT)


PATIENT = {"train.patience": 4, "train.evaluate_every": 2, "train.steps_per_call": 1}


def patient(corpus, run, scores, monkeypatch):
    """A training of 12 steps with patience for 4, whose validations find these nats."""
    found = iter(scores)
    monkeypatch.setattr(loop, "validate", lambda *given: {METRIC: next(found)})
    return fit(corpus, override(TINY, PATIENT), run)


def test_training_ends_when_no_validation_was_better_for_so_many_steps(corpus, tmp_path, monkeypatch):
    run = tmp_path / "run"
    # There is one after the first step, whose checkpoint is kept, and then one after every second.
    done = patient(corpus, run, [5.0, 3.0, 2.0, 2.5, 2.25, 1.0, 1.0], monkeypatch)
    assert (done.step, done.steps, done.kept, done.interrupted) == (8, 12, (1, 4), False)
    with open_run(run) as checkpoints:
        assert checkpoints.restore("best").step == 4
    assert patient(corpus, run, [], monkeypatch) == done
    better = patient(corpus, tmp_path / "better", [5.0, 3.0, 2.0, 2.5, 1.5, 1.25, 1.0], monkeypatch)
    assert (better.step, better.kept, better.interrupted) == (12, (1, 12), False)


def test_a_training_that_was_cut_between_validations_is_as_patient(corpus, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(patch, 7, signal.SIGINT)
        cut = patient(corpus, run, [5.0, 3.0, 2.0, 2.5], patch)
    assert (cut.step, cut.interrupted) == (7, True)
    assert patient(corpus, run, [2.25], monkeypatch).step == 8
