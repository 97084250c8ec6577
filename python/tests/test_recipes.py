"""The recipes of docs/python.md, which were those of Flask's page "Deploying with FastCGI", with the servers that the
page named and a Flask application: the lines are read from the page."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest

import visitors
import web
from fcgi import HERE, PATIENCE, environment
from recipes import MOUNT, Recipe, interpreter
from ringway import _command

MOUNTS = pytest.mark.parametrize("mount", ["/", "/my/app"])
APACHE_MODULES = "/usr/lib/apache2/modules"


@MOUNTS
def test_nginx(folder, mount):
    recipe = Recipe(folder, "A new application behind nginx", mount)
    with recipe.application(), recipe.site("nginx") as site:
        visitors.all_of_flask(site)


def test_a_new_user(folder, monkeypatch):
    """Who has a Flask application, Python and nginx needs two commands, and what `conf` prints."""
    wheel = os.environ.get("RINGWAY_WHEEL")
    if not wheel:
        pytest.skip("RINGWAY_WHEEL is not set: make python builds the wheel")
    recipe = Recipe(folder, "A new application behind nginx", MOUNT)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    programs = folder / "venv/bin"
    subprocess.run([programs / "pip", "install", "-q", "flask"], check=True)

    assert recipe.words("pip", "install") == ["ringway-*.whl"]
    subprocess.run([programs / "pip", "install", "-q", wheel], check=True)
    monkeypatch.setenv("RINGWAY_COMMAND", str(programs / "ringway"))
    with recipe.application([programs / "ringway-wsgi"]), recipe.site("nginx") as site:
        visitors.all_of_flask(site)


@pytest.mark.parametrize("mount", [MOUNT, "/"])
def test_nginx_as_it_was(folder, mount):
    """The application binds the socket by `bindAddress`, and knows of no mount."""
    recipe = Recipe(folder, "nginx as it was", mount)
    file = recipe.fcgi_file(run=recipe.block("python"))
    listen = "unix:%s/app.sock" % folder

    def edit(text):
        # The page's locations in place of the one that is printed.
        start = text.index("        location ")
        location = recipe.block("nginx", [MOUNT, "/"].index(mount))
        params = "include /etc/nginx/fastcgi_params;"
        assert params in location
        location = location.replace(params, params + " fastcgi_param HTTP_HOST $host$host_port;")
        return text[:start] + "root %s;\n" % (folder / "nginx") + location + "} }\n"

    process = subprocess.Popen([file], stdin=subprocess.DEVNULL, env=environment(), cwd="/")
    try:
        web.wait_until(lambda: listens(folder / "app.sock"))
        with web.site(folder, "nginx", mount, "--listen", listen, edit=edit) as site:
            # All but the namesake of the mount, which the page's location takes as well.
            assert site.text("/") == "index at %s/" % site.prefix
            for look in (visitors.addresses, visitors.forms, visitors.sessions, visitors.helpers_of_flask):
                look(site)
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0


@MOUNTS
@pytest.mark.parametrize("server", ["apache", "lighttpd"])
def test_servers_that_connect(folder, server, mount):
    recipe = Recipe(folder, {"apache": "Apache", "lighttpd": "lighttpd"}[server] + " that connects", mount)
    with recipe.application(), recipe.site(server) as site:
        visitors.all_of_flask(site)


@MOUNTS
def test_apache_that_starts_the_application(folder, mount):
    """mod_fcgid."""
    recipe = Recipe(folder, "Apache that starts the application", mount)
    recipe.fcgi_file()
    with recipe.site("apache") as site:
        visitors.all_of_flask(site)
        visitors.processes(site, 2)
        assert site.text("/environ/wsgi.multiprocess") == "True"


def test_apache_that_starts_ringway_wsgi(folder):
    Recipe(folder, "Apache that starts the application")
    command = "/usr/bin/env -C %s %s -m ringway app:app" % (folder, interpreter(folder))
    with web.site(folder, "apache", "/my/app", "--way", "fcgid", "--app", command) as site:
        visitors.all_of_flask(site)


def test_apache_that_starts_several_processes_at_once(folder):
    """mod_fcgid knows one process, which has others for its requests, and takes them along at the end."""
    Recipe(folder, "Apache that starts the application")
    command = "/usr/bin/env -C %s %s -m ringway app:app --processes 2" % (folder, interpreter(folder))
    flags = ["--way", "fcgid", "--app", command, "--processes", "1"]
    with web.site(folder, "apache", "/my/app", *flags) as site:
        visitors.all_of_flask(site)
        pids = visitors.processes(site, 2)
    assert len(pids) == 2
    web.wait_until(lambda: not any(os.path.exists("/proc/%d" % pid) for pid in pids))


@MOUNTS
def test_apache_htaccess_and_nothing_else(folder, mount):
    """A shared host, where the configuration is somebody else's."""
    recipe = Recipe(folder, "Apache, .htaccess and nothing else", mount)
    root, port, state = folder / "site", web.free_port(), folder / "apache"
    directory = root / mount.strip("/")
    directory.mkdir(parents=True)
    recipe.fcgi_file(directory)
    access = web.conf(*recipe.words("ringway", "conf"), "--mount", mount)
    (directory / ".htaccess").write_text(access)
    (directory / "robots.txt").write_text("a file\n")
    names = ["mpm_event", "authz_core", "fcgid", "rewrite", "mime"]
    if not all(os.path.exists("%s/mod_%s.so" % (APACHE_MODULES, name)) for name in names):
        web.missing("libapache2-mod-fcgid")
    modules = "".join("LoadModule %s_module %s/mod_%s.so\n" % (name, APACHE_MODULES, name) for name in names)
    host = """
ServerName localhost
PidFile {state}/apache2.pid
ErrorLog {state}/error.log
User www-data
Group www-data
TypesConfig /etc/mime.types
FcgidIPCDir {state}/fcgid
FcgidProcessTableFile {state}/fcgid/shm
FcgidMaxRequestLen 1000000
Listen 127.0.0.1:{port}
DocumentRoot {root}
<Directory {root}>
    AllowOverride All
</Directory>
"""
    text = modules + host.format(state=state, port=port, root=root)
    with web.running(folder, "apache", text, port) as front:
        site = web.Site(port, mount, front)
        visitors.all_of_flask(site)
        assert site.text("/robots.txt") == "a file\n"
        # The file's own name leads there as well.
        assert site.text("/app.fcgi/") == "index at %s/" % site.prefix


@MOUNTS
def test_lighttpd_that_starts_the_application(folder, mount):
    """bin-path, max-procs and bin-environment."""
    recipe = Recipe(folder, "lighttpd that starts the application", mount)
    recipe.fcgi_file()

    def more(text):
        assert '"max-procs" => 2' in text
        return text.replace('"RINGWAY_WORKERS" => "1"', '"RINGWAY_WORKERS" => "1", "RINGWAY_SEND_TIMEOUT" => "77s"')

    with recipe.site("lighttpd", edit=more) as site:
        visitors.all_of_flask(site)
        for pid in visitors.processes(site, 2):
            with open("/proc/%d/environ" % pid, "rb") as variables:
                assert b"RINGWAY_SEND_TIMEOUT=77s" in variables.read().split(b"\0")
        assert site.text("/environ/wsgi.multiprocess") == "True"
    web.wait_until(lambda: not listens(folder / "lighttpd.sock-0"))


def test_lighttpd_as_it_was(folder):
    """At the root, and without LighttpdCGIRootFix."""
    recipe = Recipe(folder, "lighttpd as it was")
    recipe.fcgi_file()
    port = web.free_port()
    around = """
server.modules += ( "mod_fastcgi", "mod_rewrite", "mod_alias" )
server.bind = "127.0.0.1"
server.port = {port}
server.document-root = "{folder}/lighttpd"
server.errorlog = "{folder}/lighttpd/error.log"
server.upload-dirs = ( "{folder}/lighttpd" )
"""
    text = around.format(folder=folder, port=port) + recipe.block("lighttpd")
    with web.running(folder, "lighttpd", text, port) as front:
        site = web.Site(port, "/", front)
        visitors.all_of_flask(site)
        assert site.text("/files/style.css") == (HERE / "static/style.css").read_text()


def listens(path):
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def runs(pid):
    """Whether the process has not ended; one that nobody has waited for has."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), open("/proc/%d/cmdline" % pid, "rb") as line:
        return bool(line.read())
    return False


def test_spawn_fcgi(folder):
    """Several processes on one socket."""
    recipe = Recipe(folder, "spawn-fcgi")
    recipe.fcgi_file()
    command = [web.find("spawn-fcgi"), *recipe.words("spawn-fcgi")]
    subprocess.run(command, check=True, env=environment(), cwd="/", stdout=subprocess.DEVNULL)
    pids = {int(pid) for pid in (folder / "pids").read_text().split()}
    try:
        assert len(pids) == 2
        with recipe.site("nginx") as site:
            visitors.all_of_flask(site)
            assert visitors.processes(site, 2) == pids
            os.kill(min(pids), signal.SIGTERM)
            web.wait_until(lambda: not runs(min(pids)))
            assert visitors.processes(site, 1) == {max(pids)}
    finally:
        for pid in filter(runs, pids):
            os.kill(pid, signal.SIGTERM)
    web.wait_until(lambda: not any(map(runs, pids)))


def test_supervisor(folder):
    mount = "/my/app"
    recipe = Recipe(folder, "supervisor", mount)
    recipe.fcgi_file()
    state = folder / "supervisor"
    text = web.conf(*recipe.words("ringway", "conf"), "--mount", mount, "--state-dir", state)
    with web.running(folder, "supervisor", text) as supervisor:
        web.wait_until(lambda: listens(folder / "app.sock"))
        with recipe.site("nginx") as site:
            visitors.all_of_flask(site)
            pids = visitors.processes(site, 2)
            # One of them is replaced while the other serves.
            control = [web.find("supervisorctl"), "-c", state / "test.conf", "restart", "ringway:ringway_0"]
            subprocess.run(control, check=True, stdout=subprocess.DEVNULL)
            assert len(visitors.processes(site, 2) & pids) == 1
    assert not any(map(runs, pids)), supervisor.log()


def test_a_package_without_the_command_says_so(monkeypatch, folder, capsys):
    monkeypatch.setattr(_command, "PROGRAM", folder / "ringway")
    with pytest.raises(SystemExit) as ended:
        _command.main()
    assert ended.value.code == 1
    assert "built without the command ringway" in capsys.readouterr().err
