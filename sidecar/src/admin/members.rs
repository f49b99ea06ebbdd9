//! Changes of the group's membership, one step per call.
//!
//! ```text
//! add:     not a member --learner decided--> learner, seeded by itself --open, caught up--> voter
//! remove:  leader --hand-over--> follower --decided--> no member
//! ```
//!
//! Nothing is remembered between calls: each looks at the membership in the log, does the next step, and says where the node stands.
//! So an addition goes on when the leader changes in the middle, or whoever asked comes back later. What is left by one that is given up
//! is a learner, which counts for no majority; it is removed like any other member.

use super::client::{self, get_json};
use super::{Admin, Body, json, problem};
use crate::core::membership::{self, Addition, Refusal};
use crate::raft;
use howdah_protocol::NodeId;
use howdah_protocol::admin::{AddMember, Member, MemberState, MemberStep, Members, NodeStatus, Role, SwitchoverRequest};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use std::collections::BTreeSet;
use std::time::Duration;

/// A member that has not answered the leader for this long counts as dead.
const LIVING_ACK_AGE_MAX: Duration = Duration::from_secs(3);
/// A learner that lags more gets no vote: a majority that needs it would have to wait.
const VOTER_LAG_MS_MAX: u64 = 2_000;
const NODE_TIMEOUT: Duration = Duration::from_secs(3);

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("this node is not the leader; the leader is {}", .0.map_or_else(|| "not known".to_owned(), |node| format!("node {node}")))]
    NotLeader(Option<NodeId>),
    #[error("node {node} does not answer at {admin}: {source}")]
    Silent { node: NodeId, admin: String, source: client::Error },
    #[error("node {node} does not answer at {admin} in time")]
    Late { node: NodeId, admin: String },
    #[error("at {admin} answers node {found} of cluster \"{cluster}\" with its PostgreSQL at {sql}, not what was asked for")]
    Other { admin: String, found: NodeId, cluster: String, sql: String },
    #[error(transparent)]
    Raft(#[from] raft::Error),
}

impl Error {
    fn answer(&self) -> Response<Body> {
        let (status, hint) = match self {
            Self::Refused(refusal) => (StatusCode::CONFLICT, Some(refusal.hint())),
            Self::NotLeader(_) => (StatusCode::SERVICE_UNAVAILABLE, Some("ask the leader")),
            Self::Silent { .. } | Self::Late { .. } => (StatusCode::CONFLICT, Some("start its sidecar first, with join = true")),
            Self::Other { .. } => (StatusCode::CONFLICT, Some("compare with that sidecar's configuration file")),
            Self::Raft(_) => (StatusCode::SERVICE_UNAVAILABLE, Some("try again: a change that was begun goes on")),
        };
        problem(status, &self.to_string(), hint)
    }
}

impl Admin {
    pub(super) fn members(&self) -> Response<Body> {
        let ids_used = self.raft.ids_used().into_iter().collect();
        json(StatusCode::OK, &Members { members: self.known_members(), ids_used })
    }

    pub(super) async fn add_member(&self, request: Request<Incoming>) -> Response<Body> {
        let Some(new) = super::body_json::<AddMember>(request).await else {
            return problem(StatusCode::BAD_REQUEST, "the body is not {\"node\": id, \"admin\": host:port, \"sql\": host:port}", None);
        };
        match self.take_in(&new).await {
            Ok(step) => json(StatusCode::OK, &step),
            Err(error) => error.answer(),
        }
    }

    async fn take_in(&self, new: &AddMember) -> Result<MemberStep, Error> {
        self.must_lead()?;
        let addition = membership::add(&self.known_members(), &self.raft.ids_used(), new)?;
        let joining = |detail: String| MemberStep { node: new.node, state: MemberState::Joining, detail, seeding: None };
        let status = match self.ask(new).await {
            Ok(status) => status,
            // A member already, it may be away for a while.
            Err(error @ (Error::Silent { .. } | Error::Late { .. })) if addition == Addition::Promote => {
                return Ok(joining(error.to_string()));
            }
            Err(error) => return Err(error),
        };
        match addition {
            Addition::Admit => {
                self.raft.add_learner(raft::Peer { node: new.node, admin_addr: new.admin.clone(), sql_addr: new.sql.clone() }).await?;
                tracing::info!(node = %new.node, admin = new.admin, "a new member follows");
                Ok(joining("follows without a vote".to_owned()))
            }
            Addition::Promote if !(status.role == Role::Follower && status.open) => {
                Ok(MemberStep { seeding: status.seeding, ..joining(format!("{}: {}", status.role, status.detail)) })
            }
            Addition::Promote if status.lag_ms > VOTER_LAG_MS_MAX => Ok(joining(format!("catches up, {} ms behind", status.lag_ms))),
            Addition::Promote => {
                self.raft.add_voter(new.node).await?;
                tracing::info!(node = %new.node, "the new member votes");
                Ok(MemberStep { node: new.node, state: MemberState::Voter, detail: "votes".to_owned(), seeding: None })
            }
        }
    }

    /// The new node as it says it is. A typing error in an address must not become a member that never answers.
    async fn ask(&self, new: &AddMember) -> Result<NodeStatus, Error> {
        let (node, admin) = (new.node, new.admin.clone());
        let asked = tokio::time::timeout(NODE_TIMEOUT, get_json::<NodeStatus>(&admin, "/v1/status")).await;
        let Ok(answered) = asked else { return Err(Error::Late { node, admin }) };
        let status = answered.map_err(|source| Error::Silent { node, admin: admin.clone(), source })?;
        let cluster = self.status.borrow().cluster.clone();
        if (status.id, &status.cluster, status.group, &status.sql_address) != (node, &cluster, self.group, &new.sql) {
            return Err(Error::Other { admin, found: status.id, cluster: status.cluster, sql: status.sql_address });
        }
        Ok(status)
    }

    pub(super) async fn remove_member(&self, request: Request<Incoming>) -> Response<Body> {
        let Some(howdah_protocol::admin::RemoveMember { node }) = super::body_json(request).await else {
            return problem(StatusCode::BAD_REQUEST, "the body is not {\"node\": id}", None);
        };
        match self.let_go(node).await {
            Ok(Some(step)) => json(StatusCode::OK, &step),
            Ok(None) => match self.hand_over(SwitchoverRequest::default()).await {
                Ok(done) => {
                    let detail = format!("handed over to node {}", done.to);
                    json(StatusCode::OK, &MemberStep { node, state: MemberState::HandedOver, detail, seeding: None })
                }
                // It may go better the next time.
                Err(mut refused) => {
                    *refused.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                    refused
                }
            },
            Err(error) => error.answer(),
        }
    }

    /// None: it is this node, which must hand over first.
    async fn let_go(&self, node: NodeId) -> Result<Option<MemberStep>, Error> {
        self.must_lead()?;
        membership::remove(&self.known_members(), &self.living(), node)?;
        if node == self.status.borrow().id {
            return Ok(None);
        }
        self.raft.remove_member(node).await?;
        tracing::info!(%node, "a member has left");
        Ok(Some(MemberStep { node, state: MemberState::Removed, detail: "is no member any more".to_owned(), seeding: None }))
    }

    fn must_lead(&self) -> Result<(), Error> {
        let role = self.raft.role();
        let role = role.borrow();
        if role.is_leader { Ok(()) } else { Err(Error::NotLeader(role.leader)) }
    }

    fn living(&self) -> BTreeSet<NodeId> {
        let progress = self.raft.peers_progress();
        let answering = progress.iter().filter(|peer| peer.ack_age.is_some_and(|age| age <= LIVING_ACK_AGE_MAX)).map(|peer| peer.node);
        answering.chain([self.status.borrow().id]).collect()
    }

    fn known_members(&self) -> Vec<Member> {
        let member =
            |member: raft::Member| Member { node: member.node, admin: member.admin_addr, sql: member.sql_addr, voter: member.voter };
        self.raft.members().into_iter().map(member).collect()
    }
}
