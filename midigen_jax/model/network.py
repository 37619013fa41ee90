"""The network: embed each stream, blocks one after another, a head for each stream.

In: a carry and events (ids by stream, with a mask) of any number of steps. Out: the carry after them and a
`Trunk`, from which the heads read what comes next: the ids of the next event, stream after stream.

The joint probability of an event is the product over its streams of `p(id | past, ids of earlier streams)`,
and exact for both kinds of heads: `chained` shows a head the earlier ids of its event, `independent` (the
article's) shows it only which ids there can be after them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from midigen_jax.config import ModelConfig
from midigen_jax.model import past
from midigen_jax.model.blocks import Block, DropConnect, Matmul, Step, make_blocks
from midigen_jax.model.precision import dense
from midigen_jax.vocab import Vocabulary
from midigen_jax.vocab.rules import Events
from midigen_jax.vocab.traced import pitch_stream, ticks_of

IMPOSSIBLE = -1e9  # a logit whose probability is 0 in float32, whatever the others are


class Carry(NamedTuple):
    """All that the network remembers of the past, arrays with a leading B; zeros to begin with."""

    blocks: tuple[Any, ...]
    rules: Any  # that of the vocabulary's rules
    past: Any  # SliceHistory, or () where no past features are used


class Trunk(NamedTuple):
    """What the heads read: the state after each event, what may follow it, and pitches of now.

    Interval heads measure from these N pitches; without them N is 0.
    """

    hidden_BTD: Array
    after: Any  # arrays (B, T, …), which the vocabulary's rules read
    anchor_BTN: Array


class DropoutRates(NamedTuple):
    """Shares that are dropped: of units, of what the first block reads, of recurrent weights.

    A rate of 0 compiles dropout away; an array may differ from replica to replica of one program.
    """

    units: float | Array
    embeddings: float | Array
    weights: float | Array


class Dropout(NamedTuple):
    """What is dropped: by typed keys of each row and of the step, and at which rates."""

    row_B: Array
    step: Array
    rates: DropoutRates


class EmbeddingProjections(NamedTuple):
    """What the first block needs of its weights: its projection of every id, and those of past features.

    Looking up the rows of an event is multiplying it.
    """

    streams: dict[str, Array]  # (V, G)
    features_FG: Array  # the weights of the features that stand beside the ids' embeddings


Logits = dict[str, Array]
"""What is said of each next event: for each stream (B, T, V), given the event's ids in earlier streams."""

Nats = dict[str, Array]
"""Negative log-likelihood of each next event, in nats: for each stream (B, T), given earlier ones."""


class Network(nn.Module):
    """Parallel streams of ids in, as many distributions out."""

    config: ModelConfig
    vocabulary: Vocabulary
    platform: str = ""  # that programs are made for; "": that of this machine

    def setup(self) -> None:
        """Name the parts; their sizes come from the config and the vocabulary."""
        config, dtype = self.config, self.config.compute_dtype
        streams, tables = self.vocabulary.streams, self.vocabulary.tables
        self.embed = {name: nn.Embed(size, config.embedding_of(name)) for name, size in streams}
        if config.context.used:
            past.single_pitches(tables)
        if config.context.feeds:
            self.features = past.FeatureEmbedding(config.context, dtype)
        if config.context.intervals:
            self.interval_head = past.IntervalHead(tables[pitch_stream(tables)], dtype)
        self.blocks = self.blocks_apart()
        if self._enters:
            self.enter = dense(config.width, dtype)
        self.head = {name: dense(size, dtype) for name, size in streams}
        if config.heads == "chained":
            self.chain = {name: dense(config.width, dtype) for name, _ in streams[1:]}
            self.given = {
                f"{name}_{earlier}": nn.Embed(size, config.width)
                for place, (name, _) in enumerate(streams)
                for earlier, size in streams[:place]
            }

    def blocks_apart(self) -> list[Block]:
        """The blocks, each anew and bound to nothing."""
        return make_blocks(self.config, self.vocabulary.streams, self.inputs, self.platform)

    @property
    def embedded(self) -> int:
        """The width of all embeddings of an event."""
        return sum(self.config.embedding_of(name) for name, _ in self.vocabulary.streams)

    @property
    def inputs(self) -> int:
        """The width of what goes in: embeddings, and past features where there are any."""
        return self.embedded + (self.config.context.width if self.config.context.feeds else 0)

    @property
    def _enters(self) -> bool:
        """Whether what goes in has to be brought to the width of a first block that changes none."""
        return self.inputs != self.config.width and not self.blocks_apart()[0].any_inputs

    @property
    def runs_on(self) -> str:
        """What computes the first block, as rows of benchmarks name it."""
        return self.blocks_apart()[0].runs_on

    @property
    def takes_turns(self) -> bool:
        """Whether replicas of it must be computed one after another: a library's layers know no vmap."""
        return any(block.multiplies_itself for block in self.blocks_apart())

    def initial_carry(self, rows: int, keep_cache: bool = True, tick_B: Array | None = None) -> Carry:
        """Zeros for `rows` sequences: nothing has happened yet.

        `tick_B`: when they begin, in ticks from a bar line; none: on one.
        Without `keep_cache` it is for a single chunk: attention then keeps nothing of it, and need not look
        at what it would have kept.
        """
        context = self.config.context
        blocks = tuple(block.initial_carry(rows, keep_cache) for block in self.blocks_apart())
        history = past.empty_history(context, rows, tick_B) if context.used else ()
        return Carry(blocks, self.vocabulary.rules.initial_carry(rows), history)

    def empty_trunk(self, rows: int) -> Trunk:
        """A trunk (T = 1) from which nothing can be read yet."""
        rules, mask_B1 = self.vocabulary.rules, jnp.ones((rows, 1), bool)
        event = {name: jnp.zeros((rows, 1), jnp.int32) for name, _ in self.vocabulary.streams}
        after = jax.eval_shape(lambda: rules.follow(rules.initial_carry(rows), event, mask_B1)[1])
        anchors = past.ANCHORS if self.config.context.intervals else 0
        return Trunk(
            jnp.zeros((rows, 1, self.config.width)),
            jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), after),
            jnp.zeros((rows, 1, anchors), jnp.int32),
        )

    def warm_carry(self, events: Events, mask_BT: Array, tick_B: Array) -> Carry:
        """The carry of a crop: past features and rules know of the events before it, blocks begin with zeros.

        It is for the crop alone, and does not go on.
        `tick_B`: when the first of those events begins, in ticks from the first bar line of its piece.
        """
        carry = self.initial_carry(len(mask_BT), keep_cache=False, tick_B=tick_B)
        context = self.config.context
        rules, history = carry.rules, carry.past
        if mask_BT.shape[1] > 0:
            rules, _ = self.vocabulary.rules.follow(rules, events, mask_BT)
            if context.used:
                history, _ = past.update(context, self.vocabulary.tables, history, events, mask_BT)
        return carry._replace(rules=rules, past=history)

    def __call__(
        self,
        carry: Carry,
        events: Events,
        mask_BT: Array,
        dropout: Dropout | None = None,
        projections: EmbeddingProjections | None = None,
    ) -> tuple[Carry, Trunk]:
        """Read events; a masked event is invisible. With `dropout`, units and weights are dropped.

        `projections` save the first block its product; they cannot hold what dropout would do to embeddings.
        """
        config, vocabulary = self.config, self.vocabulary
        shown = {name: events[name] for name, _ in vocabulary.streams}
        if not config.duration_input and "duration" in shown:
            shown["duration"] = jnp.zeros_like(shown["duration"])
        now = Step(shown, ticks_of(vocabulary.tables, events), mask_BT)
        history, anchor_BTN = carry.past, jnp.zeros((*mask_BT.shape, 0), jnp.int32)
        beside: list[Array] = []  # what stands beside the embeddings
        if config.context.used:
            history, features = past.update(config.context, vocabulary.tables, history, events, mask_BT)
            beside = [self.features(features)] if config.context.feeds else []
            anchor_BTN = past.anchors(features) if config.context.intervals else anchor_BTN
        carries = []
        hidden_BTD: Any = None if projections is not None else self._embedded(now, beside, dropout)
        for place, (block, memory) in enumerate(zip(self.blocks, carry.blocks, strict=True)):
            weights = _dropped_weights(dropout, place)
            if place == 0 and projections is not None:
                parts = [projections.streams[name][ids_BT] for name, ids_BT in shown.items()]
                given = sum(parts[1:], parts[0]), beside, projections.features_FG
                memory, hidden_BTD = block.from_projected(memory, *given, now, weights)
            else:
                memory, hidden_BTD = block(memory, hidden_BTD, now, weights)
            if block.drops_outputs and dropout is not None:
                hidden_BTD = _drop(hidden_BTD, dropout.rates.units, dropout.row_B, place + 1)
            carries.append(memory)
        rules, after = vocabulary.rules.follow(carry.rules, events, mask_BT)
        return Carry(tuple(carries), rules, history), Trunk(hidden_BTD, after, anchor_BTN)

    def _embedded(self, now: Step, beside: list[Array], dropout: Dropout | None) -> Array:
        """(B, T, inputs) what the first block reads: an event's embeddings, and what stands beside them."""
        embedded = [self.embed[name](ids_BT) for name, ids_BT in now.events.items()]
        x_BTI = jnp.concatenate([*embedded, *beside], axis=-1)
        if dropout is not None:
            x_BTI = _drop(x_BTI, dropout.rates.embeddings, dropout.row_B, 0)
        return self.enter(jnp.where(now.mask_BT[..., None], x_BTI, 0)) if self._enters else x_BTI

    def use_lookup(self, events: int, dropout: bool) -> bool:
        """Whether to look up the first block's projection of so many events, or to multiply."""
        config, first = self.config, self.blocks_apart()[0]
        products = sum(size * config.embedding_of(name) for name, size in self.vocabulary.streams)
        cheaper = products < events * self.embedded
        # Dropout changes each row's embeddings.
        changed = dropout and config.dropped_embeddings > 0
        return cheaper and first.takes_projected and not first.multiplies_itself and not changed

    def projections(self) -> EmbeddingProjections | None:
        """What each id adds to the gates of the first block: its embedding, multiplied once for all uses.

        None where the first block cannot be given that.
        """
        first, place, found = self.blocks[0], 0, {}
        if not first.takes_projected:
            return None
        for name, _ in self.vocabulary.streams:
            found[name] = first.project(self.embed[name].embedding, place)
            place += self.config.embedding_of(name)
        return EmbeddingProjections(found, first.input_from(place))

    def limits(self) -> Any:
        """What the rules allow, as they stand."""
        return self.vocabulary.rules.limits()

    def stream_logits(
        self, stream: str, trunk: Trunk, earlier: Events, allowed_BTV: Array | None = None
    ) -> Array:
        """Logits (B, T, V) of the next event's id in a stream, given its ids (B, T) in `earlier` ones.

        `IMPOSSIBLE` where it is not allowed; `allowed_BTV` stands in for what the rules say.
        """
        vocabulary, hidden_BTD = self.vocabulary, trunk.hidden_BTD
        if self.config.heads == "chained" and earlier:
            parts = [self.chain[stream](hidden_BTD)]
            parts += [self.given[f"{stream}_{name}"](ids_BT) for name, ids_BT in earlier.items()]
            hidden_BTD = jnp.tanh(sum(parts[1:], parts[0]))
        if allowed_BTV is None:
            allowed_BTV = vocabulary.rules.allowed(trunk.after, self.limits(), stream, earlier)
        logits_BTV = self.head[stream](hidden_BTD)
        if self.config.context.intervals and stream == pitch_stream(vocabulary.tables):
            logits_BTV += self.interval_head(hidden_BTD, trunk.anchor_BTN, allowed_BTV)
        return jnp.where(allowed_BTV, logits_BTV, IMPOSSIBLE)

    def logits(
        self, carry: Carry, events: Events, mask_BT: Array, dropout: Dropout | None = None
    ) -> tuple[Carry, Logits]:
        """What is said of the last T of T + 1 events, each given those before it.

        `mask_BT` says which of the T events that are read, and so which of the T that follow, count.
        """
        lookup = self.use_lookup(mask_BT.size, dropout=dropout is not None)
        projections = self.projections() if lookup else None
        read = {name: ids[:, :-1] for name, ids in events.items()}
        carry, trunk = self(carry, read, mask_BT, dropout, projections)
        found: Logits = {}
        earlier: dict[str, Array] = {}
        for name, _ in self.vocabulary.streams:
            found[name] = self.stream_logits(name, trunk, earlier)
            earlier = earlier | {name: events[name][:, 1:]}
        return carry, found

    def matmuls(self, rows: int, length: int) -> list[Matmul]:
        """The matrix products of a forward pass over `rows` sequences of `length` events."""
        config, events, streams = self.config, rows * length, self.vocabulary.streams
        first, *others = self.blocks_apart()
        found = first.matmuls(rows, length)
        if self.use_lookup(events, dropout=True):
            columns = found[0].columns
            found[0] = Matmul(1, events, self.inputs - self.embedded, columns)
            found += [Matmul(1, size, config.embedding_of(name), columns) for name, size in streams]
        if self._enters:
            found += [Matmul(1, events, self.inputs, config.width)]
        for block in others:
            found += block.matmuls(rows, length)
        if config.heads == "chained":
            found += [Matmul(1, events, config.width, config.width)] * (len(streams) - 1)
        found += [Matmul(1, events, config.width, size) for _, size in streams]
        return [product for product in found if product.inner]


def score(
    network: Network,
    params: dict,
    carry: Carry,
    events: Events,
    mask_BT: Array,
    dropout: Dropout | None = None,
) -> tuple[Carry, Nats]:
    """The nats of the last T of T + 1 events, each given those before it, by `predict`."""
    carry, logits = predict(network, params, carry, events, mask_BT, dropout)
    return carry, nats_of(logits, events, mask_BT)


def predict(
    network: Network,
    params: dict,
    carry: Carry,
    events: Events,
    mask_BT: Array,
    dropout: Dropout | None = None,
) -> tuple[Carry, Logits]:
    """`Network.logits` as a pure function; with `dropout` it drops units and weights, as in training."""
    result: Any = network.apply({"params": params}, carry, events, mask_BT, dropout, method=Network.logits)
    return result


def nats_of(logits: Logits, events: Events, mask_BT: Array) -> Nats:
    """The nats of the last T of T + 1 events; 0 where the mask hides one."""
    found = {name: cross_entropy(logits_BTV, events[name][:, 1:]) for name, logits_BTV in logits.items()}
    return {name: jnp.where(mask_BT, nats_BT, 0) for name, nats_BT in found.items()}


def tempered(network: Network, params: dict, temperatures: Mapping[str, float]) -> dict:
    """The parameters whose logits are those of `params`, divided by the temperature of each stream."""
    heads = {f"head_{name}": by for name, by in temperatures.items()}
    heads["interval_head"] = heads.get(f"head_{pitch_stream(network.vocabulary.tables)}", 1.0)
    return params | {
        name: jax.tree.map(lambda leaf, by=by: leaf / by, params[name])
        for name, by in heads.items()
        if name in params
    }


def _dropped_weights(dropout: Dropout | None, place: int) -> DropConnect | None:
    """What decides which weights of a block are dropped in this step."""
    if dropout is None or _is_zero(dropout.rates.weights):
        return None
    return DropConnect(jax.random.fold_in(dropout.step, place), dropout.rates.weights)


def _drop(hidden_BTD: Array, rate: float | Array, key_B: Array, place: int) -> Array:
    """Drop units, the same ones at all times of a row; each place draws its own from a row's key."""
    if _is_zero(rate):
        return hidden_BTD
    kept_BD = jax.vmap(
        lambda key: jax.random.bernoulli(jax.random.fold_in(key, place), 1 - rate, hidden_BTD.shape[-1:])
    )(key_B)
    return jnp.where(kept_BD[:, None], hidden_BTD / (1 - rate), 0)


def _is_zero(rate: float | Array) -> bool:
    """Whether a share is known to be 0 before anything is computed."""
    return not isinstance(rate, Array) and rate == 0


def cross_entropy(logits_BTV: Array, ids_BT: Array) -> Array:
    """Nats of each id under the softmax of its logits."""
    chosen_BT = jnp.take_along_axis(logits_BTV, ids_BT[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BTV, axis=-1) - chosen_BT


def init_params(network: Network, key: Array) -> dict:
    """Fresh parameters, float32, from a typed key."""
    events = {name: jnp.zeros((1, 2), jnp.int32) for name, _ in network.vocabulary.streams}
    carry, mask_BT = network.initial_carry(1), jnp.ones((1, 1), bool)
    return network.init(key, carry, events, mask_BT, method=Network.logits)["params"]
