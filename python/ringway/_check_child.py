"""Imports an application and says what came of it: what `ringway-wsgi check` runs in a fresh interpreter, as the user
and with the environment of the server to be.

The text of this file is the program (`python -c`), so that it needs nothing which that user might not be able to read.
"""

import faulthandler
import grp
import importlib
import inspect
import json
import os
import pwd
import sys
import sysconfig
import traceback
from typing import Any, Callable, Dict, List, Optional, Tuple

#: One thing that was looked at, what was found, and what to do about it.
Step = Dict[str, Optional[str]]


def step(name: str, verdict: str, found: str, remedy: Optional[str] = None) -> Step:
    return {"step": name, "verdict": verdict, "found": found, "remedy": remedy}


def blocked(path: str, right: int = os.R_OK) -> Optional[str]:
    """What keeps this user from a path: the first directory on the way that it may not enter, or the path itself.
    None where nothing does, or the path does not exist."""
    real = os.path.realpath(path)
    for way in (os.path.abspath(path), real):
        above: List[str] = []
        directory = os.path.dirname(way)
        while directory not in above:
            above.append(directory)
            directory = os.path.dirname(directory)
        for directory in reversed(above):
            # Where a link leads to is in the real path, as far as it can be followed.
            if os.path.islink(directory):
                continue
            if not os.path.lexists(directory):
                return None
            if not os.access(directory, os.X_OK):
                return directory
    if os.path.isdir(real):
        right |= os.X_OK
    return None if os.access(real, right) or not os.path.lexists(real) else real


def described(path: str) -> str:
    """A path with its mode and its owner."""
    found = os.stat(path)

    def name(look: Callable[[int], Any], number: int) -> str:
        try:
            return str(look(number)[0])
        except KeyError:
            return str(number)

    owner = "%s:%s" % (name(pwd.getpwuid, found.st_uid), name(grp.getgrgid, found.st_gid))
    return "%s (mode %04o, %s)" % (path, found.st_mode & 0o7777, owner)


def denial(path: str) -> Optional[Tuple[str, str]]:
    """A sentence about `blocked(path)`, and what to do."""
    culprit = blocked(path)
    if culprit is None:
        return None
    verb, bits = ("enter", "o+rx") if os.path.isdir(culprit) else ("read", "o+r")
    text = "this user may not %s %s" % (verb, described(culprit))
    return text, "chmod %s %s, or put the application and its packages where this user may read them" % (bits, culprit)


def frame_of(error: BaseException) -> Optional[traceback.FrameSummary]:
    """Where the application failed: the innermost frame that is neither Python's nor a package's."""
    paths = sysconfig.get_paths()
    foreign = tuple(paths[name] + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_real(frame)]
    own = [frame for frame in frames if not frame.filename.startswith(foreign)]
    return own[-1] if own else frames[-1] if frames else None


def is_real(frame: traceback.FrameSummary) -> bool:
    return not frame.filename.startswith("<") and frame.filename != importlib.__file__


def text_of(error: BaseException) -> str:
    """The traceback from the application's first frame on."""
    shown = traceback.TracebackException(type(error), error, error.__traceback__)
    shown.stack = traceback.StackSummary.from_list([frame for frame in shown.stack if is_real(frame)])
    return "".join(shown.format())


def import_remedy(error: BaseException, module: str) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        top = error.name.partition(".")[0]
        if top == module.partition(".")[0] and not sys.modules.get(top):
            candidates = [os.path.join(entry, top + end) for entry in sys.path for end in ("", ".py")]
            for candidate in sys.path + candidates:
                found = denial(candidate)
                if found:
                    return "%s: %s" % found
            return "run it in the directory that has %s (WorkingDirectory= in a systemd unit), or set PYTHONPATH" % top
        for entry in sys.path:
            found = denial(entry)
            if found:
                return "%s: %s" % found
        return "install it for this interpreter: %s -m pip install ..." % sys.executable
    if isinstance(error, OSError) and isinstance(error.filename, str):
        found = denial(error.filename)
        if found:
            return "%s: %s" % found
        if not os.path.isabs(error.filename):
            return "the path is taken from the working directory: make it absolute, or change the directory"
    if isinstance(error, SystemExit):
        return 'the module ends the process when it is imported: put that below `if __name__ == "__main__":`'
    if isinstance(error, KeyError) and error.args and str(error.args[0]).isupper():
        return "web servers and systemd start programs with few variables: set %s there" % error.args[0]
    return "correct the module"


def check_callable(found: Any, name: str) -> Step:
    if not callable(found):
        text = "%s is %s, which cannot be called" % (name, type(found).__name__)
        return step("callable", "wrong", text, "name the application itself")
    call = found if inspect.isroutine(found) or inspect.isclass(found) else getattr(found, "__call__")
    if inspect.iscoroutinefunction(call):
        return step("callable", "wrong", "%s is asynchronous" % name, "that is ASGI; serve a WSGI application")
    try:
        inspect.signature(found).bind({}, None)
    except TypeError as error:
        try:
            inspect.signature(found).bind()
            remedy = "is it a factory? call it in the module, and name the result"
        except TypeError:
            remedy = "PEP 3333: application(environ, start_response)"
        return step("callable", "wrong", "%s does not take two arguments: %s" % (name, error), remedy)
    except ValueError:
        return step("callable", "note", "%s does not say what arguments it takes" % name)
    return step("callable", "ok", "%s is %s and takes two arguments" % (name, type(found).__name__))


def check(name: str, report: Dict[str, Any]) -> None:
    steps = report["steps"]
    module, _, attributes = name.partition(":")
    attributes = attributes or "application"
    # As the server searches.
    sys.path[0] = os.getcwd()
    report["sys_path"] = sys.path[:]

    found = denial(".")
    steps.append(step("directory", "wrong", *found) if found else step("directory", "ok", os.getcwd()))
    unreadable = [found for found in map(denial, sys.path[1:]) if found]
    for text, remedy in unreadable:
        steps.append(step("sys.path", "note", text, remedy))
    if not unreadable:
        steps.append(step("sys.path", "ok", "%d entries, all of them readable" % len(sys.path)))
    try:
        importlib.import_module("ringway")
        steps.append(step("ringway", "ok", "can be imported"))
    except BaseException as error:
        text = "cannot be imported: %s" % error
        steps.append(step("ringway", "wrong", text, import_remedy(error, "ringway")))
    try:
        value = importlib.import_module(module)
    except BaseException as error:
        report["traceback"] = text_of(error)
        frame = frame_of(error)
        place = " (%s:%s, in %s)" % (frame.filename, frame.lineno, frame.name) if frame else ""
        text = "%s cannot be imported: %s: %s%s" % (module, type(error).__name__, error, place)
        steps.append(step("module", "wrong", text, import_remedy(error, module)))
        return
    steps.append(step("module", "ok", "%s is %s" % (module, getattr(value, "__file__", "built in"))))
    for attribute in attributes.split("."):
        try:
            value = getattr(value, attribute)
        except AttributeError as error:
            names = [name for name in dir(value) if not name.startswith("_") and callable(getattr(value, name, None))]
            remedy = "name one of: %s" % ", ".join(names[:10]) if names else "name the application"
            steps.append(step("callable", "wrong", str(error), remedy))
            return
    steps.append(check_callable(value, name))


def main(name: str, report_fd: int, trace_fd: int, timeout: float) -> None:
    faulthandler.enable(trace_fd, all_threads=False)
    faulthandler.dump_traceback_later(timeout, exit=True, file=trace_fd)
    version = sys.version.split()[0]
    report: Dict[str, Any] = {"interpreter": sys.executable, "version": version, "cwd": os.getcwd(), "steps": []}
    check(name, report)
    faulthandler.cancel_dump_traceback_later()
    with open(report_fd, "w") as file:
        json.dump(report, file)
    sys.stdout.flush()
    # Threads that the module has started are not waited for.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
