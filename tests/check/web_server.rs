//! The files of web servers: which line names an application, and what it does not pass.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::{check, open_folder, unix};

/// Writes a configuration and compares it with an address where something listens.
struct Comparing {
    folder: TempDir,
    _listener: TcpListener,
    address: String,
}

impl Comparing {
    fn new() -> Comparing {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound").to_string();
        Comparing { folder: open_folder(), _listener: listener, address }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text.replace("ADDRESS", &self.address)).expect("a file");
        path
    }

    /// The verdict and text of each step about the web server.
    fn compare(&self, file: &Path, address: &str) -> Vec<String> {
        let file = file.to_str().expect("a name");
        let checked = check(&[address, "--timeout", "10ms", "--server-config", file]);
        let steps = checked.report["steps"].as_array().expect("steps").clone();
        let of = steps.iter().filter(|step| step["step"] == "web server");
        of.map(|step| format!("{}: {}", step["verdict"].as_str().unwrap(), step["found"].as_str().unwrap()))
            .collect()
    }

    /// `text` names this address at that line, and another one is told from it.
    #[track_caller]
    fn names(&self, name: &str, text: &str, line: usize, says: &str) {
        let file = self.file(name, text);
        let says = says.replace("ADDRESS", &self.address);
        let place = format!("{}:{line}: says {says}", file.display());
        let found = self.compare(&file, &self.address);
        assert_eq!(found.first(), Some(&format!("ok: {place}")), "{found:?}");
        let other = "unix:/run/other.sock";
        let found = self.compare(&file, other);
        assert_eq!(found, [format!("wrong: {place}, you gave {other}")]);
    }
}

const PARAMS: &str = "fastcgi_param REQUEST_METHOD $request_method; fastcgi_param SCRIPT_NAME ''; \
                      fastcgi_param PATH_INFO $document_uri;";

#[test]
fn the_line_of_nginx_that_names_another_address_is_found() {
    let comparing = Comparing::new();
    let text =
        format!("http {{ server {{\n location / {{ # here\n {PARAMS}\n fastcgi_pass ADDRESS; }} }} }}");
    comparing.names("nginx.conf", &text, 4, "ADDRESS");
    let upstream = format!(
        "upstream app {{\n keepalive 8;\n server ADDRESS;\n}}\nserver {{ location / {{ {PARAMS} fastcgi_pass app; }} }}"
    );
    comparing.names("upstream.conf", &upstream, 3, "ADDRESS");
    let included = comparing.file("app.inc", &text);
    let main = comparing.file("main.conf", "http { include app.*; }\n");
    let found = comparing.compare(&main, &comparing.address);
    assert_eq!(found, [format!("ok: {}:4: says {}", included.display(), comparing.address)]);

    let file = comparing.file("bare.conf", "location / { fastcgi_pass ADDRESS; }");
    let found = comparing.compare(&file, &comparing.address);
    let missing = |name: &str| format!("wrong: {}:1: passes no {name}", file.display());
    assert_eq!(found[1..], [missing("REQUEST_METHOD"), missing("SCRIPT_NAME"), missing("PATH_INFO")]);
    // Debian's file has no PATH_INFO; what stands outside of a block counts where it has none of its own.
    let all = "fastcgi_param SCRIPT_NAME a; fastcgi_param REQUEST_METHOD a; fastcgi_param REQUEST_URI a;";
    let file = comparing.file("outer.conf", &format!("{all}\nlocation / {{ fastcgi_pass ADDRESS; }}"));
    let found = comparing.compare(&file, &comparing.address);
    assert_eq!(found[1..], [format!("note: {}:2: passes no PATH_INFO", file.display())]);
    let file = comparing.file("variable.conf", &format!("location / {{ {PARAMS} fastcgi_pass $backend; }}"));
    let found = comparing.compare(&file, &comparing.address);
    assert!(found[0].starts_with("note: ") && found[0].contains("says $backend"), "{found:?}");
    let file = comparing.file("none.conf", "server { listen 80; }");
    assert_eq!(
        comparing.compare(&file, &comparing.address),
        ["wrong: the file names no FastCGI application"]
    );
}

#[test]
fn the_line_of_apache_that_names_another_address_is_found() {
    let comparing = Comparing::new();
    for (text, line, says) in [
        ("ServerName x\nProxyPass \"/app\" \"fcgi://ADDRESS/\" enablereuse=on\n", 2, "fcgi://ADDRESS/"),
        ("<Location /app>\n  SetHandler \"proxy:fcgi://ADDRESS\"\n</Location>", 2, "proxy:fcgi://ADDRESS"),
        (
            "Define APP ADDRESS\n# fcgi://1.2.3.4:5\nProxyPassMatch ^/(.*)$ \\\n fcgi://${APP}/$1",
            3,
            "fcgi://ADDRESS/$1",
        ),
        ("AuthnzFcgiDefineProvider authorizer a fcgi://ADDRESS/", 1, "fcgi://ADDRESS/"),
        ("FastCgiExternalServer /srv/app.fcgi -host ADDRESS", 1, "ADDRESS"),
    ] {
        comparing.names("site.conf", text, line, says);
    }
    let path = comparing.folder.path().join("s");
    let address = unix(&path);
    let file = comparing.file("unix.conf", &format!("ProxyPass / {address}|fcgi://localhost/\n"));
    assert!(comparing.compare(&file, &address)[0].starts_with("ok: "));
    let main = comparing.file("apache2.conf", "ServerRoot /nowhere\nIncludeOptional uni*.conf\n");
    assert!(comparing.compare(&main, &address)[0].contains("unix.conf:1: says unix:"));
}

#[test]
fn the_line_of_lighttpd_that_names_another_address_is_found() {
    let comparing = Comparing::new();
    let (host, port) = comparing.address.rsplit_once(':').expect("a port");
    let text = format!(
        "server.modules = ( \"mod_fastcgi\" )
fastcgi.server = ( \"/app\" => ((
  \"host\" => \"{host}\",
  \"port\" => {port},
  \"check-local\" => \"disable\" )))
"
    );
    comparing.names("lighttpd.conf", &text, 3, "ADDRESS");
    let path = comparing.folder.path().join("s");
    let address = unix(&path);
    let folder = comparing.folder.path().display();
    let text = format!(
        "var.run = \"{folder}\" # there\nfastcgi.server += (\"/\" => (\n(\"socket\" => var.run + \"/s\")))\n"
    );
    let file = comparing.file("socket.conf", &text);
    assert_eq!(comparing.compare(&file, &address), [format!("ok: {}:3: says {address}", file.display())]);
    let text = text.replace("(\"socket\"", "(\"bin-path\" => \"/srv/app\", \"socket\"");
    let file = comparing.file("spawned.conf", &text);
    assert!(comparing.compare(&file, &address)[0].starts_with("wrong: "));
    assert!(comparing.compare(&file, &format!("{address}-0"))[0].starts_with("ok: "));
    let main = comparing.file("main.conf", "server.modules = ()\ninclude \"soc*.conf\"\n");
    assert!(comparing.compare(&main, &address)[0].contains("socket.conf:3: says "));
}

/// What `ringway conf` prints for an address names that address, and passes what an application needs.
#[test]
fn what_conf_prints_is_content_with_itself() {
    let comparing = Comparing::new();
    let path = comparing.folder.path().join("s");
    for address in [comparing.address.clone(), unix(&path)] {
        for server in ["nginx", "apache", "lighttpd"] {
            let arguments = ["conf", server, "--listen", &address, "--mount", "/app"];
            let printed =
                Command::new(env!("CARGO_BIN_EXE_ringway")).args(arguments).output().expect("it starts");
            assert!(printed.status.success(), "{printed:?}");
            let file = comparing.file(server, &String::from_utf8(printed.stdout).expect("text"));
            let found = comparing.compare(&file, &address);
            assert!(
                found.iter().all(|text| text.starts_with("ok: ")) && !found.is_empty(),
                "{server}: {found:?}"
            );
        }
    }
}
