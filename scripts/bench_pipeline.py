"""How fast the way of the data is, from files to music: prepare, train, decode, each on its own.

    python scripts/bench_pipeline.py --quick

prints rows as JSON lines; append them to docs/benchmarks.jsonl and run `make tables`. Compile time is a
row of its own; every figure is the median of warm, blocked calls. No rival is measured here.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from bench_prepare import write_music
from midigen_jax import rows
from midigen_jax.config import PrepareConfig
from midigen_jax.data.corpus import load_corpus
from midigen_jax.data.prepare import prepare
from midigen_jax.model.network import init_params
from midigen_jax.recipes import read_config
from midigen_jax.study import decode_rows, decoding
from midigen_jax.study.benchmark import bench_train, rows_of
from midigen_jax.study.subject import Subject, without_end
from midigen_jax.train.distributed import split_cpu
from midigen_jax.train.step import make_network


def main() -> int:
    """Print the rows of all three parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under a minute: fewer runs")
    quick = parser.parse_args().quick
    runs = 5 if quick else 20
    split_cpu()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_music(home / "music", 40, np.random.default_rng(0))
        bench_prepare(home, runs=3 if quick else 9)
        corpus = load_corpus(home / "corpus-0")
        config = read_config("default")
        network = make_network(config, corpus.vocabulary)
        params = without_end(network, init_params(network, jax.random.key(0)))
        subject = Subject(network, params)
        for batch in (1, 64):
            measured = decoding.bench_decode(subject, batch, events=256, rounds=runs)
            for row in decode_rows.rows_of(subject, measured, command=_command()):
                print(rows.line(row), flush=True)
        for row in rows_of(bench_train(config, corpus), config, command=_command()):
            print(rows.line(row), flush=True)
    return 0


def bench_prepare(home: Path, runs: int) -> None:
    """Files to a corpus folder, one process."""
    times = []
    for run in range(runs):
        start = time.perf_counter()
        prepare([str(home / "music")], home / f"corpus-{run}", PrepareConfig(), workers=1)
        times.append(time.perf_counter() - start)
    files = len(list((home / "music").iterdir()))
    _print(
        "prepare.synthetic_ms_per_file", [1000 * seconds / files for seconds in times], "ms", {"files": files}
    )


def _command() -> str:
    return " ".join(["python scripts/bench_pipeline.py", *sys.argv[1:]])


def _print(name: str, values: list[float], unit: str, config: dict) -> None:
    row = rows.of_runs(name, values, unit, config=config, command=_command())
    print(rows.line(row), flush=True)


if __name__ == "__main__":
    sys.exit(main())
