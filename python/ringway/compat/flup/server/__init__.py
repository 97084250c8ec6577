"""flup's servers: `fcgi` (threads), `fcgi_fork` and `fcgi_single`."""
