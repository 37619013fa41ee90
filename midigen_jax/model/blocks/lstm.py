"""An LSTM layer as a block: its weights, and which backend runs it.

Sources: forget bias of 1 after Jozefowicz et al. 2015; DropConnect on recurrent weights after Merity et al.
2017, "Regularizing and optimizing LSTM language models".
"""

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array

from midigen_jax.errors import InputError
from midigen_jax.model.blocks.base import Step
from midigen_jax.model.blocks.lstm_cudnn import cudnn_lstm, has_cudnn
from midigen_jax.model.blocks.lstm_scan import Kernels, LSTMCarry, LSTMWeights, lstm, lstm_carry
from midigen_jax.model.blocks.recurrent import Recurrent

Backend = Literal["scan", "cudnn", "pallas"]

_PAYING_WIDTH = 256  # from where `auto` takes a TPU's kernels: docs/pallas.md has the schedules that say so


class LSTM(Recurrent):
    """A layer of LSTM units; `lstm_scan.lstm`, cuDNN or a TPU's kernels do the work.

    backend: scan, cudnn, pallas; auto: cudnn if it can, pallas on a TPU where it pays, or scan.
    """

    backend: str = "auto"

    gates: ClassVar[int] = 4

    def initial_carry(self, rows: int, keep_cache: bool = True) -> LSTMCarry:
        """Zeros for `rows` sequences."""
        return lstm_carry(rows, self.width)

    def initial_bias(self, key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        """Zero but for the forget gate, which starts open."""
        width = shape[0] // 4
        return jnp.zeros(shape, dtype).at[width : 2 * width].set(1)

    @property
    def multiplies_itself(self) -> bool:
        """cuDNN does."""
        return self.runs_on == "cudnn"

    @property
    def runs_on(self) -> Backend:
        """The backend. Raises InputError for what is named and cannot be.

        Kernels that are named stand in every program; where it is not lowered for a TPU, the scan runs.
        """
        width, dtype = self.width, self.compute_dtype
        if self.backend == "pallas":
            if not _kernels_fit(width, dtype):
                raise InputError(
                    f"lstm(backend=pallas): a TPU's fast memory has no room for the recurrent weights of "
                    f"model.width = {width}; give auto or scan, or a smaller width"
                )
            return "pallas"
        possible = dtype == "float32" and self.backend != "scan" and has_cudnn()
        if self.backend == "cudnn" and not possible:
            raise InputError(
                "lstm(backend=cudnn): needs cuDNN on CUDA and model.compute_dtype = float32; give auto or "
                "scan"
            )
        if possible:
            return "cudnn"
        on_tpu = (self.platform or jax.default_backend()) == "tpu"
        # Kernels where, compiled, they cost less than the scan.
        pays = on_tpu and width >= _PAYING_WIDTH and width % 128 == 0 and self.backend == "auto"
        return "pallas" if pays and _kernels_fit(width, dtype) else "scan"

    def scan(
        self,
        recurrent_DG: Array,
        carry: Any,
        x_BTI: Array,
        projected_BTG: Array | None,
        input_IG: Array,
        now: Step,
    ) -> tuple[LSTMCarry, Array]:
        """As `Recurrent.scan`; for `cudnn`, nothing may be projected already."""
        weights = LSTMWeights(input_IG, recurrent_DG, self.bias)
        backend, several = self.runs_on, now.mask_BT.shape[1] > 1
        if backend == "cudnn" and several and projected_BTG is None:
            return cudnn_lstm(weights, carry, x_BTI, now.mask_BT)
        # Of a single step there is nothing to keep in fast memory for the next one.
        kernels = _kernels() if backend == "pallas" and several else None
        return lstm(weights, carry, x_BTI, now.mask_BT, projected_BTG, self.compute_dtype, kernels)


def _kernels_fit(width: int, dtype: str) -> bool:
    from midigen_jax.model.blocks.lstm_pallas import fits

    return fits(width, dtype)


def _kernels() -> Kernels:
    # Imported where it is used: most trainings need not wait for it, a tenth of a second.
    from midigen_jax.model.blocks.lstm_pallas import KERNELS

    return KERNELS
