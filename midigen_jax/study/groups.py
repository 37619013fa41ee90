"""Which runs of a study share a program, and how: planned once, written down, and kept.

In: a study, its corpora. Out: groups of runs in `groups.json`. A group that was begun goes on with the
members that it had, but for those that failed, so that what a kill interrupted ends as it would have; runs
that are new make groups of their own.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from midigen_jax.config import Config, PrepareConfig, override, spell
from midigen_jax.data.batches import make_crops
from midigen_jax.data.corpus import Corpus
from midigen_jax.errors import InputError, is_out_of_memory
from midigen_jax.files import read_json, write_json
from midigen_jax.model.cost import flops
from midigen_jax.model.network import Network
from midigen_jax.study.benchmark import elapsed, peak_product
from midigen_jax.study.plan import Run, Study
from midigen_jax.train.batch_size import says_what_fits
from midigen_jax.train.distributed import REPLICA, data_mesh
from midigen_jax.train.replicas import Shape, make_train_steps, shape_key, start_alone
from midigen_jax.train.step import make_network
from midigen_jax.vocab import typical_vocabulary

_TRIAL_STEPS = 3  # that are timed where a budget is in seconds
_MEMORY_SHARE = 0.8  # of what is free, that replicas may fill
_USUAL_SHARE = 0.5  # of the peak, at which models train: what an estimate counts with


FAILURES = (InputError, jax.errors.JaxRuntimeError)  # what an arm may fail of, without the others


class Group(NamedTuple):
    """Runs that train as replicas of one program."""

    runs: tuple[Run, ...]
    steps: int  # of each, where the budget is in seconds; else 0
    together: int  # replicas that a device computes as one
    why: str


class Trial(NamedTuple):
    """What one replica takes."""

    seconds: float  # a step
    bytes: int


def read_groups(folder: Path) -> list[Group]:
    """The groups of a study's folder, as far as they were planned."""
    if not (folder / "groups.json").is_file():
        return []
    there = read_json(folder / "groups.json", "give another --out")["groups"]
    return [Group(tuple(Run(*run) for run in one["runs"]), *list(one.values())[1:]) for one in there]


def plan_groups(
    study: Study,
    folder: Path,
    finished: Iterable[Run],
    corpora: Mapping[PrepareConfig, Corpus],
    fail: Callable[[Sequence[Run], str], None],
) -> list[Group]:
    """Groups that hold all runs but those that are finished; they are written down before they are begun.

    `fail` is told of runs that cannot be tried, and why.
    """
    groups = read_groups(folder)
    steps_of = {
        shape_key(study.config(*group.runs[0])): group.steps
        for group in groups
        if group.runs[0].arm in study.names
    }
    known = {run for group in groups for run in group.runs} | set(finished)
    for runs in by_shape(study, [run for run in study.runs if run not in known]):
        config = study.config(*runs[0])
        try:
            trial = _trial(config, corpora[config.prepare]) if _needs_trial(study) else None
        except FAILURES as error:
            fail(runs, why(error))
            continue
        # Seeds that are added train for as long as those that are there.
        steps = steps_of.get(shape_key(config), 0)
        if study.budget[0] == "seconds" and trial is not None and not steps:
            steps = max(1, int(study.budget[1] / trial.seconds))
        groups.append(Group(tuple(runs), steps, *choose_together(len(runs), trial, _takes_turns(config))))
    plain = [{**group._asdict(), "runs": [list(run) for run in group.runs]} for group in groups]
    write_json(folder / "groups.json", {"groups": plain})
    return groups


def by_shape(study: Study, runs: Iterable[Run]) -> list[list[Run]]:
    """Runs whose programs and corpora are the same, in the order of the study."""
    groups: dict[Shape, list[Run]] = {}
    for run in runs:
        groups.setdefault(shape_key(study.config(*run)), []).append(run)
    return list(groups.values())


def choose_together(runs: int, trial: Trial | None, takes_turns: bool) -> tuple[int, str]:
    """How many of so many replicas of a model a device computes as one, and why."""
    devices = data_mesh(1, runs).shape[REPLICA]
    most = -(-runs // devices)
    if jax.default_backend() == "cpu" or trial is None:
        return 1, f"one after another on each of {devices} devices: one replica keeps a core busy"
    if takes_turns:
        turns = f"one after another on each of {devices} devices"
        return 1, f"{turns}: cuDNN takes one (lstm(backend=scan) in model.blocks, more)"
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", 0)
    fits = max(1, int(_MEMORY_SHARE * limit / trial.bytes)) if limit else most
    together = min(most, fits)
    memory = f"a replica takes {trial.bytes / 1e6:,.0f} MB of {limit / 1e6:,.0f} MB: {fits} fit on a device"
    return together, f"{together} at once on each of {devices} devices: {memory}"


def why(error: Exception) -> str:
    """The reason of a failure in one line. Raises the error again if it is one of ours."""
    if isinstance(error, InputError):
        return str(error)
    if is_out_of_memory(error):
        return "out of memory: lower batch.rows, batch.length or model.width"
    raise error


def _takes_turns(config: Config) -> bool:
    return Network(config.model, typical_vocabulary(config.prepare)).takes_turns


def _needs_trial(study: Study) -> bool:
    return study.budget[0] == "seconds" or jax.default_backend() != "cpu"


def _trial(config: Config, corpus: Corpus) -> Trial:
    """Train a few steps and forget them; compiling does not count."""
    mesh = data_mesh(config.batch.rows)
    with says_what_fits(config.batch.rows, mesh.size):
        return _timed(config, corpus, mesh)


def _timed(config: Config, corpus: Corpus, mesh: Mesh) -> Trial:
    network = make_network(config, corpus.vocabulary)
    steps = make_train_steps(network, config, _TRIAL_STEPS, False, mesh)
    state_N, hyper_N, crops = start_alone(network, config, make_crops(corpus, "train", config.batch), mesh)
    program = steps.lower(state_N, hyper_N, crops, np.ones(1, np.int32)).compile()  # type: ignore[attr-defined]
    memory = program.memory_analysis()
    size = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    state_N, _ = jax.block_until_ready(program(state_N, hyper_N, crops, np.ones(1, np.int32)))
    count_N = np.full(1, _TRIAL_STEPS, np.int32)
    seconds = elapsed(lambda: jax.block_until_ready(program(state_N, hyper_N, crops, count_N)))
    return Trial(seconds / _TRIAL_STEPS, size)


def estimate(study: Study, groups: Sequence[Sequence[Run]]) -> list[float | None]:
    """Seconds that each group will train for, about; None where epochs are still to be counted.

    From the products of each step and the peak of this machine; compiling and scoring come on top.
    """
    multiply, operations = peak_product(data_mesh(1))
    multiply()
    peak = operations / min(elapsed(multiply) for _ in range(3)) * jax.device_count()
    found: list[float | None] = []
    for runs in groups:
        config = study.config(*runs[0])
        if study.budget[0] == "seconds":
            found.append(study.budget[1] * len(runs))
        elif config.train.epochs:
            found.append(None)
        else:
            network = Network(config.model, typical_vocabulary(config.prepare))
            each = flops(network, config.batch.rows, config.batch.length)
            found.append(len(runs) * config.train.steps * each / (_USUAL_SHARE * peak))
    return found


def plan_in_words(
    study: Study, groups: Sequence[Sequence[Run]], seconds: Sequence[float | None]
) -> list[str]:
    """What a study would do: its arms, what is compiled together, and how long that takes, about."""
    lines = [f"{study.name}: {len(study.names)} arms x {len(study.seeds)} seeds = {len(study.runs)} runs"]
    for arm in study.names:
        changes = ", ".join(f"{name} = {spell(value)}" for name, value in study.changes(arm).items())
        lines.append(f"  {arm}: {changes or 'the base'}")
    for number, (runs, spent) in enumerate(zip(groups, seconds, strict=True), start=1):
        arms = ", ".join(dict.fromkeys(run.arm for run in runs))
        takes = (
            "epochs are counted once the corpus is there" if spent is None else f"about {spent / 60:.1f} min"
        )
        lines.append(f"program {number}: {len(runs)} runs ({arms}), {takes}")
    known = [spent for spent in seconds if spent is not None]
    if known:
        total = f"{sum(known) / 60:.0f} min of training, about"
        lines.append(total + ("" if len(known) == len(seconds) else ", apart from what is not known yet"))
    return lines


def with_steps(config: Config, group: Group) -> Config:
    """The config with the steps that a budget of seconds came to."""
    return override(config, {"train.steps": group.steps, "train.epochs": 0}) if group.steps else config
