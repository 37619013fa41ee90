"""Samples beside what people wrote: which of their pieces, in which meter, and what of unknown chords."""

import json
from dataclasses import replace

import numpy as np
import pytest

from midigen_jax.config import PrepareConfig
from midigen_jax.data.corpus import Corpus
from midigen_jax.data.prepare import prepare
from midigen_jax.errors import InputError
from midigen_jax.study.samples import compare, rows_of, table

TUNE = [[60 + step] for step in (0, 2, 4, 5, 7, 9, 11, 12, 7, 4, 0, 9, 5, 2, 7, 0) for _ in range(4)]
OTHER = [[60 + step] for step in (0, 7, 3, 8, 1, 9, 2, 6, 11, 5, 10, 4, 0, 8, 3, 1) for _ in range(4)]


def corpus_of(folder, tokenizer="note", **splits):
    path = folder / "frames.json"
    path.write_text(json.dumps(splits))
    return prepare([str(path)], folder / "corpus", PrepareConfig(tokenizer=tokenizer, min_chord_count=1))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Its test split is a piece of training in another key, and one that is not."""
    up = [[pitch + 3 for pitch in frame] for frame in TUNE]
    return corpus_of(tmp_path_factory.mktemp("frames"), train=[TUNE], valid=[up], test=[up, OTHER])


def samples_of(corpus):
    return [
        corpus.vocabulary.decode(corpus.tokens[piece.start : piece.stop], trim=False)
        for piece in corpus.split("train")
    ]


def test_pieces_that_share_music_with_training_are_left_out(corpus):
    compared = compare(samples_of(corpus), (4, 4), corpus, "test")
    assert (len(compared.pieces.runs), compared.leaked) == (1, 1)
    assert compared.samples.runs[0].slices == 16
    assert compared.pieces.runs[0].slices < 6
    assert "test (1 clean of 2 pieces)" in table(compared)[0]
    runs = {row["config"]["of"]: row for row in rows_of(compared, {}) if row["name"] == "samples.longest_run"}
    assert runs["test"]["leaked"] == 1
    assert "leaked" not in runs["samples"]
    with pytest.raises(InputError, match="all of valid shares music with training"):
        compare(samples_of(corpus), (4, 4), corpus, "valid")


def test_grooves_are_of_one_meter(corpus):
    """Frames have none, and pass for 4/4: beside samples in 3/4 their groove is not known."""
    assert np.isfinite(
        compare(samples_of(corpus), (4, 4), corpus, "test").pieces.statistics[0].groove_consistency
    )
    beside = compare(samples_of(corpus), (3, 4), corpus, "test")
    assert np.isnan(beside.pieces.statistics[0].groove_consistency)
    assert np.isfinite(beside.samples.statistics[0].groove_consistency)
    three = tuple(replace(piece, meter=(3, 4)) for piece in corpus.pieces)
    waltzes = Corpus(corpus.path, corpus.tokens, three, corpus.vocabulary, corpus.manifest)
    again = compare(samples_of(corpus), (3, 4), waltzes, "test").pieces.statistics[0]
    assert np.isfinite(again.groove_consistency)


def test_chords_that_nobody_knows_are_named(tmp_path):
    corpus = corpus_of(tmp_path, "chord", train=[TUNE], valid=[OTHER], test=[OTHER])
    compared = compare(samples_of(corpus), (4, 4), corpus, "test")
    assert compared.unknown == pytest.approx(8 / 16)
    assert "50.0% of the chords of test are not in the vocabulary" in table(compared)[-1]
