//! The way to a socket: the directories above it, the file itself, and what the kernel says to a connect.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use ringway::client::Address;
use rustix::io::Errno;

use super::Finding;
use super::user::{Right, User, name_of_group, owner};

/// Whether the user may go through every directory above the socket.
pub(super) fn directories(path: &Path, user: &User) -> Finding {
    let absolute = match std::path::absolute(path) {
        Ok(absolute) => absolute,
        Err(error) => return Finding::wrong(error.to_string(), "give the socket's whole path"),
    };
    let chain = chain(&absolute);
    for directory in &chain {
        let shown = directory.display();
        match fs::metadata(directory) {
            Ok(found) if !found.is_dir() => {
                return Finding::wrong(format!("{shown} is not a directory"), "correct the socket's path");
            }
            Ok(found) if !user.may(Right::Enter, &found) => return denied(directory, &found, user),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let remedy = "correct the path, or make the directory: RuntimeDirectory= in the application's \
                              systemd unit does, at each start";
                return Finding::wrong(format!("{shown} does not exist"), remedy);
            }
            Err(error) => {
                let remedy = "run this check as root, which may look everywhere";
                return Finding::wrong(format!("{shown} cannot be looked at: {error}"), remedy);
            }
        }
    }
    let found = format!("{} may enter all {} directories above the socket", user.name, chain.len());
    if absolute.starts_with("/tmp") || absolute.starts_with("/var/tmp") {
        let remedy = "a web server whose systemd unit has PrivateTmp= sees another /tmp and not this socket: \
                      put it below /run";
        return Finding::note(found, remedy);
    }
    Finding::ok(found)
}

/// The directories above a path from the root down, and those that links lead to.
fn chain(absolute: &Path) -> Vec<PathBuf> {
    let above = |path: &Path| -> Vec<PathBuf> {
        let mut directories: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_owned).collect();
        directories.reverse();
        directories
    };
    let mut chain = above(absolute);
    if let Ok(real) = fs::canonicalize(absolute) {
        for directory in above(&real) {
            if !chain.contains(&directory) {
                chain.push(directory);
            }
        }
    }
    chain
}

fn denied(directory: &Path, found: &Metadata, user: &User) -> Finding {
    let (shown, mode) = (directory.display(), found.mode() & 0o7777);
    let text = format!("{} may not enter {shown} (mode {mode:04o}, {})", user.name, owner(found));
    let by_group = if mode & 0o010 != 0 && found.gid() != 0 {
        let group = name_of_group(found.gid());
        format!("usermod -aG {group} {} and restart the web server, or ", user.name)
    } else {
        String::new()
    };
    Finding::wrong(
        text,
        format!("{by_group}chmod o+x {shown}, or put the socket into a directory below /run"),
    )
}

/// Whether there is a socket, and the user may write to it.
pub(super) fn socket(path: &Path, user: &User) -> Finding {
    let shown = path.display();
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let remedy = format!(
                "start the application (ringway serve APP --listen unix:{shown}), or correct the path"
            );
            return Finding::wrong(format!("there is nothing at {shown}"), remedy);
        }
        Err(error) => {
            return Finding::wrong(format!("{shown} cannot be looked at: {error}"), "run this check as root");
        }
    };
    let mode = found.mode() & 0o7777;
    if !found.file_type().is_socket() {
        let remedy = "correct the path, or remove the file and start the application";
        return Finding::wrong(format!("{shown} is a {}, not a socket", kind(&found)), remedy);
    }
    if !user.may(Right::Write, &found) {
        let text = format!(
            "{} may not connect, which takes write permission: {shown} has mode {mode:04o} and belongs to {}",
            user.name,
            owner(&found)
        );
        let group = user.group();
        let remedy = format!(
            "start the application with --socket-group {group} --socket-mode 0660; \
             until then: chgrp {group} {shown} && chmod 0660 {shown}"
        );
        return Finding::wrong(text, remedy);
    }
    Finding::ok(format!("{} may connect: mode {mode:04o}, {}", user.name, owner(&found)))
}

fn kind(found: &Metadata) -> &'static str {
    let kind = found.file_type();
    if kind.is_dir() {
        "directory"
    } else if kind.is_file() {
        "regular file"
    } else if kind.is_fifo() {
        "pipe"
    } else {
        "device"
    }
}

/// Why a connect was refused where the file gives no reason.
pub(super) fn refused(address: &Address, user: &User, error: &io::Error) -> Finding {
    let is_tcp = matches!(address, Address::Tcp(_));
    let who = user.acting();
    match (error.kind(), error.raw_os_error().map(Errno::from_raw_os_error)) {
        (_, Some(Errno::AGAIN)) if !is_tcp => Finding::wrong(
            format!("the backlog of {address} is full: connections wait and nobody accepts them"),
            "the application hangs or is too slow: look into its log and restart it; more may wait with \
             --backlog and the sysctl net.core.somaxconn",
        ),
        (_, Some(Errno::PROTOTYPE)) => Finding::wrong(
            format!("{address} is a socket of another type (datagram or seqpacket)"),
            "another service has this path: give the application one of its own",
        ),
        (io::ErrorKind::ConnectionRefused, _) if is_tcp => Finding::wrong(
            format!("nobody listens on {address}"),
            "start the application there, or correct the address: one that listens on 127.0.0.1 is reached \
             from this host alone, and by no other address of it",
        ),
        (io::ErrorKind::ConnectionRefused, _) => Finding::wrong(
            format!("{address} is stale: nobody listens there any more"),
            "start the application: Ringway replaces a stale socket, others want it removed first",
        ),
        (io::ErrorKind::PermissionDenied, _) if who != user.name => Finding::skipped(format!(
            "{who} may not connect, and cannot try it as {}: run this check as root",
            user.name
        )),
        (io::ErrorKind::PermissionDenied, _) => Finding::wrong(
            format!("{who} may not connect to {address}, although the modes allow it"),
            "an access control list (getfacl), SELinux (ausearch -m avc) or AppArmor (journalctl -k) forbids it",
        ),
        (io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable, _) => {
            Finding::wrong(
                format!("{address} does not answer: {error}"),
                "the host is down, a firewall or the route is in the way, or the application's backlog is full",
            )
        }
        _ => Finding::wrong(format!("cannot connect to {address}: {error}"), "correct the address"),
    }
}
