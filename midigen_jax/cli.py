"""The command line: `midigen prepare | train | generate | report | demo`.

In: words. Out: one call of `commands`, and an exit code: 0, 2 for a mistake of the user's (one line on
standard error, no traceback), 130 after Ctrl-C. Nothing heavy is imported before the words are understood.
"""

import argparse
import sys
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn

from midigen_jax import __version__
from midigen_jax.config import (
    PRESETS,
    BatchConfig,
    Config,
    ModelConfig,
    PrepareConfig,
    SampleConfig,
    TrainConfig,
    nearest,
    options,
    override,
    preset,
)
from midigen_jax.errors import InputError

_METAVARS = {"prepare.tracks": "{all,piano,melody,N}"}
_SHORT = {"train.steps": "--steps", "train.epochs": "--epochs", "train.seed": "--seed"}


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; the arguments are those of the process unless `words` are given."""
    try:
        return _run(sys.argv[1:] if words is None else words)
    except InputError as error:
        print(f"midigen: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("midigen: interrupted; the same command goes on where it was", file=sys.stderr)
        return 130


def _run(words: Sequence[str]) -> int:
    parser, commands = _parsers()
    if words and not words[0].startswith("-") and words[0] not in commands:
        raise InputError(f"no command {words[0]!r}: {nearest(words[0], commands)}")
    given, unknown = parser.parse_known_args(words)
    if unknown:
        flags = [flag for action in commands[given.command]._actions for flag in action.option_strings]
        word = next((word for word in unknown if word.startswith("-")), unknown[0])
        hint = nearest(word.split("=")[0], flags) if word.startswith("-") else "it takes no such argument"
        raise InputError(f"{given.command}: unknown {word!r}: {hint}")
    settings = {name: value for name, value in vars(given).items() if "." in name}
    return _COMMANDS[given.command](given, settings)


def _prepare(given: argparse.Namespace, settings: dict[str, Any]) -> int:
    config = override(Config(), settings).prepare
    from midigen_jax import commands

    return commands.prepare(given.sources, given.out, config, given.workers)


def _train(given: argparse.Namespace, settings: dict[str, Any]) -> int:
    config = override(preset(given.preset), _one_length(settings))
    from midigen_jax import commands

    return commands.train(given.corpus, given.out, config)


def _generate(given: argparse.Namespace, settings: dict[str, Any]) -> int:
    config = override(Config(), settings).sample
    from midigen_jax import commands

    return commands.generate(given.run, given.out, config, given.prompt, given.checkpoint)


def _report(given: argparse.Namespace, settings: dict[str, Any]) -> int:
    from midigen_jax import commands

    return commands.report(given.run, given.out)


def _demo(given: argparse.Namespace, settings: dict[str, Any]) -> int:
    config = override(preset("default"), _one_length(settings))
    from midigen_jax import commands

    return commands.demo(given.out, config)


_COMMANDS = {
    "prepare": _prepare,
    "train": _train,
    "generate": _generate,
    "report": _report,
    "demo": _demo,
}


def _one_length(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Who asks for epochs does not also mean the preset's steps, and the other way round."""
    settings = dict(settings)
    for mine, other in (("train.steps", "train.epochs"), ("train.epochs", "train.steps")):
        if mine in settings and other not in settings:
            return settings | {other: 0}
    return settings


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; `{self.prog} --help` tells more")


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
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
        commands[name] = choose.add_parser(
            name,
            usage=f"midigen {name} {arguments}",
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        return commands[name]

    one = command(
        "prepare",
        "SOURCE… --out CORPUS [--SETTING VALUE …]",
        "turn music into a corpus folder",
        "midigen prepare music.zip more/ --out corpora/mine --tokenizer chord --transpose C",
    )
    one.add_argument("sources", nargs="+", metavar="SOURCE", help="a MIDI file, a folder, a zip, or bach")
    one.add_argument("--out", required=True, metavar="CORPUS", help="the folder to make")
    one.add_argument(
        "--workers",
        type=_count,
        default=0,
        metavar="N",
        help="processes that read files (default: one a core)",
    )
    _add(one, "settings", PrepareConfig, "prepare.", dotted=False)

    one = command(
        "train",
        "CORPUS --out RUN [--preset NAME] [--SETTING VALUE …]",
        "train a model on a corpus, or go on with a training that was stopped",
        "midigen train corpora/bach --out runs/wide --model.width 384 --epochs 20",
    )
    one.add_argument("corpus", metavar="CORPUS", help="a folder that `midigen prepare` made")
    one.add_argument("--out", required=True, metavar="RUN", help="the folder of the run")
    one.add_argument(
        "--preset", default="default", metavar="NAME", help=f"{' or '.join(PRESETS)} (default: default)"
    )
    _add_experiment(one)

    one = command(
        "generate",
        "RUN --out FOLDER [--prompt FILE] [--SETTING VALUE …]",
        "write music with a trained model: MIDI, audio and piano rolls",
        "midigen generate runs/wide --out music --count 8 --temperature 0.9",
    )
    one.add_argument("run", metavar="RUN", help="a folder that `midigen train` made")
    one.add_argument("--out", required=True, metavar="FOLDER", help="the folder for the music")
    one.add_argument("--prompt", metavar="FILE", help="a MIDI file to go on from")
    one.add_argument(
        "--checkpoint", default="best", metavar="WHICH", help="best, latest or a step (default: best)"
    )
    _add(one, "settings", SampleConfig, "sample.", dotted=False)

    one = command(
        "report",
        "RUN --out FILE",
        "make one HTML file of a run: curves, samples to listen to, settings",
        "midigen report runs/wide --out wide.html",
    )
    one.add_argument("run", metavar="RUN", help="a folder that `midigen train` made")
    one.add_argument("--out", required=True, metavar="FILE", help="the file to write")

    one = command(
        "demo",
        "--out FOLDER [--SETTING VALUE …]",
        "prepare Bach chorales, train, and write a report to listen to, in minutes",
        "midigen demo --out demo",
    )
    one.add_argument("--out", required=True, metavar="FOLDER", help="the folder for all of it")
    _add_experiment(one)
    return parser, commands


def _add_experiment(parser: argparse.ArgumentParser) -> None:
    for title, kind in (("model", ModelConfig), ("batch", BatchConfig), ("train", TrainConfig)):
        _add(parser, title, kind, f"{title}.")
    _add(parser, "sample: the samples written after training", SampleConfig, "sample.")


def _add(parser: argparse.ArgumentParser, title: str, kind: type, prefix: str, dotted: bool = True) -> None:
    """A flag for each field of a config class. Values stay text: `override` reads and checks them."""
    group = parser.add_argument_group(title)
    for name, (kind_of_value, help) in options(kind).items():
        default = _spell(getattr(kind(), name))
        flags = [f"--{prefix}{name}"] if dotted else [f"--{name.replace('_', '-')}"]
        flags += [_SHORT[prefix + name]] if prefix + name in _SHORT else []
        group.add_argument(
            *flags,
            dest=prefix + name,
            default=argparse.SUPPRESS,
            metavar=_METAVARS.get(prefix + name) or _metavar(kind_of_value),
            help=f"{help} (default: {default})".replace("%", "%%"),
        )


def _metavar(kind: Any) -> str:
    """What a flag's value looks like: its choices, N for a whole number, X for any other number."""
    if typing.get_origin(kind) is Literal:
        return f"{{{','.join(typing.get_args(kind))}}}"
    return {int: "N", str: "KEY", bool: "{true,false}", tuple[float, ...]: "X,X…"}.get(kind, "X")


def _spell(value: object) -> str:
    """A default as one would type it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number of processes, 1 to 1024")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
