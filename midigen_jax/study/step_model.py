"""Somebody else's model under the benchmark of decoding: a step, ids in and ids out, and the loop around it.

In: `module:function`. The function takes nothing and gives `(init, step)`, or `(init, step, about)`:

    init(rows, events) -> carry, ids_BS         a state with room for so many events a row, and the first ids
    step(carry, ids_BS, key) -> carry, ids_BS   reads one event of each row, draws the next one

An event has S integer ids, as many as the model likes. Out: a loop that writes `events` events a call.

Where `ids_BS` is a JAX array and the step can be traced, the loop is one jitted program, as ours is: `carry`
is a pytree that keeps its shapes, `key` a typed key, a new one for each event. Arrays that `step` closes over
are constants of that program; those of a `jax.tree_util.Partial` are arguments of it, as our weights are.
Otherwise the loop is Python's: `carry` is anything, and `key` is a NumPy generator where ids are NumPy's.
"""

import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.tree_util import Partial

from midigen_jax.config import nearest
from midigen_jax.errors import InputError

ABOUT: dict[str, Callable[[Any], bool]] = {
    "parameters": lambda value: isinstance(value, Integral),
    "dtype": lambda value: isinstance(value, str),
    "backend": lambda value: isinstance(value, str),
    "threads": lambda value: isinstance(value, Integral),
    "seconds": callable,  # ids_NS -> seconds_N of music that each event takes
    "notes": callable,  # ids_NS -> notes_N that begin with each event
    "read": callable,  # carry, ids_BTS -> carry: reads T events at once, where `step` reads one by one
}
"""What a model may say of itself, and how a value of it is told."""

_WATCHED = 64  # events after which a state that is not JAX's is looked at again


class StepModel(NamedTuple):
    """A model that is given as a step."""

    name: str
    init: Callable[[int, int], tuple[Any, Any]]
    step: Callable[[Any, Any, Any], tuple[Any, Any]]
    about: Mapping[str, Any] = {}


class StateSize(NamedTuple):
    """What a piece's state takes."""

    size: float  # bytes a piece
    growth: float  # bytes a piece, for a thousand events more


def load_step_model(name: str) -> StepModel:
    """The model of `module:function`; the module is also looked for in the current folder.

    Raises InputError where there is no such module or function, and where it gives something else.
    """
    found, _, function = name.partition(":")
    if not function.isidentifier() or not all(part.isidentifier() for part in found.split(".")):
        raise InputError(f"--model {name}: give module:function, as in my.model:build")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(found)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if found == missing or found.startswith(f"{missing}."):
            raise InputError(
                f"--model {name}: no module {missing}; run where it lies, or put its folder on PYTHONPATH"
            ) from None
        raise InputError(f"--model {name}: it needs {missing}, which is not installed") from None
    there = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    if not callable(getattr(module, function, None)):
        remedy = nearest(function, there) if there else "it has no functions"
        raise InputError(f"--model {name}: {found} has no function {function}; {remedy}")
    return _model_of(name, getattr(module, function)())


def _model_of(name: str, given: Any) -> StepModel:
    shape = isinstance(given, tuple) and len(given) in (2, 3)
    if not shape or not all(callable(part) for part in given[:2]):
        raise InputError(f"--model {name}: gives {_word(given)}; return (init, step) or (init, step, about)")
    about = given[2] if len(given) == 3 else {}
    if not isinstance(about, Mapping):
        raise InputError(f"--model {name}: about is {_word(about)}; give a dict of {', '.join(ABOUT)}")
    for key, value in about.items():
        if key not in ABOUT:
            raise InputError(f"--model {name}: about {key!r}: {nearest(str(key), ABOUT)}")
        if not ABOUT[key](value):
            raise InputError(f"--model {name}: about[{key!r}] is {_word(value)}; leave it out, or mend it")
    numbers = {key: int(value) for key, value in about.items() if isinstance(value, Integral)}
    return StepModel(name, given[0], given[1], dict(about) | numbers)


class StepLoop:
    """Writes on `rows` rows, which have room for `room` events; `kind` is `host` or `jitted`."""

    kind = "host"

    def __init__(self, model: StepModel, rows: int, room: int):
        self._model, self._rows, self._room = model, rows, room
        self._rng = np.random.default_rng(0)
        self.compile_seconds = 0.0
        carry, ids_BS = self._init()
        _check(model, ids_BS, model.step(carry, ids_BS, self._key(ids_BS)))

    def begin(self) -> tuple[Any, Any]:
        """A carry from which nothing has been written, and the ids to begin with."""
        return self._init()

    def write(self, state: tuple[Any, Any], events: int) -> tuple[tuple[Any, Any], Any]:
        """The state after so many events, and their ids (B, N, S), when they are there."""
        written = []
        for _ in range(events):
            state = self._model.step(*state, self._key(state[1]))
            written.append(state[1])
        jax.block_until_ready(state[1])
        return state, np.stack([np.asarray(ids_BS) for ids_BS in written], axis=1)

    def read(self, state: tuple[Any, Any], ids_BTS: Any) -> tuple[Any, Any]:
        """The state after a prompt, whose last event is the next one to be read."""
        carry, ids_BS = state
        read = self._model.about.get("read")
        if read is not None:
            before_BTS = np.concatenate([np.asarray(ids_BS)[:, None], ids_BTS[:, :-1]], axis=1)
            return read(carry, before_BTS), ids_BTS[:, -1]
        for time_ in range(ids_BTS.shape[1]):
            carry, _ = self._model.step(carry, ids_BS, self._key(ids_BS))
            ids_BS = ids_BTS[:, time_]
        return carry, ids_BS

    def _init(self) -> tuple[Any, Any]:
        return self._model.init(self._rows, self._room)

    def _key(self, ids_BS: Any) -> Any:
        if isinstance(ids_BS, jax.Array):
            return jax.random.key(int(self._rng.integers(1 << 31)))
        return self._rng


class JittedLoop(StepLoop):
    """One program for each number of events; the carry is used again."""

    kind = "jitted"

    def __init__(self, model: StepModel, rows: int, room: int):
        self._model, self._rows, self._room = model, rows, room
        self._step, read = (
            part if part is None or isinstance(part, Partial) else Partial(part)
            for part in (model.step, model.about.get("read"))
        )
        self._read, self._programs = read, dict[Any, Any]()
        self._key_now, self.compile_seconds = jax.random.key(0), 0.0
        carry, ids_BS = model.init(rows, room)
        self._begin = jax.tree.map(jnp.asarray, carry), ids_BS

    def begin(self) -> tuple[Any, Any]:
        """As `StepLoop.begin`: a copy, for a program may take its memory."""
        return jax.tree.map(jnp.copy, self._begin)

    def write(self, state: tuple[Any, Any], events: int) -> tuple[tuple[Any, Any], Any]:
        """As `StepLoop.write`."""
        self._key_now, key = jax.random.split(self._key_now)
        given = self._step, *state, key
        program = self._compiled(("write", events), partial(_write.lower, *given, events=events))
        return jax.block_until_ready(program(*given))

    def read(self, state: tuple[Any, Any], ids_BTS: Any) -> tuple[Any, Any]:
        """As `StepLoop.read`, in one program."""
        given = (self._step if self._read is None else self._read), *state, jnp.asarray(ids_BTS)
        lower = (_read_one_by_one if self._read is None else _read_at_once).lower
        return self._compiled(("read", ids_BTS.shape), partial(lower, *given))(*given)

    def _compiled(self, name: Any, lower: Callable[[], Any]) -> Any:
        if name not in self._programs:
            began = time.perf_counter()
            self._programs[name] = lower().compile()
            self.compile_seconds += time.perf_counter() - began
        return self._programs[name]


def make_loop(model: StepModel, rows: int, room: int) -> StepLoop:
    """The jitted loop where the step can be traced, or that on the host.

    Raises InputError for ids that are no (rows, S) integers, and for a step that does not keep their shape
    and dtype, or, if jitted, those of its carry.
    """
    carry, ids_BS = _pair(model, "init", model.init(rows, room))
    kind = np.dtype(getattr(ids_BS, "dtype", object)).kind
    if kind not in "iu" or getattr(ids_BS, "ndim", 0) != 2 or ids_BS.shape[0] != rows:
        raise InputError(f"--model {model.name}: init gives ids {_word(ids_BS)}; give integers ({rows}, S)")
    if not isinstance(ids_BS, jax.Array):
        return StepLoop(model, rows, room)
    carry = jax.tree.map(jnp.asarray, carry)
    try:
        after = jax.eval_shape(model.step, carry, ids_BS, jax.random.key(0))
    except (jax.errors.JAXTypeError, jax.errors.JAXIndexError) as error:
        kind_of_error = type(error).__name__
        print(f"{model.name}: cannot be traced ({kind_of_error}): its loop is Python's", file=sys.stderr)
        return StepLoop(model, rows, room)
    _check(model, ids_BS, after)
    before, shapes = (jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), part) for part in (carry, after[0]))
    if before != shapes:
        raise InputError(
            f"--model {model.name}: step changes shapes of its carry; keep them, or give NumPy ids "
            "for a loop on the host"
        )
    return JittedLoop(model, rows, room)


def state_size(model: StepModel, events: int) -> StateSize | None:
    """Bytes of a piece's carry: those that one row more takes; None where a leaf does not know its size.

    Growth is the room that `init` sets aside for a thousand events more, and what steps on the host add.
    """
    one, two, longer = (
        _bytes(model.init(*sizes)[0]) for sizes in ((1, events), (2, events), (1, events + 1000))
    )
    if one is None or two is None or longer is None:
        return None
    growth = float(longer - one)
    loop = make_loop(model, 1, events)
    if loop.kind == "host":
        (carry, _), _ = loop.write(loop.begin(), min(_WATCHED, events))
        growth += 1000 * ((_bytes(carry) or 0) - one) / min(_WATCHED, events)
    return StateSize(two - one, growth)


@partial(jax.jit, static_argnames="events", donate_argnames="carry")
def _write(step: Partial, carry: Any, ids_BS: Array, key: Array, *, events: int) -> Any:
    def go(state: tuple[Any, Array], key: Array) -> tuple[tuple[Any, Array], Array]:
        carry, ids_BS = step(*state, key)
        return (carry, ids_BS), ids_BS

    state, ids_TBS = lax.scan(go, (carry, ids_BS), jax.random.split(key, events))
    return state, ids_TBS.swapaxes(0, 1)


@partial(jax.jit, donate_argnames="carry")
def _read_at_once(read: Partial, carry: Any, ids_BS: Array, ids_BTS: Array) -> tuple[Any, Array]:
    before_BTS = jnp.concatenate([ids_BS[:, None], ids_BTS[:, :-1]], axis=1)
    return read(carry, before_BTS), ids_BTS[:, -1]


@partial(jax.jit, donate_argnames="carry")
def _read_one_by_one(step: Partial, carry: Any, ids_BS: Array, ids_BTS: Array) -> tuple[Any, Array]:
    key = jax.random.key(0)  # what is drawn is not looked at

    def go(state: tuple[Any, Array], ids_BS: Array) -> tuple[tuple[Any, Array], None]:
        return (step(*state, key)[0], ids_BS), None

    return lax.scan(go, (carry, ids_BS), ids_BTS.swapaxes(0, 1))[0]


def _pair(model: StepModel, name: str, given: Any) -> tuple[Any, Any]:
    if not isinstance(given, tuple) or len(given) != 2:
        raise InputError(f"--model {model.name}: {name} gives {_word(given)}; return (carry, ids)")
    return given


def _check(model: StepModel, before_BS: Any, given: Any) -> None:
    """Raises InputError unless the step gave a carry, and ids like those that it was given."""
    ids_BS = _pair(model, "step", given)[1]
    if (getattr(ids_BS, "shape", None), getattr(ids_BS, "dtype", None)) != (before_BS.shape, before_BS.dtype):
        wanted = _word(before_BS)
        raise InputError(
            f"--model {model.name}: step gives ids {_word(ids_BS)}; give them as it got them, {wanted}"
        )


def _word(value: Any) -> str:
    """What a value is: shape and dtype of an array, the type of anything else."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{tuple(value.shape)} {value.dtype}"
    return type(value).__name__


def _bytes(carry: Any) -> int | None:
    """Bytes of all arrays of a carry; None where something in it does not say its own."""
    leaves = [leaf for leaf in jax.tree.leaves(carry) if not isinstance(leaf, bool | int | float | str)]
    sizes = [getattr(leaf, "nbytes", None) for leaf in leaves]
    return None if None in sizes else sum(int(size) for size in sizes if size is not None)
