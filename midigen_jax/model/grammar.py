"""What may follow what: events that no music encodes to have probability 0, everywhere.

In: the events of a row, one after another. Out: for each step, which pitch ids may come next, and for each
pitch id, which duration ids it may have. Training, evaluation and decoding use the same masks, so that no
likelihood is spent on the impossible and every sample decodes to valid music.

`note` tokens: within a slice pitches rise; a held pitch sounded in the slice before; rests and `<end>`
stand alone. `chord` tokens: every event has a duration, but `<start>` and `<end>`.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from midigen_jax.music.tokens import END, START, NoteTokenizer

_PITCHES = 128
_REST, _ATTACKED, _HELD = NoteTokenizer.REST, NoteTokenizer.ATTACKED, NoteTokenizer.HELD


class GrammarCarry(NamedTuple):
    """What the rules need of the past; zeros to begin with, which mean "nothing is known, all may be".

    So a row that begins in the middle of a piece is judged mildly until its second slice, and one that
    begins with `<start>` exactly.
    """

    silent_BK: Array  # bool: this pitch is known not to have sounded in the slice before
    current_BK: Array  # bool: this pitch stands in the slice that is being written
    floor_B: Array  # int32: lowest pitch that may follow in this slice; 0 between slices
    known_B: Array  # bool: the slice that is being written was seen from its first event


@dataclass(frozen=True)
class NoteGrammar:
    """The rules of the `note` tokenizer with `duration_size` duration ids."""

    duration_size: int
    pitch_size: int = _HELD + _PITCHES

    def initial_carry(self, rows: int) -> GrammarCarry:
        """Zeros for `rows` sequences."""
        return GrammarCarry(
            jnp.zeros((rows, _PITCHES), bool),
            jnp.zeros((rows, _PITCHES), bool),
            jnp.zeros(rows, jnp.int32),
            jnp.zeros(rows, bool),
        )

    def follow(
        self, carry: GrammarCarry, pitch_BT: Array, duration_BT: Array, mask_BT: Array
    ) -> tuple[GrammarCarry, Array]:
        """The carry after the events, and (B, T, P) bool: which pitch ids may follow each of them."""

        def step(carry: GrammarCarry, now: tuple[Array, ...]) -> tuple[GrammarCarry, Array]:
            carry = self._advance(carry, *now)
            return carry, self._allowed(carry)

        over_time = tuple(jnp.swapaxes(array, 0, 1) for array in (pitch_BT, duration_BT, mask_BT))
        carry, allowed_TBP = lax.scan(step, carry, over_time)
        return carry, jnp.swapaxes(allowed_TBP, 0, 1)

    def durations(self) -> np.ndarray:
        """(P, R) bool: the duration ids that a pitch id may have."""
        allowed_PR = np.ones((self.pitch_size, self.duration_size), bool)
        allowed_PR[[START, END], 1:] = False
        # Duration id 0 promises another pitch above in the same slice: none is above a rest or pitch 127.
        allowed_PR[[_REST, _ATTACKED + _PITCHES - 1, _HELD + _PITCHES - 1], 0] = False
        return allowed_PR

    def _advance(self, carry: GrammarCarry, pitch_B: Array, duration_B: Array, mask_B: Array) -> GrammarCarry:
        sounds_B = pitch_B >= _ATTACKED
        midi_B = (pitch_B - _ATTACKED) % _PITCHES
        written_BK = carry.current_BK | (
            sounds_B[:, None] & (midi_B[:, None] == jnp.arange(_PITCHES)[None, :])
        )
        edge_B = (pitch_B == START) | (pitch_B == END)
        closes_B = edge_B | (duration_B > 0)
        # After a slice that was seen whole, the pitches that are not in it are silent; at an edge, all are.
        silent_BK = edge_B[:, None] | (~written_BK & carry.known_B[:, None])
        after = GrammarCarry(
            jnp.where(closes_B[:, None], silent_BK, carry.silent_BK),
            written_BK & ~closes_B[:, None],
            jnp.where(closes_B, 0, midi_B + 1),
            carry.known_B | closes_B,
        )
        return GrammarCarry(
            *(
                jnp.where(mask_B if new.ndim == 1 else mask_B[:, None], new, old)
                for new, old in zip(after, carry, strict=True)
            )
        )

    def _allowed(self, carry: GrammarCarry) -> Array:
        above_BK = jnp.arange(_PITCHES)[None, :] >= carry.floor_B[:, None]
        between_B1 = (carry.floor_B == 0)[:, None]
        never_B1 = jnp.zeros_like(between_B1)
        return jnp.concatenate(
            [never_B1, between_B1, between_B1, above_BK, above_BK & ~carry.silent_BK], axis=1
        )


@dataclass(frozen=True)
class ChordGrammar:
    """The rules of the `chord` tokenizer: only `<start>` is impossible, and only edges last no time."""

    duration_size: int
    pitch_size: int

    def initial_carry(self, rows: int) -> tuple[()]:
        """Nothing: no rule here looks back."""
        return ()

    def follow(
        self, carry: tuple[()], pitch_BT: Array, duration_BT: Array, mask_BT: Array
    ) -> tuple[tuple[()], Array]:
        """As `NoteGrammar.follow`."""
        allowed_P = jnp.arange(self.pitch_size) != START
        return carry, jnp.broadcast_to(allowed_P, (*pitch_BT.shape, self.pitch_size))

    def durations(self) -> np.ndarray:
        """As `NoteGrammar.durations`."""
        allowed_PR = np.ones((self.pitch_size, self.duration_size), bool)
        allowed_PR[:, 0] = False
        allowed_PR[[START, END]] = np.arange(self.duration_size) == 0
        return allowed_PR


Grammar = NoteGrammar | ChordGrammar


def grammar(tokenizer: Literal["note", "chord"], pitch_size: int, duration_size: int) -> Grammar:
    """The rules of a tokenizer with these vocabulary sizes."""
    if tokenizer == "note":
        return NoteGrammar(duration_size, pitch_size)
    return ChordGrammar(duration_size, pitch_size)
