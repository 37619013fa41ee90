"""The rooms and their order: a room knows only the rooms before it."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import midigen_jax

PACKAGE = Path(midigen_jax.__file__).parent

BASE = {"errors", "files", "config", "rows", "progress", "streams"}
"""Modules at the top; they stand before all rooms."""

CONFIGS = BASE | {"recipes"}

BEFORE = {
    "recipes": {"errors", "config", "files"},
    "music": BASE,
    "vocab": BASE - {"files"} | {"music"},
    "data": BASE | {"music", "vocab"},
    "model": BASE - {"files"} | {"vocab"},
    "train": BASE | {"music", "vocab", "data", "model"},
    "listen": BASE | {"music"},
    "sample": BASE | {"music", "vocab", "data", "model", "train", "listen"},
    "play": BASE | {"music", "vocab", "data", "train", "listen", "sample"},
    "study": CONFIGS | {"music", "vocab", "data", "model", "train", "listen", "sample"},
    "bench": CONFIGS | {"music", "vocab", "data", "model", "train", "sample"},
    "arguments": {"errors", "config", "recipes"},
    "commands": CONFIGS
    | {"music", "vocab", "data", "model", "train", "listen", "sample", "play", "study", "bench", "arguments"},
}

JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
READERS = {"music21", "symusic", "mido"}
FILES = {"pathlib", "os", "io", "shutil", "tempfile", "glob"}


def imports(path: Path, package: str) -> Iterator[tuple[str, str]]:
    """(`file:line`, dotted name) of every import in a file of `package`, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: 1 - node.level or None] if node.level else []
            origin = [*above, node.module] if node.module else above
            names = [".".join([*origin, name]) for name in names]
        for name in names:
            yield f"{path.name}:{node.lineno}", name


def room(name: str) -> str:
    """The room of a dotted name inside the package: `midigen_jax.music.key.Key` is in `music`."""
    return name.split(".")[1]


def every_import() -> list[tuple[str, str, str]]:
    """(room, place, imported name) over the whole package; a top-level module is a room of its own."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        package = ".".join(("midigen_jax", *parts[:-1]))
        found += [(parts[0], f"{parts[0]}/{place}", name) for place, name in imports(path, package)]
    return found


IMPORTS = every_import()


def outside(rooms: set[str], packages: set[str]) -> list[str]:
    """The imports of `packages` in `rooms`, in words."""
    return [
        f"{place} imports {name}"
        for own, place, name in IMPORTS
        if own in rooms and name.split(".")[0] in packages
    ]


def test_the_walk_sees_imports_inside_functions_and_relative_ones(tmp_path: Path) -> None:
    source = "import a.b\ndef f():\n    from c import d\n    from . import e\n    from ..g import h\n"
    file = tmp_path / "module.py"
    file.write_text(source)
    names = [name for _, name in imports(file, "midigen_jax.data")]
    assert names == ["a.b", "c.d", "midigen_jax.data.e", "midigen_jax.g.h"]
    assert len(IMPORTS) > 20


def test_every_module_is_in_a_known_room() -> None:
    known = BASE | set(BEFORE) | {"__init__", "__main__", "cli"}  # cli knows all
    assert {own for own, _, _ in IMPORTS} <= known


@pytest.mark.parametrize("own", sorted(BEFORE))
def test_a_room_imports_only_from_rooms_before_it(own: str) -> None:
    # A name of the package itself, such as its version, belongs to no room.
    wrong = [
        f"{place} imports {name}"
        for importer, place, name in IMPORTS
        if importer == own
        and name.startswith("midigen_jax.")
        and not room(name).startswith("__")
        and room(name) not in BEFORE[own] | {own}
    ]
    assert not wrong


def test_the_top_modules_import_no_room() -> None:
    """But for `midigen_jax.load`, which imports when it is called."""
    wrong = {
        name.rpartition(".")[0]
        for own, _, name in IMPORTS
        if own in BASE | {"__init__"} and name.startswith("midigen_jax.") and room(name) in BEFORE
    }
    assert wrong == {"midigen_jax.sample.model", "midigen_jax.train.pretrained"}


def test_music_and_listen_know_no_jax() -> None:
    assert not outside({"music", "listen"} | BASE, JAX)


def test_the_encoding_half_of_vocabularies_starts_without_jax() -> None:
    """The processes that read files encode what they read, and need not wait for it."""
    code = f"import midigen_jax.data.reading, sys; print(*sorted({JAX!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_only_music_imports_readers() -> None:
    rooms = {own for own, _, _ in IMPORTS} - {"music"}
    assert not outside(rooms, READERS)


def test_model_knows_no_files() -> None:
    assert not outside({"model"}, FILES)


def test_the_command_line_starts_without_heavy_packages() -> None:
    heavy = JAX | READERS | {"matplotlib"}
    code = f"import midigen_jax.cli, sys; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# Imports all that is not ours, and then all modules of ours; says what these changed in the process. What JAX
# or music21 do as they are imported is not ours either.
_IMPORTS = """
import importlib, json, logging, os, signal, sys, threading, warnings

def process():
    loggers = {name: logging.getLogger(name) for name in (None, *logging.root.manager.loggerDict)}
    state = {
        "environment": dict(os.environ),
        "hooks": [sys.excepthook, sys.unraisablehook, threading.excepthook, sys.displayhook],
        "signals": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "warnings": list(warnings.filters),
        "loggers": {
            str(name): (one.level, one.handlers, one.filters, one.disabled) for name, one in loggers.items()
        },
        "streams": [sys.stdin, sys.stdout, sys.stderr],
        "threads": threading.active_count(),
    }
    if "jax" in sys.modules:
        state["jax"] = dict(sys.modules["jax"].config.values)
    return {name: repr(value) for name, value in state.items()}

modules, others = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for name in others:
    try:
        importlib.import_module(name)
    except Exception:
        pass  # a part that its package imports in another order
before = process()
for name in modules:
    importlib.import_module(name)
after = process()
print(json.dumps({
    "others": sorted(name for name in sys.modules if not name.startswith("midigen_jax")),
    "changed": {name: [before[name], after[name]] for name in before if before[name] != after[name]},
}))
"""


def test_importing_the_package_changes_nothing_in_the_process() -> None:
    modules = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.stem not in ("__init__", "__main__")
    ]

    def imported(others: list[str]) -> dict:
        words = [sys.executable, "-c", _IMPORTS, json.dumps(modules), json.dumps(others)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        found: dict = json.loads(done.stdout.splitlines()[-1])
        return found

    assert imported(imported([])["others"])["changed"] == {}
