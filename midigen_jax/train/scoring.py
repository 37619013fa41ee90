"""Whole pieces in, the nats of each of their events out: what validation and evaluation are made of.

A piece is read from its first event to its last, and the state is carried all the way: chunks are a matter of
memory and change nothing. They are sent to the device one after another, and what it found is fetched once a
batch, so that it does not wait for the host between them; only of very long pieces it is fetched more often.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from midigen_jax.data.batches import in_chunks, whole_pieces
from midigen_jax.data.corpus import Corpus, CorpusPiece
from midigen_jax.model.network import Nats, Network
from midigen_jax.train.devices import by_row, data_mesh, everywhere
from midigen_jax.train.processes import spread
from midigen_jax.train.state import make_eval_step

# What logits may be divided by, so that they say as much as they know (Guo et al. 2017).
TEMPERATURES = tuple(number / 20 for number in range(18, 35))  # 0.9 to 1.7

_ROWS, _LENGTH = 16, 256  # pieces side by side, and events read at once
_MOST_CHUNKS = 64  # whose nats lie on the device until they are fetched: 2 MB for each temperature


class Scorer:
    """Pieces of a corpus, padded side by side, and a compiled program that reads them with any weights."""

    def __init__(
        self,
        network: Network,
        corpus: Corpus,
        pieces: Sequence[CorpusPiece],
        mesh: Mesh | None = None,
        window: int | None = None,
    ):
        """On the devices of `mesh`; without one, on as many as share its rows.

        With a `window` the state is not carried: every so many events begin afresh.
        """
        mesh = data_mesh(_ROWS) if mesh is None else mesh
        rows = -(-_ROWS // mesh.size) * mesh.size
        self._everywhere, self._by_row = everywhere(mesh), by_row(mesh)
        self._length, self._carried = window or _LENGTH, window is None
        self._batches = whole_pieces(corpus, pieces, rows, self._length)
        self._step = make_eval_step(network, mesh)
        # Compiled, for an eager one sends each zero from the host.
        self._initial_carry = jax.jit(partial(network.initial_carry, rows), out_shardings=self._by_row)

    def __call__(self, params: dict) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Each piece's number, and (E, 2) nats of its events but the first: of the pitch, of the duration."""
        for number, nats_KE2 in self.at((1.0,), params):
            yield number, nats_KE2[0]

    def at(self, temperatures: Sequence[float], params: dict) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The same (K, E, 2) of logits that were divided by each of K temperatures."""
        temperature_K, params = spread((np.array(temperatures, np.float32), params), self._everywhere)
        for numbers, batch in self._batches:
            carry = self._initial_carry()
            on_device: list[Nats] = []
            chunks: list[Nats] = []
            for chunk in in_chunks(batch, self._length):
                carry = carry if self._carried else self._initial_carry()
                carry, nats = self._step(params, carry, spread(chunk, self._by_row), temperature_K)
                on_device.append(nats)
                if len(on_device) == _MOST_CHUNKS:
                    chunks += jax.device_get(on_device)
                    on_device.clear()
            chunks += jax.device_get(on_device)
            nats_KBT2 = np.concatenate([np.stack(chunk, axis=-1) for chunk in chunks], axis=2)
            lengths = batch.mask_BT.sum(axis=1)
            for row, number in enumerate(numbers.tolist()):
                if number >= 0:
                    yield number, nats_KBT2[:, row, : int(lengths[row])]
