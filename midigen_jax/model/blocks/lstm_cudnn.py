"""cuDNN's LSTM as a backend of the recurrent core: the same weights, the same results, on CUDA alone.

In and out as `lstm.lstm`. One call of the library runs a layer over all times; a scan starts its kernels at
every one. Its limits: float32 (TF32 where the device has it), no vmap, no other platform.
"""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import rnn

from midigen_jax.model.blocks.lstm_scan import LSTMCarry, LSTMWeights, lstm, lstm_carry


class CudnnArguments(NamedTuple):
    """What `jax.experimental.rnn.lstm` takes for one layer in one direction."""

    inputs_BTI: Array
    hidden_1BD: Array
    cell_1BD: Array
    weights: Array  # W_ih, W_hh, b_ih and b_hh in one row, gates before features
    lengths_B: Array  # int32, 1 at least


def cudnn_arguments(
    weights: LSTMWeights, carry: LSTMCarry, inputs_BTI: Array, mask_BT: Array
) -> CudnnArguments:
    """Our layer in cuDNN's order; it has two biases, of which the second is zero."""
    flat = [weights.input_IG.T, weights.recurrent_DG.T, weights.bias_G, jnp.zeros_like(weights.bias_G)]
    return CudnnArguments(
        jnp.where(mask_BT[..., None], inputs_BTI, 0),
        carry.hidden_BD[None],
        carry.cell_BD[None],
        jnp.concatenate([part.ravel() for part in flat]),
        jnp.maximum(mask_BT.sum(axis=1, dtype=jnp.int32), 1),
    )


def cudnn_lstm(
    weights: LSTMWeights, carry: LSTMCarry, inputs_BTI: Array, mask_BT: Array
) -> tuple[LSTMCarry, Array]:
    """As `lstm.lstm`, where the mask hides a row's last steps only."""
    arguments = cudnn_arguments(weights, carry, inputs_BTI, mask_BT)
    width = carry.hidden_BD.shape[1]
    hidden_BTD, last_1BD, cell_1BD = rnn.lstm(*arguments, inputs_BTI.shape[2], width, 1, 0.0, False)
    return from_cudnn(carry, hidden_BTD, last_1BD, cell_1BD, mask_BT)


def from_cudnn(
    carry: LSTMCarry, hidden_BTD: Array, last_1BD: Array, cell_1BD: Array, mask_BT: Array
) -> tuple[LSTMCarry, Array]:
    """cuDNN's results as ours: it has zeros where we repeat the last state, and no rows without steps."""
    seen_B1 = mask_BT[:, :1]
    after = LSTMCarry(
        jnp.where(seen_B1, last_1BD[0], carry.hidden_BD), jnp.where(seen_B1, cell_1BD[0], carry.cell_BD)
    )
    return after, jnp.where(mask_BT[..., None], hidden_BTD, after.hidden_BD[:, None])


@cache
def has_cudnn() -> bool:
    """Whether a trial on this machine's device gives what the scan gives, to the precision of TF32."""
    if jax.default_backend() != "gpu":
        return False
    try:
        with jax.ensure_compile_time_eval():  # whoever asks may be tracing
            keys = jax.random.split(jax.random.key(0), 3)
            weights = LSTMWeights(
                jax.random.normal(keys[0], (8, 64)), jax.random.normal(keys[1], (16, 64)), jnp.zeros(64)
            )
            case = weights, lstm_carry(4, 16), jax.random.normal(keys[2], (4, 6, 8)), jnp.ones((4, 6), bool)
            _, found = cudnn_lstm(*case)
            _, expected = lstm(*case)
            return bool(jnp.abs(found - expected).max() < 0.02)
    # Whatever keeps the library from working, the scan is there.
    except Exception:
        return False
