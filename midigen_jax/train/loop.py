"""The training loop: steps, validations, checkpoints and rows, until the end or a Ctrl-C.

In: a corpus, a config, a run folder. Out: in the folder

    config.json   the experiment            rows.jsonl     what was measured
    corpus.json   what it was trained on    checkpoints/   see `checkpoint`

Several steps are one call, and the host asks for a call's metrics only after it has sent the next one off, so
the device never waits for it. A folder that holds this very run, unfinished, is gone on with from its newest
checkpoint.
"""

import itertools
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from midigen_jax import config as configs
from midigen_jax import rows
from midigen_jax.config import Config
from midigen_jax.data.batches import Epochs, make_crops
from midigen_jax.data.corpus import Corpus
from midigen_jax.errors import InputError
from midigen_jax.files import check_folder, make_folder, read_json, write_json
from midigen_jax.model.network import Network
from midigen_jax.progress import Progress
from midigen_jax.train.checkpoint import METRIC, Checkpoints, Experiment, make_network
from midigen_jax.train.devices import data_mesh, everywhere
from midigen_jax.train.log import Call, Log
from midigen_jax.train.optimizer import make_optimizer
from midigen_jax.train.pretrained import load_model
from midigen_jax.train.scoring import Scorer
from midigen_jax.train.state import init_state, make_train_steps
from midigen_jax.train.stop import StopRequest

_SECONDS_A_CALL = 1.0  # about as long a Ctrl-C waits, and the progress stands still


class Fit(NamedTuple):
    """How a training ended."""

    step: int
    steps: int  # that there were to be
    kept: tuple[int, ...]  # steps whose checkpoints are kept, among those that were reached
    is_cut: bool  # whether a Ctrl-C ended it, so that the same command goes on


def fit(corpus: Corpus, config: Config, run: Path) -> Fit:
    """Train in the folder `run`, from the start or from its newest checkpoint.

    Ctrl-C (or SIGTERM) ends the training after the steps that are running, with a checkpoint. Raises
    InputError for a folder that holds another run or something else, for teachers that are no runs or of
    another vocabulary, and when the training diverges.
    """
    config = configs.override(config, configs.flatten({"prepare": configs.to_json(corpus.config)}))
    crops = make_crops(corpus, "train", config.batch)
    epochs = Epochs(crops.first_C.shape[0], config.batch.rows)
    steps = config.train.steps or epochs.steps(config.train.epochs)
    kept = kept_steps(config, steps)
    network = make_network(config, corpus.tokenizer)
    optimizer = make_optimizer(config.train, steps)
    mesh = data_mesh(config.batch.rows)
    networks, weights = _teachers(config, corpus)
    train_steps = make_train_steps(network, optimizer, config, _transposable(config), mesh, networks)
    valid = Scorer(network, corpus, corpus.split("valid"), mesh)
    facts = corpus.manifest["summary"]
    experiment = Experiment(config, corpus.tokenizer, facts["tempo"], tuple(facts["meter"]))
    log = Log(run / "rows.jsonl", config, steps, epochs)

    def is_stop(step: int) -> bool:
        """Whether training stops after `step` for a validation and a checkpoint."""
        return step in kept or step == steps or _due(step, config, epochs)

    # What cannot be trained fails before it takes a folder.
    jax.eval_shape(lambda: init_state(network, optimizer, config.train.seed))
    claim_run(corpus, config, run)

    with Checkpoints(run, keep=kept) as checkpoints, StopRequest() as stop:
        if checkpoints.steps():
            state = checkpoints.restore().state
        else:
            state = init_state(network, optimizer, config.train.seed)
        step = int(state.step)
        log.begin(step, state.params)
        state, crops, weights = jax.device_put((state, crops, weights), everywhere(mesh))

        def is_over(step: int) -> bool:
            """Whether a training that has come this far ends, at its end or for want of patience."""
            validated = next((past for past in range(step, 0, -1) if is_stop(past)), 0)
            waited = validated - (checkpoints.best() or validated)
            return step == steps or 0 < config.train.patience <= waited

        over = is_over(step)
        with Progress("training", steps, "steps", done=step) as progress:
            pending: Call | None = None
            pace = 1
            while not over and not stop.requested:
                end = next(end for end in itertools.count(step + 1) if end - step == pace or is_stop(end))
                state, metrics_K = train_steps(state, crops, end - step, weights)
                count, step = end - step, end
                if pending is not None:
                    pace = _pace(log.train(pending), config)
                pending = Call(step, count, metrics_K)
                if is_stop(step):
                    pace = _pace(log.train(pending), config)
                    pending = None
                    scores = validate(valid, state.weights)
                    log.valid(step, scores)
                    checkpoints.save(state, experiment, scores)
                    over = is_over(step)
                progress.advance(count, note=log.note)
            if pending is not None:
                log.train(pending)
        log.flush(step)
        checkpoints.save(state, experiment, {})
        best = {checkpoints.best() or step} if over and step < steps else set()
    return Fit(step, steps, tuple(sorted(s for s in kept | best if s <= step)), not over)


def _teachers(config: Config, corpus: Corpus) -> tuple[list[Network], list[dict]]:
    """The networks that the config names as teachers, and the best weights of each."""
    networks, weights = [], []
    for run in config.train.teachers:
        teacher = load_model(run)
        if teacher.experiment.tokenizer != corpus.tokenizer:
            raise InputError(f"train.teachers: {run} has another vocabulary than {corpus.path}; leave it out")
        networks.append(teacher.network)
        weights.append(teacher.state.weights)
    return networks, weights


def kept_steps(config: Config, steps: int) -> set[int]:
    """The steps whose checkpoints stay, for a training of `steps` steps."""
    return {max(1, round(share * steps)) for share in config.train.keep_at}


def claim_run(corpus: Corpus, config: Config, run: Path) -> None:
    """Make `run` the folder of this experiment, or see that it already is. Raises InputError if not."""
    place = run / "rows.jsonl"
    if place.is_file() and any(row.get("step", 0) for row in rows.read(place)):
        _check_run(corpus, config, run)
        return
    # A folder in which no step was ever made holds nothing that could be lost.
    check_folder(run, _left_by_us(run))
    make_folder(run)
    place.unlink(missing_ok=True)
    facts = {"plan": corpus.manifest["plan"], "path": str(corpus.path)}
    write_json(run / "corpus.json", corpus.manifest["summary"] | facts)
    # The config comes last: a folder with a config.json is a whole run folder.
    write_json(run / "config.json", configs.to_json(config))


def _left_by_us(run: Path) -> tuple[str, ...]:
    """The names of what a command that was cut before its first step may have left in `run`."""
    if not (run / "config.json").is_file():
        return ("corpus.json",)
    if "prepare" not in read_json(run / "config.json", "give another --out"):
        return ()
    return ("config.json", "corpus.json", "checkpoints", "rows.jsonl")


def _check_run(corpus: Corpus, config: Config, run: Path) -> None:
    """Raises InputError where the run in the folder `run` differs from this experiment."""
    remedy = "give another --out"
    # A setting that an older version did not know has its default.
    there = configs.from_json(Config, read_json(run / "config.json", remedy))
    theirs = configs.flatten(configs.to_json(there))
    for name, value in configs.flatten(configs.to_json(config)).items():
        if theirs[name] != value:
            raise InputError(f"{run}: holds a run with {name} = {theirs[name]}, not {value}; {remedy}")
    if read_json(run / "corpus.json", remedy).get("plan") != corpus.manifest["plan"]:
        raise InputError(f"{run}: holds a run on another corpus than {corpus.path}; {remedy}")


def validate(scorer: Scorer, params: dict) -> dict[str, float]:
    """Exact nats per event of the scorer's pieces, over all of them, `<end>` among the events."""
    nats_E2 = np.concatenate([nats for _, nats in scorer(params)])
    pitch, duration = nats_E2.mean(axis=0, dtype=np.float64).tolist()
    return {METRIC: pitch + duration, f"{METRIC}.pitch": pitch, f"{METRIC}.duration": duration}


def _transposable(config: Config) -> bool:
    """Whether rows may be transposed: chords have no pitches, and a key that was asked for stays."""
    settings = config.prepare
    return settings.tokenizer == "note" and settings.transpose == settings.only_key == "none"


def _pace(seconds: float, config: Config) -> int:
    """How many steps the next call shall do, when one takes so many seconds."""
    return max(1, min(config.train.steps_per_call, int(_SECONDS_A_CALL / seconds)))


def _due(step: int, config: Config, epochs: Epochs) -> bool:
    """Whether `step` is one to validate after: every so many steps, or the last one of an epoch."""
    if config.train.evaluate_every:
        return step % config.train.evaluate_every == 0
    return epochs.ends(step)
