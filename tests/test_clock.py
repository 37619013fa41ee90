"""The clock: a corpus may count in other ticks than twelfths of a quarter, and all that counts follows it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from midigen_jax.config import Config, ModelConfig, PrepareConfig, SampleConfig
from midigen_jax.data.copying import Training
from midigen_jax.data.corpus import Corpus, load_corpus
from midigen_jax.data.prepare import prepare
from midigen_jax.errors import InputError
from midigen_jax.listen.audio import SAMPLE_RATE, TAIL_SECONDS, synthesize
from midigen_jax.music.census import Census
from midigen_jax.music.clock import TWELFTHS, Clock
from midigen_jax.music.midi import read_midi
from midigen_jax.music.notes import make_notes
from midigen_jax.music.piece import Piece
from midigen_jax.music.quantize import adaptive
from midigen_jax.music.scores import read_score
from midigen_jax.music.slices import slice_notes
from midigen_jax.music.write import write_midi
from midigen_jax.sample.generate import generate
from midigen_jax.study.metrics import event_scores, measure
from midigen_jax.study.statistics import histogram, statistics
from midigen_jax.train.checkpoint import LoadedModel, Metadata
from midigen_jax.train.step import init_state, make_network
from midigen_jax.vocab import vocabulary_from_json
from midigen_jax.vocab.note import NoteVocabulary

CLOCKS = [Clock(quarter) for quarter in (4, 12, 24, 48)]


def quarters_of(clock: Clock, seed: int = 0) -> np.ndarray:
    """Thirty quarters, each with an eighth off the beat: the same music on any clock."""
    onset = clock.quarter // 2 * np.arange(60)
    pitch = 60 + np.random.default_rng(seed).integers(0, 12, 60)
    return make_notes(onset, np.full(60, clock.quarter // 2), pitch, np.zeros(60))


def corpus_of(folder: Path, clock: Clock, **settings: Any) -> Corpus:
    music = folder / "music"
    music.mkdir(parents=True)
    for number in range(6):
        write_midi(quarters_of(clock, number), music / f"{number}.mid", meter=(3, 4), clock=clock)
    config = PrepareConfig(ticks_per_quarter=clock.quarter, valid_share=0.2, test_share=0.2, **settings)
    return prepare([str(music)], folder / "corpus", config)


@pytest.mark.parametrize("clock", CLOCKS, ids=str)
def test_ticks_of_music(clock: Clock) -> None:
    assert clock.bar((3, 4)) == 3 * clock.quarter
    assert clock.beat((6, 8)) == clock.quarter // 2
    assert clock.seconds(clock.bar((4, 4)), tempo=120) == 2
    assert (clock.ticks(2.5), clock.quarters(clock.ticks(2.5))) == (clock.quarter * 5 // 2, 2.5)
    assert clock.meter_of(clock.quarter) == (1, 4)


@pytest.mark.parametrize("clock", CLOCKS, ids=str)
def test_a_file_holds_the_ticks_of_any_clock(tmp_path: Path, clock: Clock) -> None:
    rng = np.random.default_rng(0)
    notes = make_notes(np.arange(50) * 3, rng.integers(1, 9, 50), rng.integers(40, 90, 50), np.zeros(50))
    write_midi(notes, tmp_path / "a.mid", clock=clock, first_bar=clock.quarter)
    piece = read_midi((tmp_path / "a.mid").read_bytes(), "uniform", clock=clock)
    np.testing.assert_array_equal(piece.notes, notes)
    assert piece.first_bar == clock.quarter


@pytest.mark.parametrize(
    ("quarter", "steps"), [(12, [0, 3, 6, 9]), (24, [0, 3, 6, 9]), (48, [0, 6, 12, 18]), (4, [0, 1, 2, 3])]
)
def test_a_finer_grid_has_what_a_coarse_one_moves(quarter: int, steps: list[int]) -> None:
    """Thirty-second notes: four of them are half a quarter, which twelfths cannot say."""
    raw = np.arange(4) * (480 // 8 if quarter > 12 else 480 // 4)
    onset, release = adaptive(raw, raw + 60, 480, Clock(quarter))
    assert onset.tolist() == steps
    assert (release > onset).all() or quarter == 4  # there `make_notes` gives them a tick
    triplets = np.array([0, 160, 320])
    onset, _ = adaptive(triplets, triplets + 160, 480, Clock(quarter))
    assert onset.tolist() == ([0, 1, 3] if quarter == 4 else [0, quarter // 3, 2 * quarter // 3])


@pytest.mark.parametrize(("quarter", "moved"), [(12, 8), (24, 0)])
def test_notes_that_ticks_move_are_counted(quarter: int, moved: int) -> None:
    tune = read_score(".abc", b"X:1\nL:1/32\nM:4/4\nK:C\nCDEFGABc z24|c32|\n", clock=Clock(quarter))
    assert sum(tune.moved) == moved


def test_merged_onsets_are_those_of_the_grid_that_was_taken(tmp_path: Path) -> None:
    fast = make_notes(np.arange(64) * 6, np.full(64, 6), 60 + np.arange(64) % 12, np.zeros(64))
    write_midi(fast, tmp_path / "a.mid", clock=Clock(48))  # thirty-second notes
    merged = [
        read_midi((tmp_path / "a.mid").read_bytes(), "adaptive", clock=Clock(quarter)).merged
        for quarter in (4, 12, 24, 48)
    ]
    assert merged == [32, 32, 0, 0]
    assert read_midi((tmp_path / "a.mid").read_bytes(), "adaptive").moved == 32


def test_scores_are_read_on_it_too() -> None:
    tune = b"X:1\nM:4/4\nL:1/32\nK:C\nCDEF GABc|\n"
    fine, coarse = (read_score(".abc", tune, clock=clock).notes for clock in (Clock(24), TWELFTHS))
    assert fine[:, 0].tolist() == [0, 3, 6, 9, 12, 15, 18, 21]
    assert len(np.unique(coarse[:, 0])) == 8  # twelfths: every second one is half a tick off
    assert fine[:, 1].tolist() == [3] * 8


@pytest.mark.parametrize("settings", [{}, {"voices": 1}, {"tokenizer": "chord"}], ids=str)
@pytest.mark.parametrize("clock", [Clock(4), Clock(24)], ids=str)
def test_a_corpus_has_one_and_its_figures_are_those_of_twelfths(
    tmp_path: Path, clock: Clock, settings: dict[str, Any]
) -> None:
    found, twelfths = (corpus_of(tmp_path / str(one.quarter), one, **settings) for one in (clock, TWELFTHS))
    assert load_corpus(found.path).vocabulary.clock == clock
    assert vocabulary_from_json(found.vocabulary.to_json()) == found.vocabulary
    assert found.vocabulary.tables["duration"].ticks.max() == 8 * clock.quarter
    for name in ("hours", "notes", "slices", "events", "meter"):
        assert found.manifest["summary"][name] == twelfths.manifest["summary"][name], name
    assert (found.tokens[:, 0] == twelfths.tokens[:, 0]).all()
    np.testing.assert_array_equal(found.tokens[:, 1] * 12, twelfths.tokens[:, 1] * clock.quarter)
    for one, other in zip(found.pieces, twelfths.pieces, strict=True):
        nats = np.ones((one.stop - one.start - 1, 2))
        ours, theirs = (
            measure(event_scores(*pair, nats)).ratios for pair in ((found, one), (twelfths, other))
        )
        assert ours == theirs


def test_figures_of_music_are_the_same_on_any_clock() -> None:
    pieces = [quarters_of(clock)[::2] for clock in CLOCKS]  # with rests between
    each = [
        statistics(notes, clock.bar((3, 4)), clock=clock)._replace(groove_consistency=0.0)
        for notes, clock in zip(pieces, CLOCKS, strict=True)
    ]
    np.testing.assert_array_equal(each, [each[0]] * 4)  # NaN is NaN
    for notes, clock in zip(pieces, CLOCKS, strict=True):
        lengths = histogram("note_length", [notes], clock)
        assert (len(lengths), int(lengths.argmax())) == (8 * clock.quarter + 1, clock.quarter // 2)
        slices = slice_notes(notes)
        assert Training([slices], clock).longest(slices).quarters == 29.5
        samples = synthesize(notes, tempo=60, clock=clock)
        assert len(samples) == round((29.5 + TAIL_SECONDS) * SAMPLE_RATE)
    assert Census().clock == TWELFTHS


def model_of(clock: Clock) -> LoadedModel:
    config = Config(
        prepare=PrepareConfig(ticks_per_quarter=clock.quarter),
        model=ModelConfig(pitch_embedding=4, duration_embedding=4, width=8, blocks=("lstm",)),
    )
    network = make_network(config, NoteVocabulary(16, clock))
    about = Metadata(config, network.vocabulary, 120.0, (4, 4))
    return LoadedModel(0, init_state(network, config.train), network, about, {}, "digest")


@pytest.mark.parametrize("clock", [TWELFTHS, Clock(24)], ids=str)
def test_music_that_is_written_counts_on_it(clock: Clock) -> None:
    config = SampleConfig(count=4, events=200, bars=2, meter="3/4")
    music = generate(model_of(clock), config)
    assert music.clock == clock
    ends = [int((notes[:, 0] + notes[:, 1]).max()) for notes in music.pieces]
    assert max(ends) == 2 * 3 * clock.quarter
    timed = generate(model_of(clock), SampleConfig(count=4, events=400, seconds=3.0, tempo=60.0))
    assert max(int((notes[:, 0] + notes[:, 1]).max()) for notes in timed.pieces) == 3 * clock.quarter


def test_a_prompt_of_another_clock_is_refused() -> None:
    prompt = Piece(quarters_of(TWELFTHS))
    with pytest.raises(InputError, match="the music has 12 ticks a quarter, the model 24; read it with"):
        generate(model_of(Clock(24)), SampleConfig(), prompt)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ticks_per_quarter": 10}, "4, 12, 24 or 48"),
        ({"ticks_per_quarter": 24, "quantizer": "music21"}, "12"),
    ],
)
def test_what_is_no_grid_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        PrepareConfig(**settings)


def test_vocabularies_of_before_count_twelfths() -> None:
    assert vocabulary_from_json({"name": "note", "max_duration": 96}) == NoteVocabulary(96, TWELFTHS)
