"""Training steps: however many in a call, on however many devices, with tables or products, in any dtype."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from midigen_jax.config import Config, PrepareConfig, TrainConfig, override
from midigen_jax.data.batches import crops_of, make_crops
from midigen_jax.data.prepare import prepare
from midigen_jax.model.network import Network, score
from midigen_jax.train.distributed import data_mesh
from midigen_jax.train.optimizer import make_optimizer
from midigen_jax.train.replicas import make_train_steps, start_alone
from midigen_jax.train.step import TrainState, init_state, make_network
from midigen_jax.vocab.note import NoteVocabulary

TINY = override(
    Config(),
    {
        "model.width": 8,
        "model.pitch_embedding": 4,
        "model.duration_embedding": 4,
        "batch.rows": 8,
        "batch.length": 6,
        "train.steps": 8,
        "train.warmup": 2,
        "train.steps_per_call": 4,
    },
)
NOTE = NoteVocabulary(4)


def some_crops(config=TINY.batch, pieces=5, length=20):
    """Random events, which the rules need not like, in pieces of one length."""
    rng = np.random.default_rng(0)
    tokens = np.stack([rng.integers(2, 200, pieces * length), rng.integers(0, 5, pieces * length)], axis=1)
    return crops_of(np.split(tokens, pieces), config, NOTE)


def train(config, calls, devices=1):
    """The state after the calls, each of so many steps, and the metrics of all steps."""
    network = Network(config.model, NOTE)
    mesh = data_mesh(devices)
    assert mesh.size == devices
    steps = make_train_steps(network, config, config.train.steps, True, mesh)
    state, hyper, crops = start_alone(network, config, some_crops(), mesh)
    found = []
    for count in calls:
        state, metrics_NK = steps(state, hyper, crops, np.array([count]))
        columns = (np.asarray(values)[0, :count] for values in jax.tree.leaves(metrics_NK))
        found += list(zip(*columns, strict=True))
    return state, np.array(found)


def test_steps_in_one_call_are_the_same_steps_one_by_one():
    one_by_one, expected = train(TINY, [1] * 7)
    at_once, found = train(TINY, [4, 3])
    np.testing.assert_array_equal(found, expected)
    jax.tree.map(np.testing.assert_array_equal, at_once, one_by_one)


def test_one_program_serves_any_number_of_steps():
    network, mesh = Network(TINY.model, NOTE), data_mesh(2)
    steps = make_train_steps(network, TINY, 8, True, mesh)
    state, hyper, crops = start_alone(network, TINY, some_crops(), mesh)
    for count in (1, 4, 2):
        state, _ = steps(state, hyper, crops, np.array([count]))
    assert steps._cache_size() == 1
    assert state.step == 7


EIGHT = """
import sys
sys.path.insert(0, sys.argv[1])
from test_steps import TINY, np, train
_, one = train(TINY, [4])
_, eight = train(TINY, [4], devices=8)
np.testing.assert_allclose(eight, one, rtol=2e-5)
print("agree")
"""


def test_eight_devices_give_the_losses_of_one_dropout_and_all():
    words = [sys.executable, "-c", EIGHT, str(Path(__file__).parent)]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "agree\n", done.stderr


def test_looked_up_projections_are_the_multiplied_ones_in_nats_and_gradients(monkeypatch):
    model = dataclasses.replace(TINY.model, dropout=0.0)
    network = Network(model, NOTE)
    params = jax.tree.map(lambda leaf: 3 * leaf, init_state(network, TINY.train).params)
    rng = np.random.default_rng(1)
    most = {"pitch": (2, 200), "duration": (0, 5)}
    events = {name: jnp.asarray(rng.integers(*bounds, (8, 65))) for name, bounds in most.items()}
    mask = jnp.arange(64)[None] < jnp.array([64, 64, 3, 50, 0, 64, 1, 64])[:, None]

    def loss(params, times=64):
        read = {name: ids[:, : times + 1] for name, ids in events.items()}
        carry, nats = score(network, params, network.initial_carry(8), read, mask[:, :times])
        return (nats["pitch"] + nats["duration"]).mean() + carry.blocks[0].cell_BD.mean()

    uses = []
    projections = Network.projections
    monkeypatch.setattr(Network, "projections", lambda self: uses.append(self) or projections(self))
    jax.eval_shape(lambda params: loss(params, times=2), params)
    assert not uses  # 16 events are fewer than there are ids to multiply
    looked_up = jax.jit(jax.value_and_grad(loss))(params)
    assert uses
    monkeypatch.setattr(Network, "projections", lambda self: None)
    multiplied = jax.jit(jax.value_and_grad(loss))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), looked_up, multiplied)


def test_the_average_of_the_weights_is_what_is_used_and_changes_no_training():
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)}
    states = {}
    for decay in (0.0, 0.3):
        optimizer = make_optimizer(TrainConfig(steps=5, warmup=0, average=decay), 5)
        state = TrainState(jnp.int32(0), params, optimizer.init(params))
        seen = [params]
        for step in range(5):
            gradient = jax.tree.map(lambda leaf, step=step: jnp.cos(leaf + step), params)
            updates, memory = optimizer.update(gradient, state.optimizer, state.params)
            state = TrainState(state.step + 1, optax.apply_updates(state.params, updates), memory)
            seen.append(state.params)
        states[decay] = state, seen
    (plain, expected), (averaged, found) = states.values()
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert plain.ema_params is plain.params
    average = np.asarray(params["w"])
    for count, after in enumerate(found[1:]):
        kept = min(0.3, (1 + count) / (10 + count))
        average = kept * average + (1 - kept) * np.asarray(after["w"])
    np.testing.assert_allclose(averaged.ema_params["w"], average, rtol=1e-5)


CHORALES = Path(__file__).resolve().parents[2] / "shared" / "data" / "JSB_Chorales.mat"


@pytest.mark.skipif(not CHORALES.is_file(), reason="the JSB chorales are not beside the checkout")
def test_bfloat16_training_follows_float32_on_chorales_within_two_hundredths_of_a_nat(tmp_path):
    corpus = prepare([str(CHORALES)], tmp_path / "corpus", PrepareConfig(), workers=1)
    curves = []
    for dtype in ("float32", "bfloat16"):
        config = override(
            Config(train=TrainConfig(steps=40, warmup=5, steps_per_call=40)),
            {"model.width": 64, "model.compute_dtype": dtype, "batch.rows": 8, "batch.length": 64},
        )
        network = make_network(config, corpus.vocabulary)
        steps = make_train_steps(network, config, 40, True, data_mesh(1))
        crops = make_crops(corpus, "train", config.batch)
        _, metrics_NK = steps(*start_alone(network, config, crops, data_mesh(1)), np.array([40]))
        curves.append(sum(np.asarray(nats_NK)[0] for nats_NK in metrics_NK.nats.values()))
    exact, rounded = curves
    assert exact[-5:].mean() < 0.6 * exact[0]
    assert (rounded != exact).any()
    np.testing.assert_allclose(rounded, exact, atol=0.02 * exact[0])
    assert abs(rounded[-10:].mean() - exact[-10:].mean()) < 0.02
