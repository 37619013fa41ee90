"""What all tests share. Tests write nowhere but under `tmp_path`."""

import gc
import importlib.metadata
import os
import pathlib
import sys
import tempfile
from html.parser import HTMLParser

import hypothesis
import pytest

# Read when JAX is imported, and inherited by the processes that tests start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["MPLBACKEND"] = "Agg"
os.environ["JAX_NUM_CPU_DEVICES"] = "2"  # so that sharing a batch is tried on any machine
# What one process has compiled no other need compile: all share a folder, which goes with the first of them.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _programs = tempfile.TemporaryDirectory(prefix="midigen-jax-programs-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Most of the time of the tests goes into compiling tiny programs: a third of it does for code that is not
# fast. XLA ends a process whose flags it does not know, so only versions that they were tried with have them.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    quick = "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true"
    quick += " --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}".strip()

# No deadline: the first example compiles. No complaint of slowness: the machine may be shared.
_common = hypothesis.settings(
    deadline=None, max_examples=50, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("dev", _common)
hypothesis.settings.register_profile("ci", _common, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if "CI" in os.environ else "dev")


@pytest.fixture(autouse=True)
def _forget_programs():
    """Compiled programs go before their memory maps run out, of which a process has 65,530.

    Where that happens, XLA ends the process while it compiles. One test takes 4,000 at the most.
    """
    yield
    if "jax" in sys.modules and _memory_maps() > 20_000:
        sys.modules["jax"].clear_caches()
        gc.collect()


def _memory_maps() -> int:
    try:
        return pathlib.Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return 0  # not Linux: there is no such limit


class Page(HTMLParser):
    """An HTML page as its tags, text and nesting; `open` is empty when every element was closed."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="session")
def write_melodies():
    """Writes MIDI files of melodies that wander about, half a quarter a note."""
    # Not at the top: a process reads the settings above before anything imports JAX.
    from melodies import write_melodies

    return write_melodies


@pytest.fixture(scope="session")
def corpus(tmp_path_factory, write_melodies):
    """The folder of a corpus of twenty melodies."""
    from midigen_jax.cli import main

    folder = tmp_path_factory.mktemp("melodies")
    words = ["prepare", str(write_melodies(folder / "music", count=20)), "--out", str(folder / "out")]
    assert main(words) == 0
    return folder / "out"


@pytest.fixture(scope="session")
def parse():
    """Reads the text of an HTML page."""
    return Page
