//! A server under test as a child process: started on its core, waited for until it accepts, ended when
//! dropped.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::address::Address;
use crate::process;

/// A running server.
pub struct Server {
    child: Child,
    /// Where it listens.
    pub address: Address,
}

impl Server {
    /// Starts `command` on `core`, its output to `log`, and waits until `address` accepts a connection. This
    /// thread is on `own_core` afterwards.
    pub fn start(
        mut command: Command,
        address: Address,
        log: &Path,
        core: usize,
        own_core: usize,
    ) -> Result<Server> {
        let output = File::create(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        process::pin(core)?; // the child inherits it, and so do its threads
        let child = command.spawn().with_context(|| format!("start {:?}", command.get_program()));
        process::pin(own_core)?;
        let mut server = Server { child: child?, address };
        server.wait_until_ready(log)?;
        Ok(server)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_ready(&mut self, log: &Path) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        while let Err(error) = self.address.connect() {
            let log = || std::fs::read_to_string(log).unwrap_or_default();
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended ({status}) before it listened on {}:\n{}", self.address, log());
            }
            if Instant::now() > deadline {
                bail!("no server on {} after {START_MAX:?} ({error}):\n{}", self.address, log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Server {
    /// SIGTERM, then SIGKILL after two seconds.
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + STOP_MAX;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Address::Unix(path) = &self.address {
            let _ = std::fs::remove_file(path);
        }
    }
}

const START_MAX: Duration = Duration::from_secs(5);
const STOP_MAX: Duration = Duration::from_secs(2);
