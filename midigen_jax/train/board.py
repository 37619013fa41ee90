"""Rows for TensorBoard: the same figures that `rows.jsonl` has, as its event files.

In: rows. Out: a folder that `tensorboard --logdir` reads.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from midigen_jax.errors import InputError
from midigen_jax.rows import Row


class TensorBoard:
    """A function of rows that writes them, to be given to `fit`.

    Raises InputError where tensorboardX is not installed.
    """

    def __init__(self, folder: Path):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise InputError(
                "--tensorboard: tensorboardX is not installed; pip install 'midigen-jax[tensorboard]'"
            ) from None
        self._open = partial(SummaryWriter, str(folder))
        self._writer: Any = None

    def __call__(self, rows: Sequence[Row]) -> None:
        """Add rows. The folder is made with the first ones; what is there of later steps is hidden."""
        if self._writer is None:
            self._writer = self._open(purge_step=rows[0]["step"])
        for row in rows:
            self._writer.add_scalar(row["name"].replace(".", "/", 1), row["value"], row["step"])
        self._writer.flush()
