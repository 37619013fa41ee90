"""Whole pieces as they are asked for: a length, chords, a key; and what a model reads, and never writes."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from midigen_jax.config import Config, ModelConfig, PrepareConfig, SampleConfig
from midigen_jax.data.batches import SHIFTS
from midigen_jax.data.corpus import load_corpus, seen_ids
from midigen_jax.data.prepare import prepare
from midigen_jax.errors import InputError
from midigen_jax.model.network import init_params
from midigen_jax.music import key as keys
from midigen_jax.music.chords import parse_chords
from midigen_jax.music.notes import Notes, make_notes
from midigen_jax.music.piece import Piece
from midigen_jax.music.read import read_piece
from midigen_jax.music.sources import find_sources
from midigen_jax.music.voices import voice_names
from midigen_jax.music.write import SIGNATURE, write_midi
from midigen_jax.sample.around import How, harmonise
from midigen_jax.sample.conditions import length_in_bars
from midigen_jax.sample.generate import Generated, generate, stream
from midigen_jax.train.checkpoint import LoadedModel, Metadata
from midigen_jax.train.step import init_state, make_network
from midigen_jax.vocab import VOCABULARIES, Vocabulary, typical_vocabulary
from midigen_jax.vocab.note import ATTACKED, HELD, NoteVocabulary
from midigen_jax.vocab.voice import VoiceVocabulary

MODEL = ModelConfig(pitch_embedding=4, duration_embedding=4, width=8, blocks=("lstm", "pooled"))
FEW = SampleConfig(particles=8, count=3)


def model_of(vocabulary: Vocabulary, prepared: PrepareConfig, seen: Any = None) -> LoadedModel:
    """Never trained: as wild as its rules allow."""
    config = Config(prepare=prepared, model=MODEL)
    network = make_network(config, vocabulary)
    state = init_state(network, config.train)
    state = state._replace(params=init_params(network, jax.random.key(5)))
    return LoadedModel(
        7, state, network, Metadata(config, vocabulary, 100.0, (3, 4), seen=seen), {}, "digest"
    )


def within(vocabulary: Vocabulary, lowest: int, highest: int) -> dict[str, tuple[int, ...]]:
    """What a training has seen that never left these pitches."""
    pitches = np.arange(lowest, highest + 1)
    return {"pitch": tuple(np.concatenate([[0, 1, 2], ATTACKED + pitches, HELD + pitches]).tolist())}


@pytest.fixture(scope="module")
def notewise() -> LoadedModel:
    vocabulary = NoteVocabulary(max_duration=12)
    return model_of(vocabulary, PrepareConfig(max_duration=12), within(vocabulary, 48, 84))


@pytest.fixture(scope="module")
def voicewise() -> LoadedModel:
    vocabulary = VoiceVocabulary(2, max_duration=12)
    return model_of(vocabulary, PrepareConfig(voices=2, max_duration=12), within(vocabulary, 48, 84))


def over(made: Generated) -> list[int]:
    """The last tick at which something sounds, of each piece."""
    return [int((notes[:, 0] + notes[:, 1]).max()) for notes in made.pieces]


@pytest.mark.parametrize("kind", ["notewise", "voicewise"])
def test_a_length_is_kept_and_the_piece_ends_there(kind: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(kind)
    made = generate(model, replace(FEW, length="4bars", upbeat=1))
    assert made.ended == len(made.pieces) == 3
    assert made.first_bar == 12
    assert max(over(made)) <= 12 + 4 * 36
    assert max(over(made)) > 12 + 3 * 36  # a rest may stand at the end of some


def test_a_length_in_seconds_is_the_nearest_number_of_bars() -> None:
    assert length_in_bars("32bars", 3, 100) == 32
    assert length_in_bars("90s", 4, 80) == 30
    assert length_in_bars("0.1s", 4, 80) == 1


def test_no_slice_crosses_a_bar_line(voicewise: LoadedModel) -> None:
    made = generate(voicewise, SampleConfig(length="4bars", count=6, particles=4))
    for notes in made.pieces:
        ids = voicewise.network.vocabulary.encode(Piece(notes, length=4 * 36))[1:-1, 1]
        lines = np.cumsum(ids)
        assert {36, 72, 108, 144} <= set(lines.tolist())


def outside(notes: Notes, first_bar: int, chords: str) -> int:
    """How many ticks of notes are outside of the chord of their time."""
    bars, count = parse_chords(chords), 0
    for onset, duration, pitch, _ in notes.tolist():
        for tick in range(onset, onset + duration):
            number, within = divmod(max(tick - first_bar, 0), 36)
            chord = bars[number % len(bars)]
            count += pitch % 12 not in chord[within * len(chord) // 36]
    return count


@pytest.mark.parametrize("kind", ["notewise", "voicewise"])
def test_chords_that_cost_everything_are_kept_and_dear_ones_nearly(
    kind: str, request: pytest.FixtureRequest
) -> None:
    model, chords = request.getfixturevalue(kind), "C Am,D7 Bb"
    asked = replace(FEW, chords=chords)
    found = {}
    for cost in (0.0, 4.0, float("inf")):
        made = generate(model, replace(asked, off_chord=cost))
        found[cost] = sum(outside(notes, 0, chords) for notes in made.pieces)
    assert found[float("inf")] == 0
    assert found[4.0] < found[0.0] / 3


def test_pieces_are_found_in_the_key_that_is_asked_for(notewise: LoadedModel) -> None:
    asked = SampleConfig(length="6bars", count=6, particles=32)
    target = keys.parse_key("F# minor")
    plain, steered = (
        sum(keys.matches(keys.find_key(notes), target) for notes in generate(notewise, one).pieces)
        for one in (asked, replace(asked, in_key="F# minor"))
    )
    assert plain < steered
    assert steered >= 5


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"length": "32"}, "32bars or 90s"),
        ({"length": "1.5bars"}, "32bars or 90s"),
        ({"length": "8bars", "top_p": (0.9,)}, "leave it out beside sample.length"),
        ({"in_key": "C", "most_repeats": 2}, "leave it out beside sample.in_key"),
        ({"chords": "C", "temperature": (0.0,)}, "above 0 beside sample.chords"),
    ],
)
def test_what_particles_cannot_do_is_told_at_once(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        SampleConfig(**asked)


@pytest.mark.parametrize("text", ["", "H", "Cx", "C,,G", "Cadd", "Calter", "Cadd#"])
def test_what_is_no_chord_is_named(text: str) -> None:
    with pytest.raises(InputError, match=r"such as|one a bar"):
        parse_chords(text)


def test_chord_symbols_are_pitch_classes() -> None:
    assert parse_chords("C Am,Bb7/D F#m7b5") == [
        [{0, 4, 7}],
        [{9, 0, 4}, {10, 2, 5, 8}],
        [{6, 9, 0, 4}],
    ]
    assert parse_chords("C-7 Bb-,B-7b5") == parse_chords("Cm7 Bbm,Bm7b5")


def test_a_model_never_writes_what_its_training_had_not_unless_it_is_asked_to(notewise: LoadedModel) -> None:
    config = SampleConfig(count=16, events=200)
    kept = np.concatenate(generate(notewise, config).pieces)
    assert kept[:, 2].min() >= 48
    assert kept[:, 2].max() <= 84
    free = np.concatenate(generate(notewise, replace(config, unseen=True)).pieces)
    assert free[:, 2].max() > 84


def test_a_bar_line_is_reached_where_no_duration_that_was_seen_leads_there() -> None:
    vocabulary = NoteVocabulary(max_duration=12)
    seen = within(vocabulary, 48, 84) | {"duration": (0, 5)}
    model = model_of(vocabulary, PrepareConfig(max_duration=12), seen)
    made = generate(model, SampleConfig(count=4, events=120, meter="3/4"))
    for notes in made.pieces:
        ids = vocabulary.encode(Piece(notes, length=over(made)[0]))[1:-1, 1]
        assert {5} <= set(ids.tolist())
    free = generate(model, SampleConfig(count=4, events=120))
    assert all(set((notes[:, 0] % 5).tolist()) == {0} for notes in free.pieces)


def test_what_training_has_seen_are_its_ids_in_every_key_that_it_was_moved_to(tmp_path: Any) -> None:
    for number in range(3):
        notes = make_notes([0, 6, 12, 36], [6, 6, 24, 12], [60, 64, 67, 72], [0] * 4)
        write_midi(notes, tmp_path / "music" / f"{number}.mid")
    asked = PrepareConfig(valid_share=0, test_share=0)
    corpus = load_corpus(prepare([str(tmp_path / "music")], tmp_path / "out", asked, workers=1).path)
    here = seen_ids(corpus)
    assert here["pitch"] == (0, 1, *(ATTACKED + pitch for pitch in (60, 64, 67, 72)))
    assert here["duration"] == (0, 6, 12, 24)
    moved = seen_ids(corpus, SHIFTS)
    assert set(moved["pitch"]) == {0, 1, *range(ATTACKED + 55, ATTACKED + 79)}
    assert moved["duration"] == here["duration"]


@pytest.mark.parametrize("name", sorted(VOCABULARIES))
@pytest.mark.parametrize("quantizer", ["adaptive", "music21"])
def test_whatever_a_model_writes_it_reads_as_it_was(name: str, quantizer: Any, tmp_path: Any) -> None:
    prepared = PrepareConfig(
        tokenizer=name, quantizer=quantizer, max_duration=16, voices=4 * (name == "voice")
    )
    vocabulary = typical_vocabulary(prepared, 40)
    model = model_of(vocabulary, prepared)
    made = generate(model, SampleConfig(count=12, events=100))
    assert sum(map(len, made.pieces)) > 100
    for number, notes in enumerate(made.pieces):
        place = tmp_path / f"{number}.mid"
        write_midi(notes, place, text=[SIGNATURE])
        piece = read_piece(find_sources([str(place)])[0], prepared.quantizer)
        np.testing.assert_array_equal(piece.notes[:, :3], notes[:, :3])


def test_a_prompt_that_lacks_voices_is_completed_and_said_so(voicewise: LoadedModel) -> None:
    melody = Piece(make_notes([12, 24, 36], [12, 12, 24], [72, 74, 76], [0] * 3), 70, (3, 4), first_bar=24)
    made = generate(voicewise, SampleConfig(count=2, events=20, particles=8), melody)
    assert made.remarks == ("The prompt has 1 of 2 voices; the others were written to it.",)
    for notes in made.pieces:
        upper = notes[(notes[:, 3] == 1) & (notes[:, 0] < 60)]
        np.testing.assert_array_equal(upper[:, [0, 2]], melody.notes[:, [0, 2]])
        lower = notes[(notes[:, 3] == 0) & (notes[:, 0] < 60)]
        assert len(lower)
    assert made.first_bar == 24


def test_bars_of_a_piece_are_taken_with_their_bar_lines() -> None:
    notes = make_notes([0, 12, 24, 54, 90], [12, 12, 30, 36, 12], [60, 62, 64, 65, 67], [0] * 5)
    piece = Piece(notes, 90, (3, 4), first_bar=12)
    part = piece.excerpt(1, 2)
    np.testing.assert_array_equal(part.notes, [[0, 12, 62, 0], [12, 30, 64, 0], [42, 30, 65, 0]])
    assert part.first_bar == 0
    upbeat = piece.excerpt(0, 1)
    assert upbeat.first_bar == 12
    with pytest.raises(InputError, match=r"bars 5-6: the piece has bars 0 to 3; give some of these"):
        piece.excerpt(5, 6)


def test_a_piece_that_begins_late_has_its_bars_where_they_are() -> None:
    late = Piece(make_notes([36, 48, 60], [12, 12, 12], [60, 62, 64], [0] * 3), 90, (4, 4))
    assert late.bars(1, 2) == (36, 72)
    assert late.top_line().notes[:, 0].tolist() == [36, 48, 60]
    after = Piece(late.notes + np.array([24, 0, 0, 0], np.int32), 90, (4, 4))
    with pytest.raises(InputError, match="has bars 2 to 2"):
        after.bars(1, 1)


@pytest.mark.parametrize("kind", ["notewise", "voicewise"])
def test_a_piece_in_a_key_is_cut_where_its_events_are_spent(
    kind: str, request: pytest.FixtureRequest
) -> None:
    made = generate(request.getfixturevalue(kind), replace(FEW, in_key="C", events=100))
    assert all(len(notes) for notes in made.pieces)


def test_a_length_is_kept_where_no_duration_that_was_seen_leads_to_a_bar_line(voicewise: LoadedModel) -> None:
    vocabulary = voicewise.network.vocabulary
    model = model_of(vocabulary, voicewise.metadata.config.prepare, {"duration": (0, 5)})
    made = generate(model, replace(FEW, length="2bars"))
    assert made.ended == 3
    assert max(over(made)) <= 72


def test_harmonies_have_no_pitch_that_no_training_piece_has(voicewise: LoadedModel) -> None:
    melody = Piece(make_notes([0, 12, 24], [12, 12, 12], [72, 74, 76], [0] * 3), 70, (3, 4))
    made = harmonise(voicewise, melody, "1", How(count=4, particles=4))
    pitches = np.concatenate(made.music.pieces)[:, 2]
    assert 48 <= pitches.min() <= pitches.max() <= 84


def test_a_stream_says_that_it_keeps_no_length(voicewise: LoadedModel) -> None:
    with pytest.raises(InputError, match="use generate"):
        stream(voicewise, SampleConfig(length="2bars"))


@pytest.mark.parametrize("quantizer", ["adaptive", "music21"])
def test_a_silent_voice_stays_the_silent_one(quantizer: Any, tmp_path: Any) -> None:
    notes = make_notes([0, 0, 12], [12, 12, 12], [48, 72, 55], [0, 3, 1])
    place = tmp_path / "a.mid"
    write_midi(notes, place, text=[SIGNATURE], names=voice_names(4))
    piece = read_piece(find_sources([str(place)])[0], quantizer)
    np.testing.assert_array_equal(piece.notes, notes)
    assert piece.voiced == 4


def test_a_melody_that_calls_itself_voice_1_is_the_highest_of_any_model(voicewise: LoadedModel) -> None:
    melody = Piece(make_notes([0, 12], [12, 12], [72, 74], [0, 0]), 70, (3, 4), voiced=1)
    made = generate(voicewise, SampleConfig(count=1, events=8, particles=4), melody)
    upper = made.pieces[0][made.pieces[0][:, 3] == 1]
    assert upper[:2, 2].tolist() == [72, 74]
