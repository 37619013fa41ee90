"""What stands before the server: who may ask, how often, and how much they may send.

A page of anybody's, open in the same browser, can send requests to this computer. So only the names of this
computer pass as Host (else a name that is rebound to 127.0.0.1 would make such a page one of ours), and only
our own page as Origin. What is sent back may load nothing from elsewhere.
"""

import json
import math
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from midigen_jax.errors import InputError

REQUESTS_A_MINUTE = 240
"""of one address, files of the page apart"""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class RefusedError(InputError):
    """A request that is not answered, and the HTTP status that says so."""

    def __init__(self, status: int, line: str):
        super().__init__(line)
        self.status = status


def in_words(request: Request | None, error: Exception) -> Response:
    """What the page shows of an InputError."""
    status = getattr(error, "status", 400)
    # What was not read of a request that is too large is not waited for.
    headers = {"Connection": "close"} if status == 413 else None
    return JSONResponse({"error": str(error)}, status, headers)


class Guard:
    """Lets through what a page of this server asks for, and not too often; an ASGI app around another."""

    def __init__(self, app: ASGIApp, port: int, requests_a_minute: int = REQUESTS_A_MINUTE):
        self._app, self._most = app, requests_a_minute
        # A browser leaves out the port that is HTTP's own.
        ends = {f":{port}"} | ({""} if port == 80 else set())
        self._hosts = {f"{name}{end}" for name in ("127.0.0.1", "localhost") for end in ends}
        self._came: dict[str, deque[float]] = {}  # when requests came, by address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse in words, or hand on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        try:
            self._check(scope)
        except RefusedError as error:
            await in_words(None, error)(scope, receive, sealed)
        else:
            await self._app(scope, receive, sealed)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if host not in self._hosts:
            raise RefusedError(
                403, f"Host {host[:100]!r} is not this computer; open the address that was printed"
            )
        if origin is not None and origin.removeprefix("http://") not in self._hosts:
            raise RefusedError(403, f"Origin {origin[:100]!r}: another page may not ask for music here")
        if scope["path"].startswith("/api/"):
            self._count((scope.get("client") or ("",))[0])

    def _count(self, address: str) -> None:
        now = time.monotonic()
        came = self._came.setdefault(address, deque())
        while came and came[0] < now - 60:
            came.popleft()
        if len(came) >= self._most:
            wait = math.ceil(came[0] + 60 - now)
            raise RefusedError(429, f"more than {self._most} requests within a minute; go on in {wait} s")
        came.append(now)


async def read_body(request: Request, most: int, remedy: str) -> bytes:
    """The bytes that were sent, `most` at most. Raises RefusedError as soon as there are more, or will be."""
    too_large = RefusedError(413, f"larger than {most / 1e6:g} MB; {remedy}")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > most:
        raise too_large
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > most:
            raise too_large
    return bytes(content)


async def read_asked(request: Request, known: frozenset[str]) -> dict[str, Any]:
    """The JSON object that was sent, whose names are all `known`."""
    try:
        data = json.loads(await read_body(request, 100_000, "ask for less at once"))
    except (ValueError, RecursionError):
        raise RefusedError(400, "no JSON; load the page again") from None
    if not isinstance(data, dict) or not known.issuperset(data):
        raise RefusedError(400, f"give an object with {', '.join(sorted(known))}; load the page again")
    return data


def number(data: Mapping[str, Any], name: str, least: float, most: float, default: float) -> float:
    """A number that was asked for. Raises InputError, with what to give, for anything else."""
    value = data.get(name, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        raise InputError(f"{name} = {value!r}: give a number, {least:g} to {most:g}")
    return float(value)


def whole(data: Mapping[str, Any], name: str, least: int, most: int, default: int) -> int:
    """As `number`, of whole numbers."""
    value = number(data, name, least, most, default)
    if value != int(value):
        raise InputError(f"{name} = {value:g}: give a whole number, {least} to {most}")
    return int(value)
