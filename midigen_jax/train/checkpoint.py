"""Checkpoints: Orbax folders that hold the state and all that is needed to use it.

In: the folder `RUN/checkpoints`, or an address in a bucket. Out: `STEP/` in it, with the training state and,
as JSON, the config, the vocabulary and the metrics, written atomically and in the background. The newest, the
best by validation and those that the config asks for are kept.
"""

import hashlib
import json
import math
import shutil
import sys
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from numpy.typing import NDArray
from orbax.checkpoint import checkpoint_managers

from midigen_jax import config as configs
from midigen_jax.config import Config, is_address
from midigen_jax.errors import DiskError, InputError, one_line
from midigen_jax.files import read_json, replacing
from midigen_jax.model.network import Network, tempered
from midigen_jax.train.distributed import fetch, is_main_process, use_gcsfs
from midigen_jax.train.scoring import METRIC, TEMPERATURE
from midigen_jax.train.step import TrainState, init_state, make_network
from midigen_jax.vocab import Vocabulary, vocabulary_from_json

FORMAT = 3
_CHECKSUM = "crc32"  # of the other facts, and of the arrays
_ROOM = 1_000_000  # bytes beside the arrays of a checkpoint


class Metadata(NamedTuple):
    """What a checkpoint holds besides the state, and what no step of the training changes."""

    config: Config
    vocabulary: Vocabulary
    tempo: float  # of the music that is trained on, the median, in quarters a minute
    meter: tuple[int, int]  # likewise, the most frequent one
    plan: str = ""  # of the corpus: tells it from all others; not known of older checkpoints
    upbeat: int = 0  # of the music in that meter, the most frequent one, in ticks
    seen: Mapping[str, tuple[int, ...]] | None = None
    """by stream, the ids that training pieces have, where some have none; not known of older checkpoints"""

    @property
    def seen_masks(self) -> dict[str, NDArray[np.bool_]] | None:
        """(V,) by stream which ids the training pieces have, of streams where some have none."""
        sizes = dict(self.vocabulary.streams)
        if self.seen is None:
            return None
        return {name: np.isin(np.arange(sizes[name]), ids) for name, ids in self.seen.items()}

    @property
    def knows_bar_lines(self) -> bool:
        """Whether time was counted from bar lines in training; else from the first note of each piece."""
        return self.config.prepare.bar_lines == "written"


class LoadedModel(NamedTuple):
    """A checkpoint made usable."""

    step: int
    state: TrainState
    network: Network
    metadata: Metadata
    metrics: dict[str, float]
    digest: str  # tells this checkpoint from those of other experiments

    @property
    def params(self) -> dict:
        """The parameters to evaluate and to sample with, at the temperatures that suit validation best."""
        streams = self.network.vocabulary.streams
        found = {name: self.metrics.get(f"{TEMPERATURE}.{name}", 1.0) for name, _ in streams}
        return tempered(self.network, self.state.ema_params, found)


def to_facts(metadata: Metadata, metrics: Mapping[str, float]) -> dict[str, Any]:
    """All of a checkpoint but its arrays, as JSON knows it."""
    return {
        "format": FORMAT,
        "config": configs.to_json(metadata.config),
        "vocab": metadata.vocabulary.to_json(),
        "tempo": metadata.tempo,
        "meter": list(metadata.meter),
        "plan": metadata.plan,
        "upbeat": metadata.upbeat,
        "seen": None if metadata.seen is None else {name: list(ids) for name, ids in metadata.seen.items()},
        "metrics": dict(metrics),
    }


def from_facts(facts: Mapping[str, Any], name: str) -> Metadata:
    """The metadata of what `to_facts` gave. Raises InputError, which names it, for another format."""
    if facts.get("format") != FORMAT:
        raise InputError(
            f"{name}: checkpoint format {facts.get('format')}, this version reads {FORMAT}; train it again: "
            "midigen train CORPUS --out NEW --config OLD/config.json"
        )
    # Before upbeats were known, bars were counted from the first note.
    prepared = {"bar_lines": "start"} | facts["config"]["prepare"]
    config = configs.from_json(Config, {**facts["config"], "prepare": prepared})
    vocabulary, (above, below) = vocabulary_from_json(facts["vocab"]), facts["meter"]
    seen, upbeat = facts.get("seen"), facts.get("upbeat", 0)
    if seen is not None:
        seen = {name: tuple(ids) for name, ids in seen.items()}
    return Metadata(config, vocabulary, facts["tempo"], (above, below), facts.get("plan", ""), upbeat, seen)


def digest(step: int, facts: Mapping[str, Any]) -> str:
    """Tells a checkpoint from those of other experiments and of other steps."""
    return hashlib.sha256(json.dumps([step, facts], sort_keys=True).encode()).hexdigest()[:16]


def open_run(run_dir: Path) -> "Checkpoints":
    """The checkpoints of an existing run. Raises InputError when the folder is none."""
    if not (run_dir / "config.json").is_file():
        raise InputError(f"{run_dir}: no run there; `midigen train CORPUS --out RUN` makes one")
    there = read_json(run_dir / "config.json", "give another RUN").get("train", {}).get("checkpoints", "")
    return Checkpoints(place_of(run_dir, there), read_only=True)


def place_of(run_dir: Path, address: str) -> Path | str:
    """Where a run has its checkpoints: the address, if there is one."""
    return address or run_dir / "checkpoints"


class _Kept(checkpoint_managers.PreservationPolicy):
    """Keeps the checkpoints of some steps, to which others may be added."""

    def __init__(self, steps: set[int]):
        self._steps = steps

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Whether each of some checkpoints stays."""
        return [checkpoint.step in self._steps for checkpoint in checkpoints]


class Checkpoints:
    """The checkpoints of one run; a context manager that waits for writes to end.

    `place` is their folder or address. Raises DiskError where an address cannot be reached.
    """

    def __init__(self, place: Path | str, keep: Collection[int] = (), read_only: bool = False):
        self._kept = set(keep)
        policies = [
            checkpoint_managers.LatestN(1),
            checkpoint_managers.BestN(get_metric_fn=_metric, reverse=True, n=1),
            _Kept(self._kept),
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
        use_gcsfs()
        self.path = epath.Path(place)
        if self.is_remote and read_only:
            self._check_bucket()
        with self._reaching_bucket():
            self._manager = ocp.CheckpointManager(
                self.path if self.is_remote else self.path.resolve(), options=options
            )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        with self._writing():
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

    def keep(self, step: int) -> None:
        """Have the checkpoint of a step stay, whatever comes after it."""
        self._kept.add(step)

    def save(self, state: TrainState, metadata: Metadata, metrics: Mapping[str, float]) -> None:
        """Write the state in the background; a step that has a checkpoint keeps it.

        `metrics` of this step's validation decide which checkpoint is the best; they are empty where there
        was none. Raises DiskError where the disk has no room for it, or takes nothing.
        """
        # The same on every device, and in every process; of several Orbax lets the first one write.
        state = jax.tree.map(lambda leaf: leaf.addressable_data(0), state)
        on_host = fetch(state)
        state = on_host if jax.process_count() > 1 else state
        step = int(on_host.step)
        if step in self._manager.all_steps():
            return
        self._check_room(state)
        facts = to_facts(metadata, metrics)
        facts |= {_CHECKSUM: [_crc_of_facts(facts), _crc_of_arrays(on_host)]}
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), experiment=ocp.args.JsonSave(facts))
        with self._writing():
            self._manager.save(step, args=args, metrics=dict(metrics))

    def store(self, file: Path) -> None:
        """Keep a copy of a file of the run beside checkpoints in a bucket, for a machine that is lost.

        It is told where that fails; a checkpoint, which comes next, will fail too.
        """
        if self.is_remote and is_main_process() and file.is_file():
            try:
                with self._reaching_bucket():
                    (self.path / file.name).write_bytes(file.read_bytes())
            except DiskError as error:
                print(f"midigen: {error}", file=sys.stderr)

    def fetch(self, file: Path) -> None:
        """Have back what `store` kept: all that was known when the newest checkpoint was written."""
        if self.is_remote and is_main_process():
            with self._reaching_bucket():
                if (self.path / file.name).exists():
                    with replacing(file) as partial:
                        partial.write_bytes((self.path / file.name).read_bytes())

    def restore(self, which: str = "latest") -> LoadedModel:
        """The checkpoint `latest`, `best` (by validation) or of a step number.

        A damaged one is named on standard error and passed over, where `latest` was asked for. Raises
        InputError when there is none, none of that step, or when that one is damaged.
        """
        steps = self.steps()
        step = self._step(which)
        older = [known for known in reversed(steps) if known < step] if which == "latest" else []
        tried: set[int] = set()
        while True:
            try:
                return self._restore(step)
            except InputError:
                raise
            # Orbax raises what its parts stumble over, a plain Exception too.
            except Exception as error:
                if self.is_remote and step not in tried:  # it may have been out of reach for a moment
                    self._check_bucket()
                    tried.add(step)
                    continue
                damage = f"{self.path / str(step)}: damaged checkpoint ({one_line(error)})"
                if not older:
                    raise InputError(f"{damage}; choose another with --checkpoint, or train again") from None
                step = older.pop(0)
                print(f"midigen: {damage}; going back to step {step}", file=sys.stderr)

    def _restore(self, step: int) -> LoadedModel:
        facts = self._manager.restore(
            step, args=ocp.args.Composite(experiment=ocp.args.JsonRestore())
        ).experiment
        crc_of_facts, crc_of_arrays = facts.pop(_CHECKSUM, (None, None))  # older ones have none
        if crc_of_facts not in (None, _crc_of_facts(facts)):
            raise ValueError("its settings are not those that were saved")
        metadata = from_facts(facts, str(self.path / str(step)))
        network = make_network(metadata.config, metadata.vocabulary)
        shapes = _shapes(network, metadata.config)
        state = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(shapes))
        ).state
        if crc_of_arrays not in (None, _crc_of_arrays(jax.device_get(state))):
            raise ValueError("its arrays are not those that were saved")
        return LoadedModel(step, TrainState(*state), network, metadata, facts["metrics"], digest(step, facts))

    def _step(self, which: str) -> int:
        steps, run = self.steps(), self.path if self.is_remote else self.path.parent
        if not steps:
            raise InputError(f"{run}: no checkpoint yet; `midigen train` makes one")
        if which == "latest":
            return steps[-1]
        if which == "best":
            best = self.best()
            return steps[-1] if best is None else best
        if not which.isdecimal() or int(which) not in steps:
            there = ", ".join(str(step) for step in steps)
            raise InputError(f"checkpoint {which!r}: not in {run}; there is best, latest, {there}")
        return int(which)

    def _check_room(self, state: TrainState) -> None:
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
    def _writing(self) -> Iterator[None]:
        """What a disk or a bucket refuses in the background comes up here at the next save, or at the end.

        On a disk that is an OSError, or the ValueError that TensorStore makes of anything; on a bucket
        whatever its client raises, too. Where other processes are waited for, their end is a ValueError as
        well: then the disk still takes a file.
        """
        try:
            yield
        except jax.errors.JaxRuntimeError:  # of another process
            raise
        except Exception as error:
            several, unclear = jax.process_count() > 1, isinstance(error, ValueError) and not self.is_remote
            if several and unclear and self._takes_a_file():
                raise TimeoutError(one_line(error)) from error
            lost_peer = isinstance(error, TimeoutError) and several
            if lost_peer or not (self.is_remote or isinstance(error, OSError | ValueError)):
                raise
            raise DiskError(
                f"{self.path}: a checkpoint could not be written ({one_line(error)}); when that is mended "
                f"the same command goes on from {self._newest()}"
            ) from error

    def _takes_a_file(self) -> bool:
        """Whether the disk of the run is in order."""
        probe = Path(self.path).parent / f".probe-{jax.process_index()}"
        try:
            probe.write_bytes(bytes(4096))
            probe.unlink()
        except OSError:
            return False
        return True

    @contextmanager
    def _reaching_bucket(self) -> Iterator[None]:
        """Whatever is raised where no more is asked of a bucket than what is there, it is out of reach."""
        try:
            yield
        except Exception as error:
            if not self.is_remote:
                raise
            if isinstance(error, ImportError):
                raise InputError(
                    f"{self.path}: gcsfs is not installed; pip install 'midigen-jax[bucket]'"
                ) from None
            raise DiskError(
                f"{self.path}: cannot be reached ({one_line(error)}); check the address, and that you may "
                "use the bucket (gcloud auth application-default login)"
            ) from error

    def _check_bucket(self) -> None:
        """Raises DiskError where the bucket does not answer, or has nothing there."""
        with self._reaching_bucket():
            if not self.path.is_dir():
                raise FileNotFoundError("nothing is there, or nobody answers")

    def _newest(self) -> str:
        """The newest checkpoint that is whole, in words."""
        if self.is_remote:
            return "its newest checkpoint"
        whole = [int(place.name) for place in self.path.iterdir() if place.name.isdecimal()]
        return f"step {max(whole)}" if whole else "its start"


def _shapes(network: Network, config: Config) -> TrainState:
    """The state's tree of shapes, for one device, without computing any of it."""
    shapes = jax.eval_shape(lambda: init_state(network, config.train))
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes)


def _crc_of_facts(facts: Mapping[str, Any]) -> int:
    """CRC-32 of what stands in the JSON of a checkpoint."""
    return zlib.crc32(json.dumps(facts, sort_keys=True).encode())


def _crc_of_arrays(state: Any) -> int:
    """CRC-32 of all arrays: as they are stored, nothing notices that a bit of them has turned."""
    found = 0
    for leaf in jax.tree.leaves(state):
        found = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), found)
    return found


def _metric(metrics: dict[str, Any]) -> float:
    """What `best` goes by: a checkpoint that was not validated, or has diverged, is the last choice."""
    value = metrics.get(METRIC, math.inf)
    return value if math.isfinite(value) else math.inf
