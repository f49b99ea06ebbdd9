//! Are the settings for PostgreSQL ones that it takes? Asked before anything is written: a data directory is made with them.
//!
//! PostgreSQL itself is asked, once per setting: a server that is told its settings by arguments judges their names and values before it looks for
//! its data directory, and there is none where it is sent. What it says in the end, refusal or missing folder, is told apart by its exit code. It
//! has written nothing by then.
//!
//! Not judged: what only shows when a server starts, such as a library that is not there or memory that the machine does not have.

use super::{Error, Options};
use crate::postgres::{self, Account};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// It takes milliseconds.
const TIMEOUT: Duration = Duration::from_secs(20);
/// No folder, on any system.
const NOWHERE: &str = "/dev/null/howdah";
/// Of a server that ends with FATAL. Where it misses its folder, it ends with 2.
const EXIT_FATAL: i32 = 1;

pub(crate) async fn check(options: &Options) -> Result<(), Error> {
    if options.settings.is_empty() {
        return Ok(());
    }
    let account = postgres::account(&options.os_user)?;
    let program = options.pg_bin_dir.join("postgres");
    for (name, value) in &options.settings {
        let refused = |why: String| Err(Error::Setting { name: name.clone(), value: value.clone(), why });
        if let Some(why) = refused_by_howdah(name, value) {
            return refused(why.to_owned());
        }
        if let Some(why) = refused_by_postgres(&program, account, name, value).await? {
            return refused(why);
        }
    }
    Ok(())
}

/// What the file of settings has no place for, and what is not the operator's to set.
fn refused_by_howdah(name: &str, value: &str) -> Option<&'static str> {
    if howdah_protocol::settings::is_fixed(name) {
        return Some("Howdah sets this one itself; leave it out");
    }
    let word = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$')
    };
    let parts: Vec<&str> = name.split('.').collect();
    if parts.len() > 2 || !parts.into_iter().all(word) {
        return Some("this is no name of a setting; expected a name such as work_mem or auto_explain.log_analyze");
    }
    value.contains(['\n', '\r', '\0']).then_some("a value is one line")
}

async fn refused_by_postgres(program: &Path, account: Option<Account>, name: &str, value: &str) -> Result<Option<String>, Error> {
    let mut command = Command::new(program);
    command.args(["-D", NOWHERE, "-c"]).arg(format!("{name}={value}")).env("LC_ALL", "C").env_remove("PGDATA");
    // Its user may not be able to enter the folder that this process is in.
    command.current_dir("/").stdin(Stdio::null()).kill_on_drop(true);
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid);
    }
    let what = format!("asking {} whether it knows {name}", program.display());
    let Ok(output) = tokio::time::timeout(TIMEOUT, command.output()).await else {
        return Err(Error::TimedOut { what: format!("the end of {what}"), after: TIMEOUT, detail: String::new() });
    };
    let output = output.map_err(Error::io(what))?;
    if output.status.code() != Some(EXIT_FATAL) {
        return Ok(None);
    }
    Ok(Some(in_a_sentence(&String::from_utf8_lossy(&output.stderr))))
}

/// The refusal without the prefix of a line in a log, and its hint.
fn in_a_sentence(said: &str) -> String {
    let part = |level: &str| said.lines().find_map(|line| Some(line.split_once(level)?.1.trim().trim_end_matches('.')));
    let fatal = part("FATAL:").unwrap_or_else(|| said.trim());
    match part("HINT:").or_else(|| part("DETAIL:")) {
        Some(hint) => format!("{fatal} ({hint})"),
        None => fatal.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_becomes_one_sentence() {
        let said = "2026-11-23 21:27:40 GMT [7] FATAL:  invalid value for parameter \"wal_level\": \"foo\"\n\
                    2026-11-23 21:27:40 GMT [7] HINT:  Available values: minimal, replica, logical.\n";
        assert_eq!(in_a_sentence(said), "invalid value for parameter \"wal_level\": \"foo\" (Available values: minimal, replica, logical)");
        assert_eq!(in_a_sentence("FATAL:  no\n"), "no");
        assert_eq!(in_a_sentence("something else\n"), "something else");
    }

    #[test]
    fn names_that_the_file_cannot_hold_are_refused() {
        for (name, value, expected) in [
            ("work-mem", "1MB", "no name"),
            ("work_mem ", "1MB", "no name"),
            ("1a", "1", "no name"),
            ("a.b.c", "1", "no name"),
            (".a", "1", "no name"),
            ("work_mem", "1MB\nfsync = off", "one line"),
            ("FSync", "off", "itself"),
            ("port", "1", "itself"),
        ] {
            assert!(refused_by_howdah(name, value).is_some_and(|why| why.contains(expected)), "{name}");
        }
        for name in ["work_mem", "auto_explain.log_analyze", "_x$.y1"] {
            assert_eq!(refused_by_howdah(name, "x"), None, "{name}");
        }
    }
}
