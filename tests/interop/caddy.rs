//! Caddy: by socket file and by port, at the root and below a prefix. It never keeps a connection.

use crate::pages::{self, Habits};
use crate::stand::{self, Server, Socket, Stand, Way};
use crate::support::matrix::matrix;
use crate::support::web::Request;

const CADDY: Server = Server {
    name: "caddy",
    arguments: &["run", "--adapter", "caddyfile", "--config"],
    log: None,
    habits: Habits {
        // Of the Host that the visitor names, who names no port here.
        params: &[("SERVER_PORT", Some("80"))],
        content_type: "application/x-www-form-urlencoded",
        // Before 2.7 `capture_stderr` is read and forgotten.
        logs_stderr: false,
        ..Habits::USUAL
    },
};

matrix! {
    "caddy", "fastcgi":
        uring_unix_root ["unix", "closed", "root", "pages", "streaming"] => every_page("uring", Socket::Unix, "");
        uring_tcp_prefix ["tcp", "closed", "prefix", "pages"] => every_page("uring", Socket::Tcp, "/app");
        epoll_tcp_root ["tcp", "closed", "root", "pages"] => every_page("epoll", Socket::Tcp, "");
        epoll_unix_prefix ["unix", "closed", "prefix", "pages"] => every_page("epoll", Socket::Unix, "/app");
        uring_bodies ["bodies"] => bodies("uring", Socket::Tcp);
        epoll_bodies ["bodies"] => bodies("epoll", Socket::Unix);
        uring_leavers ["leavers"] => leavers("uring");
        epoll_leavers ["leavers"] => leavers("epoll");
        crowds ["crowd"] => crowd("uring");
        the_application_is_replaced ["restarts"] => stand::restarts(&CADDY);
        paths_are_cut ["root", "prefix"] => stand::paths(&CADDY);
        files ["static files"] => stand::files(&CADDY);
}

fn every_page(driver: &'static str, socket: Socket, mount: &'static str) {
    for conf in [&[][..], &["--no-buffering"]] {
        let Some(stand) = Stand::connected(&CADDY, Way { conf, ..Way::new(driver, socket, mount) }) else {
            return;
        };
        let front = stand.front();
        pages::all(&front);
        pages::streaming(&front);
        let env = front.env(Request::get(&front.target("a%20b/env?x=1")));
        let value = |name: &str| env[name].as_str().expect("a text").to_owned();
        assert_eq!([value("SCRIPT_NAME"), value("PATH_INFO")], [front.mount, "/a b/env"]);
        assert!(value("SERVER_SOFTWARE").starts_with("Caddy/"));
    }
}

fn bodies(driver: &'static str, socket: Socket) {
    // Caddy does not look at an answer before it has sent the body: the application has to take all of it.
    let way = Way { serve: &["--linger-bytes", "32MiB"], ..Way::new(driver, socket, "/app") };
    let Some(stand) = Stand::connected(&CADDY, way) else { return };
    pages::large_bodies(&stand.front());
    assert!(stand.is_lean());
    pages::early_answers(&stand.front());
}

/// Caddy sees a visitor gone only when it has something for him.
fn leavers(driver: &'static str) {
    let Some(stand) = Stand::connected(&CADDY, Way::new(driver, Socket::Unix, "")) else { return };
    pages::leavers_of_downloads(&stand.front());
}

fn crowd(driver: &'static str) {
    let Some(stand) = Stand::connected(&CADDY, Way::new(driver, Socket::Unix, "")) else { return };
    pages::crowd(&stand.front());
}
