//! SET follows the session, its rollback too; howdah settings are the proxy's.

use crate::support::proxy::{Proxy, sqlstate};
use crate::support::sidecar::Group;
use tokio_postgres::{Client, SimpleQueryMessage};

async fn simple(client: &Client, sql: &str) -> String {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    });
    row.unwrap_or_default()
}

async fn extended(client: &Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

/// Two clients that share one server connection.
async fn pair(proxy: &Proxy) -> (Client, Client) {
    (proxy.connect().await, proxy.connect().await)
}

fn one_connection() -> Proxy {
    Proxy::start_with(&Group::new(1), "pool_size = 1\nworkers = 1")
}

#[tokio::test]
async fn settings_follow_their_session() {
    let proxy = one_connection();
    let (one, other) = pair(&proxy).await;
    simple(&one, "SET work_mem = '1234kB'").await;
    simple(&one, "SET search_path TO \"odd, name\", public").await;
    other.execute("SET work_mem TO '4321kB'", &[]).await.expect("set");
    assert_eq!(simple(&one, "SHOW work_mem").await, "1234kB");
    assert_eq!(simple(&other, "SHOW work_mem").await, "4321kB");
    assert_eq!(simple(&one, "SHOW search_path").await, "\"odd, name\", public");
    assert_eq!(simple(&other, "SHOW search_path").await, "\"$user\", public");
    simple(&one, "RESET ALL").await;
    assert_eq!(simple(&one, "SHOW work_mem").await, "4MB");
    assert_eq!(simple(&other, "SHOW work_mem").await, "4321kB");
    simple(&other, "DISCARD ALL").await;
    assert_eq!(simple(&other, "SHOW work_mem").await, "4MB");
    simple(&one, "SELECT set_config('myapp.tenant', 'o''neil', false)").await;
    simple(&other, "SELECT 1").await;
    assert_eq!(simple(&one, "SELECT current_setting('myapp.tenant')").await, "o'neil");
    assert_eq!(simple(&other, "SELECT current_setting('myapp.tenant', true)").await, "");
}

#[tokio::test]
async fn a_rollback_takes_settings_back() {
    let proxy = one_connection();
    let (one, other) = pair(&proxy).await;
    simple(&one, "SET work_mem = '1MB'").await;
    simple(&one, "BEGIN; SET work_mem = '2MB'; SAVEPOINT s; SET work_mem = '3MB'").await;
    assert_eq!(simple(&one, "SHOW work_mem").await, "3MB");
    simple(&one, "ROLLBACK TO s").await;
    assert_eq!(simple(&one, "SHOW work_mem").await, "2MB");
    simple(&one, "ROLLBACK").await;
    simple(&other, "SELECT 1").await;
    assert_eq!(simple(&one, "SHOW work_mem").await, "1MB");
    one.simple_query("SET work_mem = '5MB'; SELECT 1/0").await.expect_err("fails as a whole");
    simple(&other, "SELECT 1").await;
    assert_eq!(simple(&one, "SHOW work_mem").await, "1MB");
    simple(&one, "BEGIN; SET LOCAL work_mem = '6MB'; COMMIT").await;
    assert_eq!(simple(&one, "SHOW work_mem").await, "1MB");
}

#[tokio::test]
async fn startup_parameters_are_what_reset_goes_back_to() {
    let proxy = one_connection();
    let mut settings = proxy.settings();
    settings.application_name("first").options("-c work_mem=7MB");
    let one = proxy.connect_with(&settings).await;
    let other = proxy.connect().await;
    assert_eq!(simple(&one, "SHOW application_name").await, "first");
    assert_eq!(simple(&other, "SHOW application_name").await, "");
    simple(&one, "SET work_mem = '8MB'").await;
    simple(&one, "RESET work_mem").await;
    assert_eq!(simple(&one, "SHOW work_mem").await, "7MB");
    assert_eq!(simple(&other, "SHOW work_mem").await, "4MB");
}

#[tokio::test]
async fn howdah_settings_are_shown_set_and_refused_in_both_protocols() {
    let proxy = Proxy::start(&Group::new(1));
    let client = proxy.connect().await;
    assert_eq!(simple(&client, "SHOW howdah.consistency").await, "linearizable");
    simple(&client, "SET howdah.consistency = 'eventual'").await;
    assert_eq!(extended(&client, "SHOW howdah.consistency").await, "eventual");
    client.execute("SET howdah.consistency TO monotonic", &[]).await.expect("set");
    assert_eq!(simple(&client, "SHOW howdah.consistency").await, "monotonic");
    client.execute("RESET howdah.consistency", &[]).await.expect("reset");
    assert_eq!(extended(&client, "SHOW howdah.consistency").await, "linearizable");
    assert_eq!(extended(&client, "SELECT set_config('howdah.consistency', 'eventual', false)").await, "eventual");
    assert_eq!(simple(&client, "SET howdah.consistency = 'linearizable'; SHOW howdah.consistency; SELECT 5").await, "linearizable");
    simple(&client, "SELECT 1").await;
    assert_eq!(simple(&client, "SHOW howdah.served_by").await, "1");
    assert!(simple(&client, "SHOW howdah.route").await.starts_with("leader"));
    assert_eq!(simple(&client, "SHOW howdah.pin").await, "");
    simple(&client, "SET howdah.token = 'h1:0=7'").await;
    assert_eq!(extended(&client, "SHOW howdah.token").await, "h1:0=7");
    for (sql, code) in [
        ("SET howdah.consistency = 'strong'", "22023"),
        ("SET howdah.token = 'strong'", "22023"),
        ("SET howdah.unknown = 1", "42704"),
        ("SHOW howdah.unknown", "42704"),
        ("SET howdah.served_by = 1", "55P02"),
        ("SET synchronous_commit = off", "0A000"),
        ("SET LOCAL synchronous_commit = off", "0A000"),
        ("SELECT set_config('session_replication_role', 'replica', false)", "0A000"),
        ("/* howdah: strong */ SELECT 1", "22023"),
        ("CREATE DATABASE nope", "0A000"),
        ("ALTER SYSTEM SET work_mem = '1MB'", "0A000"),
    ] {
        for begin in [false, true] {
            if begin {
                simple(&client, "BEGIN").await;
            }
            let error = client.simple_query(sql).await.expect_err(sql);
            assert_eq!(sqlstate(&error), code, "{sql}");
            assert!(error.as_db_error().expect("from the proxy").hint().is_some(), "{sql}: a hint");
            if begin {
                let error = client.simple_query("SELECT 1").await.expect_err("the transaction failed");
                assert_eq!(sqlstate(&error), "25P02", "{sql}");
                simple(&client, "ROLLBACK").await;
            }
            let error = client.execute(sql, &[]).await.expect_err(sql);
            assert_eq!(sqlstate(&error), code, "{sql}");
        }
        assert_eq!(extended(&client, "SELECT 'fine'").await, "fine", "after {sql}");
    }
}

#[tokio::test]
async fn replication_is_the_servers_synchronous_commit() {
    let proxy = one_connection();
    let (one, other) = pair(&proxy).await;
    simple(&one, "SET howdah.replication = async").await;
    assert_eq!(simple(&one, "SHOW synchronous_commit").await, "local");
    assert_eq!(simple(&other, "SHOW synchronous_commit").await, "on");
    simple(&one, "BEGIN; SELECT 1").await;
    simple(&one, "SET LOCAL howdah.replication = sync").await;
    assert_eq!(simple(&one, "SHOW synchronous_commit").await, "on");
    simple(&one, "COMMIT").await;
    assert_eq!(simple(&one, "SHOW synchronous_commit").await, "local");
    simple(&one, "BEGIN").await;
    one.execute("SET howdah.replication = 'sync'", &[]).await.expect("set");
    assert_eq!(extended(&one, "SHOW synchronous_commit").await, "on");
    simple(&one, "ROLLBACK").await;
    assert_eq!(extended(&one, "SHOW howdah.replication").await, "async");
    assert_eq!(extended(&one, "SHOW synchronous_commit").await, "local");
    let mut settings = proxy.settings();
    settings.options("-c howdah.replication=async -c howdah.consistency=eventual");
    let third = proxy.connect_with(&settings).await;
    assert_eq!(simple(&third, "SHOW synchronous_commit").await, "local");
    assert_eq!(simple(&third, "SHOW howdah.consistency").await, "eventual");
    simple(&third, "DISCARD ALL").await;
    assert_eq!(simple(&third, "SHOW synchronous_commit").await, "local");
}
