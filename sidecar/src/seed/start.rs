//! How a filling begins, on the joining node: who is asked, and where in the log the rows that will come stand.
//!
//! Followers are asked first, so that the leader, who has the clients' writes to do, is spared: a snapshot that is held for minutes keeps what
//! it can see, and rows that are updated all the time get slow. Whoever refuses is passed over, and the leader comes last. Nothing is copied
//! before the place of the rows is known for certain.

use super::alive::{KEEP_EVERY, Kept};
use super::keeper::Position;
use super::plan::Plan;
use super::sink::{Error, Sink};
use super::{CHUNK_TIMEOUT, Giver};
use crate::admin::client;
use crate::apply::progress::{self, Progress};
use crate::core::coalesce::State;
use crate::core::decisions::{Decisions, Fate};
use crate::raft;
use bytes::Bytes;
use howdah_protocol::LogIndex;
use howdah_protocol::admin::{Committed, NodeStatus};
use http_body_util::{BodyExt, Limited};
use std::time::Duration;

const PLAN_BYTES_MAX: usize = 64 << 20;
const DECIDE_TIMEOUT: Duration = Duration::from_secs(60);
/// A log that does not grow for this long, though the leader's is longer, ends the attempt.
const LOG_TIMEOUT: Duration = Duration::from_secs(60);
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// A filling that has begun.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) giver: Giver,
    pub(super) plan: Plan,
    /// Where this node stands once it has everything.
    pub(super) origin: Progress,
}

impl Sink<'_> {
    pub(super) async fn begin(&self, leader: &Giver, followers: &[Giver]) -> Result<Begun, Error> {
        // Whatever an applier before needed: the next one may begin further back.
        self.board.needed.send_replace(LogIndex(0));
        self.wait_for_log(&leader.address).await?;
        for follower in followers {
            match self.begin_with_follower(follower, leader).await {
                Ok((plan, origin)) => return Ok(Begun { giver: follower.clone(), plan, origin }),
                Err(error) => tracing::info!(node = %follower.node, %error, "a follower does not fill this node"),
            }
        }
        let (plan, origin) = self.begin_with_leader(&leader.address).await?;
        Ok(Begun { giver: leader.clone(), plan, origin })
    }

    async fn begin_with_leader(&self, leader: &str) -> Result<(Plan, Progress), Error> {
        // Before the snapshot is taken: what is decided now is in it.
        let (applied, mut decisions) =
            wait_decided(self.raft, "a large transaction does not end", |decisions| decisions.unfinished.is_empty()).await?;
        let plan = self.ask(leader, None).await?;
        let Position::Wal(lsn) = plan.position else { return Err(Error::Broken("a leader's plan names a place in its WAL".into())) };
        let instance = plan.instance;
        let by = decisions.serving.filter(|serving| serving.instance == instance).ok_or(Error::Undecided("the leader changed"))?;
        let known = |now: &Decisions| now.fate(by, lsn) != Fate::Open;
        let waiting = wait_decided(self.raft, "the snapshot's last commits are not decided", known);
        let (_, after) = self.kept(leader, plan.id).during(KEEP_EVERY, waiting).await?;
        if after.fate(by, lsn) != Fate::Decided {
            return Err(Error::Undecided("the leader changed"));
        }
        let watermark = decisions.watermark(instance).max(lsn);
        decisions.watermarks.insert(instance, watermark);
        Ok((plan, Progress { applied, state: State { decisions, ..State::default() } }))
    }

    async fn begin_with_follower(&self, follower: &Giver, leader: &Giver) -> Result<(Plan, Progress), Error> {
        // What this node has of the log reaches at least from here on.
        let from = self.raft.decided().borrow().index;
        let plan = self.ask(&follower.address, Some(from)).await?;
        let placing = Box::pin(self.place_of(&plan, &leader.address));
        match self.kept(&follower.address, plan.id).during(KEEP_EVERY, placing).await {
            Ok(origin) => Ok((plan, origin)),
            Err(error) => {
                self.end(&follower.address, plan.id).await;
                Err(error)
            }
        }
    }

    /// The follower's position, if its rows are exactly that and this log can go on from there.
    async fn place_of(&self, plan: &Plan, leader: &str) -> Result<Progress, Error> {
        let Position::Log { applied, state } = &plan.position else {
            return Err(Error::Broken("a follower's plan names a place in the log".into()));
        };
        let state = progress::decode(state).map_err(|error| Error::Broken(error.to_string()))?;
        // All that was decided before the snapshot was taken, whatever the follower itself knew of it.
        let committed = within("/v1/committed", client::get_json::<Committed>(leader, "/v1/committed")).await?.index;
        self.wait_index(committed).await?;
        let (known, decisions) = self.raft.decisions();
        if known < *applied {
            return Err(Error::Undecided("the follower is ahead of the group"));
        }
        if !state.decisions.holds_all_of(plan.instance, &decisions) {
            return Err(Error::Undecided("the follower has led, and does not stand behind that yet"));
        }
        let needed = state.needs_from(*applied);
        if self.raft.first_index().map_err(|error| Error::Broken(error.to_string()))? > needed {
            return Err(Error::Undecided("the log here begins behind what the follower's rows need next"));
        }
        self.board.needed.send_replace(needed);
        Ok(Progress { applied: *applied, state })
    }

    /// A new node begins with an empty log. What the leader keeps of it comes before the rows do, so that nothing is waited for later.
    async fn wait_for_log(&self, leader: &str) -> Result<(), Error> {
        self.wait_index(within("/v1/status", client::get_json::<NodeStatus>(leader, "/v1/status")).await?.committed_index).await
    }

    async fn wait_index(&self, goal: LogIndex) -> Result<(), Error> {
        let mut decided = self.raft.decided();
        while decided.borrow_and_update().index < goal {
            match tokio::time::timeout(LOG_TIMEOUT, decided.changed()).await {
                Ok(Ok(())) => {}
                _ => return Err(Error::Undecided("the leader's log does not come")),
            }
        }
        Ok(())
    }

    async fn ask(&self, giver: &str, from: Option<LogIndex>) -> Result<Plan, Error> {
        let from = from.map(|from| format!("&from={from}")).unwrap_or_default();
        let path = format!("/v1/seed?node={}{from}", self.config.node);
        let response = within("/v1/seed", client::post(giver, &path, &self.config.secret, Bytes::new())).await?;
        let body = tokio::time::timeout(CHUNK_TIMEOUT, Limited::new(response.into_body(), PLAN_BYTES_MAX).collect()).await;
        let body = body.map_err(|_| Error::Broken("the plan does not come".into()))?.map_err(|error| Error::Broken(error.to_string()))?;
        serde_json::from_slice(&body.to_bytes()).map_err(|error| Error::Broken(format!("the plan: {error}")))
    }

    pub(super) fn kept<'a>(&'a self, giver: &'a str, id: u64) -> Kept<'a> {
        Kept { giver, secret: &self.config.secret, id }
    }

    /// Lets the giver forget its snapshot. It would by itself, later.
    pub(super) async fn end(&self, giver: &str, id: u64) {
        let path = format!("/v1/seed/end?id={id}");
        let ended = tokio::time::timeout(END_TIMEOUT, client::post(giver, &path, &self.config.secret, Bytes::new())).await;
        if !matches!(ended, Ok(Ok(_))) {
            tracing::debug!("{giver} was not told that the filling is over");
        }
    }
}

async fn within<T>(what: &str, call: impl Future<Output = Result<T, client::Error>>) -> Result<T, Error> {
    let answered = tokio::time::timeout(CHUNK_TIMEOUT, call).await;
    Ok(answered.map_err(|_| Error::Broken(format!("no answer to {what}")))??)
}

/// Waits until what the log has decided is `good`, and answers it with the index up to which it is.
pub(crate) async fn wait_decided(
    raft: &raft::Handle,
    what: &'static str,
    good: impl Fn(&Decisions) -> bool,
) -> Result<(LogIndex, Decisions), Error> {
    let mut decided = raft.decided();
    let deadline = tokio::time::Instant::now() + DECIDE_TIMEOUT;
    loop {
        decided.borrow_and_update();
        let (index, decisions) = raft.decisions();
        if good(&decisions) {
            return Ok((index, decisions));
        }
        match tokio::time::timeout_at(deadline, decided.changed()).await {
            Ok(Ok(())) => {}
            _ => return Err(Error::Undecided(what)),
        }
    }
}
