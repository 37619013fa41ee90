"""What may follow what in the `note` vocabulary.

Within a slice pitches rise; a held pitch sounded in the slice before; rests and `<end>` stand alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from midigen_jax.vocab.base import END, PITCHES, START
from midigen_jax.vocab.note import ATTACKED, HELD, REST, SIZE
from midigen_jax.vocab.rules import VALUES, Events, carries, newest, where


class NoteCarry(NamedTuple):
    """What is known of the last two slices; zeros to begin with, which mean "nothing is known"."""

    silent_BK: Array  # bool: this pitch is known not to have sounded in the slice before
    current_BK: Array  # bool: this pitch stands in the slice that is being written
    floor_B: Array  # int32: lowest pitch that may follow in this slice; 0 between slices
    known_B: Array  # bool: the slice that is being written was seen from its first event


class NoteLimits(NamedTuple):
    """What `NoteRules.allowed` reads."""

    pitch_P: NDArray[np.bool_] | None  # pitch ids that shall be written at all; None: every one
    duration_PR: NDArray[np.bool_]  # duration ids that each pitch id may have


@dataclass(frozen=True)
class NoteRules:
    """The rules of `note` with `durations` duration ids."""

    durations: int

    def initial_carry(self, rows: int) -> NoteCarry:
        """Zeros for `rows` sequences."""
        return NoteCarry(
            jnp.zeros((rows, PITCHES), bool),
            jnp.zeros((rows, PITCHES), bool),
            jnp.zeros(rows, jnp.int32),
            jnp.zeros(rows, bool),
        )

    def follow(self, carry: NoteCarry, events: Events, mask_BT: Array) -> tuple[NoteCarry, Array]:
        """The carry after the events, and (B, T, P) bool: the pitch ids that may follow each of them."""
        read = events["pitch"], events["duration"], mask_BT
        carry, after = carries(self._advance, self._after_each, carry, *read)
        return carry, self._pitches(after)

    def limits(self, only: Mapping[str, NDArray[np.bool_]] | None = None) -> NoteLimits:
        """As `Rules.limits`."""
        only = only or {}
        only_P = only.get("pitch")
        duration_PR = np.tile(only.get("duration", np.ones(self.durations, bool)), (SIZE, 1))
        duration_PR[[START, END]] = np.arange(self.durations) == 0
        # Duration id 0 promises another pitch above in the same slice: none is above a rest or the highest.
        highest = PITCHES - 1
        if only_P is not None:
            highest = int(np.flatnonzero(only_P[ATTACKED:HELD]).max(initial=-1))
        below = np.tile(np.arange(PITCHES) < highest, 2)
        duration_PR[REST, 0] = False
        duration_PR[ATTACKED:, 0] &= below
        return NoteLimits(only_P, duration_PR)

    def allowed(self, after: Array, limits: NoteLimits, stream: str, earlier: Events) -> Array:
        """As `Rules.allowed`."""
        if stream == "pitch":
            return after if limits.pitch_P is None else after & limits.pitch_P[None, None]
        return jnp.asarray(limits.duration_PR)[earlier["pitch"]]

    def _after_each(self, carry: NoteCarry, pitch_BT: Array, duration_BT: Array, mask_BT: Array) -> NoteCarry:
        """The carries after all events, (B, T, …): `_advance` for all times at once."""
        midi_BT = (pitch_BT - ATTACKED) % PITCHES
        edge_BT = mask_BT & ((pitch_BT == START) | (pitch_BT == END))
        closes_BT = edge_BT | (mask_BT & (duration_BT > 0))
        # Slices by number: 0 is the one that the carry was writing; where the next event will be.
        next_BT = jnp.cumsum(closes_BT, axis=1)
        slice_BT = next_BT - closes_BT
        sounds_BT = mask_BT & (pitch_BT >= ATTACKED)
        adds_BT = jnp.where(sounds_BT, midi_BT, jnp.where(edge_BT, PITCHES, PITCHES + 1))
        # By number of the slice: which pitches it has, and whether it is an edge of the piece.
        rows, times = pitch_BT.shape
        row_B1 = jnp.arange(rows)[:, None]
        found_BSE = jnp.zeros((rows, times + 1, PITCHES + 1), bool)
        found_BSE = found_BSE.at[:, 0, :PITCHES].set(carry.current_BK)
        found_BSE = found_BSE.at[row_B1, slice_BT, adds_BT].set(True, mode="drop")
        found_BTE = found_BSE[row_B1, jnp.maximum(next_BT - 1, 0)]
        before_BTK, edge_BT1 = found_BTE[..., :PITCHES], found_BTE[..., PITCHES:]
        known_BT1 = carry.known_B[:, None, None] | (next_BT > 1)[..., None]
        silent_BTK = edge_BT1 | (~before_BTK & known_BT1)
        floor_BT = jnp.where(closes_BT, 0, midi_BT + 1)
        return NoteCarry(
            jnp.where(next_BT[..., None] > 0, silent_BTK, carry.silent_BK[:, None]),
            found_BSE[row_B1, next_BT[:, -1:], :PITCHES],
            newest(jnp.cumsum(mask_BT, axis=1), floor_BT, mask_BT, carry.floor_B) % VALUES,
            carry.known_B[:, None] | (next_BT > 0),
        )

    def _advance(self, carry: NoteCarry, pitch_B: Array, duration_B: Array, mask_B: Array) -> NoteCarry:
        sounds_B = pitch_B >= ATTACKED
        midi_B = (pitch_B - ATTACKED) % PITCHES
        written_BK = carry.current_BK | (
            sounds_B[:, None] & (midi_B[:, None] == jnp.arange(PITCHES)[None, :])
        )
        edge_B = (pitch_B == START) | (pitch_B == END)
        closes_B = edge_B | (duration_B > 0)
        # After a slice that was seen whole, the pitches that are not in it are silent; at an edge, all are.
        silent_BK = edge_B[:, None] | (~written_BK & carry.known_B[:, None])
        after = NoteCarry(
            jnp.where(closes_B[:, None], silent_BK, carry.silent_BK),
            written_BK & ~closes_B[:, None],
            jnp.where(closes_B, 0, midi_B + 1),
            carry.known_B | closes_B,
        )
        return where(mask_B, after, carry)

    def _pitches(self, after: NoteCarry) -> Array:
        """(B, T, P), of carries with an axis T."""
        above_BTK = jnp.arange(PITCHES)[None, None] >= after.floor_B[..., None]
        between_BT1 = (after.floor_B == 0)[..., None]
        never_BT1 = jnp.zeros_like(between_BT1)
        return jnp.concatenate(
            [never_BT1, between_BT1, between_BT1, above_BTK, above_BTK & ~after.silent_BK], axis=-1
        )
