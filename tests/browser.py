"""A browser without a window, and a folder as a site: what tests of pages need."""

import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
# In containers tests run as root, for whom Chromium has no sandbox.
_FLAGS = ("--no-sandbox", "--autoplay-policy=no-user-gesture-required")


@contextmanager
def chromium() -> Iterator[Any]:
    """Playwright's handle of the Chromium that is installed; skips, in words, where a part is missing."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: no browser is tried"
    )
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser is tried: none of {', '.join(NAMES)} is on PATH")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which the files of a folder are."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def when(page: Any, condition: str) -> Any:
    """The value of a JavaScript expression in a page, as soon as it is true.

    (`wait_for_function` needs `eval`, which a page may forbid.)
    """
    look = f"const value = {condition}; value ? done(value) : setTimeout(look, 10);"
    return page.evaluate(f"() => new Promise((done) => {{ const look = () => {{ {look} }}; look(); }})")
