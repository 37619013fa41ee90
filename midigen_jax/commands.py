"""The commands: what each takes, and the one function of the library that it calls when it is run.

A command is a frozen dataclass: `arguments` makes flags and help of its fields and its docstring. Nothing
heavy is imported before it is called, so that help comes at once. A call gives an exit code, or None for 0.
"""

import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from midigen_jax.arguments import (
    RECIPES,
    asked,
    between,
    flag,
    number,
    one_of,
    settings,
    several,
    switch,
    whole,
    word,
)
from midigen_jax.config import Config, PrepareConfig
from midigen_jax.errors import INTERRUPTED, InputError
from midigen_jax.recipes import pooling_article
from midigen_jax.sample.formats import FEW, FORMATS

_MODEL = "a run's folder, the gs:// address of its checkpoints, an exported FILE.npz, or pretrained:NAME"
_ROWS = "a .jsonl file that rows are added to (default: none)"
_PEERS = (
    "the same weights in other hands too, in turn: JAX without this loop, PyTorch, Keras, ONNX Runtime (pip "
    "install torch keras tensorflow onnx onnxruntime; one that is missing is left out), and a Transformer of "
    "as many parameters; they lie in the repository (default FOLDER: scripts/rivals)"
)
_PLAIN = "default: the article's network over the whole past"
_DEVICES = "XLA devices that a CPU is split into, which share the work; 0: one a core"
_TRAINING = {"model": "model", "batch": "batch", "train": "train"}
_EXPERIMENT = _TRAINING | {"sample": "sample: the samples written after training"}
Split = Literal["train", "valid", "test"]
_count = whole("a whole number, 1 to 1024", 1024)
_counts = several(whole("whole numbers, 1 to 65,536, as in 1,64", 65_536))
_events = whole("a number of events, 1 to 100,000", 100_000)
_limit = whole("a number of pieces, 1 or more")
_pieces = whole("a number of pieces, 1 to 10,000", 10_000)
_particles = whole("a number of particles, 1 to 10,000", 10_000)
_seed = whole("a whole number, 0 up to 4,294,967,295", 2**32 - 1, least=0)
_temperature = number("a number, 0.01 to 10", 0.01, 10)
_nats = number("a number of nats, 0 to 1,000", 0, 1000)
_port = whole("a port, 1 to 65,535, or 0", 65_535, least=0)
_names = several(str)
_bars = between("two bars, as in 5-8")
_formats = flag(
    "KIND,…",
    f"{', '.join(FORMATS)} (default: all; of more than {FEW} pieces midi)",
    None,
    type=several(one_of(FORMATS)),
)
_say = partial(print, sep="\n", flush=True)
_command = dataclass(frozen=True, kw_only=True)


@_command
class Inspect:
    """Say what is in some music, in a corpus or in a model, in figures and in a file of pictures.

    midigen inspect music.zip --out music.html
    """

    sources: list[str] = word(
        "SOURCE",
        "a MIDI file, a folder, a zip, or bach; or one CORPUS; or one RUN or pretrained:NAME",
        several=True,
    )
    out: str | None = flag(
        "FILE", "the HTML file to write; of a model the picture, .svg or .png (default: figures alone)", None
    )
    limit: int = flag("N", "look at N pieces at the most, evenly drawn", 1000, type=_limit)
    leaks: bool = switch(
        "of a CORPUS: only which held-out pieces share music with the training split, and where"
    )

    def __call__(self) -> None:
        if self.leaks:
            from midigen_jax.data.leaks import describe_leaks

            if len(self.sources) > 1 or self.out is not None:
                raise InputError("--leaks: give one corpus, and no --out")
            _say(*describe_leaks(Path(self.sources[0])))
            return
        from midigen_jax.data.inspect import inspect
        from midigen_jax.listen.findings import describe
        from midigen_jax.listen.inspect import write_inspection
        from midigen_jax.listen.page import INSPECTION, check_free

        if self.sources[0].startswith("pretrained:") or (Path(self.sources[0]) / "checkpoints").is_dir():
            from midigen_jax.study.anatomy import describe_network

            _say(*describe_network(self.sources[0], self.out))
            return
        if self.out is not None:
            check_free(INSPECTION, Path(self.out))  # before the work, not after it
        found = inspect(self.sources, self.limit)
        _say(*describe(found))
        if self.out is not None:
            write_inspection(found, Path(self.out))
            _say(f"Page in {self.out}: open it in a browser.")


@_command
class Prepare:
    """Turn music into a corpus folder.

    midigen prepare music.zip more/ --out corpora/mine --tokenizer chord --transpose C
    """

    sources: list[str] = word(
        "SOURCE", "MIDI, MusicXML, ABC, Humdrum, .mat, .npz, .json; a folder, a zip, or bach", several=True
    )
    out: str = flag("CORPUS", "the folder to make")
    workers: int = flag("N", "processes that read files; 0: one a core", 0, type=_count)
    strict: bool = switch("stop at the first file that cannot be read")
    like: str | None = flag(
        "RUN", f"the settings and the vocabulary of a model, to train it further: {_MODEL}", None
    )
    config: PrepareConfig = settings({"prepare": "settings"}, dotted=False)
    given: dict[str, Any] = asked()

    def __call__(self) -> None:
        from midigen_jax.data.prepare import prepare
        from midigen_jax.listen.tables import corpus_in_words

        config, vocabulary = self.config, None
        if self.like is not None:
            from midigen_jax.data.prepare import like
            from midigen_jax.train.pretrained import load_model

            model = load_model(self.like).metadata
            config, vocabulary = like(model.config.prepare, self.given), model.vocabulary
        corpus = prepare(self.sources, Path(self.out), config, self.workers, self.strict, vocabulary)
        _say(*corpus_in_words(corpus.path, corpus.manifest))
        start = "" if self.like is None else f" --from {shlex.quote(self.like)}"
        _say(f"Corpus in {self.out}. Next: midigen train {shlex.quote(self.out)}{start} --out RUN")


@_command
class Train:
    """Train a model on a corpus, or go on with a training that was stopped.

    midigen train corpora/bach --out runs/wide --model.width 384 --epochs 20
    """

    corpus: str = word("CORPUS", "a folder that `midigen prepare` made")
    out: str = flag("RUN", "the folder of the run")
    from_: str | None = flag("RUN", f"train this model further: {_MODEL}", None)
    tensorboard: bool = switch("also write what is measured to RUN/tensorboard")
    coordinator: str | None = flag(
        "HOST:PORT", "process 0 of several; or auto, on TPU VMs, Slurm, Open MPI, Kubernetes", None
    )
    processes: int | None = flag("N", "how many processes there are", None, type=_count)
    process: int | None = flag("I", "which of them this is, from 0", None, type=int)
    cpu_devices: int = flag("N", _DEVICES, 0, type=_count)
    config: Config = settings(_EXPERIMENT)
    given: dict[str, Any] = asked()

    def __call__(self) -> int | None:
        _start(self.cpu_devices)
        from midigen_jax.sample.training import further, train
        from midigen_jax.train.distributed import Place, join

        if self.coordinator is not None:
            join(Place(self.coordinator, self.processes, self.process))
        elif self.processes is not None or self.process is not None:
            name = "--process" if self.processes is None else "--processes"
            raise InputError(f"train: {name}: give --coordinator besides, or leave it out")
        config = self.config if self.from_ is None else further(self.from_, self.given)
        is_whole = train(self.corpus, self.out, config, self.tensorboard, _say)
        return None if is_whole else INTERRUPTED


@_command
class Generate:
    """Write music with a trained model: MIDI, audio and piano rolls.

    midigen generate pretrained:chorales --out music --count 8 --temperature 0.9
    """

    run: str | None = word("RUN", _MODEL, None)
    out: str = flag("FOLDER", "the folder for the music")
    prompt: str | None = flag("FILE[:N-N]", "music to go on from, or some bars of it (upbeat: bar 0)", None)
    tracks: str | None = flag(
        "WHICH", "of the prompt: all, piano, melody, or the Nth track (default: as trained)", None
    )
    drop_prompt: bool = switch("write only what follows the prompt")
    checkpoint: str | None = flag("WHICH", "best, latest or a step (default: best)", None)
    like: str | None = flag("FILE.mid", "make a piece again, with the settings that its file carries", None)
    format: tuple[str, ...] | None = _formats
    changes: dict[str, Any] = settings({"sample": "settings"}, dotted=False, named=False)

    def __call__(self) -> None:
        _start()
        from midigen_jax.sample.folder import write_music

        changes = self.changes | ({"sample.keep_prompt": "false"} if self.drop_prompt else {})
        given = self.prompt, self.checkpoint, self.like, self.tracks, self.format
        _say(*write_music(self.run, Path(self.out), changes, *given))


@_command
class _Particles:
    """What commands that write with particles have in common."""

    out: str = flag("FOLDER", "the folder for the music")
    model: str = flag("RUN", _MODEL, "pretrained:harmoniser")
    count: int = flag("N", "pieces to write, the likeliest first", 1, type=_pieces)
    particles: int = flag("N", "rows that write a piece: more are better, slower", 64, type=_particles)
    temperature: float = flag("T", "above 0; below 1 keeps to what is likely", 1.0, type=_temperature)
    parallels: float = flag("NATS", "what two voices in parallel fifths or octaves cost", 3.0, type=_nats)
    seed: int = flag("N", "seed", 0, type=_seed)
    format: tuple[str, ...] | None = _formats

    def _write(self, file: str, said: str, tracks: str, asked: dict[str, Any]) -> None:
        _start()
        from midigen_jax.sample.around import How, write_around
        from midigen_jax.sample.folder import find_prompt

        how = How(self.count, self.particles, self.temperature, parallel=self.parallels, seed=self.seed)
        _say(
            *write_around(
                find_prompt(file, said), Path(self.out), self.model, tracks, asked, how, self.format
            )
        )


@_command
class Harmonise(_Particles):
    """Write the other voices around a melody, with a model of voices.

    midigen harmonise melody.mid --out harmonies --count 4
    """

    melody: str = word("MELODY", "a file with one note at a time, of any kind that prepare reads")
    voice: str = flag("VOICE", "soprano, alto, tenor or bass, or its number from the highest", "soprano")
    tracks: str = flag("WHICH", "of the file: all, piano, melody, or the Nth track with notes", "all")

    def __call__(self) -> None:
        self._write(self.melody, "MELODY", self.tracks, {"voice": self.voice})


@_command
class Fill(_Particles):
    """Write some bars of a piece anew, in all voices or in some, between what stays.

    midigen fill chorale.mid --bars 5-8 --voices alto,tenor --out filled
    """

    file: str = word("FILE", "a piece with a track for each voice, of any kind that prepare reads")
    bars: tuple[int, ...] = flag("N-N", "the first and the last bar; an upbeat is bar 0", type=_bars)
    voices: tuple[str, ...] | None = flag(
        "VOICE,…", "as soprano,alto or 1,2, from the highest (default: all)", None, type=_names
    )

    def __call__(self) -> None:
        self._write(self.file, "FILE", "all", {"bars": self.bars, "voices": self.voices or ()})


@_command
class Play:
    """Open a page on this computer to make music with, which sounds while it is written.

    midigen play
    """

    run: str = word("RUN", f"{_MODEL} (default: pretrained:chorales)", "pretrained:chorales")
    port: int = flag(
        "N", "of this computer, on which nobody else listens; 0: any that is free", 8010, type=_port
    )
    no_open: bool = switch("do not open the page in a browser")

    def __call__(self) -> int:
        from midigen_jax.play import check_installed

        check_installed()
        _start()
        from midigen_jax.play.server import play

        play(self.run, self.port, not self.no_open, _say)
        return INTERRUPTED


@_command
class Export:
    """Write a model as one file that every command takes in place of a run, or for browsers, with a page.

    midigen export runs/wide --out wide.npz
    """

    run: str = word("RUN", _MODEL)
    out: str = flag("FILE.npz", "the file to write: parameters in half precision, settings, vocabulary")
    checkpoint: str = flag("WHICH", "best, latest or a step", "best")
    onnx: bool = switch("--out is a folder, for browsers: the decoding step as ONNX, and a page that runs it")

    def __call__(self) -> None:
        _start()
        if self.onnx:
            from midigen_jax.sample.web import GRAPH, export_web

            export_web(self.run, Path(self.out), self.checkpoint)
            size = (Path(self.out) / GRAPH).stat().st_size / 1e6
            _say(
                f"{size:.2f} MB in {self.out}. To hear it: python -m http.server -d {shlex.quote(self.out)}, "
                f"and open http://localhost:8000; the page takes onnxruntime-web from {self.out}/ort or, "
                "without one, from the network."
            )
            return
        from midigen_jax.train.pretrained import export

        export(self.run, Path(self.out), self.checkpoint)
        _say(f"{Path(self.out).stat().st_size / 1e6:.2f} MB in {self.out}.")


@_command
class Report:
    """Make one HTML file of a run: curves, samples to listen to, settings.

    midigen report runs/wide --out wide.html
    """

    run: str = word("RUN", "a folder that `midigen train` made")
    out: str = flag("FILE", "the file to write")

    def __call__(self) -> None:
        from midigen_jax.listen.report import write_report

        write_report(Path(self.run), Path(self.out))
        _say(f"Report in {self.out}: open it in a browser.")


@_command
class Evaluate:
    """Say how likely a run finds pieces that it has not seen, beside models that need no network.

    midigen evaluate runs/wide --split test --out results.jsonl
    """

    run: str = word("RUN", _MODEL)
    corpus: str | None = word("CORPUS", "the pieces (default: the run's corpus)", None)
    split: Split = flag("SPLIT", "train, valid, or, once, at the end, test", "valid", choices=get_args(Split))
    checkpoint: str = flag("WHICH", "best, latest or a step", "best")
    samples: int = flag("N", "also write N pieces beside those of the split; 0: none", 0, type=_pieces)
    out: str | None = flag("FILE", _ROWS, None)

    def __call__(self) -> None:
        _start()
        from midigen_jax.rows import show
        from midigen_jax.study.held_out import measure_run

        show(measure_run(self.run, self.corpus, self.split, self.checkpoint, self.samples), self.out)


@_command
class Ablate:
    """Train the arms of a study with several seeds and compare them: tables, plots, one HTML file.

    midigen ablate scripts/studies/article.toml --out studies/article
    """

    study: str = word("STUDY.toml", "arms, seeds, a budget, what to measure")
    out: str | None = flag("FOLDER", "the folder for all of it", None)
    config: str | None = flag("RECIPE|FILE", f"of the base: {RECIPES} (default: its own)", None, "--preset")
    dry_run: bool = switch("say what would be done, and how long it takes")
    yes: bool = switch("also train more than 1,000 runs")
    keep_checkpoints: bool = switch("leave the models (default: they go at the end)")
    cpu_devices: int = flag("N", _DEVICES, 0, type=_count)

    def __call__(self) -> None:
        if self.out is None and not self.dry_run:
            raise InputError("ablate: --out is missing; `midigen ablate --help` tells more")
        _start(self.cpu_devices)
        from midigen_jax.study.ablation import ablate

        out = None if self.dry_run or self.out is None else Path(self.out)
        for line in ablate(Path(self.study), out, self.config, self.yes, self.keep_checkpoints):
            _say(line)


@_command
class BenchTrain:
    """Measure how fast a model trains on this machine, and how near to its peak.

    midigen bench train --model.width 512 --profile trace
    """

    corpus: str | None = word("CORPUS", "what to train on (default: random note tokens)", None)
    out: str | None = flag("FILE", _ROWS, None)
    profile: str | None = flag("FOLDER", "take a trace of one call, for ui.perfetto.dev or XProf", None)
    cpu_devices: int = flag("N", _DEVICES, 0, type=_count)
    config: Config = settings(_EXPERIMENT)

    def __call__(self) -> None:
        _start(self.cpu_devices)
        from midigen_jax.rows import show
        from midigen_jax.study.benchmark import measure_training

        show(measure_training(self.config, self.corpus, self.profile), self.out)


@_command
class BenchDecode:
    """Measure how fast a model writes on this machine, alone or beside other libraries.

    midigen bench decode --peers --out rows.jsonl --plot speed.png
    """

    run: str | None = word("RUN", f"{_MODEL} (default: fresh weights)", None)
    out: str | None = flag("FILE", _ROWS, None)
    plot: str | None = flag("FILE", "a .png or .svg file: events a second by the size of the batch", None)
    batches: tuple[int, ...] | None = flag(
        "N,N…", "pieces written at once (default: 1,64,256,1024; with --quick 1,64)", None, type=_counts
    )
    events: int = flag("N", "events of each piece in a call", 256, type=_events)
    peers: str | None = flag("FOLDER", _PEERS, None, nargs="?", const="scripts/rivals")
    model: str | None = flag("MODULE:FUNCTION", "a step of your own, as in docs/decoding.md", None)
    config: str | None = flag("RECIPE|FILE", f"of fresh weights: {RECIPES} ({_PLAIN})", None, "--preset")
    quick: bool = switch("short rounds and one cold start: a minute or two")
    changes: dict[str, Any] = settings(
        {"model": "model: of fresh weights; of a RUN compute_dtype alone"},
        named=False,
        base=lambda: Config(model=pooling_article()),
    )

    def __call__(self) -> None:
        from midigen_jax.rows import show
        from midigen_jax.study.contenders import measure_decoding
        from midigen_jax.train.distributed import split_cpu

        split_cpu()  # as `_start` has it; and no programs are kept, for compiling is measured
        what = self.run, self.model, self.config, self.changes, self.peers
        show(measure_decoding(*what, self.batches, self.events, self.quick, self.plot), self.out)


@_command
class BenchCompile:
    """Compile training and decoding for chips that are not here, and say what they cost there.

    midigen bench compile --target v6e:4x4 --batch.rows 256 --model.compute_dtype bfloat16
    """

    target: str = flag("CHIP", "v5e, v5p, v6e, tpu7x, h100 or h200; or a slice, as v6e:4x4", "v5e")
    config: str = flag("NAME", f"{RECIPES}; or {_MODEL}", "default", "--recipe")
    programs: tuple[str, ...] = flag(
        "NAME,…", "train, decode, filters (decode with all of them)", ("train", "decode"), type=several(str)
    )
    pieces: tuple[int, ...] = flag("N,N…", "that are decoded at once", (64,), type=_counts)
    no_schedules: bool = switch("leave out the floor of cycles")
    out: str | None = flag("FILE", _ROWS, None)
    text: str | None = flag("FOLDER", "a folder that takes the compiled programs as text", None)
    changes: dict[str, Any] = settings(_TRAINING, named=False)

    def __call__(self) -> None:
        from midigen_jax.bench.compile import measure_compiled
        from midigen_jax.rows import show

        what = self.target, self.config, self.changes, self.programs, self.pieces
        show(measure_compiled(*what, not self.no_schedules, self.text), self.out)


@_command
class Demo:
    """Prepare Bach chorales, train, and write a report to listen to, in minutes.

    midigen demo --out demo
    """

    out: str = flag("FOLDER", "the folder for all of it")
    cpu_devices: int = flag("N", _DEVICES, 0, type=_count)
    config: Config = settings(_EXPERIMENT, named=False)

    def __call__(self) -> int | None:
        _start(self.cpu_devices)
        from midigen_jax.sample.training import demo

        return None if demo(Path(self.out), self.config, _say) else INTERRUPTED


COMMANDS = (
    *(Inspect, Prepare, Train, Generate, Harmonise, Fill, Play, Export, Report, Evaluate, Ablate),
    *(BenchTrain, BenchDecode, BenchCompile, Demo),
)
GROUPS = {"bench": "Measure how fast a model trains or writes here, or what it costs on other chips."}


def _start(cpu_devices: int = 0) -> None:
    """Set JAX up before anything computes with it."""
    from midigen_jax.train import distributed

    distributed.split_cpu(cpu_devices)
    distributed.keep_compiled()
