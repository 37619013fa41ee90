"""Distillation: teachers are one exact mixture, and a network learns from it what it says."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from midigen_jax.config import Config, ModelConfig, override
from midigen_jax.data.batches import Batch, Prefix, batch, crops_of, row_numbers
from midigen_jax.data.prepare import prepare
from midigen_jax.errors import InputError
from midigen_jax.model.network import Network, init_params, nats_of, predict
from midigen_jax.train import loop
from midigen_jax.train.checkpoint import Metadata, open_run
from midigen_jax.train.distill import cross_entropies, mean_prediction
from midigen_jax.train.loop import fit
from midigen_jax.vocab import note
from midigen_jax.vocab.note import NoteVocabulary
from tests.tiny import SMALLEST

TICKS = 5
VOCABULARY = NoteVocabulary(TICKS)
ATTENTIVE = ModelConfig(width=8, blocks=("lstm", "multihead(window=4)"))


def teacher(seed, config=None):
    """A network and weights that are large enough for it to have opinions."""
    network = Network(config or ModelConfig(width=8, blocks=("lstm", "pooled")), VOCABULARY)
    return network, jax.tree.map(lambda leaf: 3 * leaf, init_params(network, jax.random.key(seed)))


def event(pitch, duration=1):
    """A crop of one event after another one, and nothing before it."""
    events = {"pitch": jnp.array([[note.ATTACKED + 60, pitch]]), "duration": jnp.array([[1, duration]])}
    nothing = jnp.zeros((1, 0), jnp.int32)
    before = Prefix(dict.fromkeys(events, nothing), nothing.astype(bool), jnp.zeros(1, jnp.int32))
    return before, Batch(events, jnp.ones((1, 1), bool))


def probability(networks, weights, now):
    """Of the one event of `event`, the mean of what the networks give it."""
    before, crop = now
    nats = [
        nats_of(predict(network, params, network.warm_carry(*before), *crop)[1], *crop)
        for network, params in zip(networks, weights, strict=True)
    ]
    return jnp.mean(jnp.array([jnp.exp(-part["pitch"] - part["duration"])[0, 0] for part in nats]))


def test_the_mixture_gives_each_event_the_mean_of_its_probabilities_and_all_of_them_one():
    networks, weights = zip(teacher(0), teacher(1, ATTENTIVE), strict=True)
    read = jax.jit(lambda now: mean_prediction(tuple(zip(networks, weights, strict=True)), *now))
    expected = jax.jit(lambda now: probability(networks, weights, now))
    for pitch in range(0, note.SIZE, 7):
        found = read(event(pitch))
        durations = np.exp(np.asarray(found["duration"][0, 0], np.float64))
        np.testing.assert_allclose(durations.sum(), 1, rtol=1e-5)
        for duration in range(TICKS):
            now = event(pitch, duration)
            joint = np.exp(float(found["pitch"][0, 0, pitch])) * durations[duration]
            np.testing.assert_allclose(joint, float(expected(now)), rtol=1e-4, atol=1e-9)
    total = np.exp(np.asarray(read(event(0))["pitch"][0, 0], np.float64)).sum()
    np.testing.assert_allclose(total, 1, rtol=1e-5)


def test_one_that_says_what_its_teacher_says_has_nothing_to_learn():
    """The gradient against the teacher is 0 there, and that against the music is not."""
    network, params = teacher(0)
    before, now = event(note.ATTACKED + 64)
    taught = mean_prediction([(network, params)], before, now)

    def nats(params, taught):
        _, logits = predict(network, params, network.warm_carry(*before), *now)
        found = nats_of(logits, *now) if taught is None else cross_entropies(taught, logits)
        return sum(part.sum() for part in found.values())

    def norm(taught):
        return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(jax.grad(nats)(params, taught)))

    assert norm(taught) < 1e-6 < 1e-2 < norm(None)
    other = mean_prediction([teacher(1)], before, now)
    assert norm(other) > 1e-2
    entropy = nats(params, taught)
    assert nats(params, other) != entropy
    nowhere = {name: jnp.full_like(part, -1e9) for name, part in taught.items()}
    assert float(sum(part.sum() for part in cross_entropies(nowhere, taught).values())) == 0


TINY = override(
    Config(),
    SMALLEST
    | {
        "train.steps": 4,
        "train.warmup": 2,
        "train.evaluate_every": 2,
    },
)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory, write_melodies):
    """Two small corpora whose longest durations differ."""
    folder = tmp_path_factory.mktemp("corpora")
    write_melodies(folder / "music")
    configs = [TINY.prepare, override(TINY, {"prepare.max_duration": 3}).prepare]
    return [
        prepare([str(folder / "music")], folder / f"out-{number}", config, workers=1)
        for number, config in enumerate(configs)
    ]


@pytest.mark.slow
def test_a_run_learns_from_runs_and_goes_on_where_it_was_cut(corpora, tmp_path):
    for seed in (1, 2):
        fit(corpora[0], override(TINY, {"train.seed": seed}), tmp_path / f"teacher-{seed}")
    runs = ",".join(str(tmp_path / f"teacher-{seed}") for seed in (1, 2))
    weights = []
    for name, changes in [
        ("taught", {"train.teachers": runs}),
        ("again", {"train.teachers": runs}),
        ("alone", {"train.teachers": runs, "train.distill": 0.0}),
        ("untaught", {}),
    ]:
        done = fit(corpora[0], override(TINY, changes), tmp_path / name)
        assert (done.step, done.interrupted) == (4, False)
        with open_run(tmp_path / name) as checkpoints:
            weights.append(np.concatenate([w.ravel() for w in jax.tree.leaves(checkpoints.restore().state)]))
    taught, again, alone, untaught = weights
    np.testing.assert_array_equal(taught, again)
    np.testing.assert_allclose(alone, untaught, rtol=1e-3, atol=1e-6)
    assert np.abs(taught - untaught).max() > 1e-3


def test_wrong_teachers_are_named(corpora, tmp_path):
    with pytest.raises(InputError, match=r"nobody: no run there"):
        fit(corpora[0], override(TINY, {"train.teachers": str(tmp_path / "nobody")}), tmp_path / "run")
    fit(corpora[1], TINY, tmp_path / "other")
    with pytest.raises(InputError, match=r"train\.teachers: .*other has another vocabulary than .*out-0"):
        fit(corpora[0], override(TINY, {"train.teachers": str(tmp_path / "other")}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_crops_are_taught_with_what_was_before_them():
    """A teacher knows of the music before a crop, as its pupil does."""
    config = override(Config(), {"batch.rows": 3, "batch.length": 6, "batch.before": 5}).batch
    rng = np.random.default_rng(0)
    piece = np.stack([note.ATTACKED + rng.integers(50, 70, 30), rng.integers(1, 4, 30)], axis=1)
    rows = row_numbers(config, jnp.int32(0))
    crops = crops_of([piece], config, VOCABULARY)
    before, now = batch(crops, config, VOCABULARY, 0.6, jax.random.key(0), rows)
    told = override(
        ModelConfig(width=8, blocks=("lstm", "pooled")), {"context.lags": (1, 2), "context.intervals": True}
    )
    network, params = teacher(0, told)
    forgotten = before._replace(mask=jnp.zeros_like(before.mask))
    read = jax.jit(lambda past: mean_prediction([(network, params)], past, now)["pitch"])
    found = [read(past) for past in (before, forgotten)]
    assert np.abs(found[0] - found[1]).max() > 1e-3


@pytest.mark.parametrize("wrong", [{"train.distill": 1.5}, {"train.distill": -0.1}])
def test_a_share_is_one(wrong):
    with pytest.raises(InputError, match=r"train\.distill = .* between 0 and 1"):
        override(Config(), wrong)


def test_a_teacher_has_to_know_bar_lines_as_the_corpus_does(corpora, tmp_path, monkeypatch):
    def teacher_of(bar_lines, meters):
        config = override(TINY, {"prepare.bar_lines": bar_lines, "model.context.meters": meters})
        metadata = Metadata(config, corpora[0].vocabulary, 90.0, (4, 4))
        return lambda run: SimpleNamespace(metadata=metadata, params=None, network=None)

    taught = override(TINY, {"train.teachers": "old"})
    monkeypatch.setattr(loop, "load_model", teacher_of("start", (48,)))
    refusal = (
        r"train\.teachers: old knows bar lines otherwise than .*out-0; prepare that with --bar-lines start"
    )
    with pytest.raises(InputError, match=refusal):
        fit(corpora[0], taught, tmp_path / "run")
    for deaf in (teacher_of("start", ()), teacher_of("written", (48,))):
        monkeypatch.setattr(loop, "load_model", deaf)
        with pytest.raises(AttributeError):  # it is taken for a teacher, which this stub is not
            fit(corpora[0], taught, tmp_path / "run")
    assert not (tmp_path / "run").exists()
