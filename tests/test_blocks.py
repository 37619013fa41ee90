"""Blocks: the laws hold for everything in the dict, and what breaks one is named."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from midigen_jax.config import Config, ModelConfig, override
from midigen_jax.errors import InputError
from midigen_jax.model.blocks import BLOCKS, Block, make_blocks
from midigen_jax.model.blocks.gru import GRU
from midigen_jax.model.blocks.verify import verify_block
from midigen_jax.model.cost import flops
from midigen_jax.model.network import Network, init_params
from midigen_jax.model.precision import dense
from midigen_jax.vocab.base import Stream
from midigen_jax.vocab.note import NoteVocabulary
from tests.tiny import at_once_and_step_by_step

STREAMS = (Stream("pitch", 7), Stream("duration", 5))
# Settings with which the laws are tried, besides each block as it is by default.
MORE = (
    "lstm(residual=true)",
    "lstm(backend=pallas)",
    "gru(residual=true)",
    "pooled(window=3)",
    "pooled(window=4, residual=false)",
    "multihead(heads=2, window=3)",
    "multihead(heads=2, window=9, values=events, residual=false)",
)


def block_of(spec, width=8, inputs=8):
    return make_blocks(ModelConfig(blocks=(spec,), width=width), STREAMS, inputs)[0]


@pytest.mark.parametrize("spec", [*BLOCKS, *MORE])
def test_every_block_keeps_the_laws(spec):
    verify_block(block_of(spec))


class Ahead(Block):
    """Sees the next input."""

    def initial_carry(self, rows, keep_cache=True):
        return jnp.zeros((rows, 1))

    def matmuls(self, rows, length):
        return []

    def __call__(self, carry, x_BTD, now, drop=None):
        x_BTD = jnp.where(now.mask_BT[..., None], x_BTD, 0)
        return carry, x_BTD + jnp.roll(x_BTD, -1, axis=1) * (x_BTD.shape[1] > 1)


class Forgetful(Ahead):
    """Sums what it reads, but not over chunks."""

    def __call__(self, carry, x_BTD, now, drop=None):
        return carry, jnp.cumsum(jnp.where(now.mask_BT[..., None], x_BTD, 0), axis=1)


class Unmasked(Ahead):
    """Goes on through what is hidden."""

    def __call__(self, carry, x_BTD, now, drop=None):
        sum_BTD = carry[..., None] + jnp.cumsum(x_BTD.sum(axis=-1, keepdims=True), axis=1)
        return sum_BTD[:, -1], x_BTD + sum_BTD


class Mixing(Ahead):
    """Looks at other rows."""

    def __call__(self, carry, x_BTD, now, drop=None):
        return carry, x_BTD + jnp.where(now.mask_BT[..., None], x_BTD, 0).mean(axis=0, keepdims=True)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Ahead, "read in chunks|depends on later input"),
        (Forgetful, "others when a sequence is read in chunks"),
        (Unmasked, "what the mask hides shows"),
        (Mixing, "depend on other rows|mask hides"),
    ],
)
def test_a_block_that_breaks_a_law_is_told_which(kind, words):
    with pytest.raises(AssertionError, match=words):
        verify_block(kind(8, 8, STREAMS))


class Nothing(Block):
    """Has no part of the protocol."""


class Narrow(Ahead):
    """Makes too little."""

    def __call__(self, carry, x_BTD, now, drop=None):
        return carry, x_BTD[..., :-1]


class Growing(Ahead):
    """Remembers more and more."""

    def __call__(self, carry, x_BTD, now, drop=None):
        return jnp.concatenate([carry, x_BTD[..., 0]], axis=1), x_BTD


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        (("lstn",), "no block lstn; did you mean lstm?"),
        (("pooled(windw=3)",), "pooled has no setting 'windw=3'; did you mean window?"),
        (("pooled(window=few)",), r"pooled\(window\) = few: give a whole number such as 0"),
        (("pooled(window=-1)",), "pooled: give window = 1 to 1,048,576, or 0"),
        (("multihead(heads=3)",), "a multiple of 6"),
        (("lstm(",), r"'lstm\(': give NAME or NAME\(setting=value\)"),
        (("tests.test_blocks:Nothing",), "lacks initial_carry"),
        (("tests.test_blocks:Narrow",), r"makes \(2, 2, 7\) of 2 rows and 2 times; make \(2, 2, 8\) of it"),
        (("tests.test_blocks:Growing",), "gives another carry than initial_carry"),
        (("tests.test_blocks:STREAMS",), "is no block; derive it from"),
        (("tests.test_blocks:Absent",), "has no attribute 'Absent'"),
        (("no_such_module:Block",), "No module named 'no_such_module'"),
    ],
)
def test_a_block_that_is_none_is_refused_before_anything_is_built(blocks, words):
    config = ModelConfig(width=8, pitch_embedding=6, duration_embedding=2, blocks=blocks)
    with pytest.raises(InputError, match=words):
        init_params(Network(config, NoteVocabulary(4)), jax.random.key(0))


class Gated(Block):
    """A block of somebody's own, with a setting: units gated by the event before."""

    scale: float = 1.0

    def initial_carry(self, rows, keep_cache=True):
        return jnp.zeros((rows, self.inputs))

    def matmuls(self, rows, length):
        return []

    @nn.compact
    def __call__(self, carry, x_BTD, now, drop=None):
        seen_BT1 = now.mask_BT[..., None]
        x_BTD = jnp.where(seen_BT1, x_BTD, 0)
        all_BTD = jnp.concatenate([carry[:, None], x_BTD], axis=1)
        last = jnp.take_along_axis(all_BTD, now.mask_BT.sum(axis=1)[:, None, None], axis=1)[:, 0]
        gate_BTD = jax.nn.sigmoid(self.scale * all_BTD[:, :-1])
        return last, dense(self.width, self.compute_dtype)(gate_BTD * x_BTD)


@pytest.mark.parametrize(
    "blocks",
    [
        ("gru", "lstm"),
        ("multihead(heads=2, window=4)", "gru(residual=true)", "pooled(window=2)"),
        ("tests.test_blocks:Gated(scale=0.5)", "lstm"),
    ],
)
def test_blocks_stand_in_any_order_and_number(blocks):
    """A network of any blocks says of a piece the same at once and in chunks, and its costs are its own."""
    config = override(Config(), {"model.blocks": ",".join(blocks), "model.width": 8}).model
    assert config.blocks == blocks
    config = replace(config, pitch_embedding=3, duration_embedding=2)
    network = Network(config, NoteVocabulary(4))
    params = init_params(network, jax.random.key(0))
    events = {"pitch": jnp.array([[0, 60, 70, 80, 1]]), "duration": jnp.array([[0, 1, 2, 3, 0]])}
    whole, found = at_once_and_step_by_step(network, params, events)
    for name in whole:
        np.testing.assert_allclose(found[name], whole[name], rtol=2e-5, atol=2e-6)
    assert flops(network, 2, 16) > 0


def test_a_gru_costs_three_quarters_of_an_lstm():
    gru, lstm = (block_of(spec).matmuls(4, 16) for spec in ("gru", "lstm"))
    sizes = [sum(product.flops for product in products) for products in (gru, lstm)]
    assert sizes[0] == sizes[1] * 3 / 4
    assert block_of("gru").runs_on == "scan"
    assert not block_of("gru").multiplies_itself


def test_a_gru_is_that_of_flax():
    """Flax's cell has the same equations, with the biases of the input's projections where ours are."""
    cell = nn.GRUCell(8)
    x_BTD, carry = jax.random.normal(jax.random.key(0), (2, 5, 6)), jnp.zeros((2, 8))
    variables = cell.init(jax.random.key(1), carry, x_BTD[:, 0])["params"]
    variables = jax.tree.map(
        lambda leaf: leaf + 0.3 * jnp.arange(leaf.size).reshape(leaf.shape) / leaf.size, variables
    )
    variables["hn"]["bias"] = jnp.zeros(8)  # ours has one bias a gate
    names = ("r", "z", "n")
    params = {
        "input": jnp.concatenate([variables[f"i{name}"]["kernel"] for name in names], axis=1),
        "bias": jnp.concatenate([variables[f"i{name}"]["bias"] for name in names]),
        "recurrent": jnp.concatenate([variables[f"h{name}"]["kernel"] for name in names], axis=1),
    }
    expected, state = [], carry
    for time in range(5):
        state, out = cell.apply({"params": variables}, state, x_BTD[:, time])
        expected.append(out)
    from midigen_jax.model.blocks import Step

    now = Step({}, jnp.zeros((2, 5), jnp.int32), jnp.ones((2, 5), bool))
    _, found = GRU(6, 8, ()).apply({"params": params}, carry, x_BTD, now)
    np.testing.assert_allclose(found, jnp.stack(expected, axis=1), rtol=1e-5, atol=1e-6)
