"""Meshes of devices that are not there: of TPU topologies as libtpu describes them, and made-up ones."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from midigen_jax.sample.decode import rows_mesh
from midigen_jax.train.distributed import DATA, REPLICA, data_mesh

# By libtpu's name: processes, devices of each.
TOPOLOGIES = {
    "v5e:1x1": (1, 1),
    "v5e:2x2": (1, 4),
    "v5e:2x4": (1, 8),  # v5litepod-8 is one machine
    "v5e:4x8": (8, 4),
    "v5e:16x16": (64, 4),
    "v6e:2x2": (1, 4),
    "v6e:4x4": (4, 4),
    "v5p:2x2x1": (1, 4),
    "v5p:2x2x4": (4, 4),
    "tpu7x:2x2x1": (1, 8),  # two devices a chip
    "tpu7x:4x4x8": (32, 8),
}
ON_ONE_MACHINE = {"v5e:1x1": (1, 1, 1), "v5e:2x4": (2, 4, 1)}  # chips, where that is not libtpu's default


@dataclass(frozen=True)
class Device:
    """As much of a device as makes a mesh."""

    id: int
    process_index: int
    platform: str = "tpu"


def of_libtpu(name):
    pytest.importorskip("libtpu", reason="libtpu, which describes TPUs that are not there, is not installed")
    from jax.experimental import topologies

    bounds = {"chips_per_host_bounds": ON_ONE_MACHINE[name]} if name in ON_ONE_MACHINE else {}
    return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **bounds).devices)


def made_up(name, platform="tpu"):
    """Not in the order of processes: the first device of each comes first, as along a torus."""
    processes, each = TOPOLOGIES[name]
    return [
        Device(process * each + n, process, platform) for n in range(each) for process in range(processes)
    ]


@pytest.fixture(params=["libtpu", "made up"])
def given(request, monkeypatch):
    """A function that has JAX see the devices of a topology, and returns them."""
    # Neither a lock nor a question to a metadata server, for a TPU that is only described.
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")

    def give(name, describe=of_libtpu if request.param == "libtpu" else made_up):
        devices = describe(name)
        monkeypatch.setattr(jax, "devices", lambda *_: devices)
        monkeypatch.setattr(
            jax, "local_devices", lambda *_, **__: [one for one in devices if one.process_index == 0]
        )
        return devices

    return give


def neighbours(mesh):
    """Whether the devices of each process stand together in the mesh, in the order of processes."""
    processes = [device.process_index for device in mesh.devices.ravel()]
    return processes == sorted(processes)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_any_topology_has_a_mesh_for_any_rows_and_replicas(given, name):
    devices = given(name)
    processes, each = TOPOLOGIES[name]
    assert len(devices) == processes * each
    for rows in (*range(1, 41), 48, 64, 96, 120, 128, 256, 1000, 1024):
        mesh = data_mesh(rows)
        assert rows % mesh.size == 0
        assert len(devices) % mesh.size == 0
        assert neighbours(mesh)
        if rows % len(devices) == 0:
            assert mesh.size == len(devices)
    for replicas in (1, 2, 3, 5, 8, 16):
        for rows in (1, 6, 16, 128):
            shape = data_mesh(rows, replicas).shape
            assert shape[REPLICA] <= replicas
            assert rows % shape[DATA] == 0
            assert len(devices) % (shape[REPLICA] * shape[DATA]) == 0
    assert data_mesh(1, len(devices)).shape[REPLICA] == len(devices)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_any_number_of_pieces_is_written_by_a_machine(given, name):
    """`midigen generate --count 3` on four chips, say."""
    devices = given(name)
    for rows in (*range(1, 65), 100, 255, 256, 384, 512, 1000, 1024, 10_000):
        mesh = rows_mesh(rows)
        if mesh is not None:
            assert rows % mesh.size == 0
            assert rows // mesh.size >= 128
            assert {device.process_index for device in mesh.devices.ravel()} == {0}
    shared = rows_mesh(1024)
    assert (shared is None) == (len(devices) == 1)


def test_devices_other_than_tpus_are_shared_by_as_many_as_divide_the_rows(given):
    def cpus(name):
        return made_up(name, "cpu")

    given("v5e:2x4", cpus)
    assert [data_mesh(rows).size for rows in (5, 6, 7, 12, 16)] == [5, 6, 7, 6, 8]


def test_a_sum_over_any_mesh_compiles_for_tpus(given, request):
    """Of 6 chips of 8, which rows of 6 and 12 would take, it does not."""
    if "made up" in request.node.name:
        pytest.skip("made-up devices have no compiler")
    for name, rows, replicas in [
        ("v5e:2x4", 6, 1),
        ("v5e:2x4", 12, 2),
        ("v5e:2x2", 6, 1),
        ("v5e:4x8", 64, 3),
    ]:
        devices = given(name)
        mesh = data_mesh(rows, replicas)
        assert len(devices) % mesh.size == 0  # where it does not, the compiler may end this process
        of = PartitionSpec(REPLICA, DATA)
        add = jax.jit(
            jax.shard_map(
                lambda part: jax.lax.psum(part, DATA),
                mesh=mesh,
                in_specs=of,
                out_specs=PartitionSpec(REPLICA),
                check_vma=False,
            )
        )
        shape = mesh.shape[REPLICA], 8 * rows
        add.lower(jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, of))).compile()
