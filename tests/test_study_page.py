"""The page of a study says what its files say, and claims no more than they allow."""

import json
import re

import numpy as np
import pytest
from matplotlib.text import Text

from midigen_jax import rows
from midigen_jax.errors import InputError
from midigen_jax.listen.audio import synthesize, write_audio
from midigen_jax.listen.figures import svg
from midigen_jax.listen.pianoroll import draw
from midigen_jax.listen.study import write_pictures, write_study
from midigen_jax.listen.study_charts import (
    Interval,
    band,
    draw_costs,
    draw_differences,
    draw_learning,
    expected,
    looks,
)

ARMS = {
    # name: (changes, nats per frame, difference, corrected p)
    "base": ({}, 0.9, None, None),
    "no attention": ({"model.blocks": ["lstm", "lstm"]}, 0.95, 0.05, 0.0004),
    "wide & <deep>": ({"model.width": 384, "model.heads": "independent"}, 0.88, -0.02, 0.03),
    "dropout": ({"model.dropout": 0.25}, 0.87, -0.03, 0.2),
}
SEEDS = (0, 1, 2)


def result(arm, name, value, unit="nats", **fields):
    config = {"study": "pooling", "arm": arm, "split": "test"}
    return rows.make(f"ablate.{name}", value, unit, config=config, **fields)


def results(arm):
    """All figures of an arm, as a finished study has them."""
    _, nats, difference, p = ARMS[arm]
    spread = {"low": nats - 0.01, "high": nats + 0.01}
    found = [result(arm, "nats_per_frame.seed", nats + 0.001 * seed, seed=seed) for seed in SEEDS]
    found.append(result(arm, "nats_per_frame", nats, pieces=37, seeds=list(SEEDS), **spread))
    if difference is not None:
        spread = {"low": difference - 0.015, "high": difference + 0.015, "better": 0.123}
        found.append(result(arm, "difference", difference, p=p / 3, p_corrected=p, **spread))
    costs = {"parameters": 1234567, "train_flops": 2.5e15, "train_seconds": 98.7, "decode_events_per_s": 4321}
    return [*found, *(result(arm, name, value, "") for name, value in costs.items())]


def make_study(folder, arms=ARMS, measured=ARMS, more=(), question="Does attention help?", seeds=SEEDS):
    """A study's folder, with the results of the arms in `measured`."""
    folders = {arm: f"arm-{number}" for number, arm in enumerate(arms)}
    facts = {
        "name": "pooling",
        "question": question,
        "base": "base",
        "arms": {arm: ARMS[arm][0] for arm in arms},
        "folders": folders,
        "seeds": list(seeds),
        "metric": "nats_per_frame",
        "unit": "nats/frame",
        "split": "test",
        "command": "midigen ablate 'my study.toml' --out pooling",
    }
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps(facts))
    rows.append(folder / "results.jsonl", [*(row for arm in measured for row in results(arm)), *more])
    for arm in measured:
        for seed in seeds:
            learnt = [
                rows.make("valid.nats_per_event", 1 + 3 / step + 0.1 * seed, "nats", step=step)
                for step in (10, 20, 30)
            ]
            rows.append(folder / "runs" / folders[arm] / f"seed-{seed}" / "rows.jsonl", learnt)
    return folder


def page_of(folder, parse):
    """The page of a study, and its text with single spaces."""
    write_study(folder, folder.parent / "study.html")
    page = parse((folder.parent / "study.html").read_text(encoding="utf-8"))
    assert page.open == []
    return page, " ".join(page.text.split())


@pytest.fixture(scope="module")
def html(tmp_path_factory):
    folder = make_study(tmp_path_factory.mktemp("studies") / "pooling")
    notes = np.array([[0, 12, 60, 0], [0, 12, 64, 0], [12, 12, 67, 0]], np.int32)
    for number in (0, 2):
        write_audio(folder / "samples" / f"arm-{number}.mp3", synthesize(notes, 120))
        draw(notes, folder / "samples" / f"arm-{number}.png")
        (folder / "samples" / f"arm-{number}.mid").write_bytes(b"MThd" + bytes(10))
    write_study(folder, folder / "study.html")
    return (folder / "study.html").read_text(encoding="utf-8")


def test_every_arm_stands_in_the_table_with_its_figures(html, parse):
    text = " ".join(parse(html).text.split())
    table = text[text.index("what is changed") : text.index("Differences")]
    places = [table.index(words) for words in ("base", "no attention", "wide & <deep>", "dropout")]
    assert places == sorted(places)
    costs = "1,234,567 2.5e15 99 4,321"
    for words in (
        f"base nothing 0.9000 0.8900 to 0.9100 – – – {costs}",
        "model.blocks lstm,lstm 0.9500 0.9400 to 0.9600 +0.0500 +0.0350 to +0.0650 12.3 % < 0.001 " + costs,
        "model.width 384 model.heads independent 0.8800",
        "−0.0200 −0.0350 to −0.0050 12.3 % 0.030 " + costs,
        "dropout fewest nats",
        "−0.0300 −0.0450 to −0.0150 12.3 % 0.200 " + costs,
    ):
        assert words.replace(" ", "") in table.replace(" ", "")


def test_what_may_be_chance_is_never_called_clear(html, parse):
    text = " ".join(parse(html).text.split())
    assert "4 arms, 3 seeds each, measured on 37 pieces of the test split." in text
    assert "“dropout” needs the fewest nats per frame, 0.8700." in text
    assert "−0.0300, is not clear of zero after correction (p = 0.200): it may be chance." in text
    assert "Clearly better than “base”: “wide & <deep>”." in text
    assert "Clearly worse than “base”: “no attention”." in text
    assert "<b>−0.0300</b>" not in html
    assert "<b>−0.0200</b>" in html


def test_a_clear_best_arm_is_called_so(tmp_path, parse):
    _, text = page_of(make_study(tmp_path / "a", measured=["base", "no attention", "wide & <deep>"]), parse)
    assert "−0.0200, is clear of zero after correction (p = 0.030)" in text


def test_where_nothing_is_clear_the_lead_says_so(tmp_path, parse):
    _, text = page_of(
        make_study(tmp_path / "a", arms=["base", "dropout"], measured=["base", "dropout"]), parse
    )
    assert "No arm differs clearly from “base”." in text
    assert "Clearly" not in text


def test_the_base_may_be_the_best(tmp_path, parse):
    arms = ["base", "no attention"]
    _, text = page_of(make_study(tmp_path / "a", arms=arms, measured=arms), parse)
    assert "“base” needs the fewest nats per frame, 0.9000: the base itself." in text


def test_an_unfinished_study_has_a_page(tmp_path, parse):
    _, text = page_of(make_study(tmp_path / "some", measured=["base"]), parse)
    assert "Not finished yet: 1 of 4 arms are done." in text
    folder = make_study(tmp_path / "none", measured=[], question="")
    (folder / "results.jsonl").unlink()
    page, text = page_of(folder, parse)
    assert "Not finished yet: 0 of 4 arms are done. Nothing has been measured yet." in text
    assert not page.all("svg")
    assert "midigen ablate 'my study.toml' --out pooling" in text


def test_failed_runs_are_named_with_their_reasons(tmp_path, parse):
    failed = [
        result("dropout", "failed", 120, "step", seed=seed, reason=f"loss is NaN <{seed}>") for seed in SEEDS
    ]
    again = result("base", "failed", 7, "step", seed=0, reason="the power went")  # and it was run again
    folder = make_study(
        tmp_path / "a", measured=[arm for arm in ARMS if arm != "dropout"], more=[*failed, again]
    )
    _, text = page_of(folder, parse)
    assert "3 runs failed." in text
    assert "Not finished" not in text
    assert "dropout, seed 2, step 120 loss is NaN <2>" in text.replace("120loss", "120 loss")
    assert "the power went" not in text


def test_differences_are_one_point_for_each_arm(tmp_path):
    differences = {"b": Interval(0.05, 0.03, 0.07), "a_$x$": Interval(-0.02, -0.04, 0.01)}
    axes = draw_differences(differences, {"b"}, "base", "nats per frame").axes[0]
    points = {line.get_label(): line for line in axes.lines if line.get_marker() == "o"}
    assert {arm: tuple(line.get_xdata()) for arm, line in points.items()} == {"b": (0.05,), "a_$x$": (-0.02,)}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", r"a_\$x\$"]
    assert axes.yaxis_inverted()
    assert points["b"].get_markerfacecolor() != "none"
    assert points["a_$x$"].get_markerfacecolor() == "none"


def test_a_band_goes_from_the_least_to_the_greatest_seed():
    found = band([([10, 20, 30], [3.0, 2.0, 1.0]), ([10, 20], [5.0, 1.0])])
    assert found == ([10, 20], [4.0, 1.5], [3.0, 1.0], [5.0, 2.0])
    assert band([]).steps == []
    axes = draw_learning({"base": found}, looks(["base"], "base")).axes[0]
    (line,), (area,) = axes.lines, axes.collections
    assert line.get_ydata().tolist() == [4.0, 1.5]
    assert {tuple(corner) for corner in area.get_paths()[0].vertices} >= {(10, 3), (10, 5), (20, 1), (20, 2)}


def test_sixteen_arms_of_one_cost_have_names_that_do_not_cover_each_other():
    arms = [f"arm number {number}" for number in range(16)]
    points = {arm: (1e15, Interval(1 + 0.001 * n, 0.9, 1.1)) for n, arm in enumerate(arms)}
    look = looks(arms, "arm number 0")
    assert len(set(look.values())) == 16
    figure = draw_costs(points, "training FLOPs", "nats per frame", look)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in figure.axes[0].texts]  # without the line to the point
    assert len(boxes) == 16
    covered = [(i, j) for i in range(16) for j in range(i) if boxes[i].overlaps(boxes[j])]
    assert covered == []
    assert svg(figure).startswith("<svg")


def test_every_picture_and_every_sample_is_there(html, parse):
    page = parse(html)
    assert len(page.all("svg")) == 3
    assert len(page.all("audio")) == len(page.all("img")) == 2
    assert [link["download"] for link in page.all("a")] == ["arm-0.mid", "arm-2.mid"]
    identities = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identities) == len(set(identities))


def test_a_study_of_scale_shows_its_law(tmp_path, parse):
    law = {"floor": 0.5, "size": 0.1, "alpha": 0.3, "data": 0.2, "beta": 0.7}
    scaling = rows.make(
        "ablate.scaling",
        0.012,
        "1",
        config={"study": "pooling", "split": "test", "parameters": 1e6, "events": 5e4},
        law=law,
        low=law,
        high={name: 2 * value for name, value in law.items()},
    )
    assert expected(scaling, 1e6, 5e4) == pytest.approx(0.8)
    assert expected(scaling, 1e5, 5e3) == pytest.approx(0.5 + 0.1 * 10**0.3 + 0.2 * 10**0.7)
    amounts = [result(arm, "train_events", 1000.0 * 2**number, "") for number, arm in enumerate(ARMS)]
    page, text = page_of(make_study(tmp_path / "pooling", more=[*amounts, scaling]), parse)
    assert "1.2 % of their nats" in text
    assert "nats per frame to gain beyond 50,000 training events" in text
    assert "0.2 (0.2 to 0.4)" in text
    assert len(page.all("svg")) == 4


def test_the_plots_stand_beside_the_tables_too(tmp_path):
    folder = make_study(tmp_path / "pooling")
    write_pictures(folder)
    files = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.svg")}
    assert set(files) == {"differences.svg", "learning.svg", "costs.svg"}
    write_pictures(folder)
    assert all((folder / name).read_text(encoding="utf-8") == text for name, text in files.items())


def test_the_page_needs_nothing_else(html, parse):
    page = parse(html)
    assert page.open == []
    assert not re.search(r"https?:|//[a-z]+\.[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", html))
    references = [
        attributes[key] for _, attributes in page.tags for key in ("src", "href") if key in attributes
    ]
    assert references
    assert all(reference.startswith(("data:", "#")) for reference in references)
    assert not page.all("link")


def test_what_is_no_study_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"nowhere: no study \(no study\.json\); `midigen ablate.*` makes one$"
    ):
        write_study(tmp_path / "nowhere", tmp_path / "study.html")
    (tmp_path / "study.json").write_text('{"name": "x"}')
    with pytest.raises(InputError, match=r"study\.json: says nothing of question, base, arms"):
        write_study(tmp_path, tmp_path / "study.html")
    assert not (tmp_path / "study.html").exists()


def test_only_a_page_of_a_study_is_written_over(tmp_path):
    study = make_study(tmp_path / "a", measured=["base"])
    write_study(study, tmp_path / "study.html")
    write_study(study, tmp_path / "study.html")
    (tmp_path / "thesis.html").write_text("<html>mine</html>")
    with pytest.raises(InputError, match="is there and is no page of a study"):
        write_study(study, tmp_path / "thesis.html")
