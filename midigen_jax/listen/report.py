"""A run's folder to one HTML file that a browser opens from disk: listen, compare, go on from there.

In: `config.json`, `corpus.json`, `rows.jsonl` and `samples/step-…/` of a run, each as far as it is there, so
that an interrupted run has a report too. Out: HTML that carries its audio and pictures in itself and may ask
nothing of any network. Models and music are not looked into: the report is made from files alone.
"""

import base64
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from midigen_jax import __version__
from midigen_jax import rows as row_files
from midigen_jax.config import Config, flatten, from_json, options, to_json
from midigen_jax.errors import InputError
from midigen_jax.files import read_json, replacing
from midigen_jax.listen import audio, curves, pianoroll
from midigen_jax.rows import Row

_MARK = '<meta name="generator" content="midigen-jax">'  # tells a report of ours from another's file

_REMEDY = "train again, or put back the file that was there"

_SOUNDS = {".mp3": "audio/mpeg", ".ogg": "audio/ogg", ".wav": "audio/wav"}
_MEDIA = _SOUNDS | {".mid": "audio/midi", ".png": "image/png"}


@dataclass(frozen=True)
class Sample:
    """One piece that the model wrote; each file as a data URI, or "" where there is none."""

    name: str
    audio: str
    picture: str
    midi: str


@dataclass(frozen=True)
class Checkpoint:
    """The samples of one checkpoint, and how good it was on validation (None: not measured)."""

    step: int
    epoch: float | None
    nats: float | None
    is_best: bool
    samples: tuple[Sample, ...]


def write_report(run: Path, out: Path) -> None:
    """Write the report of the run in the folder `run` to the file `out`.

    Raises InputError when `run` is no run, when a file in it cannot be read, and when `out` is a folder or a
    file that is not an earlier report.
    """
    if not (run / "config.json").is_file():
        raise InputError(f"{run}: no run (no config.json); `midigen train CORPUS --out {run}` makes one")
    config = to_json(from_json(Config, read_json(run / "config.json", _REMEDY)))
    _check_free(out)
    corpus = read_json(run / "corpus.json", _REMEDY) if (run / "corpus.json").is_file() else {}
    rows = row_files.read(run / "rows.jsonl") if (run / "rows.jsonl").is_file() else []
    checkpoints = tuple(_read_checkpoints(run / "samples", rows))
    kept = [checkpoint.step for checkpoint in checkpoints]
    environment = Environment(
        loader=PackageLoader("midigen_jax.listen", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.jinja").render(
        mark=Markup(_MARK),
        version=__version__,
        name=run.resolve().name,
        headline=_headline(rows),
        checkpoints=checkpoints,
        curves=[Markup(curves.svg(curves.draw_curves(rows, head, kept))) for head in _heads(rows)],
        figures=_figures(rows),
        corpus=_corpus_table(corpus),
        settings=_settings(config),
        commands=_commands(run, out, corpus),
        roll={"left": pianoroll.LEFT, "right": pianoroll.RIGHT, "tail": audio.TAIL_SECONDS},
    )
    with replacing(out) as partial:
        partial.write_text(page, encoding="utf-8")


def _check_free(out: Path) -> None:
    """Refuse to write over what is not ours."""
    if out.is_dir():
        raise InputError(f"{out} is a folder: give --out the name of a file, such as {out / 'report.html'}")
    if out.is_file():
        with out.open(encoding="utf-8", errors="replace") as file:
            if _MARK not in file.read(1000):
                raise InputError(f"{out} is there and is no report: give --out another name, or remove it")


def _read_checkpoints(folder: Path, rows: Sequence[Row]) -> Iterator[Checkpoint]:
    """The checkpoints that samples were kept of, early ones first."""
    named = ((re.fullmatch(r"step-(\d+)", path.name), path) for path in folder.glob("step-*"))
    steps = {int(match[1]): path for match, path in named if match and path.is_dir()}
    nats = dict(zip(*curves.series(rows, "valid.nats_per_event"), strict=True))
    epochs = {row["step"]: row["epoch"] for row in rows if "step" in row and "epoch" in row}
    best = curves.best_step(rows)
    for step, path in sorted(steps.items()):
        stems = {file.stem for file in path.iterdir() if file.suffix in (*_SOUNDS, ".mid")}
        samples = tuple(
            _read_sample(path, stem) for stem in sorted(stems, key=lambda stem: (len(stem), stem))
        )
        yield Checkpoint(step, epochs.get(step), nats.get(step), step == best, samples)


def _read_sample(folder: Path, stem: str) -> Sample:
    sound = (_data_uri(folder / f"{stem}{suffix}") for suffix in _SOUNDS)
    picture, midi = _data_uri(folder / f"{stem}.png"), _data_uri(folder / f"{stem}.mid")
    return Sample(stem, next(filter(None, sound), ""), picture, midi)


def _data_uri(path: Path) -> str:
    if not path.is_file():
        return ""
    return f"data:{_MEDIA[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _heads(rows: Sequence[Row]) -> list[str]:
    """The heads that have anything to draw."""
    names = {row.get("name") for row in rows}
    splits = ("train", "valid")
    return [head for head in curves.HEADS if names & {f"{split}.nats_per_event.{head}" for split in splits}]


def _last(rows: Sequence[Row], name: str) -> Any:
    return next((row["value"] for row in reversed(rows) if row.get("name") == name), None)


def _headline(rows: Sequence[Row]) -> dict[str, Any] | None:
    """The first and the best validation, the one comparison that stands at the top."""
    steps, nats = curves.series(rows, "valid.nats_per_event")
    if not steps:
        return None
    return {"first": nats[0], "first_step": steps[0], "best": min(nats), "best_step": curves.best_step(rows)}


def _figures(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What was measured, as (label, value)."""
    table = []
    if (parameters := _last(rows, "model.parameters")) is not None:
        table.append(("parameters", f"{parameters:,.0f}"))
    if (seconds := _last(rows, "train.seconds")) is not None:
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


_CORPUS_LABELS = {
    "sources": "sources",
    "tokenizer": "tokenizer",
    "pieces": "pieces",
    "events": "events",
    "hours": "hours of music",
    "quarantined": "files left out",
    "other_keys": "in other keys",
    "share_a_family": "sharing music",
    "pitch_size": "pitch ids",
    "duration_size": "duration ids",
    "unknown_share": "unseen symbols",
}


def _corpus_table(corpus: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of the corpus, as (label, value)."""
    return [
        (label, _words(corpus[key], share=key == "unknown_share"))
        for key, label in _CORPUS_LABELS.items()
        if corpus.get(key) is not None
    ]


def _words(value: Any, share: bool = False) -> str:
    """A value as people write it: 12,345; 3.25; 27.0 %; train 10 · valid 2."""
    if isinstance(value, Mapping):
        return " · ".join(f"{key} {_words(inner, share)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_words(inner, share) for inner in value)
    if value is None or isinstance(value, bool):
        return str(value).lower()  # as the command line takes them
    if isinstance(value, int | float):
        if share:
            return f"{100 * value:.1f} %"
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return str(value)


def _settings(config: Mapping[str, Any]) -> dict[str, list[tuple[str, str, str]]]:
    """Every setting as section -> (name, value, what it means)."""
    known = options(Config)
    sections: dict[str, list[tuple[str, str, str]]] = {}
    for name, value in flatten(config).items():
        section, _, leaf = name.rpartition(".")
        sections.setdefault(section or "run", []).append((leaf, _words(value), known.get(name, ("", ""))[1]))
    return sections


def _commands(run: Path, out: Path, corpus: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What to do next, as (why, command line)."""
    name, music, more = (shlex.quote(f"{run}{suffix}") for suffix in ("", "-music", "-continued"))
    wider, path = shlex.quote(f"{run}-wider"), shlex.quote(str(corpus.get("path", "CORPUS")))
    return [
        ("Write more music, a little tamer", f"midigen generate {name} --out {music} --temperature 0.9"),
        ("Continue a piece of yours", f"midigen generate {name} --out {more} --prompt FILE.mid"),
        ("Train a wider model", f"midigen train {path} --out {wider} --model.width 384"),
        ("Make this report again", f"midigen report {name} --out {shlex.quote(str(out))}"),
    ]
