"""What a compiled program says of its cost, as figures, rows and words.

In: XLA's text of the program, its memory, the schedules of its kernels (TPU). Out: `Figures`, which JSON can
carry. Cycles have a floor and a ceiling: the bundles that the schedules issue, without any waiting; and XLA's
own model of each kernel, which takes all operands to lie in the device's memory. docs/compiling.md says more.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from midigen_jax import rows
from midigen_jax.bench.hlo import Kernel, Loop, Module
from midigen_jax.bench.schedules import Code, program_bundles
from midigen_jax.bench.targets import Target

_LARGEST = 5
_UNITS = {"train": ("a", "step"), "decode": ("an", "event")}
LARGE = 128 << 10  # bytes: of a copy that counts, such as that of 256 x 256 weights in bfloat16


@dataclass(frozen=True)
class Memory:
    """Bytes on each device."""

    arguments: int
    temporaries: int
    code: int
    results: int  # that share no memory with arguments

    @property
    def all(self) -> int:
        """What must fit."""
        return self.arguments + self.temporaries + self.code + self.results


@dataclass(frozen=True)
class Costly:
    """A kernel, over all the times that a unit runs it."""

    name: str
    source: str  # the operation of the traced program
    times: int
    cycles: int  # by XLA's model
    scheduled: int | None


@dataclass(frozen=True)
class LoopFigures:
    """A loop in a unit."""

    source: str
    turns: int | None
    kernels: int  # of a turn, with those of inner loops
    cycles: int  # of a turn, by XLA's model
    state: tuple[str, ...]  # arrays that it carries, as in bf16[256,1024]S(1): S(1) is VMEM
    moves: tuple[str, ...]  # own kernels that copy, transpose or round an array of 128 KiB or more


@dataclass(frozen=True)
class Figures:
    """One program on one target; a unit is a training step, or an event of each piece."""

    program: str  # train or decode
    of: dict[str, Any]  # what was compiled: its dtype, its sizes
    events: int  # that a unit has, on all devices
    flops: float  # of a unit's matrix products on each device
    memory: Memory
    kernels: int
    loop_kernels: int
    cycles: int  # by XLA's model; 0 where it has none (GPU)
    scheduled: int | None  # bundles, those of the program itself too; None without schedules
    unscheduled: int  # kernels whose schedule is not known: they count nothing in `scheduled`
    collectives: dict[str, int]
    largest: tuple[Costly, ...]
    unit: LoopFigures  # the loop whose turn a unit is
    loops: tuple[LoopFigures, ...]
    compile_seconds: float = 0.0


def measure(
    program: str,
    of: dict[str, Any],
    text: str,
    memory: Memory,
    events: int,
    flops: float,
    schedules: dict[str, Code] | None = None,
    compile_seconds: float = 0.0,
) -> Figures:
    """The figures of a program of that text."""
    module = Module(text)
    whole = module.unit()
    if whole is None:
        raise ValueError("a program without a loop")
    unit = whole.body
    kernels = module.kernels(unit)
    in_loops = sum(_turned(module, loop) for loop in module.loops(unit))
    costs = [_costly(kernel, schedules or {}) for kernel in kernels]
    scheduled = None
    if schedules:
        scheduled = sum(cost.scheduled or 0 for cost in costs) + program_bundles(schedules, module, unit)
    found = Counter[str]()
    for kernel in kernels:
        if kernel.instruction.collective:
            found[kernel.instruction.collective] += kernel.times
    return Figures(
        program,
        of,
        events,
        flops,
        memory,
        sum(kernel.times for kernel in kernels),
        in_loops,
        sum(cost.cycles for cost in costs),
        scheduled,
        sum(
            cost.scheduled is None and not kernel.instruction.scalar
            for cost, kernel in zip(costs, kernels, strict=True)
        ),
        dict(found),
        tuple(
            sorted(costs, key=lambda cost: (cost.scheduled or 0, cost.cycles, cost.times), reverse=True)[
                :_LARGEST
            ]
        ),
        _loop(module, whole),
        tuple(_loop(module, loop) for loop in module.all_loops(unit)),
        compile_seconds,
    )


def _turned(module: Module, loop: Loop) -> int:
    """The kernels of all turns of a loop; 0 where nobody knows how many those are."""
    return sum(kernel.times for kernel in module.kernels(loop.body, loop.turns)) if loop.turns else 0


def _costly(kernel: Kernel, schedules: Mapping[str, Code]) -> Costly:
    line = kernel.instruction
    schedule = schedules.get(line.name)
    scheduled = None if schedule is None else schedule.issued * kernel.times
    return Costly(line.name, line.source, kernel.times, line.cycles * kernel.times, scheduled)


def _loop(module: Module, loop: Loop) -> LoopFigures:
    kernels = module.kernels(loop.body)
    state = tuple(
        f"{shape.dtype}[{','.join(map(str, shape.sizes))}]" + (f"S({shape.space})" if shape.space else "")
        for shape in loop.state
    )
    moves = tuple(
        f"{line.name} {shape.dtype}[{','.join(map(str, shape.sizes))}]"
        for line in module.moves(loop.body)
        for shape in line.shapes[:1]
        if shape.bytes >= LARGE
    )
    cycles = sum(kernel.instruction.cycles * kernel.times for kernel in kernels)
    own = sum(kernel.times for kernel in kernels)
    return LoopFigures(loop.instruction.source, loop.turns, own, cycles, state, moves)


def events_per_s(figures: Figures, target: Target) -> tuple[float | None, float | None, float]:
    """The least, by XLA's model; the most, by the schedules; and what the matrix units alone would allow."""
    hertz = target.chip.hertz
    least = figures.events * hertz / figures.cycles if figures.cycles else None
    most = figures.events * hertz / figures.scheduled if figures.scheduled else None
    limit = figures.events * target.chip.flops / figures.flops if figures.flops else math.inf
    return least, most, limit


def rows_of(figures: Figures, target: Target, config: Mapping[str, Any], **fields: Any) -> list[rows.Row]:
    """The rows of one program; `config` says of what, `fields` go into each row."""
    _, unit = _UNITS[figures.program]
    config = {
        "target": target.name,
        "devices": target.devices,
        "program": figures.program,
        **figures.of,
        **config,
    }
    least, most, limit = events_per_s(figures, target)
    values: list[tuple[str, float | None, str]] = [
        ("aot.cycles", figures.cycles or None, f"cycles/{unit}"),
        ("aot.cycles.scheduled", figures.scheduled, f"cycles/{unit}"),
        ("aot.kernels", figures.kernels, f"kernels/{unit}"),
        ("aot.kernels.loops", figures.loop_kernels, f"kernels/{unit}"),
        ("aot.argument_bytes", figures.memory.arguments, "bytes"),
        ("aot.temp_bytes", figures.memory.temporaries, "bytes"),
        ("aot.collectives", sum(figures.collectives.values()), f"collectives/{unit}"),
        ("aot.events_per_s.floor", least, "events/s"),
        ("aot.events_per_s.ceiling", most, "events/s"),
        ("aot.events_per_s.limit", limit if math.isfinite(limit) else None, "events/s"),
    ]
    return [
        rows.make(
            name, float(f"{value:.6g}") if isinstance(value, float) else value, unit_, config=config, **fields
        )
        for name, value, unit_ in values
        if value is not None
    ]


def in_words(figures: Figures, target: Target) -> list[str]:
    """The figures of one program as lines."""
    each = " ".join(_UNITS[figures.program])
    memory, chip = figures.memory, target.chip
    fits = "fits" if memory.all <= chip.memory else "does not fit"
    what = ", ".join(f"{count} {kind}" for kind, count in figures.collectives.items()) or "none"
    lines = [
        f"  memory        {_bytes(memory.arguments)} of arguments and {_bytes(memory.temporaries)} of "
        f"temporaries of {_bytes(chip.memory)} on each of {target.devices}: {fits}",
        f"  collectives   {what} {each}",
        f"  kernels       {figures.kernels:,} {each}, {figures.loop_kernels:,} of them in loops",
    ]
    if figures.cycles:
        floor = f"{figures.scheduled:,} scheduled (floor) … " if figures.scheduled else ""
        lines.append(f"  cycles        {floor}{figures.cycles:,} by XLA's model (ceiling) {each}")
    least, most, limit = events_per_s(figures, target)
    between = " … ".join(f"{value:,.0f}" for value in (least, most) if value is not None)
    lines.append(
        f"  events/s      {between + '; ' if between else ''}{limit:,.0f} if matrix units never waited"
    )
    for loop in figures.loops:
        turns = "?" if loop.turns is None else loop.turns
        lines.append(f"  loop          {turns} x {loop.kernels} kernels: {_short(loop.source)}")
    for cost in figures.largest if figures.cycles else ():
        floor = "" if cost.scheduled is None else f"{cost.scheduled:,} … "
        what = f"{cost.times} x {cost.name}, {_short(cost.source)}"
        lines.append(f"  largest       {floor}{cost.cycles:,} cycles: {what}")
    return lines


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} GB"


def _short(source: str, most: int = 70) -> str:
    return source if len(source) <= most else f"…{source[-most:]}"


def from_json(data: Mapping[str, Any]) -> Figures:
    """The inverse of `dataclasses.asdict`."""

    def listed(kind: Any, items: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
        return tuple(
            kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in item.items()})
            for item in items
        )

    parts = {
        "memory": Memory(**data["memory"]),
        "unit": listed(LoopFigures, [data["unit"]])[0],
        "largest": listed(Costly, data["largest"]),
        "loops": listed(LoopFigures, data["loops"]),
    }
    return Figures(**{**data, **parts})
