"""The command line: `midigen inspect | prepare | train | generate | report | bench | demo`.

In: words. Out: one call of `commands`, and an exit code: 0, 2 for a mistake of the user's (one line on
standard error, no traceback), 3 for what passes, 130 after Ctrl-C, SIGTERM or SIGHUP. Nothing heavy is
imported before the words are understood. Nothing fails because nobody reads what is said.
"""

import argparse
import errno
import io
import itertools
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Literal, NoReturn

from midigen_jax import __version__
from midigen_jax.config import (
    Config,
    ContextConfig,
    SampleConfig,
    flatten,
    nearest,
    one_length,
    options,
    override,
    spell,
    to_json,
)
from midigen_jax.errors import (
    AGAIN,
    FAULT,
    INTERRUPTED,
    INTERRUPTION,
    MISTAKE,
    OUT_OF_MEMORY,
    DiskError,
    InputError,
)
from midigen_jax.recipes import NAMES, is_config, pooling_article, read_config
from midigen_jax.streams import outlive_readers
from midigen_jax.train.stop import ends_at_once

# What the machine denies: no fault of the program, and nothing that a traceback would explain.
_NOT_OURS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}

_METAVARS = {
    "batch.rows": "{auto,N}",
    "prepare.tracks": "{all,piano,melody,N}",
    "sample.meter": "N/N",
    "train.checkpoints": "gs://BUCKET/FOLDER",
}
_CONFIG = ("--config", "--preset")
_SHORT = {"train.steps": "--steps", "train.epochs": "--epochs", "train.seed": "--seed"}
_MODEL = (
    "a folder that `midigen train` made, the gs:// address of its checkpoints, or pretrained:NAME, a model "
    "of the package"
)


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; the arguments are those of the process unless `words` are given."""
    outlive_readers()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter is no reason to fail
    try:
        code = _told(sys.argv[1:] if words is None else words)
    except Exception:  # a fault of ours, whose traceback comes next
        _part(FAULT)
        raise
    if code == INTERRUPTED and words is None:
        # Not in order: Python would take away what a compiler that goes on in its thread stands on.
        sys.stdout.flush()
        os._exit(code)
    return code


def _told(words: Sequence[str]) -> int:
    """Run a command; what ends it, and is no fault of ours, is told in a line."""
    try:
        with ends_at_once():
            return _run(words)
    except InputError as error:
        return _end(AGAIN if isinstance(error, DiskError) else MISTAKE, str(error))
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise
        return _end(MISTAKE, f"{error.filename or 'writing'}: {error.strerror}")
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _end(MISTAKE, OUT_OF_MEMORY)
    except KeyboardInterrupt:
        return _end(INTERRUPTED, INTERRUPTION)


def _end(code: int, line: str) -> int:
    """Say why a command ends; its exit code."""
    print(f"midigen: {line}", file=sys.stderr)
    _part(code)
    return code


def _part(code: int) -> None:
    """Where a command is one of several processes, leave the others."""
    if "midigen_jax.train.processes" in sys.modules:
        from midigen_jax.train.processes import part

        part(code)


def _run(words: Sequence[str]) -> int:
    parser, commands = _parsers(_config_in(words))
    if words and not words[0].startswith("-") and words[0] not in commands:
        raise InputError(f"no command {words[0]!r}: {nearest(words[0], commands)}")
    given, unknown = parser.parse_known_args(words)
    # An unknown flag is named before a missing one: it may be the missing one, misspelt.
    name = " ".join(filter(None, (given.command, getattr(given, "what", None))))
    if unknown:
        word = next((word for word in unknown if word.startswith("-")), unknown[0])
        hint = (
            _hint(word.split("=")[0], name, commands) if word.startswith("-") else "it takes no such argument"
        )
        raise InputError(f"{name}: unknown {word!r}: {hint}")
    if given.out is None and given.needs_out:
        raise InputError(f"{name}: --out is missing; `midigen {name} --help` tells more")
    settings = {name: value for name, value in vars(given).items() if "." in name}
    return _COMMANDS[name](given, settings)


def _hint(flag: str, name: str, commands: Mapping[str, "_Parser"]) -> str:
    """What to give instead of a flag that the command of that name does not have."""
    flags = {
        other: [flag for action in parser._actions for flag in action.option_strings]
        for other, parser in commands.items()
    }
    group = [other for other in commands if other.split()[0] == name.split()[0]]
    owner = next((other for other in group if flag in flags[other]), None)
    return nearest(flag, flags[name]) if owner is None else f"that is one of `midigen {owner}`"


def _config_in(words: Sequence[str]) -> Config:
    """The config that `words` ask for, as far as one can tell before they are parsed."""
    named = [after for word, after in itertools.pairwise(words) if word in _CONFIG]
    named += [word.partition("=")[2] for word in words if word.partition("=")[0] in _CONFIG and "=" in word]
    try:
        return read_config(named[-1]) if named else Config()
    except InputError:  # which is told where the words are understood
        return Config()


def _inspect(given: argparse.Namespace, settings: dict[str, Any]) -> int:
    from midigen_jax import commands

    return commands.inspect(given.sources, given.out, given.limit)


def _prepare(given: argparse.Namespace, settings: dict[str, Any]) -> int:
    config = override(read_config(given.config), settings).prepare
    from midigen_jax import commands

    return commands.prepare(given.sources, given.out, config, given.workers, given.strict)


def _train(given: argparse.Namespace, settings: dict[str, Any]) -> int:
    config = override(read_config(given.config), one_length(settings))
    _start(given.cpu_devices)
    alone = [name for name in ("processes", "process") if getattr(given, name) is not None]
    if given.coordinator is not None:
        from midigen_jax.train.processes import Place, join

        join(Place(given.coordinator, given.processes, given.process))
    elif alone:
        raise InputError(f"train: --{alone[0]}: give --coordinator besides, or leave it out")
    from midigen_jax import commands

    return commands.train(given.corpus, given.out, config, given.tensorboard)


def _generate(given: argparse.Namespace, settings: dict[str, Any]) -> int:
    changes = {name.removeprefix("sample."): value for name, value in settings.items()}
    override(SampleConfig(), changes)  # a mistake is told before anything heavy is imported
    _start(cpu_devices=0)
    from midigen_jax import commands

    return commands.generate(given.run, given.out, changes, given.prompt, given.checkpoint, given.like)


def _report(given: argparse.Namespace, settings: dict[str, Any]) -> int:
    from midigen_jax import commands

    return commands.report(given.run, given.out)


def _bench_train(given: argparse.Namespace, settings: dict[str, Any]) -> int:
    config = override(read_config(given.config), one_length(settings))
    _start(given.cpu_devices)
    from midigen_jax import commands

    return commands.bench_train(given.corpus, given.out, given.profile, config)


def _bench_decode(given: argparse.Namespace, settings: dict[str, Any]) -> int:
    if given.config is not None:
        if given.run is not None or given.model is not None:
            raise InputError("bench decode: --config is of fresh weights; leave it out, or RUN and --model")
        model = read_config(given.config).model
        if model.context != ContextConfig():
            raise InputError(
                f"bench decode: --config {given.config} has model.context, and fresh weights write chords; "
                "give a RUN of it, or another config"
            )
        settings = flatten({"model": to_json(model)}) | settings
    if given.run is None:
        override(Config(model=pooling_article()), settings)  # a mistake is no reason to wait for JAX
    from midigen_jax.train import devices

    # As `generate` has it; and no programs are kept, for compiling is measured.
    devices.split_cpu()
    from midigen_jax import commands

    return commands.bench_decode(
        given.run,
        given.model,
        given.out,
        given.plot,
        given.batches,
        given.events,
        given.peers,
        given.quick,
        settings,
    )


def _bench_compile(given: argparse.Namespace, settings: dict[str, Any]) -> int:
    from midigen_jax.bench.targets import find_target

    target = find_target(given.target)
    if is_config(given.recipe):
        override(read_config(given.recipe), settings)  # a mistake is no reason to wait for JAX
    from midigen_jax import commands

    return commands.bench_compile(
        target, given.recipe, settings, given.programs, given.pieces, given.schedules, given.out, given.text
    )


def _evaluate(given: argparse.Namespace, settings: dict[str, Any]) -> int:
    _start(0)
    from midigen_jax import commands

    return commands.evaluate(given.run, given.corpus, given.split, given.checkpoint, given.samples, given.out)


def _ablate(given: argparse.Namespace, settings: dict[str, Any]) -> int:
    if not given.dry_run and given.out is None:
        raise InputError("ablate: --out is missing; `midigen ablate --help` tells more")
    _start(given.cpu_devices)
    from midigen_jax import commands

    return commands.ablate(
        given.study, given.config, given.out, given.dry_run, given.yes, given.keep_checkpoints
    )


def _demo(given: argparse.Namespace, settings: dict[str, Any]) -> int:
    config = override(read_config("default"), one_length(settings))
    _start(given.cpu_devices)
    from midigen_jax import commands

    return commands.demo(given.out, config)


def _start(cpu_devices: int) -> None:
    """Set JAX up before anything computes with it."""
    from midigen_jax.train import devices

    devices.split_cpu(cpu_devices)
    devices.keep_compiled()


_COMMANDS = {
    "inspect": _inspect,
    "prepare": _prepare,
    "train": _train,
    "generate": _generate,
    "report": _report,
    "evaluate": _evaluate,
    "ablate": _ablate,
    "bench train": _bench_train,
    "bench decode": _bench_decode,
    "bench compile": _bench_compile,
    "demo": _demo,
}


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; `{self.prog} --help` tells more")


def _parsers(base: Config) -> tuple[_Parser, dict[str, _Parser]]:
    """The parser and those of the commands; `base` has the defaults that `--help` shows."""
    parser = _Parser(
        prog="midigen",
        description="Symbolic music with LSTMs: from MIDI to a trained model to new MIDI.",
        epilog="Begin with `midigen demo --out demo`: minutes later there is something to listen to.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"midigen-jax {__version__}")
    choose = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands: dict[str, _Parser] = {}

    def command(name: str, arguments: str, summary: str, example: str) -> _Parser:
        *group, last = name.split()
        commands[name] = (choose_bench if group else choose).add_parser(
            last,
            prog=f"midigen {name}",
            usage=f"midigen {name} {arguments}",
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        commands[name].set_defaults(needs_out=True)
        return commands[name]

    one = command(
        "inspect",
        "SOURCE… | CORPUS [--out FILE] [--limit N]",
        "say what is in some music or in a corpus, in figures and in one HTML file of pictures",
        "midigen inspect music.zip --out music.html",
    )
    one.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="a MIDI file, a folder, a zip, or bach; or one CORPUS"
    )
    one.add_argument("--out", metavar="FILE", help="the HTML file to write (default: figures alone)")
    one.set_defaults(needs_out=False)
    one.add_argument(
        "--limit",
        type=_whole("a number of pieces, 1 or more"),
        default=1000,
        metavar="N",
        help="look at N pieces at the most, evenly drawn (default: 1000)",
    )

    one = command(
        "prepare",
        "SOURCE… --out CORPUS [--config RECIPE|FILE] [--SETTING VALUE …]",
        "turn music into a corpus folder",
        "midigen prepare music.zip more/ --out corpora/mine --tokenizer chord --transpose C",
    )
    kinds = "MIDI, MusicXML, ABC, Humdrum, or a benchmark's .mat, .npz, .json"
    one.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help=f"a file ({kinds}), a folder, a zip, or a collection such as bach",
    )
    one.add_argument("--out", metavar="CORPUS", help="the folder to make")
    one.add_argument(
        "--workers",
        type=_count,
        default=0,
        metavar="N",
        help="processes that read files (default: one a core)",
    )
    one.add_argument("--strict", action="store_true", help="stop at the first file that cannot be read")
    _add_config(one)
    _add(one, "settings", base.prepare, "prepare.", dotted=False)

    one = command(
        "train",
        "CORPUS --out RUN [--config RECIPE|FILE] [--SETTING VALUE …]",
        "train a model on a corpus, or go on with a training that was stopped",
        "midigen train corpora/bach --out runs/wide --model.width 384 --epochs 20",
    )
    one.add_argument("corpus", metavar="CORPUS", help="a folder that `midigen prepare` made")
    one.add_argument("--out", metavar="RUN", help="the folder of the run")
    one.add_argument(
        "--tensorboard", action="store_true", help="also write what is measured to RUN/tensorboard"
    )
    _add_processes(one)
    _add_config(one)
    _add_experiment(one, base)

    one = command(
        "generate",
        "RUN --out FOLDER [--prompt FILE] [--SETTING VALUE …] | --like FILE.mid --out FOLDER",
        "write music with a trained model: MIDI, audio and piano rolls",
        "midigen generate pretrained:chorales --out music --count 8 --temperature 0.9",
    )
    one.add_argument("run", nargs="?", metavar="RUN", help=_MODEL)
    one.add_argument("--out", metavar="FOLDER", help="the folder for the music")
    one.add_argument("--prompt", metavar="FILE", help="music to go on from: any file that prepare reads")
    one.add_argument(
        "--drop-prompt",
        dest="sample.keep_prompt",
        action="store_const",
        const="false",
        default=argparse.SUPPRESS,
        help="write only what follows the prompt",
    )
    one.add_argument("--checkpoint", metavar="WHICH", help="best, latest or a step (default: best)")
    one.add_argument(
        "--like", metavar="FILE.mid", help="make a piece again, with the settings that its file carries"
    )
    _add(one, "settings", Config().sample, "sample.", dotted=False)

    one = command(
        "report",
        "RUN --out FILE",
        "make one HTML file of a run: curves, samples to listen to, settings",
        "midigen report runs/wide --out wide.html",
    )
    one.add_argument("run", metavar="RUN", help="a folder that `midigen train` made")
    one.add_argument("--out", metavar="FILE", help="the file to write")

    one = command(
        "evaluate",
        "RUN [CORPUS] [--split valid] [--samples N] [--out FILE]",
        "say how likely a run finds pieces that it has not seen, beside models that need no network",
        "midigen evaluate runs/wide --split test --out results.jsonl",
    )
    one.add_argument("run", metavar="RUN", help=_MODEL)
    one.add_argument("corpus", nargs="?", metavar="CORPUS", help="the pieces (default: the run's corpus)")
    one.add_argument(
        "--split",
        choices=("train", "valid", "test"),
        default="valid",
        help="which of them; choose on valid, and read test once, at the end (default: valid)",
    )
    one.add_argument(
        "--checkpoint", default="best", metavar="WHICH", help="best, latest or a step (default: best)"
    )
    one.add_argument(
        "--samples",
        type=_whole("a number of pieces, 1 to 10,000", 10_000),
        default=0,
        metavar="N",
        help="also write N pieces, as after training, and compare them with the split (default: none)",
    )
    one.add_argument("--out", metavar="FILE", help="a .jsonl file that rows are added to (default: none)")
    one.set_defaults(needs_out=False)

    one = command(
        "ablate",
        "STUDY.toml --out FOLDER [--config RECIPE|FILE] [--dry-run] [--yes] [--keep-checkpoints]",
        "train the arms of a study with several seeds and compare them: tables, plots, one HTML file",
        "midigen ablate scripts/studies/article.toml --out studies/article",
    )
    one.add_argument("study", metavar="STUDY.toml", help="arms, seeds, a budget, what to measure")
    one.add_argument("--out", metavar="FOLDER", help="the folder for all of it")
    _add_config(one, None, "the base begins with, in place of the study's own (default: the study's)")
    one.add_argument("--dry-run", action="store_true", help="say what would be done, and how long it takes")
    one.add_argument("--yes", action="store_true", help="also train more than 1,000 runs")
    one.add_argument(
        "--keep-checkpoints", action="store_true", help="leave the models (default: they go at the end)"
    )
    _add_cpu_devices(one)
    one.set_defaults(needs_out=False)

    bench = command(
        "bench",
        "train | decode | compile …",
        "measure how fast a model trains or writes on this machine, or what it costs on chips elsewhere",
        "midigen bench decode --peers --plot speed.png",
    )
    choose_bench = bench.add_subparsers(dest="what", required=True, metavar="train | decode | compile")
    one = command(
        "bench train",
        "[CORPUS] [--out FILE] [--profile FOLDER] [--config RECIPE|FILE] [--SETTING VALUE …]",
        "measure how fast a model trains on this machine, and how near to its peak",
        "midigen bench train --model.width 512 --profile trace",
    )
    one.add_argument("corpus", nargs="?", metavar="CORPUS", help="default: random note tokens")
    one.add_argument("--out", metavar="FILE", help="a .jsonl file that rows are added to (default: none)")
    one.add_argument(
        "--profile", metavar="FOLDER", help="take a trace of one call, for ui.perfetto.dev or XProf"
    )
    _add_config(one)
    _add_experiment(one, base)
    one.set_defaults(needs_out=False)

    _add_bench_decode(command)
    _add_bench_compile(command, base)

    one = command(
        "demo",
        "--out FOLDER [--SETTING VALUE …]",
        "prepare Bach chorales, train, and write a report to listen to, in minutes",
        "midigen demo --out demo",
    )
    one.add_argument("--out", metavar="FOLDER", help="the folder for all of it")
    _add_experiment(one, base)
    return parser, commands


def _add_bench_decode(command: Callable[[str, str, str, str], _Parser]) -> None:
    one = command(
        "bench decode",
        "[RUN | --model MODULE:FUNCTION] [--out FILE] [--plot FILE] [--peers [FOLDER]] [--SETTING VALUE …]",
        "measure how fast a model writes on this machine, alone or beside other libraries",
        "midigen bench decode --peers --out rows.jsonl --plot speed.png",
    )
    one.add_argument("run", nargs="?", metavar="RUN", help=f"{_MODEL} (default: fresh weights)")
    one.add_argument("--out", metavar="FILE", help="a .jsonl file that rows are added to (default: none)")
    one.add_argument(
        "--plot", metavar="FILE", help="a .png or .svg file: events a second by the size of the batch"
    )
    one.add_argument(
        "--batches",
        type=_batches,
        metavar="N,N…",
        help="pieces that are written at once (default: 1,64,256,1024; with --quick 1,64)",
    )
    one.add_argument(
        "--events",
        type=_whole("a number of events, 1 to 100,000", 100_000),
        default=256,
        metavar="N",
        help="events of each piece in a call (default: 256)",
    )
    one.add_argument(
        "--peers",
        nargs="?",
        const="scripts/rivals",
        metavar="FOLDER",
        help="the same weights in other hands too, in turn: JAX without this loop, PyTorch, Keras, ONNX "
        "Runtime; pip install torch keras tensorflow onnx onnxruntime (one that is missing is left out); and "
        "a Transformer of as many parameters; they lie in the repository (default FOLDER: scripts/rivals)",
    )
    one.add_argument(
        "--model",
        metavar="MODULE:FUNCTION",
        help="measure a step of your own in the same loop and units; docs/decoding.md says what it gives",
    )
    _add_config(
        one,
        None,
        "of fresh weights, which know no context (default: the article's network over the whole past)",
    )
    one.add_argument("--quick", action="store_true", help="short rounds and one cold start: a minute or two")
    _add(one, "model: of fresh weights; of a RUN compute_dtype alone", pooling_article(), "model.")
    one.set_defaults(needs_out=False)


def _add_bench_compile(command: Callable[[str, str, str, str], _Parser], base: Config) -> None:
    one = command(
        "bench compile",
        "[--target CHIP] [--recipe NAME] [--out FILE] [--SETTING VALUE …]",
        "compile training and decoding for chips that are not here, and say what they cost there",
        "midigen bench compile --target v6e:4x4 --batch.rows 256 --model.compute_dtype bfloat16",
    )
    one.add_argument(
        "--target",
        default="v5e",
        metavar="CHIP",
        help="a chip, as v5e, or a slice of them, as v5e:2x2 or v6e:4x4; v5p, tpu7x, h100 and h200 besides "
        "(default: v5e)",
    )
    one.add_argument(
        "--recipe",
        *_CONFIG[:1],
        default="default",
        metavar="NAME",
        help=f"a recipe ({', '.join(NAMES)}), a .toml or .json file of settings; or {_MODEL}",
    )
    one.add_argument(
        "--programs",
        type=_programs,
        default=("train", "decode"),
        metavar="NAME,…",
        help="of train, decode, and filters, which is decode with all filters and constraints "
        "(default: train,decode)",
    )
    one.add_argument(
        "--pieces",
        type=_batches,
        default=(64,),
        metavar="N,N…",
        help="that are decoded at once (default: 64)",
    )
    one.add_argument(
        "--no-schedules", dest="schedules", action="store_false", help="leave out the floor of cycles"
    )
    one.add_argument("--out", metavar="FILE", help="a .jsonl file that rows are added to (default: none)")
    one.add_argument("--text", metavar="FOLDER", help="a folder that takes the compiled programs as text")
    for title, config in (("model", base.model), ("batch", base.batch), ("train", base.train)):
        _add(one, title, config, f"{title}.")
    one.set_defaults(needs_out=False)


def _programs(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if not set(names) <= {"train", "decode", "filters"}:
        raise argparse.ArgumentTypeError(f"{text!r}: give some of train, decode, filters, as in train,decode")
    return names


def _add_config(
    parser: argparse.ArgumentParser,
    default: str | None = "default",
    what: str = "to begin with (default: default)",
) -> None:
    parser.add_argument(
        *_CONFIG,
        dest="config",
        default=default,
        metavar="RECIPE|FILE",
        help=f"settings {what}: a recipe ({', '.join(NAMES)}), a .toml file, or a run's config.json",
    )


def _add_processes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("processes: many that are one training; all get the same command")
    group.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="where process 0 is, the same for all; or auto, on TPU VMs, Slurm, Open MPI and Kubernetes",
    )
    group.add_argument("--processes", type=_count, metavar="N", help="how many there are")
    group.add_argument("--process", type=int, metavar="I", help="which of them this is, from 0")


def _add_cpu_devices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cpu-devices",
        type=_count,
        default=0,
        metavar="N",
        help="XLA devices that a CPU is split into, which share the work (default: one a core)",
    )


def _add_experiment(parser: argparse.ArgumentParser, base: Config) -> None:
    _add_cpu_devices(parser)
    for title, config in (("model", base.model), ("batch", base.batch), ("train", base.train)):
        _add(parser, title, config, f"{title}.")
    _add(parser, "sample: the samples written after training", base.sample, "sample.")


def _add(parser: argparse.ArgumentParser, title: str, config: Any, prefix: str, dotted: bool = True) -> None:
    """A flag for each field of a config. Values stay text: `override` reads and checks them."""
    group = parser.add_argument_group(title)
    for name, (kind_of_value, help) in options(type(config)).items():
        default = spell(attrgetter(name)(config), prefix + name)
        flags = [f"--{prefix}{name}"] if dotted else [f"--{name.replace('_', '-')}"]
        flags += [_SHORT[prefix + name]] if prefix + name in _SHORT else []
        text = f"{help} (default: {default})".replace("%", "%%")
        common: dict[str, Any] = {"dest": prefix + name, "default": argparse.SUPPRESS, "help": text}
        if kind_of_value is bool and not dotted:
            group.add_argument(*flags, action="store_const", const="true", **common)
        else:
            metavar = _METAVARS.get(prefix + name) or _metavar(kind_of_value)
            group.add_argument(*flags, metavar=metavar, **common)


def _metavar(kind: Any) -> str:
    """What a flag's value looks like: its choices, N for a whole number, X for any other number."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is Literal:
        return f"{{{','.join(typing.get_args(kind))}}}"
    names: dict[Any, str] = {int: "N", str: "KEY", bool: "{true,false}"}
    names |= {tuple[float, ...]: "X,X…", tuple[int, ...]: "N,N…"}
    return names.get(kind, "X")


def _whole(remedy: str, most: float = float("inf")) -> Callable[[str], int]:
    """A reader of whole numbers from 1 to `most`; `remedy` says what to give in place of anything else."""

    def read(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: give {remedy}")
        return int(text)

    return read


_count = _whole("a whole number, 1 to 1024", 1024)


def _batches(text: str) -> tuple[int, ...]:
    counts = text.split(",")
    if not all(count.isdecimal() and 1 <= int(count) <= 65_536 for count in counts):
        raise argparse.ArgumentTypeError(f"{text!r}: give whole numbers, 1 to 65,536, as in 1,64")
    return tuple(map(int, counts))


if __name__ == "__main__":
    sys.exit(main())
