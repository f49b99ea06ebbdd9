//! Server messages: forwarded where they lie, counted against what is expected, and read where they change the session.

use super::simple::server_text;
use super::translate::may_write;
use super::{Expect, Script, Session, Tools};
use crate::core::commands::{self, Command};
use crate::core::server::ServerState;
use crate::core::vars::SETTINGS_MAX;
use crate::sql::{Classified, Discard, Kind, PinReasons, Scope, SetValue, Statement as Parsed};
use crate::wire::TxStatus;
use crate::wire::buffer::Buffer;
use crate::wire::frame::{self, HEADER_BYTES, Header};
use crate::wire::read::ErrorFields;
use howdah_protocol::sqlstate;

/// A row that is longer goes on before all of it is here.
const PASS_ABOVE_BYTES: usize = 64 * 1024;
/// PostgreSQL's own limit of a message.
const SERVER_MESSAGE_BYTES_MAX: usize = 1 << 30;

/// Settings that end with the transaction.
const OF_THE_TRANSACTION: [&str; 3] = ["transaction_isolation", "transaction_read_only", "transaction_deferrable"];
/// Settings that change what later SETs may do, or that do something each time.
const UNREPEATABLE: [&str; 3] = ["role", "session_authorization", "seed"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// This many more bytes are wanted before the next message can be handled.
    More(usize),
    /// The unit is over.
    UnitEnd,
    /// The follower refused the unit as a write, and the client saw nothing of it: rewind and run it on the leader.
    RefusedAsWrite,
    /// The server ends the connection, and this is why.
    Fatal { code: String, message: String },
    /// The answer does not fit what was asked.
    Broken(&'static str),
}

impl Session {
    /// Handles what the server sent, up to the end of the unit.
    pub(crate) fn answer(&mut self, server: &mut ServerState, input: &mut Buffer, tools: &Tools) -> Answer {
        loop {
            if self.pass > 0 && !self.pass_through(input) {
                return Answer::More(1);
            }
            let Ok(header) = frame::header(input.fresh(), SERVER_MESSAGE_BYTES_MAX) else {
                return Answer::Broken("a message of impossible length");
            };
            let Some(header) = header else { return Answer::More(HEADER_BYTES) };
            let have = input.fresh().len();
            let row = matches!(header.kind, b'D' | b'd');
            if have < header.total && !(row && header.total > PASS_ABOVE_BYTES) {
                return Answer::More(header.total - have);
            }
            if row && matches!(self.queue.front(), Some(Expect::Xid)) {
                if have < header.total {
                    return Answer::More(header.total - have);
                }
                let body = &input.fresh()[HEADER_BYTES..header.total];
                self.take_xid(body);
                self.drop_message(input, header.total);
                continue;
            }
            if row {
                self.unit.held = self.unit.held && (self.unit.refused_as_write || self.holds_back(header.total));
                self.pass = header.total;
                self.pass_dropped = self.is_hidden();
                continue;
            }
            if let Some(end) = self.server_message(header, server, input, tools) {
                return end;
            }
        }
    }

    /// Moves on through a row; false when more of it is to come.
    fn pass_through(&mut self, input: &mut Buffer) -> bool {
        let len = self.pass.min(input.fresh().len());
        if self.pass_dropped {
            self.drop_message(input, len);
        } else {
            input.accept(len);
        }
        self.pass -= len;
        self.pass == 0
    }

    /// What comes now is an answer to something that the client did not ask.
    fn is_hidden(&self) -> bool {
        self.unit.refused_as_write
            || match self.queue.front() {
                Some(Expect::HiddenExecute | Expect::Xid) => true,
                Some(Expect::Query(script)) => script.hidden,
                _ => false,
            }
    }

    fn drop_message(&mut self, input: &mut Buffer, len: usize) {
        self.stage(input);
        input.skip(len);
    }

    fn server_message(&mut self, header: Header, server: &mut ServerState, input: &mut Buffer, tools: &Tools) -> Option<Answer> {
        let body = &input.fresh()[HEADER_BYTES..header.total];
        let front = self.queue.front();
        let mut shown = true;
        match (header.kind, front) {
            (b'1', Some(Expect::Parse { shown: yes, .. })) => {
                shown = *yes;
                self.queue.pop_front();
            }
            (b'2', Some(Expect::Bind { shown: yes })) | (b'3', Some(Expect::Close { shown: yes })) => {
                shown = *yes;
                self.queue.pop_front();
            }
            (b't', Some(Expect::Describe { .. })) => {}
            (b'T' | b'n', Some(Expect::Describe { .. })) => {
                self.queue.pop_front();
            }
            (b'T', Some(Expect::Query(script))) => shown = !script.hidden,
            (b'C', Some(Expect::Execute(_) | Expect::HiddenExecute | Expect::Xid | Expect::Query(_))) => {
                let tag = body.strip_suffix(b"\0").unwrap_or(body).to_vec();
                shown = self.completed(&tag, server);
            }
            (b's' | b'I', Some(Expect::Execute(_) | Expect::HiddenExecute)) => {
                shown = matches!(front, Some(Expect::Execute(_)));
                self.queue.pop_front();
            }
            (b'I', Some(Expect::Query(script))) => shown = !script.hidden,
            (b'V', Some(Expect::FunctionCall)) => {}
            (b'G', Some(Expect::Query(_) | Expect::Execute(_))) => self.begin_copy_in(),
            (b'N', _) if is_gate_left(body) => {
                let fields = ErrorFields::read(body);
                return Some(Answer::Fatal { code: fields.sqlstate(), message: fields.text() });
            }
            (b'H' | b'c', Some(Expect::Query(_) | Expect::Execute(_))) | (b'N' | b'A' | b'S', _) => {}
            (b'E', _) => return self.failed(header, server, input, tools),
            (b'Z', Some(Expect::HiddenSync)) => {
                self.queue.pop_front();
                shown = false;
            }
            (b'Z', Some(Expect::Sync | Expect::Query(_) | Expect::FunctionCall)) => {
                let status = body.first().copied().and_then(TxStatus::from_byte);
                return Some(self.ready(header, status, input));
            }
            _ => return Some(Answer::Broken("a message that answers nothing")),
        }
        // Completions travel with what follows; everything that says something to the client lets the answer out.
        let light = matches!(header.kind, b'1' | b'2' | b'3' | b't' | b'T' | b'n' | b'S');
        self.unit.held = self.unit.held && (light || self.unit.refused_as_write || self.holds_back(header.total));
        if shown && !self.unit.refused_as_write {
            input.accept(header.total);
        } else {
            self.drop_message(input, header.total);
        }
        self.drain_replies(Some(input));
        None
    }

    /// The client's data is awaited. In the extended protocol, the Sync that was sent already is lost to the COPY.
    fn begin_copy_in(&mut self) {
        self.unit.copy_in = true;
        if matches!(self.queue.front(), Some(Expect::Execute(_))) {
            self.queue.retain(|expect| !matches!(expect, Expect::Sync));
            self.unit.ended = false;
        }
    }

    /// ReadyForQuery: the unit is over.
    fn ready(&mut self, header: Header, status: Option<TxStatus>, input: &mut Buffer) -> Answer {
        let Some(status) = status else { return Answer::Broken("an unknown transaction status") };
        if let Some(Expect::Query(script)) = self.queue.pop_front() {
            self.forget_unnamed(&script.class);
        }
        if self.unit.refused_as_write {
            self.drop_message(input, header.total);
            return Answer::RefusedAsWrite;
        }
        input.accept(header.total);
        // A COPY that the server ended early: the client's remaining data counts for nothing.
        self.unit.copy_in = false;
        self.end_unit(status);
        Answer::UnitEnd
    }

    /// ErrorResponse.
    fn failed(&mut self, header: Header, server: &mut ServerState, input: &mut Buffer, tools: &Tools) -> Option<Answer> {
        let fields = ErrorFields::read(&input.fresh()[HEADER_BYTES..header.total]);
        if fields.is_fatal() {
            return Some(Answer::Fatal { code: fields.sqlstate(), message: fields.text() });
        }
        let refused = fields.code == sqlstate::READ_ONLY_SQL_TRANSACTION.as_bytes();
        let stale = fields.code == sqlstate::FEATURE_NOT_SUPPORTED.as_bytes() && fields.message.starts_with(b"cached plan must not change");
        let forgotten = fields.code == b"26000";
        if stale || forgotten {
            self.retire_plans(server, tools);
        }
        self.unit.copy_in = false;
        if refused && server.read_only && self.unit.held && self.unit.ended {
            self.unit.refused_as_write = true;
        } else if !self.unit.refused_as_write {
            self.unit.held = false;
        }
        if !self.unit.block {
            self.vars.rollback();
        }
        self.skip_to_sync(server);
        if self.unit.refused_as_write {
            self.drop_message(input, header.total);
        } else {
            input.accept(header.total);
        }
        None
    }

    /// Plans of this server connection cannot be used any more: close it, and let the text get a new name.
    fn retire_plans(&self, server: &mut ServerState, tools: &Tools) {
        server.spent = true;
        for expect in &self.queue {
            if let Expect::Execute(Some(statement)) = expect {
                tools.interner().retire(statement);
            }
        }
    }

    /// The server ignores everything up to the Sync, a Query too; what it does not answer is not expected any more.
    fn skip_to_sync(&mut self, server: &mut ServerState) {
        if matches!(self.queue.front(), Some(Expect::Query(_) | Expect::FunctionCall)) {
            return;
        }
        let mut undone = Vec::new();
        while let Some(expect) = self.queue.front() {
            match expect {
                Expect::Sync | Expect::HiddenSync => break,
                Expect::Parse { statement, shown } => undone.push((std::sync::Arc::clone(statement), *shown)),
                _ => {}
            }
            self.queue.pop_front();
        }
        for (statement, shown) in undone {
            if statement.name.is_empty() {
                server.unnamed = None;
            } else {
                server.forget(statement.id);
            }
            if shown {
                self.statements.refused(&statement);
            }
        }
        self.skipping = self.queue.is_empty();
        if self.skipping {
            self.reopen_unit();
        }
    }

    /// CommandComplete. True when the client is to see it.
    fn completed(&mut self, tag: &[u8], server: &mut ServerState) -> bool {
        match self.queue.pop_front() {
            Some(Expect::Execute(statement)) => {
                if let Some(statement) = statement
                    && let Some(one) = statement.class.only()
                {
                    self.effect(one, tag, server);
                }
                true
            }
            Some(Expect::Query(mut script)) => {
                let shown = !script.hidden;
                if shown {
                    let class = std::sync::Arc::clone(&script.class);
                    self.script_step(&mut script, &class, tag, server);
                } else {
                    script.hidden = false;
                }
                self.queue.push_front(Expect::Query(script));
                shown
            }
            _ => false,
        }
    }

    fn script_step(&mut self, script: &mut Script, class: &Classified, tag: &[u8], server: &mut ServerState) {
        if class.parse_error {
            self.pins |= class.pins.beyond_transaction();
            return;
        }
        let Some(one) = class.statements.get(script.at) else { return };
        script.at += 1;
        script.hidden = script.captures && matches!(one.kind, Kind::GlobalDdl);
        self.effect(one, tag, server);
    }

    /// What a statement that succeeded changed in the session.
    fn effect(&mut self, one: &Parsed, tag: &[u8], server: &mut ServerState) {
        self.pins |= one.pins.beyond_transaction();
        // In a read-only transaction on a follower it wrote nothing, but it may have changed the session there.
        server.spent |= server.read_only && may_write(&one.kind);
        match &one.kind {
            Kind::Begin(_) => self.unit.block = true,
            Kind::Commit { chain } | Kind::Rollback { chain } => {
                if tag == b"COMMIT" {
                    self.vars.commit();
                } else {
                    self.vars.rollback();
                    self.wrote = false;
                }
                self.forget_transaction();
                self.unit.block = *chain;
            }
            Kind::Savepoint(name) => self.vars.savepoint(name),
            Kind::Release(name) => self.vars.release_savepoint(name),
            Kind::RollbackTo(name) => self.vars.rollback_to(name),
            Kind::Discard(what) => self.discarded(*what, server),
            Kind::Deallocate(None) => {
                self.statements.clear();
                server.forget_all();
            }
            kind => self.set_effect(kind, server),
        }
    }

    fn discarded(&mut self, what: Discard, server: &mut ServerState) {
        if what == Discard::All {
            self.statements.clear();
            server.forget_all();
            self.reset_all(server);
            self.pins = PinReasons::NONE;
        }
    }

    /// The server is back at its startup values, and so is the session.
    fn reset_all(&mut self, server: &mut ServerState) {
        self.vars.reset_all();
        server.settings = Default::default();
        // Where the session starts with a setting of its own, the two now differ: simplest is another connection.
        server.spent |= !self.vars.settings().is_empty();
    }

    fn set_effect(&mut self, kind: &Kind, server: &mut ServerState) {
        if let Some(command) = commands::command(kind) {
            if server_text(&command).is_some()
                && let Command::Change { change, scope, .. } = command
            {
                self.change(change, scope);
            }
            return;
        }
        let (name, value) = match kind {
            Kind::ResetAll => return self.reset_all(server),
            Kind::SetTransaction { scope: Scope::Session, .. } => return self.pins |= PinReasons::SETTING,
            Kind::Set { scope: Scope::Session, name, value: SetValue::Text(value) }
            | Kind::SetConfig { scope: Scope::Session, name, value } => (name, Some(value)),
            Kind::Set { scope: Scope::Session, name, value: SetValue::Default } | Kind::Reset(name) => (name, None),
            _ => return,
        };
        let name = name.to_ascii_lowercase();
        if OF_THE_TRANSACTION.contains(&name.as_str()) {
            return;
        }
        if UNREPEATABLE.contains(&name.as_str()) || self.vars.settings().len() >= SETTINGS_MAX && self.vars.get(&name).is_none() {
            self.pins |= PinReasons::SETTING;
            return;
        }
        self.vars.change(|now| match value {
            Some(value) => now.set(&name, value),
            None => now.reset(&name),
        });
    }
}

/// The server says that it ended a COMMIT's wait early: somebody cancelled it or ended the backend. What follows would look like success,
/// but the group may not have decided the commit, so it must not reach the client. The text is localized, the routine is not.
fn is_gate_left(notice: &[u8]) -> bool {
    ErrorFields::read(notice).routine == b"SyncRepWaitForLSN"
}
