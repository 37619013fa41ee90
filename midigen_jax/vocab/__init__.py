"""What ids mean: music in, events of parallel streams of ids out, and back.

Nothing outside of this room asks which vocabulary it has. A new one is one file, and one line of
`VOCABULARIES`; docs/extending.md writes one.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np

from midigen_jax.config import PrepareConfig, nearest
from midigen_jax.errors import InputError
from midigen_jax.music.clock import Clock
from midigen_jax.music.notes import Notes
from midigen_jax.music.piece import Piece
from midigen_jax.music.slices import Slices, slice_notes
from midigen_jax.vocab.base import END, START, IdTable, Stream, Tokens, closes_of, ticks_of, unknown_of
from midigen_jax.vocab.chord import ChordVocabulary
from midigen_jax.vocab.note import NoteVocabulary
from midigen_jax.vocab.voice import VoiceVocabulary


class Vocabulary(Protocol):
    """What the ids of events mean. A frozen dataclass that can be hashed: programs are compiled for it.

    An event is a tuple of ids, one for each stream. In the first stream 0 is `<start>` and 1 is `<end>`;
    where they stand, all other streams have 0. The time of a piece goes on after each event by its ticks.
    """

    name: ClassVar[str]
    drops: ClassVar[tuple[str, ...]]
    """what of music it cannot say: "track", "velocity", "held" …"""
    learned: ClassVar[bool]
    """whether `make` looks at the training pieces"""
    transposes: ClassVar[bool]
    """whether `transpose` can be had"""

    @classmethod
    def make(cls, config: PrepareConfig, pieces: Iterable[Piece] = ()) -> "Vocabulary":
        """The vocabulary of a corpus; `pieces` are those of its training split."""

    @classmethod
    def typical(cls, config: PrepareConfig, symbols: int) -> "Vocabulary":
        """As `make`, where there is no corpus; one that is learned has so many ids in its first stream."""

    @property
    def streams(self) -> tuple[Stream, ...]:
        """Names and sizes, in the order in which the ids of an event are drawn."""

    @property
    def tables(self) -> Mapping[str, IdTable]:
        """For each stream, in their order, what its ids mean by themselves."""

    @property
    def rules(self) -> Any:
        """What may follow what: `rules.Rules`. Only this property imports JAX."""

    @property
    def slice_events(self) -> int:
        """The fewest events that every slice has."""

    @property
    def voice_places(self) -> tuple[int, ...]:
        """Where each voice stands in a slice, from the lowest voice up; empty where events are no voices."""

    @property
    def clock(self) -> Clock:
        """What its ticks are."""

    def encode(self, piece: Piece) -> Tokens:
        """(E, S) ids, from `<start>` to `<end>`. Raises InputError for music that it cannot say."""

    def decode(self, tokens: Tokens, trim: bool = True) -> Notes:
        """The notes of any ids, up to the first `<end>`: total, so that whatever a model writes can be heard.

        `decode(encode(piece))` is the music of the piece, but for what `drops` names.
        Without `trim` a rest at the beginning stays.
        """

    def transpose(self, events: Any, semitones: Any) -> Any:
        """Events, a dict of arrays (N,) by stream, moved; all stay if one would leave MIDI's range.

        Of NumPy arrays on the host, and of traced ones in a program.
        """

    def symbol(self, stream: str, id: int) -> str:
        """An id of a stream, for people."""

    def __hash__(self) -> int:
        """Programs are compiled for it."""

    def to_json(self) -> dict[str, Any]:
        """All that `from_json` needs, its `name` among it."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Vocabulary":
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError for what it did not write."""


VOCABULARIES: dict[str, type[Vocabulary]] = {
    "note": NoteVocabulary,
    "voice": VoiceVocabulary,
    "chord": ChordVocabulary,
}


def vocabulary_class(config: PrepareConfig) -> type[Vocabulary]:
    """The vocabulary that the settings of a corpus name. Raises InputError for one that is not there."""
    name = "voice" if config.voices and config.tokenizer == "note" else config.tokenizer
    if name not in VOCABULARIES:
        raise InputError(
            f"prepare.tokenizer = {name}: no vocabulary of that name; {nearest(name, VOCABULARIES)}, "
            "or add it to VOCABULARIES in vocab/__init__.py"
        )
    if (name == "voice") != (config.voices > 0):
        remedy = (
            "give the number of voices, or leave it out" if name == "voice" else "give note, or no voices"
        )
        raise InputError(f"prepare.voices = {config.voices} with prepare.tokenizer = {name}: {remedy}")
    if config.voice_order != "low-first" and not config.voices:
        raise InputError(f"prepare.voice_order = {config.voice_order}: there are no voices; give --voices")
    return VOCABULARIES[name]


def interim_vocabulary(config: PrepareConfig) -> Vocabulary:
    """The one in which a piece is kept until that of its corpus is known: its own, unless it is learned."""
    chosen = vocabulary_class(config)
    return NoteVocabulary.make(config) if chosen.learned else chosen.make(config)


def typical_vocabulary(config: PrepareConfig, symbols: int = 1000) -> Vocabulary:
    """As large as that of such a corpus: one that is learned has so many ids in its first stream."""
    return vocabulary_class(config).typical(config, symbols)


def vocabulary_from_json(data: Mapping[str, Any]) -> Vocabulary:
    """The inverse of every vocabulary's `to_json`. Raises InputError for what none of them wrote."""
    try:
        name = str(data["name"])
        if name in VOCABULARIES:
            return VOCABULARIES[name].from_json(data)
    except (KeyError, TypeError, ValueError):
        raise InputError("the JSON of the vocabulary is damaged; prepare the corpus again") from None
    raise InputError(f"no vocabulary {name!r}; {nearest(name, VOCABULARIES)}")


def start_event(vocabulary: Vocabulary) -> Tokens:
    """(1, S): `<start>` alone."""
    return np.array([[START, *[0] * (len(vocabulary.streams) - 1)]], np.int32)


def by_stream(vocabulary: Vocabulary, tokens: Tokens) -> dict[str, Any]:
    """Tokens (…, S) as an int32 array (…) for each stream."""
    names = enumerate(stream.name for stream in vocabulary.streams)
    return {name: tokens[..., place].astype(np.int32) for place, name in names}


def to_tokens(vocabulary: Vocabulary, events: Mapping[str, Any]) -> Tokens:
    """The inverse of `by_stream`. (JAX sorts the names of a dict, so their order says nothing.)"""
    return np.stack([np.asarray(events[stream.name], np.int32) for stream in vocabulary.streams], axis=-1)


def length_of(vocabulary: Vocabulary, tokens: Tokens) -> int:
    """How many ticks go by in some events."""
    return int(ticks_of(vocabulary.tables, tokens).sum())


def slices_of(vocabulary: Vocabulary, tokens: Tokens, trim: bool = True) -> Slices:
    """The canonical slices of any ids; without `trim` rests at the ends stay."""
    length = None if trim else length_of(vocabulary, tokens)
    return slice_notes(vocabulary.decode(tokens, trim), length)


__all__ = [
    "END",
    "START",
    "VOCABULARIES",
    "IdTable",
    "Stream",
    "Tokens",
    "Vocabulary",
    "by_stream",
    "closes_of",
    "interim_vocabulary",
    "length_of",
    "slices_of",
    "start_event",
    "ticks_of",
    "to_tokens",
    "typical_vocabulary",
    "unknown_of",
    "vocabulary_class",
    "vocabulary_from_json",
]
