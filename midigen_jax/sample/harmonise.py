"""A melody in, pieces out in which it stands: the other voices are written around it by particles.

In: a model whose events are voices, a melody, which voice it is. Out: pieces, the likeliest first, each with
its nats. Times, keys and bar lines are those of the melody.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from midigen_jax.data.reading import digest_or_nothing, read_as
from midigen_jax.errors import InputError
from midigen_jax.files import make_folder, write_json
from midigen_jax.listen import what_is_missing
from midigen_jax.listen.tables import aligned, many
from midigen_jax.model.network import Network, init_params
from midigen_jax.music.notes import Notes, pitch_name
from midigen_jax.music.piece import Piece
from midigen_jax.music.voices import SILENT, voice_grid
from midigen_jax.progress import Progress
from midigen_jax.rows import Row, make, rewrite
from midigen_jax.sample.decode import Prompt
from midigen_jax.sample.folder import CLAIM, check_claim, find_prompt, write_pieces
from midigen_jax.sample.generate import Generated, moved, moved_home
from midigen_jax.sample.particles import FREE, NEVER, Given, Steering, Written, write_particles
from midigen_jax.train.checkpoint import LoadedModel
from midigen_jax.train.pretrained import load_model, name_of
from midigen_jax.vocab import Tokens, Vocabulary, by_stream, start_event, to_tokens
from midigen_jax.vocab.base import END, START, IdTable
from midigen_jax.vocab.traced import pitch_stream

VOICES = {"soprano": -1, "alto": -2, "tenor": -3, "bass": 0}
"""names of the voices of four, and their places from the lowest up"""

_TICKS, _STOPS, _EVENTS = 768, 64, 512  # shapes are filled up to multiples: fewer are compiled
_MOST_BYTES = 4 << 30  # that particles may remember


class Harmonised(NamedTuple):
    """Pieces around a melody, and what writing them took."""

    music: Generated
    nats: list[float]  # of each piece, its melody among it, at temperature 1
    evidence: list[float]  # nats: how likely the melody is, as each run of particles estimates it
    effective: list[NDArray[np.float64]]  # of each run: at each stop, how many particles carried the weight


def harmonise(
    restored: LoadedModel,
    melody: Piece,
    *,
    voice: str = "soprano",
    count: int = 1,
    particles: int = 256,
    temperature: float = 1.0,
    proposal: float = 0.9,
    parallel: float = 3.0,
    seed: int = 0,
) -> Harmonised:
    """Write `count` pieces in which `melody` is one of the voices, each by as many `particles`.

    voice: soprano, alto, tenor or bass, or its number from the highest. parallel: nats that each pair of
    voices costs which moves in parallel fifths or octaves. Raises InputError for a model without voices, for
    a melody that has several notes at once, for too many particles, and where none of them reaches the end.
    """
    vocabulary, experiment = restored.metadata.vocabulary, restored.metadata
    place = _place(vocabulary, voice)
    _check_melody(melody)
    notes, shift = moved_home(restored, melody)
    onset = int(notes[:, 0].min())
    notes = notes - np.array([onset, 0, 0, 0], np.int32)
    given = given_voices(vocabulary, {place: notes}, int((notes[:, 0] + notes[:, 1]).max()))
    rows, events = particles, _budget(restored.network, given)
    _check_memory(restored.network, rows, events)
    pad = start_event(vocabulary)
    prompt = Prompt(jax.tree.map(jnp.asarray, by_stream(vocabulary, pad[None])), jnp.ones((1, 1), bool))
    steering = Steering(
        {name: jnp.float32(temperature) for name, _ in vocabulary.streams},
        jnp.float32(proposal),
        jnp.float32(0.5),
        jnp.float32(parallel),
    )
    begin = jnp.int32(onset - melody.first_bar)
    found: list[tuple[float, Notes, Written]] = []
    seconds, key, begun = 0.0, jax.random.key(seed), time.perf_counter()
    shape = len(given.id_TV), len(given.stop_S)
    program = _program(restored.network, rows, events, experiment.knows_bar_lines, *shape)
    compile_seconds = time.perf_counter() - begun
    with Progress("harmonising", count, "pieces") as progress:
        for number in range(count):
            begun = time.perf_counter()
            own = jax.random.fold_in(key, number)
            written = jax.device_get(program(restored.params, prompt, begin, given, steering, own))
            _check_alive(written, given, melody)
            row = int(jax.random.categorical(jax.random.fold_in(own, rows), jnp.asarray(written.weight_B)))
            tokens = _tokens(vocabulary, written, row)
            heard = moved(vocabulary.decode(tokens, trim=False), -shift, onset)
            found.append((float(written.nats_B[row]), heard, written))
            seconds += time.perf_counter() - begun
            progress.advance()
    found.sort(key=lambda one: one[0])
    music = Generated(
        [heard for _, heard, _ in found],
        sum(int(written.length_B.sum()) for *_, written in found),
        count,
        seconds,
        compile_seconds,
        melody.tempo,
        melody.meter,
        melody.program,
        melody.first_bar,
        vocabulary.clock,
    )
    each = [written for *_, written in found]
    return Harmonised(
        music,
        [nats for nats, *_ in found],
        [float(written.evidence) for written in each],
        [np.asarray(written.effective_S, np.float64)[: int(written.stops)] for written in each],
    )


@lru_cache(maxsize=16)
def _program(network: Network, rows: int, events: int, bars: bool, times: int, stops: int) -> Any:
    """`write_particles`, compiled: once for melodies that are about as long."""

    def like(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    number, nats, key = like(jnp.int32), like(jnp.float32), jax.eval_shape(lambda: jax.random.key(0))
    names = [name for name, _ in network.vocabulary.streams]
    return write_particles.lower(
        network,
        jax.eval_shape(partial(init_params, network), key),
        Prompt(dict.fromkeys(names, like(jnp.int32, 1, 1)), like(bool, 1, 1)),
        number,
        Given(like(jnp.int32, times, network.vocabulary.slice_events), like(jnp.int32, stops), number),
        Steering(dict.fromkeys(names, nats), nats, nats, nats),
        key,
        rows=rows,
        events=events,
        bars=bars,
    ).compile()


def given_voices(vocabulary: Vocabulary, voices: dict[int, Notes], length: int) -> Given:
    """What particles are held to: these voices, by their place from the lowest, for `length` ticks.

    Notes of a voice are one at a time; where they are silent, it rests.
    """
    table = vocabulary.tables[pitch_stream(vocabulary.tables)]
    id_TV = np.full((length, vocabulary.slice_events), FREE, np.int32)
    stops = {length}
    for place, notes in voices.items():
        cuts, pitch_S1, struck_S1 = voice_grid(notes, 1, length)
        stops |= {*cuts[1:].tolist()}
        spans = zip(
            cuts[:-1].tolist(),
            cuts[1:].tolist(),
            pitch_S1[:, 0].tolist(),
            struck_S1[:, 0].tolist(),
            strict=True,
        )
        for begin, end, pitch, is_struck in spans:
            id_TV[begin:end, place] = _id_of(table, pitch, True)
            id_TV[begin : begin + is_struck, place] = _id_of(table, pitch, False)
    return padded(id_TV, sorted(stops), length)


def padded(id_TV: NDArray[np.int32], stops: Sequence[int], end: int) -> Given:
    """As arrays whose shapes few programs share."""
    times = -(-len(id_TV) // _TICKS) * _TICKS
    count = -(-(len(stops) + 1) // _STOPS) * _STOPS
    return Given(
        jnp.asarray(np.pad(id_TV, ((0, times - len(id_TV)), (0, 0)), constant_values=FREE)),
        jnp.asarray(np.pad(np.array(stops, np.int32), (0, count - len(stops)), constant_values=NEVER)),
        jnp.int32(end),
    )


def _id_of(table: IdTable, pitch: int, held: bool) -> int:
    """The id of a pitch that sounds on or is struck; of silence, that of a rest."""
    midi = table.midi
    assert midi is not None
    if pitch == SILENT:
        silent = ~table.sounds.any(axis=1) & ~table.unknown
        silent[[START, END]] = False
        return int(np.flatnonzero(silent)[0])
    return int(np.flatnonzero((midi == pitch) & (table.held == held))[0])


def _place(vocabulary: Vocabulary, voice: str) -> int:
    """The place of a voice, from the lowest up."""
    voices = vocabulary.slice_events
    if voices < 2 or vocabulary.tables[pitch_stream(vocabulary.tables)].midi is None:
        raise InputError(
            f"the model writes {vocabulary.name} events, which have no voices; give pretrained:chorales, or "
            "prepare a corpus with --voices 4 and train on it"
        )
    if voice.isdecimal() and 1 <= int(voice) <= voices:
        return voices - int(voice)
    if voices == 4 and voice in VOICES:
        return VOICES[voice] % voices
    named = f"{', '.join(VOICES)}, or " if voices == 4 else ""
    raise InputError(f"--voice {voice}: give {named}1 (the highest) to {voices}")


def _check_melody(melody: Piece) -> None:
    """Raises InputError where several notes sound at once."""
    onset, duration, pitch, _ = melody.notes.T
    if not len(onset):
        raise InputError("the melody holds no notes; give another one")
    early = np.flatnonzero(onset[1:] < (onset + duration)[:-1])
    if len(early):
        bar = (int(onset[early[0] + 1]) - melody.first_bar) // melody.clock.bar(melody.meter) + 1
        names = f"{pitch_name(int(pitch[early[0]]))} and {pitch_name(int(pitch[early[0] + 1]))}"
        raise InputError(
            f"two notes at once in bar {bar} of the melody ({names}); give one voice, as with --tracks melody"
        )


def _budget(network: Network, given: Given) -> int:
    """Events that a piece may have: a slice for every stop and two more a quarter."""
    stops = int((given.stop_S < NEVER).sum())
    quarters = int(given.end) / network.vocabulary.clock.quarter
    slices = network.vocabulary.slice_events * (stops + 2 * int(quarters) + 1) + 1
    return -(-slices // _EVENTS) * _EVENTS


def _check_memory(network: Network, rows: int, events: int) -> None:
    """Raises InputError for more particles than memory should hold."""
    carry = jax.tree.leaves(jax.eval_shape(lambda: network.initial_carry(1)))
    # What is remembered lies there twice while rows are drawn anew.
    each = 2 * sum(leaf.size * leaf.dtype.itemsize for leaf in carry) + 8 * events * len(
        network.vocabulary.streams
    )
    if rows * each > _MOST_BYTES:
        raise InputError(
            f"--particles {rows}: need {rows * each / 2**30:.1f} GiB; give {_MOST_BYTES // each} or fewer"
        )


def _check_alive(written: Written, given: Given, melody: Piece) -> None:
    """Raises InputError, with the bar, where no particle reached the end."""
    if np.isfinite(written.weight_B).any():
        return
    stop = int(np.asarray(given.stop_S)[max(int(written.stops) - 1, 0)])
    tick = min(stop, int(given.end)) + int(melody.notes[:, 0].min())
    bar = (tick - melody.first_bar) // melody.clock.bar(melody.meter) + 1
    raise InputError(
        f"no particle got beyond bar {bar}: the model finds the melody impossible there; give more "
        "--particles, or another --voice"
    )


def _tokens(vocabulary: Vocabulary, written: Written, row: int) -> Tokens:
    """(E, S) what one particle wrote."""
    events = {name: ids_BE[row] for name, ids_BE in written.events.items()}
    return to_tokens(vocabulary, events)[: int(written.length_B[row])]


def write_harmonies(melody: str, folder: Path, model: str, tracks: str, **settings: Any) -> list[str]:
    """Harmonise a file into `folder`; `settings` are those of `harmonise`. Returns in words what was written.

    A folder of the same settings is filled where files are missing. Raises InputError for a folder of
    anything else, and as `harmonise` does.
    """
    loaded, source = load_model(model), find_prompt(melody, "MELODY")
    made_with = {
        "model": name_of(model),
        "checkpoint": loaded.digest,
        "melody": [source.name, digest_or_nothing(source), tracks],
        "harmonise": settings,
    }
    check_claim(folder, made_with)
    piece = read_as(source, replace(loaded.metadata.config.prepare, tracks=tracks))
    make_folder(folder)
    made = harmonise(loaded, piece, **settings)
    write_json(folder / CLAIM, made_with)
    origin = f"midigen-jax: {source.name}, harmonised by {name_of(model)}, seed {settings['seed']}"
    write_pieces(folder, made.music, lambda number: [f"{origin}, piece {number + 1}"])
    rewrite(folder / "rows.jsonl", rows_of(made, made_with))
    begin, end = piece.notes[:, 0].min(), (piece.notes[:, 0] + piece.notes[:, 1]).max()
    quarters = piece.clock.quarters(int(end - begin))
    heads = [f"{number}.mid" for number in range(1, len(made.nats) + 1)]
    told = [f"{nats / quarters:.2f} nats a quarter" for nats in made.nats]
    few, rows = min(float(effective.min()) for effective in made.effective), settings["particles"]
    took = f"{made.music.seconds:.1f} s, compiling {made.music.compile_seconds:.1f} s"
    return [
        *aligned(list(zip(heads, told, strict=True))),
        f"{many(len(heads), 'piece')} in {folder} ({took}).",
        f"At worst {few:.1f} of {rows} particles carried the weight.",
        *what_is_missing(),
    ]


def rows_of(made: Harmonised, settings: dict[str, Any]) -> list[Row]:
    """What harmonising took and gave."""
    pieces = len(made.nats)
    values = [
        ("particles.seconds", round(made.music.seconds / pieces, 3), "s/piece"),
        ("particles.compile_seconds", round(made.music.compile_seconds, 3), "s"),
        ("particles.nats", round(float(np.mean(made.nats)), 3), "nats/piece"),
        ("particles.evidence", round(float(np.mean(made.evidence)), 3), "nats/piece"),
        ("particles.ess", round(float(np.median(np.concatenate(made.effective))), 2), "particles"),
    ]
    return [make(name, value, unit, config=settings) for name, value, unit in values]
