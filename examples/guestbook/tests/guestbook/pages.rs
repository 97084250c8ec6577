//! What every web server and database must show.

use std::io::{BufRead, BufReader, Read};

use crate::stand::{Database, PASSWORD, Stand, Visitor, Web};
use crate::support::process::eventually;
use crate::support::web::Request;

/// Larger than a record and than what web servers keep in memory; no real picture.
const PICTURE_BYTES: usize = 300_000;

#[test]
fn behind_nginx_with_sqlite() {
    all(Web::Nginx, Database::Sqlite);
}

#[test]
fn behind_lighttpd_with_sqlite() {
    all(Web::Lighttpd, Database::Sqlite);
}

#[test]
fn behind_nginx_with_postgresql() {
    all(Web::Nginx, Database::Postgres);
}

fn all(web: Web, database: Database) {
    let Some(stand) = Stand::new(web, database) else { return };
    only_members_come_in(&stand);
    entries_are_written_and_shown(&stand);
    entries_come_live(&stand);
    forms_that_are_refused(&stand);
    assert!(!stand.log().contains("ERROR"), "{}", stand.log());
}

fn only_members_come_in(stand: &Stand) {
    let is_sent_away = |visitor: &Visitor, request: Request| {
        let answer = visitor.send(request);
        assert_eq!((answer.status, answer.headers("Location")), (303, vec!["/login"]));
    };
    let stranger = Visitor::new(stand, "");
    for target in ["/", "/events?after=0", "/pictures/1", "/nowhere"] {
        is_sent_away(&stranger, Request::get(target));
    }
    is_sent_away(&stranger, Request::post("/", "message=x"));
    // A name without a password, as a browser would send it to another kind of guard: alice with the password x.
    is_sent_away(&stranger, Request::get("/").header("Authorization", "Basic YWxpY2U6eA=="));
    is_sent_away(
        &stranger,
        Request::get("/").header("Remote-User", "alice").header("X-Remote-User", "alice"),
    );
    assert_eq!(stranger.get("/login").status, 200);
    for (name, password) in [("alice", "open"), ("alice", ""), ("", PASSWORD), ("a\r\nb", PASSWORD)] {
        let answer = stranger.log_in(name, password);
        assert_eq!((answer.status, answer.headers("Set-Cookie").len()), (422, 0), "{name:?}, {password:?}");
    }
    let alice = Visitor::logged_in(stand, "Alice");
    assert!(alice.get("/").text().contains("<span id=\"name\">Alice</span>"));
    let forged = alice.cookie().replace("Alice", "Carol");
    assert_ne!(forged, alice.cookie());
    for cookie in [&forged, "member=4102444800%20Alice", "member=", "member=%FF", "x"] {
        is_sent_away(&Visitor::new(stand, cookie), Request::get("/"));
    }
    let beside_others = format!("theme=dark; {}; x=y", alice.cookie());
    assert_eq!(Visitor::new(stand, &beside_others).get("/").status, 200);
    let left = alice.send(Request::post("/logout", ""));
    assert_eq!((left.status, left.headers("Location")), (303, vec!["/login"]));
    assert!(left.headers("Set-Cookie")[0].starts_with("member=; "));
}

fn entries_are_written_and_shown(stand: &Stand) {
    let jose = Visitor::logged_in(stand, "José");
    let picture: Vec<u8> = (0..PICTURE_BYTES).map(|i| (i % 251) as u8).collect();
    let written = jose.write("¡Hola! <script>alert(1)</script>", Some(("image/jpeg", &picture)));
    assert_eq!((written.status, written.headers("Location")), (303, vec!["/"]));
    assert_eq!(jose.write("no picture", None).status, 303);
    let page = jose.get("/").text();
    assert!(page.contains("<strong>José</strong>\n¡Hola! &lt;script&gt;"), "{page}");
    assert!(page.find("id=\"entry-2\"") < page.find("id=\"entry-1\""), "{page}");
    assert!(page.contains("src=\"/pictures/1\"") && !page.contains("src=\"/pictures/2\""), "{page}");
    let shown = jose.get("/pictures/1");
    assert_eq!(shown.headers("Content-Type"), ["image/jpeg"]);
    assert_eq!(shown.headers("X-Content-Type-Options"), ["nosniff"]);
    let etag = shown.headers("ETag")[0].to_owned();
    assert_eq!(shown.body(), picture);
    assert_eq!(jose.send(Request::get("/pictures/1").header("If-None-Match", etag)).status, 304);
    let part = jose.send(Request::get("/pictures/1").header("Range", "bytes=10-19"));
    assert_eq!((part.status, part.body()), (206, picture[10..20].to_vec()));
    for target in ["/pictures/2", "/pictures/99"] {
        assert_eq!(jose.get(target).status, 404);
    }
}

fn entries_come_live(stand: &Stand) {
    let (alice, bob) = (Visitor::logged_in(stand, "Alice"), Visitor::logged_in(stand, "Bob"));
    // Alice has seen the first entry, and a browser that was cut off the second.
    let live = alice.get("/events?after=1");
    assert_eq!(live.headers("Content-Type"), ["text/event-stream"]);
    let mut live = BufReader::new(live).lines().map(|line| line.expect("the stream goes on"));
    let cut_off = alice.send(Request::get("/events?after=1").header("Last-Event-ID", "2"));
    let mut cut_off = BufReader::new(cut_off).lines().map(|line| line.expect("the stream goes on"));
    let mut next = || live.find_map(|line| Some(line.strip_prefix("id: ")?.to_owned()));
    assert_eq!(next().as_deref(), Some("2"));
    for (message, id) in [("first\nand second line", "3"), ("another", "4")] {
        assert_eq!(bob.write(message, None).status, 303);
        assert_eq!(next().as_deref(), Some(id));
    }
    assert_eq!(cut_off.find(|line| line.starts_with("id: ")).as_deref(), Some("id: 3"));
    assert_eq!(cut_off.find(|line| line.contains("another")).as_deref(), Some("data: another</li>"));
}

fn forms_that_are_refused(stand: &Stand) {
    let alice = Visitor::logged_in(stand, "Alice");
    let before = stand.pictures();
    assert_eq!(before.len(), 1);
    assert_eq!(alice.write(" \n", Some(("image/png", b"picture"))).status, 422);
    assert_eq!(alice.write(&"x".repeat(2001), None).status, 422);
    assert_eq!(alice.write("a page", Some(("text/html", b"<script>"))).status, 415);
    assert_eq!(alice.write("large", Some(("image/png", &vec![0; 11 << 20]))).status, 413);
    let mut head = [0; 100];
    let count = alice.get("/").read(&mut head).expect("a page");
    assert!(head[..count].starts_with(b"<!doctype html>"));
    // Nothing is left of them.
    eventually("refused pictures go", || (stand.pictures() == before).then_some(()));
}
