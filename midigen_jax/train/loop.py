"""The training loop: steps, validations, checkpoints and rows, until the end or a Ctrl-C.

In: a corpus, a config, a run folder. Out: in the folder

    config.json   the experiment            rows.jsonl     what was measured
    corpus.json   what it was trained on    checkpoints/   see `checkpoint`

The host asks for a step's metrics only after it has sent the next step off, so the device never waits for
it. A folder that holds this very run, unfinished, is gone on with from its newest checkpoint.
"""

import json
import math
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jax
import numpy as np

from midigen_jax import config as configs
from midigen_jax import rows
from midigen_jax.config import Config
from midigen_jax.data.batches import Batch, in_chunks, make_crops, steps_per_epoch, whole_pieces
from midigen_jax.data.corpus import Corpus
from midigen_jax.errors import InputError
from midigen_jax.files import write_json
from midigen_jax.model.network import Network
from midigen_jax.progress import Progress
from midigen_jax.train.checkpoint import METRIC, Checkpoints, Experiment, make_network
from midigen_jax.train.state import (
    EvalStep,
    Metrics,
    init_state,
    learning_rate,
    make_eval_step,
    make_optimizer,
    make_train_step,
)

_ROWS_EVERY = 10  # steps that one row of the training curve averages over
_EVAL_ROWS, _EVAL_LENGTH = 16, 256  # pieces side by side, and events read at once, in validation


class Fit(NamedTuple):
    """How a training ended."""

    step: int
    steps: int
    kept: tuple[int, ...]  # steps whose checkpoints the config keeps, among those that were reached


def fit(corpus: Corpus, config: Config, run: Path) -> Fit:
    """Train in the folder `run`, from the start or from its newest checkpoint.

    Ctrl-C (or SIGTERM) ends the training after the step that is running, with a checkpoint. Raises
    InputError for a folder that holds another run or something else.
    """
    config = configs.override(config, configs.flatten({"prepare": configs.to_json(corpus.config)}))
    claim_run(corpus, config, run)
    crops = make_crops(corpus, "train", config.batch)
    per_epoch = steps_per_epoch(crops, config.batch)
    steps = config.train.steps or math.ceil(config.train.epochs * per_epoch)
    kept = kept_steps(config, steps)
    network = make_network(config, corpus.tokenizer)
    optimizer = make_optimizer(config.train, steps)
    train_step = make_train_step(network, optimizer, config, corpus.config.tokenizer == "note")
    valid = whole_pieces(corpus, corpus.split("valid"), _EVAL_ROWS, _EVAL_LENGTH)
    eval_step = make_eval_step(network)
    facts = corpus.manifest["summary"]
    experiment = Experiment(config, corpus.tokenizer, facts["tempo"], tuple(facts["meter"]))
    log = _Log(run / "rows.jsonl", config, steps, per_epoch)

    with Checkpoints(run, keep=kept) as checkpoints, _StopRequest() as stop:
        if checkpoints.steps():
            state = checkpoints.restore().state
        else:
            state = init_state(network, optimizer, config.train.seed)
        step = int(state.step)
        log.begin(step, state.params)
        with Progress("training", steps, "steps", done=step) as progress:
            pending: Metrics | None = None
            while step < steps and not stop.requested:
                state, metrics = train_step(state, crops)
                step += 1
                if pending is not None:
                    log.train(step - 1, pending)
                pending = metrics
                if step in kept or step == steps or _due(step, config, per_epoch):
                    log.train(step, pending)
                    pending = None
                    scores = validate(eval_step, network, state.params, valid)
                    log.valid(step, scores)
                    checkpoints.save(state, experiment, scores)
                progress.advance(note=log.note)
            if pending is not None:
                log.train(step, pending)
        log.end(step)
        checkpoints.save(state, experiment, {})
    return Fit(step, steps, tuple(sorted(s for s in kept if s <= step)))


def kept_steps(config: Config, steps: int) -> set[int]:
    """The steps whose checkpoints stay, for a training of `steps` steps."""
    return {max(1, round(share * steps)) for share in config.train.keep_at}


def claim_run(corpus: Corpus, config: Config, run: Path) -> None:
    """Make `run` the folder of this experiment, or see that it already is. Raises InputError if not."""
    mine = configs.to_json(config)
    place = run / "config.json"
    if place.is_file():
        theirs = configs.flatten(json.loads(place.read_text(encoding="utf-8")))
        for name, value in configs.flatten(json.loads(json.dumps(mine))).items():
            if theirs.get(name) != value:
                raise InputError(
                    f"{run}: holds a run with {name} = {theirs.get(name)}, not {value}; give another --out"
                )
        plan = json.loads((run / "corpus.json").read_text(encoding="utf-8"))["plan"]
        if plan != corpus.manifest["plan"]:
            raise InputError(f"{run}: holds a run on another corpus than {corpus.path}; give another --out")
        return
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise InputError(f"{run}: holds something else; give an --out that is empty or not there yet")
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {run}: cannot be made there ({error.strerror}); give another") from None
    facts = corpus.manifest["summary"] | {"plan": corpus.manifest["plan"], "path": corpus.path.name}
    write_json(run / "corpus.json", facts)
    # The config comes last: a folder with a config.json is a whole run folder.
    write_json(place, mine)


def validate(
    eval_step: EvalStep, network: Network, params: dict, batches: Sequence[tuple[np.ndarray, Batch]]
) -> dict[str, float]:
    """Exact nats per event of whole pieces, the state carried from the first event to the last."""
    pitch = duration = 0.0
    events = 0
    for _, piece in batches:
        carry = network.initial_carry(piece.mask_BT.shape[0])
        for chunk in in_chunks(piece, _EVAL_LENGTH):
            carry, nats = eval_step(params, carry, chunk)
            pitch += float(nats.pitch_BT.sum())
            duration += float(nats.duration_BT.sum())
        events += int(piece.mask_BT.sum())
    return {
        METRIC: (pitch + duration) / events,
        f"{METRIC}.pitch": pitch / events,
        f"{METRIC}.duration": duration / events,
    }


def _due(step: int, config: Config, per_epoch: float) -> bool:
    """Whether `step` is one to validate after: every so many steps, or the last one of an epoch."""
    if config.train.evaluate_every:
        return step % config.train.evaluate_every == 0
    return int(step / per_epoch) > int((step - 1) / per_epoch)


class _Log:
    """The rows of a run: training means every few steps, every validation, and what the progress shows."""

    def __init__(self, path: Path, config: Config, steps: int, per_epoch: float):
        self._path, self._per_epoch = path, per_epoch
        self._config = configs.to_json(config)
        self._rate: Callable = learning_rate(config.train, steps)
        self._metrics: list[Metrics] = []
        self._train, self._valid = "", ""
        self._since = self._first_time = time.perf_counter()
        self._first_step = 0

    def begin(self, step: int, params: Any) -> None:
        """Start at `step`: rows that a cut run wrote beyond it would be written again, so they go."""
        if self._path.is_file():
            rows.rewrite(self._path, [row for row in rows.read(self._path) if row.get("step", 0) <= step])
        self._first_step = step
        if step == 0:
            count = sum(leaf.size for leaf in jax.tree.leaves(params))
            self._write(0, [("model.parameters", count, "parameters")], config=self._config)
        self._since = self._first_time = time.perf_counter()

    @property
    def note(self) -> str:
        """The newest losses, for the progress bar."""
        return " ".join(filter(None, (self._train, self._valid)))

    def train(self, step: int, metrics: Metrics) -> None:
        """Take in the metrics of a step; this waits for the device to end it."""
        self._metrics.append(jax.device_get(metrics))
        self._train = f"train {self._metrics[-1].pitch + self._metrics[-1].duration:.3f}"
        if step % _ROWS_EVERY == 0:
            self.flush(step)

    def flush(self, step: int) -> None:
        """Write the means since the last rows."""
        if not self._metrics:
            return
        elapsed = time.perf_counter() - self._since
        pitch, duration, norm, events = (np.array(values) for values in zip(*self._metrics, strict=True))
        self._write(
            step,
            [
                ("train.nats_per_event.pitch", np.average(pitch, weights=events), "nats"),
                ("train.nats_per_event.duration", np.average(duration, weights=events), "nats"),
                ("train.gradient_norm", norm.mean(), "1"),
                ("train.learning_rate", self._rate(step - 1), "1"),
                ("train.events_per_s", events.sum() / elapsed, "events/s"),
            ],
        )
        self._metrics = []
        self._since = time.perf_counter()

    def end(self, step: int) -> None:
        """Write what is left, and how long this stretch of the training took, all told."""
        self.flush(step)
        if step > self._first_step:
            self._write(step, [("train.seconds", time.perf_counter() - self._first_time, "s")])

    def valid(self, step: int, metrics: dict[str, float]) -> None:
        """Write a validation."""
        self.flush(step)
        self._write(step, [(name, value, "nats") for name, value in metrics.items()])
        self._valid = f"valid {metrics[METRIC]:.3f}"
        self._since = time.perf_counter()

    def _write(self, step: int, values: list[tuple[str, float, str]], **fields: Any) -> None:
        fields |= {"run": self._path.parent.name, "step": step, "epoch": round(step / self._per_epoch, 3)}
        fields["seed"] = self._config["train"]["seed"]
        rows.append(
            self._path,
            [rows.make(name, float(value), unit, **fields) for name, value, unit in values],
        )


class _StopRequest:
    """While it is entered, Ctrl-C and SIGTERM only set `requested`, so that a step is never cut in half.

    A second Ctrl-C interrupts at once. Outside of the main thread signals stay as they are.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_StopRequest":
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        except ValueError:  # not the main thread
            pass
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
