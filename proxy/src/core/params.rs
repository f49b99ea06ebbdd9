//! Startup parameters: which are Howdah's, which go to the servers, which are refused.
//!
//! A server connection is opened with its client's parameters, so that RESET goes back to what the client asked for; connections are
//! shared between clients of equal parameters.

use super::commands::{self, PROTECTED};
use crate::wire::build::Report;
use howdah_protocol::{Consistency, Replication, Token, settings, sqlstate};

/// What a client asked for when it connected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Startup {
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) consistency: Consistency,
    pub(crate) replication: Replication,
    pub(crate) token: Token,
    pub(crate) server: ServerParameters,
}

/// What a server connection is opened with besides user and database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct ServerParameters {
    /// Sorted by name.
    pub(crate) pairs: Vec<(String, String)>,
    /// `-c name=value` settings of the `options` parameter, in order, without Howdah's.
    pub(crate) options: Vec<(String, String)>,
}

impl ServerParameters {
    /// The `options` parameter for a server.
    pub(crate) fn options_text(&self, read_only: bool) -> String {
        let mut text = String::new();
        for (name, value) in &self.options {
            push_option(&mut text, name, value);
        }
        push_option(&mut text, "default_transaction_read_only", if read_only { "on" } else { "off" });
        text
    }
}

fn push_option(text: &mut String, name: &str, value: &str) {
    if !text.is_empty() {
        text.push(' ');
    }
    text.push_str("-c ");
    for letter in name.chars().chain(['=']).chain(value.chars()) {
        if letter == '\\' || letter.is_ascii_whitespace() {
            text.push('\\');
        }
        text.push(letter);
    }
}

/// Reads the parameters of a startup packet.
pub(crate) fn read(parameters: Vec<(String, String)>) -> Result<Startup, Report> {
    let mut startup = Startup::default();
    for (name, value) in parameters {
        match name.as_str() {
            "user" => startup.user = value,
            "database" => startup.database = value,
            "replication" if is_false(&value) => {}
            "replication" => {
                return Err(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, "replication connections do not go through the proxy")
                    .hint("Connect to the server directly."));
            }
            "options" => {
                for (name, value) in split_options(&value)? {
                    startup.setting(name, value, true)?;
                }
            }
            _ => startup.setting(name, value, false)?,
        }
    }
    if startup.user.is_empty() {
        return Err(Report::new(sqlstate::INVALID_AUTHORIZATION, "no PostgreSQL user name specified in startup packet"));
    }
    if startup.database.is_empty() {
        startup.database.clone_from(&startup.user);
    }
    startup.server.pairs.sort();
    Ok(startup)
}

impl Startup {
    fn setting(&mut self, name: String, value: String, option: bool) -> Result<(), Report> {
        let lower = name.to_ascii_lowercase();
        if lower.starts_with(settings::SETTING_PREFIX) {
            match lower.as_str() {
                commands::CONSISTENCY => self.consistency = value.parse().map_err(|bad| commands::bad_value(&bad))?,
                commands::REPLICATION => self.replication = value.parse().map_err(|bad| commands::bad_value(&bad))?,
                commands::TOKEN => self.token = commands::parse_token(&value)?,
                _ => return Err(commands::not_settable(&lower)),
            }
        } else if PROTECTED.contains(&lower.as_str()) || commands::hides_warnings(&lower, &value) {
            return Err(commands::protected(&lower));
        } else if option {
            self.server.options.push((name, value));
        } else {
            self.server.pairs.push((name, value));
        }
        Ok(())
    }
}

fn is_false(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "false" | "off" | "no" | "0" | "f" | "n")
}

/// `-c name=value`, `-cname=value` and `--name=value`, separated by white space; a backslash takes the next character as it is.
fn split_options(text: &str) -> Result<Vec<(String, String)>, Report> {
    let bad = |word: &str| {
        Report::new(sqlstate::INVALID_PARAMETER_VALUE, format!("invalid command-line argument in \"options\": {word}"))
            .hint("Only settings are taken: -c name=value or --name=value.")
    };
    let mut words = split_words(text).into_iter();
    let mut settings = Vec::new();
    while let Some(word) = words.next() {
        let setting = if word == "-c" {
            words.next().ok_or_else(|| bad(&word))?
        } else {
            word.strip_prefix("--").or_else(|| word.strip_prefix("-c")).ok_or_else(|| bad(&word))?.to_owned()
        };
        let (name, value) = setting.split_once('=').ok_or_else(|| bad(&setting))?;
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter.is_ascii_whitespace() {
            words.extend(word.take());
            continue;
        }
        let taken = if letter == '\\' { letters.next() } else { Some(letter) };
        word.get_or_insert_default().extend(taken);
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn settings_are_told_apart() {
        let startup = read(pairs(&[
            ("user", "ann"),
            ("options", r"-c howdah.consistency=eventual --work-mem=1MB -cmyapp.x=a\ b\\"),
            ("application_name", "psql"),
            ("Howdah.Replication", "async"),
        ]))
        .expect("valid");
        assert_eq!((startup.user.as_str(), startup.database.as_str()), ("ann", "ann"));
        assert_eq!((startup.consistency, startup.replication), (Consistency::Eventual, Replication::Async));
        assert_eq!(startup.server.pairs, pairs(&[("application_name", "psql")]));
        assert_eq!(startup.server.options, pairs(&[("work_mem", "1MB"), ("myapp.x", r"a b\")]));
        assert_eq!(startup.server.options_text(true), r"-c work_mem=1MB -c myapp.x=a\ b\\ -c default_transaction_read_only=on");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let code = |list: &[(&str, &str)]| read(pairs(list)).expect_err("refused").code;
        assert_eq!(code(&[]), "28000");
        assert_eq!(code(&[("user", "a"), ("replication", "database")]), "0A000");
        assert_eq!(code(&[("user", "a"), ("options", "-c howdah.consistency=strong")]), "22023");
        assert_eq!(code(&[("user", "a"), ("options", "-c howdah.nope=1")]), "42704");
        assert_eq!(code(&[("user", "a"), ("options", "-c howdah.served_by=1")]), "55P02");
        assert_eq!(code(&[("user", "a"), ("options", "-c synchronous_commit=off")]), "0A000");
        assert_eq!(code(&[("user", "a"), ("synchronous_commit", "off")]), "0A000");
        assert_eq!(code(&[("user", "a"), ("options", "-F")]), "22023");
        assert_eq!(code(&[("user", "a"), ("options", "-c work_mem")]), "22023");
        assert!(read(pairs(&[("user", "a"), ("replication", "off")])).is_ok());
    }
}
