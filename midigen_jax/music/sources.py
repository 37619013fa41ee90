"""Sources: what the user names (a file, a folder, a zip, a collection) as a list of single pieces to read.

Nothing is unpacked: a member of a zip is read into memory, and only after its declared size was checked.
A tunebook (ABC) holds several pieces, and so does a frame file (a benchmark's piano rolls): each is a source.
"""

import contextlib
import difflib
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import cast

from midigen_jax.errors import InputError
from midigen_jax.music import frames, scores
from midigen_jax.music.abc import split_tunes
from midigen_jax.music.collections import COLLECTIONS, collection
from midigen_jax.music.piece import MAX_PIECE_BYTES, Split

MIDI_SUFFIXES = (".mid", ".midi", ".kar", ".rmi")
SUFFIXES = (*MIDI_SUFFIXES, *scores.SUFFIXES)
"""what a folder or zip is searched for; frame files are not, since not every .json is music"""
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
    part: str | None = None
    """the piece inside the file: the number of a tune, or `test/12`; None for a file that is one piece"""
    split: Split | None = None
    """the split that a benchmark gives this piece"""

    @property
    def suffix(self) -> str:
        """Of the file's name, in lower case: it decides who reads the file."""
        return os.path.splitext(self.member or self.path.name)[1].lower()

    def content(self) -> bytes:
        """The bytes of this piece alone; where it is a part, as `split_tunes` or `split_frames` gives it.

        Raises InputError where they cannot be read or the file has more than 64 MiB.
        """
        if self.part is not None:
            parts = self.parts()
            if self.part not in parts:
                raise InputError(f"{self.name}: not in the file any more; find the sources again")
            return parts[self.part]
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

    def parts(self) -> Mapping[str, bytes]:
        """The pieces in the tunebook or frame file, by name. Raises InputError where it cannot be read."""
        try:
            status = self.path.stat()
        except OSError as error:
            raise InputError(f"{self.name}: cannot be read ({error.strerror or error})") from None
        return _parts(self.path, self.member, status.st_mtime_ns, status.st_size)

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
def _parts(path: Path, member: str | None, changed: int, size: int) -> Mapping[str, bytes]:
    """Kept while the file stays as it is: to take it apart for each of its pieces would take long."""
    whole = Source(member or path.name, path, member)
    if whole.suffix not in frames.SUFFIXES:
        return split_tunes(whole.content())
    try:
        return frames.split_frames(whole.suffix, whole.content())
    except InputError as error:
        raise InputError(f"{whole.name}: {error}") from None


@lru_cache(maxsize=2)
def _archive(path: Path, changed: int, size: int, process: int) -> zipfile.ZipFile:
    """An open zip, kept because listing a large one for each member is slow.

    It is opened anew when the file changes and in every process: a forked one would share the position.
    """
    return zipfile.ZipFile(path)


def find_sources(arguments: Sequence[str]) -> list[Source]:
    """All pieces that the arguments name, in their order, each argument's pieces sorted.

    An argument is a file (tried whatever its name), a folder (searched through), a zip, or the name of a
    collection, such as `bach`; a file or folder of that name is given as ./bach. Frame files are named one
    by one. Raises InputError for a path that is not there, for one without music, for a damaged frame file,
    and for a zip that is damaged, encrypted, gigabytes large when unpacked, or leads out of its folder.
    """
    found: dict[tuple[str, str | None, str | None], Source] = {}
    real_folder = lru_cache(os.path.realpath)  # looks at every folder on the way: once is enough
    for argument in arguments:
        path = Path(argument)
        if argument in COLLECTIONS:
            files = [Source(f"{argument}/{path.name}", path) for path in collection(argument)]
        elif path.is_dir():
            files = _in_folder(path)
        elif path.is_file():
            files = _in_zip(path) if path.suffix.lower() == ".zip" else [Source(path.name, path)]
        elif path.exists():
            raise InputError(f"{argument}: neither a file nor a folder; give what it holds as a file")
        else:
            raise InputError(f"{argument}: not there; {_remedy(path)}")
        if not files:
            raise InputError(f"{argument}: no music in it; it needs files that end in {', '.join(SUFFIXES)}")
        for source in chain.from_iterable(map(_pieces, files)):
            if os.path.islink(source.path):
                place = os.path.realpath(source.path)
            else:
                folder, name = os.path.split(source.path)
                place = os.path.join(real_folder(folder), name)
            found.setdefault((place, source.member, source.part), source)
    return _distinct(found.values())


def _pieces(file: Source) -> list[Source]:
    """The pieces of a tunebook or frame file; any other file is one piece."""
    if file.suffix in frames.SUFFIXES:
        return [
            replace(file, name=f"{file.name}/{part}", part=part, split=cast(Split, part.split("/")[0]))
            for part in file.parts()
        ]
    if file.suffix == ".abc":
        # What cannot be read is refused when it is read, like any other piece of a folder.
        with contextlib.suppress(InputError):
            tunes = file.parts()
            if len(tunes) > 1:
                return [replace(file, name=f"{file.name}/{part}", part=part) for part in tunes]
    return [file]


def _in_folder(folder: Path) -> list[Source]:
    names = []
    for place, _, files in os.walk(folder):
        inside = Path(place).relative_to(folder).as_posix()
        names += [file if inside == "." else f"{inside}/{file}" for file in files]
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
    close = difflib.get_close_matches(path.name, [*names, *COLLECTIONS], n=1)
    return f"did you mean {close[0]}?" if close else "give a file, a folder, a zip or bach"


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
