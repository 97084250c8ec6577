"""`flup.server.fcgi_fork`: an application that must not see two threads."""

from typing import Any

from ringway import WSGIServer as _WSGIServer

__all__ = ["WSGIServer"]


class WSGIServer(_WSGIServer):
    """Serves with `maxChildren` processes, each with one request at a time; see `ringway.WSGIServer`.

    All of them are started at once. Where `maxChildren` is not given there are 5, flup's number of spare ones.
    """

    def __init__(self, application: Any, environ: Any = None, bindAddress: Any = None, **options: Any) -> None:
        options.pop("multithreaded", None)
        options.setdefault("processes", options.pop("maxChildren", None) or 5)
        super().__init__(application, environ, multithreaded=False, bindAddress=bindAddress, **options)
