"""What takes turns in the benchmark of decoding: compiled programs that do their work when they are called.

In: a network, weights, the size of a batch. Out: calls that come back when the work is done.
"""

import time
from copy import copy

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from midigen_jax.model.network import Network
from midigen_jax.sample.constraints import NEVER, constraints
from midigen_jax.sample.decode import (
    Decoded,
    DecodeFlags,
    Prompt,
    Settings,
    State,
    decode,
    placed,
    resume,
    rows_mesh,
)
from midigen_jax.sample.filters import SamplingParams
from midigen_jax.study.floor import floor, step_weights
from midigen_jax.vocab import Vocabulary, by_stream, start_event

PROMPT = 256  # events of a prompt
FILTERS = {"top_k": 50, "top_p": 0.95, "min_p": 0.02}
RULES = {"bar": 48, "repeats": 2}


class Loop:
    """Goes on writing: `events` more events of each row with every call.

    `filtered` turns all filters and constraints on.
    """

    def __init__(self, network: Network, params: dict, batch: int, events: int, filtered: bool = False):
        self._network, self._mesh = network, rows_mesh(batch)
        self._flags = DecodeFlags(filters=filtered, tpu=jax.default_backend() == "tpu")
        self._settings = placed(_settings(network, batch, filtered), self._mesh)
        self._begin(params)
        began = time.perf_counter()
        given = (network, self._params, self._state, self._settings)
        self._program = resume.lower(*given, events=events, flags=self._flags, mesh=self._mesh).compile()
        self.compile_seconds = time.perf_counter() - began

    def other(self, params: dict) -> "Loop":
        """The same program with weights of its own."""
        loop = copy(self)
        loop._begin(params)
        return loop

    def _begin(self, params: dict) -> None:
        batch = len(self._settings.key_B)
        self._params, beginning = placed((params, start_prompt(self._network.vocabulary, batch)), self._mesh)
        given = self._network, self._params, beginning, self._settings
        self._state: State = decode(*given, events=1, flags=self._flags, mesh=self._mesh)[0]

    def state_bytes(self) -> float:
        """Of one piece: all that a state has for each row."""
        state = self._state._asdict()
        of_rows = [part for name, part in state.items() if name != "projections"]
        return sum(leaf.nbytes for leaf in jax.tree.leaves(of_rows)) / len(self._settings.key_B)

    def __call__(self) -> Decoded:
        self._state, decoded = self._program(self._params, self._state, self._settings)
        return jax.block_until_ready(decoded)


class Prefill:
    """Reads prompts and writes one event."""

    def __init__(self, network: Network, params: dict, prompt: Prompt):
        rows_ = len(prompt.mask_BT)
        self._mesh = rows_mesh(rows_)
        self._given = placed((params, prompt, _settings(network, rows_, filtered=False)), self._mesh)
        began = time.perf_counter()
        self._program = decode.lower(network, *self._given, events=1, mesh=self._mesh).compile()
        self.compile_seconds = time.perf_counter() - began

    def other(self, prompt: Prompt) -> "Prefill":
        """The same program with another prompt of that shape."""
        other, (params, _, settings) = copy(self), self._given
        other._given = params, placed(prompt, self._mesh), settings
        return other

    def __call__(self) -> Decoded:
        return jax.block_until_ready(self._program(*self._given)[1])


def start_prompt(vocabulary: Vocabulary, rows_: int) -> Prompt:
    """What a piece begins with that begins with nothing."""
    events = by_stream(vocabulary, np.tile(start_event(vocabulary), (rows_, 1, 1)))
    return Prompt(jax.tree.map(jnp.asarray, events), jnp.ones((rows_, 1), bool))


def prompt_of(written: Decoded, events: int, padded: int = 1) -> Prompt:
    """So many events that the model wrote, over and over if they are fewer, up to a multiple of `padded`."""
    length = events + -events % padded

    def repeated(ids_BN: Array) -> Array:
        return jnp.tile(ids_BN, (1, -(-length // ids_BN.shape[1])))[:, :length]

    mask_BT = jnp.tile(jnp.arange(length) < events, (len(written.length_B), 1))
    return Prompt(jax.tree.map(repeated, written.events), mask_BT)


class Floor:
    """The products of as many steps as a call of the loop does."""

    def __init__(self, network: Network, params: dict, batch: int, events: int):
        weights = step_weights(network, params)
        self._given = (weights, jnp.ones((batch, network.config.width)))
        self._program = floor.lower(*self._given, dtype=network.config.compute_dtype, steps=events).compile()

    def __call__(self) -> Array:
        return jax.block_until_ready(self._program(*self._given))


def _settings(network: Network, batch: int, filtered: bool) -> Settings:
    """Temperature 1; with all filters and constraints, or without any."""
    chosen = FILTERS if filtered else {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
    params = SamplingParams(
        jnp.ones(batch),
        jnp.full(batch, chosen["top_k"], jnp.int32),
        jnp.full(batch, chosen["top_p"], jnp.float32),
        jnp.full(batch, chosen["min_p"], jnp.float32),
        jnp.ones(batch),
    )
    vocabulary = network.vocabulary
    rules = constraints(vocabulary, repeats=RULES["repeats"], bar=RULES["bar"]) if filtered else None
    keys = jax.random.split(jax.random.key(0), batch)
    by_name = {stream.name: params for stream in vocabulary.streams}
    begin_B = jnp.zeros(batch, jnp.int32)
    return Settings(keys, by_name, begin_B, jnp.full(batch, NEVER, jnp.int32), rules)
