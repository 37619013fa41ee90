"""Models to lay beside the literature, from the file of a benchmark to the row, one command each.

    python scripts/results.py jsb_quarter --data JSB_Chorales.mat --out results/jsb_quarter
    python scripts/results.py nottingham  --data Nottingham.mat   --out results/nottingham
    python scripts/results.py jsb16 --data Jsb16thSeparated.json  --out results/jsb16
    python scripts/results.py jsb16_sets --data Jsb16thSeparated.json --out results/jsb16_sets
    python scripts/results.py bach                                --out results/bach
    python scripts/results.py article_music --data midi_dataset.zip   --out results/article

prepares the corpus, trains a model for each seed (a command that was cut goes on where it was), scores it and
the models without a network, prints tables, and adds rows `quality.…` to `OUT/results.jsonl`. Choices
are made with `--split valid`, the default; `--split test` is for the end.
"""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from midigen_jax import rows
from midigen_jax.config import Config, nearest, one_length, override
from midigen_jax.data.corpus import Corpus
from midigen_jax.data.prepare import prepare
from midigen_jax.errors import InputError
from midigen_jax.music.piece import Split
from midigen_jax.recipes import Result, read_config, read_result
from midigen_jax.study import evaluate as evaluation
from midigen_jax.study.metrics import METRICS, pick
from midigen_jax.train.distributed import keep_compiled, split_cpu
from midigen_jax.train.loop import fit
from midigen_jax.train.pretrained import load_model

_UNITS = [name.removeprefix("nats_per_") for name in METRICS if name.startswith("nats_per_")]


def main(words: Sequence[str] | None = None) -> int:
    """Run one recipe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", metavar="RECIPE|FILE", help="of midigen_jax/recipes, or a TOML like them")
    parser.add_argument("--data", metavar="FILE", help="the benchmark's file")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="corpus, runs and rows")
    parser.add_argument("--seeds", default="0,1,2", metavar="N,N…", help="a model each (default: 0,1,2)")
    parser.add_argument(
        "--split", choices=("valid", "test"), default="valid", help="what is scored (default: valid)"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="fewer steps, to see that it works")
    given = parser.parse_args(words)
    split_cpu()
    keep_compiled()
    try:
        run(given.recipe, given.data, given.out, _numbers(given.seeds), given.split, given.steps)
    except InputError as error:
        print(f"results.py: {error}", file=sys.stderr)
        return 2
    return 0


def run(
    name: str, data: str | None, out: Path, seeds: Sequence[int], split: Split, steps: int | None = None
) -> list[rows.Row]:
    """Train and score a recipe's models; returns the rows, which are also added to `out/results.jsonl`."""
    result = read_result(name)
    if result.unit not in _UNITS:
        raise InputError(f"{name}: unit = {result.unit!r}: {nearest(result.unit, _UNITS)}")
    source = data or result.data
    if source is None:
        raise InputError(f"{name}: give --data, {result.source}")
    fewer: dict[str, object] = {} if steps is None else {"train.steps": steps}
    config = override(read_config(name), one_length(fewer))
    corpus = prepare([source], out / "corpus", config.prepare)
    models = list(evaluation.evaluate_baselines(corpus, split))
    for place, seed in enumerate(dict.fromkeys(seeds)):
        _train(corpus, override(config, {"train.seed": seed}), out / f"seed-{seed}")
        restored = load_model(str(out / f"seed-{seed}"))
        models.insert(place, evaluation.evaluate(restored, corpus, split, f"seed {seed}"))
    for line in evaluation.table(models):
        print(line)
    found = [row for model in models for row in _rows(result, model, split, out)]
    path = out / "results.jsonl"
    # A command that is given again says again what it said.
    before = rows.read(path) if path.is_file() else []
    others = [row for row in before if not any(_same(row, new) for new in found)]
    rows.rewrite(path, [*others, *found])
    return found


def _train(corpus: Corpus, config: Config, run: Path) -> None:
    done = fit(corpus, config, run)
    if done.interrupted:
        raise InputError(f"stopped at step {done.step} of {done.steps}; the same command goes on from there")


def _same(one: rows.Row, other: rows.Row) -> bool:
    return all(one.get(key) == other.get(key) for key in ("name", "config", "seed"))


def _rows(result: Result, model: evaluation.Evaluated, split: Split, out: Path) -> Iterator[rows.Row]:
    """The recipe's figure of one model, of all pieces and of each part of them."""
    trained = model.model.startswith("seed ")
    fields: dict[str, Any] = {"command": shlex.join(["python", "scripts/results.py", *sys.argv[1:]])}
    if trained:
        seed = int(model.model.removeprefix("seed "))
        seconds = rows.last(rows.read(out / f"seed-{seed}" / "rows.jsonl"), "train.seconds")
        fields |= {"seed": seed, "tried": result.tried, "train_seconds": seconds}
    for part, found in model.parts.items():
        figure = pick(found, f"nats_per_{result.unit}")
        config = {"model": "ours" if trained else model.model, "split": split, "part": part}
        interval = {"low": figure.low, "high": figure.high, "pieces": figure.pieces}
        yield rows.make(
            result.figure, figure.value, f"nats/{result.unit}", config=config, **interval, **fields
        )


def _numbers(text: str) -> list[int]:
    if not all(part.isdecimal() for part in text.split(",")):
        raise InputError(f"--seeds {text}: give whole numbers, as in 0,1,2")
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
