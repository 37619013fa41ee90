"""Collections: the music in the installed music21 package that a name stands for.

It is read where it lies and never copied. Only what its headers leave free has a name: docs/collections.md
says which that is, which is not, and why.
"""

import importlib.util
import re
from pathlib import Path

from midigen_jax.errors import InputError

COLLECTIONS = {
    "bach": "*.mxl",
    "oneills1850": "*.abc",
    "ryansMammoth": "*.abc",
}
"""Folders of music21's corpus, and which files in them."""


def collection(name: str) -> list[Path]:
    """The files of a collection, in the order of the numbers in their names.

    Raises InputError when music21 is not installed, or comes without its corpus.
    """
    spec = importlib.util.find_spec("music21")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{name}: the music21 package is not installed; run pip install music21")
    folder = Path(spec.submodule_search_locations[0]) / "corpus" / name
    files = sorted(folder.glob(COLLECTIONS[name]), key=lambda path: _natural(path.name))
    if not files:
        raise InputError(
            f"{name}: the installed music21 has no {folder}; run pip install --force-reinstall music21"
        )
    return files


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key by which bwv2 comes before bwv10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
