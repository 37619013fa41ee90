"""Flax's own LSTM in our model: `nn.RNN` over `OptimizedLSTMCell`, in a jitted step with our optimizer."""

import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from midigen_jax.config import Config, ModelConfig
from midigen_jax.model.network import cross_entropy
from midigen_jax.train.optimizer import make_optimizer
from rivals.job import lstm_layers
from rivals.side import Settings, Side
from train_sides.job import Job, config_of, music_of

CANDIDATES: tuple[Settings, ...] = tuple(
    {"unroll": unroll, "time_major": time_major}
    for unroll, time_major in itertools.product((1, 4, 8, 16), (False, True))
)


class Twin(nn.Module):
    """The article's network, with logits for every position; time is axis 0 if `time_major`, else axis 1."""

    config: ModelConfig
    pitch_size: int
    duration_size: int
    unroll: int
    time_major: bool

    @nn.compact
    def __call__(self, pitch: Array, duration: Array) -> tuple[Array, Array]:
        """Logits of the next pitch and duration id, from ids of one shape."""
        embedded_pitch = nn.Embed(self.pitch_size, self.config.pitch_embedding)(pitch)
        embedded_duration = nn.Embed(self.duration_size, self.config.duration_embedding)(duration)
        hidden: Any = jnp.concatenate([embedded_pitch, embedded_duration], axis=-1)
        for _ in range(lstm_layers(self.config)):
            cell = nn.OptimizedLSTMCell(self.config.width)
            hidden = nn.RNN(cell, time_major=self.time_major, unroll=self.unroll)(hidden)
        weight = jnp.exp(jnp.tanh(nn.Dense(1)(hidden)))
        time = 0 if self.time_major else 1
        context = jnp.cumsum(weight * hidden, axis=time) / jnp.cumsum(weight, axis=time)
        return nn.Dense(self.pitch_size)(context), nn.Dense(self.duration_size)(context)


def build(job: Job, settings: Settings) -> Side:
    """A step on one batch, the job's first `length + 1` events of each piece."""
    config, music = config_of(job), music_of(job)
    twin = Twin(config.model, music.pitch_size, music.duration_size, **settings)
    events_BS2 = np.stack(music.pieces)
    params = twin.init(jax.random.key(0), *events_BS2[:1, :1].transpose(2, 0, 1))["params"]
    return Side(steps(twin, params, config, events_BS2), {"tokens": job.rows * job.length})


def steps(twin: Twin, params: dict, config: Config, events_BS2: np.ndarray) -> Callable[[], float]:
    """What trains `twin` by one step a call, from `params` on."""
    optimizer = make_optimizer(config.train, steps=1)
    order = (2, 1, 0) if twin.time_major else (2, 0, 1)
    read, scored = (
        jnp.asarray(events.transpose(order)) for events in (events_BS2[:, :-1], events_BS2[:, 1:])
    )

    def loss(params: dict, read: Array, scored: Array) -> Array:
        logits: Any = twin.apply({"params": params}, *read)
        return sum(map(cross_entropy, logits, scored), jnp.zeros(())).mean()

    def step(
        params: dict, memory: optax.OptState, read: Array, scored: Array
    ) -> tuple[dict, optax.OptState, Array]:
        before, gradient = jax.value_and_grad(loss)(params, read, scored)
        updates, memory = optimizer.update(gradient, memory, params)
        return optax.apply_updates(params, updates), memory, before

    train_step = jax.jit(step, donate_argnums=(0, 1))
    memory = optimizer.init(params)

    def call() -> float:
        nonlocal params, memory
        params, memory, before = train_step(params, memory, read, scored)
        return float(before)

    return call
