"""Multi-head attention over the last states: a ring of keys and values, positions in musical time.

In: a carry, LSTM states over time, how many ticks each event lasts, a mask. Out: the carry after the chunk
and one context a step. A step sees the last W visible states, itself included, and a learned null slot, so
that it may attend to nothing.

Event n of a row stays in slot n mod W of the ring, however the row is cut into chunks: a chunk writes its
own slots and moves nothing.

With `events` a key stands for the state before an event, and its value for that state and the event: a query
that is like the state of some time ago finds what came then. Otherwise both are of the state after the event.

Positions are rotary (Su et al. 2021, "RoFormer"), and a position is the tick at which an event begins: the
notes of one chord stand at one place, and two bars are as far apart whatever is played in them. The periods
of the rotation are whole ticks that divide `LONGEST`. So time is kept modulo `LONGEST`, and each phase is
reduced in int32 before it becomes an angle: it is exact however long a piece is.
"""

from functools import partial
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from midigen_jax.errors import InputError
from midigen_jax.model.blocks.base import LONGEST_WINDOW, Block, DropConnect, Matmul, Step
from midigen_jax.model.precision import dense, einsum

SHORTEST, LONGEST = 3, 2304  # periods in ticks: a sixteenth; 48 bars of 4/4, which are 64 of 3/4


class RingCarry(NamedTuple):
    """The last K = W visible events of each row; zeros to begin with. K is 0 where no chunk comes after."""

    key_BHKF: Array  # rotated to the event's own time
    value_BHKF: Array
    before_BD: Array  # the last state, where values are events; else D is 0
    events_B: Array  # int32: visible events so far
    time_B: Array  # int32: the tick at which the next one begins, modulo `LONGEST`


class MultiHead(Block):
    """Contexts from the last `window` states, by `heads` queries a step.

    heads: the width must be a multiple of 2 * `heads`: a head rotates pairs of units.
    values: `states` are what is found, or the `events` that came after states like this one.
    residual: add the context to the state, or let it take its place.

    Nothing has a bias, as in most of the field (Chowdhery et al. 2022, "PaLM").
    """

    heads: int = 4
    window: int = 128
    values: str = "states"
    residual: bool = True

    any_inputs: ClassVar[bool] = False

    def check(self) -> None:
        """Raises InputError for settings that cannot be."""
        unit = 2 * self.heads
        if self.heads < 1 or self.width % unit:
            raise InputError(
                f"multihead: {self.heads} heads rotate pairs of units; make model.width a multiple of {unit}"
            )
        if not 1 <= self.window <= LONGEST_WINDOW or self.values not in ("states", "events"):
            raise InputError(
                f"multihead: give window = 1 to {LONGEST_WINDOW:,} events, and values = states or events"
            )

    def initial_carry(self, rows: int, keep_cache: bool = True) -> RingCarry:
        """Zeros for `rows` sequences: nothing to attend to yet, at time 0."""
        shape = (rows, self.heads, self.window if keep_cache else 0, self.inputs // self.heads)
        before_BD = jnp.zeros((rows, self.inputs if self.values == "events" else 0))
        count_B, time_B = jnp.zeros(rows, jnp.int32), jnp.zeros(rows, jnp.int32)
        return RingCarry(jnp.zeros(shape), jnp.zeros(shape), before_BD, count_B, time_B)

    def matmuls(self, rows: int, length: int) -> list[Matmul]:
        """As `Block`; each step meets the ring and its own chunk."""
        events, width, size = rows * length, self.width, self.width // self.heads
        seen = self.window + length
        return [
            Matmul(1, events, width, 3 * width),
            Matmul(1, events, width, width),
            Matmul(rows * self.heads, length, size, seen),
            Matmul(rows * self.heads, length, seen, size),
        ]

    @nn.compact
    def __call__(
        self, carry: RingCarry, x_BTD: Array, now: Step, drop: DropConnect | None = None
    ) -> tuple[RingCarry, Array]:
        """As `Block`; the width is that of the input.

        A hidden step takes no slot and no time. Vectors of events are added to the values that they are; keys
        and values are then of the states before them.
        """
        hidden_BTD, ticks_BT, mask_BT = x_BTD, now.ticks_BT, now.mask_BT
        event_BTD = None
        if self.values == "events":
            parts = [
                nn.Embed(size, self.width, name=f"value_{name}")(now.events[name])
                for name, size in self.streams
            ]
            event_BTD = sum(parts[1:], parts[0])
        rows, times, width = hidden_BTD.shape
        size = width // self.heads
        visible_BTD = jnp.where(mask_BT[..., None], hidden_BTD, 0)
        project = partial(dense, dtype=self.compute_dtype, use_bias=False)
        before_BD, lasted_BT = carry.before_BD, jnp.where(mask_BT, ticks_BT % LONGEST, 0)
        end_BT = carry.time_B[:, None] + jnp.cumsum(lasted_BT, axis=1)
        if event_BTD is None:
            query_BT = end_BT - lasted_BT
            projected = project(3 * width, name="query_key_value")(visible_BTD)
            query_BTD, key_BTD, value_BTD = jnp.split(projected, 3, axis=-1)
        else:
            query_BT = end_BT  # when the event begins that is asked for
            query_BTD = project(width, name="query")(visible_BTD)
            states_BSD = jnp.concatenate([before_BD[:, None], visible_BTD], axis=1)
            before_BD = jnp.take_along_axis(states_BSD, mask_BT.sum(axis=1)[:, None, None], axis=1)[:, 0]
            projected = project(2 * width, name="key_value")(states_BSD[:, :-1])
            key_BTD, value_BTD = jnp.split(projected, 2, axis=-1)
            value_BTD += jnp.where(mask_BT[..., None], event_BTD, 0)
        query_BHTF, key_BHTF, value_BHTF = (
            jnp.swapaxes(part_BTD.reshape(rows, times, self.heads, size), 1, 2)
            for part_BTD in (query_BTD, key_BTD, value_BTD)
        )
        query_BHTF *= size**-0.5
        null_key_HF = self.param("null_key", nn.initializers.zeros, (self.heads, size))
        null_value_HF = self.param("null_value", nn.initializers.zeros, (self.heads, size))

        turned_BHTF = rotate(query_BHTF, query_BT)
        key_BHTF = rotate(key_BHTF, end_BT - lasted_BT)
        slots = carry.key_BHKF.shape[2]  # the window, or 0 where nothing is kept
        slot_BT = _slots(carry.events_B, mask_BT, self.window)
        after = RingCarry(
            _write(carry.key_BHKF, slot_BT, key_BHTF) if slots else carry.key_BHKF,
            _write(carry.value_BHKF, slot_BT, value_BHTF) if slots else carry.value_BHKF,
            before_BD,
            carry.events_B + mask_BT.sum(axis=1),
            end_BT[:, -1] % LONGEST,
        )
        if times == 1 and slots:
            # A lone step takes the slot of the event that has just left the window, so it can read the ring
            # that it wrote. Were it to read first, XLA would copy the ring in every step of a decode loop.
            key_BHKF, value_BHKF = after.key_BHKF, after.value_BHKF
            seen_BTK = _seen_ring(after.events_B, jnp.arange(1), self.window)
        else:
            key_BHKF = jnp.concatenate([carry.key_BHKF, key_BHTF], axis=2)
            value_BHKF = jnp.concatenate([carry.value_BHKF, value_BHTF], axis=2)
            ring_BTK = _seen_ring(carry.events_B, jnp.arange(times) + 1, self.window)[..., :slots]
            seen_BTK = jnp.concatenate([ring_BTK, _seen_chunk(mask_BT, self.window)], axis=-1)

        # The null slot is at no time: it meets the query as it was before the rotation.
        null_BHT1 = einsum("BHTF,HF->BHT", query_BHTF, null_key_HF, self.compute_dtype)[..., None]
        score_BHTK = einsum("BHTF,BHKF->BHTK", turned_BHTF, key_BHKF, self.compute_dtype)
        score_BHTK = jnp.where(seen_BTK[:, None], score_BHTK, -jnp.inf)
        context_BHTF = _mean(score_BHTK, value_BHKF, null_BHT1, null_value_HF, self.compute_dtype)
        context_BTD = jnp.swapaxes(context_BHTF, 1, 2).reshape(rows, times, width)
        context_BTD = dense(width, self.compute_dtype, use_bias=False, name="output")(context_BTD)
        return after, x_BTD + context_BTD if self.residual else context_BTD


def rotate(vector_BHTF: Array, time_BT: Array) -> Array:
    """Pairs of units (i and F / 2 + i) turned by the time: a full circle after each period of a pair.

    `time_BT` are int32 ticks. The product of two rotated vectors depends on the difference of their times.
    """
    period_K = rotation_periods(vector_BHTF.shape[-1] // 2)  # K = F / 2 pairs
    phase_BTK = time_BT[..., None] % period_K[None, None]
    angle_B1TK = (phase_BTK / period_K[None, None] * (2 * np.pi))[:, None]
    cos_B1TK = jnp.cos(angle_B1TK).astype(vector_BHTF.dtype)
    sin_B1TK = jnp.sin(angle_B1TK).astype(vector_BHTF.dtype)
    first_BHTK, second_BHTK = jnp.split(vector_BHTF, 2, axis=-1)
    turned = (
        first_BHTK * cos_B1TK - second_BHTK * sin_B1TK,
        first_BHTK * sin_B1TK + second_BHTK * cos_B1TK,
    )
    return jnp.concatenate(turned, axis=-1)


def rotation_periods(count: int) -> np.ndarray:
    """`count` int32 periods in ticks, from `SHORTEST` to `LONGEST`: divisors of it, spaced geometrically.

    Such divisors are note values and bars, of two beats and of three. Where there are too few of them,
    some stand twice.
    """
    divisors = np.array([n for n in range(SHORTEST, LONGEST + 1) if LONGEST % n == 0], np.int32)
    wanted = np.geomspace(SHORTEST, LONGEST, count)
    return divisors[np.abs(np.log(divisors / wanted[:, None])).argmin(axis=1)]


def _mean(score_BHTK: Array, value_BHKF: Array, null_BHT1: Array, null_value_HF: Array, dtype: str) -> Array:
    """(B, H, T, F): means under the softmax over K events and the null slot, whose score is given apart.

    In float32. The sum is divided, not the weights: that spares a pass over T times K numbers.
    """
    score_BHTK, null_BHT1 = score_BHTK.astype(jnp.float32), null_BHT1.astype(jnp.float32)
    # Softmax does not change when all scores are shifted.
    top_BHT1 = lax.stop_gradient(jnp.maximum(score_BHTK.max(axis=-1, keepdims=True), null_BHT1))
    weight_BHTK, null_weight_BHT1 = jnp.exp(score_BHTK - top_BHT1), jnp.exp(null_BHT1 - top_BHT1)
    sum_BHTF = einsum("BHTK,BHKF->BHTF", weight_BHTK, value_BHKF, dtype)
    sum_BHTF += null_weight_BHT1 * null_value_HF[None, :, None]
    return sum_BHTF / (weight_BHTK.sum(axis=-1, keepdims=True) + null_weight_BHT1)


def _seen_ring(events_B: Array, ahead_T: Array, window: int) -> Array:
    """(B, T, K) bool: whether each slot of a ring that has read `events_B` is there, and in the window.

    `ahead_T` is how many events each step comes after the newest one in the ring.
    """
    age_BK = (events_B[:, None] - 1 - jnp.arange(window)[None]) % window  # 0 for the newest
    near_BTK = age_BK[:, None] + ahead_T[None, :, None] < window
    return near_BTK & (age_BK < events_B[:, None])[:, None]


def _seen_chunk(mask_BT: Array, window: int) -> Array:
    """(B, T, T) bool: whether each step, the first T, sees each event of its own chunk, the second."""
    step_T = jnp.arange(mask_BT.shape[1])
    back_TT = step_T[:, None] - step_T[None]
    return ((back_TT >= 0) & (back_TT < window))[None] & mask_BT[:, None]


def _slots(events_B: Array, mask_BT: Array, window: int) -> Array:
    """The slot of each step; for those that are hidden or fall out of the window, a place beyond the ring.

    No place is given twice.
    """
    step_T = jnp.arange(mask_BT.shape[1])
    stays_BT = mask_BT & (mask_BT.sum(axis=1)[:, None] - step_T[None] <= window)
    return jnp.where(stays_BT, (events_B[:, None] + step_T[None]) % window, window + step_T[None])


def _write(ring_BHKF: Array, slot_BT: Array, new_BHTF: Array) -> Array:
    """The ring with each step's vectors in its slot; what has no place in the ring is dropped."""
    rows, heads = ring_BHKF.shape[:2]
    # Head by head: XLA makes of a single scattered vector an update that it does not do in place.
    place = ring_BHKF.at[jnp.arange(rows)[:, None, None], jnp.arange(heads)[:, None], slot_BT[:, None]]
    return place.set(new_BHTF, mode="drop", unique_indices=True)
