"""What a training says of itself: steps that are skipped, the last good one, and rows for TensorBoard."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bench_scale import recompilations
from midigen_jax import rows
from midigen_jax.cli import main
from midigen_jax.config import Config, TrainConfig, override
from midigen_jax.data.batches import Epochs
from midigen_jax.errors import InputError
from midigen_jax.train.loop import fit
from midigen_jax.train.optimizer import MOST_SKIPPED, make_optimizer
from midigen_jax.train.run_dir import DivergedError, RowLog
from midigen_jax.train.step import Metrics
from tests.tiny import SMALLEST, tiny_corpus

TINY = override(
    Config(),
    SMALLEST
    | {
        "train.steps": 12,
        "train.evaluate_every": 4,
        "sample.count": 1,
        "sample.events": 16,
    },
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, write_melodies):
    return tiny_corpus(tmp_path_factory, write_melodies, TINY.prepare)


@pytest.mark.parametrize("rule", ["adamw", "rmsprop"])
def test_a_step_without_a_number_is_skipped(rule):
    config = TrainConfig(optimizer=rule, on_nan="skip", average=0.9, warmup=0)
    optimizer = make_optimizer(config, 100)
    params = {"kernel": jnp.ones((2, 2))}
    state = optimizer.init(params)

    def step(gradient, params, state):
        updates, state = optimizer.update({"kernel": jnp.full((2, 2), gradient)}, state, params)
        return optax.apply_updates(params, updates), state

    moved, known = step(0.1, params, state)
    assert not np.array_equal(moved["kernel"], params["kernel"])
    still, after = step(jnp.nan, moved, known)
    np.testing.assert_array_equal(still["kernel"], moved["kernel"])
    before, average = (optax.tree.get(each, "average") for each in (known, after))
    np.testing.assert_array_equal(average["kernel"], before["kernel"])
    # As if the step had not been.
    for ours, theirs in zip(*(step(0.2, still, each) for each in (known, after)), strict=True):
        np.testing.assert_array_equal(jax.tree.leaves(ours)[-1], jax.tree.leaves(theirs)[-1])
    for _ in range(MOST_SKIPPED):
        still, after = step(jnp.inf, still, after)
    assert not np.isfinite(still["kernel"]).all()  # which is found, and ends the training


def call(last, losses):
    ones = np.ones(len(losses))
    return last, len(losses), Metrics({"pitch": np.array(losses), "duration": ones}, ones, 4 * ones, ones)


def test_skipped_steps_are_counted_and_in_no_mean(tmp_path):
    log = RowLog(tmp_path / "rows.jsonl", Config(train=TrainConfig(on_nan="skip")), Epochs(10, 2), flops=1e6)
    log.train(*call(10, [1.0] * 7 + [np.nan] * 2 + [3.0]), 0.1)
    found = {row["name"]: row["value"] for row in rows.read(tmp_path / "rows.jsonl")}
    assert found["train.skipped_steps"] == 2
    assert found["train.nats_per_event.pitch"] == pytest.approx(10 / 8)
    stops = RowLog(tmp_path / "stops.jsonl", Config(), Epochs(10, 2), flops=1e6)
    with pytest.raises(DivergedError, match=r"train\.nats_per_event\.pitch is nan at step 10"):
        stops.train(*call(10, [1.0] * 9 + [np.nan]), 0.1)


def test_the_share_of_the_peak_is_told_where_that_is_known(tmp_path, monkeypatch):
    log = RowLog(tmp_path / "rows.jsonl", Config(), Epochs(10, 2), flops=1e6)
    log.train(*call(10, [1.0] * 10), 0.1)
    monkeypatch.setattr("midigen_jax.train.run_dir.peak_flops", lambda: 1e9)
    log.train(*call(20, [1.0] * 10), 0.1)
    shares = [
        (row["step"], row["value"]) for row in rows.read(tmp_path / "rows.jsonl") if "peak" in row["name"]
    ]
    assert shares == [(20, pytest.approx(40 * 1e6 / 1e9))]  # 4 events in a tenth of a second


def test_what_diverges_names_its_last_good_checkpoint(corpus, tmp_path):
    wild = {"train.learning_rate": 100, "train.clip": 0, "train.schedule": "constant", "train.steps": 4000}
    wild |= {"train.evaluate_every": 2, "train.weight_decay": 1e6, "train.steps_per_call": 1}
    with pytest.raises(InputError, match=r"diverged.*; its last good checkpoint is of step \d+$"):
        fit(corpus, override(TINY, wild), tmp_path / "run")


def test_nothing_is_compiled_after_the_first_validation(corpus, tmp_path):
    assert recompilations(TINY, corpus, tmp_path / "held") == 0
    assert recompilations(override(TINY, {"batch.stream": True}), corpus, tmp_path / "streamed") == 0


def test_callbacks_are_told_of_every_row_once_and_of_how_far_a_run_has_come(corpus, tmp_path):
    told, steps = [], []

    def callback(step, rows):
        steps.append(step)
        told.extend(rows)

    fit(corpus, TINY, tmp_path / "run", [callback])
    assert steps == sorted(steps)
    assert steps[-1] == 12
    read = rows.read(tmp_path / "run" / "rows.jsonl")
    assert [json.loads(rows.line(row)) for row in told] == read


def test_tensorboard_has_the_rows_and_takes_more_when_a_training_goes_on(corpus, tmp_path):
    words = ["train", str(corpus.path), "--out", str(tmp_path / "run"), "--tensorboard"]
    words += [
        "--model.width=8",
        "--model.blocks=lstm,pooled",
        "--batch.rows=2",
        "--batch.length=16",
        "--steps=4",
    ]
    words += ["--steps=4", "--sample.count=1", "--sample.events=16", "--train.evaluate_every=2"]
    assert main(words) == 0
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    content = events.read_bytes()
    for name in (
        b"valid/nats_per_event.pitch",
        b"train/learning_rate",
        b"model/parameters",
        b"train/most_memory",
    ):
        assert name in content
    assert main(words) == 0
