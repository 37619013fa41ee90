"""Our side: the library's own training step, batches and all.

The rivals are given one batch for good; this step cuts and shuffles its own, as in any training.
"""

import jax

from midigen_jax.config import BatchConfig, override
from midigen_jax.data.batches import Crops, crops_of
from midigen_jax.model.grammar import ChordGrammar
from midigen_jax.model.network import Network
from midigen_jax.music.tokens import Tokens
from midigen_jax.study.benchmark import flops
from midigen_jax.study.side import Settings, Side
from midigen_jax.train.devices import data_mesh, everywhere, split_cpu
from midigen_jax.train.optimizer import make_optimizer
from midigen_jax.train.state import init_state, make_train_steps
from train_sides.job import Job, config_of, music_of

# `midigen train` puts as many steps into a call as take about a second; a round here is of about one call.
CANDIDATES: tuple[Settings, ...] = ({"steps_per_call": 8},)


def build(job: Job, settings: Settings) -> Side:
    """Steps on `job.rows` crops of `job.length` events, so many a call."""
    split_cpu()
    count = settings["steps_per_call"]
    config, music = override(config_of(job), {"train.steps_per_call": count}), music_of(job)
    network = Network(config.model, ChordGrammar(music.duration_size, music.pitch_size))
    optimizer = make_optimizer(config.train, steps=1)
    mesh = data_mesh(job.rows)
    train_steps = make_train_steps(network, optimizer, config, False, mesh)
    start = init_state(network, optimizer, config.train.seed), _crops(music.pieces, config.batch)
    state, crops = jax.device_put(start, everywhere(mesh))

    def call() -> float:
        nonlocal state
        state, metrics_K = train_steps(state, crops, count)
        metrics_K = jax.device_get(metrics_K)
        return float(metrics_K.pitch[0] + metrics_K.duration[0])

    tokens = count * job.rows * job.length
    if job.data:
        # The last crop of a piece is short, and a loss is taken only at the events that it has.
        return Side(call, {"tokens": tokens, "losses": count * job.rows * float(crops.steps_C.mean())})
    step = mesh.size * flops(network, job.rows // mesh.size, job.length)
    return Side(call, {"tokens": tokens, "flops": count * step})


def _crops(pieces: tuple[Tokens, ...], config: BatchConfig) -> Crops:
    """Pieces cut every `length` events, each crop as a piece of its own."""
    length = config.length
    parts = [
        piece[start : start + length + 1] for piece in pieces for start in range(0, len(piece) - 1, length)
    ]
    return crops_of(parts, config)
