"""Sources in folders, links, archives and gzip: each is read, or told in words; none is passed over."""

import gzip
import io
import os
import pickle
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midigen_jax.config import PrepareConfig
from midigen_jax.data import reading
from midigen_jax.errors import InputError
from midigen_jax.music import archives
from midigen_jax.music.notes import make_notes
from midigen_jax.music.read import read_piece
from midigen_jax.music.sources import SUFFIXES, Source, find_sources
from midigen_jax.music.write import write_midi

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def midi(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("midi") / "piece.mid"
    write_midi(make_notes([0, 12], [12, 12], [60, 64], [0, 0]), path)
    return path.read_bytes()


def zip_of(files: Files) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


def tar_of(files: Files, *others: tarfile.TarInfo) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in others:
            archive.addfile(info)
    return made.getvalue()


def tgz_of(files: Files) -> bytes:
    return gzip.compress(tar_of(files))


def entry(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


ARCHIVES: dict[str, Callable[[Files], bytes]] = {
    ".zip": zip_of,
    ".tar": tar_of,
    ".tar.gz": tgz_of,
    ".tgz": tgz_of,
    ".ZIP": zip_of,
    ".Tar.GZ": tgz_of,
    ".zip.gz": lambda files: gzip.compress(zip_of(files)),
}
each_archive = pytest.mark.parametrize("suffix", ARCHIVES)


def put(folder: Path, files: Files) -> str:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return str(folder)


def names(*arguments: str) -> list[str]:
    return [source.name for source in find_sources(arguments)]


def told(*arguments: str) -> dict[str, str]:
    """What is read of each source: "" or why it is not."""
    found = {}
    for source in find_sources(arguments):
        try:
            assert source.content()
        except InputError as error:
            line = str(error)
            assert line.startswith(f"{source.name}: ")
            assert "\n" not in line
            found[source.name] = line.removeprefix(f"{source.name}: ")
        else:
            found[source.name] = ""
    return found


# Folders and links


def test_a_hidden_folder_is_read_when_it_is_given_and_when_it_is_found(tmp_path: Path, midi: bytes) -> None:
    put(tmp_path, {".music/a.mid": midi, "b/.old/.c.mid": midi})
    assert names(str(tmp_path / ".music")) == ["a.mid"]
    assert names(str(tmp_path)) == [".music/a.mid", "b/.old/.c.mid"]


def test_what_a_mac_puts_beside_files_is_passed_over(tmp_path: Path, midi: bytes) -> None:
    files = {"m/a.mid": midi, "m/._a.mid": b"x", "__MACOSX/m/._a.mid": b"x", "__MACOSX/b.mid": b"x"}
    put(tmp_path / "in", files | {"m/.DS_Store": b"x"})
    put(tmp_path, {"a.zip": zip_of(files), "a.tar": tar_of(files)})
    for argument in ("in", "a.zip", "a.tar"):
        assert names(str(tmp_path / argument)) == ["m/a.mid"]


def test_linked_files_and_folders_are_read_once_and_a_circle_ends(tmp_path: Path, midi: bytes) -> None:
    put(tmp_path, {"in/x/a.mid": midi, "elsewhere/sub/b.mid": midi, "elsewhere/c.mid": midi})
    folder = tmp_path / "in"
    for link in "0y":
        (folder / link).symlink_to(folder / "x")
    (folder / "x" / "back").symlink_to(folder)
    (folder / "z").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "in").symlink_to(folder)
    (folder / "one.mid").symlink_to(tmp_path / "elsewhere" / "c.mid")
    assert names(str(folder)) == ["one.mid", "x/a.mid", "z/sub/b.mid"]
    assert names(str(folder), str(tmp_path / "elsewhere")) == ["one.mid", "x/a.mid", "z/sub/b.mid"]


def test_a_linked_folder_can_be_given(tmp_path: Path, midi: bytes) -> None:
    put(tmp_path, {"in/a.mid": midi})
    (tmp_path / "link").symlink_to(tmp_path / "in")
    assert names(str(tmp_path / "link")) == ["a.mid"]


def test_a_link_to_what_lies_around_a_folder_is_told(tmp_path: Path, midi: bytes) -> None:
    put(tmp_path, {"in/x/a.mid": midi, "b.mid": midi})
    (tmp_path / "in" / "x" / "disk").symlink_to(tmp_path)
    found = told(str(tmp_path / "in"))
    assert list(found) == ["x/a.mid", "x/disk"]
    assert found["x/disk"].startswith("a link to a folder that it lies in; ")


def test_links_that_lead_nowhere_are_told(tmp_path: Path, midi: bytes) -> None:
    put(tmp_path, {"a.mid": midi})
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "self.mid").symlink_to(tmp_path / "self.mid")
    why = "a link that leads nowhere; mend it, or take it away"
    assert told(str(tmp_path)) == {"a.mid": "", "gone": why, "self.mid": why}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_pipes_and_devices_in_a_folder_are_told_at_once(tmp_path: Path, midi: bytes) -> None:
    put(tmp_path, {"a.mid": midi})
    os.mkfifo(tmp_path / "pipe.abc")
    os.mkfifo(tmp_path / "pipe.zip")
    os.mkfifo(tmp_path / "no_music")
    (tmp_path / "link.mid").symlink_to(tmp_path / "no_music")
    (tmp_path / "zero.mid.gz").symlink_to("/dev/zero")
    why = "neither a file nor a folder; give what it holds as a file"
    pipes = dict.fromkeys(("link.mid", "pipe.abc", "pipe.zip", "zero.mid.gz"), why)
    assert told(str(tmp_path)) == {"a.mid": "", **pipes}
    for name in pipes:
        with pytest.raises(InputError, match=f"{name}: neither a file nor a folder"):
            find_sources([str(tmp_path / name)])


def test_a_folder_that_cannot_be_looked_into_is_told(
    tmp_path: Path, midi: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, {"a.mid": midi, "locked/b.mid": midi})
    scandir = os.scandir

    def refusing(place: Path) -> Any:
        if place.name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refusing)
    why = "cannot be read (Permission denied); mend it, or take it away"
    assert told(str(tmp_path)) == {"a.mid": "", "locked": why}


# gzip


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_file_may_be_compressed(tmp_path: Path, suffix: str) -> None:
    content = f"what is in {suffix}".encode()
    inside = {f"a{suffix}.gz": gzip.compress(content)}
    put(tmp_path, {**inside, "b.zip": zip_of(inside), "c.tar": tar_of(inside)})
    found = find_sources([str(tmp_path)])
    assert [source.name for source in found] == [
        f"a{suffix}.gz",
        f"b.zip/a{suffix}.gz",
        f"c.tar/a{suffix}.gz",
    ]
    assert {source.content() for source in found} == {content}
    assert {source.suffix for source in found} == {suffix}


def test_compressed_music_is_read_like_any(tmp_path: Path, midi: bytes) -> None:
    put(
        tmp_path,
        {"a.MID.GZ": gzip.compress(midi), "book.abc.gz": gzip.compress(b"X:1\nK:C\nC\n\nX:2\nK:C\nD\n")},
    )
    found = find_sources([str(tmp_path)])
    assert [source.name for source in found] == ["a.MID.GZ", "book.abc.gz/1", "book.abc.gz/2"]
    assert [len(read_piece(source).notes) for source in found] == [2, 1, 1]


def test_a_compressed_file_is_tried_whatever_its_name(tmp_path: Path, midi: bytes) -> None:
    put(tmp_path, {"song.gz": gzip.compress(midi)})
    (source,) = find_sources([str(tmp_path / "song.gz")])
    assert len(read_piece(source).notes) == 2


@pytest.mark.parametrize("place", ["bomb.mid.gz", "a.zip", "a.tar", "a.tgz"])
def test_a_gzip_bomb_is_refused_in_little_memory(tmp_path: Path, place: str) -> None:
    bomb = gzip.compress(bytes(256 << 20), 1)
    wrap = ARCHIVES.get(Path(place).suffix, lambda files: files["bomb.mid.gz"])
    put(tmp_path, {place: wrap({"bomb.mid.gz": bomb})})
    (source,) = find_sources([str(tmp_path / place)])
    tracemalloc.start()
    with pytest.raises(InputError, match=r"bomb\.mid\.gz: more than the limit of 64 MiB"):
        source.content()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 140 << 20  # the limit, and what CPython adds while the bytes grow


@pytest.mark.parametrize(
    "harm", [lambda c: c[:-9], lambda c: c[:-8] + bytes(8), lambda c: b"MThd" + c, lambda c: b""]
)
def test_damaged_gzip_is_told(tmp_path: Path, midi: bytes, harm: Callable[[bytes], bytes]) -> None:
    content = harm(gzip.compress(midi))
    put(tmp_path, {"a.mid.gz": content})
    if content:
        assert told(str(tmp_path))["a.mid.gz"].startswith("damaged gzip (")
    else:
        with pytest.raises(InputError, match="not a MIDI file"):
            read_piece(find_sources([str(tmp_path)])[0])


def test_a_compressed_frame_file_is_refused_since_its_name_counts(tmp_path: Path) -> None:
    put(tmp_path, {"JSB_Chorales.mat.gz": gzip.compress(b"x")})
    with pytest.raises(InputError, match=r"JSB_Chorales\.mat\.gz: unpack it first"):
        find_sources([str(tmp_path / "JSB_Chorales.mat.gz")])


# Archives


@each_archive
def test_an_archive_is_read_in_memory(tmp_path: Path, midi: bytes, suffix: str) -> None:
    put(tmp_path, {f"music{suffix}": ARCHIVES[suffix]({"m/b.mid": midi, "readme.txt": b"x", "a.mid": midi})})
    found = find_sources([str(tmp_path / f"music{suffix}")])
    assert {source.name for source in found} == {"a.mid", "m/b.mid"}
    assert pickle.loads(pickle.dumps(found)) == found
    assert [len(read_piece(source).notes) for source in found] == [2, 2]
    assert [file.name for file in tmp_path.iterdir()] == [f"music{suffix}"]


@each_archive
def test_an_archive_in_a_folder_or_archive_is_read_like_its_other_files(
    tmp_path: Path, midi: bytes, suffix: str
) -> None:
    inner = {f"x/inner{suffix}": ARCHIVES[suffix]({"m/a.mid": midi}), "z.mid": midi}
    expected = [f"x/inner{suffix}/m/a.mid", "z.mid"]
    assert told(put(tmp_path / "in", inner)) == dict.fromkeys(expected, "")
    for outer, pack in ARCHIVES.items():
        put(tmp_path, {f"outer{outer}": pack(inner)})
        assert told(str(tmp_path / f"outer{outer}")) == dict.fromkeys(expected, "")


def test_names_of_members_begin_where_a_folder_of_them_would(tmp_path: Path, midi: bytes) -> None:
    put(
        tmp_path, {"a.tar": tar_of({"./m/a.mid": midi, "./b.mid": midi}), "b.zip": zip_of({"m\\a.mid": midi})}
    )
    assert names(str(tmp_path / "a.tar")) == ["b.mid", "m/a.mid"]
    assert names(str(tmp_path / "b.zip")) == ["m/a.mid"]


def test_an_archive_comes_once(tmp_path: Path, midi: bytes) -> None:
    put(tmp_path, {"in/a.zip": zip_of({"b.zip": zip_of({"c.mid": midi})})})
    (tmp_path / "in" / "link.zip").symlink_to(tmp_path / "in" / "a.zip")
    assert names(str(tmp_path / "in"), str(tmp_path / "in" / "a.zip")) == ["a.zip/b.zip/c.mid"]


def test_a_third_archive_in_one_another_is_told(tmp_path: Path, midi: bytes) -> None:
    third = {"third.tgz": tgz_of({"a.mid": midi}), "b.mid": midi}
    put(tmp_path, {"first.zip": zip_of({"second.tar": tar_of(third)})})
    why = "an archive in an archive in an archive; unpack the outer ones"
    expected = {"second.tar/b.mid": "", "second.tar/third.tgz": why}
    assert told(str(tmp_path / "first.zip")) == expected
    assert told(str(tmp_path)) == {f"first.zip/{name}": words for name, words in expected.items()}


@pytest.mark.parametrize("suffix", archives.OTHERS)
def test_other_archives_are_told(tmp_path: Path, midi: bytes, suffix: str) -> None:
    put(tmp_path, {"a.mid": midi, f"b{suffix}": b"x"})
    why = "no kind of archive that is read; unpack it and give the folder"
    assert told(str(tmp_path)) == {"a.mid": "", f"b{suffix}": why}
    assert told(str(tmp_path / f"b{suffix}")) == {f"b{suffix}": why}


def encrypted(files: Files) -> bytes:
    return zip_of(files).replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")


def with_damaged_header(files: Files) -> bytes:
    """A tar whose second header is none: tarfile by itself takes it for the end."""
    whole = tar_of(files)
    place = whole.index(b"ustar", 512)
    return whole[:place] + b"wrong" + whole[place + 5 :]


DAMAGE: dict[str, tuple[str, Callable[[Files], bytes], str]] = {
    "no zip": (".zip", lambda files: b"no", r"a damaged zip \("),
    "a cut zip": (".zip", lambda files: zip_of(files)[:-30], r"a damaged zip \("),
    "an encrypted zip": (".zip", encrypted, "the zip is encrypted; "),
    "a zip that leads out": (".zip", lambda f: zip_of(f | {"../x.mid": b""}), "leads out of its folder"),
    "no tar": (".tar", lambda files: b"no" * 999, r"a damaged tar \("),
    "a cut tar": (".tar", lambda files: tar_of(files)[:1200], r"a damaged tar \("),
    "a tar that is cut between members": (
        ".tar",
        lambda files: tar_of(files)[:1024],
        "neither a header nor an",
    ),
    "a tar without a header": (".tar", with_damaged_header, "neither a header nor an end"),
    "a tar that goes on": (".tar", lambda files: tar_of(files) * 2, "goes on after its end"),
    "a tar that leads out": (".tar", lambda f: tar_of(f | {"x/../../x.txt": b""}), "leads out of its folder"),
    "a tar from the root": (".tar", lambda f: tar_of(f | {"/x.mid": b""}), "leads out of its folder"),
    "a cut tar.gz": (".tar.gz", lambda files: tgz_of(files)[:-60], r"a damaged tar \("),
    "a checksum": (".tgz", lambda files: tgz_of(files)[:-8] + bytes(8), r"a damaged tar \(CRC"),
    "no gzip": (".tgz", tar_of, r"a damaged tar \(Not a gzipped file"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_hostile_archive_is_refused_alone_and_told_in_a_folder(
    tmp_path: Path, midi: bytes, damage: str
) -> None:
    suffix, made, words = DAMAGE[damage]
    put(tmp_path / "in", {f"a{suffix}": made({"x.mid": midi, "y.mid": midi}), "b.mid": midi})
    with pytest.raises(InputError, match=words) as caught:
        find_sources([str(tmp_path / "in" / f"a{suffix}")])
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / 'in' / f'a{suffix}'}: ")
    assert len(line.splitlines()) == 1
    found = told(str(tmp_path / "in"))
    assert found == {f"a{suffix}": line.partition(": ")[2], "b.mid": ""}


def test_links_and_devices_in_a_tar_are_told_and_not_followed(tmp_path: Path, midi: bytes) -> None:
    secret = tmp_path / "secret.mid"
    secret.write_bytes(midi)
    made = tar_of(
        {"a.mid": midi, "tunes.txt": b"X:1\nK:C\nC\n\nX:2\nK:C\nD\n"},
        entry("soft.mid", tarfile.SYMTYPE, str(secret)),
        entry("hard.mid", tarfile.LNKTYPE, "a.mid"),
        entry("book.abc", tarfile.SYMTYPE, "tunes.txt"),
        entry("device.zip", tarfile.CHRTYPE),
        entry("pipe.abc", tarfile.FIFOTYPE),
        entry("folder.mid", tarfile.DIRTYPE),
        entry("link_to_text", tarfile.SYMTYPE, "/etc/passwd"),
    )
    put(tmp_path, {"a.tar": made})
    why = "a link or a device in a tar; put the file itself there"
    others = dict.fromkeys(("book.abc", "device.zip", "hard.mid", "pipe.abc", "soft.mid"), why)
    assert told(str(tmp_path / "a.tar")) == {"a.mid": "", **others}


# Limits


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tgz"])
def test_an_archive_of_gigabytes_is_refused_before_it_is_unpacked(
    tmp_path: Path, midi: bytes, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    put(
        tmp_path,
        {f"in/a{suffix}": ARCHIVES[suffix]({"a.mid": midi, "b.txt": bytes(100_000)}), "in/b.mid": midi},
    )
    monkeypatch.setattr(archives, "MAX_ARCHIVE_BYTES", 50_000)
    with pytest.raises(InputError, match=r"more than the limit of .* when unpacked; split it"):
        find_sources([str(tmp_path / "in" / f"a{suffix}")])
    assert list(told(str(tmp_path / "in"))) == [f"a{suffix}", "b.mid"]


def test_members_without_bytes_count_against_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, {"a.zip": zip_of({f"{number}.mid": b"" for number in range(100)})})
    monkeypatch.setattr(archives, "MAX_ARCHIVE_BYTES", 50_000)
    with pytest.raises(InputError, match="when unpacked"):
        find_sources([str(tmp_path / "a.zip")])


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tgz"])
def test_a_member_or_an_inner_archive_over_the_limit_is_told(
    tmp_path: Path, midi: bytes, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    large = {
        "inner.zip": zip_of({"c.mid": os.urandom(10_000)}),
        "large.mid": bytes(10_000),
        "small.mid": midi,
    }
    put(tmp_path, {f"a{suffix}": ARCHIVES[suffix](large)})
    monkeypatch.setattr(archives, "MAX_PIECE_BYTES", 5_000)
    found = told(str(tmp_path / f"a{suffix}"))
    assert {name: words.partition(";")[0] for name, words in found.items()} == {
        "inner.zip": "more than the limit of 64 MiB",
        "large.mid": "more than the limit of 64 MiB",
        "small.mid": "",
    }


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.REGTYPE])
@pytest.mark.parametrize(("size", "words"), [(1 << 40, "damaged tar|when unpacked"), (-512, "damaged tar")])
def test_a_tar_that_lies_about_a_size_is_refused_at_once(
    tmp_path: Path, kind: bytes, size: int, words: str
) -> None:
    first, second = entry("a.mid", tarfile.REGTYPE), entry("b.mid", kind)
    second.size = size  # -512 leads back to where it stands
    put(
        tmp_path,
        {"a.tar": b"".join(each.tobuf(tarfile.GNU_FORMAT) for each in (first, second)) + bytes(9999)},
    )
    with pytest.raises(InputError, match=words):
        find_sources([str(tmp_path / "a.tar")])


# Order, and how often an archive is read


def test_members_are_sorted_where_any_can_be_read_first(tmp_path: Path, midi: bytes) -> None:
    files = {"b.mid": midi, "a.mid": midi, "c/a.mid": midi}
    put(tmp_path, {f"a{suffix}": pack(files) for suffix, pack in ARCHIVES.items()})
    for suffix in (".zip", ".tar", ".zip.gz"):
        assert names(str(tmp_path / f"a{suffix}")) == ["a.mid", "b.mid", "c/a.mid"]
    assert names(str(tmp_path / "a.tar.gz")) == ["b.mid", "a.mid", "c/a.mid"]
    put(tmp_path, {"outer.zip": zip_of({"in.tgz": tgz_of(files)})})
    assert names(str(tmp_path / "outer.zip")) == ["in.tgz/a.mid", "in.tgz/b.mid", "in.tgz/c/a.mid"]


def test_a_tar_gz_is_read_from_its_beginning_to_its_end_only_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"{number * 7 % 100:03d}.mid": os.urandom(10_000) for number in range(100)}
    older = tar_of(dict.fromkeys(reversed(files), b"0" * 10_000))[: 100 * (512 + 10_240)]  # without its end
    whole = older + tar_of(files)
    put(tmp_path, {"a.tgz": gzip.compress(whole, 1)})
    read = 0
    inflate = gzip._GzipReader.read

    def counting(self: Any, size: int = -1) -> bytes:
        nonlocal read
        content: bytes = inflate(self, size)
        read += len(content)
        return content

    monkeypatch.setattr(gzip._GzipReader, "read", counting)
    found = find_sources([str(tmp_path / "a.tgz")])
    assert {source.name: source.content() for source in found} == files
    assert read <= 2 * len(whole)  # to list it, and to read it


def test_an_inner_archive_is_read_once_for_all_of_its_members(
    tmp_path: Path, midi: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = {f"{number}.zip": zip_of({f"{name}.mid": midi for name in "abcde"}) for number in range(3)}
    put(tmp_path, {"a.zip": zip_of(inner)})
    opened = []
    open_archive = archives.open_archive

    def counting(name: str, file: Path | bytes) -> dict[str, archives.Member]:
        opened.append(name)
        return open_archive(name, file)

    monkeypatch.setattr(archives, "open_archive", counting)
    found = find_sources([str(tmp_path / "a.zip")])
    assert {source.content() for source in found} == {midi}
    assert opened == ["a.zip", "0.zip", "1.zip", "2.zip", "0.zip", "1.zip", "2.zip"]


def test_other_processes_read_any_source(
    tmp_path: Path, midi: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_FEWEST_PER_PROCESS", 4)
    monkeypatch.setattr(reading, "_FILES_PER_TASK", 2)
    files = {f"{number}.mid": midi for number in range(8)} | {"z.mid.gz": gzip.compress(midi)}
    put(tmp_path, {f"{suffix[1:]}/a{suffix}": pack(files) for suffix, pack in ARCHIVES.items()})
    put(tmp_path, {"two.tgz": tgz_of({"in.zip": zip_of(files)})})
    found = find_sources([str(tmp_path)])
    alone, shared = (list(reading.read_all(found, PrepareConfig(), workers)) for workers in (1, 2))
    assert len(alone) == 9 * (len(ARCHIVES) + 1)
    assert not any(each.facts.refused for each in alone)
    assert [each.facts for each in alone] == [each.facts for each in shared]


def test_an_archive_that_changed_is_read_anew_and_a_lost_member_is_told(tmp_path: Path, midi: bytes) -> None:
    put(tmp_path, {"a.tgz": tgz_of({"in.zip": zip_of({"a.mid": b"old", "b.mid": b"old"})})})
    first, second = find_sources([str(tmp_path / "a.tgz")])
    assert first.content() == b"old"
    put(tmp_path, {"a.tgz": tgz_of({"in.zip": zip_of({"a.mid": midi})})})
    assert first.content() == midi
    with pytest.raises(
        InputError, match=r"in\.zip/b\.mid: not in the archive any more; find the sources again"
    ):
        second.content()


@given(st.data())
def test_any_damage_to_an_archive_gives_what_is_whole_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, midi: bytes, data: st.DataObject
) -> None:
    suffix = data.draw(st.sampled_from(list(ARCHIVES)))
    content = bytearray(
        ARCHIVES[suffix]({"a.mid": midi, "x" * 120 + ".mid": midi, "in.tar": tar_of({"b.mid": midi})})
    )
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damage") / f"a{suffix}"
    path.write_bytes(content)
    try:
        lines = [words for words in told(str(path)).values() if words]
    except InputError as refusal:
        lines = [str(refusal)]
    assert all(len(line.splitlines()) == 1 for line in lines)


def test_a_source_says_of_which_file_it_is() -> None:
    source = Source("x/in.zip/a.mid.gz", Path("x/a.tgz"), ("in.zip", "a.mid.gz"))
    assert (source.file_name, source.suffix) == ("a.mid.gz", ".mid")
    assert (Source("b", Path("b.KRN")).file_name, Source("b", Path("b.KRN")).suffix) == ("b.KRN", ".krn")
