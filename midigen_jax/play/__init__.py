"""A page on this computer to make music with: it sounds while the model is still writing.

In: a model, and what listeners ask for from the page. Out: notes as they are written, pictures, files. The
`desk` has one model write for all of them at once, `pieces` keeps what was written, `server` is all that a
browser can reach, and `page/` is what runs there. What serves pages is the extra `play`, imported where used.
"""

import importlib.util

from midigen_jax.errors import InputError

_EXTRA = ("starlette", "uvicorn")


def check_installed() -> None:
    """Raises InputError, with the remedy, where the extra `play` is not whole."""
    absent = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if absent:
        raise InputError(f'the page needs {", ".join(absent)}; pip install "midigen-jax[play]"')
