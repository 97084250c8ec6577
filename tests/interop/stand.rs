//! A web server that `ringway conf` configures, and an application behind it that runs already or that it starts.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use ringway::{AuthRequest, Decision, Handle, Request, Response, Server as Ours};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::pages::{self, Front, Habits};
use crate::support::conf;
use crate::support::process::{Process, Ringway, allows, eventually, exited_with, free_address};
use crate::support::web::{Request as Visit, find};

/// What is to be known of a web server to start it.
pub(crate) struct Server {
    /// The name of its program, and of its configuration for `ringway conf`.
    pub(crate) name: &'static str,
    /// How its program is told to stay in the foreground with the configuration file that follows.
    pub(crate) arguments: &'static [&'static str],
    /// What it logs to in its state directory, besides stderr.
    pub(crate) log: Option<&'static str>,
    pub(crate) habits: Habits,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Socket {
    Unix,
    Tcp,
}

/// How an application comes to be behind the web server.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) driver: &'static str,
    pub(crate) socket: Socket,
    /// A path without its last slash; empty for the root.
    pub(crate) mount: &'static str,
    /// More arguments of `ringway conf`.
    pub(crate) conf: &'a [&'a str],
    /// More arguments of `ringway serve`.
    pub(crate) serve: &'a [&'a str],
}

impl<'a> Way<'a> {
    pub(crate) fn new(driver: &'static str, socket: Socket, mount: &'static str) -> Way<'a> {
        Way { driver, socket, mount, conf: &[], serve: &[] }
    }

    fn prefix(&self) -> &'static str {
        if self.mount.is_empty() { "/" } else { self.mount }
    }
}

/// The web server and what it needs. Everything lies in a folder that goes with it.
pub(crate) struct Stand {
    // Dropped from the top: the web server ends first.
    pub(crate) web: Process,
    pub(crate) address: SocketAddr,
    ringway: Option<Ringway>,
    pub(crate) folder: TempDir,
    habits: Habits,
    mount: &'static str,
}

impl Stand {
    /// The web server connects to the probe, which runs already. `None` where the host lacks what it takes.
    pub(crate) fn connected(server: &Server, way: Way<'_>) -> Option<Stand> {
        (find(server.name).is_some() && allows(way.driver)).then(|| {
            let folder = conf::folder();
            let arguments = [&["--mount", way.prefix()], way.serve].concat();
            let ringway = Ringway::start(folder.path(), way.driver, &arguments);
            let application = match way.socket {
                Socket::Unix => format!("unix:{}", ringway.unix.display()),
                Socket::Tcp => ringway.tcp.to_string(),
            };
            let listen = ["--listen", &application];
            let stand = Stand::start(server, way, folder, &listen, |text| text);
            Stand { ringway: Some(ringway), ..stand }
        })
    }

    /// The web server starts the probe with a socket on file descriptor 0, at `listen` if it is to be told where.
    pub(crate) fn spawned(server: &Server, way: Way<'_>, listen: Option<&str>) -> Option<Stand> {
        (find(server.name).is_some() && allows(way.driver)).then(|| {
            let folder = conf::folder();
            let listen =
                listen.map(|address| address.replace("FOLDER", &folder.path().display().to_string()));
            let listen: Vec<&str> = listen.iter().flat_map(|address| ["--listen", address]).collect();
            Stand::start(server, way, folder, &[&["--way", "spawn"], &listen[..]].concat(), |text| text)
        })
    }

    /// The web server connects to an application of the test itself, at `application`. What `ringway conf` printed
    /// is changed by `edit`.
    pub(crate) fn before(
        server: &Server,
        way: Way<'_>,
        application: &str,
        edit: impl FnOnce(String) -> String,
    ) -> Stand {
        Stand::start(server, way, conf::folder(), &["--listen", application], edit)
    }

    fn start(
        server: &Server,
        way: Way<'_>,
        folder: TempDir,
        arguments: &[&str],
        edit: impl FnOnce(String) -> String,
    ) -> Stand {
        let (state, address) = (folder.path().join("state"), free_address());
        let arguments = [&["--mount", way.prefix()], arguments, way.conf].concat();
        let file = conf::write(&state, server.name, address, &arguments);
        let text = std::fs::read_to_string(&file).expect("it was written");
        std::fs::write(&file, edit(text)).expect("it can be written again");
        let mut command = Command::new(find(server.name).expect("it was there"));
        command.args(server.arguments).arg(&file).stdin(Stdio::null());
        // The probe has its settings from the environment where the web server starts it; Caddy keeps files there.
        command.env("RINGWAY_DRIVER", way.driver).env("RUST_BACKTRACE", "0").env("HOME", &state);
        let mut web = Process::start(server.name, &mut command, &state);
        server.log.into_iter().for_each(|log| web.also_logs_to(state.join(log)));
        web.wait_until("accepts", || Ringway::accepts(&address.to_string()));
        Stand { web, address, ringway: None, folder, habits: server.habits, mount: way.mount }
    }

    pub(crate) fn front(&self) -> Front<'_> {
        Front { address: self.address, mount: self.mount, habits: self.habits, server: &self.web }
    }

    /// Whether the probe, which the web server did not start, has kept no body in memory.
    pub(crate) fn is_lean(&self) -> bool {
        let ringway = self.ringway.as_ref().expect("the web server connects to it");
        ringway.process.memory_peak() < MEMORY_MAX
    }
}

/// Twice what two workers' buffers, requests and the program need; a body that is kept would be over it.
const MEMORY_MAX: u64 = 48 << 20;

/// An application of the test's own, which says how its paths are cut. It listens on a port, and lets in whom his
/// header X-Verdict says.
pub(crate) fn cutter(driver: &str, mount: &str) -> Handle {
    let show = async |request: Request| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let user = request.param("USER").map(text).unwrap_or_default();
        let (script_name, path_info) = (text(&request.script_name()), text(&request.path_info()));
        let body = request.stdin().read_to_vec(100).await.expect("a body");
        Response::text(format!("{script_name}|{path_info}|{user}|{}", text(&body)))
    };
    let guard = async |request: AuthRequest| match request.param("HTTP_X_VERDICT") {
        Some(b"in") => Decision::allow().variable("USER", "alice"),
        _ => Decision::deny(Response::text(format!("no {}\n", request.mount())).status(401)),
    };
    let server = Ours::builder().listen("127.0.0.1:0").workers(1);
    let server = server.driver(driver.parse().expect("a driver"));
    server.responder(mount, show).authorizer(mount, guard).start().expect("a server")
}

/// Paths as visitors write them and as applications get them.
pub(crate) const PATHS: [(&str, &str); 5] = [
    ("/", "/"),
    ("/a", "/a"),
    ("/a/b/", "/a/b/"),
    ("/a%20b/gr%C3%BC%C3%9Fe", "/a b/grüße"),
    ("/a/app/b", "/a/app/b"),
];

/// SCRIPT_NAME and PATH_INFO are right at the root and below a prefix, and what merely begins like the prefix is none
/// of the application's business.
pub(crate) fn paths(server: &Server) {
    for mount in ["", "/app"] {
        if find(server.name).is_none() {
            return;
        }
        let way = Way::new("epoll", Socket::Tcp, mount);
        let application = cutter(way.driver, way.prefix());
        let stand = Stand::before(server, way, &application.addresses()[0], |text| text);
        let shown = |path: &str| Visit::get(&format!("{mount}{path}")).send(stand.address).text();
        for (path, path_info) in PATHS {
            assert_eq!(shown(path), format!("{mount}|{path_info}||"), "{path}");
        }
        if !mount.is_empty() {
            assert_eq!(shown(""), format!("{mount}|||"));
            assert_eq!(Visit::get("/application").send(stand.address).status, 404);
        }
    }
}

/// Files that the web server serves by itself, beside an application.
pub(crate) fn files(server: &Server) {
    for mount in ["", "/app"] {
        let files = conf::folder();
        std::fs::write(files.path().join("hello.css"), "body {}\n").expect("a file");
        let argument = format!("/static={}", files.path().display());
        let way = Way { conf: &["--static", &argument], ..Way::new("epoll", Socket::Unix, mount) };
        let Some(stand) = Stand::connected(server, way) else { return };
        let file = Visit::get("/static/hello.css").send(stand.address);
        assert!(file.headers("Content-Type")[0].starts_with("text/css"));
        assert_eq!((file.status, file.text().as_str()), (200, "body {}\n"));
        assert_eq!(Visit::get("/static/hello").send(stand.address).status, 404);
        pages::hello(&stand.front());
    }
}

/// The application is replaced. Who was in is answered, who comes in between is told by the web server, and who comes
/// after it is served.
pub(crate) fn restarts(server: &Server) {
    for (driver, socket) in [("uring", Socket::Unix), ("epoll", Socket::Tcp)] {
        let Some(mut stand) = Stand::connected(server, Way::new(driver, socket, "/app")) else { return };
        let mut old = stand.ringway.take().expect("the web server connects to it");
        in_flight(&stand, || old.process.signal(Signal::TERM));
        let status = old.process.wait(END);
        assert!(exited_with(status, 0), "{status}");
        assert!(matches!(stand.front().get("hello").status, 502 | 503));
        let arguments = ["--mount", "/app"];
        stand.ringway = Some(Ringway::start_at(stand.folder.path(), &old.unix, old.tcp, driver, &arguments));
        // lighttpd leaves alone for a second what it found away.
        eventually("a page", || (stand.front().get("hello").status == 200).then_some(()));
        pages::hello(&stand.front());
    }
}

/// Does `what` while a request is in flight, which is answered all the same.
pub(crate) fn in_flight(stand: &Stand, what: impl FnOnce()) {
    std::thread::scope(|scope| {
        let visitor = scope.spawn(|| stand.front().get("sleep?ms=800").text());
        std::thread::sleep(Duration::from_millis(400));
        what();
        assert_eq!(visitor.join().expect("an answer"), "slept 800\n");
    });
}

/// What a process has to end in once its last request is answered.
const END: Duration = Duration::from_secs(4);
