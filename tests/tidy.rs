//! The rules of the house, kept by a test: layers, sizes, generated pages, versions.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What each module of `src/` may import from the others. `crate` alone stands for the root's public names.
const LAYERS: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("ring", &[]),
    ("metrics", &[]),
    ("config", &["proto"]),
    ("handler", &["proto", "ring", "config"]),
    ("engine", &["proto", "ring", "metrics", "config", "handler", "Config"]),
    ("error", &["config", "ring", "engine", "handler"]),
    ("server", &["engine", "handler", "config", "metrics", "error", "ring", "Error", "Result"]),
    ("http", &["handler", "proto", "server", "Result"]),
    ("client", &["proto"]),
    (
        "cgi",
        &[
            "client",
            "ring",
            "handler",
            "Chunk",
            "Failure",
            "ReadError",
            "Request",
            "Responder",
            "Response",
            "Stderr",
            "Stdin",
            "Stdout",
        ],
    ),
    // As an embedder: the public names of the root.
    ("as_cgi", &["client", "Builder", "Error", "Role"]),
    (
        "wsgi",
        &[
            "Builder",
            "Failure",
            "Params",
            "ReadError",
            "Request",
            "Responder",
            "Response",
            "Stderr",
            "Stdin",
            "Stdout",
        ],
    ),
];

/// Longer files have found a second subject; tests at the bottom count.
const FILE_LINES_MAX: usize = 1_000;
const LINE_CHARS_MAX: usize = 120;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return files };
    for entry in entries {
        let path = entry.expect("readable folder").path();
        if path.is_dir() {
            if !path.ends_with("target") {
                files.extend(rust_files(&path));
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The module of `src/` that a file belongs to.
fn module_of(file: &Path) -> String {
    let inside = file.strip_prefix(root().join("src")).expect("a file of src");
    let first = inside.components().next().expect("a name");
    first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

/// The names after `crate::` in a line, those in braces included.
fn imports_in(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for part in text.split("crate::").skip(1) {
        let group = match part.strip_prefix('{') {
            Some(group) => group.split('}').next().unwrap_or_default(),
            None => part.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default(),
        };
        for name in group.split(',') {
            let name =
                name.trim().split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
            if !name.is_empty() {
                names.push(name.to_owned());
            }
        }
    }
    names
}

/// Code without its unit tests and comments.
fn code_of(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("readable file");
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn modules_import_only_what_lies_below_them() {
    let mut wrong = Vec::new();
    let allowed: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    for file in rust_files(&root().join("src")) {
        let module = module_of(&file);
        let Some(allowed) = allowed.get(module.as_str()) else { continue };
        for name in imports_in(&code_of(&file)) {
            if name != module && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{}: imports {name}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that point up:\n{}", wrong.join("\n"));
}

#[test]
fn the_command_uses_only_what_embedders_can() {
    let modules = ["engine", "server", "error", "ring"];
    for file in rust_files(&root().join("src/cli")) {
        for name in imports_in(&code_of(&file)) {
            assert!(!modules.contains(&name.as_str()), "{}: reaches into {name}", file.display());
        }
    }
}

#[test]
fn unsafe_code_lives_in_the_ring() {
    for file in rust_files(&root().join("src")) {
        let code = code_of(&file);
        let is_ring = module_of(&file) == "ring";
        let has_unsafe =
            code.contains("unsafe {") || code.contains("unsafe impl") || code.contains("unsafe fn");
        assert!(is_ring || !has_unsafe, "{}: unsafe code outside of src/ring", file.display());
    }
}

#[test]
fn files_and_lines_stay_readable() {
    let mut wrong = Vec::new();
    for folder in ["src", "tests", "benches", "examples", "loadtest", "fuzz"] {
        for file in rust_files(&root().join(folder)) {
            let text = fs::read_to_string(&file).expect("readable file");
            if text.lines().count() > FILE_LINES_MAX {
                wrong.push(format!("{}: {} lines", file.display(), text.lines().count()));
            }
            for (number, line) in text.lines().enumerate() {
                if line.chars().count() > LINE_CHARS_MAX {
                    wrong.push(format!(
                        "{}:{}: {} characters",
                        file.display(),
                        number + 1,
                        line.chars().count()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `UPDATE_DOCS=1 cargo test --test tidy` writes the pages; otherwise they must be as the tables say.
#[test]
fn generated_pages_are_up_to_date() {
    let pages = [
        ("docs/configuration.md", ringway::config::markdown()),
        ("docs/metrics.md", ringway::metrics::markdown()),
    ];
    for (name, expected) in pages {
        let path = root().join(name);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, &expected).expect("docs can be written");
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(found == expected, "{name} is out of date: run UPDATE_DOCS=1 cargo test --test tidy");
    }
}

/// Who reads the README sees the examples as they are built.
#[test]
fn the_examples_of_the_readme_are_the_real_ones() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README");
    for name in ["hello", "axum"] {
        let example = fs::read_to_string(root().join(format!("examples/{name}.rs"))).expect("an example");
        let code = example.split_once("\n\n").expect("code below its comment").1.trim();
        assert!(readme.contains(code), "README.md does not show examples/{name}.rs");
    }
}

/// The promise of `rust-version` cannot be kept below what a dependency of the library demands.
#[test]
fn the_minimum_rust_version_is_stated_once_and_documented() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("manifest");
    let stated =
        manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).expect("rust-version");
    let readme = fs::read_to_string(root().join("README.md")).expect("README");
    assert!(readme.contains(stated.trim_matches('"')), "README.md does not name Rust {stated}");
}
