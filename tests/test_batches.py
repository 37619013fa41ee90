"""Batches: a pure function of the step that reads every event once an epoch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midigen_jax.config import BatchConfig
from midigen_jax.data.batches import Epochs, batch, make_crops, row_numbers, shuffled
from midigen_jax.data.corpus import CorpusPiece, load_corpus, write_facts, write_tokens
from midigen_jax.vocab import END, START, note
from midigen_jax.vocab.note import NoteVocabulary

VOCABULARY = NoteVocabulary(128)


def crops_of(folder, lengths, config):
    """The crops of pieces of which event n has the duration id n, so that an event tells its place."""
    tokens = [np.stack([np.full(n, 40 + i), np.arange(n)], axis=1) for i, n in enumerate(lengths)]
    stops = np.cumsum(lengths).tolist()
    pieces = [
        CorpusPiece(
            stop - n, stop, "train", f"{i}", "", i, False, "C major", 0, 90.0, (4, 4), 0, 0, n, 0, True, 0
        )
        for i, (n, stop) in enumerate(zip(lengths, stops, strict=True))
    ]
    write_tokens(folder, tokens, len(VOCABULARY.streams))
    write_facts(folder, pieces, VOCABULARY, {})
    return make_crops(load_corpus(folder), "train", config)


@partial(jax.jit, static_argnames=("config", "share"))
def take(crops, config, share, key, step):
    """The whole batch of a step."""
    return batch(crops, config, VOCABULARY, share, key, row_numbers(config, step))


@pytest.mark.parametrize("crops", ["fixed", "jittered"])
@pytest.mark.parametrize("rows", [1, 3])
def test_an_epoch_reads_every_event_once(tmp_path, crops, rows):
    config = BatchConfig(rows=rows, length=8, crops=crops, transpose_share=0.0)
    lengths = [5, 17, 18, 30, 2]
    table = crops_of(tmp_path, lengths, config)
    epochs = Epochs(table.places.first_CROP.shape[0], rows)
    assert epochs.crops == 1 + 2 + 3 + 4 + 1
    batches = [
        take(table, config, 0.0, jax.random.key(0), jnp.int32(i))[1] for i in range(epochs.steps(rows))
    ]
    starts = set()
    visited = []
    for part in batches:
        rows_of = part.events["pitch"], part.events["duration"], part.mask_BT
        for pitch, duration, mask in zip(*map(np.asarray, rows_of), strict=True):
            read, following = duration[:-1][mask], duration[1:][mask]
            np.testing.assert_array_equal(following, read + 1)
            visited += [(pitch[0] - 40, event) for event in read.tolist()]
            starts.add((pitch[0] - 40, duration[0]))
    # As many epochs as there are rows in a batch end with a whole batch.
    expected = [(piece, event) for piece, n in enumerate(lengths) for event in range(n - 1)]
    assert sorted(visited) == sorted(expected * rows)
    # 17 events are 16 steps: two crops without room to move.
    assert {start for piece, start in starts if piece == 1} == {0, 8}


def test_jittered_crops_lie_elsewhere_in_each_epoch(tmp_path):
    config = BatchConfig(rows=3, length=8, transpose_share=0.0)
    table = crops_of(tmp_path, [18], config)
    starts = set()
    for step in range(60):
        own = take(table, config, 0.0, jax.random.key(0), jnp.int32(step))[1]
        starts |= set(own.events["duration"][:, 0].tolist())
    # 17 steps in three crops of 8: 7 to spare, and a grid that begins 0 to 7 events before the piece.
    assert starts == {0} | set(range(1, 17))


def test_the_parts_of_a_batch_are_its_rows(tmp_path):
    config = BatchConfig(rows=6, length=8)
    table = crops_of(tmp_path, [50, 60, 70], config)
    step = jnp.int32(5)
    whole = take(table, config, 0.6, jax.random.key(0), step)
    key, rows = jax.random.key(0), [row_numbers(config, step, part, 3) for part in range(3)]
    parts = [batch(table, config, VOCABULARY, 0.6, key, row_B) for row_B in rows]
    jax.tree.map(
        np.testing.assert_array_equal, jax.tree.map(lambda *rows: np.concatenate(rows), *parts), whole
    )


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 100))
def test_any_number_of_epochs_ends_at_the_step_that_reads_its_last_crop(crops, rows, count):
    epochs = Epochs(crops, rows)
    last = epochs.steps(count)
    assert (last - 1) * rows < count * crops <= last * rows
    assert epochs.ends(last)
    assert sum(epochs.ends(step) for step in range(1, last + 1)) <= count + rows // crops


def test_a_step_gives_the_same_batch_whenever_it_is_asked_for_and_another_than_its_neighbour(tmp_path):
    config = BatchConfig(rows=4, length=8)
    table = crops_of(tmp_path, [50, 60, 70], config)
    batches = [take(table, config, 0.6, jax.random.key(3), jnp.int32(step)) for step in (5, 6, 5)]
    jax.tree.map(np.testing.assert_array_equal, batches[0], batches[2])
    one, other = (of_step[1].events["duration"] for of_step in batches[:2])
    assert (one != other).any()


@given(st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_shuffled_is_a_permutation_of_any_size(size, seed):
    numbers = jax.vmap(lambda index: shuffled(index, size, jax.random.key(seed)))(jnp.arange(size))
    assert sorted(numbers.tolist()) == list(range(size))


def test_transposition_moves_what_sounds_and_only_within_the_range():
    attack, hold, rest = note.ATTACKED, note.HELD, note.REST

    def moved(ids, semitones):
        """As traced arrays, and as those of the host."""
        of_device = NoteVocabulary().transpose({"pitch": jnp.array(ids)}, jnp.int32(semitones))["pitch"]
        of_host = NoteVocabulary().transpose({"pitch": np.array(ids)}, semitones)["pitch"]
        np.testing.assert_array_equal(of_host, of_device)
        return of_device.tolist()

    ids = [START, attack + 60, hold + 64, rest, END]
    assert moved(ids, 3) == [START, attack + 63, hold + 67, rest, END]
    high = [attack + 127, attack + 3]
    assert moved(high, 1) == high
    assert moved(high, -3) == [attack + 124, attack]


def test_a_share_of_the_pieces_is_part_of_a_larger_share(tmp_path):
    lengths = list(range(10, 30))
    seen = {}
    for share in (0.1, 0.5, 1.0):
        config = BatchConfig(rows=2, length=64, data_share=share)
        (tmp_path / str(share)).mkdir()
        table = crops_of(tmp_path / str(share), lengths, config)
        seen[share] = set(np.asarray(table.places.steps_CROP).tolist())  # pieces differ in length
    assert [len(pieces) for pieces in seen.values()] == [2, 10, 20]
    assert seen[0.1] < seen[0.5] < seen[1.0]
