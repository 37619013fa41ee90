"""`midigen play` without a browser: who writes together, what is refused, what comes back.

The model is small and was never trained. The server is the real one, at a port of this computer.
"""

import http.client
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from midigen_jax import play
from midigen_jax.config import SampleConfig
from midigen_jax.errors import INTERRUPTED, InputError
from midigen_jax.listen.notation import engrave
from midigen_jax.music.notes import make_notes
from midigen_jax.music.piece import Piece
from midigen_jax.music.read import find_sources, read_piece
from midigen_jax.music.write import write_midi
from midigen_jax.play import desk as desks
from midigen_jax.play import pieces
from midigen_jax.play.desk import Desk
from midigen_jax.play.pieces import Growing, Pieces
from midigen_jax.play.server import listen, make_app, make_server
from midigen_jax.sample.generate import generate
from midigen_jax.train.pretrained import write_model
from midigen_jax.vocab.note import NoteVocabulary
from midigen_jax.vocab.voice import VoiceVocabulary
from tests.test_generate import PROMPT, restored

LONG = SampleConfig(count=1, events=8192, bars=128)


@pytest.fixture(scope="module", params=[VoiceVocabulary(2, max_duration=16), NoteVocabulary(max_duration=16)])
def model(request):
    return restored(request.param)


@pytest.fixture(scope="module")
def voices():
    return restored(VoiceVocabulary(4, max_duration=16))


@pytest.fixture(scope="module")
def desk(voices):
    with Desk(voices, rows=2) as own:
        yield own


def asked(desk, config, prompt=None, **temperature):
    """Who listens, and the news of the piece."""
    news = queue.Queue()
    return desk.write(config, temperature, prompt, news.put), news


def to_its_end(news, timeout=60):
    said = [news.get(timeout=timeout)]
    while not said[-1].over:
        said.append(news.get(timeout=timeout))
    return said


def ends_of(notes):
    return int((notes[:, 0] + notes[:, 1]).max())


def test_a_piece_in_company_is_the_piece_alone(model):
    """Of several lengths and settings, more than there are rows, some with a prompt, some coming later."""
    one = SampleConfig(count=1, events=160)
    wishes = [
        (replace(one, seed=1, bars=6, top_p=(0.9,)), None, {}),
        (replace(one, seed=2, top_p=(0.95,), temperature=(0.7,), duration_temperature=(1.3,)), None, {}),
        (replace(one, seed=3, bars=3, top_p=(0.8,)), PROMPT, {}),
        (replace(one, seed=4), None, {"pitch": 0.5, "duration": 1.5}),
        (replace(one, seed=5, bars=2, top_p=(0.7,)), PROMPT, {}),
    ]
    with Desk(model, rows=2) as own:
        first = asked(own, *wishes[0][:2], **wishes[0][2])
        first[1].get(timeout=60)  # it has begun before the others come
        there = [first] + [asked(own, config, prompt, **heat) for config, prompt, heat in wishes[1:]]
        # The first news of the first one is gone: it is asked for again, at the end of the line.
        there.append(asked(own, *wishes[0][:2], **wishes[0][2]))
        told = [(listener, to_its_end(news)) for listener, news in there]
    lengths = []
    for (listener, said), (config, prompt, heat) in zip(told[1:], [*wishes[1:], wishes[0]], strict=True):
        tokens = np.concatenate([one.tokens for one in said])
        growing = Growing(model, listener.task, config)
        growing.add([tokens])
        if heat:
            own_heat = (heat["pitch"],), (heat["duration"],)
            config = replace(config, temperature=own_heat[0], duration_temperature=own_heat[1])
        alone = generate(model, config, prompt)
        np.testing.assert_array_equal(growing.piece.notes, alone.pieces[0])
        assert len(tokens) == alone.events
        about = growing.piece.tempo, growing.piece.meter, growing.piece.first_bar
        assert about == (alone.tempo, alone.meter, alone.first_bar)
        lengths.append(len(tokens))
    assert len(set(lengths)) > 3
    assert max(lengths) > 32


def test_notes_that_are_told_as_they_are_written_make_the_whole_piece(model):
    config = SampleConfig(count=1, seed=8, events=160, temperature=(1.5,))
    with Desk(model, rows=1) as own:
        listener, news = asked(own, config, PROMPT)
        said = to_its_end(news)
    growing, told, reached = Growing(model, listener.task, config), {}, 0
    for one in said:
        notes, tick = growing.add([one.tokens])
        for onset, duration, pitch, track in notes:
            known = told.get((onset, pitch, track), 0)
            # What is not new begins where nothing was known, or is a note that sounds on.
            assert onset >= reached or known + onset >= reached
            assert duration > known
            told[onset, pitch, track] = duration
        assert tick >= reached
        reached = tick
    whole = {
        (onset, pitch, track): duration for onset, duration, pitch, track in growing.piece.notes.tolist()
    }
    assert told == whole
    assert len(said) > 3
    assert ends_of(growing.piece.notes) <= reached


def test_who_comes_when_all_rows_are_taken_waits_in_line_until_somebody_goes(voices, monkeypatch):
    with Desk(voices, rows=1) as own:
        first, news = asked(own, LONG)
        news.get(timeout=60)
        _, second_news = asked(own, SampleConfig(count=1, events=20))
        third, third_news = asked(own, LONG)
        assert second_news.get(timeout=60).waiting == 1
        assert third_news.get(timeout=60).waiting == 2
        fourth, fourth_news = asked(own, LONG)
        assert fourth_news.get(timeout=60).waiting == 3
        third.leave()
        assert fourth_news.get(timeout=60).waiting == 2  # whoever is before somebody and goes, counts no more
        fourth.leave()
        monkeypatch.setattr(desks, "MOST_WAITING", 2)
        asked(own, LONG)[0].leave()  # who is gone takes no place in the line
        first.leave()
        assert sum(len(told.tokens) for told in to_its_end(second_news)) <= 20
        assert own.taken <= 1


def test_too_long_a_line_and_too_long_a_prompt_are_refused(voices, monkeypatch):
    monkeypatch.setattr(desks, "MOST_WAITING", 1)
    monkeypatch.setattr(desks, "MOST_PROMPT", 3)
    with Desk(voices, rows=1) as own:
        _, news = asked(own, LONG)
        news.get(timeout=60)
        asked(own, LONG)
        with pytest.raises(InputError, match="1 pieces are waiting to be written; try again"):
            asked(own, LONG)
        with pytest.raises(InputError, match="the prompt has 9 events; give one of 3 or fewer"):
            asked(own, LONG, Piece(make_notes([0, 12], [12, 12], [60, 62], [0, 0])))
    # Whoever was there when the desk ended is told, and who comes after it is refused.
    assert to_its_end(news)[-1].over
    with pytest.raises(InputError, match="stopped writing"):
        asked(own, LONG)


def test_pieces_are_kept_up_to_a_number_and_cut_where_it_is_asked():
    kept = Pieces(most=2)
    names = [kept.add(PROMPT) for _ in range(3)]
    assert kept.get(names[2]) is PROMPT
    with pytest.raises(InputError, match="no such piece: the last 2 are kept"):
        kept.get(names[0])
    cut = pieces.until(PROMPT, 15)
    assert cut.notes.tolist() == [[6, 9, 60, 0], [6, 6, 64, 1], [12, 3, 65, 1]]
    assert pieces.until(PROMPT, 6) is None
    assert set(pieces.melody_of(PROMPT).notes[:, 3]) == {1}
    assert (pieces.heard(PROMPT, 2, 100.0).notes[:, 2] == PROMPT.notes[:, 2] + 2).all()
    with pytest.raises(InputError, match=r"outside 0\.\.127"):
        pieces.heard(PROMPT, 100, None)


SCORE = """<score-partwise>
<part-list><score-part id="P1"><part-name>Voice</part-name></score-part></part-list>
<part id="P1"><measure number="1"><attributes><divisions>1</divisions></attributes>
<note><pitch><step>C</step><octave>4</octave></pitch><duration>4</duration><type>whole</type></note></measure>
</part></score-partwise>"""


def test_a_score_becomes_a_picture():
    root = ElementTree.fromstring(engrave(SCORE, width=600))
    assert root.tag.endswith("svg")
    assert sum(one.get("class") == "note" for one in root.iter()) == 1
    with pytest.raises(ValueError, match="no score"):
        engrave("<html/>")


# ---- the server


@contextmanager
def serving(desk, **limits):
    """The port of a server of the desk, which is ended afterwards."""
    with listen(0) as own:
        port = own.getsockname()[1]
        server = make_server(desk, "tiny", port)
        if limits:
            server.config.app = make_app(desk, "tiny", port, **limits)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [own]})
        thread.start()
        try:
            yield port
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def port(desk):
    with serving(desk) as own:
        yield own


def answer(port, path, body=None, headers=None):
    """Status and what was said, as JSON where it is some."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        method = "GET" if body is None else "POST"
        connection.request(method, path, body, headers or {}, encode_chunked=True)
        response = connection.getresponse()
        content = response.read()
        is_json = response.getheader("Content-Type") == "application/json"
        return response.status, json.loads(content) if is_json else content


def head_of(port, path, length):
    """The head of a request, for who sends the rest by hand."""
    lines = f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Content-Length: {length}", "", ""
    return "\r\n".join(lines).encode()


def post(port, path, data):
    return answer(port, path, json.dumps(data), {"Content-Type": "application/json"})


def lines(port, **wish):
    status, content = post(port, "/api/write", wish)
    assert status == 200
    return [json.loads(line) for line in content.splitlines()]


def told_in(said):
    """Durations by onset, pitch and track of the notes in such lines."""
    return {(o, p, t): d for line in said for o, d, p, t in line.get("notes", ())}


def file_of(tmp_path, notes=PROMPT.notes):
    write_midi(notes, tmp_path / "some.mid")
    return (tmp_path / "some.mid").read_bytes()


def test_the_page_is_served_and_may_load_nothing_from_elsewhere(port):
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", "/")
        response = connection.getresponse()
        policy = response.getheader("Content-Security-Policy")
        page = response.read().decode()
        assert response.getheader("Access-Control-Allow-Origin") is None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"(src|href)=\"(https?:)?//", page)
    for name in re.findall(r"(?:src|href)=\"([\w.]+)\"", page):
        assert answer(port, f"/{name}")[0] == 200
    assert answer(port, "/../desk.py")[0] == 404
    assert answer(port, "/server.py")[0] == 404


@pytest.mark.parametrize("path", ["/", "/api/model"])
def test_other_names_of_this_computer_and_other_pages_are_refused(port, path):
    for host in ("example.org", f"example.org:{port}", "127.0.0.1:1", "127.0.0.1"):
        status, said = answer(port, path, headers={"Host": host})
        assert status == 403
        assert said["error"].startswith(f"Host '{host}' is not this computer")
    for origin in (
        "https://example.org",
        "null",
        f"https://127.0.0.1:{port}",
        f"http://localhost:{port}.x.org",
    ):
        status, said = answer(port, path, headers={"Origin": origin})
        assert status == 403
        assert "another page" in said["error"]
    for name in ("127.0.0.1", "localhost"):
        own = {"Host": f"{name}:{port}", "Origin": f"http://{name}:{port}"}
        assert answer(port, path, headers=own)[0] == 200


def test_fifty_megabytes_are_refused_before_they_are_sent(port):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as own:
        own.sendall(head_of(port, "/api/piece?name=a.mid", 50_000_000) + bytes(1000))
        said = own.makefile("rb").read().decode()
    assert said.startswith("HTTP/1.1 413")
    assert "larger than 1 MB; give one of 1 MB or less" in said


def test_what_does_not_say_how_large_it_is_is_refused_where_it_becomes_too_large(port):
    parts = (bytes(100_000) for _ in range(11))
    status, said = answer(port, "/api/piece?name=a.mid", parts, {"Transfer-Encoding": "chunked"})
    assert (status, said["error"][:16]) == (413, "larger than 1 MB")


def test_what_is_no_music_is_told_in_words(port, tmp_path):
    empty = file_of(tmp_path, PROMPT.notes[:0])
    for name, content, words in (
        ("a.mid", b"hello", "a.mid: not a MIDI file"),
        ("a.mid", b"", "a.mid: "),
        ("none.mid", empty, "none.mid: no notes in it"),
        ("a.musicxml", b"<score-partwise/>", "a.musicxml: "),
        ("a.txt", b"hello", "a.txt: give a file that ends in .mid"),
        ("a.zip", b"PK", "a.zip: give a file that ends in .mid"),
        ("", b"hello", "the file: give a file that ends in .mid"),
    ):
        status, said = answer(port, f"/api/piece?name={name}", content)
        assert 400 <= status < 500
        assert said["error"].startswith(words)


def test_more_notes_than_a_page_can_draw_are_refused(port, tmp_path):
    count = pieces.MOST_NOTES + 1
    onset, pitch = 3 * (np.arange(count) // 8), 60 + np.arange(count) % 8
    many = make_notes(onset, np.full(count, 3), pitch, np.zeros(count))
    status, said = answer(port, "/api/piece?name=a.mid", file_of(tmp_path, many))
    assert status == 400
    assert re.search(r"20,001 notes.*give a piece of 20,000 notes", said["error"])


@pytest.mark.parametrize(
    ("path", "data", "words"),
    [
        ("/api/write", {"bars": 129}, "bars = 129: give a number, 1 to 128"),
        ("/api/write", {"bars": 1.5}, "bars = 1.5: give a whole number"),
        ("/api/write", {"seed": "x"}, "seed = 'x': give a number"),
        ("/api/write", {"top_p": 0}, "top_p = 0: give a number, 0.05 to 1"),
        ("/api/write", {"top_p": float("nan")}, "top_p = nan: give a number"),
        ("/api/write", {"temperature": {"pitch": 9}}, "pitch = 9: give a number, 0 to 3"),
        ("/api/write", {"temperature": {"velocity": 1}}, "temperature: give numbers by stream: pitch, dur"),
        ("/api/write", {"after": {"id": "nobody", "tick": 3}}, "no such piece: the last 64 are kept"),
        ("/api/write", {"after": 3}, "after: give an id and a tick"),
        ("/api/write", {"run": "/etc"}, "give an object with after, bars"),
        ("/api/write", [1], "give an object with"),
        ("/api/harmonise", {"id": "nobody"}, "no such piece"),
        ("/api/harmonise", {"id": ["nobody"]}, "no such piece"),
    ],
)
def test_what_cannot_be_asked_for_is_told_with_what_can(port, path, data, words):
    status, said = post(port, path, data)
    assert status == 400
    assert said["error"].startswith(words)


def test_what_particles_cannot_do_is_told(port, tmp_path):
    _, piece = answer(port, "/api/piece?name=a.mid", file_of(tmp_path))
    for path, more, words in (
        ("/api/harmonise", {"particles": 257}, "particles = 257: give a number, 1 to 256"),
        ("/api/fill", {}, "bars: mark some"),
        ("/api/fill", {"bars": [1, 1], "voices": ["descant"]}, "voices: give some of soprano, alto"),
        ("/api/fill", {"bars": [70, 80]}, "bars 70-80: the piece has bars 1 to 1"),
        ("/api/harmonise", {}, "two notes at once in bar"),
    ):
        _, chord = answer(
            port, "/api/piece?name=a.mid", file_of(tmp_path, make_notes([0, 0], [9, 9], [60, 64], [0, 0]))
        )
        name = chord["id"] if path == "/api/harmonise" else piece["id"]
        status, said = post(port, path, {"id": name, **more})
        assert (status, said["error"][: len(words)]) == (400, words)


def test_what_is_no_json_and_what_is_nowhere(port):
    assert answer(port, "/api/write", b"{")[1]["error"].startswith("no JSON")
    assert answer(port, "/api/write", b" " * 200_000)[0] == 413
    assert answer(port, "/api/piece/nobody.mid")[1]["error"].startswith("no such piece")
    assert answer(port, "/api/piece/nobody.exe")[1]["error"].startswith("no file of that kind; there is mid")
    assert answer(port, "/api/write")[0] == 404


def test_one_who_asks_too_often_is_told_when_to_go_on(desk):
    with serving(desk, requests_a_minute=3) as own:
        assert [answer(own, "/api/model")[0] for _ in range(4)] == [200, 200, 200, 429]
        assert re.search(
            "more than 3 requests within a minute; go on in", answer(own, "/api/model")[1]["error"]
        )
        assert answer(own, "/")[0] == 200  # to load the page again


def test_a_piece_is_told_as_it_is_written_and_saved_as_it_was_told(port, tmp_path):
    first, *rest = lines(port, seed=3, bars=4, temperature={"pitch": 1.2})
    assert {"id", "quarter", "bar", "beat", "firstBar", "tempo", "meter"} <= first.keys()
    assert rest[-1] == {"over": True}
    told = told_in(rest)
    status, content = answer(port, f"/api/piece/{first['id']}.mid?tempo=60")
    assert status == 200
    (tmp_path / "saved.mid").write_bytes(content)
    saved = read_piece(find_sources([str(tmp_path / "saved.mid")])[0], "uniform")
    assert saved.tempo == 60
    assert sorted(n[:3] for n in saved.notes.tolist()) == sorted([o, d, p] for (o, p, _), d in told.items())
    assert told_in(lines(port, seed=3, bars=4, temperature={"pitch": 1.2})) == told
    status, said = answer(port, f"/api/piece/{first['id']}.mid?key=99")
    assert said["error"] == "key = 99.0: give a number, -24 to 24"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_piece_that_is_cut_short_is_told_so(voices):
    def fail(*_):
        raise RuntimeError("the device is gone")

    with Desk(voices, rows=1) as own, serving(own) as port:
        own._resume = fail
        *_, last = lines(port, seed=1, bars=128)
        assert last["error"].startswith("the model stopped in the middle of the piece")
        assert "stopped writing; start `midigen play` again" in post(port, "/api/write", {})[1]["error"]


def test_going_on_keeps_what_is_before_the_point_and_writes_the_voices_that_it_lacks(port, tmp_path):
    _, piece = answer(port, "/api/piece?name=a.mid", file_of(tmp_path))
    first, *rest = lines(port, seed=1, bars=2, after={"id": piece["id"], "tick": 15})
    assert first["remarks"] == ["The prompt has 2 of 4 voices; the others were written to it."]
    kept = [n for n in rest[0]["notes"] if n[0] < 15]
    before = pieces.until(PROMPT, 15).notes.tolist()
    assert {(n[0], n[2]) for n in before} <= {(n[0], n[2]) for n in kept}
    assert len({n[3] for n in kept}) > len({n[3] for n in before})
    assert rest[-2]["until"] > 15


def test_a_piece_is_had_as_a_score_and_as_its_picture(port):
    first, *_ = lines(port, seed=3, bars=1)
    for kind, root in (("musicxml", "score-partwise"), ("svg", "svg")):
        status, content = answer(port, f"/api/piece/{first['id']}.{kind}")
        assert status == 200
        assert ElementTree.fromstring(content).tag.endswith(root)


def test_an_mp3_of_a_piece_sounds(port):
    pytest.importorskip("soundfile")
    first, *_ = lines(port, seed=3, bars=1)
    status, content = answer(port, f"/api/piece/{first['id']}.mp3?tempo=200")
    assert status == 200
    assert len(content) > 1000


def test_a_browser_that_is_gone_in_the_middle_frees_its_row(desk, port):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as own:
        body = json.dumps({"bars": 128})
        own.sendall(head_of(port, "/api/write", len(body)) + body.encode())
        assert own.makefile("rb").readline().startswith(b"HTTP/1.1 200")
    until = time.monotonic() + 60
    while desk.taken:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_port_that_somebody_has_is_told_with_the_remedy():
    with listen(0) as own, pytest.raises(InputError) as told:
        listen(own.getsockname()[1])
    assert re.fullmatch(
        r"--port \d+: cannot be had \(Address.*\); give another one, or 0 .*", str(told.value)
    )


def test_a_missing_extra_is_told_in_a_line(monkeypatch):
    monkeypatch.setattr(play, "_EXTRA", ("starlette", "not_there"))
    with pytest.raises(InputError, match=r'the page needs not_there; pip install "midigen-jax\[play\]"'):
        play.check_installed()


def test_the_command_says_where_to_look_and_ctrl_c_ends_it_in_words(voices, tmp_path):
    write_model(voices, tmp_path / "tiny.npz")
    words = [
        sys.executable,
        "-m",
        "midigen_jax.cli",
        "play",
        str(tmp_path / "tiny.npz"),
        "--port=0",
        "--no-open",
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        try:
            said = [command.stdout.readline() for _ in range(2)]
            place = re.search(r"http://127\.0\.0\.1:(\d+)/", said[1])
            assert answer(int(place[1]), "/api/model")[1]["name"] == "tiny.npz"
            score = SCORE.encode()  # is read in a process of its own, which ends too
            assert answer(int(place[1]), "/api/piece?name=a.musicxml", score)[1]["until"] == 48
            os.kill(command.pid, signal.SIGINT)
            rest, wrong = command.communicate(timeout=60)
        finally:
            command.kill()
    assert rest == "Ended; what was not saved is gone.\n"
    assert wrong == ""
    assert command.returncode == INTERRUPTED
