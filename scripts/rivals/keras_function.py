"""The article's model without what `predict` does around it: a `tf.function` of the last 32 events."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from rivals.job import Job
from rivals.keras_model import WINDOW, Predict, windows
from rivals.side import Settings, Side

CANDIDATES: tuple[Settings, ...] = tuple(
    {"window": WINDOW, "jit_compile": compiled} for compiled in (True, False)
)


def build(job: Job, settings: Settings) -> Side:
    """`job.events` events of each row a call."""

    def make(model: keras.Model) -> Predict:
        function = tf.function(
            lambda pitch, duration: model([pitch, duration], training=False),
            jit_compile=settings["jit_compile"],
        )

        def predict(ids: Sequence[NDArray[np.int32]]) -> list[NDArray[np.float32]]:
            return [share.numpy() for share in function(*map(tf.constant, ids))]

        return predict

    return windows(job, make, job.events)
