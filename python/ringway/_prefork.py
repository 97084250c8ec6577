"""The processes that look after those that serve.

    root ── listens, imports nothing of the application
      └── generation ── imports the application (with `ringway-wsgi`; a WSGIServer in a script has done so already)
            ├── worker process ── engine, threads
            └── worker process ── engine, threads

Each level is a `Master` with its children. A parent talks to a child over two pipes: orders go down ("r": retire, since
others go on, which are passed the connections that web servers keep; "d": drain; "s": stop; and the end of the pipe
when the parent is gone: drain), reports come up ("begins": from now on requests may reach it; "failed": it could not
start after all; "ready"; "retire REASON"). A child that retires serves until another one is ready in its place.
"""

import atexit
import collections
import contextlib
import gc
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from typing import Any, Callable, Deque, List, NoReturn, Optional, Tuple

from . import _ringway, _worker
from ._worker import SIGNALS, Post, Signals, log, read_pipe, work

#: Deaths that are allowed within the time below, unless the caller says otherwise.
DEATHS_MAX = 10
#: Deaths are counted over this many seconds.
DEATHS_WITHIN = 60.0
#: A dead child is replaced at once, the next ones after a pause that doubles from the first to the second figure.
PAUSE_FIRST, PAUSE_MAX = 0.1, 5.0
#: What a child is given beyond `drain_timeout`: its threads end, its atexit functions run.
END_TIME = 10.0
#: What a child is given to stop.
STOP_TIME = 1.5
#: mod_fcgid sends SIGTERM twice; on file descriptor 0 the second one is no impatience.
REPEATED_WITHIN = 3.0


class Child:
    """A child as its parent sees it."""

    def __init__(self, pid: int, name: str, orders: int, reports: int) -> None:
        self.pid, self.name, self.orders, self.reports = pid, name, orders, reports
        self.born = time.monotonic()
        self.text = b""
        self.is_ready = False
        #: Requests may have reached it: where it dies, that need not be for want of a start.
        self.may_serve = False
        #: Why it goes: its own report, or an order.
        self.leaves: Optional[str] = None
        self.kill_at: Optional[float] = None

    def order(self, order: bytes, reason: str, patience: float) -> None:
        self.leaves = self.leaves or reason
        if order == b"s" or self.kill_at is None:
            self.kill_at = time.monotonic() + patience
        with contextlib.suppress(OSError):
            os.write(self.orders, order)

    def lines(self) -> List[str]:
        self.text += read_pipe(self.reports) or b""
        *lines, self.text = self.text.split(b"\n")
        return [line.decode() for line in lines]

    def close(self) -> None:
        os.close(self.orders)
        os.close(self.reports)


class Slot:
    """The place of one child."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.current: Optional[Child] = None
        #: Takes the place when it is ready.
        self.next: Optional[Child] = None
        #: The next is an attempt: where it fails, the current one stays.
        self.is_trial = False
        #: SIGHUP came while the next one was on its way: it may have read what has changed since.
        self.is_old = False
        #: When to start one.
        self.due: Optional[float] = 0.0
        self.pause = 0.0


class Master:
    """Keeps `count` children, each of which runs `body` and ends with the exit code that it returns."""

    def __init__(
        self,
        count: int,
        body: Callable[[Post, Signals], int],
        listeners: _ringway.Listeners,
        what: str,
        *,
        post: Optional[Post] = None,
        signals: Optional[Signals] = None,
        deaths_max: int = DEATHS_MAX,
        restarts: bool = False,
        waits: bool = False,
        has_children_with_children: bool = False,
    ) -> None:
        self.body, self.listeners, self.what = body, listeners, what
        #: To the parent; the root has none.
        self.post = post
        self.signals = signals or Signals()
        self.signals.watch(signal.SIGCHLD)
        self.deaths_max = max(deaths_max, 0)
        #: SIGHUP replaces the children, instead of ending the master.
        self.restarts = restarts
        #: A child that does not start is tried again at the next SIGHUP, and not before.
        self.waits = waits
        self.is_outer = has_children_with_children
        self.slots = [Slot("%s %d" % (what, number + 1) if count > 1 else what) for number in range(count)]
        self.leaving: List[Child] = []
        self.deaths: Deque[float] = collections.deque()
        self.first_signal: Optional[Tuple[int, float]] = None
        self.state = "serve"
        self.code = 0
        self.was_ready = False
        self.watcher: Optional[int] = None
        self.notifier = Notifier() if post is None else None

    def run(self) -> Tuple[int, Optional[int]]:
        """Serves until it is told to end. The exit code, and the signal that came first."""
        try:
            while True:
                self.start_due()
                if self.state != "serve" and not self.children():
                    return self.code, self.first_signal[0] if self.first_signal else None
                self.wait()
                self.obey()
                self.hear()
                self.reap()
                self.kill_overdue()
        finally:
            if self.watcher:
                os.kill(self.watcher, signal.SIGTERM)
                os.waitpid(self.watcher, 0)
            self.signals.close()

    def children(self) -> List[Child]:
        present = [child for slot in self.slots for child in (slot.current, slot.next) if child]
        return present + self.leaving

    def wait(self) -> None:
        now = time.monotonic()
        times = [slot.due for slot in self.slots if slot.due is not None and self.state == "serve"]
        times += [child.kill_at for child in self.children() if child.kill_at is not None]
        if self.notifier and self.notifier.every:
            times.append(now + self.notifier.every)
        poll = select.poll()
        for source in [self.signals.pipe] + [child.reports for child in self.children()]:
            poll.register(source, select.POLLIN)
        if self.post and self.post.is_open:
            poll.register(self.post.orders, select.POLLIN)
        ready = poll.poll(max(0, min(times) - now) * 1000 + 1 if times else None)
        # The end of a pipe comes a moment before its process is a zombie.
        if any(event & select.POLLHUP for _, event in ready):
            time.sleep(0.005)
        if self.notifier:
            self.notifier.alive()

    # What it is told.

    def obey(self) -> None:
        for number in self.signals.take():
            self.signalled(number)
        for order in self.post.take() if self.post else "":
            if order == "s":
                self.stop()
            else:
                is_told = self.post and self.post.is_open
                self.drain("told to" if is_told else "the parent process is gone", order.encode())

    def signalled(self, number: int) -> None:
        name, now = signal.Signals(number).name, time.monotonic()
        if number == signal.SIGHUP and self.restarts and self.state == "serve":
            return self.restart()
        if self.first_signal is None:
            self.first_signal = (number, now)
            if self.post:
                self.post.say("retire " + name)
            else:
                log("info", "%s: draining; a second signal stops at once" % name)
            return self.drain(name)
        first, at = self.first_signal
        is_repeated = number == first == signal.SIGTERM and now < at + REPEATED_WITHIN
        # Others than the root only get copies of signals to a group; they stop when they are told to.
        if not self.post and not (is_repeated and self.listeners.is_spawned):
            log("warn", "%s: stopping now" % name)
            self.stop()

    def drain(self, reason: str, order: bytes = b"d") -> None:
        """Has all children end: "r" where other processes go on, which may turn into "d" later."""
        if self.state != "serve" and (self.state != "retire" or order == b"r"):
            return
        self.state = "retire" if order == b"r" else "drain"
        if self.notifier:
            self.notifier.tell("STOPPING=1")
        self.listeners.close()
        for child in self.children():
            child.order(order, reason, self.patience())

    def stop(self) -> None:
        self.state = "stop"
        self.listeners.close()
        for child in self.children():
            child.order(b"s", "stopped", STOP_TIME + self.is_outer * 0.5)

    def patience(self) -> float:
        return self.listeners.drain_timeout + END_TIME + self.is_outer * 5

    def restart(self) -> None:
        log("info", "SIGHUP: starting the application anew; what serves goes on until then")
        for slot in self.slots:
            if slot.next is None:
                self.try_anew(slot)
            else:
                slot.is_old = True

    def try_anew(self, slot: Slot) -> None:
        slot.due, slot.pause, slot.is_trial, slot.is_old = 0.0, 0.0, slot.current is not None, False

    # Children begin.

    def start_due(self) -> None:
        for slot in self.slots:
            if self.state == "serve" and slot.due is not None and slot.due <= time.monotonic():
                slot.due = None
                child = self.start(slot)
                if child is None:
                    slot.due = time.monotonic() + PAUSE_MAX
                elif slot.current is None:
                    slot.current = child
                else:
                    slot.next = child

    def start(self, slot: Slot) -> Optional[Child]:
        orders, orders_end = os.pipe()
        reports, reports_end = os.pipe()
        # Until the child has its own pipe for signals, they must not go into ours.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        sys.stdout.flush()
        sys.stderr.flush()
        # What is there now is shared, and the collector would write to it.
        gc.freeze()
        try:
            pid = os.fork()
            if pid == 0:
                self.become_child(Post(orders, reports_end), (orders_end, reports))
        except OSError as error:
            log("error", "cannot start %s: %s; trying again in %.0f s" % (slot.name, error, PAUSE_MAX))
            os.close(orders_end)
            os.close(reports)
            return None
        finally:
            gc.unfreeze()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            os.close(orders)
            os.close(reports_end)
        os.set_blocking(reports, False)
        return Child(pid, slot.name, orders_end, reports)

    def become_child(self, post: Post, ends: Tuple[int, ...]) -> NoReturn:
        code = 1
        try:
            # With the other ends open here, nobody would see that their process is gone.
            for end in ends + ((self.post.orders, self.post.reports) if self.post else ()):
                os.close(end)
            for child in self.children():
                child.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.signals.drop()
            signals = Signals()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            code = self.body(post, signals)
            atexit._run_exitfuncs()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def hear(self) -> None:
        for slot in self.slots:
            for child in filter(None, (slot.current, slot.next)):
                for line in child.lines():
                    report, _, reason = line.partition(" ")
                    if report == "ready":
                        self.is_ready(slot, child)
                    elif report in ("begins", "failed"):
                        child.may_serve = report == "begins"
                    else:
                        self.retires(slot, child, reason)
        for child in self.leaving:
            child.lines()

    def is_ready(self, slot: Slot, child: Child) -> None:
        child.is_ready = child.may_serve = True
        if child is slot.next:
            before, slot.current, slot.next, slot.is_trial = slot.current, child, None, False
            assert before, "what is next comes after another"
            before.order(b"r", "replaced", self.patience())
            self.leaving.append(before)
            if slot.is_old:
                self.try_anew(slot)
        if not self.was_ready and all(slot.current and slot.current.is_ready for slot in self.slots):
            self.was_ready = True
            if self.post:
                self.post.say("ready")
            if self.notifier:
                self.notifier.tell("READY=1\nSTATUS=serving")

    def retires(self, slot: Slot, child: Child, reason: str) -> None:
        child.leaves = child.leaves or reason
        if self.state == "serve" and child is slot.current and slot.next is None and slot.due is None:
            log("info", "%s (pid %d): %s; starting another in its place" % (slot.name, child.pid, reason))
            slot.due = 0.0

    # Children end.

    def reap(self) -> None:
        for child in self.children():
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                # What it said last.
                self.hear()
                child.close()
                self.bury(child, os.waitstatus_to_exitcode(status))

    def bury(self, child: Child, code: int) -> None:
        how = "exit code %d" % code if code >= 0 else "killed by %s" % _signal_name(-code)
        line = "%s (pid %d) ended after %s: %s" % (child.name, child.pid, _age(child.born), how)
        slot = next((slot for slot in self.slots if child in (slot.current, slot.next)), None)
        if slot is None:
            self.leaving.remove(child)
        elif child is slot.current:
            slot.current, slot.next, slot.is_trial = slot.next, None, False
        else:
            slot.next = None
        if slot is None or self.state != "serve" or (child.leaves and code == 0):
            level = "info" if code == 0 or self.state == "stop" else "warn"
            log(level, "%s (%s)" % (line, child.leaves))
            if slot and self.state == "serve" and slot.current is None and slot.due is None:
                slot.due = 0.0
            return
        if slot.is_trial and slot.current:
            slot.is_trial = False
            if slot.is_old:
                self.try_anew(slot)
            log("error", line + "; what serves goes on, until the next SIGHUP")
        elif self.waits and not child.may_serve:
            log("error", line + "; waiting for a change")
        elif not (self.was_ready or child.may_serve) or (self.is_outer and code > 0):
            self.code = code if code > 0 else 1
            log("error", line + ("; giving up" if child.may_serve else "; it did not start, giving up"))
            self.drain("giving up")
        else:
            self.replace(slot, child, line)

    def replace(self, slot: Slot, child: Child, line: str) -> None:
        now = time.monotonic()
        self.deaths.append(now)
        while self.deaths[0] < now - DEATHS_WITHIN:
            self.deaths.popleft()
        if len(self.deaths) > self.deaths_max:
            self.code = 1
            figures = (len(self.deaths), DEATHS_WITHIN, self.deaths_max)
            log("error", line + "; that makes %d deaths within %.0f s (%d are allowed): giving up" % figures)
            return self.drain("giving up")
        pause = 0.0 if now - child.born > DEATHS_WITHIN else slot.pause
        slot.pause = min(max(pause * 2, PAUSE_FIRST), PAUSE_MAX)
        if slot.current is not None and slot.next is None and not slot.current.leaves:
            return log("error", line + "; another is there")
        if slot.due is None:
            slot.due = now + pause
        log("error", line + "; starting another %s" % ("in %.1f s" % pause if pause else "at once"))

    def kill_overdue(self) -> None:
        for child in self.children():
            if child.kill_at is not None and child.kill_at <= time.monotonic():
                child.kill_at = None
                log("warn", "%s (pid %d) did not end in time: killing it" % (child.name, child.pid))
                os.kill(child.pid, signal.SIGKILL)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "signal %d" % number


def _age(born: float) -> str:
    seconds = time.monotonic() - born
    return "%.1f s" % seconds if seconds < 600 else "%.1f h" % (seconds / 3600)


class Notifier:
    """Tells systemd how it goes (sd_notify(3)), where it asks."""

    def __init__(self) -> None:
        self.address = os.environ.get("NOTIFY_SOCKET", "")
        watchdog = os.environ.get("WATCHDOG_USEC", "0")
        #: Seconds from one sign of life to the next.
        self.every = int(watchdog) / 2e6 if self.address and watchdog.isdecimal() else 0.0
        self.next = 0.0

    def tell(self, text: str) -> None:
        if not self.address:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.sendto(text.encode(), address)
        except OSError as error:
            log("warn", "cannot tell the service manager at NOTIFY_SOCKET: %s" % error)

    def alive(self) -> None:
        if self.every and time.monotonic() >= self.next:
            self.next = time.monotonic() + self.every / 2
            self.tell("WATCHDOG=1")


# What the processes do.


def warn_of_threads() -> None:
    others = [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]
    if others:
        text = "threads of the application (%s) run in the parent process only: start them with the first request"
        log("warn", text % ", ".join(others) + ", or import in each process (--no-preload)")


def bind(server: Any) -> _ringway.Listeners:
    _worker.to_logging = server._how["log_to"] == "logging"
    return _ringway.bind(server._settings, server._how)


def serve(server: Any) -> bool:
    """`WSGIServer.run` with processes. Whether it ended by SIGHUP."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("WSGIServer.run() with processes needs the main thread, where signals arrive")
    listeners = bind(server)
    warn_of_threads()
    try:
        body = lambda post, signals: work(server, listeners, post, signals)  # noqa: E731
        code, first = Master(
            server.processes, body, listeners, "worker process", deaths_max=server.deaths_max
        ).run()
    finally:
        listeners.remove()
    if code:
        sys.exit(code)
    return first == signal.SIGHUP


class Later:
    """An application that is imported where it is to run."""

    def __init__(self, load: Callable[[], Callable[..., Any]]) -> None:
        self.load = load
        self.loaded: Optional[Callable[..., Any]] = None

    def __call__(self, *arguments: Any) -> Any:
        return self.get()(*arguments)

    def get(self) -> Callable[..., Any]:
        self.loaded = self.loaded or self.load()
        return self.loaded


def command(server: Any, preload: bool, reload: Optional[List[str]]) -> int:
    """`ringway-wsgi` with processes, or with --reload. The exit code."""
    listeners = bind(server)
    count = server.processes or 1
    more = {"deaths_max": server.deaths_max}

    def one(post: Post, signals: Signals) -> int:
        if isinstance(server.application, Later):
            server.application = server.application.get()
        return work(server, listeners, post, signals)

    def generation(post: Post, signals: Signals) -> int:
        server.application = server.application.get()
        warn_of_threads()
        inner = Master(count, one, listeners, "worker process", post=post, signals=signals, **more)
        return inner.run()[0]

    try:
        how = {"restarts": True, "waits": reload is not None, **more}
        if server.processes and preload:
            root = Master(1, generation, listeners, "application", has_children_with_children=True, **how)
        else:
            root = Master(count, one, listeners, "worker process", **how)
        if reload is not None:
            root.watcher = watch(reload, root)
        return root.run()[0]
    finally:
        listeners.remove()


def watch(folders: List[str], root: Master) -> int:
    """Starts a process that sends SIGHUP to this one when a source file changes."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN if number != signal.SIGTERM else signal.SIG_DFL)
        root.signals.drop()
        root.listeners.close()
        from watchfiles import PythonFilter, watch

        changes = watch(*folders, watch_filter=PythonFilter(), rust_timeout=500, yield_on_timeout=True)
        for turn, changed in enumerate(changes):
            if turn == 0:
                log("info", "watching %s" % ", ".join(map(os.path.abspath, folders)))
            if os.getppid() != parent:
                break
            if changed:
                names = sorted(os.path.relpath(path) for _, path in changed)
                log("info", "changed: " + ", ".join(names[:5]))
                os.kill(parent, signal.SIGHUP)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)
