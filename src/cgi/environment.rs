//! A program's environment: RFC 3875 4.1 and what the request says.

use std::os::unix::ffi::OsStrExt;

use crate::Request;
use crate::ring::spawn::Environment;

use super::directory::Script;

/// Where programs and shells look for others.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Names that are never passed on, beside those that begin with one of [`HARMFUL_BEGINNINGS`]. A header's name begins
/// with HTTP_, so only whoever may send params at all could set them; he is not to choose what this host runs.
const HARMFUL: &[&str] = &[
    "BASHOPTS",
    "BASH_ENV",
    "CDPATH",
    "ENV",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "HOSTALIASES",
    "HTTP_PROXY",
    "IFS",
    "JAVA_TOOL_OPTIONS",
    "LOCPATH",
    "MALLOC_CHECK_",
    "NLSPATH",
    "NODE_OPTIONS",
    "PATH",
    "PERLIO_DEBUG",
    "PHPRC",
    "PS4",
    "RESOLV_HOST_CONF",
    "RES_OPTIONS",
    "RUBYLIB",
    "RUBYOPT",
    "SHELLOPTS",
    "TMPDIR",
    "TZDIR",
];
const HARMFUL_BEGINNINGS: &[&str] = &["DYLD_", "LD_", "LUA_", "PERL5", "PHP_INI_", "PYTHON"];

/// The environment of a program.
pub(super) fn of(request: &Request, script: &Script) -> Environment {
    let mut environment = Environment::default();
    // In order: the last of a name wins.
    for (name, value) in request.params().iter().filter(|(name, _)| is_harmless(name)) {
        environment.set(name, value);
    }
    let path = request.path_info();
    let (name, path_info) = path.split_at(script.name_bytes);
    let mut set = |name: &str, value: Option<&[u8]>| match value {
        Some(value) => environment.set(name.as_bytes(), value),
        None => environment.remove(name.as_bytes()),
    };
    set("PATH", Some(PATH.as_bytes()));
    // RFC 3875 4.1.4.
    set("GATEWAY_INTERFACE", Some(b"CGI/1.1"));
    set("SCRIPT_NAME", Some(&[&request.script_name(), name].concat()));
    set("SCRIPT_FILENAME", Some(script.path.as_os_str().as_bytes()));
    // 4.1.5 and 4.1.6: where there is no PATH_INFO, neither need be there.
    set("PATH_INFO", Some(path_info).filter(|info| !info.is_empty()));
    let root = request.param("DOCUMENT_ROOT").filter(|_| !path_info.is_empty());
    set("PATH_TRANSLATED", root.map(|root| [root, path_info].concat()).as_deref());
    set("REQUEST_METHOD", Some(request.method().as_bytes()));
    // 4.1.7: must be there, even if empty.
    set("QUERY_STRING", Some(request.query()));
    set("SERVER_SOFTWARE", Some(request.param("SERVER_SOFTWARE").unwrap_or(b"ringway")));
    // 4.1.2 and 4.1.3: only with a body of that length and type.
    let length = request.stdin().length().map(|length| length.to_string());
    set("CONTENT_LENGTH", length.as_deref().map(str::as_bytes));
    set("CONTENT_TYPE", request.param("CONTENT_TYPE").filter(|value| !value.is_empty()));
    environment
}

fn is_harmless(name: &[u8]) -> bool {
    let is_name = name.first().is_some_and(|first| !first.is_ascii_digit())
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    is_name
        && !HARMFUL.iter().any(|harmful| harmful.as_bytes() == name)
        && !HARMFUL_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_do_harm_are_left_out() {
        for good in
            ["HTTP_ACCEPT", "GIT_PROJECT_ROOT", "SSL_CLIENT_S_DN", "_x9", "HTTPS", "LDAP_HOST", "PATH_INFO"]
        {
            assert!(is_harmless(good.as_bytes()), "{good}");
        }
        for bad in
            ["", "9A", "A=B", "A B", "BASH_FUNC_x%%", "HTTP_PROXY", "LD_PRELOAD", "PERL5OPT", "gr\u{fc}n"]
        {
            assert!(!is_harmless(bad.as_bytes()), "{bad}");
        }
    }
}
