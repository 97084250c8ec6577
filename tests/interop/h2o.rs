//! h2o: connects to the application by socket file and by port, or starts it; keeps connections or not; at the root and
//! below a prefix.

use rustix::process::Signal;

use crate::pages::{self, Habits};
use crate::stand::{self, Server, Socket, Stand, Way};
use crate::support::matrix::matrix;
use crate::support::process::{Ringway, eventually};
use crate::support::web::Request;

const H2O: Server = Server {
    name: "h2o",
    arguments: &["-c"],
    log: Some("error.log"),
    habits: Habits { params: &[("GATEWAY_INTERFACE", None)], ..Habits::USUAL },
};

const CLOSED: &[&str] = &[];
const KEPT: &[&str] = &["--keep-connections"];

matrix! {
    "h2o", "connect":
        uring_unix_root ["unix", "kept", "root", "pages", "streaming"] => every_page("uring", Socket::Unix, "", KEPT);
        uring_tcp_prefix ["tcp", "closed", "prefix", "pages"] => every_page("uring", Socket::Tcp, "/app", CLOSED);
        epoll_unix_prefix ["unix", "closed", "prefix", "pages"] =>
            every_page("epoll", Socket::Unix, "/app", CLOSED);
        epoll_tcp_root ["tcp", "kept", "root", "pages"] => every_page("epoll", Socket::Tcp, "", KEPT);
        epoll_tcp_prefix ["tcp", "kept", "prefix", "pages"] => every_page("epoll", Socket::Tcp, "/app", KEPT);
        uring_bodies ["bodies"] => bodies("uring", Socket::Unix, CLOSED);
        epoll_bodies ["bodies"] => bodies("epoll", Socket::Tcp, KEPT);
        uring_leavers ["leavers"] => leavers("uring", KEPT);
        epoll_leavers ["leavers"] => leavers("epoll", CLOSED);
        uring_crowd ["crowd"] => crowd("uring", KEPT);
        epoll_crowd ["crowd"] => crowd("epoll", CLOSED);
        the_application_is_replaced ["restarts"] => stand::restarts(&H2O);
        paths_are_cut ["root", "prefix"] => stand::paths(&H2O);
        files ["static files"] => stand::files(&H2O);
    "h2o", "spawn":
        spawned_root ["unix", "fd 0", "closed", "root", "pages"] => spawned("uring", "", CLOSED);
        spawned_prefix ["unix", "fd 0", "kept", "prefix", "pages"] => spawned("epoll", "/app", KEPT);
        the_end_of_h2o ["ends with h2o"] => ends_with_h2o();
}

fn every_page(driver: &'static str, socket: Socket, mount: &'static str, conf: &[&str]) {
    let Some(stand) = Stand::connected(&H2O, Way { conf, ..Way::new(driver, socket, mount) }) else { return };
    all(&stand);
}

fn all(stand: &Stand) {
    let front = stand.front();
    pages::all(&front);
    pages::streaming(&front);
    let env = front.env(Request::get(&front.target("a%20b/env?x=1")));
    let value = |name: &str| env[name].as_str().expect("a text").to_owned();
    assert_eq!([value("SCRIPT_NAME"), value("PATH_INFO")], ["", &front.target("a b/env")]);
    assert!(value("SERVER_SOFTWARE").starts_with("h2o/"));
}

fn bodies(driver: &'static str, socket: Socket, conf: &[&str]) {
    let Some(stand) = Stand::connected(&H2O, Way { conf, ..Way::new(driver, socket, "/app") }) else {
        return;
    };
    pages::large_bodies(&stand.front());
    assert!(stand.is_lean());
    // h2o 2.2 dies of an assertion if it gets the end of an answer on a connection that it wants to keep while it still
    // sends the body.
    if conf == CLOSED {
        pages::early_answers(&stand.front());
    }
}

/// h2o sees a visitor gone only when it has something for him.
fn leavers(driver: &'static str, conf: &[&str]) {
    let Some(stand) = Stand::connected(&H2O, Way { conf, ..Way::new(driver, Socket::Unix, "") }) else {
        return;
    };
    pages::leavers_of_downloads(&stand.front());
}

fn crowd(driver: &'static str, conf: &[&str]) {
    let Some(stand) = Stand::connected(&H2O, Way { conf, ..Way::new(driver, Socket::Unix, "") }) else {
        return;
    };
    pages::crowd(&stand.front());
}

fn spawned(driver: &'static str, mount: &'static str, conf: &[&str]) {
    let Some(stand) = Stand::spawned(&H2O, Way { conf, ..Way::new(driver, Socket::Unix, mount) }, None)
    else {
        return;
    };
    all(&stand);
}

/// The socket lies in a folder that h2o makes and removes.
fn ends_with_h2o() {
    let Some(stand) = Stand::spawned(&H2O, Way::new("epoll", Socket::Unix, ""), None) else { return };
    pages::hello(&stand.front());
    let log = stand.web.log();
    let line =
        log.lines().find_map(|line| line.split_once("listening on ")).expect("what the application says");
    let address = line.1.split_once(';').expect("more follows").0.to_owned();
    assert!(Ringway::accepts(&address), "{address}");
    stand::in_flight(&stand, || stand.web.signal(Signal::TERM));
    eventually("the application ends with h2o", || (!Ringway::accepts(&address)).then_some(()));
}
