"""The recurrence as a TPU's kernels: what they compute, in Pallas's interpreter, and what becomes of them.

The reference is the scan, whose gradient test_laws.py holds to autodiff. No chip is needed: where libtpu is
installed, its compiler says whether the kernels fit.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas.tpu import ChipVersion, get_tpu_info_for_chip
from jax.sharding import PartitionSpec, SingleDeviceSharding

from midigen_jax.config import Config, override
from midigen_jax.data.batches import crops_of
from midigen_jax.errors import InputError
from midigen_jax.model.blocks import Step
from midigen_jax.model.blocks.lstm import LSTM
from midigen_jax.model.blocks.lstm_pallas import LANES, blocks, gradients, states
from midigen_jax.model.blocks.lstm_scan import Kernels, LSTMCarry, LSTMWeights, States, lstm
from midigen_jax.model.network import Network
from midigen_jax.train.distributed import data_mesh
from midigen_jax.train.replicas import make_train_steps, start_alone
from midigen_jax.vocab.note import NoteVocabulary
from tests.tiny import SMALLEST

INTERPRETED = Kernels("cpu", partial(states, interpret=True), partial(gradients, interpret=True))
ROWS, TIMES, WIDTH, INPUTS = 3, 10, 4, 5  # times in two blocks, of eight and of two
# Programs that differ round differently; a value is the sum of a few dozen products.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def case(rows=ROWS, times=TIMES, width=WIDTH, dtype=jnp.float32):
    """Weights, carry, inputs, and a mask that hides steps anywhere."""
    rng = np.random.default_rng(0)
    shapes = [(INPUTS, 4 * width), (width, 4 * width), (4 * width,), *[(rows, width)] * 2]
    *weights, hidden, cell = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    inputs = jnp.asarray(rng.normal(size=(rows, times, INPUTS)), dtype)
    mask = jnp.asarray(rng.random((rows, times)) < 0.8)
    return LSTMWeights(*weights), LSTMCarry(hidden, cell), inputs, mask.at[0].set(True)


def total(after, hidden):
    """A number in which every result counts, each in its own way."""
    salt = jnp.cos(jnp.arange(hidden.size, dtype=hidden.dtype)).reshape(hidden.shape)
    return (hidden * salt).sum() + jnp.sin(after.hidden_BD).sum() + (after.cell_BD**2).sum()


@partial(jax.jit, static_argnums=(0, 1))
def everything(kernels, compute_dtype, weights, carry, inputs, mask):
    """Outputs, last carry, and the gradients of a function of them all."""

    def loss(weights, carry, inputs):
        after, hidden = lstm(weights, carry, inputs, mask, compute_dtype=compute_dtype, kernels=kernels)
        return total(after, hidden), (after, hidden)

    return jax.grad(loss, (0, 1, 2), has_aux=True)(weights, carry, inputs)


def check(found, expected, **close):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **(close or CLOSE)), found, expected)


@pytest.mark.parametrize(
    ("rows", "times", "width"),
    [
        pytest.param(ROWS, TIMES, WIDTH, id="a last block that is cut short"),
        pytest.param(130, LANES + 16, 3, id="two groups of rows, and more times than a tile of the mask"),
    ],
)
def test_kernels_give_what_the_scan_gives_in_outputs_and_gradients(rows, times, width):
    arguments = case(rows, times, width)
    found = everything(INTERPRETED, "float32", *arguments)
    check(found, everything(None, "float32", *arguments))


def test_in_bfloat16_too():
    """Kernels keep rounded gates, and add unrounded ones up, as the scan of a CPU does."""
    arguments = case()
    found = everything(INTERPRETED, "bfloat16", *arguments)
    # A rounding that falls the other way is 2**-8 of a number, and there are a few dozen in a sum.
    check(found, everything(None, "bfloat16", *arguments), rtol=0.02, atol=0.02)


def test_the_gradient_is_that_of_the_scan_to_the_digits_of_float64():
    with jax.enable_x64(True):
        arguments = case(dtype=jnp.float64)
        found = everything(INTERPRETED, "float32", *arguments)
        check(found, everything(None, "float32", *arguments), rtol=1e-12, atol=1e-13)
        assert found[0][0].recurrent_DG.dtype == jnp.float64


def test_what_the_mask_hides_is_invisible_even_if_it_is_nan():
    weights, carry, inputs, mask = case()
    dirty = jnp.where(mask[..., None], inputs, jnp.nan)
    clean = jnp.where(mask[..., None], inputs, 0)
    found = everything(INTERPRETED, "float32", weights, carry, dirty, mask)
    jax.tree.map(
        np.testing.assert_array_equal, found, everything(INTERPRETED, "float32", weights, carry, clean, mask)
    )
    nothing = everything(INTERPRETED, "float32", weights, carry, inputs, jnp.zeros_like(mask))
    jax.tree.map(np.testing.assert_array_equal, nothing[1][0], carry)
    assert not any(np.any(leaf) for leaf in nothing[0][0])  # and weights had no part in it


def test_an_output_does_not_depend_on_a_later_input():
    weights, carry, inputs, mask = case()
    _, (_, hidden) = everything(INTERPRETED, "float32", weights, carry, inputs, mask)
    for time in (1, 8, TIMES - 1):
        other = inputs.at[:, time:].add(1)
        _, (_, changed) = everything(INTERPRETED, "float32", weights, carry, other, mask)
        np.testing.assert_array_equal(changed[:, :time], hidden[:, :time])
        assert not np.allclose(changed[:, time:], hidden[:, time:])


def test_a_sequence_in_two_chunks_is_the_whole():
    weights, carry, inputs, mask = case()

    @jax.jit
    @partial(jax.grad, argnums=(0, 1, 2), has_aux=True)
    def in_two(weights, carry, inputs):
        parts = []
        for now in (slice(0, 5), slice(5, TIMES)):
            carry, hidden = lstm(weights, carry, inputs[:, now], mask[:, now], kernels=INTERPRETED)
            parts.append(hidden)
        hidden = jnp.concatenate(parts, axis=1)
        return total(carry, hidden), (carry, hidden)

    expected = everything(INTERPRETED, "float32", weights, carry, inputs, mask)
    check(in_two(weights, carry, inputs), expected)


def test_replicas_that_are_computed_as_one_are_replicas_alone():
    """As `study` does it where memory allows: other weights in each replica, on a device of a mesh."""
    weights, carry, inputs, mask = case()
    weights_N, inputs_N = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), (weights, inputs))
    mesh, spec = jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Auto,)), PartitionSpec()
    alone = partial(everything, INTERPRETED, "float32")
    together = jax.shard_map(
        lambda weights, inputs: jax.vmap(alone, (0, None, 0, None))(weights, carry, inputs, mask),
        mesh=mesh,
        in_specs=spec,
        out_specs=spec,
        check_vma=False,
    )
    found = jax.jit(together)(weights_N, inputs_N)
    for number in range(2):
        one = jax.tree.map(lambda leaf, at=number: leaf[at], (weights_N, inputs_N))
        check(jax.tree.map(lambda leaf, at=number: leaf[at], found), alone(one[0], carry, one[1], mask))


def test_a_training_that_goes_on_is_the_uninterrupted_one():
    weights, carry, inputs, mask = case()

    @jax.jit
    def train(weights, steps):
        def step(_, weights):
            slopes, _ = everything(INTERPRETED, "float32", weights, carry, inputs, mask)
            return jax.tree.map(lambda leaf, slope: leaf - 0.01 * slope, weights, slopes[0])

        return jax.lax.fori_loop(0, steps, step, weights)

    jax.tree.map(np.testing.assert_array_equal, train(train(weights, 2), 3), train(weights, 5))


@given(st.integers(1, 5000), st.integers(1, 2000), st.integers(1, 4096), *[st.sampled_from([2, 4])] * 2)
def test_blocks_fit_and_cover_all(times, rows, width, stream, operand):
    cut = blocks(times, rows, width, stream, operand)
    if cut is None:
        assert width > 1024
        return
    assert cut.bytes <= 48 * 2**20
    assert 1 <= cut.rows <= min(rows, 128)
    assert cut.rows == rows or cut.rows % 8 == 0
    assert 1 <= cut.times <= times
    assert LANES % cut.times == 0
    assert cut.unroll == 1 or times % cut.times == cut.times % cut.unroll == 0


def runs_on(width, **settings):
    """What a layer of so many units says that it runs on."""
    return LSTM(INPUTS, width, streams=(), **settings).runs_on


def test_a_width_that_does_not_fit_is_refused_in_words():
    assert runs_on(2048, backend="pallas") == "pallas"
    with pytest.raises(InputError, match=r"lstm.backend=pallas.: .* model.width = 4096; give auto or scan"):
        runs_on(4096, backend="pallas", compute_dtype="bfloat16")


def test_a_tpu_with_little_fast_memory_has_the_scan(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    for chip, backend in ((ChipVersion.TPU_V4, "scan"), (ChipVersion.TPU_V5P, "pallas")):
        info = get_tpu_info_for_chip(chip, 2)
        monkeypatch.setattr(pltpu, "get_tpu_info", lambda info=info: info)
        assert runs_on(512) == backend


def exported_step(platforms, **changes):
    """The train step of the smallest model, lowered for these platforms."""
    config = override(Config(), SMALLEST | {"model.blocks": ("lstm(backend=pallas)", "pooled")} | changes)
    network = Network(config.model, NoteVocabulary(4))
    crops = crops_of([np.zeros((20, 2), np.int32)] * 2, config.batch, network.vocabulary)
    steps = make_train_steps(network, config, 3, True, data_mesh(1))
    given = jax.eval_shape(lambda: start_alone(network, config, crops, data_mesh(1)))
    return jax.export.export(steps, platforms=platforms)(*given, jnp.array([2])).mlir_module()


def test_kernels_are_for_tpus_and_the_scan_for_all_else():
    assert exported_step(("tpu",)).count("@tpu_custom_call") == 2  # forward and backward of one layer
    for platform in ("cpu", "cuda"):
        module = exported_step((platform,))
        assert "custom_call @tpu" not in module
        assert "stablehlo.while" in module


def on_a_tpu(backend, rows, times, width):
    """A layer as it is lowered for a TPU."""
    layer = LSTM(INPUTS, width, streams=(), backend=backend)
    now = Step({}, jnp.zeros((rows, times), jnp.int32), jnp.ones((rows, times), bool))
    given = layer.initial_carry(rows), jnp.zeros((rows, times, INPUTS)), now
    params = jax.eval_shape(layer.init, jax.random.key(0), *given)
    return jax.export.export(jax.jit(layer.apply), platforms=("tpu",))(params, *given).mlir_module()


def test_a_single_step_is_the_scans():
    assert "@tpu_custom_call" not in on_a_tpu("pallas", 2, 1, 8)
    assert "@tpu_custom_call" in on_a_tpu("pallas", 2, 2, 8)


def test_auto_takes_kernels_on_a_tpu_where_they_pay():
    assert runs_on(512) == "scan"  # this is no TPU
    widths = {128: "scan", 256: "pallas", 320: "scan", 1024: "pallas", 4096: "scan"}
    assert {width: runs_on(width, platform="tpu") for width in widths} == widths
    assert runs_on(512, platform="tpu", backend="scan") == "scan"


def compiled(function, dtype, rows, times, width, chip):
    """A kernel as the compiler of a chip has it."""
    sharding = SingleDeviceSharding(chip)

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    carry, mask = LSTMCarry(*[array(rows, width)] * 2), array(times, rows, dtype=jnp.bool_)
    sums = array(times, rows, 4 * width, dtype=jnp.dtype(dtype))
    state = array(times, rows, width, dtype=jnp.dtype(dtype))
    arguments = {
        states: (carry, sums, mask),
        gradients: (state, States(state, state, sums), mask, carry, array(times, rows, width)),
    }
    return jax.jit(partial(function, dtype)).lower(array(width, 4 * width), *arguments[function]).compile()


@pytest.mark.parametrize("target", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"])
def test_kernels_compile_for_chips_that_are_not_there(target, monkeypatch):
    """At the default size, and at sizes that are multiples of nothing."""
    pytest.importorskip("libtpu", reason="libtpu is not installed: pip install libtpu")
    from jax.experimental import topologies

    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    chip = topologies.get_topology_desc(platform="tpu", topology_name=target).devices[0]
    for size in (("float32", 16, 32, 256), ("bfloat16", 3, 37, 100)):
        for function in (states, gradients):
            assert "tpu_custom_call" in compiled(function, *size, chip).as_text()
