"""Reads compiled programs: XLA's text of an optimised, scheduled module.

In: `compiled.as_text()`, of a TPU or a GPU. Out: its loops with the turns they take, the kernels of a turn,
the cycles that XLA expects of each (TPU), collectives, and what is only moved. Nothing here needs JAX.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

# What runs no kernel: names for parts of memory, and both ends of transfers that go on beside the kernels.
_IDLE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all"}
_IDLE |= {"copy-start", "copy-done", "opt-barrier", "partition-id", "replica-id"}
_COLLECTIVES = {"all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"}
_MOVES = {"copy", "copy-start", "transpose", "convert", "concatenate", "pad", "slice", "reshape"}

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-<>]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"(?:ROOT )?%?([\w.\-<>]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_SHAPE = re.compile(r"([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_BITS = {"pred": 8, "c64": 64, "c128": 128}


class Shape(NamedTuple):
    """An array in memory."""

    dtype: str  # as XLA has it: f32, bf16, s32, pred
    sizes: tuple[int, ...]
    space: int  # 0: the device's memory; 1: VMEM

    @property
    def bytes(self) -> int:
        """Without padding."""
        bits = _BITS.get(self.dtype) or int(re.sub(r"\D.*", "", self.dtype.lstrip("abcdefsu")) or 32)
        return math.prod(self.sizes) * bits // 8


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shapes: tuple[Shape, ...]  # of what it returns: several where that is a tuple
    opcode: str
    rest: str  # operands, attributes, metadata

    @property
    def cycles(self) -> int:
        """What XLA expects; 0 where it does not say."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
        return int(found[1]) if found else 0

    @property
    def source(self) -> str:
        """The operation of the traced program that it was made of."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""

    @property
    def is_kernel(self) -> bool:
        """Whether it runs by itself: neither a name for memory, nor control that runs others."""
        return self.opcode not in _IDLE | {"while", "conditional", "call"}

    @property
    def scalar(self) -> bool:
        """Whether it returns one number, which the scalar unit of a TPU may reckon with in passing."""
        return len(self.shapes) == 1 and math.prod(self.shapes[0].sizes) == 1

    @property
    def collective(self) -> str | None:
        """Which of them it is, or begins."""
        kind = self.opcode.removesuffix("-start")
        return kind if kind in _COLLECTIVES else None

    def called(self, role: str) -> list[str]:
        """The computations that it names as its body, condition, calls …"""
        found = re.search(rf"\b{role}=(?:\{{([^}}]*)\}}|(%?[\w.\-<>]+))", self.rest)
        return re.findall(r"[\w.\-<>]+", found[1] or found[2]) if found else []


class Kernel(NamedTuple):
    """One that a unit of work runs, and how often."""

    instruction: Instruction
    times: int


class Loop(NamedTuple):
    """A while loop: `turns` is None where no compiler can know how many it takes."""

    instruction: Instruction
    turns: int | None
    body: str

    @property
    def state(self) -> tuple[Shape, ...]:
        """What it carries from turn to turn: weights too."""
        return self.instruction.shapes


class Module:
    """A program as its computations."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        lines: list[Instruction] = []
        for line in text.splitlines():
            if line[:1] not in (" ", "}"):
                begun = _COMPUTATION.match(line.rstrip())
                if begun:
                    lines = self.computations[begun[2]] = []
                    self.entry = begun[2] if begun[1] else self.entry
            elif found := _INSTRUCTION.match(line.strip()):
                lines.append(Instruction(found[1], _shapes(found[2]), found[3], found[4]))

    def loops(self, computation: str) -> list[Loop]:
        """Those of a computation itself, in order; loops in their bodies are `loops(loop.body)`."""
        return [
            Loop(line, self._turns(line), line.called("body")[0])
            for line in self._lines(computation)
            if line.opcode == "while"
        ]

    def all_loops(self, computation: str) -> Iterator[Loop]:
        """Those in loops too."""
        for loop in self.loops(computation):
            yield loop
            yield from self.all_loops(loop.body)

    def unit(self) -> Loop | None:
        """The loop whose turns are the program's work: a training step, an event of a decode.

        It is the outermost one that runs the most kernels in a turn; None without any.
        """

        def work(loop: Loop) -> int:
            return sum(kernel.times for kernel in self.kernels(loop.body))

        return max(self.loops(self.entry), key=work, default=None)

    def own_kernels(self, computation: str) -> list[Instruction]:
        """What a computation runs outside of its loops.

        Of the branches of a conditional the one with the most instructions counts.
        """
        return [line for line in self._lines(computation) if line.is_kernel]

    def kernels(self, computation: str, times: int = 1) -> list[Kernel]:
        """All that a computation runs, with inner loops; one of unknown turns counts as one turn."""
        found = [Kernel(line, times) for line in self.own_kernels(computation)]
        for loop in self.loops(computation):
            found += self.kernels(loop.body, times * (1 if loop.turns is None else loop.turns))
        return found

    def moves(self, computation: str) -> list[Instruction]:
        """What a computation itself runs, or lets go on beside it, that computes nothing."""
        return [line for line in self._lines(computation) if self._is_move(line)]

    def _is_move(self, line: Instruction) -> bool:
        """Whether it copies, lays out anew, joins, or rounds."""
        if line.opcode == "fusion":
            inner = [part.opcode for name in line.called("calls") for part in self.computations[name]]
            return set(inner) <= _MOVES | _IDLE and not set(inner) <= _IDLE
        return line.opcode in _MOVES

    def _lines(self, computation: str) -> Iterator[Instruction]:
        """The instructions of a computation, and of those that it calls outright."""
        for line in self.computations[computation]:
            yield line
            if line.opcode == "call":
                for name in line.called("to_apply"):
                    yield from self._lines(name)
            if line.opcode == "conditional":
                roles = ("branch_computations", "true_computation", "false_computation")
                branches = [list(self._lines(name)) for role in roles for name in line.called(role)]
                yield from max(branches, key=len)

    def _turns(self, line: Instruction) -> int | None:
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line.rest)
        if known:
            return int(known[1])
        (condition,) = line.called("condition")
        bounds = [
            int(part.rest.split(")")[0])
            for part in self.computations[condition]
            if part.opcode == "constant" and part.shapes[0].dtype == "s32" and not part.shapes[0].sizes
        ]
        compares = [part.opcode == "compare" for part in self.computations[condition]]
        # A loop that counts up to a constant; any other condition may end it sooner.
        return bounds[0] if len(bounds) == 1 and sum(compares) == 1 else None


def _shapes(text: str) -> tuple[Shape, ...]:
    text = re.sub(r"/\*.*?\*/", "", text)
    return tuple(
        Shape(
            dtype,
            tuple(int(size) for size in sizes.split(",") if size),
            int(space[1]) if (space := re.search(r"S\((\d+)\)", layout)) else 0,
        )
        for dtype, sizes, layout in _SHAPE.findall(text)
    )
