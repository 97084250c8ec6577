//! The table of the module, every capture, and the bytes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::proto::Limits;

/// Params of these pairs.
fn params<N: AsRef<[u8]>, V: AsRef<[u8]>>(pairs: impl IntoIterator<Item = (N, V)>) -> Params<Vec<u8>> {
    let mut bytes = Vec::new();
    for (name, value) in pairs {
        crate::proto::params::encode_pair(&mut bytes, name.as_ref(), value.as_ref());
    }
    Params::parse(bytes, &Limits::default()).map_err(|(error, _)| error).unwrap()
}

/// SCRIPT_NAME and PATH_INFO below a mount, as text.
fn cut<B: AsRef<[u8]>>(params: &Params<B>, mount: &str) -> (String, String) {
    let text = |bytes: Cow<'_, [u8]>| String::from_utf8(bytes.into_owned()).expect("UTF-8");
    let below = || Cut::of(params).below(params, mount);
    (text(below().script_name()), text(below().path_info()))
}

/// One request that a web server sent, with these params, and what handlers must see.
struct Case {
    from: &'static str,
    sent: &'static [(&'static str, &'static str)],
    mount: &'static str,
    seen: (&'static str, &'static str),
}

macro_rules! cases {
    ($($from:literal: $($name:ident $value:literal),*;
        $mount:literal => $script_name:literal, $path_info:literal;)*) => {
        &[$(Case {
            from: $from,
            sent: &[$((stringify!($name), $value)),*],
            mount: $mount,
            seen: ($script_name, $path_info),
        }),*]
    };
}

#[rustfmt::skip]
const CASES: &[Case] = cases! {
    "nginx below a prefix": SCRIPT_NAME "/app", PATH_INFO "/x", REQUEST_URI "/app/x?y"; "/" => "/app", "/x";
    "nginx below a prefix": SCRIPT_NAME "/app", PATH_INFO "/x", REQUEST_URI "/app/x?y"; "/app" => "/app", "/x";
    "nginx at the prefix": SCRIPT_NAME "/app", PATH_INFO "", REQUEST_URI "/app"; "/app" => "/app", "";
    "the last of a name": SCRIPT_NAME "/x", PATH_INFO "/x", SCRIPT_NAME ""; "/" => "", "/x";
    "nginx, fastcgi_params alone":
        SCRIPT_NAME "/a b", REQUEST_URI "/a%20b", DOCUMENT_URI "/a b"; "/" => "", "/a b";
    "nginx, fastcgi_params alone":
        SCRIPT_NAME "/app/x", REQUEST_URI "/app/x", DOCUMENT_URI "/app/x"; "/app" => "/app", "/x";
    "nginx, PATH_INFO without its split":
        SCRIPT_NAME "/x", PATH_INFO "", REQUEST_URI "/x", DOCUMENT_URI "/x"; "/" => "", "/x";
    "nginx, a fixed SCRIPT_NAME alone":
        SCRIPT_NAME "/app", REQUEST_URI "/app/a%20b", DOCUMENT_URI "/app/a b"; "/" => "/app", "/a b";
    "a fixed SCRIPT_NAME alone": SCRIPT_NAME "/app", REQUEST_URI "/app/a%20b?c%20d"; "/" => "/app", "/a b";
    "REQUEST_URI alone": REQUEST_URI "/app/a%20b?c%20d"; "/" => "", "/app/a b";
    "REQUEST_URI alone": REQUEST_URI "/app/a%20b?c%20d"; "/app" => "/app", "/a b";
    "an absolute REQUEST_URI": REQUEST_URI "http://h:8080/app/x?y"; "/app" => "/app", "/x";
    "an absolute REQUEST_URI": REQUEST_URI "http://h?y"; "/" => "", "/";
    "OPTIONS *": REQUEST_URI "*"; "/" => "", "";
    "no NUL": REQUEST_URI "/a%00b"; "/" => "", "/a%00b";
    "no escape": REQUEST_URI "/100%/%zz%4"; "/" => "", "/100%/%zz%4";
    "nothing": ; "/" => "", "";
    "a name that folds (U+212A)":
        SCRIPT_NAME "/\u{212a}.FCGI", PATH_INFO "/x", REQUEST_URI "/%E2%84%AA.FCGI/x"; "/" => "/\u{212a}.FCGI", "/x";
    "a file": SCRIPT_NAME "/app.fcgi", PATH_INFO "/x", REQUEST_URI "/x"; "/" => "", "/x";
    "a file in the URL": SCRIPT_NAME "/app.fcgi", PATH_INFO "/x", REQUEST_URI "/app.fcgi/x"; "/" => "", "/x";
    "a file in a folder": SCRIPT_NAME "/a/b.fcgi", PATH_INFO "/x", REQUEST_URI "/a/x"; "/" => "/a", "/x";
    "a file in a folder": SCRIPT_NAME "/a/b.fcgi", PATH_INFO "/x", REQUEST_URI "/a/x"; "/a" => "/a", "/x";
    "a file that is the mount": SCRIPT_NAME "/a.fcgi", PATH_INFO "/x"; "/a.fcgi" => "/a.fcgi", "/x";
    "a file, alone": SCRIPT_NAME "/app.fcgi", REQUEST_URI "/app.fcgi"; "/" => "", "";
    "a file, PATH_INFO lost": SCRIPT_NAME "/app.fcgi", REQUEST_URI "/a%20b"; "/" => "", "/a b";
    "a file within SCRIPT_NAME": SCRIPT_NAME "/a.fcgi/x", REQUEST_URI "/a.fcgi/x"; "/" => "", "/x";
    "no file": SCRIPT_NAME "/.fcgi", PATH_INFO "/x", REQUEST_URI "/.fcgi/x"; "/" => "/.fcgi", "/x";
    "rewriting to another name": SCRIPT_NAME "/run.py", PATH_INFO "/a b", REQUEST_URI "/a%20b"; "/" => "", "/a b";
    "rewriting to another name": SCRIPT_NAME "/s/run.py", PATH_INFO "/x", REQUEST_URI "/s/x"; "/" => "/s", "/x";
    "rewriting to another path": SCRIPT_NAME "/new", PATH_INFO "/x", REQUEST_URI "/old/y"; "/" => "/new", "/x";
    "lighttpd at the root":
        SCRIPT_NAME "/a", PATH_INFO "/b/c", REQUEST_URI "/a/b/c", SERVER_SOFTWARE "lighttpd/1.4.69";
            "/" => "", "/a/b/c";
    "lighttpd below a prefix":
        SCRIPT_NAME "/a", PATH_INFO "/b/c", REQUEST_URI "/a/b/c", SERVER_SOFTWARE "lighttpd/1.4.69";
            "/a" => "/a", "/b/c";
    "h2o below a prefix": SCRIPT_NAME "", PATH_INFO "/app/x", REQUEST_URI "/app/x"; "/app" => "/app", "/x";
    "h2o at the prefix": SCRIPT_NAME "", PATH_INFO "/app", REQUEST_URI "/app"; "/app" => "/app", "";
    "a prefix that is stripped": SCRIPT_NAME "", PATH_INFO "/a b", REQUEST_URI "/app/a%20b"; "/app" => "/app", "/a b";
    "a prefix that is stripped": SCRIPT_NAME "/x", PATH_INFO "/y", REQUEST_URI "/app/x/y"; "/app" => "/app", "/x/y";
    "slashes of its own": SCRIPT_NAME "/", PATH_INFO "/x", REQUEST_URI "/x"; "/" => "", "/x";
    "a cut within a segment": SCRIPT_NAME "/app", PATH_INFO "le/x", REQUEST_URI "/apple/x"; "/" => "", "/apple/x";
    "a decoded REQUEST_URI": SCRIPT_NAME "/app", PATH_INFO "/1%20 %", REQUEST_URI "/app/1%20 %";
        "/" => "/app", "/1%20 %";
    "not below the mount": SCRIPT_NAME "", PATH_INFO "/apple", REQUEST_URI "/apple"; "/app" => "", "/apple";
};

#[test]
fn every_web_server_is_understood() {
    for Case { from, sent, mount, seen } in CASES {
        let (script_name, path_info) = cut(&params(sent.iter().copied()), mount);
        assert_eq!((script_name.as_str(), path_info.as_str()), *seen, "{from}, {sent:?} below {mount}");
    }
}

/// The params of each request of a capture, and its role.
fn requests(capture: &[u8]) -> Vec<(u8, Params<Vec<u8>>)> {
    let (mut rest, mut open, mut done) = (capture, BTreeMap::new(), Vec::new());
    while let Some((&[version, kind, id1, id0, length1, length0, padding, _], after)) =
        rest.split_first_chunk()
        && version == 1
    {
        let length = usize::from(u16::from_be_bytes([length1, length0]));
        let Some((content, after)) = after.split_at_checked(length) else { break };
        rest = after.get(usize::from(padding)..).unwrap_or_default();
        let id = [id1, id0];
        match kind {
            1 => drop(open.insert(id, (content[1], Vec::new()))),
            4 if content.is_empty() => {
                let (role, bytes) = open.remove(&id).expect("a request that has begun");
                let read = Params::parse(bytes, &Limits::default()).map_err(|(error, _)| error);
                done.push((role, read.expect("good params")));
            }
            4 => open.get_mut(&id).expect("a request that has begun").1.extend_from_slice(content),
            _ => {}
        }
    }
    done
}

/// Web servers of the captures below the prefix `/yourapplication`; all others are at the root.
const BELOW_A_PREFIX: [&str; 4] = ["nginx-sub-", "haproxy-", "h2o-sub-tcp-", "cherokee-spawn-"];
const PREFIX: &str = "/yourapplication";

#[test]
fn every_capture_is_cut_where_its_web_server_is_mounted() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/captures");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("the captures") {
        let file = entry.expect("a file").path();
        if file.extension().is_none_or(|extension| extension != "bin") {
            continue;
        }
        let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
        let is_below =
            BELOW_A_PREFIX.iter().any(|server| name.starts_with(server)) && !name.contains("-root-");
        for (role, params) in requests(&std::fs::read(&file).expect("readable")) {
            let uri = params.well_known(WellKnown::RequestUri).expect("all have REQUEST_URI");
            let path = match name.starts_with("cherokee") {
                true => path_of_uri(uri).expect("a path").to_vec(),
                false => unescape(path_of_uri(uri).expect("a path")).into_owned(),
            };
            let path = String::from_utf8(path).expect("UTF-8");
            if name.ends_with("-escaped") {
                assert!(path.ends_with("/a b/grüße/x/hello"), "{name}: {path}");
            } else if name.ends_with("-get") {
                assert!(path.ends_with("/hello"), "{name}: {path}");
            }
            let (script_name, path_info) = match is_below {
                true => (PREFIX, path.strip_prefix(PREFIX).expect("a path below the prefix")),
                false => ("", &*path),
            };
            let expected = (script_name.to_owned(), path_info.to_owned());
            let mounts = if is_below { &[PREFIX][..] } else { &["/"] };
            for mount in mounts {
                assert_eq!(cut(&params, mount), expected, "{name}, role {role}, below {mount}");
                assert!(Cut::of(&params).is_below(&params, mount), "{name} below {mount}");
            }
            // h2o alone does not say where it is mounted.
            if is_below && !name.starts_with("h2o") {
                assert_eq!(cut(&params, "/"), expected, "{name} without a mount");
            }
            seen += 1;
        }
    }
    assert!(seen >= 280, "{seen} requests");
}

#[test]
fn what_came_whole_is_borrowed() {
    for Case { sent, mount, .. } in CASES {
        let params = params(sent.iter().copied());
        let sent = params.as_bytes().as_ptr_range();
        let [script_name, path_info] =
            [Cut::script_name, Cut::path_info].map(|part| part(Cut::of(&params).below(&params, mount)));
        let is_mount = |bytes: &[u8]| bytes == mount.as_bytes();
        for part in [&script_name, &path_info] {
            if let Cow::Borrowed(bytes) = part {
                assert!(bytes.is_empty() || sent.contains(&bytes.as_ptr()) || is_mount(bytes), "{bytes:?}");
            }
        }
    }
    for (script_name, path_info) in [("", "/x"), ("/app", "/x"), ("/x", "")] {
        let params =
            params([("SCRIPT_NAME", script_name), ("PATH_INFO", path_info), ("REQUEST_URI", "/app/x")]);
        assert!(matches!(Cut::of(&params).script_name(), Cow::Borrowed(_)));
        assert!(matches!(Cut::of(&params).path_info(), Cow::Borrowed(_)));
    }
}

#[test]
fn the_log_is_told_once() {
    let paths = Paths::default();
    let params = params([("SCRIPT_NAME", "/x")]);
    let cut = Cut::of(&params);
    assert_eq!(cut.remedy, Some(Remedy::FromScriptName));
    assert!(paths.is_first(1 << Remedy::LighttpdRoot as u8));
    paths.note(&cut, &params);
    assert!(!paths.is_first(1 << Remedy::FromScriptName as u8));
    assert!(paths.is_first(NOWHERE) && !paths.is_first(NOWHERE));
    assert!(1 << (Remedy::LighttpdRoot as u8) < NOWHERE, "a bit for each");
}

/// Any bytes that params can hold, those that paths are made of more often.
fn some_path() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        6 => prop::sample::select(&b"/ab.%2fF\n\xc3\xa9\xe2\x84\xaa"[..]),
        1 => 1..=255_u8,
        1 => Just(b'/'),
    ];
    prop::collection::vec(byte, 0..16)
}

proptest! {
    /// Where a path is cut between SCRIPT_NAME and PATH_INFO makes no difference to mounts.
    #[test]
    fn matching_does_not_see_the_cut(
        path in "[/ab%\u{e9}\n]{0,12}",
        prefix in "/[ab]{1,2}(/[ab])?",
        cut in 0usize..13,
    ) {
        let path = path.as_bytes();
        let (script_name, path_info) = path.split_at(cut.min(path.len()));
        let prefix = prefix.as_bytes();
        let expected = path.starts_with(prefix) && matches!(path.get(prefix.len()), None | Some(b'/'));
        prop_assert_eq!(holds(prefix, script_name, path_info), expected);
    }

    /// Nothing is made up and nothing lost: the two parts are the path, and the path is what came, byte for byte.
    #[test]
    fn prefix_and_rest_are_the_input(script_name in some_path(), path_info in some_path(), mount in "/[ab]{1,2}") {
        let params = params([("SCRIPT_NAME", &script_name), ("PATH_INFO", &path_info)]);
        let sent = [&script_name[..], &path_info[..]].concat();
        let is_file = end_of_fcgi(&script_name).is_some();
        for mount in ["/", &mount] {
            let cut = || Cut::of(&params).below(&params, mount);
            let (front, back) = (cut().script_name(), cut().path_info());
            prop_assert_eq!(&*[&front[..], &back[..]].concat(), &*cut().path());
            prop_assert!(is_file || *cut().path() == sent[..]);
            prop_assert!(back.is_empty() || back[0] == b'/' || front.is_empty());
            if mount != "/" && Cut::of(&params).is_below(&params, mount) {
                prop_assert_eq!(&*front, mount.as_bytes());
            }
        }
    }

    /// The same from REQUEST_URI, whatever is escaped there.
    #[test]
    fn request_uri_is_unescaped_once(path in some_path(), escape_all in any::<bool>(), query in "[?/a%]{0,4}") {
        let path = [b"/", &path[..]].concat();
        let mut uri = b"/".to_vec();
        for byte in &path[1..] {
            match byte {
                b'%' | b'?' => uri.extend_from_slice(format!("%{byte:02X}").as_bytes()),
                byte if escape_all => uri.extend_from_slice(format!("%{byte:02x}").as_bytes()),
                byte => uri.push(*byte),
            }
        }
        let with_query = [&uri[..], b"?", query.as_bytes()].concat();
        let absolute = [b"http://host", &with_query[..]].concat();
        for target in [&with_query, &absolute] {
            let params = params([("REQUEST_URI", target)]);
            prop_assert!(*Cut::of(&params).path_info() == path[..]);
            // It agrees with params that say the same.
            for at in 0..=path.len() {
                prop_assert!(is_made_of(path_of_uri(target).unwrap(), &[&path[..at], &path[at..]]));
            }
        }
    }

    /// No bytes of the three make it fail.
    #[test]
    fn nothing_panics(
        script_name in some_path(), path_info in some_path(), uri in some_path(), document_uri in some_path(),
        is_lighttpd in any::<bool>(), mount in prop::sample::select(&["/", "/a", "/a/b"][..]),
    ) {
        let software: &[u8] = if is_lighttpd { b"lighttpd/1.4" } else { b"nginx" };
        let params = params([
            (&b"SCRIPT_NAME"[..], &script_name[..]),
            (b"PATH_INFO", &path_info),
            (b"REQUEST_URI", &uri),
            (b"DOCUMENT_URI", &document_uri),
            (b"SERVER_SOFTWARE", software),
        ]);
        let cut = || Cut::of(&params).below(&params, mount);
        prop_assert_eq!(&*[&cut().script_name()[..], &cut().path_info()[..]].concat(), &*cut().path());
    }
}
