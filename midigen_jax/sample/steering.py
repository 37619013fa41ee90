"""Particles from the host: a program for pieces that are about as long, and a call and a draw for each.

In: a model, tokens to begin with, what is given, what it is steered to, a key. Out: the events of one
particle, drawn by weight, and what all of them went through.
"""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from midigen_jax.errors import InputError
from midigen_jax.model.network import Network
from midigen_jax.sample.decode import bytes_a_row, prompt_of, tokens_of
from midigen_jax.sample.particles import NEVER, Given, Steering, Written, write_particles
from midigen_jax.train.checkpoint import LoadedModel
from midigen_jax.vocab import Tokens, Vocabulary

_EVENTS = 512  # room for events is filled up to a multiple: fewer programs are compiled
_CHORD = 6  # events of a slice that may have any number of them
_MOST_BYTES = 4 << 30  # that particles may remember


class Drawn(NamedTuple):
    """One piece, drawn from its particles."""

    tokens: Tokens  # what follows the prompt
    nats: float  # of it, at temperature 1
    evidence: float  # nats: how likely what is given is, as the particles estimate it
    effective: NDArray[np.float64]  # at each stop, how many particles carried the weight
    seconds: float
    compile_seconds: float


def steering(
    vocabulary: Vocabulary, temperature: float, proposal: float, parallel: float, **more: Any
) -> Steering:
    """Of one temperature for all streams; rows are drawn anew where half of them or less carry the weight."""
    hot = {name: jnp.float32(temperature) for name, _ in vocabulary.streams}
    return Steering(hot, jnp.float32(proposal), jnp.float32(0.5), jnp.float32(parallel), **more)


def draw_piece(
    restored: LoadedModel,
    prompt: Tokens,
    begin: int,
    given: Given,
    steering: Steering,
    key: Array,
    rows: int,
    bar_of: Callable[[int], int],
    events: int = 0,
) -> Drawn:
    """A piece, by `rows` particles.

    prompt: (E, S), with <start>. begin: when it begins, in ticks from a bar line. bar_of: the number of the
    bar in which a tick of `given` lies. events: that a piece may have; one of a given length has room for
    more, if it may need it. Raises InputError for more particles than memory should hold, and where none of
    them reaches the end.
    """
    network, vocabulary = restored.network, restored.network.vocabulary
    if int(given.end) < NEVER:
        events = max(events, _room(network, given))
    _check_memory(network, rows, events)
    begun = time.perf_counter()
    about = restored.params, prompt_of(vocabulary, prompt), jnp.int32(begin), given, steering
    leaves, tree = jax.tree.flatten((*about, key))
    # A Python number has no shape of its own.
    shapes = tuple((np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    program = _program(network, rows, events, restored.metadata.knows_bar_lines, tree, shapes)
    compile_seconds = time.perf_counter() - begun
    begun = time.perf_counter()
    written = jax.device_get(program(*about, key))
    _check_alive(written, given, bar_of)
    last = jax.random.fold_in(key, rows + len(given.stop_S))  # the stops have had those before it
    row = int(jax.random.categorical(last, jnp.asarray(written.weight_B)))
    tokens = tokens_of(vocabulary, written.decoded, row)
    effective = np.asarray(written.effective_S, np.float64)[: int(written.stops)]
    found = tokens, float(written.nats_B[row]), float(written.evidence), effective
    return Drawn(*found, time.perf_counter() - begun, compile_seconds)


@lru_cache(maxsize=16)
def _program(network: Network, rows: int, events: int, bars: bool, tree: Any, shapes: Any) -> Any:
    """`write_particles`, compiled: once for arguments of these shapes."""
    arguments = jax.tree.unflatten(tree, [jax.ShapeDtypeStruct(*shape) for shape in shapes])
    return write_particles.lower(network, *arguments, rows=rows, events=events, bars=bars).compile()


def _room(network: Network, given: Given) -> int:
    """Events that a piece may have: a slice for every stop and two more a quarter."""
    each = network.vocabulary.slice_events
    each = each if each > 1 else _CHORD
    stops = int((given.stop_S < NEVER).sum())
    quarters = network.vocabulary.clock.quarters(int(given.end))
    return -(-(each * (stops + 2 * int(quarters) + 1) + 1) // _EVENTS) * _EVENTS


def _check_memory(network: Network, rows: int, events: int) -> None:
    """Raises InputError for more particles than memory should hold."""
    # All of it lies there twice while rows are drawn anew; an id has four bytes.
    each = 2 * (bytes_a_row(network) + 4 * events * len(network.vocabulary.streams))
    if rows * each > _MOST_BYTES:
        raise InputError(
            f"{rows} particles need {rows * each / 2**30:.1f} GiB; give {_MOST_BYTES // each} or fewer"
        )


def _check_alive(written: Written, given: Given, bar_of: Callable[[int], int]) -> None:
    """Raises InputError, with the bar, where no particle reached the end."""
    if np.isfinite(written.weight_B).any():
        return
    stop = int(np.asarray(given.stop_S)[max(int(written.stops) - 1, 0)])
    bar = bar_of(min(stop, int(given.end)) - 1)
    if int(written.decoded.length_B.max()) == next(iter(written.decoded.events.values())).shape[1]:
        raise InputError(
            f"in bar {bar} the pieces become longer than there is room for; lower the temperature"
        )
    raise InputError(
        f"no particle got beyond bar {bar}: the model finds what is asked for there impossible; give more "
        "particles, or ask for something else"
    )
