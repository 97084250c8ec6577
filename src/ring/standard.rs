//! File descriptors 0, 1 and 2, which the operating system hands out like any other when they are closed.

use std::io;
use std::os::fd::{AsFd, IntoRawFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Opens /dev/null on those of the standard streams that are closed: FastCGI 2.2 has a spawner close stdout and
/// stderr, and what opened next, perhaps a connection, would be printed on.
///
/// To be called before anything else is opened. A program whose `main` is Rust's has it done already; one that hosts
/// the server in another language has not.
pub(crate) fn open_standard_streams() -> io::Result<()> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let streams = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let closed = streams.iter().filter(|stream| rustix::io::fcntl_getfd(stream) == Err(Errno::BADF)).count();
    for _ in 0..closed {
        // open(2) takes the lowest number that is free. It is never closed again.
        let _ = open_null(OFlags::RDWR)?.into_raw_fd();
    }
    Ok(())
}

/// Keeps every other descriptor that is open from programs that this process executes. Those that it opens later are
/// opened so; some that were inherited may not be (mod_fcgid leaves two pipes).
#[cfg(feature = "cgi")]
pub(crate) fn keep_descriptors() {
    const FIRST: libc::c_uint = 3;
    #[expect(unsafe_code, reason = "no crate of ours has close_range")]
    // SAFETY: sets a flag of descriptors; nothing is closed, no memory is touched.
    let failed =
        unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if failed != 0 {
        tracing::debug!("close_range: {}", io::Error::last_os_error());
    }
}

/// Puts /dev/null on file descriptor 0.
pub(super) fn close_standard_input() -> io::Result<()> {
    // To read only, which is allowed in containers where nobody but root may write there, too.
    Ok(rustix::stdio::dup2_stdin(open_null(OFlags::RDONLY)?)?)
}

fn open_null(access: OFlags) -> io::Result<std::os::fd::OwnedFd> {
    Ok(rustix::fs::open("/dev/null", access, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{FromRawFd, OwnedFd};
    use std::process::{Command, Stdio};

    use super::*;

    /// What `number` is open on, in the child.
    fn target(number: i32) -> String {
        let link = std::fs::read_link(format!("/proc/self/fd/{number}"));
        link.map_or("nothing".to_owned(), |path| path.display().to_string())
    }

    #[test]
    fn closed_streams_are_opened_and_open_ones_left_alone() {
        if std::env::var_os("RINGWAY_TEST_CHILD").is_some() {
            let before = target(0);
            for number in [1, 2] {
                #[expect(unsafe_code, reason = "closes what the test harness believes open")]
                // SAFETY: nothing else runs in this process, which ends with this function.
                drop(unsafe { OwnedFd::from_raw_fd(number) });
            }
            open_standard_streams().expect("there is a /dev/null");
            let fine = [target(1), target(2)] == ["/dev/null", "/dev/null"] && target(0) == before;
            // The next descriptor is a stranger to all three.
            let fine = fine && open_null(OFlags::RDWR).is_ok_and(|fd| fd.into_raw_fd() > 2);
            std::process::exit(if fine { 7 } else { 1 });
        }
        let output = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "ring::standard::tests::closed_streams_are_opened_and_open_ones_left_alone"])
            .env("RINGWAY_TEST_CHILD", "1")
            .stdin(Stdio::piped())
            .output();
        assert_eq!(output.expect("it runs").status.code(), Some(7));
    }
}
