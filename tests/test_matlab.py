"""MATLAB files: what scipy writes is read, and what is damaged does no harm."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.io import savemat

from midigen_jax.errors import InputError
from midigen_jax.music.frames import cells_of, split_frames

LIMIT = 1 << 20
MATRICES = arrays.arrays(
    st.one_of(
        arrays.integer_dtypes(endianness="="),
        arrays.unsigned_integer_dtypes(endianness="="),
        arrays.floating_dtypes(sizes=(32, 64), endianness="="),
    ),
    arrays.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=5),
)


def mat(compressed: bool, **variables: Any) -> bytes:
    file = io.BytesIO()
    savemat(file, variables, do_compression=compressed)
    return file.getvalue()


def cell(matrices: list[np.ndarray]) -> np.ndarray:
    array = np.empty((1, len(matrices)), object)
    array[0, :] = matrices
    return array


@given(st.lists(MATRICES, min_size=1, max_size=4), st.booleans())
def test_any_matrices_that_scipy_writes_are_read(matrices: list[np.ndarray], compressed: bool) -> None:
    content = mat(compressed, before=np.eye(2), music=cell(matrices), after="text")
    found = cells_of(content, LIMIT)
    assert list(found) == ["music"]
    for one, other in zip(found["music"], matrices, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_file_with_the_other_byte_order_is_read() -> None:
    """By hand: one cell, named `c`, of one matrix of class uint8, 2 by 1, in a small element."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

    def matrix(code: int, rows: int, name: bytes, rest: bytes) -> bytes:
        head = element(6, bytes([0, 0, 0, code, 0, 0, 0, 0])) + element(5, struct.pack(">II", rows, 1))
        return element(14, head + element(1, name) + rest)

    small = struct.pack(">HH", 2, 2) + b"\x07\x09\x00\x00"
    content = matrix(1, 1, b"c", matrix(9, 2, b"", small))
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI"
    for body in (content, struct.pack(">II", 15, len(zlib.compress(content))) + zlib.compress(content)):
        assert [one.tolist() for one in cells_of(head + body, LIMIT)["c"]] == [[[7], [9]]]


def test_more_than_the_limit_is_refused() -> None:
    content = mat(True, music=cell([np.zeros((2_000, 600))]))
    assert len(content) < 50_000
    with pytest.raises(InputError, match="more than 1 MiB when unpacked"):
        cells_of(content, LIMIT)


def test_other_versions_are_refused_with_the_remedy() -> None:
    for content in (b"MATLAB 7.3 MAT-file" + bytes(200), b"", b"text", bytes(200)):
        with pytest.raises(InputError, match="save it with -v7"):
            cells_of(content, LIMIT)


@given(st.data())
def test_any_damage_gives_pieces_or_one_line(data: st.DataObject) -> None:
    whole = mat(data.draw(st.booleans()), traindata=cell([np.eye(3, dtype=np.uint8), np.ones((2, 4))]))
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    try:
        said = " ".join(split_frames(".mat", bytes(content)))
    except InputError as refusal:
        said = str(refusal)
    assert len(said.splitlines()) == 1
