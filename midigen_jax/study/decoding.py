"""How fast a model writes events on this machine, and how near that is to its matrix products alone.

In: a network with weights, sizes of a batch, rivals or none. Out: rows. Every figure is the median of warm,
blocked rounds in which all that is measured takes turns; compiling is a row of its own.

`<end>` is never drawn, so that all rows have the same work to the end.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from midigen_jax import rows
from midigen_jax.music.notes import TICKS_PER_QUARTER
from midigen_jax.progress import Progress
from midigen_jax.sample.decode import Decoded, rows_mesh
from midigen_jax.study.benchmark import elapsed
from midigen_jax.study.subject import Subject, pitch_entropy, untold
from midigen_jax.study.turns import FILTERS, PROMPT, RULES, Floor, Loop, Prefill

_ROUNDS = 5
_STEPS = 100  # that are timed one by one, in a round
_TEMPO = 120  # quarters a minute


class Measured(NamedTuple):
    """What was found for one size of batch; lists have a value for each round."""

    batch: int
    events: int  # a row, in one call
    compile_seconds: dict[str, float]  # of each program
    seconds: dict[str, list[float]]  # a call of each program takes
    steps: list[np.ndarray]  # seconds of single steps; of one row alone
    entropy: dict[str, float]  # nats of the next pitch, of the weights by name
    ticks: float  # an event
    notes: float | None  # an event
    rivals: dict[str, list[float]]  # events/s


def bench_decode(
    subject: Subject,
    batch: int,
    events: int,
    rivals: Mapping[str, Callable[[], float]] | None = None,
    seconds: float = 0.5,
    rounds: int = _ROUNDS,
) -> Measured:
    """Write `events` events on each of `batch` rows a call, in rounds of `seconds` or of one call.

    `rivals` work for a round when they are called, and say how many events a second they wrote.
    """
    rivals = rivals or {}
    network, params = subject.network, subject.params
    plain = Loop(network, params, batch, events)
    filtered = Loop(network, params, batch, events, filtered=True)
    written = plain()
    prefill = Prefill(network, params, written)
    compiled = {
        "loop": plain.compile_seconds,
        "filters": filtered.compile_seconds,
        "prefill": prefill.compile_seconds,
    }
    calls: dict[str, Callable[[], Any]] = {"loop": plain, "filters": filtered, "prefill": prefill}
    calls["floor"] = Floor(network, params, batch, events)
    entropy = {"": pitch_entropy(network, params, written)}
    if subject.flat is not None:
        calls["filters.flat"] = filtered.other(subject.flat)
        entropy["flat"] = pitch_entropy(network, subject.flat, calls["filters.flat"]())
    if network.config.context.used:
        bare = untold(subject)
        calls["untold"] = Loop(bare.network, bare.params, batch, events)
    step = Loop(network, params, batch, 1) if batch == 1 else None
    counts = {name: max(1, round(seconds / _warm_seconds(call))) for name, call in calls.items()}
    found: dict[str, list[float]] = {name: [] for name in calls}
    theirs: dict[str, list[float]] = {name: [] for name in rivals}
    steps = []
    with Progress(f"batch {batch}", rounds, "rounds") as progress:
        for number in range(rounds):
            # Back and forth, so that nobody always comes after the same one.
            for name in list(calls)[:: -1 if number % 2 else 1]:
                found[name].append(elapsed(calls[name], counts[name]) / counts[name])
            if step is not None:
                steps.append(np.array([elapsed(step) for _ in range(_STEPS)]))
            for name, rival in rivals.items():
                theirs[name].append(rival())
            progress.advance()
    ticks = float(np.mean(written.duration_BN))
    return Measured(batch, events, compiled, found, steps, entropy, ticks, _notes(subject, written), theirs)


def rows_of(
    subject: Subject,
    measured: Measured,
    settings: Mapping[str, dict[str, Any]] | None = None,
    **fields: Any,
) -> list[rows.Row]:
    """The rows of one size of batch; `settings` are those of rivals, `fields` go into each row."""
    model, rules, batch = subject.network.config, subject.network.grammar, measured.batch
    config = {"batch": batch, "events": measured.events, "weights": subject.origin}
    config |= {"vocabulary": {"pitch": rules.pitch_size, "duration": rules.duration_size}}
    names = ("width", "layers", "attention", "attention_window", "heads")
    config |= {name: getattr(model, name) for name in names} | {"dtype": model.compute_dtype}
    if model.context.used:  # rows of models without it need not say so
        config |= {"context": asdict(model.context)}
    mesh = rows_mesh(batch)
    config |= {"devices": 1 if mesh is None else mesh.size}
    config |= {"cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()}

    def row(name: str, values: list[float], unit: str, **more: Any) -> rows.Row:
        return rows.of_runs(f"decode.{name}", values, unit, config=config | more, **fields)

    plain = measured.seconds["loop"]
    rates = [batch * measured.events / spent for spent in plain]
    found = [
        row("events_per_s", rates, "events/s"),
        *_music_rows(row, rates, measured),
        row(
            "prefill_events_per_s",
            [batch * PROMPT / spent for spent in measured.seconds["prefill"]],
            "events/s",
            prompt=PROMPT,
        ),
        *_step_rows(row, measured),
        row("share_of_floor", _ratios(measured.seconds["floor"], plain), "share"),
    ]
    for name, weights in (("filters", ""), ("filters.flat", "flat")):
        if name in measured.seconds:
            cost = _ratios(measured.seconds[name], plain)
            entropy = float(f"{measured.entropy[weights]:.2g}")
            more = {"pitch_entropy": entropy, "filters": FILTERS, "constraints": RULES}
            found.append(row(name.replace("filters", "filters_cost"), cost, "x", **more))
    if "untold" in measured.seconds:
        found.append(row("context_cost", _ratios(plain, measured.seconds["untold"]), "x"))
    for program, spent in measured.compile_seconds.items():
        suffix = "" if program == "loop" else f".{program}"
        found.append(row(f"compile_seconds{suffix}", [spent], "s"))
    for name, theirs in measured.rivals.items():
        more = dict((settings or {}).get(name, {}))
        found.append(row(f"events_per_s.{name}", theirs, "events/s", **more))
        ratio = row(f"ratio.{name}", _ratios(rates, theirs), "x", **more)
        ratio["value"] = float(f"{np.median(rates) / np.median(theirs):.6g}")  # of the medians
        found.append(ratio)
    return found


def _music_rows(row: Callable[..., rows.Row], rates: list[float], measured: Measured) -> list[rows.Row]:
    """How much music that is."""
    found = []
    if measured.notes is not None:
        found.append(row("notes_per_s", [rate * measured.notes for rate in rates], "notes/s"))
    of_event = measured.ticks / TICKS_PER_QUARTER * 60 / _TEMPO
    music = [rate * of_event for rate in rates]
    return [*found, row("music_seconds_per_s", music, "s/s", tempo=_TEMPO)]


def _step_rows(row: Callable[..., rows.Row], measured: Measured) -> list[rows.Row]:
    """Of one row alone: how long an event takes, in the loop and when each is waited for."""
    if not measured.steps:
        return []
    of_loop = [1e6 * spent / measured.events for spent in measured.seconds["loop"]]
    found = [row("us_per_event", of_loop, "us")]
    for percent in (50, 95):
        of_rounds = [1e6 * float(np.percentile(steps, percent)) for steps in measured.steps]
        found.append(row(f"step_p{percent}_us", of_rounds, "us", dispatch=True))
    return found


def _ratios(above: list[float], below: list[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def _notes(subject: Subject, written: Decoded) -> float | None:
    """Pitches that are attacked in an event, on average; None without a vocabulary."""
    if subject.tokenizer is None:
        return None
    ids = np.arange(subject.tokenizer.pitch_size, dtype=np.int32)[:, None]
    attacked_P = np.array([sum(subject.tokenizer.sounding(id_)[1]) for id_ in ids])
    return float(attacked_P[np.asarray(written.pitch_BN)].mean())


def _warm_seconds(call: Callable[[], Any]) -> float:
    call()
    return elapsed(call)
