"""Compiles programs for one target, in a process of its own: `python -m midigen_jax.bench.worker ASKED`.

In: `Asked`, as JSON. Out: a line of JSON for each program, its figures, or why there are none. The process
has the environment that `compile.environment` made: libtpu reads it once, when it is loaded.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax

from midigen_jax import config as configs
from midigen_jax.bench import compiled
from midigen_jax.bench.compile import Asked, Program, describe
from midigen_jax.bench.figures import Figures, Memory, measure
from midigen_jax.bench.schedules import read_schedules
from midigen_jax.bench.targets import Target, find_target
from midigen_jax.config import AUTO_ROWS, Config
from midigen_jax.errors import InputError, is_out_of_memory
from midigen_jax.model.cost import flops
from midigen_jax.model.network import Network
from midigen_jax.recipes import NAMES, is_config, read_config
from midigen_jax.train.batch_size import rows_that_fill
from midigen_jax.train.pretrained import is_folder, load_model
from midigen_jax.vocab import typical_vocabulary


def subject(recipe: str, settings: Mapping[str, Any]) -> tuple[Network, Config]:
    """The network and the config of a recipe, a file, `pretrained:NAME` or a run, with other `settings`."""
    if is_config(recipe):
        config = configs.override(read_config(recipe), settings)
        return Network(config.model, typical_vocabulary(config.prepare)), config
    if is_folder(recipe) and not Path(recipe).exists():
        known = configs.nearest(recipe, NAMES)
        raise InputError(f"--recipe {recipe}: no recipe, no pretrained:NAME, no folder of a run; {known}")
    experiment = load_model(recipe).metadata
    config = configs.override(experiment.config, settings)
    return Network(config.model, experiment.vocabulary), config


def compile_program(
    asked: Asked, program: Program, target: Target, own: list[jax.Device]
) -> tuple[Figures, str]:
    """One of the programs that were asked for, and its text."""
    network, config = subject(program.recipe, program.settings)
    network = network.clone(platform={"cuda": "gpu"}.get(target.chip.platform, target.chip.platform))
    if config.batch.rows == AUTO_ROWS:
        config = configs.override(config, {"batch.rows": rows_that_fill(own)})
    if program.pieces:
        lowered = compiled.lower_decode(network, own[0], program.pieces, program.filters)
        work = float(sum(product.flops for product in network.matmuls(program.pieces, 1)))
        name, events, own_sizes = "decode", program.pieces, {"batch": program.pieces}
    else:
        lowered = compiled.lower_train(network, config, own)
        each = config.batch.rows // target.devices
        work = flops(network, each, config.batch.length)
        name, events = "train", config.batch.rows * config.batch.length
        own_sizes = {"batch": config.batch.rows, "length": config.batch.length}
    model = config.model
    of = {
        "dtype": model.compute_dtype,
        "width": model.width,
        "blocks": list(model.blocks),
        "backend": network.runs_on,
    }
    began = time.perf_counter()
    done = lowered.compile()
    seconds = time.perf_counter() - began
    taken, text = done.memory_analysis(), done.as_text()
    assert taken is not None
    assert text is not None
    memory = Memory(
        taken.argument_size_in_bytes,
        taken.temp_size_in_bytes,
        taken.generated_code_size_in_bytes,
        taken.output_size_in_bytes - taken.alias_size_in_bytes,
    )
    schedules = read_schedules(Path(asked.schedules)) if asked.schedules else None
    return measure(name, of | own_sizes, text, memory, events, work, schedules, seconds), text


def answers(asked: Asked) -> Iterator[dict[str, Any]]:
    """For each program its figures, or what is wrong with it."""
    try:
        target = find_target(asked.target)
        own = compiled.devices(target)
    except InputError as error:
        yield from ({"wrong": str(error)} for _ in asked.programs)
        return
    for number, program in enumerate(asked.programs):
        _empty(asked.schedules)
        try:
            found = _if_it_fits(asked, program, target, own)
            if found is None:
                raise InputError(_too_large(asked, program, target, own))
        except InputError as error:
            yield {"wrong": str(error)}
            continue
        figures, text = found
        if asked.texts:
            (Path(asked.texts) / f"{number}-{figures.program}.txt").write_text(text)
        yield asdict(figures)


def _if_it_fits(
    asked: Asked, program: Program, target: Target, own: list[jax.Device]
) -> tuple[Figures, str] | None:
    """As `compile_program`; None for what needs more memory than the device has."""
    try:
        found = compile_program(asked, program, target, own)
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return None
    return found if found[0].memory.all <= target.chip.memory else None


def _too_large(asked: Asked, program: Program, target: Target, own: list[jax.Device]) -> str:
    """What to tell of a program that does not fit: how many rows do, found by halving them."""
    rows = program.pieces or subject(program.recipe, program.settings)[1].batch.rows or rows_that_fill(own)
    of_each = 1 if program.pieces else target.devices
    wrong = f"{describe(program)} does not fit into the {target.chip.memory / 1e9:.0f} GB of {target.name}"
    fewer = rows
    while fewer > of_each:
        fewer = max(of_each, fewer // 2 // of_each * of_each)
        if _if_it_fits(asked, _with_rows(program, fewer), target, own) is not None:
            flag = "--pieces" if program.pieces else "--batch.rows"
            return f"{wrong}; {fewer} of {rows} rows do: {flag} {fewer}"
    return f"{wrong}, whatever its rows; give more chips, or a smaller --model.width"


def _with_rows(program: Program, rows: int) -> Program:
    if program.pieces:
        return replace(program, pieces=rows)
    return replace(program, settings={**program.settings, "batch.rows": rows})


def _empty(folder: str) -> None:
    """Kernels of two programs may have one name."""
    for path in Path(folder).iterdir() if folder else ():
        if path.is_file():
            path.unlink()


def _end_with_asker() -> None:
    """Nobody waits for what is compiled once standard input is closed."""
    while os.read(0, 1):
        pass
    os._exit(1)


def main() -> None:
    """Answer on what was standard output; what libtpu prints goes to standard error."""
    asked = Asked.from_json(json.loads(sys.argv[1]))
    threading.Thread(target=_end_with_asker, daemon=True).start()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for answer in answers(asked):
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
