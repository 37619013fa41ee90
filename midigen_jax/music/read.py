"""Reading: a source to a piece, through symusic for MIDI and music21 for the chorales that it carries.

What is no music, or lies about itself, raises InputError in one line, so that one bad file among thousands
can be listed and left out. The parsers are imported when they are needed: they are slow to load.
"""

import io
import struct
import warnings
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from midigen_jax.errors import InputError
from midigen_jax.music import quantize
from midigen_jax.music.notes import TICKS_PER_QUARTER, Notes, make_notes
from midigen_jax.music.sources import Source, chorale_folder, find_sources

__all__ = ["Piece", "Quantizer", "Source", "find_sources", "read_piece"]

Quantizer = Literal["adaptive", "music21", "uniform"]

_DEFAULT_TEMPO = 120.0
_CHORALE_TEMPO = 90.0
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


def read_piece(source: Source, quantizer: Quantizer = "adaptive") -> Piece:
    """The piece at `source`, drums left out. Chorales are on the grid already: no quantiser touches them.

    Raises InputError, which names the source, for what cannot be read or holds no notes.
    """
    if source.member is None and source.path.suffix == ".mxl" and source.path.parent == chorale_folder():
        return _read_chorale(source)
    content = source.content()
    per_quarter = _check_header(source.name, content)
    try:
        piece = _read_midi(content, per_quarter, quantizer)
    except InputError as error:
        raise InputError(f"{source.name}: {error}") from None
    # The parsers raise whatever they stumble over; to the user it is all one: the file is broken.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{source.name}: damaged MIDI ({reason}); export it again") from None
    if len(piece.notes) == 0:
        raise InputError(f"{source.name}: no notes in it besides drums; leave it out")
    return piece


def _check_header(name: str, content: bytes) -> int:
    """Ticks in a quarter. Parsers let through what is checked here, and then compute nonsense."""
    if len(content) < 14 or content[:4] != b"MThd":
        raise InputError(f"{name}: not a MIDI file; convert it to .mid first")
    form, _, division = struct.unpack(">HHH", content[8:14])
    if form > 1:
        raise InputError(f"{name}: MIDI format {form} is not supported; export it as format 0 or 1")
    if division & 0x8000:
        raise InputError(f"{name}: its time is in SMPTE frames, not beats; export it with beats")
    if division == 0:
        raise InputError(f"{name}: damaged MIDI (no ticks in a quarter); export it again")
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


def _read_chorale(source: Source) -> Piece:
    """A score of the music21 package. Its own files are trusted: others can make music21 run for hours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from music21 import converter

        # music21's cache of parsed scores lies in a folder that anyone on the machine may write to.
        score: Any = converter.parse(source.path, forceSource=True)
    rows = [row for track, part in enumerate(score.parts) for row in _part_notes(part, track)]
    flat = score.flatten()
    marks = [mark.getQuarterBPM() for mark in flat.getElementsByClass("MetronomeMark")]
    meters = [(item.numerator, item.denominator) for item in flat.getElementsByClass("TimeSignature")]
    tempo = next((float(mark) for mark in marks if mark), _CHORALE_TEMPO)
    onset, duration, pitch, track = np.array(rows, np.int64).reshape(-1, 4).T
    return Piece(make_notes(onset, duration, pitch, track), tempo, next(iter(meters), _DEFAULT_METER))


def _part_notes(part: Any, track: int) -> list[list[int]]:
    """Onset, duration, pitch, track of a music21 part's notes; ties joined, grace notes left out."""
    rows: list[list[int]] = []
    tied: dict[int, list[int]] = {}
    for element in part.flatten().notes:
        if element.duration.isGrace:
            continue
        onset, end = _ticks(element.offset), _ticks(element.offset + element.quarterLength)
        for note in element.notes if element.isChord else (element,):
            row = [onset, end - onset, note.pitch.midi, track]
            before = tied.pop(note.pitch.midi, None)
            goes_on = note.tie is not None and note.tie.type in ("continue", "stop")
            if goes_on and before is not None and before[0] + before[1] == onset:
                before[1] += row[1]
                row = before
            else:
                rows.append(row)
            if note.tie is not None and note.tie.type in ("start", "continue"):
                tied[note.pitch.midi] = row
    return rows


def _ticks(quarters: float | Fraction) -> int:
    return round(quarters * TICKS_PER_QUARTER)
