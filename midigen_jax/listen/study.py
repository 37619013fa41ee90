"""A study's folder to one HTML file: what each arm changes, whether that is clear, and what it costs.

In: `study.json`, `results.jsonl`, the rows of the runs and `samples/`, each as far as it is there, so that a
study that still runs has a page too. Out: HTML that carries its audio and pictures in itself and may ask
nothing of any network. The page is made from files alone.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from midigen_jax import rows as row_files
from midigen_jax.errors import InputError
from midigen_jax.files import read_json
from midigen_jax.listen import study_charts
from midigen_jax.listen.curves import series
from midigen_jax.listen.figures import save, svg
from midigen_jax.listen.page import STUDY, Sample, read_sample, write_page
from midigen_jax.listen.study_charts import Band, Interval, short
from midigen_jax.listen.tables import many, words
from midigen_jax.rows import Row

_REMEDY = "`midigen ablate STUDY.toml --out FOLDER` makes one"
_KEYS = ("name", "question", "base", "arms", "folders", "seeds", "metric", "split", "command")
_LEVEL = 0.05  # a corrected p that is greater is called chance
_NAMED = 4  # arms that a sentence lists
_NOTHING = "–"
_MINUS = "\N{MINUS SIGN}"
_COSTS = {"train_flops": "training FLOPs", "train_seconds": "training seconds"}


class Arm(NamedTuple):
    """What is known of one arm."""

    name: str
    changes: Mapping[str, Any]
    folder: str
    figures: Mapping[str, Row]
    """the last row of each name, without `ablate.`"""
    failed: Sequence[Row]
    seeds: frozenset[int]
    """that were measured"""

    def number(self, name: str, field: str = "value") -> float | None:
        """One field of one figure; None where it was not measured, or is no finite number."""
        value = self.figures.get(name, {}).get(field)
        return value if isinstance(value, int | float) and math.isfinite(value) else None

    def interval(self, name: str) -> Interval | None:
        """A figure with its interval, which shrinks to the figure where there is none."""
        value = self.number(name)
        if value is None:
            return None
        low, high = (self.number(name, field) for field in ("low", "high"))
        return Interval(value, value if low is None else low, value if high is None else high)

    @property
    def is_clear(self) -> bool:
        """Whether it differs from the base by more than chance, all comparisons considered."""
        p = self.number("difference", "p_corrected")
        return self.number("difference") is not None and p is not None and p <= _LEVEL


class Study(NamedTuple):
    """A study as its files tell it; arms in the order of the file."""

    facts: Mapping[str, Any]
    arms: Sequence[Arm]
    law: Row | None = None
    """how nats fall with size and data, where that was fitted"""

    @property
    def quality(self) -> str:
        metric: str = self.facts["metric"]
        return metric

    @property
    def measure(self) -> str:
        """The metric in words: nats per quarter."""
        return self.quality.replace("_", " ").replace(".", ", ")

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return 1 if self.facts.get("higher_is_better") else -1

    @property
    def waiting(self) -> list[Arm]:
        """The arms that have a seed that neither was measured nor failed."""
        seeds = set(self.facts["seeds"])
        return [arm for arm in self.arms if seeds - arm.seeds - {row.get("seed") for row in arm.failed}]

    @property
    def best(self) -> Arm | None:
        found = [(value, arm) for arm in self.arms if (value := arm.number(self.quality)) is not None]
        return max(found, key=lambda pair: self.sign * pair[0])[1] if found else None


def write_study(folder: Path, out: Path) -> None:
    """Write the page of the study in `folder` to the file `out`.

    Raises InputError when `folder` is no study, when a file in it cannot be read, and when `out` is a folder
    or a file that is not an earlier page of a study.
    """
    if not (folder / "study.json").is_file():
        raise InputError(f"{folder}: no study (no study.json); {_REMEDY}")
    study = _read(folder)
    facts = study.facts
    write_page(
        STUDY,
        out,
        name=facts["name"],
        question=facts["question"],
        lead=list(_lead(study)),
        measure=study.measure,
        most=study.sign > 0,
        base=facts["base"],
        seeds=len(facts["seeds"]),
        table=[_line(study, arm) for arm in study.arms],
        failed=[
            (arm.name, row.get("seed", _NOTHING), row.get("value"), row.get("reason", "no reason was given"))
            for arm in study.arms
            for row in arm.failed
        ],
        pictures={name: svg(figure) for name, figure in _draw(folder, study)},
        samples=list(_read_samples(folder / "samples", study.arms)),
        commands=[("Go on with this study, or make it again", facts["command"])],
        settings={},
        law=[] if study.law is None else study_charts.constants(study.law, study.measure),
        law_error="" if study.law is None else words(study.law["value"], share=True),
    )


def write_pictures(folder: Path) -> None:
    """The plots of the page of the study in `folder`, as files beside its tables: `differences.svg` …"""
    for name, figure in _draw(folder, _read(folder)):
        save(figure, folder / f"{name}.svg", facecolor="white")


def _read(folder: Path) -> Study:
    facts = read_json(folder / "study.json", _REMEDY)
    if missing := [key for key in _KEYS if key not in facts]:
        raise InputError(f"{folder / 'study.json'}: says nothing of {', '.join(missing)}; {_REMEDY}")
    path = folder / "results.jsonl"
    rows: dict[str, list[Row]] = {name: [] for name in facts["arms"]}
    law = None
    for row in row_files.read(path) if path.is_file() else []:
        config = row.get("config", {})
        law = row if row.get("name") == "ablate.scaling" else law
        if config.get("arm") in rows and config.get("split", facts["split"]) == facts["split"]:
            rows[config["arm"]].append(row)
    arms = [_read_arm(facts, name, found) for name, found in rows.items()]
    return Study(facts, arms, law)


def _read_arm(facts: Mapping[str, Any], name: str, rows: Sequence[Row]) -> Arm:
    figures = {str(row.get("name")).removeprefix("ablate."): row for row in rows}
    failed = {row.get("seed"): row for row in rows if row.get("name") == "ablate.failed"}
    quality = facts["metric"]
    seeds = {row["seed"] for row in rows if row.get("name") == f"ablate.{quality}.seed"}
    seeds |= set(figures.get(quality, {}).get("seeds", ()))
    failures = [row for seed, row in failed.items() if seed not in seeds]  # it may have been run again
    return Arm(name, facts["arms"][name], facts["folders"][name], figures, failures, frozenset(seeds))


def _lead(study: Study) -> Iterator[str]:
    """What was found, in sentences that claim no more than the corrected p allows."""
    facts, best = study.facts, study.best
    counts = {int(pieces) for arm in study.arms if (pieces := arm.number(study.quality, "pieces"))}
    measured = f", measured on {many(max(counts), 'piece')} of the {facts['split']} split" if counts else ""
    yield f"{many(len(study.arms), 'arm')}, {many(len(facts['seeds']), 'seed')} each{measured}."
    if study.waiting:
        done = len(study.arms) - len(study.waiting)
        yield f"Not finished yet: {done:,} of {many(len(study.arms), 'arm')} are done."
    if failures := sum(len(arm.failed) for arm in study.arms):
        yield f"{many(failures, 'run')} failed."
    if best is None:
        yield "Nothing has been measured yet." if study.waiting else "Nothing could be measured."
        return
    extreme = "has the most" if study.sign > 0 else "needs the fewest"
    level = f"“{best.name}” {extreme} {study.measure}, {best.number(study.quality):.4f}"
    yield f"{level}: the base itself." if best.name == facts["base"] else f"{level}{_verdict(study, best)}"
    yield from _others(study, best)


def _verdict(study: Study, arm: Arm) -> str:
    difference, base = arm.interval("difference"), study.facts["base"]
    if difference is None:
        return f"; how it differs from “{base}” is not known yet."
    said = f". Its difference from “{base}”, {_signed(difference.value)}"
    corrected = f"after correction (p {_p(arm.number('difference', 'p_corrected'))})"
    if arm.is_clear:
        return f"{said}, is clear of zero {corrected}."
    return f"{said}, is not clear of zero {corrected}: it may be chance."


def _others(study: Study, best: Arm) -> Iterator[str]:
    """The other arms that differ clearly; or that none does."""
    known = [(value, arm) for arm in study.arms if (value := arm.number("difference")) is not None]
    clear = [(value, arm) for value, arm in known if arm.is_clear]
    for word, sign in (("better", study.sign), ("worse", -study.sign)):
        if names := [f"“{arm.name}”" for value, arm in clear if value * sign > 0 and arm is not best]:
            more = f" and {many(len(names) - _NAMED, 'other')}" if len(names) > _NAMED else ""
            yield f"Clearly {word} than “{study.facts['base']}”: {', '.join(names[:_NAMED])}{more}."
    if known and not clear:
        yield f"No arm differs clearly from “{study.facts['base']}”."


class Line(NamedTuple):
    """An arm in the table. A cell is its text, and what stands small below it."""

    arm: str
    changes: list[tuple[str, str]]
    cells: list[tuple[str, str]]
    is_best: bool
    is_clear: bool


def _line(study: Study, arm: Arm) -> Line:
    level, difference = arm.interval(study.quality), arm.interval("difference")
    measured = len(arm.seeds) if 0 < len(arm.seeds) < len(study.facts["seeds"]) else None
    few = f"{many(measured, 'seed')} only" if measured else ""

    def cell(text: Callable[[float], str], name: str, field: str = "value") -> tuple[str, str]:
        value = arm.number(name, field)
        return (_NOTHING if value is None else text(value)), ""

    cells = [
        (f"{level.value:.4f}", f"{level.low:.4f} to {level.high:.4f} {few}") if level else (_NOTHING, few),
        (_signed(difference.value), f"{_signed(difference.low)} to {_signed(difference.high)}")
        if difference
        else (_NOTHING, ""),
        cell(lambda better: words(better, share=True), "difference", "better"),
        cell(lambda p: _p(p).removeprefix("= "), "difference", "p_corrected"),
        cell("{:,.0f}".format, "parameters"),
        cell(short, "train_flops"),
        cell(lambda seconds: f"{seconds:,.{1 if seconds < 10 else 0}f}", "train_seconds"),
        cell("{:,.0f}".format, "decode_events_per_s"),
    ]
    changes = [(setting, words(value)) for setting, value in arm.changes.items()]
    return Line(arm.name, changes, cells, arm is study.best, arm.is_clear)


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", _MINUS)


def _p(value: float | None) -> str:
    if value is None:
        return "not known"
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _draw(folder: Path, study: Study) -> Iterator[tuple[str, Any]]:
    """(name in the template, figure) of every picture that there is something to draw in."""
    base, measure = study.facts["base"], study.measure
    look = study_charts.looks([arm.name for arm in study.arms], base)
    others = [arm for arm in study.arms if arm.name != base]
    differences = {arm.name: found for arm in others if (found := arm.interval("difference"))}
    if differences:
        clear = {arm.name for arm in others if arm.is_clear}
        yield "differences", study_charts.draw_differences(differences, clear, base, measure, study.sign)
    bands = {arm.name: band for arm in study.arms if (band := _band(folder, study, arm)).steps}
    if bands:
        yield "learning", study_charts.draw_learning(bands, look)
    known = {
        cost: {
            arm.name: (spent, level)
            for arm in study.arms
            if (spent := arm.number(cost)) is not None and (level := arm.interval(study.quality))
        }
        for cost in _COSTS
    }
    cost = max(_COSTS, key=lambda cost: len(known[cost]))  # of equals the first, which no machine changes
    if study.law is not None:
        points = [
            (size, events, level)
            for arm in study.arms
            if (size := arm.number("parameters")) is not None
            and (events := arm.number("train_events")) is not None
            and (level := arm.interval(study.quality))
        ]
        yield "scaling", study_charts.draw_law(study.law, points, measure)
    if known[cost]:
        yield "costs", study_charts.draw_costs(known[cost], _COSTS[cost], measure, look)


def _band(folder: Path, study: Study, arm: Arm) -> Band:
    """How the runs of an arm that did not fail learnt."""
    failed = {row.get("seed") for row in arm.failed}
    seeds = [seed for seed in study.facts["seeds"] if seed not in failed]
    places = (folder / "runs" / arm.folder / f"seed-{seed}" / "rows.jsonl" for seed in seeds)
    runs = [series(row_files.read(path), "valid.nats_per_event") for path in places if path.is_file()]
    return study_charts.band([run for run in runs if run[0]])


def _read_samples(folder: Path, arms: Sequence[Arm]) -> Iterator[tuple[str, Sample]]:
    """The arms that a piece was written with, each by name."""
    for arm in arms:
        sample = read_sample(folder, arm.folder)
        if any(sample[1:]):
            yield arm.name, sample
