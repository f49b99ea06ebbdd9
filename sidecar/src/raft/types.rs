//! openraft's type parameters, and short names for what follows from them.
//!
//! The leader id is the standard one: one leader per term. It makes a log id (term, index), so that a term alone says who wrote an
//! entry; and a proposal can name the term in which it may count.

use bytes::Bytes;
use openraft::{EntryPayload, impls};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a leader puts into the log: one encoded `core::entry::Entry`, and the term in which it may count.
///
/// openraft can lose and win the leadership between taking a proposal and appending it. Without the term such a proposal would land in
/// the log of a later term, after a gap. With it, every node sees from the entry alone that it is void.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proposal {
    pub(crate) term: u64,
    pub(crate) bytes: Bytes,
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes for term {}", self.bytes.len(), self.term)
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Whether a proposal counted when it was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    pub(crate) counted: bool,
}

/// Where a member can be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Address {
    pub(crate) admin: String,
    pub(crate) sql: String,
}

#[allow(deprecated, reason = "the macro's default names the runtime by its old path")]
mod config {
    use super::{Address, Proposal, Verdict};

    openraft::declare_raft_types!(
        pub(crate) TypeConfig:
            D = Proposal,
            R = Verdict,
            NodeId = u64,
            Node = Address,
            Term = u64,
            LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
    );
}

pub(crate) use config::TypeConfig;

pub(crate) type LeaderId = impls::leader_id_std::LeaderId<u64, u64>;
pub(crate) type CommittedLeaderId = <LeaderId as openraft::vote::RaftLeaderId>::Committed;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type LogId = openraft::LogId<CommittedLeaderId>;
pub(crate) type Payload = EntryPayload<Proposal, u64, Address>;
pub(crate) type RaftEntry = openraft::Entry<CommittedLeaderId, Payload>;
pub(crate) type StoredMembership = openraft::StoredMembership<CommittedLeaderId, u64, Address>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeaderId, u64, Address>;
pub(crate) type Snapshot = openraft::Snapshot<CommittedLeaderId, u64, Address, bytes::Bytes>;
pub(crate) type AppendRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
pub(crate) type AppendResult = openraft::raft::StreamAppendResult<TypeConfig>;
pub(crate) type Raft = openraft::Raft<TypeConfig, super::machine::Machine>;
pub(crate) type Fatal = openraft::errors::Fatal<TypeConfig>;

#[cfg(test)]
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

/// The bytes of an entry where it counts: a proposal in the term it was made for. Blank and membership entries have none.
pub(crate) fn counted(entry: &RaftEntry) -> Option<&Bytes> {
    match &entry.payload {
        EntryPayload::Normal(proposal) if proposal.term == entry.log_id.leader_id.term => Some(&proposal.bytes),
        _ => None,
    }
}

/// Bytes that an entry takes in memory and in a frame, roughly.
pub(crate) fn weight(payload: &Payload) -> usize {
    const OVERHEAD: usize = 64;
    match payload {
        EntryPayload::Normal(proposal) => OVERHEAD + proposal.bytes.len(),
        EntryPayload::Blank => OVERHEAD,
        EntryPayload::Membership(membership) => OVERHEAD * (1 + membership.nodes().count()),
    }
}
