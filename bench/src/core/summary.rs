//! From the runs of all rounds to one row per target, and the ratio to its peer.

use super::plan::{Cell, Target, Workload};
use howdah_ctl::core::percentile::median;
use howdah_ctl::core::table::{Align, render};
use serde::Serialize;

/// What one pgbench run measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    pub tps: f64,
    pub latency_ms_avg: f64,
    pub latency_ms_p99: f64,
}

/// One target under one load, over all rounds. The JSON form is a contract.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub workload: &'static str,
    pub clients: u32,
    pub target: &'static str,
    pub tps_median: f64,
    pub tps_min: f64,
    pub tps_max: f64,
    /// Median over the rounds, as is the next.
    pub latency_ms_avg: f64,
    pub latency_ms_p99: f64,
    /// Of a target that has a peer under this load.
    #[serde(flatten)]
    pub ratio: Option<Ratio>,
}

/// Throughput as a multiple of the peer's, taken round by round, so that what slowed a whole round cancels out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    #[serde(rename = "ratio_to", serialize_with = "by_name")]
    pub to: Target,
    #[serde(rename = "ratio_median")]
    pub median: f64,
    #[serde(rename = "ratio_min")]
    pub min: f64,
    #[serde(rename = "ratio_max")]
    pub max: f64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn by_name<S: serde::Serializer>(target: &Target, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(target.as_str())
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub rows: Vec<Row>,
}

/// `rounds[r]` holds what every target of the cell measured in round r. A target without a measurement gets no row.
#[must_use]
pub fn rows(cell: &Cell, rounds: &[Vec<(Target, Measured)>]) -> Vec<Row> {
    let of = |round: &[(Target, Measured)], target: Target| round.iter().find(|(who, _)| *who == target).map(|(_, measured)| *measured);
    let row = |target: &Target| {
        let all: Vec<Measured> = rounds.iter().filter_map(|round| of(round, *target)).collect();
        let peer = cell.workload.reference(*target);
        let ratios: Vec<f64> = rounds.iter().filter_map(|round| Some(of(round, *target)?.tps / of(round, peer)?.tps)).collect();
        let each = |pick: fn(&Measured) -> f64| all.iter().map(pick).collect::<Vec<_>>();
        let tps = each(|measured| measured.tps);
        Some(Row {
            workload: cell.workload.as_str(),
            clients: cell.clients,
            target: target.as_str(),
            tps_median: median(&tps)?,
            tps_min: min(&tps),
            tps_max: max(&tps),
            latency_ms_avg: median(&each(|measured| measured.latency_ms_avg))?,
            latency_ms_p99: median(&each(|measured| measured.latency_ms_p99))?,
            ratio: (peer != *target).then_some(()).and(median(&ratios)).map(|median| Ratio {
                to: peer,
                median,
                min: min(&ratios),
                max: max(&ratios),
            }),
        })
    };
    cell.targets.iter().filter_map(row).collect()
}

fn min(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn max(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

#[must_use]
pub fn table(rows: &[Row]) -> String {
    let columns = [
        ("workload", Align::Left),
        ("clients", Align::Right),
        ("target", Align::Left),
        ("tps", Align::Right),
        ("min", Align::Right),
        ("max", Align::Right),
        ("avg ms", Align::Right),
        ("p99 ms", Align::Right),
        ("ratio (min-max)", Align::Left),
    ];
    let cells = |row: &Row| {
        let ratio =
            row.ratio.map_or(String::new(), |ratio| format!("{:.2} ({:.2}-{:.2}) of {}", ratio.median, ratio.min, ratio.max, ratio.to));
        vec![
            row.workload.to_owned(),
            row.clients.to_string(),
            row.target.to_owned(),
            format!("{:.0}", row.tps_median),
            format!("{:.0}", row.tps_min),
            format!("{:.0}", row.tps_max),
            format!("{:.2}", row.latency_ms_avg),
            format!("{:.2}", row.latency_ms_p99),
            ratio,
        ]
    };
    render(&columns, &rows.iter().map(cells).collect::<Vec<_>>())
}

/// The workload of a row, for grouping.
#[must_use]
pub fn group(row: &Row) -> (&'static str, u32) {
    (row.workload, row.clients)
}

/// A title such as "TPC-B, 8 clients".
#[must_use]
pub fn title(workload: &str, clients: u32) -> String {
    let name = if workload == Workload::Tpcb.as_str() { "TPC-B" } else { "SELECT by key" };
    let plural = if clients == 1 { "" } else { "s" };
    format!("{name}, {clients} client{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn measured(tps: f64) -> Measured {
        Measured { tps, latency_ms_avg: 1000.0 / tps, latency_ms_p99: 5000.0 / tps }
    }

    fn cell() -> Cell {
        Cell { workload: Workload::Tpcb, clients: 8, targets: vec![Target::NativeSync, Target::HowdahSync] }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The second round ran on a machine half as fast: the medians differ, the ratio does not.
        let rounds = [(100.0, 120.0), (50.0, 60.0), (100.0, 130.0)]
            .map(|(native, howdah)| vec![(Target::NativeSync, measured(native)), (Target::HowdahSync, measured(howdah))]);
        let rows = rows(&cell(), &rounds);
        assert_eq!((rows[1].tps_median, rows[1].tps_min, rows[1].tps_max), (120.0, 60.0, 130.0));
        assert_eq!(rows[0].ratio, None);
        let ratio = rows[1].ratio.expect("has a peer");
        assert_eq!((ratio.to, ratio.median, ratio.min), (Target::NativeSync, 1.2, 1.2));
        assert!(table(&rows).contains("1.20 (1.20-1.30) of native-sync"), "{}", table(&rows));
    }

    #[test]
    fn without_the_peer_there_is_no_ratio_and_without_runs_no_row() {
        let rounds = [vec![(Target::HowdahSync, measured(10.0))]];
        let rows = rows(&cell(), &rounds);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].target, rows[0].ratio), ("howdah-sync", None));
    }

    #[test]
    fn the_json_has_exactly_the_promised_keys() {
        let round = vec![(Target::NativeSync, measured(10.0)), (Target::HowdahSync, measured(12.0))];
        let json = serde_json::to_value(Report { rows: rows(&cell(), &[round]) }).expect("serialises");
        let keys = |nth: usize| json["rows"][nth].as_object().expect("a row").keys().map(String::as_str).collect::<BTreeSet<_>>();
        let every = ["workload", "clients", "target", "tps_median", "tps_min", "tps_max", "latency_ms_avg", "latency_ms_p99"];
        let ratio = ["ratio_to", "ratio_median", "ratio_min", "ratio_max"];
        assert_eq!(keys(0), BTreeSet::from(every));
        assert_eq!(keys(1), every.into_iter().chain(ratio).collect());
        assert_eq!((&json["rows"][1]["ratio_to"], &json["rows"][1]["ratio_median"]), (&"native-sync".into(), &1.2.into()));
    }
}
