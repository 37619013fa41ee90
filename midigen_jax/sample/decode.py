"""The decode loop: one jitted call from prompts to finished rows of events.

In: parameters, a key and settings for each row, a prompt for each row. Out: the events that follow, and a
state from which `resume` goes on.

The prompts are read in one piece (prefill); then a loop draws an event, reads it, and ends when all rows
have written `<end>`, or as many ticks as they may, or the budget of events is spent. Event n of a row is
drawn with random bits that its key and n alone decide, so a row comes out the same beside any other rows,
and however its events are divided into calls. Settings are traced: sweeping them compiles nothing again.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, PartitionSpec

from midigen_jax.model.network import Carry, EmbeddingProjections, Network, Trunk
from midigen_jax.sample import constraints
from midigen_jax.sample.constraints import Constraints
from midigen_jax.sample.filters import SamplingParams, draw, penalized
from midigen_jax.train.distributed import DATA, data_mesh, replicated
from midigen_jax.vocab import END, Tokens, Vocabulary, by_stream, to_tokens
from midigen_jax.vocab.rules import Events
from midigen_jax.vocab.traced import ticks_of


class Prompt(NamedTuple):
    """Events that are given, at least one a row, padded at the end under the mask."""

    events: dict[str, Array]  # ids (B, T) by stream
    mask_BT: Array


class Settings(NamedTuple):
    """How rows are written. All are traced; what is None costs nothing."""

    key_B: Array  # typed keys
    params: dict[str, SamplingParams]  # by stream
    begin_B: Array  # int32: when the prompt begins, in ticks from a bar line
    ticks_B: Array  # int32: a row that has written so many is done
    constraints: Constraints | None = None
    limits: Any = None  # arrays of the vocabulary's rules: the ids that may be written at all; None: all


class DecodeFlags(NamedTuple):
    """What the program can do beside drawing at a temperature; anything else is compiled for itself."""

    filters: bool = False  # look at top-k, top-p and min-p
    repetition: bool = False  # look at the repetition penalty
    bars: bool = True  # past features count from a bar line; else from the first event
    tpu: bool = False  # for TPUs alone: ids are drawn by a kernel, and a lone row is written as eight alike


T = TypeVar("T")

PADDED = 256  # a prompt is filled up to a multiple: fewer lengths are compiled

_PLAIN = DecodeFlags()
_CHUNK = 1024  # events of a prompt that are read at once
_SHARE = 128  # rows a device, at the least
_TILE = 8  # rows of a TPU's vector


class Decoded(NamedTuple):
    """Events that a call wrote; those beyond `length_B` (which counts `<end>`) mean nothing."""

    events: dict[str, Array]  # ids (B, N) by stream
    length_B: Array


class State(NamedTuple):
    """All that going on needs."""

    events_B: Array  # int32: how many steps each row has been at it; a row may have come later than others
    carry: Carry
    trunk: Trunk  # T = 1: after the last event
    done_B: Array
    ticks_B: Array  # int32: written so far
    constraints: Any  # ConstraintCarry, or None without constraints
    seen: Any  # bool (B, V) by stream: ids that were there; None without a repetition penalty
    projections: EmbeddingProjections | None


@partial(jax.jit, static_argnames=("network", "events", "flags", "mesh"))
def decode(
    network: Network,
    params: dict,
    prompt: Prompt,
    settings: Settings,
    *,
    events: int,
    flags: DecodeFlags = _PLAIN,
    mesh: Mesh | None = None,
) -> tuple[State, Decoded]:
    """Read the prompts and write up to `events` events a row; a prompt of one row serves all rows.

    The devices of `mesh` share the rows, whose number they must divide; each writes its own to their end.
    Compiled once for a network, a shape of the prompt, a budget, `flags` and the presence of constraints.
    """

    def work(params: dict, prompt: Prompt, settings: Settings) -> tuple[State, Decoded]:
        model = network.bind({"params": params})
        return _write(model, _prefill(model, prompt, settings, flags), settings, events, flags)

    return _shared(work, mesh, params, prompt, settings)


@partial(jax.jit, static_argnames=("network", "events", "flags", "mesh"), donate_argnames="state")
def resume(
    network: Network,
    params: dict,
    state: State,
    settings: Settings,
    *,
    events: int,
    flags: DecodeFlags = _PLAIN,
    mesh: Mesh | None = None,
) -> tuple[State, Decoded]:
    """Go on from a state, whose memory is used again; together the same events as one call would write."""

    def work(params: dict, state: State, settings: Settings) -> tuple[State, Decoded]:
        return _write(network.bind({"params": params}), state, settings, events, flags)

    return _shared(work, mesh, params, state, settings)


def rows_mesh(rows: int) -> Mesh | None:
    """The devices that should share so many rows; None where one alone writes them about as fast.

    On 2 cores sharing 64 rows brought nothing, sharing 256 an eighth, and 1,024 a quarter.
    """
    if rows < 2 * _SHARE:
        return None
    mesh = data_mesh(rows, own=True)
    return mesh if mesh.size > 1 and rows // mesh.size >= _SHARE else None


def placed(arrays: T, mesh: Mesh | None) -> T:
    """What `decode` is given, on every device of the mesh; without one, as it is."""
    return arrays if mesh is None else jax.device_put(arrays, replicated(mesh))


def _shared(
    work: Callable[..., tuple[State, Decoded]],
    mesh: Mesh | None,
    params: dict,
    begin: Prompt | State,
    settings: Settings,
) -> tuple[State, Decoded]:
    """`work` with its rows shared by the devices of a mesh."""
    if mesh is None:
        return work(params, begin, settings)
    # Trees of where things lie, in place of trees of arrays.
    whole: Any = PartitionSpec()
    rows: Any = PartitionSpec(DATA)
    state = State(rows, rows, rows, rows, rows, rows, rows, whole)
    specs = Settings(rows, rows, rows, rows, whole, whole)
    given = state
    if isinstance(begin, Prompt):
        given = whole if len(begin.mask_BT) == 1 else rows
    shared = jax.shard_map(
        work, mesh=mesh, in_specs=(whole, given, specs), out_specs=(state, rows), check_vma=False
    )
    return shared(params, begin, settings)


def _prefill(model: Network, prompt: Prompt, settings: Settings, flags: DecodeFlags) -> State:
    given, rows = len(prompt.mask_BT), len(settings.key_B)
    projections, rules = model.projections(), settings.constraints
    begin_B = settings.begin_B[:given] if flags.bars else None
    carry, trunk = read_prompt(model, prompt, begin_B, projections)
    memory, seen = None, None
    if rules is not None:
        follow = partial(constraints.follow, model.vocabulary, rules)
        start = constraints.constraint_carry(rules, settings.begin_B[:given])
        over_time = jax.tree.map(lambda part_BT: part_BT.T, tuple(prompt))
        memory, _ = lax.scan(lambda carry, now: (follow(carry, *now), None), start, over_time)
    if flags.repetition:
        unseen = {name: jnp.zeros((given, size), bool) for name, size in model.vocabulary.streams}
        seen = _mark(unseen, prompt)
    remembered = carry, trunk, memory, seen
    if given != rows:
        remembered = repeated(remembered, rows)
    carry, trunk, memory, seen = remembered
    done_B, zero_B = jnp.zeros(rows, bool), jnp.zeros(rows, jnp.int32)
    return State(zero_B, carry, trunk, done_B, zero_B, memory, seen, projections)


def read_prompt(
    model: Network, prompt: Prompt, begin_B: Array | None, projections: EmbeddingProjections | None
) -> tuple[Carry, Trunk]:
    """The carry after the prompts, and the trunk (T = 1) after each row's last visible event.

    A long prompt is read in chunks, so that attention over it needs bounded memory.
    """
    rows, times = prompt.mask_BT.shape
    chunk = min(times, _CHUNK)
    chunks_NBT = jax.tree.map(
        lambda part_BT: (
            jnp.pad(part_BT, ((0, 0), (0, -times % chunk))).reshape(rows, -1, chunk).swapaxes(0, 1)
        ),
        prompt,
    )

    def read(before: tuple[Carry, Trunk], chunk: Prompt) -> tuple[tuple[Carry, Trunk], None]:
        carry, trunk = model(before[0], *chunk, projections=projections)
        count_B = chunk.mask_BT.sum(axis=1)

        def last(part: Array, old: Array) -> Array:
            count = jnp.expand_dims(count_B, tuple(range(1, part.ndim)))
            here = jnp.take_along_axis(part, jnp.maximum(count - 1, 0), axis=1)
            return jnp.where(count > 0, here, old)

        return (carry, jax.tree.map(last, trunk, before[1])), None

    begin = model.initial_carry(rows, tick_B=begin_B), model.empty_trunk(rows)
    read_all, _ = lax.scan(read, begin, chunks_NBT)
    return read_all


def _write(
    model: Network, state: State, settings: Settings, events: int, flags: DecodeFlags
) -> tuple[State, Decoded]:
    if len(state.done_B) > 1 or not flags.tpu:
        return _loop(model, state, settings, events, flags)
    # Eight cost a TPU no more than the one, which XLA would not give to the matrix unit.
    each = ("events_B", "carry", "trunk", "done_B", "ticks_B", "constraints", "seen")
    many = state._replace(**{name: repeated(getattr(state, name), _TILE) for name in each})
    rules, limits = settings.constraints, settings.limits
    own = repeated(settings._replace(constraints=None, limits=None), _TILE)
    all_alike = own._replace(constraints=rules, limits=limits)
    after, decoded = _loop(model, many, all_alike, events, flags)
    first = {name: _first_row(getattr(after, name)) for name in each}
    return after._replace(**first), _first_row(decoded)


def _first_row(tree: T) -> T:
    return jax.tree.map(lambda part: part[:1], tree)


def repeated(tree: T, rows: int) -> T:
    """Arrays of one row with that row over and over."""
    return jax.tree.map(lambda part: jnp.broadcast_to(part, (rows, *part.shape[1:])), tree)


def _loop(
    model: Network, state: State, settings: Settings, events: int, flags: DecodeFlags
) -> tuple[State, Decoded]:
    # All random bits at once, outside of the loop: inside, drawing them costs more than using them.
    streams = len(model.vocabulary.streams)
    bits_BN = jax.vmap(
        lambda key, first: jax.vmap(
            lambda number: jax.random.bits(jax.random.fold_in(key, number), (streams,))
        )(first + jnp.arange(events))
    )(settings.key_B, state.events_B)

    def step(loop: tuple[Array, State, Decoded]) -> tuple[Array, State, Decoded]:
        number, state, decoded = loop
        bits_B = lax.dynamic_index_in_dim(bits_BN, number, axis=1, keepdims=False)
        event = _draw_event(model, state, settings, flags, bits_B)
        written = {name: ids_BN.at[:, number].set(event[name]) for name, ids_BN in decoded.events.items()}
        after = Decoded(written, decoded.length_B + ~state.done_B)
        return number + 1, _read_event(model, state, settings, event), after

    rows = len(state.done_B)
    nothing_BN = jnp.zeros((rows, events), jnp.int32)
    nothing = {name: nothing_BN for name, _ in model.vocabulary.streams}
    start = jnp.int32(0), state, Decoded(nothing, jnp.zeros(rows, jnp.int32))
    _, end, decoded = lax.while_loop(lambda loop: (loop[0] < events) & ~loop[1].done_B.all(), step, start)
    # Of rows that are done no number is asked any more: they need not have stopped where they were.
    return end._replace(events_B=state.events_B + events), decoded


def _draw_event(
    model: Network, state: State, settings: Settings, flags: DecodeFlags, bits_B: Array
) -> dict[str, Array]:
    """The ids (B,) of the next event, stream after stream; `bits_B` are those of each stream, (B, S)."""
    vocabulary, trunk, asked = model.vocabulary, state.trunk, settings.constraints
    limits = model.limits() if settings.limits is None else settings.limits
    event: dict[str, Array] = {}
    for place, (name, _) in enumerate(vocabulary.streams):
        earlier = {before: ids_B[:, None] for before, ids_B in event.items()}
        allowed_BV = vocabulary.rules.allowed(trunk.after, limits, name, earlier)[:, 0]
        if asked is not None:
            memory = state.constraints
            allowed_BV = constraints.allowed(vocabulary, asked, memory, name, event, allowed_BV)
        logits_BV = model.stream_logits(name, trunk, earlier, allowed_BV[:, None])[:, 0]
        if flags.repetition:
            logits_BV = penalized(logits_BV, state.seen[name], settings.params[name].repetition_B)
        drawn_B = draw(logits_BV, settings.params[name], bits_B[:, place], flags.filters, flags.tpu)
        # The barrier keeps XLA from computing an id again for each use.
        event[name] = lax.optimization_barrier(drawn_B)
    return event


def _read_event(model: Network, state: State, settings: Settings, event: Events) -> State:
    """The state after an event; rows that are done stay as they are."""
    vocabulary, active_B = model.vocabulary, ~state.done_B
    read = Prompt({name: ids_B[:, None] for name, ids_B in event.items()}, active_B[:, None])
    carry, trunk = model(state.carry, *read, projections=state.projections)
    ticks_B = state.ticks_B + jnp.where(active_B, ticks_of(vocabulary.tables, event), 0)
    memory, seen = state.constraints, state.seen
    if memory is not None and settings.constraints is not None:
        memory = constraints.follow(vocabulary, settings.constraints, memory, event, active_B)
    if seen is not None:
        seen = _mark(seen, read)
    ended_B = event[vocabulary.streams[0].name] == END
    done_B = state.done_B | ended_B | (ticks_B >= settings.ticks_B)
    return State(state.events_B, carry, trunk, done_B, ticks_B, memory, seen, state.projections)


def _mark(seen: dict[str, Array], read: Prompt) -> dict[str, Array]:
    """Ids added to those that were there."""
    rows_B1 = jnp.arange(len(read.mask_BT))[:, None]
    return {name: seen_BV.at[rows_B1, read.events[name]].max(read.mask_BT) for name, seen_BV in seen.items()}


def prompt_of(vocabulary: Vocabulary, tokens: Tokens, multiple: int = PADDED) -> Prompt:
    """A prompt of one row, filled up to a length that few programs share; <start> alone is one of its own."""
    length = len(tokens)
    padded = np.pad(tokens, ((0, -length % multiple if length > 1 else 0), (0, 0)))
    events = jax.tree.map(jnp.asarray, by_stream(vocabulary, padded[None]))
    return Prompt(events, jnp.arange(len(padded))[None] < length)


def tokens_of(vocabulary: Vocabulary, written: Decoded, row: int) -> Tokens:
    """(E, S) what a row of a call wrote."""
    events = {name: ids_BN[row] for name, ids_BN in written.events.items()}
    return to_tokens(vocabulary, events)[: int(written.length_B[row])]


def bytes_a_row(network: Network) -> int:
    """How much is remembered of one row."""
    remembered = jax.eval_shape(lambda: network.initial_carry(1))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(remembered))
