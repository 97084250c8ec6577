//! A plain CGI program (RFC 3875): `ringway serve` where the web server gives it a request instead of a socket.

use std::fs::{self, Permissions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::pages::{self, Front, Habits};
use crate::support::conf;
use crate::support::matrix::matrix;
use crate::support::process::{Process, Ringway, exited_with, free_address};
use crate::support::web::find;

/// Where the program lies below the document root, and is mounted therefore.
const MOUNT: &str = "/app.cgi";

matrix! {
    "lighttpd", "mod_cgi, no FastCGI at all":
        lighttpd_runs_it ["prefix", "pages", "streaming"] => serves("lighttpd", lighttpd);
    "apache", "mod_cgi, no FastCGI at all":
        apache_runs_it ["prefix", "pages", "streaming"] => serves("apache2", apache);
}

/// Every page, from a process of its own.
fn serves(program: &str, configure: fn(&Path, SocketAddr) -> Command) {
    let Some(program) = find(program) else { return };
    let (folder, address) = (conf::folder(), free_address());
    let root = folder.path().join("root");
    fs::create_dir(&root).expect("a folder can be made");
    install(&root.join(&MOUNT[1..]));
    let mut command = configure(folder.path(), address);
    command.stdin(Stdio::null());
    let mut server =
        Process::start(&program.display().to_string().replace('/', "-"), &mut command, folder.path());
    server.also_logs_to(folder.path().join("error.log"));
    server.wait_until("accepts", || Ringway::accepts(&address.to_string()));
    // What comes in chunks is measured before it is passed on.
    let habits = Habits { chunked_max: Some(1 << 20), ..Habits::USUAL };
    let front = Front { address, mount: MOUNT, habits, server: &server };
    pages::all(&front);
    pages::streaming(&front);
}

/// Puts the program there, as a script of two lines.
fn install(file: &Path) {
    fs::write(file, format!("#!/bin/sh\nexec {} serve probe\n", env!("CARGO_BIN_EXE_ringway")))
        .expect("a file");
    fs::set_permissions(file, Permissions::from_mode(0o755)).expect("it is ours");
}

fn lighttpd(folder: &Path, address: SocketAddr) -> Command {
    let (folder, port) = (folder.display(), address.port());
    let text = format!(
        r#"server.modules = ("mod_cgi")
server.document-root = "{folder}/root"
server.bind = "127.0.0.1"
server.port = {port}
server.errorlog = "{folder}/error.log"
server.stream-response-body = 1
cgi.assign = (".cgi" => "")
"#
    );
    start_with(&format!("{folder}/lighttpd.conf"), "lighttpd", &["-D", "-f"], &text)
}

fn apache(folder: &Path, address: SocketAddr) -> Command {
    let folder = folder.display();
    // A root's Apache becomes somebody else, and says who.
    let user = if rustix::process::geteuid().is_root() { "User www-data\nGroup www-data" } else { "" };
    let text = format!(
        "ServerRoot /usr/lib/apache2
ServerName localhost
UseCanonicalPhysicalPort On
Listen {address}
PidFile {folder}/apache.pid
ErrorLog {folder}/error.log
{user}
LoadModule mpm_prefork_module modules/mod_mpm_prefork.so
LoadModule authz_core_module modules/mod_authz_core.so
LoadModule cgi_module modules/mod_cgi.so
LoadModule env_module modules/mod_env.so
# Else the length that a HEAD is answered with is thrown away.
SetEnv ap_trust_cgilike_cl yes
DocumentRoot {folder}/root
<Directory {folder}/root>
    Options +ExecCGI
    SetHandler cgi-script
</Directory>
"
    );
    start_with(&format!("{folder}/apache.conf"), "apache2", &["-D", "FOREGROUND", "-f"], &text)
}

fn start_with(file: &str, program: &str, arguments: &[&str], text: &str) -> Command {
    fs::write(file, text).expect("the configuration can be written");
    let mut command = Command::new(find(program).expect("it was there"));
    // Apache ends by a signal to its whole process group.
    command.args(arguments).arg(PathBuf::from(file)).process_group(0);
    command
}

/// Runs the program in this environment alone.
fn run(environment: &[(&str, &str)], body: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
    command.args(["serve", "probe"]).env_clear().envs(environment.iter().copied()).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // It may answer without reading.
    let _ = stdin.write_all(body);
    // Stays open: stdin need not end (RFC 3875 4.2).
    let output = child.wait_with_output().expect("it ends");
    drop(stdin);
    output
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

#[test]
fn the_body_ends_where_content_length_says() {
    let post = [("REQUEST_METHOD", "POST"), ("PATH_INFO", "/echo"), ("CONTENT_LENGTH", "5")];
    let output = run(&post, b"12345 and more");
    assert!(exited_with(output.status, 0), "{output:?}");
    assert!(stdout(&output).ends_with("\r\n\r\n12345"), "{output:?}");
    let none = run(&[("GATEWAY_INTERFACE", "CGI/1.1"), ("PATH_INFO", "/hello"), ("CONTENT_LENGTH", "")], b"");
    assert!(exited_with(none.status, 0) && stdout(&none).ends_with("\r\n\r\nHello, world!\n"), "{none:?}");
    assert!(none.stderr.is_empty(), "nothing to log: {none:?}");
}

#[test]
fn what_fails_is_said_and_exits_with_1() {
    let output = run(&[("REQUEST_METHOD", "GET"), ("PATH_INFO", "/panic")], b"");
    assert!(exited_with(output.status, 1), "{output:?}");
    assert!(stdout(&output).starts_with("Status: 500 "), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("asked to panic"), "{output:?}");
}

/// flup's variable: CGI without a look at descriptor 0, also from a shell, where nothing else is in the environment.
#[test]
fn cgi_can_be_forced() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
    command.args(["serve", "probe"]).env_clear().env("FCGI_FORCE_CGI", "Y").env("PATH_INFO", "/env");
    let output = command.stdin(std::os::fd::OwnedFd::from(socket)).output().expect("it runs");
    assert!(exited_with(output.status, 0), "{output:?}");
    let page = stdout(&output);
    assert!(page.contains("\"REQUEST_METHOD\": \"GET\"") && !page.contains("FCGI_FORCE_CGI"), "{page}");
}
