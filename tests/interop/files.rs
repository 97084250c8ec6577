//! Files that an application leaves to the web server (`send_file`): the web server sends them, and looks after ranges
//! and conditions itself.

use std::process::{Command, Stdio};

use ringway::{File, Handle, Request, SendFile, Server as Ours};

use crate::pages::Habits;
use crate::stand::{Server, Socket, Stand, Way};
use crate::support::conf;
use crate::support::process::{Process, Ringway, free_address};
use crate::support::web::{Request as Visit, find};

const LIGHTTPD: Server =
    Server { name: "lighttpd", arguments: &["-D", "-f"], log: Some("error.log"), habits: Habits::USUAL };

/// An application that answers every request with the same file.
fn application(path: std::path::PathBuf, how: SendFile) -> Handle {
    let respond = move |request: Request| {
        let file = File::new(path.clone());
        async move { file.respond(&request).await }
    };
    let mut config = ringway::Config::default();
    config.listen = vec!["127.0.0.1:0".to_owned()];
    config.workers = 1;
    config.send_file = how;
    Ours::builder().config(config).responder("/", respond).start().expect("a server")
}

/// What visitors must see, whoever sends the file.
fn check(address: std::net::SocketAddr) {
    let whole = Visit::get("/report").send(address);
    assert_eq!((whole.status, whole.headers("Content-Type")), (200, vec!["text/plain"]));
    let header = |name: &str| whole.headers(name)[0].to_owned();
    let (etag, length) = (header("ETag"), header("Content-Length"));
    for internal in ["X-Accel-Redirect", "X-Sendfile", "X-LIGHTTPD-send-file"] {
        assert!(whole.headers(internal).is_empty(), "the visitor sees {internal}");
    }
    assert_eq!((whole.text().as_str(), length.as_str()), ("0123456789", "10"));
    let part = Visit::get("/report").header("Range", "bytes=2-4").send(address);
    assert_eq!((part.status, part.text().as_str()), (206, "234"));
    let known = Visit::get("/report").header("If-None-Match", etag).send(address);
    assert_eq!(known.status, 304);
}

#[test]
fn nginx_sends_it_by_x_accel_redirect() {
    let Some(nginx) = find("nginx") else { return };
    let folder = conf::folder();
    // A name that must be escaped on its way.
    let path = folder.path().join("ein Bericht %41?.txt");
    std::fs::write(&path, "0123456789").expect("a file");
    let how =
        SendFile::XAccelRedirect { location: "/internal".to_owned(), directory: folder.path().to_owned() };
    let application = application(path, how);
    let (state, address) = (folder.path().join("state"), free_address());
    let file = conf::write(&state, "nginx", address, &["--listen", &application.addresses()[0]]);
    let text = std::fs::read_to_string(&file).expect("it was written");
    let internal =
        format!("location /internal/ {{ internal; alias {}/; }}\nlocation / {{", folder.path().display());
    std::fs::write(&file, text.replace("location / {", &internal)).expect("it can be written again");
    let mut command = Command::new(nginx);
    command.arg("-e").arg(state.join("error.log")).arg("-c").arg(&file).args(["-g", "daemon off;"]);
    let mut process = Process::start("nginx", command.stdin(Stdio::null()), &state);
    process.also_logs_to(state.join("error.log"));
    process.wait_until("accepts", || Ringway::accepts(&address.to_string()));
    check(address);
}

#[test]
fn lighttpd_sends_it_by_either_name() {
    for how in [SendFile::XSendfile, SendFile::XLighttpdSendFile] {
        if find("lighttpd").is_none() {
            return;
        }
        let folder = conf::folder();
        let path = folder.path().join("report.txt");
        std::fs::write(&path, "0123456789").expect("a file");
        let application = application(path, how);
        let way = Way::new("epoll", Socket::Tcp, "");
        let stand = Stand::before(&LIGHTTPD, way, &application.addresses()[0], |text| {
            text.replace("\"check-local\"", "\"x-sendfile\" => \"enable\", \"check-local\"")
        });
        check(stand.address);
    }
}
