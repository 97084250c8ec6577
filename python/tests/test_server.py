"""Starting, stopping, admission, and flup's contract."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

import fcgi
from fcgi import PATIENCE, Server, environment, wsgi


def python(folder, code, **options):
    """A server in a script, which finds its socket in `address`."""
    code = "address = %r\nimport apps\n%s" % (str(folder / "app.sock"), code)
    return Server(folder, [sys.executable, "-c", code.replace("{", "{{").replace("}", "}}")], **options)


def start(server, path, **more):
    """Begins a request and leaves it open."""
    sock = fcgi.connect(server.address)
    fcgi.begin(sock, fcgi.params(path, **more))
    fcgi.send_body(sock, b"")
    return sock


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_requests_in_flight_are_answered_before_the_end(folder, number):
    server = wsgi(folder, "apps:application")
    with start(server, "/slow", QUERY_STRING="1") as sock:
        time.sleep(0.3)
        server.process.send_signal(number)
        assert fcgi.collect(sock).body == b"slept"
    assert server.end() == 0
    assert not server.address.exists()


@pytest.mark.parametrize("number, expected", [(signal.SIGTERM, "False"), (signal.SIGHUP, "True")])
def test_run_returns_whether_it_was_sighup(folder, number, expected):
    code = "from ringway import WSGIServer\nprint('returned', WSGIServer(apps.application, bindAddress=address).run())"
    server = python(folder, code)
    assert server.request("/write").status == 200
    assert server.end(number) == 0
    assert "returned " + expected in server.log()


def test_run_a_second_time(folder):
    code = """
from ringway import WSGIServer
while WSGIServer(apps.application, bindAddress=address).run():
    print("once more", flush=True)
"""
    server = python(folder, code)
    for _ in range(2):
        assert server.request("/write").status == 200
        seen = server.log().count("once more")
        server.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + PATIENCE
        while server.log().count("once more") == seen:
            assert time.monotonic() < end and server.process.poll() is None, server.log()
            time.sleep(0.02)
    assert server.request("/write").status == 200
    assert server.end() == 0


def test_ctrl_c_works_again_after_run(folder):
    code = """
import os, signal, time
from ringway import WSGIServer
WSGIServer(apps.application, bindAddress=address).run()
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
except KeyboardInterrupt:
    print("interrupted")
"""
    server = python(folder, code)
    assert server.request("/write").status == 200
    assert server.end() == 0
    assert "interrupted" in server.log()


def test_queue_full_is_503(folder):
    with wsgi(folder, "apps:application", "--threads", "1", "--queue-max", "1") as server:
        with start(server, "/slow", QUERY_STRING="3") as busy:
            time.sleep(1)
            with start(server, "/write") as queued:
                time.sleep(0.5)
                answer = server.request("/write")
                assert answer.status == 503 and answer.header("Retry-After") == ["1"]
                assert fcgi.collect(queued).status == 200
            assert fcgi.collect(busy).body == b"slept"


def test_a_request_that_waited_too_long_is_503(folder):
    with wsgi(folder, "apps:application", "--threads", "1", "--queue-timeout", "100ms") as server:
        with start(server, "/slow", QUERY_STRING="1.5"):
            time.sleep(0.5)
            answer = server.request("/write")
            assert answer.status == 503 and answer.header("Retry-After") == ["1"]


def test_a_queued_request_whose_client_left_is_skipped(folder):
    count = folder / "count"
    server = wsgi(folder, "apps:application", "--threads", "1", "--log", "debug", env={"COUNT": str(count)})
    with server:
        with start(server, "/slow", QUERY_STRING="2") as busy:
            time.sleep(0.5)
            start(server, "/count").close()
            assert fcgi.collect(busy).body == b"slept"
        server.wait_for_log("skipped a request")
        assert not count.exists()
        assert server.request("/count").body == b"counted"
        assert count.read_text() == "called\n"


def test_threads_serve_at_the_same_time(folder):
    with wsgi(folder, "apps:application") as server:
        socks = [start(server, "/slow", QUERY_STRING="2") for _ in range(8)]
        begin = time.monotonic()
        assert all(fcgi.collect(sock).body == b"slept" for sock in socks)
        assert time.monotonic() - begin < 14, "one after the other would take 16 s"


@pytest.mark.parametrize(
    "application, messages",
    [
        ("nowhere:app", ['module "nowhere" cannot be imported', "ModuleNotFoundError", "sys.path:", sys.executable]),
        ("apps:nothing", ['module "apps" has no "nothing"', "AttributeError"]),
        ("apps:not_callable", ['"apps:not_callable" is no application: str cannot be called']),
        (":app", ["is not MODULE:CALLABLE"]),
    ],
)
def test_an_application_that_cannot_be_loaded(folder, application, messages):
    server = wsgi(folder, application)
    assert server.process.wait(PATIENCE) == 1
    log = server.log()
    assert log.startswith("ringway-wsgi: ") and all(message in log for message in messages), log


def test_bad_settings_are_named(folder):
    server = wsgi(folder, "apps:application", "--send-timeout", "1 week")
    assert server.process.wait(PATIENCE) == 2
    assert "send_timeout" in server.log() and "Traceback" not in server.log()


def test_spawn_fcgi(folder):
    spawn = shutil.which("spawn-fcgi")
    if not spawn:
        pytest.skip("spawn-fcgi is not installed")
    pid_file = folder / "pid"
    script = folder / "app.fcgi"
    script.write_text(
        "#!%s\nfrom ringway import WSGIServer\nimport apps\nWSGIServer(apps.application).run()\n" % sys.executable
    )
    script.chmod(0o755)
    command = [spawn, "-s", folder / "app.sock", "-P", pid_file, "--", script]
    subprocess.run(command, check=True, env=environment(), stdout=subprocess.DEVNULL)
    pid = int(pid_file.read_text())
    try:
        answer = fcgi.request(folder / "app.sock", "/environ")
        assert answer.status == 200 and b"'wsgi.multiprocess', 'True'" in answer.body
    finally:
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + PATIENCE
    while pathlib.Path("/proc/%d/cmdline" % pid).exists() and pathlib.Path("/proc/%d/cmdline" % pid).read_bytes():
        assert time.monotonic() < end, "it does not end"
        time.sleep(0.05)


@pytest.mark.parametrize("options", ["", "forceCGI=True"])
def test_as_a_cgi_program(folder, options):
    code = "import apps\nfrom ringway import WSGIServer\nWSGIServer(apps.application, log='error', %s).run()" % options
    env = {
        **environment(),
        "GATEWAY_INTERFACE": "CGI/1.1",
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/lines",
        "CONTENT_LENGTH": "3",
    }
    done = subprocess.run([sys.executable, "-c", code], env=env, input=b"a\nb", capture_output=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(b"[b'a\\n', b'b']")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**env, "PATH_INFO": "/environ"},
        input=b"a\nb",
        capture_output=True,
        timeout=PATIENCE,
    )
    for name, value in [("multithread", "False"), ("multiprocess", "True"), ("run_once", "True")]:
        assert b"('wsgi.%s', '%s')" % (name.encode(), value.encode()) in done.stdout


def test_neither_socket_nor_cgi_is_said(folder):
    env = {name: value for name, value in environment().items() if name not in ("GATEWAY_INTERFACE", "REQUEST_METHOD")}
    done = subprocess.run(
        [sys.executable, "-m", "ringway", "apps:application"],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 2 and b"Traceback" not in done.stderr and b"descriptor 0" in done.stderr


@pytest.mark.parametrize(
    "address, expected",
    [
        ("/run/x", "unix:/run/x"),
        (("127.0.0.1", 9000), "127.0.0.1:9000"),
        (("", 9000), "0.0.0.0:9000"),
        (("::1", 9000, 0, 0), "[::1]:9000"),
        (("::1", 9000), "[::1]:9000"),
    ],
)
def test_bind_address(address, expected):
    from ringway._server import listen_address

    assert listen_address(address) == expected


def test_bind_address_and_umask_on_real_sockets(folder):
    code = "from ringway import WSGIServer\nWSGIServer(apps.application, bindAddress=address, umask=0o007).run()"
    with python(folder, code) as server:
        assert server.request("/write").status == 200
        assert server.address.stat().st_mode & 0o777 == 0o770
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "from ringway import WSGIServer\nWSGIServer(apps.application, bindAddress=('127.0.0.1', %d)).run()" % port
    with python(folder, code) as server:
        server.wait_for_log("listening on 127.0.0.1:%d" % port)


def test_environ_is_put_over_the_requests(folder):
    code = """
from ringway import WSGIServer
WSGIServer(apps.application, environ={"SERVER_NAME": "mine", "EXTRA": 1}, multithreaded=False, bindAddress=address).run()
"""
    with python(folder, code) as server:
        body = server.request("/environ").body
        assert b"('SERVER_NAME', \"'mine'\")" in body and b"('EXTRA', '1')" in body
        assert b"('wsgi.multithread', 'False')" in body


def test_error_may_be_overridden(folder):
    code = """
import sys
from ringway import WSGIServer
class Mine(WSGIServer):
    def error(self, req):
        if req.environ["QUERY_STRING"] == "fail":
            raise ValueError("error() itself")
        page = "mine: %s" % sys.exc_info()[1]
        req.stdout.write(b"Status: 502 Bad\\r\\nX-Mine: yes\\r\\n\\r\\n" + page.encode())
Mine(apps.application, bindAddress=address).run()
"""
    with python(folder, code) as server:
        answer = server.request("/raises")
        assert (answer.status, answer.header("X-Mine"), answer.body) == (502, ["yes"], b"mine: 'the secret is 1'") or (
            answer.body == b"mine: the secret is 1"
        )
        assert "LookupError" in answer.stderr
        answer = server.request("/raises", QUERY_STRING="fail")
        assert answer.status == 500 and "error() itself" in answer.stderr


def test_options_without_a_counterpart_say_what_to_use():
    import apps
    from ringway import WSGIServer

    for options in [
        {"minSpare": 1},
        {"maxSpare": 5},
        {"roles": (1, 2)},
        {"jobClass": object},
    ]:
        with pytest.warns(UserWarning, match="%s is ignored: " % next(iter(options))):
            WSGIServer(apps.application, **options)
    with pytest.raises(TypeError, match="no option 'maxSpam'"):
        WSGIServer(apps.application, maxSpam=1)
    with pytest.raises(TypeError, match="must be callable"):
        WSGIServer("text")


@pytest.mark.parametrize("module", ["flup.server.fcgi", "flup.server.fcgi_single", "flup.server.fcgi_fork", "flipflop"])
def test_names_of_other_servers(folder, module):
    code = "from ringway.compat.%s import WSGIServer\nserver = WSGIServer(apps.application" % module
    code += ").run()" if module == "flipflop" else ", bindAddress=address).run()"
    if module == "flipflop":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "app.sock"))
            listener.listen()
            with python(folder, code, stdin=listener) as server:
                assert server.request("/write").status == 200
        return
    with python(folder, code) as server:
        body = server.request("/environ").body
        assert b"('wsgi.multithread', '%s')" % str(module.endswith("fcgi")).encode() in body


def test_another_thread_can_run_it(folder):
    code = """
import threading
from ringway import WSGIServer
threading.Thread(target=WSGIServer(apps.application, bindAddress=address).run, daemon=True).start()
import time
time.sleep(1000)
"""
    server = python(folder, code)
    assert server.request("/write").status == 200
    server.process.kill()
    server.process.wait()


def test_many_requests_at_a_time(folder):
    with wsgi(folder, "apps:application") as server:
        wrong = []

        def visit():
            for _ in range(50):
                answer = server.request("/lines", "POST", b"x\n" * 100)
                if answer.body != repr([b"x\n"] * 100).encode() or answer.app_status != 0:
                    wrong.append(answer)

        threads = [threading.Thread(target=visit) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
