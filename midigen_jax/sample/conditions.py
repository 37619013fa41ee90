"""What whole pieces are asked for: a length that is kept, chords bar by bar, a key that they are found in.

In: settings of sampling, and when writing begins. Out: what particles are held to and steered to.
"""

import re
from typing import Any

import jax.numpy as jnp
import numpy as np

from midigen_jax.config import SampleConfig
from midigen_jax.music import key as keys
from midigen_jax.music.chords import parse_chords
from midigen_jax.music.key import Profile
from midigen_jax.sample.particles import FREE, NEVER, Chords, Given, InKey, Steering
from midigen_jax.sample.steering import steering
from midigen_jax.sample.voices import TICKS, held_to
from midigen_jax.vocab import Vocabulary
from midigen_jax.vocab.traced import pitch_stream

_BARS = 64  # at whose lines pieces of no given length are compared
_CHORDS = 16  # they are filled up to a multiple: fewer shapes are compiled
_PROPOSAL = 0.9  # times the temperature: what is likely is tried more often
_REST_NATS = 4.0  # what a rest costs under chords, where a note outside of them costs more
_KEY_NATS = 60.0  # what a correlation that is 1 too low costs when a piece is over …
_LAST_KEY_NATS = 1000.0  # … and what it costs then: a piece in another key is the last choice
_KEY_BARS = 16  # after which it costs as much in pieces of no given length


def are_asked(config: SampleConfig) -> bool:
    """Whether pieces are written by particles."""
    return any(value is not None for value in (config.length, config.chords, config.in_key))


def length_in_bars(length: str, bar_quarters: float, tempo: float) -> int:
    """`32bars`, or `90s` to the nearest number of whole bars, at least one."""
    amount = float(re.sub("[a-z]", "", length))
    if length.endswith("s") and not length.endswith("bars"):
        amount *= tempo / 60 / bar_quarters
    return max(1, round(amount))


def given_of(
    vocabulary: Vocabulary,
    config: SampleConfig,
    before: int,
    meter: tuple[int, int],
    tempo: float,
    limits: Any,
) -> Given:
    """What pieces are held to that begin `before` ticks after a bar line (less than 0: in an upbeat).

    They end on a bar line, which no slice crosses, and write the ids that `limits` allow.
    """
    clock = vocabulary.clock
    bar = clock.bar(meter)
    first, bars = -before % bar, _bars(config, clock.quarters(bar), tempo)
    stops = [first + number * bar for number in range((bars or _BARS) + 1)]
    end = NEVER if bars is None else stops[-1]
    if config.chords is not None:
        stops += _changes(config.chords, first, bar, end)
    free = np.full((1, vocabulary.slice_events), FREE, np.int32)
    return held_to(free, sorted({stop for stop in stops if stop > 0}), end)._replace(limits=limits)


def _bars(config: SampleConfig, bar_quarters: float, tempo: float) -> int | None:
    if config.length is not None:
        return length_in_bars(config.length, bar_quarters, tempo)
    return None if config.chords is None else len(parse_chords(config.chords))


def _changes(text: str, first: int, bar: int, end: int) -> list[int]:
    """The ticks at which a chord begins within a bar."""
    bars, found = parse_chords(text), []
    for number in range((end - first) // bar):
        chords = len(bars[number % len(bars)])
        found += [first + number * bar + bar * part // chords for part in range(1, chords)]
    return found


def steering_of(
    vocabulary: Vocabulary,
    config: SampleConfig,
    given: Given,
    shift: int,
    before: int,
    bar: int,
    profile: Profile,
) -> Steering:
    """What all pieces are steered to, at temperature 1.

    The model reads music `shift` semitones from where it is heard.
    """
    more: dict[str, Any] = {}
    if config.chords is not None:
        more["chords"] = _chords(vocabulary, config.chords, config.off_chord, given, shift, before, bar)
    if config.in_key is not None:
        more["key"] = _in_key(config.in_key, given, shift, bar, profile)
    return steering(vocabulary, 1.0, _PROPOSAL, 0.0, **more)


def _chords(
    vocabulary: Vocabulary, text: str, cost: float, given: Given, shift: int, before: int, bar: int
) -> Chords:
    sounds_VP = vocabulary.tables[pitch_stream(vocabulary.tables)].sounds
    class_P = (np.arange(sounds_VP.shape[1]) - shift) % 12
    bars, costs = parse_chords(text), []
    for chord in [chord for bar_chords in bars for chord in bar_chords]:
        outside_V = sounds_VP[:, ~np.isin(class_P, [*chord])].sum(axis=1)
        cost_V = np.where(outside_V > 0, cost, 0) * np.maximum(outside_V, 1)
        # Rests would be the way out.
        costs.append(np.where(sounds_VP.any(axis=1), cost_V, min(cost, _REST_NATS)))
    first = -before % bar
    chord_T = np.zeros(-(-int(given.end) // TICKS) * TICKS, np.int32)
    starts = np.cumsum([0, *map(len, bars)])
    for tick in range(int(given.end)):
        # An upbeat has the chord of the first bar.
        number, within = divmod(max(tick - first, 0), bar)
        number %= len(bars)
        chord_T[tick] = starts[number] + within * len(bars[number]) // bar
    chord_T[int(given.end) :] = chord_T[int(given.end) - 1]
    spare = -len(costs) % _CHORDS
    cost_CV = np.pad(np.array(costs, np.float32), ((0, spare), (0, 0)))
    return Chords(jnp.asarray(cost_CV), jnp.asarray(chord_T))


def _in_key(text: str, given: Given, shift: int, bar: int, profile: Profile) -> InKey:
    target, (every, profile_K12) = keys.parse_key(text), keys.profiles(profile)
    heard = [keys.Key((key.tonic - shift) % 12, key.mode) for key in every]
    end = int(given.end)
    whole = end if end < NEVER else _KEY_BARS * bar
    stop_S = np.asarray(given.stop_S)
    nats_S = np.where(stop_S < NEVER, _KEY_NATS * np.minimum(stop_S / whole, 1), _LAST_KEY_NATS)
    wanted = [keys.matches(key, target) for key in heard]
    return InKey(*map(jnp.asarray, (profile_K12.astype(np.float32), wanted, nats_S.astype(np.float32))))
