"""Tracks: what is read when not all is wanted."""

from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midigen_jax.errors import InputError
from midigen_jax.music.notes import Notes, make_notes
from midigen_jax.music.read import Piece, Quantizer, Source, find_sources, read_piece
from midigen_jax.music.tracks import Track, choose

QUANTIZERS: st.SearchStrategy[Quantizer] = st.sampled_from(["adaptive", "uniform", "music21"])
DRUMS = 9


def rows(*lines: tuple[int, ...]) -> Notes:
    """One track for each line of pitches; a pitch a quarter, from tick 0."""
    columns = [(12 * i, 12, pitch, track) for track, line in enumerate(lines) for i, pitch in enumerate(line)]
    return make_notes(*np.array(columns, np.int64).reshape(-1, 4).T)


def chosen(notes: Notes, tracks: list[Track], wanted: str) -> list[int]:
    """The indices of what is chosen."""
    return sorted(set(choose(notes, tracks, wanted)[:, 3].tolist()))


# Choosing

LINES = rows((72, 74, 76), (60, 62, 64), (48, 50, 52))
BAND = [Track("Flute", 73, 0), Track("Piano, right", 0, 1), Track("Piano, left", 5, 2)]


@pytest.mark.parametrize(
    ("wanted", "indices"), [("all", [0, 1, 2]), ("piano", [1, 2]), ("melody", [0]), ("1", [0]), ("3", [2])]
)
def test_all_or_the_piano_or_the_melody_or_one_of_them(wanted: str, indices: list[int]) -> None:
    assert chosen(LINES, BAND, wanted) == indices


def test_a_track_of_many_programs_is_one_track() -> None:
    parts = [Track("Strings", 48, 3), Track("Strings", 45, 3), Track("Bass", 32, 7)]
    assert chosen(LINES, parts, "1") == [0, 1]
    assert chosen(LINES, parts, "2") == [2]
    assert chosen(rows((40,), (90,), (60,)), parts, "melody") == [0, 1]


@pytest.mark.parametrize("name", ["Melody", "MELODIE", "Lead vocals", "Voice 1", "lead guitar"])
def test_a_name_that_says_melody_wins(name: str) -> None:
    assert chosen(LINES, [Track("Flute", 73, 0), Track("Piano", 0, 1), Track(name, 0, 2)], "melody") == [2]


def test_a_name_that_only_looks_like_it_does_not_win() -> None:
    assert chosen(LINES, [Track("", 0, 0), Track("Leader", 0, 1), Track("Unvoiced", 0, 2)], "melody") == [0]


def test_of_many_melodies_the_highest_wins() -> None:
    parts = [Track("Flute", 73, 0), Track("Voice 1", 0, 1), Track("Voice 2", 0, 2)]
    assert chosen(LINES, parts, "melody") == [1]


def test_a_chord_is_as_high_as_its_top_note() -> None:
    chords = make_notes([0, 0, 12, 12, 0, 12], [12] * 6, [70, 40, 72, 42, 65, 67], [0, 0, 0, 0, 1, 1])
    assert chosen(chords, [Track(number=0), Track(number=1)], "melody") == [0]


def test_a_track_that_is_almost_empty_is_no_melody() -> None:
    bell, tune = (100,), (60,) * 10
    assert chosen(rows(bell, tune), [Track(number=0), Track(number=1)], "melody") == [1]
    assert chosen(rows(bell, tune[:9]), [Track(number=0), Track(number=1)], "melody") == [0]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [("4", "no track 4: it has 3 with notes"), ("0", "give all, piano"), ("fiddle", "give all, piano")],
)
def test_a_track_that_is_not_there_is_refused(wanted: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        choose(LINES, BAND, wanted)


def test_music_without_a_piano_is_refused() -> None:
    with pytest.raises(InputError, match="no piano in it"):
        choose(LINES, [Track("", 40, number) for number in range(3)], "piano")


# Reading

LINE = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 40), st.integers(50, 70)), min_size=1, max_size=12
)


def struck(line: list[tuple[int, int, int]], channel: int = 0, program: int = 0, name: str = "") -> list[Any]:
    """Rests, lengths and pitches in sixteenths of a quarter, as messages."""
    events: list[Any] = [mido.MetaMessage("track_name", name=name)] if name else []
    events.append(mido.Message("program_change", program=program, channel=channel))
    for rest, length, pitch in line:
        events.append(mido.Message("note_on", note=pitch, velocity=70, channel=channel, time=6 * rest))
        events.append(mido.Message("note_off", note=pitch, channel=channel, time=6 * length))
    return events


def read(folder: Path, tracks: list[list[Any]], quantizer: Quantizer, wanted: str, form: int = 1) -> Piece:
    path = folder / "piece.mid"
    midi_tracks = [mido.MidiTrack(events) for events in tracks]
    mido.MidiFile(type=form, ticks_per_beat=96, tracks=midi_tracks).save(path)
    return read_piece(Source("piece.mid", path), quantizer, wanted)


@given(st.lists(LINE, min_size=2, max_size=4), st.data(), QUANTIZERS)
def test_any_track_is_read_as_if_it_were_alone(
    tmp_path_factory: pytest.TempPathFactory, lines: list[Any], data: st.DataObject, quantizer: Quantizer
) -> None:
    number = data.draw(st.integers(0, len(lines) - 1))
    folder = tmp_path_factory.mktemp("tracks")
    tracks = [struck(line, channel) for channel, line in enumerate(lines)]
    silent = [mido.MetaMessage("track_name", name="Conductor")]
    drums = struck([(0, 4, 38)], DRUMS)
    one = read(folder, [silent, drums, *tracks], quantizer, str(number + 1))
    alone = read(folder, [tracks[number]], quantizer, "all")
    assert one.notes[:, :3].tolist() == alone.notes[:, :3].tolist()


TUNE, CHORDS, BASS = [(0, 16, 72), (0, 16, 74)], [(0, 16, 60), (0, 16, 62)], [(0, 32, 40)]
SONG = [
    struck(CHORDS, channel=0, program=0, name="Keys"),
    struck(BASS, channel=1, program=33, name="Bass"),
    struck(TUNE, channel=2, program=73, name="Flute"),
    struck([(0, 4, 38)], channel=DRUMS, name="Vocals, so it says"),
]


@pytest.mark.parametrize("quantizer", ["adaptive", "uniform", "music21"])
@pytest.mark.parametrize(
    ("wanted", "pitches", "program"),
    [("all", [40, 60, 72, 62, 74], 0), ("piano", [60, 62], 0), ("melody", [72, 74], 73), ("2", [40], 33)],
)
def test_a_song_has_a_piano_a_melody_and_a_program_of_most_notes(
    tmp_path: Path, quantizer: Quantizer, wanted: str, pitches: list[int], program: int
) -> None:
    piece = read(tmp_path, SONG, quantizer, wanted)
    assert (piece.notes[:, 2].tolist(), piece.program) == (pitches, program)


@pytest.mark.parametrize("quantizer", ["adaptive", "uniform", "music21"])
def test_the_channels_of_a_file_with_one_track_are_its_tracks(tmp_path: Path, quantizer: Quantizer) -> None:
    track = [*struck(BASS, channel=3), *struck([(0, 4, 38)], DRUMS), *struck(TUNE, channel=1)]
    for wanted, pitches in (("1", [72, 74]), ("2", [40]), ("melody", [72, 74])):
        assert read(tmp_path, [track], quantizer, wanted, form=0).notes[:, 2].tolist() == pitches


@pytest.mark.parametrize("quantizer", ["adaptive", "uniform", "music21"])
def test_drums_are_no_track(tmp_path: Path, quantizer: Quantizer) -> None:
    with pytest.raises(InputError, match=r"^piece\.mid: no track 4: it has 3 with notes"):
        read(tmp_path, SONG, quantizer, "4")


def test_where_there_is_nothing_there_is_nothing_to_choose_from(tmp_path: Path) -> None:
    for quantizer in ("adaptive", "music21"):
        with pytest.raises(InputError, match="no notes in it besides drums"):
            read(tmp_path, [struck([(0, 4, 38)], DRUMS)], quantizer, "piano")


@pytest.mark.parametrize("quantizer", ["adaptive", "uniform", "music21"])
def test_a_program_that_changes_is_the_piano_for_a_while(tmp_path: Path, quantizer: Quantizer) -> None:
    *piano, last_release = struck(CHORDS, program=4)
    change, *strings = struck(TUNE, program=48)
    track = [*piano, change, last_release, *strings]
    assert read(tmp_path, [track], quantizer, "piano").notes[:, 2].tolist() == [60, 62]
    assert read(tmp_path, [track], quantizer, "1").notes[:, 2].tolist() == [60, 62, 72, 74]


@pytest.mark.parametrize("quantizer", ["adaptive", "uniform", "music21"])
def test_a_track_s_name_is_heeded(tmp_path: Path, quantizer: Quantizer) -> None:
    tracks = [struck(CHORDS, name="Keys"), struck(BASS, channel=1, name="Melody, down here")]
    assert read(tmp_path, tracks, quantizer, "melody").notes[:, 2].tolist() == [40]


def test_the_melody_of_a_chorale_is_its_soprano() -> None:
    (source,) = (s for s in find_sources(["bach"]) if s.name == "bach/bwv66.6.mxl")
    whole, melody = read_piece(source), read_piece(source, tracks="melody")
    assert melody.notes.tolist() == whole.notes[whole.notes[:, 3] == 0].tolist()
    with pytest.raises(InputError, match=r"^bach/bwv66\.6\.mxl: no track 5: it has 4"):
        read_piece(source, tracks="5")


def test_frames_without_voices_are_one_track(tmp_path: Path) -> None:
    path = tmp_path / "frames.json"
    path.write_text('{"train": [[[60, 64], [60], [67]]], "valid": [], "test": []}')
    (source,) = find_sources([str(path)])
    whole, first = read_piece(source), read_piece(source, tracks="1")
    assert first.notes.tolist() == whole.notes.tolist()
    assert first.length == whole.length
    with pytest.raises(InputError, match="no track 2: it has 1"):
        read_piece(source, tracks="2")
