//! What people look up when it does not work: each symptom is produced in a real web server, and `ringway check`
//! names the cause. `docs/deployment.md`, section Debugging, has a row for each of them.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::process::{Process, Ringway, eventually, free_address};
use crate::support::web::{Request, find};
use crate::{application, check, impostor, open_folder, serve, unix};

/// Whom Debian's nginx runs as.
const WORKER: &str = "www-data";

/// nginx whose workers are [`WORKER`], in front of one address.
struct Nginx {
    process: Process,
    address: SocketAddr,
}

impl Nginx {
    /// `None`, with a line that says why, where nginx or root's rights are missing.
    fn start(folder: &Path, upstream: &str) -> Option<Nginx> {
        let nginx = find("nginx")?;
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can start nginx as {WORKER}");
            return None;
        }
        let (address, shown) = (free_address(), folder.display());
        let upstream =
            upstream.strip_prefix("unix:").map_or(upstream.to_owned(), |path| format!("unix:{path}"));
        let temporary: String = ["client_body", "fastcgi", "proxy", "scgi", "uwsgi"]
            .map(|name| format!("{name}_temp_path {shown}/{name};"))
            .concat();
        let text = format!(
            "daemon off; user {WORKER}; worker_processes 1; pid {shown}/nginx.pid; error_log {shown}/error.log info;
            events {{}}
            http {{
                access_log off; {temporary}
                server {{
                    listen {address};
                    location / {{
                        include /etc/nginx/fastcgi_params;
                        fastcgi_param SCRIPT_NAME \"\";
                        fastcgi_param PATH_INFO $document_uri;
                        fastcgi_pass {upstream};
                    }}
                }}
            }}"
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, text).expect("the configuration can be written");
        let mut command = Command::new(nginx);
        command.arg("-e").arg(folder.join("error.log")).arg("-p").arg(folder).arg("-c").arg(&file);
        let mut process = Process::start("nginx", command.stdin(Stdio::null()), folder);
        process.also_logs_to(folder.join("error.log"));
        process.wait_until("accepts", || Ringway::accepts(&address.to_string()));
        Some(Nginx { process, address })
    }

    /// That a visitor gets this status, and the log says why in these words.
    #[track_caller]
    fn shows(&self, target: &str, status: u16, logged: &str) {
        assert_eq!(Request::get(target).send(self.address).status, status, "{}", self.process.log());
        eventually(logged, || self.process.log().contains(logged).then_some(()));
    }
}

#[test]
fn permission_denied_on_the_socket() {
    let folder = open_folder();
    let ringway = serve(folder.path(), 0o600, &[]);
    let address = unix(&ringway.unix);
    let Some(nginx) = Nginx::start(folder.path(), &address) else { return };
    nginx.shows("/hello", 502, "failed (13: Permission denied) while connecting to upstream");
    let checked = check(&[&address, "--as", WORKER]);
    checked.is_wrong("socket", &["www-data may not connect", "mode 0600", "--socket-group www-data"]);
    // What the remedy says for the time being.
    let said = checked.step("socket");
    let (_, remedy) = said.split_once("until then: ").expect("a command");
    assert!(Command::new("sh").args(["-c", remedy]).status().expect("a shell").success(), "{remedy}");
    nginx.shows("/hello", 200, "");
    assert_eq!(check(&[&address, "--as", WORKER]).code, 0);
}

#[test]
fn permission_denied_above_the_socket() {
    let folder = open_folder();
    let inner = folder.path().join("private");
    fs::create_dir(&inner).expect("a folder");
    fs::set_permissions(&inner, fs::Permissions::from_mode(0o700)).expect("it is ours");
    let ringway = serve(&inner, 0o666, &[]);
    let address = unix(&ringway.unix);
    let Some(nginx) = Nginx::start(folder.path(), &address) else { return };
    nginx.shows("/hello", 502, "failed (13: Permission denied) while connecting to upstream");
    check(&[&address, "--as", WORKER]).is_wrong("directories", &["www-data may not enter", "chmod o+x"]);
}

#[test]
fn bad_gateway_where_nobody_listens() {
    let folder = open_folder();
    let path = folder.path().join("app.sock");
    let address = unix(&path);
    let Some(nginx) = Nginx::start(folder.path(), &address) else { return };
    nginx.shows("/hello", 502, "failed (2: No such file or directory) while connecting to upstream");
    check(&[&address, "--as", WORKER]).is_wrong("socket", &["there is nothing at"]);
    drop(UnixListener::bind(&path).expect("a socket"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("it is ours");
    nginx.shows("/hello", 502, "failed (111: Connection refused) while connecting to upstream");
    check(&[&address, "--as", WORKER]).is_wrong("connect", &["is stale"]);
    // The remedy: starting it.
    let _ringway =
        Ringway::start_at(folder.path(), &path, free_address(), "epoll", &["--socket-group", WORKER]);
    nginx.shows("/hello", 200, "");
    assert_eq!(check(&[&address, "--as", WORKER]).code, 0);
}

#[test]
fn a_line_that_names_another_socket() {
    let folder = open_folder();
    let ringway = serve(folder.path(), 0o666, &[]);
    let Some(nginx) = Nginx::start(folder.path(), "unix:/run/of-another.sock") else { return };
    nginx.shows("/hello", 502, "connect() to unix:/run/of-another.sock failed");
    let file = folder.path().join("nginx.conf");
    let file = file.to_str().expect("a name");
    let place = format!("{file}:11: says unix:/run/of-another.sock, you gave unix:");
    check(&[&unix(&ringway.unix), "--as", WORKER, "--server-config", file]).is_wrong("web server", &[&place]);
}

#[test]
fn unsupported_protocol_version() {
    let folder = open_folder();
    let address = free_address();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
    command.args(["demo", "--http", &address.to_string()]).stdin(Stdio::null());
    let mut demo = Process::start("demo", &mut command, folder.path());
    demo.wait_until("accepts", || Ringway::accepts(&address.to_string()));
    let Some(nginx) = Nginx::start(folder.path(), &address.to_string()) else { return };
    nginx.shows("/hello", 502, "upstream sent unsupported FastCGI protocol version: 72");
    check(&[&address.to_string()]).is_wrong("protocol", &["an HTTP server listens here"]);
}

#[test]
fn premature_end_of_script_headers() {
    let folder = open_folder();
    let address =
        impostor(folder.path(), |stream| application(stream, b"", b"ImportError: no module named app"));
    let path = address.strip_prefix("unix:").expect("a path");
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("it is ours");
    let Some(nginx) = Nginx::start(folder.path(), &address) else { return };
    nginx.shows("/", 502, "upstream prematurely closed FastCGI stdout while reading response header");
    check(&[&address, "--as", WORKER])
        .is_wrong("request", &["premature end of script headers", "ImportError: no module named app"]);
}

#[test]
fn primary_script_unknown() {
    let Some(php) = find("php-fpm8.2") else { return };
    let folder = open_folder();
    let path = folder.path().join("php.sock");
    let shown = folder.path().display();
    let file = folder.path().join("php-fpm.conf");
    let text = format!(
        "[global]\ndaemonize = no\nerror_log = {shown}/php.log\n[www]\nuser = {WORKER}\ngroup = {WORKER}\n\
         listen = {shown}/php.sock\nlisten.mode = 0666\npm = static\npm.max_children = 2\n"
    );
    fs::write(&file, text).expect("the configuration can be written");
    let Some(nginx) = Nginx::start(folder.path(), &unix(&path)) else { return };
    let mut command = Command::new(php);
    command.arg("-F").arg("-y").arg(&file).stdin(Stdio::null());
    let mut fpm = Process::start("php-fpm", &mut command, folder.path());
    fpm.wait_until("accepts", || Ringway::accepts(&unix(&path)));
    nginx.shows("/hello", 404, "");
    check(&[&unix(&path), "--as", WORKER]).is_wrong("request", &["PHP answers here", "SCRIPT_FILENAME"]);
}

#[test]
fn not_found_at_the_root() {
    let folder = open_folder();
    let ringway = serve(folder.path(), 0o666, &["--mount", "/app"]);
    let address = unix(&ringway.unix);
    let Some(nginx) = Nginx::start(folder.path(), &address) else { return };
    nginx.shows("/hello", 404, "");
    let said = check(&[&address, "--as", WORKER]).step("request");
    assert!(said.starts_with("note: GET / is answered with 404") && said.contains("give --mount"), "{said}");
    assert_eq!(check(&[&address, "--as", WORKER, "--mount", "/app", "--uri", "/app/hello"]).code, 0);
}
