//! How fast a node gives its rows to one that is being filled.
//!
//! What nobody else needs is used: while the giver's machine has processor time to spare the rate rises, where it has none the rate falls, down to a
//! floor. The floor is there because on a machine that is always busy a node would otherwise never be filled.

/// Of all processors' time, so much idle means that there is room; less than the second, that there is none.
const ROOM_FROM: f64 = 0.25;
const NO_ROOM_BELOW: f64 = 0.10;
const UP: f64 = 1.5;
const DOWN: f64 = 0.7;

/// Bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Never more than this.
    pub most: u64,
    /// As slow as it gets.
    pub floor: u64,
}

/// The present rate. It begins at the floor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    limits: Limits,
    rate: f64,
}

impl Pace {
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "no rate comes near 2^52 bytes per second")]
    pub fn new(limits: Limits) -> Self {
        let limits = Limits { floor: limits.floor.clamp(1, limits.most.max(1)), most: limits.most.max(1) };
        Self { limits, rate: limits.floor as f64 }
    }

    /// Takes in which share of the processors' time was idle of late. Where that is not known, the rate is what it was.
    #[expect(clippy::cast_precision_loss, reason = "no rate comes near 2^52 bytes per second")]
    pub fn observe(&mut self, idle: Option<f64>) {
        let factor = match idle {
            Some(idle) if idle >= ROOM_FROM => UP,
            Some(idle) if idle < NO_ROOM_BELOW => DOWN,
            _ => 1.0,
        };
        self.rate = (self.rate * factor).clamp(self.limits.floor as f64, self.limits.most as f64);
    }

    #[must_use]
    pub fn bytes_per_second(&self) -> f64 {
        self.rate
    }
}

/// Time of all processors together since the machine started, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuTime {
    idle: u64,
    total: u64,
}

impl CpuTime {
    /// From the text of `/proc/stat`. A processor that waits for a disk is not idle here: then it is the disk that has no room.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        // user nice system idle iowait irq softirq steal; the rest is part of user already.
        let ticks = line.split_whitespace().take(8).map(str::parse).collect::<Result<Vec<u64>, _>>().ok()?;
        Some(Self { idle: *ticks.get(3)?, total: ticks.iter().sum() })
    }

    /// The share that was idle since `before`; `None` when no time has passed.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "ticks of an interval of seconds")]
    pub fn idle_since(self, before: Self) -> Option<f64> {
        let total = self.total.checked_sub(before.total).filter(|total| *total > 0)?;
        Some(self.idle.saturating_sub(before.idle) as f64 / total as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::float_cmp, reason = "clamped to exactly these")]
    fn the_rate_follows_the_room_between_its_limits() {
        let mut pace = Pace::new(Limits { most: 100, floor: 10 });
        assert_eq!(pace.bytes_per_second(), 10.0);
        pace.observe(Some(0.9));
        assert_eq!(pace.bytes_per_second(), 15.0);
        for _ in 0..20 {
            pace.observe(Some(0.9));
        }
        assert_eq!(pace.bytes_per_second(), 100.0);
        pace.observe(Some(0.2));
        pace.observe(None);
        assert_eq!(pace.bytes_per_second(), 100.0, "neither room nor none");
        for _ in 0..20 {
            pace.observe(Some(0.0));
        }
        assert_eq!(pace.bytes_per_second(), 10.0);
        assert_eq!(Pace::new(Limits { most: 5, floor: 10 }).bytes_per_second(), 5.0, "the upper limit counts");
    }

    #[test]
    fn idle_time_is_read_as_the_kernel_writes_it() {
        let at = |text: &str| CpuTime::parse(text).expect("as in /proc/stat");
        let before = at("cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2 3 4\n");
        let after = at("cpu  150 0 120 720 110 0 0 0 60 0\n");
        assert_eq!(after.idle_since(before), Some(0.2));
        assert_eq!(before.idle_since(before), None);
        assert_eq!(CpuTime::parse("intr 1 2 3"), None);
    }
}
