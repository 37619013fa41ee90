"""The devices that trainings run on: a mesh of replicas and rows, and one XLA device a core on a CPU.

XLA takes a CPU for one device and splits each operation over its cores. The operations of a recurrent step
are too small for that: the cores wait for each other. One device a core, each with its own rows of the batch,
meets the others once a step. The rows are the same and so is their mean; it is summed in another order, so
losses agree to rounding and not to the bit with those of another number of devices.
"""

import os
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

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
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "midigen-jax" / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


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


def everywhere(mesh: Mesh) -> NamedSharding:
    """A copy on every device of the mesh."""
    return NamedSharding(mesh, PartitionSpec())


def by_row(mesh: Mesh) -> NamedSharding:
    """Rows, the first axis of arrays, shared out evenly."""
    return NamedSharding(mesh, PartitionSpec(DATA))


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
