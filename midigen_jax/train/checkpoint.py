"""Checkpoints: Orbax folders that hold the state and all that is needed to use it.

In: the folder `RUN/checkpoints`, or an address in a bucket. Out: `STEP/` in it, with the training state and,
as JSON, the config, the vocabulary and the metrics, written atomically and in the background. The newest, the
best by validation and those that the config asks for are kept.
"""

import json
import math
import os
import shutil
import sys
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from midigen_jax.config import Config, is_address
from midigen_jax.errors import DiskError, InputError, one_line
from midigen_jax.files import read_json, replacing
from midigen_jax.model.network import Network
from midigen_jax.train.experiment import (
    METRIC,
    Experiment,
    Restored,
    digest,
    from_facts,
    make_network,
    to_facts,
)
from midigen_jax.train.optimizer import make_optimizer
from midigen_jax.train.processes import is_first
from midigen_jax.train.quiet import hush
from midigen_jax.train.state import TrainState, init_state

hush()
# Buckets by gcsfs, whether TensorFlow is installed or not.
os.environ.setdefault("EPATH_USE_TF", "false")

_CHECKSUM = "crc32"  # of the other facts, and of the arrays
_ROOM = 1_000_000  # bytes beside the arrays of a checkpoint
_REFUSED = ("RESOURCE_EXHAUSTED", "NOT_FOUND", "No space left", "Read-only", "DATA_LOSS")
# TensorStore's words for a bucket that is out of reach.
_AWAY = ("PERMISSION_DENIED", "UNAUTHENTICATED", "UNAVAILABLE", "retry attempts failed")
_OF_BUCKETS = {"gcsfs", "google", "aiohttp"}  # packages whose exceptions are a bucket's


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for writes to end.

    `place` is their folder or address. Raises InputError where an address cannot be reached.
    """

    def __init__(self, place: Path | str, keep: Collection[int] = (), read_only: bool = False):
        policies = [
            checkpoint_managers.LatestN(1),
            checkpoint_managers.BestN(get_metric_fn=_metric, reverse=True, n=1),
            checkpoint_managers.CustomSteps(list(keep)),
        ]
        # A process that reads does not wait for others; those that train write together.
        own = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(own, {own}, f"reader-{own}")
        processes = alone if read_only and jax.process_count() > 1 else ocp.options.MultiprocessingOptions()
        options = ocp.CheckpointManagerOptions(
            multiprocessing_options=processes,
            best_fn=_metric,
            best_mode="min",
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            read_only=read_only,
            create=not read_only,
            save_interval_steps=0 if read_only else 1,
        )
        self.is_remote = is_address(str(place))
        self.path = epath.Path(place)
        with self._reached():
            if self.is_remote and read_only and not self.path.is_dir():
                raise FileNotFoundError("nothing is there, or nobody answers")
            self._manager = ocp.CheckpointManager(
                self.path if self.is_remote else self.path.resolve(), options=options
            )

    @property
    def _run(self) -> epath.Path:
        return self.path if self.is_remote else self.path.parent

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        with self._told():
            self._manager.close()

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def best(self) -> int | None:
        """The step whose validation was the best one, if there has been any."""
        step: int | None = self._manager.best_step()
        return step

    def metrics(self, step: int) -> dict[str, float]:
        """What validation measured at a step that has a checkpoint."""
        return dict(self._manager.metrics(step) or {})

    def save(self, state: TrainState, experiment: Experiment, metrics: Mapping[str, float]) -> None:
        """Write the state in the background; a step that has a checkpoint keeps it.

        `metrics` of this step's validation decide which checkpoint is the best; they are empty where there
        was none. Raises DiskError where the disk has no room for it, or takes nothing.
        """
        # The same on every device, and in every process; of several Orbax lets the first one write.
        state = jax.tree.map(lambda leaf: leaf.addressable_data(0), state)
        on_host = jax.device_get(state)
        state = on_host if jax.process_count() > 1 else state
        step = int(on_host.step)
        if step in self._manager.all_steps():
            return
        self._make_room(state)
        facts = to_facts(experiment, metrics)
        facts |= {_CHECKSUM: [_of_facts(facts), _of_arrays(on_host)]}
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), experiment=ocp.args.JsonSave(facts))
        with self._told():
            self._manager.save(step, args=args, metrics=dict(metrics))

    def store(self, file: Path) -> None:
        """Keep a copy of a file of the run beside checkpoints in a bucket, for a machine that is lost.

        It is told where that fails; a checkpoint, which comes next, will fail too.
        """
        if self.is_remote and is_first() and file.is_file():
            try:
                with self._reached():
                    (self.path / file.name).write_bytes(file.read_bytes())
            except DiskError as error:
                print(f"midigen: {error}", file=sys.stderr)

    def fetch(self, file: Path) -> None:
        """Have back what `store` kept: all that was known when the newest checkpoint was written."""
        if self.is_remote and is_first():
            with self._reached():
                if (self.path / file.name).exists():
                    with replacing(file) as partial:
                        partial.write_bytes((self.path / file.name).read_bytes())

    def _make_room(self, state: TrainState) -> None:
        """Raises DiskError where the disk has no room: Orbax would notice in the middle of a file."""
        if self.is_remote:
            return
        needed = 1.2 * sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _ROOM
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise DiskError(
                f"{self.path}: {free / 1e6:.0f} MB are free where a checkpoint takes {needed / 1e6:.0f}; "
                f"make room, and the same command goes on from {self._newest()}"
            )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What a disk refuses in the background comes up at the next save, or at the end, in many forms."""
        try:
            yield
        except Exception as error:
            if not _is_refusal(error):
                raise
            raise DiskError(
                f"{self.path}: a checkpoint could not be written ({one_line(error)}); when that is mended "
                f"the same command goes on from {self._newest()}"
            ) from None

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """What a bucket that cannot be reached raises comes up in as many forms."""
        try:
            yield
        except Exception as error:
            if self.is_remote and isinstance(error, ImportError):
                raise InputError(
                    f"{self.path}: gcsfs is not installed; pip install 'midigen-jax[bucket]'"
                ) from None
            if not (self.is_remote and _is_outage(error)):
                raise
            raise DiskError(
                f"{self.path}: cannot be reached ({one_line(error)}); check the address, and that you may "
                "use the bucket (gcloud auth application-default login)"
            ) from None

    def _newest(self) -> str:
        """The newest checkpoint that is whole, in words."""
        if self.is_remote:
            return "its newest checkpoint"
        whole = [int(place.name) for place in self.path.iterdir() if place.name.isdecimal()]
        return f"step {max(whole)}" if whole else "its start"

    def restore(self, which: str = "latest") -> Restored:
        """The checkpoint `latest`, `best` (by validation) or of a step number.

        A damaged one is named on standard error and passed over, where `latest` was asked for. Raises
        InputError when there is none, none of that step, or when that one is damaged.
        """
        steps = self.steps()
        step = self._step(which)
        older = [known for known in reversed(steps) if known < step] if which == "latest" else []
        while True:
            try:
                with self._reached():
                    return self._restore(step)
            except InputError:
                raise
            # Orbax raises what its parts stumble over, a plain Exception too.
            except Exception as error:
                damage = f"{self.path / str(step)}: damaged checkpoint ({one_line(error)})"
                if not older:
                    raise InputError(f"{damage}; choose another with --checkpoint, or train again") from None
                step = older.pop(0)
                print(f"midigen: {damage}; going back to step {step}", file=sys.stderr)

    def _restore(self, step: int) -> Restored:
        facts = self._manager.restore(
            step, args=ocp.args.Composite(experiment=ocp.args.JsonRestore())
        ).experiment
        of_facts, of_arrays = facts.pop(_CHECKSUM, (None, None))  # older ones have none
        if of_facts not in (None, _of_facts(facts)):
            raise ValueError("its settings are not those that were saved")
        experiment = from_facts(facts, str(self.path / str(step)))
        config = experiment.config
        network = make_network(config, experiment.tokenizer)
        state = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(_shape(network, config)))
        ).state
        if of_arrays not in (None, _of_arrays(jax.device_get(state))):
            raise ValueError("its arrays are not those that were saved")
        return Restored(step, TrainState(*state), network, experiment, facts["metrics"], digest(step, facts))

    def _step(self, which: str) -> int:
        steps = self.steps()
        if not steps:
            raise InputError(f"{self._run}: no checkpoint yet; `midigen train` makes one")
        if which == "latest":
            return steps[-1]
        if which == "best":
            return self.best() or steps[-1]
        if not which.isdecimal() or int(which) not in steps:
            there = ", ".join(str(step) for step in steps)
            raise InputError(f"checkpoint {which!r}: not in {self._run}; there is best, latest, {there}")
        return int(which)


def place_of(run: Path, address: str) -> Path | str:
    """Where a run has its checkpoints: the address, if there is one."""
    return address or run / "checkpoints"


def open_run(run: Path) -> Checkpoints:
    """The checkpoints of an existing run. Raises InputError when `run` is none."""
    if not (run / "config.json").is_file():
        raise InputError(f"{run}: no run there; `midigen train CORPUS --out RUN` makes one")
    there = read_json(run / "config.json", "give another RUN").get("train", {}).get("checkpoints", "")
    return Checkpoints(place_of(run, there), read_only=True)


def _shape(network: Network, config: Config) -> TrainState:
    """The state's tree of shapes, for one device, without computing any of it."""
    optimizer = make_optimizer(config.train, 1)
    shapes = jax.eval_shape(lambda: init_state(network, optimizer, 0))
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes)


def _of_facts(facts: Mapping[str, Any]) -> int:
    """CRC-32 of what stands in the JSON of a checkpoint."""
    return zlib.crc32(json.dumps(facts, sort_keys=True).encode())


def _of_arrays(state: Any) -> int:
    """CRC-32 of all arrays: as they are stored, nothing notices that a bit of them has turned."""
    found = 0
    for leaf in jax.tree.leaves(state):
        found = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), found)
    return found


def _is_refusal(error: Exception) -> bool:
    """Whether a disk or a bucket does not take, or give, what it should; and no fault of ours."""
    if isinstance(error, TimeoutError) and jax.process_count() > 1:
        return False  # another process has not written its part
    return _is_outage(error) or (
        isinstance(error, ValueError) and any(sign in str(error) for sign in _REFUSED)
    )


def _is_outage(error: Exception) -> bool:
    """Whether a disk or a bucket is out of reach: what was asked for may be there."""
    known = isinstance(error, OSError) or type(error).__module__.split(".")[0] in _OF_BUCKETS
    return known or (isinstance(error, ValueError) and any(sign in str(error) for sign in _AWAY))


def _metric(metrics: dict[str, Any]) -> float:
    """What `best` goes by: a checkpoint that was not validated, or has diverged, is the last choice."""
    value = metrics.get(METRIC, math.inf)
    return value if math.isfinite(value) else math.inf
