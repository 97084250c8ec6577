"""An application for test_life.py: pages that hang, wait, and end the process."""

import ctypes
import logging
import os
import sys
import threading
import time

from ringway.types import Aborted


if "SLOW_TO_BE_READY" in os.environ:
    from ringway import _worker

    say = _worker.Post.say

    def say_late(post, text):
        if text == "ready":
            time.sleep(1)
        say(post, text)

    _worker.Post.say = say_late


def ok(start_response, *pieces):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return list(pieces)


def nap(seconds):
    time.sleep(seconds)


def hang(environ, start_response):
    nap(float(environ["QUERY_STRING"]))
    return ok(start_response, b"too late")


def hang_later(environ, start_response):
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"begun ")
    nap(float(environ["QUERY_STRING"]))
    return [b"too late"]


def upload(environ, start_response):
    return ok(start_response, environ["wsgi.input"].read())


def threads(environ, start_response):
    names = sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("ringway-wsgi"))
    return ok(start_response, " ".join(names).encode())


def note(text):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(text + "\n")


def aborted(environ, start_response):
    gone = environ["ringway.aborted"]
    assert isinstance(gone, Aborted)
    note("at first %r %r %r" % (gone.is_set(), bool(gone), gone.wait(0.01)))
    note("waited %r, then %r" % (gone.wait(60), gone.is_set()))
    return ok(start_response)


def aborted_stream(environ, start_response):
    gone = environ["ringway.aborted"]
    start_response("200 OK", [])

    def items():
        while not gone:
            yield b"." * 1000
            time.sleep(0.01)
        note("left the loop")

    return items()


def not_aborted(environ, start_response):
    gone = environ["ringway.aborted"]
    threading.Thread(target=lambda: note("ended %r %r" % (gone.wait(60), gone.is_set()))).start()
    start_response("200 OK", [])
    return iter([b"a", b"b"])


def abort(environ, start_response):
    os.abort()


def segfault(environ, start_response):
    ctypes.string_at(0)


def pid(environ, start_response):
    return ok(start_response, b"%d" % os.getpid())


def pid_slowly(environ, start_response):
    start_response("200 OK", [])
    yield b"%d " % os.getpid()
    nap(float(environ["QUERY_STRING"]))
    yield b"done"


def segfault_elsewhere(environ, start_response):
    if os.getpid() == int(environ["QUERY_STRING"]):
        return pid(environ, start_response)
    return segfault(environ, start_response)


def hold(environ, start_response):
    # A PyDLL does not let the interpreter go.
    ctypes.PyDLL(None).sleep(1000)


PAGES = {"/" + function.__name__: function for function in (
    hang, hang_later, upload, threads, aborted, aborted_stream, not_aborted, abort, segfault, segfault_elsewhere, hold, pid, pid_slowly,
)}  # fmt: skip


def application(environ, start_response):
    return PAGES[environ["PATH_INFO"]](environ, start_response)


class Handler(logging.Handler):
    """Writes to the stream of a request, and takes its time if told to."""

    def __init__(self):
        super().__init__()
        self.stream, self.pause = None, 0

    def emit(self, record):
        time.sleep(self.pause)
        sys.stderr.write("<%s> %s %s\n" % (record.name, record.levelname, record.getMessage()))
        if self.stream is not None and record.name == "ringway.wsgi.errors":
            self.stream.write("echo: %s\n" % record.getMessage())


handler = Handler()


def logged(environ, start_response):
    if not handler.stream:
        handler.stream = environ["wsgi.errors"]
    page = environ["PATH_INFO"]
    if page == "/raises":
        raises()
    if page == "/slow_handler":
        handler.pause = 1
    environ["wsgi.errors"].write("from %s the application\n")
    return ok(start_response, b"ok")


def raises():
    raise LookupError("nothing")


logging.getLogger().addHandler(handler)
logging.getLogger().setLevel(logging.INFO)
