"""Quantisers: exact on the grid, near it off the grid, and music21's own where that is asked for."""

import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midigen_jax.music import quantize
from midigen_jax.music.notes import Notes, make_notes
from midigen_jax.music.quantize import Ticks
from midigen_jax.music.read import Source, find_sources, read_piece
from midigen_jax.music.slices import slice_notes
from midigen_jax.music.write import write_midi

ARTICLE_DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "midi_dataset.zip"


def snapped(
    quantizer: Callable[[Ticks, Ticks, int], tuple[Ticks, Ticks]],
    onset: Sequence[int],
    release: Sequence[int],
    per_quarter: int = 480,
) -> tuple[list[int], list[int]]:
    onsets, releases = quantizer(np.array(onset, np.int64), np.array(release, np.int64), per_quarter)
    return onsets.tolist(), releases.tolist()


def test_a_beat_of_sixteenths_and_a_beat_of_triplets() -> None:
    onset = [3, 118, 243, 355, 480, 645, 795]
    release = [*onset[1:], 955]
    assert snapped(quantize.adaptive, onset, release) == ([0, 3, 6, 9, 12, 16, 20], [3, 6, 9, 12, 16, 20, 24])


def test_a_tie_and_a_beat_without_onsets_take_quarters() -> None:
    assert snapped(quantize.adaptive, [0], [480 + 150]) == ([0], [15])


def test_a_staccato_note_lasts_one_step_of_its_grid() -> None:
    assert snapped(quantize.adaptive, [0, 480, 640, 800], [20, 490, 650, 810]) == (
        [0, 12, 16, 20],
        [3, 16, 20, 24],
    )


def test_uniform_goes_to_the_nearest_twelfth_and_down_from_half_way() -> None:
    assert snapped(quantize.uniform, [19, 20, 21, 60], [61, 80, 99, 101]) == ([0, 0, 1, 1], [2, 2, 2, 3])


def spans(limit: int) -> st.SearchStrategy[list[list[int]]]:
    return st.lists(
        st.tuples(st.integers(0, limit), st.integers(0, limit)).map(sorted), min_size=1, max_size=12
    )


@given(spans(4000), st.sampled_from([24, 96, 100, 480, 1001]))
def test_adaptive_is_what_fractions_give(pairs: list[list[int]], per_quarter: int) -> None:
    def snap(time: int, parts: int) -> Fraction:
        low = Fraction(time * parts, per_quarter).__floor__()
        above = Fraction(time * parts, per_quarter) - low > Fraction(1, 2)
        return Fraction(low + above, parts)

    def error(beat: int, parts: int) -> Fraction | int:
        onsets = [a for a, _ in pairs if a // per_quarter == beat]
        return sum(abs(snap(a, parts) - Fraction(a, per_quarter)) for a in onsets)

    def parts_of(time: int) -> int:
        beat = time // per_quarter
        return 3 if error(beat, 3) < error(beat, 4) else 4

    onset, release = zip(*pairs, strict=True)
    begin = [int(12 * snap(a, parts_of(a))) for a in onset]
    end = [
        max(int(12 * snap(b, parts_of(b))), s + 12 // parts_of(a))
        for (a, b), s in zip(pairs, begin, strict=True)
    ]
    assert snapped(quantize.adaptive, onset, release, per_quarter) == (begin, end)


@given(spans(400), st.integers(1, 50))
def test_uniform_leaves_the_grid_alone(pairs: list[list[int]], scale: int) -> None:
    onset, release = (list(column) for column in zip(*pairs, strict=True))
    raw = ([scale * a for a in onset], [scale * b for b in release])
    assert snapped(quantize.uniform, *raw, 12 * scale) == (onset, release)


def by_music21(path: Path) -> Notes:
    """The file's notes as music21 itself reads them, drums left out; its ties (at bar lines) joined."""
    from music21 import converter

    from midigen_jax.music.scores import rows_of

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        score: Any = converter.parse(path, forceSource=True)
    rows = []
    for track, part in enumerate(score.parts):
        rows += rows_of(part.flatten(), track)
    return make_notes(*np.array(rows, np.int64).reshape(-1, 4).T)


@pytest.mark.parametrize("seed", range(5))
def test_music21_mode_equals_music21_on_the_grid(seed: int, tmp_path: Path) -> None:
    """Two tracks of chords and rests, sixteenths and triplets: the same sounding sets and attacks."""
    random = np.random.default_rng(seed)
    rows = []
    for track in range(2):
        time = 0
        while time < 16 * 12:
            step = int(random.choice([3, 4] if time % 12 == 0 else [12 - time % 12]))
            length = step if random.random() < 0.8 else 12 * (1 + time // 12) - time
            for pitch in random.choice(np.arange(48, 72), random.integers(0, 4), replace=False):
                rows.append((time, length, pitch + 12 * track, track))
            time += length
    notes = make_notes(*np.array(rows).T)
    path = tmp_path / "grid.mid"
    write_midi(notes, path)
    ours = slice_notes(read_piece(Source("grid", path), "music21").notes)
    assert ours == slice_notes(by_music21(path))


@pytest.mark.skipif(not ARTICLE_DATA.is_file(), reason="the article's data set is not beside the checkout")
@pytest.mark.parametrize("name", ["Courting Song", "Waltz No.3", "Mikrokosmos"])
def test_music21_mode_equals_music21_on_the_articles_files(name: str, tmp_path: Path) -> None:
    (source,) = (s for s in find_sources([str(ARTICLE_DATA)]) if s.name.endswith(f"/{name}.mid"))
    path = tmp_path / "piece.mid"
    path.write_bytes(source.content())
    assert slice_notes(read_piece(source, "music21").notes) == slice_notes(by_music21(path))


@settings(deadline=None, max_examples=100)
@given(spans(300) | spans(3000), st.sampled_from([96, 100, 384, 480]))
def test_music21_mode_equals_its_quantiser_off_the_grid(pairs: list[list[int]], per_quarter: int) -> None:
    """One track, compared before music21 cuts bars: there it can mangle what it has quantised."""
    from music21 import midi

    notes = np.array([(a, b, 40 + i, 0) for i, (a, b) in enumerate(sorted(pairs))], np.int64)
    ours = quantize.music21(quantize.RawTrack(notes, np.zeros(0, np.int64)), per_quarter)
    track = midi.MidiTrack(0)
    events = [(a, 1, 90, pitch) for a, _, pitch, _ in notes.tolist()]
    events += [(b, 0, 0, pitch) for _, b, pitch, _ in notes.tolist()]
    # A note of no length must be struck before it is released.
    events.sort(key=lambda event: (event[0], -event[1]))
    now = 0
    for time, struck, velocity, pitch in events:
        kind = midi.ChannelVoiceMessages.NOTE_ON if struck else midi.ChannelVoiceMessages.NOTE_OFF
        track.events += [
            midi.DeltaTime(track, time=time - now, channel=1),
            midi.MidiEvent(track, type=kind, channel=1),
        ]
        track.events[-1].pitch, track.events[-1].velocity = pitch, velocity
        now = time
    theirs = quantised(track, per_quarter)
    assert sorted(zip(*(column.tolist() for column in ours), strict=True)) == sorted(theirs)


def quantised(track: Any, per_quarter: int) -> list[tuple[int, int, int]]:
    from music21 import midi, stream

    class Unbarred(stream.Part):
        def makeMeasures(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802
            return self

        makeTies = makeRests = makeMeasures

    part = Unbarred()
    midi.translate.midiTrackToStream(track, ticksPerQuarter=per_quarter, inputM21=part)
    return [
        (round(12 * element.offset), round(12 * element.quarterLength), pitch.midi)
        for element in part.notes
        for pitch in element.pitches
    ]
