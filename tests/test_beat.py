"""Music that was played without regard to the beats of its file is recognised."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from midigen_jax.config import PrepareConfig
from midigen_jax.data.prepare import prepare
from midigen_jax.listen.tables import corpus_in_words
from midigen_jax.music.midi import read_midi
from midigen_jax.music.piece import Piece, Quantizer

RNG = np.random.default_rng(0)


def midi(quarters: np.ndarray, seed: int = 0) -> bytes:
    """Notes at these times, in a file of 480 ticks a quarter and 120 quarters a minute."""
    from symusic import Note, Score, Track

    score: Any = Score(480)
    track: Any = Track()
    pitches = np.random.default_rng(seed).integers(50, 80, len(quarters))
    for onset, pitch in zip(np.round(quarters * 480).astype(int).tolist(), pitches.tolist(), strict=True):
        track.notes.append(Note(onset, 60, pitch, 80))
    score.tracks.append(track)
    content: bytes = score.dumps_midi()
    return content


def read(quarters: np.ndarray, quantizer: Quantizer = "adaptive") -> Piece:
    return read_midi(midi(quarters), quantizer)


def drifting(notes: int, seed: int = 1) -> np.ndarray:
    """Eighths at 97 a minute or so, with rubato."""
    rng = np.random.default_rng(seed)
    steps = 0.5 * 120 / 97 * np.exp(0.2 * np.sin(np.arange(notes) / 7 + rng.uniform(0, 6)))
    return np.cumsum(steps) + rng.normal(0, 0.02, notes)


@pytest.mark.parametrize(
    "quarters",
    [
        np.arange(200) / 4,
        np.arange(200) / 3,
        np.arange(200) / 8,  # finer than the grid
        np.arange(200) / 12 + 1 / 24,
        np.arange(200) / 4 + RNG.normal(0, 0.04, 200),  # to a click, 20 ms early or late
        np.sort(np.concatenate([np.arange(100) / 4, np.arange(100) / 3])) + 1 / 16,
        drifting(31),  # too few to tell
    ],
)
def test_music_with_beats_has_a_beat(quarters: np.ndarray) -> None:
    assert read(np.sort(np.abs(quarters))).has_beat


@pytest.mark.parametrize("quantizer", ["adaptive", "uniform", "music21"])
@pytest.mark.parametrize("seed", range(5))
def test_a_recording_at_a_nominal_tempo_has_none(quantizer: Quantizer, seed: int) -> None:
    assert not read(np.sort(drifting(300, seed)), quantizer).has_beat


def test_it_is_told_of_a_corpus(tmp_path: Path) -> None:
    music = tmp_path / "music"
    music.mkdir()
    for number in range(4):
        quarters = np.sort(drifting(300, number)) if number == 2 else np.arange(100) / 4
        quarters[::20] += 1 / 17  # a few notes that the grid moves far
        (music / f"{number}.mid").write_bytes(midi(quarters, number))
    corpus = prepare([str(music)], tmp_path / "corpus", PrepareConfig())
    assert [piece.has_beat for piece in corpus.pieces] == [True, True, False, True]
    assert any(
        line.startswith("1 piece played without regard to the beats")
        for line in corpus_in_words(corpus.path, corpus.manifest)
    )


@pytest.mark.parametrize("quantizer", ["adaptive", "uniform", "music21"])
def test_a_file_without_notes_and_quintuplets_are_no_recordings(quantizer: Quantizer) -> None:
    assert len(read(np.zeros(0), quantizer).notes) == 0
    assert read(np.arange(200) / 5, quantizer).has_beat
