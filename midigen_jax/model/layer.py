"""An LSTM layer as a Flax module: its weights, and which backend runs it.

Sources: forget bias of 1 after Jozefowicz et al. 2015; DropConnect on recurrent weights after Merity et al.
2017, "Regularizing and optimizing LSTM language models".
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from midigen_jax.config import ModelConfig
from midigen_jax.errors import InputError
from midigen_jax.model.cudnn import cudnn_lstm, has_cudnn
from midigen_jax.model.lstm import Kernels, LSTMCarry, LSTMWeights, lstm
from midigen_jax.model.precision import product

Backend = Literal["scan", "cudnn", "pallas"]

_PAYING_WIDTH = 256  # from where `auto` takes a TPU's kernels: docs/pallas.md has the schedules that say so


class DropConnect(NamedTuple):
    """What decides which recurrent weights of a layer are dropped: a typed key, and which share of them."""

    key: Array
    rate: float | Array


def backend_of(config: ModelConfig) -> Backend:
    """What runs the layers on this machine. Raises InputError for what is named and cannot be.

    Kernels for TPUs that are named stand in every program; where it is not lowered for a TPU, the scan runs.
    """
    if config.backend == "pallas":
        if not _kernels_fit(config):
            raise InputError(
                f"model.backend = pallas: a TPU's fast memory has no room for the recurrent weights of "
                f"model.width = {config.width}; give auto or scan, or a smaller width"
            )
        return "pallas"
    possible = config.compute_dtype == "float32" and config.backend != "scan" and has_cudnn()
    if config.backend == "cudnn" and not possible:
        raise InputError(
            "model.backend = cudnn: needs cuDNN on CUDA and model.compute_dtype = float32; give auto or scan"
        )
    if possible:
        return "cudnn"
    return tpu_backend(config) if jax.default_backend() == "tpu" else "scan"


def tpu_backend(config: ModelConfig) -> Backend:
    """What `auto` is on a TPU: kernels where, compiled, they cost less than the scan."""
    if config.backend != "auto":
        return backend_of(config)
    pays = config.width >= _PAYING_WIDTH and config.width % 128 == 0
    return "pallas" if pays and _kernels_fit(config) else "scan"


class LSTM(nn.Module):
    """The weights of one layer of `width` units over `inputs` features; `lstm` does the work."""

    inputs: int
    width: int
    compute_dtype: str = "float32"
    backend: Backend = "scan"

    def setup(self) -> None:
        """Draw the weights."""
        gates = 4 * self.width
        self.input = self.param("input", nn.initializers.lecun_normal(), (self.inputs, gates))
        # One orthogonal factor for the four gates: four would be four QR decompositions.
        self.recurrent = self.param("recurrent", nn.initializers.orthogonal(), (self.width, gates))
        self.bias = self.param("bias", _forget_bias, (gates,))

    def __call__(
        self, carry: LSTMCarry, inputs_BTI: Array, mask_BT: Array, drop: DropConnect | None = None
    ) -> tuple[LSTMCarry, Array]:
        """As `lstm`; for `cudnn`, the mask must hide a row's last steps only.

        With `drop`, recurrent weights are dropped, the same ones in all rows and at all times.
        """
        weights = LSTMWeights(self.input, self._recurrent(drop), self.bias)
        if self.backend == "cudnn" and mask_BT.shape[1] > 1:
            return cudnn_lstm(weights, carry, inputs_BTI, mask_BT)
        return self._run(weights, carry, inputs_BTI, mask_BT)

    def project(self, features_VF: Array, first: int) -> Array:
        """(V, 4D): what V inputs add to the gates by their features `first` to `first + F`."""
        rows_FG = self.input[first : first + features_VF.shape[1]]
        return product(self.compute_dtype)(features_VF, rows_FG)

    def input_from(self, first: int) -> Array:
        """(I - first, 4D): the weights of the features from `first` on."""
        return self.input[first:]

    def from_projected(
        self,
        carry: LSTMCarry,
        projected_BTG: Array,
        rest: Sequence[Array],
        rest_RG: Array,
        mask_BT: Array,
        drop: DropConnect | None = None,
    ) -> tuple[LSTMCarry, Array]:
        """As `__call__`, of inputs whose first features were multiplied already: sums of what `project` gave.

        `rest` are the R features after them, in arrays (B, T, F), and `rest_RG` is `input_from` of the first
        of them; there may be none. (A slice of weights that is taken in a loop is copied in each step.)
        """
        inputs_BTR = jnp.concatenate([jnp.zeros((*mask_BT.shape, 0), self.input.dtype), *rest], axis=-1)
        weights = LSTMWeights(rest_RG, self._recurrent(drop), self.bias)
        return self._run(weights, carry, inputs_BTR, mask_BT, projected_BTG)

    def _run(
        self,
        weights: LSTMWeights,
        carry: LSTMCarry,
        inputs_BTI: Array,
        mask_BT: Array,
        projected_BTG: Array | None = None,
    ) -> tuple[LSTMCarry, Array]:
        # Of a single step there is nothing to keep in fast memory for the next one.
        kernels = _kernels() if self.backend == "pallas" and mask_BT.shape[1] > 1 else None
        return lstm(weights, carry, inputs_BTI, mask_BT, projected_BTG, self.compute_dtype, kernels)

    def _recurrent(self, drop: DropConnect | None) -> Array:
        if drop is None:
            return self.recurrent
        kept = 1 - drop.rate
        kept_DG = jax.random.bernoulli(drop.key, kept, self.recurrent.shape)
        return jnp.where(kept_DG, self.recurrent / kept, 0)


def _forget_bias(key: Array, shape: tuple[int], dtype: jnp.dtype = jnp.float32) -> Array:
    """Zero but for the forget gate, which starts open."""
    width = shape[0] // 4
    return jnp.zeros(shape, dtype).at[width : 2 * width].set(1)


def _kernels_fit(config: ModelConfig) -> bool:
    from midigen_jax.model.pallas_lstm import fits

    return fits(config.width, config.compute_dtype)


def _kernels() -> Kernels:
    # Imported where it is used: most trainings need not wait for it, a tenth of a second.
    from midigen_jax.model.pallas_lstm import KERNELS

    return KERNELS
