"""The probe: every page keeps to PEP 3333. That it says what the command's probe says is tested where that one is:
tests/interop, with RINGWAY_PROBE for the command that serves it."""

import hashlib
import io
import json
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

import web
from fcgi import wsgi
from ringway import probe


def ask(page, body=b"", method="GET", **more):
    """The status, the headers, the body and what went to wsgi.errors."""
    path, _, query = page.partition("?")
    errors = io.StringIO()
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "/app",
        "PATH_INFO": "/" + path,
        "QUERY_STRING": query,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": errors,
        **more,
    }
    setup_testing_defaults(environ)
    heads = []

    def start_response(status, headers, exc_info=None):
        heads.append((int(status[:3]), dict(headers)))
        return lambda data: None

    answer = validator(probe.application)(environ, start_response)
    content = b"".join(answer)
    answer.close()
    return (*heads[0], content, errors.getvalue())


@pytest.mark.parametrize(
    "page, status, content",
    [
        ("hello", 200, b"Hello, world!\n"),
        ("some/where/hello/?a=b", 200, b"Hello, world!\n"),
        ("echo", 200, b"a body"),
        ("sha256", 200, hashlib.sha256(b"a body").hexdigest().encode() + b"\n"),
        ("bytes?n=70000", 200, bytes(index % 251 for index in range(70000))),
        ("bytes?n=-1", 400, b"n: not a number up to 1099511627776\n"),
        ("bytes", 400, b"n: this argument is missing\n"),
        ("status?code=418", 418, b"418\n"),
        ("status?code=204", 204, b""),
        ("status?code=99", 400, b"code: not a number from 100 to 599\n"),
        ("headers", 200, b""),
        ("sleep?ms=1", 200, b"slept 1\n"),
        ("stream?chunks=2&ms=1", 200, b"data: 0\n\ndata: 1\n\n"),
        ("read?n=3", 200, b"read 3\n"),
        ("read?n=30", 200, b"read 6\n"),
        ("exit?code=3", 200, b"bye\n"),
        ("exit?code=4294967296", 400, b"code: not a number up to 4294967295\n"),
        ("nothing", 404, b"no such page\n"),
        ("", 404, b"no such page\n"),
    ],
)
def test_pages(page, status, content):
    answer = ask(page, b"a body", "POST")
    assert (answer[0], answer[2]) == (status, content)


def test_errors_and_headers():
    assert ask("stderr?msg=a%20word+")[3] == "a word+\n"
    assert ask("interleave?n=2")[2:] == (b"out 0\nout 1\n", "err 0\nerr 1\n")
    assert ask("headers")[1]["X-Probe"] == "yes"
    assert ask("echo", CONTENT_TYPE="text/x")[1]["Content-Type"] == "text/x"
    assert ask("echo", CONTENT_TYPE="text/\x01")[0] == 400
    assert json.loads(ask("env", HTTP_X="gr\u00c3\u00bcn", HTTP_Y="gr\u00fcn")[2])["HTTP_X"] == "gr\u00fcn"


def test_head_takes_nothing_of_a_stream_and_cancels_none():
    status, headers, content, _ = ask("bytes?n=1099511627776", method="HEAD")
    assert (status, headers["Content-Length"], content) == (200, "1099511627776", b"")
    assert ask("aborted")[2] == b"0\n"


def test_behind_nginx_a_visitor_who_leaves_is_counted(folder):
    with wsgi(folder, "ringway.probe:application", "--socket-mode", "666") as server:
        server.wait_for_log("listening on")
        with web.site(folder, "nginx", "/", "--listen", "unix:%s" % server.address) as site:
            assert site.text("/hello") == "Hello, world!\n"
            with site.open("/bytes?n=1099511627776") as answer:
                assert answer.read(1000) == probe.BLOCK[:1000]
            web.wait_until(lambda: site.text("/aborted") == "1\n")
