"""A run's folder: whose it is, and the rows of what is measured.

config.json   the experiment            rows.jsonl     what was measured
corpus.json   what it was trained on    checkpoints/   see `checkpoint`
network.json  the parts of its network
"""

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

import jax
import numpy as np

from midigen_jax import config as configs
from midigen_jax import rows
from midigen_jax.config import Config
from midigen_jax.data.batches import Epochs
from midigen_jax.data.corpus import Corpus
from midigen_jax.errors import InputError
from midigen_jax.files import check_folder, locked, make_folder, read_json, write_json
from midigen_jax.model.summary import Part
from midigen_jax.train.distributed import is_main_process, most_memory, peak_flops
from midigen_jax.train.scoring import TEMPERATURE
from midigen_jax.train.step import Metrics

_REMEDY = "give another --out"
_ROWS_EVERY = 10  # steps that one row of the training curve averages over
_KEPT = "train.kept"  # the row of a step whose checkpoint stays


@contextmanager
def open_or_create(corpus: Corpus, config: Config, parts: Sequence[Part], run_dir: Path) -> Iterator[None]:
    """While entered, the folder is that of this experiment, and this process's. Raises InputError if not.

    `parts` are those of its network, for who draws it.
    """
    _check(corpus, config, run_dir)
    make_folder(run_dir)
    with locked(run_dir):
        if _check(corpus, config, run_dir):
            if config != _config_of(run_dir):  # it is to go on for longer
                write_json(run_dir / "config.json", configs.to_json(config))
        else:
            (run_dir / "rows.jsonl").unlink(missing_ok=True)
            if {place.name for place in (run_dir / "checkpoints").glob("[0-9]*")} == {"0"}:
                # What a model was that is to be trained further; it may have been another one.
                shutil.rmtree(run_dir / "checkpoints")
            facts = {"plan": corpus.manifest["plan"], "path": str(corpus.path)}
            write_json(run_dir / "corpus.json", corpus.manifest["summary"] | facts)
            write_json(run_dir / "network.json", {"parts": [part._asdict() for part in parts]})
            # The config comes last: a folder with a config.json is a whole run folder.
            write_json(run_dir / "config.json", configs.to_json(config))
        yield


def rows_there(run_dir: Path) -> int | None:
    """The `batch.rows` of the run that is in the folder; none where no step was made there."""
    return _config_of(run_dir).batch.rows if _has_steps(run_dir) else None


def _check(corpus: Corpus, config: Config, run_dir: Path) -> bool:
    """Whether the folder holds steps of this experiment. Raises InputError where it holds anything else."""
    if not _has_steps(run_dir):
        # A folder in which no step was ever made holds nothing that could be lost.
        check_folder(run_dir, _left_by_us(run_dir))
        return False
    theirs = configs.flatten(configs.to_json(_config_of(run_dir)))
    for name, value in configs.flatten(configs.to_json(config)).items():
        longer = name in ("train.steps", "train.epochs") and 0 < theirs[name] < value
        if theirs[name] != value and not longer:
            raise InputError(f"{run_dir}: holds a run with {name} = {theirs[name]}, not {value}; {_REMEDY}")
    if read_json(run_dir / "corpus.json", _REMEDY).get("plan") != corpus.manifest["plan"]:
        raise InputError(f"{run_dir}: holds a run on another corpus than {corpus.path}; {_REMEDY}")
    return True


def _config_of(run_dir: Path) -> Config:
    """That of the run in the folder; a setting that an older version did not know has its default."""
    return configs.from_json(Config, read_json(run_dir / "config.json", _REMEDY))


def _has_steps(run_dir: Path) -> bool:
    place = run_dir / "rows.jsonl"
    return place.is_file() and any(row.get("step", 0) for row in rows.read(place))


def _left_by_us(run_dir: Path) -> tuple[str, ...]:
    """The names of what a command that was cut before its first step may have left in the folder."""
    if not (run_dir / "config.json").is_file():
        return ("corpus.json", "network.json")
    if "prepare" not in read_json(run_dir / "config.json", _REMEDY):
        return ()
    return ("config.json", "corpus.json", "network.json", "checkpoints", "rows.jsonl", "tensorboard")


class DivergedError(InputError):
    """A figure of the training is no number any more."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class RowLog:
    """The rows of a run: means of training every few steps, and every validation. Process 0 writes them.

    `flops` are those of an event; `unread` are the rows that no callback has been told of yet.
    """

    def __init__(self, path: Path, config: Config, epochs: Epochs, flops: float):
        self.path, self.unread = path, list[rows.Row]()
        self._config, self._epochs, self._flops = config, epochs, flops
        self._metrics: list[Metrics] = []
        self._seconds: list[float] = []
        self._skipped = 0
        self._spent = 0.0  # seconds of the whole training, cut or not

    def start(self, step: int, params: Any) -> None:
        """Start at `step`: rows that a cut run wrote beyond it would be written again, so they go."""
        if not is_main_process():
            return
        before = rows.read(self.path) if self.path.is_file() else []
        kept = [row for row in before if row.get("step", 0) <= step] if step else []
        if kept != before:
            rows.rewrite(self.path, kept)
        if step == 0:
            count = sum(leaf.size for leaf in jax.tree.leaves(params))
            self._write(0, [("model.parameters", count, "parameters")], config=configs.to_json(self._config))
        self._spent = rows.last(kept, "train.seconds") or 0.0

    def train(self, last: int, count: int, metrics_K: Metrics, seconds: float) -> None:
        """Take in a call of `count` steps up to `last`, each of which took so many seconds.

        `metrics_K` are on the host. Raises `DivergedError` where a figure is no number.
        """
        for index, step in enumerate(range(last - count + 1, last + 1)):
            newest: Metrics = jax.tree.map(itemgetter(index), metrics_K)
            if self._config.train.on_nan == "skip" and not np.isfinite(jax.tree.leaves(newest)).all():
                self._skipped += 1  # it changed nothing
            else:
                self._metrics.append(newest)
                self._seconds.append(seconds)
            if step % _ROWS_EVERY == 0:
                self.flush(step)
        self._spent += seconds * count

    def flush(self, step: int) -> None:
        """Write the means since the last rows."""
        if self._skipped:
            self._write(step, [("train.skipped_steps", self._skipped, "steps")])
            self._skipped = 0
        if not self._metrics:
            return
        nats, norm, events, rate = jax.tree.map(lambda *values: np.array(values), *self._metrics)
        speed, peak = events.sum() / sum(self._seconds), peak_flops()
        share = [("train.share_of_peak", speed * self._flops / peak, "share")] if peak else []
        self._write(
            step,
            [
                *(
                    (f"train.nats_per_event.{name}", np.average(nats_K, weights=events), "nats")
                    for name, nats_K in nats.items()
                ),
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
        scores = [
            (name, value, "1" if name.startswith(TEMPERATURE) else "nats") for name, value in metrics.items()
        ]
        memory = most_memory()
        used = [("train.most_memory", float(memory), "bytes")] if memory else []
        self._write(step, [*scores, ("train.seconds", self._spent, "s"), *used])

    def judged(self, step: int, values: Sequence[tuple[str, float, str]]) -> None:
        """Write what a judge found."""
        self._write(step, [*values])

    def keep(self, step: int) -> None:
        """Write that the checkpoint of a step stays."""
        self._write(step, [(_KEPT, float(step), "step")])

    def kept(self) -> set[int]:
        """The steps whose checkpoints stay."""
        before = rows.read(self.path) if self.path.is_file() else []
        return {int(row["value"]) for row in before if row["name"] == _KEPT}

    def _write(self, step: int, values: list[tuple[str, float, str]], **fields: Any) -> None:
        for name, value, _ in values:
            if not math.isfinite(value):
                raise DivergedError(
                    f"{self.path.parent}: the training diverged: {name} is {value} at step {step}; lower "
                    "--train.learning_rate or set --train.clip, and give another --out",
                    step,
                )
        if not is_main_process():
            return
        fields |= {"run": self.path.parent.name, "step": step, "epoch": round(self._epochs.at(step), 3)}
        fields["seed"] = self._config.train.seed
        made = [rows.make(name, float(value), unit, **fields) for name, value, unit in values]
        rows.append(self.path, made)
        self.unread += made
