//! The guestbook, a web server before it and a database behind it.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::process::{Process, Ringway, free_address, is_required};
use crate::support::web::{Answer, Request, find};

pub(crate) const PASSWORD: &str = "open sesame";

/// What separates the parts of a form with files.
const BOUNDARY: &str = "----------part";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Web {
    Nginx,
    Lighttpd,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Database {
    Sqlite,
    Postgres,
}

pub(crate) struct Stand {
    // Dropped from the top: each is done with before what it needs.
    _web: Process,
    guestbook: Process,
    _database: Option<Process>,
    pub(crate) address: SocketAddr,
    pub(crate) folder: TempDir,
}

impl Stand {
    /// `None` where the host lacks what it takes.
    pub(crate) fn new(web: Web, database: Database) -> Option<Stand> {
        let name = if web == Web::Nginx { "nginx" } else { "lighttpd" };
        let web_server = find(name)?;
        let folder = tempfile::tempdir().expect("a folder");
        // Who a web server becomes may enter.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("it is ours");
        let (database, url) = match database {
            Database::Sqlite => (None, format!("sqlite:{}/guestbook.db?mode=rwc", folder.path().display())),
            Database::Postgres => {
                let (process, url) = postgres(folder.path())?;
                (Some(process), url)
            }
        };
        let application = free_address();
        let guestbook = start_guestbook(folder.path(), application, &url);
        let (process, address) = start_web(name, &web_server, folder.path(), application);
        Some(Stand { _web: process, guestbook, _database: database, address, folder })
    }

    /// What the guestbook has logged so far.
    pub(crate) fn log(&self) -> String {
        self.guestbook.log()
    }

    pub(crate) fn pictures(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.folder.path().join("pictures")).expect("the guestbook made it");
        files.map(|file| file.expect("a file").path()).collect()
    }
}

fn start_guestbook(folder: &Path, address: SocketAddr, url: &str) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guestbook"));
    command.args(["--listen", &address.to_string(), "--database", url, "--pictures"]);
    command.arg(folder.join("pictures")).env("GUESTBOOK_PASSWORD", PASSWORD).stdin(Stdio::null());
    let mut process = Process::start("guestbook", &mut command, folder);
    process.wait_until("serves", || Ringway::accepts(&address.to_string()));
    process
}

/// Starts it with the configuration of this folder; only the addresses are others.
fn start_web(name: &str, program: &Path, folder: &Path, application: SocketAddr) -> (Process, SocketAddr) {
    let address = free_address();
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("{name}.conf"));
    let text =
        fs::read_to_string(text).expect("the configuration").replace("/var/tmp", &folder.to_string_lossy());
    let text =
        text.replace("8080", &address.port().to_string()).replace("9000", &application.port().to_string());
    let file = folder.join(format!("{name}.conf"));
    fs::write(&file, text).expect("it can be written");
    let mut command = Command::new(program);
    match name {
        "nginx" => command.args(["-e", "stderr", "-p"]).arg(folder).arg("-c").arg(&file),
        _ => command.args(["-D", "-f"]).arg(&file),
    };
    let mut process = Process::start(name, command.stdin(Stdio::null()), folder);
    process.wait_until("accepts", || Ringway::accepts(&address.to_string()));
    (process, address)
}

/// A cluster of its own in `folder`, and the URL of a database there. It refuses to be root's.
fn postgres(folder: &Path) -> Option<(Process, String)> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let Some(programs) =
        versions.map(|version| version.path().join("bin")).find(|bin| bin.join("initdb").is_file())
    else {
        assert!(!is_required("postgres"), "RINGWAY_REQUIRE=postgres, and it is not installed");
        eprintln!("skipped: PostgreSQL is not installed");
        return None;
    };
    let (cluster, address) = (folder.join("postgres"), free_address());
    fs::create_dir(&cluster).expect("a folder");
    let mut commands = ["initdb", "postgres"].map(|name| Command::new(programs.join(name)));
    if rustix::process::geteuid().is_root() {
        // Debian's nobody.
        chown(&cluster, Some(NOBODY), Some(NOBODY)).expect("root may");
        commands.iter_mut().for_each(|command| _ = command.uid(NOBODY).gid(NOBODY));
    }
    let [initdb, postgres] = &mut commands;
    initdb.args(["--username=guestbook", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C", "-D"]);
    let made = initdb.arg(&cluster).current_dir("/").output().expect("initdb starts");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    postgres.arg("-D").arg(&cluster).args([
        "-F",
        "-h",
        "127.0.0.1",
        "-k",
        "",
        "-p",
        &address.port().to_string(),
    ]);
    let mut process = Process::start("postgres", postgres.current_dir("/").stdin(Stdio::null()), folder);
    let log = folder.join("postgres.log");
    process.wait_until("is ready", || {
        fs::read_to_string(&log).is_ok_and(|log| log.contains("ready to accept connections"))
    });
    Some((process, format!("postgres://guestbook@{address}/postgres")))
}

const NOBODY: u32 = 65_534;

/// Somebody who visits without a browser.
pub(crate) struct Visitor {
    server: SocketAddr,
    cookie: String,
}

impl Visitor {
    /// Nobody yet, or somebody by his cookie.
    pub(crate) fn new(stand: &Stand, cookie: &str) -> Visitor {
        Visitor { server: stand.address, cookie: cookie.to_owned() }
    }

    pub(crate) fn logged_in(stand: &Stand, name: &str) -> Visitor {
        let mut visitor = Visitor::new(stand, "");
        let answer = visitor.log_in(name, PASSWORD);
        assert_eq!((answer.status, answer.headers("Location")), (303, vec!["/"]));
        let cookie = answer.headers("Set-Cookie")[0];
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
        visitor.cookie = cookie.split(';').next().expect("the first part").to_owned();
        visitor
    }

    pub(crate) fn cookie(&self) -> &str {
        &self.cookie
    }

    pub(crate) fn log_in(&self, name: &str, password: &str) -> Answer {
        let form = format!("name={}&password={}", name.replace(' ', "+"), password.replace(' ', "+"));
        self.send(Request::post("/login", form).header("Content-Type", "application/x-www-form-urlencoded"))
    }

    pub(crate) fn send(&self, request: Request) -> Answer {
        request.header("Cookie", self.cookie.as_str()).send(self.server)
    }

    pub(crate) fn get(&self, target: &str) -> Answer {
        self.send(Request::get(target))
    }

    /// Sends the form; a picture has a media type and bytes.
    pub(crate) fn write(&self, message: &str, picture: Option<(&str, &[u8])>) -> Answer {
        let head = |name: &str, rest: &str| {
            format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{rest}\r\n\r\n")
        };
        let mut form = (head("message", "") + message + "\r\n").into_bytes();
        let (media_type, bytes) = picture.unwrap_or(("application/octet-stream", b""));
        let file = if picture.is_some() { "of mine" } else { "" };
        form.extend(
            head("picture", &format!("; filename=\"{file}\"\r\nContent-Type: {media_type}")).into_bytes(),
        );
        form.extend([bytes, format!("\r\n--{BOUNDARY}--\r\n").as_bytes()].concat());
        let media_type = format!("multipart/form-data; boundary={BOUNDARY}");
        self.send(Request::post("/", form).header("Content-Type", media_type))
    }
}
