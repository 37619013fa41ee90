"""PyTorch, one event at a time with a carried state: its own LSTM called with T = 1, or cells written out.

The cells look the first layer's projection up, as ours do, and read a layer's input and state in one product.
"""

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rivals.job import (
    Job,
    Weights,
    first_event,
    layers_of,
    load_weights,
    score_of,
    tables_of,
)
from rivals.side import Settings, Side

CANDIDATES: tuple[Settings, ...] = tuple(
    {"form": form, "peer_threads": threads}
    for form, threads in itertools.product(("cells", "nn.LSTM"), (1, 2))
)

State = tuple[Any, Tensor, Tensor]  # the layers' memory, and both running sums of the attention


class Step:
    """The network for one event of each row; `form` is one of those in CANDIDATES."""

    def __init__(self, weights: Weights, form: str):
        self._cells = form == "cells"
        self._width = layers_of(weights)[0]["recurrent"].shape[0]
        self._count = len(layers_of(weights))
        if self._cells:
            self._tables = [_tensor(table) for table in tables_of(weights)]
            self._first = _tensor(layers_of(weights)[0]["recurrent"])
            self._others = [
                (_tensor(np.concatenate([layer["input"], layer["recurrent"]])), _tensor(layer["bias"]))
                for layer in layers_of(weights)[1:]
            ]
        else:
            self._embed = [_tensor(weights[f"embed_{name}"]["embedding"]) for name in ("pitch", "duration")]
            self._lstm = _lstm(weights)
        self._score, self._pitch, self._duration = (
            (_tensor(part["kernel"]), _tensor(part["bias"]))
            for part in (score_of(weights), weights["head_pitch"], weights["head_duration"])
        )

    def start(self, rows: int) -> State:
        """Zeros: nothing has happened yet."""
        shape = (rows, self._width)
        memory: Any = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(self._count)]
        if not self._cells:
            memory = (torch.zeros(self._count, *shape), torch.zeros(self._count, *shape))
        return memory, torch.zeros(shape), torch.zeros(rows, 1)

    def __call__(self, pitch: Tensor, duration: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Logits of the next pitch and duration ids, and the state after the event."""
        memory, weighted, total = state
        if self._cells:
            hidden, memory = self._run_cells(pitch, duration, memory)
        else:
            embedded = torch.cat([self._embed[0][pitch], self._embed[1][duration]], dim=-1)
            output, memory = self._lstm(embedded[None], memory)
            hidden = output[0]
        weight = torch.exp(torch.tanh(torch.addmm(self._score[1], hidden, self._score[0])))
        weighted, total = weighted + weight * hidden, total + weight
        context = weighted / total
        pitch_logits = torch.addmm(self._pitch[1], context, self._pitch[0])
        duration_logits = torch.addmm(self._duration[1], context, self._duration[0])
        return pitch_logits, duration_logits, (memory, weighted, total)

    def _run_cells(self, pitch: Tensor, duration: Tensor, memory: Any) -> tuple[Tensor, Any]:
        looked_up = self._tables[0][pitch] + self._tables[1][duration]
        hidden, cell = _cell(torch.addmm(looked_up, memory[0][0], self._first), memory[0][1])
        after = [(hidden, cell)]
        for (kernel, bias), (before, cell) in zip(self._others, memory[1:], strict=True):
            hidden, cell = _cell(torch.addmm(bias, torch.cat([hidden, before], dim=-1), kernel), cell)
            after.append((hidden, cell))
        return hidden, after


def build(job: Job, settings: Settings) -> Side:
    """`job.events` events of each row a call, drawn with `torch.multinomial`."""
    torch.manual_seed(0)
    step = Step(load_weights(job.weights), settings["form"])
    pitch, duration = (torch.from_numpy(ids) for ids in first_event(job.rows))
    state = step.start(job.rows)

    @torch.inference_mode()
    def call() -> None:
        nonlocal pitch, duration, state
        torch.set_num_threads(settings["peer_threads"])  # of candidates that take turns in one process
        for _ in range(job.events):
            pitch_logits, duration_logits, state = step(pitch, duration, state)
            pitch = torch.multinomial(torch.softmax(pitch_logits, dim=-1), 1)[:, 0]
            duration = torch.multinomial(torch.softmax(duration_logits, dim=-1), 1)[:, 0]

    return Side(call, {"events": job.rows * job.events})


def _cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    take, forget, candidate, output = gates.chunk(4, dim=-1)
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(take) * torch.tanh(candidate)
    return torch.sigmoid(output) * torch.tanh(cell), cell


def _lstm(weights: Weights) -> nn.LSTM:
    layers = layers_of(weights)
    inputs, gates = layers[0]["input"].shape
    lstm = nn.LSTM(inputs, gates // 4, num_layers=len(layers))
    state = {}
    for place, layer in enumerate(layers):
        state[f"weight_ih_l{place}"] = _tensor(layer["input"].T)
        state[f"weight_hh_l{place}"] = _tensor(layer["recurrent"].T)
        state[f"bias_ih_l{place}"] = _tensor(layer["bias"])
        state[f"bias_hh_l{place}"] = torch.zeros(gates)  # PyTorch has two biases where we have one
    lstm.load_state_dict(state)
    return lstm.requires_grad_(False)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32, order="C"))
