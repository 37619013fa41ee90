"""docs/extending.md: every diff applies to a copy of the package, and what stands below it runs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import midigen_jax
from midigen_jax.config import PrepareConfig
from midigen_jax.data.prepare import prepare
from midigen_jax.music.notes import make_notes
from midigen_jax.music.write import write_midi
from tests.tiny import SMALLEST

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
SECTIONS = {
    part.splitlines()[0]: re.findall(r"^```(\w+)\n(.*?)^```", part, re.M | re.S)
    for part in PAGE.read_text().split("\n## ")[1:]
}
TINY = [f"--{name}={value}" for name, value in SMALLEST.items() if name.startswith(("model", "batch"))]
TINY += ["--train.steps=4", "--train.warmup=1", "--sample.count=1", "--sample.events=16"]
# Ends a training of ten steps by `fit`, and lays what it made beside what the page's own loop made.
AGAIN = """
import numpy as np
from midigen_jax.train.checkpoint import open_run
from midigen_jax.train.loop import fit

assert fit(corpus, config, Path("by-fit")).step == steps
with open_run(Path("by-fit")) as checkpoints:
    theirs = checkpoints.restore("latest").state
for name, one, other in zip("step params optimizer".split(), state, theirs):
    for mine, its in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(mine, its, err_msg=name)
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the package, some music of several voices, and a corpus of it."""
    folder = tmp_path_factory.mktemp("house")
    shutil.copytree(
        Path(midigen_jax.__file__).parent,
        folder / "midigen_jax",
        ignore=shutil.ignore_patterns("__pycache__", "*.npz"),
    )
    rng = np.random.default_rng(0)
    (folder / "music").mkdir()
    for number in range(8):
        durations = 3 * rng.integers(1, 5, (2, 24))
        onsets = np.cumsum(durations, axis=1) - durations
        pitches = np.array([[48], [64]]) + rng.integers(0, 14, (2, 24))
        notes = make_notes(onsets.ravel(), durations.ravel(), pitches.ravel(), np.repeat([0, 1], 24))
        write_midi(notes, folder / "music" / f"{number}.mid")
    prepare([str(folder / "music")], folder / "corpus", PrepareConfig(), workers=1)
    return folder


def run(house, *words):
    # One device, as the page's loop has it.
    env = os.environ | {"PYTHONPATH": str(house), "JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run([sys.executable, *words], cwd=house, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def apply(house, diff):
    subprocess.run(["git", "apply", "--unidiff-zero", "-"], cwd=house, input=diff, text=True, check=True)


def train_first(house, out):
    """What a later section goes on with."""
    if not (house / out).exists():
        run(house, "-m", "midigen_jax.cli", "train", "corpus", "--out", out, *TINY)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_lines_of_the_page_are_all_that_it_takes(house, section):
    blocks = SECTIONS[section]
    for kind, text in blocks:
        if kind == "diff":
            apply(house, text)
        elif kind == "python":
            more = AGAIN if "train_step" in text else ""
            (house / "lines.py").write_text(text + more)
            said = run(house, "lines.py")
            assert not more or said.count("'pitch'") == 10
        for line in text.splitlines() if kind == "sh" else ():
            words = shlex.split(line)
            assert words[0] == "midigen"
            if words[1] == "bench":
                continue  # for a chip, minutes: test_compile has one of its kind
            if words[1] == "evaluate" and words[2] == "runs/mgu":
                train_first(house, words[2])
            own = [flag for flag in TINY if flag.split("=")[0] not in words] if words[1] == "train" else []
            said = run(house, "-m", "midigen_jax.cli", *words[1:], *own)
            if "beats" in line and words[1] == "evaluate":
                assert re.search(r"^ +beat +\d", said, re.M)
            if section == "A metric":
                assert re.search(r"^ +surprises +\d", said, re.M)
    assert blocks
