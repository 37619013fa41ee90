"""What the machine can do at most: the product of two large float32 matrices in JAX."""

from midigen_jax.study.benchmark import peak_product
from midigen_jax.train.distributed import data_mesh
from rivals.side import Settings, Side
from train_sides.job import Job

CANDIDATES: tuple[Settings, ...] = ({},)


def build(job: Job, settings: Settings) -> Side:
    """One product a call, on one device that has all threads."""
    multiply, flops = peak_product(data_mesh(1))

    def call() -> float:
        multiply()
        return 0.0

    return Side(call, {"flops": flops})
