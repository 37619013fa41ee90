"""Music as a folder of files, and what it was made with, so that it can be made again.

In: a model, settings of sampling, a prompt or none; or a MIDI file whose piece is made again. Out: in the
folder `1.mid`, `1.musicxml`, `1.mp3`, `1.png`, `2.mid` …, `settings.json` and `rows.jsonl`.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from midigen_jax import rows
from midigen_jax.config import Config, SampleConfig, override, to_json
from midigen_jax.data.reading import digest_or_nothing, read_as
from midigen_jax.errors import InputError
from midigen_jax.files import check_folder, make_folder, read_json, write_json
from midigen_jax.listen.tables import many
from midigen_jax.music.piece import Piece
from midigen_jax.music.sources import Source, find_sources
from midigen_jax.music.write import SIGNATURE
from midigen_jax.progress import Progress
from midigen_jax.sample.formats import FORMATS, choose, write_piece
from midigen_jax.sample.generate import Generated, check_sample, generate
from midigen_jax.sample.recipe import Recipe, read_recipe, relative
from midigen_jax.train.checkpoint import LoadedModel
from midigen_jax.train.pretrained import is_folder, load_model, name_of

CLAIM = "settings.json"  # what the music in a folder was made with


def write_music(
    run: str | None,
    folder: Path,
    changes: Mapping[str, Any],
    prompt: str | None = None,
    checkpoint: str | None = None,
    like: str | None = None,
    tracks: str | None = None,
    formats: Sequence[str] | None = None,
) -> list[str]:
    """Write music with a model into `folder`; returns in words what was written.

    `changes` are dotted names of `Config`, of the defaults or of what made the MIDI file `like`; that file
    also says the run, the checkpoint and the prompt, where they are not given. `formats` are of `FORMATS`;
    None is what suits so many pieces. A folder of the same settings is filled where files are missing. Raises
    InputError for a folder of anything else, for a model or a prompt that did not make `like`, for formats
    of what is not installed, and as `load_model` and `generate` do.
    """
    asked = _Asked(run, prompt, tracks, checkpoint or "best", SampleConfig())
    if like is not None:
        asked = _like(Path(like), asked._replace(checkpoint=checkpoint or ""))
    config = override(Config(sample=asked.config), changes).sample
    if asked.run is None:
        raise InputError(
            "generate: RUN is missing; give a run's folder or address, pretrained:NAME, or --like FILE.mid"
        )
    check_sample(config)
    formats, told = choose(formats, config.count if like is None else 1)
    loaded, name = load_model(asked.run, asked.checkpoint), name_of(asked.run)
    prompt, bars = bars_of(asked.prompt)
    source = None if prompt is None else find_prompt(prompt)
    digest = None if source is None else digest_or_nothing(source)
    settings = {
        "run": name,
        "step": loaded.step,
        "checkpoint": loaded.digest,
        "prompt": source and [source.name, digest, *(bars or ()), *filter(None, [asked.tracks])],
        "sample": to_json(config),
    }
    only = None
    if asked.recipe is not None:
        only = _piece(asked.recipe, str(like), loaded.digest, digest, config)
        settings["piece"] = only + 1
    check_claim(folder, settings)
    piece = None if source is None else _read_prompt(source, loaded, bars, asked.tracks)
    make_folder(folder)
    music = generate(loaded, config, piece, only)
    write_json(folder / CLAIM, settings)
    origin = relative(Path(asked.run), folder) if is_folder(asked.run) else asked.run
    place = None if prompt is None else relative(Path(prompt), folder) + _said_bars(bars)
    made = origin, loaded.step, loaded.digest, only or 0, config, place, digest
    recipe = Recipe(*made, tracks=asked.tracks)
    write_pieces(folder, music, partial(text_of, recipe, name), formats, recipe.piece)
    rows.rewrite(folder / "rows.jsonl", rows_of(music, settings))
    lines = [
        f"{many(len(music.pieces), 'piece')} in {folder} (step {loaded.step}, {music.events:,} events at "
        f"{music.events / music.seconds:,.0f} a second; {music.ended} came to an end of their own)."
    ]
    if silent := sum(len(notes) == 0 for notes in music.pieces):
        lines.append(f"{many(silent, 'piece')} without a note: give another --seed, or other pitches.")
    return [*music.remarks, *lines, *told]


def bars_of(prompt: str | None) -> tuple[str | None, tuple[int, int] | None]:
    """`song.mid:1-8` as the file and its bars; a file of that very name is itself."""
    match = re.fullmatch(r"(.+):(\d+)-(\d+)", prompt or "")
    if match is None or Path(match[0]).exists():
        return prompt, None
    return match[1], (int(match[2]), int(match[3]))


def _said_bars(bars: tuple[int, int] | None) -> str:
    return "" if bars is None else f":{bars[0]}-{bars[1]}"


def _read_prompt(
    source: Source, loaded: LoadedModel, bars: tuple[int, int] | None, tracks: str | None
) -> Piece:
    settings = loaded.metadata.config.prepare
    piece = read_as(source, settings if tracks is None else replace(settings, tracks=tracks))
    return piece if bars is None else piece.excerpt(*bars)


class _Asked(NamedTuple):
    run: str | None
    prompt: str | None
    tracks: str | None
    checkpoint: str
    config: SampleConfig
    recipe: Recipe | None = None


def _like(like: Path, given: _Asked) -> _Asked:
    """What made a MIDI file, but for what is given."""
    recipe = read_recipe(like)
    known = str(like.parent / recipe.run) if is_folder(recipe.run) else recipe.run
    if given.run is None and is_folder(known) and not Path(known).exists():
        raise InputError(f"{like}: the run that made it is not at {known}; give RUN besides")
    prompt = given.prompt
    if recipe.prompt is not None:
        _, bars = bars_of(recipe.prompt)
        if prompt is None:
            prompt = str(like.parent / recipe.prompt)
        elif bars_of(prompt)[1] is None:
            prompt += _said_bars(bars)
    checkpoint, tracks = given.checkpoint or str(recipe.step), given.tracks or recipe.tracks
    return _Asked(given.run or known, prompt, tracks, checkpoint, recipe.sample, recipe)


def _piece(recipe: Recipe, like: str, checkpoint: str, prompt: str | None, config: SampleConfig) -> int:
    """The piece that is to be made again. Raises InputError where another model or prompt made it."""
    if checkpoint != recipe.checkpoint:
        raise InputError(f"{like}: made with another checkpoint of step {recipe.step}; give its own RUN")
    if recipe.prompt_digest not in (None, prompt):
        raise InputError(f"{like}: made with another prompt; give the same one as --prompt")
    if recipe.piece >= config.count:
        raise InputError(
            f"sample.count = {config.count}: {like} is piece {recipe.piece + 1}; leave --count out"
        )
    return recipe.piece


def find_prompt(prompt: str, said: str = "--prompt") -> Source:
    """The file to go on from; `said` is what names it. Raises InputError where that is not one piece."""
    if not prompt:
        raise InputError(f"{said}: is empty; give a file")
    sources = find_sources([prompt])
    if len(sources) != 1:
        raise InputError(f"{said} {prompt}: {len(sources)} pieces; give a file with one")
    return sources[0]


def text_of(recipe: Recipe, run: str, number: int) -> tuple[str, str]:
    """What the file of a piece carries: in words what made it, and the recipe by which to make it again."""
    origin = f"{SIGNATURE}: {run}, step {recipe.step}, seed {recipe.sample.seed}, piece {number + 1}"
    return origin, replace(recipe, piece=number).text()


def write_pieces(
    folder: Path,
    music: Generated,
    text: Callable[[int], Sequence[str]],
    formats: Sequence[str],
    first: int = 0,
) -> None:
    """`1.mid`, `1.musicxml`, …, `2.mid` …, from number `first` (from 0) on, as far as they are missing.

    `text` says what the file of a piece carries, given its number; `formats` are of `FORMATS`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with Progress("writing", len(music.pieces), "pieces") as progress:
        for number, piece in enumerate(music.whole(), start=first):
            for name in formats:
                place = folder / f"{number + 1}{FORMATS[name].suffix}"
                # One that is there is whole: a cut command writes the others.
                if not place.is_file():
                    write_piece(piece, place, music.names, music.key, text(number))
            progress.advance()


def rows_of(music: Generated, settings: dict[str, Any]) -> list[rows.Row]:
    """What writing the music took."""
    values = [
        ("sample.events", music.events, "events"),
        ("sample.ended", music.ended, "pieces"),
        ("sample.events_per_s", round(music.events / music.seconds, 1), "events/s"),
        ("sample.compile_seconds", round(music.compile_seconds, 3), "s"),
    ]
    return [rows.make(name, value, unit, config=settings) for name, value, unit in values]


def check_claim(folder: Path, settings: dict[str, Any]) -> None:
    """Raises InputError if `folder` holds anything but music of these settings."""
    if not (folder / CLAIM).is_file():
        check_folder(folder)
    elif read_json(folder / CLAIM, "give another --out") != json.loads(json.dumps(settings)):
        raise InputError(f"{folder}: holds music made with other settings; give another --out")
