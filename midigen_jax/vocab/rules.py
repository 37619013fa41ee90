"""What may follow what: events that no music encodes to have probability 0, everywhere.

In: the events of a row, one after another. Out: for each step, which ids may come next in each stream.
Training, evaluation and decoding use the same masks, so that no likelihood is spent on the impossible and
every sample decodes to valid music. Each vocabulary has its own rules; here is what they share.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from midigen_jax.vocab.base import END, START, Stream

C = TypeVar("C", bound=NamedTuple)

Events = Mapping[str, Array]
"""Ids by the name of their stream, int32, each (B, T)."""

VALUES = 256  # more than there are pitches, and a few marks


class Rules(Protocol):
    """What may follow; frozen and hashable, since programs are compiled for it."""

    def initial_carry(self, rows: int) -> Any:
        """What is remembered of `rows` sequences of which nothing is known yet: zeros, and all may follow.

        So a row that begins in the middle of a piece is judged mildly until enough of it is known, and one
        that begins with `<start>` exactly.
        """

    def follow(self, carry: Any, events: Events, mask_BT: Array) -> tuple[Any, Any]:
        """The carry after events, and, as arrays (B, T, …), what `allowed` needs to know after each of them.

        A masked event is invisible.
        """

    def limits(self, only: Mapping[str, NDArray[np.bool_]] | None = None) -> Any:
        """Arrays by id that `allowed` reads.

        `only` are ids (V,) of some streams that shall be written at all: then none is allowed after which
        nothing could come.
        """

    def allowed(self, after: Any, limits: Any, stream: str, earlier: Events) -> Array:
        """(B, T, V) bool: which ids the next event may have in a stream, given its ids in `earlier` ones."""


@dataclass(frozen=True)
class FreeRules:
    """Any event may follow any other, but `<start>`; id 0 of later streams is for `<start>` and `<end>`."""

    streams: tuple[Stream, ...]

    def initial_carry(self, rows: int) -> tuple[()]:
        """Nothing: no rule here looks back."""
        return ()

    def follow(self, carry: tuple[()], events: Events, mask_BT: Array) -> tuple[tuple[()], Array]:
        """As `Rules.follow`; what is known is the shape alone."""
        return carry, mask_BT

    def limits(self, only: Mapping[str, NDArray[np.bool_]] | None = None) -> dict[str, NDArray[np.bool_]]:
        """(V,) by stream: the ids that events have; `<end>` may always be."""
        found = {name: np.arange(size) > 0 for name, size in self.streams}
        for name, only_V in (only or {}).items():
            found[name] = found[name] & only_V
        found[self.streams[0].name][END] = True
        return found

    def allowed(self, after: Array, limits: Any, stream: str, earlier: Events) -> Array:
        """As `Rules.allowed`."""
        allowed_11V = jnp.asarray(limits[stream])[None, None]
        if not earlier:
            return jnp.broadcast_to(allowed_11V, (*after.shape, allowed_11V.shape[-1]))
        first_BT = earlier[self.streams[0].name]
        edge_BT1 = ((first_BT == START) | (first_BT == END))[..., None]
        none_11V = (jnp.arange(allowed_11V.shape[-1]) == 0)[None, None]
        return jnp.where(edge_BT1, none_11V, allowed_11V)


def carries(
    advance: Callable[..., C], after_each: Callable[..., C], carry: C, *events_BT: Array
) -> tuple[C, C]:
    """The carry after events, and those after each of them, (B, T, …).

    A lone event, as in a decode loop, is a case of its own: it costs less.
    """
    if events_BT[0].shape[1] == 1:
        carry = advance(carry, *(array_B1[:, 0] for array_B1 in events_BT))
        return carry, jax.tree.map(lambda part_B: part_B[:, None], carry)
    after = after_each(carry, *events_BT)
    return jax.tree.map(lambda part_BT: part_BT[:, -1], after), after


def newest(number_BT: Array, value_BT: Array, is_one_BT: Array, first_B: Array) -> Array:
    """For each time the newest of the events so far that `is_one`: its number and its value, in one int32.

    Values are below `VALUES`. Event 0, with the value `first_B`, stands in where there was none. Arrays may
    have further axes.
    """
    return lax.cummax(jnp.where(is_one_BT, number_BT * VALUES + value_BT, first_B[:, None]), axis=1)


def since(newest_BTV: Array, begun_BT: Array) -> Array:
    """The values of those that came after event `begun`, or at any time where that is 0; else 0."""
    is_new_BTV = (newest_BTV // VALUES > begun_BT[..., None]) | (begun_BT == 0)[..., None]
    return jnp.where(is_new_BTV, newest_BTV % VALUES, 0)


def shifted(first_B: Array, after_BT: Array) -> Array:
    """What stood before each event, of what stands after it."""
    return jnp.concatenate([first_B[:, None], after_BT[:, :-1]], axis=1)


def where(mask_B: Array, new: C, old: C) -> C:
    """One carry or the other, row by row."""

    def of(new: Array, old: Array) -> Array:
        return jnp.where(mask_B.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(of, new, old)
