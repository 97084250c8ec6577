"""`ringway-wsgi MODULE:CALLABLE`, which is also `python -m ringway`."""

import argparse
import faulthandler
import importlib.util
import os
import sys
from typing import Any, Callable, Dict, List, Optional

from . import _check, _config, _ringway
from ._prefork import Later, command
from ._server import THREADS, WSGIServer, fail


def parser() -> argparse.ArgumentParser:
    """The command line: what is Python's, and every setting of the engine."""
    result = argparse.ArgumentParser(
        prog="ringway-wsgi",
        description="Serves a WSGI application over FastCGI. Without --listen on file descriptor 0, as web servers "
        "and spawn-fcgi start programs, or as a CGI program where started as one.",
        epilog="Every option is also an environment variable and a key of the file: --send-timeout is "
        "RINGWAY_SEND_TIMEOUT and send_timeout. `ringway-wsgi check MODULE:CALLABLE` says what keeps an application "
        "from being imported.",
    )
    result.add_argument("application", metavar="MODULE:CALLABLE", help="such as app:app")
    result.add_argument("--version", action="version", version="%(prog)s " + _ringway.__version__)
    result.add_argument(
        "--config", metavar="FILE", help="TOML file; RINGWAY_... variables win over it, and arguments over both"
    )
    python = result.add_argument_group("Python")
    python.add_argument(
        "--threads",
        type=int,
        default=THREADS,
        metavar="N",
        help="Python threads, each with one request at a time [default: %(default)s]",
    )
    python.add_argument(
        "--inline",
        action="store_true",
        help="call the application on the worker's own thread: for applications that compute and do not wait",
    )
    python.add_argument(
        "--queue-max",
        type=int,
        default=1024,
        metavar="N",
        help="requests that wait for a thread; one more is answered with 503 [default: %(default)s]",
    )
    python.add_argument(
        "--queue-timeout",
        default="30s",
        metavar="TIME",
        help="a request that waited longer is answered with 503 [default: %(default)s]",
    )
    python.add_argument(
        "--slow-log",
        default="0",
        metavar="TIME",
        help="log a request that runs longer, with the traceback of its thread; 0: none [default: %(default)s]",
    )
    python.add_argument(
        "--stuck-max",
        type=int,
        default=16,
        metavar="N",
        help="threads that may be stuck beyond --request-timeout; one more ends the process [default: %(default)s]",
    )
    python.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="worker processes, each with so many threads; SIGHUP starts the application anew [default: this alone]",
    )
    python.add_argument(
        "--max-requests",
        type=int,
        default=0,
        metavar="N",
        help="replace a worker process after so many requests; 0: never [default: %(default)s]",
    )
    python.add_argument(
        "--max-lifetime", default="0", metavar="TIME", help="replace it after this time; 0: never [default: 0]"
    )
    python.add_argument(
        "--max-rss", default="0", metavar="SIZE", help="replace it at this resident size, as 512MiB [default: 0: never]"
    )
    python.add_argument(
        "--jitter",
        type=float,
        default=0.1,
        metavar="PART",
        help="random part that each process adds to these limits [default: %(default)s]",
    )
    python.add_argument(
        "--deaths-max",
        type=int,
        default=10,
        metavar="N",
        help="unexpected ends of worker processes within a minute; one more ends the server [default: %(default)s]",
    )
    python.add_argument(
        "--no-preload",
        action="store_true",
        help="import the application in each worker process, not once in their parent",
    )
    python.add_argument(
        "--reload",
        action="store_true",
        help="start the application anew when a source file changes (for development; needs watchfiles)",
    )
    python.add_argument(
        "--reload-dir", action="append", metavar="DIR", help="what --reload watches [default: the working directory]"
    )
    python.add_argument("--debug", action="store_true", help="show tracebacks to visitors; never in production")
    python.add_argument("--log", metavar="FILTER", help="error, warn, info, debug, trace, or a filter [default: info]")
    python.add_argument(
        "--log-to",
        choices=("stderr", "logging"),
        default="stderr",
        help="where the log goes; logging: the loggers 'ringway' of Python's logging [default: %(default)s]",
    )
    groups: Dict[str, Any] = {}
    for row in _ringway.settings():
        group = groups.get(row["section"]) or result.add_argument_group(row["section"])
        groups[row["section"]] = group
        text = row["doc"].replace("%", "%%")
        if row["default"]:
            text += " [default: %s]" % row["default"]
        names: Dict[str, Any] = {"dest": "setting_" + row["key"], "help": text, "metavar": row["placeholder"]}
        if row["is_list"]:
            group.add_argument("--" + row["flag"], action="append", **names)
        elif row["is_switch"]:
            group.add_argument("--" + row["flag"], nargs="?", const="true", **names)
        else:
            group.add_argument("--" + row["flag"], **names)
    return result


def main(arguments: Optional[List[str]] = None) -> int:
    """Exit codes: 0 done, 1 failed while running, 2 wrong usage or configuration."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["check"]:
        return _check.main(arguments[1:])
    try:
        options = _config.parse(parser(), arguments)
    except ValueError as error:
        fail(str(error), 2)
    if options.threads < 1 or options.queue_max < 1 or options.stuck_max < 0:
        fail("--threads and --queue-max must be at least 1, --stuck-max at least 0", 2)
    settings = {
        name[len("setting_") :]: value
        for name, value in vars(options).items()
        if name.startswith("setting_") and value is not None
    }
    # A fatal signal, in a C extension for example, says at least where it was.
    if not faulthandler.is_enabled():
        faulthandler.enable()
    has_children = options.processes is not None or options.reload
    if options.reload and importlib.util.find_spec("watchfiles") is None:
        fail("--reload needs the package watchfiles: pip install 'ringway[reload]'", 2)

    def load() -> Callable[..., Any]:
        try:
            return _ringway.load(options.application)
        except _ringway.LoadError as error:
            hint = "`ringway-wsgi check %s --as USER` says what another user lacks" % options.application
            fail("%s\n%s" % (str(error).rstrip("\n"), hint), 1)

    named: Any = dict(
        maxThreads=options.threads,
        inline=options.inline,
        queue_max=options.queue_max,
        queue_timeout=options.queue_timeout,
        slow_log=options.slow_log,
        stuck_max=options.stuck_max,
        debug=options.debug,
        log=options.log,
        log_to=options.log_to,
        processes=options.processes,
        max_requests=options.max_requests,
        max_lifetime=options.max_lifetime,
        max_rss=options.max_rss,
        jitter=options.jitter,
        deaths_max=options.deaths_max,
        **settings,
    )
    try:
        server = WSGIServer(Later(load) if has_children else load(), **named)
        if has_children and not _ringway.is_cgi(server._settings, False):
            reload = (options.reload_dir or ["."]) if options.reload else None
            return command(server, not options.no_preload, reload)
        if has_children:
            server.application = load()
        server.run()
    except ValueError as error:
        fail(str(error), 2)
    except RuntimeError as error:
        fail(str(error), 1)
    if server.threads_busy:
        sys.stderr.write("ringway-wsgi: %d Python threads did not end; left behind\n" % server.threads_busy)
        sys.stderr.flush()
        # The interpreter would wait for them, or tear them down in the middle.
        os._exit(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
