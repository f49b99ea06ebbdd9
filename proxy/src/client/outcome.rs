//! What became of a commit whose answer was lost: the leader's log is asked, while the client waits.
//!
//! Every node that holds the opening of the next leader gives the same answer, and gives it for ever. The open leader is asked: it has its own.

use super::connection::Connection;
use crate::clock;
use crate::core::session::Fate;
use crate::core::view::Serving;
use crate::routing::http::Client;
use howdah_protocol::LogIndex;
use howdah_protocol::admin::Outcome;
use std::time::Duration;

/// Between two questions to a leader that does not know yet.
const ASK_PAUSE: Duration = Duration::from_millis(20);
/// Between two looks for a leader, when the view does not change.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// A transaction whose commit was under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct InDoubt {
    pub(super) serving: Serving,
    pub(super) xid: u64,
    /// The log had this position before its COMMIT was sent.
    pub(super) after: LogIndex,
}

impl Connection {
    /// Asks until somebody knows, at most as long as a statement waits for a leader.
    pub(super) async fn fate(&mut self, in_doubt: InDoubt) -> Fate {
        let limit = self.worker.config.queue();
        let fate = tokio::time::timeout(limit, self.known_fate(in_doubt)).await.unwrap_or(Fate::Unknown);
        let metrics = &self.worker.metrics;
        match fate {
            Fate::Committed => metrics.outcomes_committed_total.add(1),
            Fate::RolledBack => metrics.outcomes_rolled_back_total.add(1),
            Fate::Unknown => metrics.outcomes_unknown_total.add(1),
        }
        fate
    }

    async fn known_fate(&mut self, in_doubt: InDoubt) -> Fate {
        let InDoubt { serving, xid, after } = in_doubt;
        let path = format!("/v1/outcome?node={}&epoch={}&xid={xid}&after={after}", serving.node, serving.epoch);
        let mut client = Client::default();
        loop {
            let Some(address) = self.routes.view().leader(clock::now()).map(|node| node.status.admin_address.clone()) else {
                self.routes.changed(LOOK_PAUSE).await;
                continue;
            };
            let answer = match self.worker.outcome_slots.acquire().await {
                Ok(_slot) => client.get::<Outcome>(&address, &path).await,
                // Never closed; without it nothing can be known.
                Err(_) => return Fate::Unknown,
            };
            match answer {
                Ok(Outcome::Committed { .. }) => return Fate::Committed,
                Ok(Outcome::RolledBack) => return Fate::RolledBack,
                Ok(Outcome::Unknown) => return Fate::Unknown,
                Ok(Outcome::Pending) => {}
                Err(error) => tracing::debug!(%error, "no outcome"),
            }
            tokio::time::sleep(ASK_PAUSE).await;
        }
    }
}
