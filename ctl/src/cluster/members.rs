//! Nodes that come and go while the cluster runs.
//!
//! Order of an addition, and what a failure leaves:
//!
//! 1. the new node is in the manifest: from here on `up` starts it, and its id is used;
//! 2. its sidecar runs and waits;
//! 3. the leader lets it follow, it is seeded, it votes. Refused: it is stopped and leaves the manifest. Too slow: it stays and goes on by
//!    itself as a learner; it votes when the same addition is asked for again.
//!
//! Of a removal: the leader lets go of it (after handing over, where it led); its processes are stopped; it leaves the manifest. Asked for
//! again after a failure in the middle, it goes on. The folder of a node that left stays, for whoever wants to look into it.

use super::{Cluster, Error, Info, config, ports};
use crate::admin;
use howdah_protocol::NodeId;
use howdah_protocol::admin::{AddMember, MemberState, MemberStep};
use hyper::StatusCode;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(200);
/// How long a change waits for a leader, and for the steps that it does not follow the progress of.
const STEP_TIMEOUT: Duration = Duration::from_secs(90);

/// Is told of every change in what a node is doing.
pub type Progress<'a> = &'a mut (dyn FnMut(&MemberStep) + Send);

impl Cluster {
    /// Adds a node, with this id or the next one, and returns once it votes. `limit` is for filling it: that takes as long as its data is large.
    pub async fn add_node(&mut self, id: Option<NodeId>, limit: Duration, progress: Progress<'_>) -> Result<NodeId, Error> {
        self.add(id, None, limit, progress).await
    }

    async fn add(&mut self, id: Option<NodeId>, leaving: Option<NodeId>, limit: Duration, progress: Progress<'_>) -> Result<NodeId, Error> {
        self.must_be_movable()?;
        let id = match self.begun(id).await? {
            // It may be the one that a new node is to replace.
            Some(begun) if Some(begun) != leaving => begun,
            _ => self.enlist(id)?,
        };
        let nth = self.nth(id)?;
        if self.nodes[nth].is_none() && admin::status(&self.info.nodes[nth].admin.to_string()).await.is_err() {
            self.start_node_process(nth)?;
        }
        self.wait_answering(id, self.options.start_timeout).await?;
        let node = self.info.nodes[nth];
        let new = AddMember { node: id, admin: node.admin.to_string(), sql: node.sql.to_string() };
        let added =
            self.steps(id, limit, MemberState::Voter, progress, async |leader, secret| admin::add_member(leader, secret, &new).await);
        match added.await {
            Ok(()) => Ok(id),
            // The answer to the last step may have been lost.
            Err(Error::Member { .. }) if self.votes(id).await? => Ok(id),
            Err(error @ Error::Member { .. }) if !self.is_member(id).await? => {
                self.stop_node(id).await?;
                self.strike_off(id)?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a node from the group and stops it.
    pub async fn remove_node(&mut self, id: NodeId, progress: Progress<'_>) -> Result<(), Error> {
        self.must_be_movable()?;
        self.nth(id)?;
        if self.is_member(id).await? {
            let removed = self.steps(id, STEP_TIMEOUT, MemberState::Removed, progress, async |leader, secret| {
                admin::remove_member(leader, secret, id).await
            });
            match removed.await {
                Err(Error::Member { .. }) if !self.is_member(id).await.unwrap_or(true) => {}
                other => other?,
            }
        }
        self.stop_node(id).await?;
        self.strike_off(id)
    }

    /// Adds a new node, then removes the old one: at no time are there fewer.
    pub async fn replace_node(
        &mut self,
        old: NodeId,
        new: Option<NodeId>,
        limit: Duration,
        progress: Progress<'_>,
    ) -> Result<NodeId, Error> {
        self.nth(old)?;
        let new = self.add(new, Some(old), limit, progress).await?;
        self.remove_node(old, progress).await?;
        Ok(new)
    }

    /// A node whose addition was begun and that does not vote yet: this one, or any.
    async fn begun(&self, id: Option<NodeId>) -> Result<Option<NodeId>, Error> {
        let joined = |known: &NodeId| id.is_none_or(|id| id == *known) && self.manifest.joined(*known);
        let joined: Vec<NodeId> = self.info.nodes.iter().map(|node| node.id).filter(joined).collect();
        if joined.is_empty() {
            return Ok(None);
        }
        let members = self.members().await?;
        Ok(joined.into_iter().find(|id| !members.iter().any(|member| member.node == *id && member.voter)))
    }

    pub(super) fn must_be_movable(&self) -> Result<(), Error> {
        // Who made the hosts knows the namespaces; the manifest has the addresses only.
        if self.manifest.addresses.is_empty() || self.options.hosts.is_some() { Ok(()) } else { Err(Error::OnHosts) }
    }

    fn enlist(&mut self, id: Option<NodeId>) -> Result<NodeId, Error> {
        let mut manifest = self.manifest.clone();
        let member = manifest.add(id)?;
        let info = Info::new(&manifest);
        ports::must_be_free(&info, |nth| info.nodes[nth].id == member.id, false)?;
        config::write_node(&self.options, &self.layout, &manifest, &info, member.id)?;
        manifest.store(&self.layout.manifest())?;
        config::write_sidecars(&self.layout, &info)?;
        (self.manifest, self.info) = (manifest, info);
        self.nodes.push(None);
        Ok(member.id)
    }

    fn strike_off(&mut self, id: NodeId) -> Result<(), Error> {
        let nth = self.nth(id)?;
        let mut manifest = self.manifest.clone();
        manifest.remove(id);
        manifest.store(&self.layout.manifest())?;
        self.info = Info::new(&manifest);
        self.manifest = manifest;
        self.nodes.remove(nth);
        config::write_sidecars(&self.layout, &self.info)
    }

    /// Repeats a step at whoever leads until it has led to `goal`.
    async fn steps(
        &self,
        node: NodeId,
        limit: Duration,
        goal: MemberState,
        progress: Progress<'_>,
        step: impl AsyncFn(&str, &str) -> Result<MemberStep, admin::Error>,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + limit;
        let mut last: Option<MemberStep> = None;
        let mut trouble = String::new();
        loop {
            match self.step(&step).await {
                Ok(done) => {
                    if last.as_ref() != Some(&done) {
                        progress(&done);
                    }
                    if done.state == goal {
                        return Ok(());
                    }
                    last = Some(done);
                }
                Err(Some(refused)) => return Err(Error::Member { node, source: refused }),
                Err(None) => "no leader answers".clone_into(&mut trouble),
            }
            if Instant::now() >= deadline {
                let seen = last.map_or(trouble, |step| step.detail);
                let what = format!("the change of node {node}");
                return Err(Error::TimedOut { what, after: limit, detail: format!(" (last seen: {seen}); asked for again, it goes on") });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// `Err(None)`: it may go better the next time.
    async fn step(&self, step: &impl AsyncFn(&str, &str) -> Result<MemberStep, admin::Error>) -> Result<MemberStep, Option<admin::Error>> {
        let leader = self.leader_admin().await.ok_or(None)?;
        step(&leader, &self.info.secret).await.map_err(|error| match error {
            // The leadership moved, or another change is under way: both pass.
            admin::Error::Refused { status, .. } if status == StatusCode::SERVICE_UNAVAILABLE => None,
            admin::Error::Refused { .. } => Some(error),
            _ => None,
        })
    }

    async fn leader_admin(&self) -> Option<String> {
        let observed = self.observe().await;
        let leader = observed.leader()?.id;
        self.info.node(leader).map(|node| node.admin.to_string())
    }

    async fn votes(&self, id: NodeId) -> Result<bool, Error> {
        Ok(self.members().await?.iter().any(|member| member.node == id && member.voter))
    }

    async fn is_member(&self, id: NodeId) -> Result<bool, Error> {
        Ok(self.members().await?.iter().any(|member| member.node == id))
    }

    /// As the leader has them.
    async fn members(&self) -> Result<Vec<howdah_protocol::admin::Member>, Error> {
        let deadline = Instant::now() + STEP_TIMEOUT;
        loop {
            if let Some(leader) = self.leader_admin().await
                && let Ok(answer) = admin::members(&leader).await
            {
                return Ok(answer.members);
            }
            if Instant::now() >= deadline {
                return Err(Error::NoLeader(self.observe().await.in_words()));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}
