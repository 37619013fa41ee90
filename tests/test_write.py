"""Writing: a file that any player opens, and that reads back as what was written."""

from pathlib import Path

import mido
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midigen_jax.config import PrepareConfig
from midigen_jax.music.key import key_of, parse_key
from midigen_jax.music.notes import Notes, make_notes
from midigen_jax.music.read import Piece, Source, read_piece
from midigen_jax.music.slices import slice_notes, to_notes
from midigen_jax.music.voices import voice_names
from midigen_jax.music.write import write_midi
from midigen_jax.vocab.chord import ChordVocabulary
from midigen_jax.vocab.note import NoteVocabulary

# Music that begins at tick 0 on one track, with many notes struck again at once.
NOTES = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 150), st.integers(60, 66) | st.integers(0, 127), st.just(0)),
    min_size=1,
    max_size=20,
).map(lambda rows: to_notes(slice_notes(make_notes(*np.array(rows).T))))


def read_back(path: Path) -> Piece:
    # Any tick of ours is a multiple of 40 in the file: the uniform quantiser gives it back exactly.
    return read_piece(Source(path.name, path), "uniform")


@given(NOTES)
def test_any_notes_survive_a_file(tmp_path_factory: pytest.TempPathFactory, notes: Notes) -> None:
    path = tmp_path_factory.mktemp("write") / "piece.mid"
    write_midi(notes, path)
    np.testing.assert_array_equal(read_back(path).notes, notes)


@given(NOTES, st.sampled_from([NoteVocabulary(), NoteVocabulary(7), None]))
def test_any_tokens_survive_a_file(
    tmp_path_factory: pytest.TempPathFactory, notes: Notes, known: NoteVocabulary | None
) -> None:
    settings = PrepareConfig(tokenizer="chord", min_chord_count=1)
    vocabulary = known or ChordVocabulary.make(settings, [Piece(notes)])
    tokens = vocabulary.encode(Piece(notes))
    path = tmp_path_factory.mktemp("write") / "piece.mid"
    write_midi(vocabulary.decode(tokens), path)
    np.testing.assert_array_equal(vocabulary.encode(read_back(path)), tokens)


def test_a_pitch_struck_again_at_once_comes_back_as_two_notes(tmp_path: Path) -> None:
    notes = make_notes([0, 6, 12], [6, 6, 6], [60, 60, 60], [0, 0, 0])
    write_midi(notes, tmp_path / "piece.mid")
    assert read_back(tmp_path / "piece.mid").notes.tolist() == notes.tolist()


def test_tracks_tempo_and_meter_come_back(tmp_path: Path) -> None:
    notes = make_notes([0, 0, 3], [6, 9, 6], [60, 60, 64], [0, 1, 1])
    write_midi(notes, tmp_path / "piece.mid", tempo=72, meter=(6, 8))
    piece = read_back(tmp_path / "piece.mid")
    assert piece.notes.tolist() == notes.tolist()
    assert piece.tempo == pytest.approx(72, abs=1e-3)  # the file holds whole microseconds
    assert piece.meter == (6, 8)


def test_what_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "piece.mid"
    write_midi(make_notes([0], [12], [60], [0]), path, 90, program=19, velocity=33, text=["seed 1", "é"])
    file = mido.MidiFile(path, charset="utf-8")
    events = [event for track in file.tracks for event in track]
    assert file.ticks_per_beat == 480
    assert [event.program for event in events if event.type == "program_change"] == [19]
    assert [event.velocity for event in events if event.type == "note_on"] == [33]
    assert [event.text for event in events if event.type == "marker"] == ["seed 1", "é"]
    assert [event.tempo for event in events if event.type == "set_tempo"] == [666667]
    assert [event.time for event in events if event.type == "note_off"] == [480]


def test_a_file_of_voices_names_them_and_says_its_key(tmp_path: Path) -> None:
    """The soprano first, and a voice that is silent too; each on a channel of its own, by one program."""
    path = tmp_path / "piece.mid"
    notes = make_notes([0, 12, 24, 0], [12, 12, 24, 48], [69, 71, 72, 45], [3, 3, 3, 0])
    write_midi(notes, path, program=52, names=voice_names(4))
    tracks = mido.MidiFile(path).tracks
    assert [track.name for track in tracks] == ["Soprano", "Alto", "Tenor", "Bass"]
    assert [sum(event.type == "note_on" for event in track) for track in tracks] == [3, 0, 0, 1]
    programs = [event for track in tracks for event in track if event.type == "program_change"]
    assert [(event.channel, event.program) for event in programs] == [(part, 52) for part in range(4)]
    keys = [event.key for track in tracks for event in track if event.type == "key_signature"]
    assert keys == ["Am"]
    assert read_back(path).notes.tolist() == notes.tolist()


@pytest.mark.parametrize(("key", "written"), [("Eb minor", "Ebm"), ("Db major", "Db"), ("F#", "F#")])
def test_the_key_that_was_asked_for_is_the_signature(tmp_path: Path, key: str, written: str) -> None:
    notes = make_notes([0], [12], [60], [0])
    write_midi(notes, tmp_path / "piece.mid", key=key_of(notes, parse_key(key)))
    events = [event for track in mido.MidiFile(tmp_path / "piece.mid").tracks for event in track]
    assert [event.key for event in events if event.type == "key_signature"] == [written]
    assert [event.name for event in events if event.type == "track_name"] in ([], [""])


@pytest.mark.parametrize(("key", "signature"), [("D minor", -1), ("F# minor", 3), ("C", None)])
def test_a_signature_is_read_back_but_for_that_of_c(tmp_path: Path, key: str, signature: int | None) -> None:
    """Which programs write without being asked."""
    write_midi(make_notes([0], [12], [60], [0]), tmp_path / "piece.mid", key=parse_key(key).key)
    assert read_back(tmp_path / "piece.mid").signature == signature


def test_a_track_without_a_name_beside_named_ones_is_no_voice(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="track 2 has no name"):
        write_midi(make_notes([0], [12], [60], [2]), tmp_path / "piece.mid", names=voice_names(2))


def test_writing_replaces_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "piece.mid"
    for pitch in (60, 61):
        write_midi(make_notes([0], [12], [pitch], [0]), path)
    assert read_back(path).notes[:, 2].tolist() == [61]
    assert [file.name for file in tmp_path.iterdir()] == ["piece.mid"]


def test_music_without_notes_is_a_file_too(tmp_path: Path) -> None:
    write_midi(make_notes([], [], [], []), tmp_path / "piece.mid")
    assert mido.MidiFile(tmp_path / "piece.mid").ticks_per_beat == 480
