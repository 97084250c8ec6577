"""The recipes of docs/python.md: the lines of the page, with the places of a test in place of the page's."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import ringway
import web
from fcgi import HERE, PATIENCE, Server

PAGE = HERE.parent.parent / "docs/python.md"
#: Where the page mounts the application.
MOUNT = "/app"


class Recipe:
    """A section of the page, for an application below `mount` whose files are in `folder`."""

    def __init__(self, folder, title, mount="/"):
        page = PAGE.read_text()
        self.folder, self.mount = folder, mount
        # Web servers that root starts become somebody else.
        folder.chmod(0o755)
        section = page.split("\n### %s\n" % title)[1].split("\n##")[0]
        self.blocks = re.findall(r"```(\w+)\n(.*?)```", section, re.S)
        self.file = re.search(r"```python\n(#!.*?)```", page.split("\n## Recipes ")[1], re.S)[1]
        shutil.copy(HERE / "flaskapp.py", folder / "app.py")
        shutil.copytree(HERE / "static", folder / "static", dirs_exist_ok=True)

    def here(self, text):
        text = text.replace("/srv/app/venv/bin/python", str(interpreter(self.folder)))
        return text.replace("/srv/app", str(self.folder)).replace("/run/app", str(self.folder))

    def block(self, language, index=0):
        return self.here([text for name, text in self.blocks if name == language][index])

    def words(self, *start):
        """The line that starts so, without what it says of the mount."""
        lines = map(shlex.split, self.block("sh").splitlines())
        words = next(words for words in lines if words[: len(start)] == list(start))
        if "--mount" in words:
            index = words.index("--mount")
            assert words[index + 1] == MOUNT
            del words[index : index + 2]
        if os.geteuid() != 0 and "--socket-group" in words:
            index = words.index("--socket-group")
            del words[index : index + 2]
        return words[len(start) :]

    def fcgi_file(self, directory=None, run=None):
        """The page's app.fcgi, beside the application; with `run` for its last line."""
        directory = directory or self.folder
        text = self.here(self.file)
        if run:
            text = text.replace("WSGIServer(app).run()\n", run)
            assert run in text
        file = directory / "app.fcgi"
        file.write_text(text)
        file.chmod(0o755)
        if directory != self.folder:
            shutil.copy(self.folder / "app.py", directory)
            shutil.copytree(self.folder / "static", directory / "static", dirs_exist_ok=True)
        return file

    def application(self, command=(sys.executable, "-m", "ringway")):
        """What the page starts with ringway-wsgi, listening."""
        server = Server(self.folder, [*command, *self.words("ringway-wsgi"), "--mount", self.mount], cwd=self.folder)
        server.wait_for_log("listening on")
        return server

    def site(self, server, edit=lambda text: text):
        """The page's web server, for visitors."""
        return web.site(self.folder, server, self.mount, *self.words("ringway", "conf", server), edit=edit)


def interpreter(folder):
    """A path for the first line of a file that the web server starts as its user."""
    if os.geteuid() != 0:
        return sys.executable
    try:
        subprocess.run([sys.executable, "-c", ""], user="www-data", check=True, timeout=PATIENCE)
        return sys.executable
    except OSError:
        pass
    # It is root's alone. Debian's takes the same packages.
    path = [part for part in sys.path if part.endswith("-packages")]
    path.append(os.path.dirname(os.path.dirname(ringway.__file__)))
    file = folder / "python"
    file.write_text('#!/bin/sh\nPYTHONPATH=%s exec /usr/bin/python3 "$@"\n' % ":".join(path))
    file.chmod(0o755)
    return file
