"""A model as a folder for browsers: its step writes what the decode loop writes, and says what it says."""

import itertools
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from midigen_jax.cli import main
from midigen_jax.config import Config, ContextConfig, ModelConfig
from midigen_jax.errors import InputError
from midigen_jax.model.blocks import BLOCKS
from midigen_jax.model.network import IMPOSSIBLE, Network, init_params
from midigen_jax.sample.constraints import limits
from midigen_jax.sample.decode import Settings, decode
from midigen_jax.sample.filters import SamplingParams
from midigen_jax.sample.generate import prompt_of
from midigen_jax.sample.web import _TEMPLATE, facts_of, step_of, write_web
from midigen_jax.train.checkpoint import LoadedModel, Metadata, digest, to_facts
from midigen_jax.train.pretrained import load_model, write_model
from midigen_jax.train.step import TrainState
from midigen_jax.vocab import START, VOCABULARIES, start_event
from midigen_jax.vocab.note import NoteVocabulary
from midigen_jax.vocab.voice import VoiceVocabulary
from tests.onnx_loop import written
from tests.tiny import chord_vocabulary
from tests.toy import MelodyVocabulary

EVENTS = 100
TOLD = ContextConfig(
    place=True, meters=(5,), previous=True, lags=(1,), relative=(2, 7), intervals=True, slices=4, width=4
)
PLAIN = ContextConfig()
NOTE, VOICE, CHORD = NoteVocabulary(4), VoiceVocabulary(2, max_duration=4), chord_vocabulary(5, 20)
# Windows that are shorter than what is written.
MODELS = {
    "lstm": (("lstm", "lstm(residual=true)"), NOTE, "chained", TOLD),
    "gru": (("gru",), CHORD, "independent", PLAIN),
    "pooled": (("lstm", "pooled"), MelodyVocabulary(), "chained", PLAIN),
    "pooled(window=5)": (("pooled(window=5)",), VOICE, "independent", TOLD),
    "multihead": (("gru", "multihead(heads=2, window=7)"), CHORD, "chained", PLAIN),
    "multihead(values=events)": (
        ("lstm", "multihead(heads=2, window=7, values=events)"),
        VOICE,
        "chained",
        TOLD,
    ),
}


def tiny(blocks, vocabulary, heads="chained", context=PLAIN, **model):
    """A model that nobody trained."""
    config = ModelConfig(
        pitch_embedding=4,
        duration_embedding=4,
        embedding=4,
        width=8,
        blocks=blocks,
        heads=heads,
        context=context,
    )
    metadata = Metadata(Config(model=replace(config, **model)), vocabulary, 90.0, (3, 4), upbeat=4)
    network = Network(metadata.config.model, vocabulary)
    # Weights that are larger than at the beginning of a training tell ids apart.
    params = jax.tree.map(lambda leaf: 1.5 * leaf, init_params(network, jax.random.key(1)))
    metrics = {"valid.nats_per_event": 1.0}
    facts = digest(0, to_facts(metadata, metrics))
    return LoadedModel(0, TrainState(jnp.int32(0), params, ()), network, metadata, metrics, facts)


def hold_to_ours(loaded, folder, events=EVENTS):
    """The step writes what `decode` writes with the same bits, and its logits are those of `Network`."""
    vocabulary, key = loaded.metadata.vocabulary, jax.random.key(3)
    streams = [name for name, _ in vocabulary.streams]
    one, off = jnp.ones(1), jnp.zeros(1)
    settings = Settings(
        key[None],
        {name: SamplingParams(0.9 * one, off.astype(int), one, off, one) for name in streams},
        jnp.array([-loaded.metadata.upbeat]),
        jnp.array([2**30]),
        limits=limits(vocabulary, seen=loaded.metadata.seen_masks),
    )
    prompt = prompt_of(vocabulary, start_event(vocabulary))
    network = Network(replace(loaded.network.config, compute_dtype="float32"), vocabulary)
    _, decoded = decode(network, loaded.params, prompt, settings, events=events)
    length = int(decoded.length_B[0])
    ours = np.stack([decoded.events[name][0, :length] for name in streams], axis=1)

    bits_ES = jax.vmap(lambda number: jax.random.bits(jax.random.fold_in(key, number), (len(streams),)))(
        jnp.arange(events)
    )
    theirs = list(itertools.islice(written(folder, np.asarray(bits_ES).__getitem__, 0.9), events))
    ids = np.array([event for event, _ in theirs])
    np.testing.assert_array_equal(ids[:length], ours)

    whole = {
        name: jnp.array([[first, *ids[:, place]]])
        for place, (name, first) in enumerate(zip(streams, start_event(vocabulary)[0], strict=True))
    }
    carry = network.initial_carry(1, tick_B=settings.begin_B)
    given = {"params": loaded.params}, carry, whole, jnp.ones((1, events), bool)
    _, logits = jax.jit(partial(network.apply, method=Network.logits))(*given)
    for name in streams:
        # What the vocabulary cannot say is never written, and neither is what no training piece has.
        never_V = vocabulary.tables[name].unknown | ~(loaded.metadata.seen_masks or {}).get(name, np.True_)
        mine = jnp.where(never_V, IMPOSSIBLE, logits[name][0])
        other = np.stack([said[name] for _, said in theirs])
        np.testing.assert_array_equal(other <= IMPOSSIBLE, mine <= IMPOSSIBLE)
        np.testing.assert_allclose(
            jax.nn.log_softmax(other), jax.nn.log_softmax(mine), rtol=1e-6, atol=1e-5
        )  # of numbers such as -20 float32 knows no more


@pytest.mark.parametrize("name", MODELS)
def test_the_step_is_the_decode_loop_s(name, tmp_path):
    loaded = tiny(*MODELS[name])
    write_web(loaded, name, tmp_path / "web")
    hold_to_ours(loaded, tmp_path / "web")


def test_blocks_and_vocabularies_of_the_package_are_all_among_these():
    blocks = " ".join(block for blocks, *_ in MODELS.values() for block in blocks)
    assert all(name in blocks for name in BLOCKS)
    assert {vocabulary.name for _, vocabulary, *_ in MODELS.values()} >= VOCABULARIES.keys()


def test_the_step_of_the_chorales_is_the_decode_loop_s(tmp_path):
    loaded = load_model("pretrained:chorales")
    write_web(loaded, "chorales", tmp_path / "web")
    hold_to_ours(loaded, tmp_path / "web")


def test_a_model_that_was_trained_in_half_precision_runs_in_single(tmp_path):
    loaded = tiny(("lstm",), NOTE, compute_dtype="bfloat16")
    write_web(loaded, "half", tmp_path / "web")
    hold_to_ours(loaded, tmp_path / "web", events=12)


def test_what_ids_mean_stands_beside_the_step():
    loaded = tiny(("lstm",), NOTE)
    facts = facts_of("tiny", loaded.metadata, step_of(loaded)[1])
    pitch, duration = facts["streams"]
    assert (pitch["name"], duration["name"]) == ("pitch", "duration")
    assert (pitch["pitches"][3 + 60], pitch["held"][3 + 60]) == ([60], False)
    assert (pitch["pitches"][131 + 60], pitch["held"][131 + 60]) == ([60], True)
    assert duration["ticks"] == [0, 1, 2, 3, 4]
    assert duration["closes"] == [False, True, True, True, True]
    assert (facts["start"], facts["end"], facts["ticks_per_quarter"]) == ([START, 0], 1, 12)
    # An upbeat of four twelfths is a third of a quarter, for which MIDI has no meter.
    assert facts["meters"] == [{"tick": 0, "meter": (3, 4)}]
    assert {"name": "blocks.0.cell_BD", "dtype": "float32", "shape": (1, 8), "begin": 0.0} in facts["carry"]


def test_an_upbeat_is_a_bar_of_its_own_where_the_model_counts_from_bar_lines():
    loaded = tiny(("lstm",), NOTE)
    metadata = loaded.metadata._replace(upbeat=12)
    assert facts_of("tiny", metadata, {})["meters"] == [
        {"tick": 0, "meter": (1, 4)},
        {"tick": 12, "meter": (3, 4)},
    ]
    prepare = replace(metadata.config.prepare, bar_lines="start")
    older = metadata._replace(config=replace(metadata.config, prepare=prepare))
    assert facts_of("tiny", older, {})["meters"] == [{"tick": 0, "meter": (3, 4)}]


def test_a_carry_of_several_numbers_is_told():
    loaded = tiny(("lstm",), NOTE)
    with pytest.raises(InputError, match=r"--onnx: blocks\.0 of the carry begins with several numbers"):
        facts_of("tiny", loaded.metadata, {"blocks.0": jnp.arange(3)})


def test_the_command_writes_a_folder_and_says_how_to_hear_it(tmp_path, capsys):
    model, folder = tmp_path / "tiny.npz", tmp_path / "web"
    write_model(tiny(("lstm",), VoiceVocabulary(2, 4)), model)
    words = ["export", str(model), "--onnx", "--out"]
    assert main([*words, str(folder)]) == 0
    assert f"python -m http.server -d {folder}, and open http://localhost:8000" in capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {"index.html", "model.json", "model.onnx"}
    (folder / "ort").mkdir()
    assert main([*words, str(folder)]) == 0  # again, beside the runtime that somebody put there
    assert main([*words, str(tmp_path / "web.npz")]) == 2
    assert "give a folder, or leave --onnx out" in capsys.readouterr().err
    (folder / "mine.txt").write_text("")
    assert main([*words, str(folder)]) == 2
    assert "holds something else (mine.txt)" in capsys.readouterr().err


def test_the_page_is_short_and_names_the_version_that_it_runs_with(parse):
    text = _TEMPLATE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert re.search(r"onnxruntime-web@\d+\.\d+\.\d+/", text)
    labels = [attributes for tag, attributes in parse(text).tags if tag == "label"]
    assert len(labels) == len(parse(text).all("input"))


def test_the_example_of_the_docs_writes_events(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    write_web(tiny(("lstm",), NOTE), "tiny", tmp_path / "web")
    page = (Path(__file__).parent.parent / "docs" / "decoding.md").read_text(encoding="utf-8")
    section = page.split("## In a browser")[1]
    (code,) = re.findall(r"^```python\n(.*?)^```", section.split("\n## ")[0], re.M | re.S)
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(code, found)
    assert 0 < len(found["written"]) <= 200
