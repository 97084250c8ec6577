"""`flup.server.fcgi`: threads."""

from ringway import WSGIServer

__all__ = ["WSGIServer"]
