"""Humdrum (**kern) to the parts of a score: verovio reads it, once all spines begin at the top.

In: the text of a score. Out: `Written`; a part is a staff, from the highest down.
"""

import re
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np

from midigen_jax.errors import InputError
from midigen_jax.music.parts import Part, Written

_MEI = "{http://www.music-encoding.org/ns/mei}"
_ID = "{http://www.w3.org/XML/1998/namespace}id"
_STEPS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_ALTERED = {"s": 1, "ss": 2, "x": 2, "xs": 3, "f": -1, "ff": -2, "tf": -3}
_GRACES = re.compile(r"(?<!\S)\S*q\S*")  # of the notes of a chord
_RHYTHM = re.compile(r"[^\d]*(\d+(?:%\d+)?\.*)")


def read_humdrum(text: str, played: bool = False) -> Written:
    """The score; with `played`, its repeats are played. Raises InputError for what verovio cannot read."""
    if not text.lstrip().startswith(("**", "!!")):
        raise InputError("damaged score (no spines in its first line); export it again")
    import verovio

    verovio.enableLog(verovio.LOG_OFF)
    reader = verovio.toolkit()
    reader.setInputFrom("humdrum")
    # On one endless line there is no page to lay out.
    reader.setOptions({"breaks": "none", "expandAlways" if played else "expandNever": True})
    if not reader.loadData(spines_from_the_top(_without_graces(text))):
        raise InputError("damaged score (verovio cannot read it); export it again")
    encoded = ElementTree.fromstring(reader.getMEI())
    moved = {one.get("n", "1"): int(one.get("trans.semi", "0")) for one in encoded.iter(f"{_MEI}staffDef")}
    of_note: dict[str, tuple[int, int]] = {}  # its pitch and its staff
    for staff in encoded.iter(f"{_MEI}staff"):
        number = staff.get("n", "1")
        for note in staff.iter(f"{_MEI}note"):
            if note.get("grace") is None:
                of_note[note.get(_ID, "")] = _pitch(note) + moved.get(number, 0), int(number) - 1
    tied = {tie.get("endid", "#")[1:]: tie.get("startid", "#")[1:] for tie in encoded.iter(f"{_MEI}tie")}
    begun, ended, lines, now = dict[str, float](), dict[str, float](), list[float](), 0.0
    for moment in reader.renderToTimemap({"includeMeasures": True, "includeRests": True}):
        now = moment["qstamp"]
        lines += [now] if "measureOn" in moment else []
        ended |= dict.fromkeys(moment.get("off", ()), now)
        begun |= dict.fromkeys(moment.get("on", ()), now)
    notes = _joined(begun, ended, tied)
    rows = [
        (begun[name], end, *of_note[_written(name)])
        for name, end in notes.items()
        if _written(name) in of_note
    ]
    columns = np.array(rows, float).reshape(-1, 4)
    bars = np.stack([lines, [*lines[1:], now]], axis=1) if lines else np.zeros((0, 2))
    parts = [
        Part("", 0, columns[columns[:, 3] == staff, :3], bars)
        for staff in range(int(columns[:, 3].max(initial=0)) + 1)
    ]
    tempo, meter = re.search(r"^(?:.*\t)?\*MM(\d+(?:\.\d+)?)", text, re.M), _meter(text)
    return Written(parts, float(tempo[1]) if tempo else None, meter)


def _pitch(note: ElementTree.Element) -> int:
    """The MIDI pitch of a note of MEI; asking verovio for it takes longer the more notes a score has."""
    marks = [note.attrib, *(mark.attrib for mark in note.iter(f"{_MEI}accid"))]
    altered = next((mark[name] for name in ("accid.ges", "accid") for mark in marks if name in mark), "")
    octave = int(note.get("oct.ges") or note.get("oct", "4"))
    return 12 * (octave + 1) + _STEPS[note.get("pname", "c")] + _ALTERED.get(altered, 0)


def _without_graces(text: str) -> str:
    """The same music without its grace notes, for which verovio lets the notes beside them wait."""
    lines = []
    for line in text.splitlines():
        if "q" in line and not line.startswith(("!", "*", "=")):
            fields = [_GRACES.sub("", token).strip() or "." for token in line.split("\t")]
            if set(fields) == {"."}:
                continue
            line = "\t".join(fields)
        lines.append(line)
    return "\n".join(lines) + "\n"


def _joined(begun: dict[str, float], ended: dict[str, float], tied: dict[str, str]) -> dict[str, float]:
    """When each note ends; of notes tied together, the first alone, which lasts as long as all of them."""
    ended, found = dict(ended), {}
    for name in sorted(begun, key=lambda name: -begun[name]):
        written = _written(name)
        before = tied.get(written, "") + name.removeprefix(written)
        if written in tied and ended.get(before) == begun[name]:
            ended[before] = ended[name]
        else:
            found[name] = ended.get(name, begun[name])
    return found


def _written(name: str) -> str:
    """The note in the score that this one, which is played, stands for."""
    return name.partition("-rend")[0]


def _meter(text: str) -> tuple[int, int] | None:
    match = re.search(r"^(?:.*\t)?\*M(\d+(?:\+\d+)*)/(\d+)", text, re.M)
    return (sum(map(int, match[1].split("+"))), int(match[2])) if match else None


def spines_from_the_top(text: str) -> str:
    """The same music, but that each spine which `*+` adds is there from the first line, silent at first."""
    lines = text.splitlines()
    while (at := next((k for k, line in enumerate(lines) if "*+" in line.split("\t")), None)) is not None:
        _begin_at_the_top(lines, at)
    return "\n".join(lines) + "\n"


def _begin_at_the_top(lines: list[str], at: int) -> None:
    """Of the spines that begin after line `at`, the first; to its left is the one that said so."""
    before, after = lines[at].split("\t"), lines[at + 1].split("\t")
    place = before.index("*+")
    kind, before[place], after[place + 1] = after[place + 1], "*", "*"
    before.insert(place + 1, "*")
    lines[at], lines[at + 1] = "\t".join(before), "\t".join(after)
    for number in range(at - 1, -1, -1):
        fields = lines[number].split("\t")
        if not lines[number] or lines[number].startswith("!!"):
            continue
        place = _place_before(fields, place)
        fields.insert(place + 1, kind if fields[place].startswith("**") else _silent(fields[place]))
        lines[number] = "\t".join(fields)


def _silent(token: str) -> str:
    """What stands beside a token in a spine that rests: the same meter, the same rhythm."""
    if token.startswith(("*M", "*k", "*met", "=")):
        return token
    if token.startswith(("*", "!")):
        return token[0]
    rhythm = _RHYTHM.match(token)
    return f"{rhythm[1]}ryy" if rhythm and "q" not in token.lower() else "."


def _place_before(fields: Sequence[str], place: int) -> int:
    """In this line, the spine that becomes number `place` of the next one: they split and join between."""
    number, after = 0, 0
    while number < len(fields):
        if fields[number] == "*v":
            last = number
            while last + 1 < len(fields) and fields[last + 1] == "*v":
                last += 1
            if after == place:
                return last
            number, after = last + 1, after + 1
            continue
        after += 2 if fields[number] == "*^" else 1
        if place < after:
            return number
        number += 1
    return len(fields) - 1
