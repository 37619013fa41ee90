"""Files and folders of ours: written whole, never over what is somebody else's.

What is written takes its place at once, so a reader sees the old file or the new one.
"""

import errno
import json
import os
import tomllib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from midigen_jax.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` at the end, and is gone after an exception.

    Missing parent folders are made. The path keeps its suffix, which tells some writers the format.
    """
    make_folder(path.parent)
    partial = path.with_name(f".{os.getpid()}.partial.{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """`value` as readable JSON."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file. Raises InputError with the remedy where there is no whole one."""
    return _read(path, json.loads, "damaged", remedy)


def read_toml(path: Path, remedy: str) -> dict[str, Any]:
    """The tables in a TOML file. Raises InputError with the remedy where there is none."""
    return _read(path, tomllib.loads, "no TOML", remedy)


def _read(path: Path, parse: Callable[[str], Any], wrong: str, remedy: str) -> dict[str, Any]:
    try:
        value = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: not there; {remedy}") from None
    except (OSError, ValueError) as error:  # errors of JSON, TOML and Unicode are ValueErrors
        raise InputError(f"{path}: {wrong} ({error}); {remedy}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: not what belongs there; {remedy}")
    return value


def check_folder(folder: Path, mine: Collection[str] = ()) -> None:
    """Raises InputError unless `folder` is new, empty, or holds nothing but what is named in `mine`.

    Hidden files are nobody's: desktops and interrupted writes leave them.
    """
    if not folder.name:
        raise InputError(f"--out {folder}: give the name of a folder")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a folder")
    names = sorted(item.name for item in folder.iterdir()) if folder.exists() else []
    others = [name for name in names if name not in mine and not name.startswith(".")]
    if others:
        raise InputError(f"{folder}: holds something else ({others[0]}); give an --out that is empty or new")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While entered, the folder, which is there, is this process's.

    Raises InputError where another process has it. The lock goes with the process, however that ends; where
    the system or its disk knows no locks, there is none.
    """
    with (folder / ".lock").open("a+") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"{folder}: another process is at work there; wait for it, or give another --out"
                ) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
        yield


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents. Raises InputError where that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); give another --out") from None
