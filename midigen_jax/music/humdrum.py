"""Humdrum (**kern) to the parts of a score: verovio says when notes sound, and their tokens at what pitch.

Some of what spines may do, verovio loses: that is put before it in other words of the same meaning.

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
_PLACE = re.compile(
    r"note-L(\d+)F(\d+)(?:S(\d+))?"
)  # verovio's name of a note: its line, spine and place in a chord
_PITCH = re.compile(r"([a-g]+|[A-G]+)[^a-gA-G#-]*?(#*|-*)(?=[^#-]|$)")
_STEPS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
_GRACES = re.compile(r"(?<!\S)\S*q\S*")  # of the notes of a chord
_FOR_THE_EYE = re.compile(r"[^\d%.a-gA-Grn#\[\]_ -]+")  # in a token: beams, stems, slurs, signs
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
    records = _spines_throughout(_bare(text))
    if not reader.loadData("\n".join(records) + "\n"):
        raise InputError("damaged score (verovio cannot read it); export it again")
    encoded = ElementTree.fromstring(reader.getMEI())
    of_note: dict[str, tuple[int, int]] = {}  # its pitch and its staff
    for staff in encoded.iter(f"{_MEI}staff"):
        for note in staff.iter(f"{_MEI}note"):
            if note.get("grace") is None:
                of_note[note.get(_ID, "")] = _pitch(note.get(_ID, ""), records), int(staff.get("n", "1")) - 1
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
    key = re.search(r"^(?:.*\t)?\*k\[([a-gA-G#n-]*)\]", text, re.M)
    signature = key[1].count("#") - key[1].count("-") if key else None
    return Written(parts, float(tempo[1]) if tempo else None, meter, signature=signature)


def _pitch(name: str, records: Sequence[str]) -> int:
    """The MIDI pitch of a note, which **kern has as it sounds, on transposing instruments too."""
    place = _PLACE.match(name)
    if place is None:
        raise InputError(f"damaged score (no token is {name}); export it again")
    token = records[int(place[1]) - 1].split("\t")[int(place[2]) - 1]
    found = _PITCH.search(token.split()[int(place[3] or 1) - 1])
    if found is None:
        raise InputError(f"damaged score ({token!r} has no pitch); export it again")
    letters, altered = found[1], found[2].count("#") - found[2].count("-")
    octave = 4 + len(letters) if letters.islower() else 5 - len(letters)
    return 12 * octave + _STEPS[letters[0].lower()] + altered


def _bare(text: str) -> list[str]:
    """The same music without what is for the eye, and without grace notes, for which others would wait.

    Lines of which nothing is left go, and those in which nothing was: behind a bar line they shorten a note.
    """
    lines = []
    for line in text.splitlines():
        if not line or line.startswith("!"):
            continue
        if not line.startswith(("*", "=")):
            fields = [_heard(token) for token in line.split("\t")]
            if set(fields) == {"."}:
                continue
            line = "\t".join(fields)
        lines.append(line)
    return lines


def _heard(token: str) -> str:
    """What of a token sounds: notes of a chord have one space between them, or verovio dies."""
    return " ".join(_FOR_THE_EYE.sub("", _GRACES.sub("", token)).split()) or "."


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


def _spines_throughout(lines: list[str]) -> list[str]:
    """The same music, but that each spine which `*+` adds is there from the first line, silent at first.

    And so is to the last line the first one, if it ends before the others, and each that joins one from which
    it did not split. Raises InputError where a spine turns into another, or all end and others begin.
    """
    lines = _to_the_end(lines)
    while (at := next((k for k, line in enumerate(lines) if "*+" in line.split("\t")), None)) is not None:
        _begin_at_the_top(lines, at)
    return lines


def _begin_at_the_top(lines: list[str], at: int) -> None:
    """Of the spines that begin after line `at`, the first; to its left is the one that said so."""
    before, after = lines[at].split("\t"), lines[at + 1].split("\t")
    place = before.index("*+")
    kind, before[place], after[place + 1] = after[place + 1], "*", "*"
    before.insert(place + 1, "*")
    lines[at], lines[at + 1] = "\t".join(before), "\t".join(after)
    for number in range(at - 1, -1, -1):
        fields = lines[number].split("\t")
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


def _to_the_end(lines: list[str]) -> list[str]:
    """Spines that end where verovio does not follow go on to the last line, and are silent there."""
    roots: list[int] | None = None  # of each spine, the one of the first line from which it comes
    number = 0
    while number < len(lines):
        if not lines[number].startswith("*"):
            number += 1
            continue
        fields = lines[number].split("\t")
        added = number > 0 and "*+" in lines[number - 1].split("\t")
        if any(field.startswith("**") for field in fields) and roots is not None and not added:
            raise InputError("a spine turns into another, or another score begins; save each in a file")
        roots = list(range(len(fields))) if roots is None else roots
        if len(fields) != len(roots):
            return lines  # it is damaged, as verovio will say
        place = _place_lost(fields, roots)
        if place is None:
            roots = [root for root, _ in _after(fields, roots)]
            number += 1
            continue
        # It goes on, silently; looked at again, the line may have more such places.
        fields[max(place - 1, 0) : place + 1] = ["*"] * min(place + 1, 2)
        lines[number] = "\t".join(fields)
        _silent_below(lines, number, place)
    return lines


def _place_lost(fields: Sequence[str], roots: Sequence[int]) -> int | None:
    """A spine that verovio loses here: the first, if it ends before others; one that joins a stranger."""
    if fields[0] == "*-" and set(fields) != {"*-"}:
        return 0
    places = range(1, len(fields))
    return next((k for k in places if fields[k - 1] == fields[k] == "*v" and roots[k - 1] != roots[k]), None)


def _after(fields: Sequence[str], roots: Sequence[int]) -> list[tuple[int, int]]:
    """The spines of the next line, each with its root and the number of the field that it comes from."""
    found: list[tuple[int, int]] = []
    for number, (field, root) in enumerate(zip(fields, roots, strict=True)):
        if field == "*-" or (field == "*v" and number and fields[number - 1] == "*v"):
            continue
        found += [(root, number)] * (2 if field in ("*^", "*+") else 1)
    return found


def _silent_below(lines: list[str], at: int, place: int) -> None:
    """Put a silent spine into the lines after `at`, before their spine number `place`."""
    for number in range(at + 1, len(lines)):
        fields = lines[number].split("\t")
        beside = fields[min(place, len(fields) - 1)]
        place_after = sum(source < place for _, source in _after(fields, range(len(fields))))
        fields.insert(place, "*-" if set(fields) == {"*-"} else _silent(beside))
        lines[number], place = "\t".join(fields), place_after
