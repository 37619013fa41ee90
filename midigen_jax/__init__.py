"""midigen-jax: MIDI in, parallel streams of ids, a stack of recurrent and attention blocks, MIDI out.

Where to begin reading: `vocab` says what ids mean, `model.network` what is made of them, `train.step` how it
learns, `sample.decode` how it writes, `study.metrics` how it is measured.

Arrays in JAX code carry their axes as a suffix, so that a line reads as maths:

    B  batch rows                           P  pitch ids (or chord symbols)
    T  time: events that are read           R  duration ids, or rows of a table
    D  width of the model                   V  ids of any stream
    I  width of a block's input             E  events of a piece
    G  gates, as many times D as there are  S  streams, in arrays of the host: tokens are (E, S)
    H  heads of attention                   N  rows and times together, or events that are written
    F  width of a head, D / H               K  what a carry keeps, or a sum is over; its docstring says which

A digit is a length: `event_S2`, `seen_B1`. An axis without a letter is spelled out: `first_CROP`.
`hidden_BTD` is a batch of sequences of vectors, `logits_BTV` scores every id of a stream at every event.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from midigen_jax.sample.model import Model

__version__ = "0.1.0"


def load(run: str, checkpoint: str = "best") -> "Model":
    """A model that is ready to generate, harmonise and score: see `midigen_jax.sample.model`.

    run: a run's folder, the gs:// address of its checkpoints, an exported FILE.npz, or pretrained:NAME.
    checkpoint: best, latest or a step. Raises InputError where there is none of that name.
    """
    from midigen_jax.sample.model import Model
    from midigen_jax.train.pretrained import load_model

    return Model(load_model(run, checkpoint))
