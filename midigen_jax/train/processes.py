"""Several processes as one training: who they are, what they agree on, who speaks.

Each process has devices of its own, on one machine or on many, and runs the same command. JAX makes one mesh
of all devices; every process holds the whole corpus and the whole state; process 0 alone writes rows, draws
progress and makes music. What is decided by a clock or a signal is decided for all.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from midigen_jax.errors import InputError, one_line

AUTO = "auto"  # the coordinator that the environment names: TPU VMs, Slurm, Open MPI, Kubernetes
LOST = 3  # the exit code of a process whose training has lost another one
_SECONDS = 60  # how long processes wait for each other before they say that one is missing

T = TypeVar("T")


class Place(NamedTuple):
    """Where a process stands among others: all of them say the same coordinator, HOST:PORT, or `AUTO`."""

    coordinator: str
    processes: int | None = None
    process: int | None = None


def join(place: Place) -> None:
    """Make this process one of many; before JAX computes anything. Raises InputError where that fails."""
    given = place.processes is not None and place.process is not None
    try:
        if place.coordinator == AUTO:
            jax.distributed.initialize(initialization_timeout=_SECONDS)
            return
        if not given:
            raise InputError("--coordinator HOST:PORT: give --processes N and --process I besides, or auto")
        jax.distributed.initialize(
            place.coordinator, place.processes, place.process, initialization_timeout=_SECONDS
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"--coordinator {place.coordinator}: the processes did not find each other "
            f"({one_line(error)}); start all of them with the same address, within a minute"
        ) from None


@contextmanager
def ends_with_others() -> Iterator[None]:
    """Where another process is gone, end this one with a line that says so.

    It ends at once: an interpreter that ends in order waits for the others first, a minute and more.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        print(
            f"midigen: another process of this training has ended ({one_line(error)}); start all of them "
            "again, with the same command: they go on from the newest checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(LOST)


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
