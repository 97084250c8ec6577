"""What visitors of the example applications must see, whatever is between: each framework has the same pages."""

import hashlib
import http.client
import os
import threading
import urllib.error
import urllib.parse

import pytest

import flaskapp
from fcgi import PATIENCE

BOUNDARY = "a-boundary"
#: Larger than any buffer on the way.
UPLOAD = bytes(range(256)) * 1000


def multipart(content, name="caf\u00e9.bin"):
    """A form with one file: its body and its Content-Type."""
    head = '--%s\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n' % (BOUNDARY, name)
    head += "Content-Type: application/octet-stream\r\n\r\n"
    body = head.encode() + content + ("\r\n--%s--\r\n" % BOUNDARY).encode()
    return body, "multipart/form-data; boundary=" + BOUNDARY


def status_of(site, path, data=None):
    try:
        with site.open(path, data) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def hello(site):
    assert site.text("/") == "index at %s/" % site.prefix
    if site.prefix:
        # Its namesake is none of the application's business.
        with pytest.raises(urllib.error.HTTPError) as error:
            site.opener.open(site.base + "-old/", timeout=PATIENCE)
        assert error.value.code == 404


def addresses(site):
    name = "caf\u00e9 a/b"
    expected = "%s %s/where/x %s/where/x" % (name, site.prefix, site.base)
    assert site.text("/where/" + urllib.parse.quote(name)) == expected
    with site.open("/go") as answer:
        assert answer.url == site.base + "/"
    assert status_of(site, "/nothing/there") == 404


def forms(site):
    form = urllib.parse.urlencode({"name": "J\u00fcrgen & co"}).encode()
    assert site.text("/form?q=%2F", form) == "J\u00fcrgen & co|None|/"
    body, content_type = multipart(UPLOAD)
    expected = "caf\u00e9.bin %d %s" % (len(UPLOAD), hashlib.sha256(UPLOAD).hexdigest())
    assert site.text("/upload", body, Content_Type=content_type) == expected


def sessions(site):
    assert [site.text("/visits") for _ in range(3)] == ["1", "2", "3"]


def all_of_any(site):
    for look in (hello, addresses, forms, sessions):
        look(site)
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=PATIENCE)
    connection.request("HEAD", site.prefix + "/")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"")


def all_of_flask(site):
    all_of_any(site)
    helpers_of_flask(site)


def helpers_of_flask(site):
    name = "caf\u00e9 a/b"
    assert site.text("/quoted/" + urllib.parse.quote(name)) == "%s/quoted/%s" % (site.prefix, urllib.parse.quote(name))
    style = site.text("/style")
    assert style == site.prefix + "/static/style.css"
    with site.opener.open(site.origin + style, timeout=PATIENCE) as answer:
        assert answer.headers["Content-Type"].startswith("text/css")
        content, tag = answer.read(), answer.headers["ETag"]
    with open(os.path.join(flaskapp.app.static_folder, "style.css"), "rb") as file:
        assert content == file.read()
    with pytest.raises(urllib.error.HTTPError) as error:
        site.open("/static/style.css", If_None_Match=tag)
    assert error.value.code == 304
    with open(flaskapp.__file__, "rb") as file:
        source = file.read()
    with site.open("/file") as answer:
        assert (answer.read(), answer.headers["Content-Length"]) == (source, str(len(source)))
    assert site.text("/wrapped") == "True"
    with site.open("/file", Range="bytes=5-14") as answer:
        assert (answer.status, answer.read()) == (206, source[5:15])
    assert site.text("/stream?name=row") == "row 0\nrow 1\nrow 2\n"
    assert status_of(site, "/fails") == 500


def processes(site, wanted):
    """The ids of the processes that answer, once there are as many as are wanted."""
    found = set()
    for _ in range(50):
        threads = [threading.Thread(target=lambda: found.add(site.text("/pid?seconds=0.2"))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(found) >= wanted:
            return {int(pid) for pid in found}
    pytest.fail("%d processes wanted, answers came from %s" % (wanted, found))
