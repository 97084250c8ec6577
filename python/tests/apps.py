"""Applications for the tests; each `path` of `application` is one thing that an application may do."""

import itertools
import os
import sys
import time
from wsgiref.validate import validator

PAGES = {}


def page(function):
    PAGES["/" + function.__name__] = function
    return function


def application(environ, start_response):
    return PAGES[environ["PATH_INFO"]](environ, start_response)


def ok(start_response, *headers):
    return start_response("200 OK", [("Content-Type", "text/plain"), *headers])


def text(start_response, value):
    ok(start_response)
    return [value.encode("utf-8", "surrogateescape")]


@page
def environ(environ, start_response):
    return text(start_response, repr(sorted((name, repr(value)) for name, value in environ.items())))


@page
def lines(environ, start_response):
    return text(start_response, repr(list(environ["wsgi.input"])))


@page
def readline(environ, start_response):
    body = environ["wsgi.input"]
    return text(
        start_response,
        repr([body.readline(), body.readline(2), body.readline(), body.readline(0), body.read(), body.readline()]),
    )


@page
def read(environ, start_response):
    body = environ["wsgi.input"]
    return text(start_response, repr([body.read(3), body.read(0), body.read(-1), body.read(), body.read(5)]))


@page
def readlines(environ, start_response):
    body = environ["wsgi.input"]
    return text(start_response, repr([body.readlines(4), body.readlines(), body.readlines()]))


@page
def echo(environ, start_response):
    ok(start_response, ("Content-Length", environ["CONTENT_LENGTH"]))
    return iter(lambda: environ["wsgi.input"].read(50_000), b"")


@page
def posted(environ, start_response):
    return text(start_response, "%d %s" % (os.getpid(), environ["wsgi.input"].read().decode()))


@page
def write(environ, start_response):
    write = ok(start_response)
    write(b"one ")
    write(b"")
    write(b"two ")
    return [b"three", b"", b" four"]


@page
def twice(environ, start_response):
    ok(start_response)
    ok(start_response)
    return [b"not seen"]


@page
def replaced(environ, start_response):
    ok(start_response)
    try:
        raise ValueError("first try")
    except ValueError:
        start_response("418 Teapot", [("Content-Type", "text/plain")], sys.exc_info())
    return [b"replaced"]


@page
def too_late(environ, start_response):
    write = ok(start_response)
    write(b"begun")
    try:
        raise ValueError("the late one")
    except ValueError:
        start_response("500 Oops", [], sys.exc_info())
    return [b"not seen"]


class Closing:
    """Says in wsgi.errors when it is closed."""

    def __init__(self, environ, items):
        self.environ, self.items = environ, iter(items)

    def __iter__(self):
        return self

    def __next__(self):
        item = next(self.items)
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self):
        print("close() was called", file=sys.stderr)


@page
def breaks_off(environ, start_response):
    ok(start_response)
    return Closing(environ, [b"some", ValueError("in the middle")])


@page
def breaks_at_once(environ, start_response):
    ok(start_response)
    return Closing(environ, [b"", ValueError("at once")])


@page
def closes(environ, start_response):
    ok(start_response)
    return Closing(environ, [b"a", b"b"])


@page
def short(environ, start_response):
    ok(start_response, ("Content-Length", "10"))
    return iter([b"abc"])


@page
def short_list(environ, start_response):
    ok(start_response, ("Content-Length", "10"))
    return [b"abc"]


@page
def long(environ, start_response):
    ok(start_response, ("Content-Length", "4"))
    return iter([b"abc", b"def", b"ghi"])


@page
def no_content(environ, start_response):
    start_response("204 No Content", [])
    return [b"never sent"]


@page
def not_modified(environ, start_response):
    start_response("304 Not Modified", [("ETag", '"x"')])
    return iter([b"never sent"])


@page
def stream(environ, start_response):
    ok(start_response)

    def items():
        yield b"first"
        # Until the client says that it has the first.
        yield environ["wsgi.input"].read(2)

    return items()


@page
def waits(environ, start_response):
    return Closing(environ, stream(environ, start_response))


@page
def endless(environ, start_response):
    ok(start_response)
    return Closing(environ, itertools.repeat(b"first"))


@page
def large(environ, start_response):
    ok(start_response)
    return (bytes([number % 251]) * 70_000 for number in range(100))


@page
def errors(environ, start_response):
    log = environ["wsgi.errors"]
    log.write("a \u20ac and a \udcff ")
    log.writelines(["end\n", "second\n"])
    log.write("third")
    log.flush()
    log.write("last")
    return text(start_response, "ok")


@page
def file(environ, start_response):
    ok(start_response)
    handle = open(__file__, "rb")
    handle.seek(10)
    return environ["wsgi.file_wrapper"](handle, 1000)


@page
def not_a_file(environ, start_response):
    import io

    ok(start_response)
    return environ["wsgi.file_wrapper"](io.BytesIO(b"x" * 5000), 1000)


@page
def returns_none(environ, start_response):
    ok(start_response)


@page
def returns_str(environ, start_response):
    ok(start_response)
    return "text"


@page
def returns_number(environ, start_response):
    ok(start_response)
    return 42


@page
def yields_str(environ, start_response):
    ok(start_response)
    return ["text"]


@page
def no_head(environ, start_response):
    return [b"no head"]


@page
def no_head_at_all(environ, start_response):
    return iter([])


@page
def exits(environ, start_response):
    raise SystemExit(3)


@page
def interrupts(environ, start_response):
    raise KeyboardInterrupt


@page
def raises(environ, start_response):
    secret = 1
    raise LookupError("the secret is %d" % secret)


@page
def slow(environ, start_response):
    time.sleep(float(environ["QUERY_STRING"] or "1"))
    return text(start_response, "slept")


@page
def pid(environ, start_response):
    return text(start_response, str(os.getpid()))


@page
def dies(environ, start_response):
    os._exit(7)


@page
def count(environ, start_response):
    with open(os.environ["COUNT"], "a") as count:
        count.write("called\n")
    return text(start_response, "counted")


HEADS = {
    "status_int": (200, []),
    "status_word": ("OK", []),
    "status_injected": ("200 OK\r\nX: y", []),
    "headers_tuple": ("200 OK", ()),
    "headers_dict": ("200 OK", {}),
    "header_list": ("200 OK", [["A", "b"]]),
    "header_three": ("200 OK", [("A", "b", "c")]),
    "name_bytes": ("200 OK", [(b"A", "b")]),
    "value_bytes": ("200 OK", [("A", b"b")]),
    "value_int": ("200 OK", [("Content-Length", 5)]),
    "value_injected": ("200 OK", [("A", "b\r\nSet-Cookie: x=y")]),
    "value_lf": ("200 OK", [("A", "b\nc")]),
    "value_nul": ("200 OK", [("A", "b\0c")]),
    "value_euro": ("200 OK", [("A", "\u20ac")]),
    "name_injected": ("200 OK", [("A: b\r\nC", "d")]),
    "name_space": ("200 OK", [("A b", "c")]),
    "name_empty": ("200 OK", [("", "c")]),
    "name_status": ("200 OK", [("Status", "404 Not Found")]),
    "hop_by_hop": ("200 OK", [("Transfer-Encoding", "chunked")]),
    "length_word": ("200 OK", [("Content-Length", "five")]),
    "length_negative": ("200 OK", [("Content-Length", "-5")]),
}


@page
def head(environ, start_response):
    start_response(*HEADS[environ["QUERY_STRING"]])
    return [b"never sent"]


@page
def latin1(environ, start_response):
    start_response("200 OK", [("X-Name", "Andr\xe9"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
    return [environ["QUERY_STRING"].encode("latin-1")]


@validator
def valid(environ, start_response):
    """wsgiref's own opinion of the server."""
    body = environ["wsgi.input"]
    got = [body.read(2), body.readline(), body.readlines(), body.read(1)]
    for line in body:
        got.append(line)
    environ["wsgi.errors"].write("valid\n")
    environ["wsgi.errors"].writelines(["so far\n"])
    environ["wsgi.errors"].flush()
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["QUERY_STRING"] == "write":
        write(b"written ")
    return [b"" if environ["REQUEST_METHOD"] == "HEAD" else repr(got).encode()]


not_callable = "an application"
