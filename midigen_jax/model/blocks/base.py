"""What a block is: a layer of the network, with what it remembers, what it costs, and settings of its own.

In: a carry, vectors over time, what is known of each event. Out: the carry after them, and vectors over time.
"""

import math
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
from jax import Array

from midigen_jax.vocab.base import Stream

LONGEST_WINDOW = 1 << 20  # events


class Step(NamedTuple):
    """The events that a chunk reads: what a block may look at beside the vectors."""

    events: dict[str, Array]  # ids (B, T) by stream, as they are shown to the layers
    ticks_BT: Array  # int32: the time that goes by after each event
    mask_BT: (
        Array  # bool: a hidden event changes nothing, even if it is NaN; it hides a row's last steps only
    )


class DropConnect(NamedTuple):
    """Which weights of a block are dropped in this step: a typed key, and which share of them."""

    key: Array
    rate: float | Array


class Matmul(NamedTuple):
    """A product of (rows, inner) and (inner, columns), done so many times in a forward pass."""

    times: int
    rows: int
    inner: int
    columns: int

    @property
    def flops(self) -> int:
        """Its operations: a multiplication and an addition for each pair of numbers."""
        return 2 * math.prod(self)


class Block(nn.Module):
    """A layer of `width` units over `inputs` features. Subclasses add their own settings as fields.

    One law holds for all, and `verify_block` tests it: reading a sequence at once, step by step or in any
    chunks gives the same outputs and gradients; no output looks ahead; what the mask hides is invisible.
    """

    inputs: int
    width: int
    streams: tuple[Stream, ...]  # of the vocabulary
    compute_dtype: str = "float32"
    platform: str = ""  # that programs are made for: cpu, gpu, tpu; "": that of this machine

    drops_outputs: ClassVar[bool] = False
    """whether dropout takes some of the units that go out"""

    any_inputs: ClassVar[bool] = True
    """whether the input may have another width than the output"""

    @property
    def runs_on(self) -> str:
        """What computes it, as rows of benchmarks name it."""
        return "xla"

    @property
    def takes_projected(self) -> bool:
        """Whether its input may come multiplied, as `Recurrent` has it: `project`, `from_projected` …"""
        return False

    @property
    def multiplies_itself(self) -> bool:
        """Whether a library multiplies the input of a whole chunk, so that nothing is saved before it."""
        return False

    def check(self) -> None:
        """Raises InputError for settings that cannot be."""

    def initial_carry(self, rows: int, keep_cache: bool = True) -> Any:
        """What is remembered of `rows` sequences before their first event: arrays with a leading B.

        Without `keep_cache` it is for a single chunk, after which nothing comes.
        """
        raise NotImplementedError

    def __call__(
        self, carry: Any, x_BTD: Array, now: Step, drop: DropConnect | None = None
    ) -> tuple[Any, Array]:
        """The carry after a chunk, and the outputs (B, T, width). With `drop`, weights are dropped."""
        raise NotImplementedError

    def matmuls(self, rows: int, length: int) -> list[Matmul]:
        """The matrix products of a forward pass over `rows` sequences of `length` events."""
        raise NotImplementedError
