"""Archives: the files in a zip or a tar, each read into memory alone, and what gzip compressed.

In: the path of an archive, or the bytes of one that lay in another. Out: its members by name. Nothing is
written to disk, and no more is read than the limits allow, whatever an archive says of itself. A tar.gz can
only be read from its beginning to its end, so its members come in their order in the file: whoever reads them
in that order reads it once.
"""

import gzip
import io
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from midigen_jax.errors import InputError, one_line
from midigen_jax.music.piece import MAX_PIECE_BYTES

SUFFIXES = (".zip", ".tar")
"""with `.gz` too"""
OTHERS = (".7z", ".rar", ".tar.bz2", ".tar.xz", ".tar.zst")
"""archives that are not read"""
MAX_ARCHIVE_BYTES = 2 << 30
"""of all members together when unpacked"""
NO_FILE = "neither a file nor a folder; give what it holds as a file"
_ENTRY_BYTES = 2 << 10  # about what it takes to know of a member, were it empty
_MAX_HEADER_BYTES = 1 << 20


class Member(NamedTuple):
    """A file in an archive."""

    size: int
    """bytes, as the archive says"""
    open: Callable[[], IO[bytes]]
    refused: str = ""
    """why it cannot be read, where that is known; empty otherwise"""

    def read(self) -> bytes:
        """Its bytes. Raises InputError, with a reason and no name, for damage and for more than 64 MiB."""
        if self.refused:
            raise InputError(self.refused)
        with in_words("damaged in its archive"):
            if self.size > MAX_PIECE_BYTES:
                raise _too_large()
            with self.open() as file:
                return _read(file)


def split_suffix(name: str) -> tuple[str, bool]:
    """The suffix that says what is in a file, in lower case, and whether gzip compressed the file.

    (".mid", False) of `A.MID`, (".mid", True) of `a.mid.gz`, and (".tar", True) of `a.tgz`.
    """
    name = name.lower()
    if name.endswith(".tgz"):
        return ".tar", True
    return os.path.splitext(name.removesuffix(".gz"))[1], name.endswith(".gz")


def status_of(path: Path) -> os.stat_result:
    """Size and time of a file. Raises InputError, with a reason and no name, also for a pipe or a device."""
    with in_words("damaged"):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise InputError(NO_FILE)  # to open it could be to wait without end
    return status


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises InputError, with a reason and no name."""
    if status_of(path).st_size > MAX_PIECE_BYTES:
        raise _too_large()
    with in_words("damaged"):
        return path.read_bytes()


def decompress(content: bytes) -> bytes:
    """What gzip compressed. Raises InputError, with a reason and no name."""
    with in_words("damaged gzip"), gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        return _read(file)


def open_archive(name: str, file: Path | bytes) -> dict[str, Member]:
    """The files in a zip or tar by their names, in the order in which they are best read.

    name: its suffix says what the archive is.
    file: where it is, or its bytes without gzip.
    Raises InputError, with a reason and no name, for an archive that is damaged, encrypted, gigabytes large
    when unpacked, or leads out of its folder. Links and devices in a tar are refused one by one.
    """
    suffix, compressed = split_suffix(name)
    members: dict[str, Member] = {}
    total = 0
    with in_words(f"a damaged {suffix[1:]}"), ExitStack() as on_failure:
        if suffix == ".zip" and compressed and isinstance(file, Path):
            file = decompress(read_file(file))  # the list of its members is at its end
        for written, member in _LISTED[suffix](file, compressed, on_failure):
            inside = written.replace("\\", "/").removeprefix("./")
            if inside.startswith("/") or ".." in inside.split("/") or re.match(r"[A-Za-z]:/", inside):
                raise InputError(f"leads out of its folder (member {written!r}); do not trust it")
            total += _ENTRY_BYTES + member.size
            if total > MAX_ARCHIVE_BYTES:
                raise _too_large_in_all()
            members.pop(inside, None)  # of two with one name the later one holds, at its place
            members[inside] = member
        on_failure.pop_all()  # else it stays open, for its members
    if compressed and isinstance(file, Path):
        return members
    return dict(sorted(members.items()))


def _in_zip(file: Path | bytes, compressed: bool, stack: ExitStack) -> Iterator[tuple[str, Member]]:
    archive = stack.enter_context(zipfile.ZipFile(io.BytesIO(file) if isinstance(file, bytes) else file))
    for info in archive.infolist():
        if info.flag_bits & 1:
            raise InputError("the zip is encrypted; unpack it yourself and give the folder")
        if not info.is_dir():
            yield info.filename, Member(info.file_size, partial(archive.open, info))


def _in_tar(file: Path | bytes, compressed: bool, stack: ExitStack) -> Iterator[tuple[str, Member]]:
    if isinstance(file, bytes):
        guarded = _Guarded(io.BytesIO(file))
    else:
        guarded = _Guarded(gzip.GzipFile(file) if compressed else file.open("rb"))
    stack.callback(guarded.close)
    archive: Any = tarfile.TarFile(fileobj=cast(Any, guarded))
    while (info := archive.next()) is not None:
        archive.members.clear()  # or it keeps them all
        if info.size < 0:
            raise tarfile.ReadError("a member with less than no bytes")
        if not info.isdir():
            refused = "" if info.isreg() else "a link or a device in a tar; put the file itself there"
            yield info.name, Member(info.size, partial(archive.extractfile, info), refused)
    # tarfile takes a damaged header for the end, and gzip's checksum comes after the last byte.
    if guarded.last != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("neither a header nor an end where one should be")
    while rest := guarded.read(_MAX_HEADER_BYTES):
        if rest.strip(b"\0"):
            raise tarfile.ReadError("it goes on after its end")
    guarded.most = MAX_PIECE_BYTES


_LISTED = {".zip": _in_zip, ".tar": _in_tar}


class _Guarded:
    """A file for tarfile, which believes any length that a header says; it is closed with its last user."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile):
        self._file = file
        self.seek, self.tell = file.seek, file.tell
        self.most = _MAX_HEADER_BYTES
        self.last = b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.most:
            raise tarfile.ReadError("a header of megabytes")
        if self._file.tell() > MAX_ARCHIVE_BYTES:
            raise _too_large_in_all()
        content = self._file.read(size)
        self.last = content[: tarfile.BLOCKSIZE]
        return content

    def close(self) -> None:
        self._file.close()

    __del__ = close


def _read(file: IO[bytes] | gzip.GzipFile) -> bytes:
    content = file.read(MAX_PIECE_BYTES + 1)
    if len(content) > MAX_PIECE_BYTES:
        raise _too_large()
    return content


def _too_large() -> InputError:
    return InputError("more than the limit of 64 MiB; cut it up, or unpack it if it is an archive")


def _too_large_in_all() -> InputError:
    return InputError("more than the limit of 2 GiB when unpacked; split it")


@contextmanager
def in_words(damage: str) -> Iterator[None]:
    """What goes wrong in reading as an InputError, with a reason and no name; `damage` is what to call it."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        # A number is the system's. Anything else that a parser raises is all one to the user: damage.
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"cannot be read ({error.strerror or error})") from None
        raise InputError(f"{damage} ({one_line(error)}); make or fetch it again") from None
