"""A run's folder, and whose it is.

config.json   the experiment            rows.jsonl     what was measured
corpus.json   what it was trained on    checkpoints/   see `checkpoint`
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from midigen_jax import config as configs
from midigen_jax import rows
from midigen_jax.config import Config
from midigen_jax.data.corpus import Corpus
from midigen_jax.errors import InputError
from midigen_jax.files import check_folder, locked, make_folder, read_json, write_json


@contextmanager
def claimed(corpus: Corpus, config: Config, run: Path) -> Iterator[None]:
    """While entered, `run` is the folder of this experiment, and this process's. Raises InputError if not."""
    _check(corpus, config, run)
    make_folder(run)
    with locked(run):
        if not _check(corpus, config, run):
            (run / "rows.jsonl").unlink(missing_ok=True)
            facts = {"plan": corpus.manifest["plan"], "path": str(corpus.path)}
            write_json(run / "corpus.json", corpus.manifest["summary"] | facts)
            # The config comes last: a folder with a config.json is a whole run folder.
            write_json(run / "config.json", configs.to_json(config))
        yield


def _check(corpus: Corpus, config: Config, run: Path) -> bool:
    """Whether `run` holds steps of this experiment. Raises InputError where it holds anything else."""
    if _has_steps(run):
        _check_run(corpus, config, run)
        return True
    # A folder in which no step was ever made holds nothing that could be lost.
    check_folder(run, _left_by_us(run))
    return False


def rows_there(run: Path) -> int | None:
    """The `batch.rows` of the run that is in the folder `run`; none where no step was made there."""
    if not _has_steps(run):
        return None
    there = configs.from_json(Config, read_json(run / "config.json", "give another --out"))
    return there.batch.rows


def _has_steps(run: Path) -> bool:
    place = run / "rows.jsonl"
    return place.is_file() and any(row.get("step", 0) for row in rows.read(place))


def _left_by_us(run: Path) -> tuple[str, ...]:
    """The names of what a command that was cut before its first step may have left in `run`."""
    if not (run / "config.json").is_file():
        return ("corpus.json",)
    if "prepare" not in read_json(run / "config.json", "give another --out"):
        return ()
    return ("config.json", "corpus.json", "checkpoints", "rows.jsonl", "tensorboard")


def _check_run(corpus: Corpus, config: Config, run: Path) -> None:
    """Raises InputError where the run in the folder `run` differs from this experiment."""
    remedy = "give another --out"
    # A setting that an older version did not know has its default.
    there = configs.from_json(Config, read_json(run / "config.json", remedy))
    theirs = configs.flatten(configs.to_json(there))
    for name, value in configs.flatten(configs.to_json(config)).items():
        if theirs[name] != value:
            raise InputError(f"{run}: holds a run with {name} = {theirs[name]}, not {value}; {remedy}")
    if read_json(run / "corpus.json", remedy).get("plan") != corpus.manifest["plan"]:
        raise InputError(f"{run}: holds a run on another corpus than {corpus.path}; {remedy}")
