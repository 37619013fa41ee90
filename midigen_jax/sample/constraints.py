"""What music is asked to keep to, beyond what its tokens allow: key, range, chord size, repeats, bar lines.

In: a carry, the event that was written. Out: the carry after it, and masks of the ids that may come next.
What is forbidden has probability 0 before an id is drawn. All settings are traced: sweeping them compiles
nothing again.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from midigen_jax.errors import InputError
from midigen_jax.music.tokenizers import Tokenizer
from midigen_jax.music.tokens import END, START, ChordTokenizer, NoteTokenizer
from midigen_jax.music.voices import VoiceTokenizer
from midigen_jax.sample.filters import mix

NEVER = 2**30  # a bound that no count reaches
_PITCHES = 128


class Constraints(NamedTuple):
    """What may be written, the same for all rows; `constraints` makes one."""

    pitch_P: Array  # bool: pitch ids that may be written at all
    symbol_P: Array  # int32: the same for ids that sound alike: a pitch struck, and held
    struck_P: Array  # bool: ids that are heard to begin
    duration_KPR: Array  # bool: duration ids that each pitch id may have in an event of each kind
    chord: Array  # int32: most pitches in a slice
    repeats: Array  # int32: how often a slice may come again at once
    bar: Array  # int32: ticks in a bar; no slice crosses its line, and pieces end there; `NEVER`: no bars


class ConstraintCarry(NamedTuple):
    """What the constraints need of the past, arrays with a leading B."""

    ticks_B: Array  # int32: time since the last bar line
    events_B: Array  # int32: events in the slice that is being written
    slice_B: Array  # uint32: a hash of what sounds in it
    struck_B: Array  # bool: whether any of it begins there
    before_B: Array  # uint32: the hash of the slice before
    repeats_B: Array  # int32: how often that one has come again at once


def constraints(
    tokenizer: Tokenizer,
    durations_KPR: NDArray[np.bool_],
    *,
    scale: Sequence[int] = range(12),
    lowest: int = 0,
    highest: int = _PITCHES - 1,
    chord: int = NEVER,
    repeats: int = NEVER,
    bar: int = NEVER,
) -> Constraints:
    """Constraints for the ids of `tokenizer`, which may have the durations `durations_KPR` (bool).

    scale: pitch classes, 0 to 11. lowest, highest: MIDI pitches. chord: most pitches at once. repeats: how
    often a slice may follow itself, each time with a pitch that is struck. bar: its ticks. Raises InputError
    for a `chord` below the number of voices, which all have an event in every slice.
    """
    if isinstance(tokenizer, VoiceTokenizer) and chord < tokenizer.voices:
        raise InputError(
            f"sample.largest_chord = {chord} is out of range: {tokenizer.voices} voices are written in every "
            "slice; leave it out"
        )
    pitches = np.arange(_PITCHES)
    fits_K = np.isin(pitches % 12, list(scale)) & (pitches >= lowest) & (pitches <= highest)
    allowed_P, durations_KPR = np.ones(tokenizer.pitch_size, bool), durations_KPR.copy()
    symbol_P, struck_P = np.arange(tokenizer.pitch_size), np.ones(tokenizer.pitch_size, bool)
    if isinstance(tokenizer, ChordTokenizer):
        # What no piece can hold is never drawn: an unknown chord has no pitches.
        allowed_P[ChordTokenizer.UNKNOWN] = False
        allowed_P[ChordTokenizer.CHORDS :] = [
            len(symbol) <= chord and bool(fits_K[list(symbol)].all()) for symbol in tokenizer.chords
        ]
    else:
        allowed_P[NoteTokenizer.ATTACKED :] = np.tile(fits_K, 2)
        symbol_P[NoteTokenizer.HELD :] -= _PITCHES
        struck_P[NoteTokenizer.HELD :] = False
    if isinstance(tokenizer, NoteTokenizer):
        # Duration id 0 promises a higher pitch: there must be one.
        top = int(np.flatnonzero(fits_K)[-1]) if fits_K.any() else -1
        durations_KPR[:, NoteTokenizer.ATTACKED :, 0] &= np.tile(pitches < top, 2)
    tables = allowed_P, symbol_P.astype(np.int32), struck_P, durations_KPR
    return Constraints(*map(jnp.asarray, tables), *map(jnp.int32, (chord, repeats, bar)))


def constraint_carry(rules: Constraints, begin_B: Array) -> ConstraintCarry:
    """Nothing was written yet; `begin_B` ticks have gone by since a bar line."""
    rows = len(begin_B)
    count_B, hash_B = jnp.zeros(rows, jnp.int32), jnp.zeros(rows, jnp.uint32)
    return ConstraintCarry(begin_B % rules.bar, count_B, hash_B, jnp.zeros(rows, bool), hash_B, count_B)


def follow(
    rules: Constraints, carry: ConstraintCarry, pitch_B: Array, duration_B: Array, mask_B: Array
) -> ConstraintCarry:
    """The carry after an event; where the mask hides it, as it was."""
    closes_B = (duration_B > 0) | (pitch_B == START) | (pitch_B == END)
    slice_B = mix(carry.slice_B ^ rules.symbol_P[pitch_B].astype(jnp.uint32))
    struck_B = carry.struck_B | rules.struck_P[pitch_B]
    # What is held on through a whole slice is one sound with the slice before: no repeat, and no end of them.
    again_B = jnp.where(slice_B == carry.before_B, carry.repeats_B + struck_B, 0)
    after = ConstraintCarry(
        (carry.ticks_B + duration_B) % rules.bar,
        jnp.where(closes_B, 0, carry.events_B + 1),
        jnp.where(closes_B, 0, slice_B),
        struck_B & ~closes_B,
        jnp.where(closes_B, slice_B, carry.before_B),
        jnp.where(closes_B, again_B, carry.repeats_B),
    )
    return ConstraintCarry(*(jnp.where(mask_B, new, old) for new, old in zip(after, carry, strict=True)))


def allowed_pitches(rules: Constraints, carry: ConstraintCarry, grammar_BP: Array) -> Array:
    """(B, P) bool: of the pitch ids that the grammar allows, those that the constraints allow too.

    A slice may be repeated once more where nothing else is left.
    """
    id_1P = jnp.arange(len(rules.pitch_P))[None]
    within_BP = grammar_BP & rules.pitch_P[None]
    inside_B1 = (carry.ticks_B > 0)[:, None] & (rules.bar < NEVER)
    within_BP &= ~((id_1P == END) & inside_B1)
    # An event with which the slice would be as the one before, its last one or not, is not written.
    symbol_1P = rules.symbol_P[None].astype(jnp.uint32)
    same_BP = mix(carry.slice_B[:, None] ^ symbol_1P) == carry.before_B[:, None]
    same_BP &= carry.struck_B[:, None] | rules.struck_P[None]
    tired_B1 = (carry.repeats_B >= rules.repeats)[:, None]
    fresh_BP = within_BP & ~(same_BP & tired_B1)
    return jnp.where(fresh_BP.any(axis=-1, keepdims=True), fresh_BP, within_BP)


def allowed_durations(rules: Constraints, carry: ConstraintCarry, pitch_B: Array) -> Array:
    """(B, R) bool: of the duration ids that `duration_KPR` allows, those that time and chord allow."""
    duration_1R = jnp.arange(rules.duration_KPR.shape[-1])[None]
    # <start> and <end> take no time and are in no slice: 0 is all that they have.
    edge_B1 = ((pitch_B == START) | (pitch_B == END))[:, None]
    full_B1 = (carry.events_B + 1 >= rules.chord)[:, None]
    fits_BR = duration_1R <= (rules.bar - carry.ticks_B)[:, None]
    return edge_B1 | (fits_BR & ~(full_B1 & (duration_1R == 0)))
