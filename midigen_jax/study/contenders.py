"""The benchmark of decoding from what is asked for to its rows: who writes, beside whom, in which order.

In: a run, settings of fresh weights, or a step of somebody else's; sizes of a batch; rivals or none. Out: the
figures of each size as soon as they are there. Cold starts are measured first, by processes of their own:
later this one has the device.
"""

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from midigen_jax import rows
from midigen_jax.config import Config, ContextConfig, flatten, override, to_json
from midigen_jax.errors import InputError
from midigen_jax.listen import check_installed
from midigen_jax.listen.rates import draw_rates
from midigen_jax.recipes import pooling_article, read_config
from midigen_jax.study import decode_rows, decoding, first_note
from midigen_jax.study.step_model import StepModel, load_step_model
from midigen_jax.study.subject import Subject, fresh, trained
from midigen_jax.train.pretrained import load_model, name_of


def measure_decoding(
    run: str | None,
    model: str | None,
    config: str | None,
    settings: Mapping[str, Any],
    peers: str | None,
    batches: Sequence[int] | None,
    events: int,
    quick: bool,
    plot: str | None,
) -> Iterator[rows.Finding]:
    """How fast a run writes, or the step `model`, or else fresh weights: `events` events of each piece.

    Fresh weights are of the named `config`, or of the article's network, with other `settings`; so is a run's
    compute dtype. `peers` is a folder of rivals, `plot` a file for a picture of all sizes of a batch. Raises
    InputError where two are to write, and for what is not there.
    """
    if plot is not None:
        if Path(plot).suffix not in (".png", ".svg"):
            raise InputError(f"--plot {plot}: give a file that ends in .png or .svg")
        check_installed()
    settings = network_settings(run, model, config, settings)
    if model is not None:
        others = {"RUN": run, "--peers": peers} | {f"--{name}": name for name in sorted(settings)}
        if given := [name for name, value in others.items() if value is not None]:
            raise InputError(f"--model {model}: is measured alone; leave {given[0]} out")
    find_rivals = None if peers is None else rivals_in(peers)
    batches = batches or ((1, 64) if quick else (1, 64, 256, 1024))
    seconds, times = (0.1, 1) if quick else (0.5, 5)
    step = None if model is None else load_step_model(model)
    waits: dict[str, list[float]] = {}
    if 1 in batches:
        waits = first_note.starts(first_note.Start(run, model, settings), times)
    writes = step or _subject(run, settings)
    measured = list[rows.Row]()
    with nullcontext() if find_rivals is None else find_rivals(writes, seconds, events) as everybody:
        for batch in batches:
            with nullcontext({}) if everybody is None else everybody.at(batch) as rivals:
                if isinstance(writes, StepModel):
                    figures = decoding.bench_step(writes, batch, events, seconds)
                else:
                    rounds = {name: rival.round for name, rival in rivals.items()}
                    figures = decoding.bench_decode(writes, batch, events, rounds, seconds)
            if batch == 1:
                figures = figures._replace(first={**waits, **figures.first})
            found = decode_rows.rows_of(writes, figures, rivals)
            yield rows.Finding([f"batch {batch}", *rows.in_words(found), decode_rows.line_of(found)], found)
            measured += found
    if plot is not None:
        draw_rates(measured, Path(plot))
        yield rows.Finding([f"Plot in {plot}."])


def network_settings(
    run: str | None, model: str | None, config: str | None, settings: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The settings of what writes, in which it differs from the article's network, or from the run's.

    Raises InputError for those that it cannot have.
    """
    if config is not None:
        if run is not None or model is not None:
            raise InputError("bench decode: --config is of fresh weights; leave it out, or RUN and --model")
        network = read_config(config).model
        if network.context != ContextConfig():
            raise InputError(
                f"bench decode: --config {config} has model.context, and fresh weights write chords; "
                "give a RUN of it, or another config"
            )
        return flatten({"model": to_json(network)}) | dict(settings)
    others = sorted(set(settings) - {"model.compute_dtype"})
    if run is not None and model is None and others:
        raise InputError(f"{run}: has a model of its own; leave --{others[0]} out, or RUN")
    return settings


def rivals_in(folder: str) -> Any:
    """The context manager around the rivals in a folder, which the repository has and the package has not."""
    place = Path(folder).resolve()
    if not (place / "decode.py").is_file():
        raise InputError(
            f"--peers {folder}: no rivals there; they are in scripts/rivals of the repository, "
            "and not in the package"
        )
    sys.path.insert(0, str(place.parent))
    return importlib.import_module(f"{place.name}.decode").Peers


def _subject(run: str | None, settings: Mapping[str, Any]) -> Subject:
    if run is None:
        return fresh(override(Config(model=pooling_article()), settings).model)
    return trained(load_model(run), name_of(run), settings)
