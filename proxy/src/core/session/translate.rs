//! Client messages to server messages: the loop over them, and the unit's bounds.

use super::{Expect, Reply, SERVER_OUT_HIGH_BYTES, Session, Tools, Violation};
use crate::core::commands::TOKEN;
use crate::core::server::ServerState;
use crate::sql::{Classified, Kind, Route};
use crate::wire::buffer::Buffer;
use crate::wire::frame;

/// Why translating stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// No whole message is left.
    Input,
    /// The unit is complete: its answer comes first.
    UnitEnd,
    /// Enough waits for the server.
    Full,
    /// What the session wrote must be known for what comes now.
    Token,
    Terminate,
}

/// What became of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Done,
    /// Nothing yet: the token must be known first.
    Token,
}

/// Where translated messages go.
pub(super) struct Target<'a> {
    pub(super) server: Option<&'a mut ServerState>,
    pub(super) out: &'a mut Vec<u8>,
    pub(super) tools: &'a Tools,
}

impl Session {
    /// Translates what the client sent, up to the end of the unit.
    ///
    /// Without a server only what the plan found to be the proxy's own is handled.
    pub(crate) fn translate(
        &mut self,
        server: Option<&mut ServerState>,
        input: &mut Buffer,
        out: &mut Vec<u8>,
        tools: &Tools,
    ) -> Result<Stop, Violation> {
        let mut target = Target { server, out, tools };
        loop {
            if self.unit.active && self.unit.ended && !self.unit.copy_in {
                return Ok(Stop::UnitEnd);
            }
            if target.out.len() >= SERVER_OUT_HIGH_BYTES {
                return Ok(Stop::Full);
            }
            let Some((header, body)) = frame::message(input.fresh(), self.message_bytes_max)? else {
                return Ok(Stop::Input);
            };
            if header.kind == b'X' {
                return Ok(Stop::Terminate);
            }
            let total = header.total;
            let whole = &input.fresh()[..total];
            if self.message(header.kind, body, whole, &mut target)? == Flow::Token {
                return Ok(Stop::Token);
            }
            input.accept(total);
            if !self.unit.active && target.server.is_none() {
                return Ok(Stop::UnitEnd);
            }
        }
    }

    fn message(&mut self, kind: u8, body: &[u8], whole: &[u8], target: &mut Target<'_>) -> Result<Flow, Violation> {
        match kind {
            b'd' | b'c' | b'f' => self.copy_data(kind, whole, target),
            // The server ignores these while it takes COPY data.
            b'H' | b'S' if self.unit.copy_in => {}
            b'Q' | b'F' if self.unit.copy_in => return Err(Violation::Kind(kind)),
            // As PostgreSQL does: after an error in the extended protocol only a Sync counts.
            b'Q' | b'F' if self.skipping => {}
            b'Q' => return self.query(body, target),
            b'F' => self.function_call(whole, target),
            b'P' | b'B' | b'D' | b'E' | b'C' | b'H' | b'S' => {
                if !self.unit.active {
                    self.begin_unit(false);
                }
                return self.extended(kind, body, whole, target);
            }
            other => return Err(Violation::Kind(other)),
        }
        Ok(Flow::Done)
    }

    /// COPY data outside of a COPY is what a client sent before it knew that its COPY failed.
    fn copy_data(&mut self, kind: u8, whole: &[u8], target: &mut Target<'_>) {
        if !self.unit.copy_in || target.server.is_none() {
            return;
        }
        target.out.extend_from_slice(whole);
        if kind != b'd' {
            self.unit.copy_in = false;
        }
    }

    fn function_call(&mut self, whole: &[u8], target: &mut Target<'_>) {
        self.begin_or_join_unit();
        if target.server.is_none() {
            return self.refuse_without_server(target);
        }
        self.unit.writes = true;
        self.wrote = true;
        self.touched = true;
        target.out.extend_from_slice(whole);
        self.queue.push_back(Expect::FunctionCall);
    }

    /// Notes what running this text may do.
    pub(super) fn note(&mut self, class: &Classified) {
        if class.route() == Route::Read {
            return;
        }
        let writes = class.parse_error || class.statements.iter().any(|one| may_write(&one.kind));
        self.unit.writes |= writes;
        self.wrote |= writes;
        self.touched |= class.parse_error || class.statements.iter().any(|one| !is_passing(&one.kind));
        self.unit.commits |= class.parse_error || class.statements.iter().any(|one| ends_in_commit(&one.kind));
        self.unit.only_rollback = matches!(class.only().map(|one| &one.kind), Some(Kind::Rollback { .. }));
    }

    pub(super) fn reply(&mut self, kind: u8) {
        self.queue.push_back(Expect::Reply(Reply::Empty(kind)));
    }

    pub(super) fn reply_bytes(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        write(&mut bytes);
        self.queue.push_back(Expect::Reply(Reply::Bytes(bytes.into_boxed_slice())));
    }

    /// Lets the proxy's own answers out where it is their turn. `input` holds the server's answers before them.
    pub(crate) fn drain_replies(&mut self, input: Option<&mut Buffer>) {
        if !matches!(self.queue.front(), Some(Expect::Reply(_))) {
            return;
        }
        if let Some(input) = input {
            self.stage(input);
        }
        while let Some(Expect::Reply(reply)) = self.queue.front() {
            match reply {
                Reply::Empty(kind) => crate::wire::build::empty(&mut self.out, *kind),
                Reply::Bytes(bytes) => self.out.extend_from_slice(bytes),
            }
            self.queue.pop_front();
        }
    }

    /// The unit's last message was sent: the server's answer comes next, not the client's messages.
    pub(crate) fn awaits_answer(&self) -> bool {
        self.unit.active && self.unit.ended && !self.unit.copy_in
    }

    /// What the client sends next may be run: nothing of its unit is complete, and the server does not ignore everything up to a Sync.
    pub(crate) fn may_run(&self) -> bool {
        !self.awaits_answer() && !self.skipping
    }

    /// Takes what is kept in the server's buffer for the client, unless it is held back.
    pub(crate) fn take_over(&mut self, input: &mut Buffer) {
        if !self.is_held() {
            self.stage(input);
        }
    }

    /// Moves what is kept in the server's buffer to `out`, so that something can follow it.
    pub(super) fn stage(&mut self, input: &mut Buffer) {
        if !input.kept().is_empty() {
            self.out.extend_from_slice(input.kept());
            input.release_kept();
        }
    }
}

/// A commit after this has something to decide.
pub(super) fn may_write(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Write
            | Kind::CommitPrepared
            | Kind::Execute(_)
            | Kind::CopyFrom { .. }
            | Kind::CopyTo { .. }
            | Kind::CreateTemp
            | Kind::GlobalDdl
            | Kind::Ddl
            | Kind::NonTransactional
            | Kind::Explain { .. }
            | Kind::Call
            | Kind::Do
    )
}

/// Nothing of this lasts beyond the session.
fn is_passing(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Read
            | Kind::Show(_)
            | Kind::Begin(_)
            | Kind::Commit { .. }
            | Kind::Rollback { .. }
            | Kind::Savepoint(_)
            | Kind::Release(_)
            | Kind::RollbackTo(_)
            | Kind::SetTransaction { .. }
            | Kind::Set { .. }
            | Kind::SetConfig { .. }
            | Kind::Reset(_)
    )
}

fn ends_in_commit(kind: &Kind) -> bool {
    matches!(kind, Kind::Commit { .. } | Kind::CommitPrepared | Kind::Call | Kind::Do | Kind::NonTransactional)
}

/// SHOW or SET of the token, which must cover what the session wrote.
pub(super) fn asks_token(class: &Classified) -> bool {
    class.statements.iter().any(|one| match &one.kind {
        Kind::Show(name) | Kind::Set { name, .. } | Kind::SetConfig { name, .. } => name.eq_ignore_ascii_case(TOKEN),
        _ => false,
    })
}
