//! What the loss of a server connection means for the client.
//!
//! | in flight | answer |
//! |---|---|
//! | nothing, no transaction | nothing |
//! | nothing, in a transaction | 40001 to the next statement |
//! | a statement in a transaction | 40001 |
//! | COMMIT, or a write outside of a transaction | 08007: nobody here knows |
//! | a read of which the client saw nothing, or anything that was never sent | it runs again elsewhere |
//! | a read of which the client saw something | 40001 |
//! | anything, on a pinned connection | the client's connection ends: its state is gone |

use super::local::transaction_lost;
use super::{LostTransaction, Session};
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
    /// The session cannot live on.
    End(Report),
}

impl Session {
    /// The server connection is gone. `sent`: something of the unit may have reached it. `input` is its read buffer.
    pub(crate) fn lose(&mut self, sent: bool, input: &mut Buffer, detail: Option<&str>) -> Loss {
        let with_detail = |report: Report| match detail {
            Some(detail) => report.detail(format!("The server said: {detail}")),
            None => report,
        };
        if !self.pins.is_empty() {
            let report =
                Report::new(sqlstate::ADMIN_SHUTDOWN, "terminating connection: the server that held this session's state was lost")
                    .detail(format!("The session was pinned by: {}.", self.pins))
                    .hint("Connect again.");
            return Loss::End(report);
        }
        if self.pass > 0 && !self.pass_dropped {
            return Loss::End(with_detail(Report::new(sqlstate::CONNECTION_FAILURE, "the server was lost in the middle of a row")));
        }
        if self.is_held() && (!sent || !self.unit.writes && !self.unit.commits) {
            return Loss::Again;
        }
        if self.is_held() {
            self.out.truncate(self.unit.held_from);
        } else {
            self.stage(input);
        }
        self.queue.clear();
        (self.pass, self.pass_dropped) = (0, false);
        self.vars.rollback();
        if !self.unit.active {
            let open = self.status != TxStatus::Idle;
            self.lost = open.then_some(LostTransaction { told: self.status == TxStatus::Failed });
            self.wrote = false;
            return Loss::Told;
        }
        self.tell(with_detail);
        Loss::Told
    }

    fn tell(&mut self, with_detail: impl Fn(Report) -> Report) {
        let unknown = sent_commit(&self.unit);
        let status = if unknown || self.unit.autocommit || self.unit.only_rollback { TxStatus::Idle } else { TxStatus::Failed };
        self.lost = (status == TxStatus::Failed).then_some(LostTransaction { told: true });
        // An unknown outcome may be a commit, so the position must cover it.
        self.wrote &= unknown;
        if self.unit.only_rollback && self.unit.simple {
            build::command_complete(&mut self.out, "ROLLBACK");
        } else if unknown {
            let report = Report::new(
                sqlstate::TRANSACTION_RESOLUTION_UNKNOWN,
                "the outcome of the transaction is unknown: its server connection was lost before the answer came",
            )
            .hint("Look whether its effects are there before you run it again. This connection can be used for that.");
            build::error(&mut self.out, Severity::Error, &with_detail(report));
        } else {
            build::error(&mut self.out, Severity::Error, &with_detail(transaction_lost()));
        }
        self.unit.copy_in = false;
        if self.unit.ended {
            build::ready(&mut self.out, status);
            self.end_unit(status);
        } else {
            // The client's Sync is still to come.
            self.status = status;
            self.skipping = true;
            self.unit.held = false;
        }
    }
}

fn sent_commit(unit: &super::Unit) -> bool {
    unit.commits || (unit.autocommit && unit.writes)
}
