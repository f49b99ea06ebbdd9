//! What Prometheus reads. Names carry their unit.

use howdah_protocol::admin::{NodeStatus, Role};
use prometheus::{Gauge, IntGauge, Registry, TextEncoder};

/// The node's registry; parts register their own counters in it.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub registry: Registry,
    open: IntGauge,
    leader: IntGauge,
    term: IntGauge,
    committed: IntGauge,
    applied: IntGauge,
    lag: Gauge,
}

impl Metrics {
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let int = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help).expect("the name is a valid metric name");
            registry.register(Box::new(gauge.clone())).expect("each name is registered once");
            gauge
        };
        let lag = Gauge::new("howdah_lag_seconds", "Age of the oldest decided entry that is not applied here")
            .expect("the name is a valid metric name");
        registry.register(Box::new(lag.clone())).expect("each name is registered once");
        Self {
            open: int("howdah_open", "1 while clients may connect to this node"),
            leader: int("howdah_leader", "1 while this node is the leader of its group"),
            term: int("howdah_term", "Raft term"),
            committed: int("howdah_committed_index", "Last decided log index known here"),
            applied: int("howdah_applied_index", "Last log index applied to this node's PostgreSQL"),
            lag,
            registry,
        }
    }

    pub(crate) fn render(&self, status: &NodeStatus) -> String {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.open.set(status.open.into());
        self.leader.set((status.role == Role::Leader).into());
        self.term.set(number(status.term.0));
        self.committed.set(number(status.committed_index.0));
        self.applied.set(number(status.applied_index.0));
        #[expect(clippy::cast_precision_loss, reason = "a lag in ms fits a double for 285,000 years")]
        self.lag.set(status.lag_ms as f64 / 1000.0);
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_else(|error| format!("# {error}\n"))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
