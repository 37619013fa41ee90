"""MusicXML to the parts of a score.

In: the bytes of a score, plain or zipped. Out: `Written`. It was read by partitura, which needs what has no
sound taken out and each pitch spelt as it sounds before. That walks through every note, and the little that
is left to do on the way is less code, and much faster. Partitura and music21 are its referees
(docs/preparing.md).
"""

import io
import re
import zipfile
from fractions import Fraction
from math import floor
from typing import Any, NamedTuple

import numpy as np
from lxml import etree

from midigen_jax.errors import InputError, one_line
from midigen_jax.music.parts import Part, Quarters, Written
from midigen_jax.music.piece import MAX_PIECE_BYTES
from midigen_jax.music.smf import DRUMS

Element = Any  # of lxml, which has no types

_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_QUARTERS = {"maxima": 32.0, "long": 16.0, "breve": 8.0, "whole": 4.0, "half": 2.0, "quarter": 1.0}
_QUARTERS |= {"eighth": 0.5} | {f"{2**n}{'nd' if n == 5 else 'th'}": 4 / 2**n for n in range(4, 11)}
_CLOSE = 1e-6  # quarters: sums of thirds are not exact
_MOST_BARS = 100_000


def read_musicxml(content: bytes, played: bool = False) -> Written:
    """The score, a part for each staff; with `played`, its repeats and endings are played.

    Notes tied together are one; grace notes, cue notes, drums and chord symbols are left out. Raises
    InputError for what is no MusicXML by parts.
    """
    root = _root(_unzipped(content) if content[:2] == b"PK" else content)
    about = {item.get("id"): item for item in root.iterfind("part-list/score-part")}
    numbers = max((_numbers(element) for element in root.iterfind("part")), key=len, default=[])
    parts, tempos = [], list[_Tempo]()
    for element in root.iterfind("part"):
        item = about.get(element.get("id"))
        reading = _Reading(_drums(item), _divisions(element))
        rows, bars = reading.read(element)
        bars = _with_bars_of_others(bars, _numbers(element), numbers)
        tempos += reading.tempos
        name = "" if item is None else item.findtext("part-name", "").strip()
        for staff in np.unique(rows[:, 3]) if len(rows) else [1]:
            parts.append(Part(name, _program(item), rows[rows[:, 3] == staff, :3], bars))
    if played and parts:
        order = _as_played(max(root.iterfind("part"), key=lambda part: len(part.findall(".//repeat"))))
        parts = [_in_order(part, order) for part in parts]
    meter, whole = _meter(root)
    tempo = min(tempos, default=None)  # of equals, the one that is written first
    told = None if tempo is None else tempo.value
    return Written(parts, told, meter, 0.0 if whole else None, _signature(root))


class _Tempo(NamedTuple):
    """A tempo in quarters a minute, which sorts by when it comes."""

    time: float
    is_mark: bool  # what players are told comes before what the metronome's mark says
    value: float

    def __lt__(self, other: tuple[Any, ...]) -> bool:
        return self[:2] < other[:2]


class _Reading:
    """Reads a part from its first bar to its last: what holds from one bar to the next is kept here."""

    def __init__(self, drums: set[str], divisions: float):
        self.drums = drums
        self.divisions = divisions  # of a quarter
        self.moved: dict[
            str, int
        ] = {}  # semitones from written to sounding pitch, by staff; "" is all of them
        # By staff: when its clef changes, and whether to that of percussion.
        self.clefs: dict[str, list[tuple[float, bool]]] = {}
        self.tempos: list[_Tempo] = []
        self.rows: list[list[float]] = []
        self.open: dict[int, list[list[float]]] = {}  # notes by pitch that are tied to a later one

    def read(self, part: Element) -> tuple[Quarters, Quarters]:
        """Onset, end, pitch and staff of its notes, and its bars, in quarters from its beginning."""
        bars, begin = [], 0.0
        for bar in part.iterfind("measure"):
            end = self._bar(bar, begin)
            bars.append((begin, end))
            begin = end
        return np.array(self.rows, float).reshape(-1, 4), np.array(bars, float).reshape(-1, 2)

    def _bar(self, bar: Element, begin: float) -> float:
        """Read a bar, and say when it ends."""
        now = onset = end = begin
        heard = []
        for element in bar:
            if element.tag == "attributes":
                self._attributes(element, now)
            elif element.tag in ("direction", "sound"):
                self._tempo(element, now)
            elif element.tag == "backup":
                now = max(begin, now - self._duration(element))
            elif element.tag == "forward":
                now += self._duration(element)
            elif element.tag == "note" and element.find("grace") is None:
                duration = self._duration(element)
                if element.find("chord") is None:
                    onset, now = now, now + duration
                if duration > 0 and self._sounds(element):
                    heard.append((onset, onset + duration, self._pitch(element), element))
            end = max(end, now)
        # Voices are written one after another, and a tie may go from a later one to an earlier one.
        for note in sorted(heard, key=lambda note: note[0]):
            if not self._is_struck(note[3].findtext("staff", "1"), note[0]):
                self._note(*note)
        return end

    def _is_struck(self, staff: str, time: float) -> bool:
        """Whether the clef of a staff is that of percussion at this time, whatever voice it is written in."""
        return next(
            (is_one for begin, is_one in self.clefs.get(staff, [])[::-1] if begin <= time + _CLOSE), False
        )

    def _tempo(self, element: Element, now: float) -> None:
        """Keep the tempo that a direction or a sound tells, and when it does."""
        offset = element.find("offset[@sound='yes']")
        time = now if offset is None else now + _number(element, "offset") / self.divisions
        sound = element if element.tag == "sound" else element.find("sound[@tempo]")
        told = _first_number("" if sound is None else sound.get("tempo", ""))
        marks = [] if told else [_per_minute(mark) for mark in element.iterfind("direction-type/metronome")]
        self.tempos += [_Tempo(time, not told, value) for value in [told, *marks] if value][:1]

    def _attributes(self, element: Element, now: float) -> None:
        self.divisions = _number(element, "divisions") or self.divisions
        for transpose in element.iterfind("transpose"):
            octaves = 12 * _number(transpose, "octave-change")
            self.moved[transpose.get("number", "")] = round(_number(transpose, "chromatic") + octaves)
        for clef in element.iterfind("clef"):
            changes = self.clefs.setdefault(clef.get("number", "1"), [])
            changes.append((now, clef.findtext("sign") == "percussion"))
            changes.sort(key=lambda change: change[0])

    def _duration(self, element: Element) -> float:
        """In quarters; a note that does not say has the length of its sign."""
        if element.find("duration") is not None:
            return max(0.0, _number(element, "duration")) / self.divisions
        return _of_sign(element)

    def _sounds(self, note: Element) -> bool:
        player = note.find("instrument")
        drum = ("" if player is None else player.get("id")) in self.drums
        return note.find("pitch") is not None and note.find("cue") is None and not drum

    def _pitch(self, note: Element) -> int:
        moved = self.moved.get(note.findtext("staff", "1"), self.moved.get("", 0))
        return _height(note.find("pitch")) + moved

    def _note(self, onset: float, end: float, pitch: int, note: Element) -> None:
        # Ties are said twice, for the ear and for the eye, and some programs write only the second.
        ties = note.findall("tie") or note.findall("notations/tied")
        kinds = {tie.get("type") for tie in ties}
        waiting = self.open.get(pitch, [])
        before = next((row for row in waiting if abs(row[1] - onset) < _CLOSE), None)
        if "stop" in kinds and before is not None:
            waiting.remove(before)
            before[1], row = end, before
        else:
            row = [onset, end, pitch, _number(note, "staff") or 1]
            self.rows.append(row)
        if "start" in kinds:
            self.open.setdefault(pitch, []).append(row)


def _of_sign(note: Element) -> float:
    """The length of a note's sign in quarters; 0 where it has none."""
    length = _QUARTERS.get(note.findtext("type", ""), 0.0) * _dotted(note, "dot")
    actual = _number(note, "time-modification/actual-notes")
    return length * _number(note, "time-modification/normal-notes") / actual if actual else length


def _dotted(parent: Element, name: str) -> float:
    """By how much its dots make a sign longer."""
    return 2 - 0.5 ** len(parent.findall(name))


def _divisions(part: Element) -> float:
    """Divisions of a quarter until the part says them: those of the first note whose sign has a length."""
    notes = ((_number(note, "duration"), _of_sign(note)) for note in part.iterfind("measure/note"))
    return next((duration / length for duration, length in notes if duration > 0 and length > 0), 1.0)


def _numbers(part: Element) -> list[str]:
    """What the bars of a part are called."""
    return [bar.get("number", "") for bar in part.iterfind("measure")]


def _with_bars_of_others(bars: Quarters, own: list[str], all_numbers: list[str]) -> Quarters:
    """The bars of a part that leaves some out, which are told by their numbers: those are empty."""
    named = len(set(own)) == len(own) and len(set(all_numbers)) == len(all_numbers)
    if len(own) == len(all_numbers) or not named or not set(own) <= set(all_numbers):
        return bars
    found, now = [], 0.0
    of_number = dict(zip(own, bars.tolist(), strict=True))
    for number in all_numbers[: all_numbers.index(own[-1]) + 1] if own else []:
        begin, now = of_number.get(number, (now, now))
        found.append((begin, now))
    return np.array(found, float).reshape(-1, 2)


def _height(pitch: Element) -> int:
    """The MIDI pitch; a quarter tone goes up to the next semitone."""
    step = _STEPS.get(pitch.findtext("step", "").strip().upper())
    if step is None:
        raise InputError(f"no pitch is called {pitch.findtext('step')!r}; export it again")
    return floor(12 * (_number(pitch, "octave") + 1) + step + _number(pitch, "alter") + 0.5)


def _as_played(part: Element) -> list[int]:
    """The numbers of the bars in the order in which repeats and endings have them played."""
    bars = part.findall("measure")
    starts, times, endings = set[int](), dict[int, int](), list[set[int]]()
    within: set[int] = set()
    for number, bar in enumerate(bars):
        for ending in bar.iterfind("barline/ending[@type='start']"):
            within = {int(one) for one in re.findall(r"\d+", ending.get("number", "1"))}
        endings.append(within)
        for ending in bar.iterfind("barline/ending"):
            within = within if ending.get("type") == "start" else set()
        for repeat in bar.iterfind("barline/repeat"):
            if repeat.get("direction") == "forward":
                starts.add(number)
            else:
                times[number] = int(repeat.get("times") or 2)
    order, number, start, turn = list[int](), 0, 0, 1
    while number < len(bars) and len(order) < _MOST_BARS:
        left = number > 0 and bool(endings[number - 1]) and not endings[number] and order[-1:] == [number - 1]
        if (number in starts and number != start) or left:
            start, turn = number, 1
        if not endings[number] or turn in endings[number]:
            order.append(number)
            if number in times and turn < max(times[number], *endings[number], 0):
                number, turn = start, turn + 1
                continue
            if number in times and not endings[number]:
                start, turn = number + 1, 1
        number += 1
    return order


def _in_order(part: Part, order: list[int]) -> Part:
    """The part with its bars in another order; a note belongs to the bar in which it begins."""
    owner = np.searchsorted(part.bars[:, 0], part.notes[:, 0] + _CLOSE) - 1
    notes, bars, now = [part.notes[:0]], list[tuple[float, float]](), 0.0
    for number in order:
        if number < len(part.bars):
            begin, end = part.bars[number]
            notes.append(part.notes[owner == number] + [now - begin, now - begin, 0])
            bars.append((now, now + end - begin))
            now += end - begin
    return Part(part.name, part.program, np.concatenate(notes), np.array(bars, float).reshape(-1, 2))


def _root(content: bytes) -> Element:
    try:
        root = etree.fromstring(content, etree.XMLParser(remove_comments=True, resolve_entities=False))
    except etree.XMLSyntaxError as error:
        if error.code == etree.ErrorTypes.ERR_NO_MEMORY:
            raise MemoryError from None
        raise InputError(f"damaged XML ({one_line(error)}); export it again") from None
    if root.tag == "score-timewise":
        raise InputError("MusicXML by measures (score-timewise); export it by parts (score-partwise)")
    if root.tag != "score-partwise":
        raise InputError(f"not MusicXML but {str(root.tag)[:80]}; leave it out")
    return root


def _number(parent: Element, name: str) -> float:
    """The number in a child; 0 where there is none."""
    try:
        return float(parent.findtext(name, "0"))
    except ValueError:
        return 0.0


def _drums(item: Element | None) -> set[str]:
    """The instruments of a part that play on the channel of percussion; "" is a note's that names none."""
    players = [] if item is None else item.findall("midi-instrument")
    drums = {one.get("id", "") for one in players if _number(one, "midi-channel") == DRUMS + 1}
    return drums | {""} if players and len(drums) == len(players) else drums


def _program(item: Element | None) -> int:
    """The first program that is said, from 0; the piano where none is."""
    programs = [] if item is None else item.findall("midi-instrument/midi-program")
    said = [int(program.text or 0) for program in programs if (program.text or "").strip().isdecimal()]
    return next((number - 1 for number in said if 1 < number <= 128), 0)


def _meter(root: Element) -> tuple[tuple[int, int] | None, bool]:
    """The first meter, and whether the first bar is a whole one however short it is.

    The parts of an additive meter, as in 3+2 over 8 or in 2/4 + 3/8, are summed. A bar that is not counted
    (`implicit`) before one with a meter is an upbeat to that. One after the first goes on with it, where a
    repeat stands within a bar. Bars without a meter (`senza-misura`) are as long as they are.
    """
    first, second = [*root.iterfind("part[1]/measure"), None, None][:2]
    is_upbeat = first is not None and first.get("implicit") == "yes"
    if is_upbeat and second is not None and (after := second.find("attributes/time")) is not None:
        return _sum(after), False
    halves = not is_upbeat and second is not None and second.get("implicit") == "yes"
    for time in root.iter("time"):
        free = time.find("senza-misura") is not None
        if free or (meter := _sum(time)) is not None:
            return None if free else meter, halves or free
    return None, halves


def _signature(root: Element) -> int | None:
    """The sharps of the first key in a part that sounds as written; flats are less than 0."""
    for part in root.iterfind("part"):
        attributes = next(
            (one for one in part.iter("attributes") if one.find("key/fifths") is not None), None
        )
        if attributes is not None and not _number(attributes, "transpose/chromatic"):
            fifths = _number(attributes, "key/fifths")
            return round(fifths) if abs(fifths) <= 7 else None
    return None


def _sum(time: Element) -> tuple[int, int] | None:
    """The meter that a <time> says."""
    found: list[Fraction] = []
    units = [unit.text.strip() for unit in time.iterfind("beat-type") if unit.text]
    for beats, unit in zip(time.iterfind("beats"), units, strict=False):
        parts = [part.strip() for part in (beats.text or "").split("+")]
        if not (unit.isdecimal() and int(unit) and all(part.isdecimal() for part in parts)):
            return None
        found += [Fraction(int(part), int(unit)) for part in parts]
    below = max((int(unit) for unit in units), default=0)
    above = sum(found) * below
    return (int(above), below) if found and above == int(above) else None


def _per_minute(mark: Element) -> float | None:
    """What a metronome's mark says, in quarters a minute."""
    said, unit, tied = _first_number(mark.findtext("per-minute", "")), 0.0, 0.0
    for part in mark:
        if part.tag == "beat-unit":
            tied, unit = tied + unit, _QUARTERS.get((part.text or "").strip(), 0.0)
        elif part.tag == "beat-unit-tied":
            tied += _QUARTERS.get(part.findtext("beat-unit", ""), 0.0) * _dotted(part, "beat-unit-dot")
        elif part.tag == "per-minute":
            break
    unit *= _dotted(mark, "beat-unit-dot")
    return said * (unit + tied) if said and unit else None


def _first_number(text: str) -> float | None:
    match = re.search(r"\d+(\.\d+)?", text)
    return float(match[0]) if match else None


def _unzipped(content: bytes) -> bytes:
    """The score inside an .mxl: the one that its container names, or the first XML file."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [name for name in archive.namelist() if not name.startswith("META-INF/")]
            names = [name for name in names if name.lower().endswith((".xml", ".musicxml"))]
            if "META-INF/container.xml" in archive.namelist():
                container = etree.fromstring(_member(archive, "META-INF/container.xml"))
                names = [file.get("full-path", "") for file in container.iter("rootfile")] + names
            if not names:
                raise InputError("no MusicXML in it; export it again")
            return _member(archive, names[0])
    except (zipfile.BadZipFile, etree.XMLSyntaxError, KeyError, EOFError, NotImplementedError) as error:
        raise InputError(f"damaged .mxl ({error}); export it again") from None


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """At most as many bytes as the zip declares: zipfile stops there."""
    size = archive.getinfo(name).file_size
    if size > MAX_PIECE_BYTES:
        raise InputError(f"{size >> 20} MiB when unpacked is no piece of music; the limit is 64 MiB")
    return archive.read(name)
