"""Chromium without a window, for tests of pages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = ("--no-sandbox", "--autoplay-policy=no-user-gesture-required")


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of playwright's; skips, in words, where there is no playwright or no Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip(f"needs one of {', '.join(_NAMES)}")
    with playwright.sync_playwright() as own:
        browser = own.chromium.launch(executable_path=program, args=_FLAGS)
        yield browser
        browser.close()


def when(page: Any, condition: str) -> Any:
    """The value of a JavaScript expression in a page, as soon as it is true.

    (`wait_for_function` needs `eval`, which a page may forbid.)
    """
    look = f"const value = {condition}; value ? done(value) : setTimeout(look, 10);"
    return page.evaluate(f"() => new Promise((done) => {{ const look = () => {{ {look} }}; look(); }})")
