"""What each command does: call the library, write its rows, say what was made and how to go on.

Every function returns the exit code of the process.
"""

import importlib
import json
import math
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from midigen_jax import config as configs
from midigen_jax import rows
from midigen_jax.bench import compile as compiling
from midigen_jax.bench import figures
from midigen_jax.bench.targets import Target
from midigen_jax.config import AUTO_ROWS, Config, PrepareConfig, SampleConfig, is_address
from midigen_jax.data.corpus import Corpus, load_corpus
from midigen_jax.data.inspect import inspect as inspect_music
from midigen_jax.data.prepare import prepare as prepare_corpus
from midigen_jax.data.reading import digest_or_nothing, read_as
from midigen_jax.errors import INTERRUPTED, InputError
from midigen_jax.files import check_folder, make_folder, read_json, write_json
from midigen_jax.listen.audio import synthesize, write_audio
from midigen_jax.listen.findings import describe
from midigen_jax.listen.inspect import write_inspection
from midigen_jax.listen.page import INSPECTION, STUDY, check_free
from midigen_jax.listen.pianoroll import draw
from midigen_jax.listen.rates import draw_rates
from midigen_jax.listen.report import write_report
from midigen_jax.listen.study import write_pictures, write_study
from midigen_jax.listen.tables import many
from midigen_jax.music.notes import Notes
from midigen_jax.music.piece import Split
from midigen_jax.music.sources import Source, find_sources
from midigen_jax.music.write import write_midi
from midigen_jax.progress import Progress
from midigen_jax.recipes import pooling_article
from midigen_jax.sample.generate import Generated, check_sample
from midigen_jax.sample.generate import generate as generate_music
from midigen_jax.sample.recipe import Recipe, read_recipe, relative
from midigen_jax.study import benchmark, decode_rows, decoding, first_note
from midigen_jax.study import evaluate as evaluation
from midigen_jax.study import samples as writing
from midigen_jax.study import subject as subjects
from midigen_jax.study.ablation import run_study
from midigen_jax.study.groups import by_shape, estimate, plan_in_words
from midigen_jax.study.plan import MOST_RUNS, read_study
from midigen_jax.study.step_model import load_step_model
from midigen_jax.train.batch_size import check_rows, says_what_fits, with_rows
from midigen_jax.train.board import TensorBoard
from midigen_jax.train.checkpoint import open_run
from midigen_jax.train.devices import data_mesh
from midigen_jax.train.experiment import METRIC, Restored
from midigen_jax.train.loop import fit
from midigen_jax.train.pretrained import is_folder, load_model, name_of
from midigen_jax.train.processes import is_first

_CLAIM = "settings.json"  # in a folder of music: what it was made with


def inspect(arguments: Sequence[str], out: str | None, limit: int) -> int:
    """`midigen inspect`."""
    if out is not None:
        check_free(INSPECTION, Path(out))  # before the work, not after it
    found = inspect_music(arguments, limit)
    for line in describe(found):
        _say(line)
    if out is not None:
        write_inspection(found, Path(out))
        _say(f"Page in {out}: open it in a browser.")
    return 0


def prepare(sources: Sequence[str], out: str, config: PrepareConfig, workers: int, strict: bool) -> int:
    """`midigen prepare`."""
    corpus = prepare_corpus(sources, Path(out), config, workers, strict)
    _describe(corpus)
    _say(f"Corpus in {out}. Next: midigen train {shlex.quote(out)} --out RUN")
    return 0


def train(corpus: str, out: str, config: Config, tensorboard: bool = False) -> int:
    """`midigen train`: training, then samples of the checkpoints that were kept."""
    run = Path(out)
    if is_address(out):
        raise InputError(f"--out {out}: give a folder, and the address as --train.checkpoints")
    check_sample(config.sample)  # before the training, not after it
    music = load_corpus(Path(corpus))
    if config.prepare != PrepareConfig():
        _compare(config.prepare, music.config)
    asked, config = config.batch.rows, with_rows(config, run)
    check_rows(config.batch.rows)
    if is_first():
        shared = data_mesh(config.batch.rows).size
        processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
        _say(
            f"{config.batch.rows} sequences a step on {many(shared, 'device')}{processes}, "
            f"{config.batch.rows // shared} on each."
        )
        if asked == AUTO_ROWS:
            _say(
                f"The learning rate stays {config.train.learning_rate:g}: nothing scales it. By Adam's usual "
                f"rule one that suits 16 rows would be {math.sqrt(config.batch.rows / 16):.2g} times as high."
            )
    done = fit(music, config, run, TensorBoard(run / "tensorboard") if tensorboard and is_first() else None)
    if not is_first():
        return INTERRUPTED if done.is_cut else 0
    if done.is_cut:
        _say(f"Stopped at step {done.step} of {done.steps}. The same command goes on from there.")
        return INTERRUPTED
    if done.step < done.steps:
        _say(f"Ended at step {done.step} of {done.steps}: none of the last validations was the best one.")
    _write_samples(run, done.kept)
    _say(f"Run in {out}. Next: midigen generate {shlex.quote(out)} --out FOLDER")
    _say(f"                    midigen report {shlex.quote(out)} --out FILE.html")
    return 0


def generate(
    run: str | None,
    out: str,
    changes: Mapping[str, Any],
    prompt: str | None,
    checkpoint: str | None,
    like: str | None,
) -> int:
    """`midigen generate`: `changes` to the settings of `like`, a MIDI file of ours, or to the defaults."""
    folder, config, recipe = Path(out), SampleConfig(), None
    if like is not None:
        recipe, home = read_recipe(Path(like)), Path(like).parent
        config = recipe.sample
        known = str(home / recipe.run) if is_folder(recipe.run) else recipe.run
        if run is None and is_folder(known) and not Path(known).is_dir():
            raise InputError(f"{like}: the run that made it is not at {known}; give RUN besides")
        run = run or known
        checkpoint = checkpoint or str(recipe.step)
        if prompt is None and recipe.prompt is not None:
            prompt = str(home / recipe.prompt)
    config = configs.override(config, changes)
    if run is None:
        raise InputError(
            "generate: RUN is missing; give a run's folder or address, pretrained:NAME, or --like FILE.mid"
        )
    check_sample(config)
    restored = load_model(run, checkpoint or "best")
    source = None if prompt is None else _find_prompt(prompt)
    digest = None if source is None else digest_or_nothing(source)
    if recipe is not None:
        _check_recipe(recipe, str(like), restored, digest)
    name = name_of(run)
    settings = {
        "run": name,
        "step": restored.step,
        "checkpoint": restored.digest,
        "prompt": source and [source.name, digest],
        "sample": configs.to_json(config),
    } | ({} if recipe is None else {"piece": recipe.piece + 1})
    _check_claim(folder, settings)
    how = restored.experiment.config.prepare
    given = None if source is None else read_as(source, how)
    only = None if recipe is None else recipe.piece
    if only is not None and only >= config.count:
        raise InputError(f"sample.count = {config.count}: {like} is piece {only + 1}; leave --count out")
    make_folder(folder)
    music = generate_music(restored, config, given, only)
    write_json(folder / _CLAIM, settings)
    origin = relative(Path(run), folder) if is_folder(run) else run
    made = Recipe(origin, restored.step, restored.digest, only or 0, config)
    if source is not None:
        there = relative(Path(str(prompt)), folder)
        made = replace(made, prompt=there, prompt_digest=digest)
    _write_music(folder, music, made, name)
    rows.rewrite(folder / "rows.jsonl", _sample_rows(music, settings))
    _say(
        f"{many(len(music.pieces), 'piece')} in {out} (step {restored.step}, {music.events:,} events at "
        f"{music.events / music.seconds:,.0f} a second; {music.ended} came to an end of their own)."
    )
    silent = sum(len(notes) == 0 for notes in music.pieces)
    if silent:
        _say(f"{many(silent, 'piece')} without a note: allow more events, or other pitches.")
    return 0


def report(run: str, out: str) -> int:
    """`midigen report`."""
    if is_address(run):
        raise InputError(f"{run}: a report is made of the folder of a run; give that")
    write_report(Path(run), Path(out))
    _say(f"Report in {out}: open it in a browser.")
    return 0


def evaluate(
    run: str, corpus: str | None, split: Split, checkpoint: str, samples: int, out: str | None
) -> int:
    """`midigen evaluate`."""
    _check_rows(out)
    restored = load_model(run, checkpoint)
    facts: dict[str, Any] = {"plan": restored.experiment.plan}
    if is_folder(run):
        facts = read_json(Path(run) / "corpus.json", "give CORPUS besides")
    if corpus is None and not Path(str(facts.get("path"))).is_dir():
        missing = f"its corpus is not at {facts.get('path')}" if is_folder(run) else "comes without a corpus"
        raise InputError(f"{run}: {missing}; give CORPUS besides")
    music = load_corpus(Path(corpus or str(facts["path"])))
    if music.manifest["plan"] != facts.get("plan"):
        if corpus is None:
            raise InputError(f"{music.path}: no longer the corpus of {run}; give it as CORPUS to score it")
        differs = "is not" if facts.get("plan") else "may not be"
        _say(f"Note: {corpus} {differs} the corpus of {run}: leaked and baselines are of its own training.")
    name = name_of(run)
    models = [evaluation.evaluate(restored, music, split, name)]
    models += evaluation.evaluate_baselines(music, split)
    _say(f"{split} split of {music.path}: {evaluation.sizes(models[0])}; {name} at step {restored.step}")
    _say("95 % intervals are of a bootstrap over pieces; <end> is left out but where it is named")
    _say("")
    for line in evaluation.table(models):
        _say(line)
    settings = {"corpus": music.path.resolve().name, "split": split}
    command = shlex.join(["midigen", *sys.argv[1:]])
    own = {"step": restored.step, "seed": restored.experiment.config.train.seed}
    found = evaluation.rows_of(models[0], settings, command=command, **own)
    found += [row for model in models[1:] for row in evaluation.rows_of(model, settings, command=command)]
    if out is not None:
        rows.append(Path(out), found)
    if samples:
        config = replace(restored.experiment.config.sample, count=samples)
        made = generate_music(restored, config)
        compared = writing.compare(made.pieces, made.meter, music, split)
        if out is not None:
            about = settings | {"model": name}
            rows.append(Path(out), writing.rows_of(compared, about, command=command, **own))
        _say("")
        for line in writing.table(compared):
            _say(line)
    if out is not None:
        _say(f"Rows added to {out}.")
    return 0


def bench_train(corpus: str | None, out: str | None, profile: str | None, config: Config) -> int:
    """`midigen bench train`."""
    _check_rows(out)
    if profile is not None:
        check_folder(Path(profile))
    music = None if corpus is None else load_corpus(Path(corpus))
    config = with_rows(config)
    with says_what_fits(config.batch.rows, data_mesh(config.batch.rows).size):
        measured = benchmark.bench_train(config, music, profile=None if profile is None else Path(profile))
    found = benchmark.rows_of(measured, config, command=shlex.join(["midigen", *sys.argv[1:]]))
    _say_rows(found, width=26)
    if out is not None:
        rows.append(Path(out), found)
        _say(f"Rows added to {out}.")
    if profile is not None:
        trace = next(Path(profile).rglob("perfetto_trace.json.gz"))
        _say(f"Trace in {trace}: open it on ui.perfetto.dev.")
    return 0


def bench_decode(
    run: str | None,
    model: str | None,
    out: str | None,
    plot: str | None,
    batches: Sequence[int] | None,
    events: int,
    peers: str | None,
    quick: bool,
    settings: Mapping[str, object],
) -> int:
    """`midigen bench decode`: rows are there as soon as a size of batch is measured."""
    _check_rows(out)
    if plot is not None and Path(plot).suffix not in (".png", ".svg"):
        raise InputError(f"--plot {plot}: give a file that ends in .png or .svg")
    _check_subject(run, model, peers, settings)
    rivals_of = None if peers is None else _peers(peers)
    batches = batches or ((1, 64) if quick else (1, 64, 256, 1024))
    seconds, times = (0.1, 1) if quick else (0.5, 5)
    writes = load_step_model(model) if model is not None else None
    waits: dict[str, list[float]] = {}
    if 1 in batches:  # before this process takes the device
        waits = first_note.starts(first_note.Start(run, model, settings), times)
    subject = writes or _subject(run, settings)
    command, measured = shlex.join(["midigen", *sys.argv[1:]]), list[rows.Row]()
    with ExitStack() as stack:
        others = None
        if rivals_of is not None and isinstance(subject, subjects.Subject):
            others = stack.enter_context(rivals_of(subject, seconds, events))
        for batch in batches:
            with ExitStack() as warm:
                rivals = {} if others is None else warm.enter_context(others.at(batch))
                calls = {name: rival.round for name, rival in rivals.items()}
                if isinstance(subject, subjects.Subject):
                    figures = decoding.bench_decode(subject, batch, events, calls, seconds)
                else:
                    figures = decoding.bench_step(subject, batch, events, seconds)
            if batch == 1:
                figures = figures._replace(first={**waits, **figures.first})
            found = decode_rows.rows_of(subject, figures, rivals, command=command)
            _say(f"batch {batch}")
            _say_rows(found, width=36)
            _say(decode_rows.line_of(found))
            if out is not None:
                rows.append(Path(out), found)
            measured += found
    if out is not None:
        _say(f"Rows added to {out}.")
    if plot is not None:
        draw_rates(measured, Path(plot))
        _say(f"Plot in {plot}.")
    return 0


def bench_compile(
    target: Target,
    recipe: str,
    settings: Mapping[str, object],
    names: Sequence[str],
    pieces: Sequence[int],
    schedules: bool,
    out: str | None,
    text: str | None,
) -> int:
    """`midigen bench compile`: rows are there as soon as a program is compiled."""
    _check_rows(out)
    jax.config.update("jax_platforms", "cpu")  # a TPU of this machine is not asked for
    if text is not None:
        make_folder(Path(text))
    programs: list[compiling.Program] = []
    if "train" in names:
        programs.append(compiling.Program(recipe, settings))
    for name in ("decode", "filters"):
        if name in names:
            programs += [compiling.Decode(recipe, settings, count, name == "filters") for count in pieces]
    command, folder = shlex.join(["midigen", *sys.argv[1:]]), None if text is None else Path(text)
    with Progress("compiling", len(programs), "programs") as progress:
        found = compiling.compile_all(target, programs, schedules, folder)
        for program, figure in zip(programs, found, strict=True):
            progress.advance()
            _say(f"{target.name}: {compiling.describe(program)} ({figure.compile_seconds:.0f} s to compile)")
            for line in figures.in_words(figure, target):
                _say(line)
            if out is not None:
                config = compiling.settings_of(program)
                rows.append(Path(out), figures.rows_of(figure, target, config, command=command))
    if out is not None:
        _say(f"Rows added to {out}.")
    return 0


def _check_rows(out: str | None) -> None:
    """Raises InputError, before anything is measured, where rows cannot be added to `out`."""
    if out is not None and Path(out).is_dir():
        raise InputError(f"--out {out}: is a folder; give a .jsonl file")


def _peers(folder: str) -> Any:
    """The context manager around the rivals in a folder, which the repository has and the package has not."""
    place = Path(folder).resolve()
    if not (place / "decode.py").is_file():
        raise InputError(
            f"--peers {folder}: no rivals there; they are in scripts/rivals of the repository, "
            "and not in the package"
        )
    sys.path.insert(0, str(place.parent))
    return importlib.import_module(f"{place.name}.decode").Peers


def _check_subject(
    run: str | None, model: str | None, peers: str | None, settings: Mapping[str, object]
) -> None:
    """Raises InputError, before anything is measured, where two are named that shall write."""
    if model is not None:
        alone = [(run, "RUN"), (peers, "--peers"), *((True, f"--{name}") for name in sorted(settings))]
        other = next((name for there, name in alone if there), None)
        if other is not None:
            raise InputError(f"--model {model}: is measured alone; leave {other} out")
    others = sorted(set(settings) - {"model.compute_dtype"})
    if run is not None and others:
        raise InputError(f"{run}: has a model of its own; leave --{others[0]} out, or RUN")


def _subject(run: str | None, settings: Mapping[str, object]) -> subjects.Subject:
    """What writes."""
    if run is None:
        model = configs.override(Config(model=pooling_article()), settings).model
        return subjects.fresh(model)
    return subjects.trained(load_model(run), name_of(run), settings)


def _say_rows(found: Sequence[rows.Row], width: int) -> None:
    for row in found:
        name, least, greatest = f"{row['name']:{width}}", f"{row['min']:,.6g}", f"{row['max']:,.6g}"
        _say(f"{name} {row['value']:>12,.6g} {row['unit']}  ({least} to {greatest})")


def ablate(study: str, config: str | None, out: str | None, dry_run: bool, yes: bool, keep: bool) -> int:
    """`midigen ablate`."""
    asked = read_study(Path(study), sys.maxsize if yes else MOST_RUNS, config)
    groups = by_shape(asked, asked.runs)
    if dry_run or out is None:
        for line in plan_in_words(asked, groups, estimate(asked, groups)):
            _say(line)
        return 0
    folder = Path(out)
    if (folder / "study.html").is_file():
        check_free(STUDY, folder / "study.html")
    command = shlex.join(["midigen", *sys.argv[1:]])
    _say(f"{many(len(asked.runs), 'run')} in {many(len(groups), 'group')} of one program each")
    found = run_study(asked, folder, keep, command, _listen_to)
    write_study(folder, folder / "study.html")
    write_pictures(folder)
    for line in (folder / "table.md").read_text(encoding="utf-8").splitlines():
        _say(line)
    failed = [row for row in found if row["name"] == "ablate.failed"]
    for row in failed:
        _say(f"Failed: {row['config']['arm']}, seed {row['seed']}: {row['reason']}")
    _say(
        f"In {folder}: study.html (open it in a browser), table.md, .tex, .csv, plots as .svg, results.jsonl"
    )
    return 0


def _listen_to(place: Path, music: Generated) -> None:
    """Sound and picture of the one piece beside its file."""
    _write_beside(place, music, music.pieces[0])


def _write_beside(place: Path, music: Generated, notes: Notes) -> None:
    """Picture and sound of a piece beside its file, as far as they are missing. One without a note is silent.

    Each file is written at once, so one that is there is whole.
    """
    picture, audio = place.with_suffix(".png"), place.with_suffix(".mp3")
    if not picture.is_file():
        draw(notes, picture, tempo=music.tempo, meter=music.meter)
    if len(notes) and not audio.is_file():
        write_audio(audio, synthesize(notes, music.tempo, music.program))


def demo(out: str, config: Config) -> int:
    """`midigen demo`: all of the above on the Bach chorales of the music21 package."""
    folder = Path(out)
    check_folder(folder, ("corpus", "corpus.partial", "run", "report.html"))
    corpus = prepare_corpus(["bach"], folder / "corpus", config.prepare)
    _describe(corpus)
    code = train(str(folder / "corpus"), str(folder / "run"), config)
    if code:
        return code
    write_report(folder / "run", folder / "report.html")
    with open_run(folder / "run") as checkpoints:
        scores = {step: checkpoints.metrics(step) for step in checkpoints.steps()}
    _say("")
    _say(f"In {folder}:")
    _say("  report.html             open it in a browser: curves, samples, how to go on")
    for step, metrics in scores.items():
        samples = folder / "run" / "samples" / _step_name(step)
        if samples.is_dir():
            count = len(list(samples.glob("*.mid")))
            score = f"{metrics[METRIC]:.3f} nats an event on validation"
            _say(f"  run/samples/{_step_name(step)} {count} pieces (.mid .mp3 .png), {score}")
    _say("  run/rows.jsonl          what was measured")
    _say(f"  {config.train.checkpoints or 'run/checkpoints':23} the model")
    _say("  corpus                  the tokens")
    return 0


def _compare(meant: PrepareConfig, there: PrepareConfig) -> None:
    """Say where a corpus is not what the config is meant for."""
    for name in ("tokenizer", "transpose"):
        wanted, found = getattr(meant, name), getattr(there, name)
        if wanted != found:
            _say(f"Note: the config is meant for a corpus with --{name} {wanted}; this one has {found}.")


def _describe(corpus: Corpus) -> None:
    """What a corpus holds, and what was left out."""
    facts = corpus.manifest["summary"]
    pieces, events = facts["pieces"], facts["events"]
    _say(
        f"{sum(pieces.values())} pieces ("
        + ", ".join(f"{name} {count}" for name, count in pieces.items())
        + f"), {facts['hours']:.1f} hours of music"
    )
    _say(f"{facts['notes']:,} notes, {facts['slices']:,} slices, {sum(events.values()):,} events")
    sizes = f"{facts['pitch_size']} pitch ids, {facts['duration_size']} duration ids"
    _say(f"{facts['tokenizer']} tokenizer: {sizes}")
    for name, share in facts.get("unknown_share", {}).items():
        _say(f"{share:.1%} of the chords of the {name} split are not in the vocabulary (<unk>)")
    if facts["share_a_family"]:
        copies = f", {facts['duplicates']} of them as the same file" if facts["duplicates"] else ""
        together = "" if any(facts["leaked"].values()) else ": kept in one split"
        _say(f"{facts['share_a_family']} pieces share music with another one{copies}{together}")
    for name, count in facts["leaked"].items():
        if count:
            _say(f"{count} pieces of the given {name} split share music with one in training")
    if facts["stuck"]:
        _say(f"{facts['stuck']:,} notes without an end left out")
    if facts["other_keys"]:
        _say(f"{facts['other_keys']} pieces in other keys left out")
    _describe_refused(corpus)


def _describe_refused(corpus: Corpus) -> None:
    """How many files could not be read and why, with a name for each reason."""
    names = corpus.manifest["quarantine"]
    if not names:
        return
    _say(f"{len(names)} files could not be read; {corpus.path / 'manifest.json'} lists them:")
    for reason, count in corpus.manifest["summary"]["reasons"].items():
        example = next(name for name, text in names.items() if text.startswith(reason))
        _say(f"  {count} {reason} ({example}{', …' if count > 1 else ''})")


def _find_prompt(prompt: str) -> Source:
    if not prompt:
        raise InputError("--prompt: is empty; give a file")
    sources = find_sources([prompt])
    if len(sources) != 1:
        raise InputError(f"--prompt {prompt}: {len(sources)} pieces; give a file with one")
    return sources[0]


def _write_samples(run: Path, steps: Sequence[int]) -> None:
    """Samples of each kept checkpoint, in RUN/samples; those that are there already stay."""
    missing = [step for step in steps if not (run / "samples" / _step_name(step)).is_dir()]
    if not missing:
        return
    with open_run(run) as checkpoints, Progress("sampling", len(missing), "checkpoints") as progress:
        for step in missing:
            _write_samples_of(checkpoints.restore(str(step)), run)
            progress.advance()


def _write_samples_of(restored: Restored, run: Path) -> None:
    """Written beside its place and renamed, so that a folder of samples is always whole."""
    config = restored.experiment.config.sample
    music = generate_music(restored, config)
    partial = run / "samples" / f"{_step_name(restored.step)}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    _write_music(partial, music, Recipe("../..", restored.step, restored.digest, 0, config), run.name)
    settings = {"run": run.name, "step": restored.step, "sample": configs.to_json(config)}
    rows.append(partial / "rows.jsonl", _sample_rows(music, settings))
    partial.rename(run / "samples" / _step_name(restored.step))


def _check_recipe(recipe: Recipe, like: str, restored: Restored, prompt_digest: str | None) -> None:
    """Raises InputError if this is not the checkpoint or not the prompt that a file was made with."""
    if restored.digest != recipe.checkpoint:
        raise InputError(f"{like}: made with another checkpoint of step {recipe.step}; give its own RUN")
    if recipe.prompt_digest not in (None, prompt_digest):
        raise InputError(f"{like}: made with another prompt; give the same one as --prompt")


def _write_music(folder: Path, music: Generated, recipe: Recipe, run: str) -> None:
    """`1.mid`, `1.mp3`, `1.png`, `2.mid` …, from the recipe's number on. A piece without a note is silent."""
    folder.mkdir(parents=True, exist_ok=True)
    with Progress("writing", len(music.pieces), "pieces") as progress:
        for piece, notes in enumerate(music.pieces, start=recipe.piece):
            place = folder / f"{piece + 1}.mid"
            origin = f"midigen-jax: {run}, step {recipe.step}, seed {recipe.sample.seed}, piece {piece + 1}"
            text = (origin, replace(recipe, piece=piece).text())
            # One that is there is whole: a cut command writes the others.
            if not place.is_file():
                write_midi(notes, place, music.tempo, music.program, meter=music.meter, text=text)
            _write_beside(place, music, notes)
            progress.advance()


def _sample_rows(music: Generated, settings: dict) -> list[rows.Row]:
    values = [
        ("sample.events", music.events, "events"),
        ("sample.ended", music.ended, "pieces"),
        ("sample.events_per_s", round(music.events / music.seconds, 1), "events/s"),
        ("sample.compile_seconds", round(music.compile_seconds, 3), "s"),
    ]
    return [rows.make(name, value, unit, config=settings) for name, value, unit in values]


def _check_claim(folder: Path, settings: dict) -> None:
    """Raises InputError if `folder` holds anything but music of these settings."""
    if not (folder / _CLAIM).is_file():
        check_folder(folder)
    elif read_json(folder / _CLAIM, "give another --out") != json.loads(json.dumps(settings)):
        raise InputError(f"{folder}: holds music made with other settings; give another --out")


def _step_name(step: int) -> str:
    return f"step-{step:06d}"


def _say(line: str) -> None:
    print(line, flush=True)
