//! `ringway conf`: prints a configuration that puts the application behind a web server or a supervisor.
//!
//! One template for each server and way; a row of [`TEMPLATES`] names it. A template is the whole file, as the server
//! takes it, and says in its comments which part belongs in an existing one. What a template does not mention it
//! cannot obey: an option that was given for it is refused. The interoperability tests run the real servers on this
//! output.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, FromArgMatches};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, State, UndefinedBehavior, Value};
use ringway::client::Address;
use serde::Serialize;

use super::{Command, Failure};

pub(super) const COMMAND: Command = Command {
    name: "conf",
    about: "Prints a configuration for a web server or a supervisor",
    arguments: |command| Options::augment_args(command).after_help(ways_help()),
    run,
};

/// A server and a way to put an application behind it.
struct Template {
    server: &'static str,
    /// The first way of a server is its default.
    way: &'static str,
    /// What the way is, for `--help`.
    about: &'static str,
    source: &'static str,
}

macro_rules! templates {
    ($($server:literal, $way:literal, $file:literal: $about:literal;)*) => {
        const TEMPLATES: &[Template] = &[$(Template {
            server: $server,
            way: $way,
            about: $about,
            source: include_str!(concat!("conf/", $file)),
        }),*];
    };
}

templates! {
    "nginx", "fastcgi_pass", "nginx.conf": "connects to the application";
    "apache", "proxy_fcgi", "apache-proxy.conf": "mod_proxy_fcgi connects to the application, by ProxyPass";
    "apache", "set_handler", "apache-proxy.conf": "mod_proxy_fcgi connects to the application, by SetHandler";
    "apache", "fcgid", "apache-fcgid.conf": "mod_fcgid starts the application";
    "apache", "htaccess", "apache-htaccess.conf": "mod_fcgid starts the application: .htaccess and a file app.fcgi";
    "apache", "mod_fastcgi", "apache-mod_fastcgi.conf": "starts the application; not executed by the tests";
    "apache", "mod_fastcgi-external", "apache-mod_fastcgi-external.conf": "connects to it; not executed by the tests";
    "haproxy", "keep", "haproxy.conf": "keeps connections, one request at a time on each";
    "haproxy", "get-values", "haproxy.conf": "multiplexes if the application says that it can";
    "haproxy", "mpxs-conns", "haproxy.conf": "multiplexes without asking";
    "haproxy", "close", "haproxy.conf": "a connection for each request";
    "lighttpd", "external", "lighttpd.conf": "connects to the application";
    "lighttpd", "spawn", "lighttpd-spawn.conf": "makes the socket and starts the application with it";
    "caddy", "fastcgi", "caddy.conf": "connects to the application";
    "h2o", "connect", "h2o.conf": "connects to the application";
    "h2o", "spawn", "h2o-spawn.conf": "makes the socket and starts the application with it";
    "cherokee", "host", "cherokee.conf": "connects to the application; not executed by the tests";
    "cherokee", "interpreter", "cherokee.conf": "starts the application; not executed by the tests";
    "systemd", "service", "systemd.service": "starts the application, with sockets of the unit that follows";
    "systemd", "socket", "systemd.socket": "the sockets";
    "supervisor", "fcgi-program", "supervisor.conf": "starts several processes on one socket";
}

#[derive(Args)]
struct Options {
    /// The server
    #[arg(value_name = "SERVER", value_parser = PossibleValuesParser::new(servers()))]
    server: String,
    /// How it comes to the application; below are the ways, each server's default first
    #[arg(long)]
    way: Option<String>,
    /// Where the application listens: `unix:/path` or HOST:PORT; several times for several processes
    #[arg(long, value_name = "ADDR")]
    listen: Vec<Address>,
    /// Path prefix that the application is mounted under
    #[arg(long, value_name = "PREFIX", default_value = "/", value_parser = prefix)]
    mount: String,
    /// Path prefix that the web server serves from a directory by itself
    #[arg(long = "static", value_name = "URL=DIR", value_parser = files)]
    statics: Vec<Files>,
    /// Let the application decide first who may enter: by its Authorizer, or by its page PREFIX/auth behind nginx
    #[arg(long)]
    auth: bool,
    /// Keep connections to the application open between requests
    #[arg(long)]
    keep_connections: bool,
    /// Pass bodies on as they come, both ways, instead of collecting them first
    #[arg(long)]
    no_buffering: bool,
    /// Page of the application, below its mount, that says by status 200 that it is well
    #[arg(long, value_name = "PATH", value_parser = prefix)]
    health: Option<String>,
    /// Address for visitors
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// The application that is started: what `ringway serve` is to be given, or a program of its own by its absolute
    /// path, such as a Python file app.fcgi or "/srv/venv/bin/ringway-wsgi app:app"
    #[arg(long, default_value = "probe")]
    app: String,
    /// How many processes of the application are started [default: 1; behind mod_fcgid up to 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    processes: Option<u16>,
    /// Directory for pid file, logs and temporary files, to try the configuration out [default: Debian's places]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

/// A directory that the web server serves by itself.
#[derive(Clone, Serialize)]
struct Files {
    /// Without a slash at its end, as is `dir`.
    url: String,
    dir: String,
}

/// What templates see.
#[derive(Serialize)]
struct Context<'a> {
    /// The command that was given, for the first line.
    command: &'a str,
    way: &'a str,
    /// The first of `addresses`, for servers that take one.
    address: Option<Place>,
    addresses: Vec<Place>,
    /// The path prefix without a slash at its end: empty for the root.
    mount: &'a str,
    statics: &'a [Files],
    auth: bool,
    keep: bool,
    unbuffered: bool,
    /// The page below the mount, or nothing.
    health: Option<&'a str>,
    http: Http,
    /// The path of the executable that is started: this one, or that of `app`.
    program: String,
    app: &'a str,
    /// Whether `app` is a program of its own.
    is_own: bool,
    processes: u16,
    /// `processes` if it was given.
    processes_given: Option<u16>,
    /// The directory, or nothing for Debian's places.
    state: Option<String>,
}

/// Where the application listens: `unix`, `abstract`, or `host` and `port`; each server writes them in its own way.
#[derive(Serialize, Default)]
struct Place {
    /// As `--listen` has it.
    text: String,
    /// The absolute path of a socket file.
    unix: Option<String>,
    /// A name in the abstract namespace.
    r#abstract: Option<String>,
    /// Without brackets.
    host: Option<String>,
    port: Option<u16>,
    /// Host and port, an IPv6 host in brackets.
    authority: Option<String>,
}

/// Where visitors come in.
#[derive(Serialize)]
struct Http {
    /// Without brackets.
    host: String,
    port: u16,
    authority: String,
}

/// An option that some servers have no use for.
struct Choice {
    /// The field of [`Options`].
    id: &'static str,
    flag: &'static str,
    /// What a template that obeys it mentions: one of these fields of [`Context`].
    names: &'static [&'static str],
    /// Why a template may mention none.
    reason: &'static str,
}

macro_rules! choices {
    ($($id:literal $flag:literal $names:tt $reason:literal;)*) => {
        const CHOICES: &[Choice] = &[$(Choice { id: $id, flag: $flag, names: &$names, reason: $reason }),*];
    };
}

choices! {
    "listen" "--listen" ["address", "addresses"] "it hands over a socket of its own";
    "mount" "--mount" ["mount"] "it knows no paths";
    "statics" "--static" ["statics"] "it serves no files";
    "auth" "--auth" ["auth"] "it has no Authorizer role";
    "keep_connections" "--keep-connections" ["keep"] "whether it keeps connections is not chosen so";
    "no_buffering" "--no-buffering" ["unbuffered"] "it has no such switch";
    "health" "--health" ["health"] "it does not check whether the application is well";
    "http" "--http" ["http"] "it has no visitors";
    "app" "--app" ["start"] "it does not start the application";
    "processes" "--processes" ["processes", "processes_given"] "it does not start the application";
    "state_dir" "--state-dir" ["state"] "it keeps no files";
}

fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let options = Options::from_arg_matches(matches).map_err(Failure::usage)?;
    let is_given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let command: Vec<String> = std::env::args().skip(1).collect();
    let program = std::env::current_exe().map_err(Failure::running)?;
    let text = render(&options, is_given, &format!("ringway {}", command.join(" ")), &program)?;
    print!("{text}");
    Ok(())
}

fn render(
    options: &Options,
    is_given: impl Fn(&str) -> bool,
    command: &str,
    program: &Path,
) -> Result<String, Failure> {
    let template = find(&options.server, options.way.as_deref())?;
    let mentioned = mentioned(template);
    let has = |choice: &Choice| choice.names.iter().any(|name| mentioned.contains(*name));
    if let Some(choice) = CHOICES.iter().find(|choice| is_given(choice.id) && !has(choice)) {
        let others = others(choice);
        let Template { server, way, .. } = template;
        let (flag, reason) = (choice.flag, choice.reason);
        return Err(Failure::usage(format!("{flag} is not for {server} ({way}): {reason}; {others}")));
    }
    let wants_address = mentioned.contains("address") || mentioned.contains("addresses");
    if wants_address && options.listen.is_empty() {
        let text = "--listen is missing: the address of the application, unix:/path or HOST:PORT";
        return Err(Failure::usage(text));
    }
    if options.listen.len() > 1 && !mentioned.contains("addresses") {
        let server = template.server;
        return Err(Failure::usage(format!("--listen: {server} ({}) takes one address", template.way)));
    }
    let program = program.display().to_string();
    if mentioned.contains("start") && !is_program(&options.app) {
        plain(&program).map_err(|reason| Failure::usage(format!("this executable {program:?}: {reason}")))?;
    }
    let context = Context::new(options, template.way, command, program)?;
    let environment = environment();
    let result = environment
        .template_from_str(template.source)
        .and_then(|text| text.render(Value::from(Serde(&context))));
    result.map_err(|error| match error.kind() {
        ErrorKind::InvalidOperation => Failure::usage(error.detail().unwrap_or_default()),
        _ => unreachable!("a template of ours is wrong: {error:#}"),
    })
}

fn find(server: &str, way: Option<&str>) -> Result<&'static Template, Failure> {
    let mut of_server = TEMPLATES.iter().filter(|template| template.server == server);
    let found = match way {
        None => of_server.next(),
        Some(way) => of_server.find(|template| template.way == way),
    };
    found.ok_or_else(|| {
        let way = way.unwrap_or_default();
        Failure::usage(format!("--way {way:?}: {server} has {}", ways(server).join(", ")))
    })
}

fn servers() -> Vec<&'static str> {
    let mut names: Vec<_> = TEMPLATES.iter().map(|template| template.server).collect();
    names.dedup();
    names
}

fn ways(server: &str) -> Vec<&'static str> {
    TEMPLATES.iter().filter(|template| template.server == server).map(|template| template.way).collect()
}

fn ways_help() -> String {
    let mut text = "Ways:\n".to_owned();
    for Template { server, way, about, .. } in TEMPLATES {
        text += &format!("  {server:<12}{way:<14}{about}\n");
    }
    text + "\nUse what it prints as a whole, or copy the part that its comments name."
}

/// Who obeys an option that was given to a server that does not.
fn others(choice: &Choice) -> String {
    let is_for = |template: &&Template| choice.names.iter().any(|name| mentioned(template).contains(*name));
    let mut servers: Vec<_> = TEMPLATES.iter().filter(is_for).map(|template| template.server).collect();
    servers.dedup();
    format!("it is for {}", servers.join(", "))
}

/// The fields of [`Context`] that a template looks at.
fn mentioned(template: &Template) -> HashSet<String> {
    let environment = environment();
    let parsed = environment.template_from_str(template.source);
    parsed.map(|text| text.undeclared_variables(false)).unwrap_or_default()
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let syntax =
        SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true).build();
    environment.set_syntax(syntax.expect("jinja's own delimiters"));
    // For paths in regular expressions; `plain` has let no other special characters in.
    environment.add_filter("regex", |text: &str| text.replace('.', "\\.").replace('+', "\\+"));
    // For names that are to be as unique as the path that they are made of.
    environment.add_filter("name", |path: &str| {
        path.trim_matches('/').replace(|c: char| !c.is_ascii_alphanumeric(), "-").to_ascii_lowercase()
    });
    environment.add_function("start", start);
    // For what a server cannot do with the value of an option.
    environment.add_function("refuse", |text: &str| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, text.to_owned()))
    });
    environment
}

/// The command that starts the application with these flags of `ringway serve`. A program of its own has its settings
/// from the environment.
fn start(state: &State<'_, '_>, flags: &str) -> String {
    let text = |name| state.lookup(name).map(|value| value.to_string()).unwrap_or_default();
    let (program, app) = (text("program"), text("app"));
    let words: Vec<&str> = flags.split_whitespace().collect();
    if !is_program(&app) {
        return [&[&program, "serve", &app], &words[..]].concat().join(" ");
    }
    let setting = |pair: &[&str]| {
        let key = pair[0].trim_start_matches('-').replace('-', "_").to_ascii_uppercase();
        format!("RINGWAY_{key}={} ", pair[1])
    };
    let settings: String = words.chunks_exact(2).map(setting).collect();
    if settings.is_empty() { app } else { format!("/usr/bin/env {settings}{app}") }
}

fn is_program(app: &str) -> bool {
    app.starts_with('/')
}

impl<'a> Context<'a> {
    fn new(
        options: &'a Options,
        way: &'a str,
        command: &'a str,
        program: String,
    ) -> Result<Context<'a>, Failure> {
        let unfit = |flag: &str, reason| Failure::usage(format!("{flag}: {reason}"));
        let place = |address| Place::new(address).map_err(|reason| unfit("--listen", reason));
        let state = options.state_dir.as_deref().map(absolute).transpose();
        let words = options.app.split(' ').map(plain).collect::<Result<Vec<_>, _>>();
        let words = words.map_err(|reason| unfit("--app", reason))?;
        let program = match &words[..] {
            [path, ..] if is_program(path) => path.clone(),
            [_] => program,
            _ => {
                return Err(unfit(
                    "--app",
                    "what has arguments is a program: write its absolute path".into(),
                ));
            }
        };
        Ok(Context {
            command,
            way,
            address: options.listen.first().map(place).transpose()?,
            addresses: options.listen.iter().map(place).collect::<Result<_, _>>()?,
            mount: &options.mount,
            statics: &options.statics,
            auth: options.auth,
            keep: options.keep_connections,
            unbuffered: options.no_buffering,
            health: options.health.as_deref(),
            http: Http {
                host: options.http.ip().to_string(),
                port: options.http.port(),
                authority: options.http.to_string(),
            },
            program,
            app: &options.app,
            is_own: is_program(&options.app),
            processes: options.processes.unwrap_or(1),
            processes_given: options.processes,
            state: state.map_err(|reason| unfit("--state-dir", reason))?,
        })
    }
}

impl Place {
    fn new(address: &Address) -> Result<Place, String> {
        let text = plain(&address.to_string())?;
        Ok(match address {
            Address::Unix(path) => {
                let path = absolute(path)?;
                Place { text: format!("unix:{path}"), unix: Some(path), ..Place::default() }
            }
            Address::Abstract(name) => Place { text, r#abstract: Some(name.clone()), ..Place::default() },
            Address::Tcp(authority) => {
                let (host, port) = authority.rsplit_once(':').expect("an address has a port");
                let host = Some(host.trim_start_matches('[').trim_end_matches(']').to_owned());
                let (port, authority) = (port.parse().ok(), Some(authority.clone()));
                Place { text, host, port, authority, ..Place::default() }
            }
            _ => return Err("an address of a kind that this command does not know".to_owned()),
        })
    }
}

/// Texts that mean the same in every configuration, without quoting. (Brackets: IPv6 addresses.)
fn plain(text: &str) -> Result<String, String> {
    let is_special = |c: &char| !c.is_alphanumeric() && !"-._~/+,:@=[]".contains(*c);
    match text.chars().find(is_special) {
        Some(c) => Err(format!("{c:?} has a meaning in configurations: choose a name without it")),
        None => Ok(text.to_owned()),
    }
}

/// A path that does not depend on where the server is started.
fn absolute(path: &Path) -> Result<String, String> {
    let path = std::path::absolute(path).map_err(|error| error.to_string())?;
    plain(path.to_str().ok_or("the path is not UTF-8")?)
}

/// A path prefix as `ringway serve --mount` takes it, but empty for the root.
fn prefix(text: &str) -> Result<String, String> {
    let prefix = plain(text)?.trim_end_matches('/').to_owned();
    if prefix.is_empty() || prefix.starts_with('/') { Ok(prefix) } else { Err(format!("write /{prefix}")) }
}

fn files(text: &str) -> Result<Files, String> {
    let (url, dir) = text.split_once('=').ok_or("write URL=DIR, such as /static=/srv/static")?;
    match prefix(url)? {
        url if url.is_empty() => Err("the whole site cannot be files: give a prefix".to_owned()),
        url => Ok(Files { url, dir: absolute(Path::new(dir))?.trim_end_matches('/').to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is printed, or the text of the error.
    fn conf(arguments: &[&str]) -> Result<String, String> {
        let command = Options::augment_args(clap::Command::new("conf"));
        let matches = command
            .try_get_matches_from([&["conf"], arguments].concat())
            .map_err(|error| error.to_string())?;
        let options = Options::from_arg_matches(&matches).expect("clap has checked them");
        let is_given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        render(&options, is_given, "ringway conf", Path::new("/usr/bin/ringway")).map_err(|error| match error
        {
            Failure::Usage(text) => text,
            Failure::Running(text) => panic!("{text}"),
        })
    }

    /// Every template with every option that it obeys, and with none.
    #[test]
    fn every_template_can_be_printed() {
        for template in TEMPLATES {
            let mentioned = mentioned(template);
            assert!(mentioned.contains("command"), "{}: the first line names the command", template.server);
            let values = |id| match id {
                "listen" => "127.0.0.1:9000",
                "mount" => "/app",
                "statics" => "/static=/srv/static",
                "health" => "/hello",
                "http" => "127.0.0.1:8000",
                "app" => "probe",
                "processes" => "3",
                "state_dir" => "/tmp/state",
                _ => "",
            };
            let mut arguments = vec![template.server, "--way", template.way];
            if mentioned.contains("address") || mentioned.contains("addresses") {
                arguments.extend(["--listen", "unix:/run/app.sock"]);
            }
            let plain = conf(&arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
            arguments.truncate(3);
            for choice in CHOICES {
                if choice.names.iter().any(|name| mentioned.contains(*name)) {
                    arguments.push(choice.flag);
                    arguments.extend(Some(values(choice.id)).filter(|value| !value.is_empty()));
                }
            }
            let full = conf(&arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
            for text in [plain, full] {
                assert!(text.ends_with('\n') && !text.contains("\n\n\n"), "{arguments:?}:\n{text}");
                assert!(text.lines().all(|line| line == line.trim_end()), "{arguments:?}:\n{text}");
            }
        }
    }

    #[test]
    fn choices_are_options_and_fields() {
        let command = Options::augment_args(clap::Command::new("conf"));
        for choice in CHOICES {
            let flag = command.get_arguments().find(|arg| arg.get_id() == choice.id).expect(choice.id);
            assert_eq!(flag.get_long(), choice.flag.strip_prefix("--"));
        }
        let known: Vec<_> = CHOICES.iter().flat_map(|choice| choice.names).copied().collect();
        for template in TEMPLATES {
            for name in mentioned(template) {
                let is_known = known.contains(&name.as_str());
                let is_free = ["command", "way", "program", "is_own", "refuse"].contains(&name.as_str());
                assert!(is_known || is_free, "{}: {name} is nothing that can be given", template.server);
            }
        }
    }

    /// A flag of `ringway serve` is a variable of a program that has no flags.
    #[test]
    fn programs_of_their_own_are_started_without_this_one() {
        let started = |arguments: &[&str], app: &str| conf(&[arguments, &["--app", app]].concat());
        let lighttpd = ["lighttpd", "--way", "spawn", "--listen", "unix:/run/a", "--mount", "/app"];
        for (arguments, app, expected) in [
            (&lighttpd[..], "wsgi:a:b", "\"/usr/bin/ringway serve wsgi:a:b --mount /app\""),
            (&lighttpd, "/srv/a.fcgi", "\"/usr/bin/env RINGWAY_MOUNT=/app /srv/a.fcgi\""),
            (&lighttpd[..5], "/srv/a.fcgi", "\"bin-path\" => \"/srv/a.fcgi\""),
            (
                &["apache", "--way", "fcgid"],
                "/venv/bin/ringway-wsgi app:app",
                "\"/usr/bin/env RINGWAY_MOUNT=/ RINGWAY_WORKERS=1 RINGWAY_LINGER_BYTES=1GiB \
                 /venv/bin/ringway-wsgi app:app\"",
            ),
            (&["apache", "--way", "fcgid"], "/srv/a.fcgi", "ScriptAlias \"/\" \"/srv/a.fcgi/\""),
        ] {
            let text = started(arguments, app).expect(app);
            assert!(text.contains(expected), "{expected}:\n{text}");
        }
        let error = started(&lighttpd, "probe --debug").expect_err("no program");
        assert!(error.contains("write its absolute path"), "{error}");
        let error = started(&lighttpd, "/srv/a b\"").expect_err("a quote");
        assert!(error.starts_with("--app: '\"' has a meaning"), "{error}");
    }

    #[test]
    fn what_a_server_cannot_do_is_refused() {
        for (arguments, expected) in [
            (&["nginx"][..], "--listen is missing: the address of the application, unix:/path or HOST:PORT"),
            (
                &["haproxy", "--listen", "a:1", "--auth"],
                "--auth is not for haproxy (keep): it has no Authorizer role; it is for nginx",
            ),
            (&["nginx", "--listen", "a:1", "--way", "x"], "--way \"x\": nginx has fastcgi_pass"),
            (&["nginx", "--listen", "unix:/a b"], "--listen: ' ' has a meaning in configurations"),
            (&["apache", "--listen", "unix:/a", "--auth"], "mod_authnz_fcgi connects by port only"),
            (&["nginx", "--listen", "unix:@a"], "nginx cannot connect to an abstract socket"),
            (&["lighttpd", "--listen", "unix:@a"], "lighttpd cannot connect to an abstract socket"),
            (&["lighttpd", "--listen", "a:1", "--app", "x"], "--app is not for lighttpd (external)"),
            (
                &["lighttpd", "--way", "spawn", "--listen", "a:1", "--listen", "a:2"],
                "lighttpd (spawn) takes one address",
            ),
            (&["h2o", "--listen", "unix:@a"], "h2o cannot connect to an abstract socket"),
            (&["nginx", "--listen", "a:1", "--mount", "app"], "write /app"),
            (&["nginx", "--listen", "a:1", "--mount", "/a{"], "'{' has a meaning"),
            (&["nginx", "--listen", "a:1", "--static", "/=/srv"], "give a prefix"),
            (&["nginx", "--listen", "a:1", "--static", "/static"], "write URL=DIR"),
        ] {
            let error = conf(arguments).expect_err("it cannot be");
            assert!(error.contains(expected), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn addresses_are_written_as_each_server_has_them() {
        for (server, address, expected) in [
            ("nginx", "unix:/run/a.sock", "server unix:/run/a.sock;"),
            ("nginx", "[::1]:9000", "server [::1]:9000;"),
            ("apache", "unix:/run/a.sock", "\"unix:/run/a.sock|fcgi://run-a-sock/\""),
            ("apache", "[::1]:9000", "\"fcgi://[::1]:9000/\""),
            ("haproxy", "unix:/run/a.sock", "unix@/run/a.sock proto fcgi"),
            ("haproxy", "unix:@a", "abns@a proto fcgi"),
            ("haproxy", "[::1]:9000", "[::1]:9000 proto fcgi"),
            ("lighttpd", "unix:/run/a.sock", "\"socket\" => \"/run/a.sock\""),
            ("lighttpd", "[::1]:9000", "\"host\" => \"::1\", \"port\" => 9000"),
            ("caddy", "unix:/run/a.sock", "reverse_proxy unix//run/a.sock {"),
            ("caddy", "unix:@a", "reverse_proxy unix/@a {"),
            ("caddy", "[::1]:9000", "reverse_proxy [::1]:9000 {"),
            ("h2o", "unix:/run/a.sock", "type: unix\n          port: /run/a.sock\n"),
            ("h2o", "[::1]:9000", "host: \"::1\"\n          port: 9000\n"),
        ] {
            let text = conf(&[server, "--listen", address]).expect(server);
            assert!(text.contains(expected), "{expected}:\n{text}");
        }
    }
}
