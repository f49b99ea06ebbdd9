//! What a proxy asks when it must not guess: what became of a transaction, and for how long this node is the only leader.

use super::{Admin, Body, json, problem};
use crate::core::outcomes::{Question, Verdict};
use crate::pg::connect::Target;
use howdah_protocol::admin::{Lease, Outcome, Role};
use howdah_protocol::{Epoch, InstanceId, LogIndex, NodeId};
use hyper::{Response, StatusCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

/// A proxy waits a second for an answer, and asks again.
const ANSWER_WAIT_MAX: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(5);
/// Sessions that ask Postgres at one time.
const SESSIONS_MAX: usize = 4;

/// Whether a snapshot that is taken now sees the end of the transaction. Its log record is decided, and its COMMIT confirmed, a moment earlier.
const ENDED: &str = "SELECT pg_visible_in_snapshot($1::text::xid8, pg_current_snapshot())";

/// In the words of Postgres; and whether everything up to the end of its WAL, as it was when the transaction was first found committed,
/// is confirmed. `$2` is the instance: the number means nothing in another. A server that crashed since has forgotten the epoch `$4`.
const STATUS: &str = "
    SELECT pg_xact_status($1::text::xid8), pg_current_wal_flush_lsn()::text, slot.confirmed_flush_lsn >= $3::text::pg_lsn,
        howdah.serving_epoch() = $4, pg_visible_in_snapshot($1::text::xid8, pg_current_snapshot())
    FROM howdah.node LEFT JOIN pg_replication_slots slot ON slot.slot_name = 'howdah'
    WHERE node.instance = $2";

/// Asks this node's Postgres about a transaction that only it knows.
#[derive(Debug, Clone)]
pub struct Asker {
    target: Target,
    slots: Arc<Semaphore>,
}

impl Asker {
    #[must_use]
    pub fn new(target: Target) -> Self {
        Self { target, slots: Arc::new(Semaphore::new(SESSIONS_MAX)) }
    }

    /// Waits until this node's Postgres has released a transaction that the log has decided: whoever reads from then on sees it. False where that
    /// did not happen in time, or Postgres could not be asked.
    pub(crate) async fn released(&self, full_xid: u64) -> bool {
        match timeout(ANSWER_WAIT_MAX, self.until_ended(full_xid)).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::debug!(%error, "PostgreSQL could not be asked whether a transaction is released");
                false
            }
            Err(_) => false,
        }
    }

    async fn until_ended(&self, full_xid: u64) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let _slot = self.slots.acquire().await?;
        let session = self.target.connect("howdah-outcome", "").await?;
        let xid = full_xid.to_string();
        while !session.query_one(ENDED, &[&xid]).await?.get::<_, bool>(0) {
            sleep(POLL).await;
        }
        Ok(())
    }
}

/// What the query string of a look-up says. The whole transaction id has 64 bits; the log has the low half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LookUp {
    full_xid: u64,
    question: Question,
}

fn parse(query: &str) -> Option<LookUp> {
    let number = |name: &str| {
        let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
        value.parse::<u64>().ok()
    };
    let full_xid = number("xid")?;
    #[expect(clippy::cast_possible_truncation, reason = "the log has the low half")]
    let xid = full_xid as u32;
    let question = Question { node: NodeId(number("node")?), epoch: Epoch(number("epoch")?), xid, after: LogIndex(number("after")?) };
    Some(LookUp { full_xid, question })
}

impl Admin {
    /// The end of the service is looked at where it is decided, not where it is published a moment later. While the leader drains before a
    /// hand-over, the transactions that are open there still have their lease.
    pub(super) fn lease(&self) -> Response<Body> {
        let (serves, epoch) = {
            let stage = self.board.stage.borrow();
            (stage.role == Role::Leader, stage.epoch)
        };
        let left = if serves { self.raft.lease_left() } else { Duration::ZERO };
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        json(StatusCode::OK, &Lease { epoch: epoch.filter(|_| serves), left_ms })
    }

    pub(super) async fn outcome(&self, query: &str) -> Response<Body> {
        let Some(look_up) = parse(query) else {
            return problem(StatusCode::BAD_REQUEST, "node, epoch, xid and after must be given, and be numbers", None);
        };
        let outcome = match self.raft.outcome(&look_up.question) {
            Verdict::Open { instance, again } => self.ask_postgres(look_up, instance, again).await,
            Verdict::Committed(_) if self.may_hold_back(&look_up.question) && !self.asker.released(look_up.full_xid).await => {
                Outcome::Pending
            }
            verdict => told(verdict),
        };
        tracing::debug!(?look_up, ?outcome, "a proxy asked for an outcome");
        json(StatusCode::OK, &outcome)
    }

    fn may_hold_back(&self, question: &Question) -> bool {
        question.ran_under(self.status.borrow().id, self.board.stage.borrow().epoch)
    }

    /// The Postgres that ran the transaction is still the one that writes, so the log alone cannot refuse it. Another's Postgres, or one
    /// that does not answer, leaves the question open.
    async fn ask_postgres(&self, look_up: LookUp, instance: InstanceId, again: bool) -> Outcome {
        match timeout(ANSWER_WAIT_MAX, self.follow(look_up, instance, again)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => {
                tracing::debug!(%error, "PostgreSQL could not be asked for an outcome");
                Outcome::Pending
            }
            Err(_) => Outcome::Pending,
        }
    }

    /// A transaction that never committed here is in no log. One that did stands in this server's WAL: it is in the log as soon as the gate
    /// has confirmed the WAL up to a place behind it, unless it had nothing for the log.
    ///
    /// After a crash a number of which nothing had reached the disk is given to another transaction. If that one is aborted, so is the one
    /// that is asked for; if it is not, nothing follows.
    async fn follow(
        &self,
        look_up: LookUp,
        instance: InstanceId,
        again: bool,
    ) -> Result<Outcome, Box<dyn std::error::Error + Send + Sync>> {
        let _slot = self.asker.slots.acquire().await?;
        let session = self.asker.target.connect("howdah-outcome", "").await?;
        let (xid, instance) = (look_up.full_xid.to_string(), i64::try_from(instance.0)?);
        let epoch = i64::try_from(look_up.question.epoch.0)?;
        let mut behind = None;
        let deadline = Instant::now() + ANSWER_WAIT_MAX;
        while Instant::now() < deadline {
            let Some(row) = session.query_opt(STATUS, &[&xid, &instance, &behind, &epoch]).await? else { return Ok(Outcome::Pending) };
            let (status, end, confirmed): (Option<String>, String, Option<bool>) = (row.get(0), row.get(1), row.get(2));
            let ended: Option<bool> = row.get(4);
            let verdict = self.raft.outcome(&look_up.question);
            let held_back = matches!(verdict, Verdict::Committed(_)) && ended != Some(true);
            if !held_back && !matches!(verdict, Verdict::Open { .. }) {
                return Ok(told(verdict));
            }
            match status.as_deref() {
                _ if held_back => {}
                Some("aborted") => return Ok(Outcome::RolledBack),
                Some(_) if again => return Ok(Outcome::Unknown),
                Some(_) if row.get::<_, Option<bool>>(3) != Some(true) => return Ok(Outcome::Pending),
                Some("committed") if confirmed == Some(true) && ended == Some(true) => {
                    let index = self.raft.decided().borrow().index;
                    return Ok(Outcome::Committed { index });
                }
                Some("committed") => {
                    behind.get_or_insert(end);
                }
                Some("in progress") => {}
                _ => return Ok(Outcome::Unknown),
            }
            sleep(POLL).await;
        }
        Ok(Outcome::Pending)
    }
}

fn told(verdict: Verdict) -> Outcome {
    match verdict {
        Verdict::Committed(index) => Outcome::Committed { index },
        Verdict::Refused => Outcome::RolledBack,
        Verdict::Open { .. } | Verdict::Unheard => Outcome::Pending,
        Verdict::Unclear | Verdict::Forgotten => Outcome::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_up_names_everything_or_is_refused() {
        let asked = parse("node=2&epoch=77&xid=4294967303&after=9").expect("whole");
        assert_eq!(asked.full_xid, 4_294_967_303);
        assert_eq!(asked.question, Question { node: NodeId(2), epoch: Epoch(77), xid: 7, after: LogIndex(9) });
        for query in ["", "node=2&epoch=77&xid=7", "node=2&epoch=77&xid=-7&after=9", "xnode=2&epoch=77&xid=7&after=9"] {
            assert_eq!(parse(query), None, "{query}");
        }
    }
}
