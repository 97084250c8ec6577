"""Flask behind nginx, at the root and below a prefix."""

import contextlib
import hashlib
import http.client
import http.cookiejar
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

import flaskapp
from fcgi import PATIENCE, wsgi

SITE = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log info;
events {{ }}
http {{
  access_log off; client_max_body_size 1g; client_body_temp_path {folder}/body; fastcgi_temp_path {folder}/fastcgi;
  proxy_temp_path {folder}/proxy; scgi_temp_path {folder}/scgi; uwsgi_temp_path {folder}/uwsgi;
  server {{
    listen 127.0.0.1:{port};
    location {mount} {{
      include /etc/nginx/fastcgi_params;
      # Debian's fastcgi_params leave the port out.
      fastcgi_param HTTP_HOST $http_host;
      {script_name}
      fastcgi_request_buffering {buffering};
      fastcgi_pass unix:{folder}/app.sock;
    }}
  }}
}}
"""


@contextlib.contextmanager
def site(folder, mount, buffering="off"):
    """Flask behind nginx; the URL of the application."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if not nginx or not os.path.exists("/etc/nginx/fastcgi_params"):
        if "web" in os.environ.get("RINGWAY_REQUIRE", ""):
            pytest.fail("nginx is not installed")
        pytest.skip("nginx is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script_name = "" if mount == "/" else "fastcgi_param SCRIPT_NAME %s;" % mount
    # nginx's workers are another user.
    folder.chmod(0o755)
    (folder / "nginx.conf").write_text(
        SITE.format(folder=folder, port=port, mount=mount, script_name=script_name, buffering=buffering)
    )
    flags = ["--socket-mode", "666", "--mount", mount]
    with wsgi(folder, "flaskapp:app", *flags) as server:
        server.wait_for_log("listening on")
        front = subprocess.Popen([nginx, "-c", folder / "nginx.conf", "-p", folder, "-e", folder / "nginx.log"])
        try:
            end = time.monotonic() + PATIENCE
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert time.monotonic() < end and front.poll() is None, (folder / "nginx.log").read_text()
                time.sleep(0.05)
            yield Site(port, "" if mount == "/" else mount, server)
        finally:
            front.terminate()
            front.wait(PATIENCE)


class Site:
    def __init__(self, port, prefix, server):
        self.port, self.prefix, self.server = port, prefix, server
        self.base = "http://127.0.0.1:%d%s" % (port, prefix)
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.opener = urllib.request.build_opener(cookies)

    def open(self, path, data=None, **headers):
        return self.opener.open(urllib.request.Request(self.base + path, data, headers), timeout=PATIENCE)

    def text(self, path, data=None, **headers):
        with self.open(path, data, **headers) as answer:
            return answer.read().decode()


MOUNTS = pytest.mark.parametrize("mount", ["/", "/my/app"])


@MOUNTS
def test_pages(folder, mount):
    with site(folder, mount) as site_:
        prefix = site_.prefix
        assert site_.text("/") == "index at %s/" % prefix
        name = "caf\u00e9 a/b"
        quoted = urllib.parse.quote(name)
        expected = "%s %s/where/%s %s/where/x" % (name, prefix, quoted, site_.base)
        assert site_.text("/where/" + quoted) == expected
        with site_.open("/go") as answer:
            assert answer.url == site_.base + "/"
        form = urllib.parse.urlencode({"name": "J\u00fcrgen & co"}).encode()
        assert site_.text("/form?q=%2F", form) == "J\u00fcrgen & co|None|/"
        assert [site_.text("/visits") for _ in range(3)] == ["1", "2", "3"]
        with open(flaskapp.__file__) as file:
            source = file.read()
        assert site_.text("/file") == source
        with site_.open("/file", Range="bytes=5-14") as answer:
            assert (answer.status, answer.read().decode()) == (206, source[5:15])
        for path, status in [("/nothing", 404), ("/fails", 500)]:
            with pytest.raises(urllib.error.HTTPError) as error:
                site_.open(path)
            assert error.value.code == status
        # Flask logs it itself, to wsgi.errors.
        site_.server.wait_for_log("as it may happen")


def test_head_and_options(folder):
    with site(folder, "/") as site_:
        connection = http.client.HTTPConnection("127.0.0.1", site_.port, timeout=PATIENCE)
        connection.request("HEAD", "/")
        answer = connection.getresponse()
        assert (answer.status, answer.read(), answer.headers["Content-Length"]) == (200, b"", str(len("index at /")))
        connection.request("OPTIONS", "/form")
        answer = connection.getresponse()
        assert "POST" in answer.headers["Allow"] and answer.read() == b""


@MOUNTS
def test_stream_with_context(folder, mount):
    with site(folder, mount) as site_, site_.open("/stream?name=row") as answer:
        assert answer.readline() == b"row 0\n"
        begin = time.monotonic()
        assert answer.read() == b"row 1\nrow 2\n"
        assert time.monotonic() - begin > 0.5, "the first row was held back"


@pytest.mark.parametrize("buffering", ["on", "off"])
def test_uploads_of_100_mb(folder, buffering):
    block = bytes(range(256)) * 4096
    count = 100
    digest = hashlib.sha256()
    for _ in range(count):
        digest.update(block)
    head = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="big"\r\n\r\n'
    tail = b"\r\n--xyz--\r\n"
    length = len(block) * count
    expected = "%d %s" % (length, digest.hexdigest())

    def body(head=b"", tail=b""):
        yield head
        for _ in range(count):
            yield block
        yield tail

    with site(folder, "/", buffering) as site_:
        connection = http.client.HTTPConnection("127.0.0.1", site_.port, timeout=PATIENCE)
        connection.request("POST", "/raw", body(), {"Content-Length": str(length)})
        assert connection.getresponse().read().decode() == expected
        headers = {
            "Content-Length": str(len(head) + length + len(tail)),
            "Content-Type": "multipart/form-data; boundary=xyz",
        }
        connection.request("POST", "/upload", body(head, tail), headers)
        assert connection.getresponse().read().decode() == "big " + expected
        # Without a length in advance.
        connection.request(
            "POST", "/raw", iter([b"abc", b"def"]), {"Transfer-Encoding": "chunked"}, encode_chunked=True
        )
        assert connection.getresponse().read().decode() == "6 " + hashlib.sha256(b"abcdef").hexdigest()
