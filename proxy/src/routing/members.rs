//! Follows members that the configuration does not name: nodes that were added to the group since.
//!
//! The leader is asked for the members once a second. A configured sidecar is followed always, whatever the leader says; one that was found
//! is followed until a leader no longer lists it. Without a leader a follower is asked, and nothing is given up.

use super::follow;
use super::http::Client;
use crate::clock;
use crate::core::view::View;
use howdah_protocol::admin::Members;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const ASK_EVERY: Duration = Duration::from_secs(1);
/// More than a group sensibly has: an answer that lists more is not followed further.
const FOUND_MAX: usize = 64;

struct Followed {
    place: usize,
    task: JoinHandle<()>,
}

/// Runs until nobody looks at the view any more.
pub(super) async fn discover(configured: Vec<String>, sender: Arc<watch::Sender<Arc<View>>>) {
    let mut client = Client::default();
    let mut found: BTreeMap<String, Followed> = BTreeMap::new();
    // Places of those that left, used again.
    let mut free: Vec<usize> = Vec::new();
    while !sender.is_closed() {
        tokio::time::sleep(ASK_EVERY).await;
        let Some((asked, leads)) = whom_to_ask(&sender.borrow()) else { continue };
        let members = match client.get::<Members>(&asked, "/v1/members").await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%error, "the members are not known");
                continue;
            }
        };
        let wanted = wanted(&members, &configured, &places(&sender.borrow(), configured.len()));
        found.retain(|address, followed| {
            let stays = !leads || wanted.contains(address);
            if !stays {
                tracing::info!(sidecar = address, "a member has left");
                followed.task.abort();
                sender.send_modify(|view| Arc::make_mut(view).forget(followed.place));
                free.push(followed.place);
            }
            stays
        });
        for address in wanted {
            if found.len() < FOUND_MAX && !found.contains_key(&address) {
                tracing::info!(sidecar = address, "a new member");
                let mut place = free.pop();
                sender.send_modify(|view| place = Some(place.unwrap_or_else(|| Arc::make_mut(view).grow())));
                let Some(place) = place else { continue };
                let task = tokio::spawn(follow(place, address.clone(), Arc::clone(&sender)));
                found.insert(address, Followed { place, task });
            }
        }
    }
}

/// The leader, or without one any follower: the leader may be a member that is yet to be found. What a follower knows may be old.
fn whom_to_ask(view: &View) -> Option<(String, bool)> {
    let now = clock::now();
    let leader = view.leader(now).map(|node| (node, true));
    let node = leader.or_else(|| view.followers(now).next().map(|node| (node, false)));
    node.map(|(node, leads)| (node.status.admin_address.clone(), leads))
}

/// The ids that configured sidecars have told.
fn places(view: &View, configured: usize) -> BTreeSet<u64> {
    view.first(configured).map(|node| node.status.id.0).collect()
}

/// Addresses of members that no configured sidecar is known to be, by address or, where it goes by another name here, by id.
fn wanted(members: &Members, configured: &[String], heard: &BTreeSet<u64>) -> BTreeSet<String> {
    let unknown = members.members.iter().filter(|member| !configured.contains(&member.admin) && !heard.contains(&member.node.0));
    unknown.map(|member| member.admin.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use howdah_protocol::NodeId;
    use howdah_protocol::admin::Member;

    #[test]
    fn what_is_configured_is_not_followed_twice() {
        let member = |node: u64| Member { node: NodeId(node), admin: format!("h:{node}"), sql: String::new(), voter: true };
        let members = Members { members: [1, 2, 3, 4].map(member).into(), ids_used: Vec::new() };
        let configured = ["h:1".to_owned(), "other-name-of-2:7".to_owned()];
        let wanted = wanted(&members, &configured, &[1, 2].into());
        assert_eq!(wanted.into_iter().collect::<Vec<_>>(), ["h:3", "h:4"]);
    }
}
