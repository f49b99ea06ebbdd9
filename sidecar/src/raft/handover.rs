//! Leadership goes from one living node to another: on request, or because the node that has it is not fit to lead.

use super::error::{Error, TransferError};
use super::fitness::{Candidate, Condition, successor};
use super::handle::Handle;
use super::link::Purpose;
use super::role::Member;
use super::types::{LeaderId, Vote};
use crate::core::health::Fit;
use futures::future;
use howdah_protocol::{NodeId, Term};
use openraft::async_runtime::watch::WatchReceiver;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// A node that does not say within this how fit it is cannot lead.
const FIT_WAIT_MAX: Duration = Duration::from_millis(250);
/// Before a hand-over by plan, when nobody waits.
const PLANNED_FIT_WAIT_MAX: Duration = Duration::from_secs(2);

/// From the order to hand over until another node leads, or the attempt has failed or was given up.
struct Yielding<'a>(&'a AtomicBool);

impl<'a> Yielding<'a> {
    fn begin(yields: &'a AtomicBool) -> Self {
        yields.store(true, Ordering::Release);
        Self(yields)
    }
}

impl Drop for Yielding<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Handle {
    /// Whether this node's stage lets it lead soon. One that may not still votes and counts for the majority; it does not stand for election by
    /// itself, and others do not hand over to it unless they are told to, or there is nobody else.
    pub fn set_stage(&self, stage: Fit) {
        self.change_condition(|condition| condition.stage = stage);
    }

    /// Whether this node's Postgres and disks let it lead: says the same as [`Self::set_stage`], for another reason.
    pub fn set_health(&self, health: Fit) {
        self.change_condition(|condition| condition.health = health);
    }

    fn change_condition(&self, change: impl FnOnce(&mut Condition)) {
        self.inner.fitness.change(change);
        self.inner.raft.runtime_config().elect(self.inner.fitness.condition().stands());
    }

    #[must_use]
    pub fn condition(&self) -> watch::Receiver<Condition> {
        self.inner.fitness.watch()
    }

    /// Stands for election unless a leader was heard of just now; neither a leader nor its term is disturbed.
    ///
    /// A node that leaves leading to others must do so now and then: it may be the only one with the whole log, without which no other can be elected.
    pub async fn stand_if_leaderless(&self) -> Result<(), Error> {
        self.inner.raft.trigger().elect(true).await.map_err(|fatal| Error::Stopped(fatal.to_string()))
    }

    /// Hands the leadership to a node that has the log and can lead better than this one, and to no other: among equals it would only go round.
    pub async fn hand_on(&self) -> Result<NodeId, TransferError> {
        self.check_leads()?;
        let mine = self.inner.fitness.fit();
        let found = successor(&self.candidates(FIT_WAIT_MAX).await).filter(|found| found.can() > mine);
        self.transfer_leader(Some(found.ok_or(TransferError::NoCandidate)?.node)).await
    }

    /// Who is to lead next, by plan: `to`, or the follower that can lead soonest. Nobody who can lead less than this node: it would hand on at once.
    pub async fn planned_successor(&self, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        self.check_leads()?;
        let mut candidates = self.candidates(PLANNED_FIT_WAIT_MAX).await;
        if let Some(to) = to {
            self.check_can_take(to)?;
            candidates.retain(|candidate| candidate.node == to);
        }
        let Some(found) = successor(&candidates) else { return Err(to.map_or(TransferError::NoCandidate, TransferError::Unfit)) };
        if found.can() < self.inner.fitness.fit() { Err(TransferError::Unfit(found.node)) } else { Ok(found.node) }
    }

    /// Hands the leadership to `to`, or to the follower that can lead soonest. Returns when another node leads.
    ///
    /// openraft's hand-over has no end: until another node leads, the old leader refuses to write. Here it has: when the time is up,
    /// this node gives its leadership up by a vote of the next term (for the node that did not take it), and stands for election.
    pub async fn transfer_leader(&self, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        let _yielding = Yielding::begin(&self.inner.yields);
        let mut role = self.role();
        let term = role.borrow().term;
        let to = self.transfer_target(to).await?;
        let stopped = |fatal: super::types::Fatal| TransferError::Stopped(fatal.to_string());
        self.inner.raft.trigger().transfer_leader(to.0).await.map_err(stopped)?;
        let wait = self.inner.options.timings.transfer;
        let taken = role.wait_for(|role| role.stopped.is_some() || (role.term > term && role.leader.is_some()));
        let taken = timeout(wait, taken).await.map(|seen| seen.map(|role| (role.leader, role.stopped.clone())));
        match taken {
            Ok(Ok((Some(leader), None))) => Ok(leader),
            Ok(Ok((_, reason))) => Err(TransferError::Stopped(reason.as_deref().unwrap_or("").to_owned())),
            Ok(Err(_)) => Err(TransferError::Stopped(String::new())),
            Err(_) => {
                self.take_back(term, to).await;
                Err(TransferError::TimedOut { to, waited_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX) })
            }
        }
    }

    fn check_leads(&self) -> Result<(), TransferError> {
        let leader = self.inner.role.borrow().leader;
        if leader == Some(self.inner.options.node) { Ok(()) } else { Err(TransferError::NotLeader(leader)) }
    }

    async fn transfer_target(&self, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        self.check_leads()?;
        match to {
            Some(to) => self.check_can_take(to).map(|()| to),
            None => successor(&self.candidates(FIT_WAIT_MAX).await).map(|found| found.node).ok_or(TransferError::NoCandidate),
        }
    }

    fn check_can_take(&self, to: NodeId) -> Result<(), TransferError> {
        let is_voter = self.members().iter().any(|member| member.voter && member.node == to);
        if is_voter && to != self.inner.options.node { Ok(()) } else { Err(TransferError::NotAMember(to)) }
    }

    /// The other voters that this leader reaches, and what they say of themselves.
    async fn candidates(&self, wait: Duration) -> Vec<Candidate> {
        let (last, progress, members) = (self.progress().last_log_index, self.peers_progress(), self.members());
        let voters = members.iter().filter(|member| member.voter && self.is_reachable(member.node));
        let asked = voters.filter_map(|member| {
            let matched = progress.iter().find(|peer| peer.node == member.node)?.matched;
            Some(self.candidate(member, Candidate { node: member.node, matched, last, fit: Fit::Unable }, wait))
        });
        future::join_all(asked).await
    }

    async fn candidate(&self, member: &Member, silent: Candidate, wait: Duration) -> Candidate {
        let client = self.inner.network.client(member.node.0, &member.admin_addr, Purpose::Control);
        match client.call::<_, Fit>("fit", &(), wait).await {
            Ok(fit) => Candidate { fit, ..silent },
            Err(error) => {
                tracing::debug!(node = %member.node, %error, "does not say how fit it is to lead");
                silent
            }
        }
    }

    fn is_reachable(&self, node: NodeId) -> bool {
        let members = self.members();
        let member = members.iter().find(|member| member.node == node);
        member.is_some_and(|member| self.inner.network.links(node.0, &member.admin_addr).link(Purpose::Control).is_up())
    }

    async fn take_back(&self, term: Term, to: NodeId) {
        let data = self.inner.raft.data_metrics();
        let last = data.borrow_watched().last_log;
        let leader_id = LeaderId { term: term.0 + 1, voted_for: to.0 };
        let mut request = super::server::messages::VoteRequest::new(Vote { leader_id, committed: false }, last);
        request.leadership_transfer = true;
        let stepped_down = self.inner.raft.vote(request).await;
        let elected = self.elect().await;
        tracing::warn!(%to, ?stepped_down, ?elected, "the leadership was not taken over, taking it back");
    }

    /// Stands for election now. Other nodes refuse while they hear from a leader.
    pub async fn elect(&self) -> Result<(), Error> {
        self.inner.raft.trigger().elect(false).await.map_err(|fatal| Error::Stopped(fatal.to_string()))
    }
}
