"""Scores (MusicXML, ABC, Humdrum) to notes, with music21.

In: the bytes of a score. Out: what it holds. music21 can run for hours on a small file and take memory as it
likes: whoever reads files of others calls this in the `sandbox`. Repeats are not played twice; drums are left
out.
"""

import contextlib
import io
import zipfile
from collections.abc import Iterator
from fractions import Fraction
from math import floor
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from midigen_jax.errors import InputError, one_line
from midigen_jax.music.notes import TICKS_PER_QUARTER, Notes, make_notes
from midigen_jax.music.piece import MAX_PIECE_BYTES
from midigen_jax.music.smf import DRUMS
from midigen_jax.music.tunes import as_read_today, decoded, split_tunes

SUFFIXES = (".xml", ".musicxml", ".mxl", ".abc", ".krn")


class Score(NamedTuple):
    """What a score holds; tempo (quarters a minute) and meter are None where it says nothing of them."""

    notes: Notes
    parts: list[tuple[str, int]]
    """name and General MIDI program of each; a note's track is its part"""
    tempo: float | None
    meter: tuple[int, int] | None


def read_score(suffix: str, content: bytes) -> Score:
    """The score in the bytes of a file whose name ends in `suffix` (one of `SUFFIXES`).

    Pitches are as they sound, on transposing instruments too; notes tied together are one; grace notes and
    chord symbols are left out. Tempo and meter are the first. Raises InputError for what is no score.
    """
    with _in_words():
        score = _score(suffix, content)
        if any(part.atSoundingPitch is False for part in score.parts):
            score.toSoundingPitch(inPlace=True)
        flat = score.flatten()
        marks = [mark.getQuarterBPM() for mark in flat.getElementsByClass("MetronomeMark")]
        meters = [(item.numerator, item.denominator) for item in flat.getElementsByClass("TimeSignature")]
        notes: list[list[int]] = []
        parts = []
        for track, part in enumerate(score.parts):
            flat = part.flatten()
            instruments = list(flat.getElementsByClass("Instrument"))
            program = next((player.midiProgram for player in instruments if player.midiProgram), 0)
            parts.append((str(part.partName or ""), program))
            drums = flat.getElementsByClass(("UnpitchedPercussion", "PercussionClef"))
            if not drums and all(player.midiChannel != DRUMS for player in instruments):
                notes += rows_of(flat, track)
    tempo = next((float(mark) for mark in marks if mark), None)
    return Score(
        make_notes(*np.array(notes, np.int64).reshape(-1, 4).T), parts, tempo, next(iter(meters), None)
    )


def rows_of(flat: Any, track: int) -> list[list[int]]:
    """The notes of a flattened music21 part as [onset, duration, pitch, track], without what has no pitch."""
    rows: list[list[int]] = []
    tied: dict[int, list[int]] = {}
    for element in flat.notes:
        if element.duration.isGrace or "Harmony" in element.classes:
            continue
        onset, end = _ticks(element.offset), _ticks(element.offset + element.quarterLength)
        for note in element.notes if "ChordBase" in element.classes else (element,):
            if "Unpitched" in note.classes:
                continue
            pitch = floor(note.pitch.ps + 0.5)  # its .midi would fold what is outside of 0..127
            row = [onset, end - onset, pitch, track]
            before = tied.pop(pitch, None)
            goes_on = note.tie is not None and note.tie.type in ("continue", "stop")
            if goes_on and before is not None and before[0] + before[1] == onset:
                before[1] += row[1]
                row = before
            else:
                rows.append(row)
            if note.tie is not None and note.tie.type in ("start", "continue"):
                tied[pitch] = row
    return rows


def _ticks(quarters: float | Fraction) -> int:
    return round(quarters * TICKS_PER_QUARTER)


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """music21 raises whatever it stumbles over; to the user it is all one: the score is broken."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"damaged score ({one_line(error)}); export it again") from None


def _score(suffix: str, content: bytes) -> Any:
    """As a music21 score. Its cache of parsed scores, which others may write to, is not asked."""
    from music21 import converter

    if suffix == ".krn":
        return converter.parseData(decoded(content), format="humdrum")
    if suffix != ".abc":
        return _musicxml(_unzipped(content) if content[:2] == b"PK" else content)
    tunes = split_tunes(content)
    if len(tunes) > 1:
        raise InputError(f"{len(tunes)} tunes, not one; name the file itself, and each tune is a piece")
    return converter.parseData(as_read_today(tunes["1"]), format="abc")


def _musicxml(content: bytes) -> Any:
    from music21.musicxml.xmlToM21 import MusicXMLImporter

    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise InputError(f"damaged XML ({error}); export it again") from None
    if root.tag == "score-timewise":
        raise InputError("MusicXML by measures (score-timewise); export it by parts (score-partwise)")
    if root.tag != "score-partwise":
        raise InputError(f"not MusicXML but {root.tag[:80]}; leave it out")
    importer = MusicXMLImporter()
    # Into its own stream: where a part has two staves, music21 puts them there whatever it is given.
    importer.xmlRootToScore(root, importer.stream)
    return importer.stream


def _unzipped(content: bytes) -> bytes:
    """The score inside an .mxl: the one that its container names, or the first XML file."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [name for name in archive.namelist() if not name.startswith("META-INF/")]
            names = [name for name in names if name.lower().endswith((".xml", ".musicxml"))]
            if "META-INF/container.xml" in archive.namelist():
                container = ElementTree.fromstring(_member(archive, "META-INF/container.xml"))
                names = [file.get("full-path", "") for file in container.iter("rootfile")] + names
            if not names:
                raise InputError("no MusicXML in it; export it again")
            return _member(archive, names[0])
    except (zipfile.BadZipFile, ElementTree.ParseError, KeyError, EOFError, NotImplementedError) as error:
        raise InputError(f"damaged .mxl ({error}); export it again") from None


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """At most as many bytes as the zip declares: zipfile stops there."""
    size = archive.getinfo(name).file_size
    if size > MAX_PIECE_BYTES:
        raise InputError(f"{size >> 20} MiB when unpacked is no piece of music; the limit is 64 MiB")
    return archive.read(name)
