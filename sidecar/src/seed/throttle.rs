//! Holds all streams of a filling to one rate together.

use crate::core::pace::{CpuTime, Limits, Pace};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Throttle {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pace: Pace,
    /// When the bytes that were let through so far have used up their time.
    free_at: Instant,
    looked_at: Instant,
    cpu: Option<CpuTime>,
}

impl Throttle {
    pub(super) fn new(limits: Limits) -> Self {
        let now = Instant::now();
        Self { state: Mutex::new(State { pace: Pace::new(limits), free_at: now, looked_at: now, cpu: cpu_time() }) }
    }

    /// Returns when so many more bytes may be sent.
    pub(super) async fn take(&self, bytes: usize) {
        let until = self.reserve(bytes, Instant::now());
        tokio::time::sleep_until(until).await;
    }

    #[expect(clippy::cast_precision_loss, reason = "the size of a chunk")]
    fn reserve(&self, bytes: usize, now: Instant) -> Instant {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(state.looked_at) >= LOOK_EVERY {
            let cpu = cpu_time();
            let idle = cpu.zip(state.cpu).and_then(|(cpu, before)| cpu.idle_since(before));
            state.pace.observe(idle);
            state.looked_at = now;
            state.cpu = cpu;
        }
        // Time that nobody used is gone: no burst makes up for it.
        let from = state.free_at.max(now);
        state.free_at = from + Duration::from_secs_f64(bytes as f64 / state.pace.bytes_per_second());
        from
    }
}

/// None where the system does not say: then the rate stays at its floor.
fn cpu_time() -> Option<CpuTime> {
    CpuTime::parse(&std::fs::read_to_string("/proc/stat").ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_share_one_rate() {
        let throttle = Throttle::new(Limits { most: 1000, floor: 1000 });
        let now = Instant::now();
        assert_eq!(throttle.reserve(500, now), now);
        assert_eq!(throttle.reserve(250, now), now + Duration::from_millis(500));
        let later = now + Duration::from_secs(10);
        assert_eq!(throttle.reserve(1, later), later, "unused time is not saved up");
    }
}
