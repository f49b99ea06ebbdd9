//! Promotion: from the Raft leader's blank entry to the first client that may write.
//!
//! Order, and what a failure leaves:
//!
//! - everything decided is applied here;
//! - the slot stands: a new one, or the own old one with a tail to propose again;
//! - `Open` is decided: from here on nobody else's batches count. A failure before leaves a follower with a slot that holds nothing of
//!   its own; after it, a node that opened and committed nothing, or what its slot tells;
//! - the gate is attached: from here on a COMMIT waits for its decision;
//! - what this Postgres committed before is decided: a crash has made it visible, so nobody may look sooner;
//! - sequences are raised; clients may write.

use super::{Error, Manager, Stage, sequences};
use crate::capture;
use crate::core::entry::{Entry, Writer};
use crate::pg::access::Access;
use crate::pg::replication;
use crate::raft;
use crate::role::epoch::ServingEpoch;
use howdah_protocol::admin::Role;
use howdah_protocol::settings;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, timeout};

const APPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// A sequence whose column has no index costs a look at the whole table.
const SEQUENCES_TIMEOUT: Duration = Duration::from_secs(600);
const ROLE_TIMEOUT: Duration = Duration::from_secs(30);
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
const ATTACH_TIMEOUT: Duration = Duration::from_secs(10);
/// The tail may hold large transactions.
const TAIL_TIMEOUT: Duration = Duration::from_secs(60);

impl Manager {
    pub(super) async fn promote(&mut self) -> Result<Stage, Error> {
        let begun = Instant::now();
        let raft_role = self.raft.role().borrow().clone();
        if !raft_role.is_leader {
            return Ok(Stage::Demote);
        }
        self.term = raft_role.term;
        self.say(Role::Promoting, "applying what is decided");
        let goal = self.raft.decided().borrow().index;
        let applier = self.applier.as_ref().ok_or_else(|| Error::Stopped("the applier is not running".into()))?;
        applier.hurry(true);
        applier.wait_for(goal, begun + APPLY_TIMEOUT).await?;
        applier.stay(true);
        let applied_ms = begun.elapsed().as_millis();

        if self.has_stray_writes().await? {
            let why = "a client has written to this follower past its read-only setting: this node cannot lead";
            tracing::error!("{why}");
            self.hand_over().await;
            return Ok(self.seed_because(why.to_owned()));
        }
        let (_, decisions) = self.raft.decisions();
        let again = decisions.serving.is_some_and(|serving| serving.instance == self.instance);
        if !again {
            if self.keeps_slot {
                self.drop_slot().await?;
            }
            self.keeps_slot = true;
            replication::create_slot(&self.target, settings::SLOT).await?;
        }
        let slot_ms = begun.elapsed().as_millis();

        // What proxies check on their connections is what the log knows the writer by, so that they can ask it about a transaction.
        let epoch = self.epoch.as_ref().map_or_else(ServingEpoch::fresh, ServingEpoch::epoch);
        let writer = Writer { node: self.config.node, instance: self.instance, epoch };
        let proposer = self.raft.proposer(self.term);
        let open = Entry::Open { writer, time_ms: unix_ms() };
        let opened = timeout(OPEN_TIMEOUT, proposer.propose(open.encode())).await;
        opened.map_err(|_| Error::Late("deciding the opening", OPEN_TIMEOUT))??;
        let (_, decisions) = self.raft.decisions();
        let options = capture::Options::new(self.target.clone(), writer, decisions.watermark(self.instance));
        let gate = capture::start(options, proposer);
        self.board.gate.send_replace(Some(gate.metrics()));
        let attached = timeout(ATTACH_TIMEOUT, gate.attached()).await;
        self.gate = Some(gate);
        attached.map_err(|_| Error::Late("attaching the gate", ATTACH_TIMEOUT))?.map_err(|error| Error::Stopped(error.to_string()))?;
        let attached_ms = begun.elapsed().as_millis();
        self.tail_decided().await?;

        let raised = timeout(SEQUENCES_TIMEOUT, sequences::raise(&self.target, &decisions.sequences)).await;
        raised.map_err(|_| Error::Late("raising the sequences", SEQUENCES_TIMEOUT))??;
        self.set_access(Access::Writes).await?;
        if self.epoch.is_none() {
            self.epoch = Some(ServingEpoch::begin_as(&self.target, epoch).await?);
        }
        let open_ms = begun.elapsed().as_millis();
        tracing::info!(applied_ms, slot_ms, attached_ms, open_ms, "promoted");
        timeout(ROLE_TIMEOUT, self.found_application_role())
            .await
            .map_err(|_| Error::Late("making the application's role", ROLE_TIMEOUT))??;
        Ok(Stage::Lead)
    }

    /// Until the log holds everything that the own slot held when this node was reconciled.
    async fn tail_decided(&self) -> Result<(), Error> {
        let (me, tail, term) = (self.instance, self.tail, self.term);
        let (mut decided, mut role) = (self.raft.decided(), self.raft.role());
        let holds = |now: &raft::Decided| now.watermark >= tail && now.serving.is_some_and(|serving| serving.instance == me);
        tokio::select! {
            biased;
            held = timeout(TAIL_TIMEOUT, decided.wait_for(holds)) => match held {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) => Err(Error::Stopped("the log has stopped".into())),
                Err(_) => Err(Error::Late("deciding what was committed here before", TAIL_TIMEOUT)),
            },
            _ = role.wait_for(|role| !role.is_leader || role.term != term) => {
                Err(Error::Stopped("this node does not lead any more, and what it committed before is not decided".into()))
            }
        }
    }

    /// A commit that waits at the gate of a follower was not captured, and would be released, as if decided, by the new gate.
    async fn has_stray_writes(&self) -> Result<bool, Error> {
        let session = self.target.connect("howdah-promote", "").await?;
        let row = session.query_one("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", &[]).await?;
        Ok(row.get::<_, i64>(0) > 0 && self.gate.is_none() && self.access != Access::Closed)
    }

    /// The first leader ever gives the application's role its password; it travels as a verifier.
    async fn found_application_role(&self) -> Result<(), Error> {
        let postgres = &self.config.postgres;
        let session = self.target.connect("howdah-promote", "").await?;
        let missing = session
            .query_opt("SELECT FROM pg_authid WHERE rolname = $1 AND rolpassword IS NULL AND NOT rolcanlogin", &[&postgres.app_role])
            .await?;
        if missing.is_none() {
            return Ok(());
        }
        let role = crate::pg::schema::quoted(&postgres.app_role);
        let password = postgres.app_password.replace('\'', "''");
        session.batch_execute(&format!("ALTER ROLE {role} LOGIN CREATEROLE PASSWORD '{password}'; SELECT howdah.capture_roles()")).await?;
        Ok(())
    }
}

pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
