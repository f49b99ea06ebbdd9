//! The programs that everybody uses: psql and pgbench.

use crate::support::postgres::DATABASE;
use crate::support::proxy::Proxy;
use crate::support::sidecar::Group;

fn assert_ran(what: &str, output: &std::process::Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {text}\n{errors}");
    assert!(!errors.to_lowercase().contains("error"), "{what}: {errors}");
    text
}

#[test]
fn pgbench_runs_in_all_modes() {
    let proxy = Proxy::start(&Group::new(1));
    assert_ran("pgbench -i", &proxy.client("pgbench", &["-i", "-q", "-s", "1", DATABASE]));
    for mode in ["simple", "extended", "prepared"] {
        for script in [&["-S"][..], &["-N"], &[]] {
            let mut arguments = vec!["-n", "-M", mode, "-c", "8", "-j", "2", "-T", "1"];
            arguments.extend(script);
            arguments.push(DATABASE);
            let text = assert_ran(&format!("pgbench -M {mode} {script:?}"), &proxy.client("pgbench", &arguments));
            assert!(text.contains("number of failed transactions: 0"), "{text}");
        }
    }
}
