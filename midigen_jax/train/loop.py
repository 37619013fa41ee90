"""The training loop: steps, validations, checkpoints and rows, until the end or a Ctrl-C.

In: a corpus, configs, run folders. Out: in each folder what `folder` lists. Trainings that differ in values
alone are replicas of one program, and one training is one replica: there is no other loop.

Several steps are one call, and the host asks for a call's metrics only after it has sent the next one off, so
the device never waits for it. Between calls the host runs no other program on a device and transfers nothing
but what it names: devices run in order, so anything else would wait for the call that is running. A folder
that holds this very run, unfinished, is gone on with from its newest checkpoint.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from midigen_jax import config as configs
from midigen_jax.config import Config
from midigen_jax.data.batches import Epochs
from midigen_jax.data.corpus import Corpus
from midigen_jax.errors import InputError
from midigen_jax.model.cost import flops_per_event
from midigen_jax.model.network import Network
from midigen_jax.progress import Progress
from midigen_jax.train.batch_size import check_rows, says_what_fits, with_rows
from midigen_jax.train.course import Course
from midigen_jax.train.devices import DATA, REPLICA, data_mesh, everywhere
from midigen_jax.train.experiment import make_network
from midigen_jax.train.feed import Feed, make_feed
from midigen_jax.train.folder import claimed
from midigen_jax.train.log import Mirror
from midigen_jax.train.member import Fit, Member, Training
from midigen_jax.train.optimizer import make_optimizer
from midigen_jax.train.pretrained import load_model
from midigen_jax.train.processes import SharedPace, ends_with_others, first_alone, is_first, spread
from midigen_jax.train.replicas import Hyperparameters, by_replica, hyperparameters, shape_of, stack, take
from midigen_jax.train.scoring import Scorer
from midigen_jax.train.state import Metrics, TrainState, init_state, make_train_steps
from midigen_jax.train.stop import StopRequest

_SECONDS_A_CALL = 1.0  # about as long a Ctrl-C waits, and the progress stands still

Watch = Callable[[Training, int, str], None]  # is told of a training its step and its newest losses


class _Sent(NamedTuple):
    """A call that has been sent off: where each member stands after it, after so many steps."""

    last: list[int]
    counts: list[int]
    metrics_NK: Metrics


class _Program(NamedTuple):
    """What the trainings of a group have in common."""

    config: Config
    network: Network
    optimizer: optax.GradientTransformation
    course: Course
    mesh: Mesh
    feed: Feed
    train_steps: Callable[..., tuple[TrainState, Metrics]]
    weights: list[dict]  # of teachers
    scorer: Scorer


def fit(corpus: Corpus, config: Config, run: Path, mirror: Mirror | None = None) -> Fit:
    """Train in the folder `run`, from the start or from its newest checkpoint; `mirror` is told all rows.

    Ctrl-C (or SIGTERM, or SIGHUP) ends the training after the steps that are running, with a checkpoint;
    before the first step signals do what they did before. Raises InputError for a folder that holds another
    run or something else, for teachers that are no runs or of another vocabulary, and when the training
    diverges.
    """
    (done,) = fit_all(corpus, [Training(config, run)], mirror=mirror)
    if done.failure is not None:
        raise InputError(done.failure)
    return done


def fit_all(
    corpus: Corpus,
    trainings: Sequence[Training],
    together: int = 1,
    watch: Watch | None = None,
    mirror: Mirror | None = None,
) -> list[Fit]:
    """`fit` each of some trainings of one shape (`replicas.shape_of`) in one program.

    One that diverges, or whose checkpoints are damaged, ends, and the others go on. A group that was cut goes
    on bit for bit with the members that it had: those that have ended cost nothing. `together` is that of
    `make_train_steps`.
    """
    prepared = configs.flatten({"prepare": configs.to_json(corpus.config)})
    trainings = [
        Training(with_rows(configs.override(one.config, prepared), one.run), one.run) for one in trainings
    ]
    program = _program(corpus, trainings, together)
    # Within, nothing waits for a process that is gone; to close the checkpoints is to wait for all.
    with ends_with_others(), ExitStack() as opened, StopRequest() as stop, ends_with_others():
        for training in trainings:
            first_alone(partial(opened.enter_context, claimed(corpus, *training)))
        members = [opened.enter_context(Member(one, corpus, program.course, mirror)) for one in trainings]
        placed = _begin(program, members)
        state_N = _train(program, placed, members, stop, watch)
        ended = [member.end(take(state_N, number)) for number, member in enumerate(members)]
        return [one._replace(interrupted=stop.requested) for one in ended]


def _program(corpus: Corpus, trainings: Sequence[Training], together: int) -> _Program:
    """What cannot be trained fails here, before it takes a folder."""
    config = shape_of(trainings[0].config)
    if any(shape_of(other.config) != config for other in trainings):
        raise ValueError("trainings of more than one shape")
    if config.batch.stream and len(trainings) > 1:
        raise ValueError("trainings that are streamed share no program")
    check_rows(config.batch.rows)
    feed = make_feed(corpus, trainings[0].config, _transposable(config))
    network = make_network(config, corpus.tokenizer)
    each = flops_per_event(network, config.batch.rows, config.batch.length)
    course = Course(config, Epochs(feed.crops, config.batch.rows), each)
    mesh = data_mesh(config.batch.rows, len(trainings))
    networks, weights = _teachers(config, corpus)
    train_steps = make_train_steps(
        network, config, course.steps, _transposable(config), mesh, networks, together
    )
    scorer = Scorer(network, corpus, corpus.split("valid"), mesh if jax.process_count() > 1 else None)
    optimizer = make_optimizer(config.train, course.steps)
    jax.eval_shape(lambda: init_state(network, optimizer, 0))
    return _Program(config, network, optimizer, course, mesh, feed, train_steps, weights, scorer)


class _Placed(NamedTuple):
    """What the calls of a group are given, on its devices; of N replicas."""

    state_N: TrainState
    hyper_N: Hyperparameters
    weights: list[dict]  # of teachers


def _begin(program: _Program, members: Sequence[Member]) -> _Placed:
    """The states of the members, from their newest checkpoints or fresh."""
    mesh = program.mesh
    states = [member.begin(program.network, program.optimizer) for member in members]
    # Where replicas do not share out evenly, copies of the first are there for show: they do no step.
    shown = -(-len(members) // mesh.shape[REPLICA]) * mesh.shape[REPLICA]
    whole = [*range(len(members)), *[0] * (shown - len(members))]
    hyper = [hyperparameters(member.training.config) for member in members]
    state_N, hyper_N = (stack([trees[place] for place in whole]) for trees in (states, hyper))
    program.feed.begin(members[0].step, program.course.steps, mesh)
    return _Placed(
        *spread((state_N, hyper_N), by_replica(mesh)), weights=spread(program.weights, everywhere(mesh))
    )


def _train(
    program: _Program,
    placed: _Placed,
    members: Sequence[Member],
    stop: StopRequest,
    watch: Watch | None,
) -> TrainState:
    """Train the members to their ends, or to a Ctrl-C; returns the states of all, stacked."""
    feed, of_replica = program.feed, by_replica(program.mesh)
    (state_N, hyper_N, weights), shown = placed, len(placed.hyper_N.seed)

    began = sum(member.step for member in members)
    steps = program.course.steps * len(members)
    with Progress("training", steps, "steps", done=began, shown=is_first()) as progress:
        since, pace = time.perf_counter(), 1
        shared, sent = SharedPace(), None
        while any(member.goes_on for member in members):
            if not (pace := shared.next(pace, stop.requested)):
                break
            counts = [member.advance(pace) for member in members]
            count_N = np.zeros(shown, np.int32)
            count_N[: len(counts)] = counts
            given = feed.take(counts[0]), spread(count_N, of_replica), weights
            with _fits(program):
                state_N, metrics_NK = program.train_steps(state_N, hyper_N, *given)
            stop.begin()  # the first call has been compiled, and does steps
            if sent is not None:
                since, pace = _settle(sent, members, since, program)
            sent = _Sent([member.step for member in members], counts, metrics_NK)
            if any(member.waits for member in members):
                since, pace = _settle(sent, members, since, program)
                sent = None
                for number, member in enumerate(members):
                    if member.waits:
                        member.validate(take(state_N, number), program.scorer)
                since = time.perf_counter()
            moved = [member for member, count in zip(members, counts, strict=True) if count]
            if watch is not None:
                for member in moved:
                    watch(member.training, member.step, member.note)
            progress.advance(sum(counts), note=moved[0].note)
        if sent is not None:
            _settle(sent, members, since, program)
    return state_N


def _settle(call: _Sent, members: Sequence[Member], since: float, program: _Program) -> tuple[float, int]:
    """Wait for a call and let members have what it measured; returns the time, and a pace for the next.

    Of the time since the call before, each step of any member took as much.
    """
    with _fits(program):
        metrics_NK = jax.device_get(call.metrics_NK)
    now = time.perf_counter()
    each = (now - since) / sum(call.counts)
    for number, (member, last, count) in enumerate(zip(members, call.last, call.counts, strict=True)):
        if count:
            member.take(last, count, Metrics(*(values_NK[number] for values_NK in metrics_NK)), each)
    return now, _pace((now - since) / max(call.counts), program.config)


def _fits(program: _Program) -> AbstractContextManager[None]:
    """Where the steps take more memory than there is, it is said how many rows would fit."""
    return says_what_fits(program.config.batch.rows, program.mesh.shape[DATA])


def _teachers(config: Config, corpus: Corpus) -> tuple[list[Network], list[dict]]:
    """The networks that the config names as teachers, and the best weights of each."""
    networks, weights = [], []
    for run in config.train.teachers:
        teacher = load_model(run)
        if teacher.experiment.tokenizer != corpus.tokenizer:
            raise InputError(f"train.teachers: {run} has another vocabulary than {corpus.path}; leave it out")
        networks.append(teacher.network)
        weights.append(teacher.weights)
    return networks, weights


def _transposable(config: Config) -> bool:
    """Whether rows may be transposed: chords have no pitches, and a key that was asked for stays."""
    settings = config.prepare
    return settings.tokenizer == "note" and settings.transpose == settings.only_key == "none"


def _pace(seconds: float, config: Config) -> int:
    """How many steps the next call shall do, when one takes so many seconds."""
    return max(1, min(config.train.steps_per_call, int(_SECONDS_A_CALL / seconds)))
