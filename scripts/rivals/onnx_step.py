"""ONNX Runtime: one event as a graph of primitive operators with a carried state, ids drawn in NumPy.

The graph looks the first layer's projection up, as ours does.
"""

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from rivals.job import Job, Weights, draw, first_event, layers_of, load_weights, score_of, tables_of
from rivals.side import Settings, Side

CANDIDATES: tuple[Settings, ...] = ({"peer_threads": 1}, {"peer_threads": 2})

State = dict[str, NDArray[np.float32]]

_OPSET, _IR = 17, 8  # old enough for every runtime of the last years


class Step:
    """The network for one event of each row."""

    def __init__(self, weights: Weights, threads: int):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        graph = step_graph(weights).SerializeToString()
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]
        self._width, self._layers = layers_of(weights)[0]["recurrent"].shape[0], len(layers_of(weights))

    def start(self, rows: int) -> State:
        """Zeros: nothing has happened yet."""
        shape = (rows, self._width)
        state = {f"{kind}_{place}": shape for place in range(self._layers) for kind in ("hidden", "cell")}
        state |= {"weighted": shape, "total": (rows, 1)}
        return {name: np.zeros(shape, np.float32) for name, shape in state.items()}

    def __call__(
        self, pitch: NDArray[np.int64], duration: NDArray[np.int64], state: State
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], State]:
        """Probabilities of the next pitch and duration ids, and the state after the event."""
        found = self._session.run(None, {"pitch": pitch, "duration": duration, **state})
        after = dict(zip(self._names, found, strict=True))
        probabilities = after.pop("next_pitch"), after.pop("next_duration")
        return *probabilities, {name.removeprefix("after_"): array for name, array in after.items()}


def build(job: Job, settings: Settings) -> Side:
    """`job.events` events of each row a call."""
    rng = np.random.default_rng(0)
    step = Step(load_weights(job.weights), settings["peer_threads"])
    pitch, duration = first_event(job.rows)
    state = step.start(job.rows)

    def call() -> None:
        nonlocal pitch, duration, state
        for _ in range(job.events):
            pitch_share, duration_share, state = step(pitch, duration, state)
            pitch, duration = draw(pitch_share, rng), draw(duration_share, rng)

    return Side(call, {"events": job.rows * job.events})


def step_graph(weights: Weights) -> ModelProto:
    """One event as an ONNX model: ids and state in, probabilities and the state after it out."""
    graph = _Graph()
    tables = tables_of(weights)
    pitch = graph.add("Gather", graph.constant("pitch_table", tables[0]), "pitch")
    duration = graph.add("Gather", graph.constant("duration_table", tables[1]), "duration")
    gates, hidden = graph.add("Add", pitch, duration), ""
    for place, layer in enumerate(layers_of(weights)):
        if place > 0:
            gates = graph.dense(hidden, f"input_{place}", layer["input"], layer["bias"])
        recurrent = graph.constant(f"recurrent_{place}", layer["recurrent"])
        gates = graph.add("Add", gates, graph.add("MatMul", f"hidden_{place}", recurrent))
        hidden = _cell(graph, gates, place)
    score = score_of(weights)
    weight = graph.add("Exp", graph.add("Tanh", graph.dense(hidden, "score", score["kernel"], score["bias"])))
    weighted = graph.add("Add", "weighted", graph.add("Mul", weight, hidden), name="after_weighted")
    total = graph.add("Add", "total", weight, name="after_total")
    context = graph.add("Div", weighted, total)
    for head in ("pitch", "duration"):
        part = weights[f"head_{head}"]
        logits = graph.dense(context, f"head_{head}", part["kernel"], part["bias"])
        graph.add("Softmax", logits, name=f"next_{head}", axis=-1)
    return graph.model(len(layers_of(weights)), layers_of(weights)[0]["recurrent"].shape[0])


def _cell(graph: "_Graph", gates: str, place: int) -> str:
    take, forget, candidate, output = graph.split(gates, 4)
    kept = graph.add("Mul", graph.add("Sigmoid", forget), f"cell_{place}")
    new = graph.add("Mul", graph.add("Sigmoid", take), graph.add("Tanh", candidate))
    cell = graph.add("Add", kept, new, name=f"after_cell_{place}")
    shown = graph.add("Sigmoid", output)
    return graph.add("Mul", shown, graph.add("Tanh", cell), name=f"after_hidden_{place}")


class _Graph:
    """Nodes and constants of a graph that is being written; a result goes by its name."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        name = name or f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def split(self, value: str, parts: int) -> list[str]:
        names = [f"{value}_part_{part}" for part in range(parts)]
        self._nodes.append(helper.make_node("Split", [value], names, axis=-1))
        return names

    def constant(self, name: str, array: np.ndarray) -> str:
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
        return name

    def dense(self, value: str, name: str, kernel: np.ndarray, bias: np.ndarray) -> str:
        product = self.add("MatMul", value, self.constant(f"{name}_kernel", kernel))
        return self.add("Add", product, self.constant(f"{name}_bias", bias))

    def model(self, layers: int, width: int) -> ModelProto:
        state = {f"{kind}_{place}": width for place in range(layers) for kind in ("hidden", "cell")}
        state |= {"weighted": width, "total": 1}
        ids = [helper.make_tensor_value_info(name, TensorProto.INT64, ["rows"]) for name in _IDS]
        before = [_info(name, size) for name, size in state.items()]
        after = [_info(f"after_{name}", size) for name, size in state.items()]
        shares = [_info(f"next_{name}", None) for name in _IDS]
        graph = helper.make_graph(
            self._nodes, "step", ids + before, shares + after, initializer=self._constants
        )
        found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)
        checker.check_model(found)
        return found


_IDS = ("pitch", "duration")


def _info(name: str, size: int | None) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", size])
