"""Processes are replaced behind web servers that keep connections, and no request is lost that nobody repeats."""

import collections
import http.client
import os
import re
import signal
import threading
import time

import pytest

import fcgi
import web
from fcgi import PATIENCE, wsgi

VISITORS = 12


def wait_until(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def send(sock, path, query=""):
    """A request on a connection that is kept."""
    fcgi.begin(sock, fcgi.params(path, QUERY_STRING=query), keep_conn=True)
    fcgi.send_body(sock, b"")


def ask(sock):
    """The process that answers."""
    send(sock, "/pid")
    return int(fcgi.collect(sock).body)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_kept_connection_outlives_its_process(folder, processes):
    with wsgi(folder, "apps:application", "--processes", processes) as server:
        with fcgi.connect(server.address) as kept, fcgi.connect(server.address) as silent:
            pids = [ask(kept)]
            server.process.send_signal(signal.SIGHUP)
            server.wait_for_log("(replaced)")
            pids.append(ask(kept))
            # That process alone. With one only, the connection waits until there is another.
            os.kill(pids[-1], signal.SIGTERM)
            server.wait_for_log("(pid %d) ended after" % pids[-1])
            pids.append(ask(kept))
            assert len(set(pids)) == 3
            # Who has not asked anything before does so now.
            assert ask(silent) not in pids[:2]
            assert server.end() == 0
            assert kept.recv(1) == silent.recv(1) == b""
    assert "WARN" not in server.log() and "ERROR" not in server.log(), server.log()


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_kept_connection_is_closed_when_all_end(folder, is_replaced):
    with wsgi(folder, "apps:application", "--processes", "2") as server:
        with fcgi.connect(server.address) as idle, fcgi.connect(server.address) as busy:
            ask(idle)
            if is_replaced:
                # Its process is on its way out, and nobody is left to go on for it.
                send(busy, "/slow", query="3")
                time.sleep(0.3)
                server.process.send_signal(signal.SIGHUP)
                wait_until(lambda: server.log().count("listening on") == 4, "new ones serve")
                time.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            if is_replaced:
                assert fcgi.collect(busy).body == b"slept"
            assert idle.recv(1) == busy.recv(1) == b""
            assert server.process.wait(PATIENCE) == 0
    counts = re.findall(r"passed on (\d+) kept connections, closed (\d+)", server.log())
    assert counts in ([[], [("1", "0")]] if is_replaced else [[]]), server.log()


class Posts(fcgi.Crowd):
    """Visitors that post without a pause, each over a kept connection to the web server, and what went wrong."""

    def __init__(self, port, path):
        self.port, self.path = port, path
        self.answers, self.failures, self.is_over = collections.Counter(), [], False
        self.threads = [threading.Thread(target=self.visit, args=(number,)) for number in range(VISITORS)]

    def visit(self, visitor):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        number = 0
        while not self.is_over:
            number += 1
            body = b"%d of %d" % (number, visitor)
            try:
                connection.request("POST", self.path, body, {"Content-Type": "text/plain"})
                answer = connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(error)
                connection.close()
                continue
            pid, _, back = text.partition(b" ")
            if answer.status == 200 and back == body:
                self.answers[pid] += 1
            else:
                self.failures.append((answer.status, text[:100]))
        connection.close()


#: What `ringway conf` is told for each web server, beside the address.
SITES = {"nginx": ["--keep-connections"], "haproxy": ["--way", "keep", "--health", "/pid"]}


def restarts(server, times):
    """SIGHUP, again and again: the application anew."""
    for number in range(1, times + 1):
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: server.log().count("(replaced)") == number, "all processes are new")


def recyclings(server, times):
    """Processes reach their limit."""
    wait_until(lambda: server.log().count("(max_requests: ") >= times, "processes are replaced")


@pytest.mark.parametrize("happens", [restarts, recyclings])
@pytest.mark.parametrize(
    "site, listens, driver",
    [
        ("nginx", "unix", "auto"),
        ("nginx", "unix", "epoll"),
        ("nginx", "tcp", "auto"),
        ("nginx", "tcp", "epoll"),
        ("haproxy", "unix", "auto"),
    ],
)
def test_no_post_is_lost_when_processes_are_replaced(folder, site, listens, driver, happens):
    flags = ["--processes", "2", "--threads", "4", "--socket-mode", "666", "--driver", driver]
    flags += ["--max-requests", "400"] if happens is recyclings else []
    listen = "unix:%s" % (folder / "app.sock")
    if listens == "tcp":
        listen = "127.0.0.1:%d" % web.free_port()
        flags += ["--listen", listen]
    with wsgi(folder, "apps:application", *flags) as server:
        server.wait_for_log("listening on")
        shown = web.site(folder, site, "/", "--listen", listen, *SITES[site])
        with shown as front, Posts(front.port, "/posted") as posts:
            wait_until(lambda: sum(posts.answers.values()) > 100, "it serves")
            happens(server, 8)
            answers = sum(posts.answers.values())
            wait_until(lambda: sum(posts.answers.values()) > answers + 100, "it serves on")
    answers = sum(posts.answers.values())
    print("%d answers of %d processes, %d lost" % (answers, len(posts.answers), len(posts.failures)))
    assert posts.failures == [] and len(posts.answers) >= 6
    counts = re.findall(r"passed on (\d+) kept connections, closed (\d+)", server.log())
    assert sum(int(passed) for passed, _ in counts) >= 8, counts
    assert sum(int(closed) for _, closed in counts) == 0, counts
