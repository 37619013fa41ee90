"""Parity with music21: slices are its chordify(), `music21` quantises as its MIDI reader, keys are its keys.

music21's side is told from its own objects; no code of ours has a part in it. What music21 itself loses or
moves is found by rule, left out, and counted.
"""

import io
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from midigen_jax.music.key import Key, find_key
from midigen_jax.music.notes import Notes, make_notes
from midigen_jax.music.read import Source, find_sources, read_piece
from midigen_jax.music.slices import Slices, slice_notes

ARTICLE_DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "midi_dataset.zip"
HARD = ("bach/bwv36.4-2.mxl", "bach/bwv248.23-2.mxl", "bach/bwv315.mxl")
"""Thirty-seconds; a voice that strikes what another voice of its part holds; a grace note."""

needs_article_data = pytest.mark.skipif(
    not ARTICLE_DATA.is_file(), reason="the article's data set is not beside the checkout"
)

Events = list[tuple[int, int, dict[int, bool]]]
"""(onset, duration, {pitch: does it begin here}), one a slice."""

Heard = tuple[set[tuple[int, int]], set[tuple[int, int]]]
"""The (tick, pitch) that sound and the (tick, pitch) that are struck, 12 ticks to the quarter."""


@contextmanager
def music21_unheeded() -> Iterator[None]:
    """music21 warns of much that does not matter here, such as names in another encoding than UTF-8."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@music21_unheeded()
def parsed(path: Path) -> Any:
    """The music21 score of a file."""
    from music21 import converter

    return converter.parse(path, forceSource=True)


def members(element: Any) -> Iterable[Any]:
    """The notes of a music21 note, chord or rest."""
    return () if element.isRest else element.notes if element.isChord else (element,)


def begins(note: Any) -> bool:
    return note.tie is None or note.tie.type == "start"


def keys_of(score: Any) -> list[Key]:
    """By music21: Krumhansl-Schmuckler, Aarden-Essen, and what it takes when nothing is said."""
    from music21.analysis.discrete import AardenEssen, KrumhanslSchmuckler

    found = [analyser().getSolution(score) for analyser in (KrumhanslSchmuckler, AardenEssen)]
    return [Key(key.tonic.pitchClass, key.mode) for key in (*found, score.analyze("key"))]


def our_keys(notes: Notes) -> list[Key]:
    krumhansl, aarden = find_key(notes, "krumhansl"), find_key(notes, "aarden")
    return [krumhansl, aarden, aarden]


def heard(parts: Iterable[Any]) -> Heard:
    """What music21's parts hold, drums left out; a note of no length has one tick."""
    from music21 import note, percussion

    sounding: set[tuple[int, int]] = set()
    struck: set[tuple[int, int]] = set()
    for element in (element for part in parts for element in part.flatten().notes):
        if isinstance(element, note.Unpitched | percussion.PercussionChord):
            continue
        onset, end = round(12 * element.offset), round(12 * (element.offset + element.quarterLength))
        for member in members(element):
            pitch = member.pitch.midi
            sounding.update((tick, pitch) for tick in range(onset, max(end, onset + 1)))
            if begins(member):
                struck.add((onset, pitch))
    return sounding, struck


def we_hear(notes: Notes) -> Heard:
    rows = notes[:, :3].tolist()
    sounding = {(tick, pitch) for onset, ticks, pitch in rows for tick in range(onset, onset + ticks)}
    return sounding, {(onset, pitch) for onset, _, pitch in rows}


# Chorales


def chorales(every: int) -> list[Source]:
    sources = find_sources(["bach"])
    return [source for place, source in enumerate(sources) if place % every == 0 or source.name in HARD]


def without_grace_notes(score: Any) -> Any:
    """chordify() lets a grace note sound as long as the notes that it decorates; ours are left out."""
    for element in [element for element in score.recurse().notes if element.duration.isGrace]:
        element.activeSite.remove(element)
    return score


def has_common_bars(score: Any) -> bool:
    """chordify() takes the bars of the first part for all, and loses what does not lie in them."""
    offsets = [[bar.offset for bar in part.getElementsByClass("Measure")] for part in score.parts]
    return all(offset == offsets[0] for offset in offsets)


def in_24ths(quarters: Any) -> int:
    """The slicer does not care how long a tick is: on this grid all chorales are exact."""
    assert 24 * quarters == int(24 * quarters)
    return int(24 * quarters)


def notes_of(score: Any) -> Notes:
    """The notes of a music21 score in 24ths of a quarter, ties joined.

    Each is on a track of its own, or those that overlap on one pitch would be cut.
    """
    rows: list[list[int]] = []
    for part in score.parts:
        tied: dict[tuple[int, int], list[int]] = {}
        for element in part.flatten().notes:
            onset, length = in_24ths(element.offset), in_24ths(element.quarterLength)
            for note in members(element):
                row = None if begins(note) else tied.pop((note.pitch.midi, onset), None)
                if row is None:
                    row = [onset, 0, note.pitch.midi]
                    rows.append(row)
                row[1] += length
                tied[note.pitch.midi, onset + length] = row
    onsets, durations, pitches = np.array(rows).T
    return make_notes(onsets, durations, pitches, np.arange(len(rows)))


def by_chordify(score: Any) -> Events:
    """The events of chordify(), those that differ in nothing from the one before joined to it.

    There are such events at bar lines and at ties. Redundant pitches are kept, because the notes of a
    unison have ties of their own. A tie that nothing began (there is one) is an attack.
    """
    events: Events = [(0, 0, {})]
    for element in score.chordify(removeRedundantPitches=False).flatten().notesAndRests:
        onset, duration, before = events[-1]
        assert in_24ths(element.offset) == onset + duration
        pitches: dict[int, bool] = {}
        for note in members(element):
            pitch = note.pitch.midi
            pitches[pitch] = pitches.get(pitch, False) or begins(note) or pitch not in before
        if pitches.keys() == before.keys() and not any(pitches.values()):
            events[-1] = (onset, duration + in_24ths(element.quarterLength), before)
        else:
            events.append((onset + duration, in_24ths(element.quarterLength), pitches))
    ends_silent = not events[-1][2]
    return events[1 : len(events) - ends_silent]


def by_us(notes: Notes) -> Events:
    slices: Slices = slice_notes(notes)
    onset = int(notes[0, 0]) + np.cumsum(slices.duration) - slices.duration
    parts = np.split(np.stack([slices.pitch, slices.attacked], axis=1), slices.start[1:-1])
    return [
        (at, ticks, {pitch: bool(attacked) for pitch, attacked in part.tolist()})
        for at, ticks, part in zip(onset.tolist(), slices.duration.tolist(), parts, strict=True)
    ]


@pytest.mark.parametrize("every", [34, pytest.param(1, marks=pytest.mark.slow)])
def test_slices_and_keys_of_chorales_are_those_of_music21(every: int) -> None:
    """Of all 408, but for the slices of those whose parts have different bars: one."""
    other_slices, other_keys, left_out = [], [], []
    for source in chorales(every):
        score = without_grace_notes(parsed(source.path))
        notes = notes_of(score)
        if our_keys(notes) != keys_of(score):
            other_keys.append(source.name)
        if not has_common_bars(score):
            left_out.append(source.name)
        elif by_us(notes) != by_chordify(score):
            other_slices.append(source.name)
    assert other_slices == other_keys == []
    assert len(left_out) <= 1


@pytest.mark.parametrize("every", [34, pytest.param(1, marks=pytest.mark.slow)])
def test_chorales_are_read_as_music21_reads_them(every: int) -> None:
    """All but three: a part strikes what it holds, which cuts our note; a tie has no beginning; and in
    bwv171.6 a part leaves out rests, after which music21 has it out of step.
    """
    different = []
    for source in chorales(every):
        score = without_grace_notes(parsed(source.path))
        if we_hear(read_piece(source).notes) != heard(score.parts):
            different.append(source.name)
    assert len(different) <= 3


# MIDI through the `music21` quantiser


def keeps_time(score: Any) -> bool:
    """Is everything where it was before there were bars?

    music21 fills some bars with more than they hold, and all that follows comes late. A note of no length at
    the very end comes into no bar, and loses its place.
    """
    for part in score.parts:
        bars = list(part.getElementsByClass("Measure"))
        ends = [bar.offset + bar.barDuration.quarterLength for bar in bars]
        if part.notes or any(bar.offset != end for bar, end in zip(bars[1:], ends, strict=False)):
            return False
    return True


def without_bars(track: Any, per_quarter: int) -> Any:
    """A track of music21's MIDI reader, quantised, before bars are made, where it can go wrong."""
    from music21 import midi, stream

    class Unbarred(stream.Part):
        def makeMeasures(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802
            return self

        makeTies = makeRests = makeMeasures

    part = Unbarred()
    midi.translate.midiTrackToStream(track, ticksPerQuarter=per_quarter, inputM21=part)
    return part


@music21_unheeded()
def tracks_without_bars(path: Path) -> list[Any]:
    from music21 import midi

    file = midi.MidiFile()
    file.open(path)
    file.read()
    file.close()
    sounding = [track for track in file.tracks if track.hasNotes()]
    return [without_bars(track, file.ticksPerQuarterNote) for track in sounding]


ON_GRID = st.builds(
    lambda beat, place: 12 * beat + place, st.integers(0, 9), st.sampled_from([0, 3, 4, 6, 8])
)
OTHER_EVENTS = st.sampled_from(
    [
        mido.Message("control_change", control=64, value=127),
        mido.MetaMessage("set_tempo", tempo=400_000),
        mido.MetaMessage("key_signature", key="D"),
        mido.MetaMessage("lyrics", text="la"),
    ]
)


@st.composite
def midi_files(draw: st.DrawFn) -> bytes:
    """Tracks of notes on the grid or anywhere, in two channels and the drums', in any usual meter."""
    scale = draw(st.sampled_from([2, 8, 40]))
    time = draw(
        st.sampled_from([ON_GRID.map(lambda twelfths: scale * twelfths), st.integers(0, 120 * scale)])
    )
    note = st.tuples(time, time, st.integers(60, 64), st.sampled_from([0, 0, 1, 9]))
    above, below = draw(st.sampled_from([(4, 4), (3, 4), (6, 8), (5, 16)]))
    file = mido.MidiFile(ticks_per_beat=12 * scale)
    file.tracks.append([mido.MetaMessage("time_signature", numerator=above, denominator=below)])
    for rows in draw(st.lists(st.lists(note, min_size=1, max_size=12), min_size=1, max_size=3)):
        # One program a track: of several that are one instrument to music21, it keeps the first.
        events = [(draw(time), mido.Message("program_change", program=draw(st.integers(0, 127))))]
        events += draw(st.lists(st.tuples(time, OTHER_EVENTS), max_size=3))
        for one, other, key, channel in rows:
            events.append((min(one, other), mido.Message("note_on", note=key, channel=channel)))
            events.append((max(one, other), mido.Message("note_off", note=key, channel=channel)))
        # What happens at one time does so in any order.
        events = sorted(draw(st.permutations(events)), key=lambda event: event[0])
        deltas = np.diff([0, *(at for at, _ in events)]).tolist()
        file.tracks.append([event.copy(time=ticks) for (_, event), ticks in zip(events, deltas, strict=True)])
    content = io.BytesIO()
    file.save(file=content)
    return content.getvalue()


@given(content=midi_files())
def test_any_midi_is_heard_as_music21_hears_it(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("midi") / "any.mid"
    path.write_bytes(content)
    expected = heard(tracks_without_bars(path))
    assume(expected[1])
    ours = we_hear(read_piece(Source("any", path), "music21").notes)
    assert ours == expected
    score = parsed(path)
    assert ours == heard(score.parts) or not keeps_time(score)


def article_files(number: int) -> list[Source]:
    """All, or a few of the smaller ones."""
    sources = find_sources([str(ARTICLE_DATA)])
    sources.sort(key=lambda source: len(source.content()))
    return sources if number == len(sources) else sources[:40:5][:number]


@needs_article_data
@pytest.mark.parametrize("number", [8, pytest.param(99, marks=pytest.mark.slow)])
def test_the_articles_files_are_heard_as_music21_hears_them(number: int, tmp_path: Path) -> None:
    """Before music21 makes bars, all; after that, and by their keys, the 70 that keep time in it."""
    path = tmp_path / "piece.mid"
    different, late = [], []
    for source in article_files(number):
        path.write_bytes(source.content())
        notes = read_piece(source, "music21").notes
        ours = we_hear(notes)
        if ours != heard(tracks_without_bars(path)):
            different.append(source.name)
        score = parsed(path)
        if not keeps_time(score):
            late.append(source.name)
        elif ours != heard(score.parts) or our_keys(notes) != keys_of(score):
            different.append(source.name)
    assert different == []
    assert len(late) <= 0.3 * number
