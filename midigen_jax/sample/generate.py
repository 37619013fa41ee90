"""Checkpoint and prompt in, music out.

The prompt is moved to the place where the corpus was transposed to, continued, and moved back with all that
was written.
"""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from midigen_jax.config import SampleConfig
from midigen_jax.errors import InputError
from midigen_jax.music import key as keys
from midigen_jax.music.notes import Notes
from midigen_jax.music.read import Piece
from midigen_jax.music.slices import slice_notes, to_notes
from midigen_jax.music.tokens import END, START, ChordTokenizer, Tokenizer, Tokens
from midigen_jax.sample.decode import Prompt, Temperature, decode
from midigen_jax.train.checkpoint import Experiment, Restored


class Generated(NamedTuple):
    """Pieces of music, and what writing them took."""

    pieces: list[Notes]
    events: int  # written after the prompts, over all pieces
    ended: int  # pieces that ended by themselves, within the budget
    seconds: float
    compile_seconds: float
    tempo: float  # quarters a minute: the config's, or the prompt's, or that of the training pieces
    meter: tuple[int, int]  # the prompt's, or that of the training pieces


def generate(restored: Restored, config: SampleConfig, prompt: Piece | None = None) -> Generated:
    """Write `config.count` pieces; with a prompt, each begins with it.

    Piece i depends on `config.seed` and i alone. Raises InputError for a prompt that holds a chord which
    the `chord` vocabulary does not know.
    """
    prompt_tokens, shift = _prompt_tokens(restored.experiment, prompt)
    tokenizer, count, length = restored.experiment.tokenizer, config.count, len(prompt_tokens)
    durations = config.temperature if config.duration_temperature is None else config.duration_temperature
    # What no piece can hold is never drawn: an unknown chord has no pitches.
    forbidden = (ChordTokenizer.UNKNOWN,) if isinstance(tokenizer, ChordTokenizer) else ()
    arguments = (
        restored.state.weights,
        jax.vmap(lambda row: jax.random.fold_in(jax.random.key(config.seed), row))(jnp.arange(count)),
        Prompt(
            jnp.broadcast_to(prompt_tokens[:, 0], (count, length)),
            jnp.broadcast_to(prompt_tokens[:, 1], (count, length)),
            jnp.ones((count, length), bool),
        ),
        Temperature(jnp.full(count, config.temperature), jnp.full(count, durations)),
    )
    start = time.perf_counter()
    lowered = decode.lower(restored.network, *arguments, events=config.events, forbidden=forbidden)
    compiled = lowered.compile()
    compile_seconds = time.perf_counter() - start
    start = time.perf_counter()
    decoded = jax.device_get(compiled(*arguments))
    seconds = time.perf_counter() - start
    pieces, ended = [], 0
    for pitch, duration, events in zip(*decoded, strict=True):
        written = np.stack([pitch[:events], duration[:events]], axis=1)
        ended += int(written[-1, 0] == END)
        pieces.append(_music(tokenizer, np.concatenate([prompt_tokens, written]), shift))
    origin = prompt or restored.experiment
    tempo = origin.tempo if config.tempo is None else config.tempo
    events = int(decoded.length_B.sum())
    return Generated(pieces, events, ended, seconds, compile_seconds, tempo, origin.meter)


def _prompt_tokens(experiment: Experiment, prompt: Piece | None) -> tuple[Tokens, int]:
    """The events to begin with, `<start>` among them, and how far they were transposed."""
    if prompt is None:
        return np.array([[START, 0]], np.int32), 0
    settings, tokenizer, shift = experiment.config.prepare, experiment.tokenizer, 0
    if settings.transpose != "none":
        found = keys.find_key(prompt.notes, settings.profile)
        shift = keys.shift_to(found, keys.parse_key(settings.transpose))
    slices = slice_notes(keys.transpose(prompt.notes, shift))
    tokens = tokenizer.encode(slices)[:-1]
    if isinstance(tokenizer, ChordTokenizer) and tokenizer.unknown_share(tokens) > 0:
        position = int(np.flatnonzero(tokens[:, 0] == ChordTokenizer.UNKNOWN)[0])
        raise InputError(
            f"the prompt's chord number {position} is not in the model's vocabulary; "
            "give another prompt, or train with --tokenizer note, which knows every chord"
        )
    return tokens, shift


def _music(tokenizer: Tokenizer, tokens: Tokens, shift: int) -> Notes:
    return keys.transpose(to_notes(tokenizer.decode(tokens)), -shift)
