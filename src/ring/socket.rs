//! Listening sockets: addresses as an operator writes them, and what it takes to listen there.
//!
//! What this is not: it accepts nothing. A [`Listener`] gives its sockets to the rings, which accept.
//!
//! | address | socket | queues |
//! | --- | --- | --- |
//! | `unix:/run/app.sock` | file of mode 0660 (or as set), removed at the end | one, shared |
//! | `unix:@app` | abstract name: no file | one, shared |
//! | `127.0.0.1:9000`, `[::1]:9000`, `localhost:9000` | TCP_NODELAY, SO_REUSEPORT | one for each worker |
//! | `fd:0` | inherited, checked to be a listening stream socket; 0 itself becomes /dev/null | one, shared |
//! | `systemd`, `systemd:NAME` | all inherited sockets, or those of one `FileDescriptorName=` | one, shared |

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::LazyLock;

use rustix::fs::{Access, AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// `sun_path` holds 108 bytes, one of which is the NUL that ends a path or begins an abstract name.
const UNIX_NAME_BYTES_MAX: usize = 107;

/// Where to listen, as an operator writes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Listen {
    /// `unix:/path`
    Unix(PathBuf),
    /// `unix:@name`: a name in the abstract namespace of the network namespace, without a file.
    Abstract(String),
    /// `HOST:PORT`: an address or a name, which is looked up when listening; port 0 takes any free one.
    Tcp {
        /// Without the brackets of an IPv6 address.
        host: String,
        /// 0 for any.
        port: u16,
    },
    /// `fd:N`: a listening socket that the parent process left open.
    Fd(RawFd),
    /// `systemd` or `systemd:NAME`: sockets by socket activation.
    Systemd(Option<String>),
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Listen, ListenError> {
        parse(text).ok_or_else(|| ListenError::new(text, ListenFault::Syntax))
    }
}

fn parse(text: &str) -> Option<Listen> {
    if text.contains('\0') {
        return None;
    }
    if let Some(path) = text.strip_prefix("unix:") {
        return match path.strip_prefix('@') {
            Some(name) => (!name.is_empty()).then(|| Listen::Abstract(name.to_owned())),
            None => (!path.is_empty()).then(|| Listen::Unix(path.into())),
        };
    }
    if let Some(number) = text.strip_prefix("fd:") {
        return number.parse().ok().filter(|number| *number >= 0).map(Listen::Fd);
    }
    if text == "systemd" {
        return Some(Listen::Systemd(None));
    }
    if let Some(name) = text.strip_prefix("systemd:") {
        return (!name.is_empty()).then(|| Listen::Systemd(Some(name.to_owned())));
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').filter(|host| host.contains(':'))?,
        None if host.contains(':') => return None,
        None => host,
    };
    let plausible = !host.is_empty() && !host.contains(['/', ' ', '[', ']']);
    plausible.then(|| Listen::Tcp { host: host.to_owned(), port })
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
            Listen::Abstract(name) => write!(f, "unix:@{name}"),
            Listen::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Listen::Tcp { host, port } => write!(f, "{host}:{port}"),
            Listen::Fd(number) => write!(f, "fd:{number}"),
            Listen::Systemd(None) => f.write_str("systemd"),
            Listen::Systemd(Some(name)) => write!(f, "systemd:{name}"),
        }
    }
}

/// How to listen.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// How many sockets each listener gives: one for each worker. At least 1.
    pub workers: usize,
    /// Connections that may wait to be accepted, on each queue. The kernel caps it (`net.core.somaxconn`).
    pub backlog: u32,
    /// Permission bits of a Unix socket's file, whatever the umask. Who may write may connect.
    pub mode: u32,
    /// Who shall own a Unix socket's file: a name in /etc/passwd or a number.
    pub owner: Option<String>,
    /// The group of a Unix socket's file: a name in /etc/group or a number.
    pub group: Option<String>,
}

impl Default for ListenOptions {
    fn default() -> ListenOptions {
        ListenOptions { workers: 1, backlog: 4096, mode: 0o660, owner: None, group: None }
    }
}

impl Listen {
    /// Listens. Gives one listener; `systemd` gives as many as there are sockets (never none).
    pub fn bind(&self, options: &ListenOptions) -> Result<Vec<Listener>, ListenError> {
        let bound = match self {
            Listen::Unix(path) => bind_unix(path, options).map(|listener| vec![listener]),
            Listen::Abstract(name) => bind_abstract(name, options).map(|listener| vec![listener]),
            Listen::Tcp { host, port } => bind_tcp(host, *port, options).map(|listener| vec![listener]),
            Listen::Fd(number) => inherit_fd(*number, options).map(|listener| vec![listener]),
            Listen::Systemd(name) => inherit_systemd(name.as_deref(), options),
        };
        bound.map_err(|fault| ListenError::new(self, fault))
    }
}

/// A bound, listening address. Dropping it removes the file of a Unix socket, if that is still ours.
#[derive(Debug)]
pub struct Listener {
    address: String,
    is_tcp: bool,
    is_shared: bool,
    is_inherited: bool,
    sockets: Vec<OwnedFd>,
    _file: Option<SocketFile>,
}

impl Listener {
    /// Where clients connect: `unix:/path`, `unix:@name` or `ADDRESS:PORT` with the port that was taken.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether connections are TCP, not Unix.
    pub fn is_tcp(&self) -> bool {
        self.is_tcp
    }

    /// Whether the sockets are duplicates of one queue, so that one worker had better accept for all.
    /// Otherwise the kernel spreads connections over them, and each must be accepted from.
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Whether the queue may be shared with other processes, since the socket came from one.
    pub fn is_inherited(&self) -> bool {
        self.is_inherited
    }

    /// A listening stream socket that is there already.
    pub fn given(socket: OwnedFd, workers: usize) -> Result<Listener, ListenError> {
        let number = socket.as_raw_fd();
        inherit(socket, number, workers).map_err(|fault| ListenError::new(Listen::Fd(number), fault))
    }

    /// The listening sockets, in blocking mode, one for each worker; nothing the second time. The address
    /// stops to listen when all of them are closed.
    pub fn take_sockets(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.sockets)
    }

    fn shared(
        socket: OwnedFd,
        address: String,
        file: Option<SocketFile>,
        workers: usize,
    ) -> io::Result<Listener> {
        let is_tcp = socket2::SockRef::from(&socket).domain()? != socket2::Domain::UNIX;
        let mut sockets = Vec::with_capacity(workers);
        for _ in 1..workers {
            sockets.push(socket.try_clone()?);
        }
        sockets.push(socket);
        Ok(Listener { address, is_tcp, is_shared: true, is_inherited: false, sockets, _file: file })
    }
}

/// The file of a bound Unix socket.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// An `O_PATH` descriptor. It keeps the inode's number from being used again, so that equal numbers mean
    /// the same file, without keeping the socket itself open.
    inode: OwnedFd,
    /// The process that made it; its children do not remove it.
    process: u32,
}

impl SocketFile {
    fn is_at_its_path(&self) -> bool {
        let (Ok(ours), Ok(there)) = (rustix::fs::fstat(&self.inode), rustix::fs::lstat(&self.path)) else {
            return false;
        };
        same_inode(&ours, &there)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.process == std::process::id() && self.is_at_its_path() {
            let _ = rustix::fs::unlink(&self.path);
        }
    }
}

fn same_inode(a: &Stat, b: &Stat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

fn bind_unix(path: &Path, options: &ListenOptions) -> Result<Listener, ListenFault> {
    let length = path.as_os_str().len();
    if length > UNIX_NAME_BYTES_MAX {
        return Err(ListenFault::PathTooLong { length });
    }
    let owner = options.owner.as_deref().map(find_user).transpose()?;
    let group = options.group.as_deref().map(find_group).transpose()?;
    // Absolute, so that the removal finds it after a change of the working directory.
    let absolute = std::path::absolute(path)?;
    let address = SocketAddrUnix::new(path)?;
    let socket = unix_socket(SocketFlags::CLOEXEC)?;
    // The file is never more open than `mode`, not even before its bits are set below: bind(2) creates it
    // with the socket's own bits, less the umask.
    let mode = Mode::from_raw_mode(options.mode);
    rustix::fs::fchmod(&socket, mode)?;
    bind_or_replace_stale(&socket, &address, &absolute)?;
    let no_follow = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inode = rustix::fs::open(&absolute, no_follow, Mode::empty())?;
    let file = SocketFile { inode, path: absolute, process: std::process::id() };
    if owner.is_some() || group.is_some() {
        rustix::fs::chownat(&file.inode, "", owner, group, AtFlags::EMPTY_PATH)
            .map_err(|errno| refused_ownership(errno, options))?;
    }
    set_mode(&file, mode)?;
    // Last: until now every connect was refused.
    rustix::net::listen(&socket, backlog(options))?;
    Ok(Listener::shared(socket, format!("unix:{}", path.display()), Some(file), options.workers)?)
}

fn set_mode(file: &SocketFile, mode: Mode) -> io::Result<()> {
    // Through the descriptor, so that nobody can put a link in the file's place; by path where /proc is
    // absent.
    let ours = format!("/proc/self/fd/{}", file.inode.as_raw_fd());
    match rustix::fs::chmod(ours, mode) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(rustix::fs::chmod(&file.path, mode)?),
        result => Ok(result?),
    }
}

fn bind_or_replace_stale(socket: &OwnedFd, address: &SocketAddrUnix, path: &Path) -> Result<(), ListenFault> {
    // Another server may take or leave the path between any two of these calls: a few rounds, then it is in
    // use.
    for _ in 0..4 {
        match rustix::net::bind(socket, address) {
            Ok(()) => return Ok(()),
            Err(Errno::ADDRINUSE) => {}
            Err(errno) => return Err(refused_path(errno, path)),
        }
        let Ok(found) = rustix::fs::lstat(path) else { continue };
        let kind = FileType::from_raw_mode(found.st_mode);
        // connect(2) answers ECONNREFUSED for a regular file too: the type decides, and comes first.
        if kind != FileType::Socket {
            return Err(ListenFault::NotASocketFile { kind: name_of(kind) });
        }
        if !is_stale(address)? {
            return Err(ListenFault::InUse);
        }
        if rustix::fs::lstat(path).is_ok_and(|now| same_inode(&found, &now)) {
            rustix::fs::unlink(path).map_err(|errno| refused_path(errno, path))?;
        }
    }
    Err(ListenFault::InUse)
}

/// Whether nobody listens at a socket file. A full backlog (EAGAIN), a forbidden connect and a socket of
/// another type all mean that somebody may.
fn is_stale(address: &SocketAddrUnix) -> io::Result<bool> {
    let probe = unix_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    Ok(matches!(rustix::net::connect(&probe, address), Err(Errno::CONNREFUSED | Errno::NOENT)))
}

fn unix_socket(flags: SocketFlags) -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn backlog(options: &ListenOptions) -> i32 {
    options.backlog.min(i32::MAX as u32) as i32
}

fn name_of(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "regular file",
        FileType::Directory => "directory",
        FileType::Symlink => "symbolic link",
        FileType::Fifo => "pipe",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        FileType::Unknown => "file of unknown type",
    }
}

/// Names the directory that is missing or that forbids, so that the operator need not search.
fn refused_path(errno: Errno, path: &Path) -> ListenFault {
    let directories: Vec<&Path> =
        path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty()).collect();
    let parent = directories.first().copied().unwrap_or(Path::new("/"));
    // From the root down, the first that does not let us through; else the last, which we may not write to.
    let first = |wrong: fn(&Path) -> bool| {
        directories.iter().rev().copied().find(|dir| wrong(dir)).unwrap_or(parent).to_owned()
    };
    match errno {
        Errno::NOENT => ListenFault::MissingDirectory { directory: first(|dir| !dir.exists()) },
        Errno::NOTDIR => ListenFault::NotADirectory { directory: first(|dir| !dir.is_dir()) },
        Errno::ACCESS | Errno::PERM => ListenFault::DirectoryDenied {
            directory: first(|dir| {
                rustix::fs::accessat(rustix::fs::CWD, dir, Access::EXEC_OK, AtFlags::EACCESS).is_err()
            })
            .into(),
            user: rustix::process::geteuid(),
        },
        errno => ListenFault::Os(errno.into()),
    }
}

fn refused_ownership(errno: Errno, options: &ListenOptions) -> ListenFault {
    let wanted: Vec<&str> =
        [&options.owner, &options.group].into_iter().flatten().map(String::as_str).collect();
    match errno {
        Errno::PERM => ListenFault::OwnershipDenied { wanted: wanted.join(":") },
        errno => ListenFault::Os(errno.into()),
    }
}

fn find_user(name: &str) -> Result<Uid, ListenFault> {
    find_id("/etc/passwd", name)
        .map(Uid::from_raw)
        .ok_or_else(|| ListenFault::NoSuchUser { name: name.into() })
}

fn find_group(name: &str) -> Result<Gid, ListenFault> {
    find_id("/etc/group", name)
        .map(Gid::from_raw)
        .ok_or_else(|| ListenFault::NoSuchGroup { name: name.into() })
}

/// A number as it is, or the third field of the line that begins with the name: passwd(5), group(5). Users
/// from elsewhere (LDAP and the like) are given by number.
fn find_id(table: &str, name: &str) -> Option<u32> {
    if let Ok(id) = name.parse::<u32>() {
        return (id != u32::MAX).then_some(id);
    }
    let table = std::fs::read_to_string(table).ok()?;
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

fn bind_abstract(name: &str, options: &ListenOptions) -> Result<Listener, ListenFault> {
    if name.len() > UNIX_NAME_BYTES_MAX {
        return Err(ListenFault::PathTooLong { length: name.len() });
    }
    let socket = unix_socket(SocketFlags::CLOEXEC)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    rustix::net::listen(&socket, backlog(options))?;
    Ok(Listener::shared(socket, format!("unix:@{name}"), None, options.workers)?)
}

fn bind_tcp(host: &str, port: u16, options: &ListenOptions) -> Result<Listener, ListenFault> {
    let addresses = (host, port).to_socket_addrs().map_err(|source| ListenFault::Unresolved { source })?;
    let mut fault = None;
    // As for a client: the first address of a name that works.
    for address in addresses {
        match bind_tcp_address(address, options) {
            Ok(listener) => return Ok(listener),
            Err(error) => fault = fault.or(Some(refused_port(error, address.port()))),
        }
    }
    Err(fault.unwrap_or(ListenFault::Unresolved { source: io::ErrorKind::NotFound.into() }))
}

fn bind_tcp_address(mut address: SocketAddr, options: &ListenOptions) -> io::Result<Listener> {
    if address.port() != 0 {
        // SO_REUSEPORT would join another server of the same user in silence, and take half of its
        // connections.
        tcp_socket(address, false)?;
    }
    let mut sockets = Vec::with_capacity(options.workers);
    for _ in 0..options.workers.max(1) {
        let socket = tcp_socket(address, true)?;
        if let Some(taken) = socket.local_addr()?.as_socket() {
            address.set_port(taken.port());
        }
        sockets.push(socket);
    }
    // All are bound before the first one listens: a failure refuses clients, and never drops one that waits.
    for socket in &sockets {
        socket.listen(backlog(options))?;
    }
    let sockets = sockets.into_iter().map(OwnedFd::from).collect();
    let address = address.to_string();
    Ok(Listener { address, is_tcp: true, is_shared: false, is_inherited: false, sockets, _file: None })
}

/// A bound socket that does not listen yet.
fn tcp_socket(address: SocketAddr, reuse_port: bool) -> io::Result<socket2::Socket> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?; // connections in TIME_WAIT do not count as use
    socket.set_reuse_port(reuse_port)?;
    // Accepted sockets inherit it; a direct descriptor could not be asked for it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn refused_port(error: io::Error, port: u16) -> ListenFault {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ADDRINUSE) => ListenFault::InUse,
        Some(Errno::ADDRNOTAVAIL) => ListenFault::NotOurAddress,
        Some(Errno::ACCESS) => ListenFault::PortDenied { port },
        _ => ListenFault::Os(error),
    }
}

fn inherit_fd(number: RawFd, options: &ListenOptions) -> Result<Listener, ListenFault> {
    let socket = duplicate(number).map_err(|errno| match errno {
        Errno::BADF => ListenFault::NotOpen { number },
        errno => ListenFault::Os(errno.into()),
    })?;
    let listener = inherit(socket, number, options.workers)?;
    if number == 0 {
        // Else the queue would stay open while the server drains, where its spawner has closed it: who connects
        // would wait for the end instead of being refused.
        super::standard::close_standard_input()?;
    }
    Ok(listener)
}

/// Closes a descriptor. (Dropping it goes by way of the C library, for which closing is a point where threads can be
/// cancelled: 70 ns.)
#[expect(unsafe_code, reason = "rustix closes numbers")]
pub(super) fn close(fd: OwnedFd) {
    // SAFETY: the descriptor was owned and is given up here.
    unsafe { rustix::io::close(fd.into_raw_fd()) }
}

#[expect(unsafe_code, reason = "a descriptor given by number has no owner that could lend it")]
fn duplicate(number: RawFd) -> rustix::io::Result<OwnedFd> {
    assert!(number >= 0, "the parser lets no negative descriptor through");
    // SAFETY: the number is not -1 (asserted), and it is used for one call that fails with EBADF if nothing
    // is open there; the operator has said that what is open there is meant for us.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_dupfd_cloexec(borrowed, 3)
}

/// The sockets of socket activation, with their names. The variables of sd_listen_fds(3) are taken once for
/// the whole process and removed, so that no child takes them for its own.
static SYSTEMD: LazyLock<Vec<(String, OwnedFd, RawFd)>> = LazyLock::new(|| {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut given = listenfd::ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..given.len() {
        let name = names.next().filter(|name| !name.is_empty()).unwrap_or("unknown").to_owned();
        let Ok(Some(number)) = given.take_raw_fd(index) else { continue };
        // What is not open is not there; what is no listening socket is refused when it is asked for.
        if let Ok(socket) = duplicate(number) {
            sockets.push((name, socket, number));
        }
    }
    sockets
});

fn inherit_systemd(name: Option<&str>, options: &ListenOptions) -> Result<Vec<Listener>, ListenFault> {
    let mut listeners = Vec::new();
    for (its_name, socket, number) in SYSTEMD.iter() {
        if name.is_none_or(|name| name == its_name) {
            let socket = socket.try_clone()?;
            listeners.push(inherit(socket, *number, options.workers)?);
        }
    }
    if listeners.is_empty() {
        let names: Vec<&str> = SYSTEMD.iter().map(|(name, ..)| name.as_str()).collect();
        return Err(match names.is_empty() {
            true => ListenFault::NotActivated,
            false => ListenFault::NoSuchName { names: names.join(", ") },
        });
    }
    Ok(listeners)
}

/// Checks that an inherited descriptor is what FastCGI 2.2 promises: a listening stream socket.
fn inherit(socket: OwnedFd, number: RawFd, workers: usize) -> Result<Listener, ListenFault> {
    let kind = match rustix::net::sockopt::socket_type(&socket) {
        Ok(kind) => kind,
        Err(Errno::NOTSOCK) => return Err(ListenFault::NotASocket { number }),
        Err(errno) => return Err(ListenFault::Os(errno.into())),
    };
    if kind != SocketType::STREAM || !rustix::net::sockopt::socket_acceptconn(&socket)? {
        return Err(ListenFault::NotListening { number });
    }
    let address = local_address(socket.as_fd())?;
    let mut listener = Listener::shared(socket, address, None, workers)?;
    listener.is_inherited = true;
    if listener.is_tcp {
        rustix::net::sockopt::set_tcp_nodelay(&listener.sockets[0], true)?;
    }
    Ok(listener)
}

fn local_address(socket: BorrowedFd<'_>) -> io::Result<String> {
    let any = rustix::net::getsockname(socket)?;
    if let Ok(address) = SocketAddr::try_from(any.clone()) {
        return Ok(address.to_string());
    }
    let unix = SocketAddrUnix::try_from(any)?;
    Ok(match (unix.path_bytes(), unix.abstract_name()) {
        (Some(path), _) => format!("unix:{}", Path::new(std::ffi::OsStr::from_bytes(path)).display()),
        (None, Some(name)) => format!("unix:@{}", String::from_utf8_lossy(name)),
        (None, None) => "unix:(unnamed)".to_owned(),
    })
}

/// Why nobody can connect there: one line with what, where, the cause and a remedy.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {fault}")]
pub struct ListenError {
    /// As the operator wrote it.
    pub address: String,
    /// The cause.
    pub fault: ListenFault,
}

impl ListenError {
    fn new(address: impl fmt::Display, fault: ListenFault) -> ListenError {
        ListenError { address: address.to_string(), fault }
    }
}

/// The cause of a [`ListenError`]; each message ends with what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages say it
pub enum ListenFault {
    #[error(
        "not an address; write unix:/path, unix:@name, HOST:PORT, [IPV6]:PORT, fd:N, systemd or systemd:NAME"
    )]
    Syntax,
    #[error(
        "the name has {length} bytes and the limit is {UNIX_NAME_BYTES_MAX}; choose a shorter one, \
             such as unix:/run/ringway.sock"
    )]
    PathTooLong { length: usize },
    #[error("already in use: another server listens there; stop it or choose another address")]
    InUse,
    #[error("a {kind} has that name and was left alone; remove it or choose another path")]
    NotASocketFile { kind: &'static str },
    #[error("there is no directory {}; create it (with systemd: RuntimeDirectory=)", directory.display())]
    MissingDirectory { directory: PathBuf },
    #[error("{} is not a directory; choose another path", directory.display())]
    NotADirectory { directory: PathBuf },
    #[error("permission denied in the directory {directory} for user {}; run as its owner or choose a \
             directory that this user may write to (with systemd: RuntimeDirectory=)", user.as_raw())]
    DirectoryDenied { directory: Directory, user: Uid },
    #[error(
        "only root may give the socket to {wanted}; start as root, or as a member of that group, \
             or leave owner and group as they are"
    )]
    OwnershipDenied { wanted: String },
    #[error("there is no user {name} in /etc/passwd; correct the name or give the number")]
    NoSuchUser { name: String },
    #[error("there is no group {name} in /etc/group; correct the name or give the number")]
    NoSuchGroup { name: String },
    #[error("the host name was not found ({source}); correct it or give the address")]
    Unresolved { source: io::Error },
    #[error("no interface of this host has that address; see `ip address`, or listen on 0.0.0.0 or [::]")]
    NotOurAddress,
    #[error("permission denied for port {port}; take a port above 1023 or grant CAP_NET_BIND_SERVICE")]
    PortDenied { port: u16 },
    #[error(
        "file descriptor {number} is not open; it must be a listening socket, as web servers and spawn-fcgi \
             pass it; to listen by yourself, give an address (--listen unix:/path or HOST:PORT)"
    )]
    NotOpen { number: RawFd },
    #[error(
        "file descriptor {number} is not a socket; it must be a listening one, as web servers and spawn-fcgi \
             pass it; to listen by yourself, give an address (--listen unix:/path or HOST:PORT)"
    )]
    NotASocket { number: RawFd },
    #[error(
        "file descriptor {number} is a socket but not a listening stream socket; the parent process must \
             call listen() on it (systemd: Accept=no; inetd: wait); to listen by yourself, give an address"
    )]
    NotListening { number: RawFd },
    #[error(
        "systemd passed no sockets (LISTEN_FDS is not set for this process); start the .socket unit or give \
             an address"
    )]
    NotActivated,
    #[error(
        "systemd passed no socket of that name, only: {names}; set FileDescriptorName= in the .socket unit"
    )]
    NoSuchName { names: String },
    #[error("{0}")]
    Os(#[from] io::Error),
}

impl From<Errno> for ListenFault {
    fn from(errno: Errno) -> ListenFault {
        match errno {
            Errno::ADDRINUSE => ListenFault::InUse,
            errno => ListenFault::Os(errno.into()),
        }
    }
}

/// A directory that shows with its owner and mode.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl From<PathBuf> for Directory {
    fn from(path: PathBuf) -> Directory {
        Directory(path)
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.display())?;
        match std::fs::metadata(&self.0) {
            Ok(found) => write!(f, " (owner {}, mode {:04o})", found.uid(), found.mode() & 0o7777),
            Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
