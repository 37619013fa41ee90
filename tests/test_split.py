"""Splits: no music on both sides of a split, whatever was given."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midigen_jax.data.split import leaked, split
from midigen_jax.errors import InputError

SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}


@given(st.lists(st.integers(0, 11), min_size=3, max_size=60), st.integers(0, 5))
def test_any_groups_stay_whole_and_no_split_is_empty(numbers: list[int], seed: int) -> None:
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


def test_the_shares_are_met_around_large_groups() -> None:
    found = np.repeat(np.arange(43), [30, 20, 10] + [1] * 40)
    assert Counter(split(found, SHARES, seed=0)) == {"train": 80, "valid": 10, "test": 10}


def test_the_split_is_the_seed_s() -> None:
    found = np.arange(50)
    assert split(found, SHARES, 1) == split(found, SHARES, 1)
    assert split(found, SHARES, 1) != split(found, SHARES, 2)


def test_too_small_a_corpus_is_refused_with_the_number_that_is_needed() -> None:
    with pytest.raises(InputError, match="3 in 2 groups of related music; give at least 3 unrelated"):
        split(np.array([0, 1, 0]), SHARES, 0)
    with pytest.raises(InputError, match="too few pieces"):
        split(np.empty(0, np.int64), SHARES, 0)


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


def test_a_piece_goes_with_relatives_in_training_whatever_else_they_are_given() -> None:
    given = ["train", "test", None, "valid", "test"]
    names = split(np.array([0, 0, 0, 1, 2]), SHARES, 0, given)
    assert names == ["train", "test", "train", "valid", "test"]
