//! The simple protocol: one text, many statements.

use super::translate::{Flow, Target, asks_token};
use super::{Expect, Script, Session, Violation};
use crate::core::commands::{self, Change, Command, Form};
use crate::core::vars::SYNCHRONOUS_COMMIT;
use crate::sql::{Classified, Kind, Scope};
use crate::wire::build::{self, Report};
use crate::wire::read;
use howdah_protocol::{Replication, sqlstate};
use std::sync::Arc;

/// Puts the state of roles into the log, in the transaction that changed it: no event trigger sees them.
pub(super) const CAPTURE_ROLES: &str = "SELECT howdah.capture_roles()";

impl Session {
    pub(super) fn query(&mut self, body: &[u8], target: &mut Target<'_>) -> Result<Flow, Violation> {
        let text = read::whole_cstr(body).ok_or(Violation::Format('Q'))?;
        let class = target.tools.classify(text);
        if self.positions.is_open() && asks_token(&class) {
            return Ok(Flow::Token);
        }
        self.begin_or_join_unit();
        if self.lost.is_some() {
            self.answer_lost_query(&class);
            return Ok(Flow::Done);
        }
        let on_follower = target.server.as_deref().is_some_and(|server| server.read_only);
        if let Some(report) = refusal(&class).or_else(|| write_mode(&class, on_follower)) {
            self.fail(&report, target);
            return Ok(Flow::Done);
        }
        if self.is_local(&class) {
            self.deallocate_query(&class);
            self.finish_own(target);
            return Ok(Flow::Done);
        }
        self.note(&class);
        let own = self.leading_commands(&class, target);
        if own > 0 && own == class.statements.len() {
            self.finish_own(target);
            return Ok(Flow::Done);
        }
        if target.server.is_none() {
            self.refuse_without_server(target);
            return Ok(Flow::Done);
        }
        self.ask_before_query(&class, target);
        self.send_query(text, class, own, target);
        Ok(Flow::Done)
    }

    /// Answers the statements at the front that are the proxy's own; returns how many.
    fn leading_commands(&mut self, class: &Classified, target: &mut Target<'_>) -> usize {
        // What came before a Query without a Sync is a transaction, too.
        let in_block = self.unit.block || self.unit.joined;
        let mut own = 0;
        for statement in &class.statements {
            let Some(command) = commands::command(&statement.kind) else { break };
            // In a transaction the server must have it now.
            if in_block && target.server.is_some() && server_text(&command).is_some() {
                break;
            }
            self.run(command, true);
            own += 1;
        }
        own
    }

    fn send_query(&mut self, text: &[u8], class: Arc<Classified>, from: usize, target: &mut Target<'_>) {
        let captures = class.statements.iter().any(|one| matches!(one.kind, Kind::GlobalDdl));
        let first = class.statements.get(from).and_then(|one| commands::command(&one.kind));
        if let Some(server) = target.server.as_deref_mut() {
            // A simple query takes the unnamed statement away.
            server.unnamed = None;
        }
        if let Some(rewritten) = first.as_ref().and_then(server_text) {
            build::query(target.out, &rewritten);
        } else if captures {
            build::query(target.out, &with_captures(text, &class, from));
        } else {
            let start = if from == 0 { 0 } else { class.statements[from].range.start };
            build::message(target.out, b'Q', |out| {
                out.extend_from_slice(&text[start..]);
                out.push(0);
            });
        }
        self.queue.push_back(Expect::Query(Script { class, at: from, hidden: false, captures }));
    }

    /// Ends a unit whose Query the proxy answered by itself. What a server has of the unit must end there as well, unless it fails before:
    /// an empty Query does that, and is ignored where the client's would be.
    fn finish_own(&mut self, target: &mut Target<'_>) {
        self.statements.remove(b"");
        let Some(server) = target.server.as_deref_mut().filter(|_| self.unit.joined) else { return self.finish_local() };
        server.unnamed = None;
        build::query(target.out, "");
        let class = target.tools.classify(b"");
        self.queue.push_back(Expect::Query(Script { class, at: 0, hidden: true, captures: false }));
    }

    /// A Query that ran took the unnamed statement away, and the unnamed portal where it was not empty.
    pub(super) fn forget_unnamed(&mut self, class: &Classified) {
        self.statements.remove(b"");
        if class.parse_error || !class.statements.is_empty() {
            self.portals.remove(b"");
        }
    }

    /// Ends a unit that no server takes part in.
    pub(super) fn finish_local(&mut self) {
        let status = self.status;
        self.reply_bytes(|out| build::ready(out, status));
        self.end_unit(status);
    }
}

/// Why the text is not run at all.
fn refusal(class: &Classified) -> Option<Report> {
    if let Some(Err(bad)) = &class.hint {
        return Some(commands::bad_value(bad));
    }
    let mut foreign = false;
    for statement in &class.statements {
        match commands::command(&statement.kind) {
            Some(Command::Refuse(report)) => return Some(report),
            Some(_) if foreign => {
                return Some(
                    Report::new(sqlstate::FEATURE_NOT_SUPPORTED, "howdah settings must come before other statements in one query")
                        .hint("Send the statement on its own."),
                );
            }
            Some(Command::Change { change: Change::Replication(_), .. }) if class.statements.len() > 1 => {
                return Some(
                    Report::new(sqlstate::FEATURE_NOT_SUPPORTED, "howdah.replication cannot be set among other statements in one query")
                        .hint("Send the statement on its own."),
                );
            }
            Some(_) => {}
            None => foreign = true,
        }
    }
    None
}

/// On a follower a transaction stays read only: a commit there would wait for ever.
pub(super) fn write_mode(class: &Classified, on_follower: bool) -> Option<Report> {
    let name_is = |name: &str| name == "transaction_read_only";
    let writes = |one: &crate::sql::Statement| match &one.kind {
        Kind::Begin(begin) | Kind::SetTransaction { begin, .. } => begin.read_only == Some(false),
        Kind::Set { name, .. } | Kind::SetConfig { name, .. } | Kind::Reset(name) => name_is(name),
        Kind::ResetAll => true,
        _ => false,
    };
    (on_follower && class.statements.iter().any(writes)).then(|| {
        Report::new(sqlstate::FEATURE_NOT_SUPPORTED, "cannot leave read-only mode in a transaction that runs on a follower")
            .hint("Begin the transaction without READ ONLY.")
    })
}

/// What a server must run for this command, when it must be in force at once.
pub(super) fn server_text(command: &Command) -> Option<String> {
    let Command::Change { change: Change::Replication(replication), scope, form } = command else { return None };
    let local = match scope {
        Scope::Local => "LOCAL ",
        Scope::Session => "",
    };
    let value = replication.map(Replication::synchronous_commit);
    Some(match (form, value) {
        (Form::Reset, _) => format!("RESET {SYNCHRONOUS_COMMIT}"),
        (_, None) => format!("SET {local}{SYNCHRONOUS_COMMIT} TO DEFAULT"),
        (Form::Set, Some(value)) => format!("SET {local}{SYNCHRONOUS_COMMIT} TO {value}"),
        (Form::Call, Some(value)) => {
            let is_local = *scope == Scope::Local;
            format!("SELECT pg_catalog.set_config('{SYNCHRONOUS_COMMIT}', '{value}', {is_local})")
        }
    })
}

/// The text with a capture of roles after each statement that may change them.
fn with_captures(text: &[u8], class: &Classified, from: usize) -> String {
    let mut sql = String::new();
    for statement in &class.statements[from..] {
        sql.push_str(&String::from_utf8_lossy(&text[statement.range.clone()]));
        if matches!(statement.kind, Kind::GlobalDdl) {
            sql.push_str("\n;");
            sql.push_str(CAPTURE_ROLES);
        }
        sql.push_str("\n;");
    }
    sql
}
