"""The article's model in Keras 3, on TensorFlow or JAX (`KERAS_BACKEND`), trained by `fit` as it is there.

Its attention is one weighted sum over a window of 32 events, so a window gives one loss: that of the event
after it. Windows begin at every event of every piece.
"""

from itertools import cycle

import keras
import numpy as np

from rivals.keras_model import article_model
from rivals.side import Settings, Side
from train_sides.job import Job, Music, config_of, music_of

_BACKEND = keras.backend.backend()
# JAX without it would run one operation after another, five times slower or more.
_JIT = (True, False) if _BACKEND == "tensorflow" else (True,)
CANDIDATES: tuple[Settings, ...] = tuple({"backend": _BACKEND, "jit_compile": jit} for jit in _JIT)

_BATCHES = 16  # for each `fit`: enough that what it does before the first of them hardly counts


def build(job: Job, settings: Settings) -> Side:
    """`fit` on batches of `job.rows` windows of `job.length` events."""
    _limit_threads(job.threads)
    keras.utils.set_random_seed(0)
    config, music = config_of(job), music_of(job)
    model = article_model(config.model, music.pitch_size, music.duration_size, job.length)
    model.compile(
        optimizer=keras.optimizers.RMSprop(config.train.learning_rate),
        loss=["sparse_categorical_crossentropy"] * 2,
        jit_compile=settings["jit_compile"],
    )
    events_N2S = _windows(music, job.length + 1)
    count = min(_BATCHES * job.rows, len(events_N2S))
    starts = cycle(range(0, len(events_N2S) - count + 1, count))

    def call() -> float:
        start = next(starts)
        pitch_NS, duration_NS = events_N2S[start : start + count].swapaxes(0, 1)
        history = model.fit(
            [pitch_NS[:, :-1], duration_NS[:, :-1]],
            [pitch_NS[:, -1], duration_NS[:, -1]],
            batch_size=job.rows,
            verbose=0,
        )
        return history.history["loss"][0]

    return Side(call, {"tokens": count * job.length, "losses": count})


def _limit_threads(threads: int) -> None:
    """TensorFlow's two pools; JAX goes by the cores that the process may use."""
    if _BACKEND == "tensorflow":
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(threads)


def _windows(music: Music, size: int) -> np.ndarray:
    """All runs of `size` events (N, 2, size), in random order."""
    windows = [
        np.lib.stride_tricks.sliding_window_view(piece, size, axis=0)
        for piece in music.pieces
        if len(piece) >= size
    ]
    return np.random.default_rng(0).permutation(np.concatenate(windows))
