"""`flup.server.fcgi_single`: one request at a time."""

from typing import Any

from ringway import WSGIServer as _WSGIServer

__all__ = ["WSGIServer"]


class WSGIServer(_WSGIServer):
    """Serves one request at a time; see `ringway.WSGIServer`."""

    def __init__(self, application: Any, environ: Any = None, bindAddress: Any = None, **options: Any) -> None:
        super().__init__(application, environ, multithreaded=False, bindAddress=bindAddress, **options)
