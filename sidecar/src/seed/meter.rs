//! Counts what has come, and tells it now and then.

use super::plan::Plan;
use howdah_protocol::NodeId;
use howdah_protocol::admin::{Seeding, SeedingStage};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Each telling costs every node and proxy a message.
const TELL_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct Meter {
    began: Instant,
    state: Mutex<State>,
    tell: watch::Sender<Option<Seeding>>,
}

#[derive(Debug)]
struct State {
    now: Seeding,
    told_at: Instant,
}

impl Meter {
    pub(super) fn start(tell: watch::Sender<Option<Seeding>>) -> Self {
        let now = Instant::now();
        let meter = Self { began: now, state: Mutex::new(State { now: Seeding::default(), told_at: now }), tell };
        meter.stage(SeedingStage::Log);
        meter
    }

    pub(super) fn stage(&self, stage: SeedingStage) {
        self.change(true, |now| now.stage = stage);
    }

    pub(super) fn plan(&self, giver: NodeId, plan: &Plan) {
        self.change(true, |now| {
            now.from = Some(giver);
            now.bytes_total = plan.pieces.iter().map(|piece| piece.bytes).sum();
            now.rows_total = plan.tables.iter().map(|table| table.rows).sum();
        });
    }

    pub(super) fn bytes(&self, bytes: u64) {
        self.change(false, |now| now.bytes_done += bytes);
    }

    pub(super) fn rows(&self, rows: u64) {
        self.change(false, |now| {
            now.rows_done += rows;
            now.rows_total = now.rows_total.max(now.rows_done);
        });
    }

    pub(super) fn now(&self) -> Seeding {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).now
    }

    fn change(&self, at_once: bool, change: impl FnOnce(&mut Seeding)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state.now);
        state.now.seconds = self.began.elapsed().as_secs();
        if at_once || state.told_at.elapsed() >= TELL_EVERY {
            state.told_at = Instant::now();
            self.tell.send_replace(Some(state.now));
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.tell.send_replace(None);
    }
}

/// Tells a piece's bytes while it is copied. What comes over the network is as much as what the giver stores only about: it
/// never tells more than the piece has, and in the end exactly that.
#[derive(Debug)]
pub(super) struct PieceMeter<'a> {
    meter: &'a Meter,
    left: u64,
}

impl<'a> PieceMeter<'a> {
    pub(super) const fn new(meter: &'a Meter, bytes: u64) -> Self {
        Self { meter, left: bytes }
    }

    pub(super) fn came(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX).min(self.left);
        self.left -= bytes;
        self.meter.bytes(bytes);
    }

    pub(super) fn done(self, rows: u64) {
        self.meter.bytes(self.left);
        self.meter.rows(rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_piece_counts_for_exactly_its_bytes() {
        let tell = watch::Sender::new(None);
        let meter = Meter::start(tell.clone());
        for came in [30, 500] {
            let mut piece = PieceMeter::new(&meter, 100);
            piece.came(came);
            piece.done(7);
        }
        assert_eq!((meter.now().bytes_done, meter.now().rows_done, meter.now().rows_total), (200, 14, 14));
        meter.stage(SeedingStage::Indexes);
        assert_eq!(*tell.borrow(), Some(meter.now()));
        drop(meter);
        assert_eq!(*tell.borrow(), None, "nothing is under way any more");
    }
}
