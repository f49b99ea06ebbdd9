//! What the tests run against: one real PostgreSQL, stand-ins for sidecars, and the proxy's binary.
//!
//! One server stands for all nodes of a group: the stand-in sidecars decide who leads and how far each has applied, and a follower's
//! connections are read only because the proxy opens them so.

pub mod postgres;
pub mod proxy;
pub mod raw;
pub mod sidecar;

use std::sync::atomic::{AtomicU32, Ordering};
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

/// Nobody else in this process gets it. Below the kernel's ephemeral ports, of which any connection may take one before its listener does.
pub fn free_port() -> u16 {
    const FROM: u32 = 5_000;
    const COUNT: u32 = 7_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Another process begins elsewhere.
    let place = || (std::process::id().wrapping_mul(131).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed))) % COUNT;
    let ports = std::iter::repeat_with(|| u16::try_from(FROM + place()).expect("a port")).take(COUNT as usize);
    let mut free = ports.filter(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.next().expect("a free port")
}
