"""Checkpoint and prompt in, music out: whole pieces, or one piece slice by slice while it is written.

The prompt is moved to the place where the corpus was transposed to, continued, and what was written is moved
back. Constraints mean the pitches that are heard, wherever the model writes them.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from midigen_jax.config import SampleConfig, parse_meter
from midigen_jax.errors import InputError
from midigen_jax.model.network import Network
from midigen_jax.music import key as keys
from midigen_jax.music.chords import parse_chords
from midigen_jax.music.clock import Clock
from midigen_jax.music.notes import Notes, make_notes, pitch_name, until
from midigen_jax.music.piece import Piece
from midigen_jax.music.voices import voice_names
from midigen_jax.progress import Progress
from midigen_jax.sample import conditions
from midigen_jax.sample.constraints import NEVER, Constraints, constraints, limits
from midigen_jax.sample.decode import (
    Decoded,
    DecodeFlags,
    Settings,
    bytes_a_row,
    decode,
    placed,
    prompt_of,
    resume,
    rows_mesh,
    tokens_of,
)
from midigen_jax.sample.filters import SamplingParams
from midigen_jax.sample.steering import Drawn, draw_piece, steering
from midigen_jax.sample.voices import given_voices, split_voices
from midigen_jax.train.checkpoint import LoadedModel
from midigen_jax.vocab import (
    END,
    Tokens,
    Vocabulary,
    closes_of,
    length_of,
    start_event,
    ticks_of,
    unknown_of,
)
from midigen_jax.vocab.traced import pitch_stream

STREAMED = 16  # events a call while streaming: a few slices

_ROWS = 1024  # at once; more pieces are written in turns
_EVENTS = 1024  # a call; a longer piece takes several
_MELODY_ALONE = ", or its melody alone with --tracks melody"
_MAJOR = (0, 2, 4, 5, 7, 9, 11)
_MINOR = (0, 2, 3, 5, 7, 8, 9, 10, 11)  # the sixth and the seventh, natural and raised


class Generated(NamedTuple):
    """Pieces of music, and what writing them took."""

    pieces: list[Notes]
    events: int  # written after the prompts, over all pieces
    ended: int  # pieces that ended by themselves, within the budget
    seconds: float
    compile_seconds: float
    tempo: float  # quarters a minute: the config's, or the prompt's, or that of the training pieces
    meter: tuple[int, int]  # the config's, or the prompt's, or that of the training pieces
    program: int  # General MIDI: the config's, or the prompt's, or 0
    first_bar: int  # ticks from the beginning of each piece to a bar line
    clock: Clock
    key: keys.Target | None = None  # the config's
    names: tuple[str, ...] = ()  # of the voices, from the lowest up, where tracks are voices
    remarks: tuple[str, ...] = ()  # what was done to the prompt, in words
    signature: int | None = None  # the prompt's: sharps, or flats, less than 0

    def whole(self) -> list[Piece]:
        """The pieces, each with what is known of all."""
        about: dict[str, Any] = {
            "program": self.program,
            "first_bar": self.first_bar,
            "clock": self.clock,
            "voiced": len(self.names),
            "signature": self.signature,
        }
        return [Piece(notes, self.tempo, self.meter, **about) for notes in self.pieces]


class Sounding(NamedTuple):
    """A slice of a piece that is being written: what sounds, and for how long."""

    ticks: int
    pitches: tuple[int, ...]  # ascending; none: a rest
    attacked: tuple[bool, ...]  # does the pitch begin here, or sound on?


_Programs = dict[tuple[Any, int], Any]  # compiled: by function and events


class Task(NamedTuple):
    """What is to be written, in terms of the decode loop; made by `plan`."""

    network: Network
    params: dict
    prompt: Tokens
    shift: int  # semitones from what is heard to what the model reads
    onset: int  # ticks before the first note of the prompt
    begin: int  # from a bar line to what the model reads first, in ticks; less than 0 in an upbeat
    given: Notes | None  # the prompt as it was read
    flags: DecodeFlags
    constraints: Constraints | None
    limits: Any  # the ids that may be written at all; None: all
    ticks: int  # how long a piece may go on
    tempo: float
    meter: tuple[int, int]
    program: int
    remarks: tuple[str, ...]


def generate(
    restored: LoadedModel, config: SampleConfig, prompt: Piece | None = None, only: int | None = None
) -> Generated:
    """Write `config.count` pieces, or that one of them whose number (from 0) is `only`.

    With a prompt, each goes on from its end. Piece i depends on `config` and i alone. Raises InputError for
    a key that is none, for constraints that leave no pitch, for a prompt without a note, and for one that the
    vocabulary cannot say.
    """
    task = plan(restored, config, prompt)
    write = _by_particles if conditions.are_asked(config) else _by_rows
    written, seconds, compile_seconds = write(restored, task, config, only)
    ended = sum(int(tokens[-1, 0] == END) for tokens in written)
    events = sum(map(len, written))
    pieces = [music_of(restored, task, config, tokens) for tokens in written]
    vocabulary = restored.metadata.vocabulary
    about = task.tempo, task.meter, task.program, first_bar_of(task, config), vocabulary.clock
    asked = config.in_key or config.key
    key = None if asked is None else keys.parse_key(asked)
    named = key, names_of(vocabulary)
    signature = None if prompt is None else prompt.signature
    return Generated(pieces, events, ended, seconds, compile_seconds, *about, *named, task.remarks, signature)


def _by_particles(
    restored: LoadedModel, task: Task, config: SampleConfig, only: int | None
) -> tuple[list[Tokens], float, float]:
    """The tokens of each piece, the seconds that they took, and those of compiling."""
    restored = restored._replace(network=task.network)
    vocabulary, settings = task.network.vocabulary, restored.metadata.config.prepare
    bar, before = vocabulary.clock.bar(task.meter), task.begin + length_of(vocabulary, task.prompt)
    given = conditions.given_of(vocabulary, config, before, task.meter, task.tempo, task.limits)
    where = given, task.shift, before, bar, settings.profile
    steered = conditions.steering_of(vocabulary, config, *where)
    numbers = range(config.count) if only is None else [only]
    found: list[Drawn] = []
    with Progress("writing", len(numbers), "pieces") as progress:
        for number in numbers:
            hot = {
                name: _params(config, np.array([number]), name).temperature_B[0]
                for name, _ in vocabulary.streams
            }
            drawn = draw_piece(
                restored,
                task.prompt,
                task.begin,
                given,
                steered._replace(temperature=hot),
                jax.random.fold_in(jax.random.key(config.seed), number),
                config.particles,
                lambda tick: (tick + before) // bar + 1,
                config.events,
            )
            found.append(drawn)
            progress.advance()
    return (
        [drawn.tokens for drawn in found],
        sum(drawn.seconds for drawn in found),
        sum(drawn.compile_seconds for drawn in found),
    )


def _by_rows(
    restored: LoadedModel, task: Task, config: SampleConfig, only: int | None
) -> tuple[list[Tokens], float, float]:
    """As `_by_particles`: each piece by a row of the decode loop, as many at once as memory holds."""
    rows = min(config.count, _rows_at_once(task.network))
    compile_seconds, seconds, written = 0.0, 0.0, list[Tokens]()
    programs: _Programs = {}
    turns = range(0, config.count, rows)
    if only is not None:
        # The whole turn: in the same shape it comes out the same to the last bit.
        turns = range(only - only % rows, only + 1, rows)
    with Progress("decoding", len(turns) * -(-config.events // _EVENTS), "calls") as progress:
        for first in turns:
            # The last turn may have rows to spare: of the same shape it need not be compiled again.
            numbers = np.arange(first, first + rows) % config.count
            calls = _calls(task, config, numbers, _EVENTS, programs)
            parts: list[list[Tokens]] = [[] for _ in range(rows)]
            for decoded, spent, compiled in calls:
                seconds, compile_seconds = seconds + spent, compile_seconds + compiled
                for row, tokens in enumerate(parts):
                    tokens.append(tokens_of(task.network.vocabulary, decoded, row))
                progress.advance()
            written += [np.concatenate(tokens) for tokens in parts][: config.count - first]
    return written if only is None else [written[only % rows]], seconds, compile_seconds


def stream(restored: LoadedModel, config: SampleConfig, prompt: Piece | None = None) -> Iterator[Sounding]:
    """The slices of one piece as they are written, after the prompt: the music of piece 0 of `generate`.

    Raises InputError as `generate` does, at once and not at the first slice.
    """
    if conditions.are_asked(config):
        raise InputError("length, chords and in_key are of whole pieces, which no stream has; use generate")
    task = plan(restored, config, prompt)
    return _stream(restored, task, config)


def _stream(restored: LoadedModel, task: Task, config: SampleConfig) -> Iterator[Sounding]:
    vocabulary, pending = restored.metadata.vocabulary, None
    left = task.ticks
    for decoded, *_ in _calls(task, config, np.zeros(1, int), STREAMED, {}):
        written = tokens_of(vocabulary, decoded, 0)
        pending = written if pending is None else np.concatenate([pending, written])
        ticks = ticks_of(vocabulary.tables, pending)
        closes = closes_of(vocabulary.tables, pending) & (ticks > 0)
        ends = np.flatnonzero(closes) + 1
        *whole, pending = np.split(pending, ends)
        for events, lasts in zip(whole, ticks[ends - 1].tolist(), strict=True):
            sounding = min(int(lasts), left)
            left -= sounding
            pitches, attacked = _pitches(vocabulary, events)
            yield Sounding(sounding, tuple(pitch - task.shift for pitch in pitches), attacked)


def _pitches(vocabulary: Vocabulary, events: Tokens) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """The pitches of one slice's events, ascending, and which of them begin there."""
    begins: dict[int, bool] = {}
    for place, table in enumerate(vocabulary.tables.values()):
        for id in events[:, place].tolist() if table.says_pitches else ():
            for pitch in np.flatnonzero(table.sounds[id]).tolist():
                begins[pitch] = begins.get(pitch, False) or not table.held[id]
    return tuple(sorted(begins)), tuple(begins[pitch] for pitch in sorted(begins))


def _rows_at_once(network: Network) -> int:
    """As many as leave what they remember within a gigabyte, 1,024 at the most."""
    return int(np.clip((1 << 30) // bytes_a_row(network), 1, _ROWS))


def check_sample(config: SampleConfig) -> None:
    """Raises InputError for a key or a chord that is none, before anything is read."""
    for key in filter(None, (config.key, config.in_key)):
        keys.parse_key(key)
    if config.chords is not None:
        parse_chords(config.chords)


def plan(restored: LoadedModel, config: SampleConfig, prompt: Piece | None) -> Task:
    """What `config` asks for. Raises InputError as `generate` does."""
    experiment = restored.metadata
    tokens, shift, onset, given = start_event(experiment.vocabulary), 0, 0, None
    remarks: tuple[str, ...] = ()
    key = config.in_key or config.key
    if prompt is not None:
        tokens, shift, remarks = _prompt_tokens(restored, prompt, config)
        given, onset = prompt.notes, int(prompt.notes[:, 0].min())
    elif key is not None and experiment.config.prepare.transpose != "none":
        home = keys.parse_key(experiment.config.prepare.transpose)
        shift = keys.shift_to(keys.parse_key(key).key, home)
    origin = prompt or experiment
    tempo = origin.tempo if config.tempo is None else config.tempo
    meter = origin.meter if config.meter is None else parse_meter(config.meter)
    program = config.program
    if program is None:
        program = 0 if prompt is None else prompt.program
    clock = experiment.vocabulary.clock
    bar = clock.bar(meter)
    begin = onset - prompt.first_bar if prompt is not None else -experiment.upbeat
    if config.upbeat is not None:
        begin = -clock.ticks(config.upbeat)
    ticks = NEVER
    if config.bars is not None:
        # A bar that the prompt has begun is ended besides, and an upbeat is none.
        ticks = config.bars * bar + -(begin + length_of(experiment.vocabulary, tokens)) % bar
    elif config.seconds is not None:
        ticks = max(1, clock.ticks(config.seconds * tempo / 60))
    network = restored.network
    if config.dtype is not None:
        network = Network(replace(network.config, compute_dtype=config.dtype), network.vocabulary)
    flags = DecodeFlags(
        filters=any(
            set(values or ()) - {neutral}
            for name, neutral in (("top_k", 0), ("top_p", 1.0), ("min_p", 0.0))
            for values in (getattr(config, name), getattr(config, f"duration_{name}"))
        ),
        repetition=bool({*config.repetition_penalty, *config.duration_repetition_penalty} - {1.0}),
        bars=experiment.knows_bar_lines,
        tpu=jax.default_backend() == "tpu",
    )
    rules, params = (_constraints(restored, config, bar), _limits(restored, config, shift)), restored.params
    return Task(
        network,
        params,
        tokens,
        shift,
        onset,
        begin,
        given,
        flags,
        *rules,
        ticks,
        tempo,
        meter,
        program,
        remarks,
    )


def first_bar_of(task: Task, config: SampleConfig) -> int:
    """How many ticks after the beginning of what is heard the first bar line lies."""
    bar = task.network.vocabulary.clock.bar(task.meter)
    if task.given is None:
        return -task.begin % bar
    if config.keep_prompt:
        return (task.onset - task.begin) % bar
    if config.meter is not None:
        return 0
    return -(task.begin + length_of(task.network.vocabulary, task.prompt)) % bar


def _constraints(restored: LoadedModel, config: SampleConfig, bar: int) -> Constraints | None:
    if all(value is None for value in (config.largest_chord, config.most_repeats, config.meter)):
        return None
    return constraints(
        restored.metadata.vocabulary,
        chord=NEVER if config.largest_chord is None else config.largest_chord,
        repeats=NEVER if config.most_repeats is None else config.most_repeats,
        bar=NEVER if config.meter is None else bar,
    )


def _limits(restored: LoadedModel, config: SampleConfig, shift: int) -> Any:
    """The ids that may be written: what is moved by a shift must stay a MIDI pitch, too."""
    scale = range(12) if config.key is None else scale_of(keys.parse_key(config.key))
    return limits(
        restored.metadata.vocabulary,
        scale=[(pitch + shift) % 12 for pitch in scale],
        lowest=config.lowest + shift,
        highest=config.highest + shift,
        chord=NEVER if config.largest_chord is None else config.largest_chord,
        seen=None if config.unseen else restored.metadata.seen_masks,
    )


def scale_of(target: keys.Target) -> list[int]:
    """Pitch classes of a key: the seven of a major one; of a minor one also the raised sixth and seventh."""
    minor = target.key.mode == "minor"
    return sorted((target.key.tonic + step) % 12 for step in (_MINOR if minor else _MAJOR))


def _calls(
    task: Task, config: SampleConfig, number_B: np.ndarray, most: int, programs: _Programs
) -> Iterator[tuple[Decoded, float, float]]:
    """Calls of the decode loop until all is written: what each wrote, its seconds, and those of compiling."""
    rows, settings = len(number_B), settings_of(task, config, number_B)
    prompt = prompt_of(task.network.vocabulary, task.prompt)
    mesh, state = rows_mesh(rows), None
    params, settings, prompt = placed((task.params, settings, prompt), mesh)
    for first in range(0, config.events, most):
        count = min(most, config.events - first)
        begun = time.perf_counter()
        given = prompt if state is None else state
        write = decode if state is None else resume
        if (write, count) not in programs:
            static = {"events": count, "flags": task.flags, "mesh": mesh}
            programs[write, count] = write.lower(task.network, params, given, settings, **static).compile()
        ready = time.perf_counter()
        state, decoded = programs[write, count](params, given, settings)
        decoded = jax.device_get(decoded)
        yield decoded, time.perf_counter() - ready, ready - begun
        if bool(np.all(jax.device_get(state.done_B))):
            return


def settings_of(task: Task, config: SampleConfig, number_B: np.ndarray) -> Settings:
    """How the pieces of these numbers are written, a row each."""
    rows, key = len(number_B), jax.random.key(config.seed)
    return Settings(
        jax.vmap(partial(jax.random.fold_in, key))(jnp.asarray(number_B)),
        {name: _params(config, number_B, name) for name, _ in task.network.vocabulary.streams},
        jnp.full(rows, task.begin, jnp.int32),
        jnp.full(rows, task.ticks, jnp.int32),
        task.constraints,
        task.limits,
    )


def _params(config: SampleConfig, number_B: np.ndarray, stream: str) -> SamplingParams:
    """The settings of one stream, row by row; several values are taken in turn.

    A setting such as `duration_temperature` is that of one stream; the others have that without its name.
    """

    def of_rows(name: str, dtype: Any) -> Array:
        values = getattr(config, f"{stream}_{name}", None)
        values = getattr(config, name) if values is None else values
        return jnp.asarray(np.array(values, dtype)[number_B % len(values)])

    return SamplingParams(
        of_rows("temperature", np.float32),
        of_rows("top_k", np.int32),
        of_rows("top_p", np.float32),
        of_rows("min_p", np.float32),
        of_rows("repetition_penalty", np.float32),
    )


def moved_home(restored: LoadedModel, music: Piece) -> tuple[Notes, int]:
    """The notes where the corpus was transposed to, and the semitones to there.

    Raises InputError for music on another clock than the model's, and for some that is too wide.
    """
    settings, vocabulary, shift = restored.metadata.config.prepare, restored.metadata.vocabulary, 0
    if music.clock != vocabulary.clock:
        theirs, ours = music.clock.quarter, vocabulary.clock.quarter
        raise InputError(f"the music has {theirs} ticks a quarter, the model {ours}; read it with as many")
    if settings.transpose != "none":
        found = keys.find_key(music.notes, settings.profile)
        shift = keys.shift_to(found, keys.parse_key(settings.transpose))
    there = keys.transpose(music.notes, shift)
    # An octave more or less where the range of MIDI would not do.
    shift = int(there[:, 2].min() - music.notes[:, 2].min())
    if not np.array_equal(there[:, 2] - shift, music.notes[:, 2]):
        raise InputError("the music is too wide to be moved to the key of the corpus; give another piece")
    return there, shift


def moved_words(music: Piece) -> tuple[str, ...]:
    """What the grid did to some music, in words, if it did much."""
    if not music.moved:
        return ()
    return (f"Note: {music.moved} of its {len(music.notes)} notes were moved to the model's grid.",)


def unseen_pitches(restored: LoadedModel, notes: Notes) -> list[int]:
    """The pitches of some music, in the model's key, that no training piece has, as far as this is known."""
    known = known_pitches(restored)
    return np.setdiff1d(notes[:, 2], known).tolist() if len(known) else []


def known_pitches(restored: LoadedModel) -> NDArray[np.int64]:
    """The pitches that some training piece has, ascending; none where this is not known."""
    tables, seen = restored.metadata.vocabulary.tables, restored.metadata.seen_masks or {}
    name = pitch_stream(tables)
    if name not in seen or not tables[name].says_pitches:
        return np.zeros(0, np.int64)
    return np.flatnonzero(tables[name].sounds[seen[name]].any(axis=0))


def seen_limits(restored: LoadedModel) -> Any:
    """The ids that may be written beside music that is given: those that some training piece has."""
    return limits(restored.metadata.vocabulary, seen=restored.metadata.seen_masks)


def _prompt_tokens(
    restored: LoadedModel, prompt: Piece, config: SampleConfig
) -> tuple[Tokens, int, tuple[str, ...]]:
    """The events to begin with, with <start>; how far they were transposed; what was added, in words."""
    vocabulary = restored.metadata.vocabulary
    if len(prompt.notes) == 0:
        raise InputError("the prompt holds no notes; give another one, or none")
    there, shift = moved_home(restored, prompt)
    tracks, voices = len(np.unique(there[:, 3])), len(vocabulary.voice_places)
    named = prompt.voiced == voices
    if voices:
        split_voices(there, voices, named, _MELODY_ALONE)  # raises InputError where there are more
    # Voices that a file names may well rest.
    if tracks < (min(voices, 2) if named else voices):
        tokens = _completed(restored, replace(prompt, notes=there), config)
        words = f"{tracks} of {voices} voices; the others were written to it"
        return tokens, shift, (f"The prompt has {words}.", *moved_words(prompt))
    try:
        tokens = vocabulary.encode(replace(prompt, notes=there, length=None))[:-1]
    except InputError as error:
        raise InputError(
            f"the prompt cannot be said in {vocabulary.name} events ({error}); give another one"
        ) from None
    lacks = np.flatnonzero(unknown_of(vocabulary.tables, tokens))
    if len(lacks):
        ticks = length_of(vocabulary, tokens[: lacks[0]])
        onset, duration, pitch, _ = (prompt.notes - [prompt.notes[:, 0].min(), 0, 0, 0]).T
        sounding = sorted({*pitch[(onset <= ticks) & (ticks < onset + duration)].tolist()})
        raise InputError(
            f"the prompt's chord {'.'.join(map(pitch_name, sounding))}, "
            f"{vocabulary.clock.quarters(ticks):g} quarters after its first note, is not in the model's "
            "vocabulary; give another prompt, or train with --tokenizer note, which knows every chord"
        )
    remarks = moved_words(prompt)
    if foreign := unseen_pitches(restored, there):
        names = ", ".join(pitch_name(pitch - shift) for pitch in foreign)
        remarks += (f"Note: no training piece has the prompt's {names}; the model knows nothing of it.",)
    return tokens, shift, remarks


def _completed(restored: LoadedModel, prompt: Piece, config: SampleConfig) -> Tokens:
    """A prompt whose lacking voices particles write."""
    vocabulary = restored.metadata.vocabulary
    begin = int(prompt.notes[:, 0].min())
    notes = prompt.notes - np.array([begin, 0, 0, 0], np.int32)
    length = int((notes[:, 0] + notes[:, 1]).max())
    voices = split_voices(notes, vocabulary.slice_events, prompt.voiced == vocabulary.slice_events)
    free = [place for place, own in enumerate(voices) if not len(own)]
    given = given_voices(vocabulary, voices, free, 0, length, length)
    drawn = draw_piece(
        restored,
        start_event(vocabulary),
        begin - prompt.first_bar,
        given._replace(closes=jnp.bool_(False), limits=seen_limits(restored)),
        steering(vocabulary, 1.0, 0.9, 3.0),
        jax.random.key(config.seed),
        config.particles,
        lambda tick: prompt.bar_of(tick + begin),
    )
    return np.concatenate([start_event(vocabulary), drawn.tokens])


def music_of(restored: LoadedModel, task: Task, config: SampleConfig, written: Tokens) -> Notes:
    """What is heard: the prompt and what follows, or that alone, from the tick at which the prompt stops."""
    vocabulary = restored.metadata.vocabulary
    if task.given is None:
        # A budget and bar lines count from the first tick, whatever is heard there.
        return moved(until(vocabulary.decode(written, trim=False), task.ticks), -task.shift)
    stop = length_of(vocabulary, task.prompt)
    if not config.keep_prompt or "held" in vocabulary.drops:
        rest = moved(until(vocabulary.decode(written, trim=False), task.ticks), -task.shift)
        if not config.keep_prompt:
            # On its own bar lines, if it has any.
            begun = (task.begin + stop) % vocabulary.clock.bar(task.meter) if config.meter is not None else 0
            return moved(rest, 0, begun)
        # Where no note is held on into what follows, the prompt is kept as it was, not as the model read it.
        joined = np.concatenate([task.given, moved(rest, 0, task.onset + stop)])
        return make_notes(*joined.T)
    whole = vocabulary.decode(np.concatenate([task.prompt, written]), trim=False)
    return moved(until(whole, task.ticks + stop), -task.shift, task.onset)


def moved(notes: Notes, pitches: int, ticks: int = 0) -> Notes:
    """The notes so many semitones higher, and so many ticks later."""
    onset, duration, pitch, track = notes.T
    return make_notes(onset + ticks, duration, pitch + pitches, track)


def names_of(vocabulary: Vocabulary) -> tuple[str, ...]:
    """The names of the voices, from the lowest up; none where the tracks of what is decoded are no voices."""
    return voice_names(len(vocabulary.voice_places))
