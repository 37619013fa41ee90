"""The network: embed, LSTM stack, attention, two heads; one signature for training and for one step.

In: a carry and events (pitch and duration ids, with a mask) of any number of steps. Out: the carry after
them and a `Trunk`, from which the heads read what comes next: the pitch id, then its duration id.

The joint probability of an event is `p(pitch | past) * p(duration | past, pitch)` and exact for both kinds
of heads: `chained` shows the pitch to the duration head, `independent` (the article's) shows it only which
durations that pitch can have at all.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from midigen_jax.config import ModelConfig
from midigen_jax.errors import InputError
from midigen_jax.model.attention import PooledAttention, pooled_carry
from midigen_jax.model.context import context_carry, observe
from midigen_jax.model.grammar import ChordGrammar, Grammar
from midigen_jax.model.layer import LSTM, DropConnect, backend_of
from midigen_jax.model.lstm import LSTMCarry, lstm_carry
from midigen_jax.model.multihead import MultiHeadAttention, ring_carry
from midigen_jax.model.precision import dense
from midigen_jax.model.told import REFERENCES, ContextInput, IntervalHead, references

IMPOSSIBLE = -1e9  # a logit whose probability is 0 in float32, whatever the others are


class Carry(NamedTuple):
    """All that the network remembers of the past, arrays with a leading B; zeros to begin with."""

    layers: tuple[LSTMCarry, ...]
    attention: Any  # PooledCarry, RingCarry, or () without attention
    grammar: Any  # that of the tokenizer's rules
    context: Any  # ContextCarry, or () where the network is told nothing


class Trunk(NamedTuple):
    """What the heads read: the state after each event, what may follow it, and N pitches of now.

    Interval heads measure from these pitches; without them N is 0.
    """

    hidden_BTD: Array
    allowed_BTP: Array
    kind_BT: Array
    reference_BTN: Array


class Rates(NamedTuple):
    """Shares that are dropped: of units, of what the first layer reads, of recurrent weights.

    A number that is 0 costs nothing; an array may differ from replica to replica of one program.
    """

    units: float | Array
    embeddings: float | Array
    weights: float | Array


class Drops(NamedTuple):
    """What is dropped: by typed keys of each row and of the step, and in which shares."""

    row_B: Array
    step: Array
    rates: Rates


class Tables(NamedTuple):
    """What the first layer needs of its weights: its projection of every id, and those of what else it reads.

    Looking up the two rows of an event is multiplying it.
    """

    pitch_PG: Array
    duration_RG: Array
    told_CG: Array  # the weights of the C features that stand beside the ids' embeddings


class Logits(NamedTuple):
    """What is said of each next event: of its pitch id, and of its duration id, given the pitch."""

    pitch_BTP: Array
    duration_BTR: Array


class Temperatures(NamedTuple):
    """What logits are divided by: those of pitches, and those of durations."""

    pitch: float = 1.0
    duration: float = 1.0


class Nats(NamedTuple):
    """Negative log-likelihood of each next event, in nats: its pitch, and its duration given the pitch."""

    pitch_BT: Array
    duration_BT: Array


class Network(nn.Module):
    """Two streams of ids in, two distributions out."""

    config: ModelConfig
    grammar: Grammar

    def setup(self) -> None:
        """Name the parts; their sizes come from the config and the vocabulary."""
        config, rules = self.config, self.grammar
        self.embed_pitch = nn.Embed(rules.pitch_size, config.pitch_embedding)
        self.embed_duration = nn.Embed(rules.duration_size, config.duration_embedding)
        dtype, backend = config.compute_dtype, backend_of(config)
        if config.context.used and isinstance(rules, ChordGrammar):
            raise InputError("model.context: is made of pitches, and chords are symbols; leave it out")
        embedded = config.pitch_embedding + config.duration_embedding
        if config.context.feeds:
            self.context_input = ContextInput(config.context, dtype)
            embedded += config.context.width
        if config.context.intervals:
            self.interval_head = IntervalHead(dtype)
        inputs = [embedded, *[config.width] * (config.layers - 1)]
        self.layers = [LSTM(width, config.width, dtype, backend) for width in inputs]
        if config.attention == "pooled":
            self.attention: Any = PooledAttention(config.attention_window, dtype)
            if config.attention_residual:
                self.attention_output = dense(config.width, dtype)
        elif config.attention == "multihead":
            self.attention = MultiHeadAttention(config.attention_heads, config.attention_window, dtype)
            if config.attention_values == "events":
                self.value_pitch = nn.Embed(rules.pitch_size, config.width)
                self.value_duration = nn.Embed(rules.duration_size, config.width)
        self.pitch_head = dense(rules.pitch_size, dtype)
        self.duration_head = dense(rules.duration_size, dtype)
        if config.heads == "chained":
            self.chain_hidden = dense(config.width, dtype)
            self.chain_pitch = nn.Embed(rules.pitch_size, config.width)

    def initial_carry(self, rows: int, goes_on: bool = True) -> Carry:
        """Zeros for `rows` sequences: nothing has happened yet.

        One that does not go on is for a single chunk: multihead attention then keeps nothing of it, and need
        not look at what it would have kept.
        """
        config, context = self.config, self.config.context
        attention: Any = ()
        if config.attention == "pooled":
            attention = pooled_carry(config.attention_window, rows, config.width)
        elif config.attention == "multihead":
            window = config.attention_window if goes_on else 0
            shape = (config.attention_heads, window, rows, config.width)
            attention = ring_carry(*shape, config.attention_values == "events")
        layers = tuple(lstm_carry(rows, config.width) for _ in range(config.layers))
        known = context_carry(context, rows) if context.used else ()
        return Carry(layers, attention, self.grammar.initial_carry(rows), known)

    def empty_trunk(self, rows: int) -> Trunk:
        """A trunk (T = 1) from which nothing can be read yet."""
        references = REFERENCES if self.config.context.intervals else 0
        return Trunk(
            jnp.zeros((rows, 1, self.config.width)),
            jnp.zeros((rows, 1, self.grammar.pitch_size), bool),
            jnp.zeros((rows, 1), jnp.int32),
            jnp.zeros((rows, 1, references), jnp.int32),
        )

    def carry_after(self, pitch_BL: Array, duration_BL: Array, mask_BL: Array, tick_B: Array) -> Carry:
        """The carry of a crop: context and grammar know of the events before it, all else begins with zeros.

        It is for the crop alone, and does not go on.
        `tick_B`: when the first of those events begins, in ticks from the start of its piece.
        """
        carry, context = self.initial_carry(len(mask_BL), goes_on=False), self.config.context
        rules, known = carry.grammar, carry.context
        if context.used:
            known = context_carry(context, len(mask_BL), tick_B)
        if mask_BL.shape[1] > 0:
            rules, _ = self.grammar.follow(rules, pitch_BL, duration_BL, mask_BL)
            if context.used:
                known, _ = observe(context, known, pitch_BL, duration_BL, mask_BL)
        return carry._replace(grammar=rules, context=known)

    def __call__(
        self,
        carry: Carry,
        pitch_BT: Array,
        duration_BT: Array,
        mask_BT: Array,
        drops: Drops | None = None,
        tables: Tables | None = None,
    ) -> tuple[Carry, Trunk]:
        """Read events; a masked event is invisible. With `drops`, units and weights are dropped.

        `tables` save the first layer its product; they cannot hold what dropout would do to embeddings.
        """
        config = self.config
        shown_BT = duration_BT if config.duration_input else jnp.zeros_like(duration_BT)
        known, reference_BTN = carry.context, jnp.zeros((*pitch_BT.shape, 0), jnp.int32)
        told: list[Array] = []
        if config.context.used:
            known, features = observe(config.context, known, pitch_BT, duration_BT, mask_BT)
            told = [self.context_input(features)] if config.context.feeds else []
            reference_BTN = references(features) if config.context.intervals else reference_BTN
        first, *others = zip(self.layers, carry.layers, strict=True)
        layer, memory = first
        if tables is not None:
            projected_BTG = tables.pitch_PG[pitch_BT] + tables.duration_RG[shown_BT]
            memory, hidden_BTD = layer.from_projected(
                memory, projected_BTG, told, tables.told_CG, mask_BT, _of_layer(drops, 0)
            )
        else:
            embedded = [self.embed_pitch(pitch_BT), self.embed_duration(shown_BT), *told]
            embedded_BTI = jnp.concatenate(embedded, axis=-1)
            if drops is not None:
                embedded_BTI = _drop(embedded_BTI, drops.rates.embeddings, drops.row_B, 0)
            memory, hidden_BTD = layer(memory, embedded_BTI, mask_BT, _of_layer(drops, 0))
        layers = [memory]
        for place, (layer, memory) in enumerate(others, start=1):
            below_BTD = _drop_units(hidden_BTD, drops, place)
            memory, hidden_BTD = layer(memory, below_BTD, mask_BT, _of_layer(drops, place))
            hidden_BTD = hidden_BTD + below_BTD if config.residual else hidden_BTD
            layers.append(memory)
        hidden_BTD = _drop_units(hidden_BTD, drops, config.layers)
        attention, hidden_BTD = self._attend(
            carry.attention, hidden_BTD, (pitch_BT, shown_BT), duration_BT, mask_BT
        )
        rules, after = self.grammar.follow(carry.grammar, pitch_BT, duration_BT, mask_BT)
        trunk = Trunk(hidden_BTD, after.allowed_BTP, after.kind_BT, reference_BTN)
        return Carry(tuple(layers), attention, rules, known), trunk

    def _attend(
        self,
        carry: Any,
        hidden_BTD: Array,
        shown: tuple[Array, Array],
        duration_BT: Array,
        mask_BT: Array,
    ) -> tuple[Any, Array]:
        """The states with attention's context added to them, or in their place; `shown` are ids of events."""
        config = self.config
        if config.attention == "none":
            return carry, hidden_BTD
        if config.attention == "pooled":
            carry, context_BTD = self.attention(carry, hidden_BTD, mask_BT)
            if config.attention_residual:
                context_BTD = self.attention_output(context_BTD)
        else:
            # A duration id is a number of ticks, and 0 on all events but the last of a slice.
            event_BTD = None
            if config.attention_values == "events":
                pitch_BT, shown_BT = shown
                event_BTD = self.value_pitch(pitch_BT) + self.value_duration(shown_BT)
            carry, context_BTD = self.attention(carry, hidden_BTD, duration_BT, mask_BT, event_BTD)
        return carry, hidden_BTD + context_BTD if config.attention_residual else context_BTD

    def looks_up(self, events: int, drops: bool) -> bool:
        """Whether to look up the first layer's projection of so many events, or to multiply."""
        config, rules = self.config, self.grammar
        ids = rules.pitch_size * config.pitch_embedding + rules.duration_size * config.duration_embedding
        cheaper = ids < events * (config.pitch_embedding + config.duration_embedding)
        # cuDNN multiplies by itself, and dropout changes each row's embeddings.
        return cheaper and backend_of(config) != "cudnn" and not (drops and config.dropped_embeddings > 0)

    def tables(self) -> Tables:
        """What each id adds to the gates of the first layer: its embedding, multiplied once for all uses."""
        config, first = self.config, self.layers[0]
        pitch_PG = first.project(self.embed_pitch.embedding, 0)
        duration_RG = first.project(self.embed_duration.embedding, config.pitch_embedding)
        return Tables(
            pitch_PG, duration_RG, first.input_from(config.pitch_embedding + config.duration_embedding)
        )

    def pitch_logits(self, trunk: Trunk) -> Array:
        """Logits (B, T, P) of the next pitch id; `IMPOSSIBLE` where the grammar forbids it."""
        logits_BTP = self.pitch_head(trunk.hidden_BTD)
        if self.config.context.intervals:
            logits_BTP += self.interval_head(trunk.hidden_BTD, trunk.reference_BTN, trunk.allowed_BTP)
        return jnp.where(trunk.allowed_BTP, logits_BTP, IMPOSSIBLE)

    def duration_logits(self, trunk: Trunk, pitch_BT: Array, durations_KPR: Array | None = None) -> Array:
        """Logits (B, T, R) of the duration id of the next event, given its pitch id.

        `durations_KPR` are those that may be in place of all that the grammar allows.
        """
        hidden_BTD = trunk.hidden_BTD
        if self.config.heads == "chained":
            hidden_BTD = jnp.tanh(self.chain_hidden(hidden_BTD) + self.chain_pitch(pitch_BT))
        if durations_KPR is None:
            durations_KPR = jnp.asarray(self.grammar.durations())
        allowed_BTR = durations_KPR[trunk.kind_BT, pitch_BT]
        return jnp.where(allowed_BTR, self.duration_head(hidden_BTD), IMPOSSIBLE)

    def logits(
        self,
        carry: Carry,
        pitch_BS: Array,
        duration_BS: Array,
        mask_BT: Array,
        drops: Drops | None = None,
    ) -> tuple[Carry, Logits]:
        """What is said of the last T of S = T + 1 events, each given those before it.

        `mask_BT` says which of the T events that are read, and so which of the T that follow, count.
        """
        tables = self.tables() if self.looks_up(mask_BT.size, drops=drops is not None) else None
        carry, trunk = self(carry, pitch_BS[:, :-1], duration_BS[:, :-1], mask_BT, drops, tables)
        return carry, Logits(self.pitch_logits(trunk), self.duration_logits(trunk, pitch_BS[:, 1:]))


def score(
    network: Network,
    params: dict,
    carry: Carry,
    pitch_BS: Array,
    duration_BS: Array,
    mask_BT: Array,
    drops: Drops | None = None,
) -> tuple[Carry, Nats]:
    """The nats of the last T of S = T + 1 events, each given those before it, by `predict`."""
    carry, logits = predict(network, params, carry, pitch_BS, duration_BS, mask_BT, drops)
    return carry, nats_of(logits, pitch_BS, duration_BS, mask_BT)


def predict(
    network: Network,
    params: dict,
    carry: Carry,
    pitch_BS: Array,
    duration_BS: Array,
    mask_BT: Array,
    drops: Drops | None = None,
) -> tuple[Carry, Logits]:
    """`Network.logits` as a pure function; with `drops` it drops units and weights, as in training."""
    result: Any = network.apply(
        {"params": params}, carry, pitch_BS, duration_BS, mask_BT, drops, method=Network.logits
    )
    return result


def nats_of(logits: Logits, pitch_BS: Array, duration_BS: Array, mask_BT: Array) -> Nats:
    """The nats of the last T of S = T + 1 events; 0 where the mask hides one."""
    pitch = cross_entropy(logits.pitch_BTP, pitch_BS[:, 1:])
    duration = cross_entropy(logits.duration_BTR, duration_BS[:, 1:])
    return Nats(jnp.where(mask_BT, pitch, 0), jnp.where(mask_BT, duration, 0))


def tempered(params: dict, temperatures: Temperatures) -> dict:
    """The parameters whose logits are those of `params`, divided by temperatures."""
    pitch, duration = temperatures
    heads = {"pitch_head": pitch, "interval_head": pitch, "duration_head": duration}
    return params | {
        name: jax.tree.map(lambda leaf, by=by: leaf / by, params[name])
        for name, by in heads.items()
        if name in params
    }


def _of_layer(drops: Drops | None, layer: int) -> DropConnect | None:
    """What decides which weights of a layer are dropped in this step."""
    if drops is None or _is_zero(drops.rates.weights):
        return None
    return DropConnect(jax.random.fold_in(drops.step, layer), drops.rates.weights)


def _drop_units(hidden_BTD: Array, drops: Drops | None, place: int) -> Array:
    return hidden_BTD if drops is None else _drop(hidden_BTD, drops.rates.units, drops.row_B, place)


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
    events_BS = jnp.zeros((1, 2), jnp.int32)
    mask_BT = jnp.ones((1, 1), bool)
    carry = network.initial_carry(1)
    return network.init(key, carry, events_BS, events_BS, mask_BT, method=Network.logits)["params"]
