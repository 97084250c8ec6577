//! What `ringway conf` prints, as the file that a server is started with.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A folder that whoever a web server becomes may enter.
pub(crate) fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("it is ours");
    folder
}

/// Writes what `ringway conf SERVER` prints to `SERVER.conf` in `folder`, which is made, for visitors at `http`; the
/// folder is the server's state directory too.
pub(crate) fn write(folder: &Path, server: &str, http: SocketAddr, arguments: &[&str]) -> PathBuf {
    fs::create_dir_all(folder).expect("a folder can be made");
    let (state, http) = (folder.to_str().expect("a name"), http.to_string());
    let text = print(&[&[server, "--state-dir", state, "--http", &http], arguments].concat());
    let file = folder.join(format!("{server}.conf"));
    fs::write(&file, text).expect("the configuration can be written");
    file
}

/// What `ringway conf` prints.
pub(crate) fn print(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_ringway")).arg("conf").args(arguments).output();
    let output = output.expect("the command starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ringway conf {arguments:?}: {said}");
    String::from_utf8(output.stdout).expect("a text")
}
