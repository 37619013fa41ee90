"""Standard MIDI Files: bytes to the tracks in them, and one track to its events, by the letter.

In: the bytes of a file. Out: all of it, or InputError. What was cut short, what holds fewer tracks than it
says, what goes on after its end: nobody knows what is missing there, so it is refused, not read in part.
What is out of order and yet whole is read, with a remark: no end of a track, chunks of others that are
counted as tracks, a RIFF around it.

Reading events is a Python loop; `midi` has a way to the notes that is many times faster.
"""

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from midigen_jax.errors import InputError

Ticks = NDArray[np.int64]

DRUMS = 9
"""the channel of percussion in General MIDI, counted from 0"""
END_OF_TRACK = b"\xff\x2f\x00"
SYSEX, ESCAPE = 0xF0, 0xF7
"""the status of a system exclusive message, and of the further parts of one"""

_META = 0xFF
# Some two million notes, which fit into a gigabyte by any way of reading; real pieces have thousands.
_MOST_BYTES = 16 << 20
# Song position, clock and the like have no business in a file; where they come, their data is skipped.
_SYSTEM = {0xF1: 1, 0xF2: 2, 0xF3: 1, 0xF6: 0, 0xF8: 0, 0xFA: 0, 0xFB: 0, 0xFC: 0, 0xFE: 0}
_MARKS = (0x03, 0x04, 0x51, 0x58, 0x59)  # names of track and instrument, tempo, meter, key


class File(NamedTuple):
    """A file taken apart."""

    form: int
    """0: all in one track, by channel; 1: tracks that sound together"""
    per_quarter: int
    """ticks in a quarter"""
    tracks: list[bytes]
    """the events of each track, still encoded"""
    remarks: tuple[str, ...] = ()
    """what was out of order"""


class Events(NamedTuple):
    """A track's events, in file order; times are in ticks from its beginning."""

    voiced: Ticks
    """(E, 5) note-ons and note-offs: time, pitch, channel 0..15, velocity (0 lets go), program 0..127"""
    marks: Ticks
    """(M,) times of meters, keys, tempi, names and programs"""
    programs: dict[int, list[tuple[int, int]]]
    """when programs are set on a channel, and which, by channel"""


def take_apart(content: bytes) -> File:
    """The tracks of a file. Raises InputError for what is no MIDI file, or not a whole one."""
    remarks = []
    if content[:4] == b"RIFF" and content[8:12] == b"RMID":
        content = _from_riff(content)
        remarks.append("RIFF around it")
    if len(content) < 14 or content[:4] != b"MThd":
        raise InputError("not a MIDI file; convert it to .mid first")
    if len(content) > _MOST_BYTES:
        raise InputError(f"{len(content) >> 20} MiB of MIDI are more than any piece has; cut it up")
    size, form, count, division = struct.unpack(">IHHH", content[4:14])
    if form > 1:
        raise InputError(f"MIDI format {form} is not supported; export it as format 0 or 1")
    if division & 0x8000:
        raise InputError("its time is in SMPTE frames, not beats; export it with beats")
    if division == 0:
        raise damaged("no ticks in a quarter")
    tracks, others = _chunks(content, 8 + size)
    if len(tracks) != count:
        if len(tracks) + others != count or not tracks:
            raise damaged(f"tracks by its header: {count}; in it: {len(tracks)}")
        remarks.append("chunks of another kind are counted as tracks")
    for number, track in enumerate(tracks):
        if not track.endswith(END_OF_TRACK):
            tracks[number] = _ended(track)
            remarks.append("a track without its end")
    return File(form, division, tracks, tuple(dict.fromkeys(remarks)))


def _ended(track: bytes) -> bytes:
    """A track with an end, if it is whole without. Raises InputError for one that is not."""
    whole = track + b"\x00" + END_OF_TRACK
    events(whole)
    return whole


def _from_riff(content: bytes) -> bytes:
    """The MIDI file in a RIFF file, which is chunks of a name, a length, and as many bytes, made even."""
    position = 12
    while position + 8 <= len(content):
        kind, size = (
            content[position : position + 4],
            int.from_bytes(content[position + 4 : position + 8], "little"),
        )
        if kind == b"data":
            return content[position + 8 : position + 8 + size]
        position += 8 + size + size % 2
    raise damaged("a RIFF file without data")


def _chunks(content: bytes, position: int) -> tuple[list[bytes], int]:
    """The bodies of the track chunks from `position` on, and how many chunks of other kinds, which go."""
    tracks, others = [], 0
    while position + 8 <= len(content):
        kind, size = content[position : position + 4], int.from_bytes(content[position + 4 : position + 8])
        position += 8
        if kind == b"MTrk":
            tracks.append(content[position : position + size])
            if len(tracks[-1]) < size:
                raise damaged(f"cut short in track {len(tracks)}")
        else:
            # A name that is nearly right is a track that was damaged.
            others += kind.isalnum() and sum(map(int.__eq__, kind, b"MTrk")) < 3
        position += size
    return tracks, others


def damaged(what: str) -> InputError:
    """The refusal of a file that is MIDI, but broken."""
    return InputError(f"damaged MIDI ({what}); export it again")


def events(track: bytes) -> Events:
    """The events of a track. Raises InputError for any byte that is not where it may be."""
    voiced: list[int] = []
    marks: list[int] = []
    programs: dict[int, list[tuple[int, int]]] = {}
    try:
        _collect(track, voiced, marks, programs)
    except IndexError:
        raise damaged("a track is cut short") from None
    return Events(np.array(voiced, np.int64).reshape(-1, 5), np.array(marks, np.int64), programs)


def _collect(
    track: bytes, voiced: list[int], marks: list[int], changes: dict[int, list[tuple[int, int]]]
) -> None:
    """Append what `Events` holds, row by row in one list. Raises IndexError where the end is missing."""
    programs = [0] * 16
    time = position = running = 0
    while True:
        delta = track[position]
        if delta < 0x80:
            position += 1
        else:
            delta, position = _number(track, position)
        time += delta
        status = track[position]
        if status >= 0xF0:
            if track.startswith(END_OF_TRACK, position):
                if position + len(END_OF_TRACK) < len(track):
                    raise damaged("a track goes on after its end")
                return
            if status == _META and track[position + 1] in _MARKS:
                marks.append(time)
            # By the standard a meta event, too, ends a running status; too many files think otherwise.
            running = 0 if status == SYSEX else running
            position = _after_system(track, position)
            continue
        if status >= 0x80:
            running, position = status, position + 1
        kind, channel = running & 0xF0, running & 0x0F
        size = 1 if 0xC0 <= kind <= 0xD0 else 2
        key, last = track[position], track[position + size - 1]
        if running == 0 or key >= 0x80 or last >= 0x80:
            raise damaged("an event without its status or its data")
        if kind <= 0x90:
            voiced += (time, key, channel, last if kind == 0x90 else 0, programs[channel])
        elif kind == 0xC0:
            programs[channel] = key
            changes.setdefault(channel, []).append((time, key))
            marks.append(time)
        position += size


def _after_system(track: bytes, position: int) -> int:
    """The position after a meta event or a system message."""
    status = track[position]
    if status == _META:
        size, position = _number(track, position + 2)
        return position + size
    if status == SYSEX:
        size, position = _number(track, position + 1)
        return position + size
    if status == ESCAPE:
        raise InputError("it has system messages in parts (status f7); export it without them")
    if status not in _SYSTEM:
        raise damaged(f"no event has the status {status:#x}")
    return position + 1 + _SYSTEM[status]


def _number(track: bytes, position: int) -> tuple[int, int]:
    """A number of variable length, four bytes at most, and the position after it."""
    number = 0
    for place in range(position, position + 4):
        byte = track[place]
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, place + 1
    raise damaged("a number of more than four bytes")
