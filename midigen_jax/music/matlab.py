"""MATLAB files: the matrices in the cells of a .mat file of version 5, which all since 1996 are but "7.3".

In: the bytes. Out: lists of numeric arrays by name. It is read here because `scipy.io.loadmat` believes what
a file says of itself: one wrong byte can end the process. The format: MathWorks, MAT-File Format, chapter 1.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from midigen_jax.errors import InputError

# Types of elements, and what numbers some of them are.
_MATRIX, _DEFLATED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
# Classes of matrices.
_CELL = 1
_NUMERIC = range(6, 16)


def cells_of(content: bytes, limit: int) -> dict[str, list[NDArray[Any]]]:
    """The arrays in each cell array of a .mat file, in MATLAB's order; what is no cell array is left out.

    Raises InputError for another version or more than `limit` bytes when unpacked; and ValueError, KeyError,
    struct.error or zlib.error for a damaged file.
    """
    if content[:10] == b"MATLAB 7.3":
        raise InputError("a MATLAB file of version 7.3; save it with -v7")
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if content[:6] != b"MATLAB" or order is None:
        raise InputError("no MATLAB file of version 5; save it with -v7")
    found, left = {}, limit
    for kind, data in _elements(memoryview(content)[128:], order):
        if kind == _DEFLATED:
            packed = zlib.decompressobj()
            data = memoryview(packed.decompress(data, left))
            left -= len(data)
            if packed.unconsumed_tail or left <= 0:
                raise InputError(f"more than {limit >> 20} MiB when unpacked; split it")
            kind, data = _next(_elements(data, order))
        if kind == _MATRIX:
            name, kind_of_matrix, shape, rest = _matrix(data, order)
            if kind_of_matrix == _CELL:
                found[name] = [_array(_next(rest), order) for _ in range(math.prod(shape))]
    return found


_Element = tuple[int, memoryview]
_TOO_EARLY = "it ends too early"


def _elements(data: memoryview, order: str) -> Iterator[_Element]:
    """The elements that stand in `data` one after another: type and content."""
    while data:
        kind, size = struct.unpack_from(order + "II", data)
        start, stop = 8, 8 + size
        if kind >> 16:  # a small one, which lies in its own tag
            kind, size, start, stop = kind & 0xFFFF, kind >> 16, 4, 4 + (kind >> 16)
        if stop > len(data) or (start == 4 and size > 4):
            raise ValueError(_TOO_EARLY)
        yield kind, data[start:stop]
        # All but the deflated ones are filled up to eight bytes.
        data = data[stop if kind == _DEFLATED else stop + -stop % 8 :]


def _next(elements: Iterator[_Element]) -> _Element:
    for element in elements:
        return element
    raise ValueError(_TOO_EARLY)


def _matrix(data: memoryview, order: str) -> tuple[str, int, tuple[int, ...], Iterator[_Element]]:
    """Name, class, shape, and the elements that follow: numbers or, in a cell array, matrices."""
    rest = _elements(data, order)
    (_, flags), shape, (_, name) = _next(rest), _numbers(_next(rest), order), _next(rest)
    return bytes(name).decode("ascii"), flags[0 if order == "<" else 3], tuple(shape.tolist()), rest


def _array(element: _Element, order: str) -> NDArray[Any]:
    kind, data = element
    if kind != _MATRIX:
        raise ValueError("a cell without a matrix")
    if not data:
        return np.zeros((0, 0))
    _, kind, shape, rest = _matrix(data, order)
    if kind not in _NUMERIC:
        raise ValueError("a cell that holds no numbers")
    return _numbers(_next(rest), order).reshape(shape, order="F")


def _numbers(element: _Element, order: str) -> NDArray[Any]:
    kind, data = element
    return np.frombuffer(data, order + _NUMBERS[kind])
