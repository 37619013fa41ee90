"""Reads what libtpu writes of each kernel's last schedule: how many bundles of instructions it issues.

In: a folder that `--xla_jf_dump_to` named. Out: bundles of each kernel, and of the program that starts them.
A TPU core issues one bundle a cycle, so that is about the least time that a kernel takes: waiting for memory,
for the matrix units and for other kernels comes on top.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from midigen_jax.bench.hlo import Module

# Of the hundred stages that libtpu can write of each kernel the last one alone, or it would be gigabytes; and
# which kernels share their code.
FLAGS = (
    "--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true "
    "--xla_jf_dump_llo_pass_label_regex=final_bundles|deduplication-map"
)

_PROGRAM = "TLP"  # libtpu's name for the program itself
_FILE = re.compile(r"\d+-(.+?)-\d+-final_bundles\.txt")
# `0x1f LB: >> { … }`: an address, marks such as that of a loop's body, and how many loops it is in.
_BUNDLE = re.compile(r"\s*(?:0x)?[0-9a-f]+\s+(\w*)\s*: (>*)\s*(\{\})?")
_EXIT = re.compile(r"scmp\.ge\.s32\.totalorder %\w+, (\d+) /\* loop exit test \*/")
_STAGES = 2  # of a pipeline: so many more turns than blocks, in which it fills and empties


@dataclass
class Code:
    """Bundles of a schedule that are in no loop, or in one; `turns` is 1 where the schedule does not say."""

    bundles: int = 0
    turns: int = 1
    loops: list["Code"] = field(default_factory=list)

    @property
    def issued(self) -> int:
        """Bundles of one turn, those of inner loops as often as they turn. What a branch may skip counts."""
        return self.bundles + sum(loop.turns * loop.issued for loop in self.loops)


def read_schedules(folder: Path) -> dict[str, Code]:
    """The schedule of each kernel by its name, also of those that share the code of another one."""
    found = {}
    for path in folder.glob("*-final_bundles.txt"):
        named = _FILE.fullmatch(path.name)
        if named and "schedule-analysis" not in path.name:
            found[named[1]] = read_schedule(path.read_text(errors="replace"))
    for path in folder.glob("*-deduplication-map.txt"):
        kept = ""
        for line in path.read_text().splitlines():
            if line.startswith("key:"):
                kept = line.removeprefix("key:")
            elif line.startswith("  ") and kept in found:
                found[line.strip()] = found[kept]
    return found


def read_schedule(text: str) -> Code:
    """One schedule, with its loops."""
    around = [Code()]  # the kernel itself, and each loop around a line
    for line in text.splitlines():
        bundle = _BUNDLE.match(line.rstrip())
        if bundle is None:
            continue
        depth, begins = len(bundle[2]), bundle[1] == "LB"
        # The branch back to a loop's head is written as if it stood behind the loop, with its delay.
        if depth < len(around) - 1 and ("sbr.rel (!" in line or bundle[3] == "{}"):
            depth = len(around) - 1
        del around[depth + 1 - begins :]
        while len(around) <= depth:
            around.append(Code())
            around[-2].loops.append(around[-1])
        around[-1].bundles += 1
        if end := _EXIT.search(line):
            around[-1].turns = max(1, int(end[1]) - _STAGES)
    return around[0]


def program_bundles(schedules: dict[str, Code], module: Module, unit: str) -> int:
    """What the program itself issues in a unit: it starts kernels, counts turns, and reckons with scalars.

    Its loops are those of the module in the same order, beside those of kernels that became part of it. 0
    where none of them has as many inner loops as the unit.
    """

    def issued(code: Code, computation: str) -> int:
        loops = module.loops(computation)
        if len(loops) != len(code.loops):
            return code.issued
        pairs = zip(code.loops, loops, strict=True)
        return code.bundles + sum((loop.turns or 1) * issued(inner, loop.body) for inner, loop in pairs)

    program = schedules.get(_PROGRAM, Code())
    if unit == module.entry:
        return program.issued
    alike = [code for code in program.loops if len(code.loops) == len(module.loops(unit))]
    return max((issued(code, unit) for code in alike), default=0)
