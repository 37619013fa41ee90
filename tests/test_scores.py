"""Scores: MusicXML, ABC and Humdrum as notes, read in a process that may be slow, greedy or dead."""

import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from midigen_jax.errors import InputError
from midigen_jax.music import sandbox, scores
from midigen_jax.music.read import Piece, Source, find_sources, read_piece


def tune(bars: int) -> str:
    """Of eight notes a bar."""
    return "X:1\nM:4/4\nL:1/8\nK:C\n" + "CDEF GABc|" * bars


# It would take hours.
LONG = tune(20_000)


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


def test_a_transposing_instrument_sounds_as_it_is_heard(read) -> None:
    clarinet = (
        "<attributes><transpose><diatonic>-1</diatonic><chromatic>-2</chromatic></transpose></attributes>"
    )
    piece = read("a.xml", musicxml(clarinet + note("D", 6), note("C", 6)))
    assert piece.notes.tolist() == [[0, 36, 60, 0], [0, 36, 60, 1]]


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
    assert sandbox.read_score(".xml", text.encode()).parts == [("part", 19), ("part", 0)]


# ABC


def test_a_tune_has_meter_tempo_and_the_key_of_its_head(read) -> None:
    piece = read("a.abc", "X:1\nT:A\nM:6/8\nL:1/8\nQ:3/8=80\nK:G\nFG2|")
    assert piece.notes.tolist() == [[0, 6, 66, 0], [6, 12, 67, 0]]
    assert (piece.tempo, piece.meter) == (120, (6, 8))


def test_a_sharp_lasts_to_the_bar_line(read) -> None:
    for version in ("", "%abc-1.6\n"):
        piece = read("a.abc", f"{version}X:1\nM:4/4\nL:1/4\nK:C\n^F F =F F|^F|F")
        assert piece.notes[:, 2].tolist() == [66, 66, 65, 65, 66, 65]


def test_a_tune_without_meter_and_length_counts_in_eighths(read) -> None:
    for head in ("", "M:none\n"):
        assert read("a.abc", f"X:1\n{head}K:C\nC2").notes.tolist() == [[0, 12, 60, 0]]


def test_ties_voices_and_chord_symbols_of_a_tune(read) -> None:
    piece = read("a.abc", 'X:1\nM:2/4\nL:1/4\nK:C\nV:1\n"Am"C-C|-C{d}D|\nV:2\n[C,E,]2|z2|')
    assert piece.notes.tolist() == [[0, 24, 48, 1], [0, 24, 52, 1], [0, 36, 60, 0], [36, 12, 62, 0]]


BOOK = (
    "M:3/4\nL:1/4\n\nX:7\nT:one\nK:C\nC\n\nThis is not a tune: DDD\n\nX:7\r\nT:two\r\nL:1/8\r\nK:D\r\nF\r\n"
)


def test_each_tune_of_a_book_is_a_piece_under_the_head_of_the_book(tmp_path: Path) -> None:
    (tmp_path / "book.abc").write_text(BOOK, newline="")
    found = find_sources([str(tmp_path / "book.abc")])
    assert [source.name for source in found] == ["book.abc/1", "book.abc/2"]
    assert [read_piece(source).notes.tolist() for source in found] == [[[0, 12, 60, 0]], [[0, 6, 66, 0]]]
    assert [read_piece(source).meter for source in found] == [(3, 4), (3, 4)]
    assert found[0].content() != found[1].content()
    with pytest.raises(InputError, match=r"book\.abc: 2 tunes, not one"):
        read_piece(Source("book.abc", tmp_path / "book.abc"))


def test_a_book_in_a_zip_or_folder_is_found_with_its_tunes(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(mxl(("in/book.abc", BOOK), ("in/one.abc", BOOK[: BOOK.index("X:7\r")])))
    found = find_sources([str(tmp_path / "a.zip")])
    assert [source.name for source in found] == ["in/book.abc/1", "in/book.abc/2", "in/one.abc"]
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(tmp_path)
    again = find_sources([str(tmp_path)])
    assert [source.name for source in again] == [source.name for source in found]
    assert [source.content() for source in again] == [source.content() for source in found]


def test_a_tune_that_is_not_there_any_more_is_named(tmp_path: Path) -> None:
    path = tmp_path / "book.abc"
    path.write_text(BOOK)
    *_, last = find_sources([str(path)])
    path.write_text("X:1\nK:C\nC\n")
    with pytest.raises(InputError, match=r"book\.abc/2: not in the file any more"):
        last.content()


# Humdrum


def test_a_spine_is_a_part_and_its_ties_are_joined(read) -> None:
    text = "**kern\t**kern\n*M3/4\t*M3/4\n*MM80\t*MM80\n"
    text += "[4C\t4e\n4C_\t4f\n4C]\t4g\n=\t=\n2.C\t8qa\n.\t2.g\n*-\t*-\n"
    piece = read("a.krn", text)
    assert piece.notes[piece.notes[:, 2] == 48].tolist() == [[0, 36, 48, 1], [36, 36, 48, 1]]
    assert piece.notes[piece.notes[:, 3] == 0][:, 2].tolist() == [64, 65, 67, 67]
    assert (piece.tempo, piece.meter) == (80, (3, 4))


# What is refused


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.xml", "", "damaged XML"),
        ("a.xml", "<html></html>", "not MusicXML but html"),
        ("a.xml", "<score-timewise/>", "export it by parts"),
        ("a.xml", musicxml(note("C", 2))[:-30], "damaged XML"),
        ("a.xml", musicxml(note("H", 2)), "damaged score"),
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


# The process


def test_a_score_that_takes_too_long_is_given_up_and_the_next_is_read(
    refused, read, monkeypatch: pytest.MonkeyPatch
) -> None:
    read("b.abc", "X:1\nK:C\nC")
    with monkeypatch.context() as limits:
        limits.setattr(sandbox, "LIMIT_SECONDS", 0.2)
        refused("a.abc", LONG, r"takes longer than 0\.2 s")
    assert len(read("b.abc", "X:1\nK:C\nC").notes) == 1


def test_a_score_that_takes_too_much_memory_is_given_up_and_the_next_is_read(
    refused, read, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.close()
    with monkeypatch.context() as limits:
        limits.setattr(sandbox, "LIMIT_BYTES", 400 << 20)
        # 25 kB in the zip, 25 MB unpacked, and many times that as a tree.
        refused("a.mxl", mxl(("a.xml", f"<a>{'<b/>' * 6_000_000}</a>")), "takes more than 400 MiB")
        sandbox.close()
    assert len(read("b.abc", "X:1\nK:C\nC").notes) == 1


def test_a_process_that_died_meanwhile_is_replaced(read) -> None:
    read("a.abc", "X:1\nK:C\nC")
    worker = sandbox._workers[os.getpid()].process
    worker.kill()
    worker.wait()
    assert len(read("a.abc", "X:1\nK:C\nC").notes) == 1


SCRIPT = """
import os, signal, sys
from midigen_jax.music import sandbox
signal.signal(signal.SIGINT, {"heeds": signal.default_int_handler, "goes on": lambda *_: None}[sys.argv[1]])
small, long = b"X:1\\nK:C\\nC", sys.stdin.buffer.read()
sandbox.read_score(".abc", small)
print(sandbox._workers[os.getpid()].process.pid, flush=True)
try:
    print(len(sandbox.read_score(".abc", long).notes), flush=True)
except KeyboardInterrupt:
    print(len(sandbox.read_score(".abc", small).notes), flush=True)
"""


def started(score: str, manner: str = "heeds") -> "tuple[subprocess.Popen[str], int]":
    """A program that reads a score, whatever it does on a Ctrl-C; and the process that does it for it."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT, manner],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(score)
    process.stdin.close()
    process.stdin = None
    worker = int(process.stdout.readline())
    time.sleep(0.3)
    return process, worker


posix = pytest.mark.skipif(os.name != "posix", reason="signals to groups of processes")


@posix
def test_a_ctrl_c_ends_the_score_and_leaves_nothing_behind() -> None:
    process, worker = started(LONG)
    os.killpg(process.pid, signal.SIGINT)
    said, complaints = process.communicate(timeout=60)
    assert (process.returncode, said.split(), complaints) == (0, ["1"], "")
    assert not alive(worker)


@posix
def test_a_ctrl_c_that_the_program_does_not_heed_does_not_hurt_the_score() -> None:
    process, _ = started(tune(150), "goes on")
    os.killpg(process.pid, signal.SIGINT)
    said, complaints = process.communicate(timeout=60)
    assert (process.returncode, said.split(), complaints) == (0, ["1200"], "")


@posix
def test_the_process_ends_with_the_one_that_asked_even_in_the_middle_of_a_score() -> None:
    process, worker = started(LONG)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(worker)


def alive(process: int) -> bool:
    """A zombie whose parent is gone is dead too; who buries it is not our business."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


# Collections


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("oneills1850", 2009, "oneills1850/0001-0050.abc/1"),
        ("ryansMammoth", 1059, "ryansMammoth/7thRegimentReel.abc"),
    ],
)
def test_a_collection_is_found_by_name_and_can_be_read(name: str, count: int, first: str) -> None:
    found = find_sources([name])
    assert (len(found), found[0].name) == (count, first)
    assert len(read_piece(found[0]).notes) > 50


def test_what_its_headers_reserve_has_no_name() -> None:
    with pytest.raises(InputError, match="not there"):
        find_sources(["palestrina"])


def test_every_kind_of_score_is_searched_for(tmp_path: Path) -> None:
    for suffix in (*scores.SUFFIXES, ".mid", ".json", ".npz", ".mat", ".txt"):
        (tmp_path / f"a{suffix}").write_bytes(b"")
    assert {source.suffix for source in find_sources([str(tmp_path)])} == {*scores.SUFFIXES, ".mid"}
