"""How soon music is heard on the page of `midigen play`, from the click to the first note that sounds.

    python scripts/bench_play.py --runs 20 >> docs/benchmarks.jsonl

The server is a process of its own, the browser Chromium without a window (playwright, of the extra `dev`).
Each run loads the page anew, presses Play once, and reads what the page has measured by itself: the time from
the event of the click to the moment for which the first note was handed to the sound card. What a sound card
takes beyond that is not in it. One press before the first run counts for nothing.
"""

import argparse
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from midigen_jax import rows

_MEASURED = """() => new Promise((done) => {
  const look = () => {
    const [found] = performance.getEntriesByName("first sound");
    found ? done(found.duration) : setTimeout(look, 5);
  };
  look();
})"""
_READY = """() => new Promise((done) => {
  const look = () => document.querySelector("#temperatures input") ? done() : setTimeout(look, 5);
  look();
})"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="pretrained:chorales", help="a run, a file, or pretrained:NAME")
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args(arguments)
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        print("there is no Chromium; install one, such as Debian's", file=sys.stderr)
        return 2
    with _served(options.model) as address:
        found = _measure(program, address, options.runs)
    command = " ".join(["python scripts/bench_play.py", *(arguments or sys.argv[1:])])
    config = {"model": options.model, "browser": "chromium, headless"}
    row = rows.of_runs("play.first_sound_ms", found, "ms", config=config, command=command)
    print(rows.line(row), flush=True)
    return 0


@contextmanager
def _served(model: str) -> Iterator[str]:
    """The address of the page, as long as it is there."""
    words = [sys.executable, "-m", "midigen_jax.cli", "play", model, "--port=0", "--no-open"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            for line in server.stdout:
                if place := re.search(r"http://\S+", line):
                    yield place[0]
                    return
            raise RuntimeError("midigen play said no address")
        finally:
            server.send_signal(signal.SIGINT)


def _measure(program: str, address: str, runs: int) -> list[float]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        found = []
        for _ in range(runs + 1):
            page = browser.new_page()
            page.goto(address)
            page.evaluate(_READY)
            page.click("#play")
            found.append(float(page.evaluate(_MEASURED)))
            page.close()
        browser.close()
    return found[1:]


if __name__ == "__main__":
    sys.exit(main())
