"""The decode loop: one jitted call from a prompt to finished rows of events.

In: parameters, a key and temperatures for each row, a prompt for each row. Out: the events that follow.
The prompt is read in one piece (prefill); then a loop draws an event, reads it, and ends when all rows have
written `<end>` or the budget is spent. A row's randomness comes from its own key alone, and temperatures
are traced values: sweeping them compiles nothing again.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from midigen_jax.model.network import IMPOSSIBLE, Carry, Network, Tables, Trunk
from midigen_jax.music.tokens import END


class Prompt(NamedTuple):
    """Events that are given, at least one a row, padded at the end under the mask."""

    pitch_BT: Array
    duration_BT: Array
    mask_BT: Array


class Temperature(NamedTuple):
    """For each row; 0 always takes the likeliest id."""

    pitch_B: Array
    duration_B: Array


class Decoded(NamedTuple):
    """Events written after the prompt; those beyond `length_B` (which counts `<end>`) mean nothing."""

    pitch_BN: Array
    duration_BN: Array
    length_B: Array


class _Loop(NamedTuple):
    step: Array
    carry: Carry
    trunk: Trunk
    done_B: Array
    decoded: Decoded


@partial(jax.jit, static_argnames=("network", "events", "forbidden"))
def decode(
    network: Network,
    params: dict,
    key_B: Array,
    prompt: Prompt,
    temperature: Temperature,
    *,
    events: int,
    forbidden: tuple[int, ...] = (),
) -> Decoded:
    """Write up to `events` events a row; pitch ids in `forbidden` are never drawn.

    `key_B` are typed keys. Compiled once for a network, a shape of the prompt and a budget.
    """
    model = network.bind({"params": params})
    rows = prompt.mask_BT.shape[0]
    # All uniforms at once, outside of the loop: inside, drawing them costs more than using them.
    uniform_BN2 = jax.vmap(lambda key: jax.random.uniform(key, (events, 2)))(key_B)
    banned_P = jnp.zeros(network.grammar.pitch_size, bool).at[jnp.array(forbidden, jnp.int32)].set(True)

    def draw(loop: _Loop) -> _Loop:
        uniform_B2 = lax.dynamic_index_in_dim(uniform_BN2, loop.step, axis=1, keepdims=False)
        logits_BP = jnp.where(banned_P[None], IMPOSSIBLE, model.pitch_logits(loop.trunk)[:, 0])
        pitch_B = sample(logits_BP, temperature.pitch_B, uniform_B2[:, 0])
        logits_BR = model.duration_logits(loop.trunk, pitch_B[:, None])[:, 0]
        duration_B = sample(logits_BR, temperature.duration_B, uniform_B2[:, 1])
        active_B = ~loop.done_B
        decoded = Decoded(
            loop.decoded.pitch_BN.at[:, loop.step].set(pitch_B),
            loop.decoded.duration_BN.at[:, loop.step].set(duration_B),
            loop.decoded.length_B + active_B,
        )
        carry, trunk = model(
            loop.carry, pitch_B[:, None], duration_B[:, None], active_B[:, None], tables=tables
        )
        return _Loop(loop.step + 1, carry, trunk, loop.done_B | (pitch_B == END), decoded)

    # Decided by the budget alone: a row must come out as it does without the others.
    tables = model.tables() if network.looks_up(events, drops=False) else None
    carry, trunk = _prefill(model, prompt, tables)
    nothing_BN = jnp.zeros((rows, events), jnp.int32)
    start = _Loop(
        jnp.zeros((), jnp.int32),
        carry,
        trunk,
        jnp.zeros(rows, bool),
        Decoded(nothing_BN, nothing_BN, jnp.zeros(rows, jnp.int32)),
    )
    end = lax.while_loop(lambda loop: (loop.step < events) & ~loop.done_B.all(), draw, start)
    return end.decoded


def _prefill(model: Network, prompt: Prompt, tables: Tables | None) -> tuple[Carry, Trunk]:
    """Read the prompts; the trunk (T = 1) is that after each row's last visible event."""
    carry, trunk = model(model.initial_carry(prompt.mask_BT.shape[0]), *prompt, tables=tables)
    last_B11 = prompt.mask_BT.sum(axis=1)[:, None, None] - 1
    return carry, Trunk(*(jnp.take_along_axis(part, last_B11, axis=1) for part in trunk))


def sample(logits_BV: Array, temperature_B: Array, uniform_B: Array) -> Array:
    """One id a row from the softmax of `logits / temperature`, by inverting its distribution function.

    `uniform_B` in [0, 1) decides. An id of probability 0 is never drawn, whatever the rounding of the sums.
    """
    greedy_B = logits_BV.argmax(axis=-1)
    safe_B1 = jnp.where(temperature_B > 0, temperature_B, 1)[:, None]
    scaled_BV = logits_BV / safe_B1
    mass_BV = jnp.exp(scaled_BV - scaled_BV.max(axis=-1, keepdims=True))
    cumulative_BV = jnp.cumsum(mass_BV, axis=-1)
    reached_BV = (cumulative_BV > uniform_B[:, None] * cumulative_BV[:, -1:]) & (mass_BV > 0)
    drawn_B = jnp.where(reached_BV.any(axis=-1), reached_BV.argmax(axis=-1), greedy_B)
    return jnp.where(temperature_B > 0, drawn_B, greedy_B).astype(jnp.int32)
