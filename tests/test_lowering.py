"""Law 11: training and decoding lower for CPU, CUDA and TPU, on a machine that need not have them."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from midigen_jax.config import BatchConfig, Config, ContextConfig, ModelConfig, TrainConfig, override
from midigen_jax.data.batches import crops_of
from midigen_jax.model.cost import tile_share
from midigen_jax.model.network import Network, init_params
from midigen_jax.sample.constraints import constraints
from midigen_jax.sample.decode import DecodeFlags, Prompt, Settings, decode
from midigen_jax.sample.filters import SamplingParams
from midigen_jax.train.distributed import data_mesh
from midigen_jax.train.replicas import make_train_steps, start_alone
from midigen_jax.vocab.note import NoteVocabulary

PLATFORMS = ("cpu", "cuda", "tpu")
ATTENTIONS = ((), ("pooled",), ("pooled(window=3)",), ("multihead(window=3, values=events)",))
# `make test` tries every pair of attention, heads and dtype, `make test-all` the whole product.
KINDS = [
    pytest.param(*kind, marks=pytest.mark.slow if (number + heads + dtype) % 2 else [])
    for number, attention in enumerate(ATTENTIONS)
    for heads, head in enumerate(["independent", "chained"])
    for dtype, kind in enumerate((attention, head, name) for name in ("float32", "bfloat16"))
]


TOLD = ContextConfig(place=True, meters=(5,), previous=True, lags=(1,), relative=(2, 7), intervals=True)


def tiny(attention, heads, dtype):
    told = heads == "chained"  # all that the network may be told, for one kind of heads
    model = ModelConfig(
        pitch_embedding=4,
        duration_embedding=4,
        width=8,
        blocks=("lstm", "lstm", *attention),
        context=TOLD if told else ContextConfig(),
        recurrent_dropout=0.1 if told else 0.0,
        heads=heads,
        compute_dtype=dtype,
    )
    batch = BatchConfig(rows=2, length=5, before=3 if told else 0)
    config = Config(model=model, batch=batch, train=TrainConfig(steps=3))
    return config, Network(model, NoteVocabulary(4))


@pytest.mark.parametrize(("attention", "heads", "dtype"), KINDS)
def test_training_lowers_for_every_platform(attention, heads, dtype):
    config, network = tiny(attention, heads, dtype)
    crops = crops_of([np.zeros((8, 2), np.int32)] * 2, config.batch, network.vocabulary)
    steps = make_train_steps(network, config, 3, True, data_mesh(1))
    given = jax.eval_shape(lambda: start_alone(network, config, crops, data_mesh(1)))
    exported = jax.export.export(steps, platforms=PLATFORMS)(*given, jnp.array([2]))
    assert exported.platforms == PLATFORMS
    assert ("bf16" in exported.mlir_module()) == (dtype == "bfloat16")


PRODUCT = re.compile(
    r"stablehlo\.dot_general .*: \(tensor<(\S+)x(\w+)>, tensor<(\S+)x(\w+)>\) -> tensor<(\S+)x(\w+)>"
)


@pytest.mark.parametrize("attention", [(), ("pooled",), ("multihead(heads=4, window=256)",)])
def test_products_on_a_tpu_are_whole_tiles_of_bfloat16(attention):
    """In the setting of docs/tpu.md nothing but vocabularies and single scores are padded to tiles."""
    wide = {"model.width": 512, "model.compute_dtype": "bfloat16", "batch.rows": 128}
    config = override(Config(), wide | {"model.blocks": ("lstm", "lstm", *attention)})
    network = Network(config.model, NoteVocabulary(config.prepare.max_duration))
    crops = crops_of([np.zeros((8, 2), np.int32)] * 2, config.batch, network.vocabulary)
    steps = make_train_steps(network, config, 3, True, data_mesh(1))
    given = jax.eval_shape(lambda: start_alone(network, config, crops, data_mesh(1)))
    lowered = jax.export.export(steps, platforms=("tpu",))(*given, jnp.array([2])).mlir_module()
    found = PRODUCT.findall(lowered)
    assert len(found) >= 15
    assert {(left, right, result) for _, left, _, right, _, result in found} == {("bf16", "bf16", "f32")}
    sizes = {int(size) for shapes in found for shape in shapes[::2] for size in shape.split("x")}
    padded = {size for size in sizes if size % 128} - {4}  # heads: as many products
    assert padded <= {*(size for _, size in network.vocabulary.streams), 1}
    assert tile_share(network, config.batch.rows, config.batch.length) > 0.95


@pytest.mark.parametrize(("attention", "heads", "dtype"), KINDS)
def test_decoding_lowers_for_every_platform(attention, heads, dtype):
    _, network = tiny(attention, heads, dtype)
    params = jax.eval_shape(partial(init_params, network), jax.random.key(0))
    nothing = jax.ShapeDtypeStruct((2, 3), jnp.int32)
    events = dict.fromkeys(("pitch", "duration"), nothing)
    prompt = Prompt(events, jax.ShapeDtypeStruct((2, 3), jnp.bool_))
    number, whole = jax.ShapeDtypeStruct((2,), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)
    sampled = SamplingParams(number, whole, number, number, number)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    rules = constraints(NoteVocabulary(4))
    settings = Settings(keys, dict.fromkeys(events, sampled), whole, whole, rules)
    write = jax.jit(partial(decode, network, events=4, flags=DecodeFlags(filters=True, repetition=True)))
    exported = jax.export.export(write, platforms=PLATFORMS)(params, prompt, settings)
    assert exported.platforms == PLATFORMS
    assert ("bf16" in exported.mlir_module()) == (dtype == "bfloat16")
    for_tpu = jax.jit(
        partial(decode, network, events=4, flags=DecodeFlags(filters=True, repetition=True, tpu=True))
    )
    exported = jax.export.export(for_tpu, platforms=("tpu",))(params, prompt, settings)
    assert exported.mlir_module().count("stablehlo.custom_call @tpu_custom_call") == 2  # a kernel each head
