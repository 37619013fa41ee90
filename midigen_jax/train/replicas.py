"""Replicas: many runs in one compiled program, which takes the step of `step` and goes around it.

In: configs that differ in `Hyperparameters` alone, and so have one `Shape`; what the steps of a call read; a
mesh of devices. Out: a jitted call of many steps of N replicas, whose arrays have N in front; N states as
one, and taken apart again. A lone training is one replica. Devices share the replicas out, or the rows of the
batches of a replica; neither changes anything but rounding.
"""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from midigen_jax.config import Config, flatten, to_json
from midigen_jax.data.batches import Crops, RawRow, make_crops, to_batch_row
from midigen_jax.data.corpus import Corpus
from midigen_jax.data.stream import Stream, stacked
from midigen_jax.model.network import Network
from midigen_jax.train.distributed import DATA, REPLICA, replicated, to_mesh
from midigen_jax.train.step import (
    Hyperparameters,
    Metrics,
    TrainState,
    batch_at,
    batch_key,
    hyperparameters,
    init_state,
    train_step,
)

TrainSteps = Callable[..., tuple[TrainState, Metrics]]

_RATES = ("model.dropout", "model.embedding_dropout", "model.recurrent_dropout", "batch.transpose_share")
_VALUES = ("train.seed", "train.learning_rate", "train.weight_decay", "train.duration_weight")


class Shape(NamedTuple):
    """What runs must have in common to be replicas of one program."""

    settings: tuple[tuple[str, object], ...]  # all that the program is made of
    rates: tuple[bool, ...]  # above 0 or not: a rate of 0 is compiled away, so 0 and non-0 are two programs


def shape_key(config: Config) -> Shape:
    """The shape of a config; configs of one shape can share a program."""
    hyper, settings = hyperparameters(config), flatten(to_json(config))
    rates = hyper.dropout, hyper.embedding_dropout, hyper.recurrent_dropout, hyper.transpose_share
    given = [name for name in settings if name in _RATES + _VALUES or name.startswith("sample.")]
    decides = tuple((name, value) for name, value in settings.items() if name not in given)
    return Shape(decides, tuple(bool(rate) for rate in rates))


def make_train_steps(
    network: Network,
    config: Config,
    steps: int,
    transposable: bool,
    mesh: Mesh,
    teachers: Sequence[Network] = (),
    together: int = 1,
) -> TrainSteps:
    """A jitted `(state_N, hyper_N, crops, count_N[, teacher_params]) -> (state_N, metrics_NK)`.

    N is a multiple of the devices that the mesh has for replicas. A device takes its replicas one after
    another, or `together` of them as one (vmap), which cuDNN's layers do not allow: these take turns whatever
    is asked for. Each does its own count of the `steps` of its training; counts are traced: any up to
    K = `train.steps_per_call` run the same program, and 0 costs nothing where replicas take turns. Of the
    metrics (N, K) the first `count` mean something. The state that goes in is donated. With `batch.stream`
    there is one replica, and `crops` are what the steps of this call read, (K, B, …). Of the config only what
    is in its `Shape` decides the program.
    """
    most = config.train.steps_per_call
    if any(one.takes_turns for one in (network, *teachers)):
        together = 1

    def one_step(
        state: TrainState, hyper: Hyperparameters, crops: Crops | RawRow, index: Array, teacher_params: Any
    ) -> tuple[TrainState, Metrics]:
        if isinstance(crops, RawRow):
            moved = transposable and config.batch.transpose_share > 0
            read = jax.tree.map(lambda leaf_KB: leaf_KB[index], crops)
            batch = jax.vmap(lambda row: to_batch_row(row, config.batch, network.vocabulary, moved))(read)
        else:
            batch = batch_at(state.step, crops, hyper, config, network.vocabulary, transposable, DATA)
        return train_step(
            state,
            batch,
            hyper,
            network=network,
            config=config,
            steps=steps,
            teachers=tuple(zip(teachers, teacher_params, strict=True)),
            axis_name=DATA,
        )

    def one_replica(
        state: TrainState, hyper: Hyperparameters, count: Array, crops: Crops | RawRow, teacher_params: Any
    ) -> tuple[TrainState, Metrics]:
        def body(index: Array, done: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, metrics_K = done
            state, metrics = one_step(state, hyper, crops, index, teacher_params)
            return state, jax.tree.map(lambda all_K, new: all_K.at[index].set(new), metrics_K, metrics)

        zeros_K = jnp.zeros(most)
        nothing = Metrics({name: zeros_K for name, _ in network.vocabulary.streams}, *[zeros_K] * 3)
        return lax.fori_loop(0, count, body, (state, nothing))

    def all_of_device(
        state_N: TrainState, hyper_N: Hyperparameters, crops: Any, count_N: Array, teacher_params: Any
    ) -> tuple[TrainState, Metrics]:
        def one(own: tuple[TrainState, Hyperparameters, Array]) -> tuple[TrainState, Metrics]:
            return one_replica(*own, crops, teacher_params)

        own_N = state_N, hyper_N, count_N
        if len(count_N) == 1:
            done = one(jax.tree.map(lambda leaf: leaf[0], own_N))
            return jax.tree.map(lambda leaf: leaf[None], done)
        return lax.map(one, own_N, batch_size=None if together == 1 else together)

    of_replica, of_all = PartitionSpec(REPLICA), PartitionSpec()
    of_crops = PartitionSpec(None, DATA) if config.batch.stream else of_all
    # Replicated values are equal on all devices by construction, which the checker cannot see through psum.
    sharded = jax.shard_map(
        all_of_device,
        mesh=mesh,
        in_specs=(of_replica, of_replica, of_crops, of_replica, of_all),
        out_specs=of_replica,
        check_vma=False,
    )

    def program(
        state_N: TrainState,
        hyper_N: Hyperparameters,
        crops: Crops | RawRow,
        count_N: Array,
        teacher_params: Sequence[dict] = (),
    ) -> tuple[TrainState, Metrics]:
        done: tuple[TrainState, Metrics] = sharded(state_N, hyper_N, crops, count_N, teacher_params)
        return done

    return jax.jit(program, donate_argnums=0, out_shardings=by_replica(mesh))


def start_alone(
    network: Network, config: Config, crops: Crops, mesh: Mesh
) -> tuple[TrainState, Hyperparameters, Crops]:
    """What the steps of a lone training (N = 1) begin with, on the devices of the mesh."""
    own = stack([(init_state(network, config.train), hyperparameters(config))])
    state_N, hyper_N = jax.device_put(own, by_replica(mesh))
    return state_N, hyper_N, jax.device_put(crops, replicated(mesh))


def stack(trees: Sequence[Any]) -> Any:
    """N trees of arrays as one, whose arrays have N in front."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def by_replica(mesh: Mesh) -> NamedSharding:
    """The replicas shared out to the mesh; what all devices of a replica hold is alike."""
    return NamedSharding(mesh, PartitionSpec(REPLICA))


def take(tree_N: Any, number: int) -> Any:
    """The arrays of one replica, on one of the devices that hold it; all are shared out alike."""
    leaves_N = jax.tree.leaves(tree_N)
    shards = next(
        shards
        for shards in zip(*(leaf_N.addressable_shards for leaf_N in leaves_N), strict=True)
        if number in range(len(leaves_N[0]))[shards[0].index[0]]
    )
    first = shards[0].index[0].start or 0
    # By name and compiled: an eager index is a transfer of its own for every array.
    place = jax.device_put(np.int32(number - first), shards[0].device)
    return jax.tree.unflatten(jax.tree.structure(tree_N), _at([shard.data for shard in shards], place))


@jax.jit
def _at(leaves_N: list[Array], place: Array) -> list[Array]:
    return [lax.dynamic_index_in_dim(leaf_N, place, keepdims=False) for leaf_N in leaves_N]


class DataSource:
    """What calls of steps read: `start` at a step; then `next` gives what a call of so many steps needs.

    The whole split lies on every device, or, with `batch.stream`, each process reads the rows of its own
    devices from disk. Raises InputError when the split has no music.
    """

    def __init__(self, corpus: Corpus, config: Config, transposable: bool):
        self._config = config
        if config.batch.stream:
            share = config.batch.transpose_share if transposable else 0.0
            self._stream = Stream(corpus, config.batch, share, batch_key(config.train.seed))
            self.crops = self._stream.crops  # of an epoch
        else:
            self._split = make_crops(corpus, "train", config.batch)
            self.crops = int(self._split.places.first_CROP.shape[0])

    def start(self, step: int, steps: int, mesh: Mesh) -> None:
        """Begin after `step` of so many steps."""
        if not self._config.batch.stream:
            self._split = to_mesh(self._split, replicated(mesh))
            return
        # Of each device by itself: the devices of a process need not be neighbours in the mesh.
        row_DEVICE_B = np.arange(self._config.batch.rows).reshape(mesh.size, -1)
        own_DEVICE = [device.process_index == jax.process_index() for device in mesh.devices.ravel()]
        rows = row_DEVICE_B[np.array(own_DEVICE)].ravel()
        self._sharding = NamedSharding(mesh, PartitionSpec(None, DATA))
        self._reads = self._stream.steps(step, steps, rows)

    def next(self, count: int) -> Crops | RawRow:
        """The argument of a call that does `count` steps more."""
        if not self._config.batch.stream:
            return self._split
        whole = stacked(list(islice(self._reads, count)), self._config.train.steps_per_call)
        with jax.transfer_guard("allow"):  # it takes what is asked for here for a transfer by accident
            placed: RawRow = jax.tree.map(
                lambda leaf: jax.make_array_from_process_local_data(self._sharding, leaf), whole
            )
        return placed
