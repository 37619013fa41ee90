"""Our side: the library's own training step, batches and all.

The rivals are given one batch for good; this step cuts and shuffles its own, as in any training.
"""

import jax
import numpy as np

from midigen_jax.config import BatchConfig, override
from midigen_jax.data.batches import Crops, crops_of
from midigen_jax.model.cost import flops
from midigen_jax.model.grammar import ChordGrammar
from midigen_jax.model.network import Network
from midigen_jax.music.tokens import Tokens
from midigen_jax.train.devices import data_mesh, split_cpu
from midigen_jax.train.state import make_train_steps, start_alone
from rivals.side import Settings, Side
from train_sides.job import Job, config_of, music_of

# `midigen train` puts as many steps into a call as take about a second; a round here is of about one call.
CANDIDATES: tuple[Settings, ...] = ({"steps_per_call": 8},)


def build(job: Job, settings: Settings) -> Side:
    """Steps on `job.rows` crops of `job.length` events, so many a call."""
    split_cpu()
    count = settings["steps_per_call"]
    config, music = override(config_of(job), {"train.steps_per_call": count}), music_of(job)
    network = Network(config.model, ChordGrammar(music.duration_size, music.pitch_size))
    mesh = data_mesh(job.rows)
    train_steps = make_train_steps(network, config, 1, False, mesh)
    state, hyper, crops = start_alone(network, config, _crops(music.pieces, config.batch), mesh)

    def call() -> float:
        nonlocal state
        state, metrics_NK = train_steps(state, hyper, crops, np.full(1, count, np.int32))
        metrics_NK = jax.device_get(metrics_NK)
        return float(metrics_NK.pitch[0, 0] + metrics_NK.duration[0, 0])

    tokens = count * job.rows * job.length
    if job.data:
        # The last crop of a piece is short, and a loss is taken only at the events that it has.
        return Side(call, {"tokens": tokens, "losses": count * job.rows * float(crops.places.steps_C.mean())})
    step = mesh.size * flops(network, job.rows // mesh.size, job.length)
    return Side(call, {"tokens": tokens, "flops": count * step})


def _crops(pieces: tuple[Tokens, ...], config: BatchConfig) -> Crops:
    """Pieces cut every `length` events, each crop as a piece of its own."""
    length = config.length
    parts = [
        piece[start : start + length + 1] for piece in pieces for start in range(0, len(piece) - 1, length)
    ]
    return crops_of(parts, config)
