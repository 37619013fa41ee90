"""A run's folder to one HTML file that a browser opens from disk: listen, compare, go on from there.

In: `config.json`, `corpus.json`, `network.json`, `rows.jsonl` and `samples/step-…/` of a run, each as far as
it is there, so that an interrupted run has a report too. Out: HTML that carries its audio and pictures in
itself and may ask nothing of any network. Models and music are not looked into: it is made from files alone.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from midigen_jax import rows as row_files
from midigen_jax.config import Config, changed, from_json, spell, to_json
from midigen_jax.errors import InputError
from midigen_jax.files import read_json
from midigen_jax.listen import curves
from midigen_jax.listen.figures import svg
from midigen_jax.listen.network import draw_network, network_table
from midigen_jax.listen.page import REPORT, SOUNDS, Sample, read_sample, write_page
from midigen_jax.listen.tables import corpus_table, settings_table
from midigen_jax.rows import Row

_REMEDY = "train again, or put back the file that was there"


class Checkpoint(NamedTuple):
    """The samples of one checkpoint, and how good it was on validation (None: not measured)."""

    step: int
    epoch: float | None
    nats: float | None
    is_best: bool
    samples: list[Sample]


def write_report(run: Path, out: Path) -> None:
    """Write the report of the run in the folder `run` to the file `out`.

    Raises InputError when `run` is no run, when a file in it cannot be read, and when `out` is a folder or a
    file that is not an earlier report.
    """
    if not (run / "config.json").is_file():
        raise InputError(f"{run}: no run (no config.json); `midigen train CORPUS --out RUN` makes one")
    config = to_json(from_json(Config, read_json(run / "config.json", _REMEDY)))
    corpus = read_json(run / "corpus.json", _REMEDY) if (run / "corpus.json").is_file() else {}
    rows = row_files.read(run / "rows.jsonl") if (run / "rows.jsonl").is_file() else []
    checkpoints = list(_read_checkpoints(run / "samples", rows))
    parts = read_json(run / "network.json", _REMEDY)["parts"] if (run / "network.json").is_file() else []
    kept = [checkpoint.step for checkpoint in checkpoints]
    write_page(
        REPORT,
        out,
        name=run.resolve().name,
        headline=_headline(rows),
        checkpoints=checkpoints,
        curves=[svg(curves.draw_curves(rows, head, kept)) for head in _heads(rows)],
        network=svg(draw_network(parts)) if parts else "",
        tables={"The run": _figures(rows), "The corpus": corpus_table(corpus)} | _network(parts),
        settings=settings_table(config),
        commands=_commands(run, out, corpus, config),
    )


def _read_checkpoints(folder: Path, rows: Sequence[Row]) -> Iterator[Checkpoint]:
    """The checkpoints that samples were kept of, early ones first."""
    named = ((re.fullmatch(r"step-(\d+)", path.name), path) for path in folder.glob("step-*"))
    steps = {int(match[1]): path for match, path in named if match and path.is_dir()}
    nats = dict(zip(*curves.series(rows, "valid.nats_per_event"), strict=True))
    epochs = {row["step"]: row["epoch"] for row in rows if "step" in row and "epoch" in row}
    best = curves.best_step(rows)
    for step, path in sorted(steps.items()):
        stems = {file.stem for file in path.iterdir() if file.suffix in (*SOUNDS, ".mid")}
        samples = [read_sample(path, stem) for stem in sorted(stems, key=lambda stem: (len(stem), stem))]
        yield Checkpoint(step, epochs.get(step), nats.get(step), step == best, samples)


def _heads(rows: Sequence[Row]) -> list[str]:
    """The heads that have anything to draw: a stream each. Validation names them in their order."""
    named = [row["name"].split(".nats_per_event.") for row in rows if ".nats_per_event." in row["name"]]
    named.sort(key=lambda words: words[0] != "valid")
    return list(dict.fromkeys(words[1] for words in named))


def _network(parts: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[str, str]]]:
    return {"The network": network_table(parts)} if parts else {}


def _headline(rows: Sequence[Row]) -> dict[str, Any] | None:
    """The first and the best validation, the one comparison that stands at the top."""
    steps, nats = curves.series(rows, "valid.nats_per_event")
    if not steps:
        return None
    return {"first": nats[0], "first_step": steps[0], "best": min(nats), "best_step": curves.best_step(rows)}


def _figures(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What was measured, as (label, value)."""
    table = []
    if (parameters := row_files.last(rows, "model.parameters")) is not None:
        table.append(("parameters", f"{parameters:,.0f}"))
    if (seconds := row_files.last(rows, "train.seconds")) is not None:
        table.append(("training time", f"{seconds // 60:.0f} min {seconds % 60:.0f} s"))
    if speeds := curves.series(rows, "train.events_per_s")[1]:
        table.append(("events a second", f"{median(speeds):,.0f}"))
    steps, nats = curves.series(rows, "valid.nats_per_event")
    if steps:
        table.append(
            ("best validation", f"{min(nats):.3f} nats per event, at step {curves.best_step(rows):,}")
        )
        table.append(("last validation", f"{nats[-1]:.3f} nats per event, at step {steps[-1]:,}"))
    for field in ("device", "commit", "time"):
        if rows and rows[-1].get(field, "unknown") != "unknown":
            table.append((field, str(rows[-1][field])))
    return table


def _flags(config: Mapping[str, Any]) -> str:
    """The flags that make the settings of a run, its width and place apart, out of the default ones."""
    return "".join(
        f" --{name} {spell(value)}"
        for name, value in changed(config).items()
        if not name.startswith("prepare.") and name not in ("model.width", "train.checkpoints")
    )


def _commands(
    run: Path, out: Path, corpus: Mapping[str, Any], config: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """What to do next, as (why, command line). What is made lands in the folder where one is."""
    name, path = shlex.quote(str(run)), shlex.quote(str(corpus.get("path", "CORPUS")))
    here = run.resolve().name
    music, more, wider = (shlex.quote(f"{here}-{suffix}") for suffix in ("music", "continued", "wider"))
    same = _flags(config)
    return [
        ("Write more music, a little tamer", f"midigen generate {name} --out {music} --temperature 0.9"),
        ("Continue a piece of yours", f"midigen generate {name} --out {more} --prompt FILE.mid"),
        ("Train a wider model", f"midigen train {path} --out {wider} --model.width 384{same}"),
        ("Make this report again", f"midigen report {name} --out {shlex.quote(str(out))}"),
    ]
