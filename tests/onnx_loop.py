"""Runs an exported folder with ONNX Runtime, as its page does in a browser."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest


def written(
    folder: Path, bits_of: Callable[[int], np.ndarray], temperature: float = 1.0
) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
    """Event after event: its ids, and the logits by stream; `bits_of` gives (S,) of an event's number.

    `<end>` is written like any other.
    """
    onnxruntime = pytest.importorskip("onnxruntime")
    model = json.loads((folder / "model.json").read_text())
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    carry = {part["name"]: np.full(part["shape"], part["begin"], part["dtype"]) for part in model["carry"]}
    event, number = np.array([model["start"]], np.int32), 0
    heat = np.full(event.shape, temperature, np.float32)
    while True:
        bits = np.asarray(bits_of(number), np.uint32)[None]
        given = {"event": event, "bits": bits, "temperature": heat}
        found = dict(zip(names, session.run(names, given | carry), strict=True))
        event, carry = found["next"], {name: found[f"after.{name}"] for name in carry}
        logits = {stream["name"]: found[f"logits.{stream['name']}"][0] for stream in model["streams"]}
        yield event[0].tolist(), logits
        number += 1
