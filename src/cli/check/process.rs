//! The process behind a socket, as /proc shows it: its output, its limits, its rings.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use procfs::net::TcpState;
use procfs::process::{FDTarget, LimitValue, Process};
use ringway::client::Address;

use super::Finding;
use super::user::name_of_user;

/// Below this many descriptors a server of some size runs out.
const NOFILE_FEW: u64 = 1024;

/// A process that has the listening socket open.
pub(super) struct Holder {
    process: Process,
    name: String,
    /// Number and target of each open descriptor.
    open: Vec<(i32, FDTarget)>,
    /// The inodes of the listening socket.
    sockets: HashSet<u64>,
}

/// The processes that have the socket open, as far as this user may see: all of them for root. systemd is left
/// out where another process has it too.
pub(super) fn holders(address: &Address) -> Vec<Holder> {
    let sockets = inodes(address);
    if sockets.is_empty() {
        return Vec::new();
    }
    let processes = procfs::process::all_processes().into_iter().flatten().flatten();
    let mut holders: Vec<Holder> = processes
        .filter_map(|process| {
            let open: Vec<_> = process.fd().ok()?.flatten().map(|info| (info.fd, info.target)).collect();
            let holds = |(_, target): &(i32, FDTarget)| {
                matches!(target, FDTarget::Socket(inode) if sockets.contains(inode))
            };
            if !open.iter().any(holds) {
                return None;
            }
            let name = process.stat().map_or_else(|_| "?".to_owned(), |stat| stat.comm);
            Some(Holder { process, name, open, sockets: sockets.clone() })
        })
        .collect();
    if holders.len() > 1 {
        holders.retain(|holder| holder.process.pid() != 1);
    }
    holders
}

fn inodes(address: &Address) -> HashSet<u64> {
    match address {
        Address::Tcp(authority) => {
            let wanted: Vec<SocketAddr> = authority.to_socket_addrs().into_iter().flatten().collect();
            let v4 = procfs::net::tcp().unwrap_or_default();
            let all = v4.into_iter().chain(procfs::net::tcp6().unwrap_or_default());
            all.filter(|entry| entry.state == TcpState::Listen)
                .filter(|entry| wanted.iter().any(|wanted| serves(entry.local_address, *wanted)))
                .map(|entry| entry.inode)
                .collect()
        }
        Address::Unix(path) => {
            let real = std::fs::canonicalize(path).ok();
            let absolute = std::path::absolute(path).ok();
            unix_inodes(&[Some(path.clone()), absolute, real])
        }
        Address::Abstract(name) => unix_inodes(&[Some(PathBuf::from(format!("@{name}")))]),
        _ => HashSet::new(),
    }
}

fn unix_inodes(paths: &[Option<PathBuf>]) -> HashSet<u64> {
    let entries = procfs::net::unix().unwrap_or_default();
    let named = entries.into_iter().filter(|entry| entry.path.is_some() && paths.contains(&entry.path));
    named.map(|entry| entry.inode).collect()
}

/// Whether a socket bound to `bound` gets what is sent to `wanted`.
fn serves(bound: SocketAddr, wanted: SocketAddr) -> bool {
    let plain = |address: SocketAddr| -> IpAddr { address.ip().to_canonical() };
    bound.port() == wanted.port() && (bound.ip().is_unspecified() || plain(bound) == plain(wanted))
}

pub(super) fn who(holders: &[Holder]) -> Finding {
    let Some(first) = holders.first() else {
        return Finding::skipped(
            "no process with this socket is visible: run as root; or it is in another container",
        );
    };
    let user = first.process.uid().map_or_else(|_| "?".to_owned(), name_of_user);
    let mut text = format!("{} (pid {}) of user {user}", first.name, first.process.pid());
    if holders.len() > 1 {
        text.push_str(&format!(" and {} more", holders.len() - 1));
    }
    let is_ring = |(_, target): &(i32, FDTarget)| match target {
        FDTarget::AnonInode(name) => name.contains("io_uring"),
        _ => false,
    };
    if holders.iter().any(|holder| holder.open.iter().any(is_ring)) {
        text.push_str(", on io_uring");
    } else if first.process.status().is_ok_and(|status| status.seccomp == Some(2)) {
        text.push_str(", without io_uring, under a seccomp filter");
    }
    Finding::ok(text)
}

/// Whether what the application prints goes somewhere.
pub(super) fn output(holders: &[Holder]) -> Finding {
    let mut notes = Vec::new();
    for holder in holders {
        let pid = holder.process.pid();
        for (number, stream) in [(1, "standard output"), (2, "standard error")] {
            let target = holder.open.iter().find(|(found, _)| *found == number).map(|(_, target)| target);
            match target {
                None => {
                    return Finding::wrong(
                        format!("{stream} of {} (pid {pid}) is closed", holder.name),
                        "the next file or connection that it opens gets the number, and what it prints goes \
                         there: start it with >>FILE 2>&1, or by systemd, which gives it the journal",
                    );
                }
                Some(FDTarget::Socket(inode)) if holder.sockets.contains(inode) => {
                    return Finding::wrong(
                        format!("{stream} of {} (pid {pid}) is the FastCGI socket itself", holder.name),
                        "start it with >>FILE 2>&1: what it prints must not go to the web server",
                    );
                }
                Some(FDTarget::Path(path)) if path.as_os_str() == "/dev/null" => notes.push(stream),
                Some(_) => {}
            }
        }
    }
    notes.dedup();
    if notes.contains(&"standard error") {
        let remedy = "what the application says when it fails is lost: start it with 2>>FILE, or by systemd";
        return Finding::note(format!("{} goes to /dev/null", notes.join(" and ")), remedy);
    }
    Finding::ok("standard output and standard error are open")
}

/// Whether there are descriptors left, and memory that may be locked.
pub(super) fn limits(holders: &[Holder]) -> Finding {
    let mut summary = None;
    for holder in holders {
        let Ok(limits) = holder.process.limits() else { continue };
        let (pid, used) = (holder.process.pid(), holder.open.len() as u64);
        let files = limits.max_open_files.soft_limit;
        let locked = match limits.max_locked_memory.soft_limit {
            LimitValue::Unlimited => "without limit".to_owned(),
            LimitValue::Value(bytes) => format!("{} KiB", bytes >> 10),
        };
        let remedy = "raise the number: LimitNOFILE= in the systemd unit, ulimit -n before the start";
        match files {
            LimitValue::Value(most) if used * 10 >= most * 9 => {
                let text = format!("{} (pid {pid}) has {used} of {most} file descriptors open", holder.name);
                return Finding::wrong(text, remedy);
            }
            LimitValue::Value(most) if most < NOFILE_FEW => {
                let text = format!("{} (pid {pid}) may have {most} file descriptors", holder.name);
                return Finding::note(text, format!("about as many connections are possible; {remedy}"));
            }
            LimitValue::Value(most) => {
                summary.get_or_insert(format!(
                    "{used} of {most} file descriptors open; memory to lock: {locked}"
                ));
            }
            LimitValue::Unlimited => {
                summary.get_or_insert(format!("{used} file descriptors open; memory to lock: {locked}"));
            }
        }
    }
    match summary {
        Some(summary) => Finding::ok(summary),
        None => Finding::skipped("the limits of the process are not visible: run as root"),
    }
}
