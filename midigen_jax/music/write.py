"""Writing: notes to a MIDI file that any player opens, and that reads back as the same notes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from midigen_jax.files import replacing
from midigen_jax.music.clock import TWELFTHS, Clock
from midigen_jax.music.key import Key, find_key
from midigen_jax.music.notes import Notes
from midigen_jax.music.voices import tracks_of

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
    key: Key | None = None,
    names: Sequence[str] = (),
) -> None:
    """Write `notes` to `path`, at 480 ticks a quarter; a file that was there is replaced in one step.

    tempo: quarters a minute. program: General MIDI, 0 to 127. velocity: of every note, 1 to 127.
    meter: beats in a bar and the beat's note value. text: lines that the file carries as markers.
    first_bar: ticks of an upbeat, which is written as a first bar in a meter of its own, if there is one.
    key: that of the signature; None finds it. names: of the voices, from the lowest up, where tracks are
    voices: the highest comes first, and one that is silent has a track too.
    """
    from symusic import KeySignature, Note, Score, TextMeta, TimeSignature, Track
    from symusic import Tempo as TempoMark

    scale = FILE_TICKS_PER_QUARTER // clock.quarter
    score: Any = Score(FILE_TICKS_PER_QUARTER)
    score.tempos.append(TempoMark(0, tempo))
    upbeat = clock.meter_of(first_bar)
    if upbeat is not None:
        score.time_signatures.append(TimeSignature(0, *upbeat))
    score.time_signatures.append(TimeSignature(first_bar * scale if upbeat else 0, *meter))
    if len(notes):
        key = key or find_key(notes)
        score.key_signatures.append(KeySignature(0, key.fifths, int(key.mode == "minor")))
    for line in text:
        score.markers.append(TextMeta(0, line))
    for name, own in tracks_of(notes, names):
        track: Any = Track(name=name, program=program)
        for onset, duration, pitch, _ in own.tolist():
            track.notes.append(Note(onset * scale, duration * scale, pitch, velocity))
        score.tracks.append(track)
    with replacing(path) as partial:
        partial.write_bytes(score.dumps_midi())
