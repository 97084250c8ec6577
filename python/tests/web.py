"""Real web servers in front of an application, with what `ringway conf` prints, and their visitors."""

import contextlib
import http.cookiejar
import os
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.request

import pytest

from fcgi import HERE, PATIENCE, environment
from ringway._command import PROGRAM

#: How each server is told to stay in the foreground with the configuration file that follows.
FOREGROUND = {
    "nginx": ("nginx", "-g", "daemon off;", "-e", "stderr", "-c"),
    "apache": ("apache2", "-DFOREGROUND", "-f"),
    "lighttpd": ("lighttpd", "-D", "-f"),
    "haproxy": ("haproxy", "-db", "-f"),
    "supervisor": ("supervisord", "--nodaemon", "-c"),
}
CHARACTERS_SHOWN = 5000


def missing(what):
    """Skips the test, or fails where RINGWAY_REQUIRE has `web`."""
    required = [part.strip() for part in os.environ.get("RINGWAY_REQUIRE", "").split(",")]
    (pytest.fail if "web" in required else pytest.skip)("%s is not installed" % what)


def find(program):
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") or missing(program)


def command():
    """The command `ringway`: RINGWAY_COMMAND, that of the package, or one that was built beside this folder."""
    named = os.environ.get("RINGWAY_COMMAND")
    if named:
        return named
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent.parent / "target"))
    found = [PROGRAM, target / "debug/ringway", target / "release/ringway"]
    return next((path for path in found if path.exists()), None) or missing("ringway (cargo build --features cli)")


def conf(*arguments):
    """What `ringway conf` prints."""
    done = subprocess.run(
        [command(), "conf", *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(is_so):
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def wait_for_port(port, process, log):
    end = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert time.monotonic() < end and process.poll() is None, log()
        time.sleep(0.05)


@contextlib.contextmanager
def running(folder, server, text, port=None):
    """A server with `text` for its configuration, until the end of the block; its Front, once it listens on `port`."""
    program, *flags = FOREGROUND[server]
    program = find(program)
    state = folder / server
    state.mkdir(exist_ok=True)
    # Web servers that root starts become somebody else.
    folder.chmod(0o755)
    file = state / "test.conf"
    file.write_text(text)
    output = state / "output.log"
    with open(output, "ab") as log:
        process = subprocess.Popen(
            [program, *flags, file], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment()
        )
    front = Front(process, state, port)
    try:
        if port:
            wait_for_port(port, process, front.log)
        yield front
    except BaseException:
        print("---- %s ----\n%s" % (server, front.log()[-CHARACTERS_SHOWN:]))
        raise
    finally:
        process.terminate()
        process.wait(PATIENCE)


class Front:
    """A running web server."""

    def __init__(self, process, state, port):
        self.process, self.state, self.port = process, state, port

    def log(self):
        return "".join(path.read_text(errors="replace") for path in sorted(self.state.glob("*.log")))

    def wait_for_log(self, text):
        end = time.monotonic() + PATIENCE
        while text not in self.log():
            assert time.monotonic() < end, "%r is not in the log:\n%s" % (text, self.log())
            time.sleep(0.02)


@contextlib.contextmanager
def site(folder, server, mount, *arguments, edit=lambda text: text):
    """A web server with the configuration that `ringway conf` prints; the Site that it shows."""
    port = free_port()
    text = conf(
        server, "--http", "127.0.0.1:%d" % port, "--mount", mount, "--state-dir", folder / server, *arguments
    )
    with running(folder, server, edit(text), port) as front:
        yield Site(port, mount, front)


class Site:
    """An application as its visitors see it; the cookies are those of one visitor."""

    def __init__(self, port, mount, front=None):
        self.port, self.front = port, front
        #: The path prefix, empty for the root.
        self.prefix = mount.rstrip("/")
        self.origin = "http://127.0.0.1:%d" % port
        self.base = self.origin + self.prefix
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.opener = urllib.request.build_opener(cookies)

    def open(self, path, data=None, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.opener.open(urllib.request.Request(self.base + path, data, headers), timeout=PATIENCE)

    def text(self, path, data=None, **headers):
        with self.open(path, data, **headers) as answer:
            return answer.read().decode()
