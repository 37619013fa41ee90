"""Music to measure and to test with: melodies that wander about, half a quarter a note."""

from pathlib import Path
from typing import Any

import numpy as np

from midigen_jax.music.notes import make_notes
from midigen_jax.music.write import write_midi

_LOWEST, _RANGE = 24, 80  # MIDI pitches; what wanders out of them comes in at the other end


def write_melodies(folder: Path, count: int = 4, notes: int = 20, **how: Any) -> Path:
    """MIDI files of so many notes, the same each time; `how` is that of `write_midi`. Returns the folder."""
    rng = np.random.default_rng(0)
    for number in range(count):
        walk = 60 + np.cumsum(rng.integers(-2, 3, notes))
        pitch = _LOWEST + (walk - _LOWEST) % _RANGE
        melody = make_notes(np.arange(notes) * 6, np.full(notes, 6), pitch, np.zeros(notes))
        write_midi(melody, folder / f"{number}.mid", **how)
    return folder
