"""PyTorch's own LSTM in our model, eager: `torch.nn.LSTM` with two layers, and `torch.optim.AdamW`."""

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from midigen_jax.config import Config, ModelConfig, TrainConfig
from rivals.job import lstm_layers
from rivals.side import Settings, Side
from train_sides.job import Job, config_of, music_of

CANDIDATES: tuple[Settings, ...] = tuple(
    {"batch_first": batch_first, "adamw": adamw}
    for batch_first, adamw in itertools.product((False, True), ("fused", "foreach"))
)


class Twin(nn.Module):
    """The article's network, with logits for every position; time is axis 1 if `batch_first`, else axis 0."""

    def __init__(self, config: ModelConfig, pitch_size: int, duration_size: int, batch_first: bool):
        super().__init__()
        self.embed_pitch = nn.Embedding(pitch_size, config.pitch_embedding)
        self.embed_duration = nn.Embedding(duration_size, config.duration_embedding)
        embedded = config.pitch_embedding + config.duration_embedding
        layers = lstm_layers(config)
        self.lstm = nn.LSTM(embedded, config.width, num_layers=layers, batch_first=batch_first)
        self.score = nn.Linear(config.width, 1)
        self.head_pitch = nn.Linear(config.width, pitch_size)
        self.head_duration = nn.Linear(config.width, duration_size)
        self.time = 1 if batch_first else 0

    def forward(self, pitch: Tensor, duration: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the next pitch and duration id, from ids of one shape."""
        embedded = torch.cat([self.embed_pitch(pitch), self.embed_duration(duration)], dim=-1)
        hidden, _ = self.lstm(embedded)
        weight = torch.exp(torch.tanh(self.score(hidden)))
        context = (weight * hidden).cumsum(self.time) / weight.cumsum(self.time)
        return self.head_pitch(context), self.head_duration(context)


def build(job: Job, settings: Settings) -> Side:
    """A step on one batch, the job's first `length + 1` events of each piece."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    config, music = config_of(job), music_of(job)
    twin = Twin(config.model, music.pitch_size, music.duration_size, settings["batch_first"])
    call = steps(twin, config, np.stack(music.pieces), settings["adamw"])
    return Side(call, {"tokens": job.rows * job.length})


def steps(twin: Twin, config: Config, events_BS2: np.ndarray, adamw: str) -> Callable[[], float]:
    """What trains `twin` by one step a call; `adamw` names the implementation of the optimizer."""
    optimizer = _adamw(twin, config.train, adamw)
    order = (2, 0, 1) if twin.time == 1 else (2, 1, 0)
    ids_BS2 = torch.from_numpy(events_BS2).long()
    read, scored = (ids.permute(order).contiguous() for ids in (ids_BS2[:, :-1], ids_BS2[:, 1:]))

    def call() -> float:
        optimizer.zero_grad(set_to_none=True)
        pitch_logits, duration_logits = twin(*read)
        loss = cross_entropy(pitch_logits.flatten(0, 1), scored[0].flatten())
        loss = loss + cross_entropy(duration_logits.flatten(0, 1), scored[1].flatten())
        loss.backward()
        optimizer.step()
        return loss.item()

    return call


def _adamw(twin: Twin, config: TrainConfig, implementation: str) -> torch.optim.Optimizer:
    """The update of `make_optimizer`: only matrices decay."""
    matrices = [weight for weight in twin.parameters() if weight.ndim >= 2]
    others = [weight for weight in twin.parameters() if weight.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.99), **{implementation: True})
