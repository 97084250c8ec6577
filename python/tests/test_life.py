"""What happens to requests that hang, are slow, or whose client leaves; and to the process."""

import signal
import time

import pytest

import fcgi
from fcgi import PATIENCE, wsgi


def life(folder, *flags, **options):
    return wsgi(folder, "lifeapps:application", *flags, **options)


def start(server, path, query=""):
    """Begins a request and leaves it open."""
    sock = fcgi.connect(server.address)
    fcgi.begin(sock, fcgi.params(path, QUERY_STRING=query))
    fcgi.send_body(sock, b"")
    return sock


@pytest.fixture
def notes(folder):
    class Notes:
        path = folder / "notes"

        def wait_for(self, text):
            end = time.monotonic() + PATIENCE
            while not (self.path.exists() and text in self.path.read_text()):
                assert time.monotonic() < end, "%r was not noted" % text
                time.sleep(0.02)

    return Notes()


def test_a_stuck_request_is_ended_and_its_thread_replaced(folder):
    with life(folder, "--threads", "1", "--request-timeout", "500ms") as server:
        answer = server.request("/hang", QUERY_STRING="4")
        assert answer.status == 504 and answer.app_status == 1
        # The only thread sleeps on, and yet:
        assert server.request("/threads").body == b"ringway-wsgi-1 ringway-wsgi-2"
        log = server.log()
        line = next(line for line in log.splitlines() if "request_timeout passed" in line)
        assert 'GET "/hang"' in line and "on ringway-wsgi-1 (1 of 1 threads busy, " in line
        assert "in nap\n    time.sleep(seconds)" in log and "lifeapps.py" in log and "threading.py" not in log
        server.wait_for_log("ringway-wsgi-1 is stuck: another thread takes its place (1 stuck; more than 16 end")
        assert log.count("Stack (most recent call last)") == 1
        # It comes back, and is not needed any more.
        end = time.monotonic() + PATIENCE
        while server.request("/threads").body != b"ringway-wsgi-2":
            assert time.monotonic() < end
            time.sleep(0.1)
    assert server.process.returncode == 0


def test_a_stuck_answer_is_seen_to_be_incomplete(folder):
    with life(folder, "--threads", "1", "--request-timeout", "500ms", "--stuck-max", "1") as server:
        answer = server.request("/hang_later", QUERY_STRING="2")
        assert answer.body == b"begun " and answer.app_status is None
        assert server.request("/threads").status == 200
        # Another one while the first is still stuck would be one too many; now it is back.
        server.wait_for_log("in nap")
        end = time.monotonic() + PATIENCE
        while server.request("/threads").body != b"ringway-wsgi-2":
            assert time.monotonic() < end
            time.sleep(0.1)
        assert server.request("/hang", QUERY_STRING="1").status == 504
        assert server.request("/threads").status == 200


def test_too_many_stuck_threads_end_the_process(folder):
    server = life(folder, "--threads", "3", "--request-timeout", "500ms", "--stuck-max", "1")
    socks = [start(server, "/hang", "100") for _ in range(2)]
    assert [fcgi.collect(sock).status for sock in socks] == [504, 504]
    assert server.process.wait(PATIENCE) == 1
    log = server.log()
    assert "2 Python threads are stuck, more than 1 are not replaced: ending" in log
    assert "2 Python threads did not end" in log and log.count("in nap") == 2


def test_who_waits_for_its_client_is_not_stuck(folder):
    with life(folder, "--threads", "1", "--request-timeout", "500ms", "--stuck-max", "0") as server:
        for _ in range(2):
            with fcgi.connect(server.address) as sock:
                fcgi.begin(sock, fcgi.params("/upload", "POST", b"12345"))
                sock.sendall(fcgi.record(fcgi.STDIN, b"123"))
                assert fcgi.collect(sock).status == 504
        assert server.request("/threads").body == b"ringway-wsgi-1"
    assert server.process.returncode == 0 and "is stuck" not in server.log()


def test_slow_requests_are_logged_once_with_their_traceback(folder):
    with life(folder, "--slow-log", "300ms") as server:
        assert server.request("/threads").status == 200
        assert server.request("/hang", QUERY_STRING="1.2").body == b"too late"
        log = server.log()
        assert log.count("slow: ") == 1 and log.count("in nap\n    time.sleep(seconds)") == 1
        line = next(line for line in log.splitlines() if "slow: " in line)
        assert 'slow: GET "/hang" has run for ' in line and "(1 of 16 threads busy, 0 requests queued)" in line


@pytest.mark.parametrize("flag", ["--slow-log", "--queue-timeout"])
def test_bad_times_are_named(folder, flag):
    server = life(folder, flag, "soon")
    assert server.process.wait(PATIENCE) == 2
    assert "%s \"soon\"" % flag.strip("-").replace("-", "_") in server.log()


@pytest.mark.parametrize("how", ["closed", "aborted"])
def test_an_application_sees_that_its_client_left(folder, notes, how):
    with life(folder, env={"NOTES": str(notes.path)}) as server:
        with start(server, "/aborted") as sock:
            notes.wait_for("at first False False False\n")
            if how == "aborted":
                sock.sendall(fcgi.record(fcgi.ABORT, b""))
                assert fcgi.collect(sock).body == b""
        notes.wait_for("waited True, then True\n")


def test_a_stream_ends_when_its_client_left(folder, notes):
    with life(folder, env={"NOTES": str(notes.path)}) as server:
        with start(server, "/aborted_stream") as sock:
            assert b"...." in sock.recv(1000)
        notes.wait_for("left the loop\n")


def test_the_deadline_is_seen_too(folder, notes):
    with life(folder, "--request-timeout", "500ms", env={"NOTES": str(notes.path)}) as server:
        assert server.request("/aborted").status == 504
        notes.wait_for("waited True, then True\n")


def test_an_answer_that_was_taken_is_not_aborted(folder, notes):
    with life(folder, env={"NOTES": str(notes.path)}) as server:
        assert server.request("/not_aborted").body == b"ab"
        notes.wait_for("ended False False\n")


@pytest.mark.parametrize("page, name", [("/abort", "Aborted"), ("/segfault", "Segmentation fault")])
def test_a_fatal_signal_says_where_it_was(folder, page, name):
    server = life(folder)
    with start(server, page) as sock:
        assert fcgi.collect(sock).status is None
    assert server.process.wait(PATIENCE) < 0
    assert "Fatal Python error: " + name in server.log()
    assert 'lifeapps.py", line ' in server.log() and " in " + page.strip("/") in server.log()


def test_who_does_not_let_the_interpreter_go_ends_the_process(folder):
    server = life(folder, "--request-timeout", "500ms")
    with start(server, "/hold") as sock:
        assert fcgi.collect(sock).status == 504
        assert server.process.wait(PATIENCE) == -signal.SIGABRT
    log = server.log()
    assert "the interpreter was not let go for 5s after request_timeout" in log
    assert "Fatal Python error: Aborted" in log and " in hold" in log


@pytest.mark.parametrize("page", ["exits", "interrupts"])
def test_who_wants_to_exit_takes_nobody_along(folder, page):
    with wsgi(folder, "apps:application", "--threads", "2") as server:
        with start(server, "/slow", "1") as other:
            for _ in range(3):
                answer = server.request("/" + page)
                assert answer.status == 500 and answer.app_status == 1
            assert fcgi.collect(other).body == b"slept"
        assert server.log().count("the application failed") == 3 and "in " + page in server.log()


def test_the_log_in_logging(folder):
    with wsgi(folder, "lifeapps:logged", "--log-to", "logging", "--log", "debug") as server:
        assert server.request("/wsgi_errors").body == b"ok"
        assert server.request("/raises").status == 500
        server.wait_for_log("in raises")
    log = server.log()
    lines = [line for line in log.splitlines() if line.startswith("<")]
    assert any(line.startswith("<ringway.server> INFO listening on ") for line in lines)
    assert "<ringway.wsgi.errors> WARNING from %s the application" in lines
    assert any(line.startswith("<ringway.wsgi> ERROR the application failed for GET") for line in lines)
    # Those that a handler itself writes do not come round again.
    assert "<ringway.wsgi.errors> WARNING echo: from %s the application" not in lines
    assert "WARN ringway::wsgi::errors: echo: from %s the application" in log


def test_the_log_goes_on_while_python_is_busy(folder):
    """Nobody waits for the interpreter to log: not the worker, whose answers come in time."""
    with wsgi(folder, "lifeapps:logged", "--log-to", "logging", "--log", "ringway=trace") as server:
        assert server.request("/slow_handler").status == 200
        begin = time.monotonic()
        assert all(server.request("/wsgi_errors").status == 200 for _ in range(20))
        assert time.monotonic() - begin < 20, "each line takes the handler a second"
        server.process.kill()


def config(folder, text):
    path = folder / "r.toml"
    path.write_text(text)
    return str(path)


def test_a_file_of_options(folder):
    path = config(folder, "threads = 3\nmount = '/file'\nworkers = 1\nlog = 'error'\ndebug = true\n")
    with wsgi(folder, "apps:application", "--config", path) as server:
        answer = server.request("/file/raises")
        assert b"LookupError" in answer.body
    assert " INFO " not in server.log()


def options(monkeypatch, arguments, **variables):
    from ringway import _config
    from ringway.__main__ import parser

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return _config.parse(parser(), ["app:app", *arguments])


def test_arguments_win_over_variables_over_the_file(folder, monkeypatch):
    path = config(
        folder, "threads = 3\nqueue_max = 4\nstuck_max = 5\nlisten = ['a:1', 'b:2']\nmount = '/file'\nworkers = 2\n"
    )
    arguments = ["--config", path, "--threads", "7", "--workers", "3"]
    found = options(monkeypatch, arguments, RINGWAY_THREADS="8", RINGWAY_QUEUE_MAX="9", RINGWAY_MOUNT="/env")
    assert (found.threads, found.queue_max, found.stuck_max) == (7, 9, 5)
    assert (found.setting_listen, found.setting_workers) == (["a:1", "b:2"], "3")
    # The engine reads its variables itself.
    assert found.setting_mount is None
    found = options(monkeypatch, ["--listen", "c:3"], RINGWAY_CONFIG=path)
    assert found.setting_listen == ["c:3"] and found.threads == 8


@pytest.mark.parametrize(
    "text, message",
    [
        ("\nthread = 1\n", "r.toml:2: thread: no such setting"),
        ("threads = 'many'\n", "r.toml: threads = 'many': "),
        ("debug = 'maybe'\n", "r.toml: debug = 'maybe': neither true nor false"),
        ("log_to = 'paper'\n", "r.toml: log_to = 'paper': invalid choice"),
        ("workers = -1\n", 'r.toml:1: workers = "-1": not a whole number'),
        ("threads 3\n", "r.toml:1: syntax: "),
        ("[threads]\nx = 1\n", "r.toml:1: threads: neither text, nor a number, nor true or false"),
    ],
)
def test_a_file_that_cannot_be_used(folder, text, message):
    server = wsgi(folder, "apps:application", "--config", config(folder, text))
    assert server.process.wait(PATIENCE) == 2
    assert message in server.log() and "Traceback" not in server.log(), server.log()


def test_a_fatal_signal_takes_only_its_own_process_along(folder):
    with life(folder, "--processes", "2", "--threads", "2") as server:
        with start(server, "/pid_slowly", "4") as sock:
            begun = sock.recv(1000)
            pid = int(begun[begun.index(b"\r\n\r\n") + 4 :].split()[0])
            deadline = time.monotonic() + PATIENCE
            while server.request("/segfault_elsewhere", QUERY_STRING=str(pid)).status == 200:
                assert time.monotonic() < deadline
            rest = begun
            while b"done" not in rest:
                piece = sock.recv(1000)
                assert piece, rest
                rest += piece
        assert "Fatal Python error: Segmentation fault" in server.log()
        # Both serve again.
        pids = set()
        while len(pids) < 2:
            assert time.monotonic() < deadline
            pids.add(server.request("/pid").body)
    assert server.process.returncode == 0


def test_a_death_before_a_process_is_known_to_be_ready_is_no_failed_start(folder):
    flags = ["--processes", "2", "--threads", "2"]
    with life(folder, *flags, env={"SLOW_TO_BE_READY": "yes"}) as server:
        assert server.request("/segfault").status is None
        pids, deadline = set(), time.monotonic() + PATIENCE
        while len(pids) < 2:
            assert time.monotonic() < deadline, server.log()
            pids.add(server.request("/pid").body)
        log = server.log()
        assert "killed by SIGSEGV; starting another at once" in log and "giving up" not in log, log
    assert server.process.returncode == 0


def test_a_process_with_too_many_stuck_threads_is_replaced(folder):
    flags = ["--processes", "1", "--threads", "2", "--request-timeout", "500ms", "--stuck-max", "0"]
    with life(folder, *flags) as server:
        first = server.request("/pid").body
        assert server.request("/hang", QUERY_STRING="100").status == 504
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = server.request("/pid")
            assert answer.status == 200 and time.monotonic() < deadline, server.log()
            if answer.body != first:
                break
            time.sleep(0.05)
        log = server.log()
        assert "1 Python threads are stuck, more than 0 are not replaced: ending" in log and "in nap" in log
    assert server.process.returncode == 0
