"""Reading: a source to a piece, through symusic for MIDI and music21 for the chorales that it carries.

What is no music, or lies about itself, raises InputError in one line, so that one bad file among thousands
can be listed and left out. The parsers are imported when they are needed: they are slow to load.
"""

import warnings
from fractions import Fraction
from typing import Any

import numpy as np

from midigen_jax.errors import InputError
from midigen_jax.music.midi import read_midi
from midigen_jax.music.notes import TICKS_PER_QUARTER, make_notes
from midigen_jax.music.piece import DEFAULT_METER, Piece, Quantizer
from midigen_jax.music.sources import Source, chorale_folder, find_sources
from midigen_jax.music.tracks import Track, choose

__all__ = ["Piece", "Quantizer", "Source", "find_sources", "read_piece"]

_CHORALE_TEMPO = 90.0


def read_piece(source: Source, quantizer: Quantizer = "adaptive", tracks: str = "all") -> Piece:
    """The piece at `source`, drums left out, of all `tracks` or of some: piano, melody, or a track's number.

    What that means stands in `tracks.choose`. Chorales are on the grid already: no quantiser touches them.
    Raises InputError, which names the source, for what cannot be read or holds no notes.
    """
    if source.member is None and source.path.suffix == ".mxl" and source.path.parent == chorale_folder():
        return _read_chorale(source, tracks)
    content = source.content()
    try:
        piece = read_midi(content, quantizer, tracks)
    except InputError as error:
        raise InputError(f"{source.name}: {error}") from None
    if len(piece.notes) == 0:
        missing = "none of its notes ends" if piece.stuck else "no notes in it besides drums"
        raise InputError(f"{source.name}: {missing}; leave it out")
    return piece


def _read_chorale(source: Source, tracks: str) -> Piece:
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
    parts = [Track(part.partName or "", number=number) for number, part in enumerate(score.parts)]
    try:
        chosen = choose(np.array(rows, np.int64).reshape(-1, 4), parts, tracks)
    except InputError as error:
        raise InputError(f"{source.name}: {error}") from None
    return Piece(make_notes(*chosen.T), tempo, next(iter(meters), DEFAULT_METER))


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
