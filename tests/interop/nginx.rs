//! nginx: by socket file and by port, connections closed after each request and kept, at the root and below a
//! prefix; request and response buffered, as is the default, and as they come.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use ringway::{Response, Server};
use tempfile::TempDir;

use crate::pages::{self, Front, Habits};
use crate::support::conf;
use crate::support::matrix::{Row, matrix};
use crate::support::process::{Process, Ringway, allows, free_address};
use crate::support::tap::Tap;
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

        pub(crate) const WAYS: &[Row] = &[$(Row {
            server: "nginx",
            way: "fastcgi_pass",
            seen: &[
                if let Socket::Unix = Socket::$socket { "unix" } else { "tcp" },
                if let Connections::Kept = Connections::$connections { "kept" } else { "closed" },
                if $mount.is_empty() { "root" } else { "prefix" },
                $(stringify!($test)),*
            ],
        }),*];
    };
}

ways! {
    uring_unix_closed_root: "uring", Unix, Closed, "", [pages, bodies, leavers, crowd];
    uring_unix_closed_prefix: "uring", Unix, Closed, "/app", [pages];
    uring_unix_kept_root: "uring", Unix, Kept, "", [pages];
    uring_unix_kept_prefix: "uring", Unix, Kept, "/app", [pages, bodies, leavers, crowd];
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

/// Ringway behind nginx, twice: as it is by default, and with `--no-buffering`.
pub(crate) struct Stand {
    // Dropped from the top: the web servers end first.
    buffered: Nginx,
    unbuffered: Nginx,
    pub(crate) ringway: Ringway,
    folder: TempDir,
    pub(crate) way: Way,
}

impl Stand {
    /// `None` where the host lacks what it takes.
    pub(crate) fn new(way: Way) -> Option<Stand> {
        let found = find("nginx").is_some() && allows(way.driver);
        found.then(|| {
            let folder = conf::folder();
            let mount = if way.mount.is_empty() { "/" } else { way.mount };
            let ringway = Ringway::start(folder.path(), way.driver, &["--mount", mount]);
            let application = match way.socket {
                Socket::Unix => format!("unix:{}", ringway.unix.display()),
                Socket::Tcp => ringway.tcp.to_string(),
            };
            let start = |name, option: Option<&str>| {
                let mut arguments = vec!["--listen", &application, "--mount", mount];
                arguments.extend(option);
                arguments.extend((way.connections == Connections::Kept).then_some("--keep-connections"));
                Nginx::start(&folder.path().join(name), &arguments)
            };
            let (buffered, unbuffered) =
                (start("buffered", None), start("unbuffered", Some("--no-buffering")));
            Stand { buffered, unbuffered, ringway, folder, way }
        })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn buffered(&self) -> Front<'_> {
        self.buffered.front(self.way.mount)
    }

    pub(crate) fn unbuffered(&self) -> Front<'_> {
        self.unbuffered.front(self.way.mount)
    }
}

/// nginx, as `ringway conf` wants it.
pub(crate) struct Nginx {
    process: Process,
    address: SocketAddr,
}

impl Nginx {
    /// Starts it with all at its root going to `application`, an address as `--listen` has it. Its files lie in a
    /// folder of [`conf::folder`].
    pub(crate) fn before(application: &str, folder: &Path) -> Nginx {
        Nginx::start(&folder.join("nginx"), &["--listen", application])
    }

    /// Starts it in `folder`, which is made, with these arguments of `ringway conf nginx`.
    pub(crate) fn start(folder: &Path, arguments: &[&str]) -> Nginx {
        Nginx::start_with(folder, arguments, str::to_owned)
    }

    /// The same with a configuration that somebody has changed.
    fn start_with(folder: &Path, arguments: &[&str], change: impl FnOnce(&str) -> String) -> Nginx {
        let address = free_address();
        let file = conf::write(folder, "nginx", address, arguments);
        let text = std::fs::read_to_string(&file).expect("the configuration is there");
        std::fs::write(&file, change(&text)).expect("it can be written");
        let mut command = Command::new(find("nginx").expect("nginx was there"));
        // nginx opens its built-in error log before it has read where the real one is.
        command.arg("-e").arg(folder.join("error.log")).arg("-c").arg(&file).args(["-g", "daemon off;"]);
        let mut process = Process::start("nginx", command.stdin(Stdio::null()), folder);
        process.also_logs_to(folder.join("error.log"));
        process.wait_until("accepts", || Ringway::accepts(&address.to_string()));
        Nginx { process, address }
    }

    pub(crate) fn front(&self, mount: &'static str) -> Front<'_> {
        Front { address: self.address, mount, habits: Habits::USUAL, server: &self.process }
    }
}

fn pages(stand: &Stand) {
    for front in [stand.buffered(), stand.unbuffered()] {
        pages::all(&front);
        env(&front);
    }
    pages::streaming(&stand.unbuffered());
}

/// What nginx alone says, and how it splits the path, line feeds included.
fn env(front: &Front<'_>) {
    let env = front.env(Request::get(&front.target("a%0Ab/env?x=1")));
    let document_uri = front.target("a\nb/env");
    for (name, value) in [
        ("SCRIPT_NAME", front.mount),
        ("PATH_INFO", "/a\nb/env"),
        ("DOCUMENT_URI", &document_uri),
        ("REQUEST_SCHEME", "http"),
        ("SERVER_ADDR", "127.0.0.1"),
    ] {
        assert_eq!(env[name], value, "{name}");
    }
    // A WSGI application is not told of an empty one.
    assert!(env.get("CONTENT_LENGTH").is_none_or(|length| length == ""));
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

matrix! {
    "nginx", "fastcgi_pass":
        kept_connections ["keepalive"] => connections("uring", true);
        closed_connections [] => connections("epoll", false);
        files_and_a_prefix ["static files"] => surroundings("/app");
        files_and_the_root ["static files"] => surroundings("");
        flups_recipe_below_a_prefix [] => flups_recipe("/app");
        flups_recipe_at_the_root [] => flups_recipe("");
        uring_authorization ["auth_request"] => authorization("uring", &["--keep-connections"]);
        epoll_authorization ["auth_request"] => authorization("epoll", &["--no-buffering"]);
}

/// How many connections twenty requests take.
fn connections(driver: &str, are_kept: bool) {
    if find("nginx").is_none() || !allows(driver) {
        return;
    }
    let folder = conf::folder();
    let ringway = Ringway::start(folder.path(), driver, &[]);
    let tap = Tap::start(ringway.tcp);
    let address = tap.address.to_string();
    let mut arguments = vec!["--listen", &address];
    arguments.extend(are_kept.then_some("--keep-connections"));
    let nginx = Nginx::start(&folder.path().join("nginx"), &arguments);
    (0..20).for_each(|_| assert_eq!(nginx.front("").get("hello").text(), "Hello, world!\n"));
    let counts = tap.counts();
    // Each worker of nginx keeps its own.
    assert!(counts.requests == 20 && (counts.connections < 20) == are_kept, "{counts:?}");
}

/// What is not the application's: files, and paths that only begin like the mount.
fn surroundings(mount: &'static str) {
    if find("nginx").is_none() {
        return;
    }
    let folder = conf::folder();
    let prefix = if mount.is_empty() { "/" } else { mount };
    let ringway = Ringway::start(folder.path(), "epoll", &["--mount", prefix]);
    std::fs::write(folder.path().join("style.css"), "body {}").expect("a file");
    let (address, files) = (ringway.tcp.to_string(), format!("/static={}", folder.path().display()));
    let arguments = ["--listen", &address, "--mount", prefix, "--static", &files];
    let nginx = Nginx::start(&folder.path().join("nginx"), &arguments);
    let get = |target: &str| Request::get(target).send(nginx.address);
    let file = get("/static/style.css");
    assert_eq!((file.status, file.headers("Content-Type")), (200, vec!["text/css"]));
    assert_eq!(file.text(), "body {}");
    assert_eq!(get("/static/other.css").headers("Content-Type"), ["text/html"]);
    // The probe's own 404 is a plain text, nginx's is not.
    let is_ours = |target: &str| {
        let answer = get(target);
        assert_eq!(answer.status, 404, "{target}");
        answer.headers("Content-Type") == ["text/plain"]
    };
    assert!(is_ours(&format!("{mount}/")) && is_ours(prefix));
    assert_eq!(is_ours("/apple/hell"), mount.is_empty());
    assert_eq!(is_ours("/application"), mount.is_empty());
}

/// What people wrote for flup goes on working: the text of `docs/deployment.md` in place of what `conf` prints.
fn flups_recipe(mount: &'static str) {
    if find("nginx").is_none() {
        return;
    }
    let folder = conf::folder();
    let prefix = if mount.is_empty() { "/" } else { mount };
    let ringway = Ringway::start(folder.path(), "epoll", &["--mount", prefix]);
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/deployment.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let (_, recipes) = page.split_once("## nginx\n").expect("the section");
    let (_, recipes) = recipes.split_once("```nginx\n").expect("the recipes");
    let (recipes, _) = recipes.split_once("```\n").expect("their end");
    let (below, at_root) = recipes.split_once("\n\n").expect("two of them");
    let recipe = if mount.is_empty() { at_root } else { below };
    let recipe = recipe
        .replace("/yourapplication {", "/app {")
        .replace("/yourapplication/ ", "/app/ ")
        .replace("(/yourapplication)", "(/app)")
        .replace("unix:/tmp/yourapplication-fcgi.sock", "application")
        .replace("fastcgi_params", "/etc/nginx/fastcgi_params");
    let address = format!("unix:{}", ringway.unix.display());
    let nginx = Nginx::start_with(&folder.path().join("nginx"), &["--listen", &address], |text| {
        let (head, _) = text.split_once("        location / {").expect("where the application is");
        format!("{head}{recipe}    }}\n}}\n")
    });
    let front = nginx.front(mount);
    pages::all(&front);
    let env = front.env(Request::get(&front.target("a%20b/env")));
    assert_eq!((&env["SCRIPT_NAME"], &env["PATH_INFO"]), (&mount.into(), &"/a b/env".into()));
    assert_eq!(Request::get(prefix).send(nginx.address).headers("Content-Type"), ["text/plain"]);
}

/// `auth_request` asks a page of the application first, which lets the visitor in, refuses him, or fails.
fn authorization(driver: &'static str, options: &[&str]) {
    if find("nginx").is_none() || !allows(driver) {
        return;
    }
    let folder = conf::folder();
    let server = Server::builder().listen("127.0.0.1:0").workers(1).responder("/app", guarded);
    let server = server.driver(driver.parse().expect("a driver")).start().expect("a server");
    let application = server.addresses()[0].clone();
    let arguments = [&["--listen", &application, "--mount", "/app", "--auth"], options].concat();
    let nginx = Nginx::start(&folder.path().join("nginx"), &arguments);
    let ask = |verdict: &str| {
        Request::post("/app/some/where?verdict=0", "body").header("X-Verdict", verdict).send(nginx.address)
    };
    for verdict in ["200", "204"] {
        let allowed = ask(verdict);
        assert_eq!((allowed.status, allowed.text().as_str()), (200, "/some/where of alice: body"));
    }
    for (verdict, status) in [("401", 401), ("403", 403), ("503", 500)] {
        assert_eq!(ask(verdict).status, status);
    }
}

/// The page `auth` gives the verdict that the visitor wishes; any other says who he is.
async fn guarded(request: ringway::Request) -> Response {
    let text = |name: &str| String::from_utf8_lossy(request.param(name).unwrap_or_default()).into_owned();
    if text("PATH_INFO") == "/auth" {
        let seen = ["REQUEST_METHOD", "SCRIPT_NAME", "REQUEST_URI"].map(text);
        assert_eq!(seen, ["GET", "/app", "/app/auth"]);
        let asked = ["HTTP_X_ORIGINAL_METHOD", "HTTP_X_ORIGINAL_URI"].map(text);
        assert_eq!(asked, ["POST", "/app/some/where?verdict=0"]);
        let verdict = text("HTTP_X_VERDICT").parse().expect("a status");
        return Response::new(verdict).header("X-Remote-User", "alice");
    }
    let body = request.stdin().read_to_vec(100).await.expect("a body");
    Response::text(format!(
        "{} of {}: {}",
        text("PATH_INFO"),
        text("REMOTE_USER"),
        String::from_utf8_lossy(&body)
    ))
}
