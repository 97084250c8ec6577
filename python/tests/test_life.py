"""What happens to requests that hang, are slow, or whose client leaves; and to the process."""

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
        assert "ringway-wsgi-1 is stuck: another thread takes its place (1 stuck; more than 16 end the process)" in log
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
