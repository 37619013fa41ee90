"""What a checkpoint says of its training, and what it is when it is read.

In: a config, a tokenizer, what validation measured. Out: facts as JSON knows them, and back.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from midigen_jax import config as configs
from midigen_jax.config import Config
from midigen_jax.errors import InputError
from midigen_jax.model.grammar import grammar
from midigen_jax.model.network import Network, Temperatures, tempered
from midigen_jax.music.tokenizers import Tokenizer, tokenizer_from_json
from midigen_jax.train.state import TrainState

FORMAT = 2
METRIC = "valid.nats_per_event"
TEMPERATURE = "valid.temperature"


class Experiment(NamedTuple):
    """What a checkpoint holds besides the state, and what no step of the training changes."""

    config: Config
    tokenizer: Tokenizer
    tempo: float  # of the music that is trained on, the median, in quarters a minute
    meter: tuple[int, int]  # likewise, the most frequent one
    plan: str = ""  # of the corpus: tells it from all others; not known of older checkpoints


class Restored(NamedTuple):
    """A checkpoint made usable."""

    step: int
    state: TrainState
    network: Network
    experiment: Experiment
    metrics: dict[str, float]
    digest: str  # tells this checkpoint from those of other experiments

    @property
    def weights(self) -> dict:
        """The parameters to evaluate and to sample with, at the temperatures that suit validation best."""
        found = (self.metrics.get(f"{TEMPERATURE}.{head}", 1.0) for head in Temperatures._fields)
        return tempered(self.state.weights, Temperatures(*found))


def to_facts(experiment: Experiment, metrics: Mapping[str, float]) -> dict[str, Any]:
    """All of a checkpoint but its arrays, as JSON knows it."""
    return {
        "format": FORMAT,
        "config": configs.to_json(experiment.config),
        "vocab": experiment.tokenizer.to_json(),
        "tempo": experiment.tempo,
        "meter": list(experiment.meter),
        "plan": experiment.plan,
        "metrics": dict(metrics),
    }


def from_facts(facts: Mapping[str, Any], name: str) -> Experiment:
    """The experiment of what `to_facts` gave. Raises InputError, which names it, for another format."""
    if facts.get("format") != FORMAT:
        raise InputError(
            f"{name}: checkpoint format {facts.get('format')}, this version reads {FORMAT}; train again"
        )
    config, tokenizer = configs.from_json(Config, facts["config"]), tokenizer_from_json(facts["vocab"])
    meter = facts["meter"][0], facts["meter"][1]
    return Experiment(config, tokenizer, facts["tempo"], meter, facts.get("plan", ""))


def digest(step: int, facts: Mapping[str, Any]) -> str:
    """Tells a checkpoint from those of other experiments and of other steps."""
    return hashlib.sha256(json.dumps([step, facts], sort_keys=True).encode()).hexdigest()[:16]


def make_network(config: Config, tokenizer: Tokenizer) -> Network:
    """The network of a config for a vocabulary."""
    return Network(config.model, grammar(tokenizer))
