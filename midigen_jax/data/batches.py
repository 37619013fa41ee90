"""`batch(step)`: a pure function of the corpus, the seed and the step.

In: a split of a corpus, put on the device once as `Crops`. Out: the batch of any step, computed inside the
jitted training step. There is no iterator to save: a resumed run asks for the step where it was cut and
sees exactly the batches that it would have seen. Also here: whole pieces, padded, for evaluation.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from midigen_jax.config import BatchConfig
from midigen_jax.data.corpus import Corpus, CorpusPiece, Split
from midigen_jax.errors import InputError
from midigen_jax.music.tokens import NoteTokenizer

_LOWEST_SHIFT, _HIGHEST_SHIFT = -5, 6


class Batch(NamedTuple):
    """S = T + 1 events a row; `mask_BT` hides what follows a row's last event that is read."""

    pitch_BS: Array
    duration_BS: Array
    mask_BT: Array


class Crops(NamedTuple):
    """The events of a split and, for each crop of an epoch, its piece and its place within the piece."""

    tokens_N2: Array
    first_C: Array  # where the crop's piece begins in tokens_N2
    steps_C: Array  # events of the piece that are followed by another
    index_C: Array  # which of the piece's crops this is
    count_C: Array  # how many the piece has


def make_crops(corpus: Corpus, split: Split, config: BatchConfig) -> Crops:
    """The crops that one epoch over `split` visits. Raises InputError when the split has no music."""
    pieces = corpus.split(split)
    if not pieces:
        raise InputError(f"{corpus.path}: no piece in the {split} split; prepare a larger corpus")
    lengths = np.array([piece.stop - piece.start for piece in pieces])
    stride = config.stride if config.stride and config.crops == "fixed" else config.length
    counts = -(-(lengths - 1) // stride)
    firsts = np.cumsum(lengths) - lengths
    columns = {
        "tokens_N2": np.concatenate([corpus.tokens[piece.start : piece.stop] for piece in pieces]),
        "first_C": np.repeat(firsts, counts),
        "steps_C": np.repeat(lengths - 1, counts),
        "index_C": np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts),
        "count_C": np.repeat(counts, counts),
    }
    return Crops(**{name: jnp.asarray(column, jnp.int32) for name, column in columns.items()})


def batch(crops: Crops, config: BatchConfig, transposable: bool, key: Array, step: Array) -> Batch:
    """The batch of a step: rows of B crops, every crop once an epoch, in an order shuffled anew each time.

    `transposable` says that the ids are `note` tokens, so that `config.transpose_share` of the rows can be
    shifted by a number of semitones. A crop that is shorter than `config.length` is padded under the mask.
    """
    size = crops.first_C.shape[0]
    position_B = step.astype(jnp.uint32) * config.rows + jnp.arange(config.rows, dtype=jnp.uint32)
    rows = jax.vmap(
        lambda position: _row(crops, config, transposable, key, position // size, position % size)
    )
    return rows(position_B)


def _row(
    crops: Crops, config: BatchConfig, transposable: bool, key: Array, epoch: Array, index: Array
) -> Batch:
    """Crop number `index` of an epoch, without the batch axis."""
    epoch_key = jax.random.fold_in(key, epoch)
    crop = shuffled(index, crops.first_C.shape[0], epoch_key).astype(jnp.int32)
    phase_key, share_key, shift_key = jax.random.split(jax.random.fold_in(epoch_key, crop), 3)
    steps = crops.steps_C[crop]
    start = _crop_start(crops, config, crop, phase_key)
    offset_S = start + jnp.arange(config.length + 1)
    event_S2 = crops.tokens_N2[crops.first_C[crop] + jnp.minimum(offset_S, steps)]
    mask_T = offset_S[:-1] < steps
    pitch_S = event_S2[:, 0]
    if transposable and config.transpose_share > 0:
        shift = jax.random.randint(shift_key, (), _LOWEST_SHIFT, _HIGHEST_SHIFT + 1)
        chosen = jax.random.bernoulli(share_key, config.transpose_share)
        pitch_S = transpose(pitch_S, jnp.where(chosen, shift, 0))
    return Batch(pitch_S, event_S2[:, 1], mask_T)


def _crop_start(crops: Crops, config: BatchConfig, crop: Array, key: Array) -> Array:
    """Fixed crops lie at multiples of the stride. Jittered ones get a fresh phase, but the first and the
    last stay at the piece's ends, so that beginnings and endings are seen in every epoch."""
    index, count, steps = crops.index_C[crop], crops.count_C[crop], crops.steps_C[crop]
    if config.crops == "fixed":
        return index * (config.stride or config.length)
    latest = jnp.maximum(steps - config.length, 0)
    phase = jax.random.randint(key, (), 0, config.length)
    inner = jnp.clip(index * config.length - phase, 0, latest)
    return jnp.where(index == 0, 0, jnp.where(index == count - 1, latest, inner))


def transpose(pitch_S: Array, shift: Array) -> Array:
    """`note` pitch ids moved by `shift` semitones; unchanged if any would leave the range of MIDI."""
    sounds_S = pitch_S >= NoteTokenizer.ATTACKED
    midi_S = (pitch_S - NoteTokenizer.ATTACKED) % 128
    lowest = jnp.where(sounds_S, midi_S, 127).min()
    highest = jnp.where(sounds_S, midi_S, 0).max()
    fits = (lowest + shift >= 0) & (highest + shift <= 127)
    return jnp.where(sounds_S & fits, pitch_S + shift, pitch_S)


def shuffled(index: Array, size: int, key: Array) -> Array:
    """Where `index` lands in a random permutation of `size`, without making the permutation.

    A Feistel network permutes the numbers of 2h bits; what falls outside of `size` is sent through again
    until it falls inside (Black & Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = jnp.uint32((1 << half) - 1)
    keys = jax.random.bits(key, (4,), jnp.uint32)

    def mix(number: Array) -> Array:
        left, right = number >> half, number & low
        for round_key in keys:
            left, right = right, left ^ (_hash(right ^ round_key) & low)
        return (left << half) | right

    return lax.while_loop(lambda number: number >= size, mix, mix(index.astype(jnp.uint32)))


def _hash(number: Array) -> Array:
    """The finaliser of MurmurHash3 (Appleby 2011): every bit of a uint32 moves every other."""
    number = (number ^ (number >> 16)) * jnp.uint32(0x85EBCA6B)
    number = (number ^ (number >> 13)) * jnp.uint32(0xC2B2AE35)
    return number ^ (number >> 16)


def steps_per_epoch(crops: Crops, config: BatchConfig) -> float:
    """Training steps that visit every crop once; no whole number, as epochs follow each other gaplessly."""
    return crops.first_C.shape[0] / config.rows


def whole_pieces(
    corpus: Corpus, pieces: Sequence[CorpusPiece], rows: int, length: int
) -> list[tuple[np.ndarray, Batch]]:
    """All `pieces` from first event to last, for evaluation: (numbers of the pieces, padded batch).

    Pieces of like length share a batch of `rows`; S - 1 is a multiple of `length`, so that a batch can be
    read in chunks of one shape. Missing rows are masked and have the number -1.
    """
    order = sorted(range(len(pieces)), key=lambda number: pieces[number].stop - pieces[number].start)
    batches = []
    for first in range(0, len(order), rows):
        group = order[first : first + rows]
        longest = max(pieces[number].stop - pieces[number].start for number in group) - 1
        times = -(-longest // length) * length
        tokens_BS2 = np.zeros((rows, times + 1, 2), np.int32)
        mask_BT = np.zeros((rows, times), bool)
        for row, number in enumerate(group):
            piece = pieces[number]
            tokens_BS2[row, : piece.stop - piece.start] = corpus.tokens[piece.start : piece.stop]
            mask_BT[row, : piece.stop - piece.start - 1] = True
        numbers = np.array(group + [-1] * (rows - len(group)))
        on_host: Any = (tokens_BS2[..., 0], tokens_BS2[..., 1], mask_BT)
        batches.append((numbers, Batch(*on_host)))
    return batches


def in_chunks(whole: Batch, length: int) -> Iterator[Batch]:
    """`whole` as batches of `length` steps one after another, for a carry that goes from one to the next."""
    for first in range(0, whole.mask_BT.shape[1], length):
        last = first + length
        yield Batch(
            whole.pitch_BS[:, first : last + 1],
            whole.duration_BS[:, first : last + 1],
            whole.mask_BT[:, first:last],
        )
