"""The server of the page: all that a browser can ask for, on this computer alone.

In: requests of the page. Out: music as it is written, a line of JSON at a time; pieces, files, pictures; and
what is wrong in words. The desk writes; particles run in a thread, one piece at
a time; files of others are read with the limits of every reader.
"""

import asyncio
import contextlib
import json
import logging
import socket
import threading
import webbrowser
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from midigen_jax.config import SampleConfig
from midigen_jax.data.reading import read_as
from midigen_jax.errors import InputError
from midigen_jax.music.piece import Piece
from midigen_jax.music.sources import SUFFIXES, Source
from midigen_jax.play import pieces
from midigen_jax.play.desk import Desk, Listener, Told
from midigen_jax.play.guard import Guard, RefusedError, in_words, number, read_asked, read_body, whole
from midigen_jax.play.pieces import FILES, Growing, Pieces
from midigen_jax.progress import hidden
from midigen_jax.sample.around import How, fill, harmonise
from midigen_jax.sample.generate import names_of
from midigen_jax.sample.voices import words_of
from midigen_jax.train.checkpoint import LoadedModel
from midigen_jax.train.pretrained import load_model, name_of

HOST = "127.0.0.1"
MOST_BYTES = 1_000_000  # of a file that is dropped in
MOST_BARS = 128  # of a piece, after its prompt
MOST_PARTICLES = 256

_PAGE = Path(__file__).parent / "page"
_EVENTS = 8192  # of a piece, after its prompt
_QUARTERS = 4000  # of a file that is dropped in
_SEED = 2**32 - 1
_CUT = "the model stopped in the middle of the piece; the terminal says why. Start `midigen play` again"
_WRITE = frozenset({"temperature", "top_p", "bars", "seed", "after"})
_AROUND = frozenset({"id", "particles", "temperature", "seed", "bars", "voices"})


class Rooms:
    """What the requests of the page have in common: a desk, what was written, a place for particles."""

    def __init__(self, desk: Desk, name: str):
        self.desk, self.name = desk, name
        self.pieces = Pieces()
        self._particles = asyncio.Lock()

    @property
    def loaded(self) -> LoadedModel:
        return self.desk.loaded

    async def model(self, request: Request) -> Response:
        """What the page must know of the model."""
        return JSONResponse(
            {
                "name": self.name,
                "streams": [name for name, _ in self.loaded.metadata.vocabulary.streams],
                "voices": words_of(self.loaded.metadata.vocabulary),
                "suffixes": list(SUFFIXES),
                "most": {"bytes": MOST_BYTES, "bars": MOST_BARS, "particles": MOST_PARTICLES},
            }
        )

    async def write(self, request: Request) -> Response:
        """A piece, as it is written: lines of JSON."""
        data = await read_asked(request, _WRITE)
        config = SampleConfig(
            count=1,
            top_p=(number(data, "top_p", 0.05, 1, 1.0),),
            bars=whole(data, "bars", 1, MOST_BARS, 16),
            events=_EVENTS,
            seed=whole(data, "seed", 0, _SEED, 0),
        )
        prompt = self._prompt(data.get("after"))
        loop, news = asyncio.get_running_loop(), asyncio.Queue[Told]()

        def tell(told: Told) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(news.put_nowait, told)

        asked = config, self._temperatures(data.get("temperature", {})), prompt, tell
        listener = await run_in_threadpool(self.desk.write, *asked)
        return _Stream(listener, self._lines(Growing(self.loaded, listener.task, config), news))

    def _temperatures(self, data: Any) -> dict[str, float]:
        names = [name for name, _ in self.loaded.metadata.vocabulary.streams]
        if not isinstance(data, dict) or not set(data) <= set(names):
            raise InputError(f"temperature: give numbers by stream: {', '.join(names)}")
        return {name: number(data, name, 0, 3, 1.0) for name in names}

    def _prompt(self, after: Any) -> Piece | None:
        """What a piece is to go on from, cut where it is to go on."""
        if after is None:
            return None
        if not isinstance(after, dict) or not {"id", "tick"}.issuperset(after):
            raise RefusedError(400, "after: give an id and a tick; load the page again")
        piece = self.pieces.get(after.get("id"))
        return pieces.until(piece, whole(after, "tick", 0, 2**31 - 1, 2**31 - 1))

    async def _lines(self, growing: Growing, news: "asyncio.Queue[Told]") -> AsyncIterator[str]:
        name = self.pieces.add(growing.piece)
        remarks = list(growing.task.remarks)
        yield _line({"id": name, **pieces.about(growing.piece), "remarks": remarks})
        over = False
        while not over:
            said = [await news.get()]
            while not news.empty():  # together: what is heard is computed once
                said.append(news.get_nowait())
            over = said[-1].over
            try:
                written = [told.tokens for told in said if len(told.tokens)]
                if written:
                    notes, tick = growing.add(written)
                    self.pieces.put(name, growing.piece)
                    yield _line({"notes": notes, "until": tick})
            except InputError as error:
                yield _line({"error": str(error)})
                return
            if said[-1].cut:
                yield _line({"error": _CUT})
                return
            if said[-1].waiting:
                yield _line({"waiting": said[-1].waiting})
        yield _line({"over": True})

    async def drop(self, request: Request) -> Response:
        """A file of music, as a piece."""
        name = request.query_params.get("name", "")[:200]
        remedy = f"give one of {MOST_BYTES / 1e6:g} MB or less"
        content = await read_body(request, MOST_BYTES, remedy)
        source = Source(name or "the file", Path(name))
        if source.suffix not in SUFFIXES:
            raise RefusedError(415, f"{source.name}: give a file that ends in {', '.join(SUFFIXES)}")
        piece = await run_in_threadpool(read_as, source, self.loaded.metadata.config.prepare, content)
        length = piece.clock.quarters(int((piece.notes[:, 0] + piece.notes[:, 1]).max()))
        if len(piece.notes) > pieces.MOST_NOTES or length > _QUARTERS:
            raise InputError(
                f"{source.name}: {len(piece.notes):,} notes, {length:,.0f} quarters; give a piece of "
                f"{pieces.MOST_NOTES:,} notes and {_QUARTERS:,} quarters or fewer"
            )
        return self._piece(piece)

    async def harmonise(self, request: Request) -> Response:
        """The other voices around the highest track of a piece."""
        data = await read_asked(request, _AROUND - {"bars", "voices"})
        melody = pieces.melody_of(self.pieces.get(data.get("id")))
        return await self._around(data, lambda how: harmonise(self.loaded, melody, "1", how).music)

    async def fill(self, request: Request) -> Response:
        """Some bars of a piece written anew, in all voices or in some."""
        data = await read_asked(request, _AROUND)
        piece, names = self.pieces.get(data.get("id")), data.get("voices", [])
        bars = data.get("bars")
        if not isinstance(bars, list) or len(bars) != 2:
            raise InputError("bars: mark some in the piano roll")
        known = words_of(self.loaded.metadata.vocabulary)
        if not isinstance(names, list) or not set(map(str, names)) <= set(known):
            raise InputError(f"voices: give some of {', '.join(known)}")
        first, last = (whole({"bar": bar}, "bar", 0, 100_000, 0) for bar in bars)
        return await self._around(
            data, lambda how: fill(self.loaded, piece, (first, last), list(map(str, names)), how).music
        )

    async def _around(self, data: Mapping[str, Any], make: Callable[[How], Any]) -> Response:
        how = How(
            particles=whole(data, "particles", 1, MOST_PARTICLES, 64),
            temperature=number(data, "temperature", 0.1, 3, 1.0),
            seed=whole(data, "seed", 0, _SEED, 0),
        )
        if self._particles.locked():
            raise RefusedError(
                429, "another piece is being harmonised or filled in; try again when it is there"
            )
        async with self._particles:
            with hidden():
                music = await run_in_threadpool(make, how)
        return self._piece(music.whole()[0])

    def _piece(self, piece: Piece) -> Response:
        ends = piece.notes[:, 0] + piece.notes[:, 1]
        whole_piece = {"notes": piece.notes.tolist(), "until": int(ends.max())}
        return JSONResponse({"id": self.pieces.add(piece), **pieces.about(piece), **whole_piece})

    async def file(self, request: Request) -> Response:
        """A piece as a file, in the key and tempo in which it is heard."""
        name, _, kind = request.path_params["file"].rpartition(".")
        if kind not in FILES:
            raise RefusedError(404, f"no file of that kind; there is {', '.join(FILES)}")
        asked = {key: _as_number(value) for key, value in request.query_params.items()}
        piece = self.pieces.get(name)
        key, tempo = whole(asked, "key", -24, 24, 0), number(asked, "tempo", 4, 1000, piece.tempo)
        if not len(piece.notes):
            raise InputError("the piece has no notes yet")
        names = names_of(self.loaded.metadata.vocabulary)
        content = await run_in_threadpool(FILES[kind].make, pieces.heard(piece, key, tempo), names)
        return Response(content, media_type=FILES[kind].media)


class _Stream(StreamingResponse):
    """Lines of JSON for a listener; when the browser is gone, so is the listener."""

    def __init__(self, listener: Listener, lines: AsyncIterator[str]):
        super().__init__(lines, media_type="application/x-ndjson")
        self._listener = listener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._listener.leave()


def _line(data: dict[str, Any]) -> str:
    return json.dumps(data, separators=(",", ":")) + "\n"


def _as_number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def make_app(desk: Desk, name: str, port: int, **limits: int) -> Starlette:
    """All that is served, for requests to this port; `limits` are of `Guard`."""
    rooms = Rooms(desk, name)
    routes = [
        Route("/api/model", rooms.model),
        Route("/api/write", rooms.write, methods=["POST"]),
        Route("/api/piece", rooms.drop, methods=["POST"]),
        Route("/api/harmonise", rooms.harmonise, methods=["POST"]),
        Route("/api/fill", rooms.fill, methods=["POST"]),
        Route("/api/piece/{file}", rooms.file),
        Mount("/", StaticFiles(directory=_PAGE, html=True)),
    ]
    guard = Middleware(Guard, port=port, **limits)
    handlers: Any = {InputError: in_words, ClientDisconnect: _to_nobody}
    return Starlette(routes=routes, middleware=[guard], exception_handlers=handlers)


def _to_nobody(request: Request, error: Exception) -> Response:
    """The answer to a browser that went while it was sending."""
    return Response(status_code=400)


def listen(port: int) -> socket.socket:
    """A socket on this computer that listens at a port; 0 is any that is free.

    Raises InputError where the port is another program's.
    """
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        own.bind((HOST, port))
    except OSError as error:
        own.close()
        raise InputError(
            f"--port {port}: cannot be had ({error.strerror}); give another one, or 0 for any that is free"
        ) from None
    own.listen(64)
    return own


def make_server(desk: Desk, name: str, port: int) -> uvicorn.Server:
    """The server of a desk; run it with what `listen` gave."""
    return uvicorn.Server(
        uvicorn.Config(
            make_app(desk, name, port),
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            limit_concurrency=128,
            timeout_graceful_shutdown=1,
        )
    )


def play(run: str, port: int, is_opened: bool, say: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C. Raises InputError as `listen` and `load_model` do."""
    with listen(port) as own:
        try:
            _serve(run, own, is_opened, say)
        except KeyboardInterrupt:
            say("Ended; what was not saved is gone.")


def _serve(run: str, own: socket.socket, is_opened: bool, say: Callable[[str], None]) -> None:
    loaded, name = load_model(run), name_of(run)
    say(f"{name}: getting ready, which takes a while the first time …")
    with Desk(loaded) as desk:
        port = own.getsockname()[1]
        address = f"http://{HOST}:{port}/"
        say(f"Open {address} in a browser. Ctrl-C ends it.")
        threading.Thread(target=desk.prepare, daemon=True).start()
        if is_opened:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        server = make_server(desk, name, port)
        # What a Ctrl-C cuts short is no fault; any other fault is shown.
        logging.getLogger("uvicorn.error").addFilter(lambda record: not server.should_exit)
        server.run(sockets=[own])
