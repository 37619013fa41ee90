"""Replicas: trainings that share one program, and what may differ between them.

In: configs. Out: `Hyperparameters`, values that the program is given and not made for; the shape that configs
must have in common; states of N replicas as one, (N, …), and taken apart again.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from midigen_jax.config import Config, SampleConfig, override
from midigen_jax.train.devices import REPLICA


class Hyperparameters(NamedTuple):
    """What may differ from replica to replica; numbers, or arrays (N,) of all of them."""

    seed: Any
    learning_rate: Any
    weight_decay: Any
    dropout: Any
    embedding_dropout: Any
    recurrent_dropout: Any
    transpose_share: Any
    duration_weight: Any


# Whatever they are, the program is the same.
_FREE = ("train.seed", "train.learning_rate", "train.weight_decay", "train.duration_weight")


def hyperparameters(config: Config) -> Hyperparameters:
    """Those of one training."""
    model, train = config.model, config.train
    return Hyperparameters(
        np.uint32(train.seed),
        *(
            np.float32(value)
            for value in (
                train.learning_rate,
                train.weight_decay,
                model.dropout,
                model.dropped_embeddings,
                model.recurrent_dropout,
                config.batch.transpose_share,
                train.duration_weight,
            )
        ),
    )


def shape_of(config: Config) -> Config:
    """The config without what replicas may differ in: those of one shape can share a program."""
    # Where a 0 saves work, programs are made with it or without it.
    saving = {
        "model.dropout": config.model.dropout,
        "model.embedding_dropout": config.model.dropped_embeddings,
        "model.recurrent_dropout": config.model.recurrent_dropout,
        "batch.transpose_share": config.batch.transpose_share,
    }
    either = {name: 0.5 if value else 0.0 for name, value in saving.items()}
    alike = override(config, {**dict.fromkeys(_FREE, 1), **either})
    return Config(alike.prepare, alike.model, alike.batch, alike.train, SampleConfig())


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
