"""The scripts: what they write is what the rows say."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from midigen_jax import rows
from midigen_jax.music.notes import make_notes
from midigen_jax.music.write import write_midi

ROOT = Path(__file__).resolve().parent.parent


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


table = load("tables")


def row(name: str, value: float, time: str, **fields: Any) -> rows.Row:
    fixed = {"unit": "x", "device": "EPYC, 2 cores", "config": {"batch": 1, "model": {"width": 256}}}
    return {"name": name, "value": value, "time": time, **fixed, **fields}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """The arguments that make the script work on files of its own."""
    return ["--docs", str(tmp_path)]


def test_the_newest_row_of_a_name_config_and_device_wins_wherever_it_stands() -> None:
    page = table.benchmarks(
        [
            row("decode.ratio", 2.0, "2026-02-01T00:00:00Z"),
            row("decode.ratio", 1.0, "2026-01-01T00:00:00Z"),
            row("decode.ratio", 3.0, "2026-01-01T00:00:00Z", device="H100 x 1"),
            row("decode.ratio", 4.0, "2026-01-01T00:00:00Z", config={"batch": 8}),
        ]
    )
    lines = [line for line in page.splitlines() if line.startswith("| `decode")]
    assert [line.split(" | ")[2] for line in lines] == ["2 x", "3 x", "4 x"]


def test_a_line_of_the_table_says_all_that_the_row_knows() -> None:
    page = table.benchmarks(
        [
            row(
                "decode.ratio.torch",
                17.23,
                "2026-01-01T00:00:00Z",
                min=16.4,
                max=18.94,
                runs=7,
                versions={"python": "3.11.7", "jax": "0.10.2", "torch": "2.13.0", "mido": "1.3.3"},
                commit="abc1234",
                command="python scripts/bench_decode.py --quick",
            ),
            row("train.events", 12345.6, "2026-01-01T00:00:00Z", unit="events/s", config={}),
        ]
    )
    assert (
        "\n## decode\n\n"
        "| name | config | median | min–max | runs | device | versions | commit | command |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| `decode.ratio.torch` | batch 1, model.width 256 | 17.2 x | 16.4–18.9 | 7 | EPYC, 2 cores "
        "| python 3.11.7, jax 0.10.2, torch 2.13.0 | abc1234 | `python scripts/bench_decode.py --quick` |\n"
    ) in page
    assert "\n## train\n" in page
    assert "| 12,346 events/s |" in page


def test_ratios_are_ranges_over_machines_and_days() -> None:
    page = table.benchmarks(
        [
            row("decode.ratio.torch", 5.17, "2026-01-01T00:00:00Z", config={"batch": 1, "form": "cells"}),
            row("decode.ratio.torch", 3.72, "2026-01-02T00:00:00Z", config={"batch": 1, "cores": 2}),
            row("decode.ratio.torch", 4.0, "2026-01-02T01:00:00Z", config={"batch": 1}, device="other"),
            row("decode.ratio.torch", 9.0, "2026-01-01T00:00:00Z", config={"batch": 64}),
        ]
    )
    lines = page.split("## decode, ratios over machines and days")[1].strip().splitlines()
    assert lines[-4:] == [
        "| over | config | ratio | runs | days | machines |",
        "| --- | --- | --- | --- | --- | --- |",
        "| `torch` | batch 1 | 3.72 to 5.17 x | 3 | 2 | 2 |",
        "| `torch` | batch 64 | 9 x | 1 | 1 | 1 |",
    ]
    assert "## decode, ratios" not in table.benchmarks([row("decode.rate", 1.0, "2026-01-01T00:00:00Z")])


def test_check_fails_until_the_page_is_made_and_after_a_new_row(tmp_path: Path, files: list[str]) -> None:
    rows.append(tmp_path / "benchmarks.jsonl", [row("decode.ratio", 2.0, "2026-01-01T00:00:00Z")])
    assert table.main([*files, "--check"]) == 1
    assert not (tmp_path / "benchmarks.md").exists()
    assert table.main(files) == 0
    assert table.main([*files, "--check"]) == 0
    rows.append(tmp_path / "benchmarks.jsonl", [row("decode.ratio", 3.0, "2026-01-02T00:00:00Z")])
    assert table.main([*files, "--check"]) == 1


def test_a_row_without_a_unit_is_named(
    tmp_path: Path, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    incomplete = row("decode.ratio", 2.0, "2026-01-01T00:00:00Z")
    del incomplete["unit"]
    rows.append(tmp_path / "benchmarks.jsonl", [incomplete])
    assert table.main(files) == 2
    complaint = capsys.readouterr().err
    assert "no 'unit'" in complaint
    assert "decode.ratio" in complaint
    assert not (tmp_path / "benchmarks.md").exists()


def quality(model: str, value: float, part: str = "all", split: str = "test", **fields: Any) -> rows.Row:
    config = {"model": model, "split": split, "part": part}
    about = {
        "low": value - 0.1,
        "high": value + 0.1,
        "pieces": 7,
        "command": "results.py tiny",
        "commit": "abc",
    }
    return (
        row("quality.tiny", value, "2026-01-01T00:00:00Z", unit="nats/frame", config=config) | about | fields
    )


def test_models_stand_in_one_table_a_split_beside_what_needs_no_network() -> None:
    measured = [quality("uniform", 9.0), quality("ngram", 2.0)]
    measured += [quality("ours", 1.0 + seed / 10, seed=seed, tried=3, train_seconds=90) for seed in (0, 1, 2)]
    of_seed: dict[str, Any] = {"split": "valid", "seed": 0, "tried": 3, "train_seconds": 3600}
    measured += [quality("ours", 5.0, **of_seed)]
    measured += [quality("ours", 0.5, "clean", **of_seed), quality("ours", 0.4, "leaked", **of_seed)]
    page = table.results(measured)
    test, valid = page.split("## tiny, test")[1].split("## tiny, valid")
    assert "nats/frame, 7 pieces; 3 configurations were tried." in test
    lines = [line for line in test.splitlines() if line.startswith("|")]
    assert lines == [
        "| model | all | trained, minutes |",
        "| --- | --- | --- |",
        "| ours, seed 0 | 1.000 [0.900, 1.100] | 2 |",
        "| ours, seed 1 | 1.100 [1.000, 1.200] | 2 |",
        "| ours, seed 2 | 1.200 [1.100, 1.300] | 2 |",
        "| ours, mean of 3 seeds | 1.100 |  |",
        "| `ngram` | 2.000 [1.900, 2.100] |  |",
        "| `uniform` | 9.000 [8.900, 9.100] |  |",
    ]
    assert "- `results.py tiny` (commit abc, EPYC, 2 cores)" in test
    assert (
        "| ours, seed 0 | 5.000 [4.900, 5.100] | 0.500 [0.400, 0.600] | 0.400 [0.300, 0.500] | 60 |" in valid
    )


def test_the_pages_of_this_repository_are_up_to_date() -> None:
    assert table.main(["--check"]) == 0


def test_preparing_is_compared_on_the_files_that_both_sides_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, pitches in (("one", [60, 64, 67]), ("two", [69, 72, 76])):
        notes = make_notes([0, 12, 24], [12, 12, 24], pitches, [0, 0, 0])
        write_midi(notes, tmp_path / "music" / f"{name}.mid")
    (tmp_path / "music" / "broken.mid").write_bytes(b"MThd")
    small = ["--generated", "12", "--rounds", "1"]
    assert load("bench_prepare").main(["--data", str(tmp_path / "music"), *small]) == 0
    said = capsys.readouterr()
    found = {row["name"]: row for row in map(json.loads, said.out.splitlines())}
    assert set(found) == {
        "prepare.ratio.music21",
        "prepare.ratio_per_file.music21",
        "prepare.ms_per_file",
        "prepare.ms_per_file.music21",
        "prepare.scaling.2workers",
        "prepare.scaling_after_start.2workers",
        "prepare.start_seconds.2workers",
    }
    ratio = found["prepare.ratio.music21"]
    assert (ratio["config"]["files"], ratio["left_out"]) == (2, ["broken.mid"])
    assert ratio["command"] == "python scripts/bench_prepare.py --data music --generated 12 --rounds 1"
    assert "left out: broken.mid" in said.err


def test_a_comparison_without_files_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load("bench_prepare").main(["--data", str(tmp_path / "nowhere.zip")]) == 2
    assert "nowhere.zip: not there" in capsys.readouterr().err


TINY_RECIPE = """
[model]
width = 8
pitch_embedding = 4
duration_embedding = 4
context = { lags = [12], intervals = true }
[batch]
rows = 2
length = 16
before = 4
[train]
steps = 4
warmup = 1
[result]
figure = "quality.tiny"
unit = "frame"
source = "frames"
tried = 3
"""


@pytest.mark.slow
def test_a_recipe_goes_from_the_frame_file_to_its_rows_and_is_not_trained_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = load("results")
    tiny = tmp_path / "tiny.toml"
    tiny.write_text(TINY_RECIPE)
    frames = [[[60 + (n + k) % 7, 67 + n % 3] for k in range(12)] for n in range(6)]
    data = tmp_path / "frames_quarter.json"
    data.write_text(json.dumps({"train": frames[:4], "valid": frames[4:5], "test": frames[5:]}))
    words = [str(tiny), "--data", str(data), "--out", str(tmp_path / "out"), "--seeds", "0,1"]
    assert results.main(words) == 0
    said = capsys.readouterr().out
    found = rows.read(tmp_path / "out" / "results.jsonl")
    assert {row["name"] for row in found} == {"quality.tiny"}
    assert {(row["config"]["model"], row.get("seed"), row.get("tried")) for row in found} == {
        *[("ours", 0, 3), ("ours", 1, 3)],
        *[(name, None, None) for name in ("uniform", "unigram", "copy", "ngram")],
    }
    assert all(row["unit"] == "nats/frame" and row["low"] <= row["value"] <= row["high"] for row in found)
    assert all(row["config"]["split"] == "valid" for row in found)
    assert all(row["train_seconds"] > 0 for row in found if row["config"]["model"] == "ours")
    assert said.index("seed 0") < said.index("seed 1") < said.index("uniform")
    steps = [row["step"] for row in rows.read(tmp_path / "out" / "seed-0" / "rows.jsonl")]
    assert results.main([*words, "--split", "test"]) == 0
    assert [row["step"] for row in rows.read(tmp_path / "out" / "seed-0" / "rows.jsonl")] == steps
    assert results.main([str(tiny), "--out", str(tmp_path / "out")]) == 2
    assert "tiny.toml: give --data, frames" in capsys.readouterr().err
    assert results.main([*words[:-1], "0,x"]) == 2
    assert "--seeds 0,x" in capsys.readouterr().err
