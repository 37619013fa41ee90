"""Asks for programs compiled for a target: the process that does it, its environment, and what is missing.

In: programs by the name of a recipe, its settings and what they do. Out: their `Figures`, one by one.
libtpu reads its environment once, may be loaded by one process alone unless it is told otherwise, and ends
its process where it fails, so it is never loaded in this one.
"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import midigen_jax
from midigen_jax import rows
from midigen_jax.bench.figures import Figures, from_json, in_words, rows_of
from midigen_jax.bench.schedules import FLAGS
from midigen_jax.bench.targets import Target, find_target
from midigen_jax.config import nearest, spell
from midigen_jax.errors import InputError
from midigen_jax.files import make_folder
from midigen_jax.progress import Progress

_PROGRAMS = ("train", "decode", "filters")
# A plugin for JAX, and what it assembles and links GPU code with.
_CUDA = (
    *("jax-cuda12-plugin", "jax-cuda12-pjrt"),
    *("nvidia-cuda-nvcc-cu12", "nvidia-cuda-runtime-cu12", "nvidia-nvjitlink-cu12"),
)


@dataclass(frozen=True)
class Program:
    """The steps of a training, or the loop that writes so many `pieces` at once; of a recipe, pretrained:NAME
    or a run, with other settings (dotted names)."""

    recipe: str = "default"
    settings: Mapping[str, Any] = field(default_factory=dict)
    pieces: int = 0  # none: a training
    filters: bool = False  # whether the loop has all filters and constraints, or none


@dataclass(frozen=True)
class Asked:
    """All that the process is told."""

    target: str
    programs: Sequence[Program]
    schedules: str = ""  # a folder for libtpu's dump, if schedules are wanted
    texts: str = ""  # a folder that takes XLA's text of each program, if that is wanted

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Asked":
        """The inverse."""
        return cls(**data | {"programs": [Program(**program) for program in data["programs"]]})


def measure_compiled(
    target: str,
    recipe: str,
    settings: Mapping[str, Any],
    names: Sequence[str],
    pieces: Sequence[int],
    schedules: bool = True,
    text: str | None = None,
) -> Iterator[rows.Finding]:
    """What programs of a recipe cost on the target of that name, each as soon as it is compiled.

    `names` are some of `train`, `decode` and `filters`; the latter two write so many `pieces` at once, each
    number a program. `text` is a folder that takes XLA's text of them. Raises InputError as `compile_all`.
    """
    for name in names:
        if name not in _PROGRAMS:
            raise InputError(f"--programs {name}: {nearest(name, _PROGRAMS)}")
    chosen, folder = find_target(target), None if text is None else Path(text)
    if folder is not None:
        make_folder(folder)
    programs: list[Program] = []
    for name in dict.fromkeys(names):
        counts = [0] if name == "train" else pieces
        programs += [Program(recipe, settings, count, name == "filters") for count in counts]
    with Progress("compiling", len(programs), "programs") as progress:
        for program, figures in zip(programs, compile_all(chosen, programs, schedules, folder), strict=True):
            progress.advance()
            title = f"{chosen.name}: {describe(program)} ({figures.compile_seconds:.0f} s to compile)"
            found = rows_of(figures, chosen, settings_of(program))
            yield rows.Finding([title, *in_words(figures, chosen)], found)


def compile_all(
    target: Target, programs: Sequence[Program], schedules: bool = True, texts: Path | None = None
) -> Iterator[Figures]:
    """The figures of each program as soon as it is compiled.

    `schedules` are read of TPU kernels too. Raises InputError where the compiler is missing or of another
    JAX, and for a program that the target cannot have.
    """
    check_compiler(target)
    with tempfile.TemporaryDirectory() as folder:
        dump, errors = Path(folder) / "schedules", Path(folder) / "stderr"
        dump.mkdir()
        wanted = schedules and target.chip.platform == "tpu"
        asked = Asked(target.name, programs, str(dump) if wanted else "", "" if texts is None else str(texts))
        with (
            errors.open("w") as noise,
            subprocess.Popen(
                [sys.executable, "-m", "midigen_jax.bench.worker", asked.to_json()],
                stdin=subprocess.PIPE,  # it ends when that is closed, as it is where this process is ended
                stdout=subprocess.PIPE,
                stderr=noise,
                text=True,
                env=environment(target, asked.schedules),
            ) as process,
        ):
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    yield _figures(json.loads(line))
                process.wait()  # before its input is closed, which would end it too soon
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise RuntimeError(
                f"the compiling process ended with {process.returncode}:\n{errors.read_text()}"
            )


def describe(program: Program) -> str:
    """A program in words."""
    settings = " ".join(f"--{name} {spell(value)}" for name, value in program.settings.items())
    what = f"training of {program.recipe}"
    if program.pieces:
        rules = " with all filters and constraints" if program.filters else ""
        what = f"{program.recipe} writing {program.pieces} at once{rules}"
    return " ".join(filter(None, (what, settings)))


def settings_of(program: Program) -> dict[str, Any]:
    """What goes into the config of its rows."""
    found: dict[str, Any] = {"recipe": program.recipe, "settings": dict(program.settings)}
    if program.pieces:
        found["filters"] = program.filters
    return found


def _figures(answer: dict[str, Any]) -> Figures:
    if "wrong" in answer:
        raise InputError(answer["wrong"])
    return from_json(answer)


def environment(target: Target, schedules: str = "") -> dict[str, str]:
    """That of a process that compiles for a target, beside others, on a machine that need not have it.

    `schedules` is a folder that takes what `bench.schedules` reads.
    """
    package = Path(midigen_jax.__file__).resolve().parent.parent
    found = {
        "JAX_PLATFORMS": "cpu",  # what computes; compiling needs no device
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # what is not compiled writes no schedules
        "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to wait for
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH")))),
    }
    if target.chip.platform == "cuda":
        # Which of several kernels is the fastest cannot be tried without a GPU.
        found["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0".strip()
    if schedules:
        flags = os.environ.get("LIBTPU_INIT_ARGS", ""), FLAGS.format(folder=schedules)
        found["LIBTPU_INIT_ARGS"] = " ".join(filter(None, flags))
    return os.environ | found


def check_compiler(target: Target) -> None:
    """Raises InputError where the target's compiler is not installed, or is of another JAX."""
    if target.chip.platform == "cuda":
        missing = [name for name in _CUDA if not _version(name)]
        if missing:
            raise InputError(
                f"--target {target.name}: {missing[0]}, which compiles for GPUs, is not installed; "
                "pip install 'midigen-jax[aot-cuda]' (700 MB)"
            )
        return
    needed = needed_libtpu()
    there = _version("libtpu")
    if not there:
        raise InputError(
            f"--target {target.name}: libtpu, which compiles for TPUs, is not installed; "
            f"pip install 'libtpu=={needed}.*'"
        )
    if needed and not f"{there}.".startswith(f"{needed}."):
        raise InputError(
            f"libtpu {there} belongs to another JAX: jax {importlib.metadata.version('jax')} needs "
            f"{needed}.*; pip install 'libtpu=={needed}.*'"
        )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def needed_libtpu() -> str:
    """How the version of the libtpu begins that belongs to this JAX; empty where JAX does not say."""
    for requirement in importlib.metadata.requires("jax") or []:
        found = re.match(r"libtpu\s*==\s*([\d.]+?)(\.\*)?\s*;", requirement)
        if found:
            return found[1]
    return ""
