//! nginx: by socket file and by port, connections closed after each request and kept, at the root and below a
//! prefix; request and response buffered, as is the default, and as they come.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::pages::{self, Front};
use crate::support::process::{Process, Ringway, allows, free_address};
use crate::support::web::{Request, find};

/// A way to put the probe behind nginx.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    pub(crate) driver: &'static str,
    pub(crate) socket: Socket,
    pub(crate) connections: Connections,
    /// A path without its last slash; empty for the root.
    pub(crate) mount: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Socket {
    Unix,
    Tcp,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connections {
    Closed,
    Kept,
}

macro_rules! ways {
    ($($name:ident: $driver:literal, $socket:ident, $connections:ident, $mount:literal, [$($test:ident),*];)*) => {
        $(mod $name {
            const WAY: super::Way = super::Way {
                driver: $driver,
                socket: super::Socket::$socket,
                connections: super::Connections::$connections,
                mount: $mount,
            };
            $(#[test]
            fn $test() {
                if let Some(stand) = super::Stand::new(WAY) {
                    super::$test(&stand);
                }
            })*
        })*
    };
}

ways! {
    uring_unix_closed_root: "uring", Unix, Closed, "", [pages, bodies, leavers, crowd, authorization];
    uring_unix_closed_prefix: "uring", Unix, Closed, "/app", [pages];
    uring_unix_kept_root: "uring", Unix, Kept, "", [pages];
    uring_unix_kept_prefix: "uring", Unix, Kept, "/app", [pages, bodies, leavers, crowd, authorization];
    uring_tcp_closed_root: "uring", Tcp, Closed, "", [pages];
    uring_tcp_closed_prefix: "uring", Tcp, Closed, "/app", [pages, bodies, leavers, crowd];
    uring_tcp_kept_root: "uring", Tcp, Kept, "", [pages, bodies, leavers, crowd];
    uring_tcp_kept_prefix: "uring", Tcp, Kept, "/app", [pages];
    epoll_unix_closed_root: "epoll", Unix, Closed, "", [pages];
    epoll_unix_closed_prefix: "epoll", Unix, Closed, "/app", [pages, leavers, crowd];
    epoll_unix_kept_root: "epoll", Unix, Kept, "", [pages, bodies, leavers, crowd];
    epoll_unix_kept_prefix: "epoll", Unix, Kept, "/app", [pages];
    epoll_tcp_closed_root: "epoll", Tcp, Closed, "", [pages, bodies, leavers, crowd];
    epoll_tcp_closed_prefix: "epoll", Tcp, Closed, "/app", [pages];
    epoll_tcp_kept_root: "epoll", Tcp, Kept, "", [pages];
    epoll_tcp_kept_prefix: "epoll", Tcp, Kept, "/app", [pages, leavers, crowd];
}

/// Ringway behind nginx.
pub(crate) struct Stand {
    // Dropped from the top: the web server ends first.
    pub(crate) nginx: Nginx,
    pub(crate) ringway: Ringway,
    folder: TempDir,
    pub(crate) way: Way,
}

impl Stand {
    /// `None` where the host lacks what it takes.
    pub(crate) fn new(way: Way) -> Option<Stand> {
        let found = find("nginx").is_some() && allows(way.driver);
        found.then(|| {
            let folder = tempfile::tempdir().expect("a folder");
            let mount = if way.mount.is_empty() { "/" } else { way.mount };
            let ringway = Ringway::start(folder.path(), way.driver, &["--mount", mount]);
            let upstream = match way.socket {
                Socket::Unix => format!("unix:{}", ringway.unix.display()),
                Socket::Tcp => ringway.tcp.to_string(),
            };
            let nginx = Nginx::start(folder.path(), &upstream, way.connections, way.mount);
            Stand { nginx, ringway, folder, way }
        })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn buffered(&self) -> Front<'_> {
        self.nginx.front(self.way.mount)
    }

    /// nginx with `fastcgi_buffering off` and `fastcgi_request_buffering off`.
    pub(crate) fn unbuffered(&self) -> Front<'_> {
        Front { address: self.nginx.unbuffered, ..self.buffered() }
    }
}

/// nginx with two ports.
pub(crate) struct Nginx {
    process: Process,
    buffered: SocketAddr,
    unbuffered: SocketAddr,
}

impl Nginx {
    pub(crate) fn start(folder: &Path, upstream: &str, connections: Connections, mount: &str) -> Nginx {
        let (buffered, unbuffered) = (free_address(), free_address());
        let file = folder.join("nginx.conf");
        let text = configuration(folder, upstream, connections, mount, buffered, unbuffered);
        std::fs::write(&file, text).expect("the configuration can be written");
        let mut command = Command::new(find("nginx").expect("nginx was there"));
        // nginx opens its built-in error log before it has read where the real one is.
        command.arg("-e").arg(folder.join("error.log")).arg("-p").arg(folder).arg("-c").arg(&file);
        let mut process = Process::start("nginx", command.stdin(Stdio::null()), folder);
        process.also_logs_to(folder.join("error.log"));
        let ports = [buffered, unbuffered];
        process.wait_until("accepts", || ports.iter().all(|port| Ringway::accepts(&port.to_string())));
        Nginx { process, buffered, unbuffered }
    }

    /// nginx as it is by default: requests and responses are buffered.
    pub(crate) fn front(&self, mount: &'static str) -> Front<'_> {
        Front {
            address: self.buffered,
            mount,
            chunked_max: usize::MAX,
            fails_by_itself: false,
            server: &self.process,
        }
    }
}

fn configuration(
    folder: &Path,
    upstream: &str,
    connections: Connections,
    mount: &str,
    buffered: SocketAddr,
    unbuffered: SocketAddr,
) -> String {
    let folder = folder.display();
    // Workers of a root's nginx would otherwise be somebody who may not enter the folder.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let (keepalive, keep_conn) = match connections {
        Connections::Closed => ("", ""),
        Connections::Kept => ("keepalive 8;", "fastcgi_keep_conn on;"),
    };
    let location = if mount.is_empty() { "/" } else { mount };
    let split = if mount.is_empty() {
        "include /etc/nginx/fastcgi_params;
            fastcgi_param PATH_INFO $fastcgi_script_name;
            fastcgi_param SCRIPT_NAME \"\";"
            .to_owned()
    } else {
        format!(
            "include /etc/nginx/fastcgi_params;
            fastcgi_split_path_info ^({mount})(.*)$;
            fastcgi_param PATH_INFO $fastcgi_path_info;
            fastcgi_param SCRIPT_NAME $fastcgi_script_name;"
        )
    };
    let server = |address: SocketAddr, buffering: &str| {
        format!(
            "server {{
        listen {address};
        fastcgi_buffering {buffering};
        fastcgi_request_buffering {buffering};
        {keep_conn}
        location {location} {{
            {split}
            fastcgi_pass probe;
        }}
        location /guarded/ {{
            set $verdict $arg_verdict;
            set $code $arg_code;
            auth_request /judge;
            auth_request_set $probe $upstream_http_x_probe;
            include /etc/nginx/fastcgi_params;
            fastcgi_param SCRIPT_NAME \"{mount}\";
            fastcgi_param PATH_INFO /env;
            fastcgi_param X_PROBE $probe;
            fastcgi_pass probe;
        }}
        location = /judge {{
            internal;
            include /etc/nginx/fastcgi_params;
            fastcgi_param SCRIPT_NAME \"{mount}\";
            fastcgi_param PATH_INFO /$verdict;
            fastcgi_param QUERY_STRING code=$code;
            fastcgi_param CONTENT_LENGTH \"\";
            fastcgi_pass_request_body off;
            fastcgi_pass probe;
        }}
    }}"
        )
    };
    format!(
        "daemon off; {user} worker_processes 2; pid {folder}/nginx.pid; error_log {folder}/error.log info;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {folder}/body;
    fastcgi_temp_path {folder}/fastcgi;
    proxy_temp_path {folder}/proxy;
    scgi_temp_path {folder}/scgi;
    uwsgi_temp_path {folder}/uwsgi;
    upstream probe {{ server {upstream}; {keepalive} }}
    {}
    {}
}}\n",
        server(buffered, "on"),
        server(unbuffered, "off")
    )
}

fn pages(stand: &Stand) {
    for front in [stand.buffered(), stand.unbuffered()] {
        pages::all(&front);
        env(&front);
    }
    pages::streaming(&stand.unbuffered());
}

/// What nginx alone says, and how it splits the path.
fn env(front: &Front<'_>) {
    let env = front.env(Request::get(&front.target("a%20b/env?x=1")));
    let document_uri = front.target("a b/env");
    for (name, value) in [
        ("SCRIPT_NAME", front.mount),
        ("PATH_INFO", "/a b/env"),
        ("DOCUMENT_URI", &document_uri),
        ("REQUEST_SCHEME", "http"),
        ("SERVER_ADDR", "127.0.0.1"),
        ("CONTENT_LENGTH", ""),
    ] {
        assert_eq!(env[name], value, "{name}");
    }
    assert!(env["SERVER_SOFTWARE"].as_str().expect("a text").starts_with("nginx/"));
    // nginx passes control characters on; a header of ours cannot hold them.
    let odd = Request::post(&front.target("echo"), "").header("Content-Type", *b"text/\x01");
    assert_eq!(odd.send(front.address).status, 400);
}

fn bodies(stand: &Stand) {
    for front in [stand.buffered(), stand.unbuffered()] {
        pages::large_bodies(&front);
        pages::early_answers(&front);
    }
    let peak = stand.ringway.process.memory_peak();
    assert!(peak < MEMORY_MAX, "{} MiB of memory", peak >> 20);
    for front in [stand.buffered(), stand.unbuffered()] {
        pages::echo(&front, 20 << 20);
        assert_eq!(front.aborted(), 0);
    }
}

/// Twice what two workers' buffers, requests and the program need; a body that is kept would be over it.
const MEMORY_MAX: u64 = 48 << 20;

fn leavers(stand: &Stand) {
    for front in [stand.buffered(), stand.unbuffered()] {
        pages::leavers(&front);
    }
    let peak = stand.ringway.process.memory_peak();
    assert!(peak < MEMORY_MAX, "{} MiB of memory", peak >> 20);
}

fn crowd(stand: &Stand) {
    for front in [stand.buffered(), stand.unbuffered()] {
        pages::crowd(&front);
    }
}

/// `auth_request` asks another page of the probe first, which lets the visitor in, refuses him, or fails.
fn authorization(stand: &Stand) {
    for address in [stand.nginx.buffered, stand.nginx.unbuffered] {
        let ask =
            |verdict: &str| Request::post(&format!("/guarded/?verdict={verdict}"), "body").send(address);
        let allowed = ask("headers");
        assert_eq!(allowed.status, 200);
        let env: serde_json::Value = serde_json::from_slice(&allowed.body()).expect("an object");
        assert_eq!((&env["X_PROBE"], &env["CONTENT_LENGTH"]), (&"yes".into(), &"4".into()));
        assert_eq!(ask("status&code=204").status, 200);
        assert_eq!(ask("status&code=401").status, 401);
        assert_eq!(ask("status&code=403").status, 403);
        assert_eq!(ask("panic").status, 500);
        assert_eq!(ask("hello").status, 200);
    }
}
