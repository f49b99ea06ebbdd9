//! Comparing from time to time without being asked. Every node keeps the time, and the one that leads does it.
//!
//! The first run comes at a random part of the interval, so that groups that were started together do not all do it together. A run rests
//! twice as long as it works.

use super::Verifier;
use howdah_protocol::verify::{VerifyProgress, VerifyRequest};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

#[derive(Debug)]
pub struct Schedule {
    pub verifier: Verifier,
    /// Zero: never.
    pub interval: Duration,
}

impl Schedule {
    /// Until the process ends.
    pub async fn run(self) {
        if self.interval.is_zero() {
            return;
        }
        tokio::time::sleep(self.interval.mul_f64(rand::random())).await;
        loop {
            if self.verifier.leads() && !self.was_done_lately() {
                self.once().await;
            }
            tokio::time::sleep(self.interval).await;
        }
    }

    /// By the leader before this one, or on demand.
    fn was_done_lately(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = |at_ms| now.saturating_sub(Duration::from_millis(at_ms));
        self.verifier.last().is_some_and(|last| since(last.at_ms) < self.interval / 2)
    }

    async fn once(&self) {
        let progress = watch::Sender::new(VerifyProgress::default());
        let Ok(permit) = self.verifier.permit() else { return };
        match self.verifier.run(permit, &VerifyRequest { repair: false }, true, &progress).await {
            Ok(report) => {
                let (index, tables) = (report.index, report.tables.len());
                tracing::info!(%index, tables, identical = report.identical, absent = ?report.absent, "compared all nodes");
            }
            Err(error) => tracing::warn!(%error, "the nodes could not be compared; it is tried again in time"),
        }
    }
}
