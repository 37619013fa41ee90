"""An inspection says what is in some music, the same before and after it is a corpus, and hides nothing."""

import re
import subprocess
import sys

import numpy as np
import pytest

from midigen_jax.cli import main
from midigen_jax.data.inspect import inspect
from midigen_jax.errors import InputError
from midigen_jax.listen import findings
from midigen_jax.listen.inspect import write_inspection
from midigen_jax.music.notes import make_notes
from midigen_jax.music.write import write_midi

SCALE = np.array([0, 2, 4, 5, 7, 9, 11, 12])
BROKEN = {"a.mid": b"this is no music", "b.mid": b"MThd", "z <i>&.mid": b"MThd\0\0\0\6\0\2\0\1\0\x60"}


def write_tune(path, tonic: int, order: int, tempo: float = 120, meter: tuple[int, int] = (4, 4)) -> None:
    """A major scale of eighths, in one of its orders, over its held tonic an octave below."""
    tune = np.random.default_rng(order).permutation(SCALE)
    onset, duration = np.append(np.arange(8) * 6, 0), np.append(np.full(8, 6), 48)
    write_midi(
        make_notes(onset, duration, tonic + np.append(tune, -12), np.append(np.zeros(8), 1)),
        path,
        tempo,
        meter=meter,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Ten tunes in ten keys, the last one the first again, three files that are no music, two corpora."""
    home = tmp_path_factory.mktemp("home")
    for number in range(10):
        place = home / "music" / f"{number}.mid"
        write_tune(place, 60 + number, number % 9, 60 + 30 * (number % 3), (2 + number % 2, 4))
    for name, content in BROKEN.items():
        (home / "music" / name).write_bytes(content)
    words = ["prepare", str(home / "music"), "--workers", "1", "--out"]
    assert main([*words, str(home / "notes")]) == 0
    rare = ["--tokenizer", "chord", "--transpose", "C", "--min-chord-count", "4"]
    assert main([*words, str(home / "chords"), *rare]) == 0
    return home


@pytest.fixture(scope="module")
def music(home):
    return inspect([str(home / "music")], 1000)


@pytest.fixture(scope="module")
def corpus(home):
    return inspect([str(home / "notes")], 1000)


@pytest.fixture(scope="module")
def chords(home):
    return inspect([str(home / "chords")], 1000)


@pytest.fixture(scope="module")
def pages(home, music, chords):
    """The HTML of the music and of the corpus of chords."""
    write_inspection(music, home / "music.html")
    write_inspection(chords, home / "chords.html")
    return {name: (home / f"{name}.html").read_text("utf-8") for name in ("music", "chords")}


def test_music_counts_the_same_before_and_after_it_became_a_corpus(music, corpus):
    mine, its = music.census, corpus.census
    for name in ("pieces", "events", "notes", "slices", "chords"):
        assert getattr(mine.whole, name) == getattr(its.whole, name)
    assert mine.whole.minutes == pytest.approx(its.whole.minutes)
    for name in ("note_ticks", "slice_ticks", "keys", "meters"):
        assert getattr(mine, name) == getattr(its, name)
    np.testing.assert_array_equal(mine.pitch, its.pitch)
    np.testing.assert_array_equal(mine.sounding, its.sounding)
    assert mine.tempos == pytest.approx(its.tempos)
    assert music.refused == corpus.refused
    assert music.related == corpus.related == 2


def test_what_is_known_of_the_tunes_is_what_is_found(music):
    census = music.census
    assert (music.there, music.drawn, census.whole.pieces) == (13, 13, 10)
    assert census.whole.notes == 90
    assert census.note_ticks == {6: 80, 48: 10}
    assert census.slice_ticks == {6: 80}
    assert census.sounding[:4].tolist() == [0, 0, 480, 0]
    assert sorted(census.tempos) == pytest.approx([60] * 4 + [90] * 3 + [120] * 3, rel=1e-4)
    assert census.meters == {(2, 4): 5, (3, 4): 5}
    assert [str(key) for key in census.keys] == [
        f"{tonic} major" for tonic in ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A")
    ]


def test_what_could_not_be_read_is_named_with_its_reason(music, pages, parse):
    assert set(music.refused) == set(BROKEN)
    assert [(refusal.kind, refusal.times) for refusal in findings.refusals(music)] == [
        ("not a MIDI file", 2),
        ("MIDI format 2 is not supported", 1),
    ]
    for html in pages.values():
        text = parse(html).text
        assert "2 × not a MIDI file" in text
        assert "MIDI format 2 is not supported; export it as format 0 or 1" in text
        assert all(name in text for name in BROKEN)


def test_chords_that_a_corpus_lost_are_counted_as_unseen(chords):
    """In C seven tunes have eight chords in common, and three, an octave higher, eight others: too rare."""
    census = chords.census
    assert census.whole.unknown == 24
    assert (len(census.whole.chords), census.whole.chords.total()) == (8, 56)
    assert census.unseen_share == census.held_out.unknown / 16  # two tunes are held out
    assert any("24 of its events are not in its vocabulary" in line for line in findings.notices(chords))


@pytest.mark.parametrize("name", ["music", "chords"])
def test_a_page_is_whole_and_needs_nothing_else(pages, parse, name):
    page = parse(pages[name])
    assert page.open == []
    identities = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identities) == len(set(identities))
    assert not re.search(r"https?:|//[a-z]+\.[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", pages[name]))
    assert all(picture["src"].startswith("data:image/png") for picture in page.all("img"))
    assert len(page.all("img")) == 6
    assert len(page.all("svg")) == 7
    headings = re.findall(r"<h2>(.*?)</h2>", pages[name])
    assert headings == ["Figures", "Pieces", "Pitch", "Time", "Vocabulary", "Refused", "Go on from here"]


def test_a_page_says_how_to_go_on(pages, home, parse):
    music, chords = parse(pages["music"]).text, parse(pages["chords"]).text
    assert f"midigen prepare {home}/music --out corpora/music" in music
    assert f"midigen train {home}/chords --out runs/chords" in chords
    assert "All settings of this corpus" in chords
    assert "All settings" not in music


def test_a_corpus_is_told_split_by_split(corpus, pages):
    lines = findings.by_split(corpus)
    assert [line[0] for line in lines] == ["split", "train", "valid", "test"]
    assert sum(int(line[1]) for line in lines[1:]) == 10
    assert '<th scope="col">split</th>' in pages["chords"]
    assert '<th scope="col">split</th>' not in pages["music"]


def test_of_very_many_pieces_some_are_drawn_evenly_and_the_page_says_so(home):
    found = inspect([str(home / "music")], 5)
    assert (found.there, found.drawn) == (13, 5)
    assert [opening.name for opening in found.openings] == ["0.mid", "2.mid", "5.mid", "7.mid"]
    assert set(found.refused) == {"a.mid"}
    assert "Of 13 files 5 were looked at, evenly drawn" in findings.notices(found)[0]
    assert inspect([str(home / "notes")], 1).census.whole.pieces == 1


def test_names_are_text_and_never_markup(pages, parse):
    assert "<i>&" not in pages["music"]
    assert "z <i>&.mid" in parse(pages["music"]).text


def test_the_terminal_shows_the_figures_and_no_page_is_written_unasked(home, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", str(home / "notes")]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["notes"]
    told = {words[0]: words[1] for words in lines[1:]}
    assert told["pieces"] == "10"
    assert told["notes"] == "90, from C3 to A5"
    assert told["refused"] == "3 files: 2 × not a MIDI file, 1 × MIDI format 2 is not supported"
    assert told["train"].startswith("8 pieces")
    assert not list(tmp_path.iterdir())


def test_a_page_is_written_over_an_earlier_one(home, pages):
    (home / "music.html").write_text(pages["chords"])
    assert main(["inspect", str(home / "music"), "--out", str(home / "music.html")]) == 0
    assert (home / "music.html").read_text("utf-8") == pages["music"]


def test_nothing_else_is_written_over(home, tmp_path, capsys):
    report = tmp_path / "report.html"
    report.write_text(
        '<meta name="generator" content="midigen-jax">'
    )  # of a run, which has other things to show
    refused = {report: "is no page of `midigen inspect`", tmp_path: "is a folder", report / "x": "is a file"}
    for out, part in refused.items():
        assert main(["inspect", str(home / "notes"), "--out", str(out)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert part in line
    assert report.read_text() == '<meta name="generator" content="midigen-jax">'
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["{home}/nowhere"], "nowhere"),
        (["{home}/music/a.mid"], "not a MIDI file"),
        (["{home}/notes", "{home}/music"], "is a corpus; inspect it alone"),
        (["{home}/notes", "--limit", "0"], "1 or more"),
        (["{home}/notes", "--limti", "3"], "did you mean --limit?"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(home, capsys, words, part):
    assert main(["inspect", *(word.format(home=home) for word in words)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("reading")]
    assert len(lines) == 1
    assert part in lines[0]


def test_sources_of_which_nothing_can_be_read_are_refused(tmp_path):
    (tmp_path / "a.mid").write_bytes(b"")
    with pytest.raises(InputError, match=r"nothing could be read \(a\.mid: not a MIDI file"):
        inspect([str(tmp_path)], 10)


def test_looking_needs_no_jax():
    code = "import midigen_jax.data.inspect, midigen_jax.listen.inspect, sys; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
