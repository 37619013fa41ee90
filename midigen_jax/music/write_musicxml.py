"""Writing: notes to a MusicXML score, which notation programs open, and which reads back as the same notes.

In: notes in ticks, and what is known of their tempo, meter, key and voices. Out: a `score-partwise` of
MusicXML 4.0 (https://www.w3.org/2021/06/musicxml40/). A track is a part. What sounds is cut where no single
sign can say it: at bar lines, at the borders of triplets, and where a sign would hide a strong beat; what was
cut is tied. Where notes overlap, a staff has several voices. One that is not named, and too wide for any
clef, is a part of two staves, as the piano's is.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from lxml import etree

from midigen_jax import __version__
from midigen_jax.files import replacing
from midigen_jax.music.clock import TWELFTHS, Clock
from midigen_jax.music.key import FIFTHS, Key, find_key, spell
from midigen_jax.music.notes import Notes
from midigen_jax.music.smf import DRUMS
from midigen_jax.music.voices import tracks_of

Element = Any  # of lxml, which has no types

_DOCTYPE = (
    '<!DOCTYPE score-partwise PUBLIC "-//Recordare//DTD MusicXML 4.0 Partwise//EN" '
    '"http://www.musicxml.org/dtds/partwise.dtd">'
)
_SIGNS = ("breve", "whole", "half", "quarter", "eighth", "16th", "32nd", *(f"{2**n}th" for n in range(6, 11)))
_QUARTER = _SIGNS.index("quarter")
_ACCIDENTALS = {-2: "flat-flat", -1: "flat", 0: "natural", 1: "sharp", 2: "double-sharp"}
_TREBLE, _TENOR, _BASS = ("G", 2, 0), ("G", 2, -1), ("F", 4, 0)  # sign, line, octaves that it is moved by
_MIDDLE_C = 60
_FAR = 7  # semitones from there to the third ledger line of the treble clef, and of the bass clef


class _Bar(NamedTuple):
    """Ticks of the piece from which a bar goes, and to which; an upbeat begins inside of a whole bar."""

    begin: int
    end: int
    offset: int  # ticks of the whole bar that are left out before it


class _Chord(NamedTuple):
    """Notes that begin and end together."""

    begin: int
    end: int
    pitches: tuple[int, ...]  # ascending; none: a rest


class _Sign(NamedTuple):
    """A note value as it is written."""

    name: str
    dots: int


class _Piece(NamedTuple):
    """What one sign says: a part of a chord, or of a rest, in ticks of the whole bar."""

    begin: int
    end: int
    chord: _Chord
    sign: _Sign
    tuplet: tuple[int, int] | None  # from where to where it goes, if this is a part of one


class _Staff(NamedTuple):
    """Notes on one staff, as layers in each of which nothing overlaps; and those that show an accidental."""

    clef: tuple[str, int, int]
    layers: list[list[_Chord]]
    shown: set[tuple[int, int]]  # onset and pitch


class _Score(NamedTuple):
    """What holds for all parts."""

    bars: list[_Bar]
    meter: tuple[int, int]
    clock: Clock
    key: Key
    tempo: float


def write_musicxml(
    notes: Notes,
    path: Path,
    tempo: float = 90.0,
    program: int = 0,
    meter: tuple[int, int] = (4, 4),
    first_bar: int = 0,
    clock: Clock = TWELFTHS,
    key: Key | None = None,
    names: Sequence[str] = (),
    source: str = "",
) -> None:
    """Write `notes` to `path` as a score; a file that was there is replaced in one step.

    tempo, program, meter, first_bar, key, names: as of `write_midi`. source: a line that says where it comes
    from. Below the octave 0 is the octave -1, which programs read and the schema of MusicXML does not know.
    """
    end = int((notes[:, 0] + notes[:, 1]).max(initial=1))
    key = key or find_key(notes)
    score = _Score(_bars(end, clock.bar(meter), first_bar), meter, clock, key, tempo)
    tracks = tracks_of(notes, names) or [("", notes)]
    root = etree.Element("score-partwise", version="4.0")
    about = _add(root, "identification")
    _add(_add(about, "encoding"), "software", f"midigen-jax {__version__}")
    if source:
        # XML has no signs for what cannot be printed, and names of files may.
        _add(about, "source", "".join(one if one.isprintable() else "?" for one in source))
    part_list = _add(root, "part-list")
    if names:
        _add(_add(part_list, "part-group", type="start", number="1"), "group-symbol", "bracket")
    for number, (name, own) in enumerate(tracks, 1):
        plain = f"Part {number}" if len(tracks) > 1 else "Music"
        _add_player(part_list, number, name or plain, program)
        part = _add(root, "part", id=f"P{number}")
        _add_bars(part, _staves(own, score, bool(names)), score, is_first=number == 1)
    if names:
        _add(part_list, "part-group", type="stop", number="1")
    with replacing(path) as partial:
        etree.ElementTree(root).write(
            partial, encoding="UTF-8", xml_declaration=True, pretty_print=True, doctype=_DOCTYPE
        )


def _add(parent: Element, name: str, text: object = None, **attributes: str) -> Element:
    """A new last child of an element."""
    child = etree.SubElement(parent, name, attributes)
    child.text = None if text is None else str(text)
    return child


def _add_player(part_list: Element, number: int, name: str, program: int) -> None:
    """Name and instrument of a part."""
    channel = (number - 1) % 15  # of 16, the drums' left out
    part = _add(part_list, "score-part", id=f"P{number}")
    _add(part, "part-name", name)
    _add(_add(part, "score-instrument", id=f"P{number}-I1"), "instrument-name", name)
    player = _add(part, "midi-instrument", id=f"P{number}-I1")
    _add(player, "midi-channel", 1 + channel + (channel >= DRUMS))
    _add(player, "midi-program", 1 + program)


def _bars(end: int, length: int, first_bar: int) -> list[_Bar]:
    """All bars from tick 0 to `end`, of which the last one is whole."""
    upbeat = first_bar % length
    bars = [_Bar(0, upbeat, length - upbeat)] if upbeat else []
    return bars + [_Bar(begin, begin + length, 0) for begin in range(upbeat, end, length)]


def _staves(notes: Notes, score: _Score, named: bool) -> list[_Staff]:
    """A track on one staff, or on two: that of the right hand and that of the left."""
    low, high = (int(notes[:, 2].min()), int(notes[:, 2].max())) if len(notes) else (_MIDDLE_C, _MIDDLE_C)
    if not named and low < _MIDDLE_C - _FAR and high > _MIDDLE_C + _FAR:
        upper = notes[:, 2] >= _MIDDLE_C
        hands = [(_TREBLE, notes[upper]), (_BASS, notes[~upper])]
    else:
        mean = notes[:, 2].mean() if len(notes) else _MIDDLE_C
        hands = [(_TREBLE if mean > 62 else _TENOR if mean > 55 else _BASS, notes)]
    return [_Staff(clef, _layers(own), _accidentals(own, score)) for clef, own in hands]


def _layers(notes: Notes) -> list[list[_Chord]]:
    """The fewest layers in each of which one chord ends before the next begins; there is always one."""
    found: dict[tuple[int, int], list[int]] = {}
    for onset, duration, pitch, _ in notes.tolist():
        found.setdefault((onset, onset + duration), []).append(pitch)
    chords = [_Chord(begin, end, tuple(sorted(pitches))) for (begin, end), pitches in found.items()]
    layers: list[list[_Chord]] = [[]]
    for chord in sorted(chords, key=lambda chord: (chord.begin, -chord.pitches[-1])):
        free = next((layer for layer in layers if not layer or layer[-1].end <= chord.begin), None)
        if free is None:
            layers.append(free := [])
        free.append(chord)
    return layers


def _accidentals(notes: Notes, score: _Score) -> set[tuple[int, int]]:
    """Onset and pitch of the notes that differ from the signature, or from what stands before in the bar."""
    fifths = score.key.fifths
    signature = {letter: (fifths - place + 6) // 7 for place, letter in enumerate(FIFTHS)}
    shown, begins, current, last = set(), [bar.begin for bar in score.bars], dict[tuple[str, int], int](), -1
    for onset, _, pitch, _ in notes.tolist():
        if (bar := bisect_right(begins, onset)) != last:
            current, last = {}, bar
        letter, alter, octave = spell(pitch, score.key)
        if current.get((letter, octave), signature[letter]) != alter:
            shown.add((onset, pitch))
        current[letter, octave] = alter
    return shown


def _add_bars(part: Element, staves: Sequence[_Staff], score: _Score, is_first: bool) -> None:
    """The bars of a part; the first part has the tempo."""
    voices = [
        (staff, number if len(staves) > 1 else 0, place > 0, layer)
        for number, staff in enumerate(staves, 1)
        for place, layer in enumerate(staff.layers)
    ]
    for number, bar in enumerate(score.bars, 0 if score.bars[0].offset else 1):
        measure = _add(part, "measure", number=str(number), **({"implicit": "yes"} if bar.offset else {}))
        if bar.begin == 0:
            _add_attributes(measure, staves, score)
            if is_first:
                _add_tempo(measure, score.tempo)
        for voice, (staff, staff_number, is_further, layer) in enumerate(voices, 1):
            chords = _within(layer, bar)
            if is_further and not any(chord.pitches for chord in chords):
                continue
            if voice > 1:
                _add(_add(measure, "backup"), "duration", bar.end - bar.begin)
            _Writer(measure, score, bar, staff, staff_number, voice, is_further).add(chords)
    _add(_add(part[-1], "barline", location="right"), "bar-style", "light-heavy")


def _add_attributes(measure: Element, staves: Sequence[_Staff], score: _Score) -> None:
    attributes = _add(measure, "attributes")
    _add(attributes, "divisions", score.clock.quarter)
    key, time = _add(attributes, "key"), _add(attributes, "time")
    _add(key, "fifths", score.key.fifths)
    _add(key, "mode", score.key.mode)
    _add(time, "beats", score.meter[0])
    _add(time, "beat-type", score.meter[1])
    if len(staves) > 1:
        _add(attributes, "staves", len(staves))
    for number, staff in enumerate(staves, 1):
        sign, line, octaves = staff.clef
        clef = _add(attributes, "clef", **({"number": str(number)} if len(staves) > 1 else {}))
        _add(clef, "sign", sign)
        _add(clef, "line", line)
        if octaves:
            _add(clef, "clef-octave-change", octaves)


def _add_tempo(measure: Element, tempo: float) -> None:
    direction = _add(measure, "direction", placement="above")
    mark = _add(_add(direction, "direction-type"), "metronome")
    _add(mark, "beat-unit", "quarter")
    _add(mark, "per-minute", f"{tempo:.4g}")
    _add(direction, "sound", tempo=f"{tempo:.10g}")


def _within(layer: Sequence[_Chord], bar: _Bar) -> list[_Chord]:
    """What a layer does in a bar: the chords that sound there, and rests from its beginning to its end."""
    found, now = list[_Chord](), bar.begin
    first = bisect_right(layer, bar.begin, key=lambda chord: chord.end)
    for chord in layer[first:]:
        if chord.begin >= bar.end:
            break
        if chord.begin > now:
            found.append(_Chord(now, chord.begin, ()))
        found.append(chord)
        now = chord.end
    return [*found, _Chord(now, bar.end, ())] if now < bar.end else found


class _Writer(NamedTuple):
    """Adds what one voice of a staff does in a bar."""

    measure: Element
    score: _Score
    bar: _Bar
    staff: _Staff
    staff_number: int  # 0 where there is but one
    voice: int
    is_further: (
        bool  # not the first of its staff: it is there where it has notes, and does not show its rests
    )

    def add(self, chords: Sequence[_Chord]) -> None:
        """Add the chords and rests of the bar."""
        if self.bar.offset or any(chord.pitches for chord in chords):
            pieces = [*_pieces(chords, self.bar, self.score)]
            for piece, beams in zip(pieces, _beams(pieces, self.score), strict=True):
                for pitch in piece.chord.pitches or (None,):
                    self._add_note(piece, pitch, beams)
        else:
            note = _add(self.measure, "note")
            _add(note, "rest", measure="yes")
            self._add_length(note, self.bar.end - self.bar.begin)
            self._add_staff(note)

    def _add_length(self, note: Element, ticks: int, ties: Sequence[str] = ()) -> None:
        _add(note, "duration", ticks)
        for kind in ties:
            _add(note, "tie", type=kind)
        _add(note, "voice", self.voice)

    def _add_staff(self, note: Element) -> None:
        if self.staff_number:
            _add(note, "staff", self.staff_number)

    def _add_note(self, piece: _Piece, pitch: int | None, beams: Sequence[str]) -> None:
        """Add a note or, without a pitch, a rest. Its elements have a fixed order."""
        chord, is_hidden = piece.chord, pitch is None and self.is_further
        note = _add(self.measure, "note", **({"print-object": "no"} if is_hidden else {}))
        is_first = pitch is None or pitch == chord.pitches[0]
        if not is_first:
            _add(note, "chord")
        ties: list[str] = []
        if pitch is None:
            _add(note, "rest")
        else:
            self._add_pitch(note, pitch)
            begin = self.bar.begin - self.bar.offset
            ties += ["stop"] if chord.begin < begin + piece.begin else []
            ties += ["start"] if begin + piece.end < chord.end else []
        self._add_length(note, piece.end - piece.begin, ties)
        _add(note, "type", piece.sign.name)
        for _ in range(piece.sign.dots):
            _add(note, "dot")
        if pitch is not None and "stop" not in ties and (chord.begin, pitch) in self.staff.shown:
            _add(note, "accidental", _ACCIDENTALS[spell(pitch, self.score.key)[1]])
        if piece.tuplet is not None:
            time, ratio = _add(note, "time-modification"), _ratio(self.score.clock.quarter)
            _add(time, "actual-notes", ratio[0])
            _add(time, "normal-notes", ratio[1])
        self._add_staff(note)
        for number, kind in enumerate(beams if is_first else (), 1):
            _add(note, "beam", kind, number=str(number))
        first, last = (piece.tuplet or (None, None)) if is_first else (None, None)
        if ties or piece.begin == first or piece.end == last:
            notations = _add(note, "notations")
            for kind in ties:
                _add(notations, "tied", type=kind)
            if piece.begin == first:
                _add(notations, "tuplet", type="start", bracket="yes")
            if piece.end == last:
                _add(notations, "tuplet", type="stop")

    def _add_pitch(self, note: Element, pitch: int) -> None:
        letter, alter, octave = spell(pitch, self.score.key)
        element = _add(note, "pitch")
        _add(element, "step", letter)
        if alter:
            _add(element, "alter", alter)
        _add(element, "octave", octave)


def _pieces(chords: Sequence[_Chord], bar: _Bar, score: _Score) -> Iterator[_Piece]:
    """What the signs of a bar say, one after another."""
    quarter, length = score.clock.quarter, bar.offset + bar.end - bar.begin
    begin = bar.begin - bar.offset  # ticks of the piece at which the whole bar would begin
    spans = [(max(one.begin - begin, bar.offset), min(one.end - begin, length), one) for one in chords]
    edges = {length, *(first for first, *_ in spans)}
    tuplets = [
        (max(first, bar.offset), min(last, length))
        for beat in range(0, length, quarter)
        for first, last in _tuplets(edges, beat, quarter, _odd(quarter))
    ]
    borders = sorted({border for tuplet in tuplets for border in tuplet})
    for first, last, chord in spans:
        cuts = [first, *(border for border in borders if first < border < last), last]
        for left, right in pairwise(cuts):
            tuplet = next((one for one in tuplets if one[0] <= left < one[1]), None)
            levels, origin = _levels(score.meter, score.clock), 0
            if tuplet is not None:
                levels, origin = tuple(_halves(quarter // _odd(quarter))), left // quarter * quarter
            signs, now = _signs(quarter, tuplet is not None), left
            for ticks in _split(left - origin, right - origin, levels, tuple(signs)):
                yield _Piece(now, now + ticks, chord, signs[ticks], tuplet)
                now += ticks


def _tuplets(edges: set[int], begin: int, length: int, shortest: int) -> list[tuple[int, int]]:
    """Where triplets are in a quarter, or in a part of it: where an edge is on no border of a plain sign."""
    if not any(edge % shortest for edge in edges if begin < edge < begin + length):
        return []
    half = length // 2
    if begin + half in edges and half % shortest == 0:
        return [place for first in (begin, begin + half) for place in _tuplets(edges, first, half, shortest)]
    return [(begin, begin + length)]


def _beams(pieces: Sequence[_Piece], score: _Score) -> list[list[str]]:
    """For each sign of a bar its beams: notes shorter than a quarter share them within a beat or a tuplet."""
    beats, quarter = score.meter[0], score.clock.quarter
    beat = score.clock.beat(score.meter)
    together = 3 * beat if beats % 3 == 0 and beat < quarter else max(beat, quarter) if beats > 1 else beat
    flags = [max(0, _SIGNS.index(one.sign.name) - _QUARTER) if one.chord.pitches else 0 for one in pieces]
    group = [(one.begin // together, one.tuplet) for one in pieces]

    def joins(place: int, number: int) -> bool:
        """Does the beam of this number go on from a sign to the next one?"""
        if not 0 <= place < len(pieces) - 1 or group[place] != group[place + 1]:
            return False
        return min(flags[place], flags[place + 1]) >= number

    found = []
    for place, count in enumerate(flags):
        before, after = joins(place - 1, 1), joins(place, 1)
        kinds = {(True, True): "continue", (True, False): "end", (False, True): "begin"}
        hook = "backward hook" if before else "forward hook"
        numbers = range(1, count + 1) if before or after else ()
        found.append([kinds.get((joins(place - 1, one), joins(place, one)), hook) for one in numbers])
    return found


def _odd(number: int) -> int:
    """What is left of a number when it is halved as often as that can be done."""
    return number // (number & -number)


def _halves(number: int) -> list[int]:
    """A number, its half, and so on."""
    return [number] if number % 2 else [number, *_halves(number // 2)]


def _ratio(quarter: int) -> tuple[int, int]:
    """How many notes of a tuplet take the time of how many: three that of two where a quarter has thirds."""
    actual = _odd(quarter)
    return actual, 1 << (actual.bit_length() - 1)


@lru_cache
def _signs(quarter: int, in_tuplet: bool) -> dict[int, _Sign]:
    """The signs by their ticks, plain and with a dot, where a quarter has so many."""
    actual, normal = _ratio(quarter) if in_tuplet else (1, 1)
    found = dict[int, _Sign]()
    for place, name in enumerate(_SIGNS):
        for dots, times in ((0, 1), (1, 3)):
            ticks, rest = divmod(8 * quarter * normal * times, actual << (place + dots))
            if not rest:
                found.setdefault(ticks, _Sign(name, dots))
    return found


@lru_cache
def _levels(meter: tuple[int, int], clock: Clock) -> tuple[int, ...]:
    """Ticks between strong times of a bar, from the bar itself down to the shortest plain sign.

    Beats of three, as in 6/8, go together; half of a bar is strong where its beats are even in number.
    """
    beats, bar, beat = meter[0], clock.bar(meter), clock.beat(meter)
    group = 3 if beats > 3 and beats % 3 == 0 else 1
    halves = [bar >> power for power in range((beats // group & -(beats // group)).bit_length())]
    shortest = _odd(clock.quarter)
    levels = {*halves, group * beat, *_halves(beat), shortest}
    return tuple(sorted((level for level in levels if level % shortest == 0), reverse=True))


@lru_cache(4096)
def _split(begin: int, end: int, levels: tuple[int, ...], signs: tuple[int, ...]) -> tuple[int, ...]:
    """The ticks of the signs that say what lasts from `begin` to `end`, in a bar or a tuplet.

    One sign may pass over a strong time if it begins or ends at one that is as strong, or if it lies evenly
    around it and begins at a next weaker one, as in a syncopation.
    """
    inside = [range(begin // level * level + level, end, level) for level in levels]
    strength = next((place for place, times in enumerate(inside) if times), None)
    if strength is None:
        return (end - begin,)
    times = inside[strength]
    early, late = (
        next((place for place, level in enumerate(levels) if tick % level == 0), len(levels))
        for tick in (begin, end)
    )
    around = len(times) == 1 and begin + end == 2 * times[0] and early == strength + 1
    if end - begin in signs and (min(early, late) <= strength or around):
        return (end - begin,)
    fits = [time for time in times if (time - begin if early <= strength else end - time) in signs]
    cut = (fits or times)[-1 if early <= strength else 0]
    return _split(begin, cut, levels, signs) + _split(cut, end, levels, signs)
