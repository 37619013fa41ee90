"""Music around what is given, by sequential Monte Carlo: many rows write one piece, and are weighed.

In: parameters, a prompt of one row, what is given of the piece, settings. Out: particles, each a whole piece
that holds all that is given, and its weight; and an estimate of how likely what is given is.

Rows are particles. A row draws each event as the decode loop does, from the ids that fit what is given, and
its weight takes up how likely these ids were together. At each stop, a tick that no slice crosses, rows wait
for each other: only at the same musical time do weights compare. There, if few rows carry most of the weight,
rows are drawn anew in proportion to it (systematic resampling), and all weigh the same again. The mean weight
is an unbiased estimate of the probability of what is given, and the weighted particles are draws from the
model given it, exactly so in the limit of many. What pieces are steered to besides (chords, a key, no
parallels) costs nats, which weights take up likewise.

Sources: Gordon, Salmond & Smith 1993, "Novel approach to nonlinear/non-Gaussian Bayesian state estimation";
Del Moral, Doucet & Jasra 2006, "Sequential Monte Carlo samplers"; Lew et al. 2023, "Sequential Monte Carlo
steering of large language models".
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from midigen_jax.model.network import IMPOSSIBLE, Carry, EmbeddingProjections, Network, Trunk
from midigen_jax.sample.constraints import NEVER
from midigen_jax.sample.decode import Decoded, Prompt, read_prompt, repeated
from midigen_jax.sample.filters import SamplingParams, draw
from midigen_jax.vocab import END
from midigen_jax.vocab.base import NONE
from midigen_jax.vocab.rules import Events, where
from midigen_jax.vocab.traced import by_id, closes_of, pitch_stream, ticks_of

FREE = -1  # where any id may be

_FIFTH, _OCTAVE = 7, 0


class Given(NamedTuple):
    """What is given of T ticks of V voices; ticks count from the end of the prompt."""

    id_TV: Array  # int32: the pitch id at each place of a slice that begins at this tick; FREE: any
    stop_S: Array  # int32: ticks that no slice crosses, ascending, and at which rows are compared; then NEVER
    end: Array  # int32: the tick at which pieces end; NEVER: wherever they end by themselves
    closes: Array | bool = True  # whether <end> stands at the end; else pieces break off there
    limits: Any = None  # arrays of the vocabulary's rules: the ids that may be written at all; None: all


class Chords(NamedTuple):
    """Chords that pitches should belong to; T ticks from the end of the prompt on, C chords."""

    cost_CV: Array  # float32, nats: of each pitch id under each chord; inf: it is never written
    chord_T: Array  # int32: the chord at each tick; after the last one it stays


class InKey(NamedTuple):
    """A key that pieces should be found in, as `music.key.find_key` finds it; K keys."""

    profile_K12: Array  # float32: of every key, around its mean and of length 1
    wanted_K: Array  # bool: whether a piece may be in it
    nats_S: (
        Array  # float32: at each stop, and at the end, the cost of a correlation with it that is 1 too low
    )


class Steering(NamedTuple):
    """How particles are drawn and weighed. All are traced; what is None costs nothing."""

    temperature: dict[str, Array]  # by stream, above 0: of the model whose pieces are asked for
    proposal: Array  # times it is the temperature to draw at: below 1, what is likely is tried more often
    share: Array  # of the rows: rows are drawn anew where so few or fewer carry the weight
    parallel: Array  # nats that each pair of voices costs that moves in parallel fifths or octaves
    chords: Chords | None = None
    key: InKey | None = None


class Particles(NamedTuple):
    """B rows that write one piece."""

    carry: Carry
    trunk: Trunk  # T = 1: after the last event
    tick_B: Array  # int32: that are written
    place_B: Array  # int32: events in the slice that is being written
    length_B: Array  # int32: events that are written
    drawn_B: Array  # int32: events that this row has drawn, those of particles that are gone too
    ended_B: Array  # bool: whether <end> is
    weight_B: Array  # float32, nats: the logarithm of the weight
    nats_B: Array  # float32: of what is written, at temperature 1
    before_BV: Array  # int32: MIDI pitches of the slice before, or NONE, from the lowest voice up
    current_BV: Array  # int32: those of the slice that is being written
    sounds_B12: Array  # float32: how often each pitch class is in that slice
    sounded_B12: Array  # float32: ticks for which each has sounded
    key_B: Array  # nats: what `InKey` has cost so far
    events: dict[str, Array]  # ids (B, E) by stream


class Written(NamedTuple):
    """What a call gives."""

    decoded: Decoded
    nats_B: Array  # of all events of a piece after the prompt, at temperature 1
    weight_B: Array  # nats: what the particles weigh beside each other
    evidence: Array
    """nats: the logarithm of the estimate of how likely what is given is, less what steering costs"""
    stops: Array  # int32: how many were passed; fewer than there are, where no row can go on
    effective_S: Array
    """at each stop, how many rows carried the weight: its sum squared over the sum of its squares"""


class _Loop(NamedTuple):
    particles: Particles
    stop: Array  # int32: the number of the next one
    evidence: Array
    effective_S: Array


@partial(jax.jit, static_argnames=("network", "rows", "events", "bars"))
def write_particles(
    network: Network,
    params: dict,
    prompt: Prompt,
    begin: Array,
    given: Given,
    steering: Steering,
    key: Array,
    *,
    rows: int,
    events: int,
    bars: bool = True,
) -> Written:
    """Write one piece `rows` times, up to `events` events each, as far as rows can go on.

    prompt: of one row. begin: when it begins, in ticks from a bar line. bars: whether the model counts from
    bar lines. The nth draw of a row takes the bits that `decode` takes for event n, where the row's key is
    `fold_in(key, row)`. Compiled once for a network, the shapes of the prompt and of what is given, and
    these three numbers.
    """
    model = network.bind({"params": params})
    projections = model.projections()
    keys_B = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(rows))
    start = _Loop(
        _begin(model, prompt, begin[None] if bars else None, projections, given, rows, events),
        jnp.int32(0),
        jnp.float32(0),
        jnp.zeros(given.stop_S.shape),
    )
    count = (given.stop_S < NEVER).sum()

    def active(loop: _Loop) -> Array:
        there = loop.particles
        writes_B = ~there.ended_B & (there.tick_B < given.stop_S[loop.stop]) & (there.length_B < events)
        writes_B &= (there.tick_B < given.end) | given.closes
        return writes_B & (there.weight_B > -jnp.inf)

    def write(loop: _Loop) -> _Loop:
        stop, active_B = given.stop_S[loop.stop], active(loop)
        there = _write(model, loop.particles, given, stop, steering, keys_B, active_B, projections)
        return loop._replace(particles=there)

    def to_next_stop(loop: _Loop) -> _Loop:
        return _compare(lax.while_loop(lambda loop: active(loop).any(), write, loop), given, steering, key)

    def goes_on(loop: _Loop) -> Array:
        return (loop.particles.weight_B > -jnp.inf).any() & (loop.stop <= count)

    loop = lax.while_loop(goes_on, to_next_stop, start)
    there = loop.particles
    whole_B = there.ended_B | (given.end == NEVER) | ~jnp.bool_(given.closes)
    weight_B = jnp.where(whole_B, there.weight_B, -jnp.inf)
    evidence = loop.evidence + jax.nn.logsumexp(weight_B) - jnp.log(rows)
    decoded = Decoded(there.events, there.length_B)
    return Written(decoded, there.nats_B, weight_B, evidence, loop.stop, loop.effective_S)


def _begin(
    model: Network,
    prompt: Prompt,
    begin_B: Array | None,
    projections: EmbeddingProjections | None,
    given: Given,
    rows: int,
    events: int,
) -> Particles:
    carry, trunk = repeated(read_prompt(model, prompt, begin_B, projections), rows)
    zero_B, none_BV = jnp.zeros(rows, jnp.int32), jnp.full((rows, len(model.vocabulary.voice_places)), NONE)
    return Particles(
        carry,
        trunk,
        tick_B=zero_B,
        place_B=zero_B,
        length_B=zero_B,
        drawn_B=zero_B,
        ended_B=jnp.zeros(rows, bool),
        weight_B=jnp.zeros(rows),
        nats_B=jnp.zeros(rows),
        before_BV=none_BV,
        current_BV=none_BV,
        sounds_B12=jnp.zeros((rows, 12)),
        sounded_B12=jnp.zeros((rows, 12)),
        key_B=jnp.zeros(rows),
        events={name: jnp.zeros((rows, events), jnp.int32) for name, _ in model.vocabulary.streams},
    )


def _write(
    model: Network,
    there: Particles,
    given: Given,
    stop: Array,
    steering: Steering,
    keys_B: Array,
    active_B: Array,
    projections: EmbeddingProjections | None,
) -> Particles:
    """One more event of the rows that are active."""
    vocabulary, streams = model.vocabulary, model.vocabulary.streams
    bits_BS = jax.vmap(lambda key, number: jax.random.bits(jax.random.fold_in(key, number), (len(streams),)))(
        keys_B, there.drawn_B
    )
    limits = model.limits() if given.limits is None else given.limits
    event: dict[str, Array] = {}
    weight_B, nats_B = jnp.zeros_like(there.weight_B), jnp.zeros_like(there.weight_B)
    for number, (name, _) in enumerate(streams):
        earlier = {before: ids_B[:, None] for before, ids_B in event.items()}
        rules_BV = vocabulary.rules.allowed(there.trunk.after, limits, name, earlier)[:, 0]
        given_BV = _fits(model, there, given, stop, name)
        if given.limits is not None:
            # Where nothing that is wanted fits what is given, or leads to the stop, anything may be written.
            any_BV = vocabulary.rules.allowed(there.trunk.after, model.limits(), name, earlier)[:, 0]
            ticks_V = vocabulary.tables[name].ticks
            leads_1V = jnp.asarray(ticks_V > 0 if ticks_V.any() else np.ones(len(ticks_V), bool))[None]
            could_B, may_B = ((of_BV & given_BV & leads_1V).any(axis=1) for of_BV in (any_BV, rules_BV))
            is_stuck_B = could_B & ~may_B
            rules_BV = jnp.where(is_stuck_B[:, None], any_BV, rules_BV)
        fits_BV = rules_BV & given_BV
        logits_BV = model.stream_logits(name, there.trunk, earlier, rules_BV[:, None])[:, 0]
        hot_BV, cold = logits_BV / steering.temperature[name], steering.proposal
        target_BV = jax.nn.log_softmax(hot_BV)
        if steering.chords is not None and name == pitch_stream(vocabulary.tables):
            cost_BV = _cost(steering.chords, there.tick_B)
            fits_BV &= cost_BV < jnp.inf
            # What may not be written is out already, and inf - inf would be no number.
            cost_BV = jnp.where(fits_BV, cost_BV, 0)
            hot_BV, target_BV = hot_BV - cost_BV, target_BV - cost_BV
        asked_BV = jnp.where(fits_BV, hot_BV, IMPOSSIBLE)
        ids_B = lax.optimization_barrier(draw(asked_BV, _at(cold, len(active_B)), bits_BS[:, number], False))
        said_B = _chosen(target_BV, ids_B)
        drawn_B = _chosen(jax.nn.log_softmax(asked_BV / cold), ids_B)
        weight_B += jnp.where(fits_BV.any(axis=1), said_B - drawn_B, -jnp.inf)
        nats_B -= _chosen(jax.nn.log_softmax(logits_BV), ids_B)
        event[name] = ids_B
    read = {name: ids_B[:, None] for name, ids_B in event.items()}
    carry, trunk = model(there.carry, read, active_B[:, None], projections=projections)
    closes_B = closes_of(vocabulary.tables, event) & active_B
    current_BV = _with_pitch(vocabulary, there, event, active_B)
    ticks_B = jnp.where(active_B, ticks_of(vocabulary.tables, event), 0)
    sounds_B12, sounded_B12 = there.sounds_B12, there.sounded_B12
    if steering.key is not None:
        sounds_B12, sounded_B12 = _sounded(vocabulary, there, event, ticks_B, active_B, closes_B)
    weight_B -= steering.parallel * jnp.where(closes_B, _parallels(there.before_BV, current_BV), 0)
    at_B = jnp.where(active_B, there.length_B, jnp.iinfo(jnp.int32).max)
    row_B = jnp.arange(len(active_B))
    return Particles(
        carry,
        where(active_B, trunk, there.trunk),
        tick_B=there.tick_B + ticks_B,
        place_B=jnp.where(closes_B, 0, there.place_B + active_B),
        length_B=there.length_B + active_B,
        drawn_B=there.drawn_B + active_B,
        ended_B=there.ended_B | (active_B & (event[streams[0].name] == END)),
        weight_B=there.weight_B + jnp.where(active_B, weight_B, 0),
        nats_B=there.nats_B + jnp.where(active_B, nats_B, 0),
        before_BV=jnp.where(closes_B[:, None], current_BV, there.before_BV),
        current_BV=jnp.where(closes_B[:, None], NONE, current_BV),
        sounds_B12=sounds_B12,
        sounded_B12=sounded_B12,
        key_B=there.key_B,
        events={
            name: ids.at[row_B, at_B].set(event[name], mode="drop") for name, ids in there.events.items()
        },
    )


def _fits(model: Network, there: Particles, given: Given, stop: Array, name: str) -> Array:
    """(B, V) bool: the ids of a stream that fit what is given."""
    vocabulary = model.vocabulary
    table = vocabulary.tables[name]
    id_1V = jnp.arange(len(table.ticks))[None]
    fits_BV = jnp.ones((len(there.tick_B), len(table.ticks)), bool)
    if table.ticks.any():
        fits_BV &= by_id(table.ticks, id_1V) <= (stop - there.tick_B)[:, None]
    if name == pitch_stream(vocabulary.tables):
        times, voices = given.id_TV.shape
        place_B = jnp.minimum(there.place_B, voices - 1)
        asked_B1 = given.id_TV[jnp.minimum(there.tick_B, times - 1), place_B][:, None]
        fits_BV &= (asked_B1 == FREE) | (id_1V == asked_B1) | (there.tick_B >= times)[:, None]
    if name == vocabulary.streams[0].name:
        ends_B1 = (there.tick_B >= given.end)[:, None]
        fits_BV = jnp.where(ends_B1, id_1V == END, fits_BV & ((id_1V != END) | (given.end == NEVER)))
    return fits_BV


def _compare(loop: _Loop, given: Given, steering: Steering, key: Array) -> _Loop:
    """At a stop: rows that did not reach it are out, and where few carry the weight all are drawn anew."""
    there, rows = loop.particles, len(loop.particles.weight_B)
    stop = given.stop_S[loop.stop]
    if steering.key is not None:
        key_B = _out_of_key(steering.key, there.sounded_B12) * steering.key.nats_S[loop.stop]
        there = there._replace(weight_B=there.weight_B + there.key_B - key_B, key_B=key_B)
    is_full_B = there.length_B >= next(iter(there.events.values())).shape[1]
    cut_B = is_full_B & (given.end == NEVER)  # a piece of no given length may be cut anywhere
    reached_B = (there.tick_B == stop) | (stop == NEVER) | there.ended_B | cut_B
    weight_B = jnp.where(reached_B, there.weight_B, -jnp.inf)
    total = jax.nn.logsumexp(weight_B)
    effective = jnp.where(total > -jnp.inf, jnp.exp(2 * total - jax.nn.logsumexp(2 * weight_B)), 0)
    few = (effective <= steering.share * rows) & (effective > 0) & (stop < NEVER)

    def anew() -> Particles:
        point = jax.random.uniform(jax.random.fold_in(key, rows + loop.stop))
        place_B = (jnp.arange(rows) + point) / rows
        reach_B = jnp.cumsum(jax.nn.softmax(weight_B))
        from_B = jnp.minimum(jnp.searchsorted(reach_B / reach_B[-1], place_B), rows - 1)
        drawn = jax.tree.map(lambda part: part[from_B], there)
        # Bits that decided which rows went are not used again.
        return drawn._replace(weight_B=jnp.zeros(rows), drawn_B=there.drawn_B)

    return _Loop(
        lax.cond(few, anew, lambda: there._replace(weight_B=weight_B)),
        loop.stop + 1,
        loop.evidence + jnp.where(few, total - jnp.log(rows), 0),
        loop.effective_S.at[loop.stop].set(effective),
    )


def _cost(chords: Chords, tick_B: Array) -> Array:
    """(B, V) nats of each pitch id in a slice that begins at these ticks."""
    chord_B = chords.chord_T[jnp.minimum(tick_B, len(chords.chord_T) - 1)]
    return chords.cost_CV[chord_B]


def _sounded(
    vocabulary: Any, there: Particles, event: Events, ticks_B: Array, active_B: Array, closes_B: Array
) -> tuple[Array, Array]:
    """After an event: how often each pitch class is in the slice, and for how long each has sounded."""
    name = pitch_stream(vocabulary.tables)
    sounds_VP = vocabulary.tables[name].sounds
    classes_V12 = np.zeros((len(sounds_VP), 12), np.float32)
    for pitch in range(sounds_VP.shape[1]):
        classes_V12[:, pitch % 12] += sounds_VP[:, pitch]
    sounds_B12 = there.sounds_B12 + jnp.where(active_B[:, None], jnp.asarray(classes_V12)[event[name]], 0)
    sounded_B12 = there.sounded_B12 + sounds_B12 * ticks_B[:, None]
    return jnp.where(closes_B[:, None], 0, sounds_B12), sounded_B12


def _out_of_key(key: InKey, sounded_B12: Array) -> Array:
    """(B,) by how much another key correlates better than any that is wanted with what sounded, or 0."""
    centred_B12 = sounded_B12 - sounded_B12.mean(axis=1, keepdims=True)
    length_B1 = jnp.linalg.norm(centred_B12, axis=1, keepdims=True)
    fits_BK = (centred_B12 / jnp.maximum(length_B1, 1e-6)) @ key.profile_K12.T
    best_B, other_B = (jnp.where(of_K, fits_BK, -1).max(axis=1) for of_K in (key.wanted_K, ~key.wanted_K))
    # Silence is in no key.
    return jnp.where(length_B1[:, 0] > 0, jnp.maximum(other_B - best_B, 0), 1)


def _at(temperature: Array, rows: int) -> SamplingParams:
    """A temperature for all rows, and no filters."""
    one, none = jnp.ones(rows), jnp.zeros(rows)
    return SamplingParams(jnp.broadcast_to(temperature, rows), none.astype(jnp.int32), one, none, one)


def _chosen(said_BV: Array, ids_B: Array) -> Array:
    return jnp.take_along_axis(said_BV, ids_B[:, None], axis=1)[:, 0]


def _with_pitch(vocabulary: Any, there: Particles, event: Events, active_B: Array) -> Array:
    """The slice that is being written, with the pitch of this event in its voice."""
    name = pitch_stream(vocabulary.tables)
    midi = vocabulary.tables[name].midi
    if midi is None:
        return there.current_BV
    here_BV = jnp.array(vocabulary.voice_places, jnp.int32)[None] == there.place_B[:, None]
    here_BV &= active_B[:, None]
    return jnp.where(here_BV, by_id(midi, event[name])[:, None], there.current_BV)


def _parallels(before_BV: Array, now_BV: Array) -> Array:
    """(B,) pairs of voices that move the same way from one fifth (octave) to another."""
    low, high = np.triu_indices(before_BV.shape[1], 1)
    sounds_BV = (before_BV != NONE) & (now_BV != NONE)
    move_BV = jnp.sign(now_BV - before_BV) * sounds_BV
    was, now = ((part[:, high] - part[:, low]) % 12 for part in (before_BV, now_BV))
    alike = (move_BV[:, low] == move_BV[:, high]) & (move_BV[:, low] != 0)
    return (alike & (was == now) & ((now == _FIFTH) | (now == _OCTAVE))).sum(axis=1)
