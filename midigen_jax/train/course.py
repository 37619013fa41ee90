"""How long a training is, and where it stops on its way.

In: settings, the epochs of a corpus. Out: steps.
"""

import itertools

from midigen_jax.config import Config
from midigen_jax.data.batches import Epochs


class Course:
    """Where trainings of one shape stop for a validation and a checkpoint, and where they end.

    `flops` are those of an event.
    """

    def __init__(self, config: Config, epochs: Epochs, flops: float):
        self.epochs, self.flops, self._config = epochs, flops, config
        self.steps = config.train.steps or epochs.steps(config.train.epochs)
        self.kept = {max(1, round(share * self.steps)) for share in config.train.keep_at}

    def stops(self, step: int) -> bool:
        """Whether training stops after `step`."""
        every = self._config.train.evaluate_every
        due = step % every == 0 if every else self.epochs.ends(step)
        return due or step in self.kept or step == self.steps

    def next(self, step: int, pace: int) -> int:
        """The end of a call that begins at `step`: `pace` steps later, or where it stops before."""
        return next(end for end in itertools.count(step + 1) if end - step == pace or self.stops(end))

    def is_over(self, step: int, best: int | None) -> bool:
        """Whether a training that has come this far ends, at its end or for want of patience."""
        validated = next((past for past in range(step, 0, -1) if self.stops(past)), 0)
        waited = validated - (best or validated)
        return step == self.steps or 0 < self._config.train.patience <= waited
