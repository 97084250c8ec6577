//! Apache 2.4: `mod_proxy_fcgi`, by socket file and by port, connections closed after each request and kept, at the
//! root and below a prefix, asked by `ProxyPass` and by `SetHandler`; `mod_fcgid`, which starts the application itself,
//! by its configuration or by a `.fcgi` file and `.htaccess`; and both of its ways to ask an Authorizer.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ringway::{Response, Server};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::pages::{self, Front, Habits};
use crate::support::conf;
use crate::support::matrix::matrix;
use crate::support::process::{PATIENCE, Process, Ringway, allows, eventually, free_address};
use crate::support::tap::Tap;
use crate::support::web::{Request, find};

/// Apache, as `ringway conf` wants it.
struct Apache {
    process: Process,
    address: SocketAddr,
}

impl Apache {
    /// Starts it in `folder`, which is made, with these arguments of `ringway conf apache` and with what a test adds.
    fn start(folder: &Path, arguments: &[&str], more: &str) -> Apache {
        let address = free_address();
        let file = conf::write(folder, "apache", address, arguments);
        Apache::serve(folder, address, &format!("Include \"{}\"\n{more}", file.display()))
    }

    fn serve(folder: &Path, address: SocketAddr, text: &str) -> Apache {
        let file = folder.join("main.conf");
        std::fs::write(&file, text).expect("the configuration can be written");
        let mut command = Command::new(find("apache2").expect("Apache was there"));
        command.arg("-f").arg(&file).arg("-DFOREGROUND").stdin(Stdio::null());
        let mut process = Process::start("apache", &mut command, folder);
        process.also_logs_to(folder.join("error.log"));
        process.ends_slowly();
        process.wait_until("accepts", || Ringway::accepts(&address.to_string()));
        Apache { process, address }
    }

    fn front(&self, mount: &'static str) -> Front<'_> {
        Front { address: self.address, mount, habits: Habits::USUAL, server: &self.process }
    }
}

/// Ringway behind `mod_proxy_fcgi`.
struct Stand {
    // Dropped from the top: Apache waits for the answers that it was promised.
    ringway: Ringway,
    apache: Apache,
    folder: TempDir,
    mount: &'static str,
}

#[derive(Clone, Copy)]
enum Socket {
    Unix,
    Tcp,
}

impl Stand {
    /// `None` where the host lacks what it takes.
    fn new(driver: &str, socket: Socket, mount: &'static str, options: &[&str]) -> Option<Stand> {
        Stand::with(driver, socket, mount, options, "")
    }

    fn with(
        driver: &str,
        socket: Socket,
        mount: &'static str,
        options: &[&str],
        more: &str,
    ) -> Option<Stand> {
        let found = find("apache2").is_some() && allows(driver);
        found.then(|| {
            let folder = conf::folder();
            let ringway = Ringway::start(folder.path(), driver, &["--mount", prefix(mount)]);
            let application = match socket {
                Socket::Unix => format!("unix:{}", ringway.unix.display()),
                Socket::Tcp => ringway.tcp.to_string(),
            };
            let arguments = [&["--listen", &application, "--mount", prefix(mount)], options].concat();
            let apache = Apache::start(&folder.path().join("apache"), &arguments, more);
            Stand { ringway, apache, folder, mount }
        })
    }

    fn front(&self) -> Front<'_> {
        self.apache.front(self.mount)
    }
}

fn prefix(mount: &str) -> &str {
    if mount.is_empty() { "/" } else { mount }
}

const KEEP: &str = "--keep-connections";
const UNBUFFERED: &str = "--no-buffering";
const HANDLER: [&str; 2] = ["--way", "set_handler"];

matrix! {
    "apache", "proxy_fcgi":
        unix_closed_root ["unix", "closed", "root", "pages", "streaming"] =>
            every_page("uring", Socket::Unix, "", &[UNBUFFERED]);
        unix_closed_prefix ["unix", "closed", "prefix", "pages"] =>
            every_page("epoll", Socket::Unix, "/app", &[]);
        unix_kept_root ["unix", "kept", "root", "pages"] => every_page("epoll", Socket::Unix, "", &[KEEP]);
        unix_kept_prefix ["unix", "kept", "prefix", "pages", "streaming"] =>
            every_page("uring", Socket::Unix, "/app", &[KEEP, UNBUFFERED]);
        tcp_closed_root ["tcp", "closed", "root", "pages"] => every_page("epoll", Socket::Tcp, "", &[]);
        tcp_closed_prefix ["tcp", "closed", "prefix", "pages", "streaming"] =>
            every_page("uring", Socket::Tcp, "/app", &[UNBUFFERED]);
        tcp_kept_root ["tcp", "kept", "root", "pages", "streaming"] =>
            every_page("uring", Socket::Tcp, "", &[KEEP, UNBUFFERED]);
        tcp_kept_prefix ["tcp", "kept", "prefix", "pages"] =>
            every_page("epoll", Socket::Tcp, "/app", &[KEEP]);
        uring_bodies ["bodies"] => bodies("uring", Socket::Unix, &[KEEP]);
        epoll_bodies ["bodies"] => bodies("epoll", Socket::Tcp, &[UNBUFFERED]);
        uring_leavers ["leavers"] => leavers("uring", Socket::Unix, &[KEEP]);
        epoll_leavers ["leavers"] => leavers("epoll", Socket::Tcp, &[UNBUFFERED]);
        uring_crowd ["crowd"] => crowd("uring", Socket::Unix, &[KEEP]);
        epoll_crowd ["crowd"] => crowd("epoll", Socket::Tcp, &[]);
        authorizer ["Authorizer (mod_authnz_fcgi)"] => asks_the_authorizer();
        connections ["kept", "closed"] => connections_are_kept_if_wanted(&[]);
        restarts ["restarts"] => finds_it_back_at_once(&[KEEP]);
        gives_up [] => gives_up_a_slow_answer();
        bare [] => paths_come_out_right_without_more_lines();
        neighbours ["two applications"] => asks_the_right_one(&[]);
        site ["a site of Debian's configuration"] => a_site_of_debian(&["--static", "/static=/usr/share/doc/apache2"]);
    "apache", "set_handler":
        handler_unix_closed_root ["unix", "closed", "root", "pages"] => handled("epoll", Socket::Unix, "", &[]);
        handler_unix_closed_prefix ["unix", "closed", "prefix", "pages"] =>
            handled("uring", Socket::Unix, "/app", &[]);
        handler_unix_kept_root ["unix", "kept", "root", "pages", "streaming"] =>
            handled("epoll", Socket::Unix, "", &[KEEP, UNBUFFERED]);
        handler_unix_kept_prefix ["unix", "kept", "prefix", "pages", "streaming"] =>
            handled("uring", Socket::Unix, "/app", &[KEEP, UNBUFFERED]);
        handler_tcp_closed_root ["tcp", "closed", "root", "pages", "streaming"] =>
            handled("uring", Socket::Tcp, "", &[UNBUFFERED]);
        handler_tcp_closed_prefix ["tcp", "closed", "prefix", "pages"] =>
            handled("epoll", Socket::Tcp, "/app", &[]);
        handler_tcp_kept_root ["tcp", "kept", "root", "pages"] => handled("uring", Socket::Tcp, "", &[KEEP]);
        handler_tcp_kept_prefix ["tcp", "kept", "prefix", "pages"] =>
            handled("epoll", Socket::Tcp, "/app", &[KEEP]);
        handler_bodies ["bodies"] => bodies("uring", Socket::Tcp, &HANDLER);
        handler_leavers ["leavers"] => leavers("epoll", Socket::Tcp, &HANDLER);
        handler_crowd ["crowd"] => crowd("uring", Socket::Unix, &[&HANDLER[..], &[KEEP]].concat());
        handler_connections ["kept", "closed"] => connections_are_kept_if_wanted(&HANDLER);
        handler_restarts ["restarts"] => finds_it_back_at_once(&HANDLER);
        handler_neighbours ["two applications"] => asks_the_right_one(&HANDLER);
        handler_site ["a site of Debian's configuration"] => a_site_of_debian(&HANDLER);
    "apache", "fcgid":
        fcgid_prefix ["fd 0", "closed", "prefix", "pages", "streaming"] => fcgid_pages("/app", &[UNBUFFERED]);
        fcgid_root ["fd 0", "closed", "root", "pages"] => fcgid_pages("", &[]);
        fcgid_bodies ["bodies"] => spawned_bodies();
        fcgid_leavers ["leavers"] => spawned_leavers();
        fcgid_crowd ["crowd"] => spawned_crowd();
        fcgid_authorizer ["Authorizer (FcgidAccessChecker)"] => the_process_is_the_authorizer_too();
        fcgid_ends ["restarts"] => processes_end_as_apache_wants();
    "apache", "htaccess":
        htaccess_root ["fd 0", "closed", "root", "pages"] => a_fcgi_file("");
        htaccess_prefix ["fd 0", "closed", "prefix", "pages"] => a_fcgi_file("/app");
}

fn every_page(driver: &str, socket: Socket, mount: &'static str, options: &[&str]) {
    let files = conf::folder();
    let statics = statics(&files);
    let Some(stand) = Stand::new(driver, socket, mount, &[options, &["--static", &statics]].concat()) else {
        return;
    };
    let front = stand.front();
    pages::all(&front);
    says_what_it_ought(&front);
    if options.contains(&UNBUFFERED) {
        pages::streaming(&front);
    }
}

fn handled(driver: &str, socket: Socket, mount: &'static str, options: &[&str]) {
    every_page(driver, socket, mount, &[&HANDLER, options].concat());
}

/// A directory of files that Apache is to serve by itself, as `--static` takes it.
fn statics(folder: &TempDir) -> String {
    std::fs::write(folder.path().join("hello"), "a file\n").expect("a file can be written");
    format!("/static={}", folder.path().display())
}

/// What Apache alone does.
fn says_what_it_ought(front: &Front<'_>) {
    let secret = Request::get(&front.target("x/a%0Ab/env")).header("Authorization", "Bearer me");
    let env = front.env(secret.header("Proxy", "http://evil.test"));
    assert_eq!((&env["HTTP_AUTHORIZATION"], env.get("HTTP_PROXY")), (&"Bearer me".into(), None));
    assert_eq!((&env["SCRIPT_NAME"], &env["PATH_INFO"]), (&front.mount.into(), &"/x/a\nb/env".into()));
    assert_eq!(Request::get("/static/hello").send(front.address).text(), "a file\n");
    if !front.mount.is_empty() {
        // The namesake of a mount is none.
        assert_eq!(Request::get(&format!("{}le/hello", front.mount)).send(front.address).status, 404);
    }
}

fn bodies(driver: &str, socket: Socket, options: &[&str]) {
    let Some(stand) = Stand::new(driver, socket, "/app", options) else { return };
    let front = stand.front();
    pages::large_bodies(&front);
    pages::early_answers(&front);
    let peak = stand.ringway.process.memory_peak();
    assert!(peak < 48 << 20, "{} MiB of memory", peak >> 20);
    pages::echo(&front, 20 << 20);
    assert_eq!(front.aborted(), 0);
}

/// While Apache waits for an answer it does not look whether the visitor is still there.
fn leavers(driver: &str, socket: Socket, options: &[&str]) {
    let Some(stand) = Stand::new(driver, socket, "/app", options) else { return };
    pages::leavers_of_downloads(&stand.front());
    let log = stand.ringway.process.log();
    assert!(!log.contains("WARN"), "that a visitor leaves is nothing to warn of: {log}");
}

fn crowd(driver: &str, socket: Socket, options: &[&str]) {
    let Some(stand) = Stand::new(driver, socket, "/app", options) else { return };
    pages::crowd(&stand.front());
}

/// The probe's Authorizer wants a variable, which visitors set by their query here.
const ALLOW: &str = "LoadModule setenvif_module /usr/lib/apache2/modules/mod_setenvif.so
SetEnvIfExpr \"%{QUERY_STRING} =~ /allow=1/\" PROBE_ALLOW=1\n";

fn asks_the_authorizer() {
    for (driver, options) in [("uring", &["--auth"][..]), ("epoll", &["--auth", HANDLER[0], HANDLER[1]])] {
        let Some(stand) = Stand::with(driver, Socket::Tcp, "/app", options, ALLOW) else { continue };
        let front = stand.front();
        let denied = front.get("env");
        assert_eq!((denied.status, denied.text().as_str()), (403, "denied\n"));
        assert_eq!(front.post("echo", "body").status, 403);
        let env = front.env(Request::get(&front.target("env?allow=1")));
        assert_eq!((&env["PROBE_USER"], &env["REMOTE_USER"]), (&"alice".into(), &"visitor".into()));
        assert_eq!(front.post("echo?allow=1", "body").text(), "body");
    }
}

/// Counts the connections that forty visitors in a row take.
fn connections_are_kept_if_wanted(way: &[&str]) {
    if find("apache2").is_none() {
        return;
    }
    for (options, kept) in [(&[KEEP][..], true), (&[], false)] {
        let folder = conf::folder();
        let ringway = Ringway::start(folder.path(), "epoll", &["--mount", "/app"]);
        let tap = Tap::start(ringway.tcp);
        let listen = tap.address.to_string();
        let arguments = [&["--listen", &listen, "--mount", "/app"], options, way].concat();
        let apache = Apache::start(&folder.path().join("apache"), &arguments, "");
        (0..40).for_each(|_| assert_eq!(apache.front("/app").get("hello").text(), "Hello, world!\n"));
        let counts = tap.counts();
        assert_eq!(counts.requests, 40, "{counts:?}");
        assert_eq!(counts.connections < 40, kept, "{counts:?}");
    }
}

/// An application that was away is asked as soon as it is back, by the connections that Apache had kept, too.
fn finds_it_back_at_once(options: &[&str]) {
    let Some(mut stand) = Stand::new("epoll", Socket::Unix, "/app", options) else { return };
    pages::hello(&stand.front());
    let (unix, tcp) = (stand.ringway.unix.clone(), stand.ringway.tcp);
    stand.ringway.process.signal(Signal::TERM);
    stand.ringway.process.wait(PATIENCE);
    assert_eq!(stand.front().get("hello").status, 503);
    stand.ringway = Ringway::start_at(stand.folder.path(), &unix, tcp, "epoll", &["--mount", "/app"]);
    pages::hello(&stand.front());
}

/// Apache answers by itself when its patience ends, and the handler is cancelled.
fn gives_up_a_slow_answer() {
    for driver in ["uring", "epoll"] {
        let Some(stand) = Stand::with(driver, Socket::Unix, "/app", &[], "ProxyTimeout 1\n") else {
            continue;
        };
        let front = stand.front();
        assert_eq!(front.get("sleep?ms=600000").status, 504);
        eventually("the handler is cancelled", || (front.aborted() == 1).then_some(()));
        pages::hello(&front);
    }
}

/// `ProxyPass` and no more, as Apache's manual has it.
fn paths_come_out_right_without_more_lines() {
    if find("apache2").is_none() {
        return;
    }
    for mount in ["", "/app"] {
        let folder = conf::folder();
        let server = Server::builder().listen("127.0.0.1:0").workers(1).responder(prefix(mount), says_where);
        let server = server.start().expect("a server");
        let address = free_address();
        let arguments = ["--listen", &server.addresses()[0], "--mount", prefix(mount)];
        let text = std::fs::read_to_string(conf::write(folder.path(), "apache", address, &arguments));
        let text = text.expect("the configuration can be read");
        let bare: String =
            text.split_inclusive('\n').filter(|line| !line.contains("ProxyFCGISetEnvIf")).collect();
        assert_ne!(bare, text);
        let apache = Apache::serve(folder.path(), address, &bare);
        for (page, expected) in [("", "/"), ("a", "/a"), ("a%20b/gr%C3%BC%3F/c%25/", "/a b/grü?/c%/")] {
            assert_eq!(apache.front(mount).get(page).text(), format!("{mount} {expected}"));
        }
    }
}

async fn says_where(request: ringway::Request) -> Response {
    let (script_name, path_info) = (request.script_name(), request.path_info());
    Response::text(format!(
        "{} {}",
        String::from_utf8_lossy(&script_name),
        String::from_utf8_lossy(&path_info)
    ))
}

/// Two applications of one site, each with a socket file of its own.
fn asks_the_right_one(way: &[&str]) {
    if find("apache2").is_none() {
        return;
    }
    let (one, other) = (conf::folder(), conf::folder());
    let address = free_address();
    let mut text = String::new();
    let mut applications = Vec::new();
    for (folder, mount) in [(&one, "/one"), (&other, "/other")] {
        let ringway = Ringway::start(folder.path(), "epoll", &["--mount", mount]);
        let listen = format!("unix:{}", ringway.unix.display());
        let arguments = [&["--listen", &listen, "--mount", mount, KEEP], way].concat();
        let whole = std::fs::read_to_string(conf::write(one.path(), "apache", address, &arguments));
        let whole = whole.expect("the configuration can be read");
        // What is inside of the VirtualHost goes into the other's.
        let inside =
            whole.split_once("<VirtualHost ").expect("it begins").1.split_once('\n').expect("a line").1;
        text = match text.strip_suffix("</VirtualHost>\n") {
            None => whole,
            Some(text) => format!("{text}{inside}"),
        };
        applications.push(ringway);
    }
    let apache = Apache::serve(one.path(), address, &text);
    for _ in 0..40 {
        for mount in ["/one", "/other"] {
            assert_eq!(apache.front(mount).get("hello").text(), "Hello, world!\n", "{mount}");
        }
    }
}

/// The configuration that Debian's package brings, and one file more in it: from `Listen` on what is printed.
fn a_site_of_debian(options: &[&str]) {
    let debian = Path::new("/etc/apache2");
    if find("apache2").is_none() {
        return;
    }
    let folder = conf::folder();
    let etc = folder.path().join("etc");
    let copied = Command::new("cp").arg("-a").arg(debian).arg(&etc).status().expect("cp runs");
    assert!(copied.success(), "Debian's configuration can be copied");
    // Port 80 is the host's.
    std::fs::write(etc.join("ports.conf"), "").expect("a file can be written");
    for site in std::fs::read_dir(etc.join("sites-enabled")).expect("a folder") {
        std::fs::remove_file(site.expect("a link").path()).expect("a link can be removed");
    }
    // What a2enmod does.
    for file in ["proxy.load", "proxy.conf", "proxy_fcgi.load"] {
        let link = etc.join("mods-enabled").join(file);
        if !link.exists() {
            std::os::unix::fs::symlink(Path::new("../mods-available").join(file), link).expect("a link");
        }
    }
    let ringway = Ringway::start(folder.path(), "epoll", &["--mount", "/app"]);
    let listen = format!("unix:{}", ringway.unix.display());
    let address = free_address();
    let arguments = [&["--listen", &listen, "--mount", "/app"], options].concat();
    let text = std::fs::read_to_string(conf::write(folder.path(), "apache", address, &arguments));
    let text = text.expect("the configuration can be read");
    let site = &text[text.find("Listen ").expect("a port")..];
    std::fs::write(etc.join("sites-enabled/app.conf"), site).expect("a file can be written");
    let mut command = Command::new(find("apache2").expect("Apache was there"));
    command
        .arg("-d")
        .arg(&etc)
        .arg("-f")
        .arg(etc.join("apache2.conf"))
        .arg("-DFOREGROUND")
        .stdin(Stdio::null());
    // What /etc/apache2/envvars does.
    for (name, value) in [("USER", "www-data"), ("GROUP", "www-data")] {
        command.env(format!("APACHE_RUN_{name}"), value);
    }
    for name in ["RUN", "LOCK", "LOG"] {
        command.env(format!("APACHE_{name}_DIR"), folder.path());
    }
    command.env("APACHE_PID_FILE", folder.path().join("apache2.pid"));
    let mut process = Process::start("apache", &mut command, folder.path());
    process.also_logs_to(folder.path().join("error.log"));
    process.ends_slowly();
    process.wait_until("accepts", || Ringway::accepts(&address.to_string()));
    let apache = Apache { process, address };
    pages::all(&apache.front("/app"));
    if options.contains(&"--static") {
        assert_eq!(Request::get("/static/copyright").send(address).status, 200);
    }
}

/// `mod_fcgid`, which starts Ringway.
struct Spawner {
    apache: Apache,
    _folder: TempDir,
    mount: &'static str,
}

impl Spawner {
    fn new(mount: &'static str, options: &[&str], more: &str) -> Option<Spawner> {
        let found = find("apache2").is_some();
        found.then(|| {
            let folder = conf::folder();
            let arguments = [&["--way", "fcgid", "--mount", prefix(mount)], options].concat();
            let apache = Apache::start(&folder.path().join("apache"), &arguments, more);
            Spawner { apache, _folder: folder, mount }
        })
    }

    fn front(&self) -> Front<'_> {
        self.apache.front(self.mount)
    }
}

fn fcgid_pages(mount: &'static str, options: &[&str]) {
    let files = conf::folder();
    let statics = statics(&files);
    let Some(spawner) = Spawner::new(mount, &[options, &["--static", &statics]].concat(), "") else { return };
    let front = spawner.front();
    pages::all(&front);
    says_what_it_ought(&front);
    if options.contains(&UNBUFFERED) {
        pages::streaming(&front);
    }
}

fn spawned_bodies() {
    let Some(spawner) = Spawner::new("/app", &[], "") else { return };
    let front = spawner.front();
    pages::large_bodies(&front);
    pages::early_answers(&front);
    pages::echo(&front, 20 << 20);
    assert_eq!(front.aborted(), 0);
}

fn spawned_leavers() {
    // All requests have to come to the process that counts.
    let Some(spawner) = Spawner::new("/app", &[UNBUFFERED, "--processes", "1"], "") else { return };
    pages::leavers_of_downloads(&spawner.front());
}

fn spawned_crowd() {
    let Some(spawner) = Spawner::new("/app", &["--processes", "16"], "") else { return };
    pages::crowd(&spawner.front());
}

fn the_process_is_the_authorizer_too() {
    let Some(spawner) = Spawner::new("/app", &["--auth"], ALLOW) else { return };
    let front = spawner.front();
    // Whatever the Authorizer answers, mod_fcgid says that the visitor is not known.
    assert_eq!(front.get("env").status, 401);
    assert_eq!(front.post("echo", "body").status, 401);
    let env = front.env(Request::get(&front.target("env?allow=1")));
    assert_eq!(env["PROBE_USER"], "alice");
    assert_eq!(front.post("echo?allow=1", "body").text(), "body");
}

/// A graceful restart of Apache replaces the process; its end ends it.
fn processes_end_as_apache_wants() {
    let Some(spawner) = Spawner::new("/app", &[], "LogLevel fcgid:info\n") else { return };
    let front = spawner.front();
    let ended = |count: usize| {
        eventually(&format!("{count} processes that have ended well"), || {
            (spawner.apache.process.log().matches("terminated by calling exit(), return code: 0").count()
                >= count)
                .then_some(())
        });
    };
    std::thread::scope(|scope| {
        // Longer than it takes mod_fcgid to repeat its SIGTERM, which is no second one.
        let visitor = scope.spawn(|| front.get("sleep?ms=4000").text());
        std::thread::sleep(Duration::from_millis(500));
        spawner.apache.process.signal(Signal::USR1);
        assert_eq!(visitor.join().expect("an answer"), "slept 4000\n");
    });
    ended(1);
    pages::hello(&front);
    spawner.apache.process.signal(Signal::TERM);
    ended(2);
}

/// A site's directory on a server of others, where everything is in files of that directory.
fn a_fcgi_file(mount: &'static str) {
    if find("apache2").is_none() {
        return;
    }
    let folder = conf::folder();
    let site = folder.path().join("site");
    let directory = site.join(mount.trim_start_matches('/'));
    std::fs::create_dir_all(&directory).expect("a folder can be made");
    let access = conf::print(&["apache", "--way", "htaccess", "--mount", prefix(mount)]);
    // The program is in its comment.
    let script: String = access
        .lines()
        .filter_map(|line| line.strip_prefix("#     "))
        .map(|line| line.to_owned() + "\n")
        .collect();
    let program = directory.join("app.fcgi");
    for (file, text) in [
        (&directory.join(".htaccess"), access.as_str()),
        (&program, &script),
        (&directory.join("robots.txt"), "a file\n"),
    ] {
        std::fs::write(file, text).expect("a file can be written");
    }
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("it is ours");
    let address = free_address();
    let apache = Apache::serve(folder.path(), address, &shared_host(folder.path(), &site, address));
    let front = apache.front(mount);
    pages::all(&front);
    assert_eq!(front.get("robots.txt").text(), "a file\n");
    // The file's own name leads there as well.
    assert_eq!(front.get("app.fcgi/hello").text(), "Hello, world!\n");
    assert!(apache.process.log().contains("the name of the .fcgi file is left out"));
}

/// The configuration of such a server.
fn shared_host(folder: &Path, site: &Path, address: SocketAddr) -> String {
    let (folder, site) = (folder.display(), site.display());
    let modules: String = ["mpm_event", "authz_core", "fcgid", "rewrite", "mime"]
        .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
        .concat();
    format!(
        "{modules}ServerName localhost
PidFile {folder}/apache2.pid
ErrorLog {folder}/error.log
User www-data
Group www-data
TypesConfig /etc/mime.types
FcgidIPCDir {folder}/fcgid
FcgidProcessTableFile {folder}/fcgid/shm
FcgidMaxRequestLen 1000000
Listen {address}
<VirtualHost {address}>
    DocumentRoot {site}
    <Directory {site}>
        AllowOverride All
    </Directory>
</VirtualHost>\n"
    )
}

/// What the page shows of configurations is printed so.
#[test]
fn the_page_shows_what_is_printed() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/deployment.md");
    let page = std::fs::read_to_string(page).expect("the page can be read");
    let conf = |arguments: &[&str]| {
        let text = conf::print(&[&["apache"], arguments].concat());
        text.replace(env!("CARGO_BIN_EXE_ringway"), "/usr/local/bin/ringway")
    };
    for (what, arguments) in [
        ("ProxyPass \"", &["--listen", "unix:/run/app.sock", "--mount", "/app", KEEP][..]),
        ("FcgidWrapper \"", &["--way", "fcgid", "--app", "APP", "--processes", "5"]),
    ] {
        let printed = conf(arguments);
        let block = page
            .split("```apache\n")
            .find(|block| block.starts_with(what) || block.contains(&format!("\n    {what}")));
        let (block, _) = block.and_then(|block| block.split_once("```")).expect("the page shows it");
        for line in block.lines().map(str::trim) {
            assert!(printed.lines().any(|other| other.trim() == line), "{line:?} is not in\n{printed}");
        }
    }
}
