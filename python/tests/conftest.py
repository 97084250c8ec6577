import pathlib
import tempfile

import pytest

from fcgi import wsgi


@pytest.fixture
def folder():
    # Short, since the path of a Unix socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="rw-") as name:
        yield pathlib.Path(name)


@pytest.fixture(scope="module")
def pages():
    """The pages of apps.py."""
    with tempfile.TemporaryDirectory(prefix="rw-") as name, wsgi(pathlib.Path(name), "apps:application") as server:
        yield server
