"""The package from Python: a model is loaded, and music goes in and out."""

from pathlib import Path

import numpy as np
import pytest

import midigen_jax
from midigen_jax.data.prepare import prepare
from midigen_jax.errors import InputError
from midigen_jax.music.collections import collection
from midigen_jax.music.notes import make_notes
from midigen_jax.music.piece import Piece
from midigen_jax.sample.model import Model
from midigen_jax.train.scoring import Scorer

MELODY = Piece(make_notes([12, 24, 36], [12, 12, 24], [72, 74, 76], [0] * 3), 70, (3, 4), first_bar=24)


@pytest.fixture(scope="module")
def chorales() -> Model:
    return midigen_jax.load("pretrained:chorales")


def test_a_melody_is_harmonised_written_and_read_as_it_was(chorales: Model, tmp_path: Path) -> None:
    chorales.write(MELODY, tmp_path / "melody.mid")
    melody = chorales.read(tmp_path / "melody.mid")
    np.testing.assert_array_equal(melody.notes, MELODY.notes)
    (piece,) = chorales.harmonise(melody, particles=2)
    np.testing.assert_array_equal(piece.notes[piece.notes[:, 3] == 3][:, :3], MELODY.notes[:, :3])
    for name in ("piece.mid", "piece.musicxml"):
        chorales.write(piece, tmp_path / name)
        back = chorales.read(tmp_path / name)
        np.testing.assert_array_equal(back.notes[:, :3], piece.notes[:, :3])
        assert (back.meter, back.first_bar) == ((3, 4), 24)
    with pytest.raises(InputError, match=r"piece\.wav: end it in \.mid, \.musicxml"):
        chorales.write(piece, tmp_path / "piece.wav")


def test_the_score_of_a_piece_is_that_of_an_evaluation(chorales: Model, tmp_path: Path) -> None:
    files = [str(path) for path in collection("bach")[:6]]
    corpus = prepare(files, tmp_path / "corpus", chorales.loaded.metadata.config.prepare)
    pieces, model = corpus.pieces, chorales.loaded
    for number, said in Scorer(model.network, corpus, pieces)(model.params):
        name = Path(pieces[number].source).name
        found = chorales.score(chorales.read(next(file for file in files if file.endswith(name))))
        assert found.nats == pytest.approx(float(said.nats.sum()), rel=1e-4)
        assert found.per_quarter == found.nats / found.quarters


def test_music_goes_on_from_some_bars_of_a_file(chorales: Model, tmp_path: Path) -> None:
    source = collection("bach")[1]
    prompt = chorales.read(f"{source}:1-2")
    one, two = chorales.generate(count=2, prompt=prompt, events=32, temperature=0.8)
    stop = int((prompt.notes[:, 0] + prompt.notes[:, 1]).max())
    for piece in (one, two):
        inside = piece.notes[piece.notes[:, 0] < stop]
        np.testing.assert_array_equal(inside[:, [0, 2]], prompt.notes[:, [0, 2]])
    with pytest.raises(InputError, match=r"sample\.temprature.*did you mean"):
        chorales.generate(temprature=1.0)
