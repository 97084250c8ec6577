"""`ringway-wsgi check`: each thing that keeps an application from being imported is named, with its remedy."""

import json
import os
import pathlib
import pwd
import shutil
import subprocess
import sys

import pytest

from fcgi import PATIENCE, environment

GOOD = "def app(environ, start_response):\n    raise RuntimeError('it is not called')\n"


@pytest.fixture
def project(folder):
    folder.chmod(0o755)
    inside = folder / "srv" / "project"
    inside.mkdir(parents=True)
    return inside


def check(project, name, *flags, program=(), **more):
    """The exit code, the report and what went to stderr."""
    command = [*(program or (sys.executable, "-m", "ringway")), "check", name, "--json", *flags]
    env = {**environment(), **more.pop("env", {})}
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=PATIENCE, **more)
    assert done.returncode in (0, 1), done.stderr
    report = json.loads(done.stdout)
    assert report["well"] == (done.returncode == 0) and report["application"] == name
    assert all(step["remedy"] for step in report["steps"] if step["verdict"] == "wrong")
    return done.returncode, report, done.stderr


def steps(report, verdict):
    return {step["step"]: step for step in report["steps"] if step["verdict"] == verdict}


def test_all_is_well(project):
    (project / "good.py").write_text("print('chatter')\n" + GOOD)
    code, report, stderr = check(project, "good:app")
    assert code == 0 and "chatter" in stderr
    assert list(steps(report, "ok")) == ["interpreter", "directory", "sys.path", "ringway", "module", "callable"]
    assert report["cwd"] == report["sys_path"][0] == str(project) and report["interpreter"] == sys.executable
    assert report["as"] == pwd.getpwuid(os.geteuid()).pw_name


def test_the_text_for_people(project):
    (project / "bad.py").write_text("import os\nvalue = os.environ['DATABASE_URL_X']\n")
    command = [sys.executable, "-m", "ringway", "check", "bad:app"]
    done = subprocess.run(
        command, cwd=project, env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    wrong = next(line for line in lines if line.startswith("WRONG  module "))
    assert "bad cannot be imported: KeyError: 'DATABASE_URL_X' (%s/bad.py:2, in <module>)" % project in wrong
    assert "=> web servers and systemd start programs with few variables: set DATABASE_URL_X there" in done.stdout
    assert "Traceback (most recent call last):" in lines and "importlib" not in done.stdout
    for label in ("interpreter: ", "working directory: ", "sys.path: "):
        assert any(line.startswith(label) for line in lines)
    assert done.stderr.startswith("ringway-wsgi check: module: bad cannot be imported")


@pytest.mark.parametrize(
    "text, name, step, found, remedy",
    [
        (GOOD, "nowhere:app", "module", "No module named 'nowhere'", "run it in the directory that has nowhere"),
        ("import flask_spam\n" + GOOD, "m:app", "module", "'flask_spam' (", "-m pip install"),
        ("def f():\n  return 1 / 0\nf()\n", "m:app", "module", "ZeroDivisionError", "correct the module"),
        ("app = (\n", "m:app", "module", "SyntaxError", "correct the module"),
        ("open('data/x.db')\n", "m:app", "module", "data/x.db", "taken from the working directory"),
        ("raise SystemExit(3)\n", "m:app", "module", "SystemExit: 3", "__main__"),
        ("import os\nos._exit(3)\n", "m:app", "module", "exit code 3", "must not end the process"),
        ("import os\nos.abort()\n", "m:app", "module", "SIGABRT", "C extension"),
        (GOOD, "m:spam", "callable", "no attribute 'spam'", "name one of: app"),
        (GOOD, "m", "callable", "no attribute 'application'", "name one of: app"),
        ("app = None\n", "m:app", "callable", "NoneType, which cannot be called", "name the application"),
        ("def app(environ): pass\n", "m:app", "callable", "does not take two arguments", "PEP 3333"),
        ("def app(): pass\n", "m:app", "callable", "does not take two arguments", "is it a factory?"),
        ("async def app(scope, receive): pass\n", "m:app", "callable", "is asynchronous", "ASGI"),
        ("class A:\n  async def __call__(self, s, r, x): pass\napp = A()\n", "m:app", "callable", "asynchr", "ASGI"),
    ],
)
def test_what_is_wrong_is_named(project, text, name, step, found, remedy):
    (project / "m.py").write_text(text)
    code, report, stderr = check(project, name)
    assert code == 1 and report["wrong"] == step
    wrong = steps(report, "wrong")[step]
    assert found in wrong["found"] and remedy in wrong["remedy"], wrong
    assert "ringway-wsgi check: %s: " % step in stderr


@pytest.mark.parametrize(
    "text",
    [
        "class App:\n  def __call__(self, environ, start_response): pass\napp = App()\n",
        "class app:\n  def __init__(self, environ, start_response): pass\n",
        "import functools\ndef f(x, e, s): pass\napp = functools.partial(f, 1)\n",
        "def app(*arguments): pass\n",
        "class N:\n  def app(self, e, s): pass\nN.inner = N()\napp = N().inner.app\n",
    ],
)
def test_all_kinds_of_callables(project, text):
    (project / "m.py").write_text(text)
    assert check(project, "m:app")[0] == 0


def test_an_import_that_serves_by_itself(project):
    (project / "m.py").write_text("import time\ndef run():\n    time.sleep(1000)\nrun()\n")
    code, report, _ = check(project, "m:app", "--timeout", "1")
    assert code == 1 and "has not ended after 1 s" in steps(report, "wrong")["module"]["found"]
    assert 'm.py", line 3 in run' in report["traceback"]


def test_an_empty_environment(project):
    (project / "m.py").write_text("import os\nprint(sorted(os.environ))\nassert 'SPAM' in os.environ\n" + GOOD)
    assert check(project, "m:app", env={"SPAM": "1"})[0] == 0
    code, report, stderr = check(project, "m:app", "--empty-environment", env={"SPAM": "1"})
    assert code == 1 and "AssertionError" in steps(report, "wrong")["module"]["found"]
    printed = stderr.splitlines()[0]
    assert "'PATH'" in printed and "SPAM" not in printed and "PYTHONPATH" not in printed


def test_wrong_usage(project):
    for arguments in (["m:app", "--as", "nobody-of-that-name"], [":app"], []):
        command = [sys.executable, "-m", "ringway", "check", *arguments]
        done = subprocess.run(command, cwd=project, env=environment(), capture_output=True, timeout=PATIENCE)
        assert done.returncode == 2 and b"Traceback" not in done.stderr


class Other:
    """`check` as the user nobody, with an interpreter and a package that it may read."""

    def __init__(self, project):
        from ringway import _check, _check_child

        self.user = _check._user("nobody")
        self.packages = project.parent.parent / "packages"
        shutil.copytree(pathlib.Path(_check.__file__).parent, self.packages / "ringway")
        for python in (sys.executable, "/usr/bin/python3"):
            # /usr/bin/python3 may be older than the package allows.
            works = subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 9))"]).returncode == 0
            if works and not _check._as(self.user, lambda python=python: _check_child.denial(python)):
                self.python = python
                return
        pytest.skip("there is no interpreter that nobody may run")

    def check(self, project, name, *flags, python=None, path=()):
        path = os.pathsep.join(map(str, [self.packages, *path]))
        program = (str(python or self.python), "-m", "ringway")
        return check(project, name, *flags, program=program, env={"PYTHONPATH": path})


@pytest.fixture
def other(project):
    if os.geteuid() != 0:
        pytest.skip("only root may act as somebody else")
    return Other(project)


def test_as_another_user(project, other):
    (project / "m.py").write_text("import os\nprint('user', os.getuid(), os.environ['HOME'])\n" + GOOD)
    code, report, stderr = other.check(project, "m:app", "--as", "nobody")
    assert code == 0 and report["as"] == "nobody"
    assert "user %d %s" % (other.user.uid, other.user.home) in stderr


def test_the_first_directory_that_cannot_be_entered_is_named(project, other):
    (project / "m.py").write_text(GOOD)
    closed = project.parent
    closed.chmod(0o700)
    code, report, _ = other.check(project, "m:app", "--as", "nobody")
    wrong = steps(report, "wrong")
    assert code == 1 and report["wrong"] == "directory"
    for step in ("directory", "module"):
        text = wrong[step]["found"] + wrong[step]["remedy"]
        assert "may not enter %s (mode 0700, root:root)" % closed in text, wrong
        assert "chmod o+rx %s" % closed in text


def test_a_file_that_cannot_be_read_is_named(project, other):
    secret = project / "secret.txt"
    secret.write_text("x")
    secret.chmod(0o600)
    (project / "m.py").write_text("open(%r)\n" % str(secret))
    _, report, _ = other.check(project, "m:app", "--as", "nobody")
    wrong = steps(report, "wrong")["module"]
    assert "PermissionError" in wrong["found"] and "may not read %s (mode 0600" % secret in wrong["remedy"]
    (project / "m.py").chmod(0o600)
    _, report, _ = other.check(project, "m:app", "--as", "nobody")
    assert "may not read %s/m.py" % project in steps(report, "wrong")["module"]["remedy"]


def test_packages_that_cannot_be_read_are_named(project, other):
    packages = project / "packages"
    packages.mkdir()
    (packages / "spam_package.py").write_text("")
    packages.chmod(0o700)
    (project / "m.py").write_text("import spam_package\n" + GOOD)
    assert other.check(project, "m:app", path=[packages])[0] == 0
    _, report, _ = other.check(project, "m:app", "--as", "nobody", path=[packages])
    assert "may not enter %s" % packages in steps(report, "note")["sys.path"]["found"]
    assert "may not enter %s" % packages in steps(report, "wrong")["module"]["remedy"]


def test_an_interpreter_that_cannot_be_run_is_named(project, other):
    home = project.parent / "home"
    home.mkdir()
    # As a virtual environment has it.
    python = home / "python"
    python.symlink_to(other.python)
    home.chmod(0o700)
    (project / "m.py").write_text(GOOD)
    code, report, _ = other.check(project, "m:app", "--as", "nobody", python=python)
    assert code == 1 and report["wrong"] == "interpreter"
    assert "may not enter %s (mode 0700" % home in steps(report, "wrong")["interpreter"]["found"]
