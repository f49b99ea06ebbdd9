//! The rules of the house that matter, as tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 800;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests folder lies in the workspace").to_owned()
}

fn sources(below: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(below).expect("a folder of the workspace") {
        let path = entry.expect("a folder entry").path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target" && name != ".git") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn all() -> Vec<(String, String)> {
    let (root, mut found) = (root(), Vec::new());
    sources(&root, &mut found);
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).expect("found below the root").display().to_string();
        (name, fs::read_to_string(&path).expect("a source file"))
    };
    found.into_iter().map(read).collect()
}

/// The part of a file before its inline tests.
fn code(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

fn is_test(name: &str) -> bool {
    name.starts_with("tests/") || name.contains("/tests/") || name.ends_with("tests.rs")
}

#[test]
fn files_stay_readable() {
    let long: Vec<_> = all().into_iter().filter(|(_, text)| text.lines().count() > FILE_LINES_MAX).map(|(name, _)| name).collect();
    assert!(long.is_empty(), "over {FILE_LINES_MAX} lines; which room do their parts belong in? {long:?}");
    let mute: Vec<_> = all().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(name, _)| name).collect();
    assert!(mute.is_empty(), "no word on why they exist: {mute:?}");
}

#[test]
fn dependencies_point_one_way() {
    // (files that begin with, must not contain)
    let rules: &[(&str, &[&str])] = &[
        ("protocol/", &["tokio", "std::time", "rand::", "std::fs", "std::net"]),
        ("sidecar/src/core", &["tokio::", "openraft", "std::net", "std::fs", "Instant::now", "SystemTime", "rand::", "tokio_postgres"]),
        ("proxy/src/core", &["tokio::", "std::net", "std::fs", "Instant::now", "SystemTime", "rand::", "pg_raw_parse"]),
        ("sidecar/", &["howdah_proxy"]),
        ("proxy/", &["howdah_sidecar", "openraft"]),
    ];
    let mut broken = Vec::new();
    for (name, text) in all().iter().filter(|(name, _)| !is_test(name)) {
        for (begin, forbidden) in rules {
            let words = forbidden.iter().filter(|word| {
                name.starts_with(begin) && code(text).lines().any(|line| line.contains(**word) && !line.trim_start().starts_with("//"))
            });
            broken.extend(words.map(|word| format!("{name}: {word}")));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn each_library_has_one_owner() {
    let owners = [("openraft", "sidecar/src/raft")];
    let mut strangers = Vec::new();
    for (name, text) in all().iter().filter(|(name, _)| !is_test(name)) {
        for (library, owner) in owners {
            if !name.starts_with(owner) && code(text).contains(&format!("{library}::")) {
                strangers.push(format!("{name} uses {library}"));
            }
        }
    }
    assert!(strangers.is_empty(), "{strangers:#?}");
}

#[test]
fn nothing_is_unwrapped_outside_tests() {
    let mut found = Vec::new();
    for (name, text) in all().iter().filter(|(name, _)| !is_test(name)) {
        let lines = code(text).lines().enumerate().filter(|(_, line)| line.contains(".unwrap()") && !line.trim_start().starts_with("//"));
        found.extend(lines.map(|(nth, _)| format!("{name}:{}", nth + 1)));
    }
    assert!(found.is_empty(), "say why it cannot fail, or handle it: {found:#?}");
}

/// Texts that are nothing but such a name, between quotes or backquotes.
fn names(text: &str, quote: char) -> BTreeSet<String> {
    let is_name = |word: &&str| word.starts_with("howdah_") && word.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase());
    text.split(quote).filter(is_name).map(str::to_owned).collect()
}

#[test]
fn metrics_are_documented() {
    // The proxy's role, and what temporary slots are called.
    const NO_METRICS: [&str; 4] = ["howdah_proxy", "howdah_repair", "howdah_seed", "howdah_verify"];
    let sources = all().into_iter().filter(|(name, _)| !is_test(name) && (name.starts_with("sidecar/") || name.starts_with("proxy/")));
    let mut there: BTreeSet<String> = sources.flat_map(|(_, text)| names(code(&text), '"')).collect();
    there.retain(|name| !NO_METRICS.contains(&name.as_str()));
    let page = fs::read_to_string(root().join("docs/operations.md")).expect("a page of the documentation");
    let chapter = page.split("\n## ").find(|chapter| chapter.starts_with("Metrics\n")).expect("it has a chapter on metrics");
    let mut told = names(chapter, '`');
    told.remove("howdah_");
    assert!(there.len() > 40, "the sources are read wrongly: {there:?}");
    let missing: Vec<_> = there.difference(&told).collect();
    assert!(missing.is_empty(), "not in docs/operations.md: {missing:?}");
    let made_up: Vec<_> = told.difference(&there).collect();
    assert!(made_up.is_empty(), "in docs/operations.md only: {made_up:?}");
}
