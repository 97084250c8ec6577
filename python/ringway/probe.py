"""The probe as a WSGI application: a page for each thing that a web server and an application may do to each other.

It answers what `ringway serve probe` answers, so that hosts can be compared: `ringway-wsgi ringway.probe:application`.
The last segment of the path names the page; arguments come from the query, percent-decoded, where a plus sign is a
plus sign. What WSGI has no word for is left out: `exit` ends with the app status 0, `sleep` holds a thread, and there is
no Authorizer and no Filter.
"""

import hashlib
import json
import re
import threading
import time
from http.client import responses
from typing import Any, Callable, Dict, Iterable, Iterator, List, Tuple
from urllib.parse import unquote_to_bytes

Environ = Dict[str, Any]
Headers = List[Tuple[str, str]]
Answer = Tuple[int, Headers, Iterable[bytes]]

BLOCK = bytes(index % 251 for index in range(251 * 256))
BYTES_MAX = 2**40
INTERLEAVE_MAX = 10_000
U16_MAX, U32_MAX, U64_MAX = 2**16 - 1, 2**32 - 1, 2**64 - 1
READ_BYTES = 1 << 16
#: What `echo` reads before it answers: most web servers send no more of a body once they have the head of the answer.
ECHO_START_BYTES = 64 << 20

_PAGES: Dict[str, Callable[[Environ], Answer]] = {}
_cancelled = 0
_lock = threading.Lock()


class BadRequest(Exception):
    """The visitor's fault; one line says what was wrong."""


def application(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The WSGI application."""
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    if path.endswith("/"):
        path = path[:-1]
    answer = _PAGES.get(path.rpartition("/")[2])
    try:
        status, headers, body = answer(environ) if answer else _text("no such page\n", 404)
    except BadRequest as error:
        status, headers, body = _text("%s\n" % error, 400)
    if environ["REQUEST_METHOD"] == "HEAD" and isinstance(body, _Stream):
        body = ()
    start_response("%d %s" % (status, responses.get(status, "Unknown")), headers)
    return body


class _Stream:
    """A body that is made as it is sent. One that is closed before its end counts as cancelled."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._is_over = False

    def __iter__(self) -> "_Stream":
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except StopIteration:
            self._is_over = True
            raise

    def close(self) -> None:
        if not self._is_over:
            _count_cancelled()


def _count_cancelled() -> None:
    global _cancelled
    with _lock:
        _cancelled += 1


def _pause(environ: Environ, milliseconds: int) -> bool:
    """Waits for so long; False where nobody wants the answer any more, which is counted."""
    seconds = min(milliseconds / 1000, threading.TIMEOUT_MAX)
    gone = environ.get("ringway.aborted")
    if gone is None:
        time.sleep(seconds)
    elif gone.wait(seconds):
        _count_cancelled()
        return False
    return True


def _page(function: Callable[[Environ], Answer]) -> Callable[[Environ], Answer]:
    _PAGES[function.__name__.strip("_")] = function
    return function


def _text(text: str, status: int = 200) -> Answer:
    return status, [("Content-Type", "text/plain")], [text.encode()]


def _argument(environ: Environ, name: str) -> bytes:
    for pair in environ.get("QUERY_STRING", "").split("&"):
        if pair.startswith(name + "="):
            return unquote_to_bytes(pair[len(name) + 1 :].encode("latin-1"))
    raise BadRequest("%s: this argument is missing" % name)


def _number(environ: Environ, name: str, most: int) -> int:
    digits = _argument(environ, name)
    if re.fullmatch(rb"[0-9]{1,20}", digits) is None or int(digits) > most:
        raise BadRequest("%s: not a number up to %d" % (name, most))
    return int(digits)


def _body(environ: Environ, most: int = U64_MAX) -> Iterator[bytes]:
    """The request body in pieces, `most` bytes of it."""
    while most > 0:
        piece = environ["wsgi.input"].read(min(READ_BYTES, most))
        if not piece:
            return
        most -= len(piece)
        yield piece


@_page
def hello(environ: Environ) -> Answer:
    return _text("Hello, world!\n")


@_page
def env(environ: Environ) -> Answer:
    def text(value: str) -> str:
        # A native string is bytes as Latin-1 (PEP 3333); what is UTF-8 shall be seen as such.
        try:
            return value.encode("latin-1").decode("utf-8")
        except UnicodeDecodeError:
            return value

    params = {text(name): text(value) for name, value in environ.items() if isinstance(value, str) and "." not in name}
    return 200, [("Content-Type", "application/json")], [json.dumps(params, indent=2).encode() + b"\n"]


@_page
def echo(environ: Environ) -> Answer:
    content_type = environ.get("CONTENT_TYPE") or "application/octet-stream"
    if re.search("[\x00-\x08\x0a-\x1f\x7f]", content_type):
        raise BadRequest("CONTENT_TYPE cannot be a header value")
    headers = [("Content-Type", content_type)]
    pieces = _body(environ)
    start, length = [], 0
    for piece in pieces:
        start.append(piece)
        length += len(piece)
        if length >= ECHO_START_BYTES:
            return 200, headers, _Stream(_echo_on(start, pieces))
    return 200, headers, [b"".join(start)]


def _echo_on(start: List[bytes], rest: Iterator[bytes]) -> Iterator[bytes]:
    while start:
        yield start.pop(0)
    yield from rest


@_page
def sha256(environ: Environ) -> Answer:
    digest = hashlib.sha256()
    for piece in _body(environ):
        digest.update(piece)
    return _text(digest.hexdigest() + "\n")


@_page
def _bytes(environ: Environ) -> Answer:
    count = _number(environ, "n", BYTES_MAX)

    def blocks() -> Iterator[bytes]:
        left = count
        while left > 0:
            block = BLOCK[:left]
            left -= len(block)
            yield block

    headers = [("Content-Type", "application/octet-stream"), ("Content-Length", str(count))]
    return 200, headers, _Stream(blocks())


@_page
def status(environ: Environ) -> Answer:
    code = _number(environ, "code", 599)
    if code < 100:
        raise BadRequest("code: not a number from 100 to 599")
    return (code, [], ()) if code in (204, 304) else _text("%d\n" % code, code)


@_page
def headers(environ: Environ) -> Answer:
    code, common, body = _text("")
    return code, common + [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Probe", "yes")], body


@_page
def stderr(environ: Environ) -> Answer:
    message = _argument(environ, "msg").decode("utf-8", "backslashreplace")
    environ["wsgi.errors"].write(message + "\n")
    environ["wsgi.errors"].flush()
    return _text("ok\n")


@_page
def sleep(environ: Environ) -> Answer:
    milliseconds = _number(environ, "ms", U64_MAX)
    _pause(environ, milliseconds)
    return _text("slept %d\n" % milliseconds)


@_page
def stream(environ: Environ) -> Answer:
    chunks, pause = _number(environ, "chunks", U64_MAX), _number(environ, "ms", U64_MAX)

    def events() -> Iterator[bytes]:
        for index in range(chunks):
            if index > 0 and not _pause(environ, pause):
                return
            yield b"data: %d\n\n" % index

    return 200, [("Content-Type", "text/event-stream")], _Stream(events())


@_page
def panic(environ: Environ) -> Answer:
    raise RuntimeError("the probe was asked to panic")


@_page
def interleave(environ: Environ) -> Answer:
    rounds, errors = _number(environ, "n", INTERLEAVE_MAX), environ["wsgi.errors"]

    def lines() -> Iterator[bytes]:
        for index in range(rounds):
            yield b"out %d\n" % index
            errors.write("err %d\n" % index)
            errors.flush()

    return 200, [("Content-Type", "text/plain")], _Stream(lines())


@_page
def read(environ: Environ) -> Answer:
    count = sum(map(len, _body(environ, _number(environ, "n", U64_MAX))))
    return _text("read %d\n" % count)


@_page
def aborted(environ: Environ) -> Answer:
    return _text("%d\n" % _cancelled)


@_page
def _exit(environ: Environ) -> Answer:
    _number(environ, "code", U32_MAX)
    return _text("bye\n")
