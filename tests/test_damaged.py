"""Damaged and hostile MIDI: read with all its invariants, or refused in one line; and never for long."""

import random
import struct
import tracemalloc
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midigen_jax.errors import InputError
from midigen_jax.music.key import transpose
from midigen_jax.music.notes import Notes, make_notes
from midigen_jax.music.read import Piece, Quantizer, Source, read_piece
from midigen_jax.music.slices import slice_notes
from midigen_jax.vocab import slices_of
from midigen_jax.vocab.note import NoteVocabulary

QUANTIZERS: list[Quantizer] = ["adaptive", "uniform", "music21"]
END = b"\x00\xff\x2f\x00"
HOURS = b"\xff\xff\xff\x7f"
"""the longest delta time: more than six days at 480 ticks to a quarter of half a second"""


def on(pitch: int, delta: int = 0, channel: int = 0) -> bytes:
    return bytes([delta, 0x90 | channel, pitch, 80])


def off(pitch: int, delta: int = 0, channel: int = 0) -> bytes:
    return bytes([delta, 0x80 | channel, pitch, 0])


def midi(*tracks: bytes, form: int = 1, per_quarter: int = 12, end: bytes = END) -> bytes:
    """A file of tracks that lack their ends. With 12 ticks to a quarter, a delta byte counts ticks."""
    chunks = [b"MTrk" + struct.pack(">I", len(track + end)) + track + end for track in tracks]
    return struct.pack(">4sIHHH", b"MThd", 6, form, len(tracks), per_quarter) + b"".join(chunks)


def read(folder: Path, content: bytes, quantizer: Quantizer = "uniform") -> Piece:
    path = folder / "piece.mid"
    path.write_bytes(content)
    return read_piece(Source("piece.mid", path), quantizer)


def refusal(folder: Path, content: bytes, quantizer: Quantizer = "uniform") -> str:
    with pytest.raises(InputError) as caught:
        read(folder, content, quantizer)
    return one_line(caught.value)


def one_line(error: InputError) -> str:
    assert len(str(error).splitlines()) == 1
    assert str(error).startswith("piece.mid: ")
    return str(error)


def require_sound(piece: Piece) -> None:
    """What is true of every piece that is read."""
    onset, duration, pitch, _ = piece.notes.T
    assert len(piece.notes) > 0
    assert (onset >= 0).all()
    assert (duration >= 1).all()
    assert ((pitch >= 0) & (pitch <= 127)).all()
    # Sorted, and no overlap on a pitch of a track: what make_notes gives is what it takes.
    np.testing.assert_array_equal(make_notes(*piece.notes.T), piece.notes)
    vocabulary = NoteVocabulary()
    assert slices_of(vocabulary, vocabulary.encode(piece)) == slice_notes(piece.notes)
    assert 4 <= piece.tempo <= 1000
    assert 1 <= piece.meter[0] <= 64
    assert piece.meter[1] in (1, 2, 4, 8, 16, 32, 64)
    assert 0 <= piece.program <= 127
    assert piece.stuck >= 0


# Time


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_delta_times_of_days_are_refused(tmp_path: Path, quantizer: Quantizer) -> None:
    pause = HOURS + on(60)[1:] + off(60, 12)
    assert "longer than 100,000 quarters" in refusal(tmp_path, midi(on(60) + off(60, 12) + pause), quantizer)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_time_that_32_bits_cannot_hold_is_refused(tmp_path: Path, quantizer: Quantizer) -> None:
    """Sixteen such delta times and one tick for each are 2**32: a clock of 32 bits would be back at 0."""
    week = (HOURS + on(60)[1:] + off(60, 1)) * 16
    assert "longer than 100,000 quarters" in refusal(tmp_path, midi(week, per_quarter=0x7FFF), quantizer)


@pytest.mark.parametrize("meter", [b"\x00\x02", b"\x03\x07", b"\x04\xff", b"\x41\x02"])
def test_an_absurd_meter_is_the_default(tmp_path: Path, meter: bytes) -> None:
    content = midi(b"\x00\xff\x58\x04" + meter + b"\x18\x08" + on(60) + off(60, 12))
    assert read(tmp_path, content).meter == (4, 4)


def test_tempo_and_meter_are_the_first_of_all_tracks(tmp_path: Path) -> None:
    tempo, meter = b"\xff\x51\x03\x0f\x42\x40", b"\xff\x58\x04\x03\x03\x18\x08"
    late = b"\x18\xff\x51\x03\x07\xa1\x20" + b"\x00\xff\x58\x04\x05\x02\x18\x08"
    piece = read(tmp_path, midi(late, on(60) + off(60, 12) + late, b"\x00" + tempo + b"\x00" + meter, late))
    assert (round(piece.tempo, 3), piece.meter) == (60, (3, 8))


# Notes


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_what_a_stuck_key_holds_is_left_out_and_the_key_counted(tmp_path: Path, quantizer: Quantizer) -> None:
    track = on(72) + on(60) + off(60, 12) + on(62) + on(64) + off(64, 12) + on(40, channel=9)
    piece = read(tmp_path, midi(track, on(72, channel=1)), quantizer)
    assert piece.notes[:, :3].tolist() == [[0, 12, 60], [12, 12, 64]]
    assert piece.stuck == 3
    assert "none of its notes ends" in refusal(tmp_path, midi(on(60)), quantizer)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_a_key_that_is_let_go_of_twice_or_never_struck_is_not_stuck(
    tmp_path: Path, quantizer: Quantizer
) -> None:
    track = off(60) + on(60) + off(60, 12) + off(60, 12) + off(61)
    piece = read(tmp_path, midi(track), quantizer)
    assert (piece.notes[:, :3].tolist(), piece.stuck) == ([[0, 12, 60]], 0)


def test_notes_that_overlap_on_a_key_are_cut_where_the_next_begins(tmp_path: Path) -> None:
    track = on(60) + on(60, 12) + off(60, 12) + off(60, 12)
    assert read(tmp_path, midi(track)).notes[:, :3].tolist() == [[0, 12, 60], [12, 24, 60]]
    other_channel = on(60) + on(60, 12, channel=1) + off(60, 12) + off(60, 12, channel=1)
    assert read(tmp_path, midi(other_channel)).notes[:, :2].tolist() == [[0, 24], [12, 24]]


@given(st.integers(-128, 128), st.sampled_from(QUANTIZERS))
def test_both_ends_of_the_range_survive_any_transposition(
    tmp_path_factory: pytest.TempPathFactory, shift: int, quantizer: Quantizer
) -> None:
    content = midi(b"".join(on(pitch) + off(pitch, 12) for pitch in (0, 127, 64)))
    piece = read(tmp_path_factory.mktemp("ends"), content, quantizer)
    assert piece.notes[:, 2].tolist() == [0, 127, 64]
    moved = transpose(piece.notes, shift)
    require_sound(Piece(moved))
    assert ((moved[:, 2] - piece.notes[:, 2] - shift) % 12 == 0).all()


def first_in_first_out(messages: list[tuple[int, int, bool]]) -> tuple[Notes, int]:
    """The notes of (delta, pitch, "is struck") and the number of keys that stay down."""
    time, rows, down = 0, [], defaultdict(list)
    for delta, pitch, struck in messages:
        time += delta
        if struck:
            down[pitch].append(time)
        elif down[pitch]:
            begin = down[pitch].pop(0)
            rows.append((begin, time - begin, pitch, 0))
    return make_notes(*np.array(rows, np.int64).reshape(-1, 4).T), sum(map(bool, down.values()))


MESSAGES = st.lists(st.tuples(st.integers(0, 20), st.integers(60, 63), st.booleans()), max_size=40)


@given(MESSAGES)
def test_any_notes_are_paired_first_in_first_out(
    tmp_path_factory: pytest.TempPathFactory, messages: list[tuple[int, int, bool]]
) -> None:
    track = b"".join((on if struck else off)(pitch, delta) for delta, pitch, struck in messages)
    expected, stuck = first_in_first_out(messages)
    folder = tmp_path_factory.mktemp("pairs")
    if len(expected) == 0:
        assert ("none of its notes ends" if stuck else "no notes in it") in refusal(folder, midi(track))
    else:
        piece = read(folder, midi(track))
        assert (piece.notes.tolist(), piece.stuck) == (expected.tolist(), stuck)


# What symusic would misread, and say nothing

PART = b"\x00\xf7\x02\x01\xf7"  # of a system exclusive message: it takes the length for a delta time
MISLEADING = [
    (on(60) + off(60, 12) + END + on(62) + off(62, 12), "goes on after its end"),
    (PART + on(60) + off(60, 12), "system messages in parts"),
    (on(60) + b"\x00\xf0\x01\x40" + b"\x0c\x3c\x00", "without its status"),
]


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize(("track", "words"), MISLEADING)
def test_what_would_be_misread_is_refused(
    tmp_path: Path, track: bytes, words: str, quantizer: Quantizer
) -> None:
    assert words in refusal(tmp_path, midi(track), quantizer)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_a_track_without_its_end_is_read_with_a_remark(tmp_path: Path, quantizer: Quantizer) -> None:
    piece = read(tmp_path, midi(on(60) + off(60, 12), end=b""), quantizer)
    assert (piece.notes.tolist(), piece.remarks) == ([[0, 12, 60, 0]], ("a track without its end",))
    assert "cut short" in refusal(tmp_path, midi((on(60) + off(60, 12))[:-1], end=b""), quantizer)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_what_only_looks_like_it_is_read(tmp_path: Path, quantizer: Quantizer) -> None:
    text = b"\x00\xff\x01\x06\x00\xff\x2f\x00\xf7\xf0" + b"\x00\xff\x51\x03\x0a\x85\xf7"
    late = b"\xf7\x20" + on(62)[1:] + off(62, 12)
    piece = read(tmp_path, midi(text + on(60) + off(60, 12) + late), quantizer)
    assert piece.notes[:, :3].tolist() == [[0, 12, 60], [12 + 0x77 * 128 + 0x20, 12, 62]]


# Much


def million_notes() -> bytes:
    """A chord of four on every sixteenth. Each row ends the note of four rows before, and begins one."""
    pitch = (36 + np.arange(1_000_000) * 7 % 60).astype(np.uint8)
    rows = np.zeros((len(pitch) + 4, 8), np.uint8)
    rows[::4, 0] = 6
    rows[:, 1], rows[4:, 2] = 0x80, pitch
    rows[:, 5], rows[:-4, 6], rows[:-4, 7] = 0x90, pitch, 80
    return midi(rows.tobytes(), per_quarter=24)


@pytest.mark.parametrize("quantizer", ["adaptive", "music21"])
def test_a_million_notes_are_read(tmp_path: Path, quantizer: Quantizer) -> None:
    piece = read(tmp_path, million_notes(), quantizer)
    assert len(piece.notes) == 1_000_000
    assert slice_notes(piece.notes).count.max() == 4


def test_a_million_notes_take_little_memory(tmp_path: Path) -> None:
    content = million_notes()
    tracemalloc.start()
    slice_notes(read(tmp_path, content).notes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 400e6


def test_more_than_any_piece_has_is_refused(tmp_path: Path) -> None:
    assert "16 MiB of MIDI are more than any piece has" in refusal(tmp_path, midi(bytes(16 << 20)))


def test_thousands_of_notes_at_once_are_refused_where_music21_would_compare_them_all(tmp_path: Path) -> None:
    content = midi(on(60) * 20_000 + off(60, 12) + off(60) * 19_999)
    assert "use adaptive" in refusal(tmp_path, content, "music21")
    assert read(tmp_path, content).notes[:, :3].tolist() == [[0, 12, 60]]


# Damage


def melody_and_chords() -> bytes:
    facts = (
        b"\x00\xff\x51\x03\x09\x27\xc0" + b"\x00\xff\x58\x04\x03\x02\x18\x08" + b"\x00\xf0\x03\x7e\x7f\xf7"
    )
    tune = b"\x00\xff\x03\x06Melody" + b"\x00\xc0\x49"
    for i in range(24):
        tune += on(60 + i * 5 % 12) + off(60 + i * 5 % 12, 120)
    # Running status: a note-on of velocity 0 is a note-off, and needs no status of its own.
    chords = b"\x00\xc1\x00" + on(40, channel=1)
    for root in (40, 45, 43, 40):
        chords += bytes([0, root + 4, 70, 0, root + 7, 70, 0x86, 0, root + 4, 0, 0, root + 7, 0])
    return midi(facts, tune, chords + off(40, channel=1), per_quarter=480)


def all_in_one_track() -> bytes:
    body = b"\x00\xc0\x00\x00\xc1\x20"
    for i in range(16):
        body += on(72 - i) + on(36 + i, channel=1) + on(38, channel=9)
        body += off(38, 40, channel=9) + off(72 - i, 40) + off(36 + i, 40, channel=1)
    return midi(body, form=0, per_quarter=96)


WHOLE = [melody_and_chords(), all_in_one_track()]


def bit_flipped(content: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 4)):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def overwritten(content: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 4)):
        content[chance.randrange(14, len(content))] = chance.choice(
            [0, 0x2F, 0x7F, 0x80, 0x90, 0xF0, 0xF7, 0xFF]
        )


def truncated(content: bytearray, chance: random.Random) -> None:
    del content[chance.randrange(len(content)) :]


def cut_out(content: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(content))
    del content[at : at + chance.randint(1, 12)]


def copied_over(content: bytearray, chance: random.Random) -> None:
    at, source, size = (chance.randrange(1, len(content)) for _ in range(3))
    content[at : at + size // 8] = content[source : source + size // 8]


def random_events(content: bytearray, chance: random.Random) -> None:
    size = chance.randint(1, 60)
    content[22:] = chance.randbytes(size) + END
    content[8:22] = struct.pack(">HHH4sI", 1, 1, 96, b"MTrk", size + len(END))


DAMAGES = [bit_flipped, overwritten, truncated, cut_out, copied_over, random_events]


def damaged_files(rounds: int) -> list[bytes]:
    """Twelve a round, always the same."""
    files = []
    for number in range(rounds):
        for damage in DAMAGES:
            for whole in WHOLE:
                content = bytearray(whole)
                damage(content, random.Random(number))
                files.append(bytes(content))
    return files


def test_the_files_that_are_damaged_were_sound(tmp_path: Path) -> None:
    for whole in WHOLE:
        for quantizer in QUANTIZERS:
            require_sound(read(tmp_path, whole, quantizer))


@pytest.mark.parametrize("quantizer", ["adaptive", "music21"])
@pytest.mark.parametrize("rounds", [30, pytest.param(400, marks=pytest.mark.slow)])
def test_every_damaged_file_is_read_soundly_or_refused_in_one_line(
    tmp_path: Path, rounds: int, quantizer: Quantizer
) -> None:
    refused = 0
    files = damaged_files(rounds)
    for content in files:
        try:
            require_sound(read(tmp_path, content, quantizer))
        except InputError as error:
            refused += bool(one_line(error))
    # Both happen, or this would be a test of little.
    assert 0.2 * len(files) < refused < 0.9 * len(files)


def test_every_truncated_file_is_refused(tmp_path: Path) -> None:
    for whole in WHOLE:
        for size in range(0, len(whole), 7):
            refusal(tmp_path, whole[:size])
