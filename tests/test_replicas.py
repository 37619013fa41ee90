"""Replicas: each of them is the run that it would be alone, for every attention and heads (law 9)."""

import json
import signal

import jax
import numpy as np
import pytest

from midigen_jax import rows
from midigen_jax.config import Config, override
from midigen_jax.data.batches import crops_of
from midigen_jax.model.network import Network
from midigen_jax.progress import Progress
from midigen_jax.train.checkpoint import open_run
from midigen_jax.train.distributed import REPLICA, data_mesh
from midigen_jax.train.loop import Training, fit, fit_all
from midigen_jax.train.replicas import by_replica, make_train_steps, shape_key, stack, take
from midigen_jax.train.step import hyperparameters, init_state
from midigen_jax.vocab import note
from midigen_jax.vocab.note import NoteVocabulary
from tests.tiny import tiny_corpus

TINY = override(
    Config(),
    {
        "model.width": 8,
        "model.pitch_embedding": 4,
        "model.duration_embedding": 4,
        "model.recurrent_dropout": 0.2,
        "batch.rows": 4,
        "batch.length": 6,
        "train.steps": 4,
        "train.warmup": 2,
        "train.steps_per_call": 4,
        "train.average": 0.9,
    },
)
# What may differ between replicas, all of it.
VALUES = [
    {},
    {"train.seed": 1},
    {"train.learning_rate": 0.02, "train.weight_decay": 0.3, "train.duration_weight": 0.25},
    {
        "model.dropout": 0.6,
        "model.embedding_dropout": 0.1,
        "model.recurrent_dropout": 0.4,
        "batch.transpose_share": 0.9,
    },
]
ATTENTIONS = [(), ("pooled",), ("pooled(window=3)",), ("multihead(heads=2, window=3)",)]
# `make test` tries every attention, with either kind of heads; `make test-all` both with each.
KINDS = [
    pytest.param(attention, heads, marks=pytest.mark.slow if (number + place) % 2 else [])
    for number, attention in enumerate(ATTENTIONS)
    for place, heads in enumerate(["independent", "chained"])
]
NOTE = NoteVocabulary(4)
# Adam divides by the size of gradients, which makes much of the rounding of those that are nearly 0.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
PROGRAMS: dict = {}


def some_crops(config):
    """Melodies, which the rules like."""
    rng = np.random.default_rng(0)
    first = note.ATTACKED + 20
    tokens = np.stack([rng.integers(first, first + 80, 100), rng.integers(1, 5, 100)], axis=1)
    return crops_of(np.split(tokens, 5), config.batch, NOTE)


def program(config, mesh, together):
    """The steps of a shape, made of the first config that has it, and compiled once a number of replicas."""
    key = shape_key(config), mesh, together
    if key not in PROGRAMS:
        network = Network(config.model, NOTE)
        PROGRAMS[key] = make_train_steps(network, config, 4, True, mesh, together=together)
    return PROGRAMS[key]


def train(configs, counts, together=1, devices=1):
    """(state, metrics) of each of these, trained as replicas on so many devices."""
    mesh = data_mesh(1, devices)
    assert mesh.shape[REPLICA] == devices
    config = configs[0]
    network = Network(config.model, NOTE)
    states = stack([init_state(network, one.train) for one in configs])
    hyper = stack([hyperparameters(one) for one in configs])
    states, hyper = jax.device_put((states, hyper), by_replica(mesh))
    done = program(config, mesh, together)(states, hyper, some_crops(config), np.array(counts, np.int32))
    return [jax.device_get(take(done, number)) for number in range(len(configs))]


def alone(config, count):
    return train([config], [count])[0]


def agree(found, expected, count):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), found[0], expected[0])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[:count], b[:count], **CLOSE), found[1], expected[1]
    )


@pytest.mark.parametrize(("attention", "heads"), KINDS)
def test_a_replica_is_the_run_that_it_would_be_alone(attention, heads):
    changes = {"model.blocks": ("lstm", *attention), "model.heads": heads}
    configs = [override(override(TINY, changes), values) for values in VALUES]
    counts = [4, 3, 4, 2]  # one may be behind the others, as after a cut
    found = train(configs, counts)
    for config, count, one in zip(configs, counts, found, strict=True):
        assert one[0].step == count
        agree(one, alone(config, count), count)
    assert len({float(one[0].params["head_pitch"]["kernel"].sum()) for one in found}) == len(configs)


@pytest.mark.parametrize(("together", "devices"), [(4, 1), (2, 1), (1, 2), (2, 2)])
def test_how_replicas_share_devices_changes_nothing(together, devices):
    configs = [override(TINY, values) for values in VALUES]
    counts = [4, 3, 0, 2]
    expected = train(configs, counts)
    for count, one, other in zip(counts, train(configs, counts, together, devices), expected, strict=True):
        agree(one, other, count)


def test_what_is_given_to_a_program_is_no_part_of_its_shape():
    assert len({shape_key(override(TINY, values)) for values in VALUES}) == 1
    # Shares of 0 are: programs that drop nothing need not look at what to drop.
    others = [{"model.dropout": 0.0, "model.embedding_dropout": 0.1}, {"model.recurrent_dropout": 0.0}]
    others += [{"batch.transpose_share": 0.0}, {"model.width": 16}, {"train.steps": 5}]
    assert len({shape_key(override(TINY, values)) for values in [{}, *others]}) == 6
    assert shape_key(override(TINY, {"sample.count": 9})) == shape_key(TINY)


RUNS = override(TINY, {"batch.length": 16, "train.steps": 6, "train.evaluate_every": 2})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, write_melodies):
    return tiny_corpus(tmp_path_factory, write_melodies, RUNS.prepare)


def group(folder, changes=VALUES[:3]):
    return [Training(override(RUNS, one), folder / f"run-{number}") for number, one in enumerate(changes)]


def weights(run):
    with open_run(run) as checkpoints:
        return jax.device_get(checkpoints.restore("latest").state)


def losses(run):
    names = ("valid.nats_per_event", "train.nats_per_event.pitch")
    return [(row["step"], row["value"]) for row in rows.read(run / "rows.jsonl") if row["name"] in names]


def test_a_group_of_runs_is_runs(corpus, tmp_path):
    """Each has a folder of its own that any command takes, with the rows and the weights of a lone run."""
    trainings = group(tmp_path / "group")
    told = []
    trainings = [
        one._replace(callbacks=[lambda step, rows, run=one.run_dir: told.append((run, step))])
        for one in trainings
    ]
    done = fit_all(corpus, trainings)
    assert [(one.step, one.interrupted, one.failure) for one in done] == [(6, False, None)] * 3
    assert {run for run, step in told if step == 6} == {training.run_dir for training in trainings}
    for number, training in enumerate(trainings):
        lone = tmp_path / f"lone-{number}"
        fit(corpus, training.config, lone)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), weights(training.run_dir), weights(lone)
        )
        np.testing.assert_allclose(losses(training.run_dir), losses(lone), rtol=1e-5)
        assert json.loads((training.run_dir / "config.json").read_text()) == json.loads(
            (lone / "config.json").read_text()
        )


def test_a_group_that_was_cut_goes_on_as_if_it_had_not_been(corpus, tmp_path, monkeypatch):
    whole, cut = group(tmp_path / "whole"), group(tmp_path / "cut")
    fit_all(corpus, whole)
    with monkeypatch.context() as patch:
        advance, asked = Progress.advance, []

        def interrupted(progress, *args, **kwargs):
            advance(progress, *args, **kwargs)
            if progress._done >= 9 and not asked:
                asked.append(True)
                signal.raise_signal(signal.SIGINT)

        patch.setattr(Progress, "advance", interrupted)
        assert all(one.interrupted for one in fit_all(corpus, cut))
    assert all(one.step == 6 for one in fit_all(corpus, cut))
    for one, other in zip(cut, whole, strict=True):
        jax.tree.map(np.testing.assert_array_equal, weights(one.run_dir), weights(other.run_dir))


def test_one_that_diverges_ends_and_the_others_go_on(corpus, tmp_path):
    wild = {"train.learning_rate": 100.0, "train.weight_decay": 1e6}
    trainings = group(tmp_path, [{}, wild, {"train.seed": 1}])
    free = [one._replace(config=override(one.config, {"train.clip": 0.0})) for one in trainings]
    done = fit_all(corpus, free)
    assert [one.failure is None for one in done] == [True, False, True]
    assert "the training diverged" in done[1].failure
    assert [one.step for one in (done[0], done[2])] == [6, 6]
