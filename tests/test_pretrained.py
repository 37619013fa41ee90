"""Models in one file: what is written is read back, and what is no model is told in words."""

import jax
import numpy as np
import pytest

from midigen_jax.cli import main
from midigen_jax.config import Config, ModelConfig, PrepareConfig
from midigen_jax.errors import InputError
from midigen_jax.model.network import init_params
from midigen_jax.train import pretrained
from midigen_jax.train.checkpoint import LoadedModel, Metadata, digest, to_facts
from midigen_jax.train.pretrained import load_model, name_of, read_model, write_model
from midigen_jax.train.step import TrainState, make_network
from midigen_jax.vocab.chord import ChordVocabulary
from midigen_jax.vocab.voice import VoiceVocabulary


@pytest.fixture(params=[VoiceVocabulary(2, 8), ChordVocabulary(((60,), (60, 64)), 8)], ids=["voice", "chord"])
def restored(request):
    vocabulary = request.param
    prepare = PrepareConfig(tokenizer="chord") if vocabulary.name == "chord" else PrepareConfig(voices=2)
    model = ModelConfig(pitch_embedding=4, duration_embedding=4, width=8, blocks=("lstm", "pooled"))
    experiment = Metadata(Config(prepare=prepare, model=model), vocabulary, 90.0, (3, 4))
    network = make_network(experiment.config, vocabulary)
    state = TrainState(jax.numpy.int32(7), init_params(network, jax.random.key(0)), ())
    metrics = {"valid.nats_per_event": 1.5}
    return LoadedModel(7, state, network, experiment, metrics, digest(7, to_facts(experiment, metrics)))


@pytest.fixture
def shipped(restored, tmp_path, monkeypatch):
    """The package has one model, called tiny."""
    write_model(restored, tmp_path / "tiny.npz")
    monkeypatch.setattr(pretrained, "_FOLDER", tmp_path)
    return restored


def test_the_model_of_the_package_knows_of_its_corpus():
    assert len(load_model("pretrained:chorales").metadata.plan) == 64


def test_what_is_written_is_read_back_in_half_precision(restored, tmp_path):
    write_model(restored, tmp_path / "model.npz")
    again = read_model(tmp_path / "model.npz")
    for field in ("step", "metadata", "metrics", "digest", "network"):
        assert getattr(again, field) == getattr(restored, field)
    assert jax.tree.structure(again.state.ema_params) == jax.tree.structure(restored.state.ema_params)
    for ours, theirs in zip(
        jax.tree.leaves(again.state.ema_params), jax.tree.leaves(restored.state.ema_params), strict=True
    ):
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, np.asarray(theirs, np.float16))


def test_a_model_of_the_package_has_a_name_and_one_checkpoint(shipped):
    assert load_model("pretrained:tiny").digest == load_model("pretrained:tiny", "7").digest == shipped.digest
    assert name_of("pretrained:tiny") == "tiny"
    with pytest.raises(InputError, match="has step 7 alone"):
        load_model("pretrained:tiny", "8")
    with pytest.raises(InputError, match="did you mean pretrained:tiny"):
        load_model("pretrained:tinny")
    with pytest.raises(InputError, match="there is tiny"):
        load_model("pretrained:chords")


@pytest.mark.parametrize("cut", [0, 100, -30])
def test_a_damaged_file_is_told(restored, tmp_path, cut):
    path = tmp_path / "model.npz"
    write_model(restored, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"model\.npz: no model, or a damaged one"):
        read_model(path)


@pytest.mark.parametrize("restored", [VoiceVocabulary(2, 8)], indirect=True, ids=["voice"])
def test_music_is_written_with_it_and_made_again(shipped, tmp_path, capsys):
    first, again = tmp_path / "first", tmp_path / "again"
    assert main(["generate", "pretrained:tiny", "--out", str(first), "--count", "2", "--events", "24"]) == 0
    assert main(["generate", "--like", str(first / "2.mid"), "--out", str(again)]) == 0
    assert (again / "2.mid").read_bytes() == (first / "2.mid").read_bytes()
    capsys.readouterr()
    assert main(["evaluate", "pretrained:tiny"]) == 2
    assert "comes without a corpus; give CORPUS besides" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "order"), [("chorales", "low-first"), ("harmoniser", "high-first")])
def test_the_package_has_models_of_chorales_that_are_small(name, order):
    restored = load_model(f"pretrained:{name}")
    assert restored.metadata.vocabulary == VoiceVocabulary(4, 96, order=order)
    assert restored.metrics["valid.nats_per_event"] < 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(restored.state.ema_params))
    assert (pretrained._FOLDER / f"{name}.npz").stat().st_size < 8e6
