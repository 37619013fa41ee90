"""The page of `midigen play` in a browser: what is pressed, seen, scheduled, saved, and said.

Chromium without a window, the real server, and a small model of four voices that was never trained. Tests
share one page, and each begins by loading it anew.
"""

from pathlib import Path

import numpy as np
import pytest

from midigen_jax.music.notes import make_notes
from midigen_jax.music.read import find_sources, read_piece
from midigen_jax.music.write import write_midi
from midigen_jax.play.desk import Desk
from midigen_jax.vocab.voice import VoiceVocabulary
from tests.browser import chromium, when
from tests.test_generate import restored
from tests.test_play import serving

ROLL = "document.getElementById('roll')"
AT, END = f"Number({ROLL}.ariaValueNow)", f"Number({ROLL}.ariaValueMax)"
IS_OVER = "!document.querySelector('[data-kind]').disabled"
SOUNDED = "performance.getEntriesByName('first sound').length"
BAR = 48  # ticks


@pytest.fixture(scope="module")
def desk():
    with Desk(restored(VoiceVocabulary(4, max_duration=16)), rows=2) as own:
        yield own


@pytest.fixture(scope="module")
def address(desk):
    with serving(desk) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def browser():
    with chromium() as own:
        yield own


@pytest.fixture
def page(browser, address):
    """The page, ready; at its end nothing may have been wrong in it."""
    own = browser.new_page()
    wrong = []
    own.on("pageerror", lambda error: wrong.append(error))
    own.goto(address)
    when(own, "document.querySelectorAll('#temperatures input').length")
    yield own
    own.close()
    assert wrong == []


def wish(page, bars, seed=1):
    """Set how a piece is written."""
    page.fill("#seed", str(seed))
    page.evaluate(f"document.getElementById('bars').value = {bars}")


def saved(page, button, folder):
    """The file that a button gives."""
    with page.expect_download() as download:
        page.click(button)
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def file_of(folder, pitches=(60, 62, 64, 65, 67, 65, 64, 62)) -> Path:
    count = len(pitches)
    notes = make_notes(12 * np.arange(count), [12] * count, pitches, [0] * count)
    write_midi(notes, folder / "melody.mid")
    return folder / "melody.mid"


def of_voices(notes, tracks):
    """Onset, duration and pitch of the notes of each track; of all together, where there are no tracks."""
    tracks = np.zeros(len(notes)) if tracks is None else tracks
    return [[tuple(n[:3]) for n in notes[tracks == one].tolist()] for one in np.unique(tracks)]


def test_music_sounds_and_the_roll_grows_from_one_press_on(page):
    assert page.get_attribute("#roll", "aria-valuemax") == "0"
    wish(page, 64)
    page.click("#play")
    assert when(page, SOUNDED) == 1
    assert page.inner_text("#play") == "Stop"
    some = when(page, END)
    assert when(page, f"{END} > {some}")
    at = when(page, AT)
    assert when(page, f"{AT} > {at}")
    assert not page.is_visible("#roll .empty")
    page.click("#play")
    assert page.inner_text("#play") == "Play"


def test_pixels_of_the_roll_have_the_colours_of_voices(page):
    wish(page, 4)
    page.click("#play")
    when(page, IS_OVER)
    page.click("#play")
    colours = page.evaluate(
        """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
            const canvas = document.querySelector('canvas');
            const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            const found = new Set();
            for (let n = 0; n < data.length; n += 4) found.add(data.slice(n, n + 3).join());
            done(found.size);
        })))"""
    )
    assert colours > 10


def test_a_closed_tab_ends_its_loop(browser, address, desk):
    own = browser.new_page()
    own.goto(address)
    when(own, "document.querySelectorAll('#temperatures input').length")
    wish(own, 64)
    own.click("#play")
    when(own, SOUNDED)
    own.close()
    other = browser.new_page()  # a page that lives is what time is told by
    other.goto(address)
    while desk.taken:
        when(other, "true")
    other.close()


def test_a_piece_is_saved_as_it_is_heard(page, tmp_path):
    wish(page, 3)
    page.click("#play")
    when(page, IS_OVER)
    page.click("#play")
    page.evaluate(
        "for (const [id, value] of [['tempo', 120], ['key', 3]]) {"
        " const input = document.getElementById(id); input.value = value;"
        " input.dispatchEvent(new Event('input')); }"
    )
    assert page.inner_text('output[for="key"]') == "3 semitones up"
    moved = read_piece(find_sources([str(saved(page, '[data-kind="mid"]', tmp_path))])[0])
    page.evaluate("document.getElementById('key').value = 0")
    plain = read_piece(find_sources([str(saved(page, '[data-kind="mid"]', tmp_path))])[0])
    assert moved.tempo == 120
    np.testing.assert_array_equal(np.sort(moved.notes[:, 2]), np.sort(plain.notes[:, 2] + 3))
    assert BAR < plain.notes[:, 0].max() < 4 * BAR


def test_a_file_is_dropped_gone_on_from_and_varied(page, tmp_path):
    page.set_input_files("#file", file_of(tmp_path))
    assert when(page, f"{END} === 96")
    assert not page.is_enabled("#variation")
    wish(page, 2)
    page.focus("#roll")
    page.keyboard.press("End")
    assert page.get_attribute("#roll", "aria-valuetext") == "bar 3, beat 1"
    page.click("#goon")
    assert when(page, IS_OVER)
    first = read_piece(find_sources([str(saved(page, '[data-kind="mid"]', tmp_path))])[0]).notes
    seed = page.input_value("#seed")
    page.click("#variation")
    assert when(page, f"document.getElementById('seed').value !== '{seed}'")
    assert when(page, IS_OVER)
    second = read_piece(find_sources([str(saved(page, '[data-kind="mid"]', tmp_path))])[0]).notes
    melody = read_piece(find_sources([str(tmp_path / "melody.mid")])[0]).notes
    for notes in (first, second):
        kept = notes[notes[:, 0] < 96]
        assert {*map(tuple, melody[:, [0, 2]].tolist())} <= {*map(tuple, kept[:, [0, 2]].tolist())}
        assert notes[:, 0].max() >= 96
    assert first.tolist() != second.tolist()


def test_a_melody_is_harmonised_and_marked_bars_are_filled(page, tmp_path):
    page.set_input_files("#file", file_of(tmp_path))
    when(page, f"{END} === 96")
    page.evaluate("document.getElementById('particles').value = 3")
    page.click("#harmonise")
    assert page.inner_text("#status") == "Harmonising: weighing many pieces …"
    when(page, "!document.getElementById('harmonise').disabled")
    path = saved(page, '[data-kind="mid"]', tmp_path)
    made = read_piece(find_sources([str(path)])[0]).notes
    assert len(np.unique(made[:, 3])) > 1
    # Bar 2 is marked by keys, and three voices of it are written anew.
    assert not page.is_enabled("#fill")
    page.focus("#roll")
    page.keyboard.press("Home")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert page.get_attribute("#roll", "aria-valuetext") == "bar 2, beat 1 · bars 2 to 2 are marked"
    page.uncheck("#voice-soprano")
    page.click("#fill")
    when(page, "!document.getElementById('harmonise').disabled")
    filled = read_piece(find_sources([str(saved(page, '[data-kind="mid"]', tmp_path))])[0]).notes
    # What begins before bar 2 stays, but that a voice that is written anew may hold it on.
    before = [{(n[0], n[2]) for n in notes.tolist() if n[0] < BAR} for notes in (made, filled)]
    assert before[0] == before[1]
    assert made.tolist() != filled.tolist()
    assert any(set(voice) <= set(of_voices(filled, None)[0]) for voice in of_voices(made, made[:, 3]))


def test_what_is_wrong_is_said_in_the_page(page, tmp_path):
    (tmp_path / "words.mid").write_bytes(b"hello")
    page.set_input_files("#file", tmp_path / "words.mid")
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error p").startswith("words.mid: not a MIDI file")
    page.click("#error button")
    assert not page.is_visible("#error")
    page.set_input_files("#file", {"name": "large.mid", "mimeType": "audio/midi", "buffer": bytes(1_500_000)})
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error p") == "large.mid has 1.5 MB: give a file of 1 MB or less."


def test_a_drag_marks_whole_bars_and_a_click_sets_the_line(page, tmp_path):
    page.set_input_files("#file", file_of(tmp_path, tuple(range(48, 80))))
    when(page, f"{END} === 384")
    box = page.locator("#roll canvas").bounding_box()
    y, quarter = box["y"] + 150, 34
    page.mouse.move(box["x"] + 5 * quarter, y)
    page.mouse.down()
    page.mouse.move(box["x"] + 9 * quarter, y, steps=4)
    page.mouse.up()
    assert page.get_attribute("#roll", "aria-valuetext") == "bar 1, beat 1 · bars 2 to 3 are marked"
    page.mouse.click(box["x"] + 6.2 * quarter, y)
    assert page.get_attribute("#roll", "aria-valuetext") == "bar 2, beat 3"
    page.keyboard.press("Escape")
    assert page.get_attribute("#roll", "aria-valuenow") == str(6 * 12)


def test_every_control_has_a_name(page):
    nameless = page.evaluate(
        """[...document.querySelectorAll('button, input, section, [role]')]
            .filter((one) => !one.labels?.length && !one.textContent.trim())
            .filter((one) => !one.getAttribute('aria-label') && one.role !== 'status')
            .map((one) => one.outerHTML)"""
    )
    assert nameless == []
