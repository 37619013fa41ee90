"""Calibration: logits are divided by what suits validation, and nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from midigen_jax import rows
from midigen_jax.config import Config, override
from midigen_jax.model.network import IMPOSSIBLE, init_params, predict, tempered
from midigen_jax.study.evaluate import evaluate
from midigen_jax.study.metrics import pick
from midigen_jax.train.loop import fit
from midigen_jax.train.pretrained import load_model, read_model, write_model
from midigen_jax.train.scoring import METRIC, TEMPERATURE, TEMPERATURES, Scorer, validate
from midigen_jax.train.step import make_network
from midigen_jax.vocab.chord import ChordVocabulary
from midigen_jax.vocab.note import NoteVocabulary
from tests.tiny import SMALLEST, tiny_corpus

TINY = override(
    Config(),
    SMALLEST
    | {
        "train.steps": 8,
        "train.evaluate_every": 4,
        "train.learning_rate": 0.05,
        "train.calibrate": True,
    },
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, write_melodies):
    return tiny_corpus(tmp_path_factory, write_melodies, TINY.prepare)


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    fit(corpus, TINY, run)
    return run


@pytest.mark.parametrize("heads", ["chained", "independent"])
@pytest.mark.parametrize(
    ("vocabulary", "intervals"),
    [(NoteVocabulary(8), False), (NoteVocabulary(8), True), (ChordVocabulary(((60,), (60, 64)), 8), False)],
    ids=["note", "intervals", "chord"],
)
def test_tempered_weights_give_the_logits_divided(heads, vocabulary, intervals):
    changes = {"model.heads": heads, "model.context.intervals": intervals}
    network = make_network(override(TINY, changes), vocabulary)
    params = init_params(network, jax.random.key(0))
    events = {"pitch": jnp.array([[0, 3, 4, 3, 1]]), "duration": jnp.array([[0, 2, 4, 1, 0]])}
    read = network.initial_carry(1), events, jnp.ones((1, 4), bool)
    temperatures = {"pitch": 2.0, "duration": 0.8}
    _, logits = predict(network, params, *read)
    _, cooled = predict(network, tempered(network, params, temperatures), *read)
    assert logits.keys() == cooled.keys() == temperatures.keys()
    for stream, temperature in temperatures.items():
        before, after = logits[stream], cooled[stream]
        possible = np.asarray(before) > IMPOSSIBLE / 2
        assert possible.any()
        np.testing.assert_allclose(after[possible], before[possible] / temperature, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(np.asarray(after) > IMPOSSIBLE / 2, possible)


def test_the_best_of_all_temperatures_is_found(corpus, run):
    restored = load_model(str(run))
    scorer = Scorer(restored.network, corpus, corpus.split("valid"))
    plain = restored.state.ema_params
    scores = validate(scorer, plain, calibrate=True)

    def divided(**temperatures):
        return tempered(restored.network, plain, temperatures)

    by_hand = [validate(scorer, divided(pitch=by, duration=by)) for by in TEMPERATURES]
    for head in ("pitch", "duration"):
        each = [found[f"{METRIC}.{head}"] for found in by_hand]
        assert scores[f"{METRIC}.{head}"] == pytest.approx(min(each), rel=1e-5)
        found = TEMPERATURES.index(scores[f"{TEMPERATURE}.{head}"])
        assert each[found] == pytest.approx(min(each), rel=1e-6)
    # At its best temperature, and then made surer by 1.3, a model wants 1.3.
    own = 1.0
    for _ in range(4):  # its best one may lie beyond all that are tried
        own *= validate(scorer, divided(pitch=own), calibrate=True)[f"{TEMPERATURE}.pitch"]
    surer = validate(scorer, divided(pitch=own / 1.3), calibrate=True)
    assert surer[f"{TEMPERATURE}.pitch"] == pytest.approx(1.3, abs=0.051)
    assert surer[f"{METRIC}.duration"] == pytest.approx(scores[f"{METRIC}.duration"], rel=1e-6)


def test_a_calibrated_run_is_what_its_validation_said(corpus, run, tmp_path):
    restored = load_model(str(run))
    found = {name: restored.metrics[f"{TEMPERATURE}.{name}"] for name in ("pitch", "duration")}
    assert found != {"pitch": 1.0, "duration": 1.0}
    figure = pick(evaluate(restored, corpus, "valid", "run").parts["all"], "nats_per_event", "end")
    # The figure divides by events without `<end>`, the metric by all of them.
    events = sum(piece.stop - piece.start - 1 for piece in corpus.split("valid"))
    ends = len(corpus.split("valid"))
    assert figure.value * (events - ends) / events == pytest.approx(restored.metrics[METRIC], rel=1e-5)
    logged = {row["name"]: row for row in rows.read(run / "rows.jsonl") if row["step"] == restored.step}
    assert logged[f"{TEMPERATURE}.pitch"]["unit"] == "1"
    assert logged[f"{TEMPERATURE}.pitch"]["value"] == found["pitch"]
    # A model in one file keeps its temperatures, and does not divide twice.
    write_model(restored, tmp_path / "model.npz")
    again = read_model(tmp_path / "model.npz")
    halved = jax.tree.map(lambda leaf: np.float32(np.float16(leaf)), restored.state.ema_params)
    divided = tempered(restored.network, halved, found)
    for ours, theirs in zip(jax.tree.leaves(again.params), jax.tree.leaves(divided), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_calibration_changes_nothing_but_what_is_measured(corpus, run, tmp_path):
    fit(corpus, override(TINY, {"train.calibrate": False}), tmp_path / "plain")
    plain = load_model(str(tmp_path / "plain"), "latest")
    assert not any(name.startswith(TEMPERATURE) for name in plain.metrics)
    for ours, theirs in zip(
        jax.tree.leaves(load_model(str(run), "latest").state), jax.tree.leaves(plain.state), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert load_model(str(run), "latest").metrics[METRIC] <= plain.metrics[METRIC] + 1e-6
