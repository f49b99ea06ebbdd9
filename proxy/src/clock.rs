//! The proxy's only source of time: milliseconds on one machine's monotonic clock, counted from the start of the process.
//!
//! Everything that decides by time takes such a number as an argument, so that it can be tested with made-up time.
//! Never compared between machines.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Milliseconds since the process asked for the time first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Millis(pub(crate) u64);

impl Millis {
    /// Time from `earlier` to this; zero when `earlier` is later.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// The time now.
pub(crate) fn now() -> Millis {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    Millis(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}
