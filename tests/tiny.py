"""The smallest training: the settings that tests begin with, and the words of its command."""

from collections.abc import Mapping
from pathlib import Path

SMALLEST: dict[str, object] = {
    "model.width": 8,
    "model.pitch_embedding": 4,
    "model.duration_embedding": 4,
    "model.layers": 1,
    "batch.rows": 2,
    "batch.length": 16,
}


def train_words(corpus: Path, run: Path, settings: Mapping[str, object]) -> list[str]:
    """`midigen train` with these settings."""
    return [
        "train",
        str(corpus),
        "--out",
        str(run),
        *(f"--{name}={value}" for name, value in settings.items()),
    ]
