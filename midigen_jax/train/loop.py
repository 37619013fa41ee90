"""The training loop: calls of steps, validations, checkpoints and rows, until the end or a Ctrl-C.

In: a corpus, configs, folders. Out: in each folder what `run_dir` lists. Runs that differ in values alone are
replicas of one program, and one run is one replica: there is no other loop than `_train`.

Several steps are one call, and the host asks for a call's metrics only after it has sent the next one off, so
the device never waits for it. Between calls the host runs no other program on a device and transfers nothing
but what it names: devices run in order, so anything else would wait for the call that is running. A folder
that holds this very run, unfinished, is gone on with from its newest checkpoint.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from midigen_jax import config as configs
from midigen_jax.config import Config, TrainConfig, override
from midigen_jax.data.batches import SHIFTS, Epochs
from midigen_jax.data.corpus import Corpus, seen_ids
from midigen_jax.errors import DiskError, InputError
from midigen_jax.model.cost import flops_per_event
from midigen_jax.model.network import Network, init_params
from midigen_jax.model.summary import parts
from midigen_jax.progress import Progress
from midigen_jax.train import callbacks
from midigen_jax.train.batch_size import check_rows, says_what_fits, with_rows
from midigen_jax.train.callbacks import Callback
from midigen_jax.train.checkpoint import Checkpoints, LoadedModel, Metadata, place_of
from midigen_jax.train.distributed import (
    DATA,
    REPLICA,
    SharedPace,
    data_mesh,
    exit_if_peer_lost,
    fetch,
    is_main_process,
    main_process_first,
    replicated,
    to_mesh,
)
from midigen_jax.train.pretrained import load_model
from midigen_jax.train.replicas import (
    DataSource,
    by_replica,
    make_train_steps,
    shape_key,
    stack,
    take,
)
from midigen_jax.train.run_dir import DivergedError, RowLog, open_or_create
from midigen_jax.train.scoring import Scorer, validate
from midigen_jax.train.step import (
    Hyperparameters,
    Metrics,
    TrainState,
    hyperparameters,
    init_state,
    make_network,
)
from midigen_jax.train.stop import StopRequest

_SECONDS_A_CALL = 1.0  # about as long a Ctrl-C waits, and the progress stands still


class Judgement(NamedTuple):
    """What somebody finds of a model in training."""

    rows: Sequence[tuple[str, float, str]]  # name, value, unit
    keeps: bool = False  # whether the checkpoint of this step stays


Judge = Callable[[LoadedModel], Judgement]
"""Called with the model at each validation, in process 0 alone."""


class Training(NamedTuple):
    """What is to be trained, in which folder, who is told, and who judges the model at each validation."""

    config: Config
    run_dir: Path
    callbacks: Sequence[Callback] = ()
    judges: Sequence[Judge] = ()


class Fit(NamedTuple):
    """How a training ended."""

    step: int
    steps: int  # that there were to be
    kept: tuple[int, ...]  # steps whose checkpoints are kept
    interrupted: bool  # by a Ctrl-C, or as it ended: the same command goes on
    failure: str | None = None  # why it could not go on


def fit(
    corpus: Corpus,
    config: Config,
    run_dir: Path,
    callbacks: Sequence[Callback] = (),
    judges: Sequence[Judge] = (),
) -> Fit:
    """Train in the folder `run_dir`, from the start or from its newest checkpoint.

    Ctrl-C (or SIGTERM, or SIGHUP) ends the training after the steps that are running, with a checkpoint;
    before the first step signals do what they did before. Raises InputError for a folder that holds another
    run or something else, for teachers that are no runs or of another vocabulary, and when the training
    diverges.
    """
    (done,) = fit_all(corpus, [Training(config, run_dir, callbacks, judges)])
    if done.failure is not None:
        raise InputError(done.failure)
    return done


def fit_all(corpus: Corpus, trainings: Sequence[Training], together: int = 1) -> list[Fit]:
    """`fit` each of some trainings of one shape (`replicas.shape_key`) in one program.

    One that diverges, or whose checkpoints are damaged, ends, and the others go on. A group that was cut goes
    on bit for bit with the runs that it had: those that have ended cost nothing. `together` is that of
    `make_train_steps`.
    """
    prepared = configs.flatten({"prepare": configs.to_json(corpus.config)})
    trainings = [
        one._replace(config=with_rows(override(one.config, prepared), one.run_dir)) for one in trainings
    ]
    program = _Program(corpus, trainings, together)
    # Twice: where a peer is lost, this process is to exit before it closes checkpoints, which is a barrier.
    with exit_if_peer_lost(), ExitStack() as opened, StopRequest() as stop, exit_if_peer_lost():
        for one in trainings:
            main_process_first(
                partial(opened.enter_context, open_or_create(corpus, one.config, program.parts, one.run_dir))
            )
        runs = [opened.enter_context(_Run(one, corpus, program)) for one in trainings]
        placed = program.place(runs)
        steps, done = program.schedule.steps * len(runs), sum(run.step for run in runs)
        bar = opened.enter_context(Progress("training", steps, "steps", done=done, shown=is_main_process()))
        for run in runs:
            run.callbacks.append(callbacks.progress(bar, run.step))
        state_N = _train(program, runs, *placed, stop)
        ended = [run.finish(take(state_N, number)) for number, run in enumerate(runs)]
    return [one._replace(interrupted=one.interrupted or stop.requested) for one in ended]


class Schedule(NamedTuple):
    """Where a training stops for a validation and a checkpoint, and where it ends; steps count from 1."""

    config: TrainConfig
    epochs: Epochs

    @property
    def steps(self) -> int:
        """All of them."""
        return self.config.steps or self.epochs.steps(self.config.epochs)

    @property
    def kept(self) -> set[int]:
        """Steps whose checkpoints are kept."""
        return {max(1, round(share * self.steps)) for share in self.config.keep_at}

    def stops(self, step: int) -> bool:
        """Whether training stops after `step`."""
        every = self.config.evaluate_every
        due = step % every == 0 if every else self.epochs.ends(step)
        return due or step in self.kept or step == self.steps

    def next(self, step: int, pace: int) -> int:
        """The end of a call that begins at `step`: `pace` steps later, or where it stops before."""
        return next(end for end in itertools.count(step + 1) if end - step == pace or self.stops(end))

    def is_over(self, step: int, best: int | None) -> bool:
        """Whether a training that has come this far ends, at its end or for want of patience."""
        validated = next((past for past in range(step, 0, -1) if self.stops(past)), 0)
        waited = validated - (validated if best is None else best)
        return step == self.steps or 0 < self.config.patience <= waited


class _Program:
    """What the runs of a group have in common. What cannot be trained fails here, before it has a folder."""

    def __init__(self, corpus: Corpus, trainings: Sequence[Training], together: int):
        self.config = config = trainings[0].config  # that of any of them, for its shape
        if len({shape_key(one.config) for one in trainings}) > 1:
            raise ValueError("trainings of more than one shape")
        if config.batch.stream and len(trainings) > 1:
            raise ValueError("trainings that are streamed share no program")
        check_rows(config.batch.rows)
        # A key that was asked for stays.
        settings = config.prepare
        in_any_key = settings.transpose == settings.only_key == "none"
        self.transposable = transposable = corpus.vocabulary.transposes and in_any_key
        self.source = DataSource(corpus, config, transposable)
        self.network = make_network(config, corpus.vocabulary)
        self.parts = parts(self.network)
        self.flops = flops_per_event(self.network, config.batch.rows, config.batch.length)
        self.schedule = Schedule(config.train, Epochs(self.source.crops, config.batch.rows))
        self.mesh = data_mesh(config.batch.rows, len(trainings))
        teachers = [load_model(run) for run in config.train.teachers]
        for run, teacher in zip(config.train.teachers, teachers, strict=True):
            if teacher.metadata.vocabulary != corpus.vocabulary:
                raise InputError(
                    f"train.teachers: {run} has another vocabulary than {corpus.path}; leave it out"
                )
            _check_bar_lines(f"train.teachers: {run}", teacher.metadata.config, corpus)
        self.teacher_params = [teacher.params for teacher in teachers]
        self.start = _start_of(config.train.start, self.network, corpus) if config.train.start else None
        self.train_steps = make_train_steps(
            self.network,
            config,
            self.schedule.steps,
            transposable,
            self.mesh,
            [teacher.network for teacher in teachers],
            together,
        )
        shared = self.mesh if jax.process_count() > 1 else None
        self.scorer = Scorer(self.network, corpus, corpus.split("valid"), shared)
        self.validates = bool(corpus.split("valid"))

    def says_what_fits(self) -> AbstractContextManager[None]:
        """Where the steps take more memory than there is, it is said how many rows would fit."""
        return says_what_fits(self.config.batch.rows, self.mesh.shape[DATA])

    def place(self, runs: Sequence["_Run"]) -> tuple[TrainState, Hyperparameters]:
        """The states of the runs, from their newest checkpoints or fresh, and their values, on the mesh."""
        states = [run.restore() for run in runs]
        values = [hyperparameters(run.config) for run in runs]
        self.source.start(runs[0].step, self.schedule.steps, self.mesh)
        # Where replicas do not share out evenly, pad with copies of replica 0 that run 0 steps.
        padded = [*range(len(runs)), *[0] * (-len(runs) % self.mesh.shape[REPLICA])]
        own_N = stack([states[number] for number in padded]), stack([values[number] for number in padded])
        return to_mesh(own_N, by_replica(self.mesh))


def _check_bar_lines(said: str, theirs: Config, corpus: Corpus) -> None:
    """Raises InputError for a model that takes other places for bar lines than the corpus does."""
    if theirs.model.context.meters and theirs.prepare.bar_lines != corpus.config.bar_lines:
        raise InputError(
            f"{said} knows bar lines otherwise than {corpus.path}; prepare that with "
            f"--bar-lines {theirs.prepare.bar_lines}, or leave the model out"
        )


def _start_of(run: str, network: Network, corpus: Corpus) -> LoadedModel:
    """The model to begin with. Raises InputError for one of another network, vocabulary or bar lines."""
    loaded = load_model(run)
    if loaded.metadata.vocabulary != corpus.vocabulary:
        raise InputError(
            f"train.start: {run} has another vocabulary than {corpus.path}; prepare the music as "
            f"`midigen prepare SOURCE --like {run} --out CORPUS` does, or leave --from out"
        )
    _check_bar_lines(f"train.start: {run}", loaded.metadata.config, corpus)
    fresh = jax.eval_shape(partial(init_params, network), jax.random.key(0))
    if jax.tree.map(np.shape, loaded.state.ema_params) != jax.tree.map(np.shape, fresh):
        raise InputError(
            f"train.start: {run} is another network than the one in the settings; leave them out"
        )
    return loaded


def _seen_of(config: Config, corpus: Corpus, program: _Program) -> Mapping[str, tuple[int, ...]] | None:
    """By stream the ids that a model has read, with those of its start; None where these are not known."""
    is_moved = program.transposable and config.batch.transpose_share > 0
    seen = seen_ids(corpus, SHIFTS if is_moved else (0,))
    if program.start is None:
        return seen
    before = program.start.metadata.seen
    if before is None:
        return None
    # A stream that is left out has all of its ids.
    both = seen.keys() & before.keys()
    return {name: tuple(sorted({*seen[name], *before[name]})) for name in seen if name in both}


class _InFlight(NamedTuple):
    """A call that has been sent off: where each run stands after it, after so many steps."""

    last: list[int]
    counts: list[int]
    metrics_NK: Metrics


def _train(
    program: _Program,
    runs: Sequence["_Run"],
    state_N: TrainState,
    hyper_N: Hyperparameters,
    stop: StopRequest,
) -> TrainState:
    """The loop: train the runs to their ends, or to a Ctrl-C; returns the states of all, stacked."""
    of_replica, replicas = by_replica(program.mesh), len(hyper_N.seed)
    teacher_params = to_mesh(program.teacher_params, replicated(program.mesh))
    shared, pace, in_flight = SharedPace(), 1, None
    for number, run in enumerate(runs):
        if run.is_new and program.start is not None:
            run.validate(take(state_N, number))  # what it was before stands at step 0
    since = time.perf_counter()
    while any(run.goes_on for run in runs):
        pace = shared.next(pace, stop.requested)
        if not pace:
            break
        # Send a call off: some steps of each run, as far as the next validation.
        counts = [run.advance(pace) for run in runs]
        count_N = to_mesh(np.array(counts + [0] * (replicas - len(runs)), np.int32), of_replica)
        crops = program.source.next(counts[0])
        with program.says_what_fits():
            state_N, metrics_NK = program.train_steps(state_N, hyper_N, crops, count_N, teacher_params)
        stop.begin()  # the first call has been compiled, and does steps
        # While it runs, have the metrics of the call before.
        if in_flight is not None:
            since, pace = _collect_metrics(in_flight, runs, since, program)
        in_flight = _InFlight([run.step for run in runs], counts, metrics_NK)
        # Where a validation is due, there is something to wait for.
        if any(run.is_due for run in runs):
            since, pace = _collect_metrics(in_flight, runs, since, program)
            in_flight = None
            for number, run in enumerate(runs):
                if run.is_due:
                    run.validate(take(state_N, number))
            since = time.perf_counter()
        for run, count in zip(runs, counts, strict=True):
            if count:
                run.tell()
    if in_flight is not None:
        _collect_metrics(in_flight, runs, since, program)
    return state_N


def _collect_metrics(
    call: _InFlight, runs: Sequence["_Run"], since: float, program: _Program
) -> tuple[float, int]:
    """Wait for a call and log what it measured; returns the time, and how many steps the next call shall do.

    Of the time since the call before, each step of any run took as much.
    """
    with program.says_what_fits():
        metrics_NK = fetch(call.metrics_NK)
    now = time.perf_counter()
    each = (now - since) / sum(call.counts)
    for number, (run, last, count) in enumerate(zip(runs, call.last, call.counts, strict=True)):
        if count:
            run.log(last, count, jax.tree.map(itemgetter(number), metrics_NK), each)
    able = int(_SECONDS_A_CALL * max(call.counts) / (now - since))
    return now, max(1, min(program.config.train.steps_per_call, able))


def _are_alike(one: Metadata, other: Metadata) -> bool:
    """Whether these are of one experiment, which may go on for longer."""
    length = {"train.steps": other.config.train.steps, "train.epochs": other.config.train.epochs}
    return one._replace(config=override(one.config, length), seen=other.seen) == other


class _Run:
    """A run and how far it has come; a context manager that waits for its checkpoints to be written."""

    def __init__(self, training: Training, corpus: Corpus, program: _Program):
        self.config, self.callbacks = training.config, list(training.callbacks)
        self._judges = training.judges
        self._program, self._schedule = program, program.schedule
        facts, plan = corpus.manifest["summary"], corpus.manifest["plan"]
        # Where checkpoints are is no part of what they are.
        config, address = override(self.config, {"train.checkpoints": ""}), self.config.train.checkpoints
        meter = tuple(facts["meter"])
        seen = _seen_of(config, corpus, program)
        self._metadata = Metadata(
            config, corpus.vocabulary, facts["tempo"], meter, plan, facts["upbeat"], seen
        )
        self._rows = RowLog(
            training.run_dir / "rows.jsonl", self.config, self._schedule.epochs, program.flops
        )
        self._checkpoints = Checkpoints(place_of(training.run_dir, address), keep=self._schedule.kept)
        self.step = 0
        self.failure: str | None = None
        self.is_new = False  # nothing of it was there before
        self._over = self._stops = False

    def __enter__(self) -> "_Run":
        return self

    def __exit__(self, *exception: object) -> None:
        self._checkpoints.__exit__(*exception)

    def restore(self) -> TrainState:
        """Its state: that of its newest checkpoint, or a fresh one."""
        if self._checkpoints.steps():
            try:
                loaded = self._checkpoints.restore()
            except DiskError:
                raise
            except InputError as error:  # all of its checkpoints are damaged
                self.failure = str(error)
                return self._fresh()
            if self._checkpoints.is_remote and not _are_alike(loaded.metadata, self._metadata):
                raise InputError(
                    f"{self._checkpoints.path}: holds checkpoints of another experiment; give another "
                    "--train.checkpoints"
                )
            state = loaded.state
            self._checkpoints.fetch(self._rows.path)
        else:
            state, self.is_new = self._fresh(), True
        self.step = int(state.step)
        self._rows.start(self.step, state.params)
        for step in self._rows.kept():
            self._checkpoints.keep(step)
        self._over = self._schedule.is_over(self.step, self._checkpoints.best())
        return state

    def _fresh(self) -> TrainState:
        # Temperatures are no part of what is trained.
        start = self._program.start and self._program.start.state.ema_params
        return init_state(self._program.network, self.config.train, start)

    @property
    def goes_on(self) -> bool:
        """Whether there is anything left to do."""
        return not self._over and self.failure is None

    @property
    def is_due(self) -> bool:
        """Whether it has come to a place where it is to be validated."""
        return self._stops and self.failure is None

    def advance(self, pace: int) -> int:
        """Go on by one call; returns the steps of it, which are none where nothing is left to do."""
        if not self.goes_on:
            return 0
        start, self.step = self.step, self._schedule.next(self.step, pace)
        self._stops = self._schedule.stops(self.step)
        return self.step - start

    def log(self, last: int, count: int, metrics_K: Metrics, seconds: float) -> None:
        """Take in a call of `count` steps up to `last`, each of which took so many seconds."""
        if self.failure is None:
            with self._ending_where_diverged():
                self._rows.train(last, count, metrics_K, seconds)

    def validate(self, state: TrainState) -> None:
        """Measure the state, and save it."""
        start = time.perf_counter()
        scores: dict[str, float] = {}
        if self._program.validates:
            scores = validate(self._program.scorer, state.ema_params, self.config.train.calibrate)
        self._stops = False
        with self._ending_where_diverged():
            if scores:
                self._rows.valid(self.step, scores, time.perf_counter() - start)
            self._have_judged(state, scores)
            if self.step in self._schedule.kept:  # it stays where the training goes on for longer
                self._rows.keep(self.step)
            self._save(state, scores)
            self._over = self._schedule.is_over(self.step, self._checkpoints.best())

    def _have_judged(self, state: TrainState, scores: dict[str, float]) -> None:
        """Ask the judges for their rows, and whether the step's checkpoint is to stay."""
        if not (self._judges and is_main_process()):
            return
        network, state = self._program.network, fetch(state)
        loaded = LoadedModel(self.step, state, network, self._metadata, scores, "")
        for judge in self._judges:
            judged = judge(loaded)
            self._rows.judged(self.step, judged.rows)
            if judged.keeps:
                self._rows.keep(self.step)
                self._checkpoints.keep(self.step)

    def tell(self) -> None:
        """Call the callbacks with the step, and with the rows that are new."""
        new, self._rows.unread = self._rows.unread, []
        if is_main_process():
            for callback in self.callbacks:
                callback(self.step, new)

    def finish(self, state: TrainState) -> Fit:
        """Write what is not written yet."""
        steps, kept = self._schedule.steps, self._schedule.kept | self._rows.kept()
        if self.failure is None:
            with self._ending_where_diverged():
                self._rows.flush(self.step)
        if self.failure is None:
            self._save(state, {})
            if self._over and self.step < steps:
                best = self._checkpoints.best()
                kept.add(self.step if best is None else best)
        self.tell()
        there = tuple(sorted(kept.intersection(self._checkpoints.steps())))
        return Fit(self.step, steps, there, self.goes_on, self.failure)

    def _save(self, state: TrainState, scores: dict[str, float]) -> None:
        # The rows first: where there is a checkpoint, there are all rows up to it.
        self._checkpoints.store(self._rows.path)
        self._checkpoints.save(state, self._metadata, scores)

    @contextmanager
    def _ending_where_diverged(self) -> Iterator[None]:
        """What diverges ends here; it is remembered why and where."""
        try:
            yield
        except DivergedError as error:
            whole = [step for step in self._checkpoints.steps() if step < error.step]
            last = f"its last good checkpoint is of step {whole[-1]}" if whole else "it has no checkpoint yet"
            self.failure, self.step = f"{error}; {last}", error.step
