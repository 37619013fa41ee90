"""Music around what is given: a melody is harmonised, bars and voices of a piece are written anew.

In: a model whose events are voices, and music that stays. Out: pieces, the likeliest first, each with its
nats. Times, keys and bar lines are those of the music. What stays may lie before, beside and after what is
written: `particles` heed all of it.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from midigen_jax.data.reading import digest_or_nothing, read_as
from midigen_jax.errors import InputError
from midigen_jax.files import make_folder, read_json, write_json
from midigen_jax.listen.tables import aligned, many
from midigen_jax.music.notes import Notes, make_notes, pitch_name
from midigen_jax.music.piece import Piece
from midigen_jax.music.sources import Source
from midigen_jax.music.write import SIGNATURE
from midigen_jax.progress import Progress
from midigen_jax.rows import Row, make, rewrite
from midigen_jax.sample.folder import CLAIM, check_claim, write_pieces
from midigen_jax.sample.formats import FORMATS, choose
from midigen_jax.sample.generate import (
    Generated,
    known_pitches,
    moved,
    moved_home,
    moved_words,
    names_of,
    seen_limits,
    unseen_pitches,
)
from midigen_jax.sample.particles import Given
from midigen_jax.sample.steering import Drawn, draw_piece, steering
from midigen_jax.sample.voices import given_voices, place_of, split_voices, tokens_of_voices, voices_of
from midigen_jax.train.checkpoint import LoadedModel
from midigen_jax.train.pretrained import load_model, name_of
from midigen_jax.vocab import Tokens, start_event

_BOUNDS: dict[str, tuple[float, float]] = {
    "count": (1, np.inf),
    "particles": (1, np.inf),
    "temperature": (0.01, 10),
    "proposal": (0.01, 10),
    "parallel": (-1000, 1000),
    "seed": (0, 2**32 - 1),
}


@dataclass(frozen=True)
class How:
    """How particles write."""

    count: int = 1
    """pieces, each by particles of its own"""
    particles: int = 64
    temperature: float = 1.0
    """of the model whose pieces are asked for: below 1 keeps to what is likely"""
    proposal: float = 0.9
    """times it is the temperature that is drawn at"""
    parallel: float = 3.0
    """nats that each pair of voices costs which moves in parallel fifths or octaves"""
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InputError for numbers that cannot be."""
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            if not least <= value <= most:
                beyond = "or more" if most == np.inf else f"to {most:,}"
                raise InputError(f"{name} = {value!r}: give {least:g} {beyond}")


class Around(NamedTuple):
    """Pieces around what was given, and what writing them took."""

    music: Generated
    nats: list[float]  # of each piece, from where writing began, with what is given in it, at temperature 1
    evidence: list[float]  # nats: how likely what is given is, as each run of particles estimates it
    effective: list[NDArray[np.float64]]  # of each run: at each stop, how many particles carried the weight
    quarters: float  # that nats are of


class _Task(NamedTuple):
    """What is to be written, as the model reads it; ticks count from the first note."""

    piece: Piece
    shift: int  # semitones from what is heard to what the model reads
    prompt: Tokens  # with <start>: what stands before
    begin: int  # the tick at which the prompt ends
    given: Given

    @property
    def onset(self) -> int:
        """The tick of the first note in the piece."""
        return int(self.piece.notes[:, 0].min())

    def bar_of(self, tick: int) -> int:
        """The number of the bar in which a tick after `begin` lies; an upbeat's is 0."""
        return self.piece.bar_of(tick + self.begin + self.onset)


def harmonise(
    restored: LoadedModel,
    melody: Piece,
    voice: str = "soprano",
    how: How | None = None,
    kept: Path | None = None,
) -> Around:
    """Pieces in which `melody` is one of the voices: soprano, alto, tenor, bass, or its number from above.

    A note that sounds a sixteenth or less into the next one is cut there. `kept` is a folder for pieces that
    are done, so that the same call goes on after an interruption. Raises InputError for a model without
    voices, for a melody that has several notes at once, for too many particles, and where none of them
    reaches the end.
    """
    vocabulary = restored.metadata.vocabulary
    place = place_of(vocabulary, voice)
    melody = _in_one_voice(melody)
    notes, shift = _at_home(restored, melody)
    notes = notes * np.array([1, 1, 1, 0], np.int32)  # one voice, whatever tracks it is in
    every = range(vocabulary.slice_events)
    length = int((notes[:, 0] + notes[:, 1]).max())
    voices = [notes if one == place else notes[:0] for one in every]
    given = given_voices(vocabulary, voices, {*every} - {place}, 0, length, length)
    given = given._replace(limits=seen_limits(restored))
    return _around(restored, _Task(melody, shift, start_event(vocabulary), 0, given), how or How(), kept)


def fill(
    restored: LoadedModel,
    piece: Piece,
    bars: tuple[int, int],
    names: Sequence[str] = (),
    how: How | None = None,
    kept: Path | None = None,
) -> Around:
    """A piece with some bars (first and last, an upbeat is bar 0) of some voices, or of all, written anew.

    Its tracks are the voices, as its file names them, or else as `split_voices` has them. A note that sounds
    on from before the bars is cut where they begin, and one that sounds on after them is struck where they
    end. Raises InputError as `harmonise` does, and for bars that are not there.
    """
    vocabulary = restored.metadata.vocabulary
    free = {place_of(vocabulary, name) for name in names} or {*range(voices_of(vocabulary))}
    notes, shift = _at_home(restored, piece)
    length = int((notes[:, 0] + notes[:, 1]).max())
    onset = int(piece.notes[:, 0].min())
    begin, stop = (tick - onset for tick in piece.bars(*bars))
    voices = split_voices(notes, vocabulary.slice_events, piece.voiced == vocabulary.slice_events)
    given = given_voices(vocabulary, voices, free, begin, stop, length)
    given = given._replace(limits=seen_limits(restored))
    prompt = tokens_of_voices(vocabulary, voices, begin)
    return _around(restored, _Task(piece, shift, prompt, begin, given), how or How(), kept)


def _at_home(restored: LoadedModel, piece: Piece) -> tuple[Notes, int]:
    """The notes as the model reads them, from tick 0, and how many semitones they were moved."""
    notes, shift = moved_home(restored, piece)
    if not len(notes):
        raise InputError("the piece holds no notes; give another one")
    if foreign := unseen_pitches(restored, notes):
        names = ", ".join(pitch_name(pitch - shift) for pitch in foreign)
        ends = (pitch_name(pitch - shift) for pitch in known_pitches(restored)[[0, -1]].tolist())
        raise InputError(
            f"no training piece of the model has {names}; move the music into its range, {' to '.join(ends)}"
        )
    return notes - np.array([notes[:, 0].min(), 0, 0, 0], np.int32), shift


def _around(restored: LoadedModel, task: _Task, how: How, kept: Path | None) -> Around:
    vocabulary, given, piece = restored.metadata.vocabulary, task.given, task.piece
    steered = steering(vocabulary, how.temperature, how.proposal, how.parallel)
    begin = task.onset - piece.first_bar
    found: list[Drawn] = []
    with Progress("writing", how.count, "pieces") as progress:
        for number in range(how.count):
            drawn = _read_drawn(kept, number)
            if drawn is None:
                key = jax.random.fold_in(jax.random.key(how.seed), number)
                drawn = draw_piece(
                    restored, task.prompt, begin, given, steered, key, how.particles, task.bar_of
                )
                _keep_drawn(kept, number, drawn)
            found.append(drawn)
            progress.advance()
    found.sort(key=lambda one: one.nats)
    heard = [vocabulary.decode(np.concatenate([task.prompt, one.tokens]), trim=False) for one in found]
    music = Generated(
        [moved(notes, -task.shift, task.onset) for notes in heard],
        sum(len(one.tokens) for one in found),
        how.count,
        sum(one.seconds for one in found),
        sum(one.compile_seconds for one in found),
        piece.tempo,
        piece.meter,
        piece.program,
        piece.first_bar,
        vocabulary.clock,
        names=names_of(vocabulary),
        remarks=moved_words(piece),
        signature=piece.signature,
    )
    return Around(
        music,
        [one.nats for one in found],
        [one.evidence for one in found],
        [one.effective for one in found],
        vocabulary.clock.quarters(int(given.end)),
    )


def _read_drawn(kept: Path | None, number: int) -> Drawn | None:
    """A piece that was drawn before, if there is one."""
    file = kept and kept / f"{number + 1}.json"
    if file is None or not file.is_file():
        return None
    row = read_json(file, "remove it")
    row |= {"tokens": np.array(row["tokens"], np.int32), "effective": np.array(row["effective"])}
    return Drawn(**row)


def _keep_drawn(kept: Path | None, number: int, drawn: Drawn) -> None:
    if kept is not None:
        arrays = {"tokens": drawn.tokens.tolist(), "effective": drawn.effective.tolist()}
        write_json(kept / f"{number + 1}.json", drawn._asdict() | arrays)


def _in_one_voice(melody: Piece) -> Piece:
    """A melody whose notes end where the next one begins. Raises InputError where several sound at once."""
    onset, duration, pitch, track = melody.notes.T
    if not len(onset):
        raise InputError("the melody holds no notes; give another one")
    room = np.append(np.diff(onset), duration[-1])
    beyond = duration - room
    both = np.flatnonzero((room == 0) | (beyond > melody.clock.quarter // 4))
    if len(both):
        first = int(both[0])
        names = " and ".join(pitch_name(one) for one in pitch[first : first + 2].tolist())
        remedy = "give one voice alone"
        if len(np.unique(track)) > 1:
            remedy = "choose a track: --tracks melody, or 1, 2 …"
        elif melody.moved:
            remedy += f", in notes of the model's grid: {melody.moved} of {len(onset)} were moved to it"
        raise InputError(
            f"two notes at once in bar {melody.bar_of(int(onset[first]))} of the melody ({names}); {remedy}"
        )
    return replace(melody, notes=make_notes(onset, np.minimum(duration, room), pitch, track))


def write_around(
    source: Source,
    folder: Path,
    model: str,
    tracks: str,
    asked: Mapping[str, Any],
    how: How,
    formats: Sequence[str] | None = None,
) -> list[str]:
    """Write music around the file `source` into `folder`, and say in words what was written.

    `asked` has the `voice` of a melody, or the `bars` and `voices` that are written anew; `formats` are as
    in `write_music`. A folder of the same settings is filled where files are missing. Raises InputError for a
    folder of anything else, for formats of what is not installed, and as `harmonise` and `fill` do.
    """
    formats, said = choose(formats, how.count)
    loaded = load_model(model)
    digest = digest_or_nothing(source)
    settings: dict[str, Any] = {"model": name_of(model), "checkpoint": loaded.digest}
    settings |= {"file": [source.name, digest, tracks], "asked": dict(asked), "particles": asdict(how)}
    check_claim(folder, settings)
    piece = read_as(source, replace(loaded.metadata.config.prepare, tracks=tracks))
    is_new = not folder.exists()
    make_folder(folder)
    kept = folder / f".drawn-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]}"
    try:
        if "bars" in asked:
            made = fill(loaded, piece, asked["bars"], asked["voices"], how, kept)
        else:
            made = harmonise(loaded, piece, asked["voice"], how, kept)
    except InputError:
        shutil.rmtree(kept, ignore_errors=True)
        if is_new:
            folder.rmdir()
        raise
    write_json(folder / CLAIM, settings)
    origin = f"{SIGNATURE}: around {source.name}, by {name_of(model)}, seed {how.seed}"
    write_pieces(folder, made.music, lambda number: [f"{origin}, piece {number + 1}"], formats)
    rewrite(folder / "rows.jsonl", rows_of(made, settings))
    shutil.rmtree(kept, ignore_errors=True)
    heads = [f"{number}{FORMATS[formats[0]].suffix}" for number in range(1, how.count + 1)]
    told = [f"{nats / made.quarters:.2f} nats a quarter" for nats in made.nats]
    few = min(float(effective.min()) for effective in made.effective)
    took = f"{made.music.seconds:.1f} s, compiling {made.music.compile_seconds:.1f} s"
    return [
        *aligned(list(zip(heads, told, strict=True))),
        f"{many(how.count, 'piece')} in {folder} ({took}).",
        f"At worst {few:.1f} of {how.particles} particles carried the weight.",
        *made.music.remarks,
        *said,
    ]


def rows_of(made: Around, settings: dict[str, Any]) -> list[Row]:
    """What writing took and gave."""
    pieces = len(made.nats)
    values = [
        ("particles.seconds", round(made.music.seconds / pieces, 3), "s/piece"),
        ("particles.compile_seconds", round(made.music.compile_seconds, 3), "s"),
        ("particles.nats", round(float(np.mean(made.nats)), 3), "nats/piece"),
        ("particles.evidence", round(float(np.mean(made.evidence)), 3), "nats/piece"),
        ("particles.ess", round(float(np.median(np.concatenate(made.effective))), 2), "particles"),
    ]
    return [make(name, value, unit, config=settings) for name, value, unit in values]
