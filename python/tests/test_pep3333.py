"""PEP 3333, row by row, and what a server must say to applications that break it. In both models."""

import ast
import hashlib
import pathlib
import tempfile
import time

import pytest

import apps
import fcgi
from fcgi import wsgi


@pytest.fixture(scope="module", params=["threads", "inline"], autouse=True)
def model(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RINGWAY_INLINE", "true" if request.param == "inline" else "false")
        yield request.param


@pytest.fixture(scope="module")
def pages(model):
    with tempfile.TemporaryDirectory(prefix="rw-") as name, wsgi(pathlib.Path(name), "apps:application") as server:
        yield server


@pytest.mark.parametrize("method, query", [("GET", ""), ("POST", ""), ("POST", "write"), ("HEAD", "")])
def test_wsgiref_finds_nothing(folder, method, query):
    with wsgi(folder, "apps:valid") as server:
        body = b"a1\nb2\nc3" if method == "POST" else None
        answer = server.request("/", method, body, QUERY_STRING=query, HTTP_CONTENT_TYPE="x", HTTP_CONTENT_LENGTH="8")
        assert (answer.status, answer.app_status) == (200, 0), server.log()
        if body:
            expected = repr([b"a1", b"\n", [b"b2\n", b"c3"], b""]).encode()
            assert answer.body == (b"written " if query else b"") + expected
        assert answer.stderr == "valid\nso far\n"


def environ_of(answer):
    return {
        name: ast.literal_eval(value) if value[0] in "'\"TF(" else value
        for name, value in ast.literal_eval(answer.body.decode("utf-8", "surrogateescape"))
    }


def test_environ(pages):
    more = {
        "HTTP_PROXY": "http://evil/",
        "HTTP_X_NAME": b"caf\xe9",
        "HTTPS": "on",
        "HTTP_CONTENT_LENGTH": "3",
        "wsgi.multithread": "no",
        "wsgi.new": "yes",
        "ringway.new": "yes",
    }
    environ = environ_of(
        pages.request("/environ", "POST", b"abc", CONTENT_TYPE="text/x", QUERY_STRING="a=%20b", **more)
    )
    expected = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/environ",
        "QUERY_STRING": "a=%20b",
        "CONTENT_TYPE": "text/x",
        "CONTENT_LENGTH": "3",
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_X_NAME": "caf\xe9",
        "HTTPS": "on",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https",
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    streams = {name: environ.pop(name) for name in ("wsgi.input", "wsgi.errors", "wsgi.file_wrapper", "ringway.aborted")}
    assert environ == expected
    assert all(streams.values())


def test_what_was_not_sent_is_not_there(pages):
    environ = environ_of(pages.request("/environ", SERVER_NAME=None, SERVER_PORT=None, QUERY_STRING=None))
    assert "CONTENT_LENGTH" not in environ and "CONTENT_TYPE" not in environ
    assert environ["wsgi.url_scheme"] == "http"
    assert all(isinstance(environ[name], str) for name in ("SERVER_NAME", "SERVER_PORT", "QUERY_STRING"))
    assert "PATH" not in environ and "PYTHONPATH" not in environ


def test_paths_are_unescaped_bytes_as_characters(folder):
    with wsgi(folder, "apps:application", "--mount", "/caf\u00e9") as server:
        # The page is not found, and the traceback names the path as the application has it.
        answer = server.request("/", SCRIPT_NAME="/caf\u00e9".encode(), PATH_INFO="/\u20ac x".encode())
        assert answer.status == 500
        assert repr("/\u20ac x".encode().decode("latin-1")) in answer.stderr


@pytest.mark.parametrize(
    "path, expected",
    [
        ("/lines", [b"one\n", b"two\n", b"three"]),
        ("/readline", [b"one\n", b"tw", b"o\n", b"", b"three", b""]),
        ("/read", [b"one", b"", b"\ntwo\nthree", b"", b""]),
        ("/readlines", [[b"one\n"], [b"two\n", b"three"], []]),
    ],
)
def test_input(pages, path, expected):
    assert ast.literal_eval(pages.request(path, "POST", b"one\ntwo\nthree").body.decode()) == expected


def test_input_in_single_bytes(pages):
    body = b"one\ntwo\nthree"
    with fcgi.connect(pages.address) as sock:
        fcgi.begin(sock, fcgi.params("/lines", "POST", body))
        for byte in body:
            sock.sendall(fcgi.record(fcgi.STDIN, bytes([byte])))
        sock.sendall(fcgi.record(fcgi.STDIN, b""))
        assert ast.literal_eval(fcgi.collect(sock).body.decode()) == [b"one\n", b"two\n", b"three"]


def test_a_body_that_ends_early_is_the_visitors_fault(pages):
    answer = pages.request("/read", "POST", b"abc", CONTENT_LENGTH="10")
    assert answer.status == 400 and answer.app_status != 0
    assert "Traceback" not in answer.stderr


def test_echo_of_more_than_fits_anywhere(pages):
    body = bytes(range(256)) * 40_000
    with fcgi.connect(pages.address) as sock:
        import threading

        fcgi.begin(sock, fcgi.params("/echo", "POST", body))
        sender = threading.Thread(target=fcgi.send_body, args=(sock, body))
        sender.start()
        answer = fcgi.collect(sock)
        sender.join()
    assert answer.header("Content-Length") == [str(len(body))]
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(body).digest()


def test_write(pages):
    assert pages.request("/write").body == b"one two three four"


def test_start_response_a_second_time(pages):
    answer = pages.request("/twice")
    assert answer.status == 500 and "a second time" in answer.stderr
    answer = pages.request("/replaced")
    assert (answer.status, answer.body, answer.app_status) == (418, b"replaced", 0)


def test_exc_info_after_the_head_is_raised_again(pages):
    answer = pages.request("/too_late")
    assert (answer.status, answer.body) == (200, b"begun")
    assert answer.app_status != 0 and "the late one" in answer.stderr


def test_an_answer_that_breaks_off_is_not_complete(pages):
    answer = pages.request("/breaks_off")
    assert (answer.status, answer.body) == (200, b"some")
    assert answer.app_status != 0 and "in the middle" in answer.stderr
    assert answer.header("Content-Length") == []


def test_an_answer_that_fails_before_its_first_byte_is_a_500(pages):
    answer = pages.request("/breaks_at_once")
    assert answer.status == 500 and answer.body == b"Internal Server Error\n" and "at once" in answer.stderr


@pytest.mark.parametrize(
    "path, method", [("/closes", "GET"), ("/closes", "HEAD"), ("/breaks_off", "GET"), ("/breaks_at_once", "GET")]
)
def test_close_is_always_called(folder, path, method):
    with wsgi(folder, "apps:application") as server:
        server.request(path, method)
        server.wait_for_log("close() was called")
    assert server.log().count("close() was called") == 1


def test_close_is_called_when_the_client_leaves(folder, model):
    # Inline, an application is called when its whole body is there.
    for page in ["/endless"] if model == "inline" else ["/endless", "/waits"]:
        with wsgi(folder, "apps:application") as server:
            with fcgi.connect(server.address) as sock:
                fcgi.begin(sock, fcgi.params(page, "POST", b"go"))
                if page == "/endless":
                    fcgi.send_body(sock, b"go")
                assert any(content.endswith(b"first") for _, content in fcgi.records(sock))
            server.wait_for_log("close() was called")
        server.log_path.unlink()


def test_content_length(pages):
    answer = pages.request("/short_list")
    assert answer.status == 500 and "Content-Length says 10 bytes, the application gave 3" in answer.stderr
    answer = pages.request("/short")
    assert (answer.status, answer.body) == (200, b"abc") and answer.app_status != 0
    answer = pages.request("/long")
    assert (answer.status, answer.body, answer.app_status) == (200, b"abcd", 0)
    assert pages.request("/write").header("Content-Length") == []
    answer = pages.request("/readline", "POST", b"x")
    assert answer.header("Content-Length") == [str(len(answer.body))]


def test_answers_without_a_body(pages):
    for path, status in [("/no_content", 204), ("/not_modified", 304)]:
        answer = pages.request(path)
        assert (answer.status, answer.body, answer.app_status) == (status, b"", 0)
        assert answer.header("Content-Length") == []
    get = pages.request("/latin1", QUERY_STRING="q")
    head = pages.request("/latin1", "HEAD", QUERY_STRING="q")
    assert (head.status, head.body, head.head) == (200, b"", get.head)
    head = pages.request("/large", "HEAD")
    assert (head.body, head.app_status, head.header("Content-Length")) == (b"", 0, [])


def test_no_piece_is_held_back(pages, model):
    if model == "inline":
        pytest.skip("the application is called when the body is there; test_inline.py has its own")
    with fcgi.connect(pages.address) as sock:
        fcgi.begin(sock, fcgi.params("/stream", "POST", b"go"))
        stdout = b""
        stream = fcgi.records(sock)
        while not stdout.endswith(b"first"):
            kind, content = next(stream)
            assert kind == fcgi.STDOUT
            stdout += content
        fcgi.send_body(sock, b"go")
        kind, content = next(stream)
        assert (kind, content) == (fcgi.STDOUT, b"go")


def test_large_pieces(pages):
    expected = b"".join(bytes([number % 251]) * 70_000 for number in range(100))
    assert pages.request("/large").body == expected


def test_errors_go_to_both_logs(folder):
    with wsgi(folder, "apps:application") as server:
        assert server.request("/errors").stderr == "a \u20ac and a \\udcff end\nsecond\nthirdlast"
        server.wait_for_log("second")


def test_file_wrapper(pages):
    with open(apps.__file__, "rb") as file:
        assert pages.request("/file").body == file.read()[10:]
    assert pages.request("/not_a_file").body == b"x" * 5000


def test_headers_are_latin1(pages):
    answer = pages.request("/latin1", QUERY_STRING=b"caf\xe9")
    assert answer.header("X-Name") == ["Andr\xe9"] and answer.header("Set-Cookie") == ["a=1", "b=2"]
    assert answer.body == b"caf\xe9"


@pytest.mark.parametrize("case", apps.HEADS)
def test_a_bad_head_is_refused_where_it_is_made(pages, case):
    answer = pages.request("/head", QUERY_STRING=case)
    assert (answer.status, answer.body) == (500, b"Internal Server Error\n")
    assert answer.app_status != 0
    assert "start_response(*HEADS" in answer.stderr, "the application's own line"
    assert answer.header("Set-Cookie") == [] and answer.header("X") == []


@pytest.mark.parametrize(
    "path, message",
    [
        ("/returns_none", "returned None"),
        ("/returns_str", "returned str"),
        ("/returns_number", "returned int"),
        ("/yields_str", "str for a piece of the body"),
        ("/no_head", "did not call start_response()"),
        ("/no_head_at_all", "did not call start_response()"),
        ("/exits", "SystemExit: 3"),
        ("/interrupts", "KeyboardInterrupt"),
        ("/raises", "LookupError: the secret is 1"),
    ],
)
def test_a_bad_application_is_a_500_and_the_server_lives(pages, path, message):
    answer = pages.request(path)
    assert (answer.status, answer.body) == (500, b"Internal Server Error\n")
    assert message in answer.stderr and answer.app_status != 0
    pages.wait_for_log(message)
    assert pages.request("/write").status == 200


def test_debug_shows_the_traceback(folder):
    with wsgi(folder, "apps:application", "--debug") as server:
        answer = server.request("/raises")
        assert answer.status == 500 and b"LookupError: the secret is 1" in answer.body
        assert answer.header("Content-Type") == ["text/plain; charset=utf-8"]
