"""What events mean, inside of programs: look-ups by id that cost a chip no gather where none is needed."""

from collections.abc import Mapping
from functools import reduce
from operator import add, or_

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from midigen_jax.vocab import Vocabulary
from midigen_jax.vocab.base import IdTable
from midigen_jax.vocab.rules import Events

_MOST_RUNS = 6  # that are told apart by comparing


def by_id(table_V: NDArray[np.integer] | NDArray[np.bool_], ids: Array) -> Array:
    """`table_V[ids]`, for a table that is known when the program is made.

    Most tables are a few runs of ids in which the value rises with the id, or stays: a few comparisons.
    """
    numbers_V = table_V.astype(np.int64)
    for slope in (0, 1):
        offset_V = numbers_V - slope * np.arange(len(numbers_V))
        starts = np.flatnonzero(np.append(True, offset_V[1:] != offset_V[:-1]))
        if len(starts) <= _MOST_RUNS:
            offset = jnp.int32(offset_V[0])
            for start in starts[1:].tolist():
                offset = jnp.where(ids < start, offset, jnp.int32(offset_V[start]))
            found = ids * slope + offset
            return jnp.broadcast_to(found, ids.shape).astype(table_V.dtype)
    return jnp.asarray(table_V)[ids]


def ticks_of(tables: Mapping[str, IdTable], events: Events) -> Array:
    """(B, T) int32: the time that goes by after each event."""
    parts = [by_id(table.ticks, events[name]) for name, table in tables.items() if table.ticks.any()]
    return reduce(add, parts, jnp.int32(0))


def closes_of(tables: Mapping[str, IdTable], events: Events) -> Array:
    """(B, T) bool: whether each event is the last one of its slice."""
    parts = [by_id(table.closes, events[name]) for name, table in tables.items() if table.closes.any()]
    return reduce(or_, parts, jnp.bool_(False))


def allowed_next(vocabulary: Vocabulary, events: Events, mask_BT: Array) -> dict[str, Array]:
    """(B, T, V) bool by stream: ids that the rules allow the last T of T + 1 events, given earlier ids."""
    rules, limits = vocabulary.rules, vocabulary.rules.limits()
    read = {name: ids[:, :-1] for name, ids in events.items()}
    _, after = rules.follow(rules.initial_carry(len(mask_BT)), read, mask_BT)
    found: dict[str, Array] = {}
    earlier: dict[str, Array] = {}
    for name, _ in vocabulary.streams:
        found[name] = rules.allowed(after, limits, name, earlier)
        earlier = earlier | {name: events[name][:, 1:]}
    return found


def pitch_stream(tables: Mapping[str, IdTable]) -> str:
    """The name of the stream that says pitches; of the first one where none does by itself."""
    return next((name for name, table in tables.items() if table.says_pitches), next(iter(tables)))
