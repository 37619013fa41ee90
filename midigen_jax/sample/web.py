"""A model as a folder that a browser runs: its step as ONNX, what its ids mean as JSON, and a page.

In: a checkpoint. Out: `model.onnx`, `model.json` and `index.html`, which writes, plays and keeps music.

A step reads an event of one row and draws the next one, as the decode loop does: streams one after another,
under the vocabulary's rules, at a temperature. So nobody who runs it needs to know of any of that. The
random bits are given, and so the same bits write the same music as `decode` does, in whatever runs the step.
Products are of float32, also those of a model that was trained with others.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from midigen_jax import __version__
from midigen_jax.errors import InputError
from midigen_jax.files import check_folder, replacing, write_json
from midigen_jax.model.network import Carry, Network
from midigen_jax.sample.filters import SamplingParams, draw
from midigen_jax.sample.generate import seen_limits
from midigen_jax.sample.onnx_graph import to_onnx
from midigen_jax.train.checkpoint import LoadedModel, Metadata
from midigen_jax.train.pretrained import load_model, name_of
from midigen_jax.vocab import END, IdTable, start_event

GRAPH, FACTS, PAGE, RUNTIME = "model.onnx", "model.json", "index.html", "ort"
_TEMPLATE = Path(__file__).with_name("web.html")
_GIVEN = ("event", "bits", "temperature")  # what a step is given beside its carry

Step = Callable[..., dict[str, Array]]


def export_web(run: str, folder: Path, which: str = "best") -> None:
    """Write the folder of a run's checkpoint. Raises InputError as `load_model` and `write_web` do."""
    write_web(load_model(run, which), name_of(run), folder)


def write_web(loaded: LoadedModel, name: str, folder: Path) -> None:
    """Write the folder of a model, whose own subfolder `ort` stays as it is.

    Raises InputError for a folder that holds something else, and as `to_onnx` and `facts_of` do.
    """
    if folder.suffix == ".npz":
        raise InputError(f"--onnx: --out {folder}: give a folder, or leave --onnx out")
    check_folder(folder, (GRAPH, FACTS, PAGE, RUNTIME))
    step, inputs = step_of(loaded)
    facts = facts_of(name, loaded.metadata, inputs)
    model = to_onnx(step, inputs, f"midigen-jax {__version__}")
    for file, data in ((GRAPH, model.SerializeToString()), (PAGE, _TEMPLATE.read_bytes())):
        with replacing(folder / file) as partial:
            partial.write_bytes(data)
    write_json(folder / FACTS, facts)


def step_of(loaded: LoadedModel) -> tuple[Step, dict[str, Array]]:
    """The step of a model for one row, and what it is given first.

    It is given `event`, int32 (1, S); `bits`, uint32 (1, S), and `temperature`, float32 (1, S), both by
    stream; and all arrays of a carry by name. It gives `next`, int32 (1, S), the event that is drawn, and the
    carry, `after.` before each name; and `logits.` with the name of each stream (1, V), for which ids that
    cannot be have `IMPOSSIBLE`.
    """
    vocabulary, params = loaded.metadata.vocabulary, loaded.params
    config = replace(loaded.network.config, compute_dtype="float32")
    network = Network(config, vocabulary, platform="cpu")
    names = [name for name, _ in vocabulary.streams]
    projections = jax.jit(lambda: network.bind({"params": params}).projections())()
    limits = seen_limits(loaded)
    limits = network.limits() if limits is None else limits
    begin_1 = jnp.array([-loaded.metadata.upbeat]) if loaded.metadata.knows_bar_lines else None
    begin = network.initial_carry(1, tick_B=begin_1)

    def step(event: Array, bits: Array, temperature: Array, **carry: Array) -> dict[str, Array]:
        model = network.bind({"params": params})
        read = {name: event[:, place, None] for place, name in enumerate(names)}
        after, trunk = model(_joined(begin, carry), read, jnp.ones((1, 1), bool), projections=projections)
        drawn: dict[str, Array] = {}
        logits: dict[str, Array] = {}
        for place, name in enumerate(names):
            earlier = {before: ids_B[:, None] for before, ids_B in drawn.items()}
            allowed_BTV = vocabulary.rules.allowed(trunk.after, limits, name, earlier)
            logits[name] = model.stream_logits(name, trunk, earlier, allowed_BTV)[:, 0]
            off_B = jnp.zeros(1)
            controls = SamplingParams(temperature[:, place], off_B, off_B, off_B, off_B)
            drawn[name] = draw(logits[name], controls, bits[:, place], filtered=False)
        found = {"next": jnp.stack([drawn[name] for name in names], axis=1)}
        found |= {f"logits.{name}": logits_BV for name, logits_BV in logits.items()}
        return found | {f"after.{name}": array for name, array in _by_name(after).items()}

    event = jnp.asarray(start_event(vocabulary))
    given = {"event": event, "bits": jnp.zeros_like(event, jnp.uint32), "temperature": jnp.ones(event.shape)}
    return step, given | _by_name(begin)


def _by_name(carry: Carry) -> dict[str, Array]:
    """The arrays of a carry that are not empty."""
    leaves = jax.tree_util.tree_leaves_with_path(carry)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    return {name: leaf for name, leaf in named.items() if leaf.size}


def _joined(like: Carry, arrays: dict[str, Array]) -> Carry:
    """The inverse of `_by_name`."""
    parts = iter(arrays[name] for name in _by_name(like))
    return jax.tree.map(lambda leaf: next(parts) if leaf.size else leaf, like)


def facts_of(name: str, metadata: Metadata, inputs: dict[str, Array]) -> dict[str, Any]:
    """What one needs to know to run the step and to hear what it writes.

    Raises InputError for a block whose carry does not begin with the same number all over an array.
    """
    vocabulary, clock = metadata.vocabulary, metadata.vocabulary.clock
    carry = []
    for key, array in inputs.items():
        if key in _GIVEN:
            continue
        first, *others = np.unique(array).tolist()
        if others:
            raise InputError(f"--onnx: {key} of the carry begins with several numbers; begin with one, as 0")
        carry.append({"name": key, "dtype": str(array.dtype), "shape": array.shape, "begin": first})
    upbeat = metadata.upbeat if metadata.knows_bar_lines else 0
    before = clock.meter_of(upbeat)
    meters = [(0, before), (upbeat, metadata.meter)] if before else [(0, metadata.meter)]
    return {
        "name": name,
        "ticks_per_quarter": clock.quarter,
        "tempo": metadata.tempo,  # quarters a minute
        "meters": [{"tick": tick, "meter": meter} for tick, meter in meters],
        "start": start_event(vocabulary)[0].tolist(),
        "end": END,  # of the first stream
        "streams": [{"name": key, **_columns(table)} for key, table in vocabulary.tables.items()],
        "carry": carry,
    }


def _columns(table: IdTable) -> dict[str, list]:
    """What each id of a stream means: as `IdTable`, with its pitches as a list."""
    pitches = [np.flatnonzero(sounds).tolist() for sounds in table.sounds]
    columns = {"ticks": table.ticks, "closes": table.closes, "held": table.held}
    return {name: column.tolist() for name, column in columns.items()} | {"pitches": pitches}
