"""What may follow what in the `voice` vocabulary.

A slice has an event for each voice, and `<end>` stands between slices; a held pitch sounded in its voice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from midigen_jax.vocab.base import END, PITCHES, START
from midigen_jax.vocab.note import ATTACKED, SIZE
from midigen_jax.vocab.rules import VALUES, Events, carries, newest, shifted, since, where

WITHIN, LAST = 1, 2  # kinds of events


class VoiceNext(NamedTuple):
    """What may follow each event."""

    pitch_BTP: Array  # bool: which pitch ids
    kind_BT: Array  # int32: 0 if nothing is known, an event within its slice, or the last one of it


class VoiceCarry(NamedTuple):
    """As `NoteCarry`: zeros mean that nothing is known. V voices."""

    before_BV: Array  # int32: 1 + what each voice does in the slice before: 1 rests, 2 + pitch; 0: not known
    current_BV: Array  # int32: the same of the slice that is being written
    place_B: Array  # int32: the voice that comes next
    known_B: Array  # bool: whether that is known


class VoiceLimits(NamedTuple):
    """What `VoiceRules.allowed` reads."""

    pitch_P: NDArray[np.bool_] | None  # pitch ids that shall be written at all; None: every one
    duration_KPR: NDArray[np.bool_]  # duration ids that each pitch id may have in each of K = 3 kinds


@dataclass(frozen=True)
class VoiceRules:
    """The rules of `voice` with `voices` voices and `durations` duration ids."""

    voices: int
    durations: int

    def initial_carry(self, rows: int) -> VoiceCarry:
        """Zeros for `rows` sequences."""
        return VoiceCarry(
            jnp.zeros((rows, self.voices), jnp.int32),
            jnp.zeros((rows, self.voices), jnp.int32),
            jnp.zeros(rows, jnp.int32),
            jnp.zeros(rows, bool),
        )

    def follow(self, carry: VoiceCarry, events: Events, mask_BT: Array) -> tuple[VoiceCarry, VoiceNext]:
        """As `Rules.follow`."""
        read = events["pitch"], events["duration"], mask_BT
        carry, after = carries(self._advance, self._after_each, carry, *read)
        return carry, self._next(after)

    def limits(self, only: Mapping[str, NDArray[np.bool_]] | None = None) -> VoiceLimits:
        """As `Rules.limits`: any pitch may follow any other, so nothing else follows from them."""
        only = only or {}
        duration_KPR = np.tile(only.get("duration", np.ones(self.durations, bool)), (3, SIZE, 1))
        duration_KPR[WITHIN] = np.arange(self.durations) == 0
        duration_KPR[LAST, :, 0] = False
        duration_KPR[:, [START, END]] = np.arange(self.durations) == 0
        return VoiceLimits(only.get("pitch"), duration_KPR)

    def allowed(self, after: VoiceNext, limits: VoiceLimits, stream: str, earlier: Events) -> Array:
        """As `Rules.allowed`."""
        if stream == "pitch":
            return after.pitch_BTP if limits.pitch_P is None else after.pitch_BTP & limits.pitch_P[None, None]
        return jnp.asarray(limits.duration_KPR)[after.kind_BT, earlier["pitch"]]

    def _after_each(
        self, carry: VoiceCarry, pitch_BT: Array, duration_BT: Array, mask_BT: Array
    ) -> VoiceCarry:
        """The carries after all events, (B, T, …): `_advance` for all times at once."""
        edge_BT = mask_BT & ((pitch_BT == START) | (pitch_BT == END))
        closes_BT = edge_BT | (mask_BT & (duration_BT > 0))
        number_BT = jnp.cumsum(mask_BT, axis=1)  # of an event, from 1; 0 is what the carry knows
        closed_BT = lax.cummax(jnp.where(closes_BT, number_BT, 0), axis=1)  # the last that closed a slice
        is_first_BT = closed_BT == 0  # still the slice that the carry was writing
        known_BT = carry.known_B[:, None] | ~is_first_BT
        place_BT = number_BT - closed_BT + jnp.where(is_first_BT, carry.place_B[:, None], 0)
        place_BT = jnp.where(known_BT, jnp.minimum(place_BT, self.voices - 1), 0)
        does_BT = jnp.where(pitch_BT < ATTACKED, 1, 2 + (pitch_BT - ATTACKED) % PITCHES)

        voice_V = jnp.arange(self.voices)[None, None]
        here_BTV = shifted(carry.place_B, place_BT)[..., None] == voice_V
        here_BTV &= (mask_BT & shifted(carry.known_B, known_BT))[..., None]
        newest_BTV = newest(number_BT[..., None], does_BT[..., None], here_BTV, carry.current_BV)
        begun_BT = shifted(jnp.zeros_like(carry.place_B), closed_BT)
        whole_BTV = jnp.where(edge_BT[..., None], 1, since(newest_BTV, begun_BT))
        before_BTV = newest(number_BT[..., None], whole_BTV, closes_BT[..., None], carry.before_BV)
        current_B1V = since(newest_BTV[:, -1:], closed_BT[:, -1:])
        return VoiceCarry(before_BTV % VALUES, current_B1V, place_BT, known_BT)

    def _advance(self, carry: VoiceCarry, pitch_B: Array, duration_B: Array, mask_B: Array) -> VoiceCarry:
        edge_B = (pitch_B == START) | (pitch_B == END)
        closes_B = edge_B | (duration_B > 0)
        does_B = jnp.where(pitch_B < ATTACKED, 1, 2 + (pitch_B - ATTACKED) % PITCHES)
        here_BV = carry.known_B[:, None] & (jnp.arange(self.voices)[None] == carry.place_B[:, None])
        written_BV = jnp.where(here_BV, does_B[:, None], carry.current_BV)
        whole_BV = jnp.where(edge_B[:, None], 1, written_BV)
        after = VoiceCarry(
            jnp.where(closes_B[:, None], whole_BV, carry.before_BV),
            jnp.where(closes_B[:, None], 0, written_BV),
            jnp.where(closes_B | ~carry.known_B, 0, jnp.minimum(carry.place_B + 1, self.voices - 1)),
            carry.known_B | closes_B,
        )
        return where(mask_B, after, carry)

    def _next(self, after: VoiceCarry) -> VoiceNext:
        """What may follow, of carries with an axis T."""
        before_BTV, _, place_BT, known_BT = after
        is_own_BTV = place_BT[..., None] == jnp.arange(self.voices)[None, None]
        own_BT1 = jnp.where(is_own_BTV, before_BTV, 0).sum(axis=-1, keepdims=True)
        free_BT1 = (own_BT1 == 0) | ~known_BT[..., None]
        held_BTK = free_BT1 | (own_BT1 - 2 == jnp.arange(PITCHES)[None, None])
        may_end_BT1 = (place_BT == 0)[..., None]
        always_BTK = jnp.ones_like(held_BTK)
        never_BT1, always_BT1 = jnp.zeros_like(may_end_BT1), jnp.ones_like(may_end_BT1)
        allowed_BTP = jnp.concatenate([never_BT1, may_end_BT1, always_BT1, always_BTK, held_BTK], axis=-1)
        kind_BT = jnp.where(place_BT == self.voices - 1, LAST, WITHIN)
        return VoiceNext(allowed_BTP, jnp.where(known_BT, kind_BT, 0))
