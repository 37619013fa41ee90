"""The article's model in Keras 3, and writing with it as the article does: the last 32 events for each next.

Its attention is one weighted sum over the window, so a window gives one event.
"""

from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from midigen_jax.config import ModelConfig
from rivals.job import Job, Weights, draw, layers_of, load_weights, lstm_layers, score_of
from rivals.side import Side

WINDOW = 32

Predict = Callable[[Sequence[NDArray[np.int32]]], Sequence[NDArray[np.float32]]]


def article_model(config: ModelConfig, pitch_size: int, duration_size: int, length: int) -> keras.Model:
    """Windows of `length` pitch and duration ids in, probabilities of the event after them out."""
    pitch, duration = (layers.Input((length,), dtype="int32") for _ in range(2))
    embedded = [
        layers.Embedding(pitch_size, config.pitch_embedding, name="embed_pitch")(pitch),
        layers.Embedding(duration_size, config.duration_embedding, name="embed_duration")(duration),
    ]
    hidden = layers.Concatenate()(embedded)
    for place in range(lstm_layers(config)):
        hidden = layers.LSTM(config.width, return_sequences=True, name=f"blocks_{place}")(hidden)
    weight = layers.Softmax(axis=1)(layers.Dense(1, activation="tanh", name="score")(hidden))
    context = ops.sum(weight * hidden, axis=1)
    heads = {"head_pitch": pitch_size, "head_duration": duration_size}
    return keras.Model(
        [pitch, duration],
        [layers.Dense(size, activation="softmax", name=name)(context) for name, size in heads.items()],
    )


def model_of(weights: Weights, length: int = WINDOW) -> keras.Model:
    """The article's model with our weights: Keras orders gates and sums as we do."""
    (pitch_size, pitch), (duration_size, duration) = (
        weights[f"embed_{stream}"]["embedding"].shape for stream in ("pitch", "duration")
    )
    stack = layers_of(weights)
    config = ModelConfig(
        pitch_embedding=pitch,
        duration_embedding=duration,
        width=stack[0]["recurrent"].shape[0],
        blocks=("lstm",) * len(stack),
    )
    model = article_model(config, pitch_size, duration_size, length)
    for stream in ("embed_pitch", "embed_duration"):
        model.get_layer(stream).set_weights([weights[stream]["embedding"]])
    for place, layer in enumerate(stack):
        parts = [layer["input"], layer["recurrent"], layer["bias"]]
        model.get_layer(f"blocks_{place}").set_weights(parts)
    parts_of = {name: weights[name] for name in ("head_pitch", "head_duration")}
    for name, part in (parts_of | {"score": score_of(weights)}).items():
        model.get_layer(name).set_weights([part["kernel"], part["bias"]])
    return model


def windows(job: Job, make: Callable[[keras.Model], Predict], events: int) -> Side:
    """`events` events of each row a call, drawn in NumPy and fed back."""
    rng = np.random.default_rng(0)
    predict = make(model_of(load_weights(job.weights)))
    ids = [np.zeros((job.rows, WINDOW), np.int32), np.ones((job.rows, WINDOW), np.int32)]

    def call() -> None:
        nonlocal ids
        for _ in range(events):
            drawn = [draw(share, rng).astype(np.int32) for share in predict(ids)]
            ids = [
                np.concatenate([before[:, 1:], new[:, None]], axis=1)
                for before, new in zip(ids, drawn, strict=True)
            ]

    return Side(call, {"events": job.rows * events})
