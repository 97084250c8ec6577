//! The whole chain: wrk asks nginx, nginx asks the server over connections that it keeps.
//!
//! wrk and nginx share the generator's core and are the limit; the figure that counts is the CPU time that
//! the server behind them spends on a request.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::address::Address;
use crate::contender::{Contender, Programs};
use crate::load::Shape;
use crate::process::{self, Cores};
use crate::server::Server;
use crate::summary::Front;
use crate::wire::HELLO_BODY;

/// Runs wrk for `seconds` against each contender in turn, `rounds` times over.
pub fn measure(programs: &Programs, rounds: usize, seconds: u32, cores: Cores) -> Result<Vec<Front>> {
    let mut chains = Vec::new();
    for contender in Contender::ALL {
        // The echo cannot take part: it counts bytes, and nginx's requests vary in length.
        if contender != Contender::Echo && programs.absence(contender).is_none() {
            let directory = programs.directory().join(format!("nginx-{contender:?}"));
            fs::create_dir(&directory)?;
            let backend = Address::unix_in(&directory, "app");
            // Connections in use and in nginx's cache together, for servers that need to know.
            let shape = Shape::Kept(2 * CONNECTIONS);
            let Some(command) = programs.command(contender, &backend, shape) else { continue };
            chains.push((contender, Chain::start(&directory, command, backend, Pass::FastCgi, cores)?));
        }
    }
    for _ in 0..rounds {
        for (contender, chain) in &mut chains {
            chain.round(seconds).with_context(|| format!("{} behind nginx", contender.name()))?;
        }
    }
    let front = |(contender, Chain { rps, cpu_us, .. })| Front { contender, rps, cpu_us };
    Ok(chains.into_iter().map(front).collect())
}

/// How nginx asks the server behind it; over connections that it keeps, where nothing else is said.
#[derive(Clone, Copy)]
pub enum Pass {
    /// `fastcgi_pass`.
    FastCgi,
    /// `fastcgi_pass`, with a connection for each request.
    FastCgiOnce,
    /// `uwsgi_pass`, with a connection for each request: uWSGI keeps none.
    Uwsgi,
    /// `proxy_pass`, HTTP/1.1.
    Http,
}

/// nginx and one server behind it.
pub struct Chain {
    /// Requests a second by wrk, each round.
    pub rps: Vec<f64>,
    /// CPU time of the server behind nginx per request, microseconds, each round.
    pub cpu_us: Vec<f64>,
    /// The latency that 99 of 100 requests stay below, by wrk, microseconds, each round.
    pub p99_us: Vec<f64>,
    site: SocketAddr,
    backend: Server,
    _nginx: Server,
}

impl Chain {
    /// Starts `command`, which serves `hello` at `backend`, and an nginx before it; their files go to `directory`.
    pub fn start(
        directory: &Path,
        command: Command,
        backend: Address,
        pass: Pass,
        cores: Cores,
    ) -> Result<Chain> {
        let backend =
            Server::start(command, backend, &directory.join("app.log"), cores.server, cores.generator)?;

        let site = Address::free_tcp()?;
        let Address::Tcp(site_address) = site else { bail!("not a TCP address: {site}") };
        let configuration = directory.join("nginx.conf");
        fs::write(&configuration, nginx_configuration(directory, &backend.address, pass, site_address))?;
        let mut nginx = Command::new("nginx");
        nginx.arg("-c").arg(&configuration).arg("-p").arg(directory).args(["-e", "error.log"]);
        let log = directory.join("nginx.log");
        let nginx = Server::start(nginx, site, &log, cores.generator, cores.generator).context("nginx")?;
        let (rps, cpu_us, p99_us) = Default::default();
        Ok(Chain { rps, cpu_us, p99_us, site: site_address, backend, _nginx: nginx })
    }

    /// The server behind nginx.
    pub fn backend(&self) -> &Server {
        &self.backend
    }

    /// Has wrk ask for `seconds`.
    pub fn round(&mut self, seconds: u32) -> Result<()> {
        check_page(self.site)?;
        let url = format!("http://{}/hello?a=1", self.site);
        let (connections, duration) = (format!("-c{CONNECTIONS}"), format!("-d{seconds}s"));
        let before = process::family_cpu_time(self.backend.pid())?;
        let mut wrk = Command::new("wrk");
        let output = wrk
            .args(["-t1", &connections, &duration, "--latency", "--timeout", "5s", &url])
            .output()
            .context("start wrk")?;
        let cpu = process::family_cpu_time(self.backend.pid())? - before;
        let run = WrkRun::parse(&String::from_utf8_lossy(&output.stdout))?;
        check_page(self.site)?;
        self.rps.push(run.rps);
        self.p99_us.push(run.p99_us);
        self.cpu_us.push(cpu.as_secs_f64() * 1e6 / run.requests as f64);
        Ok(())
    }
}

/// wrk looks at statuses alone; the body is looked at here, before and after.
fn check_page(site: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(site)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET /hello HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut page = Vec::new();
    stream.read_to_end(&mut page)?;
    let is_right = page.starts_with(b"HTTP/1.1 200 ") && page.ends_with(&[b"\r\n\r\n", HELLO_BODY].concat());
    ensure!(is_right, "nginx answers `{}`", page.escape_ascii());
    Ok(())
}

/// What wrk reports.
#[derive(Debug, PartialEq)]
struct WrkRun {
    requests: u64,
    rps: f64,
    p99_us: f64,
}

impl WrkRun {
    fn parse(report: &str) -> Result<WrkRun> {
        for line in report.lines() {
            let is_failure = line.contains("Socket errors") || line.contains("Non-2xx");
            ensure!(!is_failure, "wrk saw failures: {}", line.trim());
        }
        let requests = report.lines().find_map(|line| line.trim().split_once(" requests in "));
        let rps = report.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
        let p99 = report.lines().find_map(|line| line.trim().strip_prefix("99%"));
        let (Some((requests, _)), Some(rps), Some(p99_us)) = (requests, rps, p99.and_then(microseconds))
        else {
            bail!("not a report of wrk: {report}")
        };
        Ok(WrkRun { requests: requests.parse()?, rps: rps.trim().parse()?, p99_us })
    }
}

/// A time as wrk writes it: `812.00us`, `1.23ms`, `1.05s`.
fn microseconds(text: &str) -> Option<f64> {
    let text = text.trim();
    let unit = text.find(|character: char| character.is_ascii_alphabetic())?;
    let factor = match &text[unit..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return None,
    };
    Some(text[..unit].parse::<f64>().ok()? * factor)
}

fn nginx_configuration(directory: &Path, backend: &Address, pass: Pass, site: SocketAddr) -> String {
    // Without it, a worker of a master that is root has no way into our directory.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let backend = match backend {
        Address::Unix(_) => backend.to_string(),
        Address::Tcp(address) => address.to_string(),
    };
    let pass = match pass {
        Pass::FastCgi => "include /etc/nginx/fastcgi_params; fastcgi_pass app; fastcgi_keep_conn on;",
        Pass::FastCgiOnce => "include /etc/nginx/fastcgi_params; fastcgi_pass app;",
        Pass::Uwsgi => "include /etc/nginx/uwsgi_params; uwsgi_pass app;",
        Pass::Http => "proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\";",
    };
    NGINX_CONFIGURATION
        .replace("@USER@", user)
        .replace("@PASS@", pass)
        .replace("@DIRECTORY@", &directory.display().to_string())
        .replace("@BACKEND@", &backend)
        .replace("@SITE@", &site.to_string())
        .replace("@CONNECTIONS@", &CONNECTIONS.to_string())
}

const CONNECTIONS: u32 = 64;
const NGINX_CONFIGURATION: &str = "\
@USER@
daemon off;
worker_processes 1;
pid @DIRECTORY@/nginx.pid;
error_log @DIRECTORY@/error.log;
events { worker_connections 1024; }
http {
    access_log off;
    client_body_temp_path @DIRECTORY@/body;
    fastcgi_temp_path @DIRECTORY@/fastcgi;
    proxy_temp_path @DIRECTORY@/proxy;
    uwsgi_temp_path @DIRECTORY@/uwsgi;
    scgi_temp_path @DIRECTORY@/scgi;
    keepalive_requests 1000000000;
    upstream app {
        server @BACKEND@;
        keepalive @CONNECTIONS@;
        keepalive_requests 1000000000;
        keepalive_time 1h;
    }
    server {
        listen @SITE@;
        location / {
            @PASS@
        }
    }
}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_wrk_is_read_and_failures_are_not_overlooked() {
        let report = "Running 3s test @ http://127.0.0.1:8080/\n  93211 requests in 3.01s, 16.89MB read\n\
                      \x20    99%    1.23ms\n\
                      Requests/sec:  30964.02\nTransfer/sec:      5.61MB\n";
        assert_eq!(
            WrkRun::parse(report).unwrap(),
            WrkRun { requests: 93_211, rps: 30_964.02, p99_us: 1230.0 }
        );
        assert_eq!([" 812.00us", "1.05s", "2m"].map(microseconds), [Some(812.0), Some(1.05e6), None]);
        for failure in
            ["  Socket errors: connect 0, read 1, write 0, timeout 0\n", "  Non-2xx or 3xx responses: 7\n"]
        {
            assert!(WrkRun::parse(&format!("{report}{failure}")).is_err());
        }
        assert!(WrkRun::parse("").is_err());
    }
}
