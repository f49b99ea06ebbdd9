//! The report as a picture: one panel per load, one bar per target, a whisker from the slowest to the fastest round.
//!
//! Written by hand: bars need no plotting library, and the file must look the same on every machine, so it names generic fonts only.

use super::summary::{Row, group, title};
use std::fmt::Write;

const WIDTH: f64 = 860.0;
const LABEL: f64 = 190.0;
const NUMBERS: f64 = 170.0;
const BAR: f64 = 20.0;
const GAP: f64 = 6.0;
const HEAD: f64 = 34.0;
const MARGIN: f64 = 16.0;
/// Howdah's bars, and everybody else's.
const OURS: &str = "#2563a8";
const THEIRS: &str = "#9aa5b1";

#[must_use]
pub fn bars(rows: &[Row]) -> String {
    let panels: Vec<&[Row]> = rows.chunk_by(|a, b| group(a) == group(b)).collect();
    let height = MARGIN + panels.iter().map(|panel| panel_height(panel)).sum::<f64>();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    let mut top = MARGIN;
    for panel in panels {
        draw(&mut svg, panel, top);
        top += panel_height(panel);
    }
    svg.push_str("</svg>\n");
    svg
}

#[allow(clippy::cast_precision_loss)] // a handful of rows
fn panel_height(panel: &[Row]) -> f64 {
    HEAD + panel.len() as f64 * (BAR + GAP) + MARGIN
}

fn draw(svg: &mut String, panel: &[Row], top: f64) {
    let longest = panel.iter().map(|row| row.tps_max).fold(1.0, f64::max);
    let scale = (WIDTH - LABEL - NUMBERS - MARGIN) / longest;
    let head = panel.first().map(|row| title(row.workload, row.clients)).unwrap_or_default();
    let mut line = |text: std::fmt::Arguments<'_>| svg.write_fmt(text).expect("a String takes everything");
    line(format_args!("<text x=\"{MARGIN}\" y=\"{:.1}\" font-weight=\"bold\">{head}: transactions per second</text>\n", top + 16.0));
    let mut y = top + HEAD;
    for row in panel {
        let (middle, text) = (y + BAR / 2.0, y + BAR - 6.0);
        let (low, high, length) = (LABEL + row.tps_min * scale, LABEL + row.tps_max * scale, row.tps_median * scale);
        let colour = if row.target.starts_with("howdah") { OURS } else { THEIRS };
        let ratio = row.ratio.map_or(String::new(), |ratio| format!(" ({:.2}x {})", ratio.median, ratio.to));
        line(format_args!("<text x=\"{:.1}\" y=\"{text:.1}\" text-anchor=\"end\">{}</text>\n", LABEL - 8.0, row.target));
        line(format_args!("<rect x=\"{LABEL}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\n"));
        line(format_args!("<line x1=\"{low:.1}\" x2=\"{high:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\" stroke=\"black\"/>\n"));
        line(format_args!("<text x=\"{:.1}\" y=\"{text:.1}\" font-size=\"11\">{:.0}{ratio}</text>\n", high + 6.0, row.tps_median));
        y += BAR + GAP;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(clients: u32, target: &'static str, tps: f64) -> Row {
        Row {
            workload: "tpcb",
            clients,
            target,
            tps_median: tps,
            tps_min: tps * 0.9,
            tps_max: tps * 1.1,
            latency_ms_avg: 1.0,
            latency_ms_p99: 2.0,
            ratio: None,
        }
    }

    #[test]
    fn one_panel_per_load_and_bars_in_proportion() {
        let svg = bars(&[row(1, "direct", 1000.0), row(1, "howdah-sync", 500.0), row(8, "direct", 4000.0)]);
        assert_eq!(svg.matches("transactions per second").count(), 2);
        let widths: Vec<f64> = svg
            .lines()
            .filter(|line| line.contains(OURS) || line.contains(THEIRS))
            .filter_map(|line| line.split("width=\"").nth(1)?.split('"').next()?.parse().ok())
            .collect();
        assert_eq!(widths.len(), 3);
        assert!((widths[0] - 2.0 * widths[1]).abs() < 0.2, "{widths:?}");
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    }
}
