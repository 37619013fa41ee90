"""A study from its first run to its rows and its page, which can be killed at any time.

In: a `Study`. Out: in the folder

    study.json      what is studied                  corpora/          one for each setting of `prepare`
    groups.json     which runs share a program       runs/ARM/seed-N/  as `midigen train` makes them, and
    results.jsonl   the rows                                           scores.json, failure.json
    table.md .tex .csv                               samples/ARM.mid .mp3 .png
    study.html, plots as .svg

Started again it goes on where it was: run by run, and within a run from its newest checkpoint. The split that
is compared on is read when all runs have ended, and of each run the checkpoint that was best on validation.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from midigen_jax import config as configs
from midigen_jax import rows
from midigen_jax.config import Config, PrepareConfig, nearest
from midigen_jax.data.batches import pieces_taken
from midigen_jax.data.corpus import Corpus
from midigen_jax.data.prepare import prepare
from midigen_jax.data.reading import read_as
from midigen_jax.errors import DiskError, InputError
from midigen_jax.files import check_folder, locked, make_folder, read_json, write_json
from midigen_jax.listen.page import STUDY, check_free
from midigen_jax.listen.study import write_pictures, write_study
from midigen_jax.listen.tables import many
from midigen_jax.model.cost import flops
from midigen_jax.music.sources import Source
from midigen_jax.progress import Board
from midigen_jax.sample.folder import find_prompt
from midigen_jax.sample.formats import FORMATS, write_piece
from midigen_jax.sample.generate import generate
from midigen_jax.study.benchmark import elapsed
from midigen_jax.study.evaluate import pieces_of
from midigen_jax.study.groups import (
    FAILURES,
    Group,
    by_shape,
    estimate,
    plan_groups,
    plan_in_words,
    why,
    with_steps,
)
from midigen_jax.study.metrics import PieceScores, event_scores, find_metric, measure
from midigen_jax.study.plan import BASE, MOST_RUNS, Run, Study, read_study, slug
from midigen_jax.study.subject import trained
from midigen_jax.study.tables import write_tables
from midigen_jax.study.turns import Loop
from midigen_jax.study.verdict import Scores, rows_of
from midigen_jax.train.callbacks import Callback, newest_losses
from midigen_jax.train.checkpoint import open_run
from midigen_jax.train.loop import Training, fit_all
from midigen_jax.train.scoring import Scorer
from midigen_jax.vocab import vocabulary_class

_WRITTEN = 256  # events that a model writes while it is timed
_TURNS = 5
_LISTEN = 0  # the seed that samples are drawn with


class Interrupted(KeyboardInterrupt):
    """Ctrl-C: the same study goes on where it was."""


def ablate(
    file: Path, out: Path | None, config: str | None = None, many_runs: bool = False, keep: bool = False
) -> Iterator[str]:
    """The study in a file, in the folder `out`, with its page and plots; in words what is done and found.

    `config` is what its base begins with, in place of the study's own. Without `out` nothing is done, and the
    words are a plan. Raises InputError for more runs than `MOST_RUNS`, unless `many_runs` are meant, and as
    `read_study` and `run_study` do.
    """
    study = read_study(file, sys.maxsize if many_runs else MOST_RUNS, config)
    groups = by_shape(study, study.runs)
    if out is None:
        yield from plan_in_words(study, groups, estimate(study, groups))
        return
    page = out / "study.html"
    check_free(STUDY, page)  # before the work, not after it
    yield f"{many(len(study.runs), 'run')} in {many(len(groups), 'group')} of one program each"
    found = run_study(study, out, keep)
    write_study(out, page)
    write_pictures(out)
    yield from (out / "table.md").read_text(encoding="utf-8").splitlines()
    for row in found:
        if row["name"] == "ablate.failed":
            yield f"Failed: {row['config']['arm']}, seed {row['seed']}: {row['reason']}"
    yield f"In {out}: study.html (open it in a browser), table.md, .tex, .csv, plots as .svg, results.jsonl"


def run_study(study: Study, out: Path, keep: bool = False) -> list[rows.Row]:
    """Train, score and compare the arms in the folder `out`; returns the rows.

    Checkpoints are removed at the end unless they are to be kept. Raises InputError for a folder of another
    study, and `Interrupted` after a Ctrl-C.
    """
    facts = _facts(study, out)
    make_folder(out)
    with locked(out):
        return _run(study, out, facts, keep)


def _run(study: Study, out: Path, facts: dict[str, Any], keep: bool) -> list[rows.Row]:
    """`run_study` in a folder that nobody else works in."""
    prompt = _prompt(study)
    corpora = {config: _corpus(study, out, config) for config in _prepared(study)}
    for arm in study.names:
        _check_pieces(study, arm, corpora)
    write_json(out / "study.json", facts)

    def fail(runs: Sequence[Run], reason: str) -> None:
        for run in runs:
            _fail(folder_of(out, run), 0, reason)

    finished = {run for run in study.runs if _ended(folder_of(out, run))}
    asked = set(study.runs)  # of a group's runs some may be of arms that are in the file no more
    groups = [
        group._replace(runs=tuple(run for run in group.runs if run in asked))
        for group in plan_groups(study, out, finished, corpora, fail)
    ]
    label = "{}, seed {}".format
    with Board([label(*run) for run in study.runs]) as board:
        for group in groups:
            left = [run for run in group.runs if not _ended(folder_of(out, run))]
            if left:
                print(f"{len(left)} runs: {group.why}", file=sys.stderr, flush=True)
                _train(study, out, group, left, corpora, lambda run, text: board.show(label(*run), text))
    for group in groups:
        _score(study, out, group, corpora)
    found = rows_of(study, _scores(study, out), command=rows.command())
    rows.rewrite(out / "results.jsonl", found)
    write_tables(found, out)
    if "sample" in study.measure:
        _try_arms(study, out, prompt)
    if not keep:
        for run in study.runs:
            shutil.rmtree(folder_of(out, run) / "checkpoints", ignore_errors=True)
    return found


def _facts(study: Study, out: Path) -> dict[str, Any]:
    """What `study.json` is to say. Raises InputError for the folder of another study.

    Arms and seeds may have been added since; one that was there is what it was.
    """
    facts = describe(study)
    if not (out / "study.json").is_file():
        check_folder(out, ("corpora",))  # what a study that was refused may have left
        return facts
    there = read_json(out / "study.json", "give another --out")
    for key in ("name", "corpus", "budget", "split", "measure", "prompt"):
        if there.get(key) != facts[key]:
            raise InputError(f"{out}: holds a study with another {key}; give another --out")
    if configs.from_json(Config, there["settings"]) != study.base:
        raise InputError(f"{out}: holds a study with another base; give another --out")
    known = there["known"]
    for arm, changes in facts["known"].items():
        if known.get(arm, changes) != changes:
            raise InputError(f"{out}: arm {arm!r} has other settings there; give it another name")
        other = next((name for name in known if slug(name) == slug(arm) and name != arm), None)
        if other is not None:
            raise InputError(f"{out}: arm {arm!r} has the folder of {other!r}; give it another name")
    return facts | {"known": known | facts["known"]}


def describe(study: Study) -> dict[str, Any]:
    """A study as JSON."""
    facts = {
        "name": study.name,
        "question": study.question,
        "corpus": list(study.corpus),
        "base": BASE,
        "arms": {arm: study.changes(arm) for arm in study.names},
        "known": {arm: study.changes(arm) for arm in study.names},  # and those that were there before
        "folders": {arm: slug(arm) for arm in study.names},
        "seeds": list(study.seeds),
        "budget": list(study.budget),
        "metric": study.metric,
        "higher_is_better": find_metric(study.metric).higher_is_better,
        "measure": list(study.measure),
        "prompt": study.prompt,
        "split": study.split,
        "settings": configs.to_json(study.base),
        "command": rows.command(),
    }
    return dict(json.loads(json.dumps(facts)))


def folder_of(out: Path, run: Run) -> Path:
    """The run's folder."""
    return out / "runs" / slug(run.arm) / f"seed-{run.seed}"


def _prepared(study: Study) -> list[PrepareConfig]:
    """The settings that corpora are made with, each once."""
    return list(dict.fromkeys(study.config(arm).prepare for arm in study.names))


def _corpus(study: Study, out: Path, config: PrepareConfig) -> Corpus:
    text = json.dumps(configs.to_json(config), sort_keys=True)
    name = f"{vocabulary_class(config).name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return prepare(list(study.corpus), out / "corpora" / name, config)


def _check_pieces(study: Study, arm: str, corpora: dict[PrepareConfig, Corpus]) -> None:
    """Raises InputError where an arm is not scored on the pieces of the base, or not in the study's units."""
    corpus = corpora[study.config(arm).prepare]
    there = corpus.split(study.split)
    if "nats_per_frame" in study.metrics and not all(piece.frame for piece in there):
        raise InputError(
            f"{study.name}: measure nats_per_frame: the music has no frames; use nats_per_quarter"
        )
    for piece in there[:1]:
        nats = np.zeros((piece.stop - piece.start - 1, len(corpus.vocabulary.streams)))
        known = measure(event_scores(corpus, piece, nats, nats > 0)).ratios
        for metric in study.metrics:
            if metric not in known:
                raise InputError(f"{study.name}, arm {arm!r}: measure {metric!r}: {nearest(metric, known)}")
    base, own = (
        [piece.source for piece in corpora[study.config(name).prepare].split(study.split)]
        for name in (BASE, arm)
    )
    if own != base:
        raise InputError(
            f"{study.name}, arm {arm!r}: its {study.split} split has {len(own)} pieces and not the "
            f"{len(base)} of the base; leave out what changes which pieces can be read"
        )


def _ended(folder: Path) -> bool:
    return (folder / "scores.json").is_file() or (folder / "failure.json").is_file()


def _train(
    study: Study,
    out: Path,
    group: Group,
    left: Sequence[Run],
    corpora: dict[PrepareConfig, Corpus],
    show: Callable[[Run, str], None],
) -> None:
    """Train what is left of a group. A run that fails is written down, and the others go on."""

    def told(run: Run) -> Callback:
        return newest_losses(lambda step, losses: show(run, f"step {step}, {losses}"))

    trainings = [
        Training(with_steps(study.config(*run), group), folder_of(out, run), [told(run)]) for run in left
    ]
    try:
        done = fit_all(corpora[study.config(*left[0]).prepare], trainings, group.together)
    except DiskError:
        raise  # no arm's fault
    except FAILURES as error:
        reason = why(error)
        for run in left:
            _fail(folder_of(out, run), 0, reason)
            show(run, "failed")
        return
    for run, fit in zip(left, done, strict=True):
        if fit.failure is not None:
            _fail(folder_of(out, run), fit.step, fit.failure)
            show(run, "failed")
    if any(fit.interrupted for fit in done):
        raise Interrupted


def _fail(folder: Path, step: int, reason: str) -> None:
    write_json(folder / "failure.json", {"step": step, "reason": reason.removeprefix(f"{folder}: ")})


def _score(study: Study, out: Path, group: Group, corpora: dict[PrepareConfig, Corpus]) -> None:
    """Read the split with the best checkpoint of each run that has not been scored yet."""
    scorer: Scorer | None = None
    timed = {run.arm for run in study.runs if (folder_of(out, run) / "scores.json").is_file()}
    for run in group.runs:
        folder = folder_of(out, run)
        if _ended(folder):
            continue
        with open_run(folder) as checkpoints:
            restored = checkpoints.restore("best")
        corpus = corpora[study.config(*run).prepare]
        pieces = pieces_of(corpus, study.split)
        bars = restored.metadata.knows_bar_lines
        scorer = scorer or Scorer(restored.network, corpus, pieces, bars=bars)
        said = dict(scorer(restored.params))
        measured = [
            measure(event_scores(corpus, piece, *said[number])) for number, piece in enumerate(pieces)
        ]
        config, trained_rows = restored.metadata.config, rows.read(folder / "rows.jsonl")
        taken = pieces_taken(corpus, "train", config.batch)
        each = flops(restored.network, config.batch.rows, config.batch.length)
        scores = {
            "step": restored.step,
            "pieces": [piece._asdict() for piece in measured],
            "parameters": rows.last(trained_rows, "model.parameters"),
            "train_flops": each * max(row.get("step", 0) for row in trained_rows),
            "train_seconds": rows.last(trained_rows, "train.seconds"),
            "train_events": sum(piece.stop - piece.start - 1 for piece in taken),
        }
        if "decode" in study.measure and run.arm not in timed:
            timed.add(run.arm)
            subject = trained(restored, folder.name, {})
            loop = Loop(subject.network, subject.params, 1, _WRITTEN)
            loop()
            scores["decode_events_per_s"] = median(_WRITTEN / elapsed(loop) for _ in range(_TURNS))
        write_json(folder / "scores.json", scores)


def _prompt(study: Study) -> Source | None:
    """The music that samples go on from. Raises InputError for a file that has none, or several pieces."""
    if not study.prompt:
        return None
    source = find_prompt(study.prompt, f"{study.name}: prompt")
    read_as(source, study.base.prepare)  # what cannot be read is told before the training
    return source


def _try_arms(study: Study, out: Path, prompt: Source | None) -> None:
    """A piece of each arm, with the same prompt and the same random key; of those that cannot, a line."""
    for arm in study.names:
        place = out / "samples" / f"{slug(arm)}.mid"
        runs = [folder_of(out, Run(arm, seed)) for seed in study.seeds]
        able = [run for run in runs if (run / "scores.json").is_file() and (run / "checkpoints").is_dir()]
        if place.is_file() or not able:
            continue
        with open_run(able[0]) as checkpoints:
            restored = checkpoints.restore("best")
        try:
            piece = None if prompt is None else read_as(prompt, restored.metadata.config.prepare)
            music = generate(restored, replace(study.config(arm).sample, count=1, seed=_LISTEN), piece)
        except InputError as error:
            print(f"{study.name}, arm {arm!r}: no sample: {error}", file=sys.stderr)
            continue
        place.parent.mkdir(exist_ok=True)
        # The file that says that there is a sample comes last.
        for format in reversed(FORMATS.values()):
            write_piece(music.whole()[0], place.with_suffix(format.suffix), music.names, music.key)


def _scores(study: Study, out: Path) -> dict[Run, Scores]:
    """What is known of each run that has ended."""
    found: dict[Run, Scores] = {}
    for run in study.runs:
        folder = folder_of(out, run)
        if (folder / "failure.json").is_file():
            failure = read_json(folder / "failure.json", "remove it, and the run is tried again")
            found[run] = Scores([], {}, failure["step"], failure["reason"])
        elif (folder / "scores.json").is_file():
            there = read_json(folder / "scores.json", "remove it, and the run is scored again")
            try:
                pieces = [PieceScores(**piece) for piece in there.pop("pieces")]
            except TypeError:
                raise InputError(
                    f"{folder / 'scores.json'}: of another version; give another --out, and train again"
                ) from None
            found[run] = Scores(pieces, there, there.pop("step"))
    return found
