//! `ringway::client` before applications that are not ours: PHP-FPM, libfcgi, and Go's net/http/fcgi.
//!
//! | | connections | many at a time | roles |
//! | --- | --- | --- | --- |
//! | PHP-FPM | kept | no: one request for each connection | Responder |
//! | libfcgi | kept | refused with CANT_MPX_CONN | all |
//! | Go | kept | yes | Responder |

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ringway::client::{Address, Client, Complete, Error, Part, Request};
use ringway::proto::Role;
use tempfile::TempDir;

use crate::support::process::{PATIENCE, Process, Ringway};
use crate::support::web::find;

/// More than sockets and both ends keep.
const LARGE_BYTES: usize = 5_000_000;

/// An application at a socket file.
struct Application {
    process: Process,
    address: Address,
    folder: TempDir,
}

impl Application {
    /// Starts what `command` makes of a folder and of a socket in it.
    fn start(name: &str, command: impl FnOnce(&Path, &Path) -> Command) -> Application {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("application.sock");
        let mut command = command(folder.path(), &socket);
        let mut process = Process::start(name, command.stdin(Stdio::null()), folder.path());
        let address = format!("unix:{}", socket.display());
        process.wait_until("accepts", || Ringway::accepts(&address));
        let address = address.parse().expect("an address");
        Application { process, address, folder }
    }

    async fn connect(&self) -> Client {
        Client::connect(&self.address).await.expect("the application listens")
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE * 3, test).await.expect("nothing hangs") });
}

/// Sends a request and its body, and reads the answer meanwhile.
async fn fetch(client: &Client, request: &Request, body: &[u8]) -> Complete {
    let exchange = client.begin(request).expect("the connection is open");
    exchange.complete(body, usize::MAX).await.expect("an answer")
}

/// The body of an answer.
fn body(complete: &Complete) -> &str {
    let text = std::str::from_utf8(&complete.stdout).expect("a text");
    text.split_once("\r\n\r\n").expect("a head").1
}

fn php() -> Option<Application> {
    let program = ["php-fpm", "php-fpm8.2", "php-fpm8.3", "php-fpm8.4"].into_iter().find_map(|name| {
        let path = Path::new("/usr/sbin").join(name);
        path.is_file().then_some(path)
    });
    let program = program.or_else(|| find("php-fpm"))?;
    Some(Application::start("php-fpm", |folder, socket| {
        let text = format!(
            "[global]\nerror_log = {0}/fpm.log\ndaemonize = no\n[www]\nlisten = {1}\n{2}pm = static\n\
             pm.max_children = 2\ncatch_workers_output = yes\n",
            folder.display(),
            socket.display(),
            if rustix::process::geteuid().is_root() { "user = root\ngroup = root\n" } else { "" },
        );
        std::fs::write(folder.join("fpm.conf"), text).expect("a file");
        std::fs::write(folder.join("page.php"), include_str!("client/page.php")).expect("a file");
        let mut command = Command::new(program);
        command.args(["-R", "-n", "-d", "post_max_size=0", "-d", "display_errors=0", "-d", "log_errors=1"]);
        command.arg("-p").arg(folder).arg("-y").arg(folder.join("fpm.conf"));
        command
    }))
}

fn libfcgi() -> Option<Application> {
    let compiler = find("cc")?;
    if !Path::new("/usr/include/fcgiapp.h").is_file() {
        find("fcgiapp.h (libfcgi-dev)")?;
    }
    Some(Application::start("libfcgi", |folder, socket| {
        let (source, program) = (folder.join("echo.c"), folder.join("echo"));
        std::fs::write(&source, include_str!("client/echo.c")).expect("a file");
        let built = Command::new(compiler).arg("-o").arg(&program).arg(&source).arg("-lfcgi").output();
        let built = built.expect("the compiler starts");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let mut command = Command::new(program);
        command.arg(socket);
        command
    }))
}

fn go() -> Option<Application> {
    let compiler = find("go")?;
    Some(Application::start("go", |folder, socket| {
        let (source, program) = (folder.join("serve.go"), folder.join("serve"));
        std::fs::write(&source, include_str!("client/serve.go")).expect("a file");
        let mut build = Command::new(compiler);
        build.args(["build", "-o"]).arg(&program).arg(&source).env("GOFLAGS", "").env("GO111MODULE", "off");
        // What was built of the standard library serves the next run too.
        let cache = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("go");
        let built = build.env("GOCACHE", cache).env("GOTOOLCHAIN", "local").output().expect("go starts");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let mut command = Command::new(program);
        command.arg(socket);
        command
    }))
}

fn large() -> Vec<u8> {
    (0..LARGE_BYTES).map(|index| b'a' + (index % 26) as u8).collect()
}

#[test]
fn php_fpm_answers_on_a_kept_connection() {
    let Some(php) = php() else { return };
    let page = |method: &str, query: &str| {
        let script = php.folder.path().join("page.php").display().to_string();
        Request::new(method, &format!("/page.php{query}")).param("SCRIPT_FILENAME", script)
    };
    run(async {
        let client = php.connect().await;
        for number in 0..3 {
            let answer = fetch(&client, &page("GET", &format!("?show={number}")), b"").await;
            assert_eq!(body(&answer), format!("GET show={number} 0 d41d8cd98f00b204e9800998ecf8427e\n"));
            assert_eq!((answer.end.app_status, answer.end.is_complete()), (0, true));
        }
        let large = large();
        let post = page("POST", "").header("Content-Type", b"application/octet-stream");
        let answer = fetch(&client, &post.content_length(LARGE_BYTES as u64), &large).await;
        assert!(body(&answer).starts_with("POST  5000000 "), "{}", body(&answer));
        let head = client.begin(&page("GET", "?status=404")).expect("it is kept");
        let (mut stdin, mut answer) = (head.stdin, head.answer);
        stdin.end().await.expect("it reads");
        let head = answer.head().await.expect("a head");
        assert_eq!((head.status, head.header("X-Powered-By").is_some()), (404, true));
        while answer.next().await.expect("the rest").is_some() {}
        let complains = fetch(&client, &page("GET", "?complain"), b"").await;
        let stderr = String::from_utf8_lossy(&complains.stderr);
        assert!(stderr.contains("something to complain about"), "{stderr:?}\n{}", php.process.log());
        // A large answer, and one that is cut short: PHP-FPM closes the connection then.
        let answer = fetch(&client, &page("GET", "?bytes=3000000"), b"").await;
        assert_eq!(body(&answer).len(), 3_000_000);
        let cut = client.begin(&page("GET", "?bytes=30000000")).expect("it is kept");
        drop(cut);
        let again = php.connect().await;
        assert_eq!(fetch(&again, &page("GET", "?show=1"), b"").await.end.app_status, 0);
        // 4.1: it answers, and closes.
        let values = php.connect().await.get_values(&["FCGI_MPXS_CONNS", "FCGI_OTHER"]).await;
        assert_eq!(values.expect("an answer"), [("FCGI_MPXS_CONNS".into(), "0".into())]);
        let last = php.connect().await;
        assert_eq!(fetch(&last, &page("GET", "").keep_conn(false), b"").await.end.app_status, 0);
        assert!(matches!(last.begin(&page("GET", "")), Err(Error::UsedUp)));
    });
}

#[test]
fn libfcgi_serves_every_role_one_at_a_time() {
    let Some(libfcgi) = libfcgi() else { return };
    run(async {
        let client = libfcgi.connect().await;
        for length in [0, 5, LARGE_BYTES] {
            let large = &large()[..length];
            let request = Request::new("POST", "/echo").content_length(length as u64);
            let answer = fetch(&client, &request, large).await;
            assert!(body(&answer).as_bytes() == large, "{length}");
            assert_eq!((answer.end.app_status, &answer.stderr[..]), (7, &b"RESPONDER\n"[..]));
        }
        let authorize = Request::new("GET", "/").role(Role::Authorizer);
        // 6.3: it has no STDIN. libfcgi closes the connection that sends one.
        let answer = client.begin(&authorize).expect("it is kept").answer.complete(1_000).await;
        assert_eq!(answer.expect("an answer").stderr, b"AUTHORIZER\n");
        let filter = Request::new("GET", "/").role(Role::Filter).param("FCGI_DATA_LENGTH", "4");
        let mut exchange = client.begin(&filter.content_length(2)).expect("it is kept");
        exchange.stdin.write(b"in").await.expect("it reads");
        exchange.stdin.end().await.expect("it reads");
        exchange.data.write(b"data").await.expect("it reads");
        exchange.data.end().await.expect("it reads");
        let answer = exchange.answer.complete(1_000).await.expect("an answer");
        assert_eq!((body(&answer), &answer.stderr[..]), ("indata", &b"FILTER\n"[..]));
        // A second one beside it is refused. libfcgi takes that for the end of the first one's STDIN.
        let mut first = client.begin(&Request::new("POST", "/").content_length(4)).expect("it is kept");
        first.stdin.write(b"ab").await.expect("it reads");
        let second = client.begin(&Request::new("GET", "/")).expect("an id is free");
        let refused = second.answer.complete(1_000).await.expect("an end");
        assert_eq!((refused.end.protocol_status, refused.end.is_complete()), (1, false));
        drop(first);
        let client = libfcgi.connect().await;
        let values = client.get_values(&["FCGI_MPXS_CONNS"]).await.expect("an answer");
        assert_eq!(values, [("FCGI_MPXS_CONNS".into(), "0".into())]);
        let last = fetch(&client, &Request::new("GET", "/").keep_conn(false), b"").await;
        assert_eq!(last.end.app_status, 7);
    });
}

#[test]
fn go_serves_many_at_a_time_and_streams_both_ways() {
    let Some(go) = go() else { return };
    run(async {
        let client = go.connect().await;
        let values = client.get_values(&["FCGI_MPXS_CONNS"]).await.expect("an answer");
        assert_eq!(values, [("FCGI_MPXS_CONNS".into(), "1".into())]);
        // They wait for each other: answered one by one none would be.
        let mut together = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let exchange = client.begin(&Request::new("GET", "/together?8")).expect("ids are free");
            together.spawn(exchange.complete(b"", 1_000));
        }
        for answer in together.join_all().await {
            assert_eq!(body(&answer.expect("an answer")), "together\n");
        }
        let large = large();
        let echo = Request::new("POST", "/echo").content_length(LARGE_BYTES as u64);
        assert!(body(&fetch(&client, &echo, &large).await).as_bytes() == large);
        // What was sent comes back before more is sent.
        let mut exchange =
            client.begin(&Request::new("POST", "/echo").content_length(9)).expect("it is open");
        exchange.stdin.write(b"one").await.expect("it reads");
        assert_eq!(exchange.answer.head().await.expect("a head").status, 200);
        for (came, next) in [("one", "two"), ("two", "333"), ("333", "")] {
            let part = exchange.answer.next().await.expect("a part");
            assert_eq!(part, Some(Part::Stdout(came.into())));
            if !next.is_empty() {
                exchange.stdin.write(next.as_bytes()).await.expect("it reads");
            }
        }
        exchange.stdin.end().await.expect("it reads");
        assert!(matches!(exchange.answer.next().await, Ok(Some(Part::End(_)))));
    });
}
