//! `ip` and `tc`, run to their end.

use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};

/// Runs `ip` and fails with its words.
pub(super) fn ip(words: &[&str]) -> Result<()> {
    output(words).map(|_| ())
}

/// What `ip` prints.
pub(super) fn output(words: &[&str]) -> Result<String> {
    run("ip", words)
}

/// Runs `tc` in a namespace.
pub(super) fn tc(namespace: &str, words: &[&str]) -> Result<()> {
    run("tc", &[&["-n", namespace], words].concat()).map(|_| ())
}

fn run(program: &str, words: &[&str]) -> Result<String> {
    let done = Command::new(program).args(words).stdin(Stdio::null()).output();
    let done = done.with_context(|| format!("`{program}` (package iproute2) does not run"))?;
    if !done.status.success() {
        bail!("{program} {}: {}", words.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
