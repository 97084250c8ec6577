//! A program's environment: RFC 3875 4.1 and what the request says.

use std::os::unix::ffi::OsStrExt;

use crate::Request;
use crate::ring::spawn::Environment;

use super::directory::Script;

/// Where programs and shells look for others.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Names that are never passed on, and below how others begin. A header's name begins with HTTP_, so only whoever may
/// send params at all could set them; he is not to choose what this host runs.
fn is_harmful(name: &[u8]) -> bool {
    const BEGINNINGS: [&[u8]; 6] = [b"DYLD_", b"LD_", b"LUA_", b"PERL5", b"PHP_INI_", b"PYTHON"];
    matches!(
        name,
        b"BASHOPTS"
            | b"BASH_ENV"
            | b"CDPATH"
            | b"ENV"
            | b"GCONV_PATH"
            | b"GLIBC_TUNABLES"
            | b"HOSTALIASES"
            | b"HTTP_PROXY"
            | b"IFS"
            | b"JAVA_TOOL_OPTIONS"
            | b"LOCPATH"
            | b"MALLOC_CHECK_"
            | b"NLSPATH"
            | b"NODE_OPTIONS"
            | b"PATH"
            | b"PERLIO_DEBUG"
            | b"PHPRC"
            | b"PS4"
            | b"RESOLV_HOST_CONF"
            | b"RES_OPTIONS"
            | b"RUBYLIB"
            | b"RUBYOPT"
            | b"SHELLOPTS"
            | b"TMPDIR"
            | b"TZDIR"
    ) || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// Variables and bytes that are added to the params, mostly.
const MORE: (usize, usize) = (12, 512);

/// The environment of a program.
pub(super) fn of(request: &Request, script: &Script) -> Environment {
    let params = request.params();
    let mut environment = Environment::with_capacity(params.len() + MORE.0, params.as_bytes().len() + MORE.1);
    // In order: the last of a name wins.
    for (name, value) in params.iter().filter(|(name, _)| is_harmless(name)) {
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
    is_name && !is_harmful(name)
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
