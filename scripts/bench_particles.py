"""How well particles harmonise melodies that the model has not seen, beside what their composer wrote.

    python scripts/bench_particles.py CORPUS --particles 1,16,64,256 >> docs/benchmarks.jsonl

The highest voice of held-out pieces is given, and each is harmonised once with each number of particles. Rows
say what the pieces cost the same model in nats a quarter (the composer's own likewise), what their part
writing is like, how many particles carried the weight at a stop, and the seconds for sixteen bars of 4/4
after compiling. The same melodies are read by all.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from midigen_jax import rows
from midigen_jax.data.corpus import Corpus, CorpusPiece, load_corpus
from midigen_jax.errors import InputError
from midigen_jax.music.notes import Notes
from midigen_jax.music.piece import Piece
from midigen_jax.sample.around import Around, How, harmonise
from midigen_jax.study.evaluate import evaluate
from midigen_jax.study.metrics import ratio
from midigen_jax.study.statistics import statistics
from midigen_jax.train.distributed import keep_compiled
from midigen_jax.train.pretrained import load_model

_PART_WRITING = ("parallel_fifths", "parallel_octaves", "dissonance", "voice_crossing")
_QUARTERS = 64  # of sixteen bars


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", help="the model's own, so that its test pieces are new to it")
    parser.add_argument("--model", default="pretrained:chorales", help="a run, a file, or pretrained:NAME")
    parser.add_argument("--split", default="test", choices=("valid", "test"))
    parser.add_argument("--melodies", type=int, default=20)
    parser.add_argument("--particles", default="1,16,64,256", help="numbers, with commas")
    parser.add_argument("--parallels", type=float, default=3.0, help="what they cost, in nats")
    options = parser.parse_args(arguments)
    command = " ".join(["python scripts/bench_particles.py", *(arguments or sys.argv[1:])])
    keep_compiled()
    try:
        for name, value, unit, more, config in _measure(options):
            print(rows.line(rows.make(name, value, unit, config=config, command=command, **more)), flush=True)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


_Row = tuple[str, float, str, dict[str, Any], dict[str, Any]]


def _measure(options: argparse.Namespace) -> Iterator[_Row]:
    loaded, corpus = load_model(options.model), load_corpus(Path(options.corpus))
    every = corpus.split(options.split)
    chosen = [piece for piece in every if not piece.leaked][: options.melodies]
    about = {"model": options.model, "split": options.split, "melodies": len(chosen)}
    own = {
        one.source: one.ratios["nats_per_quarter.end"]
        for one in evaluate(loaded, corpus, options.split, "own").pieces
    }
    written = [_notes(corpus, piece) for piece in chosen]
    quarters = np.array(
        [corpus.vocabulary.clock.quarters(int((n[:, 0] + n[:, 1]).max() - n[:, 0].min())) for n in written]
    )
    theirs = np.array([own[piece.source][0] for piece in chosen])
    yield from _rows_of(corpus, chosen, written, theirs, quarters, about | {"of": "composer"})
    for count in map(int, options.particles.split(",")):
        how = How(particles=count, parallel=options.parallels)
        made = [
            harmonise(loaded, _melody(corpus, piece, notes), how=how)
            for piece, notes in zip(chosen, written, strict=True)
        ]
        config = about | {"of": "particles", "particles": count, "parallels": options.parallels}
        pieces = [one.music.pieces[0] for one in made]
        nats = np.array([one.nats[0] for one in made])
        yield from _rows_of(corpus, chosen, pieces, nats, quarters, config)
        yield from _rows_of_particles(made, pieces, written, quarters, config)


def _rows_of(
    corpus: Corpus,
    chosen: Sequence[CorpusPiece],
    pieces: Sequence[Notes],
    nats: np.ndarray,
    quarters: np.ndarray,
    config: dict[str, Any],
) -> Iterator[_Row]:
    value, low, high = ratio(nats, quarters)
    yield "particles.nats", value, "nats/quarter", {"low": low, "high": high}, config
    clock = corpus.vocabulary.clock
    each = [
        statistics(notes, clock.bar(piece.meter), piece.first_bar, clock)
        for piece, notes in zip(chosen, pieces, strict=True)
    ]
    for name in _PART_WRITING:
        values = np.array([getattr(one, name) for one in each])
        value, low, high = ratio(values, np.ones(len(values)))
        unit = "%" if name.startswith("parallel") else "share"
        yield f"particles.{name}", value, unit, {"low": low, "high": high}, config


def _rows_of_particles(
    made: Sequence[Around],
    pieces: Sequence[Notes],
    written: Sequence[Notes],
    quarters: np.ndarray,
    config: dict[str, Any],
) -> Iterator[_Row]:
    effective = np.concatenate([run for one in made for run in one.effective])
    low, middle = np.quantile(effective, [0.05, 0.5]).tolist()
    yield "particles.ess", middle, "particles", {"p5": low}, config
    alike = [_last_bass(one) == _last_bass(other) for one, other in zip(pieces, written, strict=True)]
    yield "particles.last_bass", float(np.mean(alike)), "share", {}, config
    seconds = np.array([one.music.seconds for one in made]) / quarters * _QUARTERS
    spread = {"min": float(seconds.min()), "max": float(seconds.max())}
    yield "particles.seconds", float(np.median(seconds)), "s/16 bars", spread, config


def _last_bass(notes: Notes) -> int:
    """The pitch class of the lowest voice in the last chord."""
    ends = notes[:, 0] + notes[:, 1]
    return int(notes[ends == ends.max()][:, 2].min() % 12)


def _notes(corpus: Corpus, piece: CorpusPiece) -> Notes:
    return corpus.vocabulary.decode(corpus.tokens[piece.start : piece.stop])


def _melody(corpus: Corpus, piece: CorpusPiece, notes: Notes) -> Piece:
    """The highest voice, as a piece."""
    top = notes[notes[:, 3] == notes[:, 3].max()]
    return Piece(top, piece.tempo, piece.meter, first_bar=piece.first_bar, clock=corpus.vocabulary.clock)


if __name__ == "__main__":
    sys.exit(main())
