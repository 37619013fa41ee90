"""Voices of music that is there, as a model of voices reads them, and as particles are held to them.

In: notes of each voice, from the lowest up, in the model's key, from tick 0. Out: tokens of what stands
before, and `Given` of what stands beside and after.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from midigen_jax.errors import InputError
from midigen_jax.music.notes import Notes, make_notes
from midigen_jax.music.voices import SILENT, by_voice, voice_grid, voice_names
from midigen_jax.sample.particles import FREE, NEVER, Given
from midigen_jax.vocab import Tokens, Vocabulary, start_event
from midigen_jax.vocab.base import END, START, IdTable
from midigen_jax.vocab.traced import pitch_stream

TICKS, _STOPS = 768, 64  # shapes are filled up to multiples: fewer are compiled


def split_voices(notes: Notes, count: int, named: bool = False, besides: str = "") -> list[Notes]:
    """The notes of each voice, from the lowest up, as `by_voice` has them; missing ones are silent.

    Where their source has not named them, one alone is the highest, and of several the lowest is the lowest.
    Raises InputError, whose remedy ends with `besides`, for music of more voices, or of none.
    """
    try:
        voices = by_voice(notes, count, named)
    except InputError:
        raise InputError(
            f"the music is not of {count} voices or fewer; give a file with a track for each voice, and one "
            f"note at a time in each{besides}"
        ) from None
    tracks = len(np.unique(notes[:, 3]))
    if named or tracks == count:
        return voices
    here, absent = voices[:tracks], voices[tracks:]
    return [*here[: tracks > 1], *absent, *here[tracks > 1 :]]


def tokens_of_voices(vocabulary: Vocabulary, voices: Sequence[Notes], end: int) -> Tokens:
    """(E, S) <start>, and what these voices do up to a tick, each in its own place."""
    length = max([end, *((notes[:, 0] + notes[:, 1]).max(initial=0) for notes in voices)])
    columns = [_ids(vocabulary, notes, int(length)) for notes in voices]
    cuts = sorted({0, end, *(tick for _, ends in columns for tick in ends if tick < end)})
    tables, rows = vocabulary.tables, [start_event(vocabulary)]
    names = [*tables]
    pitch, timed = (names.index(one) for one in (pitch_stream(tables), _timed(tables)))
    ticks = tables[names[timed]].ticks
    for first, last in pairwise(cuts):
        for begin in range(first, last, int(ticks.max())):
            event = np.zeros((len(voices), len(names)), np.int32)
            event[[*vocabulary.voice_places], pitch] = [ids[begin] for ids, _ in columns]
            event[-1, timed] = np.flatnonzero(ticks == min(last - begin, ticks.max()))[0]
            rows.append(event)
    return np.concatenate(rows)


def _timed(tables: Mapping[str, IdTable]) -> str:
    """The stream that says how long a slice lasts."""
    return next(name for name, table in tables.items() if table.ticks.any())


def _ids(vocabulary: Vocabulary, notes: Notes, length: int) -> tuple[NDArray[np.int32], list[int]]:
    """(T,) the id of a voice in a slice that begins at each tick; and the ticks at which it changes."""
    table = vocabulary.tables[pitch_stream(vocabulary.tables)]
    cuts, pitch_S1, struck_S1 = voice_grid(notes, 1, length)
    id_T = np.zeros(length, np.int32)
    spans = zip(cuts[:-1].tolist(), cuts[1:].tolist(), pitch_S1[:, 0], struck_S1[:, 0], strict=True)
    for first, end, pitch, is_struck in spans:
        id_T[first:end] = _id_of(table, int(pitch), True)
        if is_struck:
            id_T[first] = _id_of(table, int(pitch), False)
    return id_T, cuts[1:].tolist()


def _after(notes: Notes, tick: int) -> Notes:
    """What sounds after a tick; what has begun before is struck there."""
    ends = notes[:, 0] + notes[:, 1]
    late = ends > tick
    onset = np.maximum(notes[late, 0], tick)
    return make_notes(onset, ends[late] - onset, notes[late, 2], notes[late, 3])


def given_voices(
    vocabulary: Vocabulary, voices: Sequence[Notes], free: Collection[int], begin: int, stop: int, length: int
) -> Given:
    """What particles are held to from tick `begin` to `length`: the notes of voices, from the lowest up.

    Where a voice is silent it rests. Those that are `free` do as they like up to `stop`; a note of theirs
    that has begun before is struck there.
    """
    id_TV = np.full((length, vocabulary.slice_events), FREE, np.int32)
    stops = {stop, length}
    for voice, notes in enumerate(voices):
        since = stop if voice in free else begin
        id_T, ends = _ids(vocabulary, _after(notes, stop) if voice in free else notes, length)
        id_TV[since:, vocabulary.voice_places[voice]] = id_T[since:]
        stops |= {end for end in ends if end > since}
    return held_to(id_TV[begin:], sorted(one - begin for one in stops if one > begin), length - begin)


def held_to(id_TV: NDArray[np.int32], stops: Sequence[int], end: int) -> Given:
    """As arrays whose shapes few programs share."""
    times = -(-len(id_TV) // TICKS) * TICKS
    count = -(-(len(stops) + 1) // _STOPS) * _STOPS
    return Given(
        jnp.asarray(np.pad(id_TV, ((0, times - len(id_TV)), (0, 0)), constant_values=FREE)),
        jnp.asarray(np.pad(np.array(stops, np.int32), (0, count - len(stops)), constant_values=NEVER)),
        jnp.int32(end),
    )


def _id_of(table: IdTable, pitch: int, held: bool) -> int:
    """The id of a pitch that sounds on or is struck; of silence, that of a rest."""
    midi = table.midi
    assert midi is not None
    if pitch == SILENT:
        silent = ~table.sounds.any(axis=1) & ~table.unknown
        silent[[START, END]] = False
        return int(np.flatnonzero(silent)[0])
    return int(np.flatnonzero((midi == pitch) & (table.held == held))[0])


def voices_of(vocabulary: Vocabulary) -> int:
    """How many voices there are. Raises InputError for a vocabulary without any."""
    voices = len(vocabulary.voice_places)
    if voices < 2:
        raise InputError(
            f"the model writes {vocabulary.name} events, which have no voices; give pretrained:harmoniser, "
            "or prepare a corpus with --voices 4 and train on it"
        )
    return voices


def words_of(vocabulary: Vocabulary) -> list[str]:
    """What commands call the voices, from the highest: soprano … bass, or numbers; none without voices."""
    names = voice_names(len(vocabulary.voice_places))
    return [name.casefold().removeprefix("voice ") for name in reversed(names)]


def place_of(vocabulary: Vocabulary, voice: str) -> int:
    """The number of a voice, from the lowest up."""
    voices, words = voices_of(vocabulary), words_of(vocabulary)
    if voice.isdecimal() and 1 <= int(voice) <= voices:
        return voices - int(voice)
    if voice.casefold() in words:
        return voices - 1 - words.index(voice.casefold())
    named = "" if words[0].isdecimal() else f"{', '.join(words)}, or "
    raise InputError(f"voice {voice}: give {named}1 (the highest) to {voices}")
