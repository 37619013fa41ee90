"""A census in pictures: every bar and every line has the height that the counts say."""

import numpy as np
import pytest

from midigen_jax.listen.charts import (
    draw_durations,
    draw_keys,
    draw_meters,
    draw_pitches,
    draw_polyphony,
    draw_tempos,
    draw_vocabulary,
)
from midigen_jax.listen.figures import svg
from midigen_jax.music.census import Census, Counted
from midigen_jax.music.key import Key
from midigen_jax.music.notes import make_notes
from midigen_jax.music.slices import slice_notes

SCALE = np.array([0, 2, 4, 5, 7, 9, 11, 12])


def census_of(*tunes: tuple[str, int, int]) -> Census:
    """Major scales of eighths (split, tonic, number), each over its held tonic an octave below.

    Tempo and meter change from number to number: 60, 90, 120; 2/4, 3/4.
    """
    census = Census()
    for split, tonic, number in tunes:
        onset, duration = np.append(np.arange(8) * 6, 0), np.append(np.full(8, 6), 48)
        slices = slice_notes(make_notes(onset, duration, tonic + np.append(SCALE, -12), np.zeros(9)))
        tempo, meter = 60.0 + 30 * (number % 3), (2 + number % 2, 4)
        census.add(Counted(slices, Key(tonic % 12, "major"), tempo, meter, ticks=48, events=18, split=split))
    return census


@pytest.fixture(scope="module")
def tunes():
    """Ten of them, in the ten keys from C to A."""
    return census_of(*(("", 60 + number, number) for number in range(10)))


def heights(chart, axes: int = 0) -> list[float]:
    return [bar.get_height() for bar in chart.figure.axes[axes].patches]


def labels(chart) -> list[str]:
    return [label.get_text() for label in chart.figure.axes[0].get_xticklabels()]


def test_pitches_are_drawn_over_a_keyboard(tunes):
    chart = draw_pitches(tunes)
    bars, keys = chart.figure.axes
    drawn = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in bars.patches}
    assert sum(drawn.values()) == pytest.approx(100)
    assert drawn[48] == pytest.approx(100 / 90)  # the lowest tonic, once
    assert len(keys.patches) == len(drawn)  # a key for each bar
    assert [label.get_text() for label in keys.get_xticklabels()] == ["C3", "C4", "C5"]
    assert "between C3 and A5" in chart.sentence


def test_every_key_has_a_bar_beside_that_of_its_signature(tunes):
    chart = draw_keys(tunes)
    assert len(heights(chart)) == 24
    assert heights(chart)[:12] == [1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 0, 1]  # by fifths: no Bb, no B
    assert labels(chart)[5] == "C\nAm"


def test_durations_are_drawn_in_note_values(tunes):
    chart = draw_durations(tunes)
    drawn = dict(zip(labels(chart), heights(chart), strict=False))
    assert {name: share for name, share in drawn.items() if share} == pytest.approx(
        {"1/8": 800 / 9, "1/1": 100 / 9}
    )
    assert heights(chart)[len(drawn) + list(drawn).index("1/8")] == 100  # of slices


def test_polyphony_is_drawn_as_shares_of_the_time(tunes):
    assert heights(draw_polyphony(tunes)) == [0, 0, 100, *[0] * 10]


def test_tempi_and_meters_are_drawn_as_pieces(tunes):
    tempi = draw_tempos(tunes)
    assert {10 * place: count for place, count in enumerate(heights(tempi)) if count} == {
        60: 4,
        90: 3,
        120: 3,
    }
    assert labels(tempi)[-1] == "240+"
    meters = draw_meters(tunes)
    assert dict(zip(labels(meters), heights(meters), strict=True)) == {"2/4": 5, "3/4": 5}


def test_without_splits_the_picture_shows_what_a_vocabulary_covers(tunes):
    chart = draw_vocabulary(tunes)
    (line,) = chart.figure.axes[0].lines
    assert line.get_label() == "slices covered"
    assert (line.get_xdata()[-1], line.get_ydata()[-1]) == (80, pytest.approx(100))
    assert "Chord symbols: 80; the 72 most frequent of them cover 90 % of the slices" in chart.sentence
    assert "100.0 % of these slices have a chord that is in no other piece" in chart.sentence


def test_with_splits_it_shows_what_stays_unseen_too():
    census = census_of(("train", 60, 0), ("train", 60, 1), ("valid", 60, 2), ("test", 61, 3))
    chart = draw_vocabulary(census)
    covered, unseen = chart.figure.axes[0].lines
    assert (covered.get_label(), unseen.get_label()) == ("training slices covered", "held-out slices unseen")
    assert covered.get_ydata()[-1] == pytest.approx(100)
    assert unseen.get_ydata()[-1] == pytest.approx(50)  # C major is seen, D flat major is not
    assert "With all of them 50.0 % of the held-out slices are still unseen" in chart.sentence


def test_a_census_without_a_training_split_can_be_drawn():
    chart = draw_vocabulary(census_of(("valid", 60, 0)))
    assert "100.0 % of the held-out slices" in chart.sentence
    assert svg(chart.figure).startswith("<svg")


def test_every_picture_has_axes_with_names_and_a_sentence(tunes):
    draws = (draw_keys, draw_durations, draw_polyphony, draw_tempos, draw_meters, draw_vocabulary)
    for chart in (draw(tunes) for draw in draws):
        assert chart.figure.axes[0].get_xlabel()
        assert chart.figure.axes[0].get_ylabel()
        assert chart.sentence.endswith(".")
