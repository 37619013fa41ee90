"""A fresh process from its start to the first event: what is waited for after a command has been typed.

    python -m midigen_jax.study.first_note JOB    (JOB: the fields of `Start`, as JSON)

In: a run, a model's settings or a step model. Out: seconds, of Python's start, imports, reading weights,
compiling, and one call that writes one event. Fresh weights are drawn by NumPy, so no file is read for them.

The parent must not hold an accelerator that only one process can have: it measures this first.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import midigen_jax
from midigen_jax.errors import InputError
from midigen_jax.progress import Progress


@dataclass(frozen=True)
class Start:
    """What is to begin: a run's model, or a step model, or fresh weights of `settings`."""

    run: str | None = None
    model: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def starts(start: Start, times: int) -> dict[str, list[float]]:
    """Seconds of so many fresh processes: `cold`, where nothing was compiled before, and `cached`, where a
    process before has kept its programs, as `midigen generate` does.

    Raises InputError where the process finds that it is asked for what there is not.
    """
    found: dict[str, list[float]] = {"cold": [], "cached": []}
    with TemporaryDirectory() as folder, Progress("cold starts", 2 * times + 1, "processes") as progress:
        kept = Path(folder)
        _process(start, kept)  # which keeps them, and warms the disk
        progress.advance()
        for _ in range(times):
            for name, cache in (("cold", None), ("cached", kept)):
                found[name].append(_process(start, cache))
                progress.advance()
    return found


def _process(start: Start, cache: Path | None) -> float:
    """Seconds from the start of a process to its first event; `cache` has compiled programs."""
    env = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    folders = [str(Path(midigen_jax.__file__).resolve().parent.parent), os.environ.get("PYTHONPATH")]
    env["PYTHONPATH"] = os.pathsep.join(folder for folder in folders if folder)
    if cache is not None:  # as `train.distributed.keep_compiled` has it
        env |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
    command = [sys.executable, "-m", "midigen_jax.study.first_note", json.dumps(asdict(start))]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        spent = time.perf_counter() - began
        process.stdout.read()
    answer = json.loads(line) if line else {}
    if "refused" in answer:
        raise InputError(answer["refused"])
    if "event" not in answer:
        raise RuntimeError(f"a cold start ended with code {process.returncode}")
    return spent


def main() -> None:
    """Write one event, and say it."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    try:
        answer: dict[str, Any] = {"event": _first_event(Start(**json.loads(sys.argv[1])))}
    except InputError as error:
        answer = {"refused": str(error)}
    print(json.dumps(answer), file=answers, flush=True)


def _first_event(start: Start) -> list[int]:
    """The ids of it, on the host."""
    from midigen_jax.train.distributed import split_cpu

    split_cpu()  # as `midigen generate` has it
    if start.model is not None:
        from midigen_jax.study.step_model import load_step_model, make_loop

        loop = make_loop(load_step_model(start.model), rows=1, room=1)
        _, ids_BNS = loop.write(loop.begin(), 1)
        return [int(number) for number in ids_BNS[0, 0]]
    from midigen_jax.config import Config, override
    from midigen_jax.model.network import Network
    from midigen_jax.recipes import pooling_article
    from midigen_jax.study.subject import unscaled
    from midigen_jax.study.turns import Prefill, start_prompt
    from midigen_jax.train.pretrained import load_model
    from midigen_jax.vocab import to_tokens

    if start.run is None:
        subject = unscaled(override(Config(model=pooling_article()), start.settings).model)
        network, params = subject.network, subject.params
    else:
        restored = load_model(start.run)
        model = override(Config(model=restored.network.config), start.settings).model
        network, params = Network(model, restored.network.vocabulary), restored.params
    written = Prefill(network, params, start_prompt(network.vocabulary, 1))()
    return [int(id) for id in to_tokens(network.vocabulary, written.events)[0, 0]]


if __name__ == "__main__":
    main()
