"""The law of size and data: what made the runs is found again, with an interval that knows of noise."""

import numpy as np
import pytest

from midigen_jax.study.metrics import PieceScores
from midigen_jax.study.plan import make_study
from midigen_jax.study.scaling import Law, Runs, fit_law
from midigen_jax.study.tables import table
from midigen_jax.study.verdict import Scores, rows_of

LAW = Law(floor=4.0, size=0.5, alpha=0.4, data=0.8, beta=0.6)


def runs(noise=0.0, draw=0, sizes=(1e5, 2e5, 4e5, 8e5, 16e5), amounts=(4e3, 8e3, 16e3), seeds=3):
    rng = np.random.default_rng(draw)
    grid = [(size, amount) for size in sizes for amount in amounts for _ in range(seeds)]
    parameters, events = np.array(grid).T
    of_size = LAW.size * (parameters / max(sizes)) ** -LAW.alpha
    nats = LAW.floor + of_size + LAW.data * (events / max(amounts)) ** -LAW.beta
    return Runs(parameters, events, nats * (1 + noise * rng.normal(size=len(nats))))


def test_the_law_that_made_the_runs_is_found():
    fitted = fit_law(runs())
    assert fitted.law == pytest.approx(LAW, rel=1e-3)
    assert (fitted.parameters, fitted.events) == (16e5, 16e3)
    assert fitted.error < 1e-5


def test_noise_widens_the_interval_and_is_reported():
    several = [fit_law(runs(noise=0.01, draw=draw)) for draw in range(6)]
    assert np.mean([fitted.error for fitted in several]) == pytest.approx(0.01, rel=0.2)
    covers = [np.less(fitted.low, LAW) & np.less(LAW, fitted.high) for fitted in several]
    assert np.mean(covers) > 0.7
    quieter = fit_law(runs(noise=0.001))
    assert quieter.high.alpha - quieter.low.alpha < several[0].high.alpha - several[0].low.alpha


def test_what_buys_nothing_has_no_share():
    flat = runs()._replace(nats_R=np.full(45, 5.0))
    law = fit_law(flat).law
    assert law.floor + law.size + law.data == pytest.approx(5.0)
    smaller = (0.01**-law.alpha) * law.size + (0.01**-law.beta) * law.data
    assert smaller == pytest.approx(law.size + law.data, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("few", [{"sizes": (1e5, 2e5)}, {"amounts": (4e3, 8e3)}])
def test_two_sizes_or_two_amounts_make_no_law(few):
    assert fit_law(runs(**few)) is None


def scores_of(study):
    """Runs whose pieces, 100 quarters long, cost what the law says."""
    found = {}
    for run in study.runs:
        config = study.config(run.arm)
        size, amount = 1e3 * config.model.width**2, 2e4 * config.batch.data_share
        of_size = LAW.size * (size / (1e3 * 256**2)) ** -LAW.alpha
        nats = 100 * (LAW.floor + of_size + LAW.data * (amount / 2e4) ** -LAW.beta)
        piece = PieceScores("a", False, {"nats_per_quarter": (nats, 100.0)})
        found[run] = Scores([piece], {"parameters": size, "train_events": amount}, 600)
    return found


def test_a_study_is_compared_by_the_metric_that_it_names_first():
    """The wider network guesses more events right, and costs more nats all the same."""
    study = make_study(
        {
            "corpus": ["bach"],
            "budget": {"steps": 600},
            "arms": {"wide": {"model.width": 512}},
            "measure": ["accuracy", "nats_per_event", "nats_by_position.beat"],
        },
        "right",
    )
    found = {}
    for run in study.runs:
        more = 10 if run.arm == "wide" else 0
        pieces = [
            PieceScores(
                source,
                False,
                {
                    "accuracy": (float(events // 2 + more), float(events)),
                    "nats_per_event": (float(events + more), float(events)),
                    "nats_by_position.beat": (3.0, beats),
                },
            )
            for source, events, beats in (("a", 100, 4.0), ("b", 300, 0.0))
        ]
        found[run] = Scores(pieces, {}, 600)
    made = rows_of(study, found)
    rows = {(row["config"]["arm"], row["name"].removeprefix("ablate.")): row for row in made}
    assert rows["base", "accuracy"]["value"] == pytest.approx(200 / 400)
    assert rows["wide", "accuracy"]["value"] == pytest.approx(220 / 400)
    assert rows["wide", "nats_per_event"]["value"] == pytest.approx(420 / 400)
    assert rows["wide", "nats_by_position.beat"]["value"] == pytest.approx(6 / 4)
    units = [rows["wide", name]["unit"] for name in ("accuracy", "nats_per_event", "nats_by_position.beat")]
    assert units == ["share", "nats/event", "nats/event"]
    apart = rows["wide", "difference"]
    assert (apart["value"], apart["unit"]) == (pytest.approx(20 / 400), "share")
    assert apart["better"] == 1
    assert [line[:3] for line in table(made)] == [
        ("arm", "seeds", "accuracy"),
        ("base", "3", "0.500 [0.500, 0.500]"),
        ("wide", "3", "0.550 [0.533, 0.600]"),
    ]


def test_a_study_of_widths_and_shares_has_a_row_with_its_law():
    grid = {"model.width": [64, 128, 256], "batch.data_share": [0.25, 0.5, 1.0]}
    study = make_study({"corpus": ["bach"], "budget": {"steps": 600}, "grid": grid}, "scale")
    found = rows_of(study, scores_of(study))
    (law,) = (row for row in found if row["name"] == "ablate.scaling")
    assert law["law"] == pytest.approx(LAW._asdict(), rel=1e-3)
    assert law["low"].keys() == law["high"].keys() == law["law"].keys()
    assert law["config"] == {"study": "scale", "split": "test", "parameters": 1e3 * 256**2, "events": 2e4}
    assert len(table(found)) == 1 + len(study.names)
    narrower = make_study(
        {"corpus": ["bach"], "budget": {"steps": 600}, "grid": grid | {"model.width": [64]}}, "scale"
    )
    assert not any(row["name"] == "ablate.scaling" for row in rows_of(narrower, scores_of(narrower)))
