"""`WSGIServer`, with the signature and the semantics of flup's."""

import io
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from typing import Any, Callable, Dict, Iterable, List, Mapping, NoReturn, Optional, Sequence, Tuple, Union

from . import _prefork, _ringway
from ._worker import SIGNALS, Limits

Address = Union[str, Tuple[Any, ...]]
_Answer = Tuple[int, List[Tuple[str, str]], bytes]

#: Python threads where nothing else is said.
THREADS = 16
#: More of them would only wait for the interpreter.
THREADS_MAX = 1024
#: More of them are a mistake.
PROCESSES_MAX = 1024

#: Options of flup that have no counterpart here, and what to use.
_IGNORED = {
    "minSpare": "all threads and processes are started at once; maxThreads and processes say how many",
    "maxSpare": "idle threads and processes stay; maxThreads and processes say how many",
    "jobClass": "requests are not Python objects",
    "jobArgs": "requests are not Python objects",
    "roles": "only the Responder is served: leave roles=(1,)",
}

_SETTINGS = {row["key"] for row in _ringway.settings()}


class Request:
    """What `WSGIServer.error` is given: the request that failed, and where to write the answer."""

    def __init__(self, environ: Dict[str, Any]) -> None:
        self.environ = environ
        self.params = environ
        self.stdin = environ.get("wsgi.input")
        self.stderr = environ.get("wsgi.errors")
        #: A CGI response: header lines with `Status` among them, an empty line, the body, as bytes.
        self.stdout = io.BytesIO()

    def _answer(self) -> _Answer:
        text = self.stdout.getvalue()
        end = re.search(rb"\r?\n\r?\n", text)
        if end is None:
            raise ValueError("error() wrote no CGI response: there is no empty line after the headers")
        status, headers, body = 500, [], text[end.end() :]
        for line in text[: end.start()].decode("latin-1").splitlines():
            name, colon, value = line.partition(":")
            if not colon:
                raise ValueError("error() wrote no CGI response: %r is no header line" % line)
            if name.strip().lower() == "status":
                status = int(value.split()[0])
            else:
                headers.append((name.strip(), value.strip()))
        return status, headers, body


class _Signals:
    """Which signals came while a server ran. The engine obeys them; Python only takes note.

    Handlers stay where they are afterwards, since the engine's are installed above them; without a server they do
    what was done before.
    """

    def __init__(self) -> None:
        self.seen: Optional[List[int]] = None
        self.before: Dict[int, Any] = {}

    def watch(self) -> List[int]:
        for number in SIGNALS:
            current = signal.getsignal(number)
            # A SIGHUP that nohup has ignored stays ignored.
            if current is not signal.SIG_IGN and current != self.note:
                self.before[number] = current
                signal.signal(number, self.note)
        self.seen = []
        return self.seen

    def note(self, number: int, frame: Any) -> None:
        before = self.before.get(number)
        if self.seen is not None:
            self.seen.append(number)
        elif callable(before):
            before(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


_signals = _Signals()


class WSGIServer:
    """Serves a WSGI application over FastCGI.

    `bindAddress` is a path (a Unix socket), `(host, port)`, a longer tuple for IPv6, or None: then the socket is file
    descriptor 0, as web servers and spawn-fcgi start programs, or the process answers one request as a CGI program
    where it was started as one (`forceCGI=True` and FCGI_FORCE_CGI=Y insist on it). `umask` shapes the permissions of
    a Unix socket.

    `maxThreads` is the number of Python threads; `multithreaded=False` means one. `environ` is put over the variables
    of every request. `debug=True` shows tracebacks to visitors.

    Beyond flup: `queue_max` requests wait for a thread, for `queue_timeout` at most, others are answered with 503; a
    request that runs longer than `slow_log` is logged with its traceback; `stuck_max` threads may be stuck beyond
    `request_timeout` before the process ends; `log` filters the log, and `log_to="logging"` gives its lines to Python's
    loggers "ringway" instead of stderr; and every setting of the engine is an argument by its name (`workers=2`,
    `drain_timeout="10s"`, `mount="/app"`).

    `inline=True` calls the application on the worker's own thread, one request at a time: the least latency for an
    application that computes and does not wait. Threads take long bodies and what follows the first piece of an answer.

    `processes` (flup's `maxChildren`; `multiprocess=True`: one for each core, two at least) of `maxThreads` threads
    each serve under the eyes of this one. A process is replaced after `max_requests` (flup's `maxRequests`),
    `max_lifetime` ("12h") or at a resident size of `max_rss` ("512MiB"), each plus a random part of up to `jitter`
    times itself; more than `deaths_max` unexpected ends within a minute end the server.
    """

    def __init__(
        self,
        application: Callable[..., Iterable[bytes]],
        environ: Optional[Mapping[str, Any]] = None,
        multithreaded: bool = True,
        multiprocess: bool = False,
        bindAddress: Optional[Address] = None,
        umask: Optional[int] = None,
        multiplexed: bool = True,
        debug: bool = False,
        roles: Sequence[int] = (1,),
        forceCGI: bool = False,
        *,
        maxThreads: Optional[int] = None,
        inline: bool = False,
        queue_max: int = 1024,
        queue_timeout: str = "30s",
        slow_log: str = "0",
        stuck_max: int = 16,
        processes: Optional[int] = None,
        max_requests: int = 0,
        max_lifetime: str = "0",
        max_rss: Union[str, int] = 0,
        jitter: float = 0.1,
        deaths_max: int = 10,
        log: Optional[str] = None,
        log_to: str = "stderr",
        **options: Any,
    ) -> None:
        if not callable(application):
            raise TypeError("the application must be callable, and %s is not" % type(application).__name__)
        self.application = application
        self.environ = dict(environ or {})
        self.multithreaded = multithreaded
        self.debug = debug
        self.forceCGI = forceCGI
        max_requests = options.pop("maxRequests", None) or max_requests
        children = options.pop("maxChildren", None)
        if processes is None:
            processes = children or (max(os.cpu_count() or 1, 2) if multiprocess else None)
        #: None: all in this process.
        self.processes = processes
        self.deaths_max = deaths_max
        self.limits = Limits.of(max_requests, max_lifetime, max_rss, jitter)
        if processes is not None and not 1 <= processes <= PROCESSES_MAX:
            raise ValueError("processes must be from 1 to %d, not %r" % (PROCESSES_MAX, processes))
        if processes is None and any(self.limits[:3]):
            raise ValueError(
                "max_requests, max_lifetime and max_rss need processes (1 is enough): a process that ends needs a "
                "parent that starts the next one"
            )
        if tuple(roles) != (1,):
            options["roles"] = roles
        self._settings: List[Tuple[str, List[str]]] = []
        for name, value in options.items():
            if name in _IGNORED:
                warnings.warn("%s is ignored: %s" % (name, _IGNORED[name]), stacklevel=2)
            elif name in _SETTINGS:
                values = value if isinstance(value, (list, tuple)) else [value]
                self._settings.append((name, [_text(value) for value in values]))
            else:
                raise TypeError("WSGIServer() has no option %r" % name)
        if bindAddress is not None:
            self._settings.append(("listen", [listen_address(bindAddress)]))
        if umask is not None:
            self._settings.append(("socket_mode", ["%o" % (0o777 & ~umask)]))
        if inline and not multithreaded:
            raise ValueError("inline=True needs threads beside it for answers that are sent piece by piece")
        self._how: _ringway.How = {
            "inline": inline,
            "threads": min(maxThreads or THREADS, THREADS_MAX) if multithreaded else 1,
            "queue_max": queue_max,
            "queue_timeout": str(queue_timeout),
            "slow_log": str(slow_log),
            "stuck_max": stuck_max,
            "multiprocess": multiprocess,
            "debug": debug,
            "force_cgi": forceCGI,
            "signals": False,
            "log": log or os.environ.get("RUST_LOG") or "info",
            "log_to": log_to,
        }

    def run(self) -> bool:
        """Serves until SIGTERM, SIGINT, SIGQUIT, SIGUSR1 or SIGHUP, then answers what has begun. True after SIGHUP.

        Signals are obeyed where this is called on the main thread.
        """
        if self.processes and not _ringway.is_cgi(self._settings, self.forceCGI):
            return _prefork.serve(self)
        is_main = threading.current_thread() is threading.main_thread()
        seen = _signals.watch() if is_main else []
        try:
            self.threads_busy = _ringway.serve(
                self.application,
                self._settings,
                {**self._how, "signals": is_main},
                **self._hooks(),
            )
            return seen[:1] == [signal.SIGHUP]
        finally:
            if is_main:
                _signals.seen = None

    def _start(self, listeners: _ringway.Listeners) -> _ringway.Running:
        """Serves in this process, a child of the one that listens."""
        how: _ringway.How = {**self._how, "multiprocess": True, "signals": True}
        return _ringway.start(self.application, self._settings, how, listeners, **self._hooks())

    def _hooks(self) -> Dict[str, Any]:
        overridden = type(self).error is not WSGIServer.error
        return {"environ": self.environ, "on_error": self._on_error if overridden else None}

    #: After `run`: threads whose application did not return in time.
    threads_busy = 0

    def error(self, req: Request) -> None:
        """Answers a request whose application failed before it sent anything; `sys.exc_info()` has the exception.

        Override it to write a page to `req.stdout`. The traceback is in the log already.
        """
        req.stdout.write(b"Status: 500 Internal Server Error\r\nContent-Type: text/plain\r\n\r\n")
        if self.debug:
            req.stdout.write(traceback.format_exc().encode("utf-8", "backslashreplace"))
        else:
            req.stdout.write(b"Internal Server Error\n")

    def _on_error(self, environ: Dict[str, Any], kind: Any, value: Any, trace: Any) -> _Answer:
        request = Request(environ)
        try:
            raise value.with_traceback(trace)
        except BaseException:
            self.error(request)
        return request._answer()


def listen_address(address: Address) -> str:
    """The engine's way to write flup's `bindAddress`."""
    if isinstance(address, str):
        return "unix:" + os.path.abspath(address)
    if not isinstance(address, tuple) or len(address) < 2:
        raise TypeError("bindAddress must be a path or (host, port), not %r" % (address,))
    host, port = address[:2]
    if len(address) > 2 or ":" in host:
        return "[%s]:%d" % (host or "::", port)
    return "%s:%d" % (host or "0.0.0.0", port)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def fail(text: str, code: int) -> NoReturn:
    """Ends the process with one message."""
    sys.stderr.write("ringway-wsgi: %s\n" % text.rstrip("\n"))
    sys.exit(code)
