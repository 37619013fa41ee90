"""Our side: the library's own training step, batches and all.

The rivals are given one batch for good; this step cuts and shuffles its own, as in any training.
"""

import jax
import numpy as np

from midigen_jax.config import BatchConfig, PrepareConfig, override
from midigen_jax.data.batches import Crops, crops_of
from midigen_jax.model.cost import flops
from midigen_jax.model.network import Network
from midigen_jax.train.distributed import data_mesh, split_cpu
from midigen_jax.train.replicas import make_train_steps, start_alone
from midigen_jax.vocab import Tokens, Vocabulary, typical_vocabulary
from rivals.side import Settings, Side
from train_sides.job import Job, config_of, music_of

# `midigen train` puts as many steps into a call as take about a second; a round here is of about one call.
CANDIDATES: tuple[Settings, ...] = ({"steps_per_call": 8},)


def build(job: Job, settings: Settings) -> Side:
    """Steps on `job.rows` crops of `job.length` events, so many a call."""
    split_cpu()
    count = settings["steps_per_call"]
    config, music = override(config_of(job), {"train.steps_per_call": count}), music_of(job)
    prepared = PrepareConfig(tokenizer="chord", max_duration=music.duration_size - 1)
    network = Network(config.model, typical_vocabulary(prepared, music.pitch_size))
    mesh = data_mesh(job.rows)
    train_steps = make_train_steps(network, config, 1, False, mesh)
    cut = _crops(music.pieces, config.batch, network.vocabulary)
    state, hyper, crops = start_alone(network, config, cut, mesh)

    def call() -> float:
        nonlocal state
        state, metrics_NK = train_steps(state, hyper, crops, np.full(1, count, np.int32))
        metrics_NK = jax.device_get(metrics_NK)
        return float(sum(nats_NK[0, 0] for nats_NK in metrics_NK.nats.values()))

    tokens = count * job.rows * job.length
    if job.data:
        # The last crop of a piece is short, and a loss is taken only at the events that it has.
        events = float(crops.places.steps_CROP.mean())
        return Side(call, {"tokens": tokens, "losses": count * job.rows * events})
    step = mesh.size * flops(network, job.rows // mesh.size, job.length)
    return Side(call, {"tokens": tokens, "flops": count * step})


def _crops(pieces: tuple[Tokens, ...], config: BatchConfig, vocabulary: Vocabulary) -> Crops:
    """Pieces cut every `length` events, each crop as a piece of its own."""
    length = config.length
    parts = [
        piece[start : start + length + 1] for piece in pieces for start in range(0, len(piece) - 1, length)
    ]
    return crops_of(parts, config, vocabulary)
