"""What a corpus holds, in figures: for its manifest, for people, and as rows.

In: the spool's entries, the pieces, the tokenizer. Out: plain values.
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
from midigen_jax.data.split import in_company
from midigen_jax.data.spool import Entry
from midigen_jax.errors import kind_of
from midigen_jax.music.notes import TICKS_PER_QUARTER
from midigen_jax.music.piece import SPLITS
from midigen_jax.music.tokenizers import Tokenizer
from midigen_jax.music.tokens import ChordTokenizer


def summarise(
    arguments: Sequence[str], entries: Sequence[Entry], pieces: Sequence[CorpusPiece], tokenizer: Tokenizer
) -> dict[str, Any]:
    """The figures that people want to see of a corpus."""
    wanted = [entry.facts for entry in entries if entry.facts.wanted and not entry.facts.refused]
    reasons = Counter(kind_of(entry.facts.refused) for entry in entries if entry.facts.refused)
    meter, _ = Counter(piece.meter for piece in pieces).most_common(1)[0]
    return {
        "sources": [Path(argument).name for argument in arguments],
        "tokenizer": tokenizer.name,
        "pieces": {name: sum(piece.split == name for piece in pieces) for name in SPLITS},
        "events": {
            name: sum(piece.stop - piece.start for piece in pieces if piece.split == name) for name in SPLITS
        },
        "notes": sum(facts.notes for facts in wanted),
        "stuck": sum(facts.stuck for facts in wanted),
        "slices": sum(facts.slices for facts in wanted),
        "hours": round(sum(piece.ticks / TICKS_PER_QUARTER / piece.tempo for piece in pieces) / 60, 3),
        "tempo": round(median(piece.tempo for piece in pieces), 3),
        "meter": list(meter),
        "quarantined": sum(reasons.values()),
        "reasons": dict(reasons.most_common()),
        "other_keys": sum(not entry.facts.wanted for entry in entries),
        "duplicates": len(pieces) - len({facts.digest for facts in wanted}),
        "share_a_family": in_company([piece.family for piece in pieces]),
        "leaked": {name: sum(piece.leaked for piece in pieces if piece.split == name) for name in HELD_OUT},
        "pitch_size": tokenizer.pitch_size,
        "duration_size": tokenizer.duration_size,
    }


def unknown_share(folder: Path, pieces: Sequence[CorpusPiece], tokenizer: Tokenizer) -> dict[str, Any]:
    """The share of held-out events that the vocabulary does not have: nothing is unseen by `note` tokens."""
    if not isinstance(tokenizer, ChordTokenizer):
        return {}
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    shares = {}
    for name in HELD_OUT:
        chosen = [piece for piece in pieces if piece.split == name]
        unknown = sum(
            int(np.count_nonzero(tokens[piece.start : piece.stop, 0] == tokenizer.UNKNOWN))
            for piece in chosen
        )
        # <start> and <end> are no chords.
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
