"""The article's model in Keras 3, on TensorFlow or JAX (`KERAS_BACKEND`), as the article trains it.

Its attention is one weighted sum over a window of 32 events, so a window gives one loss: that of the event
after it. Windows begin at every event of every piece and are shuffled.
"""

from itertools import cycle

import keras
import numpy as np
from keras import layers, ops

from midigen_jax.config import Config
from train_sides.job import Job, Music, Settings, Side, config_of, music_of

CANDIDATES: tuple[Settings, ...] = tuple(
    {"backend": keras.backend.backend(), "jit_compile": jit_compile} for jit_compile in (True, False)
)


def build(job: Job, settings: Settings) -> Side:
    """A step on `job.rows` windows of `job.length` events."""
    _limit_threads(job.threads)
    keras.utils.set_random_seed(0)
    music = music_of(job)
    model = _model(config_of(job), music, job.length)
    model.compile(
        optimizer=keras.optimizers.RMSprop(config_of(job).train.learning_rate),
        loss=["sparse_categorical_crossentropy"] * 2,
        jit_compile=settings["jit_compile"],
    )
    batches = cycle(_batches(music, job))

    def call() -> float:
        return float(model.train_on_batch(*next(batches))[0])

    return Side(call, {"tokens": job.rows * job.length, "losses": job.rows})


def _limit_threads(threads: int) -> None:
    """TensorFlow's two pools; JAX goes by the cores that the process may use."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(threads)


def _model(config: Config, music: Music, length: int) -> keras.Model:
    sizes = config.model
    pitch, duration = (layers.Input((length,), dtype="int32") for _ in range(2))
    hidden = layers.Concatenate()(
        [
            layers.Embedding(music.pitch_size, sizes.pitch_embedding)(pitch),
            layers.Embedding(music.duration_size, sizes.duration_embedding)(duration),
        ]
    )
    for _ in range(sizes.layers):
        hidden = layers.LSTM(sizes.width, return_sequences=True)(hidden)
    weight = layers.Softmax(axis=1)(layers.Dense(1, activation="tanh")(hidden))
    context = ops.sum(weight * hidden, axis=1)
    heads = [
        layers.Dense(size, activation="softmax")(context) for size in (music.pitch_size, music.duration_size)
    ]
    return keras.Model([pitch, duration], heads)


def _batches(music: Music, job: Job) -> list[tuple[list[np.ndarray], list[np.ndarray]]]:
    """All windows in random order, in whole batches: ([pitch, duration] windows, [pitch, duration] next)."""
    size = job.length + 1
    windows = [
        np.lib.stride_tricks.sliding_window_view(piece, size, axis=0)
        for piece in music.pieces
        if len(piece) >= size
    ]
    events_N2S = np.random.default_rng(0).permutation(np.concatenate(windows))
    return [
        (list(batch_2BS[..., :-1]), list(batch_2BS[..., -1]))
        for first in range(0, len(events_N2S) - job.rows + 1, job.rows)
        for batch_2BS in [np.ascontiguousarray(events_N2S[first : first + job.rows].swapaxes(0, 1))]
    ]
