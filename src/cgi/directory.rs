//! Which file a path names, and that it lies below the directory.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;

/// A directory of programs.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    /// Without symbolic links.
    path: Arc<Path>,
    root: Arc<OwnedFd>,
    /// The kernel or a seccomp profile denies openat2.
    is_old: Arc<AtomicBool>,
}

/// A program that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Script {
    pub(super) path: PathBuf,
    /// How much of the path that was asked for leads to it.
    pub(super) name_bytes: usize,
}

/// Why there is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Missing {
    NoFile,
    NotAllowed { path: PathBuf, why: &'static str },
    NoParsedHeaders { path: PathBuf },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::NoFile => f.write_str("no such program"),
            Missing::NotAllowed { path, why } => write!(f, "{}: {why}", path.display()),
            Missing::NoParsedHeaders { path } => {
                write!(f, "{}: nph- programs write HTTP, which FastCGI cannot carry", path.display())
            }
        }
    }
}

const FLAGS: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

impl Directory {
    pub(super) fn open(path: &Path) -> io::Result<Directory> {
        let path = path.canonicalize()?;
        let root = rustix::fs::open(&path, FLAGS | OFlags::DIRECTORY, Mode::empty())?;
        Ok(Directory { path: path.into(), root: Arc::new(root), is_old: Arc::default() })
    }

    /// The program that `path` begins with: of its beginnings that end with a segment the first that is a file.
    pub(super) fn find(&self, path: &[u8]) -> Result<Script, Missing> {
        let inside = path.strip_prefix(b"/").ok_or(Missing::NoFile)?;
        let ends = memchr::memchr_iter(b'/', inside).chain([inside.len()]);
        let mut start = 0;
        for end in ends {
            let segment = &inside[start..end];
            start = end + 1;
            if matches!(segment, b"." | b"..") || segment.contains(&0) {
                return Err(Missing::NoFile);
            }
            if segment.is_empty() {
                continue;
            }
            // With a slash at its front it would be a path of its own.
            let first = inside.iter().position(|byte| *byte != b'/').unwrap_or_default();
            let name = Path::new(OsStr::from_bytes(&inside[first..end]));
            let path = || self.path.join(name);
            let not_allowed = |why| Missing::NotAllowed { path: path(), why };
            let found = match self.look_up(name) {
                Ok(found) => found,
                Err(Errno::XDEV) => return Err(not_allowed("a symbolic link leads out of the directory")),
                Err(Errno::ACCESS) => return Err(not_allowed("a directory above it may not be entered")),
                Err(_) => return Err(Missing::NoFile),
            };
            let stat = fstat(found).map_err(|_| Missing::NoFile)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => continue,
                FileType::RegularFile if stat.st_mode & 0o111 == 0 => {
                    return Err(not_allowed("not executable"));
                }
                FileType::RegularFile if segment.starts_with(b"nph-") => {
                    return Err(Missing::NoParsedHeaders { path: path() });
                }
                FileType::RegularFile => return Ok(Script { path: path(), name_bytes: end + 1 }),
                _ => return Err(not_allowed("not a file")),
            }
        }
        Err(Missing::NoFile)
    }

    fn look_up(&self, name: &Path) -> Result<OwnedFd, Errno> {
        if !self.is_old.load(Ordering::Relaxed) {
            let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
            match openat2(&self.root, name, FLAGS, Mode::empty(), beneath) {
                Err(Errno::NOSYS | Errno::PERM) => self.is_old.store(true, Ordering::Relaxed),
                found => return found,
            }
        }
        self.look_up_old(name)
    }

    /// Where there is no openat2: follows the links first and then looks where that led.
    fn look_up_old(&self, name: &Path) -> Result<OwnedFd, Errno> {
        let led_to = self.path.join(name).canonicalize();
        let led_to = led_to.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOENT))?;
        if !led_to.starts_with(&self.path) {
            return Err(Errno::XDEV);
        }
        openat(&self.root, led_to, FLAGS | OFlags::NOFOLLOW, Mode::empty())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use proptest::prelude::*;

    use super::*;

    /// A directory with programs in it, and a secret beside it.
    fn tree() -> (tempfile::TempDir, Directory) {
        let folder = tempfile::tempdir().unwrap();
        let programs = folder.path().join("cgi");
        std::fs::create_dir_all(programs.join("deep/er")).unwrap();
        for (name, mode) in [
            ("cgi/run", 0o755),
            ("cgi/deep/er/run.pl", 0o755),
            ("cgi/plain", 0o644),
            ("cgi/nph-run", 0o755),
            ("cgi/gr\u{fc}n", 0o755),
            ("secret", 0o755),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        symlink("run", programs.join("inside")).unwrap();
        symlink("../secret", programs.join("outside")).unwrap();
        symlink(folder.path().join("secret"), programs.join("absolute")).unwrap();
        symlink("..", programs.join("deep/up")).unwrap();
        symlink("../..", programs.join("deep/out")).unwrap();
        let directory = Directory::open(&programs).unwrap();
        (folder, directory)
    }

    /// The name of the program, and what is left of the path.
    fn found(directory: &Directory, path: &str) -> Result<(String, String), Missing> {
        let script = directory.find(path.as_bytes())?;
        let name = script.path.strip_prefix(&directory.path).expect("it lies below").display().to_string();
        Ok((name, path[script.name_bytes..].to_owned()))
    }

    #[test]
    fn the_first_file_on_the_path_is_the_program() {
        let (_folder, directory) = tree();
        for is_old in [false, true] {
            directory.is_old.store(is_old, Ordering::Relaxed);
            for (path, name, rest) in [
                ("/run", "run", ""),
                ("/run/", "run", "/"),
                ("/run/a//../b", "run", "/a//../b"),
                ("/deep/er/run.pl/x", "deep/er/run.pl", "/x"),
                ("//run", "/run", ""),
                ("/inside/x", "inside", "/x"),
                ("/deep/up/run", "deep/up/run", ""),
                ("/gr\u{fc}n/\u{fc}", "gr\u{fc}n", "/\u{fc}"),
            ] {
                let name = name.trim_start_matches('/');
                assert_eq!(found(&directory, path), Ok((name.to_owned(), rest.to_owned())), "{path}");
            }
        }
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let (_folder, directory) = tree();
        let path = |name: &str| directory.path.join(name);
        for is_old in [false, true] {
            directory.is_old.store(is_old, Ordering::Relaxed);
            for missing in
                ["", "/", "run", "/none", "/deep", "/deep/", "/deep/none/run", "/RUN", "/run\0", "/ru"]
            {
                assert_eq!(found(&directory, missing), Err(Missing::NoFile), "{missing:?}");
            }
            for (name, why) in [
                ("plain", "not executable"),
                ("outside", "a symbolic link leads out of the directory"),
                ("absolute", "a symbolic link leads out of the directory"),
                ("deep/out/secret", "a symbolic link leads out of the directory"),
            ] {
                let asked = format!("/{name}/rest");
                let stopped = match name {
                    // The link alone is already out.
                    "deep/out/secret" => path("deep/out"),
                    name => path(name),
                };
                let expected = Err(Missing::NotAllowed { path: stopped, why });
                assert_eq!(found(&directory, &asked), expected, "{asked} {is_old}");
            }
            let no_parsed_headers = Err(Missing::NoParsedHeaders { path: path("nph-run") });
            assert_eq!(found(&directory, "/nph-run"), no_parsed_headers);
        }
    }

    proptest! {
        /// No path leads out, whatever it is made of, with openat2 and without.
        #[test]
        fn nothing_outside_is_found(
            segments in prop::collection::vec(
                prop::sample::select(
                    &["", ".", "..", "deep", "er", "up", "out", "outside", "absolute", "run", "secret", "cgi", "\0"][..]
                ),
                0..8,
            ),
            is_old in any::<bool>(),
        ) {
            let (folder, directory) = tree();
            directory.is_old.store(is_old, Ordering::Relaxed);
            let path = format!("/{}", segments.join("/"));
            if let Ok(script) = directory.find(path.as_bytes()) {
                let real = script.path.canonicalize().unwrap();
                prop_assert!(real.starts_with(folder.path().canonicalize().unwrap().join("cgi")), "{path}: {real:?}");
                prop_assert!(script.name_bytes <= path.len());
            }
        }
    }
}
