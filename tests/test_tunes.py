"""ABC: each tune of a book is a piece, read as other programs read it."""

import zipfile
from pathlib import Path

import pytest

from midigen_jax.errors import InputError
from midigen_jax.music import abc
from midigen_jax.music.read import Piece, Source, find_sources, read_piece
from midigen_jax.music.scores import read_score


@pytest.fixture
def read(tmp_path: Path):
    def read(text: str) -> Piece:
        (tmp_path / "a.abc").write_text(text)
        return read_piece(Source("a.abc", tmp_path / "a.abc"))

    return read


def test_a_tune_has_meter_tempo_and_the_key_of_its_head(read) -> None:
    piece = read("X:1\nT:A\nM:6/8\nL:1/8\nQ:3/8=80\nK:G\nFG2|")
    assert piece.notes.tolist() == [[0, 6, 66, 0], [6, 12, 67, 0]]
    assert (piece.tempo, piece.meter) == (120, (6, 8))


def test_a_sharp_lasts_to_the_bar_line(read) -> None:
    for version in ("", "%abc-1.6\n"):
        piece = read(f"{version}X:1\nM:4/4\nL:1/4\nK:C\n^F F =F F|^F|F")
        assert piece.notes[:, 2].tolist() == [66, 66, 65, 65, 66, 65]


def test_a_tune_without_meter_and_length_counts_in_eighths(read) -> None:
    for head in ("", "M:none\n"):
        assert read(f"X:1\n{head}K:C\nC2").notes.tolist() == [[0, 12, 60, 0]]


def test_ties_voices_and_chord_symbols_of_a_tune(read) -> None:
    piece = read('X:1\nM:2/4\nL:1/4\nK:C\nV:1\n"Am"C-C|-C{d}D|\nV:2\n[C,E,]2|z2|')
    assert piece.notes.tolist() == [[0, 24, 48, 1], [0, 24, 52, 1], [0, 36, 60, 0], [36, 12, 62, 0]]


@pytest.mark.parametrize(
    "adorned",
    [
        ".C",
        "~C",
        "HC",
        "LC",
        "MC",
        "OC",
        "PC",
        "SC",
        "TC",
        "uC",
        "vC",
        "!trill!C",
        "!f!C",
        "!fermata!C",
        "!crescendo(!C!crescendo)!",
        "{d}C",
        "{/d}C",
        "{Bd}C",
        '"Am"C',
        '"^text"C',
        '"_>"C',
        '"@1,2 x"C',
        "(C)",
        "C !",
        "C % a remark",
        "[I:text]C",
        "[r:remark]C",
        "yC",
    ],
)
def test_what_stands_by_a_note_has_no_length(read, adorned: str) -> None:  # fmt: skip
    piece = read(f"X:1\nM:4/4\nL:1/4\nK:C\nE {adorned}\nG|\n")
    assert piece.notes.tolist() == [[0, 12, 64, 0], [12, 12, 60, 0], [24, 12, 67, 0]]


@pytest.mark.parametrize(
    ("body", "written", "played"),
    [
        ("|:CD:|", 2, 4),
        ("CD:|", 2, 4),
        ("CD::EF:|", 4, 8),
        ("CD:|:EF:|", 4, 8),
        ("CD:||:EF:|", 4, 8),
        ("|:C[1D:|[2E|]", 3, 4),
        ("|:C|1D:|2E|]", 3, 4),
        ("|:C|[1 D:|[2 E||F|]", 4, 5),
    ],
)
def test_repeats_are_played_if_they_are_asked_for(body: str, written: int, played: int) -> None:
    text = f"X:1\nM:2/4\nL:1/4\nK:C\n{body}\n".encode()
    found = [len(read_score(".abc", text, asked).notes) for asked in (False, True)]
    assert found == [written, played]


@pytest.mark.parametrize(
    "voices",
    [
        "V:1\nCD|\nV:2\nEF|\n",
        "[V:1]CD|\n[V:2]EF|\n",
        "[V:1] C [V:2] E\n[V:1] D| [V:2] F|\n",
        "V:1 name=a\nV:2 clef=bass\n[V:1]CD|\n[V:2]EF|\n",
        "CD&EF|\n",
        "[CE][DF]|\n",
    ],
)
def test_voices_sound_together(read, voices: str) -> None:
    piece = read(f"X:1\nM:2/4\nL:1/4\nK:C\n{voices}")
    assert piece.notes[:, :3].tolist() == [[0, 12, 60], [0, 12, 64], [12, 12, 62], [12, 12, 65]]


@pytest.mark.parametrize(
    ("body", "first_bar"),
    [
        ("G|CDEF|", 12),
        ("G/A/|CDEF|", 12),
        ("z G|CDEF|", 24),
        ("CDEF|G4|", 0),
        ("|:G|CDEF:|", 12),
        ("[K:G]G|CDEF|", 12),
    ],
)
def test_a_tune_may_begin_with_an_upbeat(read, body: str, first_bar: int) -> None:
    assert read(f"X:1\nM:4/4\nL:1/4\nK:C\n{body}\n").first_bar == first_bar


def notes_of(body: str, head: str = "M:4/4\nL:1/4") -> list[list[int]]:
    """Onset, duration and pitch in ticks."""
    return read_score(".abc", f"X:1\n{head}\nK:C\n{body}\n".encode()).notes[:, :3].tolist()


def test_half_a_tick_goes_to_the_even_one_as_in_other_scores() -> None:
    assert [onset for onset, _, _ in notes_of("C3/8D5/8E3/8F5/8G")] == [0, 4, 12, 16, 24]


def test_the_notes_of_a_chord_begin_together() -> None:
    assert {onset for onset, _, _ in notes_of("[CEGceg]D")} == {0, 12}


def test_a_tune_that_takes_too_long_to_play_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abc, "_SECONDS", 0)
    with pytest.raises(InputError, match="takes longer than 0 s to play; leave it out"):
        abc.read_abc("X:1\nK:C\n" + 2000 * "CDEF|\n")


@pytest.mark.parametrize("line", [":|]", ":[|]|]", "||", "[|", "|[|", ":||:", "|2", ":||2 ", ":|[2", "::[2 "])
def test_any_bar_line_is_one(line: str) -> None:
    assert [onset for onset, _, _ in notes_of(f"CD{line}EF|")] == [0, 12, 24, 36]


def test_an_ending_may_have_a_name_and_a_chord_a_symbol() -> None:
    assert [onset for onset, _, _ in notes_of('C||["Coda" DE|]')] == [0, 12, 24]
    assert [onset for onset, _, _ in notes_of('C|["C"CE]G|')] == [0, 12, 12, 24]


@pytest.mark.parametrize(
    ("meter", "body", "quarters"),
    [
        ("4/4", "(5CDEFG", 2),
        ("3/4", "(5CDEFG", 2),
        ("6/8", "(7CDEFGAB", 3),
        ("6/8", "(5:2CDEFG", 2),
        ("3/4", "[M:9/8](9CDEFGABcd", 3),
        ("2/4", "(3::2CD", 4 / 3),
        ("6/8", "(5::2CD", 6 / 5),
    ],
)
def test_a_tuplet_takes_the_time_that_the_meter_says(meter: str, body: str, quarters: float) -> None:
    assert notes_of(f"{body} c'|", f"M:{meter}\nL:1/4")[-1][0] == round(12 * quarters)


@pytest.mark.parametrize(
    ("said", "pitches"),
    [
        ("", [66, 66, 78]),
        ("%%propagate-accidentals pitch\n", [66, 66, 78]),
        ("%%propagate-accidentals octave\n", [66, 66, 77]),
        ("%%propagate-accidentals not\n", [66, 65, 77]),
    ],
)
def test_how_far_an_accidental_holds_may_be_said(said: str, pitches: list[int]) -> None:
    assert [pitch for _, _, pitch in notes_of("^FFf|", f"{said}L:1/4")] == pitches


def test_the_program_is_that_of_the_tune() -> None:
    text = b"X:1\nL:1/4\n%%MIDI program 40 % violin\nK:C\nC%%D\nE % F\n"
    score = read_score(".abc", text)
    assert [program for _, program in score.parts] == [40]
    assert score.notes[:, 2].tolist() == [60, 64]


def test_the_accidental_of_a_grace_note_holds_for_the_bar() -> None:
    assert [pitch for _, _, pitch in notes_of("{^c}dcc|c{_e}d=e|{^f}\\\nf")] == [74, 73, 73, 72, 74, 76, 78]


@pytest.mark.parametrize(
    ("body", "onsets"),
    [
        ("C-C|D", [0, 24]),
        ("C-|C D", [0, 24]),
        ("C-D-|E", [0, 12, 24]),
        ("[CE]-[CE]", [0, 0]),
        ("[C-E-][CE]", [0, 0]),
        ("C-\nD-\nE", [0, 12, 24]),
        ("B{c}-B A", [0, 12, 24]),
        ("C>-C", [0, 18]),
        ("^C-C D", [0, 24]),
    ],
)
def test_only_notes_of_one_pitch_are_tied(body: str, onsets: list[int]) -> None:
    assert [onset for onset, _, _ in notes_of(body)] == onsets


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
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/book.abc", BOOK)
        archive.writestr("in/one.abc", BOOK[: BOOK.index("X:7\r")])
    found = find_sources([str(tmp_path / "a.zip")])
    assert [source.name for source in found] == ["in/book.abc/1", "in/book.abc/2", "in/one.abc"]
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    again = find_sources([str(tmp_path / "unpacked")])
    assert [source.name for source in again] == [source.name for source in found]
    assert [source.content() for source in again] == [source.content() for source in found]


def test_a_tune_that_is_not_there_any_more_is_named(tmp_path: Path) -> None:
    path = tmp_path / "book.abc"
    path.write_text(BOOK)
    *_, last = find_sources([str(path)])
    path.write_text("X:1\nK:C\nC\n")
    with pytest.raises(InputError, match=r"book\.abc/2: not in the file any more"):
        last.content()
