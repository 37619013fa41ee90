"""The parent's end of a side: start it, ask it for a round, end it. `child` is the other end."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from train_sides.job import Job


class MissingPackageError(Exception):
    """The side needs a package, which this names, that is not installed."""


class SideProcess:
    """A context manager around one side, warm once it is entered; it works only while `round` waits for it.

    Entering raises MissingPackageError. A side that fails prints its traceback; what waits for it then
    raises RuntimeError.
    """

    def __init__(self, job: Job):
        self._job = job
        path = [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "train_sides.child", json.dumps(asdict(job))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(filter(None, path)),
                "OMP_NUM_THREADS": str(job.threads),
                "KERAS_BACKEND": job.side.rpartition(".")[2],
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
