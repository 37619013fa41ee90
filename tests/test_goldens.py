"""What the first edition computed, and every later change computes too, but for the rounding of float32.

`PYTHONPATH=scripts python -m tests.test_goldens NAME …` writes goldens/NAME.json anew; the commit that does
so says why. What a file says is music, nats and losses, never how they are laid out: code may change around
it.

Music that is written has no rounding. Where a uniform falls on the border of two ids, another machine may
write other music; these pieces came out alike under two sets of XLA's flags.
"""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from midigen_jax.config import Config, SampleConfig, override
from midigen_jax.data.batches import make_crops
from midigen_jax.data.corpus import Corpus
from midigen_jax.data.prepare import prepare
from midigen_jax.music.collections import collection
from midigen_jax.recipes import read_config
from midigen_jax.sample.generate import generate
from midigen_jax.study.ablation import run_study
from midigen_jax.study.plan import make_study
from midigen_jax.train.distributed import data_mesh
from midigen_jax.train.pretrained import load_model
from midigen_jax.train.replicas import make_train_steps, start_alone
from midigen_jax.train.scoring import Scorer
from midigen_jax.train.step import make_network
from tests.tiny import SMALLEST

FOLDER = Path(__file__).parent / "goldens"
STEPS, CHORALES = 20, 24  # the losses of a training; the first chorales of the collection
NOTE, VOICE = {"prepare.tokenizer": "note"}, {"prepare.voices": 4, "prepare.bar_lines": "start"}
CHORD = {"prepare.tokenizer": "chord", "prepare.transpose": "C"}


def chorales(settings: dict[str, Any], folder: str, count: int = CHORALES) -> Corpus:
    sources = [str(path) for path in collection("bach")[:count]]
    return prepare(sources, Path(folder) / "corpus", override(Config(), settings).prepare)


def nats_of_the_package() -> Any:
    """Of three chorales, by `pretrained:chorales`: pitch and duration, event by event."""
    model = load_model("pretrained:chorales")
    with tempfile.TemporaryDirectory() as folder:
        corpus = chorales(VOICE, folder)
        pieces = corpus.pieces[:3]
        found = dict(Scorer(model.network, corpus, pieces)(model.params))
        return {Path(piece.source).name: found[number].nats.T.tolist() for number, piece in enumerate(pieces)}


def losses(corpus_settings: dict[str, Any], config: Config) -> Any:
    """Of the first steps on one device, with seed 0: of pitch and of duration."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = chorales(corpus_settings, folder)
        config = override(config, corpus_settings)
        network, mesh = make_network(config, corpus.vocabulary), data_mesh(1)
        state, hyper, crops = start_alone(network, config, make_crops(corpus, "train", config.batch), mesh)
        transposable = corpus_settings == NOTE
        steps = make_train_steps(network, config, STEPS, transposable, mesh)
        _, metrics = steps(state, hyper, crops, jnp.array([STEPS]))
        return {name: values_NK[0].tolist() for name, values_NK in metrics.nats.items()}


def losses_of_the_demo() -> Any:
    return losses(NOTE, read_config("default"))


def losses_of_the_article() -> Any:
    return losses(CHORD, read_config("article"))


def losses_with_context() -> Any:
    """As the model of the package was trained, in small batches."""
    recipe = load_model("pretrained:chorales").metadata.config
    return losses(VOICE, override(recipe, {"batch.rows": 4, "batch.length": 96, "train.seed": 0}))


def music_of_a_corpus(settings: dict[str, Any]) -> Any:
    """Of each piece its split, the group it belongs to, key and shift, and its notes by their hash."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = chorales(settings, folder)
        found = {}
        for piece in corpus.pieces:
            notes = corpus.vocabulary.decode(np.asarray(corpus.tokens[piece.start : piece.stop]))
            digest = hashlib.sha256(np.ascontiguousarray(notes, "<i4").tobytes()).hexdigest()[:16]
            said = (piece.split, piece.group, piece.key, piece.shift, len(notes), digest)
            found[Path(piece.source).name] = list(said)
        return found


def corpus_of_notes() -> Any:
    return music_of_a_corpus(NOTE)


def corpus_of_voices() -> Any:
    return music_of_a_corpus(VOICE)


def corpus_of_chords() -> Any:
    return music_of_a_corpus(CHORD)


def music_that_is_written() -> Any:
    """Eight pieces by `pretrained:chorales`, with filters, a penalty and constraints: their notes."""
    config = SampleConfig(
        count=8,
        events=160,
        temperature=(0.8, 1.0, 1.2),
        top_k=(0, 12),
        top_p=(0.95,),
        min_p=(0.01,),
        repetition_penalty=(1.1,),
        duration_top_p=(0.9,),
        key="G",
        lowest=36,
        highest=81,
        most_repeats=2,
        meter="4/4",
        seed=3,
    )
    return [notes.tolist() for notes in generate(load_model("pretrained:chorales"), config).pieces]


def rows_of_a_study() -> Any:
    """Two arms with two seeds each: what was measured of which, and the intervals."""
    from melodies import write_melodies

    with tempfile.TemporaryDirectory() as folder:
        described = {
            "corpus": [str(write_melodies(Path(folder) / "music", count=20, notes=24))],
            "budget": {"steps": 12},
            "base": SMALLEST | {"train.evaluate_every": 4, "train.steps_per_call": 2},
            "seeds": [0, 1],
            "arms": {"faster": {"train.learning_rate": 0.02}},
            "measure": ["nats_per_quarter"],
        }
        found = run_study(make_study(described, "tiny"), Path(folder) / "out")
    of_machines = ("ablate.train_seconds", "ablate.decode_events_per_s")
    fields = ("name", "value", "low", "high", "seed", "unit")
    return [
        {field: row[field] for field in fields if field in row} | {"arm": row["config"].get("arm")}
        for row in found
        if row["name"] not in of_machines
    ]


GOLDENS = {
    golden.__name__: golden
    for golden in (
        nats_of_the_package,
        losses_of_the_demo,
        losses_of_the_article,
        losses_with_context,
        corpus_of_notes,
        corpus_of_voices,
        corpus_of_chords,
        music_that_is_written,
        rows_of_a_study,
    )
}


def same(found: Any, golden: Any, where: str) -> None:
    """Equal, but that numbers may differ by the rounding of a training of some steps."""
    if isinstance(golden, dict):
        assert found.keys() == golden.keys(), where
        for key in golden:
            same(found[key], golden[key], f"{where}.{key}")
    elif isinstance(golden, list):
        assert len(found) == len(golden), where
        for number, (one, other) in enumerate(zip(found, golden, strict=True)):
            same(one, other, f"{where}[{number}]")
    elif isinstance(golden, float):
        assert found == pytest.approx(golden, rel=1e-4, abs=1e-5), where
    else:
        assert found == golden, where


@pytest.mark.parametrize("name", GOLDENS)
def test_what_was_computed_is_computed(name):
    golden = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    same(json.loads(json.dumps(GOLDENS[name]())), golden, name)


def short(value: Any) -> Any:
    """With seven digits of each number, which is what float32 has."""
    if isinstance(value, dict):
        return {key: short(part) for key, part in value.items()}
    if isinstance(value, list):
        return [short(part) for part in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


if __name__ == "__main__":
    import sys

    jax.config.update("jax_platforms", "cpu")
    for name in sys.argv[1:] or GOLDENS:
        text = json.dumps(short(GOLDENS[name]()), separators=(",", ":"))
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        print(name, len(text))
