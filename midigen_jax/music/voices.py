"""Voices: music whose tracks have one note at a time, as a grid of who sounds what, when; and their names.

Track v is voice v, from the lowest up, in music that a vocabulary of voices writes. Files name the voices,
the highest first, as scores do. Where a source names none, voices are its tracks by their mean pitch.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from midigen_jax.errors import InputError
from midigen_jax.music.notes import Notes

SILENT = -1

_FOUR = ("bass", "tenor", "alto", "soprano")
_NUMBERED = re.compile(r"voice ([1-9]\d{0,2})")


def voice_names(voices: int) -> tuple[str, ...]:
    """What so many voices are called, from the lowest up; one alone, or none, has no name."""
    if voices == len(_FOUR):
        return tuple(name.capitalize() for name in _FOUR)
    return tuple(f"Voice {number}" for number in range(voices, 0, -1)) if voices > 1 else ()


def named_voices(sounding: Sequence[str], silent: Sequence[str] = ()) -> list[int] | None:
    """Which voice each of the `sounding` tracks is, from the lowest up, by names as in `voice_names`.

    `silent` are the names of the tracks without notes, which are counted: the lowest voice may be one. None
    where a name is no voice's, or two are the same.
    """
    names = [name.strip().casefold() for name in sounding]
    if not names or len(set(names)) < len(names):
        return None
    if set(names) <= set(_FOUR):
        return [_FOUR.index(name) for name in names]
    found = [_NUMBERED.fullmatch(name.strip().casefold()) for name in (*sounding, *silent)]
    numbers = [int(match[1]) if match else 0 for match in found]
    if 0 in numbers[: len(names)]:
        return None
    return [max(numbers) - number for number in numbers[: len(names)]]


def count_voices(names: Sequence[str]) -> int:
    """Of how many voices tracks are that have such names, as in `voice_names`."""
    plain = [name.strip().casefold() for name in names]
    if set(plain) & set(_FOUR):
        return len(_FOUR)
    return max(int(match[1]) for name in plain if (match := _NUMBERED.fullmatch(name)))


def by_voice(notes: Notes, voices: int, named: bool = False) -> list[Notes]:
    """The notes of each voice, from the lowest up: the tracks, by their mean pitch; missing ones rest.

    Where the source has `named` them, track v is voice v, however they cross. Raises InputError for more
    tracks than voices, and for a track with two notes at once.
    """
    tracks, rank = np.unique(notes[:, 3], return_inverse=True)
    if len(tracks) > voices:
        raise InputError(f"{len(tracks)} tracks are more than {voices} voices; choose with --tracks")
    if named and tracks.max(initial=0) < voices:
        found = [notes[notes[:, 3] == voice] for voice in range(voices)]
    else:
        means = np.bincount(rank, notes[:, 2]) / np.bincount(rank)
        order = np.arange(len(tracks)) if named else np.argsort(means, kind="stable")
        found = [notes[rank == number] for number in order]
    for own in found:  # which is sorted by onset
        if (own[1:, 0] < (own[:, 0] + own[:, 1])[:-1]).any():
            raise InputError(
                "a track with two notes at once is no voice; give a track for each voice, choose one with "
                "--tracks, or leave out --voices (and --like)"
            )
    return found + [notes[:0]] * (voices - len(found))


def voice_grid(
    notes: Notes, voices: int, length: int | None = None, named: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """(S + 1,) times at which a note begins or ends; (S, V) the pitch of each voice, and "it begins here".

    Voices are those of `by_voice`; -1 is a rest. Raises InputError as it does.
    """
    onset, duration, *_ = notes.astype(np.int64).T
    of_voice = by_voice(notes, voices, named)
    ends = [] if length is None else [0, length]
    cuts = np.unique(np.concatenate([onset, onset + duration, np.array(ends, np.int64)]))
    pitch_SV = np.full((max(len(cuts) - 1, 0), voices), SILENT, np.int64)
    struck_SV = np.zeros(pitch_SV.shape, bool)
    for voice, own in enumerate(of_voice):
        begin, end, pitch = own[:, 0], own[:, 0] + own[:, 1], own[:, 2]
        first, last = np.searchsorted(cuts, begin), np.searchsorted(cuts, end)
        spans = last - first
        place = np.arange(spans.sum()) + np.repeat(first - (np.cumsum(spans) - spans), spans)
        pitch_SV[place, voice] = np.repeat(pitch, spans)
        struck_SV[first, voice] = True
    return cuts, pitch_SV, struck_SV


def tracks_of(notes: Notes, names: Sequence[str] = ()) -> list[tuple[str, Notes]]:
    """Name and notes of each track of a file, in their order: by number, and without names.

    Where tracks are voices, whose `names` are given from the lowest up: from the highest down, all of them.
    Raises ValueError for a track without a name, where others have one.
    """
    if names:
        if notes[:, 3].max(initial=0) >= len(names):
            raise ValueError(f"track {notes[:, 3].max()} has no name")
        return [(name, notes[notes[:, 3] == voice]) for voice, name in enumerate(names)][::-1]
    return [("", notes[notes[:, 3] == track]) for track in np.unique(notes[:, 3])]
