//! Where applications see themselves mounted behind web servers that are told as little as possible: no line that
//! makes SCRIPT_NAME and PATH_INFO right, which `ringway conf` has.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use ringway::{Handle, Request as Asked, Response, Server, ready};

use crate::support::conf;
use crate::support::process::{Process, Ringway, free_address};
use crate::support::web::{Request, find};

/// `SCRIPT_NAME|PATH_INFO`.
fn show(request: Asked) -> Response {
    let parts = [request.script_name(), request.path_info()];
    Response::text(parts.map(|part| String::from_utf8_lossy(&part).into_owned()).join("|"))
}

/// An application of this process at `socket`.
fn application(socket: &Path, mount: &str) -> Handle {
    let mut config = ringway::Config::default();
    (config.workers, config.socket_mode) = (1, 0o666);
    let server = Server::builder().config(config).listen(format!("unix:{}", socket.display()));
    server.responder(mount, ready(show)).start().expect("it starts")
}

/// Starts `program` with the file that `configure` makes of a folder, an address and the application's socket; asks
/// for each path below each mount.
fn visit(
    program: &str,
    arguments: &[&str],
    configure: impl Fn(&Path, SocketAddr, &Path) -> String,
    asked: &[(&str, &str, &str)],
) {
    let Some(path) = find(program) else { return };
    for (mount, target, seen) in asked {
        let folder = conf::folder();
        let (socket, address) = (folder.path().join("socket"), free_address());
        let _application = application(&socket, mount);
        let file = folder.path().join("web.conf");
        std::fs::write(&file, configure(folder.path(), address, &socket)).expect("a file can be written");
        let mut command = Command::new(&path);
        command.args(arguments).arg(&file).stdin(Stdio::null()).env("HOME", folder.path());
        let mut web = Process::start(program, &mut command, folder.path());
        web.wait_until("accepts", || Ringway::accepts(&address.to_string()));
        let answer = Request::get(target).send(address);
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, *seen),
            "{program}: {target} below {mount}"
        );
    }
}

const USUAL: &[(&str, &str, &str)] =
    &[("/", "/a%20b/x/y?q", "|/a b/x/y"), ("/app", "/app/a%20b?q", "/app|/a b"), ("/app", "/app", "/app|")];

#[test]
fn nginx_with_its_own_params_alone() {
    let configure = |folder: &Path, address: SocketAddr, socket: &Path| {
        let (folder, socket) = (folder.display(), socket.display());
        format!(
            "daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}
            http {{
                access_log off; client_body_temp_path {folder}; fastcgi_temp_path {folder};
                proxy_temp_path {folder}; scgi_temp_path {folder}; uwsgi_temp_path {folder};
                server {{
                    listen {address};
                    location / {{ include /etc/nginx/fastcgi_params; fastcgi_pass unix:{socket}; }}
                    location /stripped/ {{
                        rewrite ^/stripped(.*)$ $1 break;
                        include /etc/nginx/fastcgi_params; fastcgi_pass unix:{socket};
                    }}
                    location /file/ {{
                        rewrite ^/file(.*)$ /run.fcgi$1 break;
                        include /etc/nginx/fastcgi_params; fastcgi_pass unix:{socket};
                    }}
                }}
            }}"
        )
    };
    let more = [("/stripped", "/stripped/x%25", "/stripped|/x%"), ("/", "/file/x", "|/x")];
    visit("nginx", &["-e", "/dev/null", "-c"], configure, &[USUAL, &more].concat());
}

#[test]
fn apache_with_proxy_pass_alone() {
    let configure = |folder: &Path, address: SocketAddr, socket: &Path| {
        let modules = ["mpm_event", "authz_core", "proxy", "proxy_fcgi"];
        let load = |name: &str| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n");
        let loaded: String = modules.map(load).concat();
        let (folder, socket) = (folder.display(), socket.display());
        format!(
            "ServerName localhost\nPidFile {folder}/pid\nErrorLog {folder}/error.log\nUser www-data\nGroup www-data
            {loaded}
            Listen {address}
            ProxyPass / unix:{socket}|fcgi://localhost/
            <Location />\nRequire all granted\n</Location>\n"
        )
    };
    visit("apache2", &["-DFOREGROUND", "-f"], configure, USUAL);
}

#[test]
fn lighttpd_without_fix_root_scriptname() {
    let configure = |folder: &Path, address: SocketAddr, socket: &Path| {
        let (folder, socket, port) = (folder.display(), socket.display(), address.port());
        format!(
            "server.document-root = \"{folder}\"\nserver.bind = \"127.0.0.1\"\nserver.port = {port}
            server.modules = (\"mod_fastcgi\")
            fastcgi.server = (\"/\" => ((\"socket\" => \"{socket}\", \"check-local\" => \"disable\")))\n"
        )
    };
    visit("lighttpd", &["-D", "-f"], configure, USUAL);
}

#[test]
fn haproxy_without_path_info() {
    let configure = |folder: &Path, address: SocketAddr, socket: &Path| {
        let (folder, socket) = (folder.display(), socket.display());
        format!(
            "defaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s
            \nfcgi-app application\n docroot {folder}\nfrontend visitors\n bind {address}\n default_backend behind
            \nbackend behind\n use-fcgi-app application\n server one unix@{socket} proto fcgi\n"
        )
    };
    visit("haproxy", &["-db", "-f"], configure, USUAL);
}

#[test]
fn h2o_below_a_path() {
    let configure = |folder: &Path, address: SocketAddr, socket: &Path| {
        let (folder, socket, port) = (folder.display(), socket.display(), address.port());
        let place = |path: &str| {
            format!(
                "      {path}:\n        fastcgi.connect:\n          type: unix\n          port: {socket}\n"
            )
        };
        let places = place("/app") + &place("/");
        format!(
            "user: root\nerror-log: {folder}/error.log\nlisten:\n  host: 127.0.0.1\n  port: {port}
hosts:\n  default:\n    paths:\n{places}"
        )
    };
    visit("h2o", &["-c"], configure, USUAL);
}

#[test]
fn caddy_without_split() {
    let configure = |_: &Path, address: SocketAddr, socket: &Path| {
        let (socket, port) = (socket.display(), address.port());
        format!(
            "{{\n admin off\n}}\nhttp://:{port} {{\n bind 127.0.0.1
            reverse_proxy unix/{socket} {{\n transport fastcgi\n }}\n}}\n"
        )
    };
    visit("caddy", &["run", "--adapter", "caddyfile", "--config"], configure, USUAL);
}
