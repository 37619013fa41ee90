"""Upbeats: a piece knows where its first bar line lies, and all that counts bars counts from there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from midigen_jax.config import BatchConfig, Config, ContextConfig, ModelConfig, PrepareConfig, SampleConfig
from midigen_jax.data.batches import make_crops
from midigen_jax.data.corpus import Corpus
from midigen_jax.data.prepare import prepare
from midigen_jax.music.clock import TWELFTHS
from midigen_jax.music.midi import read_midi
from midigen_jax.music.notes import make_notes
from midigen_jax.music.piece import Piece
from midigen_jax.music.write import write_midi
from midigen_jax.sample.generate import Generated, generate
from midigen_jax.study.metrics import event_scores, nats_by_position
from midigen_jax.study.statistics import statistics
from midigen_jax.train.checkpoint import LoadedModel, Metadata, from_facts, to_facts
from midigen_jax.train.pretrained import load_model
from midigen_jax.train.scoring import Scorer
from midigen_jax.train.step import batch_at, hyperparameters, init_state, make_network
from midigen_jax.vocab.note import NoteVocabulary

MODEL = ModelConfig(
    pitch_embedding=4,
    duration_embedding=4,
    width=8,
    blocks=("lstm", "pooled"),
    context=ContextConfig(meters=(48,), width=4),
)


def scale(upbeat: int, seed: int = 0) -> np.ndarray:
    """Quarters from tick 0; the first bar line lies after `upbeat` of them."""
    pitch = 60 + np.random.default_rng(seed).integers(0, 12, 16 + upbeat)
    onset = 12 * np.arange(len(pitch))
    return make_notes(onset, np.full_like(onset, 12), pitch, np.zeros_like(onset))


@pytest.mark.parametrize(
    ("ticks", "meter"), [(0, None), (12, (1, 4)), (6, (1, 8)), (18, (3, 8)), (3, (1, 16)), (4, None)]
)
def test_the_meter_of_an_upbeat(ticks: int, meter: tuple[int, int] | None) -> None:
    assert TWELFTHS.meter_of(ticks) == meter


@pytest.mark.parametrize(("first_bar", "read"), [(0, 0), (12, 12), (18, 18), (4, 0)])
def test_a_file_says_where_its_first_bar_line_lies(tmp_path: Path, first_bar: int, read: int) -> None:
    """But for one that no meter of MIDI can say: its bars begin with the file."""
    write_midi(scale(1), tmp_path / "a.mid", meter=(3, 4), first_bar=first_bar)
    piece = read_midi((tmp_path / "a.mid").read_bytes(), "adaptive")
    assert (piece.meter, piece.first_bar) == ((3, 4), read)
    np.testing.assert_array_equal(piece.notes, scale(1))


def corpus_of(folder: Path, bars: str = "written") -> Corpus:
    """Pieces without an upbeat, with one of a quarter, and one whose first bar begins with a rest."""
    music = folder / "music"
    music.mkdir()
    for number in range(6):
        upbeat = number % 2
        write_midi(scale(upbeat, number), music / f"{number}.mid", first_bar=12 * upbeat)
    late = scale(0, 9) + np.array([24, 0, 0, 0], np.int32)
    write_midi(late, music / "6.mid")
    config = PrepareConfig(bar_lines=bars)  # type: ignore[arg-type]
    return prepare([str(music)], folder / "corpus", config, workers=1)


def test_a_corpus_knows_the_first_bar_lines_of_its_pieces(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path)
    assert [piece.first_bar for piece in corpus.pieces] == [0, 12, 0, 12, 0, 12, 24]
    assert corpus.manifest["summary"]["upbeat"] in (0, 12)
    (tmp_path / "other").mkdir()
    assert {piece.first_bar for piece in corpus_of(tmp_path / "other", bars="start").pieces} == {0}


def test_crops_are_told_the_time_from_the_first_bar_line(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path)
    config = Config(model=MODEL, batch=BatchConfig(rows=8, length=64, crops="fixed", transpose_share=0))
    crops = make_crops(corpus, "train", config.batch)
    before, _ = batch_at(0, crops, hyperparameters(config), config, corpus.vocabulary)
    expected = {-piece.first_bar for piece in corpus.split("train")}
    assert set(np.asarray(before.tick_B).tolist()) == expected


def test_a_network_with_meters_hears_upbeats_and_one_from_before_them_does_not(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path)
    network = make_network(Config(model=MODEL), corpus.vocabulary)
    params = init_state(network, Config(model=MODEL).train).params
    pieces = list(corpus.pieces[:2])
    plain = [replace(piece, first_bar=0) for piece in pieces]
    found = {
        name: {number: said.nats for number, said in Scorer(network, corpus, those, bars=bars)(params)}
        for name, those, bars in (("bars", pieces, True), ("none", pieces, False), ("zero", plain, True))
    }
    np.testing.assert_array_equal(found["none"][1], found["zero"][1])
    np.testing.assert_array_equal(found["bars"][0], found["none"][0])
    assert np.abs(found["bars"][1] - found["none"][1]).max() > 1e-4
    carry = network.initial_carry(1, tick_B=jnp.array([-12], jnp.int32))
    assert carry.past.onset_BN[0].tolist() == [-12] * 64


def test_nats_by_position_count_from_the_first_bar_line(tmp_path: Path) -> None:
    corpus = corpus_of(tmp_path)
    piece = corpus.pieces[1]
    events = piece.stop - piece.start - 1
    nats = np.ones((events, 2), np.float32)
    scores = event_scores(corpus, piece, nats, None)
    assert nats_by_position(scores) == {"bar line": (8, 4), "beat": (26, 13), "between": (0, 0)}


def test_grooves_count_from_the_first_bar_line() -> None:
    onset = np.array([0, 12, 24, 60, 96, 108, 156, 168])
    notes = make_notes(onset, np.full_like(onset, 12), np.full_like(onset, 60), np.zeros_like(onset))
    whole = statistics(notes + np.array([36, 0, 0, 0], np.int32), 48).groove_consistency
    assert statistics(notes, 48, first_bar=12).groove_consistency == whole
    assert statistics(notes, 48).groove_consistency != whole


def written(
    prompt: Piece | None,
    upbeat: int = 0,
    from_bars: bool = True,
    sample_upbeat: float | None = None,
    **sample: Any,
) -> Generated:
    """By a model that was never trained; its training pieces are said to have this upbeat, in ticks."""
    vocabulary = NoteVocabulary(max_duration=16)
    config = Config(prepare=PrepareConfig(bar_lines="written" if from_bars else "start"), model=MODEL)
    network = make_network(config, vocabulary)
    state = init_state(network, config.train)
    metadata = Metadata(config, vocabulary, 100.0, (4, 4), "", upbeat)
    model = LoadedModel(7, state, network, metadata, {}, "digest")
    return generate(model, SampleConfig(events=600, lowest=50, upbeat=sample_upbeat, **sample), prompt)


def ends(made: Generated) -> set[int]:
    return {int((notes[:, 0] + notes[:, 1]).max()) for notes in made.pieces}


def test_pieces_begin_with_the_upbeat_of_most_training_pieces_or_with_the_one_that_is_asked_for() -> None:
    usual = written(None, upbeat=12, bars=2, count=3)
    assert (usual.first_bar, max(ends(usual))) == (12, 12 + 96)
    none = written(None, upbeat=12, bars=2, count=3, sample_upbeat=0.0)
    assert (none.first_bar, max(ends(none))) == (0, 96)
    half = written(None, bars=2, count=3, sample_upbeat=1.5, meter="3/4")
    assert (half.first_bar, max(ends(half))) == (18, 18 + 72)


@pytest.mark.parametrize("meter", [None, "4/4"])
def test_what_follows_a_prompt_goes_on_in_its_bars(meter: str | None) -> None:
    prompt = Piece(scale(1)[:3], first_bar=12)  # an upbeat, and half of a bar
    whole = written(prompt, bars=1, count=3, meter=meter)
    assert (whole.first_bar, max(ends(whole))) == (12, 12 + 48 + 48)
    rest = written(prompt, bars=1, count=3, meter=meter, keep_prompt=False)
    begun = 24 if meter else 0  # on its own bar lines where a meter is asked for
    assert (rest.first_bar, max(ends(rest))) == (0 if meter else 24, begun + 24 + 48)


def test_a_model_hears_an_upbeat_if_it_was_trained_on_them() -> None:
    prompt = Piece(scale(1)[:3])
    first, second = (written(replace(prompt, first_bar=at), count=2) for at in (0, 12))
    assert any(not np.array_equal(*pair) for pair in zip(first.pieces, second.pieces, strict=True))
    deaf = [written(replace(prompt, first_bar=at), from_bars=False, count=2) for at in (0, 12)]
    for one, other in zip(*(made.pieces for made in deaf), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_checkpoint_from_before_upbeats_counts_from_the_first_note() -> None:
    model = load_model("pretrained:chorales")
    assert (model.metadata.knows_bar_lines, model.metadata.upbeat) == (True, 12)
    facts = to_facts(model.metadata, {})
    del facts["config"]["prepare"]["bar_lines"], facts["upbeat"]
    older = from_facts(facts, "run")
    assert (older.knows_bar_lines, older.upbeat) == (False, 0)


@pytest.mark.parametrize(
    ("marks", "onset", "first_bar"),
    [
        ([(0, 1, 4), (480, 4, 4)], 480, 12),  # the bar line where the meter changes
        ([(0, 3, 4), (1440, 4, 4)], 1440, 36),
        ([(0, 3, 4), (1440, 4, 4)], 1920, 36),
        ([(0, 4, 4)], 1920, 0),
    ],
)
def test_bars_go_on_from_the_last_meter_before_the_first_note(
    marks: list[tuple[int, int, int]], onset: int, first_bar: int
) -> None:
    from symusic import Note, Score, TimeSignature, Track

    score: Any = Score(480)
    for mark in marks:
        score.time_signatures.append(TimeSignature(*mark))
    track: Any = Track()
    track.notes.append(Note(onset, 480, 60, 80))
    score.tracks.append(track)
    assert read_midi(score.dumps_midi(), "adaptive").first_bar == first_bar


def test_a_piece_that_begins_with_a_rest_is_heard_with_it() -> None:
    """So that its bar lines lie where they were written."""
    made = written(None, upbeat=12, count=16)
    silent = [notes for notes in made.pieces if notes[:, 0].min() > 0]
    assert silent
    assert made.first_bar == 12
