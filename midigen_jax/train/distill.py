"""Distillation: one network learns what several others say on average (Hinton et al. 2015).

In: networks and parameters of teachers, a batch. Out: the prediction of their mixture, which is exact: the
probability of an event is the mean of those that the teachers give it, all streams together. What one
of them has learned by heart the others have not, so their mean is a better teacher than the music alone.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import log_softmax, logsumexp

from midigen_jax.data.batches import Batch, Prefix
from midigen_jax.model.network import Logits, Nats, Network, predict


def mean_prediction(teachers: Sequence[tuple[Network, dict]], before: Prefix, now: Batch) -> Logits:
    """Log-probabilities of the mixture of networks, all of equal weight, for each next event of a batch.

    Of a stream's ids those given the earlier ids that follow: the more likely a network found these, the more
    it counts.
    """
    said = []
    for network, params in teachers:
        _, logits = predict(network, params, network.warm_carry(*before), *now)
        said.append({name: log_softmax(part) for name, part in logits.items()})
    mixture: Logits = {}
    weight = jnp.full((len(teachers), *now.mask_BT.shape, 1), -np.log(len(teachers)))  # of each teacher
    for name, _ in teachers[0][0].vocabulary.streams:
        joint = weight + jnp.stack([one[name] for one in said])
        mixture[name] = logsumexp(joint, axis=0) - logsumexp(weight, axis=0)
        weight = jnp.take_along_axis(joint, now.events[name][None, :, 1:, None], axis=-1)
    return jax.lax.stop_gradient(mixture)


def cross_entropies(taught: Logits, logits: Logits) -> Nats:
    """Nats that `logits` give, on average over what the teachers expect; `taught` are log-probabilities."""

    def cross_entropy(taught_BTV: Array, logits_BTV: Array) -> Array:
        return -(jnp.exp(taught_BTV) * log_softmax(logits_BTV)).sum(axis=-1)

    return {name: cross_entropy(taught[name], logits_BTV) for name, logits_BTV in logits.items()}
