"""The command line: its flags, its help, and what it says to words that it does not know."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from midigen_jax.arguments import parse
from midigen_jax.commands import COMMANDS, GROUPS
from midigen_jax.config import Config, options
from midigen_jax.errors import InputError
from midigen_jax.recipes import read_config

TRAINING = ("model", "batch", "train")
EXPERIMENT = (*TRAINING, "sample")
PARALLEL = "--coordinator --processes --process --cpu-devices"

# Beside --help and the settings, which are the fields of parts of a `Config`.
FLAGS = {
    "inspect": ("--out --limit --leaks", ()),
    "prepare": ("--out --workers --strict --like --config --preset", ()),
    "train": (f"--out --from --tensorboard {PARALLEL} --config --preset --steps --epochs --seed", EXPERIMENT),
    "generate": ("--out --prompt --tracks --drop-prompt --checkpoint --like --format", ()),
    "harmonise": (
        "--out --model --voice --tracks --count --particles --temperature --parallels --seed --format",
        (),
    ),
    "fill": (
        "--out --bars --voices --model --count --particles --temperature --parallels --seed --format",
        (),
    ),
    "play": ("--port --no-open", ()),
    "export": ("--out --checkpoint --onnx", ()),
    "report": ("--out", ()),
    "evaluate": ("--split --checkpoint --samples --out", ()),
    "ablate": ("--out --config --preset --dry-run --yes --keep-checkpoints --cpu-devices", ()),
    "bench train": (
        "--out --profile --cpu-devices --config --preset --steps --epochs --seed",
        EXPERIMENT,
    ),
    "bench decode": (
        "--out --plot --batches --events --peers --model --config --preset --quick",
        ("model",),
    ),
    "bench compile": (
        "--target --recipe --config --programs --pieces --no-schedules --out --text --steps --epochs --seed",
        TRAINING,
    ),
    "demo": ("--out --cpu-devices --steps --epochs --seed", EXPERIMENT),
}
PLAIN = {"prepare": "prepare", "generate": "sample"}  # parts whose settings have no dot


def test_every_command_has_its_flags() -> None:
    assert len(COMMANDS) == len(FLAGS)


@pytest.mark.parametrize("command", FLAGS)
def test_a_command_has_these_flags_and_no_others(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(COMMANDS, GROUPS, [*command.split(), "--help"])
    help = capsys.readouterr().out
    shown = set(re.findall(r"(?:^  |, )(?:-h, )?(--[\w.-]+)", help, re.MULTILINE))
    named, parts = FLAGS[command]
    settings = {f"--{name}" for name in options(Config) if name.split(".")[0] in parts}
    if command in PLAIN:
        own = options(type(getattr(Config(), PLAIN[command])))
        settings = {f"--{name.replace('_', '-')}" for name in own}
    assert shown == {"--help", *named.split(), *settings}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("trian", "no command 'trian': did you mean train?"),
        ("bench trian", "no command 'trian': did you mean train?"),
        ("train x --uot y", "train: unknown '--uot': did you mean --out?"),
        ("prepare x --out y --tokeniser chord", "unknown '--tokeniser': did you mean --tokenizer?"),
        ("bench train --peers", "that is one of `midigen bench decode`"),
        ("evaluate x --split tset", "--split 'tset': did you mean test?"),
        ("train x --out y --model.heads chaned", "model.heads = 'chaned': did you mean chained?"),
        ("train x --out y --config articel", "no recipe 'articel', and no .toml or .json file: did you mean"),
        ("report x y --out z", "report: unknown 'y': it takes no such argument"),
        ("train x", "train: --out is missing; `midigen train --help` tells more"),
        ("train", "the following arguments are required: CORPUS; `midigen train --help` tells more"),
    ],
)
def test_words_that_are_not_understood_are_answered_in_a_line_with_the_nearest_name(
    words: str, line: str
) -> None:
    with pytest.raises(InputError, match=re.escape(line)) as caught:
        parse(COMMANDS, GROUPS, words.split())
    assert "\n" not in str(caught.value)


def test_settings_are_checked_beside_those_of_the_config_that_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[batch]\nlength = 300")
    words = ["--batch.stride", "290"]
    for named in (["--config", str(file)], ["--recipe", str(file)], ["--config", "runs/mine"]):
        command = parse(COMMANDS, GROUPS, ["bench", "compile", *named, *words])
        assert command.changes == {"batch.stride": "290"}
    trained = parse(COMMANDS, GROUPS, ["train", "x", "--out", "y", "--config", str(file), *words])
    assert (trained.config.batch.length, trained.config.batch.stride) == (300, 290)
    with pytest.raises(InputError, match=r"batch\.stride"):
        parse(COMMANDS, GROUPS, ["bench", "compile", *words])


def test_help_shows_the_settings_of_the_config_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(COMMANDS, GROUPS, ["train", "--config", "tpu", "--help"])
    assert f"(default: {read_config('tpu').model.width})" in capsys.readouterr().out


@pytest.mark.parametrize("words", ["--help", "train --help", "bench decode --help"])
def test_help_imports_nothing_heavy(words: str) -> None:
    code = (
        f"import sys\nfrom midigen_jax.cli import main\ntry:\n    main({words.split()!r})\n"
        "except SystemExit:\n    print('loaded:', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.partition("loaded:")[2].split()
    assert "midigen_jax.cli" in loaded
    assert not {"jax", "numpy", "matplotlib", "music21"} & set(loaded)
