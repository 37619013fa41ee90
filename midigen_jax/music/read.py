"""Reading: a source to a piece, through symusic for MIDI and music21, in a sandbox, for scores.

What is no music, or lies about itself, raises InputError in one line, so that one bad file among thousands
can be listed and left out. The parsers are imported when they are needed: they are slow to load.
"""

import io
import struct
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from midigen_jax.errors import InputError
from midigen_jax.music import frames, quantize, sandbox, scores
from midigen_jax.music.notes import TICKS_PER_QUARTER, Notes, make_notes
from midigen_jax.music.sources import Source, find_sources

__all__ = ["Piece", "Quantizer", "Source", "find_sources", "read_piece"]

Quantizer = Literal["adaptive", "music21", "uniform"]

_DEFAULT_TEMPO = 120.0
# Most scores say no number, and this is walking pace. MIDI's own default is for MIDI.
_SCORE_TEMPO = 90.0
_DEFAULT_METER = (4, 4)
# Thirteen hours at 120: a longer "piece" is a broken delta time, and would become endless rests.
_LONGEST_QUARTERS = 100_000


@dataclass(frozen=True)
class Piece:
    """What a file holds: its notes, and how fast and in what meter it begins."""

    notes: Notes
    tempo: float = _DEFAULT_TEMPO
    """quarters a minute"""
    meter: tuple[int, int] = _DEFAULT_METER
    length: int | None = None
    """ticks, where rests at the ends count (frame files): notes are anywhere in 0..length"""
    frame: int | None = None
    """ticks in a frame (frame files)"""


def read_piece(source: Source, quantizer: Quantizer = "adaptive", frame_ticks: int = 0) -> Piece:
    """The piece at `source`, drums left out. Only MIDI is quantised: scores are written on a grid.

    frame_ticks: in a frame of a frame file; 0 is what `frames.known_ticks` knows of the file's name.
    Raises InputError, which names the source, for what cannot be read or holds no notes.
    """
    content = source.content()
    try:
        if source.suffix in frames.SUFFIXES:
            piece = _read_frames(content, frame_ticks or frames.known_ticks(source.path.name))
        elif source.suffix in scores.SUFFIXES:
            piece = _read_score(source.suffix, content)
        else:
            piece = _read_midi_file(content, quantizer)
    except InputError as error:
        raise InputError(f"{source.name}: {error}") from None
    if len(piece.notes) == 0:
        raise InputError(f"{source.name}: no notes in it besides drums; leave it out")
    return piece


def _read_frames(content: bytes, ticks: int) -> Piece:
    notes, length = frames.read_frames(content, ticks)
    return Piece(notes, length=length, frame=ticks)


def _read_score(suffix: str, content: bytes) -> Piece:
    score = sandbox.read_score(suffix, content)
    if len(score.notes) and score.notes[:, :2].sum(axis=1).max() > _LONGEST_QUARTERS * TICKS_PER_QUARTER:
        raise InputError(f"longer than {_LONGEST_QUARTERS:,} quarters; mend its durations")
    tempo = score.tempo if score.tempo is not None and 4 <= score.tempo <= 1000 else _SCORE_TEMPO
    above, below = score.meter or _DEFAULT_METER
    fits = 1 <= above <= 64 and below in (1, 2, 4, 8, 16, 32, 64)
    return Piece(score.notes, tempo, (above, below) if fits else _DEFAULT_METER)


def _read_midi_file(content: bytes, quantizer: Quantizer) -> Piece:
    per_quarter = _check_header(content)
    try:
        return _read_midi(content, per_quarter, quantizer)
    except InputError:
        raise
    # The parsers raise whatever they stumble over; to the user it is all one: the file is broken.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"damaged MIDI ({reason}); export it again") from None


def _check_header(content: bytes) -> int:
    """Ticks in a quarter. Parsers let through what is checked here, and then compute nonsense."""
    if len(content) < 14 or content[:4] != b"MThd":
        raise InputError("not a MIDI file; convert it to .mid first")
    form, _, division = struct.unpack(">HHH", content[8:14])
    if form > 1:
        raise InputError(f"MIDI format {form} is not supported; export it as format 0 or 1")
    if division & 0x8000:
        raise InputError("its time is in SMPTE frames, not beats; export it with beats")
    if division == 0:
        raise InputError("damaged MIDI (no ticks in a quarter); export it again")
    return int(division)


def _read_midi(content: bytes, per_quarter: int, quantizer: Quantizer) -> Piece:
    from symusic import Score

    score: Any = Score.from_midi(content)
    tracks = [(index, track.notes.numpy()) for index, track in enumerate(score.tracks) if not track.is_drum]
    sounding = [(index, notes) for index, notes in tracks if len(notes["time"])]
    tempo, meter = _beginning(score)
    if not sounding:
        return Piece(make_notes([], [], [], []), tempo, meter)
    track = np.concatenate([np.full(len(notes["time"]), index) for index, notes in sounding])
    onset, length, pitch = (
        np.concatenate([notes[column] for _, notes in sounding]).astype(np.int64)
        for column in ("time", "duration", "pitch")
    )
    if (onset + length).max() > _LONGEST_QUARTERS * per_quarter:
        raise InputError(f"longer than {_LONGEST_QUARTERS:,} quarters; mend its delta times")
    if quantizer == "music21":
        return Piece(_music21_notes(content, per_quarter), tempo, meter)
    snap = quantize.adaptive if quantizer == "adaptive" else quantize.uniform
    onset, release = snap(onset, onset + length, per_quarter)
    return Piece(make_notes(onset, release - onset, pitch, track), tempo, meter)


def _beginning(score: Any) -> tuple[float, tuple[int, int]]:
    """The first tempo and meter of a symusic score, or the defaults of MIDI where they make no sense."""
    tempo, meter = _DEFAULT_TEMPO, _DEFAULT_METER
    if len(score.tempos):
        first = min(score.tempos, key=lambda item: item.time).qpm
        tempo = float(first) if 4 <= first <= 1000 else tempo
    if len(score.time_signatures):
        signature = min(score.time_signatures, key=lambda item: item.time)
        above, below = int(signature.numerator), int(signature.denominator)
        meter = (above, below) if 1 <= above <= 64 and below in (1, 2, 4, 8, 16, 32, 64) else meter
    return tempo, meter


_MARKS = {"time_signature", "key_signature", "set_tempo", "instrument_name", "track_name", "program_change"}


def _music21_notes(content: bytes, per_quarter: int) -> Notes:
    """Notes by music21's rules, from mido's events: these keep the order in the file, which decides there."""
    import mido

    columns: list[list[Any]] = [[], [], [], []]
    for index, events in enumerate(mido.MidiFile(file=io.BytesIO(content), clip=True).tracks):
        time, voiced, marks = 0, [], []
        for event in events:
            time += event.time
            if event.type in ("note_on", "note_off"):
                velocity = event.velocity if event.type == "note_on" else 0
                voiced.append((time, event.note, event.channel, velocity))
            elif event.type in _MARKS:
                marks.append(time)
        notes = quantize.pair_music21(np.array(voiced, np.int64).reshape(-1, 4))
        track = quantize.RawTrack(notes, np.array(marks, np.int64))
        onset, duration, pitch = quantize.music21(track, per_quarter)
        for column, values in zip(columns, (onset, duration, pitch, np.full_like(onset, index)), strict=True):
            column.append(values)
    return make_notes(*(np.concatenate(column) for column in columns))
