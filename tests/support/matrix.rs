//! The table of `docs/deployment.md`, written from the tests.
//!
//! [`matrix!`] makes a test of each of its lines and a [`Row`] beside it: which server, which way, and what is seen to
//! work when the test passes. The table says nothing that is not a test, and `cargo test` compares it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// What one test shows to work.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) server: &'static str,
    pub(crate) way: &'static str,
    pub(crate) seen: &'static [&'static str],
}

/// Tests that are lines of the table:
///
/// ```text
/// matrix! { "nginx", "fastcgi_pass":
///     uring_unix_kept ["unix", "kept", "prefix", "streaming"] => pages(WAY);
/// }
/// ```
///
/// In `[]` stand columns of the table ([`COLUMNS`]), and anything else that is worth a word. `MATRIX` has the rows.
macro_rules! matrix {
    ($($server:literal, $way:literal: $($name:ident [$($seen:literal),* $(,)?] => $test:expr;)+)+) => {
        $($(#[test]
        fn $name() {
            $test;
        })+)+

        pub(crate) const MATRIX: &[$crate::support::matrix::Row] = &[$($($crate::support::matrix::Row {
            server: $server,
            way: $way,
            seen: &[$($seen),*],
        }),+),+];
    };
}
pub(crate) use matrix;

/// What is asked of every way; all else goes into the last column.
const COLUMNS: &[(&str, &[&str])] = &[
    ("socket", &["unix", "tcp", "fd 0"]),
    ("connections", &["closed", "kept", "multiplexed"]),
    ("mounted at", &["root", "prefix"]),
];

const BEGIN: &str = "<!-- The table is written from the tests: UPDATE_DOCS=1 cargo test --features cli --test interop \
                     the_table -->\n";
const END: &str = "<!-- end of the table -->\n";

/// Compares the table with the tests, or writes it with `UPDATE_DOCS=1`.
pub(crate) fn compare(rows: &[Row]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/deployment.md");
    let page = fs::read_to_string(&path).expect("the page can be read");
    let (before, rest) = page.split_once(BEGIN).expect("the page has a mark where the table begins");
    let (_, after) = rest.split_once(END).expect("the page has a mark where the table ends");
    let expected = format!("{before}{BEGIN}{}{END}{after}", table(rows));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &expected).expect("the page can be written");
        return;
    }
    assert!(page == expected, "docs/deployment.md is out of date: {}", BEGIN.trim());
}

fn table(rows: &[Row]) -> String {
    let mut text = "\n| server | way |".to_owned();
    COLUMNS.iter().for_each(|(title, _)| write!(text, " {title} |").expect("a string"));
    text += " also |\n| --- | --- | --- | --- | --- | --- |\n";
    let mut ways: Vec<(&str, &str)> = rows.iter().map(|row| (row.server, row.way)).collect();
    let mut known = BTreeSet::new();
    ways.retain(|way| known.insert(*way));
    // All of a server together, where its first stands.
    let servers: Vec<&str> = ways.iter().map(|(server, _)| *server).collect();
    ways.sort_by_key(|(server, _)| servers.iter().position(|first| first == server));
    for (server, way) in ways {
        let of_way = rows.iter().filter(|row| (row.server, row.way) == (server, way));
        let mut seen: Vec<&str> = of_way.flat_map(|row| row.seen).copied().collect();
        let mut known = BTreeSet::new();
        seen.retain(|what| known.insert(*what));
        write!(text, "| {server} | {way} |").expect("a string");
        for (_, values) in COLUMNS {
            let found: Vec<&str> = values.iter().filter(|value| known.contains(*value)).copied().collect();
            write!(text, " {} |", found.join(", ")).expect("a string");
        }
        seen.retain(|what| COLUMNS.iter().all(|(_, values)| !values.contains(what)));
        writeln!(text, " {} |", seen.join(", ")).expect("a string");
    }
    text + "\n"
}
