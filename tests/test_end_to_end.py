"""The whole way on a tiny corpus, as a user goes it: prepare, train, stop, go on, generate, report."""

import json
import os
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from midigen_jax import rows
from midigen_jax.cli import main
from midigen_jax.config import SampleConfig
from midigen_jax.data.corpus import load_corpus
from midigen_jax.model.network import Network, score
from midigen_jax.music.notes import make_notes
from midigen_jax.music.read import read_piece
from midigen_jax.music.sources import find_sources
from midigen_jax.music.write import write_midi
from midigen_jax.sample.generate import generate
from midigen_jax.train.checkpoint import open_run
from midigen_jax.vocab import by_stream

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
    words = ["prepare", str(home / "music"), "--out", str(home / "chords"), "--tokenizer", "chord"]
    assert main(words) == 0
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
    names = {file.name for file in (run / "samples" / "step-000012").iterdir()}
    assert {"rows.jsonl", "1.mid", "1.musicxml", "1.mp3", "1.png"} <= names


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


def test_evaluation_agrees_with_validation_and_its_rows_hold_every_figure(home, tmp_path, capsys):
    words = ["evaluate", str(home / "run"), "--samples", "3", "--out", str(tmp_path / "rows.jsonl")]
    assert main(words) == 0
    said = capsys.readouterr().out
    found = rows.read(tmp_path / "rows.jsonl")
    assert {row["config"]["model"] for row in found} == {"run", "uniform", "unigram", "copy", "ngram"}
    mine = {
        (row["name"], row["config"]["weight"], row["config"]["head"], row["config"]["end"]): row
        for row in found
        if row["name"].startswith("evaluate.") and row["config"]["model"] == "run"
    }
    both = mine["evaluate.nats_per_event", "units", "both", False]
    heads = [mine["evaluate.nats_per_event", "units", head, False]["value"] for head in ("pitch", "duration")]
    assert both["value"] == pytest.approx(sum(heads))
    assert both["low"] <= both["value"] <= both["high"]
    # Validation counts <end> among the events; here there is one to 60 of them.
    best = min(values(home / "run", "valid.nats_per_event"), key=lambda value: value[1])[1]
    pieces = load_corpus(home / "corpus").split("valid")
    events = sum(piece.stop - piece.start - 2 for piece in pieces)
    with_end = mine["evaluate.nats_per_event", "units", "both", True]["value"]
    assert with_end * events == pytest.approx(best * (events + len(pieces)), rel=1e-5)
    assert not any(row["name"] == "evaluate.nats_per_frame" for row in found)  # MIDI has no frames
    runs = {row["config"]["of"]: row["value"] for row in found if row["name"] == "samples.longest_run"}
    assert set(runs) == {"samples", "valid"}
    assert "longest run of slices" in said
    assert main([*words, "--split", "test"]) == 0


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


def test_a_file_says_how_to_make_it_again(home, tmp_path, capsys):
    run, prompt = str(home / "run"), str(home / "music" / "0.mid")
    words = ["generate", run, "--out", str(tmp_path / "one"), "--count", "3", "--events", "30"]
    words += ["--temperature", "0.7,1.2", "--prompt", prompt, "--drop-prompt", "--top-p", "0.9"]
    assert main(words) == 0
    like = ["generate", "--like", str(tmp_path / "one" / "2.mid")]
    assert main([*like, "--out", str(tmp_path / "two")]) == 0
    assert (tmp_path / "two" / "2.mid").read_bytes() == (tmp_path / "one" / "2.mid").read_bytes()
    assert sorted(path.name for path in (tmp_path / "two").glob("*.mid")) == ["2.mid"]

    sample = next((home / "run" / "samples").glob("*/1.mid"))
    assert main(["generate", "--like", str(sample), "--out", str(tmp_path / "three")]) == 0
    again, first = (
        read_piece(find_sources([str(path)])[0]).notes for path in (tmp_path / "three" / "1.mid", sample)
    )
    np.testing.assert_array_equal(again, first)
    assert json.loads((tmp_path / "three" / "settings.json").read_text())["run"] == "run"

    capsys.readouterr()
    other = str(home / "music" / "1.mid")
    assert main([*like, "--out", str(tmp_path / "four"), "--prompt", other]) == 2
    assert "another prompt" in capsys.readouterr().err


def test_a_thousand_samples_of_a_trained_model_parse_and_read_back(home, tmp_path):
    with open_run(home / "run") as checkpoints:
        restored = checkpoints.restore("best")
    config = SampleConfig(count=1000, events=40, temperature=(0.5, 1.0, 1.5, 2.0))
    made = generate(restored, config)
    assert sum(len(notes) > 0 for notes in made.pieces) > 900
    place = tmp_path / "piece.mid"
    for notes in filter(len, made.pieces):
        write_midi(notes, place)
        found = read_piece(find_sources([str(place)])[0], "uniform").notes
        np.testing.assert_array_equal(found[:, 1:], notes[:, 1:])


def test_bfloat16_moves_the_logits_of_a_trained_model_little(home):
    """By less than a hundredth of a nat an event in the mean, and a tenth at the most, of its 2 to 9."""
    with open_run(home / "run") as checkpoints:
        restored = checkpoints.restore("best")
    corpus = load_corpus(home / "corpus")
    events = by_stream(corpus.vocabulary, corpus.tokens[None, :120])
    nats = []
    for dtype in ("float32", "bfloat16"):
        network = Network(replace(restored.network.config, compute_dtype=dtype), restored.network.vocabulary)
        read = network.initial_carry(1), events, np.ones((1, 119), bool)
        scored = score(network, restored.state.ema_params, *read)[1]
        assert scored.keys() == {"pitch", "duration"}
        nats.append(np.asarray(sum(scored.values())))
    moved = np.abs(nats[0] - nats[1])
    assert 0 < moved.mean() < 0.01
    assert moved.max() < 0.1


def test_the_report_holds_the_samples(home, tmp_path):
    assert main(["report", str(home / "run"), "--out", str(tmp_path / "report.html")]) == 0
    text = (tmp_path / "report.html").read_text()
    assert "step 12 · validation" in text
    assert text.count("data:audio/mpeg") == len(list((home / "run" / "samples").glob("*/*.mp3")))


def test_the_chord_vocabulary_and_the_article_recipe_go_the_same_way(home, tmp_path):
    corpus, run = str(tmp_path / "corpus"), str(tmp_path / "run")
    words = ["prepare", str(home / "music"), "--out", corpus, "--tokenizer", "chord", "--transpose", "C"]
    assert main([*words, "--min-chord-count", "1"]) == 0
    assert main(["train", corpus, "--out", run, "--config", "article", "--epochs", "1", *TINY]) == 0
    assert values(tmp_path / "run", "valid.nats_per_event")


@pytest.fixture(scope="module")
def traps(home, tmp_path_factory):
    """What nobody should give to the commands."""
    folder = tmp_path_factory.mktemp("traps")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "config.json").write_text('{"model_type": "bert"}')
    shutil.copytree(home / "corpus", folder / "cut")
    (folder / "cut" / "manifest.json").write_text('{"format": ')
    with zipfile.ZipFile(folder / "escape.zip", "w") as archive:
        archive.writestr("../out.mid", b"")
    with zipfile.ZipFile(folder / "bomb.zip", "w") as archive:
        archive.writestr("0.mid", b"")
        archive.filelist[0].file_size = 3 << 30  # what the directory says is what is believed
    return folder


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
        (["train", "{home}/corpus", "--out", "{home}/run", "--steps", "11", *TINY], "train.steps = 12"),
        (["train", "{home}/corpus", "--out", "{tmp}/full"], "something else"),
        (["train", "{home}/corpus", "--out", "{tmp}/r", "--model.widht", "3"], "--model.width"),
        (["train", "{home}/corpus", "--out", "{tmp}/r", "--model.dropout", "1"], "below 1"),
        (["train", "{home}/corpus", "--out", "{tmp}/r", "--config", "articl"], "did you mean article?"),
        (["generate", "{tmp}/empty", "--out", "{tmp}/g"], "no run"),
        (["generate", "{home}/run", "--out", "{tmp}/g", "--temperature", "-1"], "temperature = -1"),
        (["generate", "{home}/run", "--out", "{tmp}/g", "--temperature", "nan"], "temperature = 'nan'"),
        (["generate", "{home}/run", "--out", "{tmp}/g", "--top-p", "0.9,0"], "top_p = 0.0"),
        (["generate", "{home}/run", "--out", "{tmp}/g", "--count", "0"], "count = 0"),
        (["generate", "{home}/run", "--out", "{tmp}/g", "--count", "1000000"], "1 to 10,000"),
        (["generate", "{home}/run", "--out", "{tmp}/g", "--key", "H"], "key 'H'"),
        (["generate", "{home}/run", "--out", "{tmp}/g", "--format", "midi,mp4"], "did you mean mp3?"),
        (["harmonise", "{home}/music/0.mid", "--out", "{tmp}/g", "--format", "wav"], "there is midi, music"),
        (["generate", "{home}/run", "--out", "{tmp}/g", "--meter", "4/5"], "meter '4/5'"),
        (["generate", "{home}/run", "--out", "{tmp}/g", "--bars", "2", "--seconds", "2"], "not both"),
        (["generate", "{home}/run", "--out", "{tmp}/g", "--lowest", "90", "--highest", "80"], "lowest = 90"),
        (["generate", "{home}/run", "--out", "{tmp}/g", "--highest", "128"], "highest = 128"),
        (["generate", "{home}/run", "--out", "{tmp}/g", "--prompt", ""], "--prompt: is empty"),
        (["bench", "decode", "--out", "{tmp}"], "is a folder"),
        (["generate", "--out", "{tmp}/g"], "RUN is missing"),
        (["evaluate", "{tmp}/empty"], "no run there"),
        (["evaluate", "{home}/run", "{tmp}/empty"], "no corpus there"),
        (["evaluate", "{home}/run", "{home}/chords"], "its ids are not those of the run"),
        (["evaluate", "{home}/run", "--split", "tset"], "tset"),
        (["evaluate", "{home}/run", "--samples", "0"], "1 to 10,000"),
        (["evaluate", "{home}/run", "--out", "{tmp}"], "is a folder"),
        (["train", "{home}/corpus", "--out", "{tmp}/r", "--sample.key", "H"], "key 'H'"),
        (["generate", "--out", "{tmp}/g", "--like", "{home}/music/0.mid"], "does not say how it was made"),
        (["generate", "{home}/run", "--out", "{tmp}/g", "--checkpoint", "7"], "checkpoint '7'"),
        (["report", "{tmp}/empty", "--out", "{tmp}/r.html"], "empty"),
        (["demo", "--out", "{tmp}/full"], "something else"),
        (["prepare", "{home}/music", "--out", "."], "name of a folder"),
        (["prepare", "{home}/music", "--out", "{tmp}/c", "--max-duration", "99999999999"], "1 to 65,536"),
        (["prepare", "{traps}/bomb.zip", "--out", "{tmp}/c"], "GiB when unpacked"),
        (["prepare", "{traps}/escape.zip", "--out", "{tmp}/c"], "leads out of its folder"),
        (["prepare", "{home}/music", "--out", "{home}/run"], "something else"),
        (["train", "{traps}/cut", "--out", "{tmp}/r"], "damaged"),
        (["train", "{home}/corpus", "--out", "{tmp}/text.mid/r"], "cannot be made"),
        (["train", "{home}/corpus", "--uot", "{tmp}/r"], "did you mean --out?"),
        (["train", "{home}/corpus", "--out", "{tmp}/r", "--model.width", "9" * 20], "1 to 65,536"),
        (["generate", "{home}/run", "--out", "{tmp}/text.mid/g"], "cannot be made"),
        (["generate", "{home}/run", "--out", "{tmp}/g", "--prompt", "{tmp}/text.mid"], "not a MIDI file"),
        (["report", "{home}/run", "--out", "{tmp}/text.mid/r.html"], "cannot be made"),
        (["report", "{traps}/foreign", "--out", "{tmp}/r.html"], "model_type"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_and_loses_nothing(home, traps, tmp_path, capsys, words, part):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("mine")
    (tmp_path / "text.mid").write_text("this is no music")
    assert main([word.format(tmp=tmp_path, home=home, traps=traps) for word in words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("reading")]
    assert len(lines) == 1
    assert part in lines[0]
    assert (tmp_path / "full" / "precious.txt").read_text() == "mine"


def test_after_a_mistake_the_same_out_takes_the_command_that_was_meant(home, tmp_path):
    music, corpus, out = str(home / "music"), str(tmp_path / "corpus"), str(tmp_path / "out")
    assert main(["prepare", music, "--out", corpus, "--only-key", "F# minor"]) == 2
    assert main(["prepare", music, "--out", corpus]) == 0
    run = str(home / "run")
    (tmp_path / "text.mid").write_text("this is no music")
    words = ["generate", run, "--out", out, "--count", "1", "--events", "10"]
    assert main([*words, "--prompt", str(tmp_path / "text.mid")]) == 2
    assert main(words) == 0


def test_the_same_command_fills_its_folder_again(home, tmp_path):
    words = ["generate", str(home / "run"), "--out", str(tmp_path / "out"), "--count", "1", "--events", "10"]
    assert main(words) == 0
    (tmp_path / "out" / "1.mp3").unlink()
    assert main(words) == 0
    assert (tmp_path / "out" / "1.mp3").is_file()
    assert main([*words, "--seed", "1"]) == 2


def test_each_piece_is_written_as_the_kinds_of_files_that_are_asked_for(home, tmp_path, capsys):
    """More kinds of the same music may be asked for later; of many pieces there is MIDI alone."""
    words = ["generate", str(home / "run"), "--out", str(tmp_path / "out"), "--events", "12", "--upbeat", "1"]
    kinds = ["musicxml", "mid", "mp3", "png"]

    def there():
        return sorted(file.name for kind in kinds for file in (tmp_path / "out").glob(f"*.{kind}"))

    assert main([*words, "--count", "2", "--format", "musicxml"]) == 0
    assert there() == ["1.musicxml", "2.musicxml"]
    assert main([*words, "--count", "2"]) == 0
    assert there() == sorted(f"{number}.{kind}" for number in (1, 2) for kind in kinds)
    score, midi = (
        read_piece(find_sources([str(tmp_path / "out" / f"1.{kind}")])[0], "uniform") for kind in kinds[:2]
    )
    assert sorted(score.notes[:, :3].tolist()) == sorted(midi.notes[:, :3].tolist())
    assert (score.tempo, score.meter, score.first_bar) == (round(midi.tempo), midi.meter, midi.first_bar)
    assert midi.first_bar == 12

    shutil.rmtree(tmp_path / "out")
    capsys.readouterr()
    assert main([*words, "--count", "17"]) == 0
    assert there() == sorted(f"{number}.mid" for number in range(1, 18))
    assert "MIDI files alone; --format musicxml,mp3,png adds the others." in capsys.readouterr().out
    assert main([*words, "--count", "17", "--format", "musicxml"]) == 0
    assert len(there()) == 34


def test_other_music_under_the_same_names_is_another_corpus(home, tmp_path, capsys):
    shutil.copytree(home / "music", tmp_path / "music")
    corpus = str(tmp_path / "corpus")
    assert main(["prepare", str(home / "music"), "--out", corpus]) == 0
    (tmp_path / "music" / "0.mid").write_bytes((home / "music" / "1.mid").read_bytes())
    assert main(["prepare", str(tmp_path / "music"), "--out", corpus]) == 2
    assert "holds a corpus of other sources" in capsys.readouterr().err


def test_a_file_name_in_another_encoding_is_spelt_out(home, tmp_path):
    shutil.copytree(home / "music", tmp_path / "music")
    (tmp_path / "music" / "0.mid").rename(os.fsdecode(os.fsencode(tmp_path / "music") + b"/caf\xe9.mid"))
    assert main(["prepare", str(tmp_path / "music"), "--out", str(tmp_path / "corpus")]) == 0
    assert "caf\\\\xe9.mid" in (tmp_path / "corpus" / "pieces.jsonl").read_text()


def test_what_is_written_has_the_prompts_tempo_and_meter(home, tmp_path):
    write_midi(
        make_notes([0, 12, 24], [12, 12, 12], [60, 62, 64], [0, 0, 0]),
        tmp_path / "waltz.mid",
        70,
        meter=(3, 4),
    )
    words = ["generate", str(home / "run"), "--count", "1", "--events", "10"]
    assert main([*words, "--out", str(tmp_path / "with"), "--prompt", str(tmp_path / "waltz.mid")]) == 0
    assert main([*words, "--out", str(tmp_path / "without")]) == 0
    found = {}
    for name in ("with", "without"):
        piece = read_piece(find_sources([str(tmp_path / name / "1.mid")])[0])
        found[name] = (round(piece.tempo), piece.meter)
    assert found == {"with": (70, (3, 4)), "without": (90, (4, 4))}
