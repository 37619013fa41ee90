"""Particles: what is given stands in every piece, and the weights are those of the model given it."""

import json
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from midigen_jax.cli import main
from midigen_jax.config import Config, ModelConfig, PrepareConfig
from midigen_jax.errors import InputError
from midigen_jax.model.network import Network
from midigen_jax.music.key import Key
from midigen_jax.music.notes import Notes, make_notes
from midigen_jax.music.piece import Piece
from midigen_jax.music.read import read_piece
from midigen_jax.music.sources import find_sources
from midigen_jax.music.write import write_midi
from midigen_jax.sample import around, steering, voices
from midigen_jax.sample.around import How, fill, harmonise
from midigen_jax.sample.decode import DecodeFlags, Prompt, Settings, decode
from midigen_jax.sample.filters import SamplingParams
from midigen_jax.sample.particles import FREE, NEVER, Given, Steering, Written, _parallels, write_particles
from midigen_jax.sample.voices import given_voices
from midigen_jax.train.checkpoint import LoadedModel, Metadata
from midigen_jax.train.pretrained import write_model
from midigen_jax.train.step import init_state, make_network
from midigen_jax.vocab import by_stream, start_event
from midigen_jax.vocab.note import ATTACKED, HELD, REST, NoteVocabulary
from midigen_jax.vocab.voice import VoiceVocabulary

MODEL = ModelConfig(pitch_embedding=4, duration_embedding=4, width=8, blocks=("lstm", "pooled"))
MELODY = Piece(
    make_notes([12, 24, 30, 60], [12, 6, 18, 24], [72, 74, 76, 72], np.zeros(4)), 70, (3, 4), first_bar=24
)


def model_of(vocabulary: Any) -> LoadedModel:
    voices = vocabulary.slice_events if isinstance(vocabulary, VoiceVocabulary) else 0
    config = Config(prepare=PrepareConfig(voices=voices, max_duration=vocabulary.max_duration), model=MODEL)
    network = make_network(config, vocabulary)
    state = init_state(network, config.train)
    state = state._replace(params=jax.tree.map(lambda leaf: 1.5 * leaf, state.params))
    about = Metadata(config, network.vocabulary, 100.0, (4, 4))
    return LoadedModel(7, state, network, about, {}, "digest")


BOTH_ORDERS = pytest.mark.parametrize("model", ["low-first", "high-first"], indirect=True)


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest) -> LoadedModel:
    order: Any = getattr(request, "param", "low-first")
    return model_of(VoiceVocabulary(3, max_duration=16, order=order))


def steered(temperature: float = 1.0, proposal: float = 1.0, parallel: float = 0.0) -> Steering:
    hot = {name: jnp.float32(temperature) for name in ("pitch", "duration")}
    return Steering(hot, jnp.float32(proposal), jnp.float32(0.5), jnp.float32(parallel))


def prompt_of(network: Network) -> Prompt:
    events = by_stream(network.vocabulary, start_event(network.vocabulary)[None])
    return Prompt(jax.tree.map(jnp.asarray, events), jnp.ones((1, 1), bool))


def run(model: LoadedModel, given: Given, seed: int, rows: int, events: int, how: Steering) -> Written:
    begin, key = jnp.int32(0), jax.random.key(seed)
    arguments = model.network, model.params, prompt_of(model.network), begin, given, how, key
    return write_particles(*arguments, rows=rows, events=events)


def test_where_nothing_is_given_it_is_the_decode_loop(model: LoadedModel) -> None:
    rows, events = 5, 60
    nothing = Given(jnp.full((1, 3), FREE), jnp.array([NEVER]), jnp.int32(NEVER))
    found = run(model, nothing, 3, rows, events, steered(0.8))
    keys_B = jax.vmap(partial(jax.random.fold_in, jax.random.key(3)))(jnp.arange(rows))
    controls = SamplingParams(*(jnp.full(rows, value) for value in (0.8, 0, 1.0, 0.0, 1.0)))
    never_B = jnp.full(rows, NEVER)
    settings = Settings(keys_B, dict.fromkeys(("pitch", "duration"), controls), 0 * never_B, never_B)
    prompt = prompt_of(model.network)
    _, plain = decode(model.network, model.params, prompt, settings, events=events, flags=DecodeFlags())
    np.testing.assert_array_equal(found.decoded.length_B, plain.length_B)
    for name, ids_BE in found.decoded.events.items():
        for row, length in enumerate(plain.length_B.tolist()):
            np.testing.assert_array_equal(ids_BE[row, :length], plain.events[name][row, :length])
    np.testing.assert_allclose(found.weight_B, 0, atol=1e-4)


@pytest.mark.parametrize("order", ["low-first", "high-first"])
def test_the_mean_weight_is_how_likely_what_is_given_is(order: Any) -> None:
    """Of two notes of a tick, against the sum over all that the other voice may do meanwhile."""
    model = model_of(VoiceVocabulary(2, max_duration=2, order=order))
    melody = make_notes([0, 1], [1, 1], [70, 72], [0, 0])
    given = given_voices(model.network.vocabulary, [melody[:0], melody], {0}, 0, 2, 2)
    exact = _exactly(model, [70, 72])
    runs = [run(model, given, seed, 16, 512, steered(proposal=0.7)) for seed in range(300)]
    estimates = np.exp([float(one.evidence) for one in runs])
    error = estimates.std() / np.sqrt(len(estimates))
    assert error < 0.1 * exact
    assert abs(estimates.mean() - exact) < 4 * error
    assert len({int(one.stops) for one in runs}) == 1


def _exactly(model: LoadedModel, pitches: list[int]) -> float:
    """The probability of these pitches, each struck for a tick, in the upper one of two voices."""
    lower = [REST, *range(ATTACKED, HELD + 128)]
    total = 0.0
    for first in lower:
        after = [
            one
            for one in lower
            if one < HELD or (first >= ATTACKED and one - HELD == (first - ATTACKED) % 128)
        ]
        rows = np.array([[first, ATTACKED + pitches[0], one, ATTACKED + pitches[1], 1] for one in after])
        if first >= HELD:  # nothing sounded before it
            continue
        places = [*model.network.vocabulary.voice_places]
        rows = rows[:, [*places, *(2 + place for place in places), 4]]
        pitch = np.concatenate([np.zeros((len(rows), 1), int), rows], axis=1)
        ticks = np.tile([0, 0, 1, 0, 1, 0], (len(rows), 1))
        total += _likelihoods(model, pitch, ticks).sum()
    return total


def _likelihoods(model: LoadedModel, pitch: np.ndarray, ticks: np.ndarray) -> np.ndarray:
    padding = 400 - len(pitch)  # of one shape they are compiled once
    events = {
        "pitch": jnp.asarray(np.pad(pitch, ((0, padding), (0, 0)))),
        "duration": jnp.asarray(np.pad(ticks, ((0, padding), (0, 0)))),
    }
    return np.exp(-np.asarray(_nats(model.network, model.params, events)))[: len(pitch)]


@partial(jax.jit, static_argnames="network")
def _nats(network: Network, params: dict, events: dict[str, jax.Array]) -> jax.Array:
    net = network.bind({"params": params})
    mask_BT = jnp.ones((len(events["pitch"]), events["pitch"].shape[1] - 1), bool)
    carry = net.initial_carry(len(mask_BT), tick_B=jnp.zeros(len(mask_BT), jnp.int32))
    _, logits = net.logits(carry, events, mask_BT)
    said = [
        jnp.take_along_axis(jax.nn.log_softmax(logits[name]), events[name][:, 1:, None], axis=2)[..., 0]
        for name in ("pitch", "duration")
    ]
    return -(said[0] + said[1]).sum(axis=1)


@pytest.mark.parametrize("order", ["low-first", "high-first"])
def test_no_particle_is_blind_to_a_voice_that_is_written_first(order: Any) -> None:
    """Below a note that stands there already all weigh the same; above what was drawn before it none does."""
    model = model_of(VoiceVocabulary(2, max_duration=1, order=order))
    melody = make_notes([0], [1], [70], [0])
    given = given_voices(model.network.vocabulary, [melody[:0], melody], {0}, 0, 1, 1)
    carried = float(run(model, given, 0, 16, 512, steered()).effective_S[0])
    assert carried == pytest.approx(16) if order == "high-first" else carried < 15.9


@BOTH_ORDERS
@pytest.mark.parametrize("voice", ["1", "2", "3"])
def test_the_melody_stands_in_each_piece_and_nothing_goes_on_after_it(model: LoadedModel, voice: str) -> None:
    made = harmonise(model, MELODY, voice, How(count=3, particles=8, seed=1))
    assert made.nats == sorted(made.nats)
    assert (made.music.tempo, made.music.meter, made.music.first_bar) == (70, (3, 4), 24)
    for notes in made.music.pieces:
        np.testing.assert_array_equal(_voice(notes, 3 - int(voice)), MELODY.notes[:, :3])
        assert (notes[:, 0] + notes[:, 1]).max() == 84
        assert notes[:, 0].min() == 12


def _voice(notes: Notes, number: int) -> Notes:
    return notes[notes[:, 3] == number][:, :3]


def test_a_melody_may_rest_and_a_piece_is_drawn_the_same_again(model: LoadedModel) -> None:
    first, again, other = (
        harmonise(model, MELODY, "1", How(particles=8, seed=seed)).music.pieces[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert _voice(first, 2)[-2:, 0].tolist() == [30, 60]  # from 48 to 60 it rests


def test_parallels_are_those_of_the_statistics() -> None:
    rng = np.random.default_rng(0)
    pitch = rng.choice([48, 50, 55, 57, 60, 62, 67, 69], (200, 3))
    expected = []
    for before, after in pairwise(pitch):
        moves = np.sign(after - before)
        pairs = [(low, high) for low in range(3) for high in range(low + 1, 3)]
        expected.append(
            sum(
                moves[low] == moves[high] != 0
                and (before[high] - before[low]) % 12 == (after[high] - after[low]) % 12
                and (after[high] - after[low]) % 12 in (0, 7)
                for low, high in pairs
            )
        )
    assert sum(expected) > 10
    assert _parallels(jnp.asarray(pitch[:-1]), jnp.asarray(pitch[1:])).tolist() == expected


@BOTH_ORDERS
def test_what_is_paid_for_is_written(model: LoadedModel) -> None:
    """A model that knows nothing writes no parallels by chance; with a prize on them, there they are."""
    counts = []
    for price in (20.0, 0.0, -20.0):
        made = harmonise(model, MELODY, "1", How(count=4, particles=256, parallel=price, seed=5))
        counts.append(sum(map(_count_parallels, made.music.pieces)))
    assert counts[0] == 0 < counts[2] > counts[1]


def _count_parallels(notes: Notes) -> int:
    tokens = VoiceVocabulary(3).encode(Piece(notes, voiced=3))[1:-1, 0].reshape(-1, 3)
    pitch = np.where(tokens < ATTACKED, -1, (tokens - ATTACKED) % 128)
    return int(_parallels(jnp.asarray(pitch[:-1]), jnp.asarray(pitch[1:])).sum())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"voice": "soprano"}, r"voice soprano: give 1 \(the highest\) to 3"),
        ({"voice": "0"}, r"voice 0: give 1"),
        ({"particles": 10_000_000}, r"10000000 particles need .* GiB; give \d+ or fewer"),
        ({"particles": 0}, r"particles = 0: give 1 or more"),
        ({"temperature": float("nan")}, r"temperature = nan: give 0.01 to 10"),
        ({"seed": -1}, r"seed = -1: give 0 to 4,294,967,295"),
    ],
)
def test_what_cannot_be_asked_for(model: LoadedModel, change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        harmonise(model, MELODY, change.pop("voice", "1"), How(**{"particles": 4} | change))


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        (make_notes([], [], [], []), "the melody holds no notes"),
        (
            make_notes([0, 36, 40], [12, 12, 12], [60, 64, 67], [0, 0, 1]),
            r"two notes at once in bar 2 of the melody \(E4 and G4\); choose a track: --tracks melody",
        ),
        (
            make_notes([0, 36, 36], [12, 12, 12], [60, 64, 67], [0, 0, 0]),
            r"two notes at once in bar 2 of the melody \(E4 and G4\); give one voice alone, in notes of the "
            r"model's grid: 2 of 3 were moved to it",
        ),
    ],
)
def test_what_is_no_melody(model: LoadedModel, notes: Notes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        harmonise(model, Piece(notes, meter=(3, 4), moved=2), "1", How(particles=4))


def test_notes_that_sound_a_little_into_the_next_are_cut_there(model: LoadedModel) -> None:
    """As in a melody that was played legato; what the grid moved is told."""
    played = make_notes([0, 12, 24], [15, 14, 12], [62, 64, 60], [0, 0, 0])
    made = harmonise(model, Piece(played, meter=(3, 4), moved=1), "1", How(particles=4))
    (notes,) = made.music.pieces
    highest = notes[notes[:, 3] == 2]
    assert highest[:, :3].tolist() == [[0, 12, 62], [12, 12, 64], [24, 12, 60]]
    assert made.music.remarks == ("Note: 1 of its 3 notes were moved to the model's grid.",)


def test_it_goes_on_where_it_was_cut(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how, drawn = How(count=3, particles=4), around.draw_piece
    whole = harmonise(model, MELODY, "1", how)
    left = iter(range(2))

    def cut(*given: Any) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return drawn(*given)

    monkeypatch.setattr(around, "draw_piece", cut)
    with pytest.raises(KeyboardInterrupt):
        harmonise(model, MELODY, "1", how, tmp_path)
    left = iter(range(1))
    again = harmonise(model, MELODY, "1", how, tmp_path)
    assert again.nats == whole.nats
    for one, other in zip(again.music.pieces, whole.music.pieces, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_melody_in_a_file_of_one_track_is_the_highest_voice(model: LoadedModel) -> None:
    made = fill(model, MELODY, (1, 1), ["2", "3"], How(particles=4))
    top = made.music.pieces[0][made.music.pieces[0][:, 3] == 2]
    np.testing.assert_array_equal(top[:, :3], MELODY.notes[:, :3])


def test_a_model_without_voices_is_refused_with_the_remedy() -> None:
    with pytest.raises(InputError, match="note events, which have no voices; give pretrained:harmoniser, or"):
        harmonise(model_of(NoteVocabulary(16)), MELODY)


def test_where_a_piece_takes_more_events_than_there_are_the_bar_is_told(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steering, "_room", lambda *_: 6)  # events: two slices
    with pytest.raises(InputError, match="in bar 1 the pieces become longer than there is room for"):
        harmonise(model, MELODY, "1", How(particles=4))


def test_the_command_writes_music_and_goes_on_where_it_was(tmp_path: Path, capsys: Any) -> None:
    write_model(model_of(VoiceVocabulary(4, max_duration=16)), tmp_path / "model.npz")
    write_midi(MELODY.notes, tmp_path / "melody.mid", 70, meter=(3, 4), first_bar=24, key=Key(8, "major"))
    words = ["harmonise", str(tmp_path / "melody.mid"), "--out", str(tmp_path / "out")]
    words += ["--model", str(tmp_path / "model.npz"), "--count", "2", "--particles", "8"]
    assert main(words) == 0
    assert "1.mid" in capsys.readouterr().out
    first = (tmp_path / "out" / "1.mid").read_bytes()
    piece = read_piece(find_sources([str(tmp_path / "out" / "1.mid")])[0], "uniform")
    assert (piece.first_bar, piece.voiced, piece.signature) == (24, 4, -4)  # the melody's
    score = read_piece(find_sources([str(tmp_path / "out" / "1.musicxml")])[0])
    parts = score.notes * [1, 1, 1, -1] + [0, 0, 0, 3]  # the soprano is the first of them
    assert sorted(parts.tolist()) == sorted(piece.notes.tolist())
    assert (score.first_bar, score.meter) == (24, (3, 4))
    (tmp_path / "out" / "1.mid").unlink()
    assert main(words) == 0
    assert (tmp_path / "out" / "1.mid").read_bytes() == first
    assert main([*words, "--seed", "1"]) == 2
    assert "holds music made with other settings; give another --out" in capsys.readouterr().err
    found = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert {"particles.nats", "particles.seconds", "particles.ess"} <= {row["name"] for row in found}


CHORALE = Piece(
    make_notes(
        [0, 0, 0, 12, 12, 24, 24, 30, 36, 36, 48, 48, 48, 60, 60, 60],
        [12, 12, 36, 12, 12, 6, 12, 18, 12, 12, 12, 12, 12, 12, 12, 12],
        [72, 64, 48, 74, 65, 76, 67, 77, 65, 47, 79, 64, 48, 72, 64, 48],
        [2, 1, 0, 2, 1, 2, 1, 2, 1, 0, 2, 1, 0, 2, 1, 0],
    ),
    80,
    (2, 4),
    first_bar=12,
)


def sounding(notes: Notes, track: int) -> np.ndarray:
    """(72,) what a voice sounds in each tick, and 1,000 more where it begins."""
    found = np.zeros(72, int)
    for onset, duration, pitch, number in notes.tolist():
        if number == track:
            found[onset : onset + duration] = pitch
            found[onset] += 1000
    return found


@BOTH_ORDERS
@pytest.mark.parametrize(
    ("bars", "names", "begin", "stop"),
    [((2, 2), (), 36, 60), ((0, 0), (), 0, 12), ((1, 2), ("1", "3"), 12, 60), ((3, 3), ("2",), 60, 72)],
)
def test_all_but_the_bars_and_voices_that_are_named_stays(
    model: LoadedModel, bars: tuple[int, int], names: tuple[str, ...], begin: int, stop: int
) -> None:
    made = fill(model, CHORALE, bars, names, How(count=2, particles=16))
    assert (made.music.first_bar, made.music.tempo, made.quarters) == (12, 80, (72 - begin) / 12)
    free = {3 - int(name) for name in names} or {0, 1, 2}
    changed = False
    for notes in made.music.pieces:
        for track in range(3):
            before, after = sounding(CHORALE.notes, track), sounding(notes, track)
            np.testing.assert_array_equal(before[:begin], after[:begin])
            changed |= track in free and not np.array_equal(before[begin:stop], after[begin:stop])
            if track in free and stop < 72 and 0 < before[stop] < 1000:
                before[stop] += 1000  # what sounds on is struck where the bars end
            kept = before[begin:], after[begin:]
            if track in free:
                kept = before[stop:], after[stop:]
            np.testing.assert_array_equal(*kept)
    assert changed


def test_voices_that_cross_stay_who_they_are_where_they_are_named(model: LoadedModel) -> None:
    """The lowest two have changed places: by mean pitch each would be taken for the other."""
    notes = CHORALE.notes.copy()
    notes[:, 3] = np.array([1, 0, 2])[notes[:, 3]]
    made = fill(model, replace(CHORALE, notes=notes, voiced=3), (2, 2), ("1",), How(particles=16))
    kept = [made.music.pieces[0][made.music.pieces[0][:, 3] == track] for track in (0, 1)]
    assert [own.tolist() for own in kept] == [notes[notes[:, 3] == track].tolist() for track in (0, 1)]


@pytest.mark.parametrize("bars", [(4, 4), (3, 9), (9, 12)])
def test_bars_that_are_not_there_are_told(model: LoadedModel, bars: tuple[int, int]) -> None:
    said = rf"bars {bars[0]}-{bars[1]}: the piece has bars 0 to 3; give some of these"
    with pytest.raises(InputError, match=said):
        fill(model, CHORALE, bars)


def test_what_comes_after_is_heeded(model: LoadedModel) -> None:
    """Nats are of all from where writing begins: pieces that lead into what is given are likelier."""
    few, many = (fill(model, CHORALE, (1, 1), (), How(count=6, particles=count)) for count in (1, 256))
    assert np.mean(many.nats) < np.mean(few.nats)


def test_the_command_fills_bars(tmp_path: Path, capsys: Any) -> None:
    write_model(model_of(VoiceVocabulary(3, max_duration=16)), tmp_path / "model.npz")
    write_midi(CHORALE.notes, tmp_path / "piece.mid", 80, meter=(2, 4), first_bar=12)
    words = ["fill", str(tmp_path / "piece.mid"), "--out", str(tmp_path / "out"), "--bars", "1-2"]
    words += ["--model", str(tmp_path / "model.npz"), "--particles", "8"]
    assert main([*words, "--voices", "1,2"]) == 0
    assert "1.mid" in capsys.readouterr().out
    assert main([*words, "--voices", "4"]) == 2
    capsys.readouterr()
    refused = [*words[:2], "--out", str(tmp_path / "refused"), "--bars", "70-80", *words[-4:]]
    assert main(refused) == 2
    assert "bars 70-80: the piece has bars 0 to" in capsys.readouterr().err
    assert main([*words[:2], "--out", str(tmp_path / "refused"), "--bars", "2-1", *words[-4:]]) == 2
    assert "bars 2-1: the first comes after the last; give 1-2" in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()
    assert main([*words[:-6], "--bars", "x"]) == 2
    assert "'x': give two bars, as in 5-8" in capsys.readouterr().err


def test_where_no_particle_goes_on_the_bar_is_told(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = voices._id_of
    monkeypatch.setattr(
        voices, "_id_of", lambda table, pitch, held: 0 if pitch == 76 else of(table, pitch, held)
    )
    with pytest.raises(InputError, match="no particle got beyond bar 1: the model finds"):
        harmonise(model, MELODY, "1", How(particles=4))


def test_a_voice_stays_in_its_place_where_it_rests_before_the_bars(model: LoadedModel) -> None:
    """The lowest one comes late: what stands before it is not of the lowest."""
    late = CHORALE.notes[(CHORALE.notes[:, 3] > 0) | (CHORALE.notes[:, 0] >= 36)]
    made = fill(model, replace(CHORALE, notes=late), (3, 3), (), How(count=2, particles=8))
    for notes in made.music.pieces:
        for track in range(3):
            np.testing.assert_array_equal(sounding(notes, track)[:60], sounding(late, track)[:60])


def test_a_melody_may_be_spread_over_tracks(model: LoadedModel) -> None:
    spread = MELODY.notes + np.array([0, 0, 0, 1], np.int32) * np.array([[0], [1], [0], [2]], np.int32)
    made = harmonise(model, replace(MELODY, notes=spread), "1", How(particles=4))
    np.testing.assert_array_equal(_voice(made.music.pieces[0], 2), MELODY.notes[:, :3])


def test_a_melody_that_no_training_piece_reaches_is_refused_with_its_pitch(model: LoadedModel) -> None:
    sung = {"pitch": (0, 1, REST, *(ATTACKED + pitch for pitch in range(40, 76)))}
    low = model._replace(metadata=model.metadata._replace(seen=sung))
    with pytest.raises(InputError, match=r"has E5; move the music into its range, E2 to D#5"):
        harmonise(low, MELODY, "1", How(particles=4))


@pytest.mark.parametrize("change", [[0, 0, 0, 3], [6, 0, 3, 0]])
def test_what_is_not_of_so_many_voices_is_told(model: LoadedModel, change: list[int]) -> None:
    more = np.concatenate([CHORALE.notes, CHORALE.notes[:1] + np.array(change, np.int32)])
    with pytest.raises(InputError, match="the music is not of 3 voices or fewer; give a file"):
        fill(model, replace(CHORALE, notes=make_notes(*more.T)), (1, 1))
