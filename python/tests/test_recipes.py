"""The recipes of Flask's page "Deploying with FastCGI": a Flask application, the servers that the page named, and the
configurations that `ringway conf` prints or that people wrote for flup."""

import contextlib
import os
import signal
import socket
import subprocess
import time

import pytest

import visitors
import web
from fcgi import HERE, PATIENCE, environment, wsgi

MOUNTS = pytest.mark.parametrize("mount", ["/", "/my/app"])
APACHE_MODULES = "/usr/lib/apache2/modules"


@contextlib.contextmanager
def standing(folder, server, mount, *arguments, edit=lambda text: text):
    """`ringway-wsgi flaskapp:app`, to which a web server connects."""
    with wsgi(folder, "flaskapp:app", "--socket-mode", "666", "--mount", mount) as application:
        application.wait_for_log("listening on")
        listen = "unix:%s" % application.address
        with web.site(folder, server, mount, "--listen", listen, *arguments, edit=edit) as site:
            yield site


@MOUNTS
def test_apache_connects(folder, mount):
    with standing(folder, "apache", mount) as site:
        visitors.all_of_flask(site)


@MOUNTS
def test_lighttpd_connects(folder, mount):
    with standing(folder, "lighttpd", mount) as site:
        visitors.all_of_flask(site)


@MOUNTS
def test_apache_starts_a_fcgi_file(folder, mount):
    """mod_fcgid, in place of mod_fastcgi's FastCgiServer."""
    file = web.fcgi_file(folder, "flaskapp")
    with web.site(folder, "apache", mount, "--way", "fcgid", "--app", file, "--processes", "2") as site:
        visitors.all_of_flask(site)
        visitors.processes(site, 2)
        assert site.text("/environ/wsgi.multiprocess") == "True"


def test_apache_starts_ringway_wsgi(folder):
    web.fcgi_file(folder, "flaskapp")
    command = "/usr/bin/env -C %s %s -m ringway flaskapp:app" % (folder, web.interpreter(folder))
    with web.site(folder, "apache", "/my/app", "--way", "fcgid", "--app", command) as site:
        visitors.all_of_flask(site)


@MOUNTS
def test_apache_htaccess_and_a_fcgi_file(folder, mount):
    """A shared host: .htaccess rewrites all paths to the file, and no ScriptNameStripper takes its name away."""
    root, port = folder / "site", web.free_port()
    directory = root / mount.strip("/")
    directory.mkdir(parents=True)
    (directory / ".htaccess").write_text(web.conf("apache", "--way", "htaccess", "--mount", mount))
    (directory / "robots.txt").write_text("a file\n")
    web.fcgi_file(directory, "flaskapp")
    if not os.path.exists(APACHE_MODULES + "/mod_fcgid.so"):
        web.missing("libapache2-mod-fcgid")
    names = ["mpm_event", "authz_core", "fcgid", "rewrite", "mime"]
    modules = "".join("LoadModule %s_module %s/mod_%s.so\n" % (name, APACHE_MODULES, name) for name in names)
    state = folder / "apache"
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
def test_lighttpd_starts_a_fcgi_file(folder, mount):
    """bin-path, max-procs and bin-environment."""
    file = web.fcgi_file(folder, "flaskapp")
    listen = "unix:%s/lighttpd.sock" % folder
    arguments = ["--way", "spawn", "--listen", listen, "--app", file, "--processes", "2"]

    def more(text):
        assert '"max-procs" => 2' in text
        return text.replace('"RINGWAY_WORKERS" => "1"', '"RINGWAY_WORKERS" => "1", "RINGWAY_SEND_TIMEOUT" => "77s"')

    with web.site(folder, "lighttpd", mount, *arguments, edit=more) as site:
        visitors.all_of_flask(site)
        for pid in visitors.processes(site, 2):
            with open("/proc/%d/environ" % pid, "rb") as variables:
                assert b"RINGWAY_SEND_TIMEOUT=77s" in variables.read().split(b"\0")
        assert site.text("/environ/wsgi.multiprocess") == "True"
    wait_until(lambda: not listens(folder / "lighttpd.sock-0"))


def listens(path):
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


#: What the page had for lighttpd: the application as a program's name, and all paths rewritten to it.
LIGHTTPD_OF_THE_PAGE = """
server.modules += ( "mod_fastcgi", "mod_rewrite", "mod_alias" )
server.bind = "127.0.0.1"
server.port = {port}
server.document-root = "{folder}"
server.errorlog = "{folder}/lighttpd/error.log"
server.upload-dirs = ( "{folder}/lighttpd" )

fastcgi.server = ("/yourapplication.fcgi" =>
    ((
        "socket" => "{folder}/yourapplication-fcgi.sock",
        "bin-path" => "{folder}/yourapplication.fcgi",
        "check-local" => "disable",
        "max-procs" => 1
    ))
)

alias.url = (
    "/files/" => "{folder}/static/",
)

url.rewrite-once = (
    "^(/files($|/.*))$" => "$1",
    "^(/.*)$" => "/yourapplication.fcgi$1"
)
"""


def test_lighttpd_as_the_page_had_it(folder):
    """At the root, and without LighttpdCGIRootFix."""
    web.fcgi_file(folder, "flaskapp", name="yourapplication.fcgi")
    port = web.free_port()
    with web.running(folder, "lighttpd", LIGHTTPD_OF_THE_PAGE.format(folder=folder, port=port), port) as front:
        site = web.Site(port, "/", front)
        visitors.all_of_flask(site)
        assert site.text("/files/style.css") == (HERE / "static/style.css").read_text()


#: What the page had for nginx.
NGINX_OF_THE_PAGE = {
    "/yourapplication": """
location = /yourapplication { rewrite ^ /yourapplication/ last; }
location /yourapplication { try_files $uri @yourapplication; }
location @yourapplication {
    include /etc/nginx/fastcgi_params;
    fastcgi_split_path_info ^(/yourapplication)(.*)$;
    fastcgi_param PATH_INFO $fastcgi_path_info;
    fastcgi_param SCRIPT_NAME $fastcgi_script_name;
    fastcgi_param HTTP_HOST $http_host;
    fastcgi_pass unix:%s;
}
""",
    "/": """
location / { try_files $uri @yourapplication; }
location @yourapplication {
    include /etc/nginx/fastcgi_params;
    fastcgi_param PATH_INFO $fastcgi_script_name;
    fastcgi_param SCRIPT_NAME "";
    fastcgi_param HTTP_HOST $http_host;
    fastcgi_pass unix:%s;
}
""",
}


@pytest.mark.parametrize("mount", NGINX_OF_THE_PAGE)
def test_nginx_as_the_page_had_it(folder, mount):
    """The application binds a socket by `bindAddress`, and knows of no mount."""
    address = folder / "yourapplication-fcgi.sock"
    file = web.fcgi_file(folder, "flaskapp", ", bindAddress=%r, umask=0o000" % str(address))

    def edit(text):
        # In place of the location that is printed, the page's.
        start = text.index("        location ")
        return text[:start] + NGINX_OF_THE_PAGE[mount] % address + "root %s; } }\n" % folder

    process = subprocess.Popen([file], stdin=subprocess.DEVNULL, env=environment())
    try:
        wait_until(lambda: listens(address))
        with web.site(folder, "nginx", mount, "--listen", "unix:%s" % address, edit=edit) as site:
            # The page's location has /yourapplication-old, too.
            for look in (visitors.addresses, visitors.forms, visitors.sessions):
                look(site)
            assert site.text("/") == "index at %s/" % site.prefix
    finally:
        process.terminate()
        process.wait(PATIENCE)


def wait_until(is_so):
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_spawn_fcgi_with_several_processes(folder):
    file, address, pid_file = web.fcgi_file(folder, "flaskapp"), folder / "app.sock", folder / "pids"
    command = [web.find("spawn-fcgi"), "-s", address, "-M", "0666", "-P", pid_file, "-F", "2", "--", file]
    subprocess.run(command, check=True, env=environment(), stdout=subprocess.DEVNULL)
    pids = {int(pid) for pid in pid_file.read_text().split()}
    try:
        assert len(pids) == 2
        with web.site(folder, "nginx", "/", "--listen", "unix:%s" % address) as site:
            visitors.all_of_flask(site)
            assert visitors.processes(site, 2) == pids
            # The page's way to stop them.
            os.kill(min(pids), signal.SIGTERM)
            wait_until(lambda: not runs(min(pids)))
            assert visitors.processes(site, 1) == {max(pids)}
    finally:
        for pid in filter(runs, pids):
            os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not any(map(runs, pids)))


def runs(pid):
    """Zombies do not: the processes are nobody's children here."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), open("/proc/%d/cmdline" % pid, "rb") as line:
        return bool(line.read())
    return False


@MOUNTS
def test_supervisor_starts_two_processes(folder, mount):
    file, listen = web.fcgi_file(folder, "flaskapp"), "unix:%s/app.sock" % folder
    text = web.conf(
        "supervisor", "--listen", listen, "--mount", mount, "--processes", "2", "--app", file,
        "--state-dir", folder / "supervisor",
    )
    with web.running(folder, "supervisor", text) as supervisor:
        wait_until(lambda: listens(folder / "app.sock"))
        with web.site(folder, "nginx", mount, "--listen", listen) as site:
            visitors.all_of_flask(site)
            pids = visitors.processes(site, 2)
            # One of them is replaced; visitors who come meanwhile are served by the other.
            control = [web.find("supervisorctl"), "-c", folder / "supervisor/test.conf"]
            subprocess.run([*control, "restart", "ringway:ringway_0"], check=True, stdout=subprocess.DEVNULL)
            assert len(visitors.processes(site, 2) & pids) == 1
    assert not any(map(runs, pids)), supervisor.log()
