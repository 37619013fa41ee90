"""The optimizer: one optax chain made from the config.

In: the settings, the number of steps. Out: a gradient transformation whose state is all that it remembers,
the moving average of the weights among it. Learning rate and weight decay may be arrays: then one program
serves any values of them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from midigen_jax.config import TrainConfig

MOST_SKIPPED = 10  # steps one after another; then a training has diverged


def make_optimizer(
    config: TrainConfig,
    steps: int,
    peak: float | Array | None = None,
    weight_decay: float | Array | None = None,
) -> optax.GradientTransformation:
    """The optax chain of the config for a training of `steps` steps.

    `peak` and `weight_decay` (none: those of the config) change no part of its state.
    """
    shape = learning_rate(config, steps)
    peak = config.learning_rate if peak is None else peak

    def schedule(count: Array) -> Array:
        return peak * shape(count)

    clip = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    average = [average_weights(config.average)] if config.average else []
    if config.optimizer == "rmsprop":
        # Decay and epsilon of Keras, in which the article was written.
        rule = optax.rmsprop(schedule, decay=0.9, eps=1e-7)
    else:
        rule = optax.adamw(
            schedule,
            b2=0.99,
            weight_decay=config.weight_decay if weight_decay is None else weight_decay,
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim >= 2, params),
        )
    chain = optax.chain(*clip, rule, *average)
    return optax.apply_if_finite(chain, MOST_SKIPPED) if config.on_nan == "skip" else chain


def learning_rate(config: TrainConfig, steps: int) -> optax.Schedule:
    """As shares of the peak: linear warm-up, then cosine decay to a hundredth, or the peak throughout."""
    warmup = min(config.warmup, max(steps - 1, 0))
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0 if warmup else 1.0, 1.0, warmup, steps, 0.01)
    rises, stays = optax.linear_schedule(0.0, 1.0, warmup), optax.constant_schedule(1.0)
    return optax.join_schedules([rises, stays], [warmup])


def rate_of(state: optax.OptState, schedule: optax.Schedule) -> Array:
    """What `schedule` says to the next step, a share of the peak; steps that were skipped do not count."""
    taken = optax.tree.get(state, "count", filtering=_is_schedules)
    return jnp.asarray(schedule(taken))


def _is_schedules(path: tuple, _: Any) -> bool:
    return getattr(path[-1], "tuple_name", "") == optax.ScaleByScheduleState.__name__


class AverageState(NamedTuple):
    """The moving average of the parameters, and how many it has taken in."""

    seen: Array
    average: optax.Params


def average_weights(decay: float) -> optax.GradientTransformation:
    """Keep an exponential moving average of the parameters; updates pass unchanged.

    Stands last in a chain, where updates are what is added to the parameters. After n steps the decay is
    (1 + n) / (10 + n) if that is less, so that the fresh weights are soon forgotten.
    """

    def init(params: optax.Params) -> AverageState:
        # A copy: state that is donated may not hold one array twice.
        return AverageState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(
        updates: optax.Updates, state: AverageState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AverageState]:
        rate = 1 - jnp.minimum(decay, (1 + state.seen) / (10 + state.seen))
        average = optax.incremental_update(optax.apply_updates(params, updates), state.average, rate)
        return updates, AverageState(state.seen + 1, average)

    return optax.GradientTransformation(init, update)
