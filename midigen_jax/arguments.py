"""Commands as frozen dataclasses: a field is an argument, as a field of a `Config` is a setting.

In: the dataclasses, and the words of a command line. Out: one of them with its values, or an InputError in
one line with the nearest right name. A docstring is the summary of a command, and an example; `BenchTrain` is
the command `bench train`.

This is argparse, and not tyro, which reads dataclasses too: with tyro 1.0 `midigen train --help` takes 216 ms
and not 85, errors are boxes of up to 20 lines, and wrong commands and choices get no nearest name.
"""

import argparse
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, Field, field, fields
from operator import attrgetter
from typing import Any, Literal, NamedTuple, NoReturn

from midigen_jax import __version__
from midigen_jax.config import Config, changed, nearest, one_length, options, override, spell, to_json
from midigen_jax.errors import InputError
from midigen_jax.recipes import NAMES, is_config, read_config

RECIPES = f"a recipe ({', '.join(NAMES)}), a .toml file, or a run's config.json"

_CONFIG = ("--config", "--preset")
_METAVARS = {
    "batch.rows": "{auto,N}",
    "prepare.group_by": "{none,folder,stem,FILE.csv}",
    "prepare.tracks": "{all,piano,melody,N}",
    "sample.chords": "SYMBOLS",
    "sample.length": "Nbars|Ns",
    "sample.meter": "N/N",
    "train.checkpoints": "gs://BUCKET/FOLDER",
}
_SHORT = {"train.steps": "--steps", "train.epochs": "--epochs", "train.seed": "--seed"}
_ABOUT = "Symbolic music with LSTMs: from MIDI to a trained model to new MIDI."
_BEGIN = "Begin with `midigen demo --out demo`: minutes later there is something to listen to."
_LOOKS: Any = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}


class _Argument(NamedTuple):
    """What argparse is told of a word (`also` is None), or of a flag and of those that mean the same."""

    also: tuple[str, ...] | None
    how: dict[str, Any]


class _Settings(NamedTuple):
    parts: Mapping[str, str]
    dotted: bool
    named: bool
    base: Callable[[], Config]


class _Asked(NamedTuple):
    """The settings that the words name, as text, by dotted name."""


def word(metavar: str, help: str, default: Any = MISSING, several: bool = False) -> Any:
    """A field that is a word, or is `several`; without a default it must be given."""
    nargs = "+" if several else None if default is MISSING else "?"
    return _field(default, None, metavar=metavar, help=help, nargs=nargs)


def flag(metavar: str, help: str, default: Any = MISSING, *also: str, **more: Any) -> Any:
    """A field that is a flag, as are those in `also`; without a default it must be given.

    `more` is what argparse takes: `type` reads a value, `choices` are all of them.
    """
    if default is not MISSING and default is not None:
        help += f" (default: {spell(default)})"
    return _field(default, also, metavar=metavar, help=help, **more)


def switch(help: str) -> Any:
    """A field that is a flag without a value, and true where it is given."""
    return _field(False, (), help=help, action="store_true")


def asked() -> Any:
    """A field that has the settings which were given (by dotted name), beside one of `settings`."""
    return field(metadata={"about": _Asked()})


def settings(
    parts: Mapping[str, str],
    dotted: bool = True,
    named: bool = True,
    base: Callable[[], Config] = Config,
) -> Any:
    """A field that stands for a flag for each setting in some `parts` of a `Config`, which have titles.

    They are `dotted`, as in --train.steps, or not, as in --min-chord-count. A field of type `Config`, or of
    that of a part, has the config that `--config` names, if there is this flag (`named`), with the settings
    in it; a `dict` has the settings alone, dotted names to text. `base` is the config where none is named.
    """
    return field(metadata={"about": _Settings(parts, dotted, named, base)})


def _field(default: Any, also: tuple[str, ...] | None, help: str, **how: Any) -> Any:
    how |= {"help": help.replace("%", "%%"), "default": None if default is MISSING else default}
    return field(default=default, metadata={"about": _Argument(also, how)})


def whole(remedy: str, most: float = float("inf"), least: int = 1) -> Callable[[str], int]:
    """A reader of whole numbers, `least` to `most`; `remedy` says what to give in place of anything else."""

    def read(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: give {remedy}")
        return int(text)

    return read


def number(remedy: str, least: float, most: float) -> Callable[[str], float]:
    """As `whole`, of any numbers."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: give {remedy}")
        return value

    return read


def between(remedy: str) -> Callable[[str], tuple[int, int]]:
    """A reader of two whole numbers with a line between them; one alone stands for both."""

    def read(text: str) -> tuple[int, int]:
        found = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", text)
        if found is None:
            raise argparse.ArgumentTypeError(f"{text!r}: give {remedy}")
        return int(found[1]), int(found[2] or found[1])

    return read


def one_of(names: Collection[str]) -> Callable[[str], str]:
    """A reader of one of some names."""

    def read(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r}: {nearest(text, names)}")
        return text

    return read


def several(read: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """A reader of values with commas between them, each of which `read` understands."""
    return lambda text: tuple(read(part) for part in text.split(","))


def parse(classes: Sequence[type], groups: Mapping[str, str], words: Sequence[str]) -> Any:
    """The command that `words` ask for, with its values.

    `groups` says what the commands of two words have in common. Raises InputError for words that are not
    understood.
    """
    commands = {re.sub(r"\B(?=[A-Z])", " ", one.__name__).lower(): one for one in classes}
    parser, parsers = _parsers(commands, groups, _config_in(words))
    given, unknown = parser.parse_known_args(words)
    name = given.command
    # An unknown flag is named before a missing one: it may be the missing one, misspelt.
    if unknown:
        wrong = next((word for word in unknown if word.startswith("-")), unknown[0])
        raise InputError(f"{name}: unknown {wrong!r}: {_hint(wrong.partition('=')[0], name, parsers)}")
    values = {}
    for item in fields(commands[name]):
        if isinstance(item.metadata["about"], _Settings):
            values[item.name] = _config(item, given)
        elif isinstance(item.metadata["about"], _Asked):
            values[item.name] = _asked(given)
        else:
            values[item.name] = getattr(given, item.name)
        if values[item.name] is None and item.default is MISSING:
            raise InputError(f"{name}: --{item.name} is missing; `midigen {name} --help` tells more")
    return commands[name](**values)


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line, with the nearest name where there is one."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; `{self.prog} --help` tells more")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            what = ", ".join(action.option_strings) or "no command"
            raise InputError(f"{what} {value!r}: {nearest(value, action.choices)}")


def _config_in(words: Sequence[str]) -> Config | None:
    """The config that `words` name, whose settings are the defaults that help shows."""
    parser = _Parser(prog="midigen", add_help=False, allow_abbrev=False)
    parser.add_argument(*_CONFIG, "--recipe")
    named = parser.parse_known_args(words)[0].config
    return read_config(named) if named and is_config(named) else None


def _parsers(
    commands: Mapping[str, type], groups: Mapping[str, str], base: Config | None
) -> tuple[_Parser, dict[str, _Parser]]:
    """The parser, and those of the commands."""
    parser = _Parser(prog="midigen", description=_ABOUT, epilog=_BEGIN, **_LOOKS)
    parser.add_argument("--version", action="version", version=f"midigen-jax {__version__}")
    places, parsers = {"": parser.add_subparsers(required=True, metavar="COMMAND")}, {}
    for name, command in commands.items():
        group, _, last = name.rpartition(" ")
        if group not in places:
            lasts = " | ".join(other.split()[1] for other in commands if other.startswith(f"{group} "))
            place = places[""].add_parser(group, help=_began(groups[group]), **_LOOKS)
            places[group] = place.add_subparsers(required=True, metavar=lasts)
        summary, _, example = (inspect.getdoc(command) or "").partition("\n\n")
        told: Any = {"description": summary, "epilog": f"example:\n  {example}", **_LOOKS}
        parsers[name] = places[group].add_parser(last, prog=f"midigen {name}", help=_began(summary), **told)
        parsers[name].set_defaults(command=name)
        _add_arguments(parsers[name], command, base)
    return parser, parsers


def _add_arguments(parser: _Parser, command: type, base: Config | None) -> None:
    """Add the arguments of a command; `base` has the defaults of settings that help shows."""
    usage = [parser.prog]
    for item in fields(command):
        about = item.metadata["about"]
        if isinstance(about, _Asked):
            continue
        if isinstance(about, _Settings):
            if about.named:
                begin = f"settings to begin with: {RECIPES} (default: default)"
                parser.add_argument(*_CONFIG, metavar="RECIPE|FILE", help=begin)
            for part, title in about.parts.items():
                _add_settings(parser, part, title, base or about.base(), about.dotted)
        elif about.also is None:
            parser.add_argument(item.name, **about.how)
            looks = {None: "{}", "?": "[{}]", "+": "{}…"}[about.how["nargs"]]
            usage.append(looks.format(about.how["metavar"]))
        else:
            name = f"--{item.name.rstrip('_').replace('_', '-')}"  # `from_` is --from
            parser.add_argument(name, *about.also, dest=item.name, **about.how)
            usage += [f"{name} {about.how['metavar']}"] if item.default is MISSING else []
    parser.usage = " ".join([*usage, "[--FLAG VALUE …]"])


def _began(sentence: str) -> str:
    """A sentence as what follows a name."""
    return sentence[:1].lower() + sentence[1:].rstrip(".")


def _add_settings(parser: _Parser, part: str, title: str, base: Config, dotted: bool) -> None:
    """A flag for each field of a part of a config. Values stay text: `override` reads and checks them."""
    group, config = parser.add_argument_group(title), getattr(base, part)
    for leaf, (kind, help) in options(type(config)).items():
        name = f"{part}.{leaf}"
        flags = [f"--{name}"] if dotted else [f"--{leaf.replace('_', '-')}"]
        flags += [_SHORT[name]] if name in _SHORT else []
        text = f"{help} (default: {spell(attrgetter(leaf)(config), name)})".replace("%", "%%")
        how: dict[str, Any] = {"metavar": _METAVARS.get(name) or _metavar(kind)}
        if kind is bool and not dotted:
            how = {"action": "store_const", "const": "true"}
        group.add_argument(*flags, dest=name, default=argparse.SUPPRESS, help=text, **how)


def _metavar(kind: Any) -> str:
    """What a setting's value looks like: its choices, N for a whole number, X for any other number."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is Literal:
        return f"{{{','.join(typing.get_args(kind))}}}"
    names: dict[Any, str] = {int: "N", str: "KEY", bool: "{true,false}"}
    names |= {tuple[float, ...]: "X,X…", tuple[int, ...]: "N,N…"}
    return names.get(kind, "X")


def _hint(wrong: str, name: str, parsers: Mapping[str, _Parser]) -> str:
    """What to give instead of a flag that the command of that name does not have."""
    if not wrong.startswith("-"):
        return "it takes no such argument"
    for other, parser in parsers.items():
        if other.split()[0] == name.split()[0] and wrong in parser._option_string_actions:
            return f"that is one of `midigen {other}`"
    return nearest(wrong, parsers[name]._option_string_actions)


def _settings_in(given: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given, by dotted name."""
    return {name: value for name, value in vars(given).items() if "." in name}


def _asked(given: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given: those of the named file that are not as by default, and the flags'."""
    named = getattr(given, "config", None)
    of_file = changed(to_json(read_config(named))) if named else {}
    return of_file | one_length(_settings_in(given))


def _config(item: Field, given: argparse.Namespace) -> Any:
    """The value of a field of settings. A wrong one is told here, before anything heavy is imported."""
    about, is_text = item.metadata["about"], typing.get_origin(item.type) is dict
    asked = _settings_in(given)
    named = getattr(given, "config", None)
    if is_text and named and not is_config(named):  # the settings are those of a model, or it is no name
        return asked
    config = override(read_config(named) if named else about.base(), one_length(asked))
    part = config if item.type is Config else getattr(config, next(iter(about.parts)))
    return asked if is_text else part
