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
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from midigen_jax.music.tokenizers import Tokenizer
from midigen_jax.music.tokens import END, START, ChordTokenizer, NoteTokenizer
from midigen_jax.music.voices import VoiceTokenizer

C = TypeVar("C", bound=NamedTuple)

_PITCHES = 128
_VALUES = 256  # more than there are pitches, and a few marks
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
        carry, after = _carries(self._advance, self._after_each, carry, pitch_BT, duration_BT, mask_BT)
        return carry, Next(self._allowed(after), jnp.zeros_like(pitch_BT))

    def durations(self) -> np.ndarray:
        """(K, P, R) bool: the duration ids that pitch ids may have in each kind of event; here K = 1."""
        allowed_PR = np.ones((self.pitch_size, self.duration_size), bool)
        allowed_PR[[START, END], 1:] = False
        # Duration id 0 promises another pitch above in the same slice: none is above a rest or pitch 127.
        allowed_PR[[_REST, _ATTACKED + _PITCHES - 1, _HELD + _PITCHES - 1], 0] = False
        return allowed_PR[None]

    def _after_each(
        self, carry: GrammarCarry, pitch_BT: Array, duration_BT: Array, mask_BT: Array
    ) -> GrammarCarry:
        """The carries after all events, (B, T, …): `_advance` for all times at once."""
        midi_BT = (pitch_BT - _ATTACKED) % _PITCHES
        edge_BT = mask_BT & ((pitch_BT == START) | (pitch_BT == END))
        closes_BT = edge_BT | (mask_BT & (duration_BT > 0))
        # Slices by number: 0 is the one that the carry was writing; where the next event will be.
        next_BT = jnp.cumsum(closes_BT, axis=1)
        slice_BT = next_BT - closes_BT
        sounds_BT = mask_BT & (pitch_BT >= _ATTACKED)
        adds_BT = jnp.where(sounds_BT, midi_BT, jnp.where(edge_BT, _PITCHES, _PITCHES + 1))
        # By number of the slice: which pitches it has, and whether it is an edge of the piece.
        rows, times = pitch_BT.shape
        row_B1 = jnp.arange(rows)[:, None]
        found_BSE = jnp.zeros((rows, times + 1, _PITCHES + 1), bool)
        found_BSE = found_BSE.at[:, 0, :_PITCHES].set(carry.current_BK)
        found_BSE = found_BSE.at[row_B1, slice_BT, adds_BT].set(True, mode="drop")
        found_BTE = found_BSE[row_B1, jnp.maximum(next_BT - 1, 0)]
        before_BTK, edge_BT1 = found_BTE[..., :_PITCHES], found_BTE[..., _PITCHES:]
        known_BT1 = carry.known_B[:, None, None] | (next_BT > 1)[..., None]
        silent_BTK = edge_BT1 | (~before_BTK & known_BT1)
        floor_BT = jnp.where(closes_BT, 0, midi_BT + 1)
        return GrammarCarry(
            jnp.where(next_BT[..., None] > 0, silent_BTK, carry.silent_BK[:, None]),
            found_BSE[row_B1, next_BT[:, -1:], :_PITCHES],
            _newest(jnp.cumsum(mask_BT, axis=1), floor_BT, mask_BT, carry.floor_B) % _VALUES,
            carry.known_B[:, None] | (next_BT > 0),
        )

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

    def _allowed(self, after: GrammarCarry) -> Array:
        """(B, T, P), of carries with an axis T."""
        above_BTK = jnp.arange(_PITCHES)[None, None] >= after.floor_B[..., None]
        between_BT1 = (after.floor_B == 0)[..., None]
        never_BT1 = jnp.zeros_like(between_BT1)
        return jnp.concatenate(
            [never_BT1, between_BT1, between_BT1, above_BTK, above_BTK & ~after.silent_BK], axis=-1
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
        carry, after = _carries(self._advance, self._after_each, carry, pitch_BT, duration_BT, mask_BT)
        return carry, self._next(after)

    def durations(self) -> np.ndarray:
        """As `NoteGrammar.durations`, with K = 3."""
        allowed_KPR = np.ones((3, self.pitch_size, self.duration_size), bool)
        allowed_KPR[WITHIN, :, 1:] = False
        allowed_KPR[LAST, :, 0] = False
        allowed_KPR[:, [START, END]] = np.arange(self.duration_size) == 0
        return allowed_KPR

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
        does_BT = jnp.where(pitch_BT < _ATTACKED, 1, 2 + (pitch_BT - _ATTACKED) % _PITCHES)

        voice_V = jnp.arange(self.voices)[None, None]
        here_BTV = _shifted(carry.place_B, place_BT)[..., None] == voice_V
        here_BTV &= (mask_BT & _shifted(carry.known_B, known_BT))[..., None]
        newest_BTV = _newest(number_BT[..., None], does_BT[..., None], here_BTV, carry.current_BV)
        begun_BT = _shifted(jnp.zeros_like(carry.place_B), closed_BT)
        whole_BTV = jnp.where(edge_BT[..., None], 1, _since(newest_BTV, begun_BT))
        before_BTV = _newest(number_BT[..., None], whole_BTV, closes_BT[..., None], carry.before_BV)
        current_B1V = _since(newest_BTV[:, -1:], closed_BT[:, -1:])
        return VoiceCarry(before_BTV % _VALUES, current_B1V, place_BT, known_BT)

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

    def _next(self, after: VoiceCarry) -> Next:
        """What may follow, of carries with an axis T."""
        before_BTV, _, place_BT, known_BT = after
        is_own_BTV = place_BT[..., None] == jnp.arange(self.voices)[None, None]
        own_BT1 = jnp.where(is_own_BTV, before_BTV, 0).sum(axis=-1, keepdims=True)
        free_BT1 = (own_BT1 == 0) | ~known_BT[..., None]
        held_BTK = free_BT1 | (own_BT1 - 2 == jnp.arange(_PITCHES)[None, None])
        may_end_BT1 = (place_BT == 0)[..., None]
        always_BTK = jnp.ones_like(held_BTK)
        never_BT1, always_BT1 = jnp.zeros_like(may_end_BT1), jnp.ones_like(may_end_BT1)
        allowed_BTP = jnp.concatenate([never_BT1, may_end_BT1, always_BT1, always_BTK, held_BTK], axis=-1)
        kind_BT = jnp.where(place_BT == self.voices - 1, LAST, WITHIN)
        return Next(allowed_BTP, jnp.where(known_BT, kind_BT, 0))


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


def _carries(
    advance: Callable[..., C], after_each: Callable[..., C], carry: C, *events_BT: Array
) -> tuple[C, C]:
    """The carry after events, and those after each of them, (B, T, …).

    A lone event, as in a decode loop, is a case of its own: it costs less.
    """
    if events_BT[0].shape[1] == 1:
        carry = advance(carry, *(array_B1[:, 0] for array_B1 in events_BT))
        return carry, jax.tree.map(lambda part_B: part_B[:, None], carry)
    after = after_each(carry, *events_BT)
    return jax.tree.map(lambda part_BT: part_BT[:, -1], after), after


def _newest(number_BT: Array, value_BT: Array, is_one_BT: Array, first_B: Array) -> Array:
    """For each time the newest of the events so far that `is_one`: its number and its value, in one int32.

    Values are below `_VALUES`. Event 0, with the value `first_B`, stands in where there was none. Arrays may
    have further axes.
    """
    return lax.cummax(jnp.where(is_one_BT, number_BT * _VALUES + value_BT, first_B[:, None]), axis=1)


def _since(newest_BTV: Array, begun_BT: Array) -> Array:
    """The values of those that came after event `begun`, or at any time where that is 0; else 0."""
    is_new_BTV = (newest_BTV // _VALUES > begun_BT[..., None]) | (begun_BT == 0)[..., None]
    return jnp.where(is_new_BTV, newest_BTV % _VALUES, 0)


def _shifted(first_B: Array, after_BT: Array) -> Array:
    """What stood before each event, of what stands after it."""
    return jnp.concatenate([first_B[:, None], after_BT[:, :-1]], axis=1)


def _where(mask_B: Array, new: C, old: C) -> C:
    """One carry or the other, row by row."""

    def of(new: Array, old: Array) -> Array:
        return jnp.where(mask_B.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(of, new, old)
