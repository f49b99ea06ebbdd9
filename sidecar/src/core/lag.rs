//! How old the oldest decided entry is that is not applied yet.

use howdah_protocol::LogIndex;
use std::collections::VecDeque;

/// Samples are merged beyond this many: a long lag is told a little too small at most.
const SAMPLES_MAX: usize = 1024;

/// Times are milliseconds of one monotonic clock.
#[derive(Debug, Default)]
pub struct Lag {
    /// (index, when it was seen decided), both rising.
    decided: VecDeque<(LogIndex, u64)>,
}

impl Lag {
    pub fn decided(&mut self, index: LogIndex, now_ms: u64) {
        if self.decided.back().is_some_and(|(last, _)| *last >= index) {
            return;
        }
        if self.decided.len() == SAMPLES_MAX {
            // The newest sample stands for what came after it too: its age is the larger one.
            if let Some(last) = self.decided.back_mut() {
                last.0 = index;
            }
            return;
        }
        self.decided.push_back((index, now_ms));
    }

    pub fn applied(&mut self, index: LogIndex) {
        while self.decided.front().is_some_and(|(first, _)| *first <= index) {
            self.decided.pop_front();
        }
    }

    /// Also when the oldest was decided just now: its age grows.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.decided.is_empty()
    }

    #[must_use]
    pub fn age_ms(&self, now_ms: u64) -> u64 {
        self.decided.front().map_or(0, |(_, since)| now_ms.saturating_sub(*since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_unapplied_entry_counts() {
        let mut lag = Lag::default();
        lag.decided(LogIndex(1), 10);
        lag.decided(LogIndex(5), 20);
        assert_eq!(lag.age_ms(25), 15);
        assert_eq!((lag.age_ms(10), lag.is_behind()), (0, true));
        lag.applied(LogIndex(1));
        assert_eq!(lag.age_ms(25), 5);
        lag.applied(LogIndex(5));
        assert_eq!((lag.age_ms(25), lag.is_behind()), (0, false));
    }

    #[test]
    fn samples_are_bounded() {
        let mut lag = Lag::default();
        (1..=5000).for_each(|index| lag.decided(LogIndex(index), index));
        lag.applied(LogIndex(4999));
        assert_eq!((lag.decided.len(), lag.age_ms(5000)), (1, 5000 - 1024));
    }
}
