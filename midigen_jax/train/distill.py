"""Distillation: one network learns what several others say on average (Hinton et al. 2015).

In: the networks and weights of teachers, a batch. Out: the prediction of their mixture, which is exact: the
probability of an event is the mean of those that the teachers give it, pitch and duration together. What one
of them has learned by heart the others have not, so their mean is a better teacher than the music alone.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import log_softmax, logsumexp

from midigen_jax.data.batches import Batch, Before
from midigen_jax.model.network import Logits, Nats, Network, predict


def mean_prediction(
    networks: Sequence[Network], weights: Sequence[dict], before: Before, now: Batch
) -> Logits:
    """Log-probabilities of the mixture of the networks, all of equal weight, for each next event of a batch.

    Of durations those given the pitch that follows: the more likely a network found it, the more it counts.
    """
    pitches, durations, chosen = [], [], []
    for network, params in zip(networks, weights, strict=True):
        _, logits = predict(network, params, network.carry_after(*before), *now)
        pitch_BTP, duration_BTR = (log_softmax(part) for part in logits)
        chosen_BT1 = jnp.take_along_axis(pitch_BTP, now.pitch_BS[:, 1:, None], axis=-1)
        pitches.append(pitch_BTP)
        durations.append(duration_BTR + chosen_BT1)
        chosen.append(chosen_BT1)
    total_BT1 = logsumexp(jnp.stack(chosen), axis=0)
    pitch_BTP = logsumexp(jnp.stack(pitches), axis=0) - np.log(len(networks))
    return jax.lax.stop_gradient(Logits(pitch_BTP, logsumexp(jnp.stack(durations), axis=0) - total_BT1))


def cross_entropies(taught: Logits, logits: Logits) -> Nats:
    """Nats that `logits` give, on average over what the teachers expect; `taught` are log-probabilities."""

    def cross_entropy(taught_BTV: Array, logits_BTV: Array) -> Array:
        return -(jnp.exp(taught_BTV) * log_softmax(logits_BTV)).sum(axis=-1)

    return Nats(*(cross_entropy(*pair) for pair in zip(taught, logits, strict=True)))
