"""A piano roll is a small PNG in which every note lies at its time and pitch."""

import io
import re

import matplotlib.figure
import matplotlib.image
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midigen_jax.listen.curves import best_step, draw_curves, series
from midigen_jax.listen.figures import svg
from midigen_jax.listen.pianoroll import LEFT, RIGHT, draw

ROWS = [
    {"name": "train.nats_per_event.pitch", "value": 4.0, "step": 10},
    {"name": "train.nats_per_event.pitch", "value": 2.0, "step": 20},
    {"name": "valid.nats_per_event.pitch", "value": 3.0, "step": 20},
    {"name": "valid.nats_per_event.pitch", "value": 2.5, "step": 40},
    {"name": "valid.nats_per_event", "value": 3.5, "step": 20},
    {"name": "valid.nats_per_event", "value": 3.75, "step": 40},
]


def notes(*rows: tuple[int, int, int, int]) -> np.ndarray:
    return np.array(rows, np.int32).reshape(-1, 4)


def coloured(path) -> np.ndarray:
    """Where a picture is colour, not paper or ink: a boolean (height, width)."""
    picture = matplotlib.image.imread(path)[..., :3]
    return picture.max(-1) - picture.min(-1) > 0.2


def test_notes_lie_at_their_times(tmp_path):
    draw(notes((0, 24, 60, 0), (72, 24, 72, 0)), tmp_path / "roll.png")
    ink = coloured(tmp_path / "roll.png")
    height, width = ink.shape
    assert (width, height) == (900, 260)
    shares = (np.nonzero(ink.any(0))[0] / width - LEFT) / (RIGHT - LEFT)
    first, second = shares[shares < 0.5], shares[shares >= 0.5]
    assert (first.min(), first.max()) == pytest.approx((0.0, 0.25), abs=0.01)
    assert (second.min(), second.max()) == pytest.approx((0.75, 1.0), abs=0.01)


def test_higher_pitches_lie_higher(tmp_path):
    draw(notes((0, 24, 60, 0), (72, 24, 72, 0)), tmp_path / "roll.png")
    ink = coloured(tmp_path / "roll.png")
    low, high = (np.nonzero(half.any(1))[0].mean() for half in (ink[:, :450], ink[:, 450:]))
    assert high < low - 50  # rows are counted from the top


def test_a_repeated_note_does_not_look_like_a_long_one(tmp_path):
    draw(notes((0, 24, 60, 0), (24, 24, 60, 0)), tmp_path / "two.png")
    draw(notes((0, 48, 60, 0)), tmp_path / "one.png")
    two, one = (matplotlib.image.imread(tmp_path / f"{name}.png") for name in ("two", "one"))
    columns = np.nonzero(np.abs(two - one).max((0, 2)) > 0.1)[0] / 900
    assert len(columns)
    assert columns == pytest.approx((LEFT + RIGHT) / 2, abs=0.005)


def test_tracks_have_their_own_colours(tmp_path):
    draw(notes((0, 48, 60, 0), (0, 48, 72, 1)), tmp_path / "roll.png")
    picture = matplotlib.image.imread(tmp_path / "roll.png")[:, 450, :3][
        coloured(tmp_path / "roll.png")[:, 450]
    ]
    assert len(np.unique(picture.round(2), axis=0)) >= 2


rows = st.tuples(st.integers(0, 5000), st.integers(1, 200), st.integers(0, 127), st.integers(0, 20))


@given(st.lists(rows, max_size=30), st.text(max_size=20), st.none() | st.floats(4, 1000))
@settings(deadline=None, max_examples=15)
def test_any_notes_and_any_title_can_be_drawn(tmp_path_factory, piece, title, tempo):
    path = tmp_path_factory.mktemp("rolls") / "roll.png"
    draw(notes(*piece), path, title, tempo)
    assert matplotlib.image.imread(path).shape[:2] == (260, 900)
    assert path.stat().st_size < 60_000


def test_a_failure_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "roll.png"
    draw(notes((0, 24, 60, 0)), path)
    before = path.read_bytes()

    def fail(*_, **__):
        raise RuntimeError

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", fail)
    with pytest.raises(RuntimeError):
        draw(notes((0, 24, 72, 0)), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_curves_are_drawn_from_rows():
    axes = draw_curves(ROWS, "pitch", kept=(20,)).axes[0]
    lines = {line.get_label(): np.asarray(line.get_xydata()).tolist() for line in axes.lines}
    assert lines["training"] == [[10, 4.0], [20, 2.0]]
    assert lines["validation"] == [[20, 3.0], [40, 2.5]]
    assert lines["best validation"] == [[20, 3.0]]  # best on both heads together, not on this one
    assert [x for x, _ in lines["checkpoint kept"]] == [20]


def test_series_are_in_order_and_finite():
    again = [*ROWS, {"name": "valid.nats_per_event", "value": 1.5, "step": 20}]
    assert series(again, "valid.nats_per_event") == ([20, 40], [1.5, 3.75])
    diverged = [*ROWS, {"name": "valid.nats_per_event", "value": float("nan"), "step": 60}]
    assert best_step(diverged) == 20
    assert best_step([]) is None


def test_curves_in_a_page_take_its_colours_and_ask_no_network():
    element = svg(draw_curves(ROWS, "pitch"))
    assert element.startswith("<svg")
    assert "var(--orange)" in element
    assert "var(--blue)" in element
    assert "http" not in element
    assert "#" not in re.sub(r"url\(#\w+\)|href=\"#\w+\"", "", element)  # no colour of its own
    names, others = (
        set(re.findall(r'\bid="(\w+)"', svg(draw_curves(ROWS, head)))) for head in ("pitch", "duration")
    )
    assert names.isdisjoint(others)  # both stand in one page
    assert svg(draw_curves(ROWS, "pitch")) == element


def test_curves_can_be_saved_as_a_picture():
    file = io.BytesIO()
    draw_curves([], "duration").savefig(file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")


def test_a_name_that_ends_in_svg_gives_the_same_vector_picture_every_time(tmp_path):
    for name in ("one.svg", "two.svg"):
        draw(notes((0, 24, 60, 0), (24, 24, 64, 1)), tmp_path / name, "two notes", tempo=90)
    text = (tmp_path / "one.svg").read_text()
    assert "<svg" in text
    assert ">two notes<" in text
    assert (tmp_path / "two.svg").read_text() == text
