//! Who the web server is: what the kernel goes by when it decides whether a process may connect.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use ringway::client::Address;
use rustix::process::{Gid, Uid};
use socket2::Socket;

use crate::cli::socket;

/// A user with all of its groups.
#[derive(Clone, Debug)]
pub(super) struct User {
    pub(super) name: String,
    uid: u32,
    gid: u32,
    /// The supplementary groups; the first one may be among them.
    groups: Vec<u32>,
}

/// What connecting and entering take, as bits of a mode.
#[derive(Clone, Copy)]
pub(super) enum Right {
    /// To a socket.
    Write = 2,
    /// Into a directory.
    Enter = 1,
}

impl User {
    /// By name or number.
    pub(super) fn find(text: &str) -> Result<User, String> {
        let by_number = || text.parse().ok().and_then(uzers::get_user_by_uid);
        let user = uzers::get_user_by_name(text).or_else(by_number);
        let user = user.ok_or_else(|| format!("there is no user {text:?} here (see `getent passwd`)"))?;
        let groups = user.groups().unwrap_or_default();
        Ok(User {
            name: user.name().to_string_lossy().into_owned(),
            uid: user.uid(),
            gid: user.primary_group_id(),
            groups: groups.iter().map(uzers::Group::gid).collect(),
        })
    }

    /// Who runs this command.
    pub(super) fn current() -> User {
        let uid = uzers::get_effective_uid();
        let groups = uzers::group_access_list().unwrap_or_default();
        User {
            name: name_of_user(uid),
            uid,
            gid: uzers::get_effective_gid(),
            groups: groups.iter().map(uzers::Group::gid).collect(),
        }
    }

    /// The group's name that the user is first in.
    pub(super) fn group(&self) -> String {
        name_of_group(self.gid)
    }

    /// Whether the mode of a file gives this right (path_resolution(7)): by the owner's bits, or else the
    /// group's, or else the others'. Access control lists are not looked at.
    pub(super) fn may(&self, right: Right, file: &Metadata) -> bool {
        let shift = if self.uid == file.uid() {
            6
        } else if self.gid == file.gid() || self.groups.contains(&file.gid()) {
            3
        } else {
            0
        };
        self.uid == 0 || (file.mode() >> shift) & right as u32 != 0
    }

    /// Connects as this user where we are root, and as ourselves otherwise.
    pub(super) fn connect(&self, address: &Address, timeout: Duration) -> io::Result<Socket> {
        if !self.can_act() {
            return socket::connect(address, timeout);
        }
        let (user, address) = (self.clone(), address.clone());
        // Identity is a thread's own on Linux; this one ends with it.
        let thread = std::thread::spawn(move || {
            user.become_it()?;
            socket::connect(&address, timeout)
        });
        thread.join().expect("connecting does not panic")
    }

    fn become_it(&self) -> io::Result<()> {
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        rustix::thread::set_thread_groups(&groups)?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        Ok(())
    }

    /// Whether root is to act as somebody else.
    fn can_act(&self) -> bool {
        rustix::process::geteuid().is_root() && self.uid != 0
    }

    /// As whom [`User::connect`] connects.
    pub(super) fn acting(&self) -> String {
        if self.can_act() { self.name.clone() } else { User::current().name }
    }
}

/// The owner of a file as `user:group`.
pub(super) fn owner(file: &Metadata) -> String {
    format!("{}:{}", name_of_user(file.uid()), name_of_group(file.gid()))
}

pub(super) fn name_of_user(uid: u32) -> String {
    let user = uzers::get_user_by_uid(uid);
    user.map_or_else(|| uid.to_string(), |user| user.name().to_string_lossy().into_owned())
}

pub(super) fn name_of_group(gid: u32) -> String {
    let group = uzers::get_group_by_gid(gid);
    group.map_or_else(|| gid.to_string(), |group| group.name().to_string_lossy().into_owned())
}
