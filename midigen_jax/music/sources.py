"""Sources: what the user names (a file, a folder, a zip, `bach`) as a list of single pieces to read.

Nothing is unpacked: a member of a zip is read into memory, and only after its declared size was checked.
"""

import difflib
import importlib.util
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Literal

from midigen_jax.errors import InputError

SUFFIXES = (".mid", ".midi", ".kar")
CHORALES = "bach"
MAX_PIECE_BYTES = 64 << 20
MAX_ZIP_BYTES = 2 << 30
# What zipfile raises for a zip that is cut short, altered, or packed in a way that it does not know.
_DAMAGE = (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError)


@dataclass(frozen=True)
class Source:
    """Where one piece is; small enough to hand to another process."""

    name: str
    """stable and readable: the path inside the folder or zip that was given"""
    path: Path
    member: str | None = None
    """the name inside the zip at `path`; None for a file of its own"""
    split: Literal["train", "valid", "test"] | None = None
    """the split that a benchmark gives this piece"""

    def content(self) -> bytes:
        """The bytes. Raises InputError where they cannot be read or are more than 64 MiB."""
        try:
            return self._read()
        except OSError as error:
            raise InputError(f"{self.name}: cannot be read ({error.strerror or error})") from None
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            KeyError,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise InputError(f"{self.name}: damaged in the zip ({error}); zip it again") from None

    def _read(self) -> bytes:
        if self.member is None:
            size = self.path.stat().st_size
        else:
            status = self.path.stat()
            archive = _archive(self.path, status.st_mtime_ns, status.st_size, os.getpid())
            size = archive.getinfo(self.member).file_size
        if size > MAX_PIECE_BYTES:
            raise InputError(f"{self.name}: {size >> 20} MiB is no piece of music; the limit is 64 MiB")
        return self.path.read_bytes() if self.member is None else archive.read(self.member)


@lru_cache(maxsize=2)
def _archive(path: Path, changed: int, size: int, process: int) -> zipfile.ZipFile:
    """An open zip, kept because listing a large one for each member is slow.

    It is opened anew when the file changes and in every process: a forked one would share the position.
    """
    return zipfile.ZipFile(path)


def find_sources(arguments: Sequence[str]) -> list[Source]:
    """All pieces that the arguments name, in their order, each argument's pieces sorted.

    An argument is a file (tried whatever its name), a folder (searched through), a zip, or `bach` for the
    408 chorales of the installed music21 package; a file or folder of that name is given as ./bach.
    Raises InputError for a path that is not there, for one without music, and for a zip that is damaged,
    encrypted, gigabytes large when unpacked, or has members outside of its folder.
    """
    found: dict[tuple[Path, str | None], Source] = {}
    for argument in arguments:
        path = Path(argument)
        if argument == CHORALES:
            sources = _chorales()
        elif path.is_dir():
            sources = _in_folder(path)
        elif path.is_file():
            sources = _in_zip(path) if path.suffix.lower() == ".zip" else [Source(path.name, path)]
        else:
            raise InputError(f"{argument}: not there; {_remedy(path)}")
        if not sources:
            raise InputError(f"{argument}: no music in it; it needs files that end in {', '.join(SUFFIXES)}")
        for source in sources:
            found.setdefault((source.path.resolve(), source.member), source)
    return _distinct(found.values())


def chorale_folder() -> Path:
    """The folder of the Bach scores in the installed music21 package, found without importing it.

    Raises InputError when music21 is not installed.
    """
    spec = importlib.util.find_spec("music21")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("bach: the music21 package is not installed; run pip install music21")
    return Path(spec.submodule_search_locations[0]) / "corpus" / CHORALES


def _chorales() -> list[Source]:
    paths = sorted(chorale_folder().glob("*.mxl"), key=lambda path: _natural(path.name))
    return [Source(f"{CHORALES}/{path.name}", path) for path in paths]


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key by which bwv2 comes before bwv10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _in_folder(folder: Path) -> list[Source]:
    names = []
    for place, _, files in os.walk(folder):
        names += [(Path(place) / file).relative_to(folder).as_posix() for file in files]
    return [Source(name, folder / name) for name in sorted(names) if _is_music(name)]


def _in_zip(path: Path) -> list[Source]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
    except (*_DAMAGE, OSError) as error:
        raise InputError(f"{path}: a damaged zip ({error}); make or fetch it again") from None
    for info in members:
        name = info.filename.replace("\\", "/")
        if name.startswith("/") or ".." in name.split("/") or re.match(r"[A-Za-z]:", name):
            raise InputError(f"{path}: member {info.filename!r} leads out of its folder; do not trust it")
    total = sum(info.file_size for info in members)
    if total > MAX_ZIP_BYTES:
        raise InputError(f"{path}: {total / 2**30:.1f} GiB when unpacked; the limit is 2 GiB, split it")
    music = {info.filename: info for info in members if _is_music(info.filename)}
    if any(info.flag_bits & 1 for info in music.values()):
        raise InputError(f"{path}: the zip is encrypted; unpack it yourself and give the folder")
    return [Source(name, path, name) for name in sorted(music)]


def _is_music(name: str) -> bool:
    """By its name; hidden files, and the shadows that a Mac puts beside each file of a zip, are none."""
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and name.lower().endswith(SUFFIXES)


def _remedy(path: Path) -> str:
    try:
        names = os.listdir(path.parent)
    except OSError:
        names = []
    close = difflib.get_close_matches(path.name, [*names, CHORALES], n=1)
    return f"did you mean {close[0]}?" if close else "give a MIDI file, a folder, a zip or bach"


def _distinct(sources: Iterable[Source]) -> list[Source]:
    """The sources with ` (2)`, ` (3)` … behind a name that came before, from another folder."""
    seen: set[str] = set()
    result = []
    for source in sources:
        # Old collections have names in other encodings: what is no UTF-8 is spelt out.
        plain = os.fsencode(source.name).decode("utf-8", "backslashreplace")
        name, number = plain, 1
        while name in seen:
            number += 1
            name = f"{plain} ({number})"
        seen.add(name)
        result.append(replace(source, name=name))
    return result
