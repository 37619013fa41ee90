"""Hearing and seeing music, a model's and its data: piano rolls, audio, the report of a run, an inspection.

In: Notes, a census, and the files of a run's folder. Out: PNG, MP3, HTML. No JAX: pages are made anywhere.
What draws, plays and fills pages is the extra `listen`, imported where it is used: all else goes without.
"""

import importlib.util

from midigen_jax.errors import InputError

_EXTRA = ("jinja2", "matplotlib", "soundfile")
REMEDY = 'pip install "midigen-jax[listen]"'


def missing() -> list[str]:
    """The packages of the extra `listen` that are not installed."""
    return [name for name in _EXTRA if importlib.util.find_spec(name) is None]


def check_installed() -> None:
    """Raises InputError, with the remedy, where the extra `listen` is not whole."""
    if absent := missing():
        raise InputError(f"pages, pictures and sound need {', '.join(absent)}; {REMEDY}")


def what_is_missing() -> list[str]:
    """In words, where music is written without pictures and sound."""
    absent = missing()
    words = f"No sound and no pictures: they need {', '.join(absent)}; {REMEDY}"
    return [words] if absent else []
