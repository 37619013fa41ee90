"""MIDI files: bytes to a Piece, through symusic, or by music21's rules from the events themselves.

What symusic would misread without a word is refused (see `smf`) or counted: it drops the notes of keys that
no note-off lets go. How hard a note is struck is not read.
"""

import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from midigen_jax.errors import InputError, one_line
from midigen_jax.music import quantize
from midigen_jax.music.clock import TWELFTHS, Clock
from midigen_jax.music.notes import Notes, make_notes
from midigen_jax.music.piece import (
    DEFAULT_METER,
    DEFAULT_TEMPO,
    LONGEST_QUARTERS,
    Piece,
    Quantizer,
    meter_or_default,
    tempo_or,
)
from midigen_jax.music.quantize import Ticks
from midigen_jax.music.smf import DRUMS, END_OF_TRACK, ESCAPE, SYSEX, File, damaged, events, take_apart
from midigen_jax.music.tracks import Track, choose, main_program
from midigen_jax.music.voices import count_voices, named_voices
from midigen_jax.music.write import SIGNATURE

_FAR_SHARE = 0.15  # of onsets that the grid moves far: below, there is no need to look for a beat
_FEWEST_ONSETS, _MOST_ONSETS = 32, 512  # of the notes that are looked at
_DIVISIONS = (3, 4, 5, 6, 7, 8, 12, 16, 24)  # of a quarter
_KEEPS = 0.35  # recordings without a beat have 0.25 at the most, music with one 0.48 at the least
_IS_OURS = re.compile(rb"\xff\x06.{1,2}" + SIGNATURE.encode(), re.DOTALL)  # a marker that begins so
_A_PROGRAM = re.compile(rb"[\xc0-\xcf]")  # the status of a program change; or a byte like it


def read_midi(content: bytes, quantizer: Quantizer, wanted: str = "all", clock: Clock = TWELFTHS) -> Piece:
    """The piece in the bytes of a MIDI file: the `wanted` tracks (see `tracks.choose`), drums left out.

    A track is one of the file's; in a file of format 0, which has but one, each channel and program in it.
    Where all of them are named as voices they are numbered from the lowest voice up. Music whose times all
    lie on the grid is taken as it stands, whatever the quantizer; for `music21` this holds of files that a
    model wrote alone, so that others are read as music21 reads them.
    Raises InputError for what is damaged, endless, or without such tracks. There may be no notes.
    """
    if quantizer == "music21" and clock != TWELFTHS:
        raise ValueError("the quantizer music21 gives twelfths of a quarter")
    file = take_apart(content)
    for track in filter(_may_mislead, file.tracks):
        events(track)
    scores = [_parse(track, file.per_quarter) for track in file.tracks]
    rows, tracks = _rows(scores, file.form)
    tracks = _with_programs_of_others(file, scores, tracks)
    _require_bounded(rows, file.per_quarter)
    merged, moved = 0, 0
    is_exact = quantize.lies_on_grid(rows[:, :2], file.per_quarter, clock)
    by_music21 = quantizer == "music21" and not (is_exact and any(map(_IS_OURS.search, file.tracks)))
    if by_music21:
        names = [next((track.name for track in score.tracks), "") for score in scores]
        notes, program, stuck = _by_music21(file, names, wanted)
        has_beat = _has_beat(rows[:, 0], file.per_quarter)
    else:
        rows = choose(rows, tracks, wanted)
        snap = quantize.adaptive if quantizer == "adaptive" and not is_exact else quantize.uniform
        onset, release = snap(rows[:, 0], rows[:, 0] + rows[:, 1], file.per_quarter, clock)
        notes = make_notes(onset, release - onset, rows[:, 2], rows[:, 3])
        far = quantize.is_far(rows[:, 0], onset, file.per_quarter, clock)
        moved = int(far.sum())
        merged = _come_together(rows[:, 0], onset, file.per_quarter) if moved else 0
        has_beat = moved <= _FAR_SHARE * len(far) or _has_beat(rows[:, 0], file.per_quarter)
        program = main_program(rows, tracks)
        stuck = sum(_stuck(*pair, file.per_quarter) for pair in zip(file.tracks, scores, strict=True))
    voices, named = _voices(file, scores, tracks)
    if voices is not None:
        # By music21's rules a note's track is the file's, by ours its place among `tracks`.
        place = [track.number for track in tracks] if by_music21 else [*range(len(tracks))]
        voice_of = dict(zip(place, voices, strict=True))
        onset, duration, pitch, track = notes.T
        notes = make_notes(onset, duration, pitch, [voice_of.get(one, 0) for one in track.tolist()])
    first = int(rows[:, 0].min()) if len(rows) else 0
    tempo, meter, first_bar = _beginning(scores, first, file.per_quarter, clock)
    return Piece(
        notes,
        tempo,
        meter,
        program=program,
        first_bar=first_bar,
        remarks=tuple(file.remarks),
        merged=merged,
        moved=moved,
        has_beat=bool(has_beat),
        voiced=named,
        stuck=stuck,
        signature=_signature(scores, first),
    )


def read_markers(path: Path) -> list[str]:
    """The markers of a MIDI file, which are lines of text. Raises InputError for what is no MIDI file."""
    from symusic import Score

    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a MIDI file") from None
    take_apart(content)
    score: Any = Score.from_midi(content)
    return [marker.text for marker in score.markers]


def _require_bounded(rows: Ticks, per_quarter: int) -> None:
    # symusic counts in 32 bits: time that they cannot hold comes round as negative.
    if len(rows) and (rows.min() < 0 or (rows[:, 0] + rows[:, 1]).max() > LONGEST_QUARTERS * per_quarter):
        raise InputError(f"longer than {LONGEST_QUARTERS:,} quarters; mend its delta times")


def _may_mislead(track: bytes) -> bool:
    """Might symusic go wrong in this track and say nothing? Then `events` has to look for what is broken.

    It stops at the first end of a track, needs none, and loses its place after some system messages. Their
    bytes can also belong to a time or a text: then all is well.
    """
    ends_once = track.endswith(END_OF_TRACK) and END_OF_TRACK not in track[:-1]
    return not ends_once or SYSEX in track or ESCAPE in track


def _parse(track: bytes, per_quarter: int) -> Any:
    """A track as a symusic score of its own: in a whole file's, it does not say which notes are whose."""
    from symusic import Score

    header = struct.pack(">4sIHHH4sI", b"MThd", 6, 1, 1, per_quarter, b"MTrk", len(track))
    try:
        return Score.from_midi(header + track)
    except Exception as error:  # it raises whatever it stumbles over
        events(track)  # raises, mostly, and in plainer words
        raise damaged(one_line(error)) from None


# A status byte, and 128 times "this key, and at once".
_RELEASES = [
    bytes([0x80 | channel, 0, 0]) + b"".join(bytes([0, pitch, 0]) for pitch in range(1, 128))
    for channel in range(16)
]


def _stuck(track: bytes, score: Any, per_quarter: int) -> int:
    """Keys that are still down when the track ends: the notes that come when all are let go there."""
    channels = [channel for channel in range(16) if 0x90 | channel in track]
    if not channels:
        return 0
    releases = b"\x00".join(_RELEASES[channel] for channel in channels)
    let_go = track.removesuffix(END_OF_TRACK) + releases + b"\x00" + END_OF_TRACK
    return _count(_parse(let_go, per_quarter)) - _count(score)


def _count(score: Any) -> int:
    return sum(len(part.notes) for part in score.tracks if not part.is_drum)


def _rows(scores: Sequence[Any], form: int) -> tuple[Ticks, list[Track]]:
    """(N, 4) onset, length, pitch and index of the track, in raw ticks, and the tracks."""
    parts = [
        (number, part)
        for number, score in enumerate(scores)
        for part in score.tracks
        if not part.is_drum and len(part.notes)
    ]
    if not parts:
        return np.empty((0, 4), np.int64), []
    columns = [part.notes.numpy() for _, part in parts]
    index = np.repeat(np.arange(len(parts)), [len(part.notes) for _, part in parts])
    raw = [np.concatenate([column[name] for column in columns]) for name in ("time", "duration", "pitch")]
    tracks = [
        Track(part.name, part.program, number if form else index)
        for index, (number, part) in enumerate(parts)
    ]
    return np.array([*raw, index], np.int64).T, tracks


def _voices(file: File, scores: Sequence[Any], tracks: Sequence[Track]) -> tuple[list[int] | None, int]:
    """The voice of each track with notes, from the lowest up, of how many; None unless all are named so."""
    names = [track.name for track in tracks]
    if named_voices(names) is None or len({track.number for track in tracks}) < len(tracks):
        return None, 0
    silent = [track for track, score in zip(file.tracks, scores, strict=True) if not score.tracks]
    others = [_name(track, file.per_quarter) for track in silent]
    return named_voices(names, others), count_voices([*names, *others])


# Middle C, which is struck at the end of a track, and let go a tick later.
_A_NOTE = b"\x90\x3c\x40\x01\x80\x3c\x00\x00"


def _name(track: bytes, per_quarter: int) -> str:
    """The name of a track without notes. symusic forgets such a track, so it is given one."""
    score = _parse(track.removesuffix(END_OF_TRACK) + _A_NOTE + END_OF_TRACK, per_quarter)
    return next((str(part.name) for part in score.tracks), "")


def _with_programs_of_others(file: File, scores: Sequence[Any], tracks: list[Track]) -> list[Track]:
    """Programs hold for a channel, whatever track sets them: some programs write them all into the first."""
    told = [_A_PROGRAM.search(track) is not None for track in file.tracks]
    sounds = [any(len(part.notes) for part in score.tracks) for score in scores]
    if not any(has and not says for has, says in zip(sounds, told, strict=True)):
        return tracks  # every track sets its own
    silent = [
        events(track).programs
        for track, has, says in zip(file.tracks, sounds, told, strict=True)
        if says and not has
    ]
    given: dict[int, list[tuple[int, int]]] = {}
    for programs in silent:
        for channel, changes in programs.items():
            given.setdefault(channel, []).extend(changes)
    if not given:
        return tracks
    players: list[int | None] = []  # the program of each; None where its own track sets it
    for track in file.tracks:
        found = events(track)
        time, _, channel, velocity, program = found.voiced.T
        struck = (velocity > 0) & (channel != DRUMS)
        # They sort as symusic sorts its tracks.
        numbers, owner = np.unique(channel[struck] << 7 | program[struck], return_inverse=True)
        for place, number in enumerate((numbers >> 7).tolist()):
            elsewhere = number not in found.programs and number in given
            players.append(_of_most(given[number], time[struck][owner == place]) if elsewhere else None)
    if len(players) != len(tracks):
        return tracks  # symusic has lost all notes of a player, whose keys are never let go
    return [
        one if program is None else one._replace(program=program)
        for program, one in zip(players, tracks, strict=True)
    ]


def _of_most(changes: list[tuple[int, int]], onsets: Ticks) -> int:
    """Of programs that are set at some times, the one of most onsets; before the first it is the piano."""
    times, programs = np.array([(-1, 0), *sorted(changes, key=lambda change: change[0])]).T
    heard = programs[np.searchsorted(times, onsets, side="right") - 1]
    return int(np.bincount(heard).argmax())


def _has_beat(raw: Ticks, per_quarter: int) -> bool:
    """Do onsets keep to any division of the quarter, or was this played without regard to the file's beats?

    The mean of their phases within each division (Rayleigh's test): 1 if all lie on it, near 0 if anywhere.
    """
    if len(raw) < _FEWEST_ONSETS:
        return True
    onsets = np.sort(raw[:: -(-len(raw) // _MOST_ONSETS)])
    onsets = onsets[np.append(True, onsets[1:] != onsets[:-1])]
    if len(onsets) < _FEWEST_ONSETS:
        return True
    phases = np.exp(onsets[:, None] * (2j * np.pi / per_quarter * np.array(_DIVISIONS)))
    return bool(np.abs(phases.mean(axis=0)).max() > _KEEPS)


def _come_together(raw: Ticks, snapped: Ticks, per_quarter: int) -> int:
    """How many onsets lie on another's, which was a sixteenth of a quarter away before, or more.

    What is nearer is a chord that was played, and no fault of the grid.
    """
    # One sort of whole numbers, neither of which has more than 31 bits: mostly they are in order already.
    both = np.sort(raw << 31 | snapped, kind="stable")
    together = np.flatnonzero(np.diff(both & 0x7FFFFFFF) == 0)
    apart = both[together + 1] - both[together] >> 31
    return int(np.count_nonzero(apart * 16 >= per_quarter))


def _beginning(
    scores: Sequence[Any], first: int, per_quarter: int, clock: Clock
) -> tuple[float, tuple[int, int], int]:
    """Tempo and meter at the first note, in raw ticks, or MIDI's defaults; and where the first bar line lies.

    A first bar in a shorter meter than what follows it at once is an upbeat to that.
    """
    tempo = tempo_or(DEFAULT_TEMPO, _last_tempo(scores, first))
    signatures = sorted(
        {
            (mark.time, int(mark.numerator), int(mark.denominator))
            for score in scores
            for mark in score.time_signatures
        }
    )
    held = [one for one in signatures if one[0] <= first]
    if not held:
        return tempo, DEFAULT_METER, 0
    begin, *meter = held[-1]
    now = meter_or_default((meter[0], meter[1]))
    later = next(((time, (above, below)) for time, above, below in signatures if time > first), None)
    if begin == 0 and later is not None and (begin, *meter) == signatures[0]:
        time, after = later[0], meter_or_default(later[1])
        bar = clock.bar(now)
        if time * clock.quarter == bar * per_quarter and bar < clock.bar(after):
            return tempo, after, bar
    return tempo, now, clock.ticks(begin / per_quarter)


def _signature(scores: Sequence[Any], first: int) -> int | None:
    """The sharps of the first key signature. That of C is none: programs write it without being asked."""
    every = (mark for score in scores for mark in score.key_signatures)
    return min(((one.time, int(one.key)) for one in every if one.time <= first), default=(0, 0))[1] or None


def _last_tempo(scores: Sequence[Any], first: int) -> float | None:
    """The tempo at a time in raw ticks; None before the first one. There may be one for every beat."""
    found, at = None, -1
    for score in scores:
        for mark in score.tempos:
            if mark.time > first:
                break
            if mark.time >= at:
                found, at = mark.qpm, mark.time
    return found


def _by_music21(file: File, names: Sequence[str], wanted: str) -> tuple[Notes, int, int]:
    """The notes as music21 reads them, the program of the most, and how many keys are stuck."""
    read = [events(track) for track in file.tracks]
    if not read:
        return make_notes([], [], [], []), 0, 0
    voices, program = _wanted_voices([track.voiced for track in read], names, file.form, wanted)
    columns = []
    for number, (voiced, track) in enumerate(zip(voices, read, strict=True)):
        raw = quantize.RawTrack(quantize.pair_music21(voiced[:, :4]), track.marks)
        onset, duration, pitch = quantize.music21(raw, file.per_quarter)
        columns.append((onset, duration, pitch, np.full_like(onset, number)))
    notes = make_notes(*(np.concatenate(column) for column in zip(*columns, strict=True)))
    return notes, program, sum(_keys_down(track.voiced) for track in read)


def _wanted_voices(
    voices: Sequence[Ticks], names: Sequence[str], form: int, wanted: str
) -> tuple[Sequence[Ticks], int]:
    """Each track's note-ons and note-offs without the note-ons that nobody wants, and the program of most."""
    voiced = np.concatenate(voices)
    sizes = [len(one) for one in voices]
    time, pitch, channel, velocity, program = voiced.T
    # One number for each track, channel and program: they sort as symusic sorts its tracks.
    player = np.repeat(np.arange(len(voices)), sizes) << 11 | channel << 7 | program
    struck = (velocity > 0) & (channel != DRUMS)
    players, index = np.unique(player[struck], return_inverse=True)
    tracks = [
        Track(names[one >> 11], one & 127, one >> 11 if form else index)
        for index, one in enumerate(players.tolist())
    ]
    rows: Ticks = np.array([time[struck], 0 * index, pitch[struck], index], np.int64).T
    rows = choose(rows, tracks, wanted)
    if wanted == "all":
        return voices, main_program(rows, tracks)
    kept = (velocity == 0) | np.isin(player, players[np.unique(rows[:, 3])])
    cuts = np.cumsum(sizes)[:-1]
    parts = zip(voices, np.split(kept, cuts), strict=True)
    return [one[mask] for one, mask in parts], main_program(rows, tracks)


def _keys_down(voiced: Ticks) -> int:
    """Keys of a track, drums apart, whose last event is a note-on."""
    _, pitch, channel, velocity, _ = voiced[::-1].T
    _, last = np.unique(channel << 7 | pitch, return_index=True)
    return int(np.count_nonzero((velocity[last] > 0) & (channel[last] != DRUMS)))
