"""Configurations as files: a TOML for each model that has a name, and for each number that is published.

In: the name of a recipe, or a file. Out: a `Config`. A file says the settings in which it differs from the
defaults, in tables as `Config` has them; the lines at its head say the command, its minutes and its figure.
"""

from pathlib import Path
from typing import Any, NamedTuple

from midigen_jax.config import Config, ModelConfig, flatten, nearest, one_length, override
from midigen_jax.errors import InputError
from midigen_jax.files import read_json, read_toml

_FOLDER = Path(__file__).parent
_RESULT = "result"  # the table that is about the figure, and is no setting
POOLING_BLOCKS = ("lstm", "lstm", "pooled(residual=false)")  # the article's, over the whole past
NAMES = tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


class Result(NamedTuple):
    """The figure that a recipe is for."""

    figure: str  # the name of its rows
    unit: str  # what nats are divided by
    source: str  # the data, in words
    tried: int  # configurations, among which this one was chosen on the validation split
    data: str | None = None  # what is read where no file is given


def read_config(named: str) -> Config:
    """The config of a recipe, of a TOML file, or of a run's `config.json`.

    Raises InputError for a name that is none of them, with the nearest one, for a file that cannot be read,
    and for settings that this version does not have.
    """
    settings = {name: value for name, value in _read(named).items() if name != _RESULT}
    try:
        return override(Config(), one_length(flatten(settings)))
    except InputError as error:
        raise InputError(f"{named}: {error}") from None


def read_result(named: str) -> Result:
    """The figure of a recipe or of a TOML file. Raises InputError as `read_config`, and for none."""
    table, fields = _read(named).get(_RESULT), Result._fields
    if not isinstance(table, dict) or not set(fields[:4]) <= set(table) <= set(fields):
        raise InputError(f"{named}: has no figure; give it a table [{_RESULT}] of {', '.join(fields)}")
    return Result(**table)


def is_config(named: str) -> bool:
    """Whether that names a recipe or a file of settings, and nothing else."""
    return named in NAMES or named.endswith((".toml", ".json"))


def pooling_article() -> ModelConfig:
    """The article's network, but that it pools over the whole past: what decoding is measured with."""
    return override(read_config("article"), {"model.blocks": POOLING_BLOCKS}).model


def _read(named: str) -> dict[str, Any]:
    if not is_config(named):
        raise InputError(f"no recipe {named!r}, and no .toml or .json file: {nearest(named, NAMES)}")
    path = _FOLDER / f"{named}.toml" if named in NAMES else Path(named)
    read = read_json if path.suffix == ".json" else read_toml
    return read(path, f"give a recipe ({', '.join(NAMES)}) or a file of settings")
