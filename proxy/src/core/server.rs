//! What a server connection holds beyond its socket: statements, settings, and whether it may be used again.

use super::vars::Settings;
use std::collections::{HashSet, VecDeque};

/// Statements that one server connection keeps; the oldest is closed for a new one.
pub(crate) const PREPARED_MAX: usize = 1000;

/// State of one server connection.
#[derive(Debug, Default)]
pub(crate) struct ServerState {
    prepared: HashSet<u64>,
    /// In the order in which they were prepared, for eviction.
    order: VecDeque<u64>,
    /// The statement that the unnamed name means here.
    pub(crate) unnamed: Option<u64>,
    /// What was set here beyond the startup parameters.
    pub(crate) settings: Settings,
    /// A follower's: opened with `default_transaction_read_only`.
    pub(crate) read_only: bool,
    /// Close it when the session gives it back: plans are stale, or it holds state that cannot be taken back.
    pub(crate) spent: bool,
}

impl ServerState {
    pub(crate) fn new(read_only: bool) -> Self {
        Self { read_only, ..Self::default() }
    }

    pub(crate) fn has(&self, id: u64) -> bool {
        self.prepared.contains(&id)
    }

    /// Notes a statement that is being prepared; returns the one to close for it.
    pub(crate) fn prepare(&mut self, id: u64) -> Option<u64> {
        let evicted = if self.prepared.len() >= PREPARED_MAX { self.evict() } else { None };
        if self.prepared.insert(id) {
            self.order.push_back(id);
        }
        evicted
    }

    fn evict(&mut self) -> Option<u64> {
        while let Some(oldest) = self.order.pop_front() {
            if self.prepared.remove(&oldest) {
                return Some(oldest);
            }
        }
        None
    }

    /// The server did not take it.
    pub(crate) fn forget(&mut self, id: u64) {
        self.prepared.remove(&id);
        self.order.retain(|known| *known != id);
    }

    /// DEALLOCATE ALL, DISCARD ALL.
    pub(crate) fn forget_all(&mut self) {
        self.prepared.clear();
        self.order.clear();
        self.unnamed = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_statement_makes_room() {
        let mut state = ServerState::default();
        for id in 0..PREPARED_MAX as u64 {
            assert_eq!(state.prepare(id), None);
        }
        state.forget(0);
        assert_eq!(state.prepare(5000), None);
        assert_eq!(state.prepare(5001), Some(1));
        assert!(!state.has(0) && !state.has(1) && state.has(2) && state.has(5001));
    }
}
