"""The chips that programs are compiled for, and what each of them can do at most.

In: a name, such as `v5e` (one chip), `v5e:4x8` (a slice of so many by so many) or `h200`. Out: a `Target`.
JAX is not imported.
"""

from dataclasses import dataclass
from typing import Literal

from midigen_jax.config import nearest
from midigen_jax.errors import InputError

_GB, _MIB = 10**9, 1 << 20


@dataclass(frozen=True)
class Chip:
    """Limits of one device as JAX has it: a chip, or one of the two cores of a TPU7x."""

    platform: Literal["tpu", "cuda"]
    flops: float  # bfloat16 operations a second
    memory: int  # bytes
    bandwidth: float  # bytes a second from that memory
    fast_memory: int  # bytes of VMEM; of shared memory in all multiprocessors
    hertz: float  # of the clock that cycles are counted in
    devices: int = 1  # of a chip


# TPUs: jax 0.10.2, jax/_src/pallas/mosaic/tpu_info.py. Neither that nor libtpu says a clock: it is the one at
# which the matrix units give these operations, 131,072 a cycle on v5e (4 units of 128 x 128), 262,144 on v5p,
# 524,288 on v6e and a core of TPU7x. What XLA expects of a product of 8192 x 8192 is 70 to 90 % of those.
# GPUs: NVIDIA's data sheets of H100 SXM and H200 SXM, without sparsity.
CHIPS = {
    "v5e": Chip("tpu", 1.97e14, 17_200_000_000, 8.2e11, 128 * _MIB, 1.5e9),
    "v5p": Chip("tpu", 4.59e14, 103 * _GB, 2.46e12, 2 * 64 * _MIB, 1.75e9),
    "v6e": Chip("tpu", 9.2e14, 34_400_000_000, 1.64e12, 128 * _MIB, 1.75e9),
    "tpu7x": Chip("tpu", 1.155e15, 103 * _GB, 3.7e12, 64 * _MIB, 2.2e9, devices=2),
    "h100": Chip("cuda", 9.89e14, 80 << 30, 3.35e12, 132 * 227 << 10, 1.98e9),
    "h200": Chip("cuda", 9.89e14, 141 << 30, 4.8e12, 132 * 227 << 10, 1.98e9),
}

_PLANE = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_TORUS = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4")
TOPOLOGIES = {"v5e": _PLANE, "v6e": _PLANE, "v5p": _TORUS, "tpu7x": _TORUS}


@dataclass(frozen=True)
class Target:
    """What is compiled for: the first `devices` of a topology of chips of one kind."""

    name: str
    kind: str  # of chip
    topology: str
    devices: int

    @property
    def chip(self) -> Chip:
        """The limits of each device."""
        return CHIPS[self.kind]


def known_targets() -> list[str]:
    """Every name that `find_target` takes."""
    return [*CHIPS, *(f"{kind}:{shape}" for kind, shapes in TOPOLOGIES.items() for shape in shapes)]


def find_target(name: str) -> Target:
    """The target of that name. Raises InputError for an unknown one: the nearest, or all kinds of chips."""
    if name not in known_targets():
        kind = name.partition(":")[0]
        there = (
            known_targets() if kind not in CHIPS else [known for known in known_targets() if kind in known]
        )
        raise InputError(f"--target {name}: unknown; {nearest(name, there)}")
    kind, _, topology = name.partition(":")
    if topology:
        chips = 1
        for side in topology.split("x"):
            chips *= int(side)
        return Target(name, kind, topology, chips * CHIPS[kind].devices)
    # One chip alone: the smallest topology that has it.
    return Target(name, kind, TOPOLOGIES.get(kind, ("1x1x1",))[0], CHIPS[kind].devices)
