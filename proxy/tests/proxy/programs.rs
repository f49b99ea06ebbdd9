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

#[test]
fn psql_and_its_commands_work() {
    let proxy = Proxy::start(&Group::new(2));
    let script = "\\d\n\\dt+\n\\df\n\\du\n\\dn\n\\l\n\\d items\n\\conninfo\nSELECT 1 AS a \\gset\n\\echo :a\n\\x\nSHOW howdah.served_by;\n\
                  SET howdah.consistency = 'eventual';\nSELECT count(*) FROM items;\n\\timing\nBEGIN;\nSELECT 1;\nROLLBACK;\n";
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("script.sql");
    std::fs::write(&file, script).expect("written");
    let output = proxy.client("psql", &["-X", "-v", "ON_ERROR_STOP=1", "-d", DATABASE, "-f", &file.display().to_string()]);
    let text = assert_ran("psql", &output);
    assert!(text.contains("items") && text.contains("howdah.served_by"), "{text}");
    let output = proxy.client(
        "psql",
        &["-X", "-A", "-t", "-d", DATABASE, "-c", "SET howdah.consistency='eventual'; SELECT 1", "-c", "SHOW howdah.served_by"],
    );
    assert_eq!(assert_ran("psql -c", &output).trim(), "SET\n1\n2");
}
