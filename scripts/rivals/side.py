"""Sides of a benchmark, each in a process of its own with threads of its own: the parent's end.

In: the module of a side, and a job for it. Out: a warm process that works for a round when it is asked to, so
that sides can take turns and thread pools of different libraries never meet. `child` is the other end.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import midigen_jax

Settings = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What every side is told: which it is and how it is measured; a benchmark adds what is worked on."""

    side: str
    threads: int
    seconds: float = 1.0  # of a round, at least
    tune: bool = False  # try all settings of the side, or take its default


class Side(NamedTuple):
    """Work that is ready to be done, over and over."""

    call: Callable[[], float | None]  # does it, and waits until it is done; training returns its loss
    amounts: dict[str, float]  # what one call does: `tokens` read, `losses` taken, `flops`, `events` written


class MissingPackageError(Exception):
    """The side needs a package, which this names, that is not installed."""


class SideProcess:
    """A context manager around one side, warm once it is entered; it works only while `round` waits for it.

    `module` is one of scripts/. Entering raises MissingPackageError. A side that fails prints its traceback;
    what waits for it then raises RuntimeError.
    """

    def __init__(self, module: str, job: Job, keras_backend: str = "tensorflow"):
        self._job = job
        scripts = Path(__file__).resolve().parent.parent
        package = Path(midigen_jax.__file__).resolve().parent.parent
        folders = [scripts, package, os.environ.get("PYTHONPATH")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rivals.child", module, json.dumps(asdict(job))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(str(folder) for folder in folders if folder),
                "OMP_NUM_THREADS": str(job.threads),
                "KERAS_BACKEND": keras_backend,
                "JAX_PLATFORMS": "cpu",
                "CUDA_VISIBLE_DEVICES": "-1",
                "TF_CPP_MIN_LOG_LEVEL": "3",
            },
        )
        self.warm: dict[str, Any] = {}

    def __enter__(self) -> "SideProcess":
        try:
            self.warm = self._hear()
            if "missing" in self.warm:
                raise MissingPackageError(self.warm["missing"])
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def round(self) -> tuple[float, float]:
        """Calls a second, and cores that were busy."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._hear()
        return answer["calls_per_s"], answer["cores"]

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._job.side}: its process ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()
