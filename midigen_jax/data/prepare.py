"""Sources to a corpus folder: read in parallel, resumable, written at once, with a list of what failed.

In: files, folders, zips or names of collections. Out: a corpus folder. Readings go to a spool beside it
(`OUT.partial/`) as they come, so that the same command after an interruption reads only what is missing.
Then the corpus is put together in the order of the sources, piece by piece, and renamed into its place: its
bytes are the same for any number of processes, and memory holds one piece and a few facts of the others.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from midigen_jax import __version__, rows
from midigen_jax import config as configs
from midigen_jax.config import Config, PrepareConfig, override
from midigen_jax.data import split as splits
from midigen_jax.data import works
from midigen_jax.data.corpus import (
    FORMAT,
    Corpus,
    CorpusPiece,
    load_corpus,
    write_facts,
    write_groups,
    write_tokens,
)
from midigen_jax.data.reading import Facts, digest_or_nothing, nothing_read, read_all
from midigen_jax.data.spool import Entry, Spool
from midigen_jax.data.summary import rows_of, summarise, unknown_share
from midigen_jax.errors import InputError
from midigen_jax.files import check_folder, locked, make_folder
from midigen_jax.music import key as keys
from midigen_jax.music.piece import Piece, Split
from midigen_jax.music.sources import Source, find_sources
from midigen_jax.progress import Progress
from midigen_jax.vocab import (
    Tokens,
    Vocabulary,
    interim_vocabulary,
    length_of,
    typical_vocabulary,
    vocabulary_class,
)


def prepare(
    arguments: Sequence[str],
    out: Path,
    config: PrepareConfig,
    workers: int = 0,
    strict: bool = False,
    vocabulary: Vocabulary | None = None,
) -> Corpus:
    """Make the corpus folder `out` from `arguments`, or open it if this very command made it before.

    `workers` processes share the files; 0 takes one for each core. A `vocabulary` that is given stands in for
    one that would be learned. What cannot be read, and what was out of
    order, is listed in the manifest, or, if `strict`, raises InputError at once. Also raises InputError for
    sources that are not there, for an `out` that holds something else, and for a corpus that is too small to
    split.
    """
    start = time.perf_counter()
    vocabulary_class(config)  # one that is not there is refused before anything is read, as is a misspelt key
    for name in (config.transpose, config.only_key):
        if name != "none":
            keys.parse_key(name)
    sources = find_sources(arguments)
    known = works.known_groups(config.group_by, sources)
    fixed = vocabulary if vocabulary_class(config).learned else None
    if vocabulary is not None:
        _require_fits(vocabulary, config)
    partial = out.parent / f"{out.name}.partial"
    if (finished := _finished(out, sources, config, known, fixed)) is not None:
        # An earlier run may have been stopped between its last two lines.
        shutil.rmtree(partial, ignore_errors=True)
        if strict:
            _require_flawless(finished)
        return finished
    make_folder(partial)
    with (
        locked(partial),
        Spool(partial, _hash([Facts._fields, works.WINDOW, configs.to_json(config)])) as spool,
    ):
        done = _read_missing(sources, spool, config, workers or os.cpu_count() or 1, strict)
        try:
            summary = _assemble(arguments, sources, spool, config, known, fixed)
        except InputError:
            # What was read allows no corpus: going on with it would only fail again.
            spool.close()
            shutil.rmtree(partial)
            raise
    seconds = time.perf_counter() - start
    rows.append(partial / "corpus" / "rows.jsonl", rows_of(summary, config, done, seconds))
    os.replace(partial / "corpus", out)
    shutil.rmtree(partial)
    return load_corpus(out)


def like(theirs: PrepareConfig, given: Mapping[str, Any]) -> PrepareConfig:
    """The settings that make the ids and the times of a model, with those that are `given` besides.

    What is read of files, what is one work, and the splits are a matter of the music, and as by default.
    """
    own = PrepareConfig()
    names = ("group_by", "only_key", "seed", "test_share", "tracks", "valid_share")
    base = replace(theirs, **{name: getattr(own, name) for name in names})
    return override(Config(prepare=base), given).prepare


def _require_fits(vocabulary: Vocabulary, config: PrepareConfig) -> None:
    """Raises InputError for settings that make other ids than those of a vocabulary that is given."""
    theirs, ours = vocabulary.to_json(), typical_vocabulary(config).to_json()
    # What is learned differs in any case.
    if any(theirs.get(name) != value for name, value in ours.items() if not isinstance(value, list)):
        raise InputError(
            f"these settings make other ids than the model has ({vocabulary.name}, "
            f"{vocabulary.clock.quarter} ticks a quarter); leave out what was given besides --like"
        )


def _assemble(
    arguments: Sequence[str],
    sources: Sequence[Source],
    spool: Spool,
    config: PrepareConfig,
    known: Mapping[str, str],
    fixed: Vocabulary | None,
) -> dict[str, Any]:
    """Make the corpus out of the spool, beside it; returns its summary."""
    entries = [spool[source.name] for source in sources]
    read = _with_music(entries, arguments, config)
    related = _relations(read, spool, known)
    groups = works.groups(len(read), related)
    given = {source.name: source.split for source in sources}
    names: Any = splits.split(
        groups, _shares(config), config.seed, [given[entry.facts.name] for entry in read]
    )
    chosen, kept = vocabulary_class(config), _Kept(spool, interim_vocabulary(config))
    training = (kept.piece(entry) for entry, name in zip(read, names, strict=True) if name == "train")
    vocabulary = fixed or chosen.make(config, training if chosen.learned else ())
    folder = spool.folder / "corpus"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    encoded = (kept.encoded(entry, vocabulary) for entry in read)
    lengths = write_tokens(folder, encoded, len(vocabulary.streams))
    pieces = _pieces(read, groups, names, lengths)
    summary = summarise(arguments, entries, pieces, vocabulary, related)
    summary |= unknown_share(folder, pieces, vocabulary)
    manifest = {
        "version": __version__,
        "plan": _plan(((e.facts.name, e.facts.digest) for e in entries), config, known, fixed),
        "config": configs.to_json(config),
        "summary": summary,
        "remarks": {e.facts.name: list(e.facts.remarks) for e in entries if e.facts.remarks},
        "quarantine": {e.facts.name: e.facts.refused for e in entries if e.facts.refused},
    }
    write_facts(folder, pieces, vocabulary, manifest)
    write_groups(folder, pieces, related, vocabulary.clock)
    return summary


def _plan(
    sources: Iterable[tuple[str, str]],
    config: PrepareConfig,
    known: Mapping[str, str],
    fixed: Vocabulary | None,
) -> str:
    """A hash of all that decides what a corpus holds: sources, settings, groups and ids that are given."""
    settings = configs.to_json(replace(config, group_by="none"))  # what it says is in `known`
    given = [] if fixed is None else [fixed.to_json()]
    return _hash([settings, [list(source) for source in sources], dict(known), *given])


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps([FORMAT, value], sort_keys=True).encode()).hexdigest()


def _finished(
    out: Path,
    sources: Sequence[Source],
    config: PrepareConfig,
    known: Mapping[str, str],
    fixed: Vocabulary | None,
) -> Corpus | None:
    """The corpus of these in `out`, if it is there. Raises InputError if `out` holds anything else."""
    if not (out / "manifest.json").is_file():
        check_folder(out)
        return None
    corpus = load_corpus(out)
    plan = _plan(((source.name, digest_or_nothing(source)) for source in sources), config, known, fixed)
    if corpus.manifest.get("plan") != plan:
        raise InputError(f"{out}: holds a corpus of other sources or settings; give another --out")
    return corpus


def _read_missing(
    sources: Sequence[Source], spool: Spool, config: PrepareConfig, workers: int, strict: bool
) -> int:
    """Read into the spool what is not there yet with the same bytes; returns how many sources that were."""
    missing = [source for source in sources if not _is_read(source, spool, strict)]
    refused = 0
    with Progress("reading", len(sources), "files", done=len(sources) - len(missing)) as progress:
        for reading in read_all(missing, config, workers):
            if strict and (reason := _not_as_it_should_be(reading.facts)):
                raise InputError(f"{reading.facts.name}: {reason}")
            spool.append(reading)
            refused += bool(reading.facts.refused)
            progress.advance(note=f"{refused} refused" if refused else "")
    return len(missing)


def _require_flawless(corpus: Corpus) -> None:
    """Raises InputError for the first source of a corpus that was refused or mended."""
    for name, refused in corpus.manifest["quarantine"].items():
        raise InputError(f"{name}: {refused}")
    for name, remarks in corpus.manifest["remarks"].items():
        raise InputError(f"{name}: {_mended(remarks)}")


def _not_as_it_should_be(facts: Facts) -> str:
    """Why a source was refused, or what was out of order in it; "" where all is well."""
    if facts.refused or not facts.remarks:
        return facts.refused
    return _mended(facts.remarks)


def _mended(remarks: Sequence[str]) -> str:
    return f"{', '.join(remarks)}; mend it, or leave out --strict"


def _is_read(source: Source, spool: Spool, strict: bool) -> bool:
    """What was refused is tried again: it may have been mended, or only been out of reach.

    If `strict`, so is what was read with a remark.
    """
    entry = spool.get(source.name)
    if entry is None or entry.facts.refused or (strict and entry.facts.remarks):
        return False
    return entry.facts.digest == digest_or_nothing(source)


def _with_music(entries: Sequence[Entry], arguments: Sequence[str], config: PrepareConfig) -> list[Entry]:
    """The entries that become pieces. Raises InputError when there is none."""
    read = [entry for entry in entries if not entry.facts.refused]
    if not read:
        raise nothing_read(arguments, entries[0].facts.name, entries[0].facts.refused)
    wanted = [entry for entry in read if entry.facts.wanted]
    if not wanted:
        raise InputError(
            f"--only-key {config.only_key}: none of {len(read)} pieces is in that key; try another"
        )
    return wanted


def _relations(read: Sequence[Entry], spool: Spool, known: Mapping[str, str]) -> list[works.Relation]:
    """What makes pieces one work: what the user knows, their bytes, their notes, their lines."""
    marks = [entry.facts.marks | {"given": known.get(entry.facts.name, "")} for entry in read]
    windows = [entry.windows for entry in read]
    return works.relations(marks, windows, lambda number: spool.windows(read[number]))


def _shares(config: PrepareConfig) -> dict[str, float]:
    """The part of the pieces that each split wants, those left out that want none."""
    held_out = {"valid": config.valid_share, "test": config.test_share}
    held_out = {name: share for name, share in held_out.items() if share}
    return {"train": 1 - sum(held_out.values())} | held_out


class _Kept(NamedTuple):
    """Music in the spool, in a vocabulary that need not be the corpus's."""

    spool: Spool
    vocabulary: Vocabulary

    def tokens(self, entry: Entry) -> Tokens:
        return self.spool.tokens(entry, len(self.vocabulary.streams))

    def piece(self, entry: Entry) -> Piece:
        tokens = self.tokens(entry)
        length = length_of(self.vocabulary, tokens)
        notes = self.vocabulary.decode(tokens, trim=False)
        voiced = len(self.vocabulary.voice_places)
        return Piece(notes, length=length, clock=self.vocabulary.clock, voiced=voiced)

    def encoded(self, entry: Entry, vocabulary: Vocabulary) -> Tokens:
        same = vocabulary == self.vocabulary
        tokens = self.tokens(entry) if same else vocabulary.encode(self.piece(entry))
        for (name, size), highest in zip(vocabulary.streams, tokens.max(axis=0), strict=True):
            if highest >= size:
                raise ValueError(f"{vocabulary.name}: id {highest} of {name}, which has {size}")
        return tokens


def _pieces(
    read: Sequence[Entry],
    groups: np.ndarray,
    names: Sequence[Split],
    lengths: Sequence[int],
) -> list[CorpusPiece]:
    """What is known of each piece, and where its events will lie."""
    leaked = splits.leaked(groups, names)
    pieces, start = [], 0
    columns = read, groups.tolist(), names, leaked.tolist(), lengths
    for entry, group, name, leak, length in zip(*columns, strict=True):
        facts, stop = entry.facts, start + length
        pieces.append(
            CorpusPiece(
                start=start,
                stop=stop,
                split=name,
                source=facts.name,
                digest=facts.digest,
                group=group,
                leaked=leak,
                key=facts.key,
                shift=facts.shift,
                tempo=facts.tempo,
                meter=facts.meter,
                first_bar=facts.first_bar,
                program=facts.program,
                ticks=facts.ticks,
                merged=facts.merged,
                has_beat=facts.has_beat,
                frame=facts.frame,
            )
        )
        start = stop
    return pieces
