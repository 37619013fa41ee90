"""What recurrent cells have in common: the projection of their input, which stands outside of every scan.

A cell of one's own says how many gates it has, what it remembers, and what a step does; see `gru`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from midigen_jax.model.blocks.base import Block, DropConnect, Matmul, Step
from midigen_jax.model.precision import product


class Recurrent(Block):
    """A recurrent cell. Its gates' sums are `x . input + bias`, of all times at once; the rest is `scan`."""

    residual: bool = False  # add what goes in to what comes out

    gates: ClassVar[int]  # how many sums of `width` units a step needs
    drops_outputs: ClassVar[bool] = True

    @property
    def runs_on(self) -> str:
        """As `Block`."""
        return "scan"

    @property
    def takes_projected(self) -> bool:
        """It does, unless the input itself is added to the output."""
        return not self.residual

    def setup(self) -> None:
        """Draw the weights."""
        gates = self.gates * self.width
        self.input = self.param("input", nn.initializers.lecun_normal(), (self.inputs, gates))
        # One orthogonal factor for all gates: one for each would be as many QR decompositions.
        self.recurrent = self.param("recurrent", nn.initializers.orthogonal(), (self.width, gates))
        self.bias = self.param("bias", self.initial_bias, (gates,))

    def initial_bias(self, key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        """(G,) zeros; a cell may begin with open gates."""
        return jnp.zeros(shape, dtype)

    def scan(
        self,
        recurrent_DG: Array,
        carry: Any,
        x_BTI: Array,
        projected_BTG: Array | None,
        input_IG: Array,
        now: Step,
    ) -> tuple[Any, Array]:
        """The carry after a chunk and the outputs, given what is left to be projected of the input.

        The gates' sums are `x . input + bias`, and `projected_BTG` besides, where it is given.
        """
        visible_BTI = jnp.where(now.mask_BT[..., None], x_BTI, 0)
        rows, times, size = visible_BTI.shape
        sums = (
            product(self.compute_dtype)(visible_BTI.reshape(rows * times, size), input_IG) + self.bias[None]
        )
        sum_BTG = sums.reshape(rows, times, -1)
        if projected_BTG is not None:
            sum_BTG += jnp.where(now.mask_BT[..., None], projected_BTG, 0)

        def step(carry: Any, now_T: tuple[Array, Array]) -> tuple[Any, Array]:
            sum_BG, mask_B = now_T
            after, y_BD = self.step(recurrent_DG, carry, sum_BG)
            seen_B1 = mask_B[:, None]
            after = jax.tree.map(lambda new, old: jnp.where(seen_B1, new, old), after, carry)
            return after, jnp.where(seen_B1, y_BD, 0)

        over_time = jax.tree.map(lambda part_BT: jnp.swapaxes(part_BT, 0, 1), (sum_BTG, now.mask_BT))
        carry, y_TBD = lax.scan(step, carry, over_time)
        return carry, jnp.swapaxes(y_TBD, 0, 1)

    def step(self, recurrent_DG: Array, carry: Any, sum_BG: Array) -> tuple[Any, Array]:
        """The carry after one event and the output (B, D), given the sums of the gates."""
        raise NotImplementedError

    def __call__(
        self, carry: Any, x_BTD: Array, now: Step, drop: DropConnect | None = None
    ) -> tuple[Any, Array]:
        """As `Block`. With `drop`, recurrent weights are dropped, the same in all rows and at all times."""
        carry, y_BTD = self.scan(self._recurrent(drop), carry, x_BTD, None, self.input, now)
        return carry, y_BTD + x_BTD if self.residual else y_BTD

    def project(self, features_VF: Array, first: int) -> Array:
        """(V, G): what V inputs add to the gates by their features `first` to `first + F`."""
        rows_FG = self.input[first : first + features_VF.shape[1]]
        return product(self.compute_dtype)(features_VF, rows_FG)

    def input_from(self, first: int) -> Array:
        """(I - first, G): the weights of the features from `first` on."""
        return self.input[first:]

    def from_projected(
        self,
        carry: Any,
        projected_BTG: Array,
        rest: Sequence[Array],
        rest_RG: Array,
        now: Step,
        drop: DropConnect | None = None,
    ) -> tuple[Any, Array]:
        """As `__call__`, of inputs whose first features were multiplied already: sums of what `project` gave.

        `rest` are the R features after them, in arrays (B, T, F), and `rest_RG` is `input_from` of the first
        of them; there may be none. (A slice of weights that is taken in a loop is copied in each step.)
        """
        rest_BTR = jnp.concatenate([jnp.zeros((*now.mask_BT.shape, 0), self.input.dtype), *rest], axis=-1)
        return self.scan(self._recurrent(drop), carry, rest_BTR, projected_BTG, rest_RG, now)

    def matmuls(self, rows: int, length: int) -> list[Matmul]:
        """As `Block`: of the input, all events at once; of the state, step by step."""
        gates = self.gates * self.width
        return [Matmul(1, rows * length, self.inputs, gates), Matmul(length, rows, self.width, gates)]

    def _recurrent(self, drop: DropConnect | None) -> Array:
        if drop is None:
            return self.recurrent
        kept = 1 - drop.rate
        kept_DG = jax.random.bernoulli(drop.key, kept, self.recurrent.shape)
        return jnp.where(kept_DG, self.recurrent / kept, 0)
