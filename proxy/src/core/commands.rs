//! Statements that the proxy answers itself: SET, RESET and SHOW of `howdah.*`, and the settings that no client may change.

use crate::sql::{Kind, Scope, SetValue};
use crate::wire::build::Report;
use howdah_protocol::consistency::BadValue;
use howdah_protocol::{Consistency, Replication, Token, settings, sqlstate};

pub(crate) const CONSISTENCY: &str = "howdah.consistency";
pub(crate) const REPLICATION: &str = "howdah.replication";
pub(crate) const TOKEN: &str = "howdah.token";
const SERVED_BY: &str = "howdah.served_by";
const ROUTE: &str = "howdah.route";
const PIN: &str = "howdah.pin";

/// Settings of the server that the commit gate and the replicas depend on.
pub(crate) const PROTECTED: [&str; 4] =
    ["synchronous_commit", "synchronous_standby_names", "session_replication_role", "default_transaction_read_only"];

const CLIENT_MIN_MESSAGES: &str = "client_min_messages";

const KNOWN: &str = "howdah.consistency, howdah.replication, howdah.token, howdah.served_by, howdah.route, howdah.pin";

/// A setting that SHOW knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    Consistency,
    Replication,
    Token,
    ServedBy,
    Route,
    Pin,
}

impl Shown {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Consistency => CONSISTENCY,
            Self::Replication => REPLICATION,
            Self::Token => TOKEN,
            Self::ServedBy => SERVED_BY,
            Self::Route => ROUTE,
            Self::Pin => PIN,
        }
    }
}

/// How the client wants the change answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// SET: a command tag.
    Set,
    Reset,
    /// `SELECT set_config(...)`: a row.
    Call,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// None: back to the value at the start of the session.
    Consistency(Option<Consistency>),
    Replication(Option<Replication>),
    /// Merged into the session's; None changes nothing, since positions only go forward.
    Token(Option<Token>),
}

/// What the proxy makes of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Show(Shown),
    Change { change: Change, scope: Scope, form: Form },
    Refuse(Report),
}

/// The proxy's own part in a statement; `None` when the servers run it.
pub(crate) fn command(kind: &Kind) -> Option<Command> {
    match kind {
        Kind::Show(name) => Some(own(name)?.map_or_else(Command::Refuse, Command::Show)),
        Kind::Reset(name) => set(name, None, Scope::Session, Form::Reset),
        Kind::Set { scope, name, value } => match value {
            SetValue::Default => set(name, None, *scope, Form::Set),
            SetValue::Text(text) => set(name, Some(text), *scope, Form::Set),
            SetValue::Opaque => set(name, Some("?"), *scope, Form::Set),
        },
        Kind::SetConfig { scope, name, value } => set(name, Some(value), *scope, Form::Call),
        Kind::Refused(why) => Some(Command::Refuse(Report::new(sqlstate::FEATURE_NOT_SUPPORTED, why.reason()).hint(why.hint()))),
        _ => None,
    }
}

fn set(name: &str, value: Option<&str>, scope: Scope, form: Form) -> Option<Command> {
    let lower = name.to_ascii_lowercase();
    if value.is_some_and(|value| hides_warnings(&lower, value)) {
        return Some(Command::Refuse(protected(&lower)));
    }
    if PROTECTED.contains(&lower.as_str()) {
        // A reset goes back to what the proxy or the server set.
        let harmless = form == Form::Reset || (lower == "default_transaction_read_only" && value.is_none_or(is_on));
        return (!harmless).then(|| Command::Refuse(protected(&lower)));
    }
    let change = match own(&lower)? {
        Ok(Shown::Consistency) => value.map(str::parse).transpose().map(Change::Consistency).map_err(|bad| bad_value(&bad)),
        Ok(Shown::Replication) => value.map(str::parse).transpose().map(Change::Replication).map_err(|bad| bad_value(&bad)),
        Ok(Shown::Token) => value.map(parse_token).transpose().map(Change::Token),
        Ok(Shown::ServedBy | Shown::Route | Shown::Pin) => Err(not_settable(&lower)),
        Err(unknown) => Err(unknown),
    };
    Some(change.map_or_else(Command::Refuse, |change| Command::Change { change, scope, form }))
}

/// True for a value with which `default_transaction_read_only` makes a session stricter, never freer.
fn is_on(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "on" | "true" | "yes" | "1")
}

/// None for a name that is not Howdah's.
fn own(name: &str) -> Option<Result<Shown, Report>> {
    let lower = name.to_ascii_lowercase();
    if !lower.starts_with(settings::SETTING_PREFIX) {
        return None;
    }
    let all = [Shown::Consistency, Shown::Replication, Shown::Token, Shown::ServedBy, Shown::Route, Shown::Pin];
    Some(all.into_iter().find(|one| one.name() == lower).ok_or_else(|| unknown(&lower)))
}

fn unknown(name: &str) -> Report {
    Report::new(sqlstate::UNDEFINED_OBJECT, format!("unrecognized configuration parameter \"{name}\"")).hint(format!("Known are: {KNOWN}."))
}

/// The setting is read-only or does not exist.
pub(crate) fn not_settable(name: &str) -> Report {
    match own(name) {
        Some(Ok(_)) => Report::new(sqlstate::CANT_CHANGE_RUNTIME_PARAM, format!("parameter \"{name}\" cannot be changed"))
            .hint("It tells what the proxy did; use SHOW."),
        _ => unknown(name),
    }
}

pub(crate) fn bad_value(bad: &BadValue) -> Report {
    Report::new(sqlstate::INVALID_PARAMETER_VALUE, bad.to_string()).hint(format!("Allowed are: {}.", bad.allowed))
}

pub(crate) fn parse_token(text: &str) -> Result<Token, Report> {
    text.parse().map_err(|bad: howdah_protocol::token::BadToken| {
        Report::new(sqlstate::INVALID_PARAMETER_VALUE, format!("invalid value for {TOKEN}: {bad}"))
            .hint("Allowed is the text that SHOW howdah.token gives, such as h1:0=4711.")
    })
}

pub(crate) fn protected(name: &str) -> Report {
    let report = Report::new(sqlstate::FEATURE_NOT_SUPPORTED, format!("parameter \"{name}\" cannot be changed through Howdah"));
    match name {
        "synchronous_commit" => report.hint("Use howdah.replication: sync (the default) or async."),
        "default_transaction_read_only" => report.hint("Use BEGIN READ ONLY or BEGIN READ WRITE."),
        CLIENT_MIN_MESSAGES => report.hint("Up to warning it can. A COMMIT whose wait was cut short says so by a warning."),
        _ => report.hint("The replication of commits depends on it."),
    }
}

/// The server would not say that it ended a COMMIT's wait early (`SyncRepWaitForLSN`), and the COMMIT would pass for decided.
pub(crate) fn hides_warnings(name: &str, value: &str) -> bool {
    let told = ["debug5", "debug4", "debug3", "debug2", "debug1", "debug", "log", "notice", "warning"];
    name == CLIENT_MIN_MESSAGES && !told.iter().any(|level| level.eq_ignore_ascii_case(value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::classify;

    fn of(sql: &str) -> Option<Command> {
        command(&classify(sql).only().expect("one statement").kind)
    }

    fn refusal(sql: &str) -> Report {
        match of(sql) {
            Some(Command::Refuse(report)) => report,
            other => panic!("{sql}: {other:?}"),
        }
    }

    #[test]
    fn own_settings_are_set_reset_and_shown() {
        let change = |change, scope, form| Some(Command::Change { change, scope, form });
        let eventual = Change::Consistency(Some(Consistency::Eventual));
        assert_eq!(of("SET howdah.consistency = 'eventual'"), change(eventual.clone(), Scope::Session, Form::Set));
        assert_eq!(of("SET LOCAL howdah.consistency TO eventual"), change(eventual.clone(), Scope::Local, Form::Set));
        assert_eq!(of("RESET howdah.consistency"), change(Change::Consistency(None), Scope::Session, Form::Reset));
        assert_eq!(of("SELECT set_config('howdah.consistency', 'eventual', false)"), change(eventual, Scope::Session, Form::Call));
        assert_eq!(of("SET howdah.replication TO async"), change(Change::Replication(Some(Replication::Async)), Scope::Session, Form::Set));
        assert_eq!(of("SHOW howdah.token"), Some(Command::Show(Shown::Token)));
        for plain in ["SET work_mem = '1MB'", "SHOW work_mem", "RESET work_mem", "SELECT 1"] {
            assert_eq!(of(plain), None, "{plain}");
        }
    }

    #[test]
    fn refusals_have_a_code_and_a_hint() {
        for (sql, code, hint) in [
            ("SET howdah.consistency = 'strong'", "22023", "linearizable"),
            ("SET howdah.replication = 'all'", "22023", "async"),
            ("SET howdah.token = 'x'", "22023", "h1:"),
            ("SET howdah.nope = 1", "42704", "howdah.consistency"),
            ("SHOW howdah.nope", "42704", "howdah.pin"),
            ("SET howdah.served_by = 1", "55P02", "SHOW"),
            ("SET synchronous_commit = off", "0A000", "howdah.replication"),
            ("SELECT set_config('synchronous_commit', 'off', false)", "0A000", "howdah.replication"),
            ("SET session_replication_role = replica", "0A000", "replication"),
            ("SET default_transaction_read_only = off", "0A000", "BEGIN"),
            ("SET client_min_messages = error", "0A000", "warning"),
            ("SET LOCAL client_min_messages TO PANIC", "0A000", "warning"),
            ("SELECT set_config('Client_Min_Messages', 'fatal', true)", "0A000", "warning"),
            ("CREATE DATABASE x", "0A000", "schema"),
        ] {
            let report = refusal(sql);
            assert_eq!(report.code, code, "{sql}");
            assert!(report.hint.as_deref().is_some_and(|text| text.contains(hint)), "{sql}: {report:?}");
        }
    }

    #[test]
    fn messages_may_be_kept_away_up_to_warnings() {
        for sql in [
            "SET client_min_messages = warning",
            "SET client_min_messages TO 'Debug1'",
            "SET client_min_messages TO DEFAULT",
            "RESET client_min_messages",
        ] {
            assert!(of(sql).is_none(), "{sql}");
        }
    }
}
