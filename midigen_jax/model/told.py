"""What a network makes of what it is told: one vector a step beside the embeddings, and heads of intervals.

In: `Features` of the past, the state of the layers. Out: what the first layer reads, logits to be added.

A small network learns slowly that music is the same in every key. So it is told what sounded some ticks ago
both as it was and around the last pitch, and its heads may score a pitch by its distance from another one.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from midigen_jax.config import ContextConfig
from midigen_jax.model.context import NONE, PITCHES, Features
from midigen_jax.model.precision import dense
from midigen_jax.music.tokens import NoteTokenizer

REFERENCES = 3
_REACH = 24  # semitones up and down that count as near
_NEAR = 2 * _REACH + 1
_LONGEST = 96  # ticks: a slice that goes on for longer is shown as if for so long
_PLACES = 16
_ROWS = 2 * (_NEAR + 1) + 1  # scores of a reference: near and far, attacked and held; no pitch


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
        references = reference_BTN.shape[-1]
        score_BTS = dense(references * _ROWS + 1, self.compute_dtype, name="scores")(hidden_BTD)
        given = score_BTS[..., :-1].reshape(*reference_BTN.shape, _ROWS), reference_BTN
        if reference_BTN.shape[1] > 1:
            score_BTNP = _moved_to_reference(*given)
        else:  # in a decode loop on a CPU a gather is quicker: nothing has a gradient there
            score_BTNP = lax.platform_dependent(*given, cpu=_looked_up, default=_moved_to_reference)
        logits_BTP = jnp.where(reference_BTN[..., None] == NONE, 0, score_BTNP).sum(axis=2)
        may_hold_BTK = allowed_BTP[..., NoteTokenizer.HELD :]
        again_BTK = jnp.where(may_hold_BTK, score_BTS[..., -1:], 0)
        return logits_BTP.at[..., NoteTokenizer.ATTACKED : NoteTokenizer.HELD].add(again_BTK)


def _looked_up(score_BTNR: Array, reference_BTN: Array) -> Array:
    """(B, T, N, P): of R scores of each reference that of each pitch id."""
    midi_P, row_P = (ids_P[None, None, None] for ids_P in _rows_of_ids())
    distance_BTNP = midi_P - reference_BTN[..., None]
    near_BTNP = jnp.where(jnp.abs(distance_BTNP) <= _REACH, distance_BTNP + _REACH, _NEAR)
    chosen_BTNP = jnp.where(midi_P == NONE, _ROWS - 1, row_P + near_BTNP)
    return jnp.take_along_axis(score_BTNR, chosen_BTNP, axis=-1)


def _moved_to_reference(score_BTNR: Array, reference_BTN: Array) -> Array:
    """The same without a gather, whose gradient is a scatter: a TPU would take and add numbers one by one."""
    distance_BTNK = jnp.arange(PITCHES)[None, None, None] - reference_BTN[..., None]
    is_near_BTNK = jnp.abs(distance_BTNK) <= _REACH
    shift_BTN = jnp.maximum(reference_BTN, 0)
    parts = [jnp.broadcast_to(score_BTNR[..., -1:], (*reference_BTN.shape, NoteTokenizer.ATTACKED))]
    for row in (0, _NEAR + 1):
        near_BTNS = placed(score_BTNR[..., row : row + _NEAR], shift_BTN)
        near_BTNK = near_BTNS[..., _REACH : _REACH + PITCHES]
        parts.append(jnp.where(is_near_BTNK, near_BTNK, score_BTNR[..., row + _NEAR, None]))
    return jnp.concatenate(parts, axis=-1)


def _rows_of_ids() -> tuple[np.ndarray, np.ndarray]:
    """For each pitch id its MIDI pitch, or `NONE`, and the first row of its kind in W."""
    ids = np.arange(NoteTokenizer.HELD + PITCHES)
    midi = np.where(ids < NoteTokenizer.ATTACKED, NONE, (ids - NoteTokenizer.ATTACKED) % PITCHES)
    return midi, np.where(ids < NoteTokenizer.HELD, 0, _NEAR + 1)
