"""midigen-jax: MIDI in, two token streams, a stacked LSTM with dual heads, MIDI out.

Arrays in JAX code carry their axes as a suffix, so that a line reads as maths:

    B  batch rows            P  pitch ids (or chord symbols)
    T  time, in events       R  duration ids
    D  width of the model    L  layers
    W  attention window      N  events of a corpus, or replicas of a run

`hidden_BTD` is a batch of sequences of vectors, `logits_BTP` scores every pitch id at every event.
"""

__version__ = "0.1.0"
