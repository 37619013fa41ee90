"""Which tokenizers there are: one event a pitch, a chord, or a voice."""

from collections.abc import Mapping
from typing import Any

from midigen_jax.errors import InputError
from midigen_jax.music.tokens import ChordTokenizer, NoteTokenizer
from midigen_jax.music.voices import VoiceTokenizer

Tokenizer = NoteTokenizer | ChordTokenizer | VoiceTokenizer


def tokenizer_from_json(data: Mapping[str, Any]) -> Tokenizer:
    """The inverse of every tokenizer's `to_json`. Raises InputError for what none of them wrote."""
    try:
        if data["name"] == NoteTokenizer.name:
            return NoteTokenizer(int(data["max_duration"]))
        if data["name"] == VoiceTokenizer.name:
            return VoiceTokenizer(int(data["voices"]), int(data["max_duration"]))
        if data["name"] == ChordTokenizer.name:
            chords = tuple(tuple(int(pitch) for pitch in chord) for chord in data["chords"])
            return ChordTokenizer(chords, int(data["max_duration"]))
    except (KeyError, TypeError, ValueError):
        raise InputError("the tokenizer's JSON is damaged; prepare the corpus again") from None
    raise InputError(f"no tokenizer {data['name']!r}: there is note, voice, chord")
