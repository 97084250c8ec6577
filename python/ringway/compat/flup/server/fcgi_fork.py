"""`flup.server.fcgi_fork`: an application that must not see two threads."""

from typing import Any

from ringway import WSGIServer as _WSGIServer

__all__ = ["WSGIServer"]


class WSGIServer(_WSGIServer):
    """Serves one request at a time in this process, as each of flup's children does; see `ringway.WSGIServer`.

    For more processes start more: lighttpd's `max-procs`, mod_fcgid, spawn-fcgi -F, a unit template of systemd.
    """

    def __init__(self, application: Any, environ: Any = None, bindAddress: Any = None, **options: Any) -> None:
        options.pop("multithreaded", None)
        super().__init__(application, environ, multithreaded=False, bindAddress=bindAddress, **options)
