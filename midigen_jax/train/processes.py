"""Several processes as one training: who they are, what they agree on, who speaks.

Each process has devices of its own, on one machine or on many, and runs the same command. JAX makes one mesh
of all devices; every process holds the whole corpus and the whole state; process 0 alone writes rows, draws
progress and makes music. What is decided by a clock or a signal is decided for all.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from midigen_jax.errors import (
    AGAIN,
    INTERRUPTED,
    INTERRUPTION,
    MISTAKE,
    OUT_OF_MEMORY,
    InputError,
    one_line,
)
from midigen_jax.train.stop import heed_signals_again, leave

AUTO = "auto"  # the coordinator that the environment names: TPU VMs, Slurm, Open MPI, Kubernetes
_SECONDS = 300  # how long processes wait for each other before they say that one is missing: JAX's default
_SILENCE = 30  # after so many seconds without a sign of life a process is lost
_PARTING = 10.0  # seconds that a process which ends by itself waits for the others to end too
# How errors begin that a collective ends in, where JAX makes a ValueError of them.
_FROM_OTHERS = ("UNKNOWN: ", "UNAVAILABLE: ", "INTERNAL: ", "ABORTED: ", "DEADLINE_EXCEEDED: ")

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
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, place, lambda index: whole[index])

    return jax.tree.map(of, arrays)


def agreed(value: int, how: Callable[[np.ndarray], Any] = lambda values_P: values_P[0]) -> int:
    """One number for all processes, made of those of each; left alone, that of process 0."""
    if jax.process_count() == 1:
        return value
    return int(how(np.ravel(multihost_utils.process_allgather(np.int32(value)))))


def first_alone(work: Callable[[], object]) -> None:
    """Let process 0 do something that all depend on. Where it raises InputError, all processes do."""
    refused: InputError | None = None
    if is_first():
        try:
            work()
        except InputError as error:
            refused = error
    if agreed(refused is not None):
        raise refused or InputError(
            "process 0 has refused, and says why; mend it and start all processes again"
        )
