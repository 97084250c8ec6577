"""A FastCGI client for one request at a time, and servers to talk to."""

import contextlib
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
BEGIN, ABORT, END, PARAMS, STDIN, STDOUT, STDERR = 1, 2, 3, 4, 5, 6, 7
#: The machine of a test may stand still for a while.
PATIENCE = 90


class Answer:
    """What came back: the head, the body, the error stream, and how it ended."""

    def __init__(self, stdout, stderr, app_status, protocol_status):
        head, found, self.body = stdout.partition(b"\r\n\r\n")
        self.head = head.decode("latin-1")
        self.headers = [tuple(line.split(": ", 1)) for line in self.head.split("\r\n") if ": " in line]
        statuses = [value for name, value in self.headers if name == "Status"]
        self.status = int(statuses[0].split()[0]) if statuses else (200 if found else None)
        self.stderr = stderr.decode("utf-8", "replace")
        #: None where the connection ended without END_REQUEST.
        self.app_status = app_status
        self.protocol_status = protocol_status

    def header(self, wanted):
        return [value for name, value in self.headers if name.lower() == wanted.lower()]


def record(kind, content):
    return struct.pack("!BBHHBx", 1, kind, 1, len(content), 0) + content


def pair(name, value):
    lengths = b"".join(
        struct.pack("!B", len(part)) if len(part) < 128 else struct.pack("!I", len(part) | 1 << 31)
        for part in (name, value)
    )
    return lengths + name + value


def params(path="/", method="GET", body=None, **more):
    result = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_TYPE": "",
        "CONTENT_LENGTH": "" if body is None else str(len(body)),
    }
    result.update(more)
    return {name: value for name, value in result.items() if value is not None}


def connect(address):
    end = time.monotonic() + PATIENCE
    while True:
        try:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(PATIENCE)
            sock.connect(str(address))
            return sock
        except OSError:
            sock.close()
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def begin(sock, pairs, keep_conn=False):
    encoded = b"".join(
        pair(name.encode(), value if isinstance(value, bytes) else value.encode("latin-1"))
        for name, value in pairs.items()
    )
    sock.sendall(record(BEGIN, struct.pack("!HB5x", 1, keep_conn)) + record(PARAMS, encoded) + record(PARAMS, b""))


def send_body(sock, body):
    for start in range(0, len(body), 60_000):
        sock.sendall(record(STDIN, body[start : start + 60_000]))
    sock.sendall(record(STDIN, b""))


def records(sock):
    stream = sock.makefile("rb")
    while True:
        try:
            header = stream.read(8)
            if len(header) < 8:
                return
            _, kind, _, length, padding = struct.unpack("!BBHHBx", header)
            content = stream.read(length)
            stream.read(padding)
        except ConnectionResetError:
            # The end of a process that had not read all of the request.
            return
        yield kind, content


def collect(sock):
    stdout, stderr, end = b"", b"", (None, None)
    for kind, content in records(sock):
        if kind == STDOUT:
            stdout += content
        elif kind == STDERR:
            stderr += content
        elif kind == END:
            end = struct.unpack("!IB3x", content)
            break
    return Answer(stdout, stderr, *end)


def request(address, path="/", method="GET", body=None, **more):
    with connect(address) as sock:
        begin(sock, params(path, method, body, **more))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            send_body(sock, body or b"")
        return collect(sock)


def environment():
    """That of a process which can import the applications here.

    Its streams are buffered: unbuffered, a `print` is several writes, between which other processes have theirs.
    """
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


class Server:
    """A process that serves, its socket and its log."""

    def __init__(self, folder, command, **options):
        self.folder = folder
        self.address = folder / "app.sock"
        self.log_path = folder / "log"
        env = {**environment(), **options.pop("env", {})}
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [str(part).format(socket=self.address) for part in command],
                cwd=options.pop("cwd", HERE),
                env=env,
                stderr=log,
                stdout=log,
                **options,
            )

    def log(self):
        return self.log_path.read_text(errors="replace")

    def wait_for_log(self, text):
        end = time.monotonic() + PATIENCE
        while text not in self.log():
            assert time.monotonic() < end, "%r is not in the log:\n%s" % (text, self.log())
            time.sleep(0.02)

    def request(self, *arguments, **more):
        return request(self.address, *arguments, **more)

    def end(self, number=signal.SIGTERM):
        """Asks for the end and waits for it; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


def wsgi(folder, application, *flags, **options):
    """`ringway-wsgi APPLICATION` on a Unix socket."""
    command = [sys.executable, "-m", "ringway", application, "--listen", "unix:{socket}", *flags]
    return Server(folder, command, **options)


class Crowd:
    """`threads` that go on, for as long as the block does, until they see that it `is_over`."""

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.is_over = True
        for thread in self.threads:
            thread.join()
