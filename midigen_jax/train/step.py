"""A training step and an evaluation step, as pure functions. Begin reading here.

    hyper, state = hyperparameters(config), init_state(network, config.train)
    batch = batch_at(state.step, crops, hyper, config, vocabulary)
    state, metrics = train_step(state, batch, hyper, network=network, config=config, steps=steps)

In: a state, and the batch of its step. Out: the next state, and what was measured. There is no mesh here, no
replica and no jit: `replicas` puts them around, and `loop` is the loop. The step number is part of the state
and decides the batch and the dropout, so nothing else need be remembered when a training goes on. What is in
a row of a batch, and what is dropped in it, depends on the row's number alone, so it does not matter over how
many devices the rows are shared out.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.typing import ArrayLike

from midigen_jax.config import Config, TrainConfig
from midigen_jax.data.batches import Batch, Crops, Prefix, batch, row_numbers
from midigen_jax.model.network import (
    Carry,
    Dropout,
    DropoutRates,
    Logits,
    Nats,
    Network,
    init_params,
    nats_of,
    predict,
)
from midigen_jax.train.distill import cross_entropies, mean_prediction
from midigen_jax.train.optimizer import learning_rate, make_optimizer, rate_of
from midigen_jax.vocab import Vocabulary

TrainBatch = tuple[Prefix, Batch]


class TrainState(NamedTuple):
    """All that training changes."""

    step: Array  # int32: steps done
    params: dict
    optimizer: optax.OptState

    @property
    def ema_params(self) -> dict:
        """The parameters to evaluate and to sample with: their moving average, where one is kept."""
        return optax.tree.get(self.optimizer, "average", self.params)


class Hyperparameters(NamedTuple):
    """Numbers that a step is given and not compiled for: they may differ from replica to replica."""

    seed: Any
    learning_rate: Any
    weight_decay: Any
    dropout: Any
    embedding_dropout: Any
    recurrent_dropout: Any
    transpose_share: Any
    duration_weight: Any


class Metrics(NamedTuple):
    """What a step measured, scalars or (N, K): means over its events, in nats, and of the optimizer."""

    nats: dict[str, Array]  # by stream
    gradient_norm: Array
    events: Array
    learning_rate: Array


class EventNats(NamedTuple):
    """What is said of each event, by stream."""

    nats: dict[str, Array]  # (K, B, T) at each of K temperatures
    ranks: dict[str, Array]  # (B, T) int32: how many ids are likelier than the right one


def make_network(config: Config, vocabulary: Vocabulary) -> Network:
    """The network of a config for a vocabulary."""
    return Network(config.model, vocabulary)


def hyperparameters(config: Config) -> Hyperparameters:
    """Those of a config, as NumPy scalars."""
    model, train = config.model, config.train
    rates = model.dropout, model.dropped_embeddings, model.recurrent_dropout, config.batch.transpose_share
    values = train.learning_rate, train.weight_decay, *rates, train.duration_weight
    return Hyperparameters(np.uint32(train.seed), *map(np.float32, values))


def init_state(network: Network, config: TrainConfig, params: dict | None = None) -> TrainState:
    """The state before the first step: of `params`, or of random ones, by the config's seed."""
    params = init_params(network, _key(config.seed, "init")) if params is None else params
    # How long a training is, and its learning rate, are no part of an optimizer's state.
    return TrainState(jnp.zeros((), jnp.int32), params, make_optimizer(config, steps=1).init(params))


def batch_at(
    step: ArrayLike,
    crops: Crops,
    hyper: Hyperparameters,
    config: Config,
    vocabulary: Vocabulary,
    transposable: bool = True,
    axis_name: str | None = None,
) -> TrainBatch:
    """The rows that a step trains on, and the events before them; `axis_name` as in `train_step`.

    Only pieces in their own keys are `transposable`, in a vocabulary that can be.
    """
    share = hyper.transpose_share if transposable and config.batch.transpose_share else 0.0
    row_B = _row_numbers(step, config, axis_name)
    return batch(crops, config.batch, vocabulary, share, batch_key(hyper.seed), row_B)


def train_step(
    state: TrainState,
    batch: TrainBatch,
    hyper: Hyperparameters,
    *,
    network: Network,
    config: Config,
    steps: int,
    teachers: Sequence[tuple[Network, dict]] = (),
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """One step of the optimizer on one batch.

    `steps` are those of the whole training, over which the learning rate changes. `teachers` are networks and
    their parameters: what they say of the batch is part of the loss. With an `axis_name` the batch is this
    device's share of the rows, and sums go over the axis, as those of `jax.lax.psum` do. Where the config has
    a rate of 0, dropout is compiled away; what else `hyper` holds is taken from there, not from the config.
    """
    dropout = dropout_keys(state.step, hyper, config, axis_name)
    taught = mean_prediction(teachers, *batch) if teachers else None

    def of(params: dict) -> tuple[Array, tuple[dict[str, Array], Array]]:
        return loss(params, batch, dropout, hyper.duration_weight, network, config.train, taught, axis_name)

    # Each device has the part of the mean loss, and of its gradient, that its rows contribute.
    part, (nats, events) = jax.grad(of, has_aux=True)(state.params)
    gradient, nats = _sum((part, nats), axis_name)
    optimizer = make_optimizer(config.train, steps, hyper.learning_rate, hyper.weight_decay)
    updates, memory = optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    rate = hyper.learning_rate * rate_of(state.optimizer, learning_rate(config.train, steps))
    metrics = Metrics(nats, optax.tree.norm(gradient), events, rate)
    return TrainState(state.step + 1, params, memory), metrics


def loss(
    params: dict,
    batch: TrainBatch,
    dropout: Dropout | None,
    duration_weight: float | Array,
    network: Network,
    config: TrainConfig,
    taught: Logits | None = None,
    axis_name: str | None = None,
) -> tuple[Array, tuple[dict[str, Array], Array]]:
    """Mean nats an event, those of durations weighted; besides, the nats of each stream, and the events.

    With `taught`, log-probabilities, a share of it (`train.distill`) is measured against them. With an
    `axis_name` the loss and the nats are the parts of this device's rows; events are counted over all rows.
    """
    before, now = batch
    _, logits = predict(network, params, network.warm_carry(*before), *now, dropout)
    weight_BT = loss_weight(now.mask_BT, config)
    events = _sum(weight_BT.sum(), axis_name)

    def means(nats: Nats) -> dict[str, Array]:
        return {name: (nats_BT * weight_BT).sum() / events for name, nats_BT in nats.items()}

    def total(nats: dict[str, Array]) -> Array:
        parts = [duration_weight * part if name == "duration" else part for name, part in nats.items()]
        return sum(parts[1:], parts[0])

    nats = means(nats_of(logits, *now))
    if taught is None:
        return total(nats), (nats, events)
    by_teachers = total(means(cross_entropies(taught, logits)))
    return (1 - config.distill) * total(nats) + config.distill * by_teachers, (nats, events)


def loss_weight(mask_BT: Array, config: TrainConfig) -> Array:
    """1 for the events whose loss counts: all that the mask shows, or the last one of each row."""
    if config.loss_positions == "all":
        return mask_BT.astype(jnp.float32)
    following_BT = jnp.pad(mask_BT[:, 1:], ((0, 0), (0, 1)))
    return (mask_BT & ~following_BT).astype(jnp.float32)


def eval_step(
    params: dict, carry: Carry, batch: Batch, temperature_K: Array, *, network: Network
) -> tuple[Carry, EventNats]:
    """The nats (K, B, T) of a batch, of logits that were divided by each of K temperatures, and ranks.

    Called chunk after chunk, with the carry of the chunk before, it reads pieces of any length in one shape.
    """
    carry, logits = predict(network, params, carry, *batch)

    def at(temperature: Array) -> Nats:
        return nats_of({name: part / temperature for name, part in logits.items()}, *batch)

    ranks = {}
    for name, logits_BTV in logits.items():
        own_BT1 = jnp.take_along_axis(logits_BTV, batch.events[name][:, 1:, None], axis=-1)
        ranks[name] = (logits_BTV > own_BT1).sum(axis=-1, dtype=jnp.int32)
    return carry, EventNats(lax.map(at, temperature_K), ranks)


def dropout_keys(
    step: ArrayLike, hyper: Hyperparameters, config: Config, axis_name: str | None = None
) -> Dropout:
    """What a step drops: keys of its rows and of itself, and the rates; a rate of 0 is the number 0."""
    model = config.model
    rates = DropoutRates(
        hyper.dropout if model.dropout else 0.0,
        hyper.embedding_dropout if model.dropped_embeddings else 0.0,
        hyper.recurrent_dropout if model.recurrent_dropout else 0.0,
    )
    row_B = _row_numbers(step, config, axis_name)
    row_key_B = jax.vmap(jax.random.fold_in, (None, 0))(_key(hyper.seed, "dropout"), row_B)
    return Dropout(row_key_B, jax.random.fold_in(_key(hyper.seed, "weights"), step), rates)


def batch_key(seed: int | Array) -> Array:
    """The typed key that decides which crops a training of this seed reads, and in which keys."""
    return _key(seed, "batch")


def _row_numbers(step: ArrayLike, config: Config, axis_name: str | None) -> Array:
    """(B,): which rows of the whole training are those of this step, or this device's share of them."""
    step = jnp.asarray(step)
    if axis_name is None:
        return row_numbers(config.batch, step)
    return row_numbers(config.batch, step, lax.axis_index(axis_name), lax.axis_size(axis_name))


def _sum(tree: Any, axis_name: str | None) -> Any:
    # A barrier stands where devices would sum: then one device alone computes, and rounds, the same.
    return lax.optimization_barrier(tree) if axis_name is None else lax.psum(tree, axis_name)


_USES = ("init", "batch", "dropout", "weights")


def _key(seed: int | Array, use: str) -> Array:
    """An independent random stream of a seed for each use."""
    return jax.random.fold_in(jax.random.key(seed), _USES.index(use))
