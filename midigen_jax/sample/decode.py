"""The decode loop: one jitted call from prompts to finished rows of events.

In: parameters, a key and settings for each row, a prompt for each row. Out: the events that follow, and a
state from which `resume` goes on.

The prompts are read in one piece (prefill); then a loop draws an event, reads it, and ends when all rows
have written `<end>`, or as many ticks as they may, or the budget of events is spent. Event n of a row is
drawn with random bits that its key and n alone decide, so a row comes out the same beside any other rows,
and however its events are divided into calls. Settings are traced: sweeping them compiles nothing again.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from midigen_jax.model.network import IMPOSSIBLE, Carry, Network, Tables, Trunk
from midigen_jax.music.tokens import END
from midigen_jax.sample import constraints
from midigen_jax.sample.constraints import Constraints
from midigen_jax.sample.filters import Controls, draw, penalized


class Prompt(NamedTuple):
    """Events that are given, at least one a row, padded at the end under the mask."""

    pitch_BT: Array
    duration_BT: Array
    mask_BT: Array


class Settings(NamedTuple):
    """How rows are written. All are traced; what is None costs nothing."""

    key_B: Array  # typed keys
    pitch: Controls
    duration: Controls
    ticks_B: Array  # int32: a row that has written so many is done
    constraints: Constraints | None = None


class How(NamedTuple):
    """What the program can do beside drawing at a temperature; anything else is compiled for itself."""

    filters: bool = False  # look at top-k, top-p and min-p
    repetition: bool = False  # look at the repetition penalty


_PLAIN = How()


class Decoded(NamedTuple):
    """Events that a call wrote; those beyond `length_B` (which counts `<end>`) mean nothing."""

    pitch_BN: Array
    duration_BN: Array
    length_B: Array


class State(NamedTuple):
    """All that going on needs."""

    events: Array  # int32: how many steps rows have been at it
    carry: Carry
    trunk: Trunk  # T = 1: after the last event
    done_B: Array
    ticks_B: Array  # int32: written so far
    constraints: Any  # ConstraintCarry, or None without constraints
    seen: Any  # bool (B, P) and (B, R): ids that were there; None without a repetition penalty
    tables: Tables


@partial(jax.jit, static_argnames=("network", "events", "how"))
def decode(
    network: Network,
    params: dict,
    prompt: Prompt,
    settings: Settings,
    *,
    events: int,
    how: How = _PLAIN,
) -> tuple[State, Decoded]:
    """Read the prompts and write up to `events` events a row.

    Compiled once for a network, a shape of the prompt, a budget, `how` and the presence of constraints.
    """
    model = network.bind({"params": params})
    state = _prefill(model, prompt, settings, how)
    return _write(model, state, settings, events, how)


@partial(jax.jit, static_argnames=("network", "events", "how"), donate_argnames="state")
def resume(
    network: Network, params: dict, state: State, settings: Settings, *, events: int, how: How = _PLAIN
) -> tuple[State, Decoded]:
    """Go on from a state, whose memory is used again; together the same events as one call would write."""
    return _write(network.bind({"params": params}), state, settings, events, how)


def _prefill(model: Network, prompt: Prompt, settings: Settings, how: How) -> State:
    rows, tables = len(prompt.mask_BT), model.tables()
    carry, trunk = model(model.initial_carry(rows), *prompt, tables=tables)
    last_B11 = prompt.mask_BT.sum(axis=1)[:, None, None] - 1
    trunk = Trunk(*(jnp.take_along_axis(part, last_B11, axis=1) for part in trunk))
    count_B = jnp.zeros(rows, jnp.int32)
    rules, seen = None, None
    if settings.constraints is not None:
        follow = partial(constraints.follow, settings.constraints)
        start = constraints.constraint_carry(settings.constraints)
        over_time = jax.tree.map(lambda part_BT: part_BT.T, tuple(prompt))
        rules, _ = lax.scan(lambda carry, now: (follow(carry, *now), None), start, over_time)
    if how.repetition:
        grammar = model.grammar
        seen = (
            _mark(jnp.zeros((rows, grammar.pitch_size), bool), prompt.pitch_BT, prompt.mask_BT),
            _mark(jnp.zeros((rows, grammar.duration_size), bool), prompt.duration_BT, prompt.mask_BT),
        )
    return State(jnp.int32(0), carry, trunk, jnp.zeros(rows, bool), count_B, rules, seen, tables)


def _write(model: Network, state: State, settings: Settings, events: int, how: How) -> tuple[State, Decoded]:
    rows, rules = len(state.done_B), settings.constraints
    # All random bits at once, outside of the loop: inside, drawing them costs more than using them.
    steps_N = state.events + jnp.arange(events)
    bits_BN2 = jax.vmap(
        lambda key: jax.vmap(lambda step: jax.random.bits(jax.random.fold_in(key, step), (2,)))(steps_N)
    )(settings.key_B)

    def step(loop: tuple[State, Decoded]) -> tuple[State, Decoded]:
        state, decoded = loop
        number = state.events - first
        bits_B2 = lax.dynamic_index_in_dim(bits_BN2, number, axis=1, keepdims=False)
        trunk = state.trunk
        if rules is not None:
            allowed_BP = constraints.allowed_pitches(rules, state.constraints, trunk.allowed_BTP[:, 0])
            trunk = trunk._replace(allowed_BTP=allowed_BP[:, None])
        logits_BP = model.pitch_logits(trunk)[:, 0]
        if how.repetition:
            logits_BP = penalized(logits_BP, state.seen[0], settings.pitch.repetition_B)
        # The barriers keep XLA from computing an id again for each use.
        pitch_B = lax.optimization_barrier(draw(logits_BP, settings.pitch, bits_B2[:, 0], how.filters))
        logits_BR = model.duration_logits(trunk, pitch_B[:, None])[:, 0]
        if rules is not None:
            allowed_BR = constraints.allowed_durations(rules, state.constraints, pitch_B)
            logits_BR = jnp.where(allowed_BR, logits_BR, IMPOSSIBLE)
        if how.repetition:
            logits_BR = penalized(logits_BR, state.seen[1], settings.duration.repetition_B)
        duration_B = lax.optimization_barrier(draw(logits_BR, settings.duration, bits_B2[:, 1], how.filters))
        active_B = ~state.done_B
        ticks_B = state.ticks_B + jnp.where(active_B, duration_B, 0)
        carry, trunk = model(
            state.carry, pitch_B[:, None], duration_B[:, None], active_B[:, None], tables=state.tables
        )
        return State(
            state.events + 1,
            carry,
            trunk,
            state.done_B | (pitch_B == END) | (ticks_B >= settings.ticks_B),
            ticks_B,
            None
            if rules is None
            else constraints.follow(rules, state.constraints, pitch_B, duration_B, active_B),
            None
            if state.seen is None
            else (
                _mark(state.seen[0], pitch_B[:, None], active_B[:, None]),
                _mark(state.seen[1], duration_B[:, None], active_B[:, None]),
            ),
            state.tables,
        ), Decoded(
            decoded.pitch_BN.at[:, number].set(pitch_B),
            decoded.duration_BN.at[:, number].set(duration_B),
            decoded.length_B + active_B,
        )

    first = state.events
    nothing_BN = jnp.zeros((rows, events), jnp.int32)
    start = state, Decoded(nothing_BN, nothing_BN, jnp.zeros(rows, jnp.int32))
    return lax.while_loop(lambda loop: (loop[0].events < first + events) & ~loop[0].done_B.all(), step, start)


def _mark(seen_BV: Array, ids_BT: Array, mask_BT: Array) -> Array:
    """Ids added to those that were there."""
    rows_B1 = jnp.arange(len(seen_BV))[:, None]
    return seen_BV.at[rows_B1, ids_BT].max(mask_BT)
