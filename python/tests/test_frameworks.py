"""Flask, Django, Bottle and Pyramid behind nginx, at the root and below a prefix."""

import contextlib
import hashlib
import http.client
import time
import urllib.parse

import pytest

import visitors
import web
from fcgi import PATIENCE, wsgi

FRAMEWORKS = {"flask": "flaskapp", "django": "apps_django", "bottle": "apps_bottle", "pyramid": "apps_pyramid"}
MOUNTS = pytest.mark.parametrize("mount", ["/", "/my/app"])


@contextlib.contextmanager
def site(folder, application, mount, *arguments, server="nginx"):
    """The application in a process of its own, behind a web server."""
    with wsgi(folder, application, "--socket-mode", "666", "--mount", mount) as process:
        process.wait_for_log("listening on")
        listen = "unix:%s" % process.address
        with web.site(folder, server, mount, "--listen", listen, *arguments) as site_:
            site_.server = process
            yield site_


@MOUNTS
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_pages(folder, name, mount):
    with site(folder, FRAMEWORKS[name] + ":app", mount) as site_:
        (visitors.all_of_flask if name == "flask" else visitors.all_of_any)(site_)
        if name == "flask":
            # Flask logs it itself, to wsgi.errors.
            site_.server.wait_for_log("as it may happen")
            site_.front.wait_for_log("as it may happen")


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_wsgiref_finds_nothing(folder, name):
    with site(folder, "apps_validated:" + name, "/my/app", "--keep-connections") as site_:
        visitors.all_of_any(site_)
        log = site_.server.log()
        assert "Assert" not in log and "Warning" not in log and "without being closed" not in log, log


def test_options(folder):
    with site(folder, "flaskapp:app", "/") as site_:
        connection = http.client.HTTPConnection("127.0.0.1", site_.port, timeout=PATIENCE)
        connection.request("OPTIONS", "/form")
        answer = connection.getresponse()
        assert "POST" in answer.headers["Allow"] and answer.read() == b""


@MOUNTS
def test_stream_with_context(folder, mount):
    with site(folder, "flaskapp:app", mount) as site_, site_.open("/stream?name=row&seconds=0.5") as answer:
        assert answer.readline() == b"row 0\n"
        begin = time.monotonic()
        assert answer.read() == b"row 1\nrow 2\n"
        assert time.monotonic() - begin > 0.5, "the first row was held back"


@pytest.mark.parametrize("arguments", [[], ["--no-buffering"]])
def test_uploads_of_100_mb(folder, arguments):
    block = bytes(range(256)) * 4096
    count = 100
    digest = hashlib.sha256()
    for _ in range(count):
        digest.update(block)
    head, content_type = visitors.multipart(b"", "big")
    head, tail = head.split(b"\r\n\r\n", 1)
    head += b"\r\n\r\n"
    length = len(block) * count
    expected = "%d %s" % (length, digest.hexdigest())

    def body(head=b"", tail=b""):
        yield head
        for _ in range(count):
            yield block
        yield tail

    with site(folder, "flaskapp:app", "/", *arguments) as site_:
        connection = http.client.HTTPConnection("127.0.0.1", site_.port, timeout=PATIENCE)
        connection.request("POST", "/raw", body(), {"Content-Length": str(length)})
        assert connection.getresponse().read().decode() == expected
        headers = {"Content-Length": str(len(head) + length + len(tail)), "Content-Type": content_type}
        connection.request("POST", "/upload", body(head, tail), headers)
        assert connection.getresponse().read().decode() == "big " + expected
        # Without a length in advance.
        connection.request(
            "POST", "/raw", iter([b"abc", b"def"]), {"Transfer-Encoding": "chunked"}, encode_chunked=True
        )
        assert connection.getresponse().read().decode() == "6 " + hashlib.sha256(b"abcdef").hexdigest()


@pytest.mark.parametrize("arguments", [[], ["--keep-connections"]])
def test_an_answer_that_breaks_off_is_seen_as_broken_off(folder, arguments):
    with site(folder, "apps:application", "/", *arguments) as site_:
        connection = http.client.HTTPConnection("127.0.0.1", site_.port, timeout=PATIENCE)
        for _ in range(2):
            connection.request("GET", "/breaks_off")
            # Where nginx has the end before it has sent the beginning, not even the head comes.
            with pytest.raises((http.client.IncompleteRead, http.client.RemoteDisconnected)):
                connection.getresponse().read()
            connection.close()
        connection.request("GET", "/latin1?" + urllib.parse.quote("whole"))
        assert connection.getresponse().read() == b"whole"


@pytest.mark.parametrize("server, expected", [("nginx", None), ("apache", None), ("lighttpd", "spoofed")])
def test_headers_with_an_underscore_are_the_web_servers_affair(folder, server, expected):
    """HTTP_X_BAR may be X-Bar or X_Bar: FastCGI does not tell. The page says who drops the second."""
    with site(folder, "flaskapp:app", "/", server=server) as site_:
        # Not urllib, which writes names in its own way.
        connection = http.client.HTTPConnection("127.0.0.1", site_.port, timeout=PATIENCE)
        for name, value in [("HTTP_X_BAR", str(expected)), ("HTTP_X_FOO", expected or "real")]:
            connection.putrequest("GET", "/environ/" + name)
            for header in [("X-Foo", "real"), ("X_Foo", "spoofed"), ("X_Bar", "spoofed")]:
                connection.putheader(*header)
            connection.endheaders()
            assert connection.getresponse().read().decode() == value
