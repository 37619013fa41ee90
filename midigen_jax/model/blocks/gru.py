"""A GRU layer, as a cell of one's own may be written: gates reset, update, candidate.

The reset gate acts on the product of the state, after it: all three gates are then one product a step.

Source: Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder", in the variant of cuDNN.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from midigen_jax.model.blocks.recurrent import Recurrent
from midigen_jax.model.precision import product


class GRU(Recurrent):
    """A layer of gated recurrent units; the carry is its state (B, D)."""

    gates: ClassVar[int] = 3

    def initial_carry(self, rows: int, keep_cache: bool = True) -> Array:
        """Zeros for `rows` sequences."""
        return jnp.zeros((rows, self.width))

    def step(self, recurrent_DG: Array, carry: Array, sum_BG: Array) -> tuple[Array, Array]:
        """As `Recurrent.step`."""
        from_state_BG = product(self.compute_dtype)(carry, recurrent_DG)
        reset_BD, update_BD, candidate_BD = jnp.split(sum_BG, 3, axis=-1)
        state_reset_BD, state_update_BD, state_candidate_BD = jnp.split(from_state_BG, 3, axis=-1)
        reset_BD = jax.nn.sigmoid(reset_BD + state_reset_BD)
        update_BD = jax.nn.sigmoid(update_BD + state_update_BD)
        candidate_BD = jnp.tanh(candidate_BD + reset_BD * state_candidate_BD)
        state_BD = update_BD * carry + (1 - update_BD) * candidate_BD
        return state_BD, state_BD
