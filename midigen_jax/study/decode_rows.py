"""The rows of what the benchmark of decoding found, and one line of them to paste.

In: a subject or a step model, and what was measured. Out: rows, and text that is made of rows alone.
"""

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

import jax
import numpy as np

from midigen_jax import __version__, rows
from midigen_jax.listen.tables import many
from midigen_jax.sample.decode import rows_mesh
from midigen_jax.sample.generate import STREAMED
from midigen_jax.study.decoding import BARS, Measured
from midigen_jax.study.step_model import StateSize, StepModel
from midigen_jax.study.subject import Subject
from midigen_jax.study.turns import FILTERS, PROMPT, RULES

MakeRow = Callable[..., rows.Row]


class RivalLike(Protocol):
    """What rows say of a rival, beside its rate."""

    @property
    def settings(self) -> dict[str, Any]:
        """Under which it was measured."""

    @property
    def state(self) -> StateSize | None:
        """What it keeps of a piece, where that is known."""


def rows_of(
    subject: Subject | StepModel,
    measured: Measured,
    rivals: Mapping[str, RivalLike] | None = None,
    **fields: Any,
) -> list[rows.Row]:
    """The rows of one size of batch; `fields` go into each row."""
    about = _about_step(subject, measured) if isinstance(subject, StepModel) else _about(subject, measured)
    config, own = about
    fields = own | fields

    def row(name: str, values: Sequence[float], unit: str, **more: Any) -> rows.Row:
        spread = {}
        if len(values) > 1:
            spread = {"mean": _six(statistics.mean(values)), "deviation": _six(statistics.stdev(values))}
        return rows.of_runs(f"decode.{name}", values, unit, config=config | more, **spread, **fields)

    plain = measured.seconds["loop"]
    rates = [measured.batch * measured.events / spent for spent in plain]
    found = [
        row("events_per_s", rates, "events/s"),
        *_music_rows(row, rates, measured, subject.tempo if isinstance(subject, Subject) else None),
        row(
            "prefill_events_per_s",
            [measured.batch * PROMPT / spent for spent in measured.seconds["prefill"]],
            "events/s",
            prompt=PROMPT,
        ),
        *_latency_rows(row, measured),
        *_state_rows(row, measured.state),
    ]
    if "floor" in measured.seconds:
        found.append(row("share_of_floor", _ratios(measured.seconds["floor"], plain), "share"))
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
        rival = (rivals or {}).get(name)
        more = {} if rival is None else dict(rival.settings)
        found.append(row(f"events_per_s.{name}", theirs, "events/s", **more))
        ratio = row(f"ratio.{name}", _ratios(rates, theirs), "x", **more)
        ratio["value"] = _six(float(np.median(rates) / np.median(theirs)))  # of the medians
        found.append(ratio)
        if rival is not None:
            found += _state_rows(partial(row, **rival.settings), rival.state, f".{name}")
    return found


def _about(subject: Subject, measured: Measured) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config of our rows, and what else they say."""
    model, rules = subject.network.config, subject.network.vocabulary
    config = {"batch": measured.batch, "events": measured.events, "weights": subject.origin}
    config |= {"vocabulary": dict(rules.streams)}
    config |= model.summary | {"dtype": model.compute_dtype}
    if model.context.used:  # rows of models without it need not say so
        config |= {"context": asdict(model.context)}
    mesh = rows_mesh(measured.batch)
    config |= {"devices": 1 if mesh is None else mesh.size, "cores": _cores()}
    name = f"midigen-jax {__version__}, {subject.origin}, {' '.join(model.blocks)}, {model.width} units"
    parameters = sum(leaf.size for leaf in jax.tree.leaves(subject.params))
    return config, {"model": name, "parameters": parameters} | _place()


def _about_step(model: StepModel, measured: Measured) -> tuple[dict[str, Any], dict[str, Any]]:
    known = {name: model.about[name] for name in ("parameters", "backend", "threads") if name in model.about}
    config = {"batch": measured.batch, "events": measured.events, "model": model.name, "loop": measured.loop}
    config |= {"dtype": model.about["dtype"]} if "dtype" in model.about else {}
    config |= {"devices": 1, "cores": _cores()}
    place = _place() if measured.loop == "jitted" else {"backend": "host", "threads": _cores()}
    return config, {"model": model.name} | place | known


def _place() -> dict[str, Any]:
    """Where JAX computes, and with how many threads, if that is a CPU."""
    backend = jax.default_backend()
    return {"backend": backend} | ({"threads": _cores()} if backend == "cpu" else {})


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _music_rows(row: MakeRow, rates: list[float], measured: Measured, tempo: float | None) -> list[rows.Row]:
    """How much music that is, of all pieces together."""
    seconds, notes = measured.music
    found = []
    if notes is not None:
        found.append(row("notes_per_s", [rate * notes for rate in rates], "notes/s"))
    if seconds is not None:
        more = {} if tempo is None else {"tempo": tempo}
        found.append(row("realtime_factor", [rate * seconds for rate in rates], "x", **more))
    return found


def _latency_rows(row: MakeRow, measured: Measured) -> list[rows.Row]:
    """How long one waits: for an event, and for the first one."""
    found = []
    if measured.batch == 1:
        of_loop = [1e6 * spent / measured.events for spent in measured.seconds["loop"]]
        found.append(row("us_per_event", of_loop, "us"))
    for name, events, unit, scale, more in (
        ("step_p{}_us", 1, "us", 1e6, {"dispatch": True}),
        ("event_ms.p{}", STREAMED, "ms", 1e3, {"events_a_call": STREAMED}),
    ):
        calls = measured.calls.get("step" if events == 1 else "stream", [])
        for percent in (50, 99) if calls else ():
            of_rounds = [scale * _percentile(spent, percent) / events for spent in calls]
            made = row(name.format(percent), of_rounds, unit, **more)
            # Of all rounds together: one round has too few calls for its last percent.
            pooled = np.concatenate(calls)
            made |= {
                "value": _six(scale * _percentile(pooled, percent) / events),
                "calls": len(pooled),
            }
            found.append(made)
    for name, spent in measured.first.items():
        more = {}
        if name == "prompt":
            more = {"bars": BARS, "prompt": measured.prompt, "padded": measured.padded}
        suffix = "" if name == "warm" else f".{name}"
        found.append(row(f"first_note_ms{suffix}", [1e3 * seconds for seconds in spent], "ms", **more))
    return found


def _percentile(seconds: Sequence[float] | np.ndarray, percent: int) -> float:
    """One of the measured values: interpolated, that of all rounds might lie outside of those of each."""
    return float(np.percentile(seconds, percent, method="inverted_cdf"))


def _state_rows(row: MakeRow, state: StateSize | None, suffix: str = "") -> list[rows.Row]:
    """What a piece's state takes, and by how much it grows."""
    if state is None:
        return []
    return [
        row(f"state_bytes{suffix}", [state.size], "bytes"),
        row(f"state_growth{suffix}", [state.growth], "bytes/1000 events"),
    ]


def line_of(found: Sequence[rows.Row]) -> str:
    """One line, a row of Markdown's tables, that says of the rows of one size of batch what others compare.

    Figures of several rounds are mean ± deviation.
    """
    by_name = {row["name"].removeprefix("decode."): row for row in found}
    first = by_name["events_per_s"]
    config = first["config"]
    threads = f", {many(first['threads'], 'thread')}" if "threads" in first else ""
    cells = [
        first["model"],
        f"{first['parameters']:,} parameters" if "parameters" in first else "",
        config.get("dtype", ""),
        f"{first['backend']}{threads}, {first['device']}",
        f"{many(config['batch'], 'piece')}, {config.get('loop', 'jitted')} loop",
    ]
    if "prefill_events_per_s" in by_name:
        prompt = by_name["prefill_events_per_s"]
        cells.append(f"prompt of {prompt['config']['prompt']}: {_mean(prompt)} events/s")
    cells.append(f"generation of {config['events']}: {_mean(first)} events/s")
    if "notes_per_s" in by_name:
        cells.append(f"{_mean(by_name['notes_per_s'])} notes/s")
    if "realtime_factor" in by_name:
        music = by_name["realtime_factor"]
        tempo = f" at {music['config']['tempo']:g}" if "tempo" in music["config"] else ""
        cells.append(f"{_mean(music)} x real time{tempo}")
    if "event_ms.p50" in by_name:
        middle, last = by_name["event_ms.p50"], by_name["event_ms.p99"]
        calls = f"calls of {middle['config']['events_a_call']}"
        cells.append(f"an event {_short(middle['value'])} ms, p99 {_short(last['value'])} ({calls})")
    waits = {
        "cold": "cold process",
        "cached": "with kept programs",
        "": "warm",
        "prompt": "after {bars} bars",
    }
    names = {wait: f"first_note_ms.{wait}".rstrip(".") for wait in waits}
    told = [
        f"{waits[wait].format_map(by_name[name]['config'])} {_mean(by_name[name])}"
        for wait, name in names.items()
        if name in by_name
    ]
    cells += [f"first note, ms: {', '.join(told)}"] if told else []
    if "state_bytes" in by_name:
        size, growth = by_name["state_bytes"]["value"], by_name["state_growth"]["value"]
        cells.append(f"state {size:,.0f} bytes a piece, + {growth:,.0f} a 1,000 events")
    cells.append(f"{first.get('runs', 1)} rounds, {first['commit']}")
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells if cell)} |"


def _mean(row: rows.Row) -> str:
    if "mean" not in row:
        return _short(row["value"])
    return f"{_short(row['mean'])} ± {_short(row['deviation'])}"


def _short(value: float) -> str:
    """Three digits that count, and no exponent for what is large."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _ratios(above: list[float], below: list[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def _six(value: float) -> float:
    """Six digits that count."""
    return float(f"{value:.6g}")
