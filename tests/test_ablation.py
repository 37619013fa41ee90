"""Studies that run: killed, added to, failing in an arm; always the same rows in the end."""

import csv
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from midigen_jax import rows
from midigen_jax.data.corpus import load_corpus
from midigen_jax.errors import InputError
from midigen_jax.listen.study import write_study
from midigen_jax.music.notes import make_notes
from midigen_jax.music.write import write_midi
from midigen_jax.study.ablation import run_study
from midigen_jax.study.evaluate import evaluate
from midigen_jax.study.metrics import pick
from midigen_jax.study.plan import BASE, make_study
from midigen_jax.train.loop import fit
from midigen_jax.train.pretrained import load_model
from tests.tiny import SMALLEST

BASE_SETTINGS = SMALLEST | {
    "train.evaluate_every": 4,
    "train.steps_per_call": 2,
    "sample.events": 24,
}
FASTER = {"faster": {"train.learning_rate": 0.02}}


@pytest.fixture(scope="module")
def music(tmp_path_factory, write_melodies):
    return write_melodies(tmp_path_factory.mktemp("music"), count=20, notes=24)


@pytest.fixture(scope="module")
def thirds(tmp_path_factory):
    """Melodies of two notes at once, of which no one symbol is a pitch."""
    folder, rng = tmp_path_factory.mktemp("thirds"), np.random.default_rng(0)
    for number in range(20):
        pitch = 60 + np.cumsum(rng.integers(-3, 4, 24)) % 24
        onset, ticks, track = np.tile(np.arange(24) * 6, 2), np.full(48, 6), np.zeros(48)
        write_midi(make_notes(onset, ticks, np.append(pitch, pitch + 4), track), folder / f"{number}.mid")
    return folder


def describe(music, arms=FASTER, seeds=(0, 1), **changes):
    """What a file of the study would hold."""
    given = {"corpus": [str(music)], "budget": {"steps": 12}, "base": BASE_SETTINGS}
    given |= {"seeds": list(seeds), "arms": arms, "measure": ["nats_per_quarter"]}
    return given | changes


@pytest.fixture(scope="module")
def whole(music, tmp_path_factory):
    """A study that nothing interrupted, and its rows."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return out, run_study(make_study(describe(music), "tiny"), out, keep=True)


def findings(found):
    """Rows without what depends on the machine and the hour."""
    clock = ("time", "commit", "command", "device", "versions")
    plain = [{key: value for key, value in row.items() if key not in clock} for row in found]
    return [row for row in plain if row["name"] not in ("ablate.train_seconds", "ablate.decode_events_per_s")]


def test_rows_say_what_lone_runs_and_their_evaluation_say(music, whole, tmp_path):
    out, found = whole
    study = make_study(describe(music), "tiny")
    (corpus,) = (load_corpus(path) for path in (out / "corpora").iterdir())
    fit(corpus, study.config("faster", 1), tmp_path / "lone")
    evaluated = evaluate(load_model(str(tmp_path / "lone")), corpus, "test", "lone")
    alone = pick(evaluated.parts["all"], "nats_per_quarter")
    of_seed = [row for row in found if row["name"] == "ablate.nats_per_quarter.seed"]
    (ours,) = (row["value"] for row in of_seed if row["config"]["arm"] == "faster" and row["seed"] == 1)
    assert ours == pytest.approx(alone.value, rel=1e-5)
    means = {
        arm: np.mean([row["value"] for row in of_seed if row["config"]["arm"] == arm])
        for arm in (BASE, "faster")
    }
    for row in found:
        if row["name"] == "ablate.nats_per_quarter":
            assert row["value"] == pytest.approx(means[row["config"]["arm"]])
            assert row["low"] <= row["value"] <= row["high"]
    (apart,) = (row for row in found if row["name"] == "ablate.difference")
    assert apart["value"] == pytest.approx(means["faster"] - means[BASE])
    assert rows.read(out / "results.jsonl") == found


def test_tables_have_a_line_for_each_arm(whole):
    out, _ = whole
    with (out / "table.csv").open() as file:
        lines = list(csv.reader(file))
    assert [line[:2] for line in lines] == [["arm", "seeds"], [BASE, "2"], ["faster", "2"]]
    assert lines[0][2] == "nats per quarter"
    markdown = (out / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in markdown] == ["arm", "---", BASE, "faster"]
    latex = (out / "table.tex").read_text()
    assert latex.count(r"\\") == 3
    assert latex.startswith(r"\begin{tabular}{lrrrrrrrrr}")


def test_the_page_of_a_study_that_ran_says_what_its_rows_say(whole, tmp_path, parse):
    out, found = whole
    write_study(out, tmp_path / "study.html")
    levels = {row["config"]["arm"]: row["value"] for row in found if row["name"] == "ablate.nats_per_quarter"}
    best = min(levels, key=lambda arm: levels[arm])
    text = " ".join(parse((tmp_path / "study.html").read_text()).text.split())
    assert f"“{best}” needs the fewest nats per quarter, {levels[best]:.4f}" in text
    assert all(f"{level:.4f}" in text for level in levels.values())


def test_what_is_finished_is_not_done_again_and_what_is_new_is_added(music, whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole[0], out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/*/*.json*")}
    # One that prepares music otherwise comes first, and there is a seed more.
    arms = {"short": {"prepare.max_duration": 48}} | FASTER | {"slower": {"train.learning_rate": 1e-4}}
    # One of the new arms cannot learn: it is written down, and the others go on.
    arms |= {"wild": {"train.learning_rate": 100.0, "train.weight_decay": 1e6}}
    found = run_study(make_study(describe(music, arms), "tiny"), out)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    old = [row for row in findings(found) if row["config"]["arm"] in (BASE, "faster")]
    compared = ("ablate.difference",)  # corrected for more arms than before
    assert [row for row in old if row["name"] not in compared] == [
        row for row in findings(whole[1]) if row["name"] not in compared
    ]
    failed = [row for row in found if row["name"] == "ablate.failed"]
    assert [(row["config"]["arm"], row["seed"]) for row in failed] == [("wild", 0), ("wild", 1)]
    assert all(row["reason"].startswith("the training diverged") for row in failed)
    apart = {row["config"]["arm"]: row for row in found if row["name"] == "ablate.difference"}
    assert set(apart) == {"short", "faster", "slower"}
    assert "| wild | 0 | failed |" in (out / "table.md").read_text()
    assert not list(out.glob("runs/*/*/checkpoints"))
    assert findings(run_study(make_study(describe(music, arms), "tiny"), out)) == findings(found)


def test_a_folder_of_another_study_is_refused(music, whole):
    out, _ = whole
    for changes, words in [
        ({"name": "other"}, "another name"),
        ({"budget": {"steps": 13}}, "another budget"),
        ({"split": "valid"}, "another split"),
        ({"base": BASE_SETTINGS | {"model.width": 16}}, "another base"),
        ({"measure": ["nats_per_quarter", "decode"]}, "another measure"),
        ({"arms": {"faster": {"train.learning_rate": 0.5}}}, "arm 'faster' has other settings there"),
        ({"arms": {"Faster!": {"train.learning_rate": 0.5}}}, "arm 'Faster!' has the folder of 'faster'"),
    ]:
        with pytest.raises(InputError, match=words):
            run_study(make_study(describe(music) | changes, "tiny"), out)


def test_arms_on_other_pieces_are_refused(music, tmp_path):
    """Only files that can be read in both ways can be compared."""
    given = describe(music, {"voices": {"prepare.voices": 1}})
    short = [str(music / "0.mid"), *(str(music / f"{number}.mid") for number in range(1, 20))]
    chords = tmp_path / "music"
    chords.mkdir()
    for path in short:
        shutil.copy(path, chords)
    # Two notes at once have no place in one voice.
    both = make_notes(np.zeros(2), np.full(2, 48), np.array([60, 64]), np.zeros(2))
    for number in range(20):
        write_midi(both, chords / f"both-{number}.mid")
    with pytest.raises(InputError, match="arm 'voices': its test split has"):
        run_study(make_study(given | {"corpus": [str(chords)]}, "tiny"), tmp_path / "out")


RUN = """
import json, sys
from pathlib import Path
from midigen_jax.study.ablation import run_study
from midigen_jax.study.plan import make_study
run_study(make_study(json.loads(sys.argv[1]), "tiny"), Path(sys.argv[2]), keep=True)
"""


@pytest.mark.slow
def test_a_study_that_is_killed_again_and_again_ends_with_the_rows_of_any_other(music, whole, tmp_path):
    kill_again_and_again(describe(music), tmp_path / "out", tmp_path)
    agree(tmp_path / "out", *whole)


@pytest.mark.slow
def test_twelve_runs_that_are_killed_again_and_again_end_with_the_rows_of_any_other(music, tmp_path):
    arms = FASTER | {"deep": {"model.blocks": ("lstm", "lstm", "pooled")}, "wide": {"model.width": 12}}
    described = describe(music, arms, seeds=(0, 1, 2))
    alone = run_study(make_study(described, "tiny"), tmp_path / "alone", keep=True)
    assert len(list(tmp_path.glob("alone/runs/*/*/rows.jsonl"))) == 12
    assert kill_again_and_again(described, tmp_path / "out", tmp_path) == 5
    agree(tmp_path / "out", tmp_path / "alone", alone)


def kill_again_and_again(described, out, tmp_path):
    """Up to five times at random, each time further on; then the study is left to end. Returns the kills."""
    given = json.dumps(described)
    environment = os.environ | {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    rng = np.random.default_rng(0)
    killed = 0
    for _ in itertools.count():
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, given, str(out)], env=environment, stderr=subprocess.PIPE
        )
        if killed < 5:
            begun = done(out)
            wait_for(lambda begun=begun: done(out) > begun, process)
            time.sleep(rng.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, errors.decode()
        killed += 1
    return killed


def agree(out, whole, found):
    """The study in `out` has the rows that that in `whole` found, and so have its runs."""
    assert findings(rows.read(out / "results.jsonl")) == findings(found)
    for path in whole.glob("runs/*/*/rows.jsonl"):
        theirs = rows.read(out / path.relative_to(whole))
        names = [(row["name"], row["step"]) for row in theirs]
        assert len(set(names)) == len(names)
        assert names == [(row["name"], row["step"]) for row in rows.read(path)]


def done(out):
    """Grows with every validation, and with every run that is scored."""
    rows_there = (path.read_text().count('valid.nats_per_event"') for path in out.glob("runs/*/*/rows.jsonl"))
    return sum(rows_there) + 100 * len(list(out.glob("runs/*/*/scores.json")))


def wait_for(condition, process):
    while not condition() and process.poll() is None:
        time.sleep(0.05)


def test_an_arm_that_cannot_be_trained_is_written_down(thirds, tmp_path):
    arms = {"told chords": {"prepare.tokenizer": "chord", "model.context.place": True}}
    found = run_study(
        make_study(describe(thirds, arms, seeds=[0], budget={"steps": 2}), "tiny"), tmp_path / "out"
    )
    (failed,) = (row for row in found if row["name"] == "ablate.failed")
    assert failed["config"]["arm"] == "told chords"
    assert "needs ids that are single pitches" in failed["reason"]
    assert any(row["name"] == "ablate.nats_per_quarter" for row in found)


def test_an_arm_that_cannot_even_be_tried_is_written_down(thirds, tmp_path):
    """A budget of seconds is measured with each program before anything is trained."""
    arms = {"told chords": {"prepare.tokenizer": "chord", "model.context.place": True}}
    given = describe(thirds, arms, seeds=[0], budget={"seconds": 0.2})
    found = run_study(make_study(given, "tiny"), tmp_path / "out")
    (failed,) = (row for row in found if row["name"] == "ablate.failed")
    assert failed["config"]["arm"] == "told chords"
    assert any(row["name"] == "ablate.nats_per_quarter" for row in found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": "nowhere.mid"}, "nowhere.mid"),
        ({"measure": ["nats_per_frame"]}, "the music has no frames; use nats_per_quarter"),
        ({"measure": ["nats_by_position"]}, "'nats_by_position': did you mean nats_by_position.be"),
        ({"measure": ["nats_per_quarter.pich"]}, "did you mean nats_per_quarter.pitch?"),
        ({"corpus": ["nowhere"]}, "nowhere"),
    ],
)
def test_what_cannot_be_studied_is_told_before_anything_is_trained(music, tmp_path, changes, words):
    out = tmp_path / "out"
    with pytest.raises(InputError, match=words):
        run_study(make_study(describe(music) | changes, "tiny"), out)
    # And a study that is mended may have the folder.
    assert not (out / "study.json").exists()
