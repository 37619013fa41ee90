"""The program that a GPU would run, with cuDNN's layers in it: traced and lowered where there is no GPU."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn
from jax.interpreters import mlir

from midigen_jax.config import Config, override
from midigen_jax.data.batches import crops_of
from midigen_jax.model.blocks import lstm
from midigen_jax.model.network import Network
from midigen_jax.study.groups import Trial, _takes_turns, choose_together
from midigen_jax.train.distributed import data_mesh
from midigen_jax.train.replicas import make_train_steps, start_alone
from midigen_jax.vocab.note import NoteVocabulary

gpu_rnn = pytest.importorskip("jaxlib.gpu_rnn", reason="this JAX has its cuDNN elsewhere")

TINY = override(
    Config(),
    {
        "model.width": 8,
        "model.pitch_embedding": 4,
        "model.duration_embedding": 4,
        "batch.rows": 2,
        "batch.length": 5,
    },
)


class Descriptor:
    """What only the library itself can write; nothing reads it before the program runs."""

    @staticmethod
    def build_rnn_descriptor(*sizes):
        return b"of " + repr(sizes).encode()


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch):
    """The trial of cuDNN has gone well, and JAX knows what it must ask the library."""
    monkeypatch.setattr(lstm, "has_cudnn", lambda: True)
    monkeypatch.setattr(
        gpu_rnn, "compute_rnn_workspace_reserve_space_sizes", lambda *_: (64, 64), raising=False
    )
    jax.clear_caches()
    for primitive, lower in (
        (rnn.rnn_fwd_p, gpu_rnn._rnn_fwd_lowering),
        (rnn.rnn_bwd_p, gpu_rnn._rnn_bwd_lowering),
    ):
        mlir.register_lowering(primitive, partial(lower, Descriptor, "cu"), platform="cuda")
    yield
    mlir.register_lowering(rnn.rnn_fwd_p, gpu_rnn.cudnn_rnn_lowering, platform="cuda")
    mlir.register_lowering(rnn.rnn_bwd_p, gpu_rnn.cudnn_rnn_bwd_lowering, platform="cuda")
    jax.clear_caches()


def program(config, replicas=1, together=1, teachers=()):
    """The training steps of so many replicas, traced."""
    network, mesh = Network(config.model, NoteVocabulary(4)), data_mesh(1)
    crops = crops_of([np.zeros((8, 2), np.int32)] * 2, config.batch, network.vocabulary)
    steps = make_train_steps(network, config, 3, True, mesh, teachers, together)
    state, hyper, crops = jax.eval_shape(lambda: start_alone(network, config, crops, mesh))
    state, hyper = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((replicas, *leaf.shape[1:]), leaf.dtype), (state, hyper)
    )
    weights = [jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), state.params)]
    return steps.trace(
        state, hyper, crops, jax.ShapeDtypeStruct((replicas,), jnp.int32), weights[: len(teachers)]
    )


@pytest.mark.parametrize("attention", [(), ("pooled",), ("multihead(window=3)",)])
def test_a_training_lowers_for_cuda_with_two_calls_of_cudnn_for_each_layer(attention):
    traced = program(override(TINY, {"model.blocks": ("lstm", "lstm", *attention)}))
    lowered = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert lowered.count("@cudnn_rnn_ffi(") == lowered.count("@cudnn_rnn_bwd_ffi(") == 2


def test_replicas_take_turns_with_cudnn_however_many_are_asked_for_at_once():
    for together in (1, 2):
        traced = str(program(TINY, replicas=2, together=together).jaxpr)
        assert traced.count("rnn_fwd[") == traced.count("rnn_bwd[") == 2  # its layers
    half = override(TINY, {"model.compute_dtype": "bfloat16"})  # which cuDNN does not do
    assert "rnn_fwd[" not in str(program(half, replicas=2, together=2).jaxpr)


def test_replicas_take_turns_where_their_teachers_are_of_cudnn():
    half = override(TINY, {"model.compute_dtype": "bfloat16", "train.teachers": ("one",)})
    teacher = Network(TINY.model, NoteVocabulary(4))
    traced = str(program(half, replicas=2, together=2, teachers=[teacher]).jaxpr)
    assert traced.count("rnn_fwd[") == 2  # its layers
    assert "rnn_bwd[" not in traced


def test_a_study_says_that_replicas_take_turns(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    together, why = choose_together(8, Trial(1.0, 10**6), _takes_turns(TINY))
    assert together == 1
    assert "cuDNN takes one (lstm(backend=scan) in model.blocks, more)" in why
    scan = override(TINY, {"model.blocks": ("lstm(backend=scan)", "pooled")})
    assert choose_together(8, Trial(1.0, 10**6), _takes_turns(scan))[0] == 4  # on each of two devices
