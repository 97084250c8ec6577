"""Processes and threads: real processes, real signals."""

import collections
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import fcgi
import web
from fcgi import PATIENCE, Server, environment, wsgi


def wait_until(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def python(folder, code, **options):
    code = "address = %r\nimport apps\n%s" % (str(folder / "app.sock"), code)
    return Server(folder, [sys.executable, "-c", code.replace("{", "{{").replace("}", "}}")], **options)


def pid_of(server):
    return int(server.request("/pid").body)


def pids_of(server, count):
    """Those of all processes."""
    pids = set()
    wait_until(lambda: pids.add(pid_of(server)) or len(pids) == count, "%d processes serve" % count)
    return pids


def is_alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    # Gone, or gone between opening and reading.
    except (FileNotFoundError, ProcessLookupError):
        return False


class Load(fcgi.Crowd):
    """Clients that ask without a pause, each on a connection of its own a request, and what went wrong."""

    def __init__(self, server, clients=6, path="/pid"):
        self.server, self.path = server, path
        self.answers, self.failures, self.is_over = 0, [], False
        self.pids = set()
        self.threads = [threading.Thread(target=self.visit) for _ in range(clients)]

    def visit(self):
        while not self.is_over:
            try:
                answer = self.server.request(self.path)
                if answer.status == 200 and answer.app_status == 0:
                    self.pids.add(answer.body)
                    self.answers += 1
                else:
                    self.failures.append((answer.status, answer.head, answer.app_status))
            except OSError as error:
                self.failures.append(error)


@pytest.fixture
def module(folder):
    """An application in a file of its own, which says which version it is."""

    def write(version):
        code = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'%s']\n" % version
        (folder / "changing.py").write_text(code if version else "raise ImportError('broken on purpose')\n")

    return write


def changing(folder, *flags):
    path = os.pathsep.join([str(folder), environment()["PYTHONPATH"]])
    return wsgi(folder, "changing:app", *flags, env={"PYTHONPATH": path})


def test_processes_take_turns(folder):
    with wsgi(folder, "apps:application", "--processes", "3", "--threads", "2") as server:
        pids = pids_of(server, 3)
        assert server.process.pid not in pids
        counts = collections.Counter(pid_of(server) for _ in range(60))
        assert set(counts) == pids and max(counts.values()) < 40, counts
        body = server.request("/environ").body
        assert b"('wsgi.multiprocess', 'True')" in body and b"('wsgi.multithread', 'True')" in body
        assert server.address.stat().st_mode & 0o777 == 0o660
    assert server.process.returncode == 0 and not server.address.exists()
    assert not any(map(is_alive, pids))


def test_one_thread_in_each_process(folder):
    with wsgi(folder, "apps:application", "--processes", "2", "--threads", "1") as server:
        body = server.request("/environ").body
        assert b"('wsgi.multiprocess', 'True')" in body and b"('wsgi.multithread', 'False')" in body


def test_a_killed_process_is_replaced_and_takes_only_its_own_requests_along(folder):
    with wsgi(folder, "apps:application", "--processes", "3") as server:
        before = pids_of(server, 3)
        victim = min(before)
        with Load(server, clients=6) as load:
            time.sleep(0.3)
            os.kill(victim, signal.SIGKILL)
            server.wait_for_log("(pid %d) ended after" % victim)
            answers = load.answers
            wait_until(lambda: load.answers > answers + 200, "it serves on")
        assert len(load.failures) <= 6, load.failures
        assert len(pids_of(server, 3) & before) == 2
    lines = [line for line in server.log().splitlines() if "(pid %d)" % victim in line]
    assert len(lines) == 1, lines
    assert re.search(r"worker process \d .* ended after \d+\.\d s: killed by SIGKILL; starting another", lines[0])


@pytest.mark.parametrize(
    "flags, reason",
    [
        (["--max-requests", "100"], "max_requests: "),
        (["--max-lifetime", "500ms"], "max_lifetime: "),
        (["--max-rss", "1M"], "max_rss: "),
    ],
)
def test_processes_are_replaced_without_a_lost_request(folder, flags, reason):
    with wsgi(folder, "apps:application", "--processes", "2", *flags) as server:
        pid_of(server)
        with Load(server) as load:
            wait_until(lambda: server.log().count(reason) >= 6 and load.answers > 100, "it is recycled")
        assert load.failures == []
        assert len(load.pids) >= 4
    assert "ERROR" not in server.log() and "WARN" not in server.log(), server.log()
    assert server.process.returncode == 0


def test_visitors_of_nginx_notice_nothing(folder):
    # nginx keeps connections; it takes another one where a process that ends has closed the one it had.
    flags = ["--processes", "2", "--max-requests", "60", "--socket-mode", "666"]
    with wsgi(folder, "apps:application", *flags) as server:
        server.wait_for_log("listening on")
        with web.site(folder, "nginx", "/", "--listen", "unix:%s" % server.address) as site:
            answers, failures, is_over = collections.Counter(), [], threading.Event()

            def visit():
                while not is_over.is_set():
                    try:
                        answers[web.Site(site.port, "/").text("/pid")] += 1
                    except OSError as error:
                        failures.append(error)

            threads = [threading.Thread(target=visit) for _ in range(6)]
            for thread in threads:
                thread.start()
            wait_until(lambda: server.log().count("max_requests: ") >= 6, "processes are recycled")
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: "(replaced)" in server.log().partition("SIGHUP")[2], "all of them are new")
            is_over.set()
            for thread in threads:
                thread.join()
    assert failures == [] and sum(answers.values()) > 300 and len(answers) > 6


def test_lines_of_the_parent_go_to_logging_too(folder):
    code = """
import logging
from ringway import WSGIServer
logging.basicConfig(format="%(name)s %(levelname)s %(message)s", level=logging.INFO)
WSGIServer(apps.application, bindAddress=address, processes=2, log_to="logging").run()
"""
    with python(folder, code) as server:
        os.kill(min(pids_of(server, 2)), signal.SIGKILL)
        server.wait_for_log("ringway.prefork ERROR worker process")
        server.wait_for_log("ringway.server INFO listening on")
    assert "ringway.prefork INFO SIGTERM: draining" in server.log()


def test_limits_without_processes_are_refused(folder):
    server = wsgi(folder, "apps:application", "--max-requests", "5")
    assert server.process.wait(PATIENCE) == 2
    assert "max_requests, max_lifetime and max_rss need processes" in server.log()
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("flags", [[], ["--no-preload"]])
def test_sighup_starts_the_application_anew_without_a_lost_request(folder, module, flags):
    module("one")
    with changing(folder, "--processes", "2", *flags) as server:
        assert server.request("/").body == b"one"
        with Load(server) as load:
            module("two")
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: b"two" in load.pids, "the new one serves")
            wait_until(lambda: server.log().count("(replaced)") == (2 if flags else 1), "all are replaced")
        assert load.failures == [] and load.pids == {b"one", b"two"}
        # What does not start leaves the old one alone.
        module("")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for_log("until the next SIGHUP")
        assert "broken on purpose" in server.log()
        assert server.request("/").body == b"two"
        module("three")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: server.request("/").body == b"three", "the third serves")
    assert server.process.returncode == 0 and not server.address.exists()


def test_too_many_deaths_end_the_server(folder):
    server = wsgi(folder, "apps:application", "--processes", "2", "--deaths-max", "2")
    # What dies before all are ready did not start.
    pids_of(server, 2)
    for _ in range(3):
        with contextlib.suppress(OSError):
            server.request("/dies")
    assert server.process.wait(PATIENCE) == 1
    log = server.log()
    assert log.count("exit code 7") == 3 and log.count("; starting another") == 2
    assert "that makes 3 deaths within 60 s (2 are allowed): giving up" in log
    assert not server.address.exists()


def test_an_application_that_cannot_be_imported(folder):
    for flags in [], ["--no-preload"]:
        server = wsgi(folder, "nowhere:app", "--processes", "2", *flags)
        assert server.process.wait(PATIENCE) == 1
        assert 'module "nowhere" cannot be imported' in server.log() and "it did not start, giving up" in server.log()
        assert not server.address.exists()


def test_what_cannot_be_listened_on_is_said_once(folder):
    (folder / "app.sock").write_text("no socket")
    server = wsgi(folder, "apps:application", "--processes", "2")
    assert server.process.wait(PATIENCE) == 2
    assert server.log().count("cannot listen") == 1 and "Traceback" not in server.log()
    assert (folder / "app.sock").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_waits_for_requests_in_every_process(folder, number):
    # In a session of its own: the signal goes to all processes, as a terminal and systemd send it.
    server = wsgi(folder, "apps:application", "--processes", "2", start_new_session=True)
    pids_of(server, 2)
    socks = [begin(server, "/slow", QUERY_STRING="1") for _ in range(6)]
    time.sleep(0.3)
    os.killpg(server.process.pid, number)
    assert [fcgi.collect(sock).body for sock in socks] == [b"slept"] * 6
    assert server.process.wait(PATIENCE) == 0 and not server.address.exists()


def begin(server, path, **more):
    sock = fcgi.connect(server.address)
    fcgi.begin(sock, fcgi.params(path, **more))
    fcgi.send_body(sock, b"")
    return sock


def test_a_second_signal_stops(folder):
    server = wsgi(folder, "apps:application", "--processes", "2")
    pids = pids_of(server, 2)
    with begin(server, "/slow", QUERY_STRING="60"):
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_log("a second signal stops at once")
        server.process.send_signal(signal.SIGINT)
        start = time.monotonic()
        server.process.wait(PATIENCE)
        assert time.monotonic() - start < 20, "60 s is what the request takes"
    assert not any(map(is_alive, pids))


def test_a_signal_to_one_process_replaces_it(folder):
    with wsgi(folder, "apps:application", "--processes", "2") as server:
        before = pids_of(server, 2)
        with Load(server) as load:
            os.kill(min(before), signal.SIGTERM)
            server.wait_for_log("SIGTERM; starting another in its place")
            wait_until(lambda: len({int(pid) for pid in load.pids} - before) == 1, "there is another")
        assert load.failures == []


def test_without_the_parent_the_processes_finish_and_end(folder):
    server = wsgi(folder, "apps:application", "--processes", "2")
    pids = pids_of(server, 2)
    with begin(server, "/slow", QUERY_STRING="1") as sock:
        time.sleep(0.3)
        server.process.kill()
        server.process.wait()
        assert fcgi.collect(sock).body == b"slept"
    wait_until(lambda: not any(map(is_alive, pids)), "they end")


def test_the_service_manager_hears_it_once_all_are_ready(folder):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(folder / "notify"))
        manager.settimeout(PATIENCE)
        manager.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

        def hear():
            text, control, _, _ = manager.recvmsg(4096, 256)
            return text.decode().splitlines()[0], int.from_bytes(control[0][2][:4], sys.byteorder)

        env = {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "400000"}
        server = wsgi(folder, "apps:application", "--processes", "2", env=env)
        root = server.process.pid
        while hear() != ("READY=1", root):
            pass
        assert server.log().count("listening on") == 2
        assert [hear(), hear()] == [("WATCHDOG=1", root)] * 2
        assert server.end() == 0
        while hear() != ("STOPPING=1", root):
            pass


def test_on_file_descriptor_0(folder):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "app.sock"))
        listener.listen()
        command = [sys.executable, "-m", "ringway", "apps:application", "--processes", "2"]
        server = Server(folder, command, stdin=listener)
    pids_of(server, 2)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE) == 0
    with pytest.raises(ConnectionRefusedError), socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(folder / "app.sock"))


def test_on_a_port_the_processes_take_turns(folder):
    port = web.free_port()
    address = ("127.0.0.1", port)
    command = [sys.executable, "-m", "ringway", "apps:application", "--processes", "2", "--listen", "%s:%d" % address]
    with Server(folder, command) as server:
        wait_until(lambda: server.log().count("listening on 127.0.0.1:%d" % port) == 2, "both listen")
        pids = collections.Counter()
        for _ in range(40):
            with socket.create_connection(address, PATIENCE) as sock:
                fcgi.begin(sock, fcgi.params("/pid"))
                fcgi.send_body(sock, b"")
                pids[fcgi.collect(sock).body] += 1
        assert len(pids) == 2
    assert server.process.returncode == 0


def test_on_a_socket_of_systemd(folder):
    activate = shutil.which("systemd-socket-activate")
    if not activate:
        pytest.skip("systemd-socket-activate is not installed")
    command = [activate, "-l", "{socket}", *("-E%s" % name for name in environment()), sys.executable, "-m", "ringway"]
    with Server(folder, [*command, "apps:application", "--listen", "systemd", "--processes", "2"]) as server:
        pids_of(server, 2)
    assert server.process.returncode == 0


def test_as_a_cgi_program_processes_do_not_matter(folder):
    env = {**environment(), "GATEWAY_INTERFACE": "CGI/1.1", "REQUEST_METHOD": "GET", "PATH_INFO": "/environ"}
    command = [sys.executable, "-m", "ringway", "apps:application", "--processes", "2"]
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE)
    assert done.returncode == 0 and b"('wsgi.run_once', 'True')" in done.stdout


def test_flups_fork_server(folder):
    code = """
from ringway.compat.flup.server.fcgi_fork import WSGIServer
server = WSGIServer(apps.application, bindAddress=address, maxChildren=3, maxRequests=1000)
assert server.limits.requests == 1000
print("returned", server.run(), flush=True)
"""
    server = python(folder, code)
    pids_of(server, 3)
    body = server.request("/environ").body
    assert b"('wsgi.multiprocess', 'True')" in body and b"('wsgi.multithread', 'False')" in body
    assert server.end(signal.SIGHUP) == 0
    assert server.log().count("returned") == 1 and "returned True" in server.log()


def test_run_with_processes_a_second_time(folder):
    code = """
import signal
from ringway import WSGIServer
before = signal.getsignal(signal.SIGTERM)
while WSGIServer(apps.application, bindAddress=address, processes=2, maxThreads=2).run():
    print("once more", flush=True)
assert signal.getsignal(signal.SIGTERM) is before
"""
    server = python(folder, code)
    first = pids_of(server, 2)
    server.process.send_signal(signal.SIGHUP)
    server.wait_for_log("once more")
    assert len(pids_of(server, 2) | first) == 4
    assert server.end() == 0
    assert server.log().count("once more") == 1


def test_what_runs_at_the_end_of_a_process(folder):
    code = """
import atexit, os, threading
from ringway import WSGIServer
atexit.register(lambda: print("end of", os.getpid(), flush=True))
threading.Thread(target=threading.Event().wait, name="ticker", daemon=True).start()
WSGIServer(apps.application, bindAddress=address, processes=2).run()
"""
    server = python(folder, code)
    pids = pids_of(server, 2)
    assert server.end() == 0
    for pid in pids | {server.process.pid}:
        assert server.log().count("end of %d\n" % pid) == 1
    assert "threads of the application (ticker) run in the parent process only" in server.log()


@pytest.mark.parametrize("flags", [[], ["--processes", "2"]])
def test_reload(folder, module, flags):
    pytest.importorskip("watchfiles")
    # What cannot be imported at first is waited for.
    module("")
    with changing(folder, "--reload", "--reload-dir", str(folder), *flags) as server:
        server.wait_for_log("waiting for a change")
        server.wait_for_log("watching " + str(folder))
        module("one")
        assert server.request("/").body == b"one"
        children = server.log().count("listening on")
        module("two")
        wait_until(lambda: server.request("/").body == b"two", "the new one serves")
        assert "changed: " in server.log() and server.log().count("listening on") > children
    assert server.process.returncode == 0 and not server.address.exists()


def test_reload_without_watchfiles_says_what_is_missing():
    code = "import sys; sys.modules['watchfiles'] = None; import ringway.__main__ as m; sys.exit(m.main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "apps:application", "--reload", "--listen", "unix:@never"]
    done = subprocess.run(command, env=environment(), capture_output=True, timeout=PATIENCE)
    assert done.returncode == 2 and done.stderr == (
        b"ringway-wsgi: --reload needs the package watchfiles: pip install 'ringway[reload]'\n"
    )
