"""Frame files: the piano rolls of benchmarks, in which each frame lists what sounds, split by their authors.

In: the bytes of a .mat, .npz or .json file. Out: its pieces by name (`train/0`), each as JSON that one
function turns into notes. A pitch that sounded in the frame before, in the same voice where there are voices,
is held; any other is attacked: the files do not know of repeated notes. Frames of rest at the ends count.
Where voices are not wanted, `as_sets` leaves no trace of them.
"""

import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from midigen_jax.errors import InputError, one_line
from midigen_jax.music import sandbox
from midigen_jax.music.clock import TWELFTHS, Clock
from midigen_jax.music.notes import Notes, make_notes
from midigen_jax.music.piece import SPLITS
from midigen_jax.music.slices import canonical, slice_notes, to_notes

SUFFIXES = (".mat", ".npz", ".json")
MAX_FRAMES = 100_000
MAX_UNPACKED = 256 << 20

_SIXTEENTH, _EIGHTH, _QUARTER = 0.25, 0.5, 1.0  # quarters
# What the names of the files in https://github.com/czhuang/JSB-Chorales-dataset say.
_WORDS = {"16th": _SIXTEENTH, "8th": _EIGHTH, "quarter": _QUARTER}
# Of Boulanger-Lewandowski et al. (2012), Modeling temporal dependencies in high-dimensional sequences. The
# chorales have a fourth of the frames that they have in sixteenths; the tunes of Nottingham are mostly of 256
# and 192 frames: 32 bars of 4/4 and of 6/8 in eighths.
_BENCHMARKS = {"jsb_chorales": _QUARTER, "nottingham": _EIGHTH}

# A piece: (T, columns) numbers, or T lists of pitches; and whether a place in a frame is a voice.
_Matrix = NDArray[Any]
_Frames = list[list[int]]


def known_ticks(name: str, clock: Clock = TWELFTHS) -> int:
    """Ticks in a frame of the file called `name`: what is known of the benchmarks, else a sixteenth."""
    stem = PurePath(name).stem.lower()
    said = [lasts for word, lasts in _WORDS.items() if word in stem]
    return clock.ticks(said[0] if said else _BENCHMARKS.get(stem, _SIXTEENTH))


def split_frames(suffix: str, content: bytes) -> dict[str, bytes]:
    """The pieces of a frame file by name, `train/0` and so on: the training split, validation, then test.

    `suffix` is one of `SUFFIXES`. Each piece is JSON for `read_frames`, the same for the same music whatever
    file it comes from. Raises InputError for a file that is damaged or of another kind.
    """
    readers = {".mat": _read_mat, ".npz": _read_npz, ".json": _read_json}
    pieces: dict[str, bytes] = {}
    size = 0
    try:
        with warnings.catch_warnings(action="ignore"):
            for name, voices, frames in readers[suffix](content):
                pieces[name] = _packed(name, voices, frames)
                size += len(pieces[name])
                if size > MAX_UNPACKED:
                    raise InputError(_too_large(MAX_UNPACKED))
    except InputError:
        raise
    # The parsers raise whatever they stumble over; to the user it is all one: the file is broken.
    except Exception as error:
        raise InputError(f"damaged frame file ({one_line(error)}); fetch it again") from None
    if not pieces:
        raise InputError("no frame file: it needs train, valid or test, each a list of pieces")
    order = sorted(pieces, key=lambda name: (SPLITS.index(name.split("/")[0]), int(name.split("/")[1])))
    return {name: pieces[name] for name in order}


def read_frames(content: bytes, ticks: int) -> tuple[Notes, int]:
    """Notes, and the length of the piece in ticks, of one piece from `split_frames`.

    ticks: in a frame. A track is a voice. Rests at the ends are in the length.
    """
    piece = json.loads(content)
    frames = piece["frames"]
    count = np.array([len(frame) for frame in frames], np.int64)
    time = np.repeat(np.arange(len(frames)), count)
    place = np.arange(len(time)) - np.repeat(np.cumsum(count) - count, count)
    voice = place if piece["voices"] else np.zeros_like(place)
    pitch = np.fromiter(chain.from_iterable(frames), np.int64, len(time))
    sounding = np.unique(np.stack([voice, pitch, time], axis=1)[pitch >= 0], axis=0)
    steps = np.diff(sounding, axis=0, prepend=-1)
    first = np.flatnonzero((steps != [0, 0, 1]).any(axis=1))
    voice, pitch, begin = sounding[first].T
    frames_long = np.diff(np.append(first, len(sounding)))
    return make_notes(begin * ticks, frames_long * ticks, pitch, voice), len(frames) * ticks


def as_sets(notes: Notes, length: int) -> Notes:
    """The same pitches at the same times without voices: one that passes from voice to voice is held."""
    slices = slice_notes(notes, length)
    return to_notes(canonical(replace(slices, attacked=np.zeros_like(slices.attacked)), trim=False))


def _packed(name: str, voices: bool, frames: _Frames) -> bytes:
    if len(frames) > MAX_FRAMES:
        raise InputError(f"{name}: {len(frames):,} frames; the limit is {MAX_FRAMES:,}, cut it")
    return json.dumps({"voices": voices, "frames": frames}, separators=(",", ":")).encode()


_Piece = tuple[str, bool, _Frames]
"""Name, "are there voices?", and the pitches of each frame; -1 is the rest of a voice."""


def _too_large(limit: int) -> str:
    return f"more than {limit >> 20} MiB when unpacked; split it"


def _read_json(content: bytes) -> Iterator[_Piece]:
    """{"train": [pieces of frames of pitches], "valid": …, "test": …}; -1 is a rest.

    Where all frames of the file are equally long, a place in them is a voice.
    """
    splits = json.loads(content)
    if not isinstance(splits, dict):
        return
    pieces = {f"{split}/{i}": piece for split in SPLITS for i, piece in enumerate(splits.get(split, []))}
    widths = {len(frame) for piece in pieces.values() for frame in piece}
    for name, piece in pieces.items():
        if not all(type(pitch) is int and -1 <= pitch <= 127 for frame in piece for pitch in frame):
            raise InputError(f"{name}: a frame is a list of whole MIDI pitches, 0 to 127, or -1 for a rest")
        yield name, len(widths) == 1, piece


def _read_npz(content: bytes) -> Iterator[_Piece]:
    """Arrays train, valid, test of pieces; or an array a piece, named train/0 or train_0."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(info.file_size for info in archive.infolist()) > MAX_UNPACKED:
            raise InputError(_too_large(MAX_UNPACKED))
        for member in archive.namelist():
            match = re.fullmatch(r"(train|valid|test)(?:[/_](\d+))?\.npy", member)
            if match:
                array = _array(member, archive.read(member))
                yield from _pieces(match[1], enumerate(array) if match[2] is None else [(match[2], array)])


def _array(member: str, content: bytes) -> _Matrix:
    try:
        return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except ValueError:
        if b"O'" not in content[:128]:
            raise
    raise InputError(
        f"{member}: an array of objects is a pickle, which could run a program; give the .json of the same "
        "music, or an array a piece"
    )


def _read_mat(content: bytes) -> Iterator[_Piece]:
    """Cells traindata, validdata and testdata (or train, valid and test), a matrix a piece."""
    for name, matrices in sandbox.call(cells_of, content, MAX_UNPACKED).items():
        split = name.removesuffix("data")
        if split in SPLITS:
            yield from _pieces(split, enumerate(matrices))


def cells_of(content: bytes, limit: int) -> dict[str, list[_Matrix]]:
    """What the cells of each cell array of a .mat file hold, in MATLAB's order; other variables are left out.

    To be called in the `sandbox`: scipy believes what a file says of itself, and one wrong byte can end the
    process. Raises InputError for another version of the format, or more than `limit` bytes when unpacked.
    """
    from scipy.io import loadmat

    if content[:10] == b"MATLAB 7.3":
        raise InputError("a MATLAB file of version 7.3; save it with -v7")
    if content[:6] != b"MATLAB":
        raise InputError("no MATLAB file of version 5; save it with -v7")
    arrays = loadmat(io.BytesIO(content))
    cells = {
        name: list(array.ravel("F"))
        for name, array in arrays.items()
        if type(array) is np.ndarray and array.dtype == object
    }
    if sum(getattr(cell, "nbytes", 0) for row in cells.values() for cell in row) > limit:
        raise InputError(_too_large(limit))
    return cells


def _pieces(split: str, numbered: Iterable[tuple[int | str, _Matrix]]) -> Iterator[_Piece]:
    for number, matrix in numbered:
        name = f"{split}/{int(number)}"
        if getattr(matrix, "ndim", 0) != 2 or matrix.dtype.kind not in "biuf":
            raise InputError(f"{name}: no matrix of frames")
        yield (name, *_frames(name, matrix))


def _frames(name: str, matrix: _Matrix) -> tuple[bool, _Frames]:
    """The frames of a piece: a roll of 88 or 128 keys, or a pitch for each of up to 16 voices."""
    width = matrix.shape[1]
    if width in (88, 128):
        time, key = np.nonzero(matrix)
        pitch = key + (21 if width == 88 else 0)
        cuts = np.searchsorted(time, np.arange(len(matrix) + 1)).tolist()
        flat = pitch.tolist()
        return False, [flat[a:b] for a, b in pairwise(cuts)]
    if width > 16:
        raise InputError(f"{name}: {width} columns; a roll has 88 or 128 keys, voices are at most 16")
    pitches = np.where(np.isnan(matrix) | (matrix < 0), -1, matrix)
    if (pitches != np.floor(pitches)).any() or (pitches > 127).any():
        raise InputError(f"{name}: pitches are whole numbers up to 127, or NaN or -1 for a rest")
    return True, pitches.astype(int).tolist()
