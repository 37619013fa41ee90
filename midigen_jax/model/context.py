"""What is known from the past alone: place in slice and bar, recent slices, intervals.

In: a carry of recent slices, `note` events over time, a mask. Out: the carry after them and, for each step,
`Features` of the event that comes next. Nothing here is learned and nothing looks ahead, so features are the
same in training, where a chunk is one call, and in a decode step. What a network makes of them is in `told`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from midigen_jax.config import ContextConfig
from midigen_jax.music.tokens import START, NoteTokenizer

PITCHES = 128
_VOICES = 16  # pitches of a slice that are remembered in the order in which they were written
_NEVER = np.iinfo(np.int32).max
NONE = -1  # no pitch


class ContextCarry(NamedTuple):
    """The last N slices of a row, oldest first, then the one that is being written; zeros to begin with."""

    sounding_BNK: Array  # bool: what sounds in each, K = 128 pitches
    onset_BN: Array  # int32: when each began, in ticks from the start of the piece
    written_B2V: Array  # int32: 1 + the pitches of the last two, in the order of their events; 0: none
    count_B: Array  # int32: events in the slice that is being written


class Features(NamedTuple):
    """What is known of the next event before it is there."""

    place_BT: Array  # int32: how many events of its slice are there
    time_BT: Array  # int32: when its slice begins, in ticks from the start of the piece
    previous_BT: Array  # int32: the pitch at the same place in the slice before, or `NONE`
    reference_BT: Array  # int32: the last event's pitch, if it is of this slice; else as `previous_BT`
    heard_BTLK: Array  # bool: what sounded at each of L lags
    lasted_BTL: Array  # int32: for how many ticks more it sounded; 0: nothing is known
    begun_BTL: Array  # bool: whether it began at that tick
    chord_BTV: Array  # int32: the pitches of its slice so far, or `NONE`


def context_carry(config: ContextConfig, rows: int, tick_B: Array | None = None) -> ContextCarry:
    """Nothing was heard yet, `tick_B` ticks (none: 0) after the start of the piece."""
    onset_B = jnp.zeros(rows, jnp.int32) if tick_B is None else tick_B
    return ContextCarry(
        jnp.zeros((rows, config.slices, PITCHES), bool),
        jnp.tile(onset_B[:, None], (1, config.slices)),
        jnp.zeros((rows, 2, _VOICES), jnp.int32),
        jnp.zeros(rows, jnp.int32),
    )


def observe(
    config: ContextConfig, carry: ContextCarry, pitch_BT: Array, duration_BT: Array, mask_BT: Array
) -> tuple[ContextCarry, Features]:
    """Read events; the mask must hide a row's last steps only, and what it hides is not read."""
    midi_BT = (pitch_BT - NoteTokenizer.ATTACKED) % PITCHES
    sounds_BT = mask_BT & (pitch_BT >= NoteTokenizer.ATTACKED)
    closes_BT = mask_BT & (duration_BT > 0)
    fresh_BT = closes_BT | (mask_BT & (pitch_BT == START))
    events = _Events(midi_BT, duration_BT, sounds_BT, closes_BT, fresh_BT, mask_BT)
    carry, sight = _observe_one(carry, events) if mask_BT.shape[1] == 1 else _observe_many(carry, events)
    return carry, _features(config, sight, events)


class _Events(NamedTuple):
    """What events say; nothing of those that are hidden but their pitch and duration."""

    midi_BT: Array
    duration_BT: Array
    sounds_BT: Array
    closes_BT: Array
    fresh_BT: Array  # whether the next event is the first of a slice
    mask_BT: Array


class _Sight(NamedTuple):
    """M slices, oldest first, that steps look back on, and where each step stands among them."""

    sounding_BMK: Array
    onset_BM: Array  # rises; `_NEVER` for slices that have not begun
    written_BWV: Array  # of the last W of them
    after_BT: Array  # int32: the slice of the event that comes next, up to M - 1
    count_BT: Array  # int32: events of that slice that are there


def _observe_one(carry: ContextCarry, events: _Events) -> tuple[ContextCarry, _Sight]:
    """A lone event a row: its slices stay where they are or move up by one.

    `_observe_many` says the same, but in a decode loop its scatters and gathers take as long as all the rest.
    """
    midi_B1, sounds_B1, closes_B1 = events.midi_BT, events.sounds_BT, events.closes_BT
    count_B1, last_B1 = carry.count_B[:, None], carry.onset_BN[:, -1:]
    open_BK = carry.sounding_BNK[:, -1] | (sounds_B1 & (jnp.arange(PITCHES)[None] == midi_B1))
    here_BV = sounds_B1 & (jnp.arange(_VOICES)[None] == count_B1)
    written_BV = jnp.where(here_BV, 1 + midi_B1, carry.written_B2V[:, 1])
    count_B1 = jnp.where(events.mask_BT, jnp.where(events.fresh_BT, 0, count_B1 + 1), count_B1)
    carry = ContextCarry(
        _moved_up(carry.sounding_BNK, open_BK, jnp.zeros_like(open_BK), closes_B1[..., None]),
        _moved_up(carry.onset_BN, last_B1[:, 0], (last_B1 + events.duration_BT)[:, 0], closes_B1),
        _moved_up(carry.written_B2V, written_BV, jnp.zeros_like(written_BV), closes_B1[..., None]),
        count_B1[:, 0],
    )
    after_B1 = jnp.full_like(count_B1, carry.onset_BN.shape[1] - 1)
    return carry, _Sight(carry.sounding_BNK, carry.onset_BN, carry.written_B2V, after_B1, count_B1)


def _moved_up(kept_BN: Array, last_B: Array, next_B: Array, moves_B1: Array) -> Array:
    """The ring with `last_B` in its last place; in rows that move, in the last but one, before `next_B`."""
    stays_BN = jnp.concatenate([kept_BN[:, :-1], last_B[:, None]], axis=1)
    return jnp.where(moves_B1, jnp.concatenate([stays_BN[:, 1:], next_B[:, None]], axis=1), stays_BN)


def _observe_many(carry: ContextCarry, events: _Events) -> tuple[ContextCarry, _Sight]:
    """M = N + T slices are in sight: those of the carry and, after them, as many as events could begin."""
    midi_BT, duration_BT, sounds_BT, closes_BT, fresh_BT, mask_BT = events
    rows, kept = carry.onset_BN.shape
    row_B1 = jnp.arange(rows)[:, None]

    # Where each event's slice is among those in sight, and that of the event after it.
    after_BT = kept - 1 + jnp.cumsum(closes_BT, axis=1)
    slice_BT = after_BT - closes_BT
    end_BT = carry.onset_BN[:, -1:] + jnp.cumsum(jnp.where(mask_BT, duration_BT, 0), axis=1)
    onset_BM = jnp.concatenate([carry.onset_BN, jnp.full_like(midi_BT, _NEVER)], axis=1)
    begun_BT = jnp.where(closes_BT, after_BT, onset_BM.shape[1])
    onset_BM = onset_BM.at[row_B1, begun_BT].set(end_BT, mode="drop")
    silence_BTK = jnp.zeros((*midi_BT.shape, PITCHES), bool)
    sounding_BMK = jnp.concatenate([carry.sounding_BNK, silence_BTK], axis=1)
    sounding_BMK = sounding_BMK.at[row_B1, slice_BT, midi_BT].max(sounds_BT)

    count_BT = _counts(carry.count_B, fresh_BT)
    before_BT = jnp.concatenate([carry.count_B[:, None], count_BT[:, :-1]], axis=1)
    unwritten_BTV = jnp.zeros((*midi_BT.shape, _VOICES), jnp.int32)
    written_BWV = jnp.concatenate([carry.written_B2V, unwritten_BTV], axis=1)  # W = 2 + T
    first = kept - 2  # the slice at 0 in written_BWV
    place_BT = jnp.where(sounds_BT, before_BT, _VOICES)
    written_BWV = written_BWV.at[row_B1, slice_BT - first, place_BT].set(1 + midi_BT, mode="drop")

    seen_B1 = mask_BT.sum(axis=1)[:, None]
    last_B1 = jnp.where(seen_B1 > 0, jnp.take_along_axis(after_BT, jnp.maximum(seen_B1 - 1, 0), 1), kept - 1)
    stays_BN = last_B1 - kept + 1 + jnp.arange(kept)[None]
    count_B1 = jnp.take_along_axis(jnp.concatenate([carry.count_B[:, None], count_BT], axis=1), seen_B1, 1)
    carry = ContextCarry(
        sounding_BMK[row_B1, stays_BN],
        onset_BM[row_B1, stays_BN],
        written_BWV[row_B1, last_B1 - first - 1 + jnp.arange(2)[None]],
        count_B1[:, 0],
    )
    return carry, _Sight(sounding_BMK, onset_BM, written_BWV, after_BT, count_BT)


def _features(config: ContextConfig, sight: _Sight, events: _Events) -> Features:
    sounding_BMK, onset_BM, written_BWV, after_BT, count_BT = sight
    rows = len(after_BT)
    row_B1, row_B11 = jnp.arange(rows)[:, None], jnp.arange(rows)[:, None, None]
    time_BT = onset_BM[row_B1, after_BT]
    behind = onset_BM.shape[1] - written_BWV.shape[1]
    same_place = written_BWV.at[row_B1, after_BT - behind - 1, count_BT]
    previous_BT = same_place.get(mode="fill", fill_value=0) - 1
    chord_BTV = written_BWV[row_B1, after_BT - behind]
    chord_BTV = jnp.where(jnp.arange(_VOICES)[None, None] < count_BT[..., None], chord_BTV, 0) - 1
    lags_L = jnp.array(config.all_lags, jnp.int32)
    target_BTL = time_BT[..., None] - lags_L[None, None]
    found_BTL = _latest(onset_BM, target_BTL)
    known_BTL = (found_BTL > after_BT[..., None] - config.slices) & (found_BTL >= 0)
    found_BTL = jnp.where(known_BTL, found_BTL, 0)
    goes_on_BTL = onset_BM[row_B11, found_BTL + 1] - target_BTL
    return Features(
        count_BT,
        time_BT,
        previous_BT,
        jnp.where((count_BT > 0) & events.sounds_BT, events.midi_BT, previous_BT),
        sounding_BMK[row_B11, found_BTL] & known_BTL[..., None],
        jnp.where(known_BTL, goes_on_BTL, 0),
        known_BTL & (onset_BM[row_B11, found_BTL] == target_BTL),
        chord_BTV,
    )


def _counts(count_B: Array, fresh_BT: Array) -> Array:
    """(B, T): events in the slice that is being written, after each event; 0 after one that is `fresh`."""
    step_1T = jnp.arange(fresh_BT.shape[1])[None]
    last_BT = lax.cummax(jnp.where(fresh_BT, step_1T, -1), axis=1)
    return jnp.where(last_BT < 0, count_B[:, None] + 1, 0) + step_1T - jnp.maximum(last_BT, 0)


def _latest(onset_BM: Array, target_BTL: Array) -> Array:
    """The last slice that begins at or before each tick, or -1; onsets rise."""

    def of_row(onset_M: Array, target_TL: Array) -> Array:
        return jnp.searchsorted(onset_M, target_TL, side="right", method="compare_all") - 1

    return jax.vmap(of_row)(onset_BM, target_BTL)
