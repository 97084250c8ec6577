"""`ringway-wsgi check MODULE:CALLABLE`: whether the application can be imported, by whom and where it is to run.

```text
interpreter ▶ directory ▶ sys.path ▶ ringway ▶ module ▶ callable
```

Each of them is a step; the first that is wrong has its remedy. The application is imported and not called.
"""

import argparse
import json
import os
import pathlib
import pwd
import signal
import subprocess
import sys
import traceback
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from . import _check_child

#: What a process has that a web server spawned: little more than this.
_PATH = "/usr/local/bin:/usr/bin:/bin"
_MARKS = {"ok": "ok", "note": "note", "wrong": "WRONG"}


class User(NamedTuple):
    """Somebody else than who runs this."""

    name: str
    uid: int
    gid: int
    groups: List[int]
    home: str


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="ringway-wsgi check",
        description="Says what keeps an application from being imported, and what to do about it. It is not called.",
        epilog="Exit codes: 0 all is well, 1 something is wrong, 2 wrong usage.",
    )
    result.add_argument("application", metavar="MODULE:CALLABLE", help="such as app:app")
    result.add_argument(
        "--as", dest="user", metavar="USER", type=_user, help="user that the server is to run as; takes root"
    )
    result.add_argument(
        "--empty-environment",
        action="store_true",
        help="with no variables but PATH, as web servers and systemd start programs",
    )
    result.add_argument(
        "--timeout", type=float, default=30, metavar="SECONDS", help="what the import is given [default: %(default)g]"
    )
    result.add_argument("--json", action="store_true", help="print the steps as JSON")
    return result


def _user(text: str) -> User:
    try:
        found = pwd.getpwuid(int(text)) if text.isdigit() else pwd.getpwnam(text)
    except KeyError:
        raise argparse.ArgumentTypeError("there is no user %r here (see `getent passwd`)" % text) from None
    groups = os.getgrouplist(found.pw_name, found.pw_gid)
    return User(found.pw_name, found.pw_uid, found.pw_gid, groups, found.pw_dir)


def main(arguments: List[str]) -> int:
    options = parser().parse_args(arguments)
    user: Optional[User] = options.user
    if user and user.uid == os.geteuid():
        user = None
    if user and os.geteuid() != 0:
        parser().error("--as %s: only root may act as somebody else; run it with sudo" % user.name)
    module, _, _ = options.application.partition(":")
    if not module:
        parser().error("%r is not MODULE:CALLABLE, such as app:application" % options.application)
    report = _report(options, user)
    wrong = next((step for step in report["steps"] if step["verdict"] == "wrong"), None)
    if options.json:
        head = {
            "application": options.application,
            "as": user.name if user else pwd.getpwuid(os.geteuid()).pw_name,
            "well": wrong is None,
            "wrong": wrong and wrong["step"],
        }
        print(json.dumps({**head, **report}, indent=2))
    else:
        sys.stdout.write(_text(report))
    if wrong is None:
        return 0
    sys.stdout.flush()
    sys.stderr.write("ringway-wsgi check: %(step)s: %(found)s; %(remedy)s\n" % wrong)
    return 1


def _report(options: argparse.Namespace, user: Optional[User]) -> Dict[str, Any]:
    """What the child says, or what became of it."""
    executable = sys.executable
    denied = _as(user, lambda: _check_child.denial(executable))
    if denied:
        return {"interpreter": executable, "steps": [_check_child.step("interpreter", "wrong", *denied)]}
    (report_fd, report_end), (trace_fd, trace_end) = os.pipe(), os.pipe()
    program = pathlib.Path(_check_child.__file__).read_text(encoding="utf-8")
    command = [executable, "-c", program, options.application, str(report_end), str(trace_end), str(options.timeout)]
    identity: Dict[str, Any] = {}
    if user:
        identity = {"user": user.uid, "group": user.gid, "extra_groups": user.groups}
    child = subprocess.Popen(
        command,
        env=_environment(options, user),
        stdin=subprocess.DEVNULL,
        # Of what the application says nothing is part of the report.
        stdout=2,
        pass_fds=(report_end, trace_end),
        **identity,
    )
    os.close(report_end)
    os.close(trace_end)
    with open(report_fd, "rb") as report_file, open(trace_fd, errors="replace") as trace_file:
        text = report_file.read()
        code = child.wait()
        trace = trace_file.read()
    if text:
        report: Dict[str, Any] = json.loads(text)
        found = "%s, Python %s" % (report["interpreter"], report["version"])
        report["steps"].insert(0, _check_child.step("interpreter", "ok", found))
        return report
    module = options.application.partition(":")[0]
    if code < 0:
        found = "%s ended the interpreter with %s when it was imported" % (module, signal.Signals(-code).name)
        remedy = "see the traceback; a package with a C extension is broken, or for another Python"
    elif trace.startswith("Timeout"):
        found = "the import of %s has not ended after %g s" % (module, options.timeout)
        remedy = 'does it serve by itself? put app.run() below `if __name__ == "__main__":`'
    else:
        found = "%s ended the interpreter with exit code %d when it was imported" % (module, code)
        remedy = "see above what it says; a module that is imported must not end the process"
    steps = [_check_child.step("interpreter", "ok", executable), _check_child.step("module", "wrong", found, remedy)]
    return {"interpreter": executable, "cwd": os.getcwd(), "steps": steps, "traceback": trace}


def _environment(options: argparse.Namespace, user: Optional[User]) -> Dict[str, str]:
    if options.empty_environment:
        return {"PATH": _PATH}
    if not user:
        return dict(os.environ)
    return {**os.environ, "HOME": user.home, "USER": user.name, "LOGNAME": user.name}


def _as(user: Optional[User], look: Callable[[], Optional[Tuple[str, str]]]) -> Optional[Tuple[str, str]]:
    """What `look` returns in a process of that user."""
    if not user:
        return look()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(user.groups)
            os.setgid(user.gid)
            os.setuid(user.uid)
            os.write(writer, json.dumps(look()).encode())
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        text = file.read()
    os.waitpid(child, 0)
    found = json.loads(text or b"null")
    return tuple(found) if found else None


def _text(report: Dict[str, Any]) -> str:
    lines = []
    for step in report["steps"]:
        lines.append("%-6s %-12s %s" % (_MARKS[step["verdict"]], step["step"], step["found"]))
        if step["remedy"]:
            lines.append("%19s => %s" % ("", step["remedy"]))
    if report.get("traceback"):
        lines += ["", report["traceback"].rstrip("\n")]
    if any(step["verdict"] == "wrong" for step in report["steps"]):
        lines += ["", "interpreter: %s" % report["interpreter"]]
        if "cwd" in report:
            lines.append("working directory: %s" % report["cwd"])
        if "sys_path" in report:
            lines.append("sys.path: %s" % report["sys_path"])
    return "\n".join(lines) + "\n"
