"""The laws that every vocabulary keeps, as one test: `verify_vocabulary(mine, pieces)`."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from midigen_jax.music.piece import Piece
from midigen_jax.vocab import Tokens, Vocabulary, by_stream, start_event, to_tokens
from midigen_jax.vocab.base import END, START, closes_of, ticks_of
from midigen_jax.vocab.traced import allowed_next

_SHIFT = 3  # semitones


def verify_vocabulary(vocabulary: Vocabulary, pieces: Sequence[Piece]) -> None:
    """Raises AssertionError, which names it, for the first law that `vocabulary` breaks for these pieces.

    A table for each stream, of its size; one that is left alone by JSON and can be hashed. Ids within their
    streams, `<start>` first and `<end>` last, each with 0 in the other streams. What is decoded and encoded
    again is the same, and its time is that of the music. The rules allow what is encoded, and at every event
    something. Transposing is the same on the host and in a program.
    """
    sizes = [size for _, size in vocabulary.streams]
    names = [name for name, _ in vocabulary.streams]
    assert [*vocabulary.tables] == names, f"tables are of {[*vocabulary.tables]}, streams {names}"
    for name, size in vocabulary.streams:
        columns = [
            column for column in vars(vocabulary.tables[name]).values() if isinstance(column, np.ndarray)
        ]
        found = {len(column) for column in columns}
        assert found == {size}, f"the table of {name} is of {found} ids, the stream of {size}"
    again = vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json())))
    assert again == vocabulary, "it is another one when it has been through JSON"
    assert hash(again) == hash(vocabulary), "its hash is another one when it has been through JSON"
    for piece in pieces:
        tokens = vocabulary.encode(piece)
        _verify_tokens(vocabulary, tokens, sizes)
        notes = vocabulary.decode(tokens)
        same = replace(piece, notes=notes, length=None, voiced=len(vocabulary.voice_places))
        twice = vocabulary.decode(vocabulary.encode(same))
        assert np.array_equal(notes, twice), "what it decodes is other music when it is encoded again"
        _verify_rules(vocabulary, tokens)
        if vocabulary.transposes:
            events = by_stream(vocabulary, tokens)
            traced: Any = jax.jit(vocabulary.transpose)(events, _SHIFT)
            host, program = (
                to_tokens(vocabulary, moved) for moved in (vocabulary.transpose(events, _SHIFT), traced)
            )
            assert np.array_equal(host, program), "it transposes otherwise in a program than on the host"


def _verify_tokens(vocabulary: Vocabulary, tokens: Tokens, sizes: Sequence[int]) -> None:
    assert tokens.dtype == np.int32, f"its ids are {tokens.dtype}, not int32"
    assert tokens.shape[1:] == (len(sizes),), f"its events are {tokens.shape[1:]}, streams are {len(sizes)}"
    assert (tokens >= 0).all(), "an id is below 0"
    for (name, size), highest in zip(vocabulary.streams, tokens.max(axis=0), strict=True):
        assert highest < size, f"id {highest} of {name}, whose ids are below {size}"
    assert tokens[0].tolist() == start_event(vocabulary)[0].tolist(), "a piece does not begin with <start>"
    edges = np.isin(tokens[:, 0], [START, END])
    assert edges.sum() == 2, "<start> or <end> stands within a piece, or is missing"
    assert tokens[-1].tolist() == [END, *[0] * (len(sizes) - 1)], "a piece does not end with <end>"
    tables = vocabulary.tables
    late = ticks_of(tables, tokens)[~closes_of(tables, tokens)].any()
    assert not late, "time goes on after an event that closes no slice"


def _verify_rules(vocabulary: Vocabulary, tokens: Tokens) -> None:
    events = jax.tree.map(jnp.asarray, by_stream(vocabulary, tokens[None]))
    for name, allowed_BTV in allowed_next(vocabulary, events, jnp.ones((1, len(tokens) - 1), bool)).items():
        allowed, own = np.asarray(allowed_BTV)[0], np.asarray(events[name])[0, 1:]
        wrong = np.flatnonzero(~allowed[np.arange(len(own)), own])
        assert not len(wrong), f"its rules forbid {name} {own[wrong[:1]]} of music at event {wrong[:1] + 1}"
