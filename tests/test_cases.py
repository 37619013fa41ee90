"""Small files that readers get wrong, each for one thing that trackers of music software report."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from midigen_jax.errors import InputError
from midigen_jax.music.clock import TWELFTHS
from midigen_jax.music.piece import Piece
from midigen_jax.music.read import Source, read_piece

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases"
EXPECTED: dict[str, dict[str, Any]] = (
    json.loads((CASES / "expected.json").read_text()) if CASES.is_dir() else {}
)


def sounding(piece: Piece) -> list[tuple[Fraction, int]]:
    """Onset in quarters from the first note, and pitch."""
    first = int(piece.notes[:, 0].min())
    return sorted(
        (Fraction(onset - first, TWELFTHS.quarter), pitch) for onset, _, pitch, _ in piece.notes.tolist()
    )


@pytest.mark.skipif(not EXPECTED, reason="the cases are not beside the checkout")
@pytest.mark.parametrize("name", EXPECTED)
def test_a_case_is_read_as_it_is_written(name: str) -> None:
    expected = EXPECTED[name]
    try:
        piece = read_piece(Source(name, CASES / name))
    except InputError:
        assert expected.get("or_refuse"), expected["why"]
        return
    if "notes" in expected:
        wanted = sorted((Fraction(onset).limit_denominator(96), pitch) for onset, pitch in expected["notes"])
        assert sounding(piece) == wanted, expected["why"]
    if "count" in expected:
        assert len(piece.notes) in expected["count"], expected["why"]
    found = {
        "meter": list(piece.meter),
        "tempo": piece.tempo,
        "upbeat": TWELFTHS.quarters(piece.first_bar),
        "programs": [piece.program],
    }
    for about in found.keys() & expected.keys():
        wanted = expected[about][:1] if about == "programs" else expected[about]
        assert found[about] == wanted, f"{about}: {expected['why']}"
    assert piece.remarks or piece.merged or not expected.get("or_told"), expected["why"]
