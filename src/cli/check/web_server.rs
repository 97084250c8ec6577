//! What a web server's configuration says about where applications are: file, line and address.
//!
//! Only the directives that name a FastCGI application are understood, and what leads to them: included files,
//! upstreams, variables. The web server's own check of its syntax (`nginx -t`) is its own affair.

mod apache;
mod lighttpd;
mod nginx;

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use ringway::client::Address;

use super::Finding;

/// Files that include one another go no deeper.
const INCLUDES_DEEP_MAX: usize = 16;

/// A place in a file.
#[derive(Clone, Debug)]
struct Place {
    file: PathBuf,
    /// From 1.
    line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// An application that a configuration names.
#[derive(Debug)]
pub(super) struct Named {
    place: Place,
    /// As it is written there.
    written: String,
    /// `None` where that depends on what is not in the files, such as a variable of the request.
    address: Option<Address>,
    /// lighttpd starts the program itself, and puts `-0`, `-1` … behind the socket's path.
    is_numbered: bool,
    /// Parameters that an application needs and this place does not pass, with what passes them.
    missing: Vec<Missing>,
}

#[derive(Debug)]
struct Missing {
    name: &'static str,
    remedy: &'static str,
    /// Without it no application works; else some find another way.
    is_fatal: bool,
}

impl Named {
    fn new(place: Place, written: &str, address: Option<Address>) -> Named {
        Named { place, written: written.to_owned(), address, is_numbered: false, missing: Vec::new() }
    }
}

/// Every application that the file names, in whichever of the three languages it is written.
pub(super) fn read(file: &Path) -> Result<Vec<Named>, String> {
    let text =
        fs::read_to_string(file).map_err(|error| format!("--server-config {}: {error}", file.display()))?;
    let directives = || text.lines().map(str::trim_start).filter(|line| !line.starts_with('#'));
    let has = |words: &[&str]| directives().any(|line| words.iter().any(|word| line.contains(word)));
    if has(&["fastcgi.server", "server.modules", "server.document-root"]) {
        lighttpd::read(file)
    } else if has(&[
        "ProxyPass",
        "SetHandler",
        "<VirtualHost",
        "LoadModule",
        "ServerRoot",
        "fcgi://",
        "FastCgi",
    ]) {
        apache::read(file)
    } else {
        nginx::read(file)
    }
}

/// Which of them is this address, and what is wrong with those that are not.
pub(super) fn compare(named: &[Named], address: &Address) -> Vec<Finding> {
    if named.is_empty() {
        return vec![Finding::wrong(
            "the file names no FastCGI application",
            "give the file with fastcgi_pass (nginx), ProxyPass or SetHandler with fcgi:// (Apache) or \
             fastcgi.server (lighttpd)",
        )];
    }
    let (same, others): (Vec<&Named>, Vec<&Named>) = named.iter().partition(|named| is_same(named, address));
    let unknown: Vec<&Named> = others.iter().copied().filter(|named| named.address.is_none()).collect();
    let mut findings = Vec::new();
    for found in &same {
        findings.push(Finding::ok(format!("{}: says {}", found.place, found.written)));
        findings.extend(found.missing.iter().map(|missing| passes_no(found, missing)));
    }
    if !same.is_empty() {
        return findings;
    }
    for found in &unknown {
        let text = format!("{}: says {}, which is known to the web server alone", found.place, found.written);
        findings.push(Finding::note(text, format!("see that it becomes {address}")));
    }
    // One that cannot be known may be the one.
    let is_wrong = unknown.is_empty();
    for found in others.iter().filter(|found| found.address.is_some()) {
        let text = format!("{}: says {}, you gave {address}", found.place, found.written);
        let remedy = "correct that line and reload the web server, or give check the address that it says";
        findings.push(if is_wrong { Finding::wrong(text, remedy) } else { Finding::note(text, remedy) });
    }
    findings
}

fn passes_no(named: &Named, missing: &Missing) -> Finding {
    let Missing { name, remedy, is_fatal } = missing;
    let text = format!("{}: passes no {name}", named.place);
    if *is_fatal { Finding::wrong(text, *remedy) } else { Finding::note(text, *remedy) }
}

fn is_same(named: &Named, address: &Address) -> bool {
    match (&named.address, address) {
        (Some(Address::Unix(said)), Address::Unix(given)) => {
            let (said, given) = (real(said), real(given));
            if !named.is_numbered {
                return said == given;
            }
            let (said, given) = (said.display().to_string(), given.display().to_string());
            let number = given.strip_prefix(&format!("{said}-"));
            number.is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
        }
        (Some(Address::Tcp(said)), Address::Tcp(given)) => {
            said == given || !resolve(said).is_disjoint(&resolve(given))
        }
        (Some(said), given) => said == given,
        (None, _) => false,
    }
}

/// The path by which a socket is found whatever links lead to it; the file itself may be missing.
fn real(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (absolute.parent().and_then(|parent| fs::canonicalize(parent).ok()), absolute.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => absolute,
    }
}

fn resolve(authority: &str) -> HashSet<SocketAddr> {
    authority.to_socket_addrs().into_iter().flatten().collect()
}

/// `HOST:PORT` or `unix:PATH`, as far as it is an address.
fn parse(text: &str) -> Option<Address> {
    if text.contains('$') { None } else { text.parse().ok() }
}

/// The files that an include names; a pattern may match none.
fn included(pattern: &str, folders: &[&Path]) -> Vec<PathBuf> {
    for folder in folders {
        // An absolute pattern stands for itself.
        let full = folder.join(pattern);
        let found: Vec<PathBuf> = glob::glob(&full.to_string_lossy())
            .into_iter()
            .flatten()
            .flatten()
            .filter(|path| path.is_file())
            .collect();
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

/// The folder of a file, and those above it: where a fragment's includes may be meant from.
fn folders(file: &Path) -> Vec<&Path> {
    file.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()).collect()
}
