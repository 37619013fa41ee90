"""The devices and processes of a training: one mesh of them, who speaks, and what they agree on.

XLA takes a CPU for one device and splits each operation over its cores. The operations of a recurrent step
are too small for that: the cores wait for each other. One device a core, each with its own rows of the batch,
meets the others once a step. The rows are the same and so is their mean; it is summed in another order, so
losses agree to rounding and not to the bit with those of another number of devices.

Several processes run the same command, on one machine or on many, each with devices of its own. JAX makes
one mesh of all devices; every process holds the whole corpus and the whole state; process 0, the main one,
alone writes rows, draws progress and makes music. What a clock or a signal decides, it decides for all. It
tells the others through JAX's coordination service, which goes from host to host: a gather on the devices
would wait for the steps that they are computing.
"""

import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from midigen_jax.errors import (
    AGAIN,
    INTERRUPTED,
    INTERRUPTION,
    MISTAKE,
    OUT_OF_MEMORY,
    InputError,
    OutOfMemoryError,
    is_out_of_memory,
    one_line,
)
from midigen_jax.train.stop import heed_signals_again, leave

REPLICA, DATA = "replica", "data"

# Dense bfloat16 operations a second, by the name that JAX has for the device: Google Cloud's pages of TPU
# versions and NVIDIA's data sheets, as of November 2026; the TPU7x, of which a device is half a chip, after
# jax/_src/pallas/mosaic/tpu_info.py of JAX 0.10.2.
_PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 1155e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA GH200 480GB": 989e12,
    "NVIDIA B200": 2250e12,
}

AUTO = "auto"  # the coordinator that the environment names: TPU VMs, Slurm, Open MPI, Kubernetes
_SECONDS = 300  # how long processes wait for each other before they say that one is missing: JAX's default
_SILENCE = 30  # after so many seconds without a sign of life a process is lost
_PARTING = 10.0  # seconds that a process which ends by itself waits for the others to end too
_PATIENCE_MS = 24 * 60 * 60 * 1000  # for a process that lives: it may be compiling, or reading a bucket

_KEYS = "midigen"  # of the service, that are ours
_broadcasts, _trainings = itertools.count(), itertools.count()  # the same numbers in every process

T = TypeVar("T")


def split_cpu(devices: int = 0) -> None:
    """Make the CPU `devices` XLA devices; 0 makes one of each core that this process may use.

    Nothing changes where JAX has begun to compute, where `JAX_NUM_CPU_DEVICES` or `XLA_FLAGS` say how many
    there are, and on other devices than CPUs.
    """
    by_flag = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if by_flag or "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    try:
        jax.config.update("jax_num_cpu_devices", devices or _cores())
    except RuntimeError:  # JAX has begun to compute: it keeps the devices that it has
        return


def keep_compiled() -> None:
    """Keep compiled programs in the user's cache folder, unless `JAX_COMPILATION_CACHE_DIR` names another.

    Where that folder cannot be made, none are kept.
    """
    use_gcsfs()
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "midigen-jax" / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def use_gcsfs() -> None:
    """Reach buckets by gcsfs, whether TensorFlow is there or not, unless `EPATH_USE_TF` says otherwise."""
    # Before the first path, of a disk even: `epath` looks once for TensorFlow, and remembers.
    os.environ.setdefault("EPATH_USE_TF", "false")


def data_mesh(rows: int, replicas: int = 1, own: bool = False) -> Mesh:
    """Devices for replicas, and for each of them as many as share `rows` evenly.

    Replicas need not wait for each other, so as many devices as there are replicas go to them. They are the
    devices of all processes, or this one's `own`, in the order of processes. (`jax.make_mesh` would put them
    in the order of a TPU's torus and refuse those that fill no box, such as 3 chips of 4. Two sums a step are
    no reason for either.) Of the chips of a TPU a number is taken that divides theirs: XLA cannot compile a
    sum over 6 of 8.
    """
    known = jax.local_devices() if own else jax.devices()
    known = sorted(known, key=lambda device: (device.process_index, device.id))
    there = len(known)
    apart = max(number for number in range(1, there + 1) if there % number == 0 and number <= replicas)
    each = there // apart
    able = [number for number in range(1, each + 1) if known[0].platform != "tpu" or each % number == 0]
    shared = max(number for number in able if rows % number == 0)
    devices = np.array(known[: apart * shared]).reshape(apart, shared)
    return Mesh(devices, (REPLICA, DATA), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device of the mesh."""
    return NamedSharding(mesh, PartitionSpec())


def shard_rows(mesh: Mesh) -> NamedSharding:
    """Rows, the first axis of arrays, shared out evenly."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def to_mesh(arrays: T, sharding: Sharding) -> T:
    """Arrays that every process holds whole, as arrays of all devices."""
    if sharding.is_fully_addressable:
        return jax.device_put(arrays, sharding)

    def one(leaf: Any) -> jax.Array:
        whole = np.asarray(jax.device_get(leaf))
        own = sharding.addressable_devices_indices_map(whole.shape)
        parts = [jax.device_put(whole[index], device) for device, index in own.items()]
        return jax.make_array_from_single_device_arrays(whole.shape, sharding, parts)

    return jax.tree.map(one, arrays)


def fetch(arrays: T) -> T:
    """Arrays on the host. Raises JaxRuntimeError where what they are made of has failed, on any process."""
    if jax.process_count() > 1:  # `device_get` makes a ValueError of such an error, waiting does not
        jax.block_until_ready(arrays)
    on_host: T = jax.device_get(arrays)
    return on_host


def peak_flops() -> float | None:
    """Operations a second of all devices in bfloat16, after their makers; none where that is unknown."""
    each = _PEAKS.get(jax.devices()[0].device_kind)
    return each and each * jax.device_count()


def most_memory() -> int | None:
    """The most bytes in use so far: of a device, or of this process on a CPU; none where nobody counts."""
    known = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in known:
        return int(known["peak_bytes_in_use"])
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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

    Otherwise it would wait at its end for all others of a training, for minutes, and they for it.
    """
    if jax.distributed.is_initialized():
        parting = threading.Timer(_PARTING, os._exit, [code])
        parting.daemon = True
        parting.start()


@contextmanager
def exit_if_peer_lost() -> Iterator[None]:
    """Where another process is gone, or this one is interrupted, end this one of several with a line.

    It ends at once: in order, a checkpoint that is being written and the interpreter would wait for others.
    """
    try:
        yield
    except (OutOfMemoryError, jax.errors.JaxRuntimeError, TimeoutError, KeyboardInterrupt) as error:
        if jax.process_count() == 1:
            raise
        if isinstance(error, KeyboardInterrupt):
            leave(INTERRUPTED, INTERRUPTION)
        elif isinstance(error, OutOfMemoryError):  # the others wait for what this one cannot do
            leave(MISTAKE, str(error))
        elif is_out_of_memory(error):
            leave(MISTAKE, OUT_OF_MEMORY)
        leave(
            AGAIN,
            f"another process of this training has ended ({one_line(error)}); start all of them again, with "
            "the same command: they go on from the newest checkpoint",
        )


def is_main_process() -> bool:
    """Whether this is the process that writes and speaks: process 0, or the only one."""
    return jax.process_index() == 0


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
        if not is_main_process():
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


def main_process_first(work: Callable[[], object]) -> None:
    """Let process 0 do something that all depend on. Where it raises InputError, all processes do."""
    refused: InputError | None = None
    if is_main_process():
        try:
            work()
        except InputError as error:
            refused = error
    if broadcast_from_process_0(refused is not None):
        raise refused or InputError(
            "process 0 has refused, and says why; mend it and start all processes again"
        )


def broadcast_from_process_0(value: int) -> int:
    """The value of process 0, in all processes; each calls this as often as the others."""
    if jax.process_count() == 1:
        return value
    key = f"{_KEYS}/value/{next(_broadcasts)}"
    if not is_main_process():
        return int(_service().blocking_key_value_get(key, _PATIENCE_MS))
    _service().key_value_set(key, str(int(value)))
    return value


def _service() -> Any:
    """The client of the coordination service. JAX has no public name for it, and none of its own gathers
    that leaves the devices alone."""
    from jax._src import distributed

    return distributed.global_state.client
