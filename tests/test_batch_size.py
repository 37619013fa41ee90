"""Rows of a batch: those that fill the devices, those that can be shared, those that fit."""

import json
import re
from types import SimpleNamespace

import jax
import pytest

from midigen_jax.cli import main
from midigen_jax.config import AUTO_ROWS, Config, override, spell
from midigen_jax.data.corpus import load_corpus
from midigen_jax.errors import OUT_OF_MEMORY, InputError
from midigen_jax.recipes import read_config
from midigen_jax.study.plan import make_study
from midigen_jax.train import batch_size, loop
from midigen_jax.train.batch_size import check_rows, rows_that_fill, what_fits, with_rows
from midigen_jax.train.loop import fit
from tests.tiny import SMALLEST, train_words


def devices(platform, kind, count):
    return [SimpleNamespace(platform=platform, device_kind=kind)] * count


@pytest.mark.parametrize(
    ("platform", "kind", "count", "rows"),
    [
        ("cpu", "cpu", 1, 16),
        ("cpu", "cpu", 2, 16),
        ("cpu", "cpu", 6, 18),
        ("tpu", "TPU v5 lite", 1, 64),
        ("tpu", "TPU v5 lite", 32, 2048),
        ("tpu", "TPU v5", 4, 256),
        ("tpu", "TPU v6 lite", 4, 256),
        ("tpu", "TPU7x", 2, 128),
        ("gpu", "NVIDIA H200", 1, 128),
    ],
)
def test_auto_fills_every_device_alike(platform, kind, count, rows):
    assert rows_that_fill(devices(platform, kind, count)) == rows


def test_a_number_stays_and_auto_is_spelt(tmp_path):
    few = override(Config(), {"batch.rows": "6"})
    assert with_rows(few, tmp_path) is few
    auto = override(Config(), {"batch.rows": "auto"})
    assert (auto.batch.rows, read_config("tpu").batch.rows) == (AUTO_ROWS, AUTO_ROWS)
    assert spell(AUTO_ROWS, "batch.rows") == "auto"
    assert with_rows(auto).batch.rows == rows_that_fill(jax.devices())
    with pytest.raises(InputError, match=r"batch.rows = -1 is out of range: 1 to 1,048,576, or auto"):
        override(Config(), {"batch.rows": "-1"})
    with pytest.raises(InputError, match=r"batch\.rows = auto: a study is the same on any machine"):
        make_study({"corpus": ["bach"], "budget": {"steps": 1}, "base": {"batch": {"rows": "auto"}}}, "mine")


@pytest.mark.parametrize(("rows", "remedy"), [(5, "give 8"), (30, "give 24 or 32"), (32, None)])
def test_rows_that_processes_cannot_share_are_told_with_the_nearest_that_they_can(monkeypatch, rows, remedy):
    check_rows(rows)  # a process on its own leaves devices out
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    if remedy is None:
        check_rows(rows)
        return
    with pytest.raises(InputError, match=f"batch.rows = {rows}: all 8 devices of 2 processes .*; {remedy}"):
        check_rows(rows)


COMPILING = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. \
Used 31.24G of 15.75G hbm. Exceeded hbm capacity by 15.49G.

Total hbm usage >= 31.49G:
    reserved        263.00M
    program          31.24G
    arguments            0B
"""
STARTING = """RESOURCE_EXHAUSTED: Error loading program 'jit_program': Attempting to reserve 10.51G at the \
bottom of memory. That was not possible. There are 8.97G free, 0B reserved, and 8.97G reservable."""
RUNNING = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 7406166528 bytes."
NEWER = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 6.90GiB.\n"
H200 = {"bytes_limit": 5 * 2**30, "bytes_in_use": 2**30}


@pytest.mark.parametrize(
    ("said", "rows", "count", "stats", "line"),
    [
        (
            COMPILING,
            512,
            1,
            {},
            "rows = 512 take 31.2 GiB of a device that has 15.8; about 248 would fit",
        ),
        (
            COMPILING,
            2048,
            4,
            {},
            "rows = 2048 take .* about 992 would fit: give --batch.rows 992, or lower",
        ),
        (COMPILING, 12, 4, {}, "batch.rows = 12 take .* about 4 would fit: give --batch.rows 4"),
        (COMPILING, 4, 4, {}, "has 15.8, too little for 4 rows; lower --batch.length or --model.width"),
        (STARTING, 128, 1, {}, "take 10.5 GiB of a device that has 8.97; about 104 would fit"),
        (RUNNING, 256, 1, H200, "take 6.9 GiB of a device that has 4; about 144 would fit"),
        (NEWER, 256, 1, H200, "take 6.9 GiB of a device that has 4; about 144 would fit"),
    ],
)
def test_a_program_that_does_not_fit_says_which_rows_would(said, rows, count, stats, line):
    found = what_fits(said, rows, count, stats, resident=2**29)
    assert re.search(f"^out of memory: .*{line}", found), found


@pytest.mark.parametrize("said", [RUNNING, "RESOURCE_EXHAUSTED: at last", COMPILING.replace("31.", "1.")])
def test_where_it_is_not_known_no_number_is_made_up(said):
    assert what_fits(said, 256, 1, {}, resident=0) == OUT_OF_MEMORY


def test_a_training_that_does_not_fit_ends_with_that_line(corpus, tmp_path, monkeypatch):
    class Full(jax.errors.JaxRuntimeError):
        error_code_string = "RESOURCE_EXHAUSTED"  # one that XLA raises has it; one made here would not

    def full(*given):
        raise Full(COMPILING)

    monkeypatch.setattr(loop, "make_train_steps", lambda *given: full)
    config = override(Config(), SMALLEST | {"batch.rows": 64})
    with pytest.raises(InputError, match=r"^out of memory: batch.rows = 64 .* --batch.rows 32, or lower"):
        fit(load_corpus(corpus), config, tmp_path / "run")


def test_auto_is_resolved_once_and_a_run_that_is_there_keeps_its_rows(corpus, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    words = train_words(corpus, run, **{"batch.rows": "auto", "train.steps": 2, "train.evaluate_every": 2})
    assert main(words) == 0
    assert json.loads((run / "config.json").read_text())["batch"]["rows"] == 16
    said = capsys.readouterr().out
    assert "16 sequences a step on 2 devices, 8 on each." in said
    assert "The learning rate stays 0.004: nothing scales it." in said
    monkeypatch.setattr(batch_size, "rows_that_fill", lambda devices: 64)
    assert main(words) == 0
    assert "16 sequences a step" in capsys.readouterr().out
