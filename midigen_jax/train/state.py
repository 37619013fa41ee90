"""One training step and one evaluation step, as pure functions of their arguments.

In: a network, an optimizer and the crops of a corpus. Out: jitted functions from state to state. The step
number is part of the state and decides the batch and the dropout, so nothing else need be remembered.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from midigen_jax.config import Config, TrainConfig
from midigen_jax.data.batches import Batch, Crops, batch
from midigen_jax.model.network import Carry, Nats, Network, init_params, score


class TrainState(NamedTuple):
    """All that training changes."""

    step: Array  # int32: steps done
    params: dict
    optimizer: optax.OptState


class Metrics(NamedTuple):
    """What a step measured: means over its events, in nats, and the gradient's global norm."""

    pitch: Array
    duration: Array
    gradient_norm: Array
    events: Array


TrainStep = Callable[[TrainState, Crops], tuple[TrainState, Metrics]]
EvalStep = Callable[[dict, Carry, Batch], tuple[Carry, Nats]]


def make_optimizer(config: TrainConfig, steps: int) -> optax.GradientTransformation:
    """The optax chain of the config for a training of `steps` steps."""
    schedule = learning_rate(config, steps)
    clip = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    if config.optimizer == "rmsprop":
        # Decay and epsilon of Keras, in which the article was written.
        return optax.chain(*clip, optax.rmsprop(schedule, decay=0.9, eps=1e-7))
    return optax.chain(
        *clip,
        optax.adamw(
            schedule,
            b2=0.99,
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim >= 2, params),
        ),
    )


def learning_rate(config: TrainConfig, steps: int) -> optax.Schedule:
    """Linear warm-up, then cosine decay to a hundredth of the peak, or the peak throughout."""
    peak, warmup = config.learning_rate, min(config.warmup, max(steps - 1, 0))
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0 if warmup else peak, peak, warmup, steps, peak / 100)
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, warmup), optax.constant_schedule(peak)], [warmup]
    )


def init_state(network: Network, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step."""
    params = init_params(network, _key(seed, "init"))
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def make_train_step(
    network: Network, optimizer: optax.GradientTransformation, config: Config, transposable: bool
) -> TrainStep:
    """A jitted `(state, crops) -> (state, metrics)`; the state that goes in is donated."""
    seed = config.train.seed

    def loss(params: dict, now: Batch, key: Array) -> tuple[Array, Metrics]:
        carry = network.initial_carry(now.mask_BT.shape[0])
        _, nats = score(network, params, carry, *now, dropout_key=key)
        weight_BT = loss_weight(now.mask_BT, config.train)
        events = weight_BT.sum()
        pitch = (nats.pitch_BT * weight_BT).sum() / events
        duration = (nats.duration_BT * weight_BT).sum() / events
        return pitch + duration, Metrics(pitch, duration, jnp.zeros(()), events)

    def step(state: TrainState, crops: Crops) -> tuple[TrainState, Metrics]:
        now = batch(crops, config.batch, transposable, _key(seed, "batch"), state.step)
        dropout_key = jax.random.fold_in(_key(seed, "dropout"), state.step)
        gradient, metrics = jax.grad(loss, has_aux=True)(state.params, now, dropout_key)
        updates, memory = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = metrics._replace(gradient_norm=optax.tree.norm(gradient))
        return TrainState(state.step + 1, params, memory), metrics

    return jax.jit(step, donate_argnums=0)


def loss_weight(mask_BT: Array, config: TrainConfig) -> Array:
    """1 for the events whose loss counts: all that the mask shows, or the last one of each row."""
    if config.loss_positions == "all":
        return mask_BT.astype(jnp.float32)
    following_BT = jnp.pad(mask_BT[:, 1:], ((0, 0), (0, 1)))
    return (mask_BT & ~following_BT).astype(jnp.float32)


def make_eval_step(network: Network) -> EvalStep:
    """A jitted `(params, carry, batch) -> (carry, nats)`; the carry that goes in is donated.

    Called chunk after chunk it reads pieces of any length in one shape.
    """

    def step(params: dict, carry: Carry, now: Batch) -> tuple[Carry, Nats]:
        return score(network, params, carry, *now)

    return jax.jit(step, donate_argnums=1)


_STREAMS = ("init", "batch", "dropout")


def _key(seed: int, stream: str) -> Array:
    """An independent random stream of a seed for each use."""
    return jax.random.fold_in(jax.random.key(seed), _STREAMS.index(stream))
