"""`batch(step)`: a pure function of the corpus, the seed and the step.

In: a split of a corpus, put on the device once as `Crops`. Out: the batch of any step, computed inside the
jitted training step. There is no iterator to save: a resumed run asks for the step where it was cut and
sees exactly the batches that it would have seen. Also here: whole pieces, padded, for evaluation.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from midigen_jax.config import BatchConfig
from midigen_jax.data.corpus import Corpus, CorpusPiece
from midigen_jax.errors import InputError
from midigen_jax.music.piece import Split
from midigen_jax.vocab import Tokens, Vocabulary, by_stream, ticks_of

SHIFTS = range(-5, 7)  # semitones that rows are transposed by


class Prefix(NamedTuple):
    """The events before those of a batch, as far as there are any; the mask hides what is none."""

    events: dict[str, Array]  # (B, before) by stream
    mask: Array
    tick_B: Array  # int32: when the first of them begins, in ticks from the first bar line of its piece


class Batch(NamedTuple):
    """T + 1 events a row, by stream; `mask_BT` hides what follows a row's last event that is read."""

    events: dict[str, Array]
    mask_BT: Array


class CropIndex(NamedTuple):
    """For each crop of an epoch, its piece and its place within the piece."""

    first_CROP: Array  # where the crop's piece begins among the events of the split
    steps_CROP: Array  # events of the piece that are followed by another
    index_CROP: Array  # which of the piece's crops this is
    count_CROP: Array  # how many the piece has


class Crops(NamedTuple):
    """All events of a split, and where its crops are.

    In an array each: a TPU would lay an array of all streams out anew, 64 times as large, in every call.
    """

    events_ALL: dict[str, Array]  # ids by stream
    tick_ALL: Array  # when each event's slice begins, from the first bar line of its piece
    places: CropIndex


class CropSpan(NamedTuple):
    """What a row shows, in events of its piece; scalars, or arrays (B,)."""

    first: Array  # where the piece begins among the events of the split
    begin: Array  # the first event that was before
    start: Array
    stop: Array  # the one after the last that is read
    steps: Array  # events of the piece that are followed by another
    shift: Array  # semitones


class RawRow(NamedTuple):
    """The events of a row as they are in the corpus: `offsets` of them, by stream."""

    span: CropSpan
    events: dict[str, Array]
    tick: Array  # when the first of them begins, from the start of the piece


def make_crops(corpus: Corpus, split: Split, config: BatchConfig) -> Crops:
    """The crops that one epoch over `split`, or a share of it, visits.

    Raises InputError when the split has no music.
    """
    pieces = pieces_taken(corpus, split, config)
    tokens = [corpus.tokens[piece.start : piece.stop] for piece in pieces]
    return crops_of(tokens, config, corpus.vocabulary, [piece.first_bar for piece in pieces])


def pieces_taken(corpus: Corpus, split: Split, config: BatchConfig) -> list[CorpusPiece]:
    """The pieces of a split that are trained on: all of them, or the share that the config says.

    Raises InputError when the split has no music.
    """
    pieces = corpus.split(split)
    if not pieces:
        raise InputError(f"{corpus.path}: no piece in the {split} split; prepare a larger corpus")
    if config.data_share < 1:
        # By a hash of their names: a smaller share is part of a larger one, whatever the order of the corpus.
        pieces.sort(key=lambda piece: hashlib.sha256(piece.source.encode()).digest())
        pieces = pieces[: math.ceil(config.data_share * len(pieces))]
    return pieces


def crops_of(
    pieces: Sequence[Tokens], config: BatchConfig, vocabulary: Vocabulary, first_bars: Sequence[int] = ()
) -> Crops:
    """The crops of these pieces, each of two events or more; bar lines are `first_bars` after they begin."""
    ticks = [ticks_of(vocabulary.tables, piece) for piece in pieces]
    begins = [-first_bar for first_bar in first_bars] or [0] * len(pieces)
    tick_ALL = np.concatenate(
        [begin + np.cumsum(of_piece) - of_piece for begin, of_piece in zip(begins, ticks, strict=True)]
    )
    return Crops(
        jax.tree.map(jnp.asarray, by_stream(vocabulary, np.concatenate(pieces))),
        jnp.asarray(tick_ALL, jnp.int32),
        crop_index([len(piece) for piece in pieces], config),
    )


def crop_index(events: Sequence[int], config: BatchConfig) -> CropIndex:
    """The crops of pieces of so many events, each two or more."""
    lengths = np.array(events)
    stride = config.stride if config.stride and config.crops == "fixed" else config.length
    counts = -(-(lengths - 1) // stride)
    firsts = np.cumsum(lengths) - lengths
    columns = (
        np.repeat(firsts, counts),
        np.repeat(lengths - 1, counts),
        np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts),
        np.repeat(counts, counts),
    )
    return CropIndex(*(jnp.asarray(column, jnp.int32) for column in columns))


def row_numbers(config: BatchConfig, step: Array, part: Array | int = 0, parts: int = 1) -> Array:
    """(B,) uint32: which rows of the whole training are in the batch of a step, or in one of its equal parts.

    They decide what is in a row and what is drawn for it, wherever it is computed.
    """
    rows = config.rows // parts
    first = step.astype(jnp.uint32) * config.rows + jnp.asarray(part, jnp.uint32) * rows
    return first + jnp.arange(rows, dtype=jnp.uint32)


def batch(
    crops: Crops,
    config: BatchConfig,
    vocabulary: Vocabulary,
    share: float | Array,
    key: Array,
    row_B: Array,
) -> tuple[Prefix, Batch]:
    """Crops for these rows, and what was before them.

    An epoch has every crop, in an order that is shuffled anew each time.
    The crops of an epoch hold every event that follows another one exactly once (with a `stride` of fixed
    crops below their length: more than once). One that is shorter than `config.length` is padded under the
    mask. A `share` of the rows is transposed at random, if the vocabulary can; the number 0 is none.
    """
    moved = isinstance(share, Array) or share > 0

    def read(span: CropSpan) -> RawRow:
        place_N = span.first + jnp.minimum(offsets(span, config), span.steps)
        # Behind the barrier a step is compiled as if the events had been read from disk.
        events = lax.optimization_barrier({name: ids[place_N] for name, ids in crops.events_ALL.items()})
        return RawRow(span, events, crops.tick_ALL[span.first + span.begin])

    return jax.vmap(lambda span: to_batch_row(read(span), config, vocabulary, moved))(
        spans(crops.places, config, share, key, row_B)
    )


def spans(index: CropIndex, config: BatchConfig, share: float | Array, key: Array, row_B: Array) -> CropSpan:
    """What these rows show, each from its number alone; without reading any event."""
    size = index.first_CROP.shape[0]
    return jax.vmap(lambda row: _span(index, config, share, key, row // size, row % size))(row_B)


def _span(
    index: CropIndex, config: BatchConfig, share: float | Array, key: Array, epoch: Array, number: Array
) -> CropSpan:
    """Crop `number` of an epoch."""
    epoch_key = jax.random.fold_in(key, epoch)
    crop = shuffled(number, index.first_CROP.shape[0], epoch_key).astype(jnp.int32)
    share_key, shift_key = jax.random.split(jax.random.fold_in(epoch_key, crop))
    start, stop = _crop_bounds(index, config, crop, epoch_key)
    begin = jnp.maximum(start - config.before, 0)
    shift = jnp.int32(0)
    if isinstance(share, Array) or share > 0:
        drawn = jax.random.randint(shift_key, (), SHIFTS.start, SHIFTS.stop)
        shift = jnp.where(jax.random.bernoulli(share_key, share), drawn, 0)
    return CropSpan(index.first_CROP[crop], begin, start, stop, index.steps_CROP[crop], shift)


def offsets(span: Any, config: BatchConfig) -> Any:
    """(N,) or (B, N): events of rows in their pieces, those before and T + 1 own ones, some beyond the end.

    What was before comes to the front, as music does: padding follows it. In NumPy where the span is.
    """
    before, own = np.arange(config.before), np.arange(config.length + 1)
    parts = [span.begin[..., None] + before, span.start[..., None] + own]
    return (
        np.concatenate(parts, axis=-1) if isinstance(span.begin, np.ndarray) else jnp.concatenate(parts, -1)
    )


def to_batch_row(
    raw: RawRow, config: BatchConfig, vocabulary: Vocabulary, moved: bool
) -> tuple[Prefix, Batch]:
    """A row, without the batch axis, of the events that were read for it; those of no row are masked."""
    span = raw.span
    offset_before, offset_own = jnp.split(offsets(span, config), [config.before])
    events = vocabulary.transpose(raw.events, span.shift) if moved else raw.events
    before = {name: part[: config.before] for name, part in events.items()}
    own = {name: part[config.before :] for name, part in events.items()}
    prefix = Prefix(before, jnp.minimum(offset_before, span.steps) < span.start, raw.tick)
    return prefix, Batch(own, offset_own[:-1] < span.stop)


def _crop_bounds(index: CropIndex, config: BatchConfig, crop: Array, epoch_key: Array) -> tuple[Array, Array]:
    """The first event of a crop and the one after its last, within its piece.

    Fixed crops lie at multiples of the stride. Jittered ones are a grid of `length` events that is laid over
    the piece anew in each epoch, as far back as the last crop's empty end allows.
    """
    place, count, steps = index.index_CROP[crop], index.count_CROP[crop], index.steps_CROP[crop]
    if config.crops == "fixed":
        start = place * (config.stride or config.length)
        return start, jnp.minimum(start + config.length, steps)
    # One phase for all crops of a piece: the place where the piece begins tells it from the others.
    piece_key = jax.random.fold_in(epoch_key, index.first_CROP.shape[0] + index.first_CROP[crop])
    phase = jax.random.randint(piece_key, (), 0, count * config.length - steps + 1)
    start = place * config.length - phase
    return jnp.maximum(start, 0), jnp.minimum(start + config.length, steps)


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


class Epochs(NamedTuple):
    """Steps and epochs, in whole numbers: epochs follow each other without a gap, in batches of `rows`."""

    crops: int
    rows: int

    def steps(self, epochs: int) -> int:
        """The steps that it takes to visit every crop `epochs` times."""
        return -(-epochs * self.crops // self.rows)

    def at(self, step: int) -> float:
        """Epochs done after `step` steps."""
        return step * self.rows / self.crops

    def ends(self, step: int) -> bool:
        """Whether an epoch's last crop is in the batch of `step` (counted from 1)."""
        return step * self.rows // self.crops > (step - 1) * self.rows // self.crops


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
        tokens = np.zeros((rows, times + 1, len(corpus.vocabulary.streams)), np.int32)
        mask_BT = np.zeros((rows, times), bool)
        for row, number in enumerate(group):
            piece = pieces[number]
            tokens[row, : piece.stop - piece.start] = corpus.tokens[piece.start : piece.stop]
            mask_BT[row, : piece.stop - piece.start - 1] = True
        numbers = np.array(group + [-1] * (rows - len(group)))
        on_host: Any = by_stream(corpus.vocabulary, tokens), mask_BT
        batches.append((numbers, Batch(*on_host)))
    return batches


def in_chunks(whole: Batch, length: int) -> Iterator[Batch]:
    """`whole` as batches of `length` steps one after another, for a carry that goes from one to the next."""
    for first in range(0, whole.mask_BT.shape[1], length):
        last = first + length
        events = {name: ids[:, first : last + 1] for name, ids in whole.events.items()}
        yield Batch(events, whole.mask_BT[:, first:last])
