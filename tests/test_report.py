"""A report is one file that needs nothing else, shows what the run's files say, and spoils no file."""

import base64
import json
import re

import numpy as np
import pytest

from midigen_jax import config, rows
from midigen_jax.errors import InputError
from midigen_jax.listen.audio import synthesize, write_audio
from midigen_jax.listen.pianoroll import draw
from midigen_jax.listen.report import write_report

MIDI = b"MThd" + bytes(10)


def measured(step: int, pitch: float, duration: float) -> list[rows.Row]:
    where = {"step": step, "epoch": step / 24}
    return [
        *(rows.make(f"{split}.nats_per_event.pitch", pitch, "nats", **where) for split in ("train", "valid")),
        *(
            rows.make(f"{split}.nats_per_event.duration", duration, "nats", **where)
            for split in ("train", "valid")
        ),
        rows.make("valid.nats_per_event", pitch + duration, "nats", **where),
        rows.make("train.events_per_s", 1000 * step, "events/s", **where),
    ]


def make_run(folder, steps=(30, 600), samples=2):
    """A run's folder with two validations and, at each of `steps`, `samples` pieces."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.to_json(config.Config())))
    corpus = {
        "path": "my corpus",
        "sources": ["bach"],
        "tokenizer": "chord",
        "pieces": {"train": 298, "valid": 37},
        "hours": 5.123456,
        "unknown_share": {"valid": 0.153},
    }
    (folder / "corpus.json").write_text(json.dumps(corpus))
    lines = [*measured(30, 3.5, 1.25), *measured(600, 1.5, 0.5), rows.make("model.parameters", 1234567, "")]
    rows.append(folder / "rows.jsonl", lines)
    notes = np.array([[0, 12, 60, 0], [0, 12, 64, 0], [12, 12, 67, 0]], np.int32)
    for step in steps:
        place = folder / "samples" / f"step-{step:06d}"
        for number in range(1, samples + 1):
            write_audio(place / f"{number}.mp3", synthesize(notes, 120))
            draw(notes, place / f"{number}.png")
            (place / f"{number}.mid").write_bytes(MIDI)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "bach")


@pytest.fixture(scope="module")
def html(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "report.html"
    write_report(run, out)
    return out.read_text(encoding="utf-8")


def test_the_page_is_well_formed(html, parse):
    page = parse(html)
    assert page.open == []
    identities = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identities) == len(set(identities))


def test_the_page_needs_nothing_else(html, parse):
    assert not re.search(r"https?:|//[a-z]+\.[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", html))
    page = parse(html)
    references = [
        attributes[key] for _, attributes in page.tags for key in ("src", "href") if key in attributes
    ]
    assert references
    assert all(reference.startswith(("data:", "#")) for reference in references)
    assert not page.all("link")


def test_every_sample_has_a_player_a_picture_and_its_midi(html, run, parse):
    page = parse(html)
    assert len(page.all("audio")) == 4
    assert len(page.all("img")) == 4
    downloads = page.all("a")
    assert [link["download"] for link in downloads] == [
        f"step-{step}-{n}.mid" for step in (30, 600) for n in (1, 2)
    ]
    assert base64.b64decode(downloads[0]["href"].partition(",")[2]) == MIDI
    heard = base64.b64decode(page.all("audio")[2]["src"].partition(",")[2])
    assert heard == (run / "samples/step-000600/1.mp3").read_bytes()


def test_checkpoints_stand_early_to_late_with_their_validation(html, parse):
    text = " ".join(parse(html).text.split())
    early, late = text.index("After 1.25 epochs"), text.index("After 25 epochs")
    assert early < text.index("4.750") < late < text.index("2.000", late)
    assert text.index("best validation") > late


def test_both_heads_have_curves(html, parse):
    page = parse(html)
    assert len(page.all("svg")) == 2
    assert "pitch head" in page.text
    assert "duration head" in page.text


def test_the_tables_say_what_the_files_say(html, parse):
    text = " ".join(parse(html).text.split())
    for words in (
        "1,234,567",
        "315,000",
        "train 298 · valid 37",
        "valid 15.3 %",
        "5.123",
        "units of each layer",
    ):
        assert words in text


def test_commands_quote_the_names_of_the_run(html, run, parse):
    text = parse(html).text
    assert f"midigen generate {run} --out {run.name}-music --temperature 0.9" in text
    assert f"midigen train 'my corpus' --out {run.name}-wider --model.width 384" in text


def test_the_command_for_a_wider_model_keeps_what_the_run_was_told(tmp_path, parse):
    run = make_run(tmp_path / "run", steps=())
    told = {"train.steps": 30, "model.duration_input": False, "train.keep_at": "0.5,1"}
    settings = config.to_json(config.override(config.Config(), told))
    (run / "config.json").write_text(json.dumps(settings))
    write_report(run, tmp_path / "report.html")
    text = parse((tmp_path / "report.html").read_text(encoding="utf-8")).text
    flags = "--model.duration_input false --train.steps 30 --train.keep_at 0.5,1.0"
    assert f"--out run-wider --model.width 384 {flags}" in text


def test_a_name_is_text_and_never_markup(tmp_path, parse):
    run = make_run(tmp_path / "<b>a & 'b'", steps=())
    write_report(run, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<b>a" not in html
    assert "<b>a & 'b'" in parse(html).text


def test_an_interrupted_run_has_a_report_too(tmp_path, parse):
    run = make_run(tmp_path / "run", steps=())
    (run / "rows.jsonl").unlink()
    (run / "corpus.json").unlink()
    write_report(run, tmp_path / "report.html")
    page = parse((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert not page.all("audio")
    assert "no samples in this run yet" in page.text
    assert "midigen generate" in page.text


def test_a_run_cut_short_before_its_first_validation_has_curves(tmp_path, parse):
    run = make_run(tmp_path / "run", steps=(10,), samples=1)
    rows.rewrite(
        run / "rows.jsonl", [rows.make("train.nats_per_event.pitch", 4.0, "nats", step=10, epoch=0.5)]
    )
    write_report(run, tmp_path / "report.html")
    page = parse((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(page.all("svg")) == 1
    assert "After 0.5 epochs" in page.text
    assert "No validation has been measured yet" in page.text


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no run.*midigen train"):
        write_report(tmp_path / "nowhere", tmp_path / "report.html")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: damaged"):
        write_report(tmp_path, tmp_path / "report.html")
    (tmp_path / "config.json").write_text('{"somebody": "else"}')
    with pytest.raises(InputError, match="somebody"):
        write_report(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_only_a_report_is_written_over(tmp_path):
    run = make_run(tmp_path / "run", steps=())
    write_report(run, tmp_path / "report.html")
    write_report(run, tmp_path / "report.html")
    thesis = tmp_path / "thesis.html"
    thesis.write_text("<html>mine</html>")
    with pytest.raises(InputError, match=r"thesis\.html is there and is no report"):
        write_report(run, thesis)
    assert thesis.read_text() == "<html>mine</html>"
    with pytest.raises(InputError, match=r"is a folder.*report\.html"):
        write_report(run, tmp_path)
    with pytest.raises(InputError, match=r"cannot be made \(.*thesis\.html is a file\)"):
        write_report(run, thesis / "report.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "run", "thesis.html"]
