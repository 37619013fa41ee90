"""Batches of a corpus that is larger than a device: read from disk as they are needed, by Grain.

In: a corpus, whose tokens stay memory-mapped, and the rows of a batch that this process is to read. Out: for
any step what those rows read, the same events that `batch` would take. What a row shows is computed from its
number, as there, so there is nothing to replay: a training that goes on asks for its next step, on as many
devices and processes as there then are.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from midigen_jax.config import BatchConfig
from midigen_jax.data.batches import (
    CropIndex,
    CropSpan,
    RawRow,
    crop_index,
    offsets,
    pieces_taken,
    row_numbers,
    spans,
)
from midigen_jax.data.corpus import Corpus
from midigen_jax.errors import InputError
from midigen_jax.vocab import by_stream, ticks_of

_AT_ONCE = 64  # steps whose rows are placed in one call
_THREADS = 2  # that read
_AHEAD = 128  # steps that are read before they are asked for


class Stream:
    """The training split, or a share of it, on disk; what is in memory is where its crops are."""

    def __init__(self, corpus: Corpus, config: BatchConfig, share: float, key: Array):
        """A `share` of the rows is moved, as the `key` says; both are those of `batch`."""
        pieces = pieces_taken(corpus, "train", config)
        lengths = np.array([piece.stop - piece.start for piece in pieces])
        self._tokens, self._vocabulary = corpus.tokens, corpus.vocabulary
        # From events of the split to events of the corpus.
        self._first = np.cumsum(lengths) - lengths
        self._start = np.array([piece.start for piece in pieces])
        self._first_bar = np.array([piece.first_bar for piece in pieces])
        self._config = config
        # On the CPU, whatever the devices are that train: they are not to wait for this.
        self._cpu = jax.local_devices(backend="cpu")[0]
        with jax.default_device(self._cpu):
            self._index: CropIndex = crop_index(lengths.tolist(), config)
            self._key = jax.device_put(key, self._cpu)
            self._spans = jax.jit(partial(_spans_of_steps, config=config, share=share))
        self._group = lru_cache(maxsize=8)(self._spans_of_group)

    @property
    def crops(self) -> int:
        """How many there are in an epoch."""
        return int(self._index.first_CROP.shape[0])

    def read(self, step: int, rows: NDArray[np.intp]) -> RawRow:
        """What these rows of the batch of a step read, arrays (B, …) on the host."""
        group, number = divmod(step, _AT_ONCE)
        span: Any = CropSpan(*(value[number, rows] for value in self._group(group)))
        offset_BN = offsets(span, self._config)
        piece_B = np.searchsorted(self._first, span.first, side="right") - 1
        event_BN = self._start[piece_B][:, None] + np.minimum(offset_BN, span.steps[:, None])
        tick_B = [
            ticks_of(self._vocabulary.tables, self._tokens[start : start + begin]).sum()
            for start, begin in zip(self._start[piece_B], span.begin, strict=True)
        ]
        events = by_stream(self._vocabulary, self._tokens[event_BN])
        raw: Any = span, events, np.array(tick_B - self._first_bar[piece_B], np.int32)
        return RawRow(*raw)

    def steps(self, first: int, steps: int, rows: NDArray[np.intp]) -> Iterator[RawRow]:
        """`read` of each step from `first` on, some of them ahead of time.

        Raises InputError where Grain is not installed.
        """
        try:
            import grain
        except ImportError:
            raise InputError(
                "batch.stream: grain is not installed; pip install 'midigen-jax[stream]'"
            ) from None
        every = grain.MapDataset.source(_Steps(self, steps, rows)).slice(slice(first, steps))
        return iter(
            every.to_iter_dataset(grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD))
        )

    def _spans_of_group(self, group: int) -> CropSpan:
        with jax.default_device(self._cpu):
            found: CropSpan = self._spans(self._index, self._key, np.int32(group * _AT_ONCE))
        return jax.device_get(found)


class _Steps:
    """The steps of a training, as a source that Grain can read from anywhere."""

    def __init__(self, stream: Stream, steps: int, rows: NDArray[np.intp]):
        self._stream, self._count, self._rows = stream, steps, rows

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, step: Any) -> RawRow:
        return self._stream.read(int(step), self._rows)


def stacked(reads: Sequence[RawRow], length: int) -> RawRow:
    """Some steps as one, arrays (K, B, …) with K = `length`, the last ones empty."""

    def stack(*leaves: np.ndarray) -> np.ndarray:
        whole = np.zeros((length, *leaves[0].shape), leaves[0].dtype)
        whole[: len(leaves)] = leaves
        return whole

    stack_all: RawRow = jax.tree.map(stack, *reads)
    return stack_all


def _spans_of_steps(
    index: CropIndex, key: Array, first: Array, *, config: BatchConfig, share: float
) -> CropSpan:
    """(K, B) of K steps from `first` on."""

    def of_step(step: Array) -> CropSpan:
        return spans(index, config, share, key, row_numbers(config, step))

    return jax.vmap(of_step)(first + jnp.arange(_AT_ONCE))
