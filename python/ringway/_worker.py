"""A worker process: it serves, obeys its parent (`_prefork.py`), and says when it should be replaced."""

import contextlib
import logging
import os
import random
import re
import select
import signal
import time
from typing import Any, Dict, List, NamedTuple, Optional, Union

from . import _ringway

#: What ends a server, or starts it anew.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGHUP)
_LEVELS = {"error": logging.ERROR, "warn": logging.WARNING, "info": logging.INFO}

#: Whether lines go to Python's logging. (A process that forks has no thread that could take them there.)
to_logging = False


def log(level: str, text: str) -> None:
    """A line in the log: "error", "warn" or "info"."""
    if to_logging:
        logging.getLogger("ringway.prefork").log(_LEVELS[level], "%s", text)
    else:
        _ringway.log(level, text)


class Limits(NamedTuple):
    """When a worker process is replaced; 0: never."""

    requests: float = 0
    seconds: float = 0
    rss_bytes: float = 0
    #: Each process adds a random part of up to this fraction, so that they do not all go at a time.
    jitter: float = 0.1

    @staticmethod
    def of(requests: int, lifetime: Union[str, int], rss: Union[str, int], jitter: float) -> "Limits":
        """As an operator writes them: 1000, "12h", "512MiB"."""
        if requests < 0 or jitter < 0:
            raise ValueError("max_requests and jitter must not be negative")
        return Limits(requests, _ringway.seconds("max_lifetime", str(lifetime)), _size("max_rss", str(rss)), jitter)

    def of_one(self) -> "Limits":
        return self._replace(
            **{name: getattr(self, name) * (1 + random.uniform(0, self.jitter)) for name in self._fields[:3]}
        )

    def reached(self, running: _ringway.Running, age: float) -> Optional[str]:
        """Why the process should go, if it should."""
        if self.requests and running.requests() >= self.requests:
            return "max_requests: %d requests" % running.requests()
        if self.seconds and age >= self.seconds:
            return "max_lifetime: %.0f s" % age
        if self.rss_bytes and _rss_bytes() >= self.rss_bytes:
            return "max_rss: %.1f MiB" % (_rss_bytes() / (1 << 20))
        return None


def _size(name: str, text: str) -> int:
    found = re.fullmatch(r"(\d+)\s*(?:([KMG])i?)?B?", text.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError("%s %r: not a size such as 512MiB, 2G or a number of bytes" % (name, text))
    return int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[(found[2] or "").upper()]


def _rss_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Signals:
    """Signals as bytes in a pipe, for as long as it is open."""

    def __init__(self) -> None:
        self.pipe, self._end = os.pipe()
        os.set_blocking(self.pipe, False)
        os.set_blocking(self._end, False)
        self._fd_before = signal.set_wakeup_fd(self._end, warn_on_full_buffer=False)
        self._before: Dict[int, Any] = {}
        for number in SIGNALS:
            # A SIGHUP that nohup has ignored stays ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self.watch(number)

    def watch(self, number: int) -> None:
        self._before[number] = signal.signal(number, _note)

    def take(self) -> List[int]:
        return [number for number in read_pipe(self.pipe) or b"" if number in SIGNALS]

    def close(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(self._fd_before)
        self.drop()

    def drop(self) -> None:
        """Closes the pipe alone, in a forked process that makes its own."""
        os.close(self.pipe)
        os.close(self._end)


def _note(number: int, frame: Any) -> None:
    """The pipe has it."""


def read_pipe(pipe: int) -> Optional[bytes]:
    """What is there; None: nothing yet."""
    try:
        return os.read(pipe, 4096)
    except BlockingIOError:
        return None


class Post:
    """A child's ends of the pipes to its parent."""

    def __init__(self, orders: int, reports: int) -> None:
        self.orders, self.reports = orders, reports
        self.is_open = True
        os.set_blocking(orders, False)

    def say(self, text: str) -> None:
        # A parent that is gone needs no reports; the end of the orders tells.
        with contextlib.suppress(OSError):
            os.write(self.reports, text.encode() + b"\n")

    def take(self) -> str:
        """Orders that came; the end of the pipe asks for a drain, once."""
        orders = read_pipe(self.orders) if self.is_open else None
        if orders == b"":
            self.is_open = False
            return "d"
        return (orders or b"").decode()


def work(server: Any, listeners: _ringway.Listeners, post: Post, signals: Signals) -> int:
    """A worker process: serves until it is told to end. The exit code."""
    # The first request may come, and be the death of this process, before it has said that it is ready.
    post.say("begins")
    try:
        running = server._start(listeners)
    except BaseException as error:
        post.say("failed")
        if not isinstance(error, (ValueError, RuntimeError)):
            raise
        log("error", str(error))
        return 2 if isinstance(error, ValueError) else 1
    limits = server.limits.of_one()
    begun = time.monotonic()
    post.say("ready")
    every = 0.1 if limits.requests else 1.0
    has_asked = False
    poll = select.poll()
    poll.register(signals.pipe, select.POLLIN)
    poll.register(post.orders, select.POLLIN)
    while running.is_running():
        poll.poll(every * 1000)
        orders = post.take()
        if not post.is_open and orders:
            poll.unregister(post.orders)
        for number in signals.take():
            orders += "r"
            post.say("retire " + signal.Signals(number).name)
        if "s" in orders:
            running.stop()
            os._exit(1)
        if "d" in orders:
            running.drain()
        elif orders:
            running.retire()
        if orders:
            every = 0.02
        reason = limits.reached(running, time.monotonic() - begun)
        if reason and not has_asked:
            has_asked = True
            post.say("retire " + reason)
    busy = running.wait()
    if busy:
        log("error", "%d Python threads did not end; left behind" % busy)
        os._exit(1)
    return 0
