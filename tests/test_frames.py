"""Frame files: a benchmark's piano rolls as notes and back, whatever holds them; and no pickle is run."""

import io
import json
import os
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from midigen_jax.config import PrepareConfig
from midigen_jax.data.reading import read_source
from midigen_jax.errors import InputError
from midigen_jax.music import frames
from midigen_jax.music.frames import as_sets, known_ticks, read_frames, split_frames
from midigen_jax.music.read import Piece, find_sources, read_piece
from midigen_jax.vocab import note

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

PITCHES = st.integers(0, 127)
CHORDS = st.lists(st.lists(PITCHES, max_size=4, unique=True).map(sorted), min_size=1, max_size=12)
VOICES = st.integers(1, 4).flatmap(
    lambda width: st.lists(
        st.lists(st.integers(-1, 127), min_size=width, max_size=width), min_size=1, max_size=12
    )
)


def as_json(**splits: Any) -> bytes:
    return json.dumps(splits).encode()


def as_mat(**splits: list[np.ndarray]) -> bytes:
    """Cells of matrices, as the published files have them."""
    cells = {}
    for split, pieces in splits.items():
        cells[f"{split}data"] = np.empty((1, len(pieces)), object)
        cells[f"{split}data"][0] = pieces
    file = io.BytesIO()
    savemat(file, cells, do_compression=True)
    return file.getvalue()


def as_npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def listed(pieces: list[Any]) -> np.ndarray:
    """An array of objects, which numpy can only store as a pickle."""
    array = np.empty(len(pieces), object)
    array[:] = pieces
    return array


def roll(*chords: list[int], keys: int = 88) -> np.ndarray:
    matrix = np.zeros((len(chords), keys), np.uint8)
    for i, chord in enumerate(chords):
        matrix[i, np.array(chord, int) - (21 if keys == 88 else 0)] = 1
    return matrix


def frames_of(piece: Piece) -> list[list[int]]:
    """The sounding pitches of each frame."""
    assert piece.length is not None
    assert piece.frame is not None
    chords: list[set[int]] = [set() for _ in range(piece.length // piece.frame)]
    for onset, duration, pitch, _ in (piece.notes // [piece.frame, piece.frame, 1, 1]).tolist():
        for chord in chords[onset : onset + duration]:
            chord.add(pitch)
    return [sorted(chord) for chord in chords]


def piece_of(content: bytes, ticks: int = 3) -> Piece:
    notes, length = read_frames(content, ticks)
    return Piece(notes, length=length, frame=ticks)


# Frames and notes


@given(CHORDS, st.integers(1, 12))
def test_any_frames_are_notes_and_frames_again(chords: list[list[int]], ticks: int) -> None:
    content = split_frames(".json", as_json(train=[chords, [[60], []]]))["train/0"]
    assert frames_of(piece_of(content, ticks)) == chords


@given(VOICES)
def test_any_voices_are_notes_and_voices_again(rows: list[list[int]]) -> None:
    piece = piece_of(split_frames(".json", as_json(train=[rows]))["train/0"])
    again = np.full((len(rows), len(rows[0])), -1)
    for onset, duration, pitch, track in (piece.notes // [3, 3, 1, 1]).tolist():
        again[onset : onset + duration, track] = pitch
    assert again.tolist() == rows


@given(CHORDS)
def test_any_note_is_as_long_as_its_pitch_sounds_on(chords: list[list[int]]) -> None:
    piece = piece_of(split_frames(".json", as_json(train=[chords, [[60], []]]))["train/0"])
    attacks = sum(len(set(chord) - set(before)) for before, chord in zip([[], *chords], chords, strict=False))
    assert len(piece.notes) == attacks


def test_a_pitch_that_sounded_in_the_frame_before_is_held_in_its_own_voice_alone() -> None:
    for content, notes in (
        (as_json(train=[[[60, 64], [60], [60, 64]]]), [[0, 9, 60, 0], [0, 3, 64, 0], [6, 3, 64, 0]]),
        (
            as_json(train=[[[64, 60], [60, -1], [60, 64]]]),
            [[0, 3, 60, 1], [0, 3, 64, 0], [3, 6, 60, 0], [6, 3, 64, 1]],
        ),
    ):
        assert piece_of(split_frames(".json", content)["train/0"]).notes.tolist() == notes


@given(st.lists(st.lists(st.integers(58, 62) | st.just(-1), min_size=3, max_size=3), min_size=1, max_size=12))
def test_without_voices_frames_are_sets_of_pitches(rows: list[list[int]]) -> None:
    voiced = piece_of(split_frames(".json", as_json(train=[rows]))["train/0"])
    sets = [sorted({pitch for pitch in frame if pitch >= 0}) for frame in rows]
    plain = piece_of(split_frames(".json", as_json(train=[sets, [[60], []]]))["train/0"])
    assert as_sets(voiced.notes, 3 * len(rows)).tolist() == plain.notes.tolist()


def test_corpora_of_voices_alone_tell_them_apart(tmp_path: Path) -> None:
    """A pitch that passes from voice to voice is struck again, and held where there are none."""
    path = tmp_path / "mine.json"
    path.write_bytes(as_json(train=[[[67, 60], [60, 55]]]))
    (source,) = find_sources([str(path)])
    attacked, held = note.ATTACKED + 60, note.HELD + 60
    for voices, id in ((2, attacked), (0, held)):
        ids = read_source(source, PrepareConfig(voices=voices)).tokens[:, 0]
        assert id in ids[3:]
        assert (held in ids) == (id == held)


def test_rests_at_the_ends_are_in_the_length() -> None:
    piece = piece_of(split_frames(".json", as_json(test=[[[], [60, 64], [], []]]))["test/0"], ticks=6)
    assert (piece.notes.tolist(), piece.length) == ([[6, 6, 60, 0], [6, 6, 64, 0]], 24)


# What holds them

CHORD, THEN = [48, 60, 64], [48, 65]


def everywhere() -> dict[str, tuple[str, bytes]]:
    """One piece in each split, as every kind of file."""
    pieces = {"train": [CHORD, THEN, []], "valid": [THEN], "test": [[], CHORD]}
    small = {name: roll(*piece) for name, piece in pieces.items()}
    wide = {name: roll(*piece, keys=128) for name, piece in pieces.items()}
    return {
        "json": (".json", as_json(**{name: [piece] for name, piece in pieces.items()})),
        "mat": (".mat", as_mat(**{name: [matrix] for name, matrix in small.items()})),
        "three dimensions": (".npz", as_npz(**{name: matrix[None] for name, matrix in wide.items()})),
        "a matrix a piece": (".npz", as_npz(**{f"{name}/0": matrix > 0 for name, matrix in small.items()})),
        "underscores": (
            ".npz",
            as_npz(**{f"{name}_0": matrix.astype("f2") for name, matrix in wide.items()}),
        ),
    }


@pytest.mark.parametrize("kind", everywhere())
def test_the_same_music_is_the_same_bytes_whatever_file_it_comes_from(kind: str) -> None:
    assert split_frames(*everywhere()[kind]) == split_frames(*everywhere()["json"])


def test_voices_are_numbers_with_nan_or_minus_one_for_a_rest() -> None:
    rows = np.array([[72, 60], [np.nan, 60], [-1, 62]], "f2")
    whole = split_frames(".json", as_json(train=[[[72, 60], [-1, 60], [-1, 62]]]))
    for order in "CF":
        array = np.asarray(rows, order=order)  # type: ignore[call-overload]
        assert split_frames(".npz", as_npz(**{"train/0": array})) == whole
    assert split_frames(".mat", as_mat(train=[rows.astype("f8")])) == whole


def test_pieces_stand_in_the_order_of_their_splits_and_numbers() -> None:
    names = ["test_1", "train_10", "valid_0", "train_9", "test_0", "train_2"]
    content = as_npz(**{name: roll([60]) for name in names}, other=np.arange(3))
    assert list(split_frames(".npz", content)) == [
        "train/2",
        "train/9",
        "train/10",
        "valid/0",
        "test/0",
        "test/1",
    ]


@pytest.mark.parametrize(
    ("name", "ticks"),
    [
        ("JSB_Chorales.mat", 12),
        ("Nottingham.mat", 6),
        ("Jsb16thSeparated.json", 3),
        ("jsb-chorales-quarter.json", 12),
        ("jsb-chorales-8th.json", 6),
        ("mine.json", 3),
    ],
)
def test_how_long_a_frame_is_is_known_of_the_benchmarks(name: str, ticks: int) -> None:
    assert known_ticks(name) == ticks


def test_each_piece_of_a_file_is_a_source_with_its_split(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(as_json(train=[[[60], []], [[62], [62]]], test=[[[64], [65]]]))
    found = find_sources([str(path)])
    assert [source.name for source in found] == ["mine.json/train/0", "mine.json/train/1", "mine.json/test/0"]
    assert [source.split for source in found] == ["train", "train", "test"]
    assert pickle.loads(pickle.dumps(found)) == found
    assert len({source.content() for source in found}) == 3
    piece = read_piece(found[1])
    assert (piece.notes.tolist(), piece.length, piece.frame) == ([[0, 6, 62, 0]], 6, 3)
    piece = read_piece(found[1], frame_ticks=12)
    assert (piece.notes.tolist(), piece.length, piece.frame) == ([[0, 24, 62, 0]], 24, 12)


def test_a_file_is_taken_apart_once_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(as_json(train=[[[60]], [[62]]]))
    found = find_sources([str(path)])
    with monkeypatch.context() as broken:
        broken.setattr(frames, "split_frames", None)
        assert [len(read_piece(source).notes) for source in found] == [1, 1]
    path.write_bytes(as_json(train=[[[60], [61]]]))
    assert len(read_piece(found[0]).notes) == 2
    with pytest.raises(InputError, match=r"mine\.json/train/1: not in the file any more"):
        read_piece(found[1])


def test_a_piece_of_rests_alone_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(as_json(train=[[[]]]))
    with pytest.raises(InputError, match=r"mine\.json/train/0: no notes"):
        read_piece(find_sources([str(path)])[0])


# What is refused


class MakesFolder:
    """Pickled, it is a call: loading it makes the folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_in_a_file_is_never_run(tmp_path: Path) -> None:
    content = as_npz(train=listed([roll([60]), MakesFolder(tmp_path / "made")]))
    with pytest.raises(InputError, match=r"train\.npy: an array of objects is a pickle, .* give the \.json"):
        split_frames(".npz", content)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("suffix", "content", "words"),
    [
        (".json", b"", "damaged frame file"),
        (".json", b"[" * 100_000, "damaged frame file"),
        (".json", b"[]", "needs train, valid or test"),
        (".json", as_json(music=[]), "needs train, valid or test"),
        (".json", as_json(train=[[[60, 200]]]), "train/0: a frame is a list of whole MIDI pitches"),
        (".json", as_json(train=[[[60.5]]]), "train/0: a frame is a list of whole MIDI pitches"),
        (".json", as_json(train=[60]), "damaged frame file"),
        (".json", as_json(train={"0": [[60]]}), "train/0: a frame is a list of whole MIDI pitches"),
        (".mat", b"", "no MATLAB file of version 5"),
        (".mat", as_mat(train=[roll([60])])[:-20], "damaged frame file"),
        (".mat", as_mat(train=[np.zeros((4, 20))]), "20 columns"),
        (".npz", b"PK\x03\x04", "damaged frame file"),
        (".npz", as_npz(other=roll([60])), "needs train, valid or test"),
        (".npz", as_npz(train=roll([60])), "train/0: no matrix of frames"),
        (".npz", as_npz(train_0=np.array([["text"]])), "train/0: no matrix of frames"),
        (".npz", as_npz(train_0=np.array([[60.5]])), "whole numbers up to 127"),
        (".npz", as_npz(train_0=np.array([[200]])), "whole numbers up to 127"),
        (".npz", as_npz(train_0=np.zeros((100_001, 1))), r"100,001 frames; the limit is 100,000"),
    ],
)
def test_what_is_no_frame_file_is_refused_in_one_line(suffix: str, content: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        split_frames(suffix, content)
    assert "\n" not in str(caught.value)


def test_a_refusal_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "broken.mat").write_bytes(b"no")
    with pytest.raises(InputError, match=r"broken\.mat: no MATLAB file"):
        find_sources([str(tmp_path / "broken.mat")])


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".mat", as_mat(train=[np.zeros((40_000, 88), np.uint8)])),
        (".npz", as_npz(train_0=np.zeros((40_000, 88), np.uint8))),
    ],
)
def test_a_file_that_unpacks_to_more_than_the_limit_is_refused(
    suffix: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Megabytes in kilobytes."""
    monkeypatch.setattr(frames, "MAX_UNPACKED", 1 << 20)
    with pytest.raises(InputError, match="more than 1 MiB when unpacked"):
        split_frames(suffix, content)


@given(st.data())
def test_any_damage_to_a_file_gives_pieces_or_one_line(data: st.DataObject) -> None:
    suffix, whole = everywhere()[data.draw(st.sampled_from(sorted(everywhere())))]
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    try:
        pieces = split_frames(suffix, bytes(content))
    except InputError as refusal:
        pieces, line = {}, str(refusal)
    else:
        line = "pieces"
    assert len(line.splitlines()) == 1
    assert all(frames_of(piece_of(piece)) is not None for piece in pieces.values())


# The benchmarks themselves


@pytest.mark.parametrize(
    ("name", "pieces", "held_out_frames"),
    [
        ("JSB_Chorales.mat", (229, 76, 77), (4602, 4725)),
        ("Nottingham.mat", (694, 173, 170), (45_513, 44_463)),
        ("Jsb16thSeparated.json", (229, 76, 77), (18_408, 18_900)),
    ],
)
def test_the_benchmarks_have_the_pieces_and_frames_that_tables_count(
    name: str, pieces: tuple[int, ...], held_out_frames: tuple[int, int]
) -> None:
    if not (SHARED / name).is_file():
        pytest.skip(f"{name} is not beside the checkout")
    found = find_sources([str(SHARED / name)])
    assert tuple(Counter(source.split for source in found).values()) == pieces
    counted: Counter[str | None] = Counter()
    for source in found:
        if source.split != "train":
            piece = read_piece(source)
            counted[source.split] += (piece.length or 0) // known_ticks(name)
    assert (counted["valid"], counted["test"]) == held_out_frames
