"""MusicXML out: a valid score that reads back as the same notes, here and in the programs of others."""

import base64
import io
from collections import Counter
from fractions import Fraction
from pathlib import Path

import mido
import music21
import numpy as np
import pytest
import verovio
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from midigen_jax.music.clock import TWELFTHS, Clock
from midigen_jax.music.key import Key
from midigen_jax.music.notes import Notes, make_notes
from midigen_jax.music.scores import Score, read_score
from midigen_jax.music.voices import voice_names
from midigen_jax.music.write_musicxml import write_musicxml

METERS = [(4, 4), (3, 4), (2, 2), (6, 8), (12, 8), (5, 8), (7, 16), (5, 4), (1, 4), (3, 32), (64, 4)]
TYPES = ("breve", "whole", "half", "quarter", "eighth", "16th", "32nd", "64th", "128th")


@st.composite
def pieces(draw: st.DrawFn):
    """Notes of three tracks that cross, overlap and leave gaps; on any clock, in any meter and upbeat."""
    clock, meter = Clock(draw(st.sampled_from([4, 12, 24, 48]))), draw(st.sampled_from(METERS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, step = draw(st.integers(1, 24)), draw(st.sampled_from([1, clock.quarter // 4, clock.quarter]))
    low = draw(st.integers(0, 100))
    notes = make_notes(
        step * rng.integers(0, 8 * clock.quarter // step, count),
        step * rng.integers(1, 1 + 6 * clock.quarter // step, count),
        np.minimum(low + rng.integers(0, draw(st.sampled_from([3, 12, 48])), count), 127),
        rng.integers(0, 3, count),
    )
    how = {"meter": meter, "clock": clock, "first_bar": draw(st.integers(0, clock.bar(meter) - 1))}
    return notes, how | {"tempo": draw(st.integers(8, 2000)) / 2, "program": draw(st.integers(0, 127))}


def written(folder: pytest.TempPathFactory, notes: Notes, **how) -> Path:
    path = folder.mktemp("score") / "piece.musicxml"
    write_musicxml(notes, path, **how)
    return path


def read(path: Path, clock: Clock = TWELFTHS) -> Score:
    return read_score(".musicxml", path.read_bytes(), clock=clock)


@given(pieces())
def test_any_voices_survive_a_file(tmp_path_factory, piece):
    """Onsets, durations over ties, pitches and parts, soprano first; tempo, meter, upbeat, names, program."""
    notes, how = piece
    names = voice_names(4)
    score = read(written(tmp_path_factory, notes, names=names, **how), how["clock"])
    onset, duration, pitch, track = score.notes.T
    np.testing.assert_array_equal(make_notes(onset, duration, pitch, 3 - track), notes)
    assert score.parts == [(name, how["program"]) for name in ("Soprano", "Alto", "Tenor", "Bass")]
    assert (score.tempo, score.meter, score.first_bar) == (how["tempo"], how["meter"], how["first_bar"])
    assert not score.remarks


@given(pieces())
def test_any_tracks_survive_a_file(tmp_path_factory, piece):
    """A track that is too wide for one staff has two, which read as two parts."""
    notes, how = piece
    score = read(written(tmp_path_factory, notes, **how), how["clock"])
    assert Counter(map(tuple, score.notes[:, :3].tolist())) == Counter(map(tuple, notes[:, :3].tolist()))
    tracks, part = np.unique(notes[:, 3], return_inverse=True)
    if len(score.parts) == len(tracks):
        np.testing.assert_array_equal(make_notes(*notes[:, :3].T, part), score.notes)


@given(pieces())
def test_every_sign_says_how_long_it_lasts_and_every_voice_fills_its_bars(tmp_path_factory, piece):
    notes, how = piece
    root = etree.parse(written(tmp_path_factory, notes, **how)).getroot()
    for number, bar in enumerate(root.iterfind("part/measure")):
        lasts: Counter = Counter()
        for note in bar.iterfind("note"):
            duration = int(note.findtext("duration"))
            if note.find("chord") is None:
                lasts[note.findtext("voice")] += duration
            if note.find("type") is not None:
                signs = Fraction(8 * how["clock"].quarter, 2 ** TYPES.index(note.findtext("type")))
                signs *= 2 - Fraction(1, 2 ** len(note.findall("dot")))
                signs *= Fraction(
                    *(
                        int(note.findtext(f"time-modification/{name}-notes", "1"))
                        for name in ("normal", "actual")
                    )
                )
                assert signs == duration
        length = how["first_bar"] if bar.get("number") == "0" else how["clock"].bar(how["meter"])
        assert set(lasts.values()) == {length}, number


class Schema(etree.Resolver):
    """What the schema of MusicXML asks of others, without the network."""

    def resolve(self, url, public_id, context):
        if not url.startswith("http"):
            return None
        space = (
            "http://www.w3.org/XML/1998/namespace"
            if url.endswith("/xml.xsd")
            else "http://www.w3.org/1999/xlink"
        )
        names = ("lang", "space", "href", "type", "role", "title", "show", "actuate")
        attributes = "".join(f'<attribute name="{name}" type="string"/>' for name in names)
        begin = f'<schema xmlns="http://www.w3.org/2001/XMLSchema" targetNamespace="{space}">'
        return self.resolve_string(f"{begin}{attributes}</schema>", context)


@pytest.fixture(scope="module")
def schema():
    """The schema that music21 brings: of MusicXML 2.0, whose elements and their order are 4.0's."""
    parser = etree.XMLParser()
    parser.resolvers.add(Schema())
    path = Path(music21.__file__).parent / "musicxml" / "musicxml.xsd"
    return etree.XMLSchema(etree.parse(path, parser))


@given(piece=pieces(), named=st.booleans())
def test_any_score_is_valid(tmp_path_factory, schema, piece, named):
    notes, how = piece
    notes = notes[notes[:, 2] > 12]  # below may be the octave -1, which the schema does not know
    score = etree.parse(written(tmp_path_factory, notes, names=voice_names(3) if named else (), **how))
    for rest in score.iter("rest"):
        rest.attrib.pop("measure", None)  # since 3.0
    schema.assertValid(score)


CHORALE = make_notes(
    [0, 12, 24, 30, 36, 60, 0, 12, 36, 60, 12, 12, 28, 32],
    [12, 12, 6, 6, 24, 48, 12, 24, 24, 48, 96, 16, 4, 76],
    [69, 71, 72, 68, 69, 68, 64, 64, 65, 64, 45, 60, 62, 59],
    [3, 3, 3, 3, 3, 3, 2, 2, 2, 2, 0, 1, 1, 1],
)
PIANO = make_notes(
    [0, 0, 6, 6, 10, 14, 18, 12, 24, 24, 26, 28, 30, 36],
    [6, 30, 4, 40, 4, 4, 30, 36, 2, 24, 2, 2, 6, 60],
    [72, 48, 74, 55, 76, 77, 79, 43, 72, 60, 73, 74, 75, 40],
    [0] * 14,
)
EXAMPLES = [(CHORALE, voice_names(4), (4, 4), 12), (PIANO, (), (3, 4), 0), (PIANO, (), (6, 8), 18)]
OTHERS = pytest.mark.parametrize(("notes", "names", "meter", "first_bar"), EXAMPLES)


@OTHERS
def test_music21_reads_the_same_notes(tmp_path, notes, names, meter, first_bar):
    path = tmp_path / "piece.musicxml"
    write_musicxml(notes, path, meter=meter, first_bar=first_bar, names=names)
    score = music21.converter.parse(path, forceSource=True)
    found, begun = [], {}
    for number, part in enumerate(score.parts):
        for event in sorted(part.flatten().notes, key=lambda event: event.offset):
            for note in event.notes if event.isChord else [event]:
                end, tie = event.offset + event.quarterLength, note.tie and note.tie.type
                begin = begun.pop((number, note.pitch.midi)) if tie in ("stop", "continue") else event.offset
                if tie in ("start", "continue"):
                    begun[number, note.pitch.midi] = begin
                else:
                    found.append((round(12 * begin), round(12 * (end - begin)), note.pitch.midi, number))
    assert not begun
    parts = 3 - notes[:, 3] if names else notes[:, 2] < 60  # the left hand is a part of its own
    assert sorted(found) == sorted(map(tuple, np.column_stack([notes[:, :3], parts]).tolist()))
    assert score.parts[0].flatten().getElementsByClass("Key")[0].sharps == 0
    assert (
        score.parts[0].flatten().getElementsByClass("TimeSignature")[0].ratioString
        == f"{meter[0]}/{meter[1]}"
    )
    if names:
        assert [part.partName for part in score.parts] == ["Soprano", "Alto", "Tenor", "Bass"]


@OTHERS
def test_verovio_plays_the_same_notes(tmp_path, notes, names, meter, first_bar):
    path = tmp_path / "piece.musicxml"
    write_musicxml(notes, path, meter=meter, first_bar=first_bar, names=names)
    verovio.enableLog(verovio.LOG_OFF)
    score = verovio.toolkit()
    assert score.loadFile(str(path))
    played = mido.MidiFile(file=io.BytesIO(base64.b64decode(score.renderToMIDI())))
    found = []
    for track in played.tracks:
        now, begun = 0, {}
        for event in track:
            now += event.time
            if event.type == "note_on" and event.velocity:
                begun[event.note] = now
            elif event.type in ("note_on", "note_off"):
                begin = begun.pop(event.note)  # it lets keys go a little early
                found.append(
                    [round(12 * time / played.ticks_per_beat) for time in (begin, now - begin)] + [event.note]
                )
    assert sorted(found) == sorted(notes[:, :3].tolist())
    assert score.getPageCount() == 1
    assert "<svg" in score.renderToSVG(1)


def test_a_chorale_is_this_score(tmp_path):
    path = tmp_path / "new folder" / "piece.musicxml"
    write_musicxml(CHORALE, path, 72, 52, first_bar=12, names=voice_names(4), source="by\x01nobody <&>")
    root = etree.parse(path).getroot()
    assert root.findtext("identification/source") == "by?nobody <&>"
    bars = root.findall("part[@id='P1']/measure")
    assert [(bar.get("number"), bar.get("implicit")) for bar in bars] == [
        ("0", "yes"),
        ("1", None),
        ("2", None),
    ]
    assert (root.findtext(".//fifths"), root.findtext(".//mode")) == ("0", "minor")
    assert [sound.get("tempo") for sound in root.iter("sound")] == ["72"]
    clefs = [
        "".join(clef.findtext(name, "") for name in ("sign", "clef-octave-change"))
        for clef in root.iter("clef")
    ]
    assert clefs == ["G", "G", "G-1", "F"]
    steps = [
        note.findtext("pitch/step") + note.findtext("pitch/alter", "") for note in bars[1].iterfind("note")
    ]
    assert steps == ["B", "C", "G1", "A"]
    assert [bar.findtext("barline/bar-style") for bar in bars] == [None, None, "light-heavy"]
    rests = root.findall("part[@id='P4']/measure[@number='0']/note/rest")
    assert [rest.getnext().text for rest in rests] == ["12"]


def shown(notes: Notes, tmp_path: Path, meter: tuple[int, int] = (4, 4), **how) -> str:
    """The signs of a score in words: a triplet's has a t, a tie a tilde, a rest an r."""
    write_musicxml(notes, tmp_path / "piece.musicxml", meter=meter, **how)
    words = []
    for bar in etree.parse(tmp_path / "piece.musicxml").getroot().iterfind("part/measure"):
        for note in bar.iterfind("note[voice='1']"):
            rest = "r" if note.find("rest") is not None else ""
            sign = note.findtext("type", "bar") + "." * len(note.findall("dot"))
            triplet = "t" if note.find("time-modification") is not None else ""
            words.append(rest + sign + triplet + "~" * (note.find("tie[@type='start']") is not None))
        words.append("|")
    return " ".join(words[:-1])


def one(*spans: tuple[int, int]) -> Notes:
    begin, end = np.array(spans).T
    return make_notes(begin, end - begin, 0 * begin + 60, 0 * begin)


@pytest.mark.parametrize(
    ("notes", "meter", "words"),
    [
        (one((0, 48)), (4, 4), "whole"),
        (one((0, 36)), (4, 4), "half. rquarter"),
        (one((0, 42)), (4, 4), "half~ quarter. reighth"),
        (one((6, 18)), (4, 4), "reighth quarter reighth rhalf"),
        (one((12, 36)), (4, 4), "rquarter half rquarter"),
        (one((18, 30)), (4, 4), "rquarter. eighth~ eighth rquarter."),
        (one((9, 18)), (4, 4), "reighth. 16th~ eighth reighth rhalf"),
        (one((0, 60)), (4, 4), "whole~ | quarter rhalf."),
        (one((0, 36)), (3, 4), "half."),
        (one((6, 30)), (3, 4), "reighth eighth~ quarter. reighth"),
        (one((0, 36)), (6, 8), "half."),
        (one((6, 24)), (6, 8), "reighth quarter~ eighth rquarter"),
        (one((0, 30)), (5, 8), "half~ eighth"),
        (one((0, 4), (4, 8), (8, 12)), (2, 4), "eightht eightht eightht rquarter"),
        (one((0, 8), (8, 12)), (1, 4), "quartert eightht"),
        (one((0, 2), (2, 4), (4, 6), (6, 12)), (1, 4), "16tht 16tht 16tht eighth"),
        (one((8, 28)), (3, 4), "rquartert eightht~ quarter~ eightht rquartert"),
        (one((0, 12), (60, 72)), (3, 4), "quarter rhalf | rhalf quarter"),
        (one((0, 12), (72, 84)), (3, 4), "quarter rhalf | rbar | quarter rhalf"),
    ],
)
def test_time_is_written_so(tmp_path, notes, meter, words):
    assert shown(notes, tmp_path, meter) == words


def test_a_finer_clock_has_shorter_signs(tmp_path):
    notes = one((0, 3), (3, 6), (6, 48), (48, 64), (64, 80), (80, 96))
    words = "64th 64th 16th.~ eighth eightht eightht eightht"
    assert shown(notes, tmp_path, (2, 4), clock=Clock(48)) == words


def test_accidentals_hold_for_a_bar(tmp_path):
    """F# in C major, again, and back; in the next bar it is said again, and a tie needs none."""
    onset, pitch = [0, 12, 24, 36, 48, 84, 108], [66, 66, 65, 60, 66, 66, 66]
    notes = make_notes(onset, [12, 12, 12, 12, 36, 24, 36], pitch, [0] * 7)
    write_musicxml(notes, tmp_path / "piece.musicxml", key=Key(0, "major"))
    root = etree.parse(tmp_path / "piece.musicxml").getroot()
    found = [note.findtext("accidental") for note in root.iterfind("part/measure/note[pitch]")]
    assert found == ["sharp", None, "natural", None, "sharp", None, None, "sharp"]


def test_music_without_notes_is_a_score_too(tmp_path):
    write_musicxml(
        make_notes([], [], [], []), tmp_path / "piece.musicxml", meter=(3, 4), names=voice_names(3)
    )
    score = read(tmp_path / "piece.musicxml")
    assert (len(score.notes), score.meter, len(score.parts)) == (0, (3, 4), 3)
