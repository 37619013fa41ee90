"""Studies as values: what a file says, and what cannot be a study."""

from pathlib import Path

import pytest

from midigen_jax.config import Config, override
from midigen_jax.errors import InputError
from midigen_jax.study.groups import by_shape, choose_together, estimate, plan_in_words
from midigen_jax.study.plan import BASE, Run, make_study, read_study

STUDY = """
corpus = ["bach"]
seeds = [0, 1]
question = "Does attention help?"
measure = ["nats_per_quarter", "nats_per_event", "decode"]

[budget]
steps = 50

[base]
"model.width" = 64

[base.batch]
rows = 8

[arms."no attention"]
"model.blocks" = ["lstm", "lstm"]

[arms.slower]
train.learning_rate = 1e-3

[grid]
"model.blocks" = [["lstm", "pooled"], ["lstm", "lstm", "pooled"]]
"model.dropout" = [0.2, 0.4]
"""


def study(**changes):
    data = {"corpus": ["bach"], "budget": {"steps": 5}, "arms": {"wide": {"model.width": 512}}}
    return make_study(data | changes, "tried")


def test_a_file_is_a_study(tmp_path):
    path = tmp_path / "attention.toml"
    path.write_text(STUDY)
    found = read_study(path)
    assert (found.name, found.corpus, found.seeds) == ("attention", ("bach",), (0, 1))
    assert (found.metric, found.unit) == ("nats_per_quarter", "nats/quarter")
    # The grid's point that is the base is no arm.
    assert found.names == [
        BASE,
        "no attention",
        "slower",
        "blocks lstm+pooled, dropout 0.2",
        "blocks lstm+pooled, dropout 0.4",
        "blocks lstm+lstm+pooled, dropout 0.4",
    ]
    base = override(Config(), {"model.width": 64, "batch.rows": 8, "train.steps": 50})
    assert found.config(BASE) == base
    assert found.config("slower", 1) == override(base, {"train.learning_rate": 1e-3, "train.seed": 1})
    assert found.runs[:3] == [Run(BASE, 0), Run(BASE, 1), Run("no attention", 0)]


def test_runs_of_one_shape_share_a_program(tmp_path):
    path = tmp_path / "attention.toml"
    path.write_text(STUDY)
    groups = by_shape(read_study(path), read_study(path).runs)
    arms = [list(dict.fromkeys(run.arm for run in runs)) for runs in groups]
    assert arms == [
        [BASE, "slower", "blocks lstm+lstm+pooled, dropout 0.4"],
        ["no attention"],
        ["blocks lstm+pooled, dropout 0.2", "blocks lstm+pooled, dropout 0.4"],
    ]
    seconds = estimate(read_study(path), groups)
    assert all(spent > 0 for spent in seconds)
    words = "\n".join(plan_in_words(read_study(path), groups, seconds))
    assert "6 arms x 2 seeds = 12 runs" in words
    assert "  slower: train.learning_rate = 0.001" in words
    assert "program 1: 6 runs (base, slower, blocks lstm+lstm+pooled, dropout 0.4), about" in words
    together, why = choose_together(6, None, Config().model)
    assert together == 1
    assert "one after another on each of 2 devices" in why


def test_budgets_are_steps_epochs_or_seconds_and_arms_may_have_their_own():
    assert study(budget={"epochs": 3}).config(BASE).train.epochs == 3
    assert study(budget={"seconds": 90}).budget == ("seconds", 90)
    longer = study(arms={"longer": {"train.epochs": 2}}).config("longer").train
    assert (longer.steps, longer.epochs) == (0, 2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": [0]}, "no setting 'seed' of a study: did you mean seeds?"),
        ({"arms": {"wide": {"model.widht": 512}}}, "arm 'wide': no setting 'model.widht': did you mean"),
        ({"arms": {"wide": {"model.width": 0}}}, "arm 'wide': model.width = 0 is out of range"),
        ({"arms": {"other": {"prepare.seed": 1}}}, "prepare.seed decides which pieces are compared"),
        ({"arms": {"lucky": {"train.seed": 7}}}, "train.seed is no setting of an arm; use seeds"),
        ({"arms": {"a b": {"model.width": 8}, "A-b": {"model.width": 9}}}, "two arms are called 'A-b'"),
        ({"arms": {"base": {"model.width": 8}}}, "two arms are called 'base'"),
        ({"arms": {"same": {"model.width": 256}}}, "arm 'same' is 'base' again"),
        ({"arms": {"wide": 3}}, "arm 'wide': give a table of settings"),
        ({"measure": ["nats_per_quater"]}, "measure 'nats_per_quater': did you mean nats_per_quarter?"),
        ({"measure": ["decode"]}, "measure nothing to compare"),
        ({"measure": [True]}, "measure = True: give text"),
        ({"measure": ["nats_per_event", "nats_per_event"]}, "name nothing twice"),
        (
            {"measure": ["nats_per_slice"], "arms": {"c": {"prepare.tokenizer": "chord"}}},
            "cuts music in events of its own; compare by nats_per_quarter or nats_per_frame",
        ),
        ({"corpus": [1]}, "corpus = 1: give text"),
        ({"seeds": [1, 1]}, "give one or more, none of them twice"),
        ({"seeds": ["a"]}, "give whole numbers from 0 on"),
        ({"seeds": []}, "give a list"),
        ({"split": "train"}, "give valid or test"),
        ({"corpus": "bach"}, "corpus = 'bach': give a list"),
        ({"budget": {}}, r"give steps, epochs or seconds"),
        ({"budget": {"step": 5}}, "no budget of 'step': did you mean steps?"),
        ({"budget": {"steps": -5}}, "give more than 0"),
        ({"budget": {"steps": True}}, "give steps, epochs or seconds"),
        ({"budget": {"epochs": 2.5}}, "give steps, epochs or seconds"),
        ({"base": {"train.steps": 9}}, "[base] has train.steps; the length of runs is their [budget]"),
        (
            {"budget": {"seconds": 9}, "arms": {"long": {"train.steps": 9}}},
            "train.steps and a budget of seconds",
        ),
        ({"config": "artcle"}, "no recipe 'artcle', and no .toml or .json file: did you mean article?"),
    ],
)
def test_what_is_no_study_is_told_in_one_line(changes, words):
    with pytest.raises(InputError) as error:
        study(**changes)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_grid_of_many_runs_is_refused_before_it_is_made():
    grid = {f"model.{name}": list(range(1, 301)) for name in ("width", "embedding", "pitch_embedding")}
    with pytest.raises(InputError, match="81,000,006 runs; give --yes"):
        study(grid=grid)
    many = {"train.learning_rate": [rate / 10_000 for rate in range(1, 401)]}
    with pytest.raises(InputError, match="1,206 runs; give --yes to train them all"):
        study(grid=many)


@pytest.mark.parametrize("text", ["seeds = [", '[arms."a"]\n[arms."a"]\n', "\x00"])
def test_a_file_that_is_no_toml_is_told(tmp_path, text):
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"study\.toml: no TOML"):
        read_study(path)
    with pytest.raises(InputError, match=r"nowhere\.toml: not there"):
        read_study(tmp_path / "nowhere.toml")


STUDIES = sorted((Path(__file__).resolve().parent.parent / "scripts" / "studies").glob("*.toml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_studies_of_the_repository_are_studies(path):
    found = read_study(path)
    assert found.question
    assert len(found.seeds) >= 3
    assert f"midigen ablate scripts/studies/{path.name} --out" in path.read_text()
