"""Without the extra `listen` every command works, or names the extra in one line before it begins."""

import json
import subprocess
import sys
from pathlib import Path

from midigen_jax.config import Config, to_json
from midigen_jax.music.notes import make_notes
from midigen_jax.music.write import write_midi

WITHOUT = "import sys\nsys.modules.update(dict.fromkeys(('jinja2', 'matplotlib', 'soundfile')))\n"
PACKAGE = Path(__file__).resolve().parents[1] / "midigen_jax"


def test_every_module_is_imported() -> None:
    names = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name not in ("__init__.py", "__main__.py")
    ]
    code = f"{WITHOUT}import importlib\nfor name in {names}:\n    importlib.import_module(name)\n"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_command_works_or_names_the_extra(tmp_path: Path) -> None:
    music, run, study = tmp_path / "a.mid", tmp_path / "run", tmp_path / "study.toml"
    write_midi(make_notes([0, 12], [12, 12], [60, 64], [0, 0]), music)
    run.mkdir()
    (run / "config.json").write_text(json.dumps(to_json(Config())))
    study.write_text('corpus = ["bach"]\nbudget.steps = 1\n')
    out = str(tmp_path / "out")
    works = (["inspect", str(music)], ["generate", "pretrained:chorales", "--out", out, "--count", "1"])
    names = (
        ["inspect", str(music), "--out", f"{out}.html"],
        ["report", str(run), "--out", f"{out}.html"],
        ["demo", "--out", str(tmp_path / "demo")],
        ["ablate", str(study), "--out", str(tmp_path / "study")],
        ["bench", "decode", "--plot", f"{out}.png"],
        ["generate", "pretrained:chorales", "--out", f"{out}-2", "--format", "midi,mp3"],
        ["harmonise", str(music), "--out", f"{out}-2", "--format", "png"],
    )
    for words in (*works, *names):
        code = f"{WITHOUT}from midigen_jax.cli import main\nsys.exit(main({words}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == (0 if words in works else 2), done.stderr
        if words in names:
            said = done.stderr.splitlines()[-1]
            assert 'need jinja2, matplotlib, soundfile; pip install "midigen-jax[listen]"' in said
    assert {path.name for path in Path(out).iterdir()} == {
        *("1.mid", "1.musicxml"),
        *("rows.jsonl", "settings.json"),
    }
    assert not {"demo", "study", "out.html", "out-2"} & {path.name for path in tmp_path.iterdir()}
