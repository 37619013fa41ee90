"""The experiment as one value: read, overridden, saved, refused."""

import dataclasses
import json
import re
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midigen_jax import config as configs
from midigen_jax import recipes, rows
from midigen_jax.arguments import parse
from midigen_jax.commands import COMMANDS, GROUPS, BenchDecode
from midigen_jax.config import Config, TrainConfig
from midigen_jax.errors import InputError
from midigen_jax.recipes import NAMES, read_config, read_result
from midigen_jax.study.contenders import network_settings
from midigen_jax.study.plan import read_study

ARTICLE = ("lstm", "lstm", "pooled(window=32, residual=false)")
LEAVES = configs.options(Config)
RESULTS = rows.read(Path(__file__).parent.parent / "docs" / "results.jsonl")

JUNK = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.lists(st.integers(), max_size=2)
    | st.sampled_from([10**400, "1e999", "nan", "none", "0.5,x"])
)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_survives_json(name: str) -> None:
    config = read_config(name)
    text = json.dumps(configs.to_json(config))
    assert configs.from_json(Config, json.loads(text)) == config


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_that_is_spelt_out_is_read_as_it_was(name: str) -> None:
    leaves = configs.flatten(configs.to_json(read_config(name)))
    spelt = {leaf: configs.spell(value) for leaf, value in leaves.items()}
    assert configs.override(Config(), spelt) == read_config(name)


def test_a_missing_field_takes_its_default_and_an_unknown_one_is_refused() -> None:
    assert configs.from_json(Config, {"model": {"width": 64}}) == configs.override(
        Config(), {"model.width": 64}
    )
    with pytest.raises(InputError, match=r"no setting 'model\.widht': did you mean model\.width\?"):
        configs.from_json(Config, {"model": {"widht": 64}})


def test_configs_are_hashable_and_every_setting_has_help() -> None:
    assert len({read_config(name) for name in NAMES}) == len(NAMES)
    assert all(text for _, text in LEAVES.values())


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("model.width", "384", 384),
        ("train.learning_rate", "1e-3", 1e-3),
        ("prepare.tokenizer", "chord", "chord"),
        ("prepare.tracks", "melody", "melody"),
        ("prepare.tracks", "12", "12"),
        ("model.duration_input", "false", False),
        ("train.keep_at", "0.05,0.5,1", (0.05, 0.5, 1.0)),
    ],
)
def test_text_is_read_as_the_type_of_its_field(name: str, text: str, value: object) -> None:
    changed = configs.override(Config(), {name: text})
    section, leaf = name.split(".")
    assert getattr(getattr(changed, section), leaf) == value


def test_steps_and_epochs_change_together() -> None:
    changed = configs.override(Config(), {"train.steps": "0", "train.epochs": "5"})
    assert (changed.train.steps, changed.train.epochs) == (0, 5)
    with pytest.raises(InputError, match="give one of them"):
        configs.override(Config(), {"train.epochs": "5"})


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("model.width", "12.5", "model.width = '12.5': give a whole number"),
        ("model.width", 12.5, "model.width = 12.5: give a whole number"),
        ("model.width", True, "model.width = True: give a whole number"),
        ("model.width", float("inf"), "model.width = inf: give a whole number"),
        ("model.width", 0, "model.width = 0 is out of range: 1 to 65,536"),
        ("train.learning_rate", "nan", "train.learning_rate = 'nan': give a number"),
        ("train.learning_rate", "inf", "train.learning_rate = 'inf': give a number"),
        ("train.learning_rate", 10**400, "give a number"),
        ("train.keep_at", "0.5,2", "shares in (0, 1]"),
        ("train.keep_at", None, "give numbers with commas between them"),
        ("prepare.tracks", "drums", "prepare.tracks = 'drums' is out of range: all, piano, melody, or a"),
        ("prepare.tracks", "0", "out of range"),
        ("prepare.transpose", None, "prepare.transpose = None: give text"),
        ("model.duration_input", "yes", "give true or false"),
        ("model.duration_input", 1, "give true or false"),
        ("sample.seed", -1, "sample.seed = -1 is out of range"),
        ("prepare.seed", 2**32, "out of range"),
    ],
)
def test_a_wrong_value_is_named_with_the_remedy(name: str, value: object, complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        configs.override(Config(), {name: value})
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["layers", "attention", "attention_window", "residual", "backend"])
def test_a_setting_that_blocks_say_is_refused_with_an_example(name: str) -> None:
    with pytest.raises(InputError, match=f"no setting 'model.{name}': model.blocks says it, as in lstm,"):
        configs.override(Config(), {f"model.{name}": 1})


def test_a_network_has_a_block() -> None:
    with pytest.raises(InputError, match=r"model.blocks = \(\) is out of range: 1 to 256"):
        configs.override(Config(), {"model.blocks": "none"})


@given(st.sampled_from(sorted(LEAVES)), JUNK)
def test_any_value_is_taken_as_the_field_s_type_or_refused_in_one_line(name: str, value: Any) -> None:
    try:
        changed = configs.override(Config(), {name: value})
    except InputError as error:
        lines = str(error).splitlines()
    else:
        taken, before = attrgetter(name)(changed), attrgetter(name)(Config())
        assert before is None or type(taken) is type(before)
        assert configs.from_json(Config, json.loads(json.dumps(configs.to_json(changed)))) == changed
        return
    assert len(lines) == 1


def test_what_is_no_recipe_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no recipe 'articel', and no \.toml .* did you mean article"):
        read_config("articel")
    with pytest.raises(InputError, match=r"mine\.toml: not there; give a recipe \(article, "):
        read_config(str(tmp_path / "mine.toml"))
    (tmp_path / "mine.toml").write_text("[model\n")
    with pytest.raises(InputError, match=r"mine\.toml: no TOML \(.*line 1"):
        read_config(str(tmp_path / "mine.toml"))
    (tmp_path / "mine.json").write_text('{"model": {"cells": 3}}')
    with pytest.raises(InputError, match=r"mine\.json: no setting 'model\.cells': did you mean model\.\w+\?"):
        read_config(str(tmp_path / "mine.json"))
    with pytest.raises(InputError, match=r"tpu: has no figure; give it a table \[result\]"):
        read_result("tpu")


def test_a_file_has_the_settings_that_it_says_and_a_run_s_all_of_them(tmp_path: Path) -> None:
    text = '[model]\nwidth = 64\ncontext = { lags = [12] }\n[train]\n"steps" = 7'
    (tmp_path / "mine.toml").write_text(text)
    changes = {"model.width": 64, "model.context.lags": (12,), "train.steps": 7}
    mine = configs.override(Config(), changes)
    assert read_config(str(tmp_path / "mine.toml")) == mine
    (tmp_path / "long.toml").write_text("[train]\nepochs = 20")
    assert read_config(str(tmp_path / "long.toml")).train.steps == 0
    (tmp_path / "config.json").write_text(json.dumps(configs.to_json(mine)))
    assert read_config(str(tmp_path / "config.json")) == mine


@pytest.mark.parametrize(
    ("words", "given"),
    [
        (["prepare", "bach", "--out", "x", "--config", "jsb16"], {"voices": 4}),
        (["prepare", "bach", "--out", "x", "--config", "jsb16", "--voices", "2"], {"voices": 2}),
        (["train", "x", "--out", "y", "--preset=tpu"], {"model.width": 512}),
        (["train", "x", "--out", "y", "--config", "{file}", "--seed", "5"], {"model.width": 24}),
        (["bench", "train", "--config", "{file}", "--model.width", "8"], {"model.width": 8}),
        (["bench", "decode", "--config", "article"], {"model.blocks": ARTICLE}),
        (["bench", "compile", "--config", "{file}"], "{file}"),
        (["ablate", "x.toml", "--dry-run", "--config", "{file}"], "{file}"),
    ],
)
def test_commands_begin_with_the_config_that_they_are_given(words, given, tmp_path):
    (tmp_path / "mine.toml").write_text("[model]\nwidth = 24")
    file = str(tmp_path / "mine.toml")
    command = parse(COMMANDS, GROUPS, [word.replace("{file}", file) for word in words])
    if isinstance(given, str):
        assert command.config == file
        return
    ((name, value),) = given.items()
    if isinstance(command, BenchDecode):
        found = network_settings(command.run, command.model, command.config, command.changes)[name]
    else:
        found = attrgetter(name)(command.config)
    assert found == value


def test_the_base_of_a_study_begins_with_the_config_that_it_is_given(tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text(
        'corpus = ["bach"]\nconfig = "article"\n[budget]\nsteps = 1\n[base]\n"model.blocks" = ["lstm"]'
    )
    assert read_study(study).base.model.width == 256
    (tmp_path / "mine.toml").write_text("[model]\nwidth = 24")
    found = read_study(study, config=str(tmp_path / "mine.toml")).base
    assert (found.model.width, found.model.blocks) == (24, ("lstm",))


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_s_head_says_its_command_and_its_figure(name: str) -> None:
    head = (Path(recipes.__file__).parent / f"{name}.toml").read_text().partition("\n\n")[0]
    lines = head.splitlines()
    assert all(line.startswith("#") for line in lines)
    (command,) = (line for line in lines if line.startswith("#     "))
    assert re.search(rf"midigen demo|--config {name}\b|results\.py {name}\b", command)
    if "results.py" in command:
        result = read_result(name)
        said = re.search(rf"\d minutes a seed.*; ([\d.]+) nats a {result.unit} on test", head)
        ours = {"model": "ours", "split": "test", "part": "all"}
        found = [row["value"] for row in RESULTS if (row["name"], row["config"]) == (result.figure, ours)]
        assert said is not None
        assert float(said[1]) == pytest.approx(
            np.mean(found), abs=0.6 * 10 ** -len(said[1].partition(".")[2])
        )


def test_a_config_is_validated_however_it_is_made() -> None:
    with pytest.raises(InputError, match=r"train\.warmup"):
        dataclasses.replace(TrainConfig(), warmup=-1)


def test_a_lone_value_is_a_sweep_of_one() -> None:
    assert configs.override(Config(), {"sample.temperature": 0.5}).sample.temperature == (0.5,)
    assert configs.override(Config(), {"sample.top_k": "3,5"}).sample.top_k == (3, 5)
    assert configs.override(Config(), {"sample.dtype": "bfloat16"}).sample.dtype == "bfloat16"
