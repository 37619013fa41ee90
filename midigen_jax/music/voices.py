"""Voices: music whose tracks have one note at a time, as a grid of who sounds what, when."""

import numpy as np
from numpy.typing import NDArray

from midigen_jax.errors import InputError
from midigen_jax.music.notes import Notes

SILENT = -1


def voice_grid(
    notes: Notes, voices: int, length: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """(S + 1,) times at which a note begins or ends; (S, V) the pitch of each voice, and "it begins here".

    Voices are the tracks, by their mean pitch; -1 is a rest. Raises InputError for more tracks than voices,
    and for a track with two notes at once.
    """
    onset, duration, pitch, track = notes.astype(np.int64).T
    tracks, rank = np.unique(track, return_inverse=True)
    if len(tracks) > voices:
        raise InputError(f"{len(tracks)} tracks are more than {voices} voices; choose with --voices")
    means = np.bincount(rank, pitch) / np.bincount(rank)
    ends = [] if length is None else [0, length]
    cuts = np.unique(np.concatenate([onset, onset + duration, np.array(ends, np.int64)]))
    pitch_SV = np.full((max(len(cuts) - 1, 0), voices), SILENT, np.int64)
    struck_SV = np.zeros(pitch_SV.shape, bool)
    for voice, number in enumerate(np.argsort(means, kind="stable")):
        own = rank == number
        begin, end = onset[own], (onset + duration)[own]  # notes are sorted by onset
        if (begin[1:] < end[:-1]).any():
            raise InputError(
                "a track with two notes at once is no voice; "
                "give a track for each voice, or leave --voices out"
            )
        first, last = np.searchsorted(cuts, begin), np.searchsorted(cuts, end)
        spans = last - first
        place = np.arange(spans.sum()) + np.repeat(first - (np.cumsum(spans) - spans), spans)
        pitch_SV[place, voice] = np.repeat(pitch[own], spans)
        struck_SV[first, voice] = True
    return cuts, pitch_SV, struck_SV
