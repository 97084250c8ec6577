"""The WSGI application that every host serves; as a program, it serves itself on flup: PATH THREADS."""


def application(environ, start_response):
    body = b"Hello, world!\n"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


if __name__ == "__main__":
    import sys

    from flup.server.fcgi import WSGIServer

    path, threads = sys.argv[1], int(sys.argv[2])
    WSGIServer(application, bindAddress=path, minSpare=1, maxSpare=threads, maxThreads=threads).run()
