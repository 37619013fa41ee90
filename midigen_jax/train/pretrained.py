"""Models in one file: those that come with the package, those that `midigen export` makes.

In: a checkpoint. Out: `NAME.npz`, its parameters in half precision and, as JSON, all that is needed to use
them, but no optimizer. Wherever a run can be given, such a file can; one of the package is `pretrained:NAME`.
"""

import difflib
import json
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from midigen_jax.config import is_address
from midigen_jax.errors import InputError
from midigen_jax.files import replacing
from midigen_jax.train.checkpoint import Checkpoints, LoadedModel, digest, from_facts, open_run, to_facts
from midigen_jax.train.step import TrainState, make_network

PREFIX = "pretrained:"
_FOLDER = Path(__file__).parent.parent / "pretrained"
_FACTS = "facts"  # of the arrays in the file the one that is no parameter


def load_model(run: str, which: str = "best") -> LoadedModel:
    """The checkpoint `which` of a run, as `Checkpoints.restore` has it, or a model in one file.

    `run` is a folder, the address of checkpoints in a bucket, FILE.npz, or `pretrained:NAME`.

    Raises InputError where there is none of that name; a model in one file has one checkpoint.
    """
    if run.endswith(".npz") and is_folder(run):
        return _only(read_model(Path(run)), run, which)
    if not run.startswith(PREFIX):
        with Checkpoints(run, read_only=True) if is_address(run) else open_run(Path(run)) as checkpoints:
            return checkpoints.restore(which)
    name, there = run.removeprefix(PREFIX), sorted(path.stem for path in _FOLDER.glob("*.npz"))
    if name not in there:
        close = difflib.get_close_matches(name, there, n=1)
        remedy = f"did you mean {PREFIX}{close[0]}?" if close else f"there is {', '.join(there) or 'none'}"
        raise InputError(f"{run}: no model of the package; {remedy}")
    return _only(read_model(_FOLDER / f"{name}.npz"), run, which)


def _only(loaded: LoadedModel, run: str, which: str) -> LoadedModel:
    """The model of a file. Raises InputError if another checkpoint is asked for."""
    if which not in ("best", "latest", str(loaded.step)):
        raise InputError(f"checkpoint {which!r}: {run} has step {loaded.step} alone; leave --checkpoint out")
    return loaded


def is_folder(run: str) -> bool:
    """Whether this is a place on this machine: no model of the package, and no address."""
    return not (run.startswith(PREFIX) or is_address(run))


def has_folder(run: str) -> bool:
    """Whether this is the folder of a run, in which more lies than its checkpoints."""
    return is_folder(run) and not run.endswith(".npz")


def name_of(run: str) -> str:
    """What a model is called: the last part of a folder or address, or the name of a model of the package."""
    return Path(run).resolve().name if is_folder(run) else Path(run.removeprefix(PREFIX)).name


def export(run: str, path: Path, which: str = "best") -> None:
    """Write a checkpoint as one file. Raises InputError as `load_model` does, or if `path` ends otherwise."""
    if path.suffix != ".npz":
        raise InputError(f"{path}: give a file that ends in .npz")
    write_model(load_model(run, which), path)


def write_model(loaded: LoadedModel, path: Path) -> None:
    """The parameters of a checkpoint (their moving average, where one is kept) and its facts, as one file.

    Temperatures are among the facts, and not in the parameters.
    """
    facts = to_facts(loaded.metadata, loaded.metrics) | {"step": loaded.step}
    arrays = {
        name: np.asarray(leaf, np.float16)
        for name, leaf in flatten_dict(loaded.state.ema_params, sep="/").items()
    }
    with replacing(path) as partial:
        np.savez_compressed(partial, allow_pickle=False, **{_FACTS: np.array(json.dumps(facts))}, **arrays)


def read_model(path: Path) -> LoadedModel:
    """The inverse of `write_model`, but for rounding. Raises InputError for a damaged file or another one."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        facts: dict[str, Any] = json.loads(str(arrays.pop(_FACTS)))
        step = int(facts.pop("step"))
        floats = {name: jnp.asarray(leaf, jnp.float32) for name, leaf in arrays.items()}
        params = unflatten_dict(floats, sep="/")
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: no model, or a damaged one ({error}); export it again") from None
    metadata = from_facts(facts, str(path))
    network = make_network(metadata.config, metadata.vocabulary)
    state = TrainState(jnp.int32(step), params, ())
    return LoadedModel(step, state, network, metadata, facts["metrics"], digest(step, facts))
