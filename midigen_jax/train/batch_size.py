"""How many rows a batch has: what `auto` comes to, what devices can share, and what their memory holds.

In: a config, the devices that JAX knows, a run's folder, errors of XLA's. Out: a number, or a line that names
one which is possible.
"""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jax

from midigen_jax.config import AUTO_ROWS, Config, override
from midigen_jax.errors import OUT_OF_MEMORY, InputError, OutOfMemoryError, is_out_of_memory
from midigen_jax.train.run_dir import rows_there

_TILE = 8  # rows that a TPU pads to
_ON_CPU = 16  # of all devices: more of them make a step longer, and no row of it quicker

# The fewest rows that keep a device busy, by how the names of kinds begin. Compiled for TPUs with the LSTM's
# kernels, cycles by XLA's model and of those kernels by what they stream (docs/pallas.md): on a v5e the
# default model does 2.5, 2.8, 2.5 and 2.2 events a thousand cycles with 16, 64, 128 and 256 rows, and the
# recipe `tpu` 2.0, 1.8 and 1.6 with 64, 128 and 256; on a v6e that recipe does 3.5, 3.7, 3.1 and 3.0 with
# 32, 64, 128 and 256. What more rows keep of all times leaves the fast memory. No chip has been timed.
_ROWS_A_DEVICE = {
    "TPU": 64,  # v5e and v6e as above, the others like them
    "": 128,  # GPUs: a guess, from the tiles of their matrix products
}

_NUMBER = r"([\d.]+) ?([KMGT]?)"
# What XLA says where a program does not fit: as it is compiled for a TPU, begins to run there, runs on a GPU.
_USED = re.compile(rf"Used {_NUMBER}\w* of {_NUMBER}\w* hbm")
_RESERVED = re.compile(rf"Attempting to (?:reserve|allocate) {_NUMBER}.*?There are {_NUMBER}\w* free", re.S)
_ALLOCATED = re.compile(rf"(?:trying to allocate|allocating) {_NUMBER}")


def with_rows(config: Config, run: Path | None = None) -> Config:
    """The config with a number for `batch.rows`: its own, that of the run, or what fills all devices."""
    if config.batch.rows != AUTO_ROWS:
        return config
    there = None if run is None else rows_there(run)
    return override(config, {"batch.rows": there or rows_that_fill(jax.devices())})


def rows_that_fill(devices: Sequence[jax.Device]) -> int:
    """The fewest rows that keep all of these devices busy, shared evenly."""
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        return -(-_ON_CPU // len(devices)) * len(devices)
    return len(devices) * next(rows for name, rows in _ROWS_A_DEVICE.items() if kind.startswith(name))


def check_rows(rows: int) -> None:
    """Raises InputError for rows that the devices of several processes cannot share evenly: all take part."""
    devices = jax.device_count()
    if jax.process_count() == 1 or rows % devices == 0:
        return
    below = rows // devices * devices
    nearest = f"{below} or {below + devices}" if below else str(devices)
    raise InputError(
        f"batch.rows = {rows}: all {devices} devices of {jax.process_count()} processes must share them "
        f"evenly; give {nearest}"
    )


@contextmanager
def says_what_fits(rows: int, devices: int) -> Iterator[None]:
    """Where a program of so many rows on so many devices is too large, say which rows would fit, about."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        stats = jax.local_devices()[0].memory_stats() or {}
        raise OutOfMemoryError(what_fits(str(error), rows, devices, stats, _resident())) from None


def what_fits(said: str, rows: int, devices: int, stats: dict[str, int], resident: int) -> str:
    """The line for a program of `rows` that does not fit, from what XLA `said`.

    `stats` are those of a device's memory, `resident` are bytes on it that stay the same with fewer rows.
    """
    needed, there, stays = 0.0, 0.0, 0
    if found := _USED.search(said):
        needed, there, stays = _bytes(*found.group(1, 2)), _bytes(*found.group(3, 4)), resident
    elif found := _RESERVED.search(said):
        needed, there = _bytes(*found.group(1, 2)), _bytes(*found.group(3, 4))
    elif (found := _ALLOCATED.search(said)) and "bytes_limit" in stats:
        needed, there = _bytes(*found.group(1, 2)), stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    if not 0 < there < needed or stays >= needed:
        return OUT_OF_MEMORY
    takes = f"batch.rows = {rows} take {needed / 2**30:.3g} GiB of a device that has {there / 2**30:.3g}"
    # What a step takes grows with its rows, but for what stays: weights, optimizer, music.
    each = math.floor(rows / devices * max(0.0, there - stays) / (needed - stays))
    each -= each % _TILE if each > _TILE else 0
    if not each:
        return f"out of memory: {takes}, too little for {devices} rows; lower --batch.length or --model.width"
    return (
        f"out of memory: {takes}; about {each * devices} would fit: give --batch.rows {each * devices}, or "
        "lower --batch.length or --model.width"
    )


def _bytes(number: str, unit: str) -> float:
    return float(number) * 1024 ** " KMGT".index(unit or " ")


def _resident() -> int:
    """The bytes of all arrays that lie on the first device of this process."""
    device = jax.local_devices()[0]
    there = (array for array in jax.live_arrays() if not array.is_deleted())
    return sum(
        shard.data.nbytes for array in there for shard in array.addressable_shards if shard.device == device
    )
