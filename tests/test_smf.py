"""Standard MIDI Files: whole or refused, and every event as another reader gives it."""

import io
import struct
from typing import Any

import mido
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midigen_jax.errors import InputError
from midigen_jax.music.smf import events, take_apart

END = b"\x00\xff\x2f\x00"
NOTE = b"\x00\x90\x3c\x50\x60\x80\x3c\x00"


def chunk(body: bytes, kind: bytes = b"MTrk") -> bytes:
    return kind + struct.pack(">I", len(body)) + body


def file(
    *chunks: bytes, count: int | None = None, form: int = 1, division: int = 480, size: int = 6
) -> bytes:
    count = len(chunks) if count is None else count
    header = struct.pack(">4sIHHH", b"MThd", size, form, count, division) + bytes(size - 6)
    return header + b"".join(chunks)


def refusal(content: bytes) -> str:
    with pytest.raises(InputError) as caught:
        [events(track) for track in take_apart(content).tracks]
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# Files


def test_a_file_is_its_tracks() -> None:
    taken = take_apart(file(chunk(END), chunk(NOTE + END), division=96))
    assert (taken.form, taken.per_quarter, taken.tracks) == (1, 96, [END, NOTE + END])


def test_what_the_standard_leaves_open_is_no_damage() -> None:
    longer = file(chunk(NOTE + END), size=8)
    strange = file(chunk(b"whatever", kind=b"XFIH"), chunk(NOTE + END), count=1)
    trailed = file(chunk(NOTE + END)) + b"some bytes, and no track"
    assert [take_apart(one).tracks for one in (longer, strange, trailed)] == 3 * [[NOTE + END]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a MIDI file"),
        (b"RIFF\x00\x00\x00\x00RMIDdata\x00\x00", "a RIFF file without data"),
        (file(chunk(NOTE + END), form=2), "format 2"),
        (file(chunk(NOTE + END), division=0), "no ticks in a quarter"),
        (file(chunk(NOTE + END), division=0xE728), "SMPTE"),
        (file(chunk(NOTE + END), chunk(NOTE + END))[:-1], "cut short in track 2"),
        (file(chunk(NOTE + END), count=3), "tracks by its header: 3; in it: 1"),
        (file(chunk(NOTE + END), chunk(NOTE + END), count=1), "tracks by its header: 1; in it: 2"),
        (file(chunk(NOTE + END).replace(b"MTrk", b"MTrj")), "tracks by its header: 1; in it: 0"),
    ],
)
def test_what_is_not_a_whole_file_is_refused(content: bytes, words: str) -> None:
    assert words in refusal(content)


# Events


def read(track: bytes) -> tuple[list[list[int]], list[int]]:
    found = events(track)
    return found.voiced.tolist(), found.marks.tolist()


def test_time_pitch_channel_velocity_and_program() -> None:
    track = b"\x05\xc3\x07\x10\x93\x3c\x50\x81\x00\x83\x3c\x40" + END
    assert read(track) == ([[21, 60, 3, 80, 7], [149, 60, 3, 0, 7]], [5])


def test_a_status_byte_may_be_left_out_even_after_a_meta_event() -> None:
    text = b"\x00\xff\x01\x02hi"
    track = b"\x00\x90\x3c\x50" + text + b"\x10\x3c\x00" + b"\x00\x3e\x50\x10\x3e\x00" + END
    assert [row[:2] for row in read(track)[0]] == [[0, 60], [16, 60], [16, 62], [32, 62]]


def test_other_messages_are_passed_over() -> None:
    others = b"\x01\xf0\x03\x43\x12\xf7" + b"\x01\xff\x51\x03\x07\xa1\x20" + b"\x01\xb0\x07\x7f\x01\xd0\x10"
    others += b"\x01\xe0\x00\x40\x01\xf2\x00\x00\x01\xf8"
    voiced, marks = read(others + NOTE + END)
    assert (voiced, marks) == ([[7, 60, 0, 80, 0], [103, 60, 0, 0, 0]], [2])


@pytest.mark.parametrize(
    ("track", "words"),
    [
        (NOTE[:-1], "cut short"),
        (b"\x00\xff\x01\x7fhi" + END, "cut short"),
        (b"\x00\xf0\xff\xff\xff\x7f" + END, "cut short"),
        (NOTE + END + NOTE + END, "goes on after its end"),
        (b"\x00\x3c\x50" + END, "without its status"),
        (b"\x00\x90\x3c\x50" + b"\x00\xf0\x01\xf7" + b"\x10\x3c\x00" + END, "without its status"),
        (b"\x00\x90\xbc\x50" + END, "without its status or its data"),
        (b"\x00\x90\x3c\xd0" + END, "without its status or its data"),
        (b"\x81\x81\x81\x81\x00\x90\x3c\x50" + END, "more than four bytes"),
        (b"\x00\xf4" + END, "no event has the status 0xf4"),
        (b"\x00\xf7\x02\x01\xf7" + NOTE + END, "system messages in parts"),
    ],
)
def test_what_is_not_where_it_may_be_is_refused(track: bytes, words: str) -> None:
    assert words in refusal(file(chunk(track)))


def test_what_is_out_of_order_and_yet_whole_is_read_with_a_remark() -> None:
    whole = file(chunk(NOTE + END))
    mended = {
        "a track without its end": file(chunk(NOTE)),
        "RIFF around it": b"RIFF\x00\x00\x00\x00RMIDdata" + len(whole).to_bytes(4, "little") + whole,
        "chunks of another kind are counted as tracks": file(
            chunk(b"whatever", kind=b"XFIH"), chunk(NOTE + END), count=2
        ),
    }
    for remark, content in mended.items():
        taken = take_apart(content)
        assert (taken.tracks[0].startswith(NOTE), taken.remarks) == (True, (remark,))
    assert take_apart(file(chunk(b""), chunk(NOTE + END))).remarks == ("a track without its end",)
    assert take_apart(whole).remarks == ()


CHANNELS, DATA, DELTAS = st.integers(0, 15), st.integers(0, 127), st.integers(0, 2**28 - 1)
MESSAGES = st.one_of(
    st.builds(
        mido.Message,
        st.sampled_from(["note_on", "note_off"]),
        channel=CHANNELS,
        note=DATA,
        velocity=DATA,
        time=DELTAS,
    ),
    st.builds(mido.Message, st.just("program_change"), channel=CHANNELS, program=DATA, time=DELTAS),
    st.builds(
        mido.Message, st.just("control_change"), channel=CHANNELS, control=DATA, value=DATA, time=DELTAS
    ),
    st.builds(
        mido.Message, st.just("pitchwheel"), channel=CHANNELS, pitch=st.integers(-8192, 8191), time=DELTAS
    ),
    st.builds(mido.Message, st.just("aftertouch"), channel=CHANNELS, value=DATA, time=DELTAS),
    st.builds(mido.Message, st.just("sysex"), data=st.lists(DATA, max_size=200), time=DELTAS),
    st.builds(
        mido.MetaMessage,
        st.just("track_name"),
        name=st.text(st.characters(max_codepoint=255), max_size=200),
        time=DELTAS,
    ),
    st.builds(mido.MetaMessage, st.just("set_tempo"), tempo=st.integers(0, 2**24 - 1), time=DELTAS),
    st.builds(
        mido.MetaMessage, st.just("lyrics"), text=st.text(st.characters(max_codepoint=255)), time=DELTAS
    ),
)
MARKS = {"set_tempo", "track_name", "program_change"}


@given(st.lists(MESSAGES, max_size=30))
def test_any_track_is_read_as_it_was_written(messages: list[Any]) -> None:
    written = io.BytesIO()
    mido.MidiFile(tracks=[mido.MidiTrack(messages)]).save(file=written)
    (track,) = take_apart(written.getvalue()).tracks
    time, programs, voiced, marks = 0, [0] * 16, [], []
    for message in messages:
        time += message.time
        if message.type == "program_change":
            programs[message.channel] = message.program
        if message.type in MARKS:
            marks.append(time)
        if message.type in ("note_on", "note_off"):
            velocity = message.velocity if message.type == "note_on" else 0
            voiced.append([time, message.note, message.channel, velocity, programs[message.channel]])
    assert read(track) == (voiced, marks)
