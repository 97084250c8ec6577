//! Files as answers: whole, in part, not at all, or left to the web server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Extension;
use axum::routing::get;
use ringway::{Driver, File, Request, SendFile};
use tempfile::TempDir;

use crate::peer::{Answer, Ask};
use crate::server::{Serve, Served, each_driver};

each_driver! {
    the_whole_file,
    a_large_file_is_sent_as_it_is_read,
    a_range_of_it,
    ranges_that_cannot_be,
    what_the_visitor_has_is_not_sent_again,
    preconditions,
    no_file,
    other_methods,
    a_file_that_shrinks_ends_the_answer_visibly_incomplete,
    from_a_router,
    left_to_the_web_server,
}

const TEXT: &[u8] = b"0123456789";

struct Stand {
    served: Served,
    folder: TempDir,
}

/// Serves the files of a folder by the path that is asked for.
fn stand(driver: Driver, send_file: SendFile) -> Stand {
    let folder = TempDir::new().expect("a folder");
    let root: Arc<PathBuf> = Arc::new(folder.path().to_owned());
    fs::write(root.join("digits.txt"), TEXT).expect("a file");
    let respond = move |request: Request| {
        let path = root.join(std::str::from_utf8(&request.path()[1..]).expect("a name"));
        async move { File::new(path).respond(&request).await }
    };
    let serve = Serve::new(driver).config(|config| config.send_file = send_file);
    Stand { served: serve.start(|server| server.responder("/", respond)), folder }
}

impl Stand {
    fn ask(&self, ask: &Ask) -> Answer {
        self.served.connect().fetch(ask)
    }

    fn get(&self, path: &str) -> Answer {
        self.ask(&Ask::get(path))
    }

    /// The digits, under a condition.
    fn digits(&self, name: &str, value: &str) -> Answer {
        self.ask(&Ask::get("/digits.txt").param(name, value))
    }
}

fn the_whole_file(driver: Driver) {
    let stand = stand(driver, SendFile::Off);
    let answer = stand.get("/digits.txt");
    assert!(answer.is_complete());
    assert_eq!((answer.status(), answer.body()), (200, TEXT));
    let header = |name| answer.header(name).unwrap_or_default();
    assert_eq!((header("Content-Type"), header("Content-Length")), ("text/plain".into(), "10".into()));
    assert_eq!(header("Accept-Ranges"), "bytes");
    assert!(header("ETag").starts_with('"') && header("Last-Modified").ends_with(" GMT"));
    fs::write(stand.folder.path().join("unknown"), b"").expect("a file");
    let empty = stand.get("/unknown");
    assert_eq!((empty.status(), empty.body()), (200, &b""[..]));
    assert_eq!(empty.header("Content-Type").as_deref(), Some("application/octet-stream"));
}

fn a_large_file_is_sent_as_it_is_read(driver: Driver) {
    let stand = stand(driver, SendFile::Off);
    let bytes: Vec<u8> = (0..9_000_001_u32).map(|index| (index % 251) as u8).collect();
    fs::write(stand.folder.path().join("large"), &bytes).expect("a file");
    let mut peer = stand.served.connect();
    for _ in 0..2 {
        let answer = peer.fetch(&Ask::get("/large"));
        assert!(answer.is_complete() && answer.body() == bytes);
    }
    let part = peer.fetch(&Ask::get("/large").param("HTTP_RANGE", "bytes=70000-8999999"));
    assert!(part.is_complete() && part.status() == 206 && part.body() == &bytes[70_000..9_000_000]);
}

fn a_range_of_it(driver: Driver) {
    let stand = stand(driver, SendFile::Off);
    for (range, part, content_range) in [
        ("bytes=2-4", &b"234"[..], "bytes 2-4/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=8-1000", b"89", "bytes 8-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=-1000", TEXT, "bytes 0-9/10"),
        ("bytes=0-0", b"0", "bytes 0-0/10"),
    ] {
        let answer = stand.digits("HTTP_RANGE", range);
        assert_eq!((answer.status(), answer.body()), (206, part), "{range}");
        assert_eq!(answer.header("Content-Range").as_deref(), Some(content_range), "{range}");
        assert_eq!(answer.header("Content-Length"), Some(part.len().to_string()), "{range}");
    }
    let etag = stand.get("/digits.txt").header("ETag").expect("a tag");
    for (if_range, status) in [(&*etag, 206), ("\"another\"", 200), ("Thu, 01 Jan 1970 00:00:00 GMT", 200)] {
        let ask = Ask::get("/digits.txt").param("HTTP_RANGE", "bytes=2-4").param("HTTP_IF_RANGE", if_range);
        assert_eq!(stand.ask(&ask).status(), status, "{if_range}");
    }
}

fn ranges_that_cannot_be(driver: Driver) {
    let stand = stand(driver, SendFile::Off);
    for range in ["bytes=10-", "bytes=10-20", "bytes=-0"] {
        let answer = stand.digits("HTTP_RANGE", range);
        assert_eq!(answer.status(), 416, "{range}");
        assert_eq!(answer.header("Content-Range").as_deref(), Some("bytes */10"), "{range}");
    }
    // What is no range, or several, is ignored.
    for range in ["bytes=4-2", "lines=1-2", "bytes=", "bytes=a-b", "bytes=0-1,4-5", "\u{ff}"] {
        let answer = stand.digits("HTTP_RANGE", range);
        assert_eq!((answer.status(), answer.body()), (200, TEXT), "{range}");
    }
}

fn what_the_visitor_has_is_not_sent_again(driver: Driver) {
    let stand = stand(driver, SendFile::Off);
    let first = stand.get("/digits.txt");
    let (etag, modified) = (first.header("ETag").unwrap(), first.header("Last-Modified").unwrap());
    for (name, value) in [
        ("HTTP_IF_NONE_MATCH", &*etag),
        ("HTTP_IF_NONE_MATCH", &*format!("\"x\", W/{etag}")),
        ("HTTP_IF_NONE_MATCH", "*"),
        ("HTTP_IF_MODIFIED_SINCE", &*modified),
    ] {
        let answer = stand.digits(name, value);
        assert_eq!((answer.status(), answer.body()), (304, &b""[..]), "{name}: {value}");
        assert_eq!(answer.header("ETag").as_deref(), Some(&*etag));
    }
    for (name, value) in [
        ("HTTP_IF_NONE_MATCH", "\"x\""),
        ("HTTP_IF_MODIFIED_SINCE", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("HTTP_IF_MODIFIED_SINCE", "yesterday"),
    ] {
        assert_eq!(stand.digits(name, value).status(), 200, "{name}: {value}");
    }
    fs::write(stand.folder.path().join("digits.txt"), b"changed!").expect("the file can be changed");
    let answer = stand.digits("HTTP_IF_NONE_MATCH", &etag);
    assert_eq!((answer.status(), answer.body()), (200, &b"changed!"[..]));
}

fn preconditions(driver: Driver) {
    let stand = stand(driver, SendFile::Off);
    let etag = stand.get("/digits.txt").header("ETag").unwrap();
    for (name, value, status) in [
        ("HTTP_IF_MATCH", &*etag, 200),
        ("HTTP_IF_MATCH", "*", 200),
        ("HTTP_IF_MATCH", "\"x\"", 412),
        ("HTTP_IF_UNMODIFIED_SINCE", "Fri, 01 Jan 2100 00:00:00 GMT", 200),
        ("HTTP_IF_UNMODIFIED_SINCE", "Thu, 01 Jan 1970 00:00:00 GMT", 412),
    ] {
        assert_eq!(stand.digits(name, value).status(), status, "{name}: {value}");
    }
}

fn no_file(driver: Driver) {
    let stand = stand(driver, SendFile::Off);
    let root = stand.folder.path();
    fs::create_dir(root.join("folder")).expect("a folder");
    rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .expect("a FIFO");
    for path in ["/nothing", "/folder", "/digits.txt/below", "/fifo"] {
        assert_eq!(stand.get(path).status(), 404, "{path}");
    }
    let secret = root.join("secret");
    fs::write(&secret, "secret").expect("a file");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).expect("the mode can be set");
    // Root may read everything.
    let expected = if fs::File::open(&secret).is_ok() { 200 } else { 403 };
    assert_eq!(stand.get("/secret").status(), expected);
}

fn other_methods(driver: Driver) {
    let stand = stand(driver, SendFile::Off);
    let head = stand.ask(&Ask::get("/digits.txt").param("REQUEST_METHOD", "HEAD"));
    assert_eq!((head.status(), head.body()), (200, &b""[..]));
    assert_eq!(head.header("Content-Length").as_deref(), Some("10"));
    let post = stand.ask(&Ask::post("/digits.txt", "x"));
    assert_eq!((post.status(), post.header("Allow").as_deref()), (405, Some("GET, HEAD")));
}

fn a_file_that_shrinks_ends_the_answer_visibly_incomplete(driver: Driver) {
    let stand = stand(driver, SendFile::Off);
    let path = stand.folder.path().join("shrinks");
    fs::write(&path, vec![b'x'; 20_000_000]).expect("a file");
    let mut peer = stand.served.connect();
    peer.ask(&Ask::get("/shrinks"));
    // It is not read faster than it is taken: most of it is still to be read.
    stand.served.until("the answer has begun", |metrics| metrics.bytes_sent > 0);
    fs::write(&path, b"").expect("the file can be changed");
    let answer = peer.rest(1);
    assert!(!answer.is_complete() && answer.stderr_text().contains("became shorter"));
}

fn from_a_router(driver: Driver) {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("digits.txt");
    fs::write(&path, TEXT).expect("a file");
    let report = move || async move {
        (
            [("Content-Disposition", "attachment"), ("Content-Type", "text/x-digits")],
            Extension(File::new(path)),
        )
    };
    let router: axum::Router<()> = axum::Router::new().route("/report", get(report));
    let served = Serve::new(driver).start(|server| server.service("/", router));
    let answer = served.connect().fetch(&Ask::get("/report").param("HTTP_RANGE", "bytes=0-3"));
    assert_eq!((answer.status(), answer.body()), (206, &b"0123"[..]));
    assert_eq!(answer.header("Content-Disposition").as_deref(), Some("attachment"));
    assert_eq!(answer.header("Content-Type").as_deref(), Some("text/x-digits"));
}

fn left_to_the_web_server(driver: Driver) {
    let named = |stand: &Stand, header: &str| {
        let answer = stand.get("/digits.txt");
        assert_eq!((answer.status(), answer.body()), (200, &b""[..]));
        assert_eq!((answer.header("Content-Length"), answer.header("ETag")), (None, None));
        assert_eq!(answer.header("Content-Type").as_deref(), Some("text/plain"));
        answer.header(header)
    };
    for (how, header) in
        [(SendFile::XSendfile, "X-Sendfile"), (SendFile::XLighttpdSendFile, "X-LIGHTTPD-send-file")]
    {
        let stand = stand(driver, how);
        let path = stand.folder.path().join("digits.txt").to_str().map(str::to_owned);
        assert_eq!(named(&stand, header), path);
    }
    let elsewhere =
        SendFile::XAccelRedirect { location: "/internal".to_owned(), directory: "/nowhere".into() };
    let answer = stand(driver, elsewhere).get("/digits.txt");
    assert_eq!((answer.status(), answer.body()), (200, TEXT));
}
