"""Reading: what is found, what is read, and what is refused in one line."""

import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midigen_jax.errors import InputError
from midigen_jax.music import archives
from midigen_jax.music.notes import make_notes
from midigen_jax.music.read import Piece, Quantizer, Source, find_sources, read_piece
from midigen_jax.music.write import write_midi

QUANTIZERS: st.SearchStrategy[Quantizer] = st.sampled_from(["adaptive", "uniform", "music21"])
NOTES = make_notes([0, 0, 12], [12, 24, 12], [60, 64, 67], [0, 0, 0])


@pytest.fixture(scope="module")
def midi(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("midi") / "piece.mid"
    write_midi(NOTES, path, tempo=100, meter=(3, 4))
    return path.read_bytes()


def read_bytes(folder: Path, content: bytes, quantizer: Quantizer = "adaptive") -> Piece:
    path = folder / "piece.mid"
    path.write_bytes(content)
    return read_piece(Source("piece.mid", path), quantizer)


def smf(*tracks: list[Any], form: int = 1, per_quarter: int = 480) -> bytes:
    """A MIDI file from lists of mido messages."""
    chunks = b""
    for events in tracks:
        body = b"".join(b"\x00" * (not hasattr(event, "time")) + encoded(event) for event in events)
        chunks += b"MTrk" + struct.pack(">I", len(body) + 4) + body + b"\x00\xff\x2f\x00"
    return b"MThd" + struct.pack(">IHHH", 6, form, len(tracks), per_quarter) + chunks


def encoded(event: Any) -> bytes:
    delta = [event.time & 0x7F]
    rest = event.time >> 7
    while rest:
        delta.insert(0, 0x80 | (rest & 0x7F))
        rest >>= 7
    return bytes(delta + list(event.bytes()))


def struck(pitch: int, length: int, channel: int = 0, before: int = 0) -> list[Any]:
    return [
        mido.Message("note_on", note=pitch, velocity=80, channel=channel, time=before),
        mido.Message("note_off", note=pitch, channel=channel, time=length),
    ]


# What is found


def test_a_folder_is_searched_through_and_sorted(tmp_path: Path, midi: bytes) -> None:
    for name in (
        "b.mid",
        "a/z.MIDI",
        "a/c.kar",
        "a/d.rmi",
        "a/readme.txt",
        ".DS_Store",
        ".hidden/x.mid",
        "._b.mid",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(midi)
    found = find_sources([str(tmp_path)])
    assert [source.name for source in found] == [".hidden/x.mid", "a/c.kar", "a/d.rmi", "a/z.MIDI", "b.mid"]
    assert all(source.content() == midi for source in found)


def test_a_zip_is_read_in_memory_without_its_shadows(tmp_path: Path, midi: bytes) -> None:
    path = tmp_path / "music.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("m/b.mid", "m/a.mid", "__MACOSX/m/a.mid", "m/._a.mid", "m/readme.txt"):
            archive.writestr(name, midi)
    found = find_sources([str(path)])
    assert [source.name for source in found] == ["m/a.mid", "m/b.mid"]
    assert pickle.loads(pickle.dumps(found)) == found
    assert read_piece(found[0]).notes.tolist() == NOTES.tolist()
    assert [file.name for file in tmp_path.iterdir()] == ["music.zip"]


def test_a_zip_that_changes_is_read_anew(tmp_path: Path, midi: bytes) -> None:
    path = tmp_path / "music.zip"
    for content in (midi, midi + b" and more"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.mid", content)
        assert find_sources([str(path)])[0].content() == content


def test_a_file_is_tried_whatever_its_name(tmp_path: Path, midi: bytes) -> None:
    (tmp_path / "song").write_bytes(midi)
    (source,) = find_sources([str(tmp_path / "song")])
    assert source.name == "song"
    assert len(read_piece(source).notes) == 3


def test_a_piece_comes_once_and_equal_names_are_told_apart(tmp_path: Path, midi: bytes) -> None:
    for name in ("x/a.mid", "y/a.mid"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(midi)
    found = find_sources([str(tmp_path / "x"), str(tmp_path / "y"), str(tmp_path / "x" / "a.mid")])
    assert [source.name for source in found] == ["a.mid", "a.mid (2)"]


def test_bach_is_408_chorales_in_the_order_of_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_sources(["bach"])
    assert len(found) == 408
    assert [source.name for source in found[:3]] == ["bach/bwv1.6.mxl", "bach/bwv2.6.mxl", "bach/bwv3.6.mxl"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bach").mkdir()
    assert len(find_sources(["bach"])) == 408
    with pytest.raises(InputError, match="no music"):
        find_sources(["./bach"])


def zip_of(path: Path, *members: tuple[str, bytes | str]) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return str(path)


def refused(arguments: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        find_sources(arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_what_could_be_waited_for_without_end_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mid")
    refused([str(tmp_path / "pipe.mid")], r"pipe\.mid: neither a file nor a folder")


def test_what_is_not_there_is_named_with_the_nearest(tmp_path: Path, midi: bytes) -> None:
    (tmp_path / "chorales.mid").write_bytes(midi)
    refused([str(tmp_path / "choral.mid")], r"choral\.mid: not there; did you mean chorales\.mid\?")
    refused(["bahc"], r"did you mean bach\?")
    refused([str(tmp_path / "no" / "where")], "give a file, a folder, a zip or bach")


def test_a_folder_or_zip_without_music_is_refused(tmp_path: Path) -> None:
    refused([str(tmp_path)], "no music in it")
    refused([zip_of(tmp_path / "a.zip", ("a.txt", "text"))], "no music in it")


@pytest.mark.parametrize("name", ["../a.mid", "/a.mid", "x/../../a.mid", "..\\a.mid", "C:\\a.mid"])
def test_a_zip_that_leads_out_of_its_folder_is_refused(tmp_path: Path, midi: bytes, name: str) -> None:
    refused([zip_of(tmp_path / "a.zip", ("ok.mid", midi), (name, midi))], "leads out of its folder")


def test_a_zip_of_gigabytes_is_refused_unread(
    tmp_path: Path, midi: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "MAX_ARCHIVE_BYTES", 10_000)
    refused([zip_of(tmp_path / "a.zip", ("a.mid", midi), ("b.mid", bytes(10_000)))], "when unpacked")


def test_a_member_or_file_that_is_too_large_is_refused(
    tmp_path: Path, midi: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b.mid").write_bytes(midi)
    found = find_sources([zip_of(tmp_path / "a.zip", ("a.mid", midi)), str(tmp_path / "b.mid")])
    monkeypatch.setattr(archives, "MAX_PIECE_BYTES", 20)
    for source in found:
        with pytest.raises(InputError, match="limit"):
            read_piece(source)


def test_a_zip_that_lies_about_a_size_gives_no_more_than_it_said(tmp_path: Path, midi: bytes) -> None:
    path = tmp_path / "a.zip"
    zip_of(path, ("a.mid", midi + bytes(100_000)))
    said = struct.pack("<I", len(midi) + 100_000)
    path.write_bytes(path.read_bytes().replace(said, struct.pack("<I", 50)))
    (source,) = find_sources([str(path)])
    with pytest.raises(InputError, match=r"a\.mid: damaged in its archive"):
        source.content()


def test_a_damaged_or_encrypted_zip_is_refused(tmp_path: Path, midi: bytes) -> None:
    path = tmp_path / "a.zip"
    zip_of(path, ("a.mid", midi))
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    refused([str(path)], "a damaged zip")
    path.write_bytes(whole.replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"))
    refused([str(path)], "encrypted")
    middle = whole.index(b"a.mid") + 20
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :])
    (source,) = find_sources([str(path)])
    with pytest.raises(InputError, match="damaged in its archive"):
        source.content()


def test_what_vanished_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone: cannot be read"):
        read_piece(Source("gone", tmp_path / "gone.mid"))


# What is read


def test_a_midi_file_has_notes_tempo_and_meter(tmp_path: Path, midi: bytes) -> None:
    piece = read_bytes(tmp_path, midi)
    assert piece.notes.tolist() == NOTES.tolist()
    assert (round(piece.tempo, 3), piece.meter) == (100, (3, 4))


def test_without_tempo_and_meter_there_are_the_defaults(tmp_path: Path) -> None:
    piece = read_bytes(tmp_path, smf(struck(60, 480)))
    assert (piece.tempo, piece.meter) == (120, (4, 4))


@pytest.mark.parametrize("microseconds", [0, 1, 2**24 - 1])
def test_an_absurd_tempo_is_the_default(tmp_path: Path, microseconds: int) -> None:
    content = smf([mido.MetaMessage("set_tempo", tempo=microseconds, time=0), *struck(60, 480)])
    assert read_bytes(tmp_path, content).tempo == 120


@pytest.mark.parametrize("quantizer", ["adaptive", "uniform", "music21"])
def test_drums_are_left_out_and_channels_of_one_track_kept(tmp_path: Path, quantizer: Quantizer) -> None:
    events = [*struck(60, 480), *struck(40, 480, channel=9), *struck(62, 480, channel=3)]
    notes = read_bytes(tmp_path, smf(events, form=0), quantizer).notes
    assert notes[:, :3].tolist() == [[0, 12, 60], [24, 12, 62]]


def test_quantisers_differ_where_they_should(tmp_path: Path) -> None:
    content = smf([*struck(60, 185), *struck(62, 140), *struck(64, 155)])
    found = {q: read_bytes(tmp_path, content, q).notes[:, :2].tolist() for q in ("adaptive", "uniform")}
    assert found == {"adaptive": [[0, 4], [4, 4], [8, 4]], "uniform": [[0, 5], [5, 3], [8, 4]]}


def test_a_chorale_has_its_parts_as_tracks_and_its_ties_joined() -> None:
    (source,) = (s for s in find_sources(["bach"]) if s.name == "bach/bwv66.6.mxl")
    piece = read_piece(source)
    assert set(piece.notes[:, 3].tolist()) == {0, 1, 2, 3}
    assert len(piece.notes) == 163
    assert (piece.tempo, piece.meter) == (96, (4, 4))
    assert piece.notes[piece.notes[:, 3] == 0][:3].tolist() == [[0, 6, 73, 0], [6, 6, 71, 0], [12, 12, 69, 0]]


# What is refused


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a MIDI file"),
        (b"PK\x03\x04 and so on and on", "not a MIDI file"),
        (b"RIFF\x00\x00\x00\x00RMIDdata\x00\x00", "a RIFF file without data"),
        (smf(struck(60, 480), form=2), "format 2"),
        (smf(struck(60, 480), per_quarter=0), "no ticks in a quarter"),
        (smf(struck(60, 480), per_quarter=0xE728), "SMPTE"),
        (smf([]), "no notes"),
        (smf(struck(38, 480, channel=9)), "no notes"),
        (smf(struck(60, 480))[:-9], "damaged MIDI"),
        (smf(struck(60, 2**27), per_quarter=24), "longer than 100,000 quarters"),
    ],
)
def test_what_is_no_music_is_refused_in_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_bytes(tmp_path, content)
    assert str(caught.value).startswith("piece.mid: ")
    assert "\n" not in str(caught.value)


@given(st.data())
def test_any_damage_gives_notes_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, midi: bytes, data: st.DataObject
) -> None:
    content = bytearray(midi)
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(14, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    quantizer = data.draw(QUANTIZERS)
    try:
        notes = read_bytes(tmp_path_factory.mktemp("damage"), bytes(content), quantizer).notes
    except InputError as refusal:
        notes, line = make_notes([], [], [], []), str(refusal)
    else:
        line = "notes"
    assert len(line.splitlines()) == 1
    np.testing.assert_array_equal(make_notes(*notes.T), notes)
