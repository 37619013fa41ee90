"""How scores are read: our notes beside those of an independent reader, and the seconds that both take.

    python scripts/bench_reading.py FOLDER --referee partitura >> docs/benchmarks.jsonl
    python scripts/bench_reading.py bach --referee music21 --quick

Each score is read by both, in turn. A note agrees where the other reader has one with its onset, duration and
pitch, in ticks. Scores of which fewer than 99.5 % agree are named. `partitura` (pip install partitura) reads
MusicXML; `music21` reads all. Where a referee is known to stumble it is helped: grace notes and cue notes are
taken out for it, and its bars are laid side by side as ours are.
"""

import argparse
import collections
import io
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from midigen_jax import rows
from midigen_jax.errors import InputError
from midigen_jax.music.notes import Notes
from midigen_jax.music.parts import Part, in_ticks, side_by_side
from midigen_jax.music.scores import decoded, read_score
from midigen_jax.music.sources import find_sources

_LEAST = 0.995  # of the notes of a score; below, it is named
_QUICK = 24  # scores


def by_partitura(suffix: str, content: bytes) -> Notes:
    """MusicXML by partitura, a track for each staff."""
    import partitura
    from lxml import etree

    from midigen_jax.music.musicxml import _unzipped

    root = etree.fromstring(_unzipped(content) if content[:2] == b"PK" else content)
    for note in list(root.iter("note")):
        pitch = note.find("pitch")
        if note.find("grace") is not None or None not in (note.find("cue"), note.find("chord")):
            note.getparent().remove(note)
        elif note.find("cue") is not None and pitch is not None:
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


def by_music21(suffix: str, content: bytes) -> Notes:
    """Any score by music21, a track for each part."""
    from music21 import converter

    if suffix == ".mxl":
        from midigen_jax.music.musicxml import _unzipped

        content = _unzipped(content)
    kind = {".krn": "humdrum", ".abc": "abc"}.get(suffix, "musicxml")
    score: Any = converter.parseData(decoded(content), format=kind)
    if any(part.atSoundingPitch is False for part in score.parts):
        score.toSoundingPitch(inPlace=True)
    parts = []
    for part in score.stripTies().parts:
        found = [
            (element.offset, element.offset + element.quarterLength, pitch.ps)
            for element in part.flatten().notes
            if not element.duration.isGrace and "Harmony" not in element.classes
            for pitch in element.pitches
        ]
        parts.append(np.array(found, float).reshape(-1, 3))
    return in_ticks(parts)


REFEREES: dict[str, Callable[[str, bytes], Notes]] = {"partitura": by_partitura, "music21": by_music21}


def main(words: Sequence[str] | None = None) -> int:
    """Print a row for each format and figure, and name to standard error what does not agree."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", help="as midigen prepare takes them")
    parser.add_argument("--referee", choices=REFEREES, default="music21")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK} of the scores")
    given = parser.parse_args(words)
    warnings.simplefilter("ignore")
    sources = find_sources(given.sources)
    if given.quick:
        sources = sources[:: max(1, len(sources) // _QUICK)]
    # What readers load is not part of reading.
    tune = b"X:1\nL:1/8\nK:C\nC"
    read_score(".abc", tune)
    if given.referee == "music21":
        by_music21(".abc", tune)
    tally: dict[str, Any] = collections.defaultdict(collections.Counter)
    for source in sources:
        content, kind = source.content(), {".abc": "abc", ".krn": "humdrum"}.get(source.suffix, "musicxml")
        found: dict[str, Any] = {}
        for name, read in (("ours", _ours), ("theirs", REFEREES[given.referee])):
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
    for kind, counts in tally.items():
        config = {
            "format": kind,
            "referee": given.referee,
            "scores": counts["scores"],
            "notes": counts["notes"],
        }
        config["sources"] = [Path(one).name for one in given.sources]
        for name, value, unit in (
            ("read.agreement", counts["same"] / counts["notes"], "share"),
            ("read.alike", counts["alike"] / counts["scores"], "share"),
            ("read.ratio", counts["theirs"] / counts["ours"], "x"),
        ):
            row = rows.make(name, value, unit, config=config, command=f"{command} --referee {given.referee}")
            print(json.dumps(row, ensure_ascii=False))
    return 0


def _ours(suffix: str, content: bytes) -> Notes:
    return read_score(suffix, content).notes


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"bench_reading.py: {error}")
