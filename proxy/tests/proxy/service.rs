//! The process: configuration, ports, health, metrics, draining.

use crate::failover::{named, wait_until_asleep};
use crate::support::eventually;
use crate::support::proxy::{Proxy, binary, sqlstate};
use crate::support::sidecar::Group;
use tokio_postgres::NoTls;

fn run_with(text: &str, arguments: &[&str]) -> (bool, String) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("proxy.toml");
    std::fs::write(&file, text).expect("written");
    let output = binary().arg("--config").arg(&file).args(arguments).output().expect("the proxy runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

const VALID: &str = "sidecars = [\"127.0.0.1:1\"]\nproxy_password = \"x\"\n";

#[test]
fn a_configuration_is_checked() {
    let (ok, text) = run_with(VALID, &["--check"]);
    assert!(ok && text.contains("valid"), "{text}");
    let (ok, text) = run_with(&format!("{VALID}pool_sze = 3"), &["--check"]);
    assert!(!ok && text.contains("pool_sze") && text.contains("pool_size") && text.contains("proxy.toml"), "{text}");
    let output = binary().args(["--config", "/nowhere/proxy.toml"]).output().expect("the proxy runs");
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("/nowhere/proxy.toml"));
}

#[test]
fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("address");
    for key in ["listen", "admin_listen"] {
        let other = if key == "listen" { "admin_listen" } else { "listen" };
        let (ok, text) = run_with(&format!("{VALID}{key} = \"{address}\"\n{other} = \"127.0.0.1:0\""), &[]);
        assert!(!ok && text.contains(&address.to_string()) && text.contains(key) && text.contains("choose another"), "{text}");
    }
}

#[tokio::test]
async fn health_and_metrics_are_served() {
    let group = Group::new(1);
    let proxy = Proxy::start(&group);
    let client = proxy.connect().await;
    client.query("SELECT 1", &[]).await.expect("runs");
    assert_eq!(proxy.admin("/healthz").expect("answered").0, 200);
    assert_eq!(proxy.admin("/nope").expect("answered").0, 404);
    assert_eq!(proxy.metric("howdah_proxy_clients"), 1);
    assert!(proxy.metric("howdah_proxy_units_leader_total") >= 2);
    let (_, routing) = proxy.admin("/v1/routing").expect("answered");
    assert!(routing.contains("\"leader\":1"), "{routing}");
    group.depose();
    eventually("not ready", async || proxy.admin("/readyz").filter(|(status, _)| *status == 503)).await;
}

#[tokio::test]
async fn draining_lets_the_busy_finish_and_sends_the_idle_away() {
    let mut proxy = Proxy::start(&Group::new(1));
    let idle = proxy.connect().await;
    let busy = named(&proxy, "busy").await;
    let in_transaction = proxy.connect().await;
    in_transaction.batch_execute("BEGIN; UPDATE items SET name = name WHERE id = 7").await.expect("begun");
    let running = tokio::spawn(async move { busy.batch_execute("SELECT pg_sleep(1)").await });
    wait_until_asleep("busy").await;
    proxy.signal("-TERM");
    let error = eventually("the idle client is sent away", async || idle.query("SELECT 1", &[]).await.err()).await;
    assert!(error.is_closed() || sqlstate(&error) == "57P01", "{error:?}");
    assert!(proxy.settings().connect(NoTls).await.is_err(), "nobody new");
    running.await.expect("no panic").expect("finished in peace");
    in_transaction.batch_execute("COMMIT").await.expect("committed in peace");
    assert!(proxy.wait_for_exit());
}

#[tokio::test]
async fn draining_ends_after_its_limit() {
    let mut proxy = Proxy::start_with(&Group::new(1), "drain_ms = 300");
    let client = proxy.connect().await;
    client.batch_execute("BEGIN").await.expect("begun");
    proxy.signal("-INT");
    assert!(proxy.wait_for_exit());
}
