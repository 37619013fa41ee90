"""Voices as tokens: what is encoded decodes to the same notes, one event a voice in every slice."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midigen_jax.config import PrepareConfig
from midigen_jax.data.corpus import load_corpus
from midigen_jax.data.prepare import prepare
from midigen_jax.errors import InputError
from midigen_jax.music.midi import read_midi
from midigen_jax.music.notes import make_notes
from midigen_jax.music.piece import Piece
from midigen_jax.music.slices import slice_notes
from midigen_jax.music.voices import by_voice, named_voices, voice_names
from midigen_jax.music.write import write_midi
from midigen_jax.vocab import note, slices_of, vocabulary_from_json
from midigen_jax.vocab.voice import VoiceVocabulary

A, H, REST = note.ATTACKED, note.HELD, note.REST


@st.composite
def voiced(draw):
    """Notes of three voices, each in a range of its own, with rests, unisons never, crossings in time."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    parts = []
    for voice in range(3):
        steps = rng.integers(1, 30, 2 * rng.integers(1, 8))
        edges = np.concatenate([[0], np.cumsum(steps)])
        sounds = rng.random(len(steps)) < 0.8
        sounds[0] = True
        onset, duration = edges[:-1][sounds], steps[sounds]
        parts.append(
            np.stack([onset, duration, rng.integers(40, 45, len(onset)) + 10 * voice, 0 * onset + voice])
        )
    return make_notes(*np.concatenate(parts, axis=1))


@given(voiced(), st.integers(1, 40), st.sampled_from(["low-first", "high-first"]))
def test_decoding_what_was_encoded_gives_the_same_notes(notes, longest, order):
    vocabulary = VoiceVocabulary(3, longest, order=order)
    tokens = vocabulary.encode(Piece(notes))
    np.testing.assert_array_equal(vocabulary.decode(tokens), notes)
    assert slices_of(vocabulary, tokens) == slice_notes(notes)
    body = tokens[1:-1]
    assert len(body) % 3 == 0
    assert (body.reshape(-1, 3, 2)[:, :2, 1] == 0).all()
    assert ((body[2::3, 1] >= 1) & (body[2::3, 1] <= longest)).all()


def test_two_voices_are_these_tokens():
    """A bass of two quarters; above it a half note, which crosses no bar but the bass's second attack."""
    notes = make_notes([0, 12, 0], [12, 12, 24], [48, 50, 60], [7, 7, 2])
    expected = [(0, 0), (A + 48, 0), (A + 60, 12), (A + 50, 0), (H + 60, 12), (1, 0)]
    assert VoiceVocabulary(2).encode(Piece(notes)).tolist() == [list(event) for event in expected]
    downward = [(0, 0), (A + 60, 0), (A + 48, 12), (H + 60, 0), (A + 50, 12), (1, 0)]
    high_first = VoiceVocabulary(2, order="high-first")
    assert high_first.encode(Piece(notes)).tolist() == [list(event) for event in downward]


def test_the_lowest_voice_is_the_first_where_no_order_is_named():
    """As in models and corpora of before; an order that there is not is refused."""
    words = VoiceVocabulary(2, order="high-first").to_json()
    assert vocabulary_from_json(words) == VoiceVocabulary(2, order="high-first")
    with pytest.raises(InputError, match="damaged"):
        vocabulary_from_json({**words, "order": "sideways"})
    del words["order"]
    assert vocabulary_from_json(words) == VoiceVocabulary(2)


def test_a_unison_is_two_events_and_a_missing_voice_rests():
    piece = Piece(make_notes([0, 0], [12, 12], [60, 60], [0, 1]), length=24)
    tokens = VoiceVocabulary(3).encode(piece)
    expected = [(A + 60, 0), (A + 60, 0), (REST, 12), (REST, 0), (REST, 0), (REST, 12)]
    assert tokens[1:-1].tolist() == [list(event) for event in expected]
    assert VoiceVocabulary(3).decode(tokens)[:, 2].tolist() == [60, 60]


def test_what_is_no_music_of_voices_is_refused_in_words():
    with pytest.raises(InputError, match="3 tracks"):
        VoiceVocabulary(2).encode(Piece(make_notes([0, 0, 0], [1, 1, 1], [50, 60, 70], [0, 1, 2])))
    with pytest.raises(InputError, match="two notes at once"):
        VoiceVocabulary(2).encode(Piece(make_notes([0, 6], [12, 12], [50, 60], [0, 0])))


@given(st.integers(0, 2**32 - 1))
def test_any_ids_decode_to_notes(seed):
    rng = np.random.default_rng(seed)
    tokens = np.stack([rng.integers(0, 259, 25), rng.integers(0, 5, 25)], axis=1).astype(np.int32)
    notes = VoiceVocabulary(2, 4).decode(tokens)
    assert (notes[:, 1] > 0).all()


def frames_file(tmp_path):
    """Twelve pieces of three voices in frames, of which the top one rests at times and crosses another."""
    rng = np.random.default_rng(0)
    pieces = rng.integers(0, 4, (12, 16, 3)) + np.array([62, 48, 60])
    pieces[:, 5:7, 0] = -1
    path = tmp_path / "16th.json"
    splits = {"train": pieces[:8].tolist(), "valid": pieces[8:10].tolist(), "test": pieces[10:].tolist()}
    path.write_text(json.dumps(splits))
    return path, pieces


@pytest.mark.parametrize("longest", [96, 3], ids=["slices", "frames"])
def test_a_corpus_of_voices_holds_the_frames_that_it_was_made_of(tmp_path, longest):
    path, pieces = frames_file(tmp_path)
    made = prepare([str(path)], tmp_path / "corpus", PrepareConfig(voices=3, max_duration=longest))
    corpus = load_corpus(tmp_path / "corpus")
    assert corpus.vocabulary == made.vocabulary == VoiceVocabulary(3, longest)
    assert len(corpus.pieces) == len(pieces)
    for piece, frames in zip(corpus.pieces, pieces, strict=True):
        tokens = corpus.tokens[piece.start : piece.stop]
        if longest == 3:
            assert len(tokens) == 2 + frames.size
        roll = np.full(frames.shape, -1)
        for onset, duration, pitch, voice in corpus.vocabulary.decode(tokens).tolist():
            roll[onset // 3 : (onset + duration) // 3, voice] = pitch
        # From the lowest voice to the highest: by their mean pitch.
        order = np.argsort([frames[:, voice][frames[:, voice] >= 0].mean() for voice in range(3)])
        np.testing.assert_array_equal(roll, frames[:, order])


def test_music_of_more_voices_is_refused_and_chords_have_none(tmp_path):
    path, _ = frames_file(tmp_path)
    with pytest.raises(InputError, match="3 tracks are more than 2 voices"):
        prepare([str(path)], tmp_path / "corpus", PrepareConfig(voices=2))
    with pytest.raises(InputError, match="voices = 4"):
        prepare([str(path)], tmp_path / "corpus", PrepareConfig(tokenizer="chord", voices=4))
    assert not list(tmp_path.glob("corpus*"))


@st.composite
def allowed_tokens(draw):
    """Tokens that the rules allow: voices cross, share a pitch, rest for a while or from beginning to end."""
    voices, slices = draw(st.integers(1, 5)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    silent = rng.random(voices) < 0.2
    events, before = [(0, 0)], [None] * voices
    for _ in range(slices):
        for voice in range(voices):
            does = rng.choice(["rest", "held", "struck", "struck"])
            if silent[voice] or does == "rest" or (does == "held" and before[voice] is None):
                id, before[voice] = REST, None
            elif does == "held":
                id = H + before[voice]
            else:
                before[voice] = int(rng.integers(60, 64))
                id = A + before[voice]
            events.append((id, int(rng.integers(1, 9)) if voice == voices - 1 else 0))
    return VoiceVocabulary(voices, 8), np.array([*events, (1, 0)], np.int32)


@given(allowed_tokens())
def test_any_tokens_come_back_from_a_file_voice_by_voice(tmp_path_factory, written):
    """Rests that all voices share at the ends go, and so do cuts that nobody hears; time stays as it is."""
    vocabulary, tokens = written
    notes = vocabulary.decode(tokens, trim=False)
    names, path = voice_names(vocabulary.voices), tmp_path_factory.mktemp("voices") / "piece.mid"
    write_midi(notes, path, names=names)
    piece = read_midi(path.read_bytes(), "uniform")
    np.testing.assert_array_equal(piece.notes, notes)
    heard = vocabulary.encode(Piece(notes, voiced=vocabulary.voices))
    np.testing.assert_array_equal(vocabulary.encode(piece), heard)
    write_midi(vocabulary.decode(heard), path, names=names)
    np.testing.assert_array_equal(vocabulary.encode(read_midi(path.read_bytes(), "uniform")), heard)


@pytest.mark.parametrize("quantizer", ["adaptive", "music21"])
def test_voices_that_change_places_are_told_by_their_names_alone(tmp_path, quantizer):
    notes = make_notes([0, 0, 12, 12], [12, 12, 24, 24], [40, 60, 75, 50], [0, 1, 0, 1])
    write_midi(notes, tmp_path / "named.mid", names=voice_names(2))
    write_midi(notes, tmp_path / "plain.mid")
    named, plain = (
        read_midi((tmp_path / f"{name}.mid").read_bytes(), quantizer) for name in ("named", "plain")
    )
    assert (named.voiced, plain.voiced) == (2, 0)
    low = [notes[notes[:, 3] == voice, 2].tolist() for voice in (0, 1)]
    assert [own[:, 2].tolist() for own in by_voice(named.notes, 2, named.voiced == 2)] == low
    assert [own[:, 2].tolist() for own in by_voice(plain.notes, 2)] == low[::-1]


def test_names_of_voices():
    assert voice_names(4) == ("Bass", "Tenor", "Alto", "Soprano")
    assert voice_names(3) == ("Voice 3", "Voice 2", "Voice 1")
    assert voice_names(1) == voice_names(0) == ()


@pytest.mark.parametrize(
    ("sounding", "silent", "voices"),
    [
        (["Soprano", "Alto", "Tenor", "Bass"], [], [3, 2, 1, 0]),
        (["soprano", " BASS "], [], [3, 0]),
        (["Voice 1", "voice 2"], ["Voice 3", ""], [2, 1]),
        (["Voice 2", "Voice 1"], ["a title"], [0, 1]),
        (["Soprano", "Soprano"], [], None),
        (["Soprano", "Voice 2"], [], None),
        (["Soprano", "Organ"], [], None),
        (["Voice 0"], [], None),
        ([""], [], None),
        ([], ["Voice 1"], None),
    ],
)
def test_tracks_are_voices_where_all_are_named_as_such(sounding, silent, voices):
    assert named_voices(sounding, silent) == voices


def test_named_voices_find_room_in_fewer():
    """Soprano and bass of four are the two of a vocabulary of two."""
    notes = make_notes([0, 0], [12, 12], [60, 65], [3, 0])
    assert [own[:, 2].tolist() for own in by_voice(notes, 2, named=True)] == [[65], [60]]
    assert [own[:, 2].tolist() for own in by_voice(notes, 4, named=True)] == [[65], [], [], [60]]
