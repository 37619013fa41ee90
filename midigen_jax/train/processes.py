"""Several processes as one training: who they are, what they agree on, who speaks.

Each process has devices of its own, on one machine or on many, and runs the same command. JAX makes one mesh
of all devices; every process holds the whole corpus and the whole state; process 0 alone writes rows, draws
progress and makes music. What a clock or a signal decides, process 0 decides for all. It tells the others
through JAX's coordination service, which goes from host to host: a gather on the devices would wait for the
steps that they are computing.
"""

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Sharding

from midigen_jax.errors import (
    AGAIN,
    INTERRUPTED,
    INTERRUPTION,
    MISTAKE,
    OUT_OF_MEMORY,
    InputError,
    OutOfMemoryError,
    one_line,
)
from midigen_jax.train.stop import heed_signals_again, leave

AUTO = "auto"  # the coordinator that the environment names: TPU VMs, Slurm, Open MPI, Kubernetes
_SECONDS = 300  # how long processes wait for each other before they say that one is missing: JAX's default
_SILENCE = 30  # after so many seconds without a sign of life a process is lost
_PARTING = 10.0  # seconds that a process which ends by itself waits for the others to end too
_PATIENCE_MS = 24 * 60 * 60 * 1000  # for a process that lives: it may be compiling, or reading a bucket
# How errors begin that a collective ends in, where JAX makes a ValueError of them.
_FROM_OTHERS = ("UNKNOWN: ", "UNAVAILABLE: ", "INTERNAL: ", "ABORTED: ", "DEADLINE_EXCEEDED: ")

_KEYS = "midigen"  # of the service, that are ours
_broadcasts, _trainings = itertools.count(), itertools.count()  # the same numbers in every process

T = TypeVar("T")


class Place(NamedTuple):
    """Where a process stands among others: all of them say the same coordinator, HOST:PORT, or `AUTO`."""

    coordinator: str
    processes: int | None = None
    process: int | None = None


def join(place: Place) -> None:
    """Make this process one of many; before JAX computes anything. Raises InputError where that fails."""
    given = place.processes is not None and place.process is not None
    if place.coordinator != AUTO and not given:
        raise InputError("--coordinator HOST:PORT: give --processes N and --process I besides, or auto")
    address = None if place.coordinator == AUTO else place.coordinator
    try:
        jax.distributed.initialize(
            address,
            place.processes,
            place.process,
            initialization_timeout=_SECONDS,
            heartbeat_timeout_seconds=_SILENCE,
        )
        heed_signals_again()
        jax.devices()  # all meet here, before any of them finds a mistake of its own
    except (RuntimeError, ValueError) as error:
        remedy = "start all of them with the same address, within five minutes"
        if place.coordinator == AUTO:
            remedy = "give HOST:PORT, --processes N and --process I, where the environment does not say them"
            if "KUBERNETES_SERVICE_HOST" in os.environ and find_spec("kubernetes") is None:
                remedy = "on Kubernetes it needs a package: pip install 'jax[k8s]'"
        raise InputError(
            f"--coordinator {place.coordinator}: the processes did not find each other "
            f"({one_line(error)}); {remedy}"
        ) from None


def part(code: int) -> None:
    """Have this process, which ends by itself with that exit code, end within seconds.

    At its end it would wait for all others of a training, for minutes, and they for it.
    """
    if jax.distributed.is_initialized():
        parting = threading.Timer(_PARTING, os._exit, [code])
        parting.daemon = True
        parting.start()


@contextmanager
def ends_with_others() -> Iterator[None]:
    """Where another process is gone, or this one is interrupted, end this one of several with a line.

    It ends at once: in order, a checkpoint that is being written and the interpreter would wait for others.
    """
    try:
        yield
    except OutOfMemoryError as error:  # the others wait for what this one cannot do
        if jax.process_count() == 1:
            raise
        leave(MISTAKE, str(error))
    except (jax.errors.JaxRuntimeError, TimeoutError, ValueError) as error:
        ours = isinstance(error, ValueError) and not str(error).startswith(_FROM_OTHERS)
        if ours or jax.process_count() == 1:
            raise
        told = (
            f"another process of this training has ended ({one_line(error)}); start all of them again, with "
            "the same command: they go on from the newest checkpoint"
        )
        is_full = "RESOURCE_EXHAUSTED" in str(error)
        leave(MISTAKE if is_full else AGAIN, OUT_OF_MEMORY if is_full else told)
    except KeyboardInterrupt:
        if jax.process_count() == 1:
            raise
        leave(INTERRUPTED, INTERRUPTION)


def is_first() -> bool:
    """Whether this is the process that writes and speaks: process 0, or the only one."""
    return jax.process_index() == 0


def spread(arrays: T, place: Sharding) -> T:
    """Arrays that every process holds whole, as arrays of all devices."""
    if place.is_fully_addressable:
        return jax.device_put(arrays, place)

    def of(leaf: Any) -> jax.Array:
        whole = np.asarray(jax.device_get(leaf))
        own = place.addressable_devices_indices_map(whole.shape)
        parts = [jax.device_put(whole[index], device) for device, index in own.items()]
        return jax.make_array_from_single_device_arrays(whole.shape, place, parts)

    return jax.tree.map(of, arrays)


class SharedPace:
    """How many steps all processes do in each call of a training: what process 0 says, or 0 to stop."""

    def __init__(self) -> None:
        self._keys = f"{_KEYS}/training-{next(_trainings)}"
        self._calls, self._told = 0, False

    def next(self, pace: int, stop: bool) -> int:
        """The steps of the next call: the pace of process 0, or 0 once it has heard that one wants to `stop`.

        It is asked once a call, after the metrics of the call before the last one are there: so processes
        wait for process 0's decision, which it has made while the last call runs, and for no device. Raises
        JaxRuntimeError where process 0 is gone.
        """
        if jax.process_count() == 1:
            return 0 if stop else pace
        number, service = self._calls, _service()
        self._calls += 1
        if not is_first():
            if stop and not self._told:
                service.key_value_set(f"{self._keys}/stop/{jax.process_index()}", "")
                self._told = True
            return int(service.blocking_key_value_get(f"{self._keys}/call/{number}", _PATIENCE_MS))
        if stop or service.key_value_dir_get(f"{self._keys}/stop/"):
            pace = 0
        service.key_value_set(f"{self._keys}/call/{number}", str(pace))
        if number >= 2:  # done: so every process has read it
            service.key_value_delete(f"{self._keys}/call/{number - 2}")
        return pace


def first_alone(work: Callable[[], object]) -> None:
    """Let process 0 do something that all depend on. Where it raises InputError, all processes do."""
    refused: InputError | None = None
    if is_first():
        try:
            work()
        except InputError as error:
            refused = error
    if _broadcast_from_process_0(refused is not None):
        raise refused or InputError(
            "process 0 has refused, and says why; mend it and start all processes again"
        )


def _broadcast_from_process_0(value: int) -> int:
    """The value of process 0, in all processes; each calls this as often as the others."""
    if jax.process_count() == 1:
        return value
    key = f"{_KEYS}/value/{next(_broadcasts)}"
    if not is_first():
        return int(_service().blocking_key_value_get(key, _PATIENCE_MS))
    _service().key_value_set(key, str(int(value)))
    return value


def _service() -> Any:
    """The client of the coordination service. JAX has no public name for it, and none of its own gathers
    that leaves the devices alone."""
    from jax._src import distributed

    return distributed.global_state.client
