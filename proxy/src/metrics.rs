//! Counters and gauges, as plain atomics: one relaxed addition per event, none per message.
//!
//! Names carry their unit. Everything here is listed by [`Metrics::render`] in the text format of Prometheus.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that goes up, or up and down.
#[derive(Debug, Default)]
pub(crate) struct Number(AtomicU64);

impl Number {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! metrics {
    ($($kind:literal $field:ident $name:literal $help:literal;)*) => {
        #[derive(Debug, Default)]
        pub(crate) struct Metrics {
            $(#[doc = $help] pub(crate) $field: Number,)*
        }

        impl Metrics {
            /// The text format of Prometheus.
            pub(crate) fn render(&self) -> String {
                let mut text = String::new();
                $(
                    let _ = writeln!(text, "# HELP {0} {1}\n# TYPE {0} {2}\n{0} {3}", $name, $help, $kind, self.$field.get());
                )*
                text
            }
        }
    };
}

metrics! {
    "gauge" clients "howdah_proxy_clients" "Clients connected now.";
    "counter" clients_total "howdah_proxy_clients_total" "Clients that logged in.";
    "counter" clients_refused_total "howdah_proxy_clients_refused_total" "Connections refused because clients_max was reached.";
    "counter" logins_failed_total "howdah_proxy_logins_failed_total" "Logins that failed.";
    "counter" units_leader_total "howdah_proxy_units_leader_total" "Queries and pipelines that began on the leader.";
    "counter" units_follower_total "howdah_proxy_units_follower_total" "Queries and pipelines that began on a follower.";
    "counter" units_local_total "howdah_proxy_units_local_total" "Queries and pipelines answered by the proxy itself.";
    "counter" retries_leader_total "howdah_proxy_retries_leader_total" "Reads that a follower refused as writes and that ran on the leader.";
    "counter" retries_lost_total "howdah_proxy_retries_lost_total" "Units that ran again because their server connection was lost.";
    "counter" transactions_lost_total "howdah_proxy_transactions_lost_total" "Open transactions and commits whose server connection was lost.";
    "counter" outcomes_committed_total "howdah_proxy_outcomes_committed_total" "Commits whose answer was lost, and that the log says were committed.";
    "counter" outcomes_rolled_back_total "howdah_proxy_outcomes_rolled_back_total" "Commits whose answer was lost, and that the log says can never be.";
    "counter" outcomes_unknown_total "howdah_proxy_outcomes_unknown_total" "Commits whose answer was lost, and of which the log could not tell.";
    "counter" lease_waits_total "howdah_proxy_lease_waits_total" "Waits for a leader that has a majority behind it.";
    "counter" leader_waits_total "howdah_proxy_leader_waits_total" "Waits for a leader.";
    "counter" leader_wait_timeouts_total "howdah_proxy_leader_wait_timeouts_total" "Waits for a leader that ended without one.";
    "counter" follower_waits_total "howdah_proxy_follower_waits_total" "Waits for a follower to catch up.";
    "counter" pool_waits_total "howdah_proxy_pool_waits_total" "Waits for a free server connection.";
    "gauge" server_connections "howdah_proxy_server_connections" "Server connections open now.";
    "counter" server_connections_total "howdah_proxy_server_connections_total" "Server connections opened.";
    "counter" server_connect_errors_total "howdah_proxy_server_connect_errors_total" "Server connections that could not be opened.";
    "counter" server_epoch_mismatches_total "howdah_proxy_server_epoch_mismatches_total" "New server connections that served another epoch than announced.";
    "counter" cancels_forwarded_total "howdah_proxy_cancels_forwarded_total" "Cancel requests forwarded to a server.";
    "counter" cancels_dropped_total "howdah_proxy_cancels_dropped_total" "Cancel requests dropped: nothing to cancel, or a commit in flight.";
    "counter" pinned_sessions_total "howdah_proxy_pinned_sessions_total" "Times that a session was pinned to its server connection.";
    "counter" protocol_violations_total "howdah_proxy_protocol_violations_total" "Connections ended because of malformed messages.";
    "counter" committed_questions_total "howdah_proxy_committed_questions_total" "Questions to the leader's sidecar for its committed index.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_help_and_type() {
        let metrics = Metrics::default();
        metrics.clients.add(3);
        metrics.clients.sub(1);
        let text = metrics.render();
        assert!(text.contains("# TYPE howdah_proxy_clients gauge\nhowdah_proxy_clients 2\n"));
        assert_eq!(text.matches("# HELP").count(), text.matches("# TYPE").count());
    }
}
