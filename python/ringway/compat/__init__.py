"""The module names of other FastCGI servers: `from ringway.compat.flup.server.fcgi import WSGIServer`."""
