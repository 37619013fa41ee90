"""Training steps and evaluation steps, as pure functions of their arguments.

In: a network, a config, the crops of a corpus, a mesh of devices. Out: jitted functions from state to state.
The step number is part of the state and decides the batch and the dropout, so nothing else need be
remembered. Replicas, trainings that differ in values alone, run in one program. The rows of a batch are
shared evenly by the devices that a replica has; what is in a row, and what is dropped in it, depends on its
number alone, so the number of devices changes nothing but rounding.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.sharding import Mesh, PartitionSpec
from jax.typing import ArrayLike

from midigen_jax.config import Config, TrainConfig
from midigen_jax.data.batches import Batch, Before, Crops, Read, batch, row_numbers, shown
from midigen_jax.model.layer import backend_of
from midigen_jax.model.network import (
    Carry,
    Drops,
    Logits,
    Nats,
    Network,
    Rates,
    init_params,
    nats_of,
    predict,
)
from midigen_jax.train.devices import DATA, REPLICA, by_row, everywhere
from midigen_jax.train.distill import cross_entropies, mean_prediction
from midigen_jax.train.optimizer import learning_rate, make_optimizer, rate_of
from midigen_jax.train.replicas import Hyperparameters, by_replica, hyperparameters, stack


class TrainState(NamedTuple):
    """All that training changes."""

    step: Array  # int32: steps done
    params: dict
    optimizer: optax.OptState

    @property
    def weights(self) -> dict:
        """The parameters to evaluate and to sample with: their moving average, where one is kept."""
        return optax.tree.get(self.optimizer, "average", self.params)


class Metrics(NamedTuple):
    """What a step measured, scalar or (N, K): means over its events, in nats, and what the optimizer did."""

    pitch: Array
    duration: Array
    gradient_norm: Array
    events: Array
    learning_rate: Array


class TrainSteps(Protocol):
    """So many steps of each replica; `teachers` are the weights of the networks that it is taught by.

    With `batch.stream` there is one replica, and it is given what the steps of this call read, (K, B, …).
    """

    def __call__(
        self,
        state_N: TrainState,
        hyper_N: Hyperparameters,
        crops: Crops | Read,
        count_N: ArrayLike,
        teachers: Sequence[dict] = (),
    ) -> tuple[TrainState, Metrics]: ...


EvalStep = Callable[[dict, Carry, Batch, ArrayLike], tuple[Carry, Nats]]


def init_state(network: Network, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step."""
    params = init_params(network, _key(seed, "init"))
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def start_alone(
    network: Network, config: Config, crops: Crops, mesh: Mesh
) -> tuple[TrainState, Hyperparameters, Crops]:
    """What the steps of a lone training (N = 1) begin with, on the devices of the mesh."""
    state = init_state(network, make_optimizer(config.train, 1), config.train.seed)
    state_N, hyper_N = jax.device_put(stack([(state, hyperparameters(config))]), by_replica(mesh))
    return state_N, hyper_N, jax.device_put(crops, everywhere(mesh))


def make_train_steps(
    network: Network,
    config: Config,
    steps: int,
    transposable: bool,
    mesh: Mesh,
    teachers: Sequence[Network] = (),
    together: int = 1,
) -> TrainSteps:
    """A jitted `(state, hyperparameters, crops, count) -> (state, metrics)`, of N replicas, without the host.

    N is a multiple of the devices that the mesh has for replicas. A device takes its replicas one after
    another, or `together` of them as one (vmap), which cuDNN's layers do not allow: these take turns whatever
    is asked for. Each does its own count of the `steps` of its training; counts are traced: any up to
    K = `train.steps_per_call` run the same program, and 0 costs nothing where replicas take turns. Of the
    metrics (N, K) the first `count` mean something. The state that goes in is donated. With `teachers` a last
    argument has the weights of each; what they say of a batch is part of its loss. Of the config only what
    `replicas.shape_of` leaves decides the program.
    """
    most, parts = config.train.steps_per_call, mesh.shape[DATA]
    if any(backend_of(one.config) == "cudnn" for one in (network, *teachers)):
        together = 1
    distilled, schedule = config.train.distill, learning_rate(config.train, steps)

    def loss(
        params: dict,
        before: Before,
        now: Batch,
        drops: Drops,
        taught: Logits | None,
        duration_weight: Array,
    ) -> tuple[Array, Metrics]:
        _, logits = predict(network, params, network.carry_after(*before), *now, drops)
        weight_BT = loss_weight(now.mask_BT, config.train)
        events = lax.psum(weight_BT.sum(), DATA)

        def means(nats: Nats) -> tuple[Array, Array]:
            pitch, duration = ((nats_BT * weight_BT).sum() / events for nats_BT in nats)
            return pitch, duration

        pitch, duration = means(nats_of(logits, *now))
        metrics = Metrics(pitch, duration, jnp.zeros(()), events, jnp.zeros(()))
        total = pitch + duration_weight * duration
        if taught is None:
            return total, metrics
        pitch, duration = means(cross_entropies(taught, logits))
        return (1 - distilled) * total + distilled * (pitch + duration_weight * duration), metrics

    def step(
        state: TrainState, hyper: Hyperparameters, crops: Crops | Read, number: Array, weights: Sequence[dict]
    ) -> tuple[TrainState, Metrics]:
        rates, share = _dropped(config, hyper), _transposed(config, hyper) if transposable else 0.0
        row_B = row_numbers(config.batch, state.step, lax.axis_index(DATA), parts)
        if isinstance(crops, Read):
            moved = transposable and config.batch.transpose_share > 0
            read = jax.tree.map(lambda leaf_KB: leaf_KB[number], crops)
            before, now = jax.vmap(lambda row: shown(row, config.batch, moved))(read)
        else:
            before, now = batch(crops, config.batch, share, batch_key(hyper.seed), row_B)
        row_key_B = jax.vmap(jax.random.fold_in, (None, 0))(_key(hyper.seed, "dropout"), row_B)
        drops = Drops(row_key_B, jax.random.fold_in(_key(hyper.seed, "weights"), state.step), rates)
        # Each device has the part of the mean loss, and of its gradient, that its rows contribute.
        taught = mean_prediction(teachers, weights, before, now) if teachers else None
        slope = jax.grad(loss, has_aux=True)
        part, metrics = slope(state.params, before, now, drops, taught, hyper.duration_weight)
        gradient, pitch, duration = lax.psum((part, metrics.pitch, metrics.duration), DATA)
        rate = hyper.learning_rate * rate_of(state.optimizer, schedule)
        optimizer = make_optimizer(config.train, steps, hyper.learning_rate, hyper.weight_decay)
        updates, memory = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = Metrics(pitch, duration, optax.tree.norm(gradient), metrics.events, rate)
        return TrainState(state.step + 1, params, memory), metrics

    def replica(
        state: TrainState, hyper: Hyperparameters, count: Array, crops: Crops | Read, weights: Sequence[dict]
    ) -> tuple[TrainState, Metrics]:
        def one(index: Array, done: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, metrics_K = done
            state, metrics = step(state, hyper, crops, index, weights)
            return state, Metrics(
                *(all_K.at[index].set(new) for all_K, new in zip(metrics_K, metrics, strict=True))
            )

        return lax.fori_loop(0, count, one, (state, Metrics(*jnp.zeros((len(Metrics._fields), most)))))

    def all_of_device(
        state_N: TrainState,
        hyper_N: Hyperparameters,
        crops: Crops | Read,
        count_N: Array,
        weights: Sequence[dict],
    ) -> tuple[TrainState, Metrics]:
        def one(own: tuple[TrainState, Hyperparameters, Array]) -> tuple[TrainState, Metrics]:
            return replica(*own, crops, weights)

        own_N = state_N, hyper_N, count_N
        if len(count_N) == 1:
            done = one(jax.tree.map(lambda leaf: leaf[0], own_N))
            return jax.tree.map(lambda leaf: leaf[None], done)
        return lax.map(one, own_N, batch_size=None if together == 1 else together)

    of_replica, of_all = PartitionSpec(REPLICA), PartitionSpec()
    of_music = PartitionSpec(None, DATA) if config.batch.stream else of_all
    # Replicated values are equal on all devices by construction, which the checker cannot see through psum.
    shared = jax.shard_map(
        all_of_device,
        mesh=mesh,
        in_specs=(of_replica, of_replica, of_music, of_replica, of_all),
        out_specs=of_replica,
        check_vma=False,
    )

    def program(
        state_N: TrainState,
        hyper_N: Hyperparameters,
        crops: Crops | Read,
        count_N: Array,
        teachers: Sequence[dict] = (),
    ) -> tuple[TrainState, Metrics]:
        done: tuple[TrainState, Metrics] = shared(state_N, hyper_N, crops, count_N, teachers)
        return done

    return jax.jit(program, donate_argnums=0, out_shardings=by_replica(mesh))


def _dropped(config: Config, hyper: Hyperparameters) -> Rates:
    """Shares that are dropped; what is not dropped at all in trainings of this shape is the number 0."""
    model = config.model
    return Rates(
        hyper.dropout if model.dropout else 0.0,
        hyper.embedding_dropout if model.dropped_embeddings else 0.0,
        hyper.recurrent_dropout if model.recurrent_dropout else 0.0,
    )


def _transposed(config: Config, hyper: Hyperparameters) -> float | Array:
    """The share of rows that is transposed, likewise."""
    return hyper.transpose_share if config.batch.transpose_share else 0.0


def loss_weight(mask_BT: Array, config: TrainConfig) -> Array:
    """1 for the events whose loss counts: all that the mask shows, or the last one of each row."""
    if config.loss_positions == "all":
        return mask_BT.astype(jnp.float32)
    following_BT = jnp.pad(mask_BT[:, 1:], ((0, 0), (0, 1)))
    return (mask_BT & ~following_BT).astype(jnp.float32)


def make_eval_step(network: Network, mesh: Mesh) -> EvalStep:
    """A jitted `(params, carry, batch, temperature_K) -> (carry, nats)`; the carry that goes in is donated.

    The nats (K, B, T) are those of logits that were divided by each of K temperatures. Called chunk after
    chunk it reads pieces of any length in one shape. The number of rows is a multiple of that of the devices.
    """

    def step(params: dict, carry: Carry, now: Batch, temperature_K: Array) -> tuple[Carry, Nats]:
        carry, logits = predict(network, params, carry, *now)

        def at(temperature: Array) -> Nats:
            return nats_of(Logits(*(logits_BTV / temperature for logits_BTV in logits)), *now)

        return carry, lax.map(at, temperature_K)

    whole, rows = PartitionSpec(), PartitionSpec(DATA)
    of_each = PartitionSpec(None, DATA)
    shared = jax.shard_map(
        step, mesh=mesh, in_specs=(whole, rows, rows, whole), out_specs=(rows, of_each), check_vma=False
    )
    # Every process is to have the nats of all rows.
    return jax.jit(shared, donate_argnums=1, out_shardings=(by_row(mesh), everywhere(mesh)))


def batch_key(seed: int | Array) -> Array:
    """The typed key that `batch` is given in a training of this seed."""
    return _key(seed, "batch")


_STREAMS = ("init", "batch", "dropout", "weights")


def _key(seed: int | Array, stream: str) -> Array:
    """An independent random stream of a seed for each use."""
    return jax.random.fold_in(jax.random.key(seed), _STREAMS.index(stream))
