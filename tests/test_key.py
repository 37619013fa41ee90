"""Keys: found as music21 finds them, named as people do, and reached by transposition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midigen_jax.errors import InputError
from midigen_jax.music.key import (
    Key,
    Profile,
    Target,
    find_key,
    key_of,
    matches,
    parse_key,
    shift_to,
    spell,
    transpose,
)
from midigen_jax.music.notes import Notes, make_notes

KEYS = st.builds(Key, st.integers(0, 11), st.sampled_from(["major", "minor"]))
TARGETS = st.sampled_from(["C", "F#", "Bb", "Db", "C major", "A minor", "G# minor", "Eb major"]).map(
    parse_key
)
PITCHES = st.lists(st.integers(0, 127), min_size=1, max_size=20)


def line(pitches: list[int]) -> Notes:
    """One note after the other, a quarter each."""
    count = len(pitches)
    return make_notes(12 * np.arange(count), np.full(count, 12), pitches, np.zeros(count))


def scale(key: Key) -> Notes:
    """The scale and the tonic triad, from octave 4."""
    steps = [0, 2, 4, 5, 7, 9, 11, 0, 4, 7] if key.mode == "major" else [0, 2, 3, 5, 7, 8, 11, 0, 3, 7]
    return line([60 + key.tonic + step for step in steps])


@given(KEYS, st.sampled_from(["krumhansl", "aarden"]))
def test_a_scale_is_in_its_key(key: Key, profile: Profile) -> None:
    assert find_key(scale(key), profile) == key


def test_silence_has_some_key() -> None:
    assert isinstance(find_key(make_notes([], [], [], [])), Key)


def test_keys_are_named_as_people_name_them() -> None:
    names = [str(Key(0, "major")), str(Key(6, "minor")), str(Key(10, "major"))]
    assert names == ["C major", "F# minor", "Bb major"]
    assert [str(parse_key(text)) for text in ("C", "A minor")] == ["C major or A minor", "A minor"]


@given(KEYS)
def test_any_key_can_be_read_from_its_name(key: Key) -> None:
    assert parse_key(str(key)) == Target(key, both_modes=False)


@pytest.mark.parametrize("text", ["", "H", "c", "C##", "C dorian", "major", "C majorA", "12"])
def test_what_is_no_key_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match=r"give a tonic such as C, F# or Bb"):
        parse_key(text)


@pytest.mark.parametrize(
    ("key", "target", "shift"),
    [
        (Key(0, "major"), "C", 0),
        (Key(9, "minor"), "C", 0),
        (Key(9, "minor"), "A minor", 0),
        (Key(7, "major"), "C", 5),
        (Key(5, "major"), "C", -5),
        (Key(6, "major"), "C", -6),
        (Key(7, "major"), "A minor", 5),
        (Key(4, "minor"), "C major", 5),
        (Key(0, "major"), "Bb", -2),
    ],
)
def test_shifts(key: Key, target: str, shift: int) -> None:
    assert shift_to(key, parse_key(target)) == shift


@given(KEYS, TARGETS)
def test_any_scale_arrives_by_the_shortest_way(key: Key, target: Target) -> None:
    shift = shift_to(key, target)
    assert -6 <= shift <= 5
    arrived = find_key(transpose(scale(key), shift))
    assert arrived.mode == key.mode
    assert arrived.home == target.key.home


def test_matches() -> None:
    both, major, minor = parse_key("C"), parse_key("C major"), parse_key("A minor")
    c_major, a_minor, c_minor = Key(0, "major"), Key(9, "minor"), Key(0, "minor")
    assert [matches(key, both) for key in (c_major, a_minor, c_minor)] == [True, True, False]
    assert [matches(key, major) for key in (c_major, a_minor, c_minor)] == [True, False, False]
    assert [matches(key, minor) for key in (c_major, a_minor, c_minor)] == [False, True, False]


@given(PITCHES, st.integers(-30, 30))
def test_any_transposition_stays_in_range_and_in_key(pitches: list[int], shift: int) -> None:
    moved = transpose(line(pitches), shift)[:, 2]
    assert moved.min() >= 0
    assert moved.max() <= 127
    assert ((moved - pitches - shift) % 12 == 0).all()
    octaves = [shift + 12 * k for k in range(-14, 15)]
    fits = [s for s in octaves if min(pitches) + s >= 0 and max(pitches) + s <= 127]
    if fits:
        nearest = min(fits, key=lambda s: abs(s - shift))
        assert (moved - pitches == nearest).all()


def test_only_what_is_outside_is_folded() -> None:
    assert transpose(line([0, 60, 127]), -5)[:, 2].tolist() == [7, 55, 122]
    assert transpose(line([0, 60, 127]), 5)[:, 2].tolist() == [5, 65, 120]


def test_no_notes_move_anywhere() -> None:
    assert len(transpose(make_notes([], [], [], []), 5)) == 0


def named(pitches: range, key: str) -> str:
    """How pitches are written in a key."""
    marks = {-2: "bb", -1: "b", 0: "", 1: "#", 2: "##"}
    found = [spell(pitch, parse_key(key).key) for pitch in pitches]
    return " ".join(f"{letter}{marks[alter]}{octave}" for letter, alter, octave in found)


def test_pitches_are_written_as_people_write_them() -> None:
    octave = range(60, 72)
    assert named(octave, "C major") == "C4 C#4 D4 Eb4 E4 F4 F#4 G4 G#4 A4 Bb4 B4"
    assert named(octave, "A minor") == "C4 C#4 D4 D#4 E4 F4 F#4 G4 G#4 A4 Bb4 B4"
    assert named(octave, "F minor") == "C4 Db4 D4 Eb4 E4 F4 Gb4 G4 Ab4 A4 Bb4 B4"
    assert named(octave, "F# major") == "B#3 C#4 C##4 D#4 E4 E#4 F#4 F##4 G#4 A4 A#4 B4"
    assert named(octave, "Db major") == "C4 Db4 D4 Eb4 Fb4 F4 Gb4 G4 Ab4 A4 Bb4 Cb5"


@given(KEYS, st.integers(0, 127))
def test_a_spelling_sounds_as_its_pitch_and_a_scale_as_its_signature(key: Key, pitch: int) -> None:
    letter, alter, octave = spell(pitch, key)
    assert (
        12 * (octave + 1) + dict(zip("CDEFGAB", (0, 2, 4, 5, 7, 9, 11), strict=True))[letter] + alter == pitch
    )
    steps = [0, 2, 4, 5, 7, 9, 11] if key.mode == "major" else [0, 2, 3, 5, 7, 8, 10]
    written = [spell(60 + key.tonic + step, key) for step in steps]
    assert sorted(letter for letter, *_ in written) == sorted("CDEFGAB")
    assert sum(alter for _, alter, _ in written) == key.fifths


@given(KEYS, TARGETS)
def test_what_was_asked_for_is_the_key_but_the_mode_may_be_heard(key: Key, asked: Target) -> None:
    own = key_of(scale(key), asked)
    assert key_of(scale(key)) == key
    assert own == (key if matches(key, asked) else asked.key)
