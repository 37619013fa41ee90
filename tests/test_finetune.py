"""Training a model further: on the same ids, from its own parameters, and for longer than it was trained."""

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from midigen_jax import rows
from midigen_jax.cli import main
from midigen_jax.config import Config, override
from midigen_jax.data.corpus import Corpus, load_corpus
from midigen_jax.data.prepare import prepare
from midigen_jax.errors import InputError
from midigen_jax.sample.copies import PASSED, Copies
from midigen_jax.train.checkpoint import LoadedModel, open_run
from midigen_jax.train.loop import Judgement, fit
from midigen_jax.train.pretrained import export, load_model
from midigen_jax.train.scoring import METRIC
from tests.tiny import SMALLEST, train_words

SHORT = SMALLEST | {"train.steps": 8, "train.warmup": 2, "train.evaluate_every": 4, "train.keep_at": "1.0"}
TINY = override(Config(), SHORT)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: Any, write_melodies: Any) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    return prepare([str(write_melodies(folder / "music"))], folder / "out", TINY.prepare, workers=1)


@pytest.fixture(scope="module")
def base(corpus: Corpus, tmp_path_factory: Any) -> Path:
    run = tmp_path_factory.mktemp("base") / "run"
    assert fit(corpus, TINY, run).step == 8
    return run


def validations(run: Path) -> dict[int, float]:
    return {row["step"]: row["value"] for row in rows.read(run / "rows.jsonl") if row["name"] == METRIC}


def further(base: Path, **changes: object) -> Config:
    return override(TINY, {"train.start": str(base), "train.learning_rate": 1e-3} | changes)


def test_it_begins_with_what_the_model_was_and_says_how_good_that_is(
    corpus: Corpus, base: Path, tmp_path: Path
) -> None:
    assert fit(corpus, further(base), tmp_path / "run").step == 8
    found = validations(tmp_path / "run")
    assert [*found] == [0, 4, 8]
    assert found[0] == pytest.approx(validations(base)[8], rel=1e-6)
    assert found[8] != found[0]
    with open_run(base) as checkpoints:
        before = checkpoints.restore("8")
    with open_run(tmp_path / "run") as checkpoints:
        assert 0 not in checkpoints.steps() or min(found, key=found.__getitem__) == 0
        after = checkpoints.restore("8")
    moved = jax.tree.map(lambda one, other: float(np.abs(one - other).max()), before.params, after.params)
    assert 0 < max(jax.tree.leaves(moved)) < 0.1


def test_one_that_does_not_get_better_is_best_at_step_0_and_patience_ends_it(
    corpus: Corpus, base: Path, tmp_path: Path
) -> None:
    changes = {"train.learning_rate": 50.0, "train.patience": 4, "train.clip": 0.0}
    done = fit(corpus, further(base, **changes), tmp_path / "run")
    assert (done.step, done.interrupted) == (4, False)
    with open_run(tmp_path / "run") as checkpoints:
        assert checkpoints.best() == 0
        best = checkpoints.restore("best")
    with open_run(base) as checkpoints:
        before = checkpoints.restore("8")
    jax.tree.map(np.testing.assert_array_equal, best.params, before.params)


def test_a_model_in_one_file_is_trained_further_too(corpus: Corpus, base: Path, tmp_path: Path) -> None:
    export(str(base), tmp_path / "model.npz", "8")
    fit(corpus, override(further(tmp_path / "model.npz"), {"train.steps": 4}), tmp_path / "run")
    assert validations(tmp_path / "run")[0] == pytest.approx(validations(base)[8], rel=1e-3)  # half precision


def test_it_goes_on_where_it_was_cut(corpus: Corpus, base: Path, tmp_path: Path) -> None:
    whole = override(further(base), {"train.steps": 8})
    fit(corpus, whole, tmp_path / "whole")
    fit(corpus, whole, tmp_path / "run")
    (tmp_path / "again").mkdir()
    assert fit(corpus, whole, tmp_path / "run").step == 8  # nothing is left to do, and step 0 not told twice
    told = [row["step"] for row in rows.read(tmp_path / "run" / "rows.jsonl") if row["name"] == METRIC]
    assert told == [0, 4, 8]
    assert validations(tmp_path / "run") == validations(tmp_path / "whole")


def test_another_vocabulary_or_network_is_told_with_the_remedy(
    corpus: Corpus, base: Path, tmp_path: Path
) -> None:
    other = prepare(
        [str(corpus.path.parent / "music")],
        tmp_path / "other",
        override(TINY, {"prepare.max_duration": 7}).prepare,
    )
    with pytest.raises(
        InputError,
        match=r"another vocabulary than .*other; prepare the music as `midigen prepare SOURCE --like",
    ):
        fit(other, further(base), tmp_path / "run")
    with pytest.raises(InputError, match="is another network than the one in the settings; leave them out"):
        fit(corpus, further(base, **{"model.width": 12}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("tokenizer", ["note", "chord"])
def test_a_corpus_like_that_of_a_run_fits_it(
    tmp_path: Path, write_melodies: Any, tokenizer: str, capsys: Any
) -> None:
    """Also where chords are in it that the run's vocabulary lacks."""
    first, second = (
        str(write_melodies(tmp_path / "first")),
        str(write_melodies(tmp_path / "second", count=24)),
    )
    words = ["--tokenizer", tokenizer, "--max-duration", "24", "--min-chord-count", "1"]
    assert main(["prepare", first, "--out", str(tmp_path / "one"), *words]) == 0
    assert main(train_words(tmp_path / "one", tmp_path / "run")) == 0
    like = ["prepare", second, "--out", str(tmp_path / "two"), "--like", str(tmp_path / "run"), "--seed", "3"]
    assert main(like) == 0
    assert main(like) == 0  # it is there already
    model, made = load_model(str(tmp_path / "run")), load_corpus(tmp_path / "two")
    assert made.vocabulary == model.metadata.vocabulary
    assert (made.config.tokenizer, made.config.max_duration, made.config.seed) == (tokenizer, 24, 3)
    capsys.readouterr()
    words = train_words(tmp_path / "two", tmp_path / "further")
    assert main([*words, "--from", str(tmp_path / "run")]) == 0
    assert 0 in validations(tmp_path / "further")


def test_a_training_may_be_made_longer_and_not_shorter(corpus: Corpus, base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(corpus, TINY, run)
    assert fit(corpus, override(TINY, {"train.steps": 12}), run).step == 12
    assert [*validations(run)] == [4, 8, 12]
    assert validations(run)[8] == validations(base)[8]
    # What was kept stays, though other steps would be kept of a training of this length.
    early = override(TINY, {"train.keep_at": (0.25, 1.0), "train.evaluate_every": 3})
    assert fit(corpus, early, tmp_path / "early").kept == (2, 8)
    assert fit(corpus, override(early, {"train.steps": 20}), tmp_path / "early").kept == (2, 8, 20)
    assert load_model(str(tmp_path / "early"), "2").step == 2
    with pytest.raises(InputError, match=r"holds a run with train.steps = 12, not 8; give another --out"):
        fit(corpus, TINY, run)


def test_one_piece_alone_can_be_trained_on(tmp_path: Path, write_melodies: Any, capsys: Any) -> None:
    """Then nothing is validated, and it is said what that means."""
    music = str(write_melodies(tmp_path / "music", count=1))
    assert main(["prepare", music, "--out", str(tmp_path / "none")]) == 2
    assert "or train on all of them: --valid-share 0 --test-share 0" in capsys.readouterr().err
    whole = ["--valid-share", "0", "--test-share", "0"]
    assert main(["prepare", music, "--out", str(tmp_path / "corpus"), *whole]) == 0
    assert main(train_words(tmp_path / "corpus", tmp_path / "run")) == 0
    assert "no piece is held out. How well the model does beyond" in capsys.readouterr().out
    assert validations(tmp_path / "run") == {}
    assert load_model(str(tmp_path / "run")).step == 12
    assert main(["evaluate", str(tmp_path / "run")]) == 2
    assert "valid" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "report.html")]) == 0


def test_what_is_given_stands_even_where_it_is_a_default(tmp_path: Path, write_melodies: Any) -> None:
    music = str(write_melodies(tmp_path / "music"))
    first = ["--max-duration", "24", "--valid-share", "0.3", "--seed", "5"]
    assert main(["prepare", music, "--out", str(tmp_path / "one"), *first]) == 0
    assert main(train_words(tmp_path / "one", tmp_path / "run")) == 0
    like = ["prepare", music, "--like", str(tmp_path / "run"), "--out", str(tmp_path / "two")]
    assert main(like) == 0
    made = load_corpus(tmp_path / "two").config
    assert (made.max_duration, made.valid_share, made.seed) == (24, 0.1, 0)  # splits are the music's own
    words = [word for word in train_words(tmp_path / "two", tmp_path / "further") if "model" not in word]
    words = [word for word in words if "batch" not in word] + ["--from", str(tmp_path / "run")]
    assert main([*words, "--batch.rows=3", "--train.learning_rate=0.004"]) == 0
    config = load_model(str(tmp_path / "further")).metadata.config
    assert (config.batch.rows, config.batch.length, config.model.width) == (3, 16, 8)
    assert config.train.learning_rate == 0.004
    (tmp_path / "own.toml").write_text("[train]\nlearning_rate = 0.002\n[batch]\nrows = 5\n")
    words = [*words[:3], str(tmp_path / "by_file"), *words[4:], "--config", str(tmp_path / "own.toml")]
    assert main(words) == 0
    config = load_model(str(tmp_path / "by_file")).metadata.config
    assert (config.batch.rows, config.batch.length, config.train.learning_rate) == (5, 16, 0.002)


@pytest.mark.parametrize(
    "given", [["--ticks-per-quarter", "24"], ["--max-duration", "7"], ["--tokenizer", "chord"]]
)
def test_settings_that_make_other_ids_than_the_models_are_refused(
    tmp_path: Path, write_melodies: Any, base: Path, capsys: Any, given: list[str]
) -> None:
    music, out = str(write_melodies(tmp_path / "music")), str(tmp_path / "out")
    assert main(["prepare", music, "--like", str(base), "--out", out, *given]) == 2
    said = "these settings make other ids than the model has (note, 12 ticks a quarter)"
    assert said in capsys.readouterr().err


def test_what_another_model_was_does_not_stay(corpus: Corpus, base: Path, tmp_path: Path) -> None:
    """A command that was cut between step 0 and step 1 leaves a checkpoint, and the next one may differ."""
    run = tmp_path / "run"
    fit(corpus, override(further(base), {"train.steps": 4}), run)
    kept = [line for line in (run / "rows.jsonl").read_text().splitlines() if '"step": 0' in line]
    (run / "rows.jsonl").write_text("\n".join(kept) + "\n")
    for place in (run / "checkpoints").glob("[0-9]*"):
        shutil.rmtree(place)
    (run / "checkpoints" / "0").mkdir()
    fit(corpus, override(further(base), {"train.steps": 4, "train.seed": 3}), run)
    assert [*validations(run)] == [0, 4]


def test_a_step_that_a_judge_keeps_stays_also_where_the_training_goes_on(
    corpus: Corpus, base: Path, tmp_path: Path
) -> None:
    seen: list[int] = []

    def judge(loaded: LoadedModel) -> Judgement:
        seen.append(loaded.step)
        return Judgement([("judge.steps", float(loaded.step), "steps")], keeps=loaded.step == 2)

    longer = {"train.evaluate_every": 2, "train.patience": 0}
    assert fit(corpus, further(base, **longer), tmp_path / "run", judges=[judge]).step == 8
    assert fit(corpus, further(base, **longer | {"train.steps": 12}), tmp_path / "run").step == 12
    assert seen == [0, 2, 4, 6, 8]
    found = validations(tmp_path / "run")
    with open_run(tmp_path / "run") as checkpoints:
        assert {*checkpoints.steps()} == {2, 8, 12, min(found, key=found.__getitem__)}
    told = rows.read(tmp_path / "run" / "rows.jsonl")
    assert [row["value"] for row in told if row["name"] == "judge.steps"] == seen


def test_copying_is_told_at_each_validation_and_once_when_it_passes_that_of_people(
    corpus: Corpus, base: Path
) -> None:
    loaded = load_model(str(base))
    decode, tokens = corpus.vocabulary.decode, corpus.tokens
    theirs = [decode(tokens[piece.start : piece.stop]) for piece in corpus.split("train")]
    copies = Copies(corpus, lambda: False, lambda _: theirs)
    quarters, people = (float(row[1]) for row in copies(loaded).rows[:2])
    assert quarters > people > 0
    assert quarters == pytest.approx(min(32, np.median([ticks(notes) for notes in theirs]) / 12))
    first, later = copies, Copies(corpus, lambda: True, lambda _: theirs)
    told = [("copying.quarters", quarters, "quarters"), ("copying.people", people, "quarters")]
    assert first(loaded) == Judgement([*told, (PASSED, 8.0, "step")], keeps=True)
    assert not later(loaded).keeps


def ticks(notes: np.ndarray) -> int:
    return int((notes[:, 0] + notes[:, 1]).max())


def test_fine_tuning_tells_how_much_is_copied(
    base: Path, corpus: Corpus, tmp_path: Path, capsys: Any
) -> None:
    words = ["--from", str(base), "--steps", "4", "--train.evaluate_every=2", "--sample.count=1"]
    assert main(["train", str(corpus.path), "--out", str(tmp_path / "run"), *words]) == 0
    found = rows.read(tmp_path / "run" / "rows.jsonl")
    told = [row["step"] for row in found if row["name"] == "copying.quarters"]
    assert told == [*validations(tmp_path / "run")]
    assert {0, 2, 4} <= {*told}
    passed = rows.last(found, PASSED)
    assert (passed is not None) == ("copies more than people do" in capsys.readouterr().out)
