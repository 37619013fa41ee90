"""Notes to sound: no SoundFont, no system library, so that it works wherever pip does.

In: Notes and a tempo. Out: mono samples, and MP3, WAV or OGG files. A voice is a sum of partials, and each
partial of a struck string dies faster the higher it is; that, more than the spectrum, is what an ear takes
for a piano (Fletcher & Rossing, The Physics of Musical Instruments, chapter 12). A little room is added.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from midigen_jax.errors import InputError
from midigen_jax.files import replacing
from midigen_jax.listen import check_installed
from midigen_jax.music.clock import TWELFTHS, Clock
from midigen_jax.music.notes import Notes

SAMPLE_RATE = 22_050  # Hz; what the partials reach fits below 11 kHz, and files stay small
TAIL_SECONDS = 1.0  # after the last release, for the room to die away

_PEAK = 0.9  # below 1: lossy codecs overshoot
_RELEASE_SECONDS = 0.06  # time constant of a damped string
_FORMATS = {".mp3": "MP3", ".wav": "WAV", ".ogg": "OGG"}
_BLOCK = 1 << 16  # samples at a time: long writes overflow the stack of the Vorbis encoder


def synthesize(notes: Notes, tempo: float, program: int = 0, clock: Clock = TWELFTHS) -> NDArray[np.float32]:
    """Play `notes` (N, 4) at `tempo` quarters a minute: float32 samples within ±0.9 at SAMPLE_RATE.

    The sound lasts until the last release and TAIL_SECONDS more. `program` (General MIDI, 0 to 127) chooses
    between the two kinds of instrument that there are here: struck (piano) and sustained (organ).
    """
    onset, duration, pitch = (notes[:, column].astype(np.int64) for column in range(3))
    per_tick = clock.seconds(1, tempo) * SAMPLE_RATE
    start = np.round(onset * per_tick).astype(np.int64)
    held = np.maximum(np.round((onset + duration) * per_tick).astype(np.int64) - start, 1)
    fading = np.arange(round(6 * _RELEASE_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    release = np.exp(-fading / _RELEASE_SECONDS) * (1 - fading / fading[-1])

    end = int((start + held).max(initial=0))
    samples = np.zeros(end + round(TAIL_SECONDS * SAMPLE_RATE), np.float32)
    for key in np.unique(pitch):
        (which,) = np.nonzero(pitch == key)
        # One rendering serves all notes of a pitch: most of the time is spent in sines.
        voice = _voice(int(key), int(held[which].max()) + len(release), _is_sustained(program))
        for first, count in zip(start[which], held[which], strict=True):
            note = voice[: count + len(release)].copy()
            note[count:] *= release
            samples[first : first + len(note)] += note
    return _normalise(_room(samples))


def write_audio(path: Path, samples: NDArray[np.float32]) -> None:
    """Write mono `samples` (SAMPLE_RATE) to `path`, as loud as they may be; silence stays silent.

    Raises InputError for a suffix that is not .mp3, .wav or .ogg.
    """
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path}: no audio format of that name; end it in {', '.join(_FORMATS)}")
    check_installed()
    import soundfile

    loud = _normalise(samples)
    with (
        replacing(path) as partial,
        soundfile.SoundFile(partial, "w", samplerate=SAMPLE_RATE, channels=1, format=kind) as file,
    ):
        for first in range(0, len(loud), _BLOCK):
            file.write(loud[first : first + _BLOCK])


def _is_sustained(program: int) -> bool:
    """Organs, bowed strings, voices, brass, reeds, pipes and pads sound until they are released."""
    return 16 <= program < 24 or 40 <= program < 45 or 48 <= program < 96


def _voice(pitch: int, length: int, sustained: bool) -> NDArray[np.float32]:
    """The first `length` samples of one held key."""
    frequency = 440.0 * 2 ** ((pitch - 69) / 12)
    number = np.arange(1, 25)
    # Stiff strings are a little sharp in their upper partials.
    partial = frequency * number * (1 if sustained else np.sqrt(1 + 2e-4 * number**2))
    number, partial = number[partial < 0.45 * SAMPLE_RATE], partial[partial < 0.45 * SAMPLE_RATE]
    seconds = np.arange(length) / SAMPLE_RATE
    if sustained:
        level = 1.0 / number**1.6
        rise, decay = 0.03, 0.0 * number
    else:
        # A hammer at an eighth of the string leaves the eighth partial out, and bass keys are brighter.
        level = (np.abs(np.sin(np.pi * number / 8)) + 0.02) / number ** (1.0 + max(pitch - 36, 0) / 60)
        rise, decay = 0.004, (0.45 + 0.25 * number) * 2 ** ((pitch - 60) / 18)
    voice = np.zeros(length)
    for hertz, amplitude, rate in zip(partial, level / level.sum(), decay, strict=True):
        voice += amplitude * np.exp(-rate * seconds) * np.sin(2 * np.pi * hertz * seconds)
    # Equal amplitudes sound louder the higher they are.
    balance = 2 ** ((60 - pitch) / 36)
    return (voice * balance * np.minimum(seconds / rise, 1)).astype(np.float32)


def _room(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """`samples` with a soft echo, the same always: noise that is 60 dB down after 0.7 s."""
    from scipy.signal import oaconvolve

    seconds = np.arange(round(0.7 * SAMPLE_RATE)) / SAMPLE_RATE
    echo = np.random.default_rng(0).standard_normal(len(seconds)) * 10 ** (-3 * seconds / 0.7)
    echo *= np.minimum(seconds / 0.02, 1)
    echo *= 0.35 / np.sqrt(np.square(echo).sum())
    return samples + oaconvolve(samples, echo)[: len(samples)].astype(np.float32)


def _normalise(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale to a peak of _PEAK."""
    peak = float(np.abs(samples).max(initial=0))
    return samples * np.float32(_PEAK / peak) if peak > 1e-6 else samples
