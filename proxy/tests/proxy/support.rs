//! What the tests run against: one real PostgreSQL, stand-ins for sidecars, and the proxy's binary.
//!
//! One server stands for all nodes of a group: the stand-in sidecars decide who leads and how far each has applied, and a follower's
//! connections are read only because the proxy opens them so.

pub mod postgres;
pub mod proxy;
pub mod raw;
pub mod sidecar;

use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Polls until the condition holds.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < until, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
