"""Past features: what is known from earlier events alone, and what a network makes of it.

In: the last slices of each row, events over time, a mask. Out: the slices after them and, for each step,
`Features` of the event that comes next: its place in slice and bar, what sounded some ticks ago, intervals.
Nothing of that is learned and nothing looks ahead, so features are the same in training, where a chunk is one
call, and in a decode step. They read the tables of a vocabulary, and serve any whose ids have one pitch.

A small network learns slowly that music is the same in every key. So it sees what sounded some ticks ago both
as it was and around the last pitch, and its heads may score a pitch by its distance from another one.
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from midigen_jax.config import ContextConfig
from midigen_jax.errors import InputError
from midigen_jax.model.precision import dense
from midigen_jax.vocab.base import NONE, PITCHES, IdTable
from midigen_jax.vocab.rules import Events
from midigen_jax.vocab.traced import by_id, closes_of, pitch_stream, ticks_of

Tables = Mapping[str, IdTable]

ANCHORS = 3  # pitches that interval heads measure from
_REACH = 24  # semitones up and down that count as near
_NEAR = 2 * _REACH + 1
_LONGEST = 96  # ticks: a slice that goes on for longer is shown as if for so long
_PLACES = 16
_ROWS = 2 * (_NEAR + 1) + 1  # scores of a reference: near and far, attacked and held; no pitch
_VOICES = 16  # pitches of a slice that are remembered in the order in which they were written
_NEVER = np.iinfo(np.int32).max


class SliceHistory(NamedTuple):
    """The last N slices of a row, oldest first, then the one that is being written; zeros to begin with."""

    sounding_BNK: Array  # bool: what sounds in each, K = 128 pitches
    onset_BN: Array  # int32: when each began, in ticks from the first bar line
    written_B2V: Array  # int32: 1 + the pitches of the last two, in the order of their events; 0: none
    count_B: Array  # int32: events in the slice that is being written


class Features(NamedTuple):
    """What is known of the next event before it is there."""

    place_BT: Array  # int32: how many events of its slice are there
    time_BT: Array  # int32: when its slice begins, in ticks from the first bar line
    previous_BT: Array  # int32: the pitch at the same place in the slice before, or `NONE`
    reference_BT: Array  # int32: the last event's pitch, if it is of this slice; else as `previous_BT`
    heard_BTLK: Array  # bool: what sounded at each of L lags
    lasted_BTL: Array  # int32: for how many ticks more it sounded; 0: nothing is known
    begun_BTL: Array  # bool: whether it began at that tick
    chord_BTV: Array  # int32: the pitches of its slice so far, or `NONE`


def empty_history(config: ContextConfig, rows: int, tick_B: Array | None = None) -> SliceHistory:
    """Nothing was heard yet, `tick_B` ticks (none: 0) after a bar line."""
    onset_B = jnp.zeros(rows, jnp.int32) if tick_B is None else tick_B
    return SliceHistory(
        jnp.zeros((rows, config.slices, PITCHES), bool),
        jnp.tile(onset_B[:, None], (1, config.slices)),
        jnp.zeros((rows, 2, _VOICES), jnp.int32),
        jnp.zeros(rows, jnp.int32),
    )


def update(
    config: ContextConfig, tables: Tables, history: SliceHistory, events: Events, mask_BT: Array
) -> tuple[SliceHistory, Features]:
    """Read events; the mask must hide a row's last steps only, and what it hides is not read.

    Raises InputError for a vocabulary whose ids are not single pitches.
    """
    pitch = pitch_stream(tables)
    midi_BT = by_id(single_pitches(tables), events[pitch])
    ticks_BT = ticks_of(tables, events)
    closes_BT = mask_BT & (ticks_BT > 0)
    fresh_BT = closes_BT | (mask_BT & closes_of(tables, events))
    flags = EventFlags(midi_BT, ticks_BT, mask_BT & (midi_BT != NONE), closes_BT, fresh_BT, mask_BT)
    history, sight = _read_one(history, flags) if mask_BT.shape[1] == 1 else _read_many(history, flags)
    return history, _features(config, sight, flags)


def single_pitches(tables: Tables) -> NDArray[np.int32]:
    """(P,) the MIDI pitch of each id, or `NONE`. Raises InputError where ids may have several."""
    return _midi(tables[pitch_stream(tables)])


def _midi(table: IdTable) -> NDArray[np.int32]:
    if table.midi is None:
        raise InputError(
            "model.context: needs ids that are single pitches, and those of this corpus are not; leave it out"
        )
    return table.midi


class EventFlags(NamedTuple):
    """What events say; nothing of those that are hidden but their pitch and their ticks."""

    midi_BT: Array
    ticks_BT: Array
    sounds_BT: Array
    closes_BT: Array  # whether time goes on after it
    fresh_BT: Array  # whether the next event is the first of a slice
    mask_BT: Array


class _Window(NamedTuple):
    """M slices, oldest first, that steps look back on, and where each step stands among them."""

    sounding_BMK: Array
    onset_BM: Array  # rises; `_NEVER` for slices that have not begun
    written_BWV: Array  # of the last W of them
    after_BT: Array  # int32: the slice of the event that comes next, up to M - 1
    count_BT: Array  # int32: events of that slice that are there


def _read_one(carry: SliceHistory, events: EventFlags) -> tuple[SliceHistory, _Window]:
    """A lone event a row: its slices stay where they are or move up by one.

    `_read_many` says the same, but in a decode loop its scatters and gathers take as long as all the rest.
    """
    midi_B1, sounds_B1, closes_B1 = events.midi_BT, events.sounds_BT, events.closes_BT
    count_B1, last_B1 = carry.count_B[:, None], carry.onset_BN[:, -1:]
    open_BK = carry.sounding_BNK[:, -1] | (sounds_B1 & (jnp.arange(PITCHES)[None] == midi_B1))
    here_BV = sounds_B1 & (jnp.arange(_VOICES)[None] == count_B1)
    written_BV = jnp.where(here_BV, 1 + midi_B1, carry.written_B2V[:, 1])
    count_B1 = jnp.where(events.mask_BT, jnp.where(events.fresh_BT, 0, count_B1 + 1), count_B1)
    carry = SliceHistory(
        _moved_up(carry.sounding_BNK, open_BK, jnp.zeros_like(open_BK), closes_B1[..., None]),
        _moved_up(carry.onset_BN, last_B1[:, 0], (last_B1 + events.ticks_BT)[:, 0], closes_B1),
        _moved_up(carry.written_B2V, written_BV, jnp.zeros_like(written_BV), closes_B1[..., None]),
        count_B1[:, 0],
    )
    after_B1 = jnp.full_like(count_B1, carry.onset_BN.shape[1] - 1)
    return carry, _Window(carry.sounding_BNK, carry.onset_BN, carry.written_B2V, after_B1, count_B1)


def _moved_up(kept_BN: Array, last_B: Array, next_B: Array, moves_B1: Array) -> Array:
    """The ring with `last_B` in its last place; in rows that move, in the last but one, before `next_B`."""
    stays_BN = jnp.concatenate([kept_BN[:, :-1], last_B[:, None]], axis=1)
    return jnp.where(moves_B1, jnp.concatenate([stays_BN[:, 1:], next_B[:, None]], axis=1), stays_BN)


def _read_many(carry: SliceHistory, events: EventFlags) -> tuple[SliceHistory, _Window]:
    """M = N + T slices are in sight: those of the carry and, after them, as many as events could begin."""
    midi_BT, ticks_BT, sounds_BT, closes_BT, fresh_BT, mask_BT = events
    rows, kept = carry.onset_BN.shape
    row_B1 = jnp.arange(rows)[:, None]

    # Where each event's slice is among those in sight, and that of the event after it.
    after_BT = kept - 1 + jnp.cumsum(closes_BT, axis=1)
    slice_BT = after_BT - closes_BT
    end_BT = carry.onset_BN[:, -1:] + jnp.cumsum(jnp.where(mask_BT, ticks_BT, 0), axis=1)
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
    carry = SliceHistory(
        sounding_BMK[row_B1, stays_BN],
        onset_BM[row_B1, stays_BN],
        written_BWV[row_B1, last_B1 - first - 1 + jnp.arange(2)[None]],
        count_B1[:, 0],
    )
    return carry, _Window(sounding_BMK, onset_BM, written_BWV, after_BT, count_BT)


def _features(config: ContextConfig, sight: _Window, events: EventFlags) -> Features:
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


class FeatureEmbedding(nn.Module):
    """Features as one vector a step, to stand beside the embeddings; each part is added to the others."""

    config: ContextConfig
    compute_dtype: str = "float32"

    @nn.compact
    def __call__(self, features: Features) -> Array:
        """(B, T, C), C = `config.width`."""
        config = self.config
        width = config.width
        parts = []
        if config.place:
            place_BT = jnp.minimum(features.place_BT, _PLACES - 1)
            parts.append(nn.Embed(_PLACES, width, name="place")(place_BT))
        for period in config.meters:
            parts.append(nn.Embed(period, width, name=f"meter_{period}")(features.time_BT % period))
        if config.previous:
            parts.append(nn.Embed(1 + PITCHES, width, name="previous")(1 + features.previous_BT))
        if config.lags:
            heard_BTF, lasted_BTL = _shown(config, features)
            parts.append(self._dense("lags", heard_BTF))
            lasted = nn.Embed(len(config.lags) * (_LONGEST + 1), width, name="lasted")
            parts.append(lasted(lasted_BTL).sum(axis=2))
        if config.relative:
            parts.append(nn.Embed(_NEAR + 1, width, name="interval")(_interval(features)))
            parts.append(self._dense("relative", _around(config, features)))
        return sum(parts[1:], parts[0])

    def _dense(self, name: str, features_BTF: Array) -> Array:
        # Few features are on at a time: weights as large as those of embeddings.
        scale = nn.initializers.normal(0.1)
        layer = dense(self.config.width, self.compute_dtype, use_bias=False, kernel_init=scale, name=name)
        return layer(features_BTF)


def _shown(config: ContextConfig, features: Features) -> tuple[Array, Array]:
    """(B, T, F) float32: at each lag what sounded and whether it had begun; (B, T, L): for how long still."""
    chosen = [config.all_lags.index(lag) for lag in config.lags]
    parts = features.heard_BTLK[..., chosen, :], features.begun_BTL[..., chosen, None]
    heard_BTLF = jnp.concatenate(parts, axis=-1).astype(jnp.float32)
    lasted_BTL = jnp.minimum(features.lasted_BTL[..., chosen], _LONGEST)
    row_L = jnp.arange(len(chosen)) * (_LONGEST + 1)
    return heard_BTLF.reshape(*features.place_BT.shape, -1), row_L[None, None] + lasted_BTL


def _around(config: ContextConfig, features: Features) -> Array:
    """(B, T, F) float32: the same by distance from the reference, and the slice that is being written."""
    reference_BT = features.reference_BT
    chosen = [config.all_lags.index(lag) for lag in config.relative]
    heard_BTLK = jnp.pad(features.heard_BTLK[..., chosen, :], ((0, 0),) * 3 + ((_REACH, _REACH),))
    around_BTLI = window(heard_BTLK, jnp.maximum(reference_BT, 0)[..., None]).astype(jnp.float32)
    distance_BTV = features.chord_BTV - reference_BT[..., None] + _REACH
    distance_BTV = jnp.where(features.chord_BTV == NONE, NONE, distance_BTV)
    chord_BT1I = jax.nn.one_hot(distance_BTV, _NEAR).sum(axis=2, keepdims=True)
    around_BTLI = jnp.concatenate([around_BTLI, chord_BT1I], axis=2)
    around_BTLI = jnp.where(reference_BT[..., None, None] == NONE, 0, around_BTLI)
    return around_BTLI.reshape(*reference_BT.shape, -1)


def window(part_BTNS: Array, shift_BTN: Array) -> Array:
    """Of S numbers those S - 127 that begin at `shift`, 0 to 127: in a step for each of its bits.

    A gather would take numbers one by one on a TPU.
    """
    for bit in reversed(range(7)):
        moves_BTN1 = ((shift_BTN >> bit) & 1 == 1)[..., None]
        part_BTNS = jnp.where(moves_BTN1, part_BTNS[..., 1 << bit :], part_BTNS[..., : -(1 << bit)])
    return part_BTNS


@jax.custom_vjp
def placed(part_BTNI: Array, shift_BTN: Array) -> Array:
    """I numbers among I + 127 places, of which they begin at `shift`, 0 to 127; zeros around them."""
    for bit in range(7):
        moves_BTN1 = ((shift_BTN >> bit) & 1 == 1)[..., None]
        before, after = (((0, 0),) * 3 + (pads,) for pads in ((1 << bit, 0), (0, 1 << bit)))
        part_BTNI = jnp.where(moves_BTN1, jnp.pad(part_BTNI, before), jnp.pad(part_BTNI, after))
    return part_BTNI


# The gradient is read where the numbers were put. Autodiff would add up two halves, bit by bit.
placed.defvjp(
    lambda part_BTNI, shift_BTN: (placed(part_BTNI, shift_BTN), shift_BTN),
    lambda shift_BTN, d_placed_BTNS: (window(d_placed_BTNS, shift_BTN), None),
)


def _interval(features: Features) -> Array:
    """(B, T) int32: the distance from the reference to the pitch before it at this place, or "none"."""
    both_BT = (features.previous_BT != NONE) & (features.reference_BT != NONE)
    distance_BT = jnp.clip(features.previous_BT - features.reference_BT, -_REACH, _REACH)
    return jnp.where(both_BT, distance_BT + _REACH, _NEAR)


def anchors(features: Features) -> Array:
    """(B, T, N) int32: the N = `ANCHORS` pitches that interval heads measure from, or `NONE`.

    The last pitch of the slice; the one at the same place in the slice before; the slice's first. Where one
    is missing another stands in for it.
    """
    previous_BT = jnp.where(features.previous_BT == NONE, features.reference_BT, features.previous_BT)
    first_BT = features.chord_BTV[..., 0]
    first_BT = jnp.where(first_BT == NONE, features.reference_BT, first_BT)
    return jnp.stack([features.reference_BT, previous_BT, first_BT], axis=-1)


class IntervalHead(nn.Module):
    """Logits of pitch ids by their distance from anchor pitches: `h . W[pitch - anchor]`.

    A struck pitch has another row of W than a held one; pitches that are farther than two octaves from the
    anchor share one, and so do ids without a pitch. An anchor that is not there adds nothing.

    Pitches that may be held, because they sound, share one more score for being struck again: in piano rolls
    they never are, and a network that has to learn that of each pitch alone pays for it.
    """

    table: IdTable  # of the stream that says pitches
    compute_dtype: str = "float32"

    @nn.compact
    def __call__(self, hidden_BTD: Array, anchor_BTN: Array, allowed_BTP: Array) -> Array:
        """(B, T, P) to be added to other logits; `allowed_BTP` are the ids that may come next."""
        anchors = anchor_BTN.shape[-1]
        score_BTS = dense(anchors * _ROWS + 1, self.compute_dtype, name="scores")(hidden_BTD)
        given = score_BTS[..., :-1].reshape(*anchor_BTN.shape, _ROWS), anchor_BTN
        if anchor_BTN.shape[1] > 1:
            score_BTNP = _moved_to_anchor(self.table, *given)
        else:  # in a decode loop on a CPU a gather is quicker: nothing has a gradient there
            forms = partial(_looked_up, self.table), partial(_moved_to_anchor, self.table)
            score_BTNP = lax.platform_dependent(*given, cpu=forms[0], default=forms[1])
        logits_BTP = jnp.where(anchor_BTN[..., None] == NONE, 0, score_BTNP).sum(axis=2)
        may_hold_BTP = _columns(allowed_BTP, _held_twin(self.table), False)
        return logits_BTP + jnp.where(may_hold_BTP, score_BTS[..., -1:], 0)


def _looked_up(table: IdTable, score_BTNR: Array, anchor_BTN: Array) -> Array:
    """(B, T, N, P): of R scores of each anchor that of each pitch id."""
    midi_P, row_P = (ids_P[None, None, None] for ids_P in (_midi(table), np.where(table.held, _NEAR + 1, 0)))
    distance_BTNP = midi_P - anchor_BTN[..., None]
    near_BTNP = jnp.where(jnp.abs(distance_BTNP) <= _REACH, distance_BTNP + _REACH, _NEAR)
    chosen_BTNP = jnp.where(midi_P == NONE, _ROWS - 1, row_P + near_BTNP)
    return jnp.take_along_axis(score_BTNR, chosen_BTNP, axis=-1)


def _moved_to_anchor(table: IdTable, score_BTNR: Array, anchor_BTN: Array) -> Array:
    """The same without a gather, whose gradient is a scatter: a TPU would take and add numbers one by one."""
    distance_BTNK = jnp.arange(PITCHES)[None, None, None] - anchor_BTN[..., None]
    is_near_BTNK = jnp.abs(distance_BTNK) <= _REACH
    shift_BTN = jnp.maximum(anchor_BTN, 0)
    by_pitch = []  # struck, then held
    for row in (0, _NEAR + 1):
        near_BTNS = placed(score_BTNR[..., row : row + _NEAR], shift_BTN)
        near_BTNK = near_BTNS[..., _REACH : _REACH + PITCHES]
        by_pitch.append(jnp.where(is_near_BTNK, near_BTNK, score_BTNR[..., row + _NEAR, None]))
    midi_P = _midi(table)
    chosen_P = np.where(midi_P == NONE, NONE, midi_P + PITCHES * table.held)
    return _columns(jnp.concatenate(by_pitch, axis=-1), chosen_P, score_BTNR[..., -1:])


def _columns(part_BTS: Array, chosen_P: NDArray[np.integer], other: Array | bool) -> Array:
    """The columns of an array that are chosen, or `other` where `NONE` is.

    They come in runs that lie side by side, of which they are put together: a gather takes them one by one.
    """
    here_P, next_P = chosen_P[:-1], chosen_P[1:]
    goes_on_P = np.where(here_P == NONE, next_P == NONE, next_P == here_P + 1)
    ends = np.flatnonzero(np.append(~goes_on_P, True)) + 1
    runs = []
    for begin, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        first, size = int(chosen_P[begin]), end - begin
        if first == NONE:
            runs.append(jnp.broadcast_to(jnp.asarray(other, part_BTS.dtype), (*part_BTS.shape[:-1], size)))
        else:
            runs.append(part_BTS[..., first : first + size])
    return jnp.concatenate(runs, axis=-1)


def _held_twin(table: IdTable) -> NDArray[np.int32]:
    """(P,) for each id that strikes a pitch the one that holds it, or `NONE`."""
    twin_P = np.full(len(table.held), NONE, np.int32)
    held = np.flatnonzero(table.held & (table.struck_twin != np.arange(len(table.held))))
    twin_P[table.struck_twin[held]] = held
    return twin_P
