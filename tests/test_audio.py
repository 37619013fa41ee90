"""What is synthesised has the pitch, the length and the rests of the notes, and files do not clip."""

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from midigen_jax.errors import InputError
from midigen_jax.listen.audio import SAMPLE_RATE, TAIL_SECONDS, synthesize, write_audio

A4 = 69


def notes(*rows: tuple[int, int, int, int]) -> np.ndarray:
    return np.array(rows, np.int32).reshape(-1, 4)


def decibels(samples: np.ndarray) -> float:
    return float(20 * np.log10(np.sqrt(np.square(samples, dtype=np.float64).mean()) + 1e-12))


def strongest(samples: np.ndarray) -> float:
    """The frequency in Hz of the highest peak of the spectrum."""
    size = 1 << 18
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), size))
    return float(spectrum.argmax() * SAMPLE_RATE / size)


@pytest.mark.parametrize("program", [0, 19])
@pytest.mark.parametrize(("pitch", "hertz"), [(A4, 440.0), (57, 220.0), (81, 880.0)])
def test_a_note_sounds_at_its_frequency(program, pitch, hertz):
    found = strongest(synthesize(notes((0, 24, pitch, 0)), tempo=60, program=program))
    assert found == pytest.approx(hertz, rel=1e-3)  # two cents: piano strings are a little sharp


@given(
    tempo=st.floats(20, 300), onset=st.integers(0, 40), duration=st.integers(1, 24), pitch=st.integers(0, 127)
)
@settings(deadline=None, max_examples=15)
def test_any_note_lasts_as_its_ticks_say(tempo, onset, duration, pitch):
    samples = synthesize(notes((onset, duration, pitch, 0)), tempo)
    seconds = (onset + duration) / 12 * 60 / tempo + TAIL_SECONDS
    assert len(samples) == pytest.approx(seconds * SAMPLE_RATE, abs=2)
    assert samples.dtype == np.float32
    assert np.isfinite(samples).all()
    first = int(onset / 12 * 60 / tempo * SAMPLE_RATE)
    assert np.abs(samples[: max(first - 1, 0)]).max(initial=0) < 1e-5  # the room's FFT rounds


def test_tempo_is_quarters_a_minute():
    slow, fast = (synthesize(notes((0, 12, A4, 0), (12, 12, A4, 0)), tempo) for tempo in (60, 120))
    assert len(slow) - len(fast) == SAMPLE_RATE  # two quarters: 2 s and 1 s


@pytest.mark.parametrize("program", [0, 19])
def test_a_rest_is_silent(program):
    samples = synthesize(notes((0, 12, A4, 0), (48, 12, A4, 0)), tempo=60, program=program)
    sounding, rest = samples[:SAMPLE_RATE], samples[round(2.5 * SAMPLE_RATE) : 4 * SAMPLE_RATE]
    assert decibels(rest) < decibels(sounding) - 60


def test_a_struck_note_dies_away_and_a_sustained_one_does_not():
    def change(program: int) -> float:
        samples = synthesize(notes((0, 48, A4, 0)), tempo=60, program=program)
        early, late = (
            samples[SAMPLE_RATE // 2 : SAMPLE_RATE],
            samples[3 * SAMPLE_RATE : 4 * SAMPLE_RATE - 2000],
        )
        return decibels(late) - decibels(early)

    assert change(0) < -10
    assert abs(change(19)) < 1


def test_no_notes_are_silence():
    samples = synthesize(notes(), tempo=90)
    assert len(samples) == TAIL_SECONDS * SAMPLE_RATE
    assert not samples.any()


def test_the_same_notes_give_the_same_sound():
    piece = notes((0, 12, 60, 0), (0, 12, 64, 1), (12, 12, 60, 0))
    np.testing.assert_array_equal(synthesize(piece, 90), synthesize(piece, 90))


@pytest.mark.parametrize("suffix", [".mp3", ".wav", ".ogg"])
def test_forty_notes_at_once_do_not_clip_in_a_file(tmp_path, suffix):
    samples = synthesize(notes(*((0, 12, 40 + n, 0) for n in range(40))), tempo=60)
    path = tmp_path / "made" / f"cluster{suffix}"
    write_audio(path, 50 * samples)
    heard, rate = soundfile.read(path)
    assert rate == SAMPLE_RATE
    assert len(heard) / rate == pytest.approx(2.0, abs=0.1)  # codecs pad to whole frames
    assert 0.7 < np.abs(heard).max() < 0.99
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_silence_is_written_as_silence(tmp_path):
    write_audio(tmp_path / "rest.wav", np.zeros(1000, np.float32))
    assert not soundfile.read(tmp_path / "rest.wav")[0].any()


def test_an_unknown_format_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"a\.flac.*\.mp3, \.wav, \.ogg"):
        write_audio(tmp_path / "a.flac", np.zeros(10, np.float32))
    assert not list(tmp_path.iterdir())
