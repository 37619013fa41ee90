"""Reads what libtpu writes of each kernel's last schedule: how many bundles of instructions it issues.

In: a folder that `--xla_jf_dump_to` named. Out: bundles by the kernel's name. A TPU core issues one bundle a
cycle, so that is the least time that a kernel takes: waiting for memory, for the matrix unit's results and
for other kernels comes on top.
"""

import re
from pathlib import Path
from typing import NamedTuple

# Of the hundred stages that libtpu can write of each kernel, the last one alone: 2 GB less for a train step.
FLAGS = (
    "--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final_bundles"
)

_FILE = re.compile(r"\d+-(.+)-\d+-final_bundles\.txt")
_BUNDLE = re.compile(r"^\s*(?:0x)?[0-9a-f]+\s+(\w*)\s*:", re.MULTILINE)


class Schedule(NamedTuple):
    """Of one kernel."""

    bundles: int
    loops: bool  # whether some of them run more than once, so that they are no count of cycles


def read_schedules(folder: Path) -> dict[str, Schedule]:
    """The schedule of each kernel; those that share code are there under all of their names."""
    found = {}
    for path in folder.glob("*-final_bundles.txt"):
        named = _FILE.fullmatch(path.name)
        if named and "schedule-analysis" not in path.name:
            marks = _BUNDLE.findall(path.read_text(errors="replace"))
            found[named[1]] = Schedule(len(marks), "LB" in marks)
    for path in folder.glob("*deduplication-map*"):
        kept = ""
        for line in path.read_text().splitlines():
            if line.startswith("key:"):
                kept = line.removeprefix("key:").strip()
            elif line.startswith("  ") and kept in found:
                found[line.strip()] = found[kept]
    return found
