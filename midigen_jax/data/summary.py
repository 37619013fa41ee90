"""What a corpus holds, in figures: for its manifest, for people, and as rows.

In: the spool's entries, the pieces, the vocabulary. Out: plain values.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from midigen_jax import config as configs
from midigen_jax import rows
from midigen_jax.config import PrepareConfig
from midigen_jax.data.corpus import HELD_OUT, CorpusPiece
from midigen_jax.data.split import with_relatives
from midigen_jax.data.spool import Entry
from midigen_jax.data.works import Relation
from midigen_jax.errors import kind_of
from midigen_jax.music.piece import SPLITS
from midigen_jax.vocab import Vocabulary, unknown_of


def summarise(
    arguments: Sequence[str],
    entries: Sequence[Entry],
    pieces: Sequence[CorpusPiece],
    vocabulary: Vocabulary,
    relations: Sequence[Relation],
) -> dict[str, Any]:
    """The figures that people want to see of a corpus."""
    wanted = [entry.facts for entry in entries if entry.facts.wanted and not entry.facts.refused]
    seconds = vocabulary.clock.seconds
    reasons = Counter(kind_of(entry.facts.refused) for entry in entries if entry.facts.refused)
    meter, _ = Counter(piece.meter for piece in pieces).most_common(1)[0]
    upbeat, _ = Counter(piece.first_bar for piece in pieces if piece.meter == meter).most_common(1)[0]
    return {
        "sources": [Path(argument).name for argument in arguments],
        "tokenizer": vocabulary.name,
        "pieces": {name: sum(piece.split == name for piece in pieces) for name in SPLITS},
        "events": {
            name: sum(piece.stop - piece.start for piece in pieces if piece.split == name) for name in SPLITS
        },
        "notes": sum(facts.notes for facts in wanted),
        "without_beat": sum(not piece.has_beat for piece in pieces),
        "merged": sum(piece.merged for piece in pieces),
        "stuck": sum(facts.stuck for facts in wanted),
        "slices": sum(facts.slices for facts in wanted),
        "hours": round(sum(seconds(piece.ticks, piece.tempo) for piece in pieces) / 3600, 3),
        "tempo": round(median(piece.tempo for piece in pieces), 3),
        "meter": list(meter),
        "upbeat": upbeat,
        "quarantined": sum(reasons.values()),
        "reasons": dict(reasons.most_common()),
        "other_keys": sum(not entry.facts.wanted for entry in entries),
        "duplicates": len(pieces) - len({facts.digest for facts in wanted}),
        "related": with_relatives(piece.group for piece in pieces),
        "related_by": dict(Counter(relation.why for relation in relations).most_common()),
        "leaked": {name: sum(piece.leaked for piece in pieces if piece.split == name) for name in HELD_OUT},
        **{f"{stream.name}_size": stream.size for stream in vocabulary.streams},
        "drops": list(vocabulary.drops),
    }


def unknown_share(folder: Path, pieces: Sequence[CorpusPiece], vocabulary: Vocabulary) -> dict[str, Any]:
    """The share of held-out events that the vocabulary does not have, where it may lack any."""
    if not any(table.unknown.any() for table in vocabulary.tables.values()):
        return {}
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    shares = {}
    for name in HELD_OUT:
        chosen = [piece for piece in pieces if piece.split == name]
        unknown = sum(
            int(unknown_of(vocabulary.tables, tokens[piece.start : piece.stop]).sum()) for piece in chosen
        )
        # <start> and <end> are no music.
        shares[name] = round(unknown / max(sum(piece.stop - piece.start - 2 for piece in chosen), 1), 4)
    return {"unknown_share": shares}


def rows_of(summary: dict[str, Any], config: PrepareConfig, files: int, seconds: float) -> list[rows.Row]:
    """What `prepare` measured; `files` were read by the command that ended it, in `seconds`."""
    settings = configs.to_json(config)
    values = [
        ("prepare.files", files, "files"),
        ("prepare.quarantined", summary["quarantined"], "files"),
        ("prepare.events", sum(summary["events"].values()), "events"),
        ("prepare.hours", summary["hours"], "h"),
        ("prepare.seconds", round(seconds, 3), "s"),
        ("prepare.ms_per_file", round(1000 * seconds / max(files, 1), 3), "ms"),
    ]
    values += [
        (f"prepare.unknown_share.{name}", share, "share")
        for name, share in summary.get("unknown_share", {}).items()
    ]
    return [rows.make(name, value, unit, config=settings) for name, value, unit in values]
