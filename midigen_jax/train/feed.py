"""What calls of training steps read: the whole split on the device, or what a call needs, from disk.

In: a corpus, a config, a mesh. Out: for each call an argument of `TrainSteps`.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from midigen_jax.config import Config
from midigen_jax.data.batches import Crops, Read, make_crops
from midigen_jax.data.corpus import Corpus
from midigen_jax.data.stream import Stream, stacked
from midigen_jax.train.devices import DATA, everywhere
from midigen_jax.train.processes import spread
from midigen_jax.train.state import batch_key


class Feed(Protocol):
    """`begin` at a step; then `take` what each call reads that does so many steps more."""

    crops: int  # of an epoch

    def begin(self, step: int, steps: int, mesh: Mesh) -> None: ...

    def take(self, count: int) -> Crops | Read: ...


def make_feed(corpus: Corpus, config: Config, transposable: bool) -> Feed:
    """As `batch.stream` has it. Raises InputError when the split has no music."""
    if not config.batch.stream:
        return _Held(make_crops(corpus, "train", config.batch))
    share = config.batch.transpose_share if transposable else 0.0
    return _Streamed(Stream(corpus, config.batch, share, batch_key(config.train.seed)), config)


class _Held:
    """The split lies on every device; a call is given all of it."""

    def __init__(self, crops: Crops):
        self._crops, self.crops = crops, int(crops.places.first_C.shape[0])

    def begin(self, step: int, steps: int, mesh: Mesh) -> None:
        self._crops = spread(self._crops, everywhere(mesh))

    def take(self, count: int) -> Crops:
        return self._crops


class _Streamed:
    """A call is given what its own steps read; each process reads the rows of its own devices."""

    def __init__(self, stream: Stream, config: Config):
        self._stream, self.crops = stream, stream.crops
        self._rows, self._most = config.batch.rows, config.train.steps_per_call

    def begin(self, step: int, steps: int, mesh: Mesh) -> None:
        # Of each device by itself: the devices of a process need not be neighbours in the mesh.
        row_DEVICE_B = np.arange(self._rows).reshape(mesh.size, -1)
        own_DEVICE = [device.process_index == jax.process_index() for device in mesh.devices.ravel()]
        rows = row_DEVICE_B[np.array(own_DEVICE)].ravel()
        self._by_row = NamedSharding(mesh, PartitionSpec(None, DATA))
        self._reads: Iterator[Read] = self._stream.steps(step, steps, rows)

    def take(self, count: int) -> Read:
        whole = stacked(list(islice(self._reads, count)), self._most)
        with jax.transfer_guard("allow"):  # it takes what is asked for here for a transfer by accident
            placed: Read = jax.tree.map(
                lambda leaf: jax.make_array_from_process_local_data(self._by_row, leaf), whole
            )
        return placed
