//! One client's session: what its messages mean, and what the servers' answers to them change.
//!
//! Messages are handled in **units**: one Query, or everything up to a Sync. At most one unit is in flight. While no transaction is open
//! and nothing pins the session, a unit is where a server connection is taken and given back. A Query (or FunctionCall) behind messages
//! that no Sync ended runs in their transaction and ends their unit, as in PostgreSQL: one ReadyForQuery answers all of it.
//!
//! ```text
//!   client bytes --plan--> which server --translate--> server bytes, and for each message what answer is expected
//!   server bytes --answer--> forwarded where they lie, swallowed, or completed with answers of the proxy's own
//! ```
//!
//! Invariants:
//! - The queue of expected answers has one entry per message sent, in order; an answer that does not fit means that the server
//!   connection is broken.
//! - Bytes for the client leave in order: `out` first, then what is kept in the server's buffer.
//! - While a unit is **held**, nothing of its answer was given to the client, so that it can be run again elsewhere.

mod answer;
mod extended;
mod local;
mod loss;
mod outcome;
mod plan;
mod simple;
mod translate;

#[cfg(test)]
mod tests;

pub(crate) use answer::Answer;
pub(crate) use loss::Loss;
pub(crate) use outcome::Fate;
pub(crate) use plan::{Demand, Need, Plan};
pub(crate) use translate::Stop;

use super::params::Startup;
use super::replica::Positions;
use super::statements::{Interner, Statement, Statements};
use super::templates::Templates;
use super::vars::Vars;
use super::view::Serving;
use crate::sql::{Cache, Classified, PinReasons};
use crate::wire::TxStatus;
use crate::wire::buffer::Buffer;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Bytes of translated messages that wait for the server before more of the client's are taken.
pub(crate) const SERVER_OUT_HIGH_BYTES: usize = 256 * 1024;
/// An extended unit that is longer than this is sent before its end was seen.
const UNIT_PEEK_BYTES_MAX: usize = 64 * 1024;
/// Named portals of one transaction.
const PORTALS_MAX: usize = 4096;

/// The client broke the protocol: it is told, and the connection ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error(transparent)]
    Frame(#[from] crate::wire::frame::Error),
    #[error("invalid frontend message type {0}")]
    Kind(u8),
    #[error("invalid message format in message of type '{0}'")]
    Format(char),
    #[error("too many {0} in one session")]
    TooMany(&'static str),
}

/// What the sessions of one worker share.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) cache: Arc<Cache>,
    interner: Mutex<Interner>,
    templates: Mutex<Templates>,
    /// The question for a transaction's id.
    ask: OnceLock<Arc<Statement>>,
    /// It is put in front of the end of a write in autocommit, too.
    asks_in_autocommit: bool,
}

impl Tools {
    pub(crate) fn new(cache: Arc<Cache>, asks_in_autocommit: bool) -> Self {
        Self { cache, interner: Mutex::default(), templates: Mutex::default(), ask: OnceLock::new(), asks_in_autocommit }
    }

    fn classify(&self, text: &[u8]) -> Arc<Classified> {
        match std::str::from_utf8(text) {
            Ok(sql) => {
                let mut templates = self.templates.lock().unwrap_or_else(PoisonError::into_inner);
                templates.get(text, || self.cache.classify(sql))
            }
            Err(_) => Arc::new(crate::sql::classify_bytes(text)),
        }
    }

    fn interner(&self) -> std::sync::MutexGuard<'_, Interner> {
        self.interner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) vars: Vars,
    pub(crate) positions: Positions,
    /// As the client was told last.
    pub(crate) status: TxStatus,
    pub(crate) pins: PinReasons,
    /// Who served the last statement, and why.
    pub(crate) served_by: Option<Serving>,
    pub(crate) route: &'static str,
    /// Bytes for the client that do not lie in the server's buffer.
    pub(crate) out: Vec<u8>,
    statements: Statements,
    portals: Portals,
    queue: VecDeque<Expect>,
    unit: Unit,
    /// The server refused a message of the unit: the client's messages count for nothing until its Sync.
    skipping: bool,
    /// Bytes of a server message that is passing through.
    pass: usize,
    pass_dropped: bool,
    lost: Option<LostTransaction>,
    /// Something was written since the transaction began.
    wrote: bool,
    /// Something was done since then that a commit makes last: more than [`Self::wrote`] notes, NOTIFY and LOCK too.
    touched: bool,
    /// The id that the server has given to the transaction, with its epoch, as far as it is known.
    xid: Option<u64>,
    message_bytes_max: usize,
}

/// The server connection of an open transaction is gone.
#[derive(Debug, Clone, Copy)]
struct LostTransaction {
    /// The client was told by an error.
    told: bool,
}

/// Of the unit in flight.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one unit")]
struct Unit {
    active: bool,
    /// Its last message was translated.
    ended: bool,
    /// A Query or FunctionCall ends it, no Sync.
    simple: bool,
    /// Extended messages came before that.
    joined: bool,
    /// It began outside of a transaction block.
    autocommit: bool,
    /// A transaction block is open at the place that the answers have reached.
    block: bool,
    writes: bool,
    /// It may end in a commit.
    commits: bool,
    only_rollback: bool,
    copy_in: bool,
    held: bool,
    held_from: usize,
    /// What was sent of it will have done this.
    foreseen: outcome::Foreseen,
    /// Its answers come before its commit is decided.
    asks_ahead: bool,
    /// Bytes of answers so far.
    ahead: usize,
    /// The follower refused it as a write: run it on the leader, and let nothing of this answer through.
    refused_as_write: bool,
}

/// The answer that a message will get.
#[derive(Debug)]
enum Expect {
    /// From the proxy itself.
    Reply(Reply),
    Parse {
        statement: Arc<Statement>,
        shown: bool,
    },
    Bind {
        shown: bool,
    },
    Describe {
        what: u8,
        of: Option<Arc<Statement>>,
    },
    Execute(Option<Arc<Statement>>),
    /// An Execute of the proxy's own.
    HiddenExecute,
    /// The question for the transaction's id.
    Xid,
    Close {
        shown: bool,
    },
    Sync,
    /// A Sync of the proxy's own, in a block.
    HiddenSync,
    Query(Script),
    FunctionCall,
}

#[derive(Debug)]
enum Reply {
    /// A message without a body.
    Empty(u8),
    Bytes(Box<[u8]>),
}

/// A simple query, statement by statement.
#[derive(Debug)]
struct Script {
    class: Arc<Classified>,
    /// The statement whose answer comes next.
    at: usize,
    /// The answer in progress is that of a statement that the proxy put after statement `at - 1`.
    hidden: bool,
    /// Statements of the class that are followed by one of the proxy's.
    captures: bool,
}

#[derive(Debug, Default)]
struct Portals {
    unnamed: Option<Arc<Statement>>,
    named: HashMap<Box<[u8]>, Arc<Statement>>,
}

impl Portals {
    fn get(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name) }
    }

    fn set(&mut self, name: &[u8], statement: Arc<Statement>) -> Result<(), Violation> {
        if name.is_empty() {
            self.unnamed = Some(statement);
        } else if self.named.len() >= PORTALS_MAX {
            return Err(Violation::TooMany("portals"));
        } else {
            self.named.insert(name.into(), statement);
        }
        Ok(())
    }

    fn remove(&mut self, name: &[u8]) -> Option<Arc<Statement>> {
        if name.is_empty() { self.unnamed.take() } else { self.named.remove(name) }
    }

    fn clear(&mut self) {
        self.unnamed = None;
        if !self.named.is_empty() {
            self.named.clear();
        }
    }
}

impl Session {
    pub(crate) fn new(startup: &Startup, message_bytes_max: usize) -> Self {
        Self {
            vars: Vars::new(startup.consistency, startup.replication),
            positions: Positions { token: startup.token.clone(), ..Positions::default() },
            status: TxStatus::Idle,
            pins: PinReasons::NONE,
            served_by: None,
            route: "",
            out: Vec::new(),
            statements: Statements::default(),
            portals: Portals::default(),
            queue: VecDeque::new(),
            unit: Unit::default(),
            skipping: false,
            pass: 0,
            pass_dropped: false,
            lost: None,
            wrote: false,
            touched: false,
            xid: None,
            message_bytes_max,
        }
    }

    /// Nothing is in flight, and no transaction or pin needs the server connection.
    pub(crate) fn can_detach(&self) -> bool {
        !self.unit.active && self.status == TxStatus::Idle && self.pins.is_empty()
    }

    /// A unit was begun and not answered to its end.
    pub(crate) fn is_busy(&self) -> bool {
        self.unit.active
    }

    /// Cutting the wait of what is in flight could show a commit that the group has not decided.
    pub(crate) fn is_uncancellable(&self) -> bool {
        self.unit.active && (self.unit.commits || (self.unit.autocommit && self.unit.writes))
    }

    /// The client's messages of this unit are needed until something of it was given away.
    pub(crate) fn keeps_input(&self, sent: bool) -> bool {
        self.unit.active && self.unit.held && !(sent && self.unit.writes)
    }

    /// How much of `out` may be written to the client now.
    pub(crate) fn releasable(&self) -> usize {
        if self.is_held() { self.unit.held_from.min(self.out.len()) } else { self.out.len() }
    }

    pub(crate) fn is_held(&self) -> bool {
        self.unit.active && self.unit.held
    }

    /// The first `len` bytes of `out` were written.
    pub(crate) fn written(&mut self, len: usize) {
        if len == self.out.len() {
            self.out.clear();
        } else {
            self.out.drain(..len);
        }
        self.unit.held_from = self.unit.held_from.saturating_sub(len);
    }

    fn begin_unit(&mut self, simple: bool) {
        let idle = self.status == TxStatus::Idle;
        self.unit = Unit {
            active: true,
            simple,
            autocommit: idle,
            block: !idle,
            // In a transaction or on a pinned connection there is no other place to run it.
            held: idle && self.pins.is_empty(),
            held_from: self.out.len(),
            foreseen: outcome::Foreseen { block: !idle, ..outcome::Foreseen::default() },
            ..Unit::default()
        };
    }

    /// A Query or FunctionCall begins a unit, or ends the one that extended messages began.
    fn begin_or_join_unit(&mut self) {
        if self.unit.active {
            (self.unit.simple, self.unit.joined) = (true, true);
            // The client waits for answers without a Sync, as after a Flush.
            self.unit.held = false;
            // Of the messages before; what the Query is, is noted next.
            self.unit.only_rollback = false;
        } else {
            self.begin_unit(true);
        }
        self.unit.ended = true;
    }

    /// The end of the unit does not count: the server ignores everything up to a Sync that the client has yet to send.
    fn reopen_unit(&mut self) {
        (self.unit.ended, self.unit.simple, self.unit.joined) = (false, false, false);
        self.unit.held = false;
        self.skipping = true;
    }

    fn end_unit(&mut self, status: TxStatus) {
        self.status = status;
        self.unit.active = false;
        self.unit.held = false;
        self.skipping = false;
        self.statements.settle();
        if status == TxStatus::Idle {
            self.portals.clear();
            self.vars.commit();
            if self.wrote {
                self.positions.wrote(self.vars.replication() == howdah_protocol::Replication::Sync);
                self.wrote = false;
            }
            self.forget_transaction();
        }
    }

    /// Another transaction begins, with an id of its own.
    fn forget_transaction(&mut self) {
        self.touched = false;
        self.xid = None;
    }

    /// Prepares to run the unit again from its first byte.
    pub(crate) fn rewind(&mut self, input: &mut Buffer) {
        assert!(self.unit.held, "a unit is run again only when nothing of it was given away");
        input.rewind();
        self.statements.rewind();
        self.queue.clear();
        self.out.truncate(self.unit.held_from);
        self.vars.rollback();
        self.wrote = false;
        self.forget_transaction();
        self.skipping = false;
        (self.pass, self.pass_dropped) = (0, false);
        self.unit = Unit::default();
    }
}
