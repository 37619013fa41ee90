"""How much a model copies while it is trained: what it writes at each validation, beside what people wrote.

In: a corpus, and the model at a validation. Out: in quarters, the median of the longest runs that its pieces
have in common with the training pieces, and that of held-out pieces of other people's, which have some too.
Where the first passes the second, the model begins to repeat its training music, and the step is kept.
"""

from collections.abc import Callable

import numpy as np

from midigen_jax.config import SampleConfig
from midigen_jax.data.copying import Training
from midigen_jax.data.corpus import Corpus
from midigen_jax.music.notes import Notes, until
from midigen_jax.music.slices import slice_notes
from midigen_jax.progress import hidden
from midigen_jax.sample.generate import generate
from midigen_jax.train.checkpoint import LoadedModel
from midigen_jax.train.loop import Judgement

PASSED = "copying.passed"
"""the row of the step at which a model copies more than people do"""

Write = Callable[[LoadedModel], list[Notes]]

_PIECES = 16
_QUARTERS = 32  # of each piece: a run may be the longer, the longer a piece is


def written(loaded: LoadedModel) -> list[Notes]:
    """What a model writes without being asked for anything."""
    with hidden():
        bar = loaded.metadata.vocabulary.clock.bar(loaded.metadata.meter)
        bars = -(-loaded.metadata.vocabulary.clock.ticks(_QUARTERS) // bar)
        return generate(loaded, SampleConfig(count=_PIECES, bars=bars)).pieces


class Copies:
    """A judge (`train.loop.Judge`): its rows are `copying.quarters`, `copying.people` and, once, `PASSED`."""

    def __init__(self, corpus: Corpus, has_passed: Callable[[], bool], write: Write = written):
        """has_passed: whether the step has been named already. write: what is judged."""
        self._clock, self._has_passed, self._write = corpus.vocabulary.clock, has_passed, write
        known = [slice_notes(corpus.notes(piece)) for piece in corpus.split("train")]
        self._training = Training(known, self._clock)
        people = [piece for piece in corpus.split("valid") if not piece.leaked]
        self._people = self._median([corpus.notes(piece) for piece in people])

    def __call__(self, loaded: LoadedModel) -> Judgement:
        """What the model copies now."""
        found = self._median(self._write(loaded))
        rows = [("copying.quarters", found, "quarters"), ("copying.people", self._people, "quarters")]
        passes = found > self._people > 0 and not self._has_passed()
        if passes:
            rows.append((PASSED, float(loaded.step), "step"))
        return Judgement([row for row in rows if np.isfinite(row[1])], passes)

    def _median(self, pieces: list[Notes]) -> float:
        """The median of their longest runs, in quarters; no number where there are no pieces."""
        end = self._clock.ticks(_QUARTERS)
        runs = []
        for notes in pieces:
            cut = until(notes, end)
            runs.append(self._training.longest(slice_notes(cut)).quarters if len(cut) else 0.0)
        return float(np.median(runs)) if runs else float("nan")
