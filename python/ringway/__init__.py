"""WSGI applications over FastCGI, behind nginx, Apache, lighttpd and every other web server that speaks it.

>>> from ringway import WSGIServer
>>> WSGIServer(app, bindAddress="/run/app.sock").run()  # doctest: +SKIP

The signature is flup's, so one changed import moves an application over; see `ringway.compat.flup`.
"""

from ._ringway import LoadError, __version__
from ._server import Request, WSGIServer

__all__ = ["LoadError", "Request", "WSGIServer", "__version__"]
