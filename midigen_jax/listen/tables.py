"""Figures, settings and corpora in words, as the tables of a page tell them.

In: values as JSON has them. Out: lists of (label, text).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from midigen_jax.config import Config, flatten, options


def words(value: Any, share: bool = False) -> str:
    """A value as people write it: 12,345; 3.25; 27.0 %; train 10 · valid 2."""
    if isinstance(value, Mapping):
        return " · ".join(f"{key} {words(inner, share)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(words(inner, share) for inner in value)
    if value is None or isinstance(value, bool):
        return str(value).lower()  # as the command line takes them
    if isinstance(value, int | float):
        if share:
            return f"{100 * value:.1f} %"
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return str(value)


def many(count: int, noun: str) -> str:
    """1 piece, 1,234 pieces."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


_CORPUS_LABELS = {
    "sources": "sources",
    "tokenizer": "tokenizer",
    "pieces": "pieces",
    "events": "events",
    "notes": "notes",
    "slices": "slices",
    "hours": "hours of music",
    "quarantined": "files left out",
    "without_beat": "played without a beat",
    "merged": "onsets merged by the grid",
    "stuck": "notes without end",
    "other_keys": "in other keys",
    "related": "sharing music",
    "related_by": "joined by",
    "duplicates": "of one file",
    "leaked": "shared with train",
    "unknown_share": "unseen symbols",
}


def corpus_table(corpus: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of a corpus, its manifest's summary, as (label, value)."""
    known = [
        (label, words(corpus[key], share=key == "unknown_share"))
        for key, label in _CORPUS_LABELS.items()
        if corpus.get(key) is not None
    ]
    streams = [key.removesuffix("_size") for key in corpus if key.endswith("_size")]
    return known + [(f"{name} ids", words(corpus[f"{name}_size"])) for name in streams]


def aligned(table: Sequence[tuple[str, str]]) -> list[str]:
    """A table of (label, text) as lines of a terminal."""
    width = max(len(label) for label, _ in table)
    return [f"  {label:<{width}}  {text}" for label, text in table]


def corpus_in_words(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """What the corpus in a folder holds, and what could not be read, with a name for each reason."""
    lines, refused = aligned(corpus_table(manifest["summary"])), manifest["quarantine"]
    if refused:
        lines.append(f"{many(len(refused), 'file')} left out; {folder / 'manifest.json'} lists them:")
    for reason, count in manifest["summary"]["reasons"].items():
        example = next(name for name, text in refused.items() if text.startswith(reason))
        lines.append(f"  {count} {reason} ({example}{', …' if count > 1 else ''})")
    if played := manifest["summary"].get("without_beat", 0):
        lines.append(
            f"{many(played, 'piece')} played without regard to the beats of the file: on a grid their rhythm "
            f"is noise; {folder / 'pieces.jsonl'} says which (has_beat)"
        )
    remarks = manifest.get("remarks", {})
    if remarks:
        said = Counter(one.partition(":")[0] for each in remarks.values() for one in each)
        lines.append(
            f"{many(len(remarks), 'file')} read with a remark; {folder / 'manifest.json'} lists them:"
        )
        lines += [f"  {count} {words}" for words, count in said.most_common()]
    return lines


def settings_table(config: Mapping[str, Any]) -> dict[str, list[tuple[str, str, str]]]:
    """Every setting as section -> (name, value, what it means)."""
    known = options(Config)
    sections: dict[str, list[tuple[str, str, str]]] = {}
    for name, value in flatten(config).items():
        section, _, leaf = name.rpartition(".")
        sections.setdefault(section or "run", []).append((leaf, words(value), known.get(name, ("", ""))[1]))
    return sections
