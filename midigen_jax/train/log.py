"""What a training measures, as rows, and as the line that its progress bar shows.

In: metrics of steps and of validations. Out: rows in the run's `rows.jsonl`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from midigen_jax import config as configs
from midigen_jax import rows
from midigen_jax.config import Config
from midigen_jax.errors import InputError
from midigen_jax.train.course import Course
from midigen_jax.train.devices import most_memory, peak_flops
from midigen_jax.train.experiment import METRIC, TEMPERATURE
from midigen_jax.train.processes import is_first
from midigen_jax.train.state import Metrics

_ROWS_EVERY = 10  # steps that one row of the training curve averages over


Mirror = Callable[[Sequence[rows.Row]], None]  # is told of all rows that are written


class Call(NamedTuple):
    """What a run did in one call: the last of its steps, how many they were, their metrics."""

    last: int
    steps: int
    metrics_K: Metrics  # on the host


class DivergedError(InputError):
    """A figure of the training is no number any more."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class Log:
    """The rows of a run: training means every few steps, every validation, and what the progress shows."""

    def __init__(self, path: Path, config: Config, course: Course, mirror: Mirror | None = None):
        self._path, self._course, self._mirror = path, course, mirror
        self._config = configs.to_json(config)
        self._metrics: list[Metrics] = []
        self._seconds: list[float] = []
        self._train, self._valid = "", ""
        self._skips, self._skipped = config.train.on_nan == "skip", 0
        self._spent = 0.0  # seconds of the whole training, cut or not

    def begin(self, step: int, params: Any) -> None:
        """Start at `step`: rows that a cut run wrote beyond it would be written again, so they go."""
        if not is_first():
            return
        before = rows.read(self._path) if self._path.is_file() else []
        kept = [row for row in before if row.get("step", 0) <= step] if step else []
        if kept != before:
            rows.rewrite(self._path, kept)
        if step == 0:
            count = sum(leaf.size for leaf in jax.tree.leaves(params))
            self._write(0, [("model.parameters", count, "parameters")], config=self._config)
        self._spent = rows.last(kept, "train.seconds") or 0.0

    @property
    def note(self) -> str:
        """The newest losses, for the progress bar."""
        return " ".join(filter(None, (self._train, self._valid)))

    def train(self, call: Call, seconds: float) -> None:
        """Take in a call, a step of which took so many seconds. Raises `DivergedError` where it did."""
        for index, step in enumerate(range(call.last - call.steps + 1, call.last + 1)):
            newest = Metrics(*(values[index] for values in call.metrics_K))
            if self._skips and not np.isfinite(newest).all():
                self._skipped += 1  # it changed nothing
            else:
                self._metrics.append(newest)
                self._seconds.append(seconds)
            if step % _ROWS_EVERY == 0:
                self.flush(step)
            self._train = f"train {newest.pitch + newest.duration:.3f}"
        self._spent += seconds * call.steps

    def flush(self, step: int) -> None:
        """Write the means since the last rows."""
        if self._skipped:
            self._write(step, [("train.skipped_steps", self._skipped, "steps")])
            self._skipped = 0
        if not self._metrics:
            return
        pitch, duration, norm, events, rate = map(np.array, zip(*self._metrics, strict=True))
        speed, most = events.sum() / sum(self._seconds), peak_flops()
        share = [("train.share_of_peak", speed * self._course.flops / most, "share")] if most else []
        self._write(
            step,
            [
                ("train.nats_per_event.pitch", np.average(pitch, weights=events), "nats"),
                ("train.nats_per_event.duration", np.average(duration, weights=events), "nats"),
                ("train.gradient_norm", norm.mean(), "1"),
                ("train.learning_rate", rate[-1], "1"),
                ("train.events_per_s", speed, "events/s"),
                *share,
            ],
        )
        self._metrics, self._seconds = [], []

    def valid(self, step: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Write a validation that took so many seconds, and how long the training has taken, all told."""
        self.flush(step)
        self._spent += seconds
        units = {name: "1" if name.startswith(TEMPERATURE) else "nats" for name in metrics}
        scores = [(name, value, units[name]) for name, value in metrics.items()]
        most = most_memory()
        used = [("train.most_memory", float(most), "bytes")] if most else []
        self._write(step, [*scores, ("train.seconds", self._spent, "s"), *used])
        self._valid = f"valid {metrics[METRIC]:.3f}"

    def _write(self, step: int, values: list[tuple[str, float, str]], **fields: Any) -> None:
        for name, value, _ in values:
            if not math.isfinite(value):
                raise DivergedError(
                    f"{self._path.parent}: the training diverged: {name} is {value} at step {step}; lower "
                    "--train.learning_rate or set --train.clip, and give another --out",
                    step,
                )
        if not is_first():
            return
        fields |= {
            "run": self._path.parent.name,
            "step": step,
            "epoch": round(self._course.epochs.at(step), 3),
        }
        fields["seed"] = self._config["train"]["seed"]
        made = [rows.make(name, float(value), unit, **fields) for name, value, unit in values]
        rows.append(self._path, made)
        if self._mirror is not None:
            self._mirror(made)
