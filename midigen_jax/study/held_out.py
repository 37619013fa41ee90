"""A run beside music that it has not seen: how likely it finds it, and what it writes itself.

In: a run, a split of a corpus. Out: lines and rows of the likelihood, and on request of samples.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from midigen_jax import rows
from midigen_jax.data.corpus import load_corpus
from midigen_jax.errors import InputError
from midigen_jax.files import read_json
from midigen_jax.music.piece import Split
from midigen_jax.sample.generate import generate
from midigen_jax.study import evaluate
from midigen_jax.study import samples as samples_of
from midigen_jax.train.pretrained import has_folder, load_model, name_of


def measure_run(
    run: str, given: str | None, split: Split, checkpoint: str = "best", samples: int = 0
) -> Iterator[rows.Finding]:
    """A run, and then the baselines, on a split of its corpus or of the one that is `given`; then `samples`
    pieces that it writes beside those of the split.

    Raises InputError where the run's corpus is not there or has changed, and as `load_model`, `load_corpus`,
    `evaluate` and `compare` do.
    """
    restored, name = load_model(run, checkpoint), name_of(run)
    facts: dict[str, Any] = {"plan": restored.metadata.plan}
    if has_folder(run):
        facts = read_json(Path(run) / "corpus.json", "give CORPUS besides")
    if given is None and not Path(str(facts.get("path"))).is_dir():
        missing = f"its corpus is not at {facts.get('path')}" if has_folder(run) else "comes without a corpus"
        raise InputError(f"{run}: {missing}; give CORPUS besides")
    corpus, plan = load_corpus(Path(given or str(facts["path"]))), facts.get("plan")
    if corpus.manifest["plan"] != plan:
        if given is None:
            raise InputError(f"{corpus.path}: no longer the corpus of {run}; give it as CORPUS to score it")
        differs = "is not" if plan else "may not be"
        note = (
            f"Note: {given} {differs} the corpus of {run}: leaked and baselines are of its own training, and "
            "the model may have been trained on some of these pieces."
        )
        yield rows.Finding([note])
    models = [evaluate.evaluate(restored, corpus, split, name), *evaluate.evaluate_baselines(corpus, split)]
    settings = {"corpus": corpus.path.resolve().name, "split": split}
    own = {"step": restored.step, "seed": restored.metadata.config.train.seed}
    found = evaluate.rows_of(models[0], settings, **own)
    found += [row for model in models[1:] for row in evaluate.rows_of(model, settings)]
    lines = [
        f"{split} split of {corpus.path}: {evaluate.sizes(models[0])}; {name} at step {restored.step}",
        "95 % intervals are of a bootstrap over pieces; <end> is left out but where it is named",
        "",
        *evaluate.table(models),
    ]
    yield rows.Finding(lines, found)
    if samples:
        config = replace(restored.metadata.config.sample, count=samples)
        made = generate(restored, config)
        compared = samples_of.compare(made.pieces, made.meter, corpus, split, made.first_bar)
        found = samples_of.rows_of(compared, settings | {"model": name}, **own)
        yield rows.Finding(["", *samples_of.table(compared)], found)
