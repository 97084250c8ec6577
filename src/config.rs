//! Everything that can be set, in one table.
//!
//! A row of `settings!` is a field of [`Config`], its documentation, its default and how it is written; the
//! names follow from the field:
//!
//! ```text
//!   field and file key     send_timeout
//!   environment variable   RINGWAY_SEND_TIMEOUT
//!   flag                   --send-timeout
//! ```
//!
//! Flags win over variables, variables over the file, the file over the defaults. A list is replaced as a
//! whole. The flags live with the command; an embedder sets fields and may call [`Config::read_env`], and `File::read`
//! where the feature `config-file` is on.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

#[cfg(feature = "config-file")]
mod file;
mod syntax;

#[cfg(feature = "config-file")]
pub use file::File;
use syntax::{
    Choice, Count, List, Mode, Networks, Numbers, Octets, Override, Prefix, Switch, Syntax, Text, Time,
};
pub use syntax::{Driver, SendFile};

macro_rules! settings {
    ($($section:literal {
        $( $(#[doc = $doc:literal])+ $field:ident: $type:ty = $default:expr, $syntax:expr; )+
    })+) => {
        /// The settings of a server; see [`SETTINGS`] for what each accepts when it is written as text.
        #[derive(Clone, PartialEq, Debug)]
        #[non_exhaustive]
        pub struct Config { $($( $(#[doc = $doc])+ pub $field: $type, )+)+ }

        impl Default for Config {
            fn default() -> Config {
                Config { $($( $field: $default, )+)+ }
            }
        }

        /// Every setting, in the order of the documentation.
        pub static SETTINGS: &[Setting] = &[ $($( Setting {
            section: $section,
            key: stringify!($field),
            doc: concat!($($doc),+),
            hint: |kind| Syntax::<$type>::hint(&$syntax, kind),
            read: |config, values| {
                config.$field = Syntax::<$type>::read(&$syntax, values)?;
                Ok(())
            },
            show: |config| Syntax::<$type>::show(&$syntax, &config.$field),
        }, )+)+ ];
    };
}

settings! {
    "Listening" {
        /// Address to listen on: `unix:/path`, `unix:@abstract`, `HOST:PORT`, `[::1]:9000`, `fd:N`, `systemd`
        /// or `systemd:NAME`. May be given several times. None: file descriptor 0, as web servers spawn
        /// a program.
        listen: Vec<String> = Vec::new(), List;
        /// Path prefix that the application is mounted under, which it sees as SCRIPT_NAME. `/`: the root of a site,
        /// or below the SCRIPT_NAME that the web server sends.
        mount: String = "/".to_owned(), Prefix;
        /// What the application sees as SCRIPT_NAME, whatever the web server sends; empty for the root of a site.
        /// `auto`: made of the mount and of what the web server sends.
        script_name: Option<String> = None, Override;
        /// How files that the application answers with (`ringway::File`) are left to the web server: `x-sendfile`,
        /// `x-lighttpd-send-file`, or for nginx `x-accel-redirect:/internal=/srv/files`, an internal location and the
        /// directory that it stands for. `off`: they are sent from here.
        send_file: SendFile = SendFile::Off, Choice;
        /// Connections that wait in the kernel to be accepted, per listener; the kernel caps it at somaxconn.
        backlog: u32 = 4096, Count(1, 1 << 30);
        /// Permissions of a Unix socket file, whatever the umask.
        socket_mode: u32 = 0o660, Mode;
        /// Owner of a Unix socket file, a name or a number. Empty: whoever runs the server.
        socket_owner: Option<String> = None, Text;
        /// Group of a Unix socket file, a name or a number; usually the web server's. Empty: the process's.
        socket_group: Option<String> = None, Text;
        /// Networks and addresses that peers may connect from over TCP. None: all.
        peer_networks: Vec<IpNet> = Vec::new(), Networks;
        /// Users, by number, whose processes may connect over Unix sockets (SO_PEERCRED). None: all.
        peer_users: Vec<u32> = Vec::new(), Numbers;
    }
    "Workers" {
        /// Worker threads. 0: one for each core that this process may use.
        workers: usize = 0, Count(0, 4096);
        /// Pin each worker to a core of its own.
        pin: bool = false, Switch;
        /// The way to the kernel. `auto` takes io_uring where the host allows it and says which it took.
        driver: Driver = Driver::Auto, Choice;
        /// Connections on Unix sockets lie in the io_uring ring's own table (direct descriptors) in place of the
        /// process's: no file descriptor and less of the kernel's memory for each. One that ends with its first answer
        /// costs more so, and before Linux 6.13 none is closed until all older operations of the ring have ended.
        direct_descriptors: bool = false, Switch;
        /// Microseconds that a worker polls before it sleeps: lower latency when quiet, for a busy core.
        spin_us: u32 = 0, Count(0, 1_000_000);
    }
    "Receive buffers, per worker" {
        /// Size of one receive buffer.
        buffer_bytes: u32 = 16 << 10, Octets(1 << 10, 1 << 20);
        /// Buffers that the kernel holds ready to receive into, at most; a power of two. A worker begins with few.
        ring_buffers: u16 = 128, Count::power_of_two(1, 1 << 15);
        /// Buffers in all: those of the ring, and those that requests still hold.
        buffers_max: u16 = 1024, Count(2, 1 << 15);
    }
    "Limits of a connection" {
        /// Parameters of one request, names and values together.
        params_bytes_max: u32 = 256 << 10, Octets(1 << 10, 1 << 30);
        /// Number of parameters of one request.
        params_pairs_max: u32 = 1024, Count(1, 1 << 20);
        /// Requests that one connection may have at a time. 1: no multiplexing.
        connection_requests_max: u16 = 256, Count(1, 65_535);
        /// Request body that is received ahead of the handler, per request.
        stdin_window_bytes: u32 = 256 << 10, Octets(1 << 10, 1 << 30);
        /// Response that a handler may have unsent before its writes wait, per request.
        stdout_window_bytes: u32 = 64 << 10, Octets(1 << 10, 1 << 30);
        /// Response that a connection may have unsent before all its handlers' writes wait.
        output_high_bytes: u32 = 256 << 10, Octets(1 << 10, 1 << 30);
        /// Content of one management record (FCGI_GET_VALUES).
        management_bytes_max: u32 = 4096, Octets(64, 65_535);
        /// Input that is read and thrown away before a connection closes, so that the peer gets its answer.
        linger_bytes: u32 = 1 << 20, Octets(0, 1 << 30);
    }
    "Limits of the server" {
        /// Connections that are open at a time; more wait in the backlog.
        connections_max: u32 = 16_384, Count(1, 1 << 24);
        /// Requests that are served at a time; more are refused with FCGI_OVERLOADED.
        requests_max: u32 = 8192, Count(1, 1 << 24);
    }
    "Deadlines" {
        /// From accepting a connection to its first complete record.
        first_timeout: Duration = Duration::from_secs(10), Time;
        /// From the begin of a request to the end of its parameters.
        params_timeout: Duration = Duration::from_secs(10), Time;
        /// A handler waits for the request body and nothing arrives.
        stdin_timeout: Duration = Duration::from_secs(60), Time;
        /// The peer takes nothing of a response that waits to be sent.
        send_timeout: Duration = Duration::from_secs(60), Time;
        /// A kept connection has no request. Web servers close theirs themselves.
        idle_timeout: Duration = Duration::ZERO, Time;
        /// From the begin of a request to its end.
        request_timeout: Duration = Duration::ZERO, Time;
        /// What requests in flight are given to finish after SIGTERM.
        drain_timeout: Duration = Duration::from_secs(30), Time;
        /// What a peer is given to read its answer and close, after the last request of its connection.
        linger_timeout: Duration = Duration::from_secs(2), Time;
    }
    "CGI programs (`serve cgi:DIRECTORY`)" {
        /// Programs that run at a time; further requests wait for a place.
        cgi_processes_max: u32 = 64, Count(1, 1 << 16);
        /// From the start of a program to its end, and what a request may wait for a place. Then it gets SIGTERM, two
        /// seconds later SIGKILL.
        cgi_timeout: Duration = Duration::from_secs(60), Time;
    }
}

/// One row of the table.
#[derive(Debug)]
pub struct Setting {
    /// Heading in the documentation and in `--help`.
    pub section: &'static str,
    /// Name of the field and of the key in a file.
    pub key: &'static str,
    doc: &'static str,
    hint: fn(Hint) -> &'static str,
    read: fn(&mut Config, &[&str]) -> Result<(), String>,
    show: fn(&Config) -> String,
}

/// What to say of a setting's values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hint {
    Placeholder,
    Example,
}

impl Setting {
    /// The environment variable.
    pub fn variable(&self) -> String {
        format!("RINGWAY_{}", self.key.to_ascii_uppercase())
    }

    /// The flag, without its dashes.
    pub fn flag(&self) -> String {
        self.key.replace('_', "-")
    }

    /// What the setting does, in a sentence or two.
    pub fn doc(&self) -> &'static str {
        self.doc.trim()
    }

    /// What stands for a value in a synopsis, such as `SIZE`.
    pub fn placeholder(&self) -> &'static str {
        (self.hint)(Hint::Placeholder)
    }

    /// How a value is written, in a few words.
    pub fn example(&self) -> &'static str {
        (self.hint)(Hint::Example)
    }

    /// Whether the setting is a list: its flag may come several times, its variable separates by commas.
    pub fn is_list(&self) -> bool {
        self.placeholder() == "ADDR"
    }

    /// Whether the setting is on or off: its flag needs no value.
    pub fn is_switch(&self) -> bool {
        self.placeholder() == "BOOL"
    }

    /// The setting as it would be written in a variable or flag.
    pub fn show(&self, config: &Config) -> String {
        (self.show)(config)
    }

    /// Puts the values found in one place into `config`: one, or any number for a list.
    pub fn set(&self, config: &mut Config, values: &[&str], origin: Origin) -> Result<(), Error> {
        (self.read)(config, values).map_err(|reason| Error {
            key: self.key.to_owned(),
            value: values.join(","),
            origin,
            reason,
        })
    }
}

impl Config {
    /// Takes over every `RINGWAY_…` variable that has a row here; others are left alone. Pass
    /// [`std::env::vars_os`].
    pub fn read_env(&mut self, vars: impl IntoIterator<Item = (OsString, OsString)>) -> Result<(), Error> {
        for (name, value) in vars {
            let Some(name) = name.to_str().filter(|name| name.starts_with("RINGWAY_")) else { continue };
            let Some(setting) = SETTINGS.iter().find(|setting| setting.variable() == name) else { continue };
            let origin = Origin::Variable(name.to_owned());
            let Some(text) = value.to_str() else {
                let (key, value) = (setting.key.to_owned(), value.to_string_lossy().into_owned());
                return Err(Error { key, value, origin, reason: "not UTF-8".to_owned() });
            };
            let values: Vec<&str> =
                if setting.is_list() { text.split(',').map(str::trim).collect() } else { vec![text] };
            setting.set(self, &values, origin)?;
        }
        Ok(())
    }

    /// Checks values that were assigned in code as if they had been written down.
    pub fn check(&self) -> Result<(), Error> {
        for setting in SETTINGS {
            let text = setting.show(self);
            let values: Vec<&str> = if setting.is_list() {
                self.listen.iter().map(String::as_str).collect()
            } else {
                vec![&text]
            };
            setting.set(&mut self.clone(), &values, Origin::Code)?;
        }
        Ok(())
    }
}

/// A setting that cannot be used. Its text is one line that says what to change and where.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Error {
    /// The setting, or what was taken for one.
    pub key: String,
    /// The value as it was written.
    pub value: String,
    /// Where it was written.
    pub origin: Origin,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A field of [`Config`] assigned by the program.
    Code,
    /// An environment variable, by its name.
    Variable(String),
    /// A flag of the command line, with its dashes.
    Flag(String),
    /// A line of a file.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
}

impl Error {
    /// An error of a reader that is not in this module.
    pub fn new(key: &str, value: &str, origin: Origin, reason: impl fmt::Display) -> Error {
        Error { key: key.to_owned(), value: value.to_owned(), origin, reason: reason.to_string() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Error { key, value, origin, reason } = self;
        match origin {
            Origin::Code => write!(f, "Config::{key} = {value:?}: {reason}"),
            Origin::Variable(name) => write!(f, "environment variable {name}={value:?}: {reason}"),
            Origin::Flag(flag) => write!(f, "{flag} {value:?}: {reason}"),
            Origin::File { path, line } if value.is_empty() => {
                write!(f, "{}:{line}: {key}: {reason}", path.display())
            }
            Origin::File { path, line } => {
                write!(f, "{}:{line}: {key} = {value:?}: {reason}", path.display())
            }
        }
    }
}

impl std::error::Error for Error {}

/// Reads a duration as settings are written: `250ms`, `10s`, `2m`, `1h`; 0 means none.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    Syntax::<Duration>::read(&Time, &[text])
}

/// The reference `docs/configuration.md`, written from the table.
pub fn markdown() -> String {
    let mut page = String::from(MARKDOWN_HEAD);
    let defaults = Config::default();
    let mut section = "";
    for setting in SETTINGS {
        if setting.section != section {
            section = setting.section;
            page.push_str(&format!("\n## {section}\n\n| key | default | value | meaning |\n"));
            page.push_str("| --- | --- | --- | --- |\n");
        }
        let (key, example, doc) = (setting.key, setting.example(), setting.doc());
        let default = match setting.show(&defaults) {
            text if text.is_empty() => "none".to_owned(),
            text => format!("`{text}`"),
        };
        page.push_str(&format!("| `{key}` | {default} | {example} | {doc} |\n"));
    }
    page
}

const MARKDOWN_HEAD: &str = "\
# Configuration

Every setting of `ringway serve` and of `ringway::Config`, written from the table in `src/config.rs`.

A key is a line of the file given with `--config` (TOML), a flag and an environment variable:

| in the file | as a flag | in the environment |
| --- | --- | --- |
| `send_timeout = \"30s\"` | `--send-timeout 30s` | `RINGWAY_SEND_TIMEOUT=30s` |
| `listen = [\"127.0.0.1:9000\", \"unix:/run/app.sock\"]` \
| `--listen 127.0.0.1:9000 --listen unix:/run/app.sock` \
| `RINGWAY_LISTEN=127.0.0.1:9000,unix:/run/app.sock` |

A flag wins over a variable, a variable over the file, the file over the default. What cannot be used ends the
command with exit code 2 and one line that names the flag, the variable, or the file and line.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: &str, values: &[&str]) -> Result<Config, Error> {
        let mut config = Config::default();
        let setting = SETTINGS.iter().find(|setting| setting.key == key).expect("a setting of that name");
        setting.set(&mut config, values, Origin::Flag(format!("--{}", setting.flag())))?;
        Ok(config)
    }

    fn env(pairs: &[(&str, &str)]) -> Result<Config, Error> {
        let mut config = Config::default();
        config.read_env(pairs.iter().map(|(name, value)| (name.into(), value.into())))?;
        Ok(config)
    }

    #[test]
    fn defaults_can_be_written_down_and_read_back() {
        let mut config = Config::default();
        for setting in SETTINGS.iter().filter(|setting| !setting.is_list()) {
            let text = setting.show(&Config::default());
            setting.set(&mut config, &[&text], Origin::Code).expect(setting.key);
        }
        assert_eq!(config, Config::default());
        config.check().expect("defaults are valid");
    }

    #[test]
    fn sizes_durations_modes_and_switches_are_read() {
        assert_eq!(set("buffer_bytes", &["16 KiB"]).unwrap().buffer_bytes, 16_384);
        assert_eq!(set("buffer_bytes", &["65536"]).unwrap().buffer_bytes, 65_536);
        assert_eq!(set("send_timeout", &["250ms"]).unwrap().send_timeout, Duration::from_millis(250));
        assert_eq!(set("send_timeout", &["0"]).unwrap().send_timeout, Duration::ZERO);
        assert_eq!(set("socket_mode", &["0600"]).unwrap().socket_mode, 0o600);
        assert!(set("pin", &["true"]).unwrap().pin);
        assert_eq!(set("driver", &["epoll"]).unwrap().driver, Driver::Epoll);
        assert_eq!(set("mount", &["/app/"]).unwrap().mount, "/app");
        assert_eq!(set("script_name", &[""]).unwrap().script_name.as_deref(), Some(""));
        assert_eq!(set("script_name", &["/blog/"]).unwrap().script_name.as_deref(), Some("/blog"));
        assert_eq!(set("script_name", &["auto"]).unwrap().script_name, None);
        assert_eq!(set("socket_group", &["www-data"]).unwrap().socket_group.as_deref(), Some("www-data"));
        assert_eq!(set("socket_group", &[""]).unwrap().socket_group, None);
        assert_eq!(set("listen", &["a:1", "b:2"]).unwrap().listen, ["a:1", "b:2"]);
    }

    #[test]
    fn what_cannot_be_used_is_refused_at_the_bound() {
        for (key, good, bad) in [
            ("connection_requests_max", "1", "0"),
            ("connection_requests_max", "65535", "65536"),
            ("ring_buffers", "32768", "24"),
            ("buffer_bytes", "1KiB", "1023"),
            ("socket_mode", "777", "1000"),
            ("socket_mode", "600", "0o888"),
            ("mount", "/a", "a"),
            ("mount", "/", "/a\nb"),
            ("script_name", "/", "blog"),
            ("driver", "uring", "kqueue"),
            ("pin", "off", "perhaps"),
            ("send_timeout", "1h", "1 week"),
            ("listen", "x:1", " "),
        ] {
            set(key, &[good]).unwrap_or_else(|error| panic!("{error}"));
            let error = set(key, &[bad]).expect_err(bad);
            assert_eq!((error.key.as_str(), error.value.as_str()), (key, bad));
        }
    }

    #[test]
    fn variables_are_read_and_strangers_left_alone() {
        let config = env(&[
            ("RINGWAY_WORKERS", "3"),
            ("RINGWAY_LISTEN", "127.0.0.1:9000, unix:/tmp/s"),
            ("RINGWAY_REQUIRE", "web"),
            ("WORKERS", "7"),
        ])
        .unwrap();
        assert_eq!((config.workers, config.listen.len()), (3, 2));
        assert_eq!(config.listen[1], "unix:/tmp/s");
    }

    #[test]
    fn errors_name_the_place_and_what_would_be_right() {
        let error = env(&[("RINGWAY_SEND_TIMEOUT", "10 parsecs")]).unwrap_err().to_string();
        assert!(error.starts_with("environment variable RINGWAY_SEND_TIMEOUT=\"10 parsecs\": "), "{error}");
        assert!(error.contains("ms, s, m or h"), "{error}");
        let origin = Origin::File { path: "/etc/ringway.toml".into(), line: 7 };
        let error = Error::new("workers", "x", origin, "not a number").to_string();
        assert_eq!(error, "/etc/ringway.toml:7: workers = \"x\": not a number");
        assert!(set("workers", &["x"]).unwrap_err().to_string().starts_with("--workers \"x\": "));
    }

    #[test]
    fn values_assigned_in_code_are_checked() {
        let config = Config { ring_buffers: 3, ..Config::default() };
        let error = config.check().unwrap_err();
        assert_eq!((error.key.as_str(), &error.origin), ("ring_buffers", &Origin::Code));
    }

    #[test]
    fn the_reference_has_a_line_for_every_setting() {
        let page = markdown();
        for setting in SETTINGS {
            assert!(page.contains(&format!("| `{}` |", setting.key)), "{}", setting.key);
            assert!(setting.doc().ends_with('.'), "{}: a sentence", setting.key);
        }
    }
}
