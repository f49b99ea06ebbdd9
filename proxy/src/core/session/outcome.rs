//! Knowing what became of a commit whose answer was lost: the transaction's id is fetched before the commit begins, and the log is asked.
//!
//! PostgreSQL assigns the id at the first write, and sends nothing while a COMMIT waits for the group. So the id is asked for in the
//! pipeline, where that costs least:
//!
//! | what is sent | the question goes | its cost |
//! |---|---|---|
//! | a write in a block, extended protocol | behind the write, before its Sync | a trivial statement; it travels with the write's own answer |
//! | COMMIT, the id not known yet | in front of it, and is flushed | the same, and one more packet from the server |
//! | a write outside of a block, extended protocol | behind it, and is flushed before its Sync commits | as above; `autocommit_outcomes` |
//! | a write outside of a block, simple protocol | nowhere: it commits before its answer can leave the server | nothing; 08007 |
//!
//! What a flush brings ahead of a commit is held back until the commit is decided (as far as it is not long): a client that takes the first
//! row of `INSERT ... RETURNING` for the end must not be misled.
//!
//! Never asked about: what may commit more than once, or nothing of its own (CALL, DO, COMMIT PREPARED, VACUUM, two transactions in one
//! pipeline). There the id would speak of another transaction than the answer that is missing.

use super::translate::{Target, may_write};
use super::{Expect, Reply, Session, Tools};
use crate::core::statements::Statement;
use crate::sql::{Classified, Kind};
use crate::wire::build;
use crate::wire::{TxStatus, read};
use std::sync::Arc;

const ASK: &str = "SELECT pg_catalog.pg_current_xact_id_if_assigned()";
/// Bytes of answers that are held back until their commit is decided. PostgreSQL itself sends what is longer before the commit.
const AHEAD_BYTES_MAX: usize = 32 * 1024;

/// What the messages of a unit, as they are sent, will have done to the transaction. The answers come later.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one unit")]
pub(super) struct Foreseen {
    /// A block is open.
    pub(super) block: bool,
    /// A block was ended in this unit.
    pub(super) ended: bool,
    /// Something of the present transaction may have an id to tell.
    pub(super) writes: bool,
    /// An id would not say which transaction it is.
    pub(super) odd: bool,
}

/// What the log says about a commit whose answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Committed,
    RolledBack,
    Unknown,
}

impl Tools {
    /// The question, as every server connection of the worker knows it.
    fn ask(&self) -> Arc<Statement> {
        let make = || {
            let body = [ASK.as_bytes(), &[0, 0, 0]].concat();
            self.interner().named(&body, || self.classify(ASK.as_bytes()))
        };
        Arc::clone(self.ask.get_or_init(make))
    }
}

impl Session {
    /// Notes what the Execute that is to be sent does to the transaction. A COMMIT whose transaction is not known by its id is preceded by
    /// the question.
    pub(super) fn foresee(&mut self, class: &Classified, target: &mut Target<'_>) {
        let Some(one) = class.only() else { return };
        if self.unit.foreseen.ended && !matches!(one.kind, Kind::Read | Kind::Show(_)) {
            self.unit.foreseen.odd = true;
        }
        match &one.kind {
            Kind::Begin(_) => self.unit.foreseen.block = true,
            Kind::Commit { chain } => {
                if self.can_ask(target) && self.unit.foreseen.block && self.xid.is_none() && self.wrote {
                    self.ask_xid(target);
                    build::empty(target.out, b'H');
                }
                self.end_foreseen(*chain);
            }
            Kind::Rollback { chain } => self.end_foreseen(*chain),
            Kind::CommitPrepared
            | Kind::RollbackPrepared
            | Kind::Call
            | Kind::Do
            | Kind::NonTransactional
            // The server takes nothing but the client's data behind it.
            | Kind::CopyFrom { .. } => self.unit.foreseen.odd = true,
            kind => self.unit.foreseen.writes |= may_write(kind),
        }
    }

    fn end_foreseen(&mut self, chain: bool) {
        let foreseen = &mut self.unit.foreseen;
        (foreseen.block, foreseen.ended, foreseen.writes) = (chain, true, false);
        foreseen.odd |= chain;
    }

    /// Before a Sync: asks for the id of the transaction that this unit wrote in, where it is not known.
    pub(super) fn ask_before_sync(&mut self, target: &mut Target<'_>) {
        if !self.can_ask(target) || !self.unit.foreseen.writes || self.xid.is_some() {
            return;
        }
        if self.unit.foreseen.block {
            self.ask_xid(target);
        } else if target.tools.asks_in_autocommit {
            let ask = target.tools.ask();
            self.execute_own_portal(&ask, Expect::Xid, target);
            // The Sync commits, and until that is decided the server sends only what was flushed before.
            build::empty(target.out, b'H');
            self.unit.asks_ahead = true;
        }
    }

    /// Before a Query that is this text: asks where it is the COMMIT of a transaction whose id is not known.
    pub(super) fn ask_before_query(&mut self, class: &Classified, target: &mut Target<'_>) {
        if !is_commit(class) || !self.unit.foreseen.block {
            return;
        }
        self.unit.foreseen.ended = true;
        if self.xid.is_none() && self.wrote && self.can_ask(target) {
            self.ask_xid(target);
            if self.unit.joined {
                // After an error in what came before, the COMMIT is ignored up to the client's own Sync.
                build::empty(target.out, b'H');
            } else {
                build::empty(target.out, b'S');
                self.queue.push_back(Expect::HiddenSync);
            }
        }
    }

    /// A follower decides nothing, a failed transaction answers nothing, and a pinned session ends with its server connection.
    fn can_ask(&self, target: &Target<'_>) -> bool {
        let leads = target.server.as_deref().is_some_and(|server| !server.read_only);
        leads && !self.skipping && !self.unit.foreseen.odd && self.status != TxStatus::Failed && self.pins.is_empty()
    }

    fn ask_xid(&mut self, target: &mut Target<'_>) {
        let ask = target.tools.ask();
        self.run_own(&ask, Expect::Xid, target);
    }

    /// The answer to the question: no value where nothing has been written yet.
    pub(super) fn take_xid(&mut self, row: &[u8]) {
        let text = read::column(row, 0).and_then(|digits| std::str::from_utf8(digits).ok());
        self.xid = text.and_then(|digits| digits.parse().ok());
    }

    /// This much of an answer came ahead of the commit that it belongs to, and waits for it.
    pub(super) fn holds_back(&mut self, len: usize) -> bool {
        self.unit.ahead = self.unit.ahead.saturating_add(len);
        self.unit.asks_ahead && self.unit.ahead <= AHEAD_BYTES_MAX
    }

    /// A commit may have been under way in this unit when the server was lost.
    pub(super) fn may_have_committed(&self) -> bool {
        let unit = &self.unit;
        // Outside of a block it is the Sync that commits.
        let begun = unit.simple || unit.ended || unit.foreseen.ended || unit.foreseen.odd;
        let commits = unit.commits || (unit.autocommit && unit.writes);
        commits && begun && self.status != TxStatus::Failed
    }

    /// All messages before the Query or FunctionCall that ends the unit have their answers.
    pub(super) fn is_at_query(&self) -> bool {
        let before = self.queue.iter().take_while(|expect| !matches!(expect, Expect::Query(_) | Expect::FunctionCall));
        let mut hidden = before.map(|expect| {
            matches!(
                expect,
                Expect::Parse { shown: false, .. }
                    | Expect::Bind { shown: false }
                    | Expect::Close { shown: false }
                    | Expect::HiddenExecute
                    | Expect::Xid
                    | Expect::HiddenSync
            )
        });
        hidden.all(|hidden| hidden)
    }

    /// The id of the transaction whose commit was under way, where the id can be trusted to be its own.
    pub(super) fn xid_in_doubt(&self) -> Option<u64> {
        let many = self.queue.iter().any(|expect| matches!(expect, Expect::Query(script) if !is_commit(&script.class)));
        self.xid.filter(|_| !self.unit.foreseen.odd && !many)
    }

    /// Nothing was done in the transaction whose COMMIT was under way.
    pub(super) fn was_idle_commit(&self) -> bool {
        !self.touched && !self.unit.foreseen.odd && !self.unit.writes
    }

    /// The answers that are missing, where none of them says that anything was done.
    pub(super) fn answers_of_nothing(&self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        for expect in &self.queue {
            match expect {
                Expect::Reply(Reply::Empty(b'3')) | Expect::Close { shown: true } => build::empty(&mut out, b'3'),
                Expect::Close { shown: false } => {}
                Expect::Sync => build::ready(&mut out, self.status),
                _ => return None,
            }
        }
        // Elsewhere than between the statements of a block, a Sync says that what came before it is committed.
        let unit = &self.unit;
        (unit.ended && !unit.autocommit && !unit.writes && !unit.commits && !unit.only_rollback).then_some(out)
    }

    /// What the server would have answered to the rest of the unit, had it had the time; `None` where only it could know.
    pub(super) fn answers_of_commit(&self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let mut commits = 0;
        for expect in &self.queue {
            match expect {
                Expect::Reply(Reply::Empty(kind)) => build::empty(&mut out, *kind),
                Expect::Reply(Reply::Bytes(bytes)) => out.extend_from_slice(bytes),
                Expect::Parse { shown: true, .. } => build::empty(&mut out, b'1'),
                Expect::Bind { shown: true } => build::empty(&mut out, b'2'),
                Expect::Close { shown: true } => build::empty(&mut out, b'3'),
                Expect::Parse { .. } | Expect::Bind { .. } | Expect::Close { .. } => {}
                Expect::HiddenExecute | Expect::Xid | Expect::HiddenSync => {}
                Expect::Describe { what, of: Some(of) } if is_commit(&of.class) => {
                    if *what == b'S' {
                        build::no_parameters(&mut out);
                    }
                    build::empty(&mut out, b'n');
                }
                Expect::Execute(Some(statement)) if is_commit(&statement.class) => {
                    commits += 1;
                    build::command_complete(&mut out, "COMMIT");
                }
                Expect::Query(script) if is_commit(&script.class) => {
                    commits += 1;
                    build::command_complete(&mut out, "COMMIT");
                    build::ready(&mut out, TxStatus::Idle);
                }
                Expect::Sync => build::ready(&mut out, TxStatus::Idle),
                Expect::Describe { .. } | Expect::Execute(_) | Expect::Query(_) | Expect::FunctionCall => return None,
            }
        }
        let by_sync = self.unit.autocommit && !self.unit.foreseen.ended;
        (self.unit.ended && commits == usize::from(!by_sync)).then_some(out)
    }
}

/// COMMIT and nothing else, after which no transaction is open.
fn is_commit(class: &Classified) -> bool {
    class.only().is_some_and(|one| matches!(one.kind, Kind::Commit { chain: false }))
}
