"""Voices: music whose tracks have one note at a time, as a grid of who sounds what, when."""

import numpy as np
from numpy.typing import NDArray

from midigen_jax.errors import InputError
from midigen_jax.music.notes import Notes

SILENT = -1


def by_voice(notes: Notes, voices: int) -> list[Notes]:
    """The notes of each voice, from the lowest up: the tracks, by their mean pitch; missing ones rest.

    Raises InputError for more tracks than voices, and for a track with two notes at once.
    """
    tracks, rank = np.unique(notes[:, 3], return_inverse=True)
    if len(tracks) > voices:
        raise InputError(f"{len(tracks)} tracks are more than {voices} voices; choose with --voices")
    means = np.bincount(rank, notes[:, 2]) / np.bincount(rank)
    found = [notes[rank == number] for number in np.argsort(means, kind="stable")]
    for own in found:  # which is sorted by onset
        if (own[1:, 0] < (own[:, 0] + own[:, 1])[:-1]).any():
            raise InputError(
                "a track with two notes at once is no voice; "
                "give a track for each voice, or leave --voices out"
            )
    return found + [notes[:0]] * (voices - len(found))


def voice_grid(
    notes: Notes, voices: int, length: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """(S + 1,) times at which a note begins or ends; (S, V) the pitch of each voice, and "it begins here".

    Voices are the tracks, by their mean pitch; -1 is a rest. Raises InputError for more tracks than voices,
    and for a track with two notes at once.
    """
    onset, duration, *_ = notes.astype(np.int64).T
    of_voice = by_voice(notes, voices)
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
