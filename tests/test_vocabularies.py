"""Vocabularies: the laws hold for each, a toy one included, and nothing outside of their room asks which."""

import ast
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import midigen_jax
from midigen_jax.config import Config, PrepareConfig, SampleConfig, override
from midigen_jax.data.prepare import prepare
from midigen_jax.errors import InputError
from midigen_jax.model.network import Network, init_params
from midigen_jax.music.notes import make_notes
from midigen_jax.music.piece import Piece
from midigen_jax.music.write import write_midi
from midigen_jax.sample.generate import generate
from midigen_jax.study.evaluate import evaluate, evaluate_baselines, rows_of, table
from midigen_jax.train.checkpoint import open_run
from midigen_jax.train.loop import fit
from midigen_jax.vocab import (
    VOCABULARIES,
    by_stream,
    typical_vocabulary,
    vocabulary_class,
    vocabulary_from_json,
)
from midigen_jax.vocab.verify import verify_vocabulary
from tests.tiny import SMALLEST, at_once_and_step_by_step
from tests.toy import MelodyVocabulary

PACKAGE = Path(midigen_jax.__file__).parent
MELODY = Piece(make_notes([0, 6, 12, 30], [6, 3, 12, 6], [60, 64, 62, 67], [0, 1, 0, 2]))
OF_EACH = {
    "note": PrepareConfig(),
    "voice": PrepareConfig(voices=3),
    "voice, high first": PrepareConfig(voices=3, voice_order="high-first"),
    "chord": PrepareConfig(tokenizer="chord"),
}
NAMES = [*dict.fromkeys([*VOCABULARIES, *OF_EACH]), "melody"]


@pytest.fixture
def melodies(monkeypatch):
    monkeypatch.setitem(VOCABULARIES, "melody", MelodyVocabulary)


def some(name):
    """A small vocabulary, and music that it can say."""
    if name == "melody":
        return MelodyVocabulary(), MELODY
    config = override(
        Config(prepare=OF_EACH[name]), {"prepare.max_duration": 24, "prepare.min_chord_count": 1}
    )
    vocabulary = vocabulary_class(config.prepare).make(config.prepare, [MELODY])
    return vocabulary, MELODY


def small_network(vocabulary, heads="chained"):
    config = override(Config(), SMALLEST | {"model.heads": heads}).model
    network = Network(config, vocabulary)
    return network, jax.tree.map(lambda leaf: 3 * leaf, init_params(network, jax.random.key(1)))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_said_is_what_was_meant(name, melodies):
    """The pitches, onsets and lengths of a piece come back, and through JSON the vocabulary itself."""
    vocabulary, piece = some(name)
    again = vocabulary.decode(vocabulary.encode(piece))
    kept = slice(0, 4) if "track" not in vocabulary.drops else slice(0, 3)
    assert again[:, kept].tolist() == piece.notes[:, kept].tolist()
    read = vocabulary_from_json(json.loads(json.dumps(vocabulary.to_json())))
    assert read == vocabulary
    assert hash(read) == hash(vocabulary)


@pytest.mark.parametrize("name", NAMES)
def test_every_vocabulary_keeps_the_laws(name, melodies):
    vocabulary, piece = some(name)
    verify_vocabulary(vocabulary, [piece])


class TooSmall(MelodyVocabulary):
    """Its durations are more than it says."""

    def encode(self, piece):
        return super().encode(piece) + np.array([0, self.max_duration, 0]) * 1


class Forgetful(MelodyVocabulary):
    """Forgets tracks on the way through JSON."""

    @classmethod
    def from_json(cls, data):
        return cls(int(data["max_duration"]) + 1)


class Unlike(MelodyVocabulary):
    """Has no table of tracks."""

    @property
    def tables(self):
        return {name: table for name, table in super().tables.items() if name != "track"}


@pytest.mark.parametrize(
    ("kind", "words"), [(TooSmall, "int64, not int32"), (Forgetful, "through JSON"), (Unlike, "streams")]
)
def test_a_vocabulary_that_breaks_a_law_is_told_which(kind, words):
    with pytest.raises(AssertionError, match=words):
        verify_vocabulary(kind(), [MELODY])


@pytest.mark.parametrize("heads", ["chained", "independent"])
@pytest.mark.parametrize("name", NAMES)
def test_the_probabilities_of_all_next_events_sum_to_one(name, heads, melodies):
    """Over all ids of each stream, given earlier ids: the chain rule over streams is exact."""
    vocabulary, piece = some(name)
    network, params = small_network(vocabulary, heads)
    tokens = vocabulary.encode(piece)[:4]
    sizes = [min(size, 40) for _, size in vocabulary.streams[1:]]
    model = network.bind({"params": params})
    events = jax.tree.map(jnp.asarray, by_stream(vocabulary, tokens[None]))
    _, trunk = model(network.initial_carry(1), events, jnp.ones((1, len(tokens)), bool))
    rng = np.random.default_rng(0)
    earlier = {}
    for place, (stream, size) in enumerate(vocabulary.streams):
        share_BTV = jax.nn.softmax(model.stream_logits(stream, trunk, earlier))
        np.testing.assert_allclose(share_BTV.sum(axis=-1), 1, rtol=1e-5)
        allowed = vocabulary.rules.allowed(trunk.after, vocabulary.rules.limits(), stream, earlier)
        assert allowed.any(axis=-1).all()
        np.testing.assert_array_equal(np.asarray(share_BTV > 0), np.asarray(allowed))
        choices = [rng.choice(np.flatnonzero(row)) for row in np.asarray(allowed)[0]]
        earlier[stream] = jnp.asarray(choices, jnp.int32)[None]
        assert place <= len(sizes)
        assert size == share_BTV.shape[-1]


@pytest.mark.parametrize("name", NAMES)
def test_music_is_never_forbidden_and_is_read_alike_in_any_chunks(name, melodies):
    vocabulary, piece = some(name)
    network, params = small_network(vocabulary)
    tokens = vocabulary.encode(piece)
    events = jax.tree.map(jnp.asarray, by_stream(vocabulary, tokens[None]))
    whole, found = at_once_and_step_by_step(network, params, events)
    assert all(float(nats.max()) < 50 for nats in whole.values())
    for stream in whole:
        np.testing.assert_allclose(found[stream], whole[stream], rtol=2e-5, atol=2e-6)


def test_a_toy_vocabulary_trains_decodes_and_is_evaluated(tmp_path, melodies):
    rng = np.random.default_rng(0)
    (tmp_path / "music").mkdir()
    for number in range(12):
        durations = 3 * rng.integers(1, 5, 20)
        onsets = np.cumsum(durations) - durations
        notes = make_notes(onsets, durations, rng.integers(55, 75, 20), rng.integers(0, 3, 20))
        write_midi(notes, tmp_path / "music" / f"{number}.mid")
    settings = SMALLEST | {"train.steps": 6, "train.warmup": 1, "prepare.tokenizer": "melody"}
    config = override(Config(), settings | {"prepare.max_duration": 48, "train.calibrate": True})
    corpus = prepare([str(tmp_path / "music")], tmp_path / "corpus", config.prepare, workers=1)
    assert corpus.tokens.shape[1] == 3
    assert corpus.manifest["summary"]["track_size"] == 5
    assert fit(corpus, config, tmp_path / "run").step == 6
    with open_run(tmp_path / "run") as checkpoints:
        loaded = checkpoints.restore("best")
    assert {
        f"valid.nats_per_event.{name}" for name in ("pitch", "duration", "track")
    } <= loaded.metrics.keys()
    music = generate(loaded, SampleConfig(count=3, events=24, top_p=(0.9,), key="C", meter="4/4"))
    pitches = np.concatenate([notes[:, 2] for notes in music.pieces])
    assert len(pitches)
    assert set(pitches % 12) <= {0, 2, 4, 5, 7, 9, 11}
    models = [evaluate(loaded, corpus, "test", "ours"), *evaluate_baselines(corpus, "test")]
    heads = {
        row["config"]["head"] for row in rows_of(models[0], {}) if row["name"] == "evaluate.nats_per_quarter"
    }
    assert heads == {"both", "pitch", "duration", "track"}
    assert sum(line.strip().startswith("track") for line in table(models)) == len(models)
    for model in models:
        assert all(np.isfinite(figure.value) for figure in model.parts["all"])


def test_a_vocabulary_that_is_not_there_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"prepare\.tokenizer = chrod: .*did you mean chord\?"):
        vocabulary_class(PrepareConfig(tokenizer="chrod"))
    with pytest.raises(InputError, match=r"prepare\.voices = 0 with prepare\.tokenizer = voice: give"):
        vocabulary_class(PrepareConfig(tokenizer="voice"))
    with pytest.raises(InputError, match=r"voice_order = high-first: there are no voices; give --voices"):
        vocabulary_class(PrepareConfig(voice_order="high-first"))
    with pytest.raises(InputError, match=r"prepare\.voices = 4 with prepare\.tokenizer = chord: give note"):
        typical_vocabulary(PrepareConfig(tokenizer="chord", voices=4))


def test_nothing_outside_of_the_room_asks_which_vocabulary_it_has():
    """No class of one is named outside, no name compared, and no block is asked for outside of its room."""
    classes = {kind.__name__ for kind in VOCABULARIES.values()}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0]
        if room == "vocab":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            said = (
                node.id
                if isinstance(node, ast.Name)
                else node.attr
                if isinstance(node, ast.Attribute)
                else ""
            )
            assert said not in classes, f"{path}:{node.lineno} names {said}"
            # To the room of music, which imports no vocabulary, a "note" is an element of MusicXML.
            if isinstance(node, ast.Compare) and room != "music":
                words = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
                asked = {*VOCABULARIES} & {word for word in words if isinstance(word, str)}
                assert not asked, f"{path}:{node.lineno} compares with {asked}"
