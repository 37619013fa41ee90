"""Writing: notes to a MIDI file that any player opens, and that reads back as the same notes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from midigen_jax.files import replacing
from midigen_jax.music.clock import TWELFTHS, Clock
from midigen_jax.music.notes import Notes

FILE_TICKS_PER_QUARTER = 480
SIGNATURE = "midigen-jax"
"""of files that a model wrote the first marker begins with it: `read_midi` takes their times as they stand"""


def write_midi(
    notes: Notes,
    path: Path,
    tempo: float = 90.0,
    program: int = 0,
    velocity: int = 80,
    meter: tuple[int, int] = (4, 4),
    text: Sequence[str] = (),
    first_bar: int = 0,
    clock: Clock = TWELFTHS,
) -> None:
    """Write `notes` to `path`, at 480 ticks a quarter; a file that was there is replaced in one step.

    tempo: quarters a minute. program: General MIDI, 0 to 127. velocity: of every note, 1 to 127.
    meter: beats in a bar and the beat's note value. text: lines that the file carries as markers.
    first_bar: ticks of an upbeat, which is written as a first bar in a meter of its own, if there is one.
    """
    from symusic import Note, Score, TextMeta, TimeSignature, Track
    from symusic import Tempo as TempoMark

    scale = FILE_TICKS_PER_QUARTER // clock.quarter
    score: Any = Score(FILE_TICKS_PER_QUARTER)
    score.tempos.append(TempoMark(0, tempo))
    upbeat = clock.meter_of(first_bar)
    if upbeat is not None:
        score.time_signatures.append(TimeSignature(0, *upbeat))
    score.time_signatures.append(TimeSignature(first_bar * scale if upbeat else 0, *meter))
    for line in text:
        score.markers.append(TextMeta(0, line))
    tracks: dict[int, Any] = {}
    for onset, duration, pitch, number in notes.tolist():
        if number not in tracks:
            tracks[number] = Track(program=program)
        tracks[number].notes.append(Note(onset * scale, duration * scale, pitch, velocity))
    for number in sorted(tracks):
        score.tracks.append(tracks[number])
    with replacing(path) as partial:
        partial.write_bytes(score.dumps_midi())
