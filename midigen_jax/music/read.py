"""Reading: a source to a piece, through symusic for MIDI, and in the sandbox for scores.

What is no music, or lies about itself, raises InputError in one line, so that one bad file among thousands
can be listed and left out. The parsers are imported when they are needed: they are slow to load.
"""

from dataclasses import replace

import numpy as np

from midigen_jax.errors import InputError
from midigen_jax.music import frames, sandbox, scores
from midigen_jax.music.clock import TWELFTHS, Clock
from midigen_jax.music.midi import read_midi
from midigen_jax.music.piece import LONGEST_QUARTERS, Piece, Quantizer, Repeats, meter_or_default, tempo_or
from midigen_jax.music.sources import Source, find_sources
from midigen_jax.music.tracks import Track, choose, main_program

__all__ = ["Piece", "Quantizer", "Source", "find_sources", "read_piece"]

# Most scores say no number, and this is walking pace. MIDI's own default is for MIDI.
_SCORE_TEMPO = 90.0


def read_piece(
    source: Source,
    quantizer: Quantizer = "adaptive",
    tracks: str = "all",
    frame_ticks: int = 0,
    voices: bool = True,
    repeats: Repeats = "written",
    clock: Clock = TWELFTHS,
) -> Piece:
    """The piece at `source`, drums left out. Only MIDI is quantised: scores are written on a grid.

    tracks: all of them, or piano, melody, or a number: see `tracks.choose`. Parts and voices are tracks too.
    repeats: of scores, as they are written, once, or as they are played.
    frame_ticks: in a frame of a frame file; 0 is what `frames.known_ticks` knows of the file's name.
    voices: without, a frame of a frame file is a set of pitches, whoever sings them: see `frames.as_sets`.
    Raises InputError, which names the source, for what cannot be read or holds no notes.
    """
    return read_content(source, source.content(), quantizer, tracks, frame_ticks, voices, repeats, clock)


def read_content(
    source: Source,
    content: bytes,
    quantizer: Quantizer,
    tracks: str = "all",
    frame_ticks: int = 0,
    voices: bool = True,
    repeats: Repeats = "written",
    clock: Clock = TWELFTHS,
) -> Piece:
    """As `read_piece`, for who has the source's bytes already."""
    try:
        if source.suffix in frames.SUFFIXES:
            ticks = frame_ticks or frames.known_ticks(source.path.name, clock)
            piece = _read_frames(content, tracks, ticks, voices)
        elif source.suffix in scores.SUFFIXES:
            piece = _read_score(source.suffix, content, tracks, repeats == "played", clock)
        else:
            piece = read_midi(content, quantizer, tracks, clock)
    except InputError as error:
        raise InputError(f"{source.name}: {error}") from None
    if len(piece.notes) == 0:
        missing = "none of its notes ends" if piece.stuck else "no notes in it besides drums"
        raise InputError(f"{source.name}: {missing}; leave it out")
    return replace(piece, clock=clock)


def _read_frames(content: bytes, tracks: str, ticks: int, voices: bool) -> Piece:
    notes, length = frames.read_frames(content, ticks)
    there = [Track(number=voice) for voice in range(int(notes[:, 3].max(initial=0)) + 1)]
    notes = choose(notes, there, tracks)
    return Piece(notes if voices else frames.as_sets(notes, length), length=length, frame=ticks)


def _read_score(suffix: str, content: bytes, tracks: str, played: bool, clock: Clock) -> Piece:
    score = sandbox.call(scores.read_score, suffix, content, played, clock)
    if len(score.notes) and score.notes[:, :2].sum(axis=1).max() > clock.ticks(LONGEST_QUARTERS):
        raise InputError(f"longer than {LONGEST_QUARTERS:,} quarters; mend its durations")
    parts = [Track(name, program, number) for number, (name, program) in enumerate(score.parts)]
    notes = choose(score.notes, parts, tracks)
    tempo, meter = tempo_or(_SCORE_TEMPO, score.tempo), meter_or_default(score.meter)
    program = main_program(notes, parts)
    moved = sum(score.moved[part] for part in np.unique(notes[:, 3]))
    return Piece(
        notes,
        tempo,
        meter,
        program=program,
        first_bar=score.first_bar,
        remarks=score.remarks,
        moved=moved,
        signature=score.signature,
    )
