"""Rivals of the decode loop: other ways to write with the same weights, in JAX and in other libraries.

In: fresh weights of the article's network, the size of a batch. Out: for each rival its settings, and a call
that works for a round. JAX's rivals run in this process, those of other libraries each in one of its own,
which has all cores; under which of its settings a rival is measured, a short trial decides. All have the same
weights but the Transformer, which has as many.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from midigen_jax.config import spell
from midigen_jax.errors import InputError
from midigen_jax.model.network import Carry, EmbeddingProjections, Network, Trunk
from midigen_jax.recipes import pooling_article
from midigen_jax.study.step_model import StateSize, StepModel, make_loop, state_size
from midigen_jax.study.subject import Subject
from rivals import transformer
from rivals.child import rate
from rivals.job import Job, first_event, save_weights
from rivals.side import MissingPackageError, SideProcess

WINDOW = 32

_EVENTS = 16  # a call
# The largest batch that a rival is measured at: larger ones are not its use, or take too long.
_LARGEST = {
    "window": 64,
    "step": 1 << 20,
    "transformer": 64,
    "torch": 1 << 20,
    "keras": 1,
    "keras_function": 1,
    "onnxruntime": 64,
}
_MODULES = {
    "torch": "torch_step",
    "keras": "keras_predict",
    "keras_function": "keras_function",
    "onnxruntime": "onnx_step",
}


class Rival(NamedTuple):
    """Somebody else, warm."""

    settings: dict[str, Any]
    round: Callable[[], float]  # events a second
    state: StateSize | None = None


class Peers:
    """A context manager around all rivals, which are given the weights of `subject`.

    A rival whose state grows writes pieces of `events` events.

    Raises InputError for any network but the article's, pooling over the whole past.
    """

    def __init__(self, subject: Subject, seconds: float = 0.5, events: int = 256):
        _check(subject)
        self._subject, self._seconds, self._events = subject, seconds, events
        self._missing: set[str] = set()

    def __enter__(self) -> "Peers":
        self._folder = tempfile.TemporaryDirectory()
        self._weights = Path(self._folder.name) / "weights.npz"
        save_weights(self._weights, jax.device_get(self._subject.params))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    @contextmanager
    def at(self, batch: int) -> Iterator[dict[str, Rival]]:
        """Those that make sense for so many rows; one whose package is missing is named and left out."""
        network, params = self._subject.network, self._subject.params
        found: dict[str, Rival] = {}
        for name, make, settings in (("window", window, {"window": WINDOW}), ("step", step, {})):
            if batch <= _LARGEST[name]:
                call = make(network, params, batch)
                call()
                found[name] = Rival(settings, partial(self._rate, call, batch * _EVENTS))
        if batch <= _LARGEST["transformer"]:
            found["transformer"] = self._transformer(batch)
        with ExitStack() as stack:
            for name in _MODULES:
                if batch <= _LARGEST[name] and name not in self._missing:
                    try:
                        found[name] = self._start(name, batch, stack)
                    except MissingPackageError as missing:
                        self._missing.add(name)
                        print(f"{name} left out: {missing} is not installed; see --help", file=sys.stderr)
            yield found

    def _rate(self, call: Callable[[], object], events: int) -> float:
        return events * rate(call, self._seconds)[0]

    def _transformer(self, batch: int) -> Rival:
        """In the loop of step models, with room for the events of a piece."""
        shape = transformer.shape_of(self._subject.network)
        model = StepModel("transformer", *transformer.equal_to(self._subject.network))
        loop = make_loop(model, batch, self._events)

        def call() -> None:
            loop.write(loop.begin(), self._events)

        call()
        names = ("width", "layers", "feed_forward")
        settings = {name: getattr(shape, name) for name in names} | {"room": self._events}
        settings["parameters"] = model.about["parameters"]
        size = state_size(model, self._events)
        return Rival({"transformer": settings}, partial(self._rate, call, batch * self._events), size)

    def _start(self, name: str, batch: int, stack: ExitStack) -> Rival:
        cores = len(os.sched_getaffinity(0))
        job = Job(name, cores, self._seconds, tune=True, rows=batch, weights=str(self._weights))
        process = stack.enter_context(SideProcess(f"rivals.{_MODULES[name]}", job))
        events = process.warm["amounts"]["events"]
        return Rival(process.warm["settings"], lambda: events * process.round()[0])


def _check(subject: Subject) -> None:
    if subject.origin != "fresh":
        raise InputError("--peers: rivals write with fresh weights; leave RUN out")
    # Sizes may differ, the kind of network may not.
    ours, article = subject.network.config, pooling_article()
    for name in ("context", "heads", "compute_dtype", "blocks"):
        here, theirs = (getattr(config, name) for config in (ours, article))
        same = set(here) == set(theirs) if name == "blocks" else here == theirs
        if not same:
            raise InputError(
                f"--peers: model.{name} = {spell(here)}: rivals have the article's network; leave it at "
                f"{spell(theirs)}"
            )
    if jax.default_backend() != "cpu":
        raise InputError("--peers: rivals run on the CPU; set JAX_PLATFORMS=cpu for a fair comparison")


@partial(jax.jit, static_argnames="network")
def window_trunk(network: Network, params: dict, events: dict[str, Array]) -> Trunk:
    """What follows the last event of windows, ids (B, T) by stream, that are read from zeros; T = 1."""
    model = network.bind({"params": params})
    mask_BT = jnp.ones(events["pitch"].shape, bool)
    _, trunk = model(model.initial_carry(len(mask_BT)), events, mask_BT)
    last: Trunk = jax.tree.map(lambda part: part[:, -1:], trunk)
    return last


def window(network: Network, params: dict, batch: int) -> Callable[[], object]:
    """The article's way in JAX: one jitted call an event reads the last events all over again."""

    @jax.jit
    def write(params: dict, events: dict[str, Array], key: Array) -> tuple[dict[str, Array], Array]:
        key, own = jax.random.split(key)
        drawn = _draw(network, params, window_trunk(network, params, events), own)
        return {name: jnp.concatenate([events[name][:, 1:], drawn[name]], axis=1) for name in drawn}, key

    shape = batch, WINDOW
    events = {"pitch": jnp.zeros(shape, jnp.int32), "duration": jnp.ones(shape, jnp.int32)}
    key = jax.random.key(0)

    def call() -> None:
        nonlocal events, key
        for _ in range(_EVENTS):
            events, key = write(params, events, key)
        jax.block_until_ready(events)

    return call


def step(network: Network, params: dict, batch: int) -> Callable[[], object]:
    """A jitted step with a carried state, in a loop of Python."""

    @partial(jax.jit, donate_argnums=2)
    def write(
        params: dict, projections: EmbeddingProjections, state: tuple[Carry, Trunk, Array]
    ) -> tuple[tuple[Carry, Trunk, Array], dict[str, Array]]:
        carry, trunk, key = state
        key, own = jax.random.split(key)
        drawn = _draw(network, params, trunk, own)
        carry, trunk = _read(network, params, carry, drawn, projections)
        return (carry, trunk, key), drawn

    model = network.bind({"params": params})
    projections = model.projections()
    assert projections is not None
    pitch_B, duration_B = (jnp.asarray(ids, jnp.int32) for ids in first_event(batch))
    start = {"pitch": pitch_B[:, None], "duration": duration_B[:, None]}
    read = _read(network, params, network.initial_carry(batch), start, projections)
    state = *read, jax.random.key(0)

    def call() -> None:
        nonlocal state
        for _ in range(_EVENTS):
            state, drawn = write(params, projections, state)
        jax.block_until_ready(drawn)

    return call


def _read(
    network: Network,
    params: dict,
    carry: Carry,
    event: dict[str, Array],
    projections: EmbeddingProjections,
) -> tuple[Carry, Trunk]:
    """One event of each row, ids (B, 1) by stream."""
    model = network.bind({"params": params})
    mask_B1 = jnp.ones(event["pitch"].shape, bool)
    found: tuple[Carry, Trunk] = model(carry, event, mask_B1, projections=projections)
    return found


def _draw(network: Network, params: dict, trunk: Trunk, key: Array) -> dict[str, Array]:
    """An id of each stream for each row, (B, 1), with `jax.random.categorical`."""
    model, streams = network.bind({"params": params}), network.vocabulary.streams
    drawn: dict[str, Array] = {}
    for (name, _), own in zip(streams, jax.random.split(key, len(streams)), strict=True):
        drawn[name] = jax.random.categorical(own, model.stream_logits(name, trunk, drawn))
    return drawn
