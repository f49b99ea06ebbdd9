//! `ip` and `tc`, run to their end.

use super::Error;
use std::process::{Command, Stdio};

/// Runs `ip` and fails with its words.
pub(super) fn ip(words: &[&str]) -> Result<(), Error> {
    output(words).map(|_| ())
}

/// What `ip` prints.
pub(super) fn output(words: &[&str]) -> Result<String, Error> {
    run("ip", words)
}

/// Runs `tc` in a namespace.
pub(super) fn tc(namespace: &str, words: &[&str]) -> Result<(), Error> {
    run("tc", &[&["-n", namespace], words].concat()).map(|_| ())
}

fn run(program: &'static str, words: &[&str]) -> Result<String, Error> {
    let done = Command::new(program).args(words).stdin(Stdio::null()).output();
    let done = done.map_err(|source| Error::Run { program, source })?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        return Err(Error::Failed { program, words: words.join(" "), said });
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
