"""Scores: MusicXML, ABC and Humdrum as notes, read in a process that may be slow, greedy or dead."""

import io
import zipfile
from pathlib import Path

import pytest

from midigen_jax.errors import InputError
from midigen_jax.music import scores
from midigen_jax.music.read import Piece, Source, find_sources, read_piece


def musicxml(*parts: str, head: str = "") -> str:
    """A partwise score; each part is the content of its only measure, with 2 divisions in a quarter."""
    names = "".join(
        f'<score-part id="P{i}"><part-name>part</part-name></score-part>' for i in range(len(parts))
    )
    bodies = "".join(
        f'<part id="P{i}"><measure number="1"><attributes><divisions>2</divisions>'
        f"<time><beats>3</beats><beat-type>4</beat-type></time></attributes>{body}</measure></part>"
        for i, body in enumerate(parts)
    )
    xml = '<?xml version="1.0"?>'
    return f"{xml}{head}<score-partwise><part-list>{names}</part-list>{bodies}</score-partwise>"


def note(step: str, duration: int, *more: str, octave: int = 4) -> str:
    pitch = f"<pitch><step>{step}</step><octave>{octave}</octave></pitch>"
    return f"<note>{pitch}<duration>{duration}</duration>{''.join(more)}</note>"


def tie(*types: str) -> str:
    return "".join(f'<tie type="{one}"/>' for one in types)


def mxl(*members: tuple[str, str | bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


@pytest.fixture
def read(tmp_path: Path):
    def read(name: str, content: str | bytes) -> Piece:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_piece(Source(name, path))

    return read


@pytest.fixture
def refused(read):
    def refused(name: str, content: str | bytes, words: str) -> None:
        with pytest.raises(InputError, match=words) as caught:
            read(name, content)
        assert str(caught.value).startswith(f"{name}: ")
        assert "\n" not in str(caught.value)

    return refused


# MusicXML


def test_a_part_is_a_track_and_a_chord_its_notes(read) -> None:
    chord = note("C", 2) + note("E", 2, "<!-- -->").replace("<note>", "<note><chord/>")
    piece = read("a.musicxml", musicxml(chord + note("G", 4), note("C", 6, octave=3)))
    assert piece.notes.tolist() == [[0, 36, 48, 1], [0, 12, 60, 0], [0, 12, 64, 0], [12, 24, 67, 0]]
    assert (piece.tempo, piece.meter, piece.length, piece.frame) == (90, (3, 4), None, None)


def test_a_score_is_read_the_same_whatever_holds_it(read) -> None:
    text = musicxml(note("C", 2))
    container = '<container><rootfiles><rootfile full-path="b.xml"/></rootfiles></container>'
    ways = {
        "plain.xml": text.encode(),
        "plain.XML": text.encode(),
        "wide.xml": text.replace('"1.0"', '"1.0" encoding="UTF-16"').encode("utf-16"),
        "bare.mxl": mxl(("b.xml", text)),
        "named.mxl": mxl(("META-INF/container.xml", container), ("a.xml", "<no/>"), ("b.xml", text)),
        "zipped.musicxml": mxl(("b.xml", text)),
    }
    assert {name: read(name, content).notes.tolist() for name, content in ways.items()} == {
        name: [[0, 12, 60, 0]] for name in ways
    }


def test_the_first_tempo_is_the_pieces(read) -> None:
    mark = "<direction><direction-type><metronome><beat-unit>{}</beat-unit><per-minute>{}</per-minute>"
    marks = [
        mark.format(*one) + "</metronome></direction-type></direction>"
        for one in [("half", 50), ("half", 30)]
    ]
    piece = read("a.xml", musicxml(marks[0] + note("C", 2) + marks[1] + note("D", 4)))
    assert piece.tempo == 100


def _key(fifths: str, *more: str) -> str:
    return f"<attributes><key><fifths>{fifths}</fifths></key>{''.join(more)}</attributes>"


_B_FLAT = "<transpose><chromatic>-2</chromatic></transpose>"


@pytest.mark.parametrize(
    ("name", "content", "signature"),
    [
        ("a.xml", musicxml(_key("-3") + note("E", 2) + _key("2") + note("D", 4)), -3),
        ("a.xml", musicxml(_key("3", _B_FLAT) + note("E", 2), _key("1") + note("D", 2)), 1),
        ("a.xml", musicxml(_key("nan") + note("E", 2)), None),
        ("a.xml", musicxml(_key("70") + note("E", 2)), None),
        ("a.xml", musicxml(note("E", 2)), None),
        ("a.krn", "**kern\t**kern\n*k[b-e-]\t*k[b-e-]\n4C\t4g\n*k[f#]\t*k[f#]\n4D\t4f#\n*-\t*-\n", -2),
        ("a.krn", "**kern\n*k[]\n4C\n*-\n", 0),
        ("a.krn", "**kern\n4C\n*-\n", None),
        ("a.abc", "X:1\nL:1/4\nM:4/4\nK:Ddor\nDEFG|\n", 0),
        ("a.abc", "X:1\nL:1/4\nM:4/4\nK:Eb\nEFGA|\n", -3),
    ],
)
def test_the_first_key_signature_is_the_pieces(read, name: str, content: str, signature: int | None) -> None:
    assert read(name, content).signature == signature


def test_an_absurd_tempo_or_meter_is_the_default(read) -> None:
    assert read("a.abc", "X:1\nM:4/4\nQ:1/4=100000\nK:C\nC").tempo == 90
    assert read("a.xml", musicxml(note("C", 2)).replace("<beats>3<", "<beats>300<")).meter == (4, 4)


def test_notes_tied_together_are_one_and_others_are_not(read) -> None:
    tied = note("C", 2, tie("start")) + note("C", 1, tie("stop", "start")) + note("C", 1, tie("stop"))
    assert read("a.xml", musicxml(tied + note("C", 2))).notes.tolist() == [[0, 24, 60, 0], [24, 12, 60, 0]]


def test_a_tie_goes_from_chord_to_chord_by_its_pitch(read) -> None:
    low, high = note("C", 2, tie("start")), note("E", 2).replace("<note>", "<note><chord/>")
    then = note("C", 2, tie("stop")) + high
    assert read("a.xml", musicxml(low + high + then)).notes.tolist() == [
        [0, 24, 60, 0],
        [0, 12, 64, 0],
        [12, 12, 64, 0],
    ]


def test_grace_notes_are_left_out(read) -> None:
    grace = "<note><grace/><pitch><step>D</step><octave>4</octave></pitch></note>"
    assert read("a.xml", musicxml(grace + note("C", 2))).notes.tolist() == [[0, 12, 60, 0]]


def test_chord_symbols_are_no_notes(read) -> None:
    symbol = "<harmony><root><root-step>C</root-step></root><kind>major</kind></harmony>"
    assert read("a.xml", musicxml(symbol + note("C", 2))).notes.tolist() == [[0, 12, 60, 0]]


def test_repeats_are_not_played_twice(read) -> None:
    repeat = '<barline location="right"><repeat direction="backward"/></barline>'
    assert read("a.xml", musicxml(note("C", 6) + repeat)).notes.tolist() == [[0, 36, 60, 0]]


def bars(*contents: str, meter: str = "4/4") -> str:
    """A part of bars, with 2 divisions in a quarter."""
    beats, unit = meter.split("/")
    time = f"<time><beats>{beats}</beats><beat-type>{unit}</beat-type></time>"
    head = f"<attributes><divisions>2</divisions>{time}"
    return "".join(
        f'<measure number="{number}">{"" if number else head + "</attributes>"}{content}</measure>'
        for number, content in enumerate(contents)
    )


def score(*parts: str) -> str:
    names = "".join(f'<score-part id="P{number}"/>' for number in range(len(parts)))
    bodies = "".join(f'<part id="P{number}">{part}</part>' for number, part in enumerate(parts))
    return f"<score-partwise><part-list>{names}</part-list>{bodies}</score-partwise>"


def pitches(text: str, played: bool = True) -> list[int]:
    return [pitch for _, _, pitch, _ in scores.read_score(".xml", text.encode(), played).notes.tolist()]


def line(kind: str, **about: str) -> str:
    side = "left" if "forward" in about.values() or about.get("type") == "start" else "right"
    words = " ".join(f'{name}="{value}"' for name, value in about.items())
    return f'<barline location="{side}"><{kind} {words}/></barline>'


def test_repeats_and_endings_are_played_if_they_are_asked_for() -> None:
    again = line("repeat", direction="backward")
    assert pitches(score(bars(note("C", 8), note("D", 8) + again, note("E", 8)))) == [60, 62, 60, 62, 64]
    begin = line("repeat", direction="forward")
    inner = bars(note("C", 8), begin + note("D", 8) + again, note("E", 8))
    assert pitches(score(inner)) == [60, 62, 62, 64]
    assert pitches(score(inner), played=False) == [60, 62, 64]
    first = line("ending", number="1", type="start") + note("D", 8)
    first += line("ending", number="1", type="stop") + again
    second = line("ending", number="2", type="start") + note("E", 8) + line("ending", number="2", type="stop")
    ended = score(bars(note("C", 8), first, second, note("F", 8) + again), bars(*[note("G", 8)] * 4))
    assert [pitch for pitch in pitches(ended) if pitch != 67] == [60, 62, 60, 64, 65, 65]
    thrice = line("repeat", direction="backward", times="3")
    assert pitches(score(bars(note("C", 8) + thrice, note("D", 8)))) == [60, 60, 60, 62]


def test_bars_of_all_parts_begin_together_and_what_was_short_is_told(read) -> None:
    upper, lower = (
        bars(*[note("C", 8)] * 3),
        bars(note("E", 4), note("F", 8, tie("start")), note("F", 6, tie("stop"))),
    )
    piece = read("a.xml", score(upper, lower))
    assert piece.notes[piece.notes[:, 3] == 1].tolist() == [[0, 24, 64, 1], [48, 84, 65, 1]]
    assert piece.remarks == ("bars that are shorter in one part than in another: 2",)
    assert read("b.xml", score(upper, bars(note("E", 8)))).remarks == ("parts that end before others: 1",)
    assert read("c.xml", score(upper, upper)).remarks == ()


@pytest.mark.parametrize(
    ("contents", "meter", "first_bar"),
    [
        ((note("C", 2), note("D", 8)), "4/4", 12),
        ((note("C", 1), note("D", 6)), "3/4", 6),
        ((note("C", 8), note("D", 8)), "4/4", 0),
        ((note("C", 1), note("D", 3)), "3/8", 6),
    ],
)
def test_a_first_bar_that_is_short_is_an_upbeat(read, contents, meter: str, first_bar: int) -> None:
    assert read("a.xml", score(bars(*contents, meter=meter))).first_bar == first_bar


def test_durations_may_be_decimal_or_those_of_the_signs(read) -> None:
    half = note("C", 2).replace(">2<", ">0.5<")
    assert read("a.xml", musicxml(half + note("D", 2))).notes[:, 1].tolist() == [3, 12]
    signs = [
        note("C", 2).replace("<duration>2</duration>", f"<type>{kind}</type>{more}")
        for kind, more in [
            ("half", ""),
            ("quarter", "<dot/>"),
            ("eighth", "<dot/><dot/>"),
            (
                "eighth",
                "<time-modification><actual-notes>3</actual-notes><normal-notes>2</normal-notes></time-modification>",
            ),
        ]
    ]
    ends = read("b.xml", musicxml("".join(signs))).notes[:, :2].sum(axis=1).tolist()
    assert ends == [24, 42, 52, 56]  # 7/8 of a quarter is 10.5 ticks: the end lies on the grid


def test_what_players_do_not_play_is_silent(read) -> None:
    cue = note("C", 2).replace("<note>", "<note><cue/>")
    chord = note("E", 2).replace("<note>", "<note><chord/>")
    assert read("a.xml", musicxml(cue + note("D", 2) + chord)).notes.tolist() == [
        [12, 12, 62, 0],
        [12, 12, 64, 0],
    ]


def test_ties_go_from_staff_to_staff_and_may_be_for_the_eye_alone(read) -> None:
    eye = [f'<notations><tied type="{kind}"/></notations>' for kind in ("start", "stop")]
    across = note("C", 2, "<staff>1</staff>", eye[0]) + note("C", 4, "<staff>2</staff>", eye[1])
    assert read("a.xml", musicxml(across)).notes.tolist() == [[0, 36, 60, 0]]


def test_a_tie_may_go_to_a_voice_that_is_written_before(read) -> None:
    upper = "<forward><duration>2</duration></forward>" + note("C", 4, tie("stop"))
    lower = "<backup><duration>6</duration></backup>" + note("C", 2, tie("start"))
    assert read("a.xml", musicxml(upper + lower)).notes.tolist() == [[0, 36, 60, 0]]


def test_staves_are_tracks(read) -> None:
    low = note("C", 6, "<staff>2</staff>", octave=3)
    text = musicxml(note("C", 6, "<staff>1</staff>") + "<backup><duration>6</duration></backup>" + low)
    assert read("a.xml", text).notes.tolist() == [[0, 36, 48, 1], [0, 36, 60, 0]]


def test_a_transposing_instrument_sounds_as_it_is_heard(read) -> None:
    clarinet = (
        "<attributes><transpose><diatonic>-1</diatonic><chromatic>-2</chromatic></transpose></attributes>"
    )
    piece = read("a.xml", musicxml(clarinet + note("D", 6), note("C", 6)))
    assert piece.notes.tolist() == [[0, 36, 60, 0], [0, 36, 60, 1]]
    bass = clarinet.replace("<chromatic>-2</chromatic>", "<octave-change>-1</octave-change>")
    assert read("b.xml", musicxml(bass + note("C", 6))).notes.tolist() == [[0, 36, 48, 0]]


def midi_instrument(channel: int, program: int) -> str:
    """What stands in a <score-part> beside its name; both count from 1."""
    numbers = f"<midi-channel>{channel}</midi-channel><midi-program>{program}</midi-program>"
    instrument = '<score-instrument id="I"><instrument-name/></score-instrument>'
    return f'{instrument}<midi-instrument id="I">{numbers}</midi-instrument>'


def test_drums_are_left_out(read) -> None:
    place = "<display-step>C</display-step><display-octave>5</display-octave>"
    drum = f"<note><unpitched>{place}</unpitched><duration>2</duration></note>"
    clef = "<attributes><clef><sign>percussion</sign></clef></attributes>"
    text = musicxml(note("E", 2), drum + note("C", 2), clef + note("D", 2), note("F", 2))
    text = text.replace("</part-name>", f"</part-name>{midi_instrument(10, 1)}", 1)
    assert read("a.xml", text).notes.tolist() == [[0, 12, 65, 3], [12, 12, 60, 1]]


def test_parts_have_names_and_programs() -> None:
    text = musicxml(note("C", 2), note("E", 2))
    text = text.replace("</part-name>", f"</part-name>{midi_instrument(1, 20)}", 1)
    assert scores.read_score(".xml", text.encode()).parts == [("part", 19), ("part", 0)]


# Humdrum


def test_a_spine_is_a_part_and_its_ties_are_joined(read) -> None:
    text = "**kern\t**kern\n*M3/4\t*M3/4\n*MM80\t*MM80\n"
    text += "[4C\t4e\n4C_\t4f\n4C]\t4g\n=\t=\n2.C\t8qa\n.\t2.g\n*-\t*-\n"
    piece = read("a.krn", text)
    assert piece.notes[piece.notes[:, 2] == 48].tolist() == [[0, 36, 48, 1], [36, 36, 48, 1]]
    assert piece.notes[piece.notes[:, 3] == 0][:, 2].tolist() == [64, 65, 67, 67]
    assert (piece.tempo, piece.meter) == (80, (3, 4))


def test_no_note_waits_for_a_grace_note(read) -> None:
    lines = ["**kern\t**kern", "*M2/4\t*M2/4", "=1\t=1", ".\tgq/LL", ".\taq/JJ", "4C\t4cc", "4D 8eq\t4dd"]
    piece = read("a.krn", "\n".join([*lines, "=\t=", "*-\t*-"]) + "\n")
    assert piece.notes.tolist() == [[0, 12, 48, 1], [0, 12, 72, 0], [12, 12, 50, 1], [12, 12, 74, 0]]


@pytest.mark.parametrize("spine", [0, 1])
def test_a_spine_that_begins_later_is_silent_until_then(read, spine: int) -> None:
    """Beside one that has split before, too."""
    lines = ["**kern\t**kern", "*M2/4\t*M2/4", "=1\t=1", "4c\t4e", "4d\t4f", "=2\t=2"]
    lines += ["*+\t*" if spine == 0 else "*\t*+", "*\t**kern\t*" if spine == 0 else "*\t*\t**kern"]
    tokens = ["4c", "4e"]
    tokens.insert(spine + 1, "2b")
    lines += [
        "\t".join(tokens),
        "\t".join("." if one == "2b" else "4r" for one in tokens),
    ]
    lines += ["==\t==\t==", "*-\t*-\t*-"]
    piece = read("a.krn", "\n".join(lines) + "\n")
    assert piece.notes[piece.notes[:, 2] == 71][:, :2].tolist() == [[24, 24]]
    assert len(piece.notes) == 7


# What is refused


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.xml", "", "damaged XML"),
        ("a.xml", "<html></html>", "not MusicXML but html"),
        ("a.xml", "<score-timewise/>", "export it by parts"),
        ("a.xml", musicxml(note("C", 2))[:-30], "damaged XML"),
        ("a.xml", musicxml(note("H", 2)), "no pitch is called 'H'"),
        ("a.xml", musicxml("<note><rest/><duration>2</duration></note>"), "no notes"),
        ("a.xml", musicxml(note("C", 2, octave=12)), "outside 0..127"),
        ("a.xml", musicxml(note("C", 2**23)), "longer than 100,000 quarters"),
        ("a.mxl", b"PK\x03\x04 and so on", r"damaged \.mxl"),
        ("a.mxl", mxl(("a.txt", "text")), "no MusicXML in it"),
        ("a.abc", "", "damaged score"),
        ("a.abc", "X:1\nK:C\n", "no notes"),
        ("a.krn", "no spines", "damaged score"),
        ("a.krn", "**text\nla\n*-\n", "no notes"),
    ],
)
def test_what_is_no_score_is_refused_in_one_line(
    refused, name: str, content: str | bytes, words: str
) -> None:
    refused(name, content, words)


def test_entities_that_multiply_are_harmless(refused) -> None:
    levels = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    bomb = f'<!DOCTYPE x [<!ENTITY e0 "0123456789">{levels}]>'
    refused("a.xml", musicxml("&e11;", head=bomb), "damaged XML|takes more than")


def test_a_zip_that_unpacks_to_gigabytes_is_refused_unread(refused) -> None:
    content = bytearray(mxl(("a.xml", "<a/>")))
    # The size that the zip's directory declares.
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = (2**31).to_bytes(4, "little")
    refused("a.mxl", bytes(content), "2048 MiB when unpacked")


# Where they are found


def test_every_kind_of_score_is_searched_for(tmp_path: Path) -> None:
    for suffix in (*scores.SUFFIXES, ".mid", ".json", ".npz", ".mat", ".txt"):
        (tmp_path / f"a{suffix}").write_bytes(b"")
    assert {source.suffix for source in find_sources([str(tmp_path)])} == {*scores.SUFFIXES, ".mid"}
