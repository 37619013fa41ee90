"""Families and splits: no music on both sides of a split."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from midigen_jax.data import split as splits
from midigen_jax.data.split import WINDOW, families, fingerprint, leaked, split
from midigen_jax.errors import InputError
from midigen_jax.music.slices import Slices

SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}


def melody(top: NDArray[np.integer], duration: int = 12) -> Slices:
    """A struck note above a low one that is held throughout."""
    pitch = np.stack([np.full_like(top, 36), top], axis=1).ravel().astype(np.int32)
    attacked = np.tile([False, True], len(top))
    start = np.arange(0, 2 * len(top) + 1, 2, dtype=np.int32)
    return Slices(np.full(len(top), duration, np.int32), start, pitch, attacked)


def line(seed: int, length: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(60, 90, length)


def related(*pieces: Slices) -> list[int]:
    """The families of pieces from files that differ."""
    return alike(pieces, [str(number) for number in range(len(pieces))])


def alike(pieces: Sequence[Slices], digests: Sequence[str]) -> list[int]:
    prints = [fingerprint(piece) for piece in pieces]
    marks = [(digest, shape) for digest, (shape, _) in zip(digests, prints, strict=True)]
    return families(marks, [len(windows) for _, windows in prints], lambda i: prints[i][1]).tolist()


def test_the_same_file_under_two_names_is_one_family() -> None:
    pieces = [melody(line(seed, 4)) for seed in range(3)]
    assert alike(pieces, ["a", "b", "a"]) == [0, 1, 0]


def test_the_same_slices_in_another_key_are_one_family_even_if_short() -> None:
    tune = melody(np.array([60, 62, 64]))
    higher = dataclasses.replace(tune, pitch=tune.pitch + 5)
    slower = dataclasses.replace(tune, duration=2 * tune.duration)
    struck = dataclasses.replace(tune, attacked=np.ones_like(tune.attacked))
    assert related(tune, slower, higher, struck) == [0, 1, 0, 2]


def test_the_same_tune_over_another_bass_and_in_another_rhythm_is_one_family() -> None:
    tune = line(0, 60)
    other = melody(tune - 3, duration=6)
    assert related(melody(tune), melody(line(1, 60)), other) == [0, 1, 0]


# A tune of 16 + n notes has n windows; two that share their first m notes share m - 16 of them.
@pytest.mark.parametrize(("shared", "family"), [(WINDOW + 10, 1), (WINDOW + 11, 0)])
def test_more_than_half_of_the_smaller_ones_windows_have_to_be_shared(shared: int, family: int) -> None:
    tune = line(0, WINDOW + 20)
    longer = np.concatenate([tune[:shared], line(1, 200)])
    assert related(melody(tune), melody(longer)) == [0, family]


def test_kinship_is_passed_on() -> None:
    one, two = line(0, 80), line(1, 80)
    medley = np.concatenate([one, two])
    assert related(melody(one), melody(two), melody(medley)) == [0, 0, 0]


def test_a_held_top_is_no_note_of_the_line() -> None:
    tune = line(0, 40)
    sung = np.repeat(tune, 2)  # every note is cut in two: struck, then held
    piece = melody(sung)
    held = np.flatnonzero(np.arange(len(piece.pitch)) % 4 == 3)
    attacked = piece.attacked.copy()
    attacked[held] = False
    assert related(melody(tune), dataclasses.replace(piece, attacked=attacked)) == [0, 0]
    assert related(melody(tune), piece) == [0, 1]


def test_hundreds_of_copies_are_one_family_at_a_bounded_price(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "_NEAREST", 2)
    tune = line(0, 40)
    copies = [melody(tune, duration) for duration in range(1, 301)]
    assert related(*copies, melody(line(1, 40))) == [0] * 300 + [1]


def test_pieces_without_windows_or_notes_are_on_their_own() -> None:
    rest = Slices(
        np.array([12], np.int32), np.zeros(2, np.int32), np.empty(0, np.int32), np.empty(0, np.bool_)
    )
    assert related(melody(line(0, WINDOW)), rest, melody(line(1, WINDOW))) == [0, 1, 2]
    assert alike([], []) == []


@given(st.lists(st.integers(0, 11), min_size=3, max_size=60), st.integers(0, 5))
def test_any_families_stay_whole_and_no_split_is_empty(numbers: list[int], seed: int) -> None:
    _, found = np.unique(numbers, return_inverse=True)
    if found.max() < 2:
        with pytest.raises(InputError, match="too few pieces to split"):
            split(found, SHARES, seed)
        return
    names = split(found, SHARES, seed)
    assert set(names) == set(SHARES)
    assert len(set(zip(found.tolist(), names, strict=True))) == found.max() + 1


@given(st.integers(3, 300), st.integers(0, 5))
def test_any_number_of_unrelated_pieces_is_split_to_the_piece(count: int, seed: int) -> None:
    counts = Counter(split(np.arange(count), SHARES, seed))
    assert sum(counts.values()) == count
    assert all(abs(counts[name] - max(1, share * count)) <= 2 for name, share in SHARES.items())


def test_the_shares_are_met_around_large_families() -> None:
    found = np.repeat(np.arange(43), [30, 20, 10] + [1] * 40)
    assert Counter(split(found, SHARES, seed=0)) == {"train": 80, "valid": 10, "test": 10}


def test_the_split_is_the_seed_s() -> None:
    found = np.arange(50)
    assert split(found, SHARES, 1) == split(found, SHARES, 1)
    assert split(found, SHARES, 1) != split(found, SHARES, 2)


def test_too_small_a_corpus_is_refused_with_the_number_that_is_needed() -> None:
    with pytest.raises(InputError, match="3 in 2 families of related music; give at least 3 unrelated"):
        split(np.array([0, 1, 0]), SHARES, 0)
    with pytest.raises(InputError, match="too few pieces"):
        split(np.empty(0, np.int64), SHARES, 0)


def test_kinship_does_not_depend_on_how_many_windows_are_looked_at_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tunes = [line(seed, 60) for seed in range(4)]
    pieces = [melody(tune) for tune in (tunes[0], tunes[1], tunes[0] + 2, tunes[2], np.append(tunes[1], 60))]
    expected = related(*pieces)
    assert expected == [0, 1, 0, 2, 1]
    monkeypatch.setattr(splits, "_WINDOWS_AT_ONCE", 10)
    assert related(*pieces) == expected


def test_a_given_split_is_kept_and_takes_relatives_without_one_with_it() -> None:
    found = np.array([0, 0, 1, 2, 3, 3])
    names = split(found, SHARES, 0, ["test", None, "train", "valid", "train", "valid"])
    assert names == ["test", "test", "train", "valid", "train", "valid"]
    assert leaked(found, names).tolist() == [False, False, False, False, False, True]


def test_a_given_split_may_have_relatives_of_another_s_alone() -> None:
    given = ["train", "valid", "test"]
    assert split(np.array([0, 1, 1]), SHARES, 0, given) == given


def test_what_a_given_split_lacks_is_dealt() -> None:
    names = split(np.arange(10), SHARES, 0, ["train"] * 5 + [None] * 5)
    assert names[:5] == ["train"] * 5
    assert set(names) == set(SHARES)
