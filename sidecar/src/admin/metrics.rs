//! What Prometheus reads. Names carry their unit.

use crate::status::{Board, Repairs, Verification};
use crate::{apply, capture};
use howdah_protocol::admin::{NodeStatus, Role, Seeding};
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
    trouble: IntGauge,
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
            trouble: int("howdah_trouble", "1 while something is wrong with this node's PostgreSQL or disks; its status says what"),
            registry,
        }
    }

    pub(crate) fn render(&self, status: &NodeStatus, board: &Board) -> String {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.open.set(status.open.into());
        self.leader.set((status.role == Role::Leader).into());
        self.trouble.set(status.trouble.is_some().into());
        self.term.set(number(status.term.0));
        self.committed.set(number(status.committed_index.0));
        self.applied.set(number(status.applied_index.0));
        #[expect(clippy::cast_precision_loss, reason = "a lag in ms fits a double for 285,000 years")]
        self.lag.set(status.lag_ms as f64 / 1000.0);
        let mut text = TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_else(|error| format!("# {error}\n"));
        if let Some(gate) = board.gate.borrow().as_deref() {
            gate_text(&mut text, gate);
        }
        if let Some(applier) = board.applier.borrow().as_ref() {
            apply_text(&mut text, &applier.borrow());
        }
        repair_text(&mut text, *board.repairs.borrow());
        seed_text(&mut text, status.seeding.unwrap_or_default());
        verify_text(&mut text, *board.verification.borrow());
        text
    }
}

/// Counters of the present gate: they start over with each promotion, as counters may.
fn gate_text(text: &mut String, gate: &capture::Metrics) {
    let now = gate.snapshot();
    counter(text, "howdah_gate_transactions_total", "Transactions captured on this node", now.transactions);
    counter(text, "howdah_gate_empty_transactions_total", "Transactions with nothing for the log", now.empty);
    counter(text, "howdah_gate_received_bytes_total", "Bytes decoded by PostgreSQL", now.received_bytes);
    counter(text, "howdah_gate_entries_total", "Log entries proposed", now.entries);
    counter(text, "howdah_gate_entry_bytes_total", "Bytes of log entries proposed", now.entry_bytes);
    counter(text, "howdah_gate_confirmations_total", "Positions confirmed to PostgreSQL", now.confirmations);
    let name = "howdah_gate_confirm_seconds";
    *text += &format!("# HELP {name} From the first read of an entry's changes to its confirmation\n# TYPE {name} histogram\n");
    let (mut below, histogram) = (0, &gate.confirm_us);
    for (bound, count) in histogram.buckets() {
        below += count;
        let bound = bound.map_or_else(|| "+Inf".to_owned(), seconds);
        *text += &format!("{name}_bucket{{le=\"{bound}\"}} {below}\n");
    }
    *text += &format!("{name}_sum {}\n{name}_count {below}\n", seconds(histogram.sum()));
}

fn apply_text(text: &mut String, applied: &apply::Applied) {
    counter(text, "howdah_apply_transactions_total", "Transactions of other nodes applied here", applied.transactions);
    counter(text, "howdah_apply_batches_total", "Local transactions that applied them", applied.batches);
    counter(text, "howdah_apply_fallbacks_total", "Batches that had to be applied row by row", applied.fallbacks);
    counter(
        text,
        "howdah_apply_rows_missing_total",
        "Rows that the leader changed and this node did not have; not 0 means it differs",
        applied.rows_missing,
    );
}

fn repair_text(text: &mut String, repairs: Repairs) {
    counter(text, "howdah_repairs_total", "Repairs of this node, which held commits that the group never accepted", repairs.repairs);
    counter(text, "howdah_repair_rows_total", "Row changes that repairs took back; they are in the rollback files", repairs.rows);
    counter(text, "howdah_seeded_again_total", "Times that this node could not go on with its data and was filled anew", repairs.seeded);
    let name = "howdah_repair_seconds";
    *text += &format!("# HELP {name} How long the last repair took\n# TYPE {name} gauge\n{name} {}\n", repairs.seconds);
}

fn seed_text(text: &mut String, seeding: Seeding) {
    let mut gauge = |name: &str, help: &str, value: u64| *text += &format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n");
    gauge(
        "howdah_seed_done_bytes",
        "Of a filling that is under way, the bytes of tables that are here; 0 when there is none",
        seeding.bytes_done,
    );
    gauge("howdah_seed_goal_bytes", "Of a filling that is under way, the bytes of all tables on the leader", seeding.bytes_total);
    gauge("howdah_seed_rows", "Of a filling that is under way, the rows that are here", seeding.rows_done);
}

/// What is known of this node only: nothing before the first comparison.
fn verify_text(text: &mut String, Verification { runs, last }: Verification) {
    counter(text, "howdah_verify_runs_total", "Comparisons of this node with the leader", runs);
    let Some(last) = last else { return };
    let mut gauge = |name: &str, help: &str, value: String| {
        *text += &format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n");
    };
    let at = format!("{}.{:03}", last.at_ms / 1000, last.at_ms % 1000);
    gauge("howdah_verify_last_run_timestamp_seconds", "When this node was last compared with the leader, since 1970", at);
    gauge("howdah_verify_tables", "Tables that were compared then", last.tables.to_string());
    gauge("howdah_verify_tables_differing", "Tables that differed then; not 0 means a fault", last.tables_differing.to_string());
    gauge("howdah_verify_rows_differing", "Rows, at least, that differed then; not 0 means a fault", last.rows_differing.to_string());
}

fn counter(text: &mut String, name: &str, help: &str, value: u64) {
    *text += &format!("# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}\n");
}

/// Microseconds as a decimal number of seconds.
fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
