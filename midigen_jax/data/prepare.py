"""Sources to a corpus folder: read in parallel, resumable, written at once, with a list of what failed.

In: files, folders, zips or `bach`. Out: a corpus folder. Each source that has been read is spooled beside
the corpus as it comes (`OUT.partial/`), so that the same command after an interruption reads only what is
missing; the spool goes when the corpus is renamed into its place.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from midigen_jax import __version__, rows
from midigen_jax import config as configs
from midigen_jax.config import PrepareConfig
from midigen_jax.data import split as splits
from midigen_jax.data.corpus import FORMAT, SPLITS, Corpus, CorpusPiece, load_corpus, write_corpus
from midigen_jax.errors import InputError
from midigen_jax.files import replacing, write_json
from midigen_jax.music import key as keys
from midigen_jax.music.notes import TICKS_PER_QUARTER, Notes
from midigen_jax.music.read import read_piece
from midigen_jax.music.slices import Slices, slice_notes
from midigen_jax.music.sources import Source, find_sources
from midigen_jax.music.tokens import ChordTokenizer, NoteTokenizer, Tokenizer
from midigen_jax.progress import Progress

_FEWEST_PER_PROCESS = 16  # starting a process costs about as much as reading that many files


class _Read(NamedTuple):
    """A source that was read."""

    name: str
    digest: str
    notes: Notes
    tempo: float
    meter: tuple[int, int]


class _Music(NamedTuple):
    """A piece on its way into the corpus."""

    read: _Read
    key: keys.Key
    shift: int
    slices: Slices


def prepare(arguments: Sequence[str], out: Path, config: PrepareConfig, workers: int = 0) -> Corpus:
    """Make the corpus folder `out` from `arguments`, or open it if this very command made it before.

    `workers` processes share the files; 0 takes one for each core. Raises InputError for sources that are
    not there, for an `out` that holds something else, and for a corpus that is too small to split.
    """
    start = time.perf_counter()
    targets = _targets(config)
    sources = find_sources(arguments)
    plan = _plan(sources, config)
    partial = out.with_name(out.name + ".partial")
    if _holds(out, plan):
        # An earlier run may have been stopped between its last two lines.
        shutil.rmtree(partial, ignore_errors=True)
        return load_corpus(out)
    _open_partial(partial, plan)
    _read_all(sources, partial, config, workers)
    read, quarantine = _collect(sources, partial)
    if not read:
        name, reason = next(iter(quarantine.items()))
        raise InputError(f"no music in {', '.join(arguments)}: nothing could be read ({name}: {reason})")
    music = _place(read, config, targets)
    if not music:
        raise InputError(
            f"--only-key {config.only_key}: none of {len(read)} pieces is in that key; try another"
        )
    pieces, tokens, tokenizer = _tokenise(music, config)
    summary = _summary(arguments, pieces, tokens, tokenizer, quarantine, len(read) - len(music))
    folder = partial / "corpus"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    manifest = {
        "version": __version__,
        "plan": plan,
        "config": configs.to_json(config),
        "summary": summary,
        "quarantine": quarantine,
    }
    write_corpus(folder, tokens, pieces, tokenizer, manifest)
    rows.append(folder / "rows.jsonl", _rows(summary, config, len(sources), time.perf_counter() - start))
    os.replace(folder, out)
    shutil.rmtree(partial)
    return load_corpus(out)


def _targets(config: PrepareConfig) -> tuple[keys.Target | None, keys.Target | None]:
    """Where to transpose, and which key to keep; a misspelt one is refused before anything is read."""

    def target(text: str) -> keys.Target | None:
        return None if text == "none" else keys.parse_key(text)

    return target(config.transpose), target(config.only_key)


def _plan(sources: Sequence[Source], config: PrepareConfig) -> str:
    """A hash of all that decides what the corpus will hold, but for the bytes of the files."""
    names = [source.name for source in sources]
    text = json.dumps([FORMAT, configs.to_json(config), names], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _holds(out: Path, plan: str) -> bool:
    """Whether `out` is the finished corpus of this plan. Raises InputError if it holds anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if (out / "manifest.json").is_file():
        if load_corpus(out).manifest["plan"] == plan:
            return True
        raise InputError(f"{out}: holds a corpus of other sources or settings; give another --out")
    raise InputError(f"{out}: holds something else; give an --out that is empty or not there yet")


def _open_partial(partial: Path, plan: str) -> None:
    """Make the spool, or go on with that of an earlier, unfinished run of this plan."""
    if partial.exists():
        mark = partial / "plan"
        if not mark.is_file() or mark.read_text() != plan:
            raise InputError(
                f"{partial}: left by an unfinished command with other sources or settings; "
                "finish that one, or delete the folder"
            )
        return
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{partial}: cannot be made ({error.strerror}); give another --out") from None
    (partial / "plan").write_text(plan)


def _read_all(sources: Sequence[Source], partial: Path, config: PrepareConfig, workers: int) -> None:
    """Spool every source that is not spooled yet."""
    tasks = [
        (source, partial / f"{number:07d}", config.quantizer)
        for number, source in enumerate(sources)
        if not (partial / f"{number:07d}.npz").exists() and not (partial / f"{number:07d}.json").exists()
    ]
    done = len(sources) - len(tasks)
    failed = 0
    with Progress("reading", len(sources), "files", done=done) as progress:
        for ok in _map(tasks, workers or os.cpu_count() or 1):
            failed += not ok
            progress.advance(note=f"{failed} refused" if failed else "")


def _map(tasks: list[tuple[Source, Path, Any]], workers: int) -> Iterator[bool]:
    workers = min(workers, len(tasks) // _FEWEST_PER_PROCESS)
    if workers < 2:
        yield from map(_spool, tasks)
        return
    # Spawned, not forked: the caller may run JAX's threads, which a fork would copy half-way.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_leave_interrupts_to_the_parent) as pool:
        try:
            yield from pool.map(_spool, tasks, chunksize=4)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _leave_interrupts_to_the_parent() -> None:
    """A Ctrl-C reaches every process of the terminal; one traceback a worker would be noise."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _spool(task: tuple[Source, Path, Any]) -> bool:
    """Read one source into `place`.npz, or its refusal into `place`.json; true if it was read."""
    source, place, quantizer = task
    try:
        content = source.content()
        piece = read_piece(source, quantizer)
    except InputError as error:
        write_json(place.with_suffix(".json"), str(error))
        return False
    facts = {"digest": hashlib.sha256(content).hexdigest(), "tempo": piece.tempo, "meter": piece.meter}
    with replacing(place.with_suffix(".npz")) as partial:
        np.savez(partial, notes=piece.notes, facts=np.array(json.dumps(facts)))
    return True


def _collect(sources: Sequence[Source], partial: Path) -> tuple[list[_Read], dict[str, str]]:
    """What the spool holds, in the order of the sources: pieces, and reasons by name."""
    read, quarantine = [], {}
    for number, source in enumerate(sources):
        place = partial / f"{number:07d}.npz"
        if not place.exists():
            reason = json.loads(place.with_suffix(".json").read_text())
            quarantine[source.name] = reason.removeprefix(f"{source.name}: ")
            continue
        with np.load(place, allow_pickle=False) as spooled:
            facts = json.loads(str(spooled["facts"]))
            notes = spooled["notes"]
        meter = (facts["meter"][0], facts["meter"][1])
        read.append(_Read(source.name, facts["digest"], notes, facts["tempo"], meter))
    return read, quarantine


def _place(
    read: Iterable[_Read], config: PrepareConfig, targets: tuple[keys.Target | None, keys.Target | None]
) -> list[_Music]:
    """Find keys, drop what is in another key, transpose, slice."""
    transpose, only = targets
    music = []
    for piece in read:
        key = keys.find_key(piece.notes, config.profile)
        if only is not None and not keys.matches(key, only):
            continue
        shift = 0 if transpose is None else keys.shift_to(key, transpose)
        slices = slice_notes(keys.transpose(piece.notes, shift))
        music.append(_Music(piece, key, shift, slices))
    return music


def _tokenise(music: list[_Music], config: PrepareConfig) -> tuple[list[CorpusPiece], np.ndarray, Tokenizer]:
    """Split by family, learn the vocabulary on the training split, encode."""
    families = splits.families([piece.slices for piece in music], [piece.read.digest for piece in music])
    shares = {
        "train": 1 - config.valid_share - config.test_share,
        "valid": config.valid_share,
        "test": config.test_share,
    }
    names: list[Any] = splits.split(families, shares, config.seed)
    tokenizer: Tokenizer
    if config.tokenizer == "note":
        tokenizer = NoteTokenizer(config.max_duration)
    else:
        training = [piece.slices for piece, name in zip(music, names, strict=True) if name == "train"]
        tokenizer = ChordTokenizer.learn(training, config.max_duration, config.min_chord_count)
    encoded = [tokenizer.encode(piece.slices) for piece in music]
    pieces, start = [], 0
    for piece, tokens, name, family in zip(music, encoded, names, families, strict=True):
        stop = start + len(tokens)
        pieces.append(
            CorpusPiece(
                start,
                stop,
                name,
                piece.read.name,
                piece.read.digest,
                int(family),
                str(piece.key),
                piece.shift,
                piece.read.tempo,
                piece.read.meter,
                int(piece.slices.duration.sum()),
            )
        )
        start = stop
    return pieces, np.concatenate(encoded), tokenizer


def _summary(
    arguments: Sequence[str],
    pieces: list[CorpusPiece],
    tokens: np.ndarray,
    tokenizer: Tokenizer,
    quarantine: dict[str, str],
    other_keys: int,
) -> dict[str, Any]:
    """The figures that people want to see of a corpus."""
    families = Counter(piece.family for piece in pieces)
    minutes = sum(piece.ticks / TICKS_PER_QUARTER / piece.tempo for piece in pieces)
    summary: dict[str, Any] = {
        "sources": [Path(argument).name for argument in arguments],
        "tokenizer": tokenizer.name,
        "pieces": {name: sum(piece.split == name for piece in pieces) for name in SPLITS},
        "events": {
            name: sum(piece.stop - piece.start for piece in pieces if piece.split == name) for name in SPLITS
        },
        "hours": round(minutes / 60, 3),
        "quarantined": len(quarantine),
        "other_keys": other_keys,
        "share_a_family": sum(families[piece.family] > 1 for piece in pieces),
        "pitch_size": tokenizer.pitch_size,
        "duration_size": tokenizer.duration_size,
    }
    if isinstance(tokenizer, ChordTokenizer):
        held_out = {
            name: np.concatenate(
                [tokens[piece.start : piece.stop] for piece in pieces if piece.split == name]
            )
            for name in ("valid", "test")
        }
        summary["unknown_share"] = {
            name: round(tokenizer.unknown_share(events), 4) for name, events in held_out.items()
        }
    return summary


def _rows(summary: dict[str, Any], config: PrepareConfig, files: int, seconds: float) -> list[rows.Row]:
    settings = configs.to_json(config)
    values = [
        ("prepare.files", files, "files"),
        ("prepare.quarantined", summary["quarantined"], "files"),
        ("prepare.events", sum(summary["events"].values()), "events"),
        ("prepare.hours", summary["hours"], "h"),
        ("prepare.seconds", round(seconds, 3), "s"),
        ("prepare.ms_per_file", round(1000 * seconds / files, 3), "ms"),
    ]
    values += [
        (f"prepare.unknown_share.{name}", share, "share")
        for name, share in summary.get("unknown_share", {}).items()
    ]
    return [rows.make(name, value, unit, config=settings) for name, value, unit in values]
