"""Calibration: logits are divided by what suits validation, and nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from midigen_jax import rows
from midigen_jax.config import Config, override
from midigen_jax.data.prepare import prepare
from midigen_jax.model.network import IMPOSSIBLE, Temperatures, init_params, predict, tempered
from midigen_jax.music.tokens import ChordTokenizer, NoteTokenizer
from midigen_jax.study.evaluate import evaluate
from midigen_jax.study.likelihood import pick
from midigen_jax.train.experiment import METRIC, TEMPERATURE, make_network
from midigen_jax.train.loop import fit
from midigen_jax.train.member import validate
from midigen_jax.train.pretrained import load_model, read_model, write_model
from midigen_jax.train.scoring import TEMPERATURES, Scorer
from tests.tiny import SMALLEST

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
    folder = tmp_path_factory.mktemp("corpus")
    return prepare([str(write_melodies(folder / "music"))], folder / "out", TINY.prepare, workers=1)


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    fit(corpus, TINY, run)
    return run


@pytest.mark.parametrize("heads", ["chained", "independent"])
@pytest.mark.parametrize(
    ("tokenizer", "intervals"),
    [(NoteTokenizer(8), False), (NoteTokenizer(8), True), (ChordTokenizer(((60,), (60, 64)), 8), False)],
    ids=["note", "intervals", "chord"],
)
def test_tempered_weights_give_the_logits_divided(heads, tokenizer, intervals):
    changes = {"model.heads": heads, "model.context.intervals": intervals}
    network = make_network(override(TINY, changes), tokenizer)
    params = init_params(network, jax.random.key(0))
    pitch_BS = jnp.array([[0, 3, 4, 3, 1]])
    events = pitch_BS, jnp.array([[0, 2, 4, 1, 0]]), jnp.ones((1, 4), bool)
    carry = network.initial_carry(1)
    _, logits = predict(network, params, carry, *events)
    _, cooled = predict(network, tempered(params, Temperatures(2.0, 0.8)), carry, *events)
    for before, after, temperature in zip(logits, cooled, (2.0, 0.8), strict=True):
        possible = np.asarray(before) > IMPOSSIBLE / 2
        assert possible.any()
        np.testing.assert_allclose(after[possible], before[possible] / temperature, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(np.asarray(after) > IMPOSSIBLE / 2, possible)


def test_the_best_of_all_temperatures_is_found(corpus, run):
    restored = load_model(str(run))
    scorer = Scorer(restored.network, corpus, corpus.split("valid"))
    plain = restored.state.weights
    scores = validate(scorer, plain, calibrate=True)
    by_hand = [validate(scorer, tempered(plain, Temperatures(t, t))) for t in TEMPERATURES]
    for head in ("pitch", "duration"):
        each = [found[f"{METRIC}.{head}"] for found in by_hand]
        assert scores[f"{METRIC}.{head}"] == pytest.approx(min(each), rel=1e-5)
        found = TEMPERATURES.index(scores[f"{TEMPERATURE}.{head}"])
        assert each[found] == pytest.approx(min(each), rel=1e-6)
    # At its best temperature, and then made surer by 1.3, a model wants 1.3.
    surer = validate(scorer, tempered(plain, Temperatures(scores[f"{TEMPERATURE}.pitch"] / 1.3)), True)
    assert surer[f"{TEMPERATURE}.pitch"] == pytest.approx(1.3, abs=0.051)
    assert surer[f"{METRIC}.duration"] == pytest.approx(scores[f"{METRIC}.duration"], rel=1e-6)


def test_a_calibrated_run_is_what_its_validation_said(corpus, run, tmp_path):
    restored = load_model(str(run))
    found = Temperatures(*(restored.metrics[f"{TEMPERATURE}.{head}"] for head in Temperatures._fields))
    assert found != Temperatures(1.0, 1.0)
    figure = pick(evaluate(restored, corpus, "valid", "run").parts["all"], "event", end=True)
    # The figure divides by events without `<end>`, the metric by all of them.
    events = sum(piece.stop - piece.start - 1 for piece in corpus.split("valid"))
    ends = len(corpus.split("valid"))
    assert figure.value * (events - ends) / events == pytest.approx(restored.metrics[METRIC], rel=1e-5)
    logged = {row["name"]: row for row in rows.read(run / "rows.jsonl") if row["step"] == restored.step}
    assert logged[f"{TEMPERATURE}.pitch"]["unit"] == "1"
    assert logged[f"{TEMPERATURE}.pitch"]["value"] == found.pitch
    # A model in one file keeps its temperatures, and does not divide twice.
    write_model(restored, tmp_path / "model.npz")
    again = read_model(tmp_path / "model.npz")
    halved = jax.tree.map(lambda leaf: np.float32(np.float16(leaf)), restored.state.weights)
    for ours, theirs in zip(
        jax.tree.leaves(again.weights), jax.tree.leaves(tempered(halved, found)), strict=True
    ):
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
