//! Filling this node's Postgres from another's: of a node that joins, and of one that cannot be repaired.
//!
//! A healthy follower gives the rows, or else the leader. After an attempt with a follower that failed, the leader is next: what was wrong with one
//! follower (it died, DDL had to be applied) may be wrong with others.
//!
//! A mark in the data folder stands from before the old Postgres is thrown away until the new one is whole. Found at a start, it says
//! that a crash came between: what is there is neither the old nor the new, and is thrown away again.

use super::{Error, Manager, Stage};
use crate::admin::client;
use crate::config::Config;
use crate::pg::server::Shutdown;
use crate::raft;
use crate::seed::{self, Giver};
use howdah_protocol::InstanceId;
use howdah_protocol::admin::{NodeStatus, Role};
use std::cmp::Reverse;
use std::fs;
use std::io;
use std::time::Duration;

const LEADER_TIMEOUT: Duration = Duration::from_secs(30);
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// A follower that is behind by more has enough to do.
const LAG_MAX_MS: u64 = 5_000;
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often a node that joins looks whether it was added.
const ADDED_POLL: Duration = Duration::from_millis(100);

impl Manager {
    /// A managed Postgres that is not there yet on a node that joins, or that was left half full.
    pub(super) fn must_be_seeded(&self) -> bool {
        let is_new = self.config.join && !self.config.pg_data().exists();
        self.server.is_some() && (is_new || self.config.seeding_mark().exists())
    }

    /// Throws this node's Postgres away and fills a new one.
    pub(super) async fn seed(&mut self) -> Result<Stage, Error> {
        if self.config.join && !self.wait_until_added().await {
            return Ok(Stage::Stop);
        }
        self.say(Role::Seeding, "waiting for a leader");
        if self.config.pg_data().exists() {
            self.demote().await.map_or_else(|error| tracing::warn!(%error, "closing before seeding"), |_| ());
        }
        let leader = other_leader(&self.config, &self.raft).await?;
        // Nothing is thrown away for a node that leads the log and has no rows to give: it may be about to be seeded itself.
        wait_until_open(&leader.address).await?;
        let followers = if self.spares_followers { Vec::new() } else { self.followers(&leader).await };
        self.leave_behind().await;
        let why = self.repairs.notice.as_deref().unwrap_or("a new node");
        self.say(Role::Seeding, format!("seeding from another node; {why}"));
        let mark = self.config.seeding_mark();
        let Some(server) = &mut self.server else {
            return Err(Error::Stopped("an attached PostgreSQL is not wiped: empty its database and start the sidecar again".into()));
        };
        if self.config.pg_data().exists() {
            server.stop(Shutdown::Immediate).await?;
        }
        set_mark(&mark).map_err(seed::Error::File)?;
        server.wipe()?;
        server.init().await?;
        server.start().await?;
        let instance = InstanceId(rand::random::<u64>() >> 1);
        let settled = crate::pg::schema::settle(&self.config, &self.target, instance).await?;
        (self.instance, self.version) = (settled.instance, settled.version);
        self.spares_followers = !followers.is_empty();
        let sink = seed::Sink { config: &self.config, target: &self.target, raft: &self.raft, board: &self.board };
        // Large data takes hours. Given up in the middle, the mark stays.
        let origin = tokio::select! {
            filled = Box::pin(sink.fill(&leader, &followers)) => filled?,
            how = Self::postgres_ended(&mut self.server) => return Err(Error::Stopped(format!("PostgreSQL ended: {how}"))),
            _ = self.shutdown.wait_for(|stop| *stop) => return Ok(Stage::Stop),
        };
        fs::remove_file(&mark).map_err(seed::Error::File)?;
        self.spares_followers = false;
        tracing::info!(index = %origin.applied, "seeded");
        Ok(Stage::Reconcile)
    }

    /// Voters that follow well and may give their rows, the one that is furthest first.
    async fn followers(&self, leader: &Giver) -> Vec<Giver> {
        let members = self.raft.members().into_iter();
        let asked = members.filter(|member| member.voter && member.node != self.config.node && member.node != leader.node);
        let asked = asked.map(|member| async move {
            let status = tokio::time::timeout(STATUS_TIMEOUT, client::get_json::<NodeStatus>(&member.admin_addr, "/v1/status")).await;
            let status = status.ok()?.ok().filter(|status| status.id == member.node && follows_well(status))?;
            Some((status.applied_index, Giver { node: member.node, address: member.admin_addr }))
        });
        let mut found: Vec<_> = futures::future::join_all(asked).await.into_iter().flatten().collect();
        found.sort_by_key(|(applied, giver)| (Reverse(*applied), giver.node));
        found.into_iter().map(|(_, giver)| giver).collect()
    }

    /// False when this node is to stop before.
    async fn wait_until_added(&mut self) -> bool {
        let me = self.config.node;
        let added = |raft: &raft::Handle| raft.role().borrow().leader.is_some() && raft.members().iter().any(|member| member.node == me);
        if !added(&self.raft) {
            self.say(Role::Seeding, "waits to be added to the group: howdahctl node add");
        }
        while !added(&self.raft) {
            self.pause(ADDED_POLL).await;
            if *self.shutdown.borrow() || self.raft.role().borrow().stopped.is_some() {
                return false;
            }
        }
        true
    }
}

/// Durable when it returns: the folder is synced, so that the mark is there before anything is thrown away.
fn set_mark(mark: &std::path::Path) -> io::Result<()> {
    fs::File::create(mark)?.sync_all()?;
    mark.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

/// The node itself has the last word.
fn follows_well(status: &NodeStatus) -> bool {
    let identical = status.verified.is_none_or(|last| last.tables_differing == 0);
    status.role == Role::Follower && status.open && status.trouble.is_none() && identical && status.lag_ms <= LAG_MAX_MS
}

/// The leader, which is another node: its address as the log has it, or, before this node has any of the log, as configured.
pub(super) async fn other_leader(config: &Config, raft: &raft::Handle) -> Result<Giver, Error> {
    let me = config.node;
    let mut role = raft.role();
    let found = role.wait_for(|role| role.leader.is_some_and(|leader| leader != me));
    let found = tokio::time::timeout(LEADER_TIMEOUT, found).await.map_err(|_| Error::Late("finding a leader", LEADER_TIMEOUT))?;
    let leader = found.ok().and_then(|role| role.leader);
    let stranger = || Error::Stopped("the leader is not a member that this node knows".into());
    let node = leader.ok_or_else(stranger)?;
    let member = raft.members().into_iter().find(|member| member.node == node).map(|member| member.admin_addr);
    let configured = || config.peers.iter().find(|peer| peer.node == node).map(|peer| peer.admin.clone());
    let address = member.or_else(configured).ok_or_else(stranger)?;
    Ok(Giver { node, address })
}

/// Waits until the leader's PostgreSQL serves writes.
async fn wait_until_open(leader: &str) -> Result<(), Error> {
    let opened = async {
        loop {
            let status = tokio::time::timeout(STATUS_TIMEOUT, client::get_json::<NodeStatus>(leader, "/v1/status")).await;
            if status.is_ok_and(|status| status.is_ok_and(|status| status.role == Role::Leader && status.open)) {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(LEADER_TIMEOUT, opened).await.map_err(|_| Error::Late("the leader to open", LEADER_TIMEOUT))
}
