"""A training from its corpus to samples of its checkpoints; and all of it, from chorales to a report.

In: folders and a config. Out: a run's folder, with `samples/step-000300/1.mid` … beside what `train` writes.
"""

import math
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from midigen_jax import rows
from midigen_jax.config import AUTO_ROWS, Config, PrepareConfig, is_address, override, to_json
from midigen_jax.data.corpus import load_corpus
from midigen_jax.data.prepare import prepare
from midigen_jax.errors import InputError
from midigen_jax.files import check_folder
from midigen_jax.listen import what_is_missing
from midigen_jax.listen.page import REPORT, check_free
from midigen_jax.listen.report import write_report
from midigen_jax.listen.tables import aligned, corpus_in_words, many
from midigen_jax.progress import Progress
from midigen_jax.sample.copies import PASSED, Copies
from midigen_jax.sample.folder import rows_of, text_of, write_pieces
from midigen_jax.sample.formats import possible
from midigen_jax.sample.generate import check_sample, generate
from midigen_jax.sample.recipe import Recipe
from midigen_jax.train.batch_size import check_rows, with_rows
from midigen_jax.train.callbacks import TensorBoard
from midigen_jax.train.checkpoint import LoadedModel, open_run
from midigen_jax.train.distributed import data_mesh, is_main_process
from midigen_jax.train.loop import fit
from midigen_jax.train.pretrained import load_model

Say = Callable[..., None]  # is told lines of text


_GENTLY = 1e-3  # the learning rate of a model that can play already


def further(run: str, given: Mapping[str, Any]) -> Config:
    """The settings that train the model `run` further: its own network and batches, and what is `given`."""
    theirs = load_model(run).metadata.config
    base = Config(model=theirs.model, batch=theirs.batch)
    return override(base, {"train.learning_rate": _GENTLY} | dict(given) | {"train.start": run})


def train(corpus: str, out: str, config: Config, tensorboard: bool, say: Say) -> bool:
    """Train in the folder `out`, then write samples of the checkpoints that are kept.

    Returns whether the training came to its end: after a Ctrl-C, the same call goes on. Of several processes
    the first one alone speaks, and writes samples. Raises InputError as `fit` does.
    """
    run, speaks = Path(out), is_main_process()
    if is_address(out):
        raise InputError(f"--out {out}: give a folder, and the address as --train.checkpoints")
    check_sample(config.sample)  # before the training, not after it
    music = load_corpus(Path(corpus))
    is_auto, config = config.batch.rows == AUTO_ROWS, with_rows(config, run)
    check_rows(config.batch.rows)
    tunes = bool(config.train.start)  # a model that could play already: what it takes from the music is told
    if speaks:
        say(*_before(music.config, config, is_auto, bool(music.split("valid"))))
    callbacks = [TensorBoard(run / "tensorboard")] if tensorboard else []
    done = fit(
        music, config, run, callbacks, [Copies(music, lambda: _passed(run) is not None)] if tunes else []
    )
    if speaks and done.interrupted:
        say(f"Stopped at step {done.step} of {done.steps}. The same command goes on from there.")
    elif speaks:
        if done.step < done.steps:
            say(f"Ended at step {done.step} of {done.steps}: none of the last validations was the best one.")
        if (passed := _passed(run)) is not None:
            say(
                f"From step {passed:.0f} on the model copies more than people do: its longest runs from the "
                "training pieces are longer than those that the held-out ones have in common with them. The "
                f"checkpoint of that step is kept: --checkpoint {passed:.0f}"
            )
        _write_samples(run, done.kept)
        say(
            *what_is_missing(),
            f"Run in {out}. Next: midigen generate {shlex.quote(out)} --out FOLDER",
            f"                    midigen report {shlex.quote(out)} --out FILE.html",
        )
    return not done.interrupted


def _passed(run: Path) -> float | None:
    """The step from which on a run copies more than people do, if there is one."""
    log = run / "rows.jsonl"
    return rows.last(rows.read(log), PASSED) if log.is_file() else None


def demo(folder: Path, config: Config, say: Say) -> bool:
    """Prepare the chorales of the music21 package, train, and write a report; returns as `train` does.

    Raises InputError for a folder with anything else.
    """
    check_folder(folder, ("corpus", "corpus.partial", "run", "report.html"))
    check_free(REPORT, folder / "report.html")  # before the work, not after it
    corpus, run = folder / "corpus", folder / "run"
    say(*corpus_in_words(corpus, prepare(["bach"], corpus, config.prepare).manifest))
    if not train(str(corpus), str(run), config, False, say):
        return False
    write_report(run, folder / "report.html")
    made = [
        ("report.html", "open it in a browser: curves, samples, how to go on"),
        ("run/samples", "of checkpoints, early and late: pieces as .mid, .musicxml, .mp3 and .png"),
        ("run/rows.jsonl", "what was measured"),
        (config.train.checkpoints or "run/checkpoints", "the model"),
        ("corpus", "the tokens"),
    ]
    say("", f"In {folder}:", *aligned(made))
    return True


def _before(there: PrepareConfig, config: Config, is_auto: bool, held_out: bool) -> list[str]:
    """What to know of a training before it begins, on a corpus that was prepared as `there`."""
    rows, meant, lines = config.batch.rows, config.prepare, []
    for name in ("tokenizer", "transpose") if meant != PrepareConfig() else ():
        wanted, found = getattr(meant, name), getattr(there, name)
        if wanted != found:
            meant_for = f"the config is meant for a corpus with --{name} {wanted}"
            lines.append(f"Note: {meant_for}; this one has {found}.")
    devices, processes = data_mesh(rows).size, jax.process_count()
    on = many(devices, "device") + (f" of {processes} processes" if processes > 1 else "")
    if not held_out:
        lines.append(
            "Note: no piece is held out. How well the model does beyond these pieces, when to stop, and how "
            "much it copies cannot be known; listen often, and keep the training short."
        )
    lines.append(f"{rows} sequences a step on {on}, {rows // devices} on each.")
    if is_auto:
        lines.append(
            f"The learning rate stays {config.train.learning_rate:g}: nothing scales it. By Adam's usual "
            f"rule one that suits 16 rows would be {math.sqrt(rows / 16):.2g} times as high."
        )
    return lines


def _write_samples(run: Path, steps: Sequence[int]) -> None:
    """Samples of each kept checkpoint, in RUN/samples; those that are there already stay."""
    missing = [step for step in steps if not _samples(run, step).is_dir()]
    if not missing:
        return
    with open_run(run) as checkpoints, Progress("sampling", len(missing), "checkpoints") as progress:
        for step in missing:
            _write_samples_of(checkpoints.restore(str(step)), run)
            progress.advance()


def _write_samples_of(loaded: LoadedModel, run: Path) -> None:
    """Written beside its place and renamed, so that a folder of samples is always whole."""
    config, place = loaded.metadata.config.sample, _samples(run, loaded.step)
    music, place_beside = generate(loaded, config), place.with_suffix(".partial")
    shutil.rmtree(place_beside, ignore_errors=True)
    recipe = Recipe("../..", loaded.step, loaded.digest, 0, config)
    write_pieces(place_beside, music, partial(text_of, recipe, run.name), possible())
    settings = {"run": run.name, "step": loaded.step, "sample": to_json(config)}
    rows.append(place_beside / "rows.jsonl", rows_of(music, settings))
    place_beside.rename(place)


def _samples(run: Path, step: int) -> Path:
    """The folder of the samples of a checkpoint."""
    return run / "samples" / f"step-{step:06d}"
