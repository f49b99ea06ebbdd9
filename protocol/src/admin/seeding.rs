//! How far the filling of a node is.

use crate::ids::NodeId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a filling does, in this order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeedingStage {
    /// The node gets the log up to where the leader is.
    #[default]
    Log,
    Schema,
    Rows,
    /// Indexes, constraints, statistics.
    Indexes,
}

/// Progress of a filling. Bytes are those of the tables as their giver stores them, so that done and total are of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seeding {
    pub stage: SeedingStage,
    /// The node that gives the rows, once it is found: a follower, or else the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<NodeId>,
    pub bytes_done: u64,
    pub bytes_total: u64,
    pub rows_done: u64,
    /// As the giver's statistics have it: an estimate until the rows are there.
    pub rows_total: u64,
    /// Since it began.
    pub seconds: u64,
}

impl Seeding {
    /// Of the rows' bytes, 0 to 1.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    pub fn share(&self) -> f64 {
        match self.stage {
            SeedingStage::Log | SeedingStage::Schema => 0.0,
            SeedingStage::Indexes => 1.0,
            SeedingStage::Rows if self.bytes_total == 0 => 1.0,
            SeedingStage::Rows => (self.bytes_done as f64 / self.bytes_total as f64).min(1.0),
        }
    }
}

impl fmt::Display for Seeding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.seconds;
        if let Some(node) = self.from {
            write!(f, "from node {node}: ")?;
        }
        match self.stage {
            SeedingStage::Log => write!(f, "gets the log, {seconds} s"),
            SeedingStage::Schema => write!(f, "makes the tables, {seconds} s"),
            SeedingStage::Rows => {
                let (done, total) = (self.bytes_done >> 20, self.bytes_total >> 20);
                let percent = self.share() * 100.0;
                write!(f, "{percent:.0} %, {done} of {total} MiB, {} of about {} rows, {seconds} s", self.rows_done, self.rows_total)
            }
            SeedingStage::Indexes => write!(f, "{} rows are there, makes indexes, {seconds} s", self.rows_done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_in_words_and_as_json() {
        let rows = SeedingStage::Rows;
        let mut seeding =
            Seeding { stage: rows, from: None, bytes_done: 256 << 20, bytes_total: 1 << 30, rows_done: 7, rows_total: 30, seconds: 9 };
        assert_eq!(seeding.to_string(), "25 %, 256 of 1024 MiB, 7 of about 30 rows, 9 s");
        assert!(serde_json::to_value(seeding).expect("plain data").get("from").is_none());
        seeding.from = Some(NodeId(2));
        assert_eq!(seeding.to_string(), "from node 2: 25 %, 256 of 1024 MiB, 7 of about 30 rows, 9 s");
        assert_eq!(serde_json::to_value(seeding).expect("plain data")["from"], 2);
        assert_eq!(serde_json::to_value(seeding).expect("plain data")["stage"], "rows");
        seeding.bytes_done = 2 << 30;
        assert!((seeding.share() - 1.0).abs() < f64::EPSILON);
        assert!(Seeding::default().share().abs() < f64::EPSILON);
    }
}
