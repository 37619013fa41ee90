"""What music is asked to keep to, beyond what its tokens allow: key, range, chord size, repeats, bar lines.

In: settings; a carry, the event that was written. Out: `limits`, the ids that may be written at all; and,
of what depends on the past, the carry after an event, and masks of the ids that may come next. What is
forbidden has probability 0 before an id is drawn. All settings are traced: sweeping them compiles
nothing again.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from midigen_jax.errors import InputError
from midigen_jax.sample.filters import mix
from midigen_jax.vocab import END, Vocabulary
from midigen_jax.vocab.base import PITCHES
from midigen_jax.vocab.rules import Events
from midigen_jax.vocab.traced import by_id, closes_of, pitch_stream, ticks_of

NEVER = 2**30  # a bound that no count reaches


class Constraints(NamedTuple):
    """What may be written, the same for all rows; `constraints` makes one. P are ids of the pitch stream."""

    symbol_P: Array  # int32: the same for ids that sound alike: a pitch struck, and held
    struck_P: Array  # bool: ids that are heard to begin
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
    vocabulary: Vocabulary, *, chord: int = NEVER, repeats: int = NEVER, bar: int = NEVER
) -> Constraints:
    """Constraints for the ids of a vocabulary.

    chord: most pitches at once. repeats: how often a slice may follow itself, each time with a pitch that is
    struck. bar: its ticks. Raises InputError for a `chord` below the number of events that every slice has.
    """
    if chord < vocabulary.slice_events:
        raise InputError(
            f"sample.largest_chord = {chord} is out of range: {vocabulary.slice_events} voices are written "
            "in every slice; leave it out"
        )
    table = vocabulary.tables[pitch_stream(vocabulary.tables)]
    arrays = table.struck_twin, ~table.held
    return Constraints(*map(jnp.asarray, arrays), *map(jnp.int32, (chord, repeats, bar)))


def limits(
    vocabulary: Vocabulary,
    *,
    scale: Sequence[int] = range(12),
    lowest: int = 0,
    highest: int = PITCHES - 1,
    chord: int = NEVER,
    seen: Mapping[str, NDArray[np.bool_]] | None = None,
) -> Any:
    """Arrays of the vocabulary's rules, by which only some ids are written at all; None: all may be.

    scale: pitch classes, 0 to 11. lowest, highest: MIDI pitches. chord: most pitches of one id. seen: (V,)
    by stream, the ids that are wanted. Those that stand for what the vocabulary lacks are never written.
    Raises InputError where no pitch is left to write.
    """
    name = pitch_stream(vocabulary.tables)
    table = vocabulary.tables[name]
    pitches = np.arange(PITCHES)
    fits = np.isin(pitches % 12, list(scale)) & (pitches >= lowest) & (pitches <= highest)
    if not table.says_pitches and not (fits.all() and chord == NEVER):
        raise InputError(
            f"sample.key, lowest, highest, largest_chord: {vocabulary.name} events do not say pitches by "
            "themselves; leave them out"
        )
    fits = fits[: table.sounds.shape[1]]
    allowed = {one: ~of.unknown for one, of in vocabulary.tables.items()}
    allowed[name] &= ~table.sounds[:, ~fits].any(axis=1) & (table.sounds.sum(axis=1) <= chord)
    for one, seen_V in (seen or {}).items():
        allowed[one] &= seen_V
    if table.says_pitches and not table.sounds[allowed[name]].any():
        besides = ", or give --unseen" if seen else ""
        raise InputError(
            "sample.key, lowest, highest and largest_chord together leave nothing to write; widen one of them"
            + besides
        )
    if all(may_V.all() for may_V in allowed.values()):
        return None
    return jax.tree.map(jnp.asarray, vocabulary.rules.limits(allowed))


def constraint_carry(rules: Constraints, begin_B: Array) -> ConstraintCarry:
    """Nothing was written yet; `begin_B` ticks have gone by since a bar line."""
    rows = len(begin_B)
    count_B, hash_B = jnp.zeros(rows, jnp.int32), jnp.zeros(rows, jnp.uint32)
    # Before a bar line that never comes, an upbeat would end at one all the same.
    ticks_B = jnp.where(rules.bar < NEVER, begin_B % rules.bar, 0)
    return ConstraintCarry(ticks_B, count_B, hash_B, jnp.zeros(rows, bool), hash_B, count_B)


def follow(
    vocabulary: Vocabulary, rules: Constraints, carry: ConstraintCarry, events: Events, mask_B: Array
) -> ConstraintCarry:
    """The carry after an event (ids (B,) by stream); where the mask hides it, as it was."""
    tables = vocabulary.tables
    pitch_B, ticks_B = events[pitch_stream(tables)], ticks_of(tables, events)
    closes_B = closes_of(tables, events)
    slice_B = mix(carry.slice_B ^ rules.symbol_P[pitch_B].astype(jnp.uint32))
    struck_B = carry.struck_B | rules.struck_P[pitch_B]
    # What is held on through a whole slice is one sound with the slice before: no repeat, and no end of them.
    again_B = jnp.where(slice_B == carry.before_B, carry.repeats_B + struck_B, 0)
    after = ConstraintCarry(
        (carry.ticks_B + ticks_B) % rules.bar,
        jnp.where(closes_B, 0, carry.events_B + 1),
        jnp.where(closes_B, 0, slice_B),
        struck_B & ~closes_B,
        jnp.where(closes_B, slice_B, carry.before_B),
        jnp.where(closes_B, again_B, carry.repeats_B),
    )
    return ConstraintCarry(*(jnp.where(mask_B, new, old) for new, old in zip(after, carry, strict=True)))


def allowed(
    vocabulary: Vocabulary,
    rules: Constraints,
    carry: ConstraintCarry,
    stream: str,
    earlier: Events,
    rules_BV: Array,
) -> Array:
    """(B, V) bool: of the ids that the vocabulary's rules allow, those that the constraints allow too.

    A slice may be repeated once more where nothing else is left.
    """
    tables, within_BV = vocabulary.tables, rules_BV
    table = tables[stream]
    id_1V = jnp.arange(len(table.ticks))[None]
    if not earlier:  # <end> is an id of the first stream
        inside_B1 = (carry.ticks_B > 0)[:, None] & (rules.bar < NEVER)
        within_BV &= ~((id_1V == END) & inside_B1)
    if stream == pitch_stream(tables):
        # An event with which the slice would be as the one before, its last one or not, is not written.
        symbol_1P = rules.symbol_P[None].astype(jnp.uint32)
        same_BP = mix(carry.slice_B[:, None] ^ symbol_1P) == carry.before_B[:, None]
        same_BP &= carry.struck_B[:, None] | rules.struck_P[None]
        tired_B1 = (carry.repeats_B >= rules.repeats)[:, None]
        fresh_BP = within_BV & ~(same_BP & tired_B1)
        within_BV = jnp.where(fresh_BP.any(axis=-1, keepdims=True), fresh_BP, within_BV)
    if table.ticks.any():
        left_B1 = (rules.bar - carry.ticks_B)[:, None]
        fits_BV = by_id(table.ticks, id_1V) <= left_B1
        if table.closes.any():
            full_B1 = (carry.events_B + 1 >= rules.chord)[:, None]
            fits_BV &= ~(full_B1 & ~by_id(table.closes, id_1V))
        if earlier:  # <start> and <end> take no time and are in no slice
            fits_BV |= closes_of({name: tables[name] for name in earlier}, earlier)[:, None]
        # Where no duration that is wanted fits, the slice lasts to the bar line.
        longest_BV = by_id(table.ticks, id_1V) == jnp.minimum(left_B1, table.ticks.max())
        fits_BV &= within_BV
        lasts_1V = by_id(table.ticks, id_1V) > 0
        is_stuck_B1 = (within_BV & lasts_1V).any(axis=-1, keepdims=True)
        is_stuck_B1 &= ~(fits_BV & lasts_1V).any(axis=-1, keepdims=True)
        within_BV = fits_BV | (is_stuck_B1 & longest_BV)
    return within_BV
