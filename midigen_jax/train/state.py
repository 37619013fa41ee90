"""Training steps and evaluation steps, as pure functions of their arguments.

In: a network, an optimizer, the crops of a corpus, a mesh of devices. Out: jitted functions from state to
state. The step number is part of the state and decides the batch and the dropout, so nothing else need be
remembered. The rows of a batch are shared evenly by the devices of the mesh; what is in a row, and what is
dropped in it, depends on its number alone, so the number of devices changes nothing but rounding.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.sharding import Mesh, PartitionSpec

from midigen_jax.config import Config, TrainConfig
from midigen_jax.data.batches import Batch, Before, Crops, batch, row_numbers
from midigen_jax.model.network import (
    Carry,
    Drops,
    Logits,
    Nats,
    Network,
    init_params,
    nats_of,
    predict,
    score,
)
from midigen_jax.train.devices import DATA
from midigen_jax.train.distill import cross_entropies, mean_prediction


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
    """What a step measured, scalar or (K,): means over its events, in nats, and the gradient's norm."""

    pitch: Array
    duration: Array
    gradient_norm: Array
    events: Array


class TrainSteps(Protocol):
    """`count` training steps; `teachers` are the weights of the networks that are taught by."""

    def __call__(
        self, state: TrainState, crops: Crops, count: int, teachers: Sequence[dict] = ()
    ) -> tuple[TrainState, Metrics]: ...


EvalStep = Callable[[dict, Carry, Batch], tuple[Carry, Nats]]


def init_state(network: Network, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step."""
    params = init_params(network, _key(seed, "init"))
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def make_train_steps(
    network: Network,
    optimizer: optax.GradientTransformation,
    config: Config,
    transposable: bool,
    mesh: Mesh,
    teachers: Sequence[Network] = (),
) -> TrainSteps:
    """A jitted `(state, crops, count) -> (state, metrics)`: `count` steps in one call, without the host.

    `count` is traced: any up to K = `train.steps_per_call` runs the same program. Of the metrics (K,) the
    first `count` mean something. The state that goes in is donated; all is on every device of the mesh.
    With `teachers` a fourth argument has the weights of each; what they say of a batch is part of its loss.
    """
    seed, most, parts = config.train.seed, config.train.steps_per_call, mesh.shape[DATA]
    share = config.train.distill

    def loss(
        params: dict, before: Before, now: Batch, drops: Drops, taught: Logits | None
    ) -> tuple[Array, Metrics]:
        _, logits = predict(network, params, network.carry_after(*before), *now, drops)
        weight_BT = loss_weight(now.mask_BT, config.train)
        events = lax.psum(weight_BT.sum(), DATA)

        def mean(nats_BT: Array) -> Array:
            return (nats_BT * weight_BT).sum() / events

        pitch, duration = (mean(nats_BT) for nats_BT in nats_of(logits, *now))
        metrics = Metrics(pitch, duration, jnp.zeros(()), events)
        if taught is None:
            return pitch + duration, metrics
        from_teachers = sum(mean(nats_BT) for nats_BT in cross_entropies(taught, logits))
        return (1 - share) * (pitch + duration) + share * from_teachers, metrics

    def step(state: TrainState, crops: Crops, weights: Sequence[dict]) -> tuple[TrainState, Metrics]:
        row_B = row_numbers(config.batch, state.step, lax.axis_index(DATA), parts)
        before, now = batch(crops, config.batch, transposable, _key(seed, "batch"), row_B)
        row_key_B = jax.vmap(jax.random.fold_in, (None, 0))(_key(seed, "dropout"), row_B)
        drops = Drops(row_key_B, jax.random.fold_in(_key(seed, "weights"), state.step))
        # Each device has the part of the mean loss, and of its gradient, that its rows contribute.
        taught = mean_prediction(teachers, weights, before, now) if teachers else None
        part, metrics = jax.grad(loss, has_aux=True)(state.params, before, now, drops, taught)
        gradient, pitch, duration = lax.psum((part, metrics.pitch, metrics.duration), DATA)
        updates, memory = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = Metrics(pitch, duration, optax.tree.norm(gradient), metrics.events)
        return TrainState(state.step + 1, params, memory), metrics

    def steps(
        state: TrainState, crops: Crops, count: Array, weights: Sequence[dict] = ()
    ) -> tuple[TrainState, Metrics]:
        def one(index: Array, done: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, metrics_K = done
            state, metrics = step(state, crops, weights)
            return state, Metrics(
                *(all_K.at[index].set(new) for all_K, new in zip(metrics_K, metrics, strict=True))
            )

        return lax.fori_loop(0, count, one, (state, Metrics(*jnp.zeros((len(Metrics._fields), most)))))

    # Replicated values are equal on all devices by construction, which the checker cannot see through psum.
    shared = jax.shard_map(
        steps, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False
    )
    return jax.jit(shared, donate_argnums=0)


def loss_weight(mask_BT: Array, config: TrainConfig) -> Array:
    """1 for the events whose loss counts: all that the mask shows, or the last one of each row."""
    if config.loss_positions == "all":
        return mask_BT.astype(jnp.float32)
    following_BT = jnp.pad(mask_BT[:, 1:], ((0, 0), (0, 1)))
    return (mask_BT & ~following_BT).astype(jnp.float32)


def make_eval_step(network: Network, mesh: Mesh) -> EvalStep:
    """A jitted `(params, carry, batch) -> (carry, nats)`; the carry that goes in is donated.

    Called chunk after chunk it reads pieces of any length in one shape. The number of rows is a multiple of
    that of the devices.
    """

    def step(params: dict, carry: Carry, now: Batch) -> tuple[Carry, Nats]:
        return score(network, params, carry, *now)

    everywhere, rows = PartitionSpec(), PartitionSpec(DATA)
    shared = jax.shard_map(
        step, mesh=mesh, in_specs=(everywhere, rows, rows), out_specs=rows, check_vma=False
    )
    return jax.jit(shared, donate_argnums=1)


_STREAMS = ("init", "batch", "dropout", "weights")


def _key(seed: int, stream: str) -> Array:
    """An independent random stream of a seed for each use."""
    return jax.random.fold_in(jax.random.key(seed), _STREAMS.index(stream))
