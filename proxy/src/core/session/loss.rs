//! What the loss of a server connection means for the client.
//!
//! | in flight | answer |
//! |---|---|
//! | nothing, no transaction | nothing |
//! | nothing, or a Close or Sync alone, in a transaction | 40001 to the next statement |
//! | a statement in a transaction | 40001 |
//! | COMMIT, or a write outside of a transaction | what the log says: as if nothing had happened, or 40001; 08007 where it cannot be asked |
//! | COMMIT of a transaction that did nothing | COMMIT |
//! | COMMIT that was never sent, or whose transaction had failed | 40001 |
//! | a read of which the client saw nothing, or anything that was never sent | it runs again elsewhere |
//! | a read of which the client saw something | 40001 |
//! | anything, on a pinned connection | the client's connection ends: its state is gone |

use super::local::transaction_lost;
use super::{Fate, LostTransaction, Session};
use crate::wire::TxStatus;
use crate::wire::buffer::Buffer;
use crate::wire::build::{self, Report, Severity};
use howdah_protocol::sqlstate;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nothing was given away: rewind and run it elsewhere.
    Again,
    /// The client was told what it has to know; the session lives on.
    Told,
    /// The log knows what became of the transaction with this id: ask it, then [`Session::settle`].
    Ask(u64),
    /// The session cannot live on.
    End(Report),
}

impl Session {
    /// The server connection is gone. `sent`: something of the unit may have reached it. `input` is its read buffer.
    pub(crate) fn lose(&mut self, sent: bool, input: &mut Buffer, detail: Option<&str>) -> Loss {
        if !self.pins.is_empty() {
            let report =
                Report::new(sqlstate::ADMIN_SHUTDOWN, "terminating connection: the server that held this session's state was lost")
                    .detail(format!("The session was pinned by: {}.", self.pins))
                    .hint("Connect again.");
            return Loss::End(report);
        }
        if self.pass > 0 && !self.pass_dropped {
            return Loss::End(detailed(Report::new(sqlstate::CONNECTION_FAILURE, "the server was lost in the middle of a row"), detail));
        }
        if self.is_held() && (!sent || !self.unit.writes && !self.unit.commits) {
            return Loss::Again;
        }
        self.stage(input);
        (self.pass, self.pass_dropped) = (0, false);
        if !self.unit.active {
            self.lose_between_units();
        } else if let Some(answers) = self.answers_of_nothing() {
            // A driver that closes a statement in passing does not look at the answer: the next statement is told.
            let status = self.status;
            self.lose_between_units();
            self.out.extend_from_slice(&answers);
            self.end_unit(status);
        } else if !sent || !self.may_have_committed() {
            self.settle(Fate::RolledBack, detail);
        } else if self.was_idle_commit() {
            self.settle(Fate::Committed, detail);
        } else if let Some(xid) = self.xid_in_doubt() {
            return Loss::Ask(xid);
        } else {
            self.settle(Fate::Unknown, detail);
        }
        Loss::Told
    }

    fn lose_between_units(&mut self) {
        let open = self.status != TxStatus::Idle;
        self.lost = open.then_some(LostTransaction { told: self.status == TxStatus::Failed });
        self.queue.clear();
        self.vars.rollback();
        self.wrote = false;
        self.forget_transaction();
    }

    /// Tells the client what became of its unit, whose server connection is gone.
    pub(crate) fn settle(&mut self, fate: Fate, detail: Option<&str>) {
        let answers = if fate == Fate::Committed { self.answers_of_commit() } else { None };
        let before_query = self.unit.joined && !self.is_at_query();
        self.queue.clear();
        self.unit.copy_in = false;
        if let Some(answers) = answers {
            self.out.extend_from_slice(&answers);
            return self.end_unit(TxStatus::Idle);
        }
        if self.is_held() {
            self.out.truncate(self.unit.held_from);
        }
        self.vars.rollback();
        // An unknown outcome may be a commit, so the position must cover it.
        self.wrote &= fate != Fate::RolledBack;
        self.forget_transaction();
        let over = fate != Fate::RolledBack || self.unit.autocommit || self.unit.only_rollback || self.unit.foreseen.ended;
        let only_rollback = self.unit.only_rollback && self.unit.simple && !before_query;
        let status = if over { TxStatus::Idle } else { TxStatus::Failed };
        self.lost = (!over).then_some(LostTransaction { told: true });
        if only_rollback {
            build::command_complete(&mut self.out, "ROLLBACK");
        } else {
            build::error(&mut self.out, Severity::Error, &detailed(report(fate), detail));
        }
        if self.unit.ended && !before_query {
            build::ready(&mut self.out, status);
            self.end_unit(status);
        } else {
            // The client's Sync is still to come, also where it sent a Query: that counts for nothing after the error.
            self.status = status;
            self.reopen_unit();
        }
    }
}

fn report(fate: Fate) -> Report {
    match fate {
        Fate::RolledBack => transaction_lost(),
        Fate::Committed => Report::new(
            sqlstate::TRANSACTION_RESOLUTION_UNKNOWN,
            "the transaction is committed, but results that were to come with it were lost with its server connection",
        )
        .hint("Do not run it again. This connection can be used to look at its effects."),
        Fate::Unknown => Report::new(
            sqlstate::TRANSACTION_RESOLUTION_UNKNOWN,
            "the outcome of the transaction is unknown: its server connection was lost before the answer came",
        )
        .hint("Look whether its effects are there before you run it again. This connection can be used for that."),
    }
}

fn detailed(report: Report, detail: Option<&str>) -> Report {
    match detail {
        Some(detail) => report.detail(format!("The server said: {detail}")),
        None => report,
    }
}
