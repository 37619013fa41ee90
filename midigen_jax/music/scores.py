"""Scores (MusicXML, ABC, Humdrum) to notes in ticks.

In: the bytes of a score. Out: what it holds. Each format has the reader that was right most often, as
docs/preparing.md shows; they can be slow, take memory and crash, so whoever reads files of others calls this
in the `sandbox`. Drums are left out.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from midigen_jax.errors import InputError, one_line
from midigen_jax.music.clock import TWELFTHS, Clock
from midigen_jax.music.notes import Notes
from midigen_jax.music.parts import Written, in_ticks, moved_far, side_by_side
from midigen_jax.music.piece import meter_or_default

SUFFIXES = (".xml", ".musicxml", ".mxl", ".abc", ".krn")


class Score(NamedTuple):
    """What a score holds; tempo (quarters a minute) and meter are None where it says nothing of them."""

    notes: Notes
    parts: list[tuple[str, int]]
    """name and General MIDI program of each; a note's track is its part"""
    tempo: float | None
    meter: tuple[int, int] | None
    first_bar: int = 0
    """the tick of the first bar line after an upbeat; 0 where the score begins with a bar"""
    remarks: tuple[str, ...] = ()
    """what was out of order, and how it was taken"""
    moved: tuple[int, ...] = ()
    """notes of each part that ticks move by more than 1/32 of a quarter"""
    signature: int | None = None
    """sharps of the first key signature, or flats, less than 0; None: it has none"""


def read_score(suffix: str, content: bytes, played: bool = False, clock: Clock = TWELFTHS) -> Score:
    """The score in the bytes of a file whose name ends in `suffix` (one of `SUFFIXES`).

    Pitches are as they sound, on transposing instruments too; notes tied together are one; grace notes,
    ornaments and chord symbols are left out; with `played`, repeats are played. Tempo and meter are the
    first. Raises InputError for what is no score.
    """
    with _in_words():
        written = _read(suffix, content, played)
    parts, lines, remarks = side_by_side(written.parts)
    first = written.first_bar if written.first_bar is not None else (lines[1] if len(lines) > 1 else 0.0)
    first_bar = clock.ticks(first)
    upbeat = 0 < first_bar < clock.bar(meter_or_default(written.meter))
    about = [(part.name, part.program) for part in written.parts]
    return Score(
        in_ticks(parts, clock),
        about,
        written.tempo,
        written.meter,
        first_bar if upbeat else 0,
        tuple(remarks),
        moved_far(parts, clock),
        written.signature,
    )


def _read(suffix: str, content: bytes, played: bool) -> Written:
    # Imported where they are used: their libraries are slow to load.
    if suffix == ".krn":
        from midigen_jax.music.humdrum import read_humdrum

        return read_humdrum(decoded(content), played)
    if suffix != ".abc":
        from midigen_jax.music.musicxml import read_musicxml

        return read_musicxml(content, played)
    from midigen_jax.music.abc import read_abc, split_tunes

    tunes = split_tunes(content)
    if len(tunes) > 1:
        raise InputError(f"{len(tunes)} tunes, not one; name the file itself, and each tune is a piece")
    return read_abc(decoded(tunes["1"]), played)


def decoded(content: bytes) -> str:
    """Text that says nothing of its encoding: UTF-8, or else Latin-1, as older files are."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """Readers raise whatever they stumble over; to the user it is all one: the score is broken."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"damaged score ({one_line(error)}); export it again") from None
