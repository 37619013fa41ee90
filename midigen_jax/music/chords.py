"""Chord symbols, as lead sheets have them: text to pitch classes, through music21."""

import re
from functools import cache

from midigen_jax.errors import InputError


def parse_chords(text: str) -> list[list[frozenset[int]]]:
    """The chords of each bar as pitch classes: `C Am,D7 G` is of three bars, and the second has two chords.

    Symbols are those of `music21.harmony` (C, Am, F#m7b5, Gsus4, G7/B …), but flats are `b`, and a `-` behind
    a root is minor: Bb-7. Raises InputError for any other text.
    """
    bars = [[_pitch_classes(symbol) for symbol in bar.split(",")] for bar in text.split()]
    if not bars:
        raise InputError("chords: no chord there; give one a bar, as in 'C Am F G7'")
    return bars


@cache
def _pitch_classes(symbol: str) -> frozenset[int]:
    from music21 import exceptions21, harmony

    try:
        minor = re.sub(r"^([A-G][#b]?)-", r"\1m", symbol)
        chord = harmony.ChordSymbol(re.sub(r"(^|/)([A-G])b", r"\1\2-", minor))
        found = frozenset(pitch.pitchClass for pitch in chord.pitches)
    except (ValueError, LookupError, TypeError, AttributeError, exceptions21.Music21Exception):
        found = frozenset()
    if not found:
        raise InputError(f"chord {symbol!r}: is none; give symbols such as C, Am, F#m7 or G7/B")
    return found
