"""Keys: finding one from notes, naming one, and moving notes from one to another.

The profiles are the published ones: Krumhansl and Kessler (1982), in Krumhansl, Cognitive Foundations of
Musical Pitch (1990), p. 30; and those after Aarden (2003) from the Essen folk songs. Their numbers are
listed at https://extras.humdrum.org/man/keycor/, which is where music21 has them from too.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from midigen_jax.errors import InputError
from midigen_jax.music.notes import Notes, make_notes

Mode = Literal["major", "minor"]
Profile = Literal["krumhansl", "aarden"]

FIFTHS = "FCGDAEB"
"""the letters on the line of fifths, where C is 0; those of sharps follow, those of flats come before"""

_LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_ALTERS = {"": 0, "#": 1, "b": -1}
_NAMES: dict[str, list[str]] = {
    "major": ["C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"],
    "minor": ["C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B"],
}
# fmt: off
_PROFILES: dict[str, list[list[float]]] = {
    "krumhansl": [
        [6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88],
        [6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17],
    ],
    "aarden": [
        [17.7661, 0.145624, 14.9265, 0.160186, 19.8049, 11.3587,
         0.291248, 22.062, 0.145624, 8.15494, 0.232998, 4.95122],
        [18.2648, 0.737619, 14.0499, 16.8599, 0.702494, 14.4362,
         0.702494, 18.6161, 4.56621, 1.93186, 7.37619, 1.75623],
    ],
}
# fmt: on


@dataclass(frozen=True)
class Key:
    """A tonic (pitch class, 0 is C) and a mode."""

    tonic: int
    mode: Mode

    def __str__(self) -> str:
        return f"{_NAMES[self.mode][self.tonic]} {self.mode}"

    @property
    def home(self) -> int:
        """The tonic of the major key with the same signature: C for C major and A minor."""
        return self.tonic if self.mode == "major" else (self.tonic + 3) % 12

    @property
    def fifths(self) -> int:
        """Sharps of the signature, -6 to 6; flats are negative."""
        letter, accidental = _NAMES[self.mode][self.tonic][0], _NAMES[self.mode][self.tonic][1:]
        return FIFTHS.index(letter) - 1 + 7 * _ALTERS[accidental] - (3 if self.mode == "minor" else 0)


@dataclass(frozen=True)
class Target:
    """A key that the user named: with a mode that one alone, without one both keys of its signature."""

    key: Key
    both_modes: bool

    def __str__(self) -> str:
        relative = Key((self.key.tonic + 9) % 12, "minor")
        return f"{self.key} or {relative}" if self.both_modes else str(self.key)


def find_key(notes: Notes, profile: Profile = "krumhansl") -> Key:
    """The key whose profile correlates best with the time that each pitch class sounds.

    Krumhansl-Schmuckler key finding, as in music21 (an exact tie goes to the higher tonic, then to minor).
    Music without a single note, or with all pitch classes alike, has no better key than any other.
    """
    histogram = np.bincount(notes[:, 2] % 12, weights=notes[:, 1], minlength=12)
    histogram = histogram - histogram.mean()
    best = (-np.inf, 0, "major")
    for mode, weights in zip(("major", "minor"), _PROFILES[profile], strict=True):
        rotated, norm = _rotated(tuple(weights))
        # The histogram's norm is the same for all keys, so it need not be divided by.
        scores = rotated @ histogram / norm
        best = max(best, *((score, tonic, mode) for tonic, score in enumerate(scores.tolist())))
    return Key(best[1], "minor" if best[2] == "minor" else "major")


def profiles(profile: Profile = "krumhansl") -> tuple[list[Key], NDArray[np.float64]]:
    """All keys, and (24, 12) the profile of each, around its mean and of length 1."""
    found, rows = [], []
    modes: tuple[Mode, Mode] = ("major", "minor")
    for mode, weights in zip(modes, _PROFILES[profile], strict=True):
        rotated, norm = _rotated(tuple(weights))
        found += [Key(tonic, mode) for tonic in range(12)]
        rows.append(rotated / norm)
    return found, np.concatenate(rows)


@cache
def _rotated(weights: tuple[float, ...]) -> tuple[NDArray[np.float64], float]:
    """(12, 12) the weights around their mean, rotated to each tonic, and the norm of any of them."""
    centred = np.array(weights) - np.mean(weights)
    return np.stack([np.roll(centred, tonic) for tonic in range(12)]), float(np.sqrt(centred @ centred))


def parse_key(text: str) -> Target:
    """`C`, `F#`, `Bb`: that major key or its relative minor; `C major`, `A minor`: that one alone.

    Raises InputError for any other text.
    """
    match = re.fullmatch(r"([A-G])([#b]?)(?:\s+(major|minor))?", text.strip())
    if match is None:
        raise InputError(f"key {text!r}: give a tonic such as C, F# or Bb, or a key such as 'A minor'")
    letter, accidental, mode = match.groups()
    tonic = (_LETTERS[letter] + _ALTERS[accidental]) % 12
    return Target(Key(tonic, "minor" if mode == "minor" else "major"), both_modes=mode is None)


def key_of(notes: Notes, asked: Target | None = None) -> Key:
    """The key that notes are written in: what was `asked` for, or, of that or without it, what is found."""
    found = find_key(notes)
    return found if asked is None or matches(found, asked) else asked.key


def with_signature(fifths: int) -> Target:
    """The two keys of a signature of so many sharps, or flats, less than 0."""
    return Target(Key(7 * fifths % 12, "major"), both_modes=True)


def spell(pitch: int, key: Key) -> tuple[str, int, int]:
    """How a MIDI pitch is written in a key: letter, semitones above it (-2 to 2), octave (60 is in 4).

    Of its names it has the one that is nearest to the key on the line of fifths: from Eb to G# in C major.
    Minor keys reach a fifth higher, to the sharp that leads to the dominant.
    """
    lowest = key.fifths - (2 if key.mode == "minor" else 3)
    place = lowest + (7 * pitch - lowest) % 12
    letter, alter = FIFTHS[(place + 1) % 7], (place + 1) // 7
    return letter, alter, (pitch - alter - _LETTERS[letter]) // 12 - 1


def shift_to(key: Key, target: Target) -> int:
    """Semitones, -6..+5, that bring music in `key` to the target's signature: major to major, minor to minor.

    `A minor` as a target is the same place as `C`.
    """
    return (target.key.home - key.home + 6) % 12 - 6


def matches(key: Key, target: Target) -> bool:
    """Is `key` what the target names?"""
    return key.home == target.key.home if target.both_modes else key == target.key


def transpose(notes: Notes, shift: int) -> Notes:
    """The notes moved by `shift` semitones, inside 0..127.

    Where that would leave the range, the whole piece moves by the fewest octaves that bring it back;
    where it is too wide for any, only the notes outside are folded in by octaves.
    """
    if len(notes) == 0:
        return notes
    onset, duration, pitch, track = notes.T
    moved = pitch + shift
    up = -(min(int(moved.min()), 0) // 12)
    down = -((127 - max(int(moved.max()), 127)) // 12)
    if up and not down and moved.max() + 12 * up <= 127:
        moved = moved + 12 * up
    elif down and not up and moved.min() - 12 * down >= 0:
        moved = moved - 12 * down
    moved = np.where(moved < 0, moved % 12, moved)
    moved = np.where(moved > 127, 127 - (127 - moved) % 12, moved)
    return make_notes(onset, duration, moved, track)
