"""Whether `prepare` knows a work again: chorales that are played, versions of songs, and unrelated pieces.

    python scripts/bench_works.py --songs pop909_40songs.zip --unrelated pop909_main.zip

prints rows as JSON lines. Each chorale of `bach` is played: in another key, at another tempo that drifts, by
hands that are never quite together, with notes that end early, and with mordents, trills, turns and
appoggiaturas on a share of the longer notes. It is written as a MIDI file of 120 a minute, as a recording is,
and read again. A pair is found where a relation joins the two directly. `--songs` has versions of songs,
`NNN.mid` and `NNN-v1.mid`: a song is whole where all its files are one group, and no other song's is in it.
`--unrelated` has one piece of each work: what is joined there is a mistake, or a duplicate that nobody knew.
`--generated` pieces are made to time their fingerprints and the search for relations.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from midigen_jax import rows
from midigen_jax.data import works
from midigen_jax.errors import InputError
from midigen_jax.music.notes import Notes, make_notes
from midigen_jax.music.piece import Piece
from midigen_jax.music.read import find_sources, read_piece

_TICKS_A_SECOND = 960  # 480 a quarter, at 120 a minute
_ORNAMENT_SECONDS = 0.09  # of each short note


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chorales", type=int, default=408, help="of the collection")
    parser.add_argument(
        "--ornaments", type=float, default=0.15, help="share of the notes of an eighth or more"
    )
    parser.add_argument("--rubato", type=float, default=0.2, help="how far the tempo drifts: a fifth")
    parser.add_argument("--songs", type=Path, help="versions of songs")
    parser.add_argument("--unrelated", type=Path, nargs="*", default=[], help="a piece of each work")
    parser.add_argument("--generated", type=int, default=0, help="pieces to be timed")
    parser.add_argument("--seed", type=int, default=1, help="of what is generated")
    options = parser.parse_args(arguments)
    command = " ".join(["python scripts/bench_works.py", *(arguments or sys.argv[1:])])
    try:
        for name, value, unit, config in _measure(options):
            print(rows.line(rows.make(name, value, unit, config=config, command=command)), flush=True)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _measure(options: argparse.Namespace) -> Iterable[tuple[str, float, str, dict[str, Any]]]:
    rng = np.random.default_rng(options.seed)
    written = [read_piece(source) for source in find_sources(["bach"])[: options.chorales]]
    with tempfile.TemporaryDirectory() as folder:
        for number, piece in enumerate(written):
            _write(
                _played(piece.notes, options.ornaments, options.rubato, rng),
                Path(folder) / f"{number:04}.mid",
            )
        played = [read_piece(source) for source in find_sources([folder])]
    config = {
        "chorales": len(written),
        "ornaments": options.ornaments,
        "rubato": options.rubato,
        "seed": options.seed,
    }
    joined = {pair[:2] for pair in _related([*written, *played])}
    found = sum((number, number + len(written)) in joined for number in range(len(written)))
    yield "works.pairs_found", found / len(written), "share", config
    if options.songs is not None:
        sources = find_sources([str(options.songs)])
        pieces = [read_piece(source) for source in sources]
        songs = [Path(source.name).stem.partition("-")[0] for source in sources]
        group = works.groups(len(pieces), _related(pieces)).tolist()
        pairs = set(zip(songs, group, strict=True))
        groups_of, songs_of = (Counter(side) for side in zip(*pairs, strict=True))
        whole = sum(groups_of[song] == songs_of[own] == 1 for song, own in pairs)
        yield (
            "works.songs_whole",
            whole / len(set(songs)),
            "share",
            {"songs": len(set(songs)), "files": len(songs)},
        )
    for path in options.unrelated:
        pieces = [read_piece(source) for source in find_sources([str(path)])]
        group = np.bincount(works.groups(len(pieces), _related(pieces)))
        config = {"data": path.name, "pieces": len(pieces)}
        yield "works.joined_by_mistake", int(group[group > 1].sum()) / len(pieces), "share", config
    if options.generated:
        pieces = [_generated(rng) for _ in range(options.generated)]
        begin = time.perf_counter()
        prints = [works.fingerprint(piece) for piece in pieces]
        between = time.perf_counter()
        _relate(prints)
        config = {"pieces": len(pieces), "windows": float(np.mean([len(windows) for _, windows in prints]))}
        yield "works.relations_seconds", time.perf_counter() - between, "s", config
        yield "works.fingerprint_ms", 1000 * (between - begin) / len(pieces), "ms", config


def _related(pieces: Sequence[Piece]) -> list[works.Relation]:
    return _relate([works.fingerprint(piece) for piece in pieces])


def _relate(prints: Sequence[tuple[str, np.ndarray]]) -> list[works.Relation]:
    marks = [{"notes": shape} for shape, _ in prints]
    return works.relations(marks, [len(windows) for _, windows in prints], lambda i: prints[i][1])


def _played(
    notes: Notes, ornaments: float, rubato: float, rng: np.random.Generator
) -> list[tuple[float, float, int]]:
    """Onset and length in seconds, and pitch, of the notes as somebody might play them."""
    ticks = np.arange(int(notes[:, :2].sum(axis=1).max()) + 1)
    waves = [rng.uniform() * np.sin(ticks / rng.uniform(8, 64) + rng.uniform(0, 6)) for _ in range(4)]
    drift = np.sum(waves, axis=0)
    tempo = rng.uniform(0.03, 0.08) * np.exp(rubato * drift / np.abs(drift).max())
    second = np.append(0, np.cumsum(tempo))
    shift = int(rng.choice([-6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6]))
    found: list[tuple[float, float, int]] = []
    for onset, duration, pitch, _ in notes.tolist():
        begin = second[onset] + abs(rng.normal(0, 0.02))
        length = (second[onset + duration] - begin) * rng.uniform(0.75, 1.05)
        short, step, main = min(_ORNAMENT_SECONDS, length / 6), int(rng.choice([1, 2])), pitch + shift
        before: list[int] = []
        if duration >= 6 and rng.random() < ornaments:
            trill = [main, main + step] * 4
            turn = [main + step, main, main - step]
            before = [[main, main + step], trill[: int(length / 2 / short)], turn, [main + step]][
                rng.integers(4)
            ]
        found += [(begin + number * short, short, one) for number, one in enumerate(before)]
        found.append((begin + len(before) * short, max(length - len(before) * short, 0.02), main))
    return found


def _write(played: list[tuple[float, float, int]], path: Path) -> None:
    from symusic import Note, Score, Track

    score: Any = Score(480)
    track: Any = Track()
    for begin, length, pitch in sorted(played):
        track.notes.append(
            Note(int(begin * _TICKS_A_SECOND), max(1, int(length * _TICKS_A_SECOND)), pitch, 64)
        )
    score.tracks.append(track)
    path.write_bytes(score.dumps_midi())


def _generated(rng: np.random.Generator) -> Piece:
    """Four voices of a hundred notes that mostly go by steps, as a piece of a collection has."""
    steps = rng.choice([-4, -2, -1, 1, 2, 3, 5], (4, 100), p=[0.08, 0.25, 0.2, 0.2, 0.17, 0.05, 0.05])
    pitch = np.array([[40], [52], [62], [72]]) + np.cumsum(steps, axis=1) % 14
    onset = np.broadcast_to(np.arange(100) * 12, pitch.shape)
    voice = np.broadcast_to(np.arange(4)[:, None], pitch.shape)
    return Piece(make_notes(onset.ravel(), np.full(400, 12), pitch.ravel(), voice.ravel()))


if __name__ == "__main__":
    sys.exit(main())
