"""One training of a group: its folder, its log, its checkpoints, and how far it has come.

In: a training, the course that the group has in common. Out: rows, checkpoints, and at last a `Fit`.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optax

from midigen_jax.config import Config, override
from midigen_jax.data.corpus import Corpus
from midigen_jax.errors import InputError
from midigen_jax.model.network import Network, Temperatures
from midigen_jax.train.checkpoint import Checkpoints, place_of
from midigen_jax.train.course import Course
from midigen_jax.train.experiment import METRIC, TEMPERATURE, Experiment
from midigen_jax.train.log import Call, DivergedError, Log, Mirror
from midigen_jax.train.scoring import TEMPERATURES, Scorer
from midigen_jax.train.state import Metrics, TrainState, init_state


class Training(NamedTuple):
    """One training: its config, and the folder of its run."""

    config: Config
    run: Path


class Fit(NamedTuple):
    """How a training ended."""

    step: int
    steps: int  # that there were to be
    kept: tuple[int, ...]  # steps whose checkpoints are kept, among those that were reached
    is_cut: bool  # whether a Ctrl-C ended it, so that the same command goes on
    failure: str | None = None  # why it could not go on
    interrupted: bool = False  # whether there was a Ctrl-C, even one that came too late to cut anything


class Member:
    """A training while it is trained; a context manager that waits for its checkpoints to be written."""

    def __init__(self, training: Training, corpus: Corpus, course: Course, mirror: Mirror | None = None):
        self.training, self._course = training, course
        facts, plan = corpus.manifest["summary"], corpus.manifest["plan"]
        # Where checkpoints are is no part of what they are.
        config = override(training.config, {"train.checkpoints": ""})
        self._experiment = Experiment(config, corpus.tokenizer, facts["tempo"], tuple(facts["meter"]), plan)
        self._rows = training.run / "rows.jsonl"
        self._log = Log(self._rows, training.config, course, mirror)
        self._checkpoints = Checkpoints(
            place_of(training.run, training.config.train.checkpoints), keep=course.kept
        )
        self.step = 0
        self.failure: str | None = None
        self._over = self._waits = False

    def __enter__(self) -> "Member":
        return self

    def __exit__(self, *exception: object) -> None:
        self._checkpoints.__exit__(*exception)

    def begin(self, network: Network, optimizer: optax.GradientTransformation) -> TrainState:
        """Its state: that of its newest checkpoint, or a fresh one."""
        if self._checkpoints.steps():
            try:
                restored = self._checkpoints.restore()
            except InputError as error:  # all of its checkpoints are damaged
                self.failure = str(error)
                return init_state(network, optimizer, self.training.config.train.seed)
            if self._checkpoints.is_remote and restored.experiment != self._experiment:
                raise InputError(
                    f"{self._checkpoints.path}: holds checkpoints of another experiment; give another "
                    "--train.checkpoints"
                )
            state = restored.state
            self._checkpoints.fetch(self._rows)
        else:
            state = init_state(network, optimizer, self.training.config.train.seed)
        self.step = int(state.step)
        self._log.begin(self.step, state.params)
        self._over = self._course.is_over(self.step, self._checkpoints.best())
        return state

    @property
    def goes_on(self) -> bool:
        """Whether there is anything left to do."""
        return not self._over and self.failure is None

    @property
    def waits(self) -> bool:
        """Whether it has come to a place where it is to be validated."""
        return self._waits and self.failure is None

    @property
    def note(self) -> str:
        """Its newest losses."""
        return self._log.note

    def advance(self, pace: int) -> int:
        """Go on by one call; returns the steps of it, which are none where nothing is left to do."""
        if not self.goes_on:
            return 0
        begun, self.step = self.step, self._course.next(self.step, pace)
        self._waits = self._course.stops(self.step)
        return self.step - begun

    def take(self, last: int, steps: int, metrics_K: Metrics, seconds: float) -> None:
        """Log a call of `steps` steps up to `last`, each of which took so many seconds."""
        if self.failure is None:
            with self._ends_diverged():
                self._log.train(Call(last, steps, metrics_K), seconds)

    def validate(self, state: TrainState, scorer: Scorer) -> None:
        """Measure the state, and save it."""
        began = time.perf_counter()
        scores = validate(scorer, state.weights, self.training.config.train.calibrate)
        self._waits = False
        with self._ends_diverged():
            self._log.valid(self.step, scores, time.perf_counter() - began)
            self._save(state, scores)
            self._over = self._course.is_over(self.step, self._checkpoints.best())

    def end(self, state: TrainState) -> Fit:
        """Write what is not written yet."""
        steps, kept = self._course.steps, set(self._course.kept)
        if self.failure is None:
            with self._ends_diverged():
                self._log.flush(self.step)
        if self.failure is None:
            self._save(state, {})
            if self._over and self.step < steps:
                kept.add(self._checkpoints.best() or self.step)
        reached = tuple(sorted(step for step in kept if step <= self.step))
        return Fit(self.step, steps, reached, not self._over and self.failure is None, self.failure)

    def _save(self, state: TrainState, scores: dict[str, float]) -> None:
        # The rows first: where there is a checkpoint, there are all rows up to it.
        self._checkpoints.store(self._rows)
        self._checkpoints.save(state, self._experiment, scores)

    @contextmanager
    def _ends_diverged(self) -> Iterator[None]:
        """What diverges ends here; it is remembered why and where."""
        try:
            yield
        except DivergedError as error:
            whole = [step for step in self._checkpoints.steps() if step < error.step]
            last = f"its last good checkpoint is of step {whole[-1]}" if whole else "it has no checkpoint yet"
            self.failure, self.step = f"{error}; {last}", error.step


def validate(scorer: Scorer, params: dict, calibrate: bool = False) -> dict[str, float]:
    """Exact nats per event of the scorer's pieces, over all of them, `<end>` among the events.

    To `calibrate` is to divide the logits of each head by the temperature that suits these pieces best.
    """
    temperatures = TEMPERATURES if calibrate else (1.0,)
    nats_KE2 = np.concatenate([nats for _, nats in scorer.at(temperatures, params)], axis=1)
    nats_K2 = nats_KE2.mean(axis=1, dtype=np.float64)
    pitch, duration = nats_K2.min(axis=0).tolist()
    scores = {METRIC: pitch + duration, f"{METRIC}.pitch": pitch, f"{METRIC}.duration": duration}
    if calibrate:
        best = Temperatures(*(temperatures[place] for place in nats_K2.argmin(axis=0)))
        scores |= {f"{TEMPERATURE}.{head}": value for head, value in best._asdict().items()}
    return scores
