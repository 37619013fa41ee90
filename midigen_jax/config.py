"""The whole experiment as one frozen value: what is prepared, what is trained, how it is sampled.

In: recipes, command-line flags, JSON. Out: `Config`, hashable and validated. Every run saves it as JSON,
a checkpoint carries it, and an ablation arm is a mapping of dotted names to values (`override`).
"""

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from midigen_jax.errors import InputError

C = TypeVar("C")

VoiceOrder = Literal["low-first", "high-first"]


AUTO_ROWS = 0  # as many rows as fill the devices, which a config does not know
_WORDS = {"batch.rows": {"auto": AUTO_ROWS}}  # that stand for values of a setting

_MOST = 2**31 - 1  # what a step counter holds
_LONGEST = 1 << 20
_EXAMPLE_OF_BLOCKS = "lstm,lstm,pooled(window=32)"
_SAID_BY_BLOCKS = {"layers", "attention", "attention_window", "attention_heads", "residual", "backend"}
_MOST_VOICES = 16
_MOST_BLOCKS = 256
_LARGEST_MODEL = {
    "pitch_embedding": 65_536,
    "duration_embedding": 65_536,
    "embedding": 65_536,
    "width": 65_536,
}


def _option(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


def _require(condition: bool, name: str, value: object, remedy: str) -> None:
    if not condition:
        raise InputError(f"{name} = {value!r} is out of range: {remedy}")


def is_address(name: str) -> bool:
    """Whether this names a folder in a bucket."""
    return re.fullmatch(r"gs://[^/]+/.*[^/].*", name) is not None


def _require_seed(name: str, seed: int) -> None:
    _require(0 <= seed < 2**32, name, seed, "0 up to 4,294,967,295")


@dataclass(frozen=True)
class PrepareConfig:
    """From files to tokens."""

    tokenizer: str = _option(
        "note", "the vocabulary: one event a pitch (note), a voice (voice), a slice (chord)"
    )
    voices: int = _option(0, "voice: one event for each of so many voices, which are tracks; 0: no voices")
    voice_order: VoiceOrder = _option(
        "low-first", "voice: a slice is written from the lowest voice up, or from the highest down"
    )
    transpose: str = _option("none", "move every piece to this tonic: none, or C, F#, Bb …")
    only_key: str = _option("none", "keep only the pieces in this key: none, or C, 'A minor' …")
    quantizer: Literal["adaptive", "music21", "uniform"] = _option("adaptive", "how onsets reach the grid")
    tracks: str = _option("all", "what is read, never drums: all, piano, melody, or the Nth track with notes")
    profile: Literal["krumhansl", "aarden"] = _option("krumhansl", "key profile that finds keys")
    frame_ticks: int = _option(0, "ticks a frame of piano-roll files; 0: as known, else a sixteenth")
    repeats: Literal["written", "played"] = _option("written", "of scores: once, or as they are played")
    group_by: str = _option(
        "none", "what else is one work: nothing, files in one folder, files of one name, or as FILE.csv says"
    )
    bar_lines: Literal["written", "start"] = _option(
        "written", "where they lie: as the source says (upbeats), or as if each piece started with a bar"
    )
    ticks_per_quarter: int = _option(12, "the grid: sixteenths and eighth triplets (12), or finer (24, 48)")
    max_duration: int = _option(0, "longest duration id in ticks; longer slices are split; 0: eight quarters")
    min_chord_count: int = _option(2, "chord: rarer symbols of the training split become <unk>")
    valid_share: float = _option(0.1, "share of pieces kept for validation; 0: none")
    test_share: float = _option(0.1, "share of pieces kept for the test; 0: none")
    seed: int = _option(0, "seed of the split")

    def __post_init__(self) -> None:
        named = self.tracks in ("all", "piano", "melody") or re.fullmatch("[1-9][0-9]{0,4}", self.tracks)
        _require(bool(named), "prepare.tracks", self.tracks, "all, piano, melody, or a number from 1 on")
        remedy = f"1 to {_MOST_VOICES}; 0: no voices"
        _require(0 <= self.voices <= _MOST_VOICES, "prepare.voices", self.voices, remedy)
        longest = "1 to 65,536; 0: eight quarters"
        _require(0 <= self.max_duration <= 65_536, "prepare.max_duration", self.max_duration, longest)
        ticks = self.ticks_per_quarter
        _require(ticks in (4, 12, 24, 48), "prepare.ticks_per_quarter", ticks, "4, 12, 24 or 48")
        only = ticks == 12 or self.quantizer != "music21"
        _require(only, "prepare.ticks_per_quarter", ticks, "12 with --quantizer music21, whose grid that is")
        _require(0 <= self.frame_ticks <= 96, "prepare.frame_ticks", self.frame_ticks, "0 to 96")
        count = self.min_chord_count
        _require(1 <= count <= _MOST, "prepare.min_chord_count", count, "1 or more")
        for name in ("valid_share", "test_share"):
            share = getattr(self, name)
            _require(0 <= share < 0.5, f"prepare.{name}", share, "0 or more, below 0.5")
        _require_seed("prepare.seed", self.seed)

    @property
    def longest(self) -> int:
        """The longest duration id, in ticks."""
        return self.max_duration or 8 * self.ticks_per_quarter


@dataclass(frozen=True)
class ContextConfig:
    """What the network is told about the past beside the events; all of it is computed from them."""

    place: bool = _option(False, "how many events of the slice are there already")
    meters: tuple[int, ...] = _option((), "musical time modulo these periods in ticks, such as a bar")
    previous: bool = _option(False, "the pitch at the same place in the slice before")
    lags: tuple[int, ...] = _option((), "what sounded so many ticks ago")
    relative: tuple[int, ...] = _option((), "what sounded so many ticks ago, around the last pitch")
    intervals: bool = _option(False, "heads that also score pitches by their distance from others")
    slices: int = _option(64, "slices that are remembered")
    width: int = _option(128, "width of the vector that stands beside the embeddings")

    def __post_init__(self) -> None:
        for name in ("meters", "lags", "relative"):
            values = getattr(self, name)
            fits = len(values) <= 64 and all(1 <= value <= 65_536 for value in values)
            _require(fits, f"model.context.{name}", values, "up to 64 numbers of ticks, each 1 to 65,536")
            unlike = len(set(values)) == len(values)
            _require(unlike, f"model.context.{name}", values, "no number twice")
        _require(2 <= self.slices <= 65_536, "model.context.slices", self.slices, "2 to 65,536")
        _require(1 <= self.width <= 65_536, "model.context.width", self.width, "1 to 65,536")

    @property
    def feeds(self) -> bool:
        """Whether anything of it stands beside the embeddings."""
        return bool(self.place or self.meters or self.previous or self.lags or self.relative)

    @property
    def used(self) -> bool:
        """Whether any of it is on."""
        return self.feeds or self.intervals

    @property
    def all_lags(self) -> tuple[int, ...]:
        """The lags of both kinds, each once."""
        return tuple(sorted({*self.lags, *self.relative}))


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    pitch_embedding: int = _option(192, "width of the pitch (or chord) embedding")
    duration_embedding: int = _option(64, "width of the duration embedding")
    width: int = _option(256, "units of each layer")
    blocks: tuple[str, ...] = _option(
        ("lstm", "lstm", "pooled"),
        "the layers: lstm, gru, pooled, multihead or module:Class, with settings as in pooled(window=32)",
    )
    context: ContextConfig = ContextConfig()
    heads: Literal["independent", "chained"] = _option("chained", "does the duration head see the pitch?")
    dropout: float = _option(0.2, "share of units dropped, the same ones at all times of a row")
    embedding_dropout: float | None = _option(None, "likewise, of what the first layer reads; none: alike")
    recurrent_dropout: float = _option(0.0, "share of recurrent weights dropped in a step (DropConnect)")
    compute_dtype: Literal["float32", "bfloat16"] = _option("float32", "operands of matrix products")
    duration_input: bool = _option(True, "do the layers see durations, or pitches alone?")
    embedding: int = _option(32, "width of the embedding of any other stream")

    @property
    def summary(self) -> dict[str, Any]:
        """What a row of a benchmark says of a model."""
        return {"width": self.width, "blocks": list(self.blocks), "heads": self.heads}

    def embedding_of(self, stream: str) -> int:
        """The width of the embedding of a stream's ids."""
        return int(getattr(self, f"{stream}_embedding", self.embedding))

    @property
    def dropped_embeddings(self) -> float:
        """The share of units that are dropped of what goes into the first layer."""
        return self.dropout if self.embedding_dropout is None else self.embedding_dropout

    def __post_init__(self) -> None:
        for name, most in _LARGEST_MODEL.items():
            value = getattr(self, name)
            _require(1 <= value <= most, f"model.{name}", value, f"1 to {most:,}")
        _require(1 <= len(self.blocks) <= _MOST_BLOCKS, "model.blocks", self.blocks, f"1 to {_MOST_BLOCKS}")
        for name in ("dropout", "embedding_dropout", "recurrent_dropout"):
            rate = getattr(self, name)
            _require(rate is None or 0 <= rate < 1, f"model.{name}", rate, "at least 0 and below 1")


@dataclass(frozen=True)
class BatchConfig:
    """What one training step sees."""

    rows: int = _option(16, "sequences in a batch; auto: the fewest that fill the devices")
    length: int = _option(256, "events in a sequence")
    crops: Literal["jittered", "fixed"] = _option("jittered", "cut pieces anew each epoch, or always alike")
    stride: int = _option(0, "fixed crops: events from one crop's start to the next; 0: the length")
    before: int = _option(0, "events before a crop that its context and its grammar know of")
    stream: bool = _option(False, "read batches from disk as they are needed, for corpora beyond a device")
    data_share: float = _option(
        1.0, "share of the training pieces that are used; a smaller one is in a larger"
    )
    transpose_share: float = _option(
        0.6, "share of rows transposed at random by -5..+6 (note tokens of pieces in their own keys)"
    )

    def __post_init__(self) -> None:
        _require(0 <= self.rows <= _LONGEST, "batch.rows", self.rows, f"1 to {_LONGEST:,}, or auto")
        _require(1 <= self.length <= _LONGEST, "batch.length", self.length, f"1 to {_LONGEST:,}")
        _require(0 <= self.stride <= self.length, "batch.stride", self.stride, "0 up to batch.length")
        _require(0 <= self.before <= _LONGEST, "batch.before", self.before, f"0 to {_LONGEST:,}")
        share = self.transpose_share
        _require(0 <= share <= 1, "batch.transpose_share", share, "between 0 and 1")
        _require(0 < self.data_share <= 1, "batch.data_share", self.data_share, "above 0, up to 1")


@dataclass(frozen=True)
class TrainConfig:
    """How long, and with what optimizer."""

    steps: int = _option(600, "optimizer steps (give steps or epochs)")
    epochs: int = _option(0, "passes over the training split (give steps or epochs)")
    optimizer: Literal["adamw", "rmsprop"] = _option("adamw", "the update rule")
    learning_rate: float = _option(4e-3, "peak learning rate")
    schedule: Literal["cosine", "constant"] = _option("cosine", "learning rate over time")
    warmup: int = _option(50, "steps of linear warm-up")
    weight_decay: float = _option(0.02, "decoupled weight decay of matrices (adamw)")
    clip: float = _option(1.0, "clip gradients to this global norm; 0: never")
    average: float = _option(0.0, "decay of the moving average of weights that is used; 0: the weights")
    loss_positions: Literal["all", "last"] = _option("all", "positions of a sequence that give a loss")
    duration_weight: float = _option(1.0, "weight of durations in the loss; that of pitches is 1")
    start: str = _option(
        "", "a run whose parameters the training begins with (fine-tuning); none: random ones"
    )
    teachers: tuple[str, ...] = _option((), "runs whose mean prediction is learned beside the music")
    distill: float = _option(0.8, "share of the loss that is measured against the teachers, if there are any")
    evaluate_every: int = _option(0, "steps between validations; 0: every epoch")
    patience: int = _option(0, "steps without a better validation after which training ends; 0: never")
    keep_at: tuple[float, ...] = _option((0.05, 1.0), "shares of the training whose checkpoints are kept")
    steps_per_call: int = _option(64, "most steps in one call of the device; a call takes about a second")
    seed: int = _option(0, "seed of initial weights, batches and dropout")
    on_nan: Literal["stop", "skip"] = _option("stop", "where a gradient is no number: stop, or skip the step")
    calibrate: bool = _option(
        False, "divide logits by the temperatures, one a head, that suit validation best"
    )
    checkpoints: str = _option("", "a bucket's folder for checkpoints and rows; none: RUN/checkpoints")

    def __post_init__(self) -> None:
        for name in ("steps", "epochs"):
            value = getattr(self, name)
            _require(0 <= value <= _MOST, f"train.{name}", value, f"1 to {_MOST:,}")
        call = self.steps_per_call
        _require(1 <= call <= 10_000, "train.steps_per_call", call, "1 to 10,000")
        if (self.steps > 0) == (self.epochs > 0):
            raise InputError(
                f"train.steps = {self.steps} and train.epochs = {self.epochs}: give one of them, 1 or more"
            )
        _require(
            0 < self.learning_rate <= 100, "train.learning_rate", self.learning_rate, "above 0, up to 100"
        )
        for name in ("warmup", "weight_decay", "clip", "duration_weight", "evaluate_every", "patience"):
            value = getattr(self, name)
            _require(0 <= value <= _MOST, f"train.{name}", value, "0 or more")
        _require(0 <= self.average < 1, "train.average", self.average, "0.999 or so; 0: none")
        _require(0 <= self.distill <= 1, "train.distill", self.distill, "between 0 and 1")
        shares = self.keep_at
        _require(all(0 < share <= 1 for share in shares), "train.keep_at", shares, "shares in (0, 1]")
        _require_seed("train.seed", self.seed)
        place = self.checkpoints
        if place and not is_address(place):
            raise InputError(f"train.checkpoints = {place}: give gs://BUCKET/FOLDER, or leave it out")


@dataclass(frozen=True)
class SampleConfig:
    """How music is drawn from a model. Several values of a setting are a sweep: pieces take turns."""

    count: int = _option(4, "pieces to write")
    temperature: tuple[float, ...] = _option((1.0,), "0: the likeliest always; 1: as learned; above: wilder")
    top_k: tuple[int, ...] = _option((0,), "draw from the K likeliest pitch ids; 0: from all")
    top_p: tuple[float, ...] = _option((1.0,), "draw from the fewest ids that hold this much probability")
    min_p: tuple[float, ...] = _option((0.0,), "least probability, as a share of the likeliest id's")
    repetition_penalty: tuple[float, ...] = _option((1.0,), "above 1: pitch ids that were there are rarer")
    duration_temperature: tuple[float, ...] | None = _option(None, "that of durations; none: the same")
    duration_top_k: tuple[int, ...] | None = _option(None, "that of durations; none: the same")
    duration_top_p: tuple[float, ...] | None = _option(None, "that of durations; none: the same")
    duration_min_p: tuple[float, ...] | None = _option(None, "that of durations; none: the same")
    duration_repetition_penalty: tuple[float, ...] = _option((1.0,), "above 1: other durations are likelier")
    events: int = _option(1024, "longest piece, in events after the prompt")
    bars: int | None = _option(None, "longest piece, in bars after the prompt")
    seconds: float | None = _option(None, "longest piece, in seconds of music after the prompt")
    length: str | None = _option(
        None, "as long as this, in whole bars, and an end to it: 32bars, 90s; by particles"
    )
    chords: str | None = _option(None, "a chord a bar, over and over: 'C Am F G7', 'C F,G C'; by particles")
    off_chord: float = _option(4.0, "nats that a note outside of --chords costs; inf: there is none")
    in_key: str | None = _option(None, "pieces that are found in this key: C, 'A minor' …; by particles")
    particles: int = _option(64, "rows that write a piece together, where it is by particles")
    key: str | None = _option(None, "write in the scale of this key: C, F#, 'A minor' …; none: any pitch")
    lowest: int = _option(0, "lowest MIDI pitch, 0 to 127; 60 is middle C")
    highest: int = _option(127, "highest MIDI pitch, 0 to 127")
    unseen: bool = _option(False, "also write ids that no training piece has")
    largest_chord: int | None = _option(None, "most pitches at once")
    most_repeats: int | None = _option(None, "how often the same chord may follow itself")
    meter: str | None = _option(None, "no slice over a bar line, and pieces end on one: 4/4, 3/4 …")
    upbeat: float | None = _option(
        None, "quarters before the first bar line; none: the prompt's, or the usual one of the corpus"
    )
    keep_prompt: bool = _option(True, "begin with the prompt itself")
    tempo: float | None = _option(None, "quarters a minute; none: the prompt's, or as the training pieces")
    program: int | None = _option(None, "General MIDI program, 0 to 127; none: the prompt's, or 0, the piano")
    dtype: Literal["float32", "bfloat16"] | None = _option(None, "of products; none: as in training")
    seed: int = _option(0, "the same seed writes the same music on the same device")

    def __post_init__(self) -> None:
        _require(1 <= self.count <= 10_000, "sample.count", self.count, "1 to 10,000 pieces")
        ranges = {
            "temperature": (lambda value: 0 <= value <= 100, "0 (greedy) to 100; 0.5 to 1.5 is usual"),
            "top_k": (lambda value: 0 <= value <= _MOST, "1 or more; 0: all"),
            "top_p": (lambda value: 0 < value <= 1, "above 0, up to 1; 0.9 to 0.99 is usual"),
            "min_p": (lambda value: 0 <= value <= 1, "0 to 1; 0.02 to 0.1 is usual"),
            "repetition_penalty": (lambda value: 0.01 <= value <= 100, "0.01 to 100; 1: none"),
        }
        for name, (fits, remedy) in ranges.items():
            for field_name in (name, f"duration_{name}"):
                values = getattr(self, field_name)
                if values is None:
                    continue
                whole = isinstance(values, tuple) and len(values) > 0
                _require(whole, f"sample.{field_name}", values, "give one value or more, in a tuple")
                for value in values:
                    _require(fits(value), f"sample.{field_name}", value, remedy)
        _require(1 <= self.events <= 1_000_000, "sample.events", self.events, "1 to 1,000,000")
        _require(self.bars is None or 1 <= self.bars <= 100_000, "sample.bars", self.bars, "1 to 100,000")
        length_fits = self.seconds is None or 0 < self.seconds <= 86_400
        _require(length_fits, "sample.seconds", self.seconds, "above 0, up to 86,400")
        only_one = self.bars is None or self.seconds is None
        _require(only_one, "sample.seconds", self.seconds, "give bars or seconds, not both")
        _require(1 <= self.particles <= 10_000, "sample.particles", self.particles, "1 to 10,000")
        _require(self.off_chord >= 0, "sample.off_chord", self.off_chord, "0 or more; inf: never")
        if self.length is not None:
            self._require_length(self.length)
        for name in ("length", "chords", "in_key"):
            if getattr(self, name) is not None:
                self._require_for_particles(name)
        for name in ("lowest", "highest"):
            _require(0 <= getattr(self, name) <= 127, f"sample.{name}", getattr(self, name), "0 to 127")
        _require(self.lowest <= self.highest, "sample.lowest", self.lowest, f"{self.highest} at most")
        for name in ("largest_chord", "most_repeats"):
            count = getattr(self, name)
            _require(count is None or 1 <= count <= _MOST, f"sample.{name}", count, "1 or more")
        if self.meter is not None:
            parse_meter(self.meter)
        upbeat_fits = self.upbeat is None or 0 <= self.upbeat <= 64
        _require(upbeat_fits, "sample.upbeat", self.upbeat, "0 to 64 quarters")
        tempo_fits = self.tempo is None or 4 <= self.tempo <= 1000
        _require(tempo_fits, "sample.tempo", self.tempo, "4 to 1,000 quarters a minute")
        _require(self.program is None or 0 <= self.program <= 127, "sample.program", self.program, "0 to 127")
        _require_seed("sample.seed", self.seed)

    def _require_length(self, length: str) -> None:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(bars|s)", length)
        fits = match is not None and 0 < float(match[1]) <= (1000 if match[2] == "bars" else 3600)
        whole = match is None or match[2] == "s" or "." not in match[1]
        _require(fits and whole, "sample.length", length, "give 32bars or 90s, up to 1000bars or 3600s")

    def _require_for_particles(self, asked: str) -> None:
        """What is not known of particles is refused beside what needs them."""
        neutral = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
        for name, value in neutral.items():
            for field_name in (name, f"duration_{name}"):
                plain = not {*(getattr(self, field_name) or ())} - {value}
                _require(plain, f"sample.{field_name}", getattr(self, field_name), _NOT_WITH.format(asked))
        for name in ("bars", "seconds", "largest_chord", "most_repeats"):
            _require(
                getattr(self, name) is None, f"sample.{name}", getattr(self, name), _NOT_WITH.format(asked)
            )
        for name in ("temperature", "duration_temperature"):
            hot = getattr(self, name)
            _require(hot is None or min(hot) > 0, f"sample.{name}", hot, f"above 0 beside sample.{asked}")


_NOT_WITH = "leave it out beside sample.{}, which knows temperatures, key, lowest and highest alone"


def parse_meter(text: str) -> tuple[int, int]:
    """`3/4` as (3, 4). Raises InputError for anything else than beats over a power of two up to 16."""
    match = re.fullmatch(r"(\d{1,2})/(1|2|4|8|16)", text.strip())
    beats = int(match[1]) if match else 0
    if match is None or not 1 <= beats <= 64:
        raise InputError(f"meter {text!r}: give beats and their note value, such as 4/4 or 6/8")
    return beats, int(match[2])


@dataclass(frozen=True)
class Config:
    """A whole experiment."""

    prepare: PrepareConfig = PrepareConfig()
    model: ModelConfig = ModelConfig()
    batch: BatchConfig = BatchConfig()
    train: TrainConfig = TrainConfig()
    sample: SampleConfig = SampleConfig()


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean X?`, or a list of what there is: the end of an error message."""
    options = list(known)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"there is {', '.join(options)}"


def options(kind: Any, prefix: str = "") -> dict[str, tuple[Any, str]]:
    """Every leaf of a config class as `dotted name -> (type, help)`, in order."""
    hints = typing.get_type_hints(kind)
    leaves: dict[str, tuple[Any, str]] = {}
    for item in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[item.name]):
            leaves |= options(hints[item.name], f"{prefix}{item.name}.")
        else:
            leaves[prefix + item.name] = (hints[item.name], item.metadata["help"])
    return leaves


def override(config: C, changes: Mapping[str, object]) -> C:
    """`config` with the values at the dotted names replaced; text is read as the field's type.

    Raises InputError for a name that does not exist (with the nearest one), a value that cannot be read
    as its type, and a value out of range.
    """
    known = options(type(config))
    nested: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in known:
            if name.rpartition(".")[2] in _SAID_BY_BLOCKS:
                raise InputError(f"no setting {name!r}: model.blocks says it, as in {_EXAMPLE_OF_BLOCKS}")
            raise InputError(f"no setting {name!r}: {nearest(name, known)}")
        *path, leaf = name.split(".")
        inner = nested
        for part in path:
            inner = inner.setdefault(part, {})
        inner[leaf] = _read(name, value, known[name][0])
    return _replace(config, nested)


def _replace(config: Any, nested: Mapping[str, Any]) -> Any:
    values = {
        name: _replace(getattr(config, name), value) if isinstance(value, dict) else value
        for name, value in nested.items()
    }
    return dataclasses.replace(config, **values)


def _read(name: str, value: object, kind: Any) -> Any:
    """`value` (text, or what JSON gave) as `kind`."""
    if isinstance(value, str):
        value = _WORDS.get(name, {}).get(value, value)
    origin = typing.get_origin(kind)
    if origin is Literal:
        choices = typing.get_args(kind)
        if value not in choices:
            raise InputError(f"{name} = {value!r}: {nearest(str(value), choices)}")
        return value
    if origin is tuple:
        # A comma between parentheses stands within a part.
        parts = re.split(r",(?![^(]*\))", value) if isinstance(value, str) else value
        parts = () if value == "none" else parts
        parts = [parts] if isinstance(parts, int | float) else parts
        if not isinstance(parts, list | tuple):
            raise InputError(f"{name} = {value!r}: give numbers with commas between them")
        return tuple(_read(name, part, typing.get_args(kind)[0]) for part in parts)
    if origin in (types.UnionType, typing.Union):
        return None if value in (None, "none") else _read(name, value, typing.get_args(kind)[0])
    if kind is bool and isinstance(value, str):
        if value not in ("true", "false"):
            raise InputError(f"{name} = {value!r}: give true or false")
        return value == "true"
    wrong = InputError(f"{name} = {value!r}: give {_ARTICLES[kind]}")
    if kind in (bool, str) and isinstance(value, kind):
        return value
    if kind in (bool, str) or isinstance(value, bool):
        raise wrong
    try:
        number = kind(value)
    except (TypeError, ValueError, OverflowError):
        raise wrong from None
    if isinstance(number, float) and not math.isfinite(number):
        raise wrong
    if isinstance(value, float) and number != value:
        raise wrong
    return number


def one_length(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Who asks for epochs does not also mean the recipe's steps, and the other way round."""
    settings = dict(settings)
    for mine, other in (("train.steps", "train.epochs"), ("train.epochs", "train.steps")):
        if mine in settings and other not in settings:
            return settings | {other: 0}
    return settings


def spell(value: object, name: str = "") -> str:
    """A value as one would type it: text that `override` reads as that value of the setting."""
    for word, meant in _WORDS.get(name, {}).items():
        if value == meant:
            return word
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)


_ARTICLES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def to_json(config: Any) -> dict[str, Any]:
    """The config as nested plain values, ready for `json.dump`."""
    return dataclasses.asdict(config)


def from_json(kind: type[C], data: Mapping[str, Any]) -> C:
    """The inverse of `to_json`; a missing field takes its default, an unknown one is refused."""
    return override(kind(), flatten(data))


def changed(data: Mapping[str, Any]) -> dict[str, Any]:
    """Of a config as JSON the settings that are not as by default, by dotted name."""
    usual = flatten(to_json(Config()))
    return {name: value for name, value in flatten(data).items() if value != usual.get(name)}


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping of dotted names."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
