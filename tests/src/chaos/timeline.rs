//! The run as a picture: acknowledged commits per second over time, each fault a band behind them.
//!
//! Written by hand: a line and some rectangles need no plotting library, and the file must look the same on every machine.

use super::report::{Event, Sample};
use crate::nemesis::Strike;
use std::fmt::Write;
use std::time::Duration;

const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 28.0;
/// Points of the line; longer runs are averaged.
const POINTS_MAX: usize = 800;
const TICKS: u32 = 10;
const PROVEN: &str = "#d9480f";
const OTHER: &str = "#9aa5b1";
const LINE: &str = "#2563a8";

#[must_use]
pub(super) fn draw(samples: &[Sample], events: &[Event]) -> String {
    let rates = rates(samples);
    let end = samples.last().map_or(1.0, |sample| sample.at.as_secs_f64()).max(1.0);
    let top = rates.iter().map(|(_, rate)| *rate).fold(1.0, f64::max);
    let x = |at: f64| LEFT + at / end * (WIDTH - LEFT - RIGHT);
    let y = |rate: f64| HEIGHT - BOTTOM - rate / top * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let mut line = |text: std::fmt::Arguments<'_>| svg.write_fmt(text).expect("a String takes everything");
    for event in events {
        let (from, to) = (x(event.at.as_secs_f64()), x(event.healed.as_secs_f64()));
        let colour = if matches!(event.strike, Strike::Proven(_)) { PROVEN } else { OTHER };
        let width = (to - from).max(1.0);
        line(format_args!(
            "<rect x=\"{from:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{colour}\" fill-opacity=\"0.25\"><title>{}</title></rect>\n",
            HEIGHT - TOP - BOTTOM,
            event.fault.name()
        ));
    }
    for tick in 0..=TICKS {
        let at = end * f64::from(tick) / f64::from(TICKS);
        line(format_args!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{at:.0} s</text>\n", x(at), HEIGHT - 10.0));
    }
    for rate in [0.0, top / 2.0, top] {
        line(format_args!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{rate:.0}/s</text>\n", LEFT - 6.0, y(rate) + 4.0));
    }
    let points: Vec<String> = rates.iter().map(|(at, rate)| format!("{:.1},{:.1}", x(*at), y(*rate))).collect();
    line(format_args!("<polyline fill=\"none\" stroke=\"{LINE}\" stroke-width=\"1.2\" points=\"{}\"/>\n", points.join(" ")));
    svg.push_str("</svg>\n");
    svg
}

/// Commits per second, between samples that are far enough apart.
#[allow(clippy::cast_precision_loss)] // counts of one run
fn rates(samples: &[Sample]) -> Vec<(f64, f64)> {
    let step = samples.len().div_ceil(POINTS_MAX).max(1);
    let picked: Vec<&Sample> = samples.iter().step_by(step).collect();
    let rate = |pair: &[&Sample]| {
        let time = pair[1].at.saturating_sub(pair[0].at).max(Duration::from_millis(1)).as_secs_f64();
        (pair[1].at.as_secs_f64(), (pair[1].counts.committed - pair[0].counts.committed) as f64 / time)
    };
    picked.windows(2).map(rate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nemesis::Fault;
    use crate::workload::Counts;

    #[test]
    fn a_point_per_interval_and_a_band_per_fault() {
        let sample = |second, committed| Sample { at: Duration::from_secs(second), counts: Counts { committed, ..Counts::default() } };
        let samples = [sample(0, 0), sample(1, 100), sample(2, 100), sample(3, 400)];
        assert_eq!(rates(&samples).iter().map(|(_, rate)| *rate).collect::<Vec<_>>(), [100.0, 0.0, 300.0]);
        let at = Duration::from_secs(1);
        let event = Event { fault: Fault::KillProxy, at, healed: at * 2, served: at * 2, strike: Strike::Proven(String::new()) };
        let svg = draw(&samples, &[event]);
        assert!(svg.contains("<title>SIGKILL proxy</title>") && svg.contains("300/s") && svg.ends_with("</svg>\n"), "{svg}");
        let many: Vec<Sample> = (0..5000).map(|second| sample(second, second)).collect();
        assert!(rates(&many).len() <= POINTS_MAX);
        assert!(draw(&[], &[]).ends_with("</svg>\n"));
    }
}
