"""The recurrent core against others' LSTMs: numpy's few lines, Flax's cell, torch's layer.

That its gradient is right, and that it obeys the laws of all networks, stands in test_laws.py.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn

from midigen_jax.errors import InputError
from midigen_jax.model.blocks import Step
from midigen_jax.model.blocks.lstm import LSTM
from midigen_jax.model.blocks.lstm_cudnn import cudnn_arguments, from_cudnn
from midigen_jax.model.blocks.lstm_scan import LSTMCarry, LSTMWeights, lstm

ROWS, TIMES, INPUTS, WIDTH = 3, 7, 5, 4
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    arrays = [(INPUTS, 4 * WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH,)]
    weights = LSTMWeights(*(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in arrays))
    carry = LSTMCarry(*(jnp.asarray(rng.normal(size=(ROWS, WIDTH)), jnp.float32) for _ in range(2)))
    return weights, carry, jnp.asarray(rng.normal(size=(ROWS, TIMES, INPUTS)), jnp.float32)


def everything(function, salt, *arguments):
    """Outputs, last carry, and the gradients of a function of them all."""

    def loss(*arguments):
        carry, hidden = function(*arguments)
        return (hidden * salt).sum() + jnp.sin(carry.hidden_BD).sum() + (carry.cell_BD**2).sum(), (
            carry,
            hidden,
        )

    return jax.value_and_grad(loss, tuple(range(len(arguments))), has_aux=True)(*arguments)


def ours(weights, carry, inputs):
    return lstm(weights, carry, inputs, jnp.ones(inputs.shape[:2], bool))


def test_agrees_with_a_cell_in_numpy(case):
    weights, carry, inputs = jax.tree.map(np.asarray, case)
    hidden, cell = carry
    outputs = []
    for now in inputs.swapaxes(0, 1):
        gates = now @ weights.input_IG + hidden @ weights.recurrent_DG + weights.bias_G
        enter, forget, candidate, leave = np.split(gates, 4, axis=1)
        enter, forget, leave = (1 / (1 + np.exp(-gate)) for gate in (enter, forget, leave))
        cell = forget * cell + enter * np.tanh(candidate)
        hidden = leave * np.tanh(cell)
        outputs.append(hidden)
    after, found = ours(*case)
    np.testing.assert_allclose(found, np.stack(outputs, axis=1), **CLOSE)
    np.testing.assert_allclose(after.hidden_BD, hidden, **CLOSE)
    np.testing.assert_allclose(after.cell_BD, cell, **CLOSE)


def test_agrees_with_flax_in_outputs_and_gradients(case):
    salt = np.random.default_rng(1).normal(size=(ROWS, TIMES, WIDTH)).astype(np.float32)

    def theirs(weights, carry, inputs):
        params = {}
        for name, enter, recur, bias in zip(
            "ifgo", *(jnp.split(part, 4, axis=-1) for part in weights), strict=True
        ):
            params |= {f"i{name}": {"kernel": enter}, f"h{name}": {"kernel": recur, "bias": bias}}
        layer = nn.RNN(nn.OptimizedLSTMCell(WIDTH), return_carry=True)
        (cell, hidden), outputs = layer.apply(
            {"params": {"cell": params}}, inputs, initial_carry=(carry.cell_BD, carry.hidden_BD)
        )
        return LSTMCarry(hidden, cell), outputs

    found, expected = everything(ours, salt, *case), everything(theirs, salt, *case)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


def test_agrees_with_torch_in_outputs_and_gradients(case):
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    salt = np.random.default_rng(1).normal(size=(ROWS, TIMES, WIDTH)).astype(np.float32)
    (_, (after, hidden)), (d_weights, d_carry, d_inputs) = everything(ours, salt, *case)
    weights, carry, inputs = jax.tree.map(
        lambda leaf: torch.tensor(np.asarray(leaf), requires_grad=True), case
    )
    layer = torch.nn.LSTM(INPUTS, WIDTH, batch_first=True)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(weights.input_IG.T)
        layer.weight_hh_l0.copy_(weights.recurrent_DG.T)
        layer.bias_ih_l0.copy_(weights.bias_G)
        layer.bias_hh_l0.zero_()
    outputs, (last, cell) = layer(inputs, (carry.hidden_BD[None], carry.cell_BD[None]))
    ((outputs * torch.tensor(salt)).sum() + torch.sin(last).sum() + (cell**2).sum()).backward()
    pairs = [
        (hidden, outputs.detach()),
        (after.cell_BD, cell.detach()[0]),
        (d_weights.input_IG, layer.weight_ih_l0.grad.T),
        (d_weights.recurrent_DG, layer.weight_hh_l0.grad.T),
        (d_weights.bias_G, layer.bias_ih_l0.grad),
        (d_carry.hidden_BD, carry.hidden_BD.grad),
        (d_carry.cell_BD, carry.cell_BD.grad),
        (d_inputs, inputs.grad),
    ]
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_a_fresh_layer_forgets_nothing_yet_and_its_recurrence_turns_but_does_not_stretch():
    layer = LSTM(INPUTS, WIDTH, streams=())
    now = Step({}, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))
    given = layer.initial_carry(1), jnp.zeros((1, 1, INPUTS)), now
    params = layer.init(jax.random.key(0), *given)["params"]
    np.testing.assert_array_equal(params["bias"], np.repeat([0.0, 1.0, 0.0, 0.0], WIDTH))
    recurrent = params["recurrent"]
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(WIDTH), atol=1e-5)


def test_agrees_with_cudnn_by_its_reference_in_outputs_and_gradients(case):
    """`lstm_ref` is what JAX tests its cuDNN layer with; a row is cut short, and one has nothing to read."""
    mask = jnp.arange(TIMES)[None] < jnp.array([TIMES, 4, 0])[:, None]
    salt = np.random.default_rng(1).normal(size=(ROWS, TIMES, WIDTH)).astype(np.float32)

    def theirs(weights, carry, inputs):
        inputs, hidden, cell, flat, lengths = cudnn_arguments(weights, carry, inputs, mask)
        sizes = (INPUTS, WIDTH, 1, False)
        parts = rnn.unpack_lstm_weights(flat, *sizes)
        assert flat.size == rnn.get_num_params_in_lstm(*sizes)
        outputs = rnn.lstm_ref(inputs, hidden, cell, *parts, lengths, INPUTS, WIDTH, 1, 0.0, False)
        return from_cudnn(carry, *outputs, mask)

    def masked(weights, carry, inputs):
        return lstm(weights, carry, inputs, mask)

    found, expected = everything(theirs, salt, *case), everything(masked, salt, *case)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)


def test_a_backend_that_is_not_there_is_refused_if_it_is_named_and_passed_over_if_not():
    assert LSTM(INPUTS, WIDTH, streams=()).runs_on == "scan"
    with pytest.raises(InputError, match=r"lstm.backend=cudnn.: .* give auto or scan"):
        _ = LSTM(INPUTS, WIDTH, streams=(), backend="cudnn").runs_on
