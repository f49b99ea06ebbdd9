//! What the proxy answers itself: its own settings, refusals, and the remains of a transaction whose server connection was lost.

use super::simple::server_text;
use super::translate::Target;
use super::{Expect, LostTransaction, Script, Session, Tools, Violation};
use crate::core::commands::{self, Change, Command, Form, Shown};
use crate::core::vars::literal;
use crate::sql::{Classified, Kind, Scope};
use crate::wire::TxStatus;
use crate::wire::buffer::Buffer;
use crate::wire::build::{self, Report, Severity};
use crate::wire::frame;
use howdah_protocol::sqlstate;
use std::sync::Arc;

const IN_FAILED_TRANSACTION: &str = "25P02";

impl Session {
    /// Runs a command of the proxy's own and queues its answer.
    pub(super) fn run(&mut self, command: Command, described: bool) {
        match command {
            Command::Show(shown) => {
                let value = self.show(shown);
                self.reply_row(described.then_some(shown.name()), &value, "SHOW");
            }
            Command::Change { change, scope, form } => {
                let value = self.change(change, scope);
                match form {
                    Form::Set => self.reply_bytes(|out| build::command_complete(out, "SET")),
                    Form::Reset => self.reply_bytes(|out| build::command_complete(out, "RESET")),
                    Form::Call => self.reply_row(described.then_some("set_config"), &value, "SELECT 1"),
                }
            }
            Command::Refuse(report) => self.reply_bytes(|out| build::error(out, Severity::Error, &report)),
        }
    }

    fn reply_row(&mut self, column: Option<&str>, value: &str, tag: &str) {
        self.reply_bytes(|out| {
            if let Some(column) = column {
                build::text_column(out, column);
            }
            build::text_row(out, value);
            build::command_complete(out, tag);
        });
    }

    fn show(&self, shown: Shown) -> String {
        match shown {
            Shown::Consistency => self.vars.consistency().to_string(),
            Shown::Replication => self.vars.replication().to_string(),
            Shown::Token => self.positions.token.to_string(),
            Shown::ServedBy => self.served_by.map(|serving| serving.node.to_string()).unwrap_or_default(),
            Shown::Route => self.route.to_owned(),
            Shown::Pin => self.pins.to_string(),
        }
    }

    /// Applies a change and returns the value that is in force afterwards.
    pub(super) fn change(&mut self, change: Change, scope: Scope) -> String {
        match change {
            Change::Consistency(value) => {
                let value = value.unwrap_or(self.vars.initial_consistency());
                self.vars.change(|now| match scope {
                    Scope::Local => now.local_consistency = Some(value),
                    Scope::Session => (now.consistency, now.local_consistency) = (value, None),
                });
                value.to_string()
            }
            Change::Replication(value) => {
                let value = value.unwrap_or(self.vars.initial_replication());
                self.vars.change(|now| match scope {
                    Scope::Local => now.local_replication = Some(value),
                    Scope::Session => {
                        now.set_replication(value);
                        now.local_replication = None;
                    }
                });
                value.to_string()
            }
            Change::Token(value) => {
                if let Some(value) = value {
                    self.positions.token.merge(&value);
                }
                self.positions.token.to_string()
            }
        }
    }

    /// Executes a statement that [`Self::run`] or the proxy's own books answer.
    pub(super) fn execute_own(&mut self, class: &Classified, target: &mut Target<'_>) {
        let Some(one) = class.only() else { return };
        match commands::command(&one.kind) {
            Some(command) => {
                // In a transaction the server must have it at once.
                if let Some(sql) = server_text(&command).filter(|_| self.unit.block && target.server.is_some()) {
                    self.run_hidden(&sql, target);
                }
                self.run(command, false);
            }
            None => {
                self.deallocate(&one.kind);
            }
        }
    }

    pub(super) fn describe_own(&mut self, class: &Classified, statement: bool) {
        let column = class.only().and_then(|one| match commands::command(&one.kind) {
            Some(Command::Show(shown)) => Some(shown.name()),
            Some(Command::Change { form: Form::Call, .. }) => Some("set_config"),
            _ => None,
        });
        self.reply_bytes(|out| {
            if statement {
                build::no_parameters(out);
            }
            match column {
                Some(column) => build::text_column(out, column),
                None => build::empty(out, b'n'),
            }
        });
    }

    /// DEALLOCATE of protocol-level statements as a simple query.
    pub(super) fn deallocate_query(&mut self, class: &Classified) {
        if let Some(one) = class.only() {
            self.deallocate(&one.kind);
        }
    }

    fn deallocate(&mut self, kind: &Kind) {
        let tag = if let Kind::Deallocate(Some(name)) = kind {
            self.statements.remove(name.as_bytes());
            "DEALLOCATE"
        } else {
            self.statements.clear();
            "DEALLOCATE ALL"
        };
        self.reply_bytes(|out| build::command_complete(out, tag));
    }

    /// Why a prepared text is not taken.
    pub(super) fn refused(&self, class: &Classified) -> Option<Report> {
        if let Some(Err(bad)) = &class.hint {
            return Some(commands::bad_value(bad));
        }
        class.statements.iter().find_map(|one| match commands::command(&one.kind) {
            Some(Command::Refuse(report)) => Some(report),
            _ => None,
        })
    }

    /// Fails the unit. With a server attached the server itself must fail, so that its transaction does.
    pub(super) fn fail(&mut self, report: &Report, target: &mut Target<'_>) {
        if target.server.is_some() && self.lost.is_none() {
            return self.fail_on_server(report, target);
        }
        self.reply_bytes(|out| build::error(out, Severity::Error, report));
        if self.lost.is_some() {
            self.status = TxStatus::Failed;
            self.lost = Some(LostTransaction { told: true });
        }
        self.give_up();
    }

    /// The rest of the unit counts for nothing.
    fn give_up(&mut self) {
        self.vars.rollback();
        if self.unit.simple {
            self.finish_local();
        } else {
            self.skipping = true;
            // An error leaves at once, also where no Sync follows: the client may wait for it.
            self.unit.held = false;
        }
    }

    fn fail_on_server(&mut self, report: &Report, target: &mut Target<'_>) {
        let sql = raise(report);
        let class = target.tools.classify(sql.as_bytes());
        if let Some(server) = target.server.as_deref_mut() {
            server.unnamed = None;
        }
        if self.unit.simple {
            build::query(target.out, &sql);
            self.queue.push_back(Expect::Query(Script { class, at: 0, hidden: false, captures: false }));
            return;
        }
        let body = [sql.as_bytes(), &[0, 0, 0]].concat();
        let statement = target.tools.interner().unnamed(&body, class);
        statement.write_parse(target.out);
        build::bind(target.out, "", "");
        build::execute(target.out, "");
        self.queue.push_back(Expect::Parse { statement, shown: false });
        self.queue.push_back(Expect::Bind { shown: false });
        self.queue.push_back(Expect::HiddenExecute);
        self.skipping = true;
    }

    /// Part of the unit needs a server, and another part keeps it from getting one.
    pub(super) fn refuse_without_server(&mut self, target: &mut Target<'_>) {
        let report = Report::new(sqlstate::FEATURE_NOT_SUPPORTED, "not run: another statement of the same pipeline is refused")
            .hint("Send a Sync between the statements to see which one.");
        self.fail(&report, target);
    }

    /// No server can run the unit at the front of `input`: the client is told, and the rest of the unit counts for nothing.
    pub(crate) fn refuse_unit(&mut self, report: &Report, input: &mut Buffer, tools: &Tools) -> Result<(), Violation> {
        let Some((header, _)) = frame::message(input.fresh(), self.message_bytes_max)? else { return Ok(()) };
        let simple = matches!(header.kind, b'Q' | b'F');
        self.begin_unit(simple);
        build::error(&mut self.out, Severity::Error, report);
        if simple {
            input.skip(header.total);
            build::ready(&mut self.out, self.status);
            self.end_unit(self.status);
            return Ok(());
        }
        self.skipping = true;
        self.unit.held = false;
        self.translate(None, input, &mut Vec::new(), tools)?;
        self.drain_replies(None);
        input.release_kept();
        Ok(())
    }

    /// A simple query while the transaction's server connection is lost.
    pub(super) fn answer_lost_query(&mut self, class: &Arc<Classified>) {
        self.execute_lost(class);
        self.finish_local();
        self.skipping = false;
    }

    /// Why this cannot be run, or prepared, any more: the transaction's server connection is lost. `None` for what ends it without an error.
    fn refused_as_lost(&self, class: &Classified) -> Option<Report> {
        let lost = self.lost?;
        match class.only().map(|one| &one.kind) {
            Some(Kind::Rollback { .. }) => None,
            Some(Kind::Commit { .. }) if lost.told => None,
            _ if lost.told => {
                Some(Report::new(IN_FAILED_TRANSACTION, "current transaction is aborted, commands ignored until end of transaction block"))
            }
            _ => Some(transaction_lost()),
        }
    }

    /// Why this cannot be prepared any more: only a server could tell its parameters and columns. The end of a block has none.
    pub(super) fn unpreparable(&self, class: &Classified) -> Option<Report> {
        let ends_block = matches!(class.only().map(|one| &one.kind), Some(Kind::Commit { .. } | Kind::Rollback { .. }));
        self.refused_as_lost(class).filter(|_| !ends_block)
    }

    /// What PostgreSQL would answer in a transaction that failed with 40001.
    pub(super) fn execute_lost(&mut self, class: &Classified) {
        if self.lost.is_none() {
            return;
        }
        let report = self.refused_as_lost(class);
        let ends = class.only().map(|one| &one.kind);
        let over = matches!(ends, Some(Kind::Rollback { .. } | Kind::Commit { .. }));
        self.lost = (!over).then_some(LostTransaction { told: true });
        self.status = if over { TxStatus::Idle } else { TxStatus::Failed };
        if let Some(report) = report {
            self.reply_bytes(|out| build::error(out, Severity::Error, &report));
            self.skipping = !self.unit.simple;
        } else {
            self.reply_bytes(|out| build::command_complete(out, "ROLLBACK"));
        }
    }
}

pub(super) fn transaction_lost() -> Report {
    Report::new(sqlstate::SERIALIZATION_FAILURE, "the transaction was rolled back: its server connection was lost")
        .hint("Run the transaction again. This connection can be used for it.")
}

/// A statement that fails with this report.
fn raise(report: &Report) -> String {
    let mut sql = String::from("DO $howdah$BEGIN RAISE EXCEPTION USING ERRCODE=");
    // The mark that ends the body must not come from a client's text.
    let mut text = |name: &str, value: &str| {
        sql.push_str(name);
        literal(&mut sql, &value.replace('$', "?"));
    };
    text("", &report.code);
    text(",MESSAGE=", &report.message);
    if let Some(hint) = &report.hint {
        text(",HINT=", hint);
    }
    sql.push_str(";END$howdah$");
    sql
}
