"""Whole pieces in, the nats of each of their events out: what validation and evaluation are made of.

A piece is read from its first event to its last, and the state is carried all the way: chunks are a matter of
memory and change nothing. They are sent to the device one after another, and what it found is fetched once a
batch, so that it does not wait for the host between them; only of very long pieces it is fetched more often.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from numpy.typing import NDArray

from midigen_jax.data.batches import in_chunks, whole_pieces
from midigen_jax.data.corpus import Corpus, CorpusPiece
from midigen_jax.model.network import Network
from midigen_jax.train.distributed import DATA, data_mesh, fetch, replicated, shard_rows, to_mesh
from midigen_jax.train.step import EventNats, eval_step

METRIC = "valid.nats_per_event"
TEMPERATURE = "valid.temperature"

# What logits may be divided by, so that they say as much as they know (Guo et al. 2017).
TEMPERATURES = tuple(number / 20 for number in range(18, 35))  # 0.9 to 1.7

_ROWS, _LENGTH = 16, 256  # pieces side by side, and events read at once
_MOST_CHUNKS = 64  # whose nats lie on the device until they are fetched: 2 MB for each temperature


class Said(NamedTuple):
    """What a model said of the E events of a piece after its first."""

    nats: NDArray[np.float32]  # (E, S) of each stream's id, given those of earlier streams
    ranks: NDArray[np.int32]  # (E, S) how many ids were likelier than the right one


class Scorer:
    """Pieces of a corpus, padded side by side, and a compiled program that reads them with any parameters."""

    def __init__(
        self,
        network: Network,
        corpus: Corpus,
        pieces: Sequence[CorpusPiece],
        mesh: Mesh | None = None,
        window: int | None = None,
        bars: bool = True,
    ):
        """On the devices of `mesh`; without one, on as many as share its rows.

        With a `window` the state is not carried: every so many events begin afresh, as a piece does.
        Without `bars` the network knows nothing of upbeats: it takes the first note of a piece for the first
        of a bar.
        """
        mesh = data_mesh(_ROWS) if mesh is None else mesh
        rows = -(-_ROWS // mesh.size) * mesh.size
        self._replicated, self._by_row = replicated(mesh), shard_rows(mesh)
        self._length, self._carried = window or _LENGTH, window is None
        self.names = [stream.name for stream in corpus.vocabulary.streams]
        self._batches = whole_pieces(corpus, pieces, rows, self._length)
        whole, by_row = PartitionSpec(), PartitionSpec(DATA)
        of_events: Any = EventNats(PartitionSpec(None, DATA), by_row)  # type: ignore[arg-type]
        step = jax.shard_map(
            partial(eval_step, network=network),
            mesh=mesh,
            in_specs=(whole, by_row, by_row, whole),
            out_specs=(by_row, of_events),
            check_vma=False,
        )
        # Every process is to have the nats of all rows.
        self._step = jax.jit(step, donate_argnums=1, out_shardings=(self._by_row, self._replicated))
        # Compiled, for an eager one sends each zero from the host.
        begin = partial(network.initial_carry, rows, True)  # and, for each row, where its bar line lies
        self._initial_carry = jax.jit(begin, out_shardings=self._by_row)
        self._begins = np.array([-piece.first_bar * bars for piece in pieces] + [0], np.int32)

    def __call__(self, params: dict) -> Iterator[tuple[int, Said]]:
        """Each piece's number, and what the model said of its events but the first."""
        for number, said in self.at((1.0,), params):
            yield number, Said(said.nats[0], said.ranks)

    def at(self, temperatures: Sequence[float], params: dict) -> Iterator[tuple[int, Said]]:
        """The same with nats (K, E, S) of logits that were divided by each of K temperatures."""
        temperature_K, params = to_mesh((np.array(temperatures, np.float32), params), self._replicated)
        for numbers, batch in self._batches:
            tick_B = self._begins[numbers]
            carry = self._initial_carry(tick_B)
            on_device: list[EventNats] = []
            chunks: list[EventNats] = []
            for chunk in in_chunks(batch, self._length):
                carry = carry if self._carried else self._initial_carry(tick_B)
                carry, said = self._step(params, carry, to_mesh(chunk, self._by_row), temperature_K)
                on_device.append(said)
                if len(on_device) == _MOST_CHUNKS:
                    chunks += fetch(on_device)
                    on_device.clear()
            chunks += fetch(on_device)
            nats, ranks = (
                np.concatenate([np.stack([part[name] for name in self.names], -1) for part in parts], -2)
                for parts in zip(*chunks, strict=True)
            )
            lengths = batch.mask_BT.sum(axis=1)
            for row, number in enumerate(numbers.tolist()):
                if number >= 0:
                    length = int(lengths[row])
                    yield number, Said(nats[:, row, :length], ranks[row, :length])


def validate(scorer: Scorer, params: dict, calibrate: bool = False) -> dict[str, float]:
    """Exact nats per event of the scorer's pieces, over all of them, `<end>` among the events.

    To `calibrate` is to divide the logits of each head by the temperature that suits these pieces best.
    """
    temperatures = TEMPERATURES if calibrate else (1.0,)
    nats = np.concatenate([said.nats for _, said in scorer.at(temperatures, params)], axis=1)
    mean_KS = nats.mean(axis=1, dtype=np.float64)
    best_S = mean_KS.min(axis=0).tolist()
    scores = {METRIC: sum(best_S)}
    for name, value in zip(scorer.names, best_S, strict=True):
        scores[f"{METRIC}.{name}"] = value
    if calibrate:
        for name, place in zip(scorer.names, mean_KS.argmin(axis=0).tolist(), strict=True):
            scores[f"{TEMPERATURE}.{name}"] = temperatures[place]
    return scores
