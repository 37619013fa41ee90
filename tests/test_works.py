"""Which pieces are one work: in another key, at another tempo, with ornaments, in another arrangement."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from midigen_jax.config import PrepareConfig
from midigen_jax.data import works
from midigen_jax.data.leaks import describe_leaks
from midigen_jax.data.prepare import prepare
from midigen_jax.data.works import WINDOW, fingerprint, groups, known_groups, relations
from midigen_jax.errors import InputError
from midigen_jax.music.notes import Notes, make_notes
from midigen_jax.music.piece import Piece
from midigen_jax.music.read import read_piece
from midigen_jax.music.sources import Source, find_sources
from midigen_jax.music.write import write_midi

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


def notes_of(rows: Sequence[Sequence[int]]) -> Notes:
    onset, duration, pitch, track = np.array(rows).reshape(-1, 4).T
    return make_notes(onset, duration, pitch, track)


def melody(top: NDArray[np.integer], duration: int = 12) -> Notes:
    """A tune over a low note that is held throughout."""
    tune = [(number * duration, duration, pitch, 0) for number, pitch in enumerate(top.tolist())]
    return notes_of([(0, duration * len(top), 36, 0), *tune])


def line(seed: int, length: int) -> NDArray[np.int64]:
    """A tune without repeated notes."""
    steps = np.random.default_rng(seed).integers(1, 8, length) * np.random.default_rng(seed + 99).choice(
        [-1, 1], length
    )
    return 60 + np.cumsum(steps) % 30


def related(*pieces: Notes) -> list[int]:
    """The groups of pieces from files that differ."""
    return alike(pieces, [str(number) for number in range(len(pieces))])


def alike(pieces: Sequence[Notes], digests: Sequence[str]) -> list[int]:
    found = found_of(pieces, digests)
    return groups(len(pieces), found).tolist()


def found_of(pieces: Sequence[Notes], digests: Sequence[str] | None = None) -> list[works.Relation]:
    prints = [fingerprint(Piece(piece)) for piece in pieces]
    marks = [
        {"bytes": digest, "notes": shape}
        for digest, (shape, _) in zip(digests or map(str, range(len(pieces))), prints, strict=True)
    ]
    return relations(marks, [len(windows) for _, windows in prints], lambda i: prints[i][1])


def test_the_same_file_under_two_names_is_one_work() -> None:
    pieces = [melody(line(seed, 4)) for seed in range(3)]
    assert alike(pieces, ["a", "b", "a"]) == [0, 1, 0]


def test_the_same_slices_in_another_key_are_one_work_even_if_short() -> None:
    tune = melody(np.array([60, 62, 64]))
    higher, slower = tune + np.array([0, 0, 5, 0]), melody(np.array([60, 62, 64]), duration=24)
    assert related(tune, slower, higher.astype(np.int32)) == [0, 1, 0]


def test_the_same_tune_over_another_bass_and_in_another_rhythm_is_one_work() -> None:
    tune = line(0, 60)
    other = melody(tune - 3, duration=6)
    assert related(melody(tune), melody(line(1, 60)), other) == [0, 1, 0]


# Two tunes that share their first m notes share m - 6 windows.
@pytest.mark.parametrize(("shared", "group"), [(WINDOW + 5, 1), (WINDOW + 30, 0)])
def test_a_phrase_in_common_is_no_work_in_common(shared: int, group: int) -> None:
    tune = line(0, 100)
    other = np.concatenate([tune[:shared], line(1, 100)])
    assert related(melody(tune), melody(other)) == [0, group]


def test_a_little_all_over_in_order_is_one_work_and_in_disorder_is_not() -> None:
    tune, rest = line(0, 240), line(1, 240)
    kept = [slice(start, start + 10) for start in range(0, 240, 24)]  # 4 windows of every 24
    ordered, mixed = rest.copy(), rest.copy()
    for place in kept:
        ordered[place] = tune[place]
    for place, other in zip(kept, kept[::-1], strict=True):
        mixed[place] = tune[other]
    (relation,) = found_of([melody(tune), melody(ordered)])
    assert relation.why == "music"
    assert works._IN_ORDER <= relation.share < works._PLAIN
    assert found_of([melody(tune), melody(mixed)]) == []


def test_where_it_lies_is_told() -> None:
    tune = line(0, 50)
    late = np.concatenate([line(1, 50), tune])
    (relation,) = found_of([melody(tune), melody(late)])
    assert relation.share == pytest.approx(1, abs=0.1)
    assert relation.in_one == pytest.approx((0, 43 / 50), abs=0.01)
    assert relation.in_other == pytest.approx((0.5, 0.93), abs=0.01)


@given(st.integers(0, 50), st.integers(-12, 12), st.floats(0.4, 2.5), st.floats(0, 0.3))
def test_a_tune_that_is_played_is_that_tune(seed: int, shift: int, speed: float, rubato: float) -> None:
    """In another key, with a tempo that drifts, with mordents, and notes that end early."""
    rng, tune = np.random.default_rng(seed), line(seed, 80)
    tempo = speed * np.exp(rubato * np.sin(np.arange(81) / rng.uniform(2, 9)))
    onset = np.concatenate([[0], np.cumsum(24 * tempo)]).round().astype(int)
    rows = []
    for begin, end, pitch in zip(onset, onset[1:], (tune + shift).tolist(), strict=False):
        length = int(end - begin)
        if rng.random() < 0.1:
            short = max(1, length // 8)
            rows += [(begin, short, pitch, 0), (begin + short, short, pitch + 2, 0)]
            begin, length = begin + 2 * short, length - 2 * short
        rows.append((begin, max(1, int(length * rng.uniform(0.6, 1))), pitch, 0))
    assert related(melody(tune), melody(line(seed + 1000, 80)), notes_of(rows)) == [0, 1, 0]


def test_a_melody_under_another_part_is_found_in_its_track() -> None:
    tune = line(0, 80)
    sung = [(number * 12, 12, pitch, 0) for number, pitch in enumerate(tune.tolist())]
    above = [(number * 6, 6, pitch + 30, 1) for number, pitch in enumerate(line(1, 160).tolist())]
    assert related(melody(tune), notes_of(sung + above)) == [0, 0]


def test_kinship_is_passed_on() -> None:
    one, two = line(0, 80), line(1, 80)
    medley = np.concatenate([one, two])
    assert related(melody(one), melody(two), melody(medley)) == [0, 0, 0]


def test_hundreds_of_copies_are_one_work_at_a_bounded_price(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(works, "_NEAREST", 2)
    tune = line(0, 40)
    copies = [melody(tune, duration) for duration in range(1, 301)]
    assert related(*copies, melody(line(1, 40))) == [0] * 300 + [1]


def test_pieces_without_windows_or_notes_are_on_their_own() -> None:
    empty = np.empty((0, 4), np.int32)
    assert related(melody(line(0, WINDOW)), empty, melody(line(1, WINDOW))) == [0, 1, 2]
    assert alike([], []) == []


def test_kinship_does_not_depend_on_how_many_windows_are_looked_at_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tunes = [line(seed, 60) for seed in range(4)]
    every = (tunes[0], tunes[1], tunes[0] + 2, tunes[2], np.append(tunes[1], 60))
    pieces = [melody(tune) for tune in every]
    expected = related(*pieces)
    assert expected == [0, 1, 0, 2, 1]
    monkeypatch.setattr(works, "_WINDOWS_AT_ONCE", 10)
    assert related(*pieces) == expected


def test_what_the_user_knows_is_a_group(tmp_path: Path) -> None:
    sources = [Source(name, tmp_path / name) for name in ("a/1.mid", "a/2.mid", "b/1.mid")]
    assert known_groups("none", sources) == {}
    assert list(known_groups("folder", sources).values()) == ["a/1.mid", "a/1.mid", "b/1.mid"]
    assert list(known_groups("stem", sources).values()) == ["a/1.mid", "a/2.mid", "a/1.mid"]
    table = tmp_path / "known.csv"
    table.write_text("source,group,year\na/2.mid,song,1901\nb/1.mid,song,1950\n", encoding="utf-8")
    assert known_groups(str(table), sources) == {"a/2.mid": "song", "b/1.mid": "song"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source,group\na/11.mid,x\n", "a/11.mid is no piece of these sources; did you mean a/1.mid?"),
        (
            "source,group\nelsewhere,x\n",
            "elsewhere is no piece of these sources; name pieces as pieces.jsonl",
        ),
        ("name,group\na/1.mid,x\n", "has no column 'source'; its first line has to be source,group"),
        ("source;group\n", "has no column 'source'; its first line has to be source,group"),
        ("", "has no column 'source'; its first line has to be source,group"),
        (None, "not none, folder, stem or a CSV file that can be read"),
        (b"\xff\xfe\x00", "not none, folder, stem or a CSV file that can be read"),
    ],
)
def test_a_table_of_groups_that_is_wrong_is_refused(
    tmp_path: Path, text: str | bytes | None, message: str
) -> None:
    table = tmp_path / "known.csv"
    if text is not None:
        table.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        known_groups(str(table), [Source("a/1.mid", tmp_path / "a" / "1.mid")])


def test_a_corpus_says_what_it_joined_and_why(tmp_path: Path) -> None:
    folder = tmp_path / "music"
    folder.mkdir()
    tunes = [line(seed, 60) for seed in range(6)]
    for number, tune in enumerate([*tunes, tunes[0] + 3]):
        write_midi(melody(tune, 12 if number < 6 else 9), folder / f"{number}.mid")
    (folder / "copy.mid").write_bytes((folder / "1.mid").read_bytes())
    table = tmp_path / "known.csv"
    table.write_text("source,group\n2.mid,song\n3.mid,song\n", encoding="utf-8")
    config = PrepareConfig(group_by=str(table))
    corpus = prepare([str(folder)], tmp_path / "corpus", config)
    split = {piece.source: piece.split for piece in corpus.pieces}
    assert split["0.mid"] == split["6.mid"]
    assert split["1.mid"] == split["copy.mid"]
    assert split["2.mid"] == split["3.mid"]
    lines = [json.loads(text) for text in (corpus.path / "groups.jsonl").read_text().splitlines()]
    assert [told["pieces"] for told in lines] == [
        ["0.mid", "6.mid"],
        ["1.mid", "copy.mid"],
        ["2.mid", "3.mid"],
    ]
    assert [told["relations"][0]["why"] for told in lines] == ["music", "bytes", "given"]
    assert lines[0]["relations"][0]["one_bars"] == [1, 14]
    assert corpus.manifest["summary"]["related_by"] == {"bytes": 1, "given": 1, "music": 1}
    assert list(describe_leaks(corpus.path)) == [
        "valid: 0 of 1 pieces share music with the training split",
        "test: 0 of 1 pieces share music with the training split",
    ]
    # The same words make nothing anew; other words of the table do.
    assert prepare([str(folder)], tmp_path / "corpus", config).manifest == corpus.manifest
    table.write_text("source,group\n", encoding="utf-8")
    with pytest.raises(InputError, match="other sources or settings"):
        prepare([str(folder)], tmp_path / "corpus", config)


def test_leaks_of_given_splits_are_told_with_their_bars(tmp_path: Path) -> None:
    tune, other = line(0, 64) - 30, line(1, 64) - 30
    frames = {
        "train": [[[int(pitch)] for pitch in tune], [[int(pitch)] for pitch in line(2, 64)]],
        "valid": [[[int(pitch)] for pitch in other]],
        "test": [[[int(pitch) + 5] for pitch in [*line(3, 32), *tune]]],
    }
    (tmp_path / "sets.json").write_text(json.dumps(frames), encoding="utf-8")
    corpus = prepare([str(tmp_path / "sets.json")], tmp_path / "corpus", PrepareConfig())
    assert list(describe_leaks(corpus.path)) == [
        "valid: 0 of 1 pieces share music with the training split",
        "test: 1 of 1 pieces share music with the training split",
        "  1 by half or more of their lines",
        "sets.json/test/0, bars 3 to 6: with sets.json/train/0, bars 1 to 4: "
        "100 % of the smaller one's lines",
    ]


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_versions_of_a_song_are_one_work() -> None:
    """118 files of 40 songs: each song is one group, and no group is of two songs."""
    sources = find_sources([str(SHARED / "pop909_40songs.zip")])
    pieces = [read_piece(source).notes for source in sources]
    found = groups(len(pieces), found_of(pieces))
    songs = [Path(source.name).stem.partition("-")[0] for source in sources]
    assert len(set(zip(songs, found.tolist(), strict=True))) == len(set(songs)) == found.max() + 1 == 40


def test_folders_and_names_are_those_of_files_wherever_they_were_given() -> None:
    at = Path("/music")
    sources = [
        Source("1.mid", at / "A" / "1.mid"),
        Source("1.mid (2)", at / "B" / "1.mid.gz"),
        Source("2.mid", at / "B" / "2.mid"),
        Source("x/3.mid", at / "a.zip", ("x/3.mid",)),
        Source("x/4.mid", at / "b.zip", ("x/4.mid",)),
        Source("x/5.mid", at / "b.zip", ("x/5.mid",)),
        Source("one.abc/3", at / "A" / "one.abc", (), "3"),
        Source("two.abc/3", at / "A" / "two.abc", (), "3"),
    ]
    by_folder = [known_groups("folder", sources)[source.name] for source in sources]
    first, other = "1.mid", "1.mid (2)"
    assert by_folder == [first, other, other, "x/3.mid", "x/4.mid", "x/4.mid", first, first]
    by_stem = known_groups("stem", sources)
    assert by_stem["1.mid (2)"] == "1.mid"
    assert len(set(by_stem.values())) == 7


def test_silence_before_the_first_note_and_length_change_nothing() -> None:
    tune = line(0, 3000)
    rows = [(number * 12, 12, pitch, 0) for number, pitch in enumerate(tune.tolist())]
    rows += [(number * 12, 12, pitch + 20, 1) for number, pitch in enumerate(line(1, 3000).tolist())]
    notes = notes_of(rows)
    _, windows = fingerprint(Piece(notes))
    _, late = fingerprint(Piece(notes + np.array([1200, 0, 0, 0], np.int32)))
    np.testing.assert_array_equal(windows, late)
    place = (windows & np.uint64(65_535)).astype(float) / 65_536
    assert len(windows) > 5900  # both lines, all of them
    assert np.histogram(place, 10, (0, 1))[0].min() > 500
