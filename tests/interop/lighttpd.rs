//! lighttpd: the application stands alone or is started by it, by socket file and by port, at the root and below a
//! prefix, guarded by an Authorizer. It never keeps a connection.

use rustix::process::{Pid, Signal, kill_process};

use crate::pages::{self, Habits};
use crate::stand::{self, PATHS, Server, Socket, Stand, Way, cutter};
use crate::support::matrix::matrix;
use crate::support::process::{Ringway, allows, eventually, free_address};
use crate::support::web::{Request, find};

const LIGHTTPD: Server =
    Server { name: "lighttpd", arguments: &["-D", "-f"], log: Some("error.log"), habits: Habits::USUAL };

/// With `--no-buffering`. It refuses then what has no length, with 411: CONTENT_LENGTH comes before the body.
const UNBUFFERED: Server = Server { habits: Habits { chunked_max: None, ..Habits::USUAL }, ..LIGHTTPD };

matrix! {
    "lighttpd", "external":
        uring_unix_root ["unix", "closed", "root", "pages", "streaming"] => every_page("uring", Socket::Unix, "");
        uring_tcp_prefix ["tcp", "closed", "prefix", "pages"] => every_page("uring", Socket::Tcp, "/app");
        epoll_tcp_root ["tcp", "closed", "root", "pages"] => every_page("epoll", Socket::Tcp, "");
        epoll_unix_prefix ["unix", "closed", "prefix", "pages"] => every_page("epoll", Socket::Unix, "/app");
        uring_bodies ["bodies"] => bodies("uring", Socket::Tcp);
        epoll_bodies ["bodies"] => bodies("epoll", Socket::Unix);
        uring_leavers ["leavers"] => leavers("uring");
        epoll_leavers ["leavers"] => leavers("epoll");
        crowds ["crowd"] => crowd("uring");
        an_authorizer_decides ["Authorizer"] => authorizer();
        the_application_is_replaced ["restarts"] => stand::restarts(&LIGHTTPD);
        paths_are_cut ["root", "prefix"] => stand::paths(&LIGHTTPD);
        a_root_without_its_fix ["root without fix-root-scriptname"] => old_root();
        rewriting_to_a_program ["rewriting to /app.fcgi"] => rewriting();
        part_of_debians_configuration ["part of Debian's configuration"] => part();
        files ["static files"] => stand::files(&LIGHTTPD);
    "lighttpd", "spawn":
        spawned_unix_root ["unix", "fd 0", "closed", "root", "pages"] =>
            spawned("uring", "unix:FOLDER/app.sock", "");
        spawned_unix_prefix ["unix", "fd 0", "closed", "prefix", "pages"] =>
            spawned("epoll", "unix:FOLDER/app.sock", "/app");
        spawned_tcp ["tcp", "fd 0", "closed", "root", "pages"] =>
            spawned("epoll", &free_address().to_string(), "");
        the_end_of_lighttpd ["ends with lighttpd"] => ends_gracefully();
        several_processes ["several processes", "restart of one that ended"] => processes();
        an_authorizer_is_spawned ["Authorizer"] => spawned_authorizer();
}

fn every_page(driver: &'static str, socket: Socket, mount: &'static str) {
    for (server, conf) in [(&LIGHTTPD, &[][..]), (&UNBUFFERED, &["--no-buffering"])] {
        let Some(stand) = Stand::connected(server, Way { conf, ..Way::new(driver, socket, mount) }) else {
            return;
        };
        all(&stand);
    }
}

fn all(stand: &Stand) {
    let front = stand.front();
    pages::all(&front);
    pages::streaming(&front);
    let env = front.env(Request::get(&front.target("a%20b/env?x=1")));
    let value = |name: &str| env[name].as_str().expect("a text").to_owned();
    assert_eq!([value("SCRIPT_NAME"), value("PATH_INFO")], [front.mount, "/a b/env"]);
    assert!(value("SERVER_SOFTWARE").starts_with("lighttpd/"));
}

fn bodies(driver: &'static str, socket: Socket) {
    for (server, conf) in [(&LIGHTTPD, &[][..]), (&UNBUFFERED, &["--no-buffering"])] {
        let way = Way { conf, ..Way::new(driver, socket, "/app") };
        let Some(stand) = Stand::connected(server, way) else { return };
        pages::large_bodies(&stand.front());
        assert!(stand.is_lean());
        pages::early_answers(&stand.front());
    }
}

/// lighttpd looks after its visitor only when it has something for him. Without `--no-buffering` it takes as much of
/// an answer as comes, to a file.
fn leavers(driver: &'static str) {
    let way = Way { conf: &["--no-buffering"], ..Way::new(driver, Socket::Unix, "") };
    let Some(stand) = Stand::connected(&UNBUFFERED, way) else { return };
    pages::leavers_of_downloads(&stand.front());
}

fn crowd(driver: &'static str) {
    let Some(stand) = Stand::connected(&LIGHTTPD, Way::new(driver, Socket::Unix, "")) else { return };
    pages::crowd(&stand.front());
}

/// `--auth`: the Authorizer is asked first, and its variables reach the Responder.
fn authorizer() {
    for (driver, mount) in [("uring", ""), ("epoll", "/app")] {
        if find(LIGHTTPD.name).is_none() || !allows(driver) {
            return;
        }
        let prefix = if mount.is_empty() { "/" } else { mount };
        let application = cutter(driver, prefix);
        let way = Way { conf: &["--auth"], ..Way::new(driver, Socket::Tcp, mount) };
        let stand = Stand::before(&LIGHTTPD, way, &application.addresses()[0], |text| text);
        let ask = |request: Request| request.send(stand.address);
        let page = format!("{mount}/some/where?a=b");
        for request in [Request::get(&page), Request::post(&page, "body").header("X-Verdict", "out")] {
            let refused = ask(request);
            assert_eq!((refused.status, refused.text()), (401, format!("no {prefix}\n")));
        }
        let allowed = ask(Request::post(&page, "body").header("X-Verdict", "in"));
        assert_eq!(allowed.status, 200);
        assert_eq!(allowed.text(), format!("{mount}|/some/where|alice|body"));
    }
}

/// The same, with a process of its own that lighttpd starts.
fn spawned_authorizer() {
    let listen = Some("unix:FOLDER/app.sock");
    let way = Way { conf: &["--auth"], ..Way::new("epoll", Socket::Unix, "/app") };
    let Some(stand) = Stand::spawned(&LIGHTTPD, way, listen) else { return };
    let refused = stand.front().get("hello");
    assert_eq!((refused.status, refused.text().as_str()), (403, "denied\n"));
}

/// What lighttpd does at the root without `fix-root-scriptname`, as in configurations that others wrote: it takes the
/// first segment for the program's name.
fn old_root() {
    if find(LIGHTTPD.name).is_none() {
        return;
    }
    let application = cutter("epoll", "/");
    let without = |text: String| {
        let lines = text.lines().filter(|line| !line.contains("fix-root-scriptname"));
        lines.fold(String::new(), |text, line| text + line + "\n")
    };
    let way = Way::new("epoll", Socket::Tcp, "");
    let stand = Stand::before(&LIGHTTPD, way, &application.addresses()[0], without);
    for (path, path_info) in PATHS {
        let shown = Request::get(path).send(stand.address).text();
        assert_eq!(shown, format!("|{path_info}||"), "{path}");
    }
}

/// What everybody wrote before `check-local` and `fix-root-scriptname`: all paths rewritten to one below the name of a
/// program, which visitors do not see.
fn rewriting() {
    if find(LIGHTTPD.name).is_none() {
        return;
    }
    let application = cutter("epoll", "/");
    let rewrite = |text: String| {
        let rewrite =
            "server.modules += ( \"mod_rewrite\" )\nurl.rewrite-once = ( \"^(/.*)$\" => \"/app.fcgi$1\" )\n";
        text.replace("    \"/\" => (", "    \"/app.fcgi\" => (") + rewrite
    };
    let way = Way::new("epoll", Socket::Tcp, "");
    let stand = Stand::before(&LIGHTTPD, way, &application.addresses()[0], rewrite);
    for (path, path_info) in PATHS {
        let shown = Request::get(path).send(stand.address).text();
        assert_eq!(shown, format!("|{path_info}||"), "{path}");
    }
}

/// What follows the line of dashes goes into the configuration that Debian ships.
fn part() {
    if find(LIGHTTPD.name).is_none() {
        return;
    }
    let debian = std::fs::read_to_string("/etc/lighttpd/lighttpd.conf").expect("the package has it");
    let own = |line: &&str| {
        ["server.document-root", "server.upload-dirs", "server.errorlog", "server.pid-file", "server.port"]
            .iter()
            .chain(&[
                "server.username",
                "server.groupname",
                "include_shell \"/usr/share/lighttpd/use-ipv6.pl",
            ])
            .all(|key| !line.starts_with(key))
    };
    let debian: String = debian.lines().filter(own).flat_map(|line| [line, "\n"]).collect();
    for mount in ["", "/app"] {
        let way = Way { conf: &["--static", "/static=/usr/share"], ..Way::new("epoll", Socket::Tcp, mount) };
        let application = cutter(way.driver, if mount.is_empty() { "/" } else { mount });
        let merge = |text: String| {
            let (above, part) = text.split_once("-----\n").expect("a line of dashes");
            let settings =
                above.lines().filter(|line| line.starts_with("server.")).collect::<Vec<_>>().join("\n");
            assert!(!settings.contains("modules"), "{settings}");
            format!("{debian}\n{settings}\n{part}")
        };
        let stand = Stand::before(&LIGHTTPD, way, &application.addresses()[0], merge);
        for (path, path_info) in PATHS {
            let shown = Request::get(&format!("{mount}{path}")).send(stand.address).text();
            assert_eq!(shown, format!("{mount}|{path_info}||"), "{path}");
        }
    }
}

fn spawned(driver: &'static str, listen: &str, mount: &'static str) {
    let way = Way::new(driver, Socket::Unix, mount);
    let Some(stand) = Stand::spawned(&LIGHTTPD, way, Some(listen)) else { return };
    all(&stand);
    ends(&stand, listen, || stand.web.signal(Signal::TERM));
}

/// SIGINT is lighttpd's graceful one; SIGTERM cuts visitors off.
fn ends_gracefully() {
    let (listen, way) = ("unix:FOLDER/app.sock", Way::new("epoll", Socket::Unix, ""));
    let Some(stand) = Stand::spawned(&LIGHTTPD, way, Some(listen)) else { return };
    pages::hello(&stand.front());
    ends(&stand, listen, || stand::in_flight(&stand, || stand.web.signal(Signal::INT)));
}

/// The application ends with lighttpd.
fn ends(stand: &Stand, listen: &str, end: impl FnOnce()) {
    let address = listen.replace("FOLDER", &stand.folder.path().display().to_string());
    // Each process has an address of its own: a number after the name of the file, or the port.
    let first = if address.starts_with("unix:") { address + "-0" } else { address };
    assert!(Ringway::accepts(&first));
    end();
    eventually("the application ends with lighttpd", || (!Ringway::accepts(&first)).then_some(()));
}

/// `--processes 3`; lighttpd starts another for one that has ended.
fn processes() {
    let way = Way { conf: &["--processes", "3"], ..Way::new("epoll", Socket::Unix, "") };
    let Some(stand) = Stand::spawned(&LIGHTTPD, way, Some("unix:FOLDER/app.sock")) else { return };
    let children = || children(stand.web.id());
    // lighttpd listens before it has started all of them.
    eventually("three processes", || (children().len() == 3).then_some(()));
    for number in 0..3 {
        assert!(Ringway::accepts(&format!("unix:{}/app.sock-{number}", stand.folder.path().display())));
    }
    for pid in children() {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).expect("a process of ours");
        assert!(environment.split(|byte| *byte == 0).any(|pair| pair == b"RINGWAY_WORKERS=1"));
        kill_process(Pid::from_raw(pid).expect("a number"), Signal::KILL).expect("a process of ours");
        eventually("another in its place", || {
            let children = children();
            (children.len() == 3 && !children.contains(&pid)).then_some(())
        });
    }
    // It may take requests for lost while it has nobody for them.
    eventually("a page", || (stand.front().get("hello").status == 200).then_some(()));
    pages::hello(&stand.front());
}

/// The processes that a process has started.
fn children(pid: u32) -> Vec<i32> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it runs");
    list.split_whitespace().map(|pid| pid.parse().expect("a number")).collect()
}
