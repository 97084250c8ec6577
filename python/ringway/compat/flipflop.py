"""`flipflop`: `WSGIServer(app).run()` on file descriptor 0, or as a CGI program."""

from ringway import WSGIServer

__all__ = ["WSGIServer"]
