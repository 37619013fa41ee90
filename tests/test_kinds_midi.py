"""MIDI by its specification: for each kind of thing that was once misread, many small files that have it.

Files are built byte by byte, and what is right was worked out by hand, from the Standard MIDI Files 1.0
specification (chunks, tempo and meter, format 1) and the MIDI 1.0 one (channels, programs, running status).
What these leave open is taken as docs/preparing.md says. Expected notes are `onset+duration pitch pitch …`
in ticks of a twelfth of a quarter.
"""

import struct
from collections.abc import Mapping
from typing import Any

import pytest

from midigen_jax.errors import InputError
from midigen_jax.music.clock import Clock
from midigen_jax.music.midi import read_midi
from midigen_jax.music.piece import Piece

Event = tuple[int, bytes]
END = b"\x00\xff\x2f\x00"
QUARTER = 480


def number(value: int) -> bytes:
    """A variable-length quantity."""
    rest = number(value >> 7) if value > 127 else b""
    return bytes([byte | 0x80 for byte in rest]) + bytes([value & 0x7F])


def track(*events: Event, end: bytes = END) -> bytes:
    """Events at their ticks; those of one tick stay in their order."""
    body, now = b"", 0
    for tick, message in sorted(events, key=lambda event: event[0]):
        body, now = body + number(tick - now) + message, tick
    return body + end


def chunk(body: bytes, kind: bytes = b"MTrk") -> bytes:
    return kind + struct.pack(">I", len(body)) + body


def header(count: int, form: int = 1, division: int = QUARTER, more: bytes = b"") -> bytes:
    return struct.pack(">4sIHHH", b"MThd", 6 + len(more), form, count, division) + more


def midi(*tracks: bytes, form: int | None = None, division: int = QUARTER) -> bytes:
    form = (len(tracks) > 1) if form is None else form
    return header(len(tracks), form, division) + b"".join(chunk(one) for one in tracks)


def note(tick: int, pitch: int = 60, length: int = QUARTER, channel: int = 0) -> list[Event]:
    on, off = bytes([0x90 | channel, pitch, 80]), bytes([0x80 | channel, pitch, 0])
    return [(tick, on), (tick + length, off)]


def scale(start: int = 0, count: int = 4, step: int = QUARTER, channel: int = 0) -> list[Event]:
    """Notes on c d e f …, each as long as a step."""
    pitches = [60, 62, 64, 65, 67, 69, 71, 72] * 4
    return [one for at in range(count) for one in note(start + at * step, pitches[at], step, channel)]


def tempo(tick: int, quarters_a_minute: float) -> Event:
    return tick, b"\xff\x51\x03" + round(60e6 / quarters_a_minute).to_bytes(3, "big")


def meter(tick: int, above: int, below: int) -> Event:
    return tick, b"\xff\x58\x04" + bytes([above, below.bit_length() - 1, 24, 8])


def program(tick: int, number: int, channel: int = 0) -> Event:
    return tick, bytes([0xC0 | channel, number])


def notes_of(text: str) -> list[tuple[int, int, int]]:
    notes = []
    for chord in text.split("; "):
        time, *pitches = chord.split()
        onset, duration = time.split("+")
        notes += [(int(onset), int(duration), int(pitch)) for pitch in pitches]
    return sorted(notes)


def found(piece: Piece) -> list[tuple[int, int, int]]:
    return sorted((onset, duration, pitch) for onset, duration, pitch, _ in piece.notes.tolist())


def read(content: bytes, clock: Clock | None = None) -> Piece:
    return read_midi(content, "adaptive") if clock is None else read_midi(content, "adaptive", clock=clock)


SCALE = "0+12 60; 12+12 62; 24+12 64; 36+12 65"
FOUR = track(*scale())
TEMPO = track(tempo(0, 100))

# SMF 1.0: without a tempo 120 quarters a minute, without a meter 4/4. They hold until the first of each.
TEMPI: dict[str, tuple[bytes, float]] = {
    "none": (midi(FOUR), 120),
    "at the start": (midi(track(tempo(0, 75)), FOUR), 75),
    "after the notes": (midi(track(tempo(1920, 60)), FOUR), 120),
    "between the notes": (midi(track(tempo(480, 60)), FOUR), 120),
    "one tick late": (midi(track(tempo(1, 60)), FOUR), 120),
    "between the notes, in the only track": (midi(track(*scale(), tempo(960, 60))), 120),
    "before the notes, in the only track": (midi(track(tempo(0, 50), *scale())), 50),
    "late, and yet before the first note": (midi(track(tempo(480, 60)), track(*scale(960))), 60),
    "with the first note": (midi(track(tempo(960, 80)), track(*scale(960))), 80),
    "two before the first note": (midi(track(tempo(0, 60), tempo(480, 90)), track(*scale(960))), 90),
    "two at one tick": (midi(track(tempo(0, 60), tempo(0, 90)), FOUR), 90),
    "another later": (midi(track(tempo(0, 100), tempo(960, 60)), FOUR), 100),
    "no whole number": (midi(track((0, b"\xff\x51\x03\x0a\x00\x01")), FOUR), 60e6 / 655361),
    "slow": (midi(track(tempo(0, 20)), FOUR), 20),
}
METERS: dict[str, tuple[bytes, tuple[int, int], int]] = {
    "none": (midi(FOUR), (4, 4), 0),
    "at the start": (midi(track(meter(0, 3, 4)), FOUR), (3, 4), 0),
    "6/8": (midi(track(meter(0, 6, 8)), FOUR), (6, 8), 0),
    "2/2": (midi(track(meter(0, 2, 2)), FOUR), (2, 2), 0),
    "12/16": (midi(track(meter(0, 12, 16)), FOUR), (12, 16), 0),
    "after the notes": (midi(track(meter(1920, 3, 4)), FOUR), (4, 4), 0),
    "late, with notes before and after": (midi(track(meter(1920, 3, 4)), track(*scale(count=8))), (4, 4), 0),
    "late, and yet before the first note": (midi(track(meter(1920, 3, 4)), track(*scale(1920))), (3, 4), 48),
    "in the only track": (midi(track(meter(0, 5, 8), *scale())), (5, 8), 0),
    "two at one tick": (midi(track(meter(0, 2, 4), meter(0, 3, 4)), FOUR), (3, 4), 0),
    "another later, longer bars before": (
        midi(track(meter(0, 4, 4), meter(1920, 3, 4)), track(*scale(count=8))),
        (4, 4),
        0,
    ),
}

# A first bar in a shorter meter than what follows is an upbeat: ticks from the start to its end.
UPBEATS: dict[str, tuple[bytes, tuple[int, int], int]] = {
    name: (midi(track(meter(0, *first), meter(tick, *then)), track(*scale(count=12))), then, bar)
    for name, first, tick, then, bar in [
        ("1/4 before 4/4", (1, 4), 480, (4, 4), 12),
        ("1/8 before 6/8", (1, 8), 240, (6, 8), 6),
        ("2/4 before 4/4", (2, 4), 960, (4, 4), 24),
        ("1/4 before 3/4", (1, 4), 480, (3, 4), 12),
        ("2/4 before 3/4", (2, 4), 960, (3, 4), 24),
        ("3/8 before 3/4", (3, 8), 720, (3, 4), 18),
        ("1/16 before 2/4", (1, 16), 120, (2, 4), 3),
        ("1/2 before 2/2", (1, 2), 960, (2, 2), 24),
        ("5/8 before 6/8", (5, 8), 1200, (6, 8), 30),
        ("1/8 before 2/2", (1, 8), 240, (2, 2), 6),
    ]
} | {
    "other ticks": (
        midi(track(meter(0, 1, 4), meter(96, 4, 4)), track(*scale(step=96, count=9)), division=96),
        (4, 4),
        12,
    ),
    "a rest first": (
        midi(track(meter(0, 1, 4), meter(480, 4, 4)), track(*note(240, 67, 240), *scale(480, 8))),
        (4, 4),
        12,
    ),
    "in the only track": (midi(track(meter(0, 1, 4), meter(480, 3, 4), *scale(count=7))), (3, 4), 12),
    "another meter later": (
        midi(track(meter(0, 1, 4), meter(480, 4, 4), meter(2400, 3, 4)), track(*scale(count=12))),
        (4, 4),
        12,
    ),
    "not a longer bar": (
        midi(track(meter(0, 4, 4), meter(1920, 2, 4)), track(*scale(count=12))),
        (4, 4),
        0,
    ),
    "not bars in the plural": (
        midi(track(meter(0, 3, 4), meter(2880, 4, 4)), track(*scale(count=12))),
        (3, 4),
        0,
    ),
    "not without another meter": (midi(track(meter(0, 1, 4)), FOUR), (1, 4), 0),
    "not the same meter again": (
        midi(track(meter(0, 2, 4), meter(960, 2, 4)), track(*scale(count=8))),
        (2, 4),
        0,
    ),
}

# A program is its channel's, whichever track sets it: MIDI 1.0, Program Change; SMF 1.0, format 1.
PROGRAMS: dict[str, tuple[bytes, int]] = {
    "in a track before": (midi(track(program(0, 40)), FOUR), 40),
    "in a track behind": (midi(FOUR, track(program(0, 40))), 40),
    "in its own track": (midi(track(tempo(0, 100)), track(program(0, 12), *scale())), 12),
    "in the only track": (midi(track(program(0, 127), *scale())), 127),
    "of two channels, where most notes are": (
        midi(track(program(0, 40), program(0, 73, 1)), track(*scale(count=2)), track(*scale(channel=1))),
        73,
    ),
    "later, before most notes": (midi(track(program(480, 40)), FOUR), 40),
    "later, behind most notes": (midi(track(program(1440, 40)), FOUR), 0),
    "between two, before most notes": (midi(track(program(0, 10), program(480, 40)), FOUR), 40),
    "for two tracks of a channel": (
        midi(track(*scale(count=2)), track(program(0, 19)), track(*scale(960, 2))),
        19,
    ),
    "twice by running status": (midi(track(program(0, 40, 1), (0, b"\x30")), track(*scale(channel=1))), 48),
    "twice at a tick": (midi(track(program(0, 40), program(0, 48)), FOUR), 48),
    "twice before the first note": (midi(track(program(0, 40), program(240, 48)), track(*scale(480))), 48),
    "later in its own track": (midi(TEMPO, track(program(0, 10), program(480, 40), *scale())), 40),
    "on the last channel": (midi(track(program(0, 56, 15)), track(*scale(channel=15))), 56),
    "two tracks set it, the later holds": (
        midi(track(program(0, 40)), track(program(480, 6), *scale(480))),
        6,
    ),
    "not of another channel": (midi(track(program(0, 40, 1)), FOUR), 0),
    "not of drums": (midi(track(program(0, 40, 9)), track(*scale(channel=9, count=8)), FOUR), 0),
    "not of a bank": (midi(track((0, b"\xb0\x00\x28"), (0, b"\xb0\x20\x28")), FOUR), 0),
}

# "An end-of-track event is not optional" (SMF 1.0), but where a chunk's length is right nothing is lost.
NO_END = ("a track without its end",)
ENDLESS = track(*scale(), end=b"")
ENDS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "the only track": (midi(ENDLESS), NO_END),
    "the first of two": (midi(track(tempo(0, 100), end=b""), FOUR), NO_END),
    "the last of two": (midi(track(tempo(0, 100)), ENDLESS), NO_END),
    "both": (midi(track(tempo(0, 100), end=b""), ENDLESS), NO_END),
    "an empty track": (midi(b"", FOUR), NO_END),
    "running status": (
        midi(b"\x00\x90" + b"".join(bytes([p, 80, 0x83, 0x60, p, 0, 0]) for p in (60, 62, 64, 65))[:-1]),
        NO_END,
    ),
    "a text last": (midi(track(*scale(), (1920, b"\xff\x06\x03end"), end=b"")), NO_END),
    "a system message last": (midi(track(*scale(), (1920, b"\xf0\x03\x43\x12\xf7"), end=b"")), NO_END),
    "a controller last": (midi(track(*scale(), (2400, b"\xb0\x40\x00"), end=b"")), NO_END),
    "a program last": (midi(track(*scale(), (1920, b"\xc0\x2f"), end=b"")), NO_END),
    "a tempo whose bytes look like an end": (
        midi(track((0, b"\xff\x51\x03\xff\x2f\x00"), *scale(), end=b"")),
        NO_END,
    ),
    "not with an end": (midi(FOUR), ()),
    "not with an end that waits": (midi(track(*scale(), end=b"\x83\x60\xff\x2f\x00")), ()),
}
DAMAGED = {
    "a track without its end, and cut short": midi(ENDLESS)[:-1],
    "the length is too long": header(1, 0) + b"MTrk" + struct.pack(">I", len(ENDLESS) + 4) + ENDLESS,
    "the length is too short": header(1, 0) + b"MTrk" + struct.pack(">I", len(ENDLESS) - 1) + ENDLESS,
    "events behind the end": midi(FOUR + ENDLESS),
    "a track is missing": header(2) + chunk(FOUR),
    "a track and another chunk, where two and more are counted": header(3)
    + chunk(FOUR)
    + chunk(b"abcd", b"XFIH"),
}

# "Your programs should expect alien chunks and treat them as if they weren't there" (SMF 1.0).
ALIEN = chunk(b"abcd", b"XFIH")
COUNTED = "chunks of another kind are counted as tracks"
WRAPPED = "RIFF around it"


def riff(content: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    data = b"data" + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    body = b"RMID" + before + data + after
    return b"RIFF" + struct.pack("<I", len(body)) + body


INFO = b"LIST" + struct.pack("<I", 16) + b"INFOINAM" + struct.pack("<I", 4) + b"name"
CHUNKS: dict[str, tuple[bytes, tuple[str, ...] | None]] = {
    "between tracks": (header(2) + chunk(TEMPO) + ALIEN + chunk(FOUR), ()),
    "before the tracks": (header(1) + ALIEN + chunk(FOUR), ()),
    "behind the tracks": (header(1) + chunk(FOUR) + ALIEN, ()),
    "counted behind": (header(2) + chunk(FOUR) + ALIEN, (COUNTED,)),
    "counted between": (header(3) + chunk(TEMPO) + ALIEN + chunk(FOUR), (COUNTED,)),
    "two, and empty": (header(1) + chunk(b"", b"XFKM") + chunk(b"", b"XFIH") + chunk(FOUR), ()),
    "with a track in it": (header(1) + chunk(chunk(track(*note(0, 90))), b"CASM") + chunk(FOUR), ()),
    "an odd length, without padding": (header(1) + chunk(b"abc", b"CASM") + chunk(FOUR), ()),
    "of 300 bytes": (header(1) + chunk(bytes(300), b"OTSc") + chunk(FOUR), ()),
    "a longer header": (header(1, more=b"\x01\x02") + chunk(FOUR), ()),
    "RIFF": (riff(midi(FOUR)), (WRAPPED,)),
    "RIFF of an odd length": (riff(midi(track(*scale(), (1920, b"\xff\x01\x00")))), (WRAPPED,)),
    "RIFF with a list before": (riff(midi(FOUR), before=INFO), (WRAPPED,)),
    "RIFF with a list behind": (riff(midi(FOUR), after=INFO), (WRAPPED,)),
    "RIFF with other chunks in the data": (riff(header(2) + chunk(TEMPO) + ALIEN + chunk(FOUR)), (WRAPPED,)),
    "zeros behind": (midi(FOUR) + bytes(77), None),
    "fewer bytes behind than a chunk has": (midi(FOUR) + b"\x1a\x0d", None),
    "words behind": (midi(FOUR) + b"made with a sequencer", None),
    "not where all is in order": (midi(TEMPO, FOUR), ()),
}

# How many ticks of 480 to the quarter each onset has; the clock that keeps them; their ticks on it; how many
# of them twelfths merge (None: that depends on how halves are rounded, and some do).
FINE: dict[str, tuple[list[int], int, list[int], int | None]] = {
    "thirty-second notes": ([60 * at for at in range(32)], 24, [3 * at for at in range(32)], 16),
    "sixteenth triplets": ([80 * at for at in range(24)], 24, [4 * at for at in range(24)], None),
    "1/64 notes": ([30 * at for at in range(32)], 48, [3 * at for at in range(32)], None),
    "thirty-second triplets": ([40 * at for at in range(24)], 48, [4 * at for at in range(24)], None),
    "one of them": ([0, 60, 120, 240, 480], 24, [0, 3, 6, 12, 24], 1),
    "one at the end of a beat": ([0, 240, 360, 420, 480], 24, [0, 12, 18, 21, 24], 1),
    "one in each beat": ([0, 60, 120, 480, 540, 600, 960], 24, [0, 3, 6, 24, 27, 30, 48], 2),
    "behind a dotted note": ([0, 120, 180, 240, 480], 24, [0, 6, 9, 12, 24], 1),
    "thirty-seconds, then sixteenth triplets": (
        [0, 60, 120, 180, 240, 300, 360, 420, 480, 560, 640, 720, 800, 880, 960],
        24,
        [0, 3, 6, 9, 12, 15, 18, 21, 24, 28, 32, 36, 40, 44, 48],
        None,
    ),
    "on a finer clock than they need": ([60 * at for at in range(16)], 48, [6 * at for at in range(16)], 8),
    "not sixteenths": ([120 * at for at in range(16)], 24, [6 * at for at in range(16)], 0),
    "not eighth triplets": ([160 * at for at in range(12)], 24, [8 * at for at in range(12)], 0),
    "not the notes of a chord": ([0, 0, 0, 480, 480], 24, [0, 0, 0, 24, 24], 0),
    "not a rolled chord": ([0, 10, 20, 480, 490], 24, [0, 0, 0, 24, 24], 0),
}


def cases(table: Mapping[str, tuple[Any, ...]]) -> list[Any]:
    return [pytest.param(*case, id=name) for name, case in table.items()]


@pytest.mark.parametrize(("content", "expected"), cases(TEMPI))
def test_the_tempo_is_that_of_the_first_note(content: bytes, expected: float) -> None:
    piece = read(content)
    assert piece.tempo == pytest.approx(expected, rel=1e-5)
    assert [pitch for _, _, pitch in found(piece)] == [60, 62, 64, 65]


@pytest.mark.parametrize(("content", "expected", "first_bar"), cases(METERS))
def test_the_meter_is_that_of_the_first_note(
    content: bytes, expected: tuple[int, int], first_bar: int
) -> None:
    piece = read(content)
    assert (piece.meter, piece.first_bar) == (expected, first_bar)


@pytest.mark.parametrize(("content", "expected", "first_bar"), cases(UPBEATS))
def test_a_short_first_bar_is_an_upbeat(content: bytes, expected: tuple[int, int], first_bar: int) -> None:
    piece = read(content)
    assert (piece.meter, piece.first_bar) == (expected, first_bar)


@pytest.mark.parametrize(("content", "expected"), cases(PROGRAMS))
def test_a_program_is_its_channels(content: bytes, expected: int) -> None:
    assert read(content).program == expected


@pytest.mark.parametrize(("content", "remarks"), cases(ENDS))
def test_a_track_without_its_end_is_whole(content: bytes, remarks: tuple[str, ...]) -> None:
    piece = read(content)
    assert (found(piece), piece.remarks, piece.stuck) == (notes_of(SCALE), remarks, 0)


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_what_is_lost_is_refused(content: bytes) -> None:
    with pytest.raises(InputError):
        read(content)


@pytest.mark.parametrize(("content", "remarks"), cases(CHUNKS))
def test_chunks_of_other_kinds_change_nothing(content: bytes, remarks: tuple[str, ...] | None) -> None:
    """Whether bytes behind the file are remarked is left open."""
    piece = read(content)
    assert found(piece) == notes_of(SCALE)
    assert remarks is None or piece.remarks == remarks


@pytest.mark.parametrize("division", [96, 480, 960])
@pytest.mark.parametrize(("onsets", "quarter", "ticks", "merged"), cases(FINE))
def test_what_twelfths_merge_is_counted_and_a_finer_clock_keeps_it(
    onsets: list[int], quarter: int, ticks: list[int], merged: int | None, division: int
) -> None:
    raw = [onset * division // QUARTER for onset in onsets]
    content = midi(
        track(*[one for at, onset in enumerate(raw) for one in note(onset, 40 + at, division // 16)]),
        division=division,
    )
    coarse, fine = read(content), read(content, Clock(quarter))
    assert [onset for onset, *_ in sorted(found(fine), key=lambda one: one[2])] == ticks
    assert fine.merged == 0
    assert len(fine.notes) == len(coarse.notes) == len(onsets)
    assert coarse.merged > 0 if merged is None else coarse.merged == merged
