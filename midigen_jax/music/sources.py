"""Sources: what the user names (a file, a folder, an archive, a collection) as a list of pieces to read.

Nothing is unpacked to disk: a member of an archive is read into memory, and no more of it than a piece may
have. A tunebook (ABC) holds several pieces, and so does a frame file (a benchmark's piano rolls): each is a
source. What is found and cannot be read is a source, too, so that it is listed with its reason.
"""

import contextlib
import difflib
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import cast

from midigen_jax.errors import InputError
from midigen_jax.music import archives, frames, scores
from midigen_jax.music.abc import split_tunes
from midigen_jax.music.archives import split_suffix
from midigen_jax.music.collections import COLLECTIONS, collection
from midigen_jax.music.piece import Split

MIDI_SUFFIXES = (".mid", ".midi", ".kar", ".rmi")
SUFFIXES = (*MIDI_SUFFIXES, *scores.SUFFIXES)
"""what a folder or archive is searched for; frame files are not, since not every .json is music"""
_SEARCHED = frozenset((*SUFFIXES, *archives.SUFFIXES))
_DEEPEST = 2  # archives in one another


@dataclass(frozen=True)
class Source:
    """Where one piece is; small enough to hand to another process."""

    name: str
    """stable and readable: the path inside the folder or archive that was given"""
    path: Path
    members: tuple[str, ...] = ()
    """the name in the archive at `path`, after that of an archive in between; () for a file of its own"""
    part: str | None = None
    """the piece inside the file: the number of a tune, or `test/12`; None for a file that is one piece"""
    split: Split | None = None
    """the split that a benchmark gives this piece"""
    refused: str = ""
    """why it cannot be read, where that was seen when it was found"""

    @property
    def file_name(self) -> str:
        """Of the file that holds the piece, on the disk or in its archive."""
        return self.members[-1] if self.members else self.path.name

    @property
    def suffix(self) -> str:
        """Of the file's name, in lower case and without `.gz`: it decides who reads the file."""
        return split_suffix(self.file_name)[0]

    def content(self) -> bytes:
        """The bytes of this piece alone; where it is a part, as `split_tunes` or `split_frames` gives it.

        Raises InputError where they cannot be read or the file has more than 64 MiB.
        """
        if self.part is not None:
            parts = self.parts()
            if self.part not in parts:
                raise InputError(f"{self.name}: not in the file any more; find the sources again")
            return parts[self.part]
        with _named(self.name):
            return _read(self)

    def parts(self) -> Mapping[str, bytes]:
        """The pieces in the tunebook or frame file, by name. Raises InputError where it cannot be read."""
        with _named(self.name):
            return _parts(*_as_it_is(self.path), self.members)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Puts a name before the reason of an InputError."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _read(file: Source) -> bytes:
    """The bytes of a whole file. Raises InputError, with a reason and no name."""
    if file.refused:
        raise InputError(file.refused)
    if file.members:
        member = _members(file.path, file.members[:-1]).get(file.members[-1])
        if member is None:
            raise InputError("not in the archive any more; find the sources again")
        content = member.read()
    else:
        content = archives.read_file(file.path)
    return archives.decompress(content) if split_suffix(file.file_name)[1] else content


def _as_it_is(path: Path) -> tuple[Path, int, int]:
    """A file with its time and size: what is kept of it is kept as long as these stay."""
    status = archives.status_of(path)
    return path, status.st_mtime_ns, status.st_size


@lru_cache(maxsize=2)
def _parts(path: Path, changed: int, size: int, members: tuple[str, ...]) -> Mapping[str, bytes]:
    """Kept, because to take a file apart for each of its pieces would take long."""
    file = Source(path.name, path, members)
    if file.suffix in frames.SUFFIXES:
        return frames.split_frames(file.suffix, _read(file))
    return split_tunes(_read(file))


def _members(path: Path, members: tuple[str, ...]) -> Mapping[str, archives.Member]:
    """What is in the archive at `path`, or in the one that lies there at `members`."""
    return _opened(*_as_it_is(path), members, os.getpid())


@lru_cache(maxsize=2)
def _opened(
    path: Path, changed: int, size: int, members: tuple[str, ...], process: int
) -> Mapping[str, archives.Member]:
    """Kept open, because to list a large archive for each member is slow: one, and the one that it lies in.

    It is opened anew in every process: a forked one would share the position.
    """
    archive = Source(path.name, path, members)
    return archives.open_archive(archive.file_name, _read(archive) if members else path)


def find_sources(arguments: Sequence[str]) -> list[Source]:
    """All pieces that the arguments name, in their order, each argument's pieces sorted.

    An argument is a file (tried whatever its name), a folder (searched through), an archive (zip or tar), or
    the name of a collection, such as `bach`; a file or folder of that name is given as ./bach. Any file may
    be compressed by gzip. Folders and archives are searched for names that end in `SUFFIXES` and for
    archives, of which one may lie in another. Hidden folders and links are followed, and no file comes twice.
    Members of a tar.gz stay in their order. Frame files are named one by one.

    Raises InputError for a path that is not there, for one without music, for a damaged frame file, and for
    an archive that is damaged, encrypted, gigabytes large when unpacked, or leads out of its folder. Such an
    archive inside a folder or archive is a source of its own, which says so when it is read, and so are a
    pipe, a device, a link that leads nowhere, and a folder that cannot be looked into.
    """
    found: dict[tuple[str, tuple[str, ...], str | None], Source] = {}
    real_folder = lru_cache(os.path.realpath)  # looks at every folder on the way: once is enough
    for argument in arguments:
        path = Path(argument)
        if argument in COLLECTIONS:
            files = [Source(f"{argument}/{path.name}", path) for path in collection(argument)]
        elif path.is_dir():
            files = _in_folder(path)
        elif path.is_file():
            files = _in_file(argument, path)
        elif path.exists():
            raise InputError(f"{argument}: {archives.NO_FILE}")
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
            found.setdefault((place, source.members, source.part), source)
    return _distinct(found.values())


def _pieces(file: Source) -> list[Source]:
    """The pieces of a tunebook or frame file; any other file is one piece."""
    suffix, compressed = split_suffix(file.file_name)
    if suffix in frames.SUFFIXES:
        if compressed:
            raise InputError(f"{file.name}: unpack it first, since its name says how long a frame is")
        return [
            replace(file, name=f"{file.name}/{part}", part=part, split=cast(Split, part.split("/")[0]))
            for part in file.parts()
        ]
    if suffix == ".abc":
        # What cannot be read is refused when it is read, like any other piece of a folder.
        with contextlib.suppress(InputError):
            tunes = file.parts()
            if len(tunes) > 1:
                return [replace(file, name=f"{file.name}/{part}", part=part) for part in tunes]
    return [file]


def _in_file(argument: str, path: Path) -> list[Source]:
    """A file that was given: what is in it, if it is an archive, by names that do not begin with its own."""
    if split_suffix(path.name)[0] not in archives.SUFFIXES:
        return _looked_into(Source(path.name, path))
    with _named(argument):
        return _in_archive(Source(path.name, path), "")


def _in_folder(folder: Path) -> list[Source]:
    found = sorted(_walk(folder).items())
    files = [Source(name, folder / name, refused=why) for name, why in found]
    return list(chain.from_iterable(map(_looked_into, files)))


def _walk(folder: Path) -> dict[str, str]:
    """What may be music in a folder, by its path inside; with it why it cannot be read, or "".

    A folder is looked into once, so that links in a circle come to an end; and links to folders come after
    all else, so that what lies in the folder itself has a name without a link.
    """
    found: dict[str, str] = {}
    seen: set[tuple[int, int]] = set()
    folders = deque([""])
    while folders:
        inside = folders.popleft()
        place = folder / inside
        try:
            status = place.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            if inside and place.is_symlink() and place.parent.resolve().is_relative_to(place.resolve()):
                found[inside] = "a link to a folder that it lies in; give that folder, or take the link away"
                continue
            with os.scandir(place) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            found[inside or folder.name] = f"cannot be read ({error.strerror}); mend it, or take it away"
            continue
        for entry in entries:
            name = f"{inside}/{entry.name}" if inside else entry.name
            link = entry.is_symlink()
            if os.path.isdir(entry.path) if link else entry.is_dir():
                (folders.append if link else folders.appendleft)(name)
            elif link and not os.path.exists(entry.path) and (_may_be_music(name) or "." not in entry.name):
                found[name] = "a link that leads nowhere; mend it, or take it away"
            elif _may_be_music(name):
                found[name] = ""
    return found


def _in_archive(archive: Source, inside: str) -> list[Source]:
    """What may be music in an archive, `inside` before its names. Raises InputError without a name."""
    files = [
        Source(inside + name, archive.path, (*archive.members, name))
        for name in _members(archive.path, archive.members)
        if _may_be_music(name)
    ]
    return list(chain.from_iterable(map(_looked_into, files)))


def _looked_into(file: Source) -> list[Source]:
    """A file as it is; or, of an archive, what is in it. One that cannot be read is a source that says so."""
    if file.file_name.lower().endswith(archives.OTHERS):
        return [replace(file, refused="no kind of archive that is read; unpack it and give the folder")]
    if file.refused or file.suffix not in archives.SUFFIXES:
        return [file]
    if len(file.members) >= _DEEPEST:
        return [replace(file, refused="an archive in an archive in an archive; unpack the outer ones")]
    try:
        return _in_archive(file, f"{file.name}/")
    except InputError as error:
        return [replace(file, refused=str(error))]


def _may_be_music(name: str) -> bool:
    """By its name, whether it is music or an archive; what a Mac puts beside each file is neither."""
    *folders, file = name.split("/")
    if "__MACOSX" in folders or file.startswith("._"):
        return False
    return split_suffix(file)[0] in _SEARCHED or file.lower().endswith(archives.OTHERS)


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
        result.append(source if name == source.name else replace(source, name=name))
    return result
