//! The consistency and replication modes that a session picks.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A value that a setting does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid value for {setting}: \"{value}\"")]
pub struct BadValue {
    pub setting: &'static str,
    pub value: String,
    /// What would have been taken, for the HINT.
    pub allowed: &'static str,
}

/// What a read promises. Ordered from the strongest to the weakest only where one implies the other; do not compare.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// Sees every commit acknowledged before the read began.
    #[default]
    Linearizable,
    /// Sees the session's own commits.
    ReadYourWrites,
    /// Never goes back.
    Monotonic,
    /// Any prefix of the log.
    Eventual,
}

impl Consistency {
    pub const ALLOWED: &'static str = "linearizable, read_your_writes, monotonic, eventual";

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Linearizable => "linearizable",
            Self::ReadYourWrites => "read_your_writes",
            Self::Monotonic => "monotonic",
            Self::Eventual => "eventual",
        }
    }
}

impl FromStr for Consistency {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        match text.to_ascii_lowercase().as_str() {
            "linearizable" => Ok(Self::Linearizable),
            "read_your_writes" => Ok(Self::ReadYourWrites),
            "monotonic" => Ok(Self::Monotonic),
            "eventual" => Ok(Self::Eventual),
            _ => Err(BadValue { setting: "howdah.consistency", value: text.to_owned(), allowed: Self::ALLOWED }),
        }
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// When a COMMIT is acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replication {
    /// When a majority of the group has it on disk. RPO: nothing while a majority survives.
    #[default]
    Sync,
    /// When the leader's own disk has it. RPO: what was not yet replicated when the leader was lost.
    Async,
}

impl Replication {
    pub const ALLOWED: &'static str = "sync, async";

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Async => "async",
        }
    }

    /// The `synchronous_commit` of the server session. The gate is a synchronous standby, so this is the whole switch.
    #[must_use]
    pub const fn synchronous_commit(self) -> &'static str {
        match self {
            Self::Sync => "on",
            Self::Async => "local",
        }
    }
}

impl FromStr for Replication {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        match text.to_ascii_lowercase().as_str() {
            "sync" => Ok(Self::Sync),
            "async" => Ok(Self::Async),
            _ => Err(BadValue { setting: "howdah.replication", value: text.to_owned(), allowed: Self::ALLOWED }),
        }
    }
}

impl fmt::Display for Replication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_strangers_are_refused_with_the_list() {
        for mode in [Consistency::Linearizable, Consistency::ReadYourWrites, Consistency::Monotonic, Consistency::Eventual] {
            assert_eq!(mode.as_str().parse(), Ok(mode));
            assert!(Consistency::ALLOWED.contains(mode.as_str()));
        }
        let bad = "strong".parse::<Consistency>().expect_err("unknown mode");
        assert_eq!(bad.to_string(), "invalid value for howdah.consistency: \"strong\"");
        assert_eq!("ASYNC".parse(), Ok(Replication::Async));
        assert!("quorum".parse::<Replication>().is_err());
    }
}
