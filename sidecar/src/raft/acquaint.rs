//! Tells every member which logs this node knows (see `roster`). Followers have nothing else to say to each other before the first election,
//! in which it is too late to find out whether a voter's disk is the one that it was.

use super::link::Purpose;
use super::network::Network;
use super::roster::Roster;
use super::types::Raft;
use futures::future;
use openraft::async_runtime::watch::WatchReceiver;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::sleep;

/// Node and number of its log. It only grows.
pub(crate) type Known = BTreeMap<u64, u64>;
pub(crate) const MEET: &str = "meet";

const LOOK_EVERY: Duration = Duration::from_secs(1);
const MEET_WAIT_MAX: Duration = Duration::from_secs(1);

/// Runs until it is dropped. Whoever does not answer is told later.
pub(crate) async fn run(node: u64, raft: Raft, network: Network, roster: Roster) {
    let mut server = raft.server_metrics();
    // How much each was told.
    let mut told: BTreeMap<u64, usize> = BTreeMap::new();
    loop {
        let known = roster.known();
        let members: Vec<_> = {
            let server = server.borrow_and_update();
            let members = server.membership_config.membership().nodes().map(|(member, address)| (*member, address.admin.clone()));
            members.filter(|(member, _)| *member != node && told.get(member) != Some(&known.len())).collect()
        };
        let meetings = members.into_iter().map(async |(member, address)| {
            let client = network.client(member, &address, Purpose::Control);
            (member, client.call::<_, Known>(MEET, &known, MEET_WAIT_MAX).await)
        });
        for (member, answer) in future::join_all(meetings).await {
            match answer.map(|theirs| roster.learn(&theirs)) {
                Ok(Ok(())) => drop(told.insert(member, known.len())),
                Ok(Err(error)) => tracing::warn!(%error, "will be tried again"),
                Err(error) => tracing::debug!(member, %error, "not met yet"),
            }
        }
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            changed = server.changed() => if changed.is_err() {
                return;
            },
        }
    }
}
