//! The transaction that holds the snapshot of a filling, and where in the log that snapshot stands.
//!
//! - On the leader it is a temporary slot's snapshot: everything that its WAL holds before the slot's place. The slot is gone before the first row
//!   is copied, so that it holds no WAL back.
//! - On a follower it is any snapshot, because the position lies in the same database as the rows and is written with them: whatever
//!   `howdah.progress` says in the snapshot is what the snapshot's rows are. That leaves out what this Postgres wrote itself while it led, which was
//!   there before its applier passed over it. So it must have been deposed, its position must lie behind all that the log has of it, and nothing of
//!   this may change while the snapshot is taken.

use super::session::{Error, SOURCE_NAME};
use super::{MARK_PREFIX, OPTIONS};
use crate::apply::progress::{self, Progress};
use crate::core::decisions::Decisions;
use crate::pg::connect::Target;
use crate::pg::replication;
use crate::raft;
use crate::status::Board;
use howdah_protocol::admin::Role;
use howdah_protocol::{InstanceId, LogIndex, Lsn};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::Client;

/// A follower that is not as far as it is asked to be is waited for so long. Its position is stored at least every second.
const BEHIND_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Where the rows of a snapshot stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Position {
    /// A leader's: the place in its WAL. The rows may be ahead of what is decided.
    Wal(Lsn),
    /// A follower's: `howdah.progress` as the snapshot shows it.
    Log { applied: LogIndex, state: String },
}

#[derive(Debug)]
pub(super) struct Keeper {
    /// In the transaction. The snapshot and all locks end with it.
    pub(super) client: Client,
    pub(super) position: Position,
    pub(super) node: Node,
}

/// What a node says of itself.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) instance: InstanceId,
    /// Major version of its PostgreSQL.
    pub(super) version: u32,
    /// JSON, in the form in which roles travel in the log.
    pub(super) roles: String,
}

pub(super) async fn of_leader(target: &Target) -> Result<Keeper, Error> {
    let session = target.connect(SOURCE_NAME, "").await?;
    let node = itself(&session).await?;
    let slot = replication::export_slot(target, "howdah_seed").await?;
    session.execute("SELECT pg_logical_emit_message(true, $1::text, '')", &[&MARK_PREFIX]).await?;
    let client = connect(target).await?;
    client.batch_execute(&begin(&slot.snapshot)).await?;
    Ok(Keeper { client, position: Position::Wal(slot.consistent), node })
}

/// A snapshot at `from` or behind.
pub(super) async fn of_follower(target: &Target, from: LogIndex, ground: &Ground) -> Result<Keeper, Error> {
    let before = ground.look()?;
    let client = connect(target).await?;
    let progress = snapshot_at(&client, from).await?;
    let node = itself(&client).await?;
    let after = ground.look()?;
    if before.serving != after.serving || !progress.state.decisions.holds_all_of(node.instance, &after) {
        return Err(Error::Unfit("it has led, and does not stand behind that yet".to_owned()));
    }
    let position = Position::Log { applied: progress.applied, state: progress::encode(&progress.state) };
    Ok(Keeper { client, position, node })
}

/// Begins the transaction. Its first statement takes the snapshot, and that is the one that reads the position.
async fn snapshot_at(client: &Client, from: LogIndex) -> Result<Progress, Error> {
    let deadline = Instant::now() + BEHIND_MAX;
    loop {
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let progress = progress::load(client).await?;
        if progress.applied >= from {
            return Ok(progress);
        }
        if Instant::now() >= deadline {
            return Err(Error::Unfit(format!("it is at entry {}, and asked for one behind {from}", progress.applied)));
        }
        client.batch_execute("ROLLBACK").await?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn connect(target: &Target) -> Result<Client, Error> {
    Ok(target.connect(SOURCE_NAME, &format!("{OPTIONS} -c lock_timeout=10s")).await?)
}

async fn itself(client: &Client) -> Result<Node, Error> {
    const NODE: &str = "SELECT instance, howdah.roles_state()::text, current_setting('server_version_num')::int FROM howdah.node";
    let row = client.query_one(NODE, &[]).await?;
    let instance = InstanceId(row.get::<_, i64>(0).unsigned_abs());
    Ok(Node { instance, roles: row.get(1), version: row.get::<_, i32>(2).unsigned_abs() / 10_000 })
}

/// Begins a transaction that sees an exported snapshot.
pub(super) fn begin(snapshot: &str) -> String {
    format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{snapshot}'")
}

/// What this node knows of itself.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    pub(super) raft: raft::Handle,
    pub(super) board: Board,
}

impl Ground {
    pub(super) fn role(&self) -> Role {
        self.board.stage.borrow().role
    }

    /// What is decided, as a follower without a blemish knows it.
    fn look(&self) -> Result<Decisions, Error> {
        let unfit = |why: &str| Err(Error::Unfit(why.to_owned()));
        let stage = self.board.stage.borrow().clone();
        if stage.role != Role::Follower || !stage.open {
            return unfit("it does not follow");
        }
        let Some(applied) = self.board.applier.borrow().as_ref().map(|applier| applier.borrow().clone()) else {
            return unfit("it applies nothing");
        };
        let differs = self.board.verification.borrow().last.is_some_and(|last| last.tables_differing > 0);
        if differs || applied.rows_missing > 0 {
            return unfit("it differs from the leader: howdahctl verify");
        }
        if let Some(error) = applied.error {
            return unfit(&error);
        }
        let decisions = self.raft.decisions().1;
        if decisions.serving.is_none() {
            return unfit("it knows of no leader's opening");
        }
        Ok(decisions)
    }
}
