"""Callbacks: who is told how far a run has come, and what it has measured.

In: the steps and rows of a run. Out: a progress bar, event files of TensorBoard, or whatever a function does.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from midigen_jax.errors import InputError
from midigen_jax.progress import Progress
from midigen_jax.rows import Row
from midigen_jax.train.scoring import METRIC

Callback = Callable[[int, Sequence[Row]], None]
"""Called with (step, rows) after every call of some steps, `train.steps_per_call` at most, and at the end:
how far the run has come, and the rows since the call before, which may be none; in process 0 alone."""


def newest_losses(show: Callable[[int, str], None]) -> Callback:
    """A callback that calls `show(step, "train 1.234 valid 1.345")`: the newest nats an event."""
    known: dict[str, float] = {}

    def callback(step: int, rows: Sequence[Row]) -> None:
        found = {row["name"]: row["value"] for row in rows}
        train = [value for name, value in found.items() if name.startswith("train.nats_per_event.")]
        if train:
            known["train"] = sum(train)
        if METRIC in found:
            known["valid"] = found[METRIC]
        show(step, " ".join(f"{name} {value:.3f}" for name, value in known.items()))

    return callback


def progress(bar: Progress, start: int) -> Callback:
    """Advance a bar, which has counted `start` steps of the run already, and have it show the losses."""
    reached = start

    def show(step: int, losses: str) -> None:
        nonlocal reached
        if step != reached:  # at its end a run may have rows to tell, and no steps
            bar.advance(step - reached, note=losses)
            reached = step

    return newest_losses(show)


class TensorBoard:
    """A callback that writes the rows as event files, into a folder that `tensorboard --logdir` reads.

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

    def __call__(self, step: int, rows: Sequence[Row]) -> None:
        """Add rows. The folder is made with the first ones; what is there of later steps is hidden."""
        if not rows:
            return
        if self._writer is None:
            self._writer = self._open(purge_step=rows[0]["step"])
        for row in rows:
            self._writer.add_scalar(row["name"].replace(".", "/", 1), row["value"], row["step"])
        self._writer.flush()
