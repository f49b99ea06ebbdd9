//! The live line: throughput, latency, who leads, how far the followers lag.

use howdah_ctl::cluster::{Info, NodeView, Observed};
use howdah_ctl::core::percentile::percentile;
use howdah_ctl::load::{Load, Window};
use std::time::{Duration, Instant};
use tokio::time::{Interval, MissedTickBehavior, interval};

const PERIOD: Duration = Duration::from_millis(500);

pub(crate) struct Live<'a> {
    began: Instant,
    info: &'a Info,
    load: &'a Load,
    last: Instant,
    ticks: Interval,
}

impl<'a> Live<'a> {
    pub(crate) fn new(began: Instant, info: &'a Info, load: &'a Load) -> Self {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        Self { began, info, load, last: Instant::now(), ticks }
    }

    pub(crate) async fn run_for(&mut self, time: Duration) {
        self.run_until(tokio::time::sleep(time)).await;
    }

    /// Prints lines until `work` is done.
    pub(crate) async fn run_until<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = self.ticks.tick() => self.print().await,
            }
        }
    }

    async fn print(&mut self) {
        let observed = self.info.observe().await;
        let elapsed = self.last.elapsed();
        self.last = Instant::now();
        println!("{:>6.1} s  {}", self.began.elapsed().as_secs_f64(), line(self.load.window(), elapsed, &observed));
    }
}

#[allow(clippy::cast_precision_loss)] // counts and microseconds of half a second
fn line(mut window: Window, elapsed: Duration, observed: &Observed) -> String {
    let tps = window.latencies_us.len() as f64 / elapsed.as_secs_f64();
    let mut ms = |percent| percentile(&mut window.latencies_us, percent).map_or("-".to_owned(), |us| format!("{:.1}", us as f64 / 1000.0));
    let (p50, p99) = (ms(50.0), ms(99.0));
    let leader = observed.leader().map(|leader| leader.id);
    let leads = leader.map_or("no leader".to_owned(), |id| format!("node {id} leads"));
    let others = observed.nodes.iter().filter(|node| Some(node.address.id) != leader).map(lag);
    format!("{tps:>6.0} tps  p50 {p50:>6} ms  p99 {p99:>7} ms  {leads}  {}", others.collect::<Vec<_>>().join("  "))
}

fn lag(node: &NodeView) -> String {
    match &node.status {
        Ok(status) if status.open => format!("node {} lags {} ms", status.id, status.lag_ms),
        Ok(status) => format!("node {} {} (closed)", status.id, status.role),
        Err(_) => format!("node {} away", node.address.id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standstill_is_shown_as_one() {
        let quiet = line(Window::default(), PERIOD, &Observed { nodes: Vec::new() });
        assert!(quiet.trim_start().starts_with("0 tps") && quiet.contains("no leader"), "{quiet}");
        let busy = Window { latencies_us: vec![1000, 2000, 9000], ..Window::default() };
        let busy = line(busy, PERIOD, &Observed { nodes: Vec::new() });
        assert!(busy.contains("6 tps") && busy.contains("2.0 ms") && busy.contains("9.0 ms"), "{busy}");
    }
}
