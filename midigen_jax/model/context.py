"""What is known from the past alone: place in slice and bar, recent slices, intervals.

In: a carry of recent slices, `note` events over time, a mask. Out: the carry after them and, for each step,
`Features` of the event that comes next. Nothing here is learned and nothing looks ahead, so features are the
same in training, where a chunk is one call, and in a decode step.

A small network learns slowly that music is the same in every key. So it is told what sounded some ticks ago
both as it was and around the last pitch, and its heads may score a pitch by its distance from another one.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from midigen_jax.config import ContextConfig
from midigen_jax.model.precision import dense
from midigen_jax.music.tokens import START, NoteTokenizer

_PITCHES = 128
_VOICES = 16  # pitches of a slice that are remembered in the order in which they were written
_REACH = 24  # semitones up and down that count as near
_NEAR = 2 * _REACH + 1
_LONGEST = 96  # ticks: a slice that goes on for longer is shown as if for so long
_PLACES = 16
_NEVER = np.iinfo(np.int32).max
NONE = -1  # no pitch
REFERENCES = 3


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
        jnp.zeros((rows, config.slices, _PITCHES), bool),
        jnp.tile(onset_B[:, None], (1, config.slices)),
        jnp.zeros((rows, 2, _VOICES), jnp.int32),
        jnp.zeros(rows, jnp.int32),
    )


def observe(
    config: ContextConfig, carry: ContextCarry, pitch_BT: Array, duration_BT: Array, mask_BT: Array
) -> tuple[ContextCarry, Features]:
    """Read events; the mask must hide a row's last steps only, and what it hides is not read.

    M = N + T slices are in sight: those of the carry and, after them, as many as events could begin.
    """
    rows, kept = len(mask_BT), config.slices
    row_B1, row_B11 = jnp.arange(rows)[:, None], jnp.arange(rows)[:, None, None]
    midi_BT = (pitch_BT - NoteTokenizer.ATTACKED) % _PITCHES
    sounds_BT = mask_BT & (pitch_BT >= NoteTokenizer.ATTACKED)
    closes_BT = mask_BT & (duration_BT > 0)

    # Where each event's slice is among those in sight, and that of the event after it.
    after_BT = kept - 1 + jnp.cumsum(closes_BT, axis=1)
    slice_BT = after_BT - closes_BT
    end_BT = carry.onset_BN[:, -1:] + jnp.cumsum(jnp.where(mask_BT, duration_BT, 0), axis=1)
    onset_BM = jnp.concatenate([carry.onset_BN, jnp.full_like(pitch_BT, _NEVER)], axis=1)
    begun_BT = jnp.where(closes_BT, after_BT, onset_BM.shape[1])
    onset_BM = onset_BM.at[row_B1, begun_BT].set(end_BT, mode="drop")
    silence_BTK = jnp.zeros((*pitch_BT.shape, _PITCHES), bool)
    sounding_BMK = jnp.concatenate([carry.sounding_BNK, silence_BTK], axis=1)
    sounding_BMK = sounding_BMK.at[row_B1, slice_BT, midi_BT].max(sounds_BT)

    count_BT = _counts(carry.count_B, closes_BT | (mask_BT & (pitch_BT == START)))
    before_BT = jnp.concatenate([carry.count_B[:, None], count_BT[:, :-1]], axis=1)
    unwritten_BTV = jnp.zeros((*pitch_BT.shape, _VOICES), jnp.int32)
    written_BMV = jnp.concatenate([carry.written_B2V, unwritten_BTV], axis=1)
    first = kept - 2  # the slice at 0 in written_BMV
    place_BT = jnp.where(sounds_BT, before_BT, _VOICES)
    written_BMV = written_BMV.at[row_B1, slice_BT - first, place_BT].set(1 + midi_BT, mode="drop")

    seen_B1 = mask_BT.sum(axis=1)[:, None]
    last_B1 = jnp.where(seen_B1 > 0, jnp.take_along_axis(after_BT, jnp.maximum(seen_B1 - 1, 0), 1), kept - 1)
    stays_BN = last_B1 - kept + 1 + jnp.arange(kept)[None]
    count_B1 = jnp.take_along_axis(jnp.concatenate([carry.count_B[:, None], count_BT], axis=1), seen_B1, 1)
    carry = ContextCarry(
        sounding_BMK[row_B1, stays_BN],
        onset_BM[row_B1, stays_BN],
        written_BMV[row_B1, last_B1 - first - 1 + jnp.arange(2)[None]],
        count_B1[:, 0],
    )

    time_BT = onset_BM[row_B1, after_BT]
    same_place = written_BMV.at[row_B1, after_BT - first - 1, count_BT]
    previous_BT = same_place.get(mode="fill", fill_value=0) - 1
    chord_BTV = written_BMV[row_B1, after_BT - first]
    chord_BTV = jnp.where(jnp.arange(_VOICES)[None, None] < count_BT[..., None], chord_BTV, 0) - 1
    lags_L = jnp.array(config.all_lags, jnp.int32)
    target_BTL = time_BT[..., None] - lags_L[None, None]
    found_BTL = _latest(onset_BM, target_BTL)
    known_BTL = (found_BTL > after_BT[..., None] - kept) & (found_BTL >= 0)
    found_BTL = jnp.where(known_BTL, found_BTL, 0)
    goes_on_BTL = onset_BM[row_B11, found_BTL + 1] - target_BTL
    return carry, Features(
        count_BT,
        time_BT,
        previous_BT,
        jnp.where((count_BT > 0) & sounds_BT, midi_BT, previous_BT),
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


class ContextInput(nn.Module):
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
            parts.append(nn.Embed(1 + _PITCHES, width, name="previous")(1 + features.previous_BT))
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
    near_BT1I = (jnp.maximum(reference_BT, 0)[..., None] + jnp.arange(_NEAR)[None, None])[:, :, None]
    around_BTLI = jnp.take_along_axis(heard_BTLK, near_BT1I, axis=-1).astype(jnp.float32)
    distance_BTV = features.chord_BTV - reference_BT[..., None] + _REACH
    distance_BTV = jnp.where(features.chord_BTV == NONE, NONE, distance_BTV)
    chord_BT1I = jax.nn.one_hot(distance_BTV, _NEAR).sum(axis=2, keepdims=True)
    around_BTLI = jnp.concatenate([around_BTLI, chord_BT1I], axis=2)
    around_BTLI = jnp.where(reference_BT[..., None, None] == NONE, 0, around_BTLI)
    return around_BTLI.reshape(*reference_BT.shape, -1)


def _interval(features: Features) -> Array:
    """(B, T) int32: the distance from the reference to the pitch before it at this place, or "none"."""
    both_BT = (features.previous_BT != NONE) & (features.reference_BT != NONE)
    distance_BT = jnp.clip(features.previous_BT - features.reference_BT, -_REACH, _REACH)
    return jnp.where(both_BT, distance_BT + _REACH, _NEAR)


def references(features: Features) -> Array:
    """(B, T, N) int32: the N = `REFERENCES` pitches that interval heads measure from, or `NONE`.

    The last pitch of the slice; the one at the same place in the slice before; the slice's lowest, its first.
    Where one is missing another stands in for it.
    """
    previous_BT = jnp.where(features.previous_BT == NONE, features.reference_BT, features.previous_BT)
    first_BT = features.chord_BTV[..., 0]
    first_BT = jnp.where(first_BT == NONE, features.reference_BT, first_BT)
    return jnp.stack([features.reference_BT, previous_BT, first_BT], axis=-1)


class IntervalHead(nn.Module):
    """Logits of `note` pitch ids by their distance from reference pitches: `h . W[pitch - reference]`.

    An attacked pitch has another row of W than a held one; pitches that are farther than two octaves from
    the reference share one, and so do ids without a pitch. A reference that is not there adds nothing.

    Pitches that may be held, because they sound, share one more score for being struck again: in piano rolls
    they never are, and a network that has to learn that of each pitch alone pays for it.
    """

    compute_dtype: str = "float32"

    @nn.compact
    def __call__(self, hidden_BTD: Array, reference_BTN: Array, allowed_BTP: Array) -> Array:
        """(B, T, P) to be added to other logits; `allowed_BTP` are the ids that may come next."""
        midi_P, row_P = (ids_P[None, None, None] for ids_P in _rows_of_ids())
        rows = 2 * (_NEAR + 1) + 1
        number_N1 = np.arange(reference_BTN.shape[-1])[None, None, :, None]
        score_BTS = dense(reference_BTN.shape[-1] * rows + 1, self.compute_dtype, name="scores")(hidden_BTD)
        reference_BTN1 = reference_BTN[..., None]
        distance_BTNP = midi_P - reference_BTN1
        near_BTNP = jnp.where(jnp.abs(distance_BTNP) <= _REACH, distance_BTNP + _REACH, _NEAR)
        chosen_BTNP = number_N1 * rows + jnp.where(midi_P == NONE, rows - 1, row_P + near_BTNP)
        score_BTNP = jnp.take_along_axis(score_BTS[..., None, :], chosen_BTNP, axis=-1)
        logits_BTP = jnp.where(reference_BTN1 == NONE, 0, score_BTNP).sum(axis=2)
        may_hold_BTK = allowed_BTP[..., NoteTokenizer.HELD :]
        again_BTK = jnp.where(may_hold_BTK, score_BTS[..., -1:], 0)
        return logits_BTP.at[..., NoteTokenizer.ATTACKED : NoteTokenizer.HELD].add(again_BTK)


def _rows_of_ids() -> tuple[np.ndarray, np.ndarray]:
    """For each pitch id its MIDI pitch, or `NONE`, and the first row of its kind in W."""
    ids = np.arange(NoteTokenizer.HELD + _PITCHES)
    midi = np.where(ids < NoteTokenizer.ATTACKED, NONE, (ids - NoteTokenizer.ATTACKED) % _PITCHES)
    return midi, np.where(ids < NoteTokenizer.HELD, 0, _NEAR + 1)
