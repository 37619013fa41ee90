"""Preparing: the same corpus for any number of processes and after any cut; nothing is lost in silence."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from midigen_jax.config import PrepareConfig
from midigen_jax.data import prepare as module
from midigen_jax.data import reading
from midigen_jax.data.corpus import load_corpus
from midigen_jax.data.prepare import prepare
from midigen_jax.data.spool import FILE, Spool
from midigen_jax.errors import InputError
from midigen_jax.music.notes import make_notes
from midigen_jax.music.sources import find_sources
from midigen_jax.music.write import write_midi

NOTE = PrepareConfig()
CHORD = PrepareConfig(tokenizer="chord", transpose="C", min_chord_count=1)


def write_tunes(folder: Path, count: int, notes: int = 30) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        pitch = 60 + np.cumsum(rng.integers(-3, 4, notes)) % 24
        onset = np.arange(notes) * 6
        write_midi(make_notes(onset, np.full(notes, 6), pitch, np.zeros(notes)), folder / f"{number:04d}.mid")


def contents(corpus: Path) -> dict[str, bytes]:
    """The bytes of every file, but for what was measured: times differ."""
    return {file.name: file.read_bytes() for file in corpus.iterdir() if file.name != "rows.jsonl"}


@pytest.fixture(scope="module")
def tunes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tunes")
    write_tunes(folder, 24)
    (folder / "0007.mid").write_text("no music")
    return folder


@pytest.mark.parametrize("config", [NOTE, CHORD], ids=["note", "chord"])
def test_any_number_of_processes_makes_the_same_bytes(
    tunes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: PrepareConfig
) -> None:
    monkeypatch.setattr(reading, "_FEWEST_PER_PROCESS", 8)
    monkeypatch.setattr(reading, "_FILES_PER_TASK", 2)
    for workers in (1, 2):
        prepare([str(tunes)], tmp_path / str(workers), config, workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


KILLED = """
import os, signal, sys
from pathlib import Path
from midigen_jax.config import PrepareConfig
from midigen_jax.data.prepare import prepare
from midigen_jax.data.spool import Spool

append, left = Spool.append, [10]

def cut(spool, reading):
    if left[0] == 0:
        spool._file.commit()
        spool._committed = float("inf")
        append(spool, reading)  # and nobody commits it
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    append(spool, reading)

Spool.append = cut
prepare([sys.argv[1]], Path(sys.argv[2]), PrepareConfig(), workers=1)
"""


def test_a_killed_command_goes_on_where_it_was_and_makes_the_same_bytes(
    tunes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare([str(tunes)], tmp_path / "whole", NOTE, workers=1)
    words = [sys.executable, "-c", KILLED, str(tunes), str(tmp_path / "cut")]
    assert subprocess.run(words, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert not (tmp_path / "cut").exists()
    read = []

    def read_all(sources, *rest):
        read.extend(sources)
        return reading.read_all(sources, *rest)

    monkeypatch.setattr(module, "read_all", read_all)
    prepare([str(tunes)], tmp_path / "cut", NOTE, workers=1)
    # Ten of 24 were spooled; one of those could not be read, and is tried again.
    assert len(read) == 24 - 10 + 1
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert not (tmp_path / "cut.partial").exists()


def test_readers_end_with_a_command_that_is_killed(tunes: Path, tmp_path: Path) -> None:
    # Each has the pipe that is read to its end here.
    shared = (
        "from midigen_jax.data import reading\nreading._FEWEST_PER_PROCESS = reading._FILES_PER_TASK = 2\n"
    )
    program = shared + KILLED.replace("workers=1", "workers=3")
    words = [sys.executable, "-c", program, str(tunes), str(tmp_path / "cut")]
    done = subprocess.run(words, check=False, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL


def test_a_file_that_changed_since_the_cut_is_read_again(tmp_path: Path) -> None:
    write_tunes(tmp_path / "tunes", 4)
    changed = tmp_path / "tunes" / "0002.mid"
    (tmp_path / "tunes" / "0003.mid").write_text("no music")
    with pytest.raises(InputError, match="0003"):
        prepare([str(tmp_path / "tunes")], tmp_path / "out", NOTE, workers=1, strict=True)
    write_midi(make_notes([0, 12], [12, 12], [40, 41], [0, 0]), changed)
    write_midi(make_notes([0, 12], [12, 12], [50, 52], [0, 0]), tmp_path / "tunes" / "0003.mid")
    corpus = prepare([str(tmp_path / "tunes")], tmp_path / "out", NOTE, workers=1)
    piece = next(piece for piece in corpus.pieces if piece.source == "0002.mid")
    notes = corpus.vocabulary.decode(corpus.tokens[piece.start : piece.stop])
    assert notes[:, 2].tolist() == [40, 41]


SPOOLED = """
import sys, time
from pathlib import Path
from midigen_jax.config import PrepareConfig
from midigen_jax.data import reading, spool
from midigen_jax.music.sources import find_sources

spool._SECONDS_BETWEEN_COMMITS = 0.0
kept = spool.Spool(Path(sys.argv[2]), "x")
print("open", flush=True)
for each in reading.read_all(find_sources([sys.argv[1]]), PrepareConfig(), 1):
    kept.append(each)
    print(each.facts.name, flush=True)
"""


def test_a_spool_that_is_killed_at_any_instant_keeps_what_was_committed(tunes: Path, tmp_path: Path) -> None:
    readings = {each.facts.name: each for each in reading.read_all(find_sources([str(tunes)]), NOTE, 1)}
    rng = np.random.default_rng(0)
    for number in range(4):
        folder = tmp_path / str(number)
        folder.mkdir()
        words = [sys.executable, "-c", SPOOLED, str(tunes), str(folder)]
        said = []
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                said.append(line.strip())
                if len(said) == 1 + 5 * number:
                    time.sleep(rng.uniform(0, 0.01))
                    process.kill()
        with Spool(folder, "x") as spool:
            known = [each for name, each in readings.items() if spool.get(name) is not None]
            assert {each.facts.name for each in known} >= set(said[1:])
            for each in known:
                entry = spool[each.facts.name]
                assert entry == (each.facts, len(each.windows))
                np.testing.assert_array_equal(spool.tokens(entry, 2), each.tokens)
                np.testing.assert_array_equal(spool.windows(entry), each.windows)


def test_a_file_that_is_no_spool_and_a_full_disk_are_told(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 100)
    with pytest.raises(InputError, match=r"file is not a database\); delete the folder"):
        Spool(tmp_path, "x")
    (tmp_path / "small").mkdir()
    with Spool(tmp_path / "small", "x") as spool:
        spool._file.execute("PRAGMA max_page_count = 8")
        much = reading.Reading(reading.Facts("a", "b"), np.zeros((9999, 2), np.int32), np.zeros(9, np.uint64))
        with pytest.raises(OSError, match="No space left on device"):
            spool.append(much)


def test_a_spool_of_other_settings_is_refused(tmp_path: Path) -> None:
    with Spool(tmp_path, "x"):
        pass
    with pytest.raises(InputError, match="other settings"):
        Spool(tmp_path, "y")


def test_what_could_not_be_read_stands_in_the_manifest_with_its_reason(tunes: Path, tmp_path: Path) -> None:
    corpus = prepare([str(tunes)], tmp_path / "out", NOTE, workers=1)
    assert corpus.manifest["quarantine"] == {"0007.mid": "not a MIDI file; convert it to .mid first"}
    summary = corpus.manifest["summary"]
    assert summary["reasons"] == {"not a MIDI file": 1}
    assert sum(summary["pieces"].values()) == 23
    assert summary["notes"] == 23 * 30
    assert summary["events"]["train"] == sum(
        piece.stop - piece.start for piece in corpus.pieces if piece.split == "train"
    )


def test_strict_stops_at_the_first_file_that_cannot_be_read(tunes: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"0007\.mid: not a MIDI file"):
        prepare([str(tunes)], tmp_path / "out", NOTE, workers=1, strict=True)
    assert not (tmp_path / "out").exists()


def test_strict_refuses_what_was_mended_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tunes(tmp_path / "tunes", 4)
    mended = tmp_path / "tunes" / "0002.mid"
    head, track = mended.read_bytes().split(b"MTrk")
    size = int.from_bytes(track[:4]) - 4  # without the end of the track
    mended.write_bytes(head + b"MTrk" + size.to_bytes(4) + track[4:-4])

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    refusal = r"^0002\.mid: a track without its end; mend it, or leave out --strict$"
    for strict in (True, False, True):  # the last goes on where the one that is not strict was stopped
        monkeypatch.setattr(module, "_assemble", stopped)
        with pytest.raises(InputError if strict else KeyboardInterrupt, match=refusal if strict else None):
            prepare([str(tmp_path / "tunes")], tmp_path / "out", NOTE, workers=1, strict=strict)
    monkeypatch.undo()
    corpus = prepare([str(tmp_path / "tunes")], tmp_path / "out", NOTE, workers=1)
    assert corpus.manifest["remarks"] == {"0002.mid": ["a track without its end"]}
    with pytest.raises(InputError, match=refusal):  # though the corpus is there
        prepare([str(tmp_path / "tunes")], tmp_path / "out", NOTE, workers=1, strict=True)


def test_copies_are_counted_and_kept_together(tmp_path: Path) -> None:
    write_tunes(tmp_path / "tunes", 5)
    for number in range(3):
        (tmp_path / "tunes" / f"copy{number}.mid").write_bytes((tmp_path / "tunes" / "0000.mid").read_bytes())
    corpus = prepare([str(tmp_path / "tunes")], tmp_path / "out", NOTE, workers=1)
    assert corpus.manifest["summary"]["duplicates"] == 3
    assert corpus.manifest["summary"]["related"] == 4
    assert len({piece.split for piece in corpus.pieces if piece.source.startswith(("copy", "0000"))}) == 1


def test_the_manifest_is_readable_json_and_the_corpus_opens(tunes: Path, tmp_path: Path) -> None:
    prepare([str(tunes)], tmp_path / "out", CHORD, workers=1)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    corpus = load_corpus(tmp_path / "out")
    assert manifest["summary"]["unknown_share"].keys() == {"valid", "test"}
    assert corpus.tokens.shape == (corpus.pieces[-1].stop, 2)
