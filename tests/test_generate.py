"""Music from a model: prompts and their seam, constraints, sweeps, streaming, making a piece again.

The model is small and was never trained: what it writes is as wild as its rules allow.
"""

import itertools
from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midigen_jax.config import Config, ModelConfig, PrepareConfig, SampleConfig
from midigen_jax.errors import InputError
from midigen_jax.model.network import init_params
from midigen_jax.music.key import parse_key
from midigen_jax.music.notes import make_notes
from midigen_jax.music.piece import Piece
from midigen_jax.music.slices import slice_notes
from midigen_jax.music.write import write_midi
from midigen_jax.sample import generate as module
from midigen_jax.sample.generate import generate, scale_of, stream
from midigen_jax.sample.recipe import Recipe, read_recipe, relative
from midigen_jax.train.checkpoint import LoadedModel, Metadata
from midigen_jax.train.step import init_state, make_network
from midigen_jax.vocab import slices_of, to_tokens
from midigen_jax.vocab.chord import ChordVocabulary
from midigen_jax.vocab.note import NoteVocabulary
from midigen_jax.vocab.voice import VoiceVocabulary

MODEL = ModelConfig(pitch_embedding=4, duration_embedding=4, width=8, blocks=("lstm", "pooled"))
# A held C4 under two notes, a rest, a chord.
PROMPT = Piece(
    make_notes([6, 6, 12, 24, 24], [12, 6, 6, 12, 12], [60, 64, 65, 62, 67], [0, 1, 1, 0, 1]),
    70,
    (3, 4),
    program=19,
)


def restored(vocabulary, **prepare):
    name = "chord" if isinstance(vocabulary, ChordVocabulary) else "note"
    config = Config(prepare=PrepareConfig(tokenizer=name, **prepare), model=MODEL)
    network = make_network(config, vocabulary)
    state = init_state(network, config.train)
    state = state._replace(
        params=jax.tree.map(lambda leaf: 2 * leaf, init_params(network, jax.random.key(5)))
    )
    return LoadedModel(7, state, network, Metadata(config, vocabulary, 100.0, (4, 4)), {}, "digest")


@pytest.fixture(scope="module")
def notewise():
    return restored(NoteVocabulary(max_duration=16))


@pytest.fixture(scope="module")
def chordwise():
    chords = [(60,), (60, 64), (60, 65), (62, 67), (48, 64), (61, 66, 70)]
    return restored(ChordVocabulary(tuple(chords), 16))


@pytest.fixture(scope="module")
def voicewise():
    return restored(VoiceVocabulary(2, max_duration=16))


def ends(notes):
    return notes[:, 0] + notes[:, 1]


def test_voices_are_tracks_and_go_on_from_those_of_the_prompt(voicewise):
    made = generate(voicewise, SampleConfig(count=6, events=40, lowest=55, highest=72), PROMPT)
    stop = ends(PROMPT.notes).max()
    for notes in made.pieces:
        inside = notes[notes[:, 0] < stop]
        np.testing.assert_array_equal(inside[:, [0, 2, 3]], PROMPT.notes[:, [0, 2, 3]])
        for voice in (0, 1):
            own = notes[notes[:, 3] == voice]
            assert (own[1:, 0] >= ends(own)[:-1]).all()
        assert ((notes[:, 2] >= 55) & (notes[:, 2] <= 72)).all()
    assert any(len(notes) > len(PROMPT.notes) for notes in made.pieces)


def test_what_a_model_of_voices_cannot_do_is_told(voicewise):
    chord = replace(PROMPT, notes=make_notes([0, 0], [12, 12], [60, 64], [0, 0]))
    with pytest.raises(InputError, match=r"2 voices or fewer; give .* a track for each voice"):
        generate(voicewise, SampleConfig(count=1, events=4), chord)
    with pytest.raises(InputError, match="2 voices are written in every slice"):
        generate(voicewise, SampleConfig(count=1, events=4, largest_chord=1))


def test_the_prompt_is_kept_to_the_note_and_what_follows_begins_where_it_stops(notewise):
    made = generate(notewise, SampleConfig(count=6, events=40), PROMPT)
    stop = ends(PROMPT.notes).max()
    for notes in made.pieces:
        inside = notes[notes[:, 0] < stop]
        np.testing.assert_array_equal(inside[:, [0, 2]], PROMPT.notes[:, [0, 2]])
        # A note that sounds where the prompt stops may be held on; none is cut, none is struck again.
        held = ends(inside) != ends(PROMPT.notes)
        assert (ends(PROMPT.notes)[held] == stop).all()
        assert (ends(inside)[held] > stop).all()
    assert (made.tempo, made.meter, made.program) == (70, (3, 4), 19)


def sounding(notes):
    """The (tick, pitch) at which something sounds."""
    return {
        (tick, pitch) for onset, ticks, pitch, _ in notes.tolist() for tick in range(onset, onset + ticks)
    }


def test_a_dropped_prompt_leaves_what_follows_it_from_its_first_tick(notewise):
    config = SampleConfig(count=6, events=40)
    kept = generate(notewise, config, PROMPT)
    dropped = generate(notewise, replace(config, keep_prompt=False), PROMPT)
    stop = int(ends(PROMPT.notes).max())
    for whole, rest in zip(kept.pieces, dropped.pieces, strict=True):
        assert sounding(rest) == {(tick - stop, pitch) for tick, pitch in sounding(whole) if tick >= stop}
        later = whole[whole[:, 0] > stop] - [stop, 0, 0, 0]
        np.testing.assert_array_equal(rest[rest[:, 0] > 0], later)


UP = (0, 0, 3, 0)


def test_music_that_is_moved_stays_within_midi_and_leaves_the_prompt_alone():
    moved = restored(NoteVocabulary(max_duration=16), transpose="Db")
    config = SampleConfig(count=8, events=80, temperature=(3.0,))
    made = generate(moved, config, PROMPT)
    assert module.plan(moved, config, PROMPT).shift
    for notes in made.pieces:
        np.testing.assert_array_equal(notes[: len(PROMPT.notes) - 2, 2], PROMPT.notes[:-2, 2])
        assert ((notes[:, 2] >= 0) & (notes[:, 2] <= 127)).all()


def test_a_chord_model_keeps_its_prompt_as_it_was(chordwise):
    held = Piece(make_notes([0, 6], [12, 6], [60, 64], [0, 1]), 70, (3, 4))
    for notes in generate(chordwise, SampleConfig(count=3, events=10), held).pieces:
        np.testing.assert_array_equal(notes[:2, :3], held.notes[:, :3])
        assert (notes[2:, 0] >= 12).all()


def test_a_dropped_prompt_that_ends_within_a_bar_leaves_its_bar_lines_where_they_were(notewise):
    inside = Piece(make_notes([0], [30], [60], [0]), 70, (3, 4))
    config = SampleConfig(count=6, events=60, meter="3/4", keep_prompt=False)
    for rest, whole in zip(
        generate(notewise, config, inside).pieces,
        generate(notewise, replace(config, keep_prompt=True), inside).pieces,
        strict=True,
    ):
        assert sounding(rest) == {(tick, pitch) for tick, pitch in sounding(whole) if tick >= 30}


def test_a_transposed_corpus_gives_back_the_prompts_own_key():
    """The same prompt, range and all, three semitones higher, is the same to the model."""
    moved = restored(NoteVocabulary(max_duration=16), transpose="C")
    config = SampleConfig(count=2, events=20, lowest=12, highest=108)
    plain = generate(moved, config, PROMPT)
    up = Piece(np.add(PROMPT.notes, UP, dtype=np.int32), 70, (3, 4))
    higher = generate(moved, replace(config, lowest=15, highest=111), up)
    for low, high in zip(plain.pieces, higher.pieces, strict=True):
        np.testing.assert_array_equal(np.add(low, UP), high)


@settings(max_examples=12)
@given(
    key=st.sampled_from([None, "D", "F# minor"]),
    low=st.integers(30, 60),
    span=st.integers(4, 60),
    chord=st.sampled_from([None, 1, 3]),
    repeats=st.sampled_from([None, 1, 2]),
    meter=st.sampled_from([None, "3/4", "6/8"]),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
    prompted=st.booleans(),
    top_p=st.sampled_from([1.0, 0.9]),
)
def test_what_is_asked_for_holds_in_every_piece(
    notewise, key, low, span, chord, repeats, meter, temperature, prompted, top_p
):
    config = SampleConfig(
        count=3,
        events=60,
        temperature=(temperature,),
        top_p=(top_p,),
        key=key,
        lowest=low,
        highest=low + span,
        largest_chord=chord,
        most_repeats=repeats,
        meter=meter,
        keep_prompt=False,
    )
    made = generate(notewise, config, PROMPT if prompted else None)
    assert made.events >= config.count
    for notes in made.pieces:
        pitches = notes[:, 2]
        if key is not None:
            assert np.isin(pitches % 12, scale_of(parse_key(key))).all()
        assert ((low <= pitches) & (pitches <= low + span)).all()
        assert chord is None or slice_notes(notes).count.max(initial=0) <= chord


def test_no_slice_of_the_loop_crosses_a_bar_line_and_pieces_end_on_one(notewise):
    config = SampleConfig(count=16, events=400, meter="3/4", most_repeats=1)
    task = module.plan(notewise, config, PROMPT)
    ended = 0
    for decoded, *_ in module._calls(task, config, np.arange(16), 1024, {}):
        columns = decoded.events["pitch"], decoded.events["duration"], decoded.length_B
        for pitch, duration, length in zip(*columns, strict=True):
            time = 36 + np.concatenate([[0], np.cumsum(duration[:length])])
            # From the prompt's stop on: a slice ends in the bar in which it began, or on its line.
            assert ((time[:-1] // 36) * 36 + 36 >= time[1:]).all()
            if pitch[length - 1] == 1:
                ended += 1
                assert time[-1] % 36 == 0
    assert ended


def longest_repeat(model, config):
    """The most slices in a row that sound as the one before them; a note that is held on is one sound."""
    most, vocabulary = 0, model.metadata.vocabulary
    for decoded, *_ in module._calls(module.plan(model, config, None), config, np.arange(8), 1024, {}):
        for tokens, length in zip(to_tokens(vocabulary, decoded.events), decoded.length_B, strict=True):
            slices = slices_of(vocabulary, tokens[:length], trim=False)
            sounds = np.split(slices.pitch, slices.start[1:-1])
            run = 0
            for before, after in itertools.pairwise(map(tuple, sounds)):
                run = run + 1 if before == after else 0
                most = max(most, run)
    return most


def test_a_slice_is_not_repeated_more_often_than_asked(notewise):
    stuck = SampleConfig(count=8, events=300, temperature=(0.05,))
    assert longest_repeat(notewise, stuck) > 1
    assert longest_repeat(notewise, replace(stuck, most_repeats=1)) == 1


@pytest.mark.parametrize(("budget", "ticks"), [({"bars": 2}, 72), ({"seconds": 3.0}, 42)], ids=str)
def test_a_budget_of_bars_or_seconds_is_met_to_the_tick(notewise, budget, ticks):
    config = SampleConfig(count=8, events=1000, keep_prompt=False, **budget)
    made = generate(notewise, config, PROMPT)
    assert max(ends(notes).max(initial=0) for notes in made.pieces) == ticks


def test_a_bar_that_the_prompt_has_begun_is_ended_besides(notewise):
    begun = replace(PROMPT, notes=PROMPT.notes[:3])
    stop = int(ends(begun.notes).max())
    assert stop % 36 > 0
    made = generate(notewise, SampleConfig(count=8, events=1000, bars=2), begun)
    assert max(ends(notes).max() for notes in made.pieces) == 36 * (3 + stop // 36)


def test_a_budget_without_a_prompt_counts_from_the_first_tick(notewise):
    made = generate(notewise, SampleConfig(count=8, events=1000, seconds=3.0))
    assert max(ends(notes).max(initial=0) for notes in made.pieces) == 3 * 100 * 12 // 60


def test_several_values_are_taken_in_turn(notewise):
    swept = generate(notewise, SampleConfig(count=4, events=30, temperature=(0.0, 1.5), top_k=(0, 5)))
    alone = generate(notewise, SampleConfig(count=4, events=30, temperature=(0.0,), top_k=(0, 5)))
    for piece in (0, 2):
        np.testing.assert_array_equal(swept.pieces[piece], alone.pieces[piece])


def test_pieces_beyond_one_turn_are_those_of_a_larger_one(notewise, monkeypatch):
    config = SampleConfig(count=5, events=20)
    whole = generate(notewise, config)
    monkeypatch.setattr(module, "_ROWS", 2)
    monkeypatch.setattr(module, "_EVENTS", 7)
    parts = generate(notewise, config)
    assert (parts.events, parts.ended) == (whole.events, whole.ended)
    for left, right in zip(whole.pieces, parts.pieces, strict=True):
        np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(generate(notewise, config, only=3).pieces[0], whole.pieces[3])


@pytest.mark.parametrize("kind", ["notewise", "chordwise"])
@pytest.mark.parametrize("prompt", [None, PROMPT], ids=["empty", "prompt"])
def test_a_stream_sounds_as_the_piece_does(kind, prompt, request):
    model = request.getfixturevalue(kind)
    config = SampleConfig(count=1, events=70, keep_prompt=False, seconds=20.0)
    streamed = list(stream(model, config, prompt))
    notes = generate(model, config, prompt).pieces[0]
    onset, sounding, rows = 0, {}, []
    for ticks, pitches, attacked in streamed:
        for pitch, struck in zip(pitches, attacked, strict=True):
            if struck or pitch not in sounding:
                sounding[pitch] = len(rows)
                rows.append([onset, 0, pitch])
            rows[sounding[pitch]][1] += ticks
        sounding = {pitch: sounding[pitch] for pitch in pitches}
        onset += ticks
    lead = min((row[0] for row in rows), default=0) if prompt is None else 0
    assert sorted((row[0] - lead, row[1], row[2]) for row in rows) == [
        tuple(row) for row in notes[:, :3].tolist()
    ]


def test_a_thousand_samples_are_music(notewise):
    """Hot, cold and filtered. That each event is allowed is tested in test_decode."""
    config = SampleConfig(
        count=1000, events=48, temperature=(0.5, 1.0, 2.0), top_p=(1.0, 0.9), repetition_penalty=(1.0, 1.3)
    )
    made = generate(notewise, config)
    assert len(made.pieces) == 1000
    for notes in made.pieces:
        assert ((notes[:, 1] >= 1) & (notes[:, 2] >= 0) & (notes[:, 2] <= 127)).all()


def test_chords_keep_to_key_range_and_size(chordwise):
    made = generate(
        chordwise, SampleConfig(count=4, events=40, key="C", lowest=50, largest_chord=2, meter="4/4")
    )
    pitches = np.concatenate([notes[:, 2] for notes in made.pieces])
    assert set(pitches.tolist()) <= {60, 64, 65, 62, 67}
    with pytest.raises(InputError, match="leave nothing"):
        generate(chordwise, SampleConfig(lowest=100))


@pytest.mark.parametrize(
    ("piece", "part"),
    [
        (Piece(make_notes([], [], [], [])), "no notes"),
        (
            Piece(make_notes([0], [12], [99], [0])),
            "chord D#7, 0 quarters after its first note, is not in the model's",
        ),
    ],
)
def test_a_prompt_that_cannot_be_continued_is_refused(chordwise, piece, part):
    with pytest.raises(InputError, match=part):
        generate(chordwise, SampleConfig(), piece)


def test_a_recipe_survives_its_text(tmp_path):
    recipe = Recipe(
        "../run", 7, "digest", 2, SampleConfig(temperature=(0.7, 0.9), key="C"), "p – q.mid", "abc"
    )
    write_midi(PROMPT.notes, tmp_path / "a.mid", text=("first", recipe.text()))
    assert read_recipe(tmp_path / "a.mid") == recipe
    assert relative(tmp_path / "runs" / "x", tmp_path / "music") == "../runs/x"


@pytest.mark.parametrize("text", ["midigen-jax recipe: {", 'midigen-jax recipe: {"run": 1}', "nothing"])
def test_a_file_without_a_whole_recipe_is_refused(tmp_path, text):
    write_midi(PROMPT.notes, tmp_path / "a.mid", text=(text,))
    with pytest.raises(InputError, match=r"a\.mid"):
        read_recipe(tmp_path / "a.mid")
