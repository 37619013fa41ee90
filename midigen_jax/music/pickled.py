"""Arrays out of a pickle that is read, not run: the streams in which numpy keeps object arrays.

In: the bytes of a pickle. Out: the numeric arrays in it. A pickle is a program for a stack machine, and
loading one runs what its author wrote. Here the machine is ours and knows tuples, lists and numbers. The
three names that numpy writes are compared as text, never imported; at any other name or instruction it stops.
"""

import pickletools
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from midigen_jax.errors import InputError, one_line

_RECONSTRUCT = {"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"}
_NAMES = _RECONSTRUCT | {"numpy ndarray", "numpy dtype"}

# Instructions that push their own argument, or a constant.
_NUMBERS = {"BININT", "BININT1", "BININT2", "INT", "LONG1"}
_TEXTS = {"BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = {"BINPUT", "LONG_BINPUT"}
_GETS = {"BINGET", "LONG_BINGET"}
_NOTHING = {"PROTO", "FRAME", "STOP"}


@dataclass(frozen=True)
class _Name:
    text: str


@dataclass
class _Object:
    """What a call of `_reconstruct` or `dtype` would have made."""

    maker: str
    arguments: tuple[Any, ...]
    state: tuple[Any, ...] = field(default=())


def arrays_of(stream: bytes) -> list[NDArray[Any]]:
    """The elements of a pickled one-dimensional object array, each a numeric array.

    Raises InputError for a stream that is damaged, or that does anything but describe such arrays.
    """
    try:
        outer = _run(stream)
        return [_array(element) for element in _elements(outer)]
    except InputError:
        raise
    # Whatever a damaged stream makes of the stack.
    except Exception as error:
        raise InputError(f"damaged array ({one_line(error)}); fetch the file again") from None


def _run(stream: bytes) -> Any:
    """What is on the stack when the stream ends."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    for code, argument, _ in pickletools.genops(stream):
        name = code.name
        if name in _NUMBERS or name in _TEXTS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(_popped(stack, marks.pop())))
        elif name in _TUPLES:
            stack.append(tuple(_popped(stack, len(stack) - _TUPLES[name])))
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name in ("APPEND", "APPENDS"):
            values = _popped(stack, marks.pop() if name == "APPENDS" else len(stack) - 1)
            stack[-1].extend(values)
        elif name == "MEMOIZE" or name in _PUTS:
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in _GETS:
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_name(str(argument)))
        elif name == "STACK_GLOBAL":
            stack.append(_name(" ".join(_popped(stack, len(stack) - 2))))
        elif name == "REDUCE":
            called, arguments = _popped(stack, len(stack) - 2)
            stack.append(_Object(called.text, arguments))
        elif name == "BUILD":
            state = stack.pop()
            stack[-1].state = state
        elif name not in _NOTHING:
            raise InputError(f"a pickle with the instruction {name}, which no array needs; do not trust it")
    return stack.pop()


def _popped(stack: list[Any], start: int) -> list[Any]:
    if start < 0:
        raise IndexError("the stack is too short")
    values = stack[start:]
    del stack[start:]
    return values


def _name(text: str) -> _Name:
    if text not in _NAMES:
        raise InputError(f"a pickle that calls {text.replace(' ', '.')[:80]}; do not trust it")
    return _Name(text)


def _elements(outer: Any) -> list[Any]:
    """The state of an array: version, shape, dtype, "in Fortran's order", and its elements or bytes."""
    _, shape, kind, _, elements = _state(outer)
    if len(shape) != 1 or kind.arguments[0][:1] != "O" or not isinstance(elements, list):
        raise ValueError("no list of arrays")
    return elements


def _array(value: Any) -> NDArray[Any]:
    _, shape, kind, fortran, content = _state(value)
    content = content.encode("latin-1") if isinstance(content, str) else content
    return np.frombuffer(content, _dtype(kind)).reshape(shape, order="F" if fortran else "C")


def _state(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, _Object) or value.maker not in _RECONSTRUCT:
        raise ValueError("no array")
    return value.state


def _dtype(kind: Any) -> np.dtype[Any]:
    """Of a call dtype("f2", 0, 1) and a state that begins 3, "<"."""
    if not isinstance(kind, _Object) or kind.maker != "numpy dtype":
        raise ValueError("no dtype")
    code, order = kind.arguments[0], kind.state[1]
    if not re.fullmatch(r"[biuf][1248]", code) or order not in ("<", ">", "|", "="):
        raise ValueError(f"elements of type {order}{code}")
    return np.dtype(order + code)
