"""Law 11: training and decoding lower for CPU, CUDA and TPU, on a machine that need not have them."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from midigen_jax.config import BatchConfig, Config, ContextConfig, ModelConfig, TrainConfig
from midigen_jax.data.batches import crops_of
from midigen_jax.model.grammar import NoteGrammar
from midigen_jax.model.network import Network
from midigen_jax.music.tokens import NoteTokenizer
from midigen_jax.sample.constraints import constraints
from midigen_jax.sample.decode import How, Prompt, Settings, decode
from midigen_jax.sample.filters import Controls
from midigen_jax.train.devices import data_mesh
from midigen_jax.train.optimizer import make_optimizer
from midigen_jax.train.state import init_state, make_train_steps

PLATFORMS = ("cpu", "cuda", "tpu")
KINDS = list(
    itertools.product(
        [("none", 0), ("pooled", 0), ("pooled", 3), ("multihead", 3)],
        ["independent", "chained"],
        ["float32", "bfloat16"],
    )
)

TOLD = ContextConfig(place=True, meters=(5,), previous=True, lags=(1,), relative=(2, 7), intervals=True)


def tiny(attention, heads, dtype):
    kind, window = attention
    told = heads == "chained"  # all that the network may be told, for one kind of heads
    model = ModelConfig(
        pitch_embedding=4,
        duration_embedding=4,
        width=8,
        layers=2,
        attention=kind,
        attention_window=window,
        attention_values="events" if told and kind == "multihead" else "states",
        context=TOLD if told else ContextConfig(),
        recurrent_dropout=0.1 if told else 0.0,
        heads=heads,
        compute_dtype=dtype,
    )
    batch = BatchConfig(rows=2, length=5, before=3 if told else 0)
    config = Config(model=model, batch=batch, train=TrainConfig(steps=3))
    return config, Network(model, NoteGrammar(duration_size=5))


@pytest.mark.parametrize(("attention", "heads", "dtype"), KINDS)
def test_training_lowers_for_every_platform(attention, heads, dtype):
    config, network = tiny(attention, heads, dtype)
    optimizer = make_optimizer(config.train, 3)
    steps = make_train_steps(network, optimizer, config, True, data_mesh(1))
    state = jax.eval_shape(lambda: init_state(network, optimizer, 0))
    crops = jax.eval_shape(lambda: crops_of([np.zeros((8, 2), np.int32)] * 2, config.batch))
    exported = jax.export.export(steps, platforms=PLATFORMS)(state, crops, jnp.int32(2))
    assert exported.platforms == PLATFORMS
    assert ("bf16" in exported.mlir_module()) == (dtype == "bfloat16")


@pytest.mark.parametrize(("attention", "heads", "dtype"), KINDS)
def test_decoding_lowers_for_every_platform(attention, heads, dtype):
    _, network = tiny(attention, heads, dtype)
    optimizer = make_optimizer(TrainConfig(steps=1), 1)
    params = jax.eval_shape(lambda: init_state(network, optimizer, 0)).params
    nothing = jax.ShapeDtypeStruct((2, 3), jnp.int32)
    prompt = Prompt(nothing, nothing, jax.ShapeDtypeStruct((2, 3), jnp.bool_))
    number, whole = jax.ShapeDtypeStruct((2,), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)
    controls = Controls(number, whole, number, number, number)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    rules = constraints(NoteTokenizer(4), network.grammar.durations())
    settings = Settings(keys, controls, controls, whole, whole, rules)
    write = jax.jit(partial(decode, network, events=4, how=How(filters=True, repetition=True)))
    exported = jax.export.export(write, platforms=PLATFORMS)(params, prompt, settings)
    assert exported.platforms == PLATFORMS
    assert ("bf16" in exported.mlir_module()) == (dtype == "bfloat16")
