"""Music around what is given: a melody is harmonised, bars and voices of a piece are written anew.

In: a model whose events are voices, and music that stays. Out: pieces, the likeliest first, each with its
nats. Times, keys and bar lines are those of the music. What stays may lie before, beside and after what is
written: `particles` heed all of it.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise
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
from midigen_jax.music.notes import Notes, make_notes, pitch_name
from midigen_jax.music.piece import Piece
from midigen_jax.music.sources import Source
from midigen_jax.music.voices import SILENT, by_voice, voice_grid
from midigen_jax.progress import Progress
from midigen_jax.rows import Row, make, rewrite
from midigen_jax.sample.decode import Prompt
from midigen_jax.sample.folder import CLAIM, check_claim, write_pieces
from midigen_jax.sample.generate import Generated, bytes_a_row, moved, moved_home, prompt_of, tokens_of
from midigen_jax.sample.particles import FREE, NEVER, Given, Steering, Written, write_particles
from midigen_jax.train.checkpoint import LoadedModel
from midigen_jax.train.pretrained import load_model, name_of
from midigen_jax.vocab import Tokens, Vocabulary, start_event
from midigen_jax.vocab.base import END, START, IdTable
from midigen_jax.vocab.traced import pitch_stream

VOICES = {"soprano": -1, "alto": -2, "tenor": -3, "bass": 0}
"""names of the voices of four, and their places from the lowest up"""

_TICKS, _STOPS, _EVENTS = 768, 64, 512  # shapes are filled up to multiples: fewer are compiled
_MOST_BYTES = 4 << 30  # that particles may remember


@dataclass(frozen=True)
class How:
    """How particles write."""

    count: int = 1
    """pieces, each by particles of its own"""
    particles: int = 256
    temperature: float = 1.0
    """of the model whose pieces are asked for: below 1 keeps to what is likely"""
    proposal: float = 0.9
    """times it is the temperature that is drawn at"""
    parallel: float = 3.0
    """nats that each pair of voices costs which moves in parallel fifths or octaves"""
    seed: int = 0


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
        bar = self.piece.clock.bar(self.piece.meter)
        return (tick + self.begin + self.onset - self.piece.first_bar) // bar + 1


def harmonise(restored: LoadedModel, melody: Piece, voice: str = "soprano", how: How | None = None) -> Around:
    """Pieces in which `melody` is one of the voices: soprano, alto, tenor, bass, or its number from above.

    Raises InputError for a model without voices, for a melody that has several notes at once, for too many
    particles, and where none of them reaches the end.
    """
    vocabulary = restored.metadata.vocabulary
    place = _place(vocabulary, voice)
    _check_melody(melody)
    notes, shift = _at_home(restored, melody)
    notes = notes * np.array([1, 1, 1, 0], np.int32)  # one voice, whatever tracks it is in
    every = range(vocabulary.slice_events)
    length = int((notes[:, 0] + notes[:, 1]).max())
    voices = [notes if one == place else notes[:0] for one in every]
    given = given_voices(vocabulary, voices, {*every} - {place}, 0, length, length)
    return _around(restored, _Task(melody, shift, start_event(vocabulary), 0, given), how or How())


def fill(
    restored: LoadedModel,
    piece: Piece,
    bars: tuple[int, int],
    names: Sequence[str] = (),
    how: How | None = None,
) -> Around:
    """A piece with some bars (first and last, an upbeat is bar 0) of some voices, or of all, written anew.

    Its tracks are the voices, by their mean pitch.

    A note that sounds on from before them is cut where they begin, and one that sounds on after them is
    struck where they end. Raises InputError as `harmonise` does, and for bars that are not there.
    """
    vocabulary = restored.metadata.vocabulary
    free = {_place(vocabulary, name, "--voices") for name in names} or {*range(voices_of(vocabulary))}
    notes, shift = _at_home(restored, piece)
    length = int((notes[:, 0] + notes[:, 1]).max())
    bar = piece.clock.bar(piece.meter)
    first_line = piece.first_bar - int(piece.notes[:, 0].min())  # from the first note
    begin, stop = (first_line + (number - 1) * bar for number in (bars[0], bars[1] + 1))
    if not bars[0] <= bars[1] or begin >= length or stop <= 0:
        there = f"{-first_line // bar + 1} to {-(-(length - first_line) // bar)}"
        raise InputError(f"--bars {bars[0]}-{bars[1]}: the piece has bars {there}; give some of these")
    begin, stop = max(begin, 0), min(stop, length)
    voices = _voices(notes, vocabulary.slice_events)
    given = given_voices(vocabulary, voices, free, begin, stop, length)
    prompt = _tokens_of(vocabulary, voices, begin)
    return _around(restored, _Task(piece, shift, prompt, begin, given), how or How())


def _at_home(restored: LoadedModel, piece: Piece) -> tuple[Notes, int]:
    """The notes as the model reads them, from tick 0, and how many semitones they were moved."""
    notes, shift = moved_home(restored, piece)
    if not len(notes):
        raise InputError("the piece holds no notes; give another one")
    return notes - np.array([notes[:, 0].min(), 0, 0, 0], np.int32), shift


def _voices(notes: Notes, count: int) -> list[Notes]:
    """The notes of each voice, from the lowest up; missing ones are silent."""
    try:
        return by_voice(notes, count)
    except InputError:
        raise InputError(
            f"the piece is not of {count} voices or fewer; give a file with a track for each voice, and one "
            "note at a time in each"
        ) from None


def _tokens_of(vocabulary: Vocabulary, voices: Sequence[Notes], end: int) -> Tokens:
    """(E, S) <start>, and what these voices do up to a tick, each in its own place."""
    length = max([end, *((notes[:, 0] + notes[:, 1]).max(initial=0) for notes in voices)])
    columns = [_ids(vocabulary, notes, int(length)) for notes in voices]
    cuts = sorted({0, end, *(tick for _, ends in columns for tick in ends if tick < end)})
    tables, rows = vocabulary.tables, [start_event(vocabulary)]
    names = [*tables]
    pitch, timed = (names.index(one) for one in (pitch_stream(tables), _timed(tables)))
    ticks = tables[names[timed]].ticks
    for first, last in pairwise(cuts):
        for begin in range(first, last, int(ticks.max())):
            event = np.zeros((len(voices), len(names)), np.int32)
            event[:, pitch] = [ids[begin] for ids, _ in columns]
            event[-1, timed] = np.flatnonzero(ticks == min(last - begin, ticks.max()))[0]
            rows.append(event)
    return np.concatenate(rows)


def _timed(tables: Mapping[str, IdTable]) -> str:
    """The stream that says how long a slice lasts."""
    return next(name for name, table in tables.items() if table.ticks.any())


def _ids(vocabulary: Vocabulary, notes: Notes, length: int) -> tuple[NDArray[np.int32], list[int]]:
    """(T,) the id of a voice in a slice that begins at each tick; and the ticks at which it changes."""
    table = vocabulary.tables[pitch_stream(vocabulary.tables)]
    cuts, pitch_S1, struck_S1 = voice_grid(notes, 1, length)
    id_T = np.zeros(length, np.int32)
    spans = zip(cuts[:-1].tolist(), cuts[1:].tolist(), pitch_S1[:, 0], struck_S1[:, 0], strict=True)
    for first, end, pitch, is_struck in spans:
        id_T[first:end] = _id_of(table, int(pitch), True)
        if is_struck:
            id_T[first] = _id_of(table, int(pitch), False)
    return id_T, cuts[1:].tolist()


def _after(notes: Notes, tick: int) -> Notes:
    """What sounds after a tick; what has begun before is struck there."""
    ends = notes[:, 0] + notes[:, 1]
    late = ends > tick
    onset = np.maximum(notes[late, 0], tick)
    return make_notes(onset, ends[late] - onset, notes[late, 2], notes[late, 3])


def _around(restored: LoadedModel, task: _Task, how: How) -> Around:
    vocabulary, given, piece = restored.metadata.vocabulary, task.given, task.piece
    rows, events = how.particles, _budget(restored.network, given)
    _check_memory(restored.network, rows, events)
    prompt = prompt_of(vocabulary, task.prompt)
    steering = Steering(
        {name: jnp.float32(how.temperature) for name, _ in vocabulary.streams},
        jnp.float32(how.proposal),
        jnp.float32(0.5),
        jnp.float32(how.parallel),
    )
    begin, key = jnp.int32(task.onset - piece.first_bar), jax.random.key(how.seed)
    begun = time.perf_counter()
    shape = prompt.mask_BT.shape[1], len(given.id_TV), len(given.stop_S)
    program = _program(restored.network, rows, events, restored.metadata.knows_bar_lines, *shape)
    compile_seconds, seconds = time.perf_counter() - begun, 0.0
    found: list[tuple[float, Notes, Written]] = []
    with Progress("writing", how.count, "pieces") as progress:
        for number in range(how.count):
            begun = time.perf_counter()
            own = jax.random.fold_in(key, number)
            written = jax.device_get(program(restored.params, prompt, begin, given, steering, own))
            _check_alive(written, task)
            row = int(jax.random.categorical(jax.random.fold_in(own, rows), jnp.asarray(written.weight_B)))
            whole = np.concatenate([task.prompt, tokens_of(vocabulary, written.decoded, row)])
            heard = moved(vocabulary.decode(whole, trim=False), -task.shift, task.onset)
            found.append((float(written.nats_B[row]), heard, written))
            seconds += time.perf_counter() - begun
            progress.advance()
    found.sort(key=lambda one: one[0])
    each = [written for *_, written in found]
    music = Generated(
        [heard for _, heard, _ in found],
        sum(int(written.decoded.length_B.sum()) for written in each),
        how.count,
        seconds,
        compile_seconds,
        piece.tempo,
        piece.meter,
        piece.program,
        piece.first_bar,
        vocabulary.clock,
    )
    return Around(
        music,
        [nats for nats, *_ in found],
        [float(written.evidence) for written in each],
        [np.asarray(written.effective_S, np.float64)[: int(written.stops)] for written in each],
        vocabulary.clock.quarters(int(given.end)),
    )


@lru_cache(maxsize=16)
def _program(
    network: Network, rows: int, events: int, bars: bool, before: int, times: int, stops: int
) -> Any:
    """`write_particles`, compiled: once for pieces that are about as long."""

    def like(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    number, nats, key = like(jnp.int32), like(jnp.float32), jax.eval_shape(lambda: jax.random.key(0))
    names = [name for name, _ in network.vocabulary.streams]
    return write_particles.lower(
        network,
        jax.eval_shape(partial(init_params, network), key),
        Prompt(dict.fromkeys(names, like(jnp.int32, 1, before)), like(bool, 1, before)),
        number,
        Given(like(jnp.int32, times, network.vocabulary.slice_events), like(jnp.int32, stops), number),
        Steering(dict.fromkeys(names, nats), nats, nats, nats),
        key,
        rows=rows,
        events=events,
        bars=bars,
    ).compile()


def given_voices(
    vocabulary: Vocabulary, voices: Sequence[Notes], free: Collection[int], begin: int, stop: int, length: int
) -> Given:
    """What particles are held to from tick `begin` to `length`: the notes of voices, from the lowest up.

    Where a voice is silent it rests. Those whose places are `free` do as they like up to `stop`; a note of
    theirs that has begun before is struck there.
    """
    id_TV = np.full((length, vocabulary.slice_events), FREE, np.int32)
    stops = {stop, length}
    for place, notes in enumerate(voices):
        since = stop if place in free else begin
        id_T, ends = _ids(vocabulary, _after(notes, stop) if place in free else notes, length)
        id_TV[since:, place] = id_T[since:]
        stops |= {end for end in ends if end > since}
    return _padded(id_TV[begin:], sorted(one - begin for one in stops if one > begin), length - begin)


def _padded(id_TV: NDArray[np.int32], stops: Sequence[int], end: int) -> Given:
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


def voices_of(vocabulary: Vocabulary) -> int:
    """How many voices there are. Raises InputError for a vocabulary without any."""
    voices = vocabulary.slice_events
    if voices < 2 or vocabulary.tables[pitch_stream(vocabulary.tables)].midi is None:
        raise InputError(
            f"the model writes {vocabulary.name} events, which have no voices; give pretrained:chorales, or "
            "prepare a corpus with --voices 4 and train on it"
        )
    return voices


def _place(vocabulary: Vocabulary, voice: str, flag: str = "--voice") -> int:
    """The place of a voice, from the lowest up."""
    voices = voices_of(vocabulary)
    if voice.isdecimal() and 1 <= int(voice) <= voices:
        return voices - int(voice)
    if voices == 4 and voice in VOICES:
        return VOICES[voice] % voices
    named = f"{', '.join(VOICES)}, or " if voices == 4 else ""
    raise InputError(f"{flag} {voice}: give {named}1 (the highest) to {voices}")


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
    quarters = network.vocabulary.clock.quarters(int(given.end))
    slices = network.vocabulary.slice_events * (stops + 2 * int(quarters) + 1) + 1
    return -(-slices // _EVENTS) * _EVENTS


def _check_memory(network: Network, rows: int, events: int) -> None:
    """Raises InputError for more particles than memory should hold."""
    # All of it lies there twice while rows are drawn anew; an id has four bytes.
    each = 2 * (bytes_a_row(network) + 4 * events * len(network.vocabulary.streams))
    if rows * each > _MOST_BYTES:
        raise InputError(
            f"--particles {rows}: need {rows * each / 2**30:.1f} GiB; give {_MOST_BYTES // each} or fewer"
        )


def _check_alive(written: Written, task: _Task) -> None:
    """Raises InputError, with the bar, where no particle reached the end."""
    if np.isfinite(written.weight_B).any():
        return
    stop = int(np.asarray(task.given.stop_S)[max(int(written.stops) - 1, 0)])
    bar = task.bar_of(min(stop, int(task.given.end)) - 1)
    if int(written.decoded.length_B.max()) == next(iter(written.decoded.events.values())).shape[1]:
        raise InputError(f"in bar {bar} the pieces become longer than there is room for; lower --temperature")
    raise InputError(
        f"no particle got beyond bar {bar}: the model finds what is given there impossible; give more "
        "--particles"
    )


def write_around(
    source: Source, folder: Path, model: str, tracks: str, asked: Mapping[str, Any], how: How
) -> list[str]:
    """Write music around the file `source` into `folder`, and say in words what was written.

    `asked` has the `voice` of a melody, or the `bars` and `voices` that are written anew. A folder of the
    same settings is filled where files are missing. Raises InputError for a folder of anything else, and as
    `harmonise` and `fill` do.
    """
    loaded = load_model(model)
    digest = digest_or_nothing(source)
    settings: dict[str, Any] = {"model": name_of(model), "checkpoint": loaded.digest}
    settings |= {"file": [source.name, digest, tracks], "asked": dict(asked), "particles": asdict(how)}
    check_claim(folder, settings)
    piece = read_as(source, replace(loaded.metadata.config.prepare, tracks=tracks))
    make_folder(folder)
    if "bars" in asked:
        made = fill(loaded, piece, asked["bars"], asked["voices"], how)
    else:
        made = harmonise(loaded, piece, asked["voice"], how)
    write_json(folder / CLAIM, settings)
    origin = f"midigen-jax: around {source.name}, by {name_of(model)}, seed {how.seed}"
    write_pieces(folder, made.music, lambda number: [f"{origin}, piece {number + 1}"])
    rewrite(folder / "rows.jsonl", rows_of(made, settings))
    heads = [f"{number}.mid" for number in range(1, how.count + 1)]
    told = [f"{nats / made.quarters:.2f} nats a quarter" for nats in made.nats]
    few = min(float(effective.min()) for effective in made.effective)
    took = f"{made.music.seconds:.1f} s, compiling {made.music.compile_seconds:.1f} s"
    return [
        *aligned(list(zip(heads, told, strict=True))),
        f"{many(how.count, 'piece')} in {folder} ({took}).",
        f"At worst {few:.1f} of {how.particles} particles carried the weight.",
        *what_is_missing(),
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
