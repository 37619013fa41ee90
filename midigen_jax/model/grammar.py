"""What may follow what: events that no music encodes to have probability 0, everywhere.

In: the events of a row, one after another. Out: for each step, which pitch ids may come next, which kind of
event it will be, and for each kind and pitch id, which duration ids it may have. Training, evaluation and
decoding use the same masks, so that no likelihood is spent on the impossible and every sample decodes to
valid music.

`note` tokens: within a slice pitches rise; a held pitch sounded in the slice before; rests and `<end>`
stand alone. `voice` tokens: a slice has an event for each voice, and `<end>` stands between slices; a held
pitch sounded in its voice. `chord` tokens: every event has a duration, but `<start>` and `<end>`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from midigen_jax.music.tokenizers import Tokenizer
from midigen_jax.music.tokens import END, START, ChordTokenizer, NoteTokenizer
from midigen_jax.music.voices import VoiceTokenizer

C = TypeVar("C", bound=NamedTuple)

_PITCHES = 128
WITHIN, LAST = 1, 2  # kinds of events of voices
_REST, _ATTACKED, _HELD = NoteTokenizer.REST, NoteTokenizer.ATTACKED, NoteTokenizer.HELD


class Next(NamedTuple):
    """What may follow each event."""

    allowed_BTP: Array  # bool: which pitch ids
    kind_BT: Array  # int32: of which kind it is, by which its durations go


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
    ) -> tuple[GrammarCarry, Next]:
        """The carry after the events, and what may follow each of them."""

        def step(carry: GrammarCarry, now: tuple[Array, ...]) -> tuple[GrammarCarry, Array]:
            carry = self._advance(carry, *now)
            return carry, self._allowed(carry)

        carry, allowed_BTP = _over_time(step, carry, pitch_BT, duration_BT, mask_BT)
        return carry, Next(allowed_BTP, jnp.zeros_like(pitch_BT))

    def durations(self) -> np.ndarray:
        """(K, P, R) bool: the duration ids that pitch ids may have in each kind of event; here K = 1."""
        allowed_PR = np.ones((self.pitch_size, self.duration_size), bool)
        allowed_PR[[START, END], 1:] = False
        # Duration id 0 promises another pitch above in the same slice: none is above a rest or pitch 127.
        allowed_PR[[_REST, _ATTACKED + _PITCHES - 1, _HELD + _PITCHES - 1], 0] = False
        return allowed_PR[None]

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
        return _where(mask_B, after, carry)

    def _allowed(self, carry: GrammarCarry) -> Array:
        above_BK = jnp.arange(_PITCHES)[None, :] >= carry.floor_B[:, None]
        between_B1 = (carry.floor_B == 0)[:, None]
        never_B1 = jnp.zeros_like(between_B1)
        return jnp.concatenate(
            [never_B1, between_B1, between_B1, above_BK, above_BK & ~carry.silent_BK], axis=1
        )


class VoiceCarry(NamedTuple):
    """As `GrammarCarry`: zeros mean that nothing is known. V voices."""

    before_BV: Array  # int32: 1 + what each voice does in the slice before: 1 rests, 2 + pitch; 0: not known
    current_BV: Array  # int32: the same of the slice that is being written
    place_B: Array  # int32: the voice that comes next
    known_B: Array  # bool: whether that is known


@dataclass(frozen=True)
class VoiceGrammar:
    """The rules of the `voice` tokenizer with `voices` voices and `duration_size` duration ids."""

    voices: int
    duration_size: int
    pitch_size: int = _HELD + _PITCHES

    def initial_carry(self, rows: int) -> VoiceCarry:
        """Zeros for `rows` sequences."""
        return VoiceCarry(
            jnp.zeros((rows, self.voices), jnp.int32),
            jnp.zeros((rows, self.voices), jnp.int32),
            jnp.zeros(rows, jnp.int32),
            jnp.zeros(rows, bool),
        )

    def follow(
        self, carry: VoiceCarry, pitch_BT: Array, duration_BT: Array, mask_BT: Array
    ) -> tuple[VoiceCarry, Next]:
        """As `NoteGrammar.follow`; kinds: not known, an event within its slice, the last one of it."""

        def step(carry: VoiceCarry, now: tuple[Array, ...]) -> tuple[VoiceCarry, Next]:
            carry = self._advance(carry, *now)
            return carry, self._next(carry)

        return _over_time(step, carry, pitch_BT, duration_BT, mask_BT)

    def durations(self) -> np.ndarray:
        """As `NoteGrammar.durations`, with K = 3."""
        allowed_KPR = np.ones((3, self.pitch_size, self.duration_size), bool)
        allowed_KPR[WITHIN, :, 1:] = False
        allowed_KPR[LAST, :, 0] = False
        allowed_KPR[:, [START, END]] = np.arange(self.duration_size) == 0
        return allowed_KPR

    def _advance(self, carry: VoiceCarry, pitch_B: Array, duration_B: Array, mask_B: Array) -> VoiceCarry:
        edge_B = (pitch_B == START) | (pitch_B == END)
        closes_B = edge_B | (duration_B > 0)
        does_B = jnp.where(pitch_B < _ATTACKED, 1, 2 + (pitch_B - _ATTACKED) % _PITCHES)
        here_BV = carry.known_B[:, None] & (jnp.arange(self.voices)[None] == carry.place_B[:, None])
        written_BV = jnp.where(here_BV, does_B[:, None], carry.current_BV)
        whole_BV = jnp.where(edge_B[:, None], 1, written_BV)
        after = VoiceCarry(
            jnp.where(closes_B[:, None], whole_BV, carry.before_BV),
            jnp.where(closes_B[:, None], 0, written_BV),
            jnp.where(closes_B | ~carry.known_B, 0, jnp.minimum(carry.place_B + 1, self.voices - 1)),
            carry.known_B | closes_B,
        )
        return _where(mask_B, after, carry)

    def _next(self, carry: VoiceCarry) -> Next:
        own_B1 = jnp.take_along_axis(carry.before_BV, carry.place_B[:, None], axis=1)
        free_B1 = (own_B1 == 0) | ~carry.known_B[:, None]
        held_BK = free_B1 | (own_B1 - 2 == jnp.arange(_PITCHES)[None])
        may_end_B1 = (carry.place_B == 0)[:, None]
        always_BK = jnp.ones_like(held_BK)
        never_B1, always_B1 = jnp.zeros_like(may_end_B1), jnp.ones_like(may_end_B1)
        allowed_BP = jnp.concatenate([never_B1, may_end_B1, always_B1, always_BK, held_BK], axis=1)
        kind_B = jnp.where(carry.place_B == self.voices - 1, LAST, WITHIN)
        return Next(allowed_BP, jnp.where(carry.known_B, kind_B, 0))


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
    ) -> tuple[tuple[()], Next]:
        """As `NoteGrammar.follow`."""
        allowed_P = jnp.arange(self.pitch_size) != START
        allowed_BTP = jnp.broadcast_to(allowed_P, (*pitch_BT.shape, self.pitch_size))
        return carry, Next(allowed_BTP, jnp.zeros_like(pitch_BT))

    def durations(self) -> np.ndarray:
        """As `NoteGrammar.durations`."""
        allowed_PR = np.ones((self.pitch_size, self.duration_size), bool)
        allowed_PR[:, 0] = False
        allowed_PR[[START, END]] = np.arange(self.duration_size) == 0
        return allowed_PR[None]


Grammar = NoteGrammar | VoiceGrammar | ChordGrammar


def grammar(tokenizer: Tokenizer) -> Grammar:
    """The rules of a tokenizer."""
    if isinstance(tokenizer, ChordTokenizer):
        return ChordGrammar(tokenizer.duration_size, tokenizer.pitch_size)
    if isinstance(tokenizer, VoiceTokenizer):
        return VoiceGrammar(tokenizer.voices, tokenizer.duration_size)
    return NoteGrammar(tokenizer.duration_size)


def _over_time(step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, *events_BT: Array) -> tuple[Any, Any]:
    """Scan over the time of (B, T) arrays; what comes out has its T after B, too."""
    carry, found = lax.scan(step, carry, tuple(array.T for array in events_BT))
    return carry, jax.tree.map(lambda part: jnp.swapaxes(part, 0, 1), found)


def _where(mask_B: Array, new: C, old: C) -> C:
    """One carry or the other, row by row."""

    def of(new: Array, old: Array) -> Array:
        return jnp.where(mask_B.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(of, new, old)
