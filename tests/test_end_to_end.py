"""The whole way on a tiny corpus, as a user goes it: prepare, train, stop, go on, generate, report."""

import shutil

import numpy as np
import pytest

from midigen_jax import rows
from midigen_jax.cli import main
from midigen_jax.music.notes import make_notes
from midigen_jax.music.read import read_piece
from midigen_jax.music.sources import find_sources
from midigen_jax.music.write import write_midi

TINY = [
    *("--model.width", "16", "--model.pitch_embedding", "8", "--model.duration_embedding", "4"),
    *("--batch.rows", "4", "--batch.length", "32", "--train.warmup", "2", "--train.evaluate_every", "6"),
    *("--sample.count", "2", "--sample.events", "40"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with eight small MIDI files, a corpus of them and a run of 12 steps."""
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    for number in range(8):
        pitch = np.cumsum(rng.integers(-3, 4, 60)) + 60
        onset = np.arange(60) * 6
        write_midi(make_notes(onset, np.full(60, 6), pitch, np.zeros(60)), home / "music" / f"{number}.mid")
    assert main(["prepare", str(home / "music"), "--out", str(home / "corpus")]) == 0
    assert main(["train", str(home / "corpus"), "--out", str(home / "run"), "--steps", "12", *TINY]) == 0
    return home


def values(run, name):
    return [(row["step"], row["value"]) for row in rows.read(run / "rows.jsonl") if row["name"] == name]


def test_training_measures_keeps_checkpoints_and_writes_samples(home):
    run = home / "run"
    scores = values(run, "valid.nats_per_event")
    assert [step for step, _ in scores] == [1, 6, 12]
    assert scores[-1][1] < scores[0][1]
    assert {folder.name for folder in (run / "samples").iterdir()} == {"step-000001", "step-000012"}
    assert (run / "samples" / "step-000012" / "rows.jsonl").is_file()


def test_the_same_command_on_what_it_made_does_nothing_again(home, capsys):
    before = rows.read(home / "run" / "rows.jsonl")
    assert main(["prepare", str(home / "music"), "--out", str(home / "corpus")]) == 0
    assert main(["train", str(home / "corpus"), "--out", str(home / "run"), "--steps", "12", *TINY]) == 0
    assert rows.read(home / "run" / "rows.jsonl") == before


def test_a_resumed_training_gives_the_same_model_as_one_that_was_left_alone(home, tmp_path):
    """Law 8 for the one way of cutting that is there: the newest checkpoint is that of an earlier step."""
    shutil.copytree(home / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "12")
    assert main(["train", str(home / "corpus"), "--out", str(tmp_path / "run"), "--steps", "12", *TINY]) == 0
    for name in ("valid.nats_per_event", "train.nats_per_event.pitch"):
        resumed, whole = values(tmp_path / "run", name), values(home / "run", name)
        assert resumed[-1] == whole[-1]


def test_generated_music_reads_back_begins_with_its_prompt_and_repeats_with_its_seed(home, tmp_path):
    prompt = home / "music" / "0.mid"
    for out in ("one", "two"):
        words = [
            "generate",
            str(home / "run"),
            "--out",
            str(tmp_path / out),
            "--count",
            "2",
            "--events",
            "30",
        ]
        assert main([*words, "--prompt", str(prompt), "--temperature", "0.8"]) == 0
    given = read_piece(find_sources([str(prompt)])[0]).notes
    for number in (1, 2):
        files = [tmp_path / out / f"{number}.mid" for out in ("one", "two")]
        assert files[0].read_bytes() == files[1].read_bytes()
        notes = read_piece(find_sources([str(files[0])])[0]).notes
        np.testing.assert_array_equal(notes[: len(given) - 1, :3], given[:-1, :3])
        assert files[0].with_suffix(".mp3").stat().st_size > 1000
        assert files[0].with_suffix(".png").is_file()


def test_the_report_holds_the_samples(home, tmp_path):
    assert main(["report", str(home / "run"), "--out", str(tmp_path / "report.html")]) == 0
    text = (tmp_path / "report.html").read_text()
    assert "step-000012" in text or "12" in text
    assert text.count("data:audio/mpeg") == len(list((home / "run" / "samples").glob("*/*.mp3")))


def test_the_chord_tokenizer_and_the_article_preset_go_the_same_way(home, tmp_path):
    corpus, run = str(tmp_path / "corpus"), str(tmp_path / "run")
    words = ["prepare", str(home / "music"), "--out", corpus, "--tokenizer", "chord", "--transpose", "C"]
    assert main([*words, "--min-chord-count", "1"]) == 0
    assert main(["train", corpus, "--out", run, "--preset", "article", "--epochs", "1", *TINY]) == 0
    assert values(tmp_path / "run", "valid.nats_per_event")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["trian"], "did you mean train?"),
        (["prepare", "nowhere", "--out", "{tmp}/c"], "nowhere"),
        (["prepare", "{tmp}/empty", "--out", "{tmp}/c"], "empty"),
        (["prepare", "{tmp}/text.mid", "--out", "{tmp}/c"], "not a MIDI file"),
        (["prepare", "{home}/music", "--out", "{tmp}/full"], "something else"),
        (["prepare", "{home}/music/0.mid", "--out", "{tmp}/c"], "split"),
        (["prepare", "{home}/music", "--out", "{tmp}/c", "--transpose", "H"], "key 'H'"),
        (["train", "{tmp}/empty", "--out", "{tmp}/r"], "no corpus"),
        (["train", "{home}/corpus", "--out", "{home}/run", "--steps", "13", *TINY], "train.steps = 12"),
        (["train", "{home}/corpus", "--out", "{tmp}/full"], "something else"),
        (["train", "{home}/corpus", "--out", "{tmp}/r", "--model.widht", "3"], "--model.width"),
        (["train", "{home}/corpus", "--out", "{tmp}/r", "--model.dropout", "1"], "below 1"),
        (["train", "{home}/corpus", "--out", "{tmp}/r", "--preset", "articl"], "did you mean article?"),
        (["generate", "{tmp}/empty", "--out", "{tmp}/g"], "no run"),
        (["generate", "{home}/run", "--out", "{tmp}/g", "--temperature", "-1"], "temperature"),
        (["generate", "{home}/run", "--out", "{tmp}/g", "--checkpoint", "7"], "checkpoint '7'"),
        (["report", "{tmp}/empty", "--out", "{tmp}/r.html"], "empty"),
        (["demo", "--out", "{tmp}/full"], "something else"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_and_loses_nothing(home, tmp_path, capsys, words, part):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("mine")
    (tmp_path / "text.mid").write_text("this is no music")
    assert main([word.format(tmp=tmp_path, home=home) for word in words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("reading")]
    assert len(lines) == 1
    assert part in lines[0]
    assert (tmp_path / "full" / "precious.txt").read_text() == "mine"
