"""Applications that run on the workers' own threads, and what is left to threads."""

import hashlib
import threading
import time

import pytest

import fcgi
from fcgi import wsgi
from ringway import WSGIServer

APP = """
import threading
import time

local = threading.local()
released = threading.Event()


def application(environ, start_response):
    name = environ["PATH_INFO"].strip("/")
    thread = threading.current_thread().name
    if name == "thread":
        local.count = getattr(local, "count", 0) + 1
        body = ("%s %d %d" % (thread, local.count, len(environ["wsgi.input"].read()))).encode()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body]
    if name == "sized":
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
        return iter([b"", b"sized"])
    if name == "pieces":
        def pieces():
            for number in range(3):
                yield ("%d %s\\n" % (number, threading.current_thread().name)).encode()
                time.sleep(0.5)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return pieces()
    if name == "held":
        def held():
            yield b"first"
            released.wait(30)
            yield b"second"
        start_response("200 OK", [("Content-Type", "text/plain")])
        return held()
    if name == "release":
        released.set()
        start_response("204 No Content", [])
        return []
    if name == "written":
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        for _ in range(64):
            write(b"w" * 65536)
        return [b"end"]
    if name == "aborted":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(environ["ringway.aborted"].wait()).encode()]
    raise ValueError(name)
"""


@pytest.fixture
def server(folder):
    (folder / "inlined.py").write_text(APP)
    with wsgi(folder, "inlined:application", "--inline", "--threads", "2", cwd=folder) as server:
        yield server


def test_the_application_runs_on_one_thread_that_stays(server):
    answers = [server.request("/thread", "POST", b"abc").body.decode().split() for _ in range(5)]
    # A worker's thread, known to the interpreter from the first request to the last.
    assert len({name for name, _, _ in answers}) == 1 and not answers[0][0].startswith("ringway-wsgi-"), answers
    assert [int(count) for _, count, _ in answers] == [1, 2, 3, 4, 5]


def test_a_long_body_goes_to_a_thread(server):
    thread, _, length = server.request("/thread", "POST", b"x" * (3 << 20)).body.decode().split()
    assert (thread[: len("ringway-wsgi-")], int(length)) == ("ringway-wsgi-", 3 << 20)


def test_the_first_piece_is_sent_before_the_second_is_there(server):
    begun = time.monotonic()
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(server.request("/pieces")))
    waiting.start()
    time.sleep(0.3)
    # The worker is free meanwhile.
    assert server.request("/sized").body == b"sized" and time.monotonic() - begun < 1.4
    waiting.join()
    lines = [line.split() for line in answers[0].body.decode().splitlines()]
    assert [line[0] for line in lines] == ["0", "1", "2"]
    assert not lines[0][1].startswith("ringway-wsgi-") and lines[2][1].startswith("ringway-wsgi-"), lines


def test_no_piece_is_held_back(server):
    with fcgi.connect(server.address) as sock:
        fcgi.begin(sock, fcgi.params("/held", "POST", b"go"))
        fcgi.send_body(sock, b"go")
        stdout = b""
        stream = fcgi.records(sock)
        while not stdout.endswith(b"first"):
            kind, content = next(stream)
            assert kind == fcgi.STDOUT
            stdout += content
        assert server.request("/release").status == 204
        assert next(stream) == (fcgi.STDOUT, b"second")


def test_nothing_waits_for_its_own_worker(server):
    answer = server.request("/written")
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(b"w" * (64 * 65536) + b"end").digest()
    assert server.request("/aborted").body == b"False"
    # An application that fails costs its request alone.
    assert server.request("/none").status == 500
    assert server.request("/sized").body == b"sized"


def test_many_at_a_time(server):
    bodies = []

    def visit():
        for _ in range(25):
            bodies.append(server.request("/sized").body)

    visitors = [threading.Thread(target=visit) for _ in range(8)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert bodies == [b"sized"] * 200


def test_it_needs_threads_beside_it():
    with pytest.raises(ValueError, match="needs threads"):
        WSGIServer(lambda environ, start_response: [], inline=True, multithreaded=False)
