"""What replicas cost: k trainings in one program against k lone runs of the same settings.

    python scripts/bench_ablate.py --quick

prints rows as JSON lines; append them to docs/benchmarks.jsonl and run `make tables`. A lone run has all
devices for its rows, as `midigen train` has it; replicas share the devices out. Both take turns, warm and
blocked; compiling is apart, and comes once for all replicas and once for each lone run.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from midigen_jax import rows
from midigen_jax.config import Config, override
from midigen_jax.study.benchmark import elapsed, subject_of
from midigen_jax.train.distributed import data_mesh, replicated, split_cpu
from midigen_jax.train.replicas import by_replica, make_train_steps, stack
from midigen_jax.train.step import hyperparameters, init_state

SMALL: dict[str, object] = {"model.width": 128, "model.pitch_embedding": 96, "model.duration_embedding": 32}
ARMS: tuple[dict[str, object], ...] = ({}, {"train.learning_rate": 2e-3})
STEPS = 4  # of each replica, in one call
TRAINING = 300  # steps of a run, over which its compiling is spread


def main() -> int:
    """Print the rows of the default model and of a small one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few minutes: fewer rounds")
    parser.add_argument("--seeds", type=int, default=4, metavar="N", help="of each of two arms (default: 4)")
    parser.add_argument("--together", type=int, default=1, metavar="N", help="replicas computed as one")
    given = parser.parse_args()
    split_cpu()
    for changes in (SMALL, {}):
        for row in measure(changes, given.seeds, given.together, rounds=3 if given.quick else 9):
            print(rows.line(row), flush=True)
    return 0


def measure(changes: dict[str, object], seeds: int, together: int, rounds: int) -> list[rows.Row]:
    """The rows of one model."""
    base = override(Config(), {**changes, "train.steps_per_call": STEPS})
    configs = [override(base, {**arm, "train.seed": seed}) for arm in ARMS for seed in range(seeds)]
    began = time.perf_counter()
    replicas = _program(configs, together)
    replica_compile = time.perf_counter() - began
    began = time.perf_counter()
    lone = _program(configs[:1], 1)
    lone_compile = time.perf_counter() - began
    spent: dict[str, list[float]] = {"replicas": [], "lone": []}
    for number in range(rounds):
        turns: list[tuple[str, Callable[[], None], int]] = [
            ("replicas", replicas, 1),
            ("lone", lone, len(configs)),
        ]
        for name, call, times in turns[:: -1 if number % 2 else 1]:
            spent[name].append(elapsed(call, times))
    cost = [ours / theirs for ours, theirs in zip(spent["replicas"], spent["lone"], strict=True)]
    whole = [TRAINING / STEPS * np.median(spent[name]) for name in ("replicas", "lone")]
    with_compile = (whole[0] + replica_compile) / (whole[1] + len(configs) * lone_compile)
    command = shlex.join(["python", "scripts/bench_ablate.py", *sys.argv[1:]])
    config: dict[str, Any] = {"replicas": len(configs), "width": base.model.width, "together": together}
    config |= {"batch": base.batch.rows, "length": base.batch.length, "devices": jax.device_count()}
    compiles = {"replicas_s": round(replica_compile, 2), "lone_s": round(lone_compile, 2)}
    of_runs = {"config": config, "command": command}
    return [
        rows.of_runs("ablate.replica_cost", cost, "x", **of_runs),
        rows.of_runs(
            "ablate.compile_share",
            [replica_compile / (len(configs) * lone_compile)],
            "x",
            **of_runs,
            **compiles,
        ),
        rows.of_runs("ablate.whole_cost", [with_compile], "x", **of_runs, training_steps=TRAINING),
    ]


def _program(configs: list[Config], together: int) -> Callable[[], None]:
    """A compiled call of STEPS steps of each config, as replicas."""
    config = configs[0]
    network, crops = subject_of(config)
    mesh = data_mesh(config.batch.rows, len(configs))
    own = stack([(init_state(network, one.train), hyperparameters(one)) for one in configs])
    state_N, hyper_N = jax.device_put(own, by_replica(mesh))
    crops = jax.device_put(crops, replicated(mesh))
    steps = make_train_steps(network, config, TRAINING, True, mesh, together=together)
    count_N = np.full(len(configs), STEPS, np.int32)
    compiled = steps.lower(state_N, hyper_N, crops, count_N).compile()  # type: ignore[attr-defined]

    def call() -> None:
        nonlocal state_N
        state_N, metrics_NK = compiled(state_N, hyper_N, crops, count_N)
        jax.block_until_ready(metrics_NK)

    return call


if __name__ == "__main__":
    sys.exit(main())
