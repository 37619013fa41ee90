"""Batches: a pure function of the step that visits every event of an epoch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midigen_jax.config import BatchConfig
from midigen_jax.data.batches import Crops, batch, shuffled, steps_per_epoch, transpose
from midigen_jax.music.tokens import END, START, NoteTokenizer


def crops_of(lengths, length):
    """Pieces whose event n has the duration id n, so that an event tells its place."""
    counts = [-(-(events - 1) // length) for events in lengths]
    firsts = np.cumsum([0, *lengths[:-1]])
    tokens = np.concatenate([np.stack([np.full(n, 40), np.arange(n)], axis=1) for n in lengths])
    columns = {
        "tokens_N2": tokens,
        "first_C": np.repeat(firsts, counts),
        "steps_C": np.repeat(np.array(lengths) - 1, counts),
        "index_C": np.concatenate([np.arange(count) for count in counts]),
        "count_C": np.repeat(counts, counts),
    }
    return Crops(**{name: jnp.asarray(column, jnp.int32) for name, column in columns.items()})


take = jax.jit(batch, static_argnames=("config", "transposable"))


@pytest.mark.parametrize("crops", ["fixed", "jittered"])
def test_an_epoch_visits_every_beginning_and_every_end(crops):
    table = crops_of([5, 17, 30], length=8)
    config = BatchConfig(rows=1, length=8, crops=crops, transpose_share=0.0)
    assert steps_per_epoch(table, config) == 1 + 2 + 4
    for epoch in range(2):
        rows = [take(table, config, False, jax.random.key(0), jnp.int32(7 * epoch + i)) for i in range(7)]
        starts = [int(row.duration_BS[0, 0]) for row in rows]
        ends = [int(row.duration_BS[0, 1:][row.mask_BT[0]].max()) for row in rows]
        assert starts.count(0) == 3
        assert {4, 16, 29} <= set(ends)
        for row in rows:
            read = row.duration_BS[0, :-1][row.mask_BT[0]]
            np.testing.assert_array_equal(np.diff(read), 1)
        if crops == "fixed":
            assert sum(int(row.mask_BT.sum()) for row in rows) == 4 + 16 + 29


def test_a_step_gives_the_same_batch_whenever_it_is_asked_for_and_another_than_its_neighbour():
    table = crops_of([50, 60, 70], length=8)
    config = BatchConfig(rows=4, length=8)
    batches = [take(table, config, True, jax.random.key(3), jnp.int32(step)) for step in (5, 6, 5)]
    jax.tree.map(np.testing.assert_array_equal, batches[0], batches[2])
    assert (batches[0].duration_BS != batches[1].duration_BS).any()


@given(st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_shuffled_is_a_permutation_of_any_size(size, seed):
    numbers = jax.vmap(lambda index: shuffled(index, size, jax.random.key(seed)))(jnp.arange(size))
    assert sorted(numbers.tolist()) == list(range(size))


def test_transposition_moves_what_sounds_and_only_within_the_range():
    attack, hold, rest = NoteTokenizer.ATTACKED, NoteTokenizer.HELD, NoteTokenizer.REST
    ids = jnp.array([START, attack + 60, hold + 64, rest, END])
    assert transpose(ids, jnp.int32(3)).tolist() == [START, attack + 63, hold + 67, rest, END]
    high = jnp.array([attack + 127, attack + 3])
    assert transpose(high, jnp.int32(1)).tolist() == high.tolist()
    assert transpose(high, jnp.int32(-3)).tolist() == [attack + 124, attack]
