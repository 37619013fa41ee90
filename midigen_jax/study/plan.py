"""A study as one value: arms beside a base, seeds, a budget, and what is measured.

In: a TOML file. Out: `Study`, validated with the classes that hold any experiment; and its runs.

    corpus = ["bach"]                   # what `midigen prepare` takes
    seeds = [0, 1, 2]
    question = "Does attention help?"
    measure = ["nats_per_quarter", "decode", "sample"]
    config = "default"

    [budget]
    steps = 600                         # or epochs, or seconds: of each run

    [base]                              # settings of all arms
    "model.width" = 128

    [arms."no attention"]               # and of one
    "model.blocks" = ["lstm", "lstm"]

    [grid]                              # an arm for each combination
    "model.width" = [128, 256]
"""

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from midigen_jax import config as configs
from midigen_jax.config import Config, flatten, nearest, override
from midigen_jax.errors import InputError
from midigen_jax.files import read_toml
from midigen_jax.music.piece import Split
from midigen_jax.recipes import read_config
from midigen_jax.study.metrics import METRICS, find_metric

BASE = "base"
MOST_RUNS = 1000  # that are done without being asked twice
_COSTS = ("decode", "sample")  # that are measured beside metrics
_KEYS = ("name", "question", "corpus", "config", "seeds", "measure", "split", "prompt")
_TABLES = ("budget", "base", "arms", "grid")
# What decides which pieces are in which split: arms on other pieces cannot be compared.
_FIXED = ("prepare.seed", "prepare.valid_share", "prepare.test_share", "prepare.only_key", "prepare.tracks")
_LENGTHS = ("train.steps", "train.epochs")
_GIVEN = {"train.seed": "seeds", "train.teachers": "another study"}


class Arm(NamedTuple):
    """A name, and the settings in which it differs from the base."""

    name: str
    changes: tuple[tuple[str, Any], ...]


class Run(NamedTuple):
    """One training of a study."""

    arm: str
    seed: int


@dataclass(frozen=True)
class Study:
    """Arms beside a base. Raises InputError for what cannot be a study.

    `arms` do not name the base; `budget` is (steps, epochs or seconds, how many) of each run.
    """

    name: str
    corpus: tuple[str, ...]
    base: Config
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    budget: tuple[Literal["steps", "epochs", "seconds"], float] = ("steps", 600)
    measure: tuple[str, ...] = ("nats_per_quarter", "decode", "sample")
    split: Split = "test"
    question: str = ""
    prompt: str = ""

    def __post_init__(self) -> None:
        if not self.corpus:
            raise InputError(f'{self.name}: no corpus; give what to prepare, as in corpus = ["bach"]')
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"{self.name}: seeds = {list(self.seeds)}: give one or more, none of them twice")
        if len(set(self.measure)) < len(self.measure):
            raise InputError(f"{self.name}: measure = {list(self.measure)}: name nothing twice")
        for measure in self.measure:
            if measure not in _COSTS and measure.partition(".")[0] not in METRICS:
                known = nearest(measure, (*METRICS, *_COSTS))
                raise InputError(f"{self.name}: measure {measure!r}: {known}")
        if not self.metrics:
            raise InputError(f"{self.name}: measure nothing to compare; give one of {', '.join(METRICS)}")
        if self.split not in ("valid", "test"):
            raise InputError(f"{self.name}: split = {self.split!r}: give valid or test")
        if not (self.budget[1] > 0 and math.isfinite(self.budget[1])):
            raise InputError(f"{self.name}: budget.{self.budget[0]} = {self.budget[1]}: give more than 0")
        seen, folders = {self.config(BASE): BASE}, {slug(BASE)}
        for arm in self.arms:
            if slug(arm.name) in folders:
                raise InputError(f"{self.name}: two arms are called {arm.name!r}; give each its own name")
            folders.add(slug(arm.name))
            config = self.config(arm.name)
            if not self.is_of_music and config.prepare != self.base.prepare:
                raise InputError(
                    f"{self.name}, arm {arm.name!r}: cuts music in events of its own; compare by "
                    "nats_per_quarter or nats_per_frame, which comes first in measure"
                )
            same = seen.setdefault(config, arm.name)
            if same != arm.name:
                raise InputError(f"{self.name}: arm {arm.name!r} is {same!r} again; change a setting in it")

    @property
    def metric(self) -> str:
        """What the arms are compared by: the first metric that is measured."""
        return self.metrics[0]

    @property
    def metrics(self) -> list[str]:
        """All metrics that are measured, by `NAME` or `NAME.PART`."""
        return [measure for measure in self.measure if measure not in _COSTS]

    @property
    def unit(self) -> str:
        """Of the metric."""
        return find_metric(self.metric).unit

    @property
    def is_of_music(self) -> bool:
        """Whether the metric means the same in any vocabulary: nats of all streams per time that goes by."""
        return self.metric in ("nats_per_quarter", "nats_per_frame")

    @property
    def names(self) -> list[str]:
        """The base and the arms."""
        return [BASE, *(arm.name for arm in self.arms)]

    @property
    def runs(self) -> list[Run]:
        """Every arm with every seed."""
        return [Run(arm, seed) for arm in self.names for seed in self.seeds]

    def changes(self, arm: str) -> dict[str, Any]:
        """The settings in which an arm differs from the base."""
        return dict(self._changes.get(arm, ()))

    @cached_property
    def _changes(self) -> dict[str, tuple[tuple[str, Any], ...]]:
        return dict(self.arms)

    def config(self, arm: str, seed: int = 0) -> Config:
        """The experiment of a run. With a budget of seconds its steps are yet to be found."""
        changes = self.changes(arm)
        for name in changes:
            if name in _FIXED:
                raise InputError(
                    f"{self.name}, arm {arm!r}: {name} decides which pieces are compared; set it in [base]"
                )
            if name in _GIVEN:
                raise InputError(
                    f"{self.name}, arm {arm!r}: {name} is no setting of an arm; use {_GIVEN[name]}"
                )
            if name in _LENGTHS and self.budget[0] == "seconds":
                raise InputError(
                    f"{self.name}, arm {arm!r}: {name} and a budget of seconds; give one of them"
                )
        length = {"train.steps": 0, "train.epochs": 0} | {
            "train.epochs" if self.budget[0] == "epochs" else "train.steps": math.ceil(self.budget[1])
        }
        own = configs.one_length(changes)
        try:
            config = override(self.base, {**length, **own, "train.seed": seed})
        except InputError as error:
            raise InputError(f"{self.name}, arm {arm!r}: {error}") from None
        if config.train.checkpoints:
            raise InputError(
                f"{self.name}: train.checkpoints: a study keeps all it makes in its folder; leave it out"
            )
        if config.batch.rows == configs.AUTO_ROWS:
            raise InputError(
                f"{self.name}: batch.rows = auto: a study is the same on any machine; give a number"
            )
        if config.batch.stream:
            raise InputError(
                f"{self.name}: batch.stream: studies hold their corpus on the device; leave it out"
            )
        return config


def slug(arm: str) -> str:
    """An arm's name as that of a folder."""
    return re.sub(r"[^\w.]+", "-", arm.lower()).strip("-.") or "arm"


def read_study(path: Path, most: int = MOST_RUNS, config: str | None = None) -> Study:
    """The study in a TOML file; its base begins with `config`, where that is given, in place of its own.

    Raises InputError for a file that is none, for a setting that is none, with the nearest one, and for more
    than `most` runs.
    """
    data = read_toml(path, "give a .toml file, such as one of scripts/studies/")
    return make_study(data if config is None else data | {"config": config}, path.stem, most)


def make_study(data: Mapping[str, Any], name: str, most: int = MOST_RUNS) -> Study:
    """A study from what a TOML file holds; `name` is its name where it says none. Raises as `read_study`."""
    for key in data:
        if key not in (*_KEYS, *_TABLES):
            raise InputError(f"{name}: no setting {key!r} of a study: {nearest(key, (*_KEYS, *_TABLES))}")
    tables = {key: data.get(key, {}) for key in _TABLES}
    for key, table in tables.items():
        if not isinstance(table, Mapping):
            raise InputError(f"{name}: {key} = {table!r}: give a table, [{key}]")
    for arm, changes in tables["arms"].items():
        if not isinstance(changes, Mapping):
            raise InputError(f'{name}, arm {arm!r}: give a table of settings, [arms."{arm}"]')
    named = data.get("config", "default")
    own = flatten(tables["base"])
    for setting in _LENGTHS:
        if setting in own:
            raise InputError(f"{name}: [base] has {setting}; the length of runs is their [budget]")
    base = override(read_config(_text(name, "config", named)), own)
    fields: dict[str, Any] = {
        key: tuple(_text(name, key, item) for item in _list(name, key, data[key]))
        for key in ("corpus", "measure")
        if key in data
    }
    if "seeds" in data:
        fields["seeds"] = tuple(_list(name, "seeds", data["seeds"]))
    if not all(type(seed) is int and 0 <= seed < 2**32 for seed in fields.get("seeds", ())):
        raise InputError(f"{name}: seeds = {list(fields['seeds'])}: give whole numbers from 0 on")
    fields |= {
        key: _text(name, key, data[key]) for key in ("name", "question", "split", "prompt") if key in data
    }
    grid = {key: _list(name, f"grid.{key}", values) for key, values in flatten(tables["grid"]).items()}
    points = math.prod(map(len, grid.values())) if grid else 0
    runs = (1 + len(tables["arms"]) + points) * len(fields.get("seeds", (0, 1, 2)))
    if runs > most:
        raise InputError(f"{name}: {runs:,} runs; give --yes to train them all, or a smaller grid")
    arms = [Arm(arm, _pairs(changes)) for arm, changes in tables["arms"].items()]
    arms += _points(base, grid)
    return Study(
        **{"name": name, "corpus": (), **fields},
        base=base,
        arms=tuple(arms),
        budget=_budget(name, tables["budget"]),
    )


def _points(base: Config, grid: Mapping[str, Sequence[Any]]) -> Iterable[Arm]:
    """An arm for each combination of values but the base's own."""
    for values in itertools.product(*grid.values()) if grid else ():
        changes = dict(_pairs(dict(zip(grid, values, strict=True))))
        if override(base, changes) != base:
            # Commas stand between settings, so none within a value.
            spelled = (configs.spell(value).replace(",", "+") for value in changes.values())
            words = (f"{key.rpartition('.')[2]} {value}" for key, value in zip(changes, spelled, strict=True))
            yield Arm(", ".join(words), tuple(changes.items()))


def _budget(name: str, table: Mapping[str, Any]) -> tuple[Any, float]:
    kinds = ("steps", "epochs", "seconds")
    for kind in table:
        if kind not in kinds:
            raise InputError(f"{name}: no budget of {kind!r}: {nearest(kind, kinds)}")
    amount = next(iter(table.values()), None)
    fits = isinstance(amount, int | float) if "seconds" in table else isinstance(amount, int)
    if len(table) != 1 or isinstance(amount, bool) or not fits or amount is None:
        raise InputError(f"{name}: [budget] says how long each run takes; give steps, epochs or seconds")
    return next(iter(table)), float(amount)


def _pairs(changes: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    flat = flatten(changes).items()
    return tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in flat)


def _list(name: str, key: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{name}: {key} = {value!r}: give a list, with one value or more")
    return value


def _text(name: str, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name}: {key} = {value!r}: give text")
    return value
