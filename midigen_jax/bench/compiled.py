"""Compiles training and decoding for devices that are not there.

In: a config, a vocabulary, a target. Out: programs as XLA has compiled them for it, which cannot
run here: their text, and the memory that they take. libtpu has to be loaded for TPUs, once in a process, with
the environment that `environment` gives it: see `bench.worker`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import xla_bridge
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from jax.stages import Lowered

from midigen_jax.bench.targets import Target
from midigen_jax.config import Config
from midigen_jax.data.batches import CropSpan, RawRow, crops_of
from midigen_jax.errors import InputError, one_line
from midigen_jax.model.network import Network, init_params
from midigen_jax.sample.constraints import constraints
from midigen_jax.sample.decode import DecodeFlags, Prompt, Settings, decode, resume
from midigen_jax.sample.filters import SamplingParams
from midigen_jax.train.distributed import DATA, REPLICA, replicated
from midigen_jax.train.replicas import by_replica, make_train_steps, start_alone
from midigen_jax.vocab import Vocabulary, by_stream, start_event

_PIECES, _EVENTS = 64, 4096  # of the corpus that lies on each device
_STEPS = 1000  # that the schedule of the learning rate is made for
DECODED = 256  # events of each piece in a call


def devices(target: Target) -> list[jax.Device]:
    """Descriptions of the target's devices. Raises InputError where the compiler does not have it."""
    try:
        if target.chip.platform == "cuda":
            described = _cuda(target)
        else:
            options: dict[str, Any] = {}
            if target.topology == "1x1":
                options["chips_per_host_bounds"] = (1, 1, 1)
            name = f"{target.kind}:{target.topology}"
            described = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except jax.errors.JaxRuntimeError as error:
        raise InputError(
            f"--target {target.name}: the compiler does not know it ({one_line(error)})"
        ) from None
    return list(described.devices[: target.devices])


def _cuda(target: Target) -> topologies.TopologyDescription:
    """A Hopper GPU as XLA describes one to itself (`gpu_device_info` of its `GpuTargetConfigProto`)."""
    # JAX looks for a GPU where it resolves the name of the platform: jax issues 23971 and 28376.
    known = xla_bridge.canonicalize_platform
    xla_bridge.canonicalize_platform = lambda platform: (
        "cuda" if platform in ("gpu", "cuda") else known(platform)
    )
    chip = target.chip
    described = f"""
        gpu_device_info {{
          cuda_compute_capability {{ major: 9 }} core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
          threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          registers_per_core_limit: 65536 registers_per_block_limit: 65536 l2_cache_size: 52428800
          shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
          memory_bandwidth: {chip.bandwidth:.0f} device_memory_size: {chip.memory}
          driver_version: "12.9.0" runtime_version: "12.9.0" compile_time_toolkit_version: "12.9.0"
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 10 }}
        runtime_version {{ major: 12 minor: 9 }}
        device_description_str: "NVIDIA {target.kind.upper()}"
    """
    return topologies.get_topology_desc(platform="cuda", topology=target.topology, target_config=described)


def data_mesh(own: Sequence[jax.Device]) -> Mesh:
    """One replica, whose rows the devices share."""
    return Mesh(np.array(own).reshape(1, -1), (REPLICA, DATA), axis_types=(AxisType.Auto,) * 2)


def lower_train(network: Network, config: Config, own: Sequence[jax.Device]) -> Lowered:
    """The steps of a lone training, whose corpus of 262,144 events lies on each device.

    Raises InputError for rows that the devices cannot share.
    """
    rows, shared = config.batch.rows, len(own)
    if rows % shared:
        nearest = max(shared, round(rows / shared) * shared)
        raise InputError(
            f"batch.rows = {rows}: {shared} devices must share them evenly; {nearest} is the nearest "
            f"number, and {8 * shared} or more fill tiles"
        )
    mesh = data_mesh(own)
    alone = Mesh(np.array(jax.devices("cpu")[:1]).reshape(1, 1), (REPLICA, DATA))
    crops = crops_of(
        [np.zeros((_EVENTS, len(network.vocabulary.streams)), np.int32)] * _PIECES,
        config.batch,
        network.vocabulary,
    )
    state, hyper, held = jax.eval_shape(lambda: start_alone(network, config, crops, alone))
    music = _shapes(held, replicated(mesh))
    if config.batch.stream:
        music = _shapes(_read(config, network.vocabulary), NamedSharding(mesh, PartitionSpec(None, DATA)))
    replica = by_replica(mesh)
    count = jax.ShapeDtypeStruct((1,), jnp.int32, sharding=replica)
    steps: Any = make_train_steps(network, config, _STEPS, True, mesh)
    return steps.lower(_shapes(state, replica), _shapes(hyper, replica), music, count)


def lower_decode(network: Network, device: jax.Device, pieces: int, filters: bool = False) -> Lowered:
    """256 more events of so many pieces on one device; with all filters and constraints, or none."""
    place = partial(_shapes, sharding=SingleDeviceSharding(device))
    params = place(jax.eval_shape(partial(init_params, network), jax.random.key(0)))
    settings = jax.eval_shape(lambda: _settings(network, pieces, filters))
    vocabulary = network.vocabulary
    start = Prompt(by_stream(vocabulary, start_event(vocabulary)[None]), jnp.ones((1, 1), bool))
    flags = DecodeFlags(filters=filters, tpu=device.platform == "tpu")
    state, _ = jax.eval_shape(lambda: decode(network, params, start, settings, events=1, flags=flags))
    return resume.lower(network, params, place(state), place(settings), events=DECODED, flags=flags)


def _settings(network: Network, pieces: int, filters: bool) -> Settings:
    numbers, counts = jnp.ones(pieces), jnp.zeros(pieces, jnp.int32)
    params = SamplingParams(numbers, counts, numbers, numbers, numbers)
    rules = constraints(network.vocabulary, repeats=2, bar=48) if filters else None
    keys = jax.random.split(jax.random.key(0), pieces)
    by_name = {stream.name: params for stream in network.vocabulary.streams}
    return Settings(keys, by_name, counts, counts, rules)


def _read(config: Config, vocabulary: Vocabulary) -> RawRow:
    """What the steps of a call read where batches are streamed."""
    lead = config.train.steps_per_call, config.batch.rows
    number = jax.ShapeDtypeStruct(lead, jnp.int32)
    events = (*lead, config.batch.before + config.batch.length + 1)
    ids = {stream.name: jax.ShapeDtypeStruct(events, jnp.int32) for stream in vocabulary.streams}
    numbers: Any = [number] * len(CropSpan._fields)
    raw: Any = CropSpan(*numbers), ids, number
    return RawRow(*raw)


def _shapes(tree: Any, sharding: Any) -> Any:
    """The same arrays, elsewhere: only their shapes are."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)
