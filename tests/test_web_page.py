"""The page of an exported model, in a browser: it writes what ONNX Runtime writes, and says what it lacks."""

import itertools
import json
import re
import shutil
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest
from symusic import Score

from midigen_jax.sample.filters import mix
from midigen_jax.sample.web import _TEMPLATE, write_web
from midigen_jax.vocab import END
from midigen_jax.vocab.note import NoteVocabulary
from tests.browser import chromium, served
from tests.onnx_loop import written
from tests.test_web import tiny

VOCABULARY = NoteVocabulary(4)
SEED = 4_000_000_000


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """The files of onnxruntime-web, in the version that the page names."""
    folder = tmp_path_factory.mktemp("npm")
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: onnxruntime-web cannot be had")
    package = re.findall(r"onnxruntime-web@[\d.]+", _TEMPLATE.read_text(encoding="utf-8"))[0]
    words = [
        "npm",
        "install",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--prefix",
        str(folder),
        package,
    ]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm cannot get {package}: {done.stderr.splitlines()[-1:]}")
    return folder / "node_modules" / "onnxruntime-web" / "dist"


@pytest.fixture
def site(runtime, tmp_path):
    """A model that nobody trained, and that hardly ever ends a piece, beside the runtime."""
    folder, loaded = tmp_path / "web", tiny(("gru",), VOCABULARY)
    bias = loaded.state.params["head_pitch"]["bias"]
    loaded.state.params["head_pitch"]["bias"] = bias.at[END].set(-20)
    write_web(loaded, "tiny", folder)
    (folder / "ort").mkdir()
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (folder / "ort" / name).symlink_to(runtime / name)
    return folder


def opened(browser, address):
    """The page, when it has said that it is ready, or why not."""
    page = browser.new_page()
    page.set_default_timeout(120_000)  # of a machine that does much else
    page.goto(address)
    page.wait_for_function("!document.querySelector('#status').textContent.startsWith('Loading')")
    return page


def events_of(page):
    return int(page.inner_text("#count").split()[0])


def test_the_page_writes_plays_and_saves_what_onnx_runtime_writes(site, tmp_path):
    with chromium() as browser, served(site) as address:
        page = opened(browser, address)
        faults = []
        page.on("pageerror", lambda fault: faults.append(fault))
        assert page.inner_text("#status") == "Ready."
        assert page.inner_text("h1") == "Music by tiny"
        page.fill("#seed", str(SEED))
        page.click("text=Play")
        page.wait_for_function("parseInt(document.querySelector('#count').textContent) >= 60")
        drawn = page.locator("#roll").evaluate(
            "roll => roll.getContext('2d').getImageData(0, 0, roll.width, roll.height).data.some(Boolean)"
        )
        page.click("text=Stop")
        assert page.inner_text("#status") == "Stopped."
        with page.expect_download() as download:
            page.click("text=Save as MIDI")
        download.value.save_as(tmp_path / "piece.mid")
        count = events_of(page)
    assert drawn
    assert not faults
    streams = len(VOCABULARY.streams)

    def bits_of(number):
        return mix(mix(jnp.uint32(SEED)) + jnp.arange(streams, dtype=jnp.uint32) + streams * number)

    tokens = np.array([ids for ids, _ in itertools.islice(written(site, bits_of), count)], np.int32)
    ours = VOCABULARY.decode(tokens, trim=False)
    # Not by our reader, which would move notes to a grid.
    score = Score(tmp_path / "piece.mid")
    scale = score.tpq // VOCABULARY.clock.quarter
    theirs = [(note.start / scale, note.duration / scale, note.pitch) for note in score.tracks[0].notes]
    assert len(ours) > 10
    assert sorted(theirs) == sorted(map(tuple, ours[:, :3].tolist()))
    meter = score.time_signatures[0]
    assert (round(score.tempos[0].qpm), meter.numerator, meter.denominator) == (90, 3, 4)


def test_a_piece_that_ends_is_played_to_its_end(site):
    facts = json.loads((site / "model.json").read_text())
    facts["end"] = 2  # a rest
    (site / "model.json").write_text(json.dumps(facts))
    with chromium() as browser, served(site) as address:
        page = opened(browser, address)
        page.click("text=Play")
        page.wait_for_function("document.querySelector('#status').textContent.includes('come to its end')")
        assert page.inner_text("#play") == "Play"


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("model.onnx", "model.onnx is missing beside this page"),
        ("model.json", "model.json is missing beside this page"),
        ("ort", "onnxruntime-web is neither in the folder ort beside this page nor on the network"),
    ],
)
def test_what_is_missing_is_told_in_words(site, missing, said):
    (site / missing).rename(site / "away")
    with chromium() as browser, served(site) as address:
        context = browser.new_context()
        context.route(
            "**/*", lambda route: route.continue_() if address in route.request.url else route.abort()
        )
        page = opened(context, address)
        assert said in page.inner_text("#status")
        assert page.is_disabled("#play")


def test_a_browser_without_webassembly_is_told(site):
    with chromium() as browser, served(site) as address:
        context = browser.new_context()
        context.add_init_script("delete globalThis.WebAssembly")
        assert "no WebAssembly" in opened(context, address).inner_text("#status")


def test_a_page_from_a_disk_says_that_it_needs_a_server(site):
    with chromium() as browser:
        page = opened(browser, (site / "index.html").as_uri())
        assert "needs a server: python -m http.server" in page.inner_text("#status")
