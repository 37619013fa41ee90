"""What a study found: the scores of its runs as rows.

In: nats of each run's pieces, and what it cost. Out: rows of each arm, of each seed, and of each arm beside
the base.
"""

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple

import numpy as np

from midigen_jax import rows
from midigen_jax.study.comparison import Nats, difference, holm, level
from midigen_jax.study.metrics import PieceScores, columns, find_metric
from midigen_jax.study.plan import BASE, Run, Study
from midigen_jax.study.scaling import Fitted, Runs, fit_law

_COSTS = {
    "parameters": "parameters",
    "train_flops": "flop",
    "train_seconds": "s",
    "train_events": "events",
    "decode_events_per_s": "events/s",
}


class Scores(NamedTuple):
    """How one run ended."""

    pieces: list[PieceScores]
    costs: dict[str, float]
    step: int  # of the checkpoint that was scored, or of the failure
    failure: str | None = None


def rows_of(study: Study, scores: Mapping[Run, Scores], **fields: Any) -> list[rows.Row]:
    """The rows of a study; `fields` go into each. Of an arm whose runs all failed they say that alone."""

    def row(name: str, arm: str, value: float, unit: str, **more: Any) -> rows.Row:
        config = {"study": study.name, "arm": arm, "split": study.split}
        return rows.make(f"ablate.{name}", value, unit, config=config, **more, **fields)

    found = []
    for arm in study.names:
        whole = {run.seed: scores[run] for run in scores if run.arm == arm and scores[run].failure is None}
        for metric in study.metrics if whole else ():
            unit = find_metric(metric).unit
            found += [row(metric, arm, unit=unit, **cells) for cells in _levels(whole, metric)]
            found += [
                row(f"{metric}.seed", arm, float(_total(one, metric)), unit, seed=seed)
                for seed, one in whole.items()
            ]
        for cost, of in _COSTS.items():
            known = [one.costs[cost] for one in whole.values() if one.costs.get(cost) is not None]
            if known:
                found.append(row(cost, arm, float(f"{mean(known):.6g}"), of, runs=len(known)))
        for run, one in scores.items():
            if run.arm == arm and one.failure is not None:
                found.append(row("failed", arm, one.step, "step", seed=run.seed, reason=one.failure))
    found += [row("difference", arm, **cells) for arm, cells in _differences(study, scores)]
    fitted = _law(study, scores)
    if fitted is not None:
        config: dict[str, Any] = {"study": study.name, "split": study.split}
        config |= {"parameters": fitted.parameters, "events": fitted.events}
        laws = {"law": fitted.law, "low": fitted.low, "high": fitted.high}
        facts = {name: law._asdict() for name, law in laws.items()}
        found.append(rows.make("ablate.scaling", fitted.error, "1", config=config, **facts, **fields))
    return found


def _law(study: Study, scores: Mapping[Run, Scores]) -> Fitted | None:
    """How nats fall with size and data, where arms differ in both."""
    whole = [one for one in scores.values() if one.failure is None]
    if find_metric(study.metric).higher_is_better:
        return None  # the law is one of what falls
    if any({"parameters", "train_events"} - one.costs.keys() for one in whole):
        return None  # of an older version
    columns = [
        (one.costs["parameters"], one.costs["train_events"], _total(one, study.metric)) for one in whole
    ]
    return fit_law(Runs(*np.array(columns, np.float64).reshape(-1, 3).T))


def _levels(whole: Mapping[int, Scores], metric: str) -> Iterator[dict[str, Any]]:
    numerator_SP, denominator_P = _arrays(list(whole.values()), metric)
    if denominator_P.sum() > 0:
        found = level(numerator_SP, denominator_P)
        facts = {"pieces": len(denominator_P), "seeds": list(whole)}
        yield {"value": found.value, "low": found.low, "high": found.high, **facts}


def _differences(study: Study, scores: Mapping[Run, Scores]) -> list[tuple[str, dict[str, Any]]]:
    """Of each arm that has a seed in common with the base."""
    compared = {}
    for arm in study.names[1:]:
        seeds = [
            seed
            for seed in study.seeds
            if all((run := Run(name, seed)) in scores and scores[run].failure is None for name in (BASE, arm))
        ]
        if seeds:
            ours, theirs = ([scores[Run(name, seed)] for seed in seeds] for name in (arm, BASE))
            (arm_SP, divisor_P), (base_SP, _) = _arrays(ours, study.metric), _arrays(theirs, study.metric)
            higher = find_metric(study.metric).higher_is_better
            compared[arm] = difference(arm_SP, base_SP, divisor_P, higher), len(seeds)
    corrected = holm([found.p for found, _ in compared.values()])
    cells = []
    for (arm, (found, count)), p in zip(compared.items(), corrected, strict=True):
        facts = {"unit": study.unit, "p_corrected": p, "runs": count}
        cells.append((arm, found._asdict() | facts))
    return cells


def _arrays(seeds: Sequence[Scores], metric: str) -> tuple[Nats, Nats]:
    """(S, P) numerators of the metric, and (P,) denominators, which are of the pieces."""
    return np.stack([columns(one.pieces, metric)[0] for one in seeds]), columns(seeds[0].pieces, metric)[1]


def _total(one: Scores, metric: str) -> float:
    numerator_SP, denominator_P = _arrays([one], metric)
    return float(numerator_SP.sum() / denominator_P.sum()) if denominator_P.sum() else float("nan")
