//! The native side for one second each: servers start, replicate, are measured, and stop. What needs Howdah's binaries is tested with them.

use howdah_bench::compare::{Options, run};
use howdah_bench::core::plan::{Target, Workload};
use howdah_bench::pgbench::Protocol;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

#[tokio::test(flavor = "multi_thread")]
async fn native_targets_are_measured_and_reported() {
    let dir = tempfile::tempdir_in("/tmp").expect("temporary folder");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).expect("permissions");
    let options = Options {
        workloads: vec![Workload::Tpcb, Workload::Select],
        targets: vec![Target::Direct, Target::NativeAsync, Target::NativeSync],
        clients: vec![2],
        select_clients: vec![2],
        seconds: 1,
        rounds: 1,
        scale: 1,
        protocol: Protocol::Prepared,
        bin_dir: howdah_ctl::postgres::bin_dir().expect("PostgreSQL is installed"),
        pgbouncer: PathBuf::from("/not/needed"),
        work: dir.path().to_owned(),
        json: Some(dir.path().join("out.json")),
        svg: Some(dir.path().join("out.svg")),
    };
    let report = run(&options).await.expect("measured");
    let names: Vec<_> = report.rows.iter().map(|row| (row.workload, row.target)).collect();
    assert_eq!(names, [("tpcb", "direct"), ("tpcb", "native-async"), ("tpcb", "native-sync"), ("select", "direct")]);
    assert!(report.rows.iter().all(|row| row.tps_median > 0.0 && row.latency_ms_p99 >= row.latency_ms_avg / 10.0), "{report:?}");
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(dir.path().join("out.json")).expect("written")).expect("valid JSON");
    assert_eq!(json["rows"].as_array().map(Vec::len), Some(4));
    assert!(std::fs::read_to_string(dir.path().join("out.svg")).expect("written").starts_with("<svg"));
}
