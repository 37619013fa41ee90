"""`train.step` by itself: a training loop of one's own is that of `fit`, and a step is a pure function."""

import jax
import numpy as np
import pytest

from midigen_jax.config import Config, override
from midigen_jax.data.batches import make_crops
from midigen_jax.train.checkpoint import open_run
from midigen_jax.train.loop import fit
from midigen_jax.train.step import (
    batch_at,
    dropout_keys,
    hyperparameters,
    init_state,
    loss,
    make_network,
    train_step,
)
from tests.tiny import SMALLEST, tiny_corpus

# Three rows, which two devices cannot share: sums over rows are then in the order of one device.
TEN = override(
    Config(),
    SMALLEST
    | {
        "batch.rows": 3,
        "model.blocks": ("lstm", "lstm", "pooled"),
        "model.dropout": 0.3,
        "model.recurrent_dropout": 0.1,
        "train.steps": 10,
        "train.warmup": 2,
        "train.average": 0.9,
    },
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, write_melodies):
    return tiny_corpus(tmp_path_factory, write_melodies, TEN.prepare)


def train(corpus, config):
    """A training loop of one's own: no mesh, no replicas, no folder. Dropout is right by itself."""
    network = make_network(config, corpus.vocabulary)
    crops = make_crops(corpus, "train", config.batch)
    hyper, state = hyperparameters(config), init_state(network, config.train)

    @jax.jit
    def step(state, hyper, crops):
        batch = batch_at(state.step, crops, hyper, config, corpus.vocabulary)
        return train_step(state, batch, hyper, network=network, config=config, steps=config.train.steps)

    losses = []
    for _ in range(config.train.steps):
        state, metrics = step(state, hyper, crops)
        losses.append(sum(metrics.nats.values()))
    return state, np.array(losses)


@pytest.mark.parametrize("changes", [{}, {"model.dropout": 0.0, "train.optimizer": "rmsprop"}])
def test_a_loop_of_ones_own_is_that_of_fit_to_the_bit(corpus, tmp_path, changes):
    config = override(TEN, changes)
    state, losses = train(corpus, config)
    fit(corpus, config, tmp_path / "run")
    with open_run(tmp_path / "run") as checkpoints:
        trained = checkpoints.restore("latest").state
    jax.tree.map(np.testing.assert_array_equal, state, trained)
    assert losses[-1] < losses[0]


def test_what_is_dropped_depends_on_the_step_and_the_seed_alone(corpus):
    network = make_network(TEN, corpus.vocabulary)
    crops = make_crops(corpus, "train", TEN.batch)
    params = init_state(network, TEN.train).params

    @jax.jit
    def nats(step, seed, drop=True):
        hyper = hyperparameters(TEN)._replace(seed=seed)
        batch = batch_at(0, crops, hyper, TEN, corpus.vocabulary)
        drops = dropout_keys(step, hyper, TEN)
        return loss(params, batch, drops, 1.0, network, TEN.train)[0]

    known = nats(3, np.uint32(0))
    assert nats(3, np.uint32(0)) == known
    assert nats(4, np.uint32(0)) != known
