"""midigen-jax: MIDI in, two token streams, a stacked LSTM with dual heads, MIDI out.

Arrays in JAX code carry their axes as a suffix, so that a line reads as maths:

    B  batch rows                           P  pitch ids (or chord symbols)
    T  time: events that are read           R  duration ids
    S  T and the event before or after it   V  ids of either vocabulary
    D  width of the model                   C  crops of an epoch
    I  width of a layer's input             M  events of a corpus
    G  gates, 4 D                           N  rows and times together, or events that are written
    H  heads of attention                   F  width of a head, D / H
    K  what a carry keeps, or a sum is over; its docstring says which

A digit is a length: `event_S2`, `seen_B1`. `hidden_BTD` is a batch of sequences of vectors, `logits_BTP`
scores every pitch id at every event.
"""

__version__ = "0.1.0"
