"""What docs/article.md shows of a finished run of the recipe `article`: two tables and pictures.

    python scripts/article_results.py RUN CORPUS --pictures docs/article

prints, as Markdown, likelihood by epoch from the run's rows, and for each kept checkpoint the likelihood of
whole pieces with known and unknown chords apart; draws the first bars of some samples as SVG.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from midigen_jax import rows
from midigen_jax.data.corpus import Corpus, load_corpus
from midigen_jax.listen.pianoroll import draw
from midigen_jax.music.clock import TWELFTHS
from midigen_jax.music.read import read_piece
from midigen_jax.music.sources import find_sources
from midigen_jax.rows import Row
from midigen_jax.streams import silence_orbax
from midigen_jax.train.checkpoint import LoadedModel, open_run
from midigen_jax.train.scoring import Scorer
from midigen_jax.vocab import unknown_of

_EPOCHS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 100)
_PICTURES, _BARS = 2, 8  # of each checkpoint: the first bars of so many samples
_TEMPO = 90.0
_WINDOW = 32  # events that are scored by themselves
_SPLITS = ("train", "valid")


def main() -> int:
    """Print the tables and draw the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run of --config article")
    parser.add_argument("corpus", type=Path, metavar="CORPUS", help="the corpus that it was trained on")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw samples into this folder")
    given = parser.parse_args()
    silence_orbax()
    measured = rows.read(given.run / "rows.jsonl")
    print(_table(("epoch", *_both("train"), *_both("valid")), by_epoch(measured)), end="\n\n")
    kept = sorted(int(folder.name.split("-")[1]) for folder in (given.run / "samples").glob("step-*"))
    columns = (
        *("step", "train, windows", "valid, windows", "train, whole", "valid, whole"),
        *("valid, chord known", "valid, chord `<unk>`"),
    )
    print(_table(columns, by_checkpoint(given.run, load_corpus(given.corpus), kept)))
    if given.pictures is not None:
        for step in kept:
            for number in range(1, _PICTURES + 1):
                (source,) = find_sources([str(given.run / "samples" / f"step-{step:06d}" / f"{number}.mid")])
                place = given.pictures / f"step-{step:06d}-{number}.svg"
                notes = read_piece(source).notes
                draw(notes[notes[:, 0] < TWELFTHS.ticks(4 * _BARS)], place, tempo=_TEMPO)
    return 0


def by_epoch(measured: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    """Nats per event of both heads and their sum: training windows (an epoch's mean), validation pieces."""
    values: dict[tuple[str, int], list[float]] = defaultdict(list)
    for row in measured:
        if ".nats_per_event." in row["name"]:
            # A validation stands at an epoch's end; a training row's mean lies before its step.
            valid = row["name"].startswith("valid")
            epoch = round(row["epoch"]) if valid else int(row["epoch"] - 1e-6) + 1
            values[row["name"], epoch].append(row["value"])
    for epoch in _EPOCHS:
        means = []
        for split in ("train", "valid"):
            heads = [values[f"{split}.nats_per_event.{head}", epoch] for head in ("pitch", "duration")]
            if all(heads):
                means += [*map(fmean, heads), sum(map(fmean, heads))]
        if len(means) == 6:
            yield (str(epoch), *(f"{mean:.3f}" for mean in means))


def by_checkpoint(run: Path, corpus: Corpus, steps: Sequence[int]) -> Iterator[tuple[str, ...]]:
    """Nats per event (both heads): in windows, each with a fresh state, and with the state carried through
    whole pieces; for these with the chords of the vocabulary and the others apart."""
    with open_run(run) as checkpoints:
        for step in steps:
            restored = checkpoints.restore(str(step))
            cut = [_events(restored, corpus, name, _WINDOW) for name in _SPLITS]
            whole = [_events(restored, corpus, name, None) for name in _SPLITS]
            unknown = whole[1][:, 0] > 0
            parts = (*cut, *whole, whole[1][~unknown], whole[1][unknown])
            yield (str(step), *(f"{part[:, 1].mean():.3f}" for part in parts))


def _events(restored: LoadedModel, corpus: Corpus, split: str, window: int | None) -> np.ndarray:
    """(N, 2): is the chord unknown, and the nats, of each event that is predicted; in windows, or in whole
    pieces."""
    pieces = [piece for piece in corpus.pieces if piece.split == split]
    scorer = Scorer(restored.network, corpus, pieces, window=window)
    found = []
    for number, said in scorer(restored.params):
        tokens = corpus.tokens[pieces[number].start + 1 : pieces[number].stop]
        unknown_E = unknown_of(corpus.vocabulary.tables, tokens)
        found.append(np.stack([unknown_E, said.nats.sum(axis=1)], axis=1))
    return np.concatenate(found)


def _both(split: str) -> tuple[str, ...]:
    return (f"{split} pitch", f"{split} duration", f"{split} sum")


def _table(columns: Sequence[str], lines: Iterator[tuple[str, ...]]) -> str:
    table = [columns, ["---:"] * len(columns), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in table)


if __name__ == "__main__":
    sys.exit(main())
