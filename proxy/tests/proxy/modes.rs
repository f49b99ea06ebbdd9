//! Where reads go under each consistency mode.

use crate::support::eventually;
use crate::support::proxy::Proxy;
use crate::support::sidecar::Group;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

async fn served_by(client: &Client, sql: &str) -> u64 {
    client.query(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    who(client).await
}

async fn who(client: &Client) -> u64 {
    let text: String = client.query_one("SHOW howdah.served_by", &[]).await.expect("shown").get(0);
    text.parse().expect("a node")
}

async fn in_mode(proxy: &Proxy, mode: &str) -> Client {
    let mut settings = proxy.settings();
    settings.options(format!("-c howdah.consistency={mode}"));
    proxy.connect_with(&settings).await
}

/// Waits until the proxy knows this applied index of a node.
async fn known(proxy: &Proxy, node: u64, applied: u64) {
    routed(proxy, node, "applied_index", applied.into()).await;
}

/// Waits until the proxy's routing says this of a node.
async fn routed(proxy: &Proxy, node: u64, key: &str, value: serde_json::Value) {
    eventually("the proxy hears of it", async || {
        let (_, text) = proxy.admin("/v1/routing")?;
        let routing: serde_json::Value = serde_json::from_str(&text).ok()?;
        let nodes = routing["nodes"].as_array()?;
        nodes.iter().find(|one| one["id"] == node && one[key] == value).map(|_| ())
    })
    .await;
}

#[tokio::test]
async fn linearizable_reads_go_to_the_leader_and_eventual_ones_are_spread() {
    let proxy = Proxy::start(&Group::new(3));
    let client = proxy.connect().await;
    assert_eq!(served_by(&client, "SELECT 1").await, 1);
    let client = in_mode(&proxy, "eventual").await;
    let mut seen = Vec::new();
    for _ in 0..20 {
        seen.push(served_by(&client, "SELECT 1").await);
    }
    assert!(seen.contains(&2) && seen.contains(&3) && !seen.contains(&1), "{seen:?}");
    assert_eq!(served_by(&client, "UPDATE items SET name = name WHERE id = 1").await, 1);
    assert_eq!(served_by(&client, "/* howdah: linearizable */ SELECT 1").await, 1);
}

#[tokio::test]
async fn transactions_go_to_the_leader_unless_they_are_begun_read_only() {
    let proxy = Proxy::start(&Group::new(2));
    let client = in_mode(&proxy, "eventual").await;
    client.batch_execute("BEGIN").await.expect("begun");
    assert_eq!(served_by(&client, "SELECT 1").await, 1);
    client.batch_execute("COMMIT").await.expect("committed");
    client.batch_execute("BEGIN READ ONLY").await.expect("begun");
    assert_eq!(served_by(&client, "SELECT 1").await, 2);
    client.batch_execute("COMMIT").await.expect("committed");
    let mut client = client;
    let transaction = client.build_transaction().read_only(true).start().await.expect("begun");
    let read_only: String = transaction.query_one("SHOW transaction_read_only", &[]).await.expect("shown").get(0);
    assert_eq!(read_only, "on");
    transaction.commit().await.expect("committed");
}

#[tokio::test]
async fn a_statement_that_a_follower_refuses_runs_on_the_leader() {
    let proxy = Proxy::start(&Group::new(2));
    let client = in_mode(&proxy, "eventual").await;
    // A view hides what it calls from the classifier.
    client
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS hidden_log (at timestamptz);
             CREATE OR REPLACE FUNCTION hidden_write() RETURNS int LANGUAGE plpgsql AS
                 'BEGIN INSERT INTO hidden_log VALUES (now()); RETURN 42; END';
             CREATE OR REPLACE VIEW hidden AS SELECT hidden_write() AS answer",
        )
        .await
        .expect("created");
    for round in 1..=2 {
        let answer: i32 = client.query_one("SELECT answer FROM hidden", &[]).await.expect("runs on the leader").get(0);
        assert_eq!((answer, who(&client).await), (42, 1));
        client.simple_query("SELECT answer FROM hidden").await.expect("runs on the leader");
        assert_eq!(who(&client).await, 1);
        assert_eq!(proxy.metric("howdah_proxy_retries_leader_total"), round * 2);
    }
}

#[tokio::test]
async fn own_writes_are_read_where_they_have_arrived() {
    let group = Group::new(3);
    let proxy = Proxy::start_with(&group, "wait_ms = 300");
    let client = in_mode(&proxy, "read_your_writes").await;
    assert_ne!(served_by(&client, "SELECT 1").await, 1, "nothing written");
    client.execute("UPDATE items SET name = name WHERE id = 2", &[]).await.expect("written");
    group.committed(20);
    group.applied(3, 20);
    known(&proxy, 3, 20).await;
    for _ in 0..4 {
        assert_eq!(served_by(&client, "SELECT 1").await, 3);
    }
    assert_eq!(group.committed_questions(), 1, "asked once");
    let token: String = client.query_one("SHOW howdah.token", &[]).await.expect("shown").get(0);
    assert_eq!(token, "h1:0=20");
    client.execute("UPDATE items SET name = name WHERE id = 2", &[]).await.expect("written");
    group.committed(30);
    let token: String = client.query_one("SHOW howdah.token", &[]).await.expect("shown").get(0);
    assert_eq!(token, "h1:0=30", "covers what was written before it was shown");
    let since = Instant::now();
    assert_eq!(served_by(&client, "SELECT 1").await, 1, "nobody has it in time");
    assert!(since.elapsed() >= Duration::from_millis(250), "waited for a follower");
    let later = tokio::spawn(async move { served_by(&client, "SELECT 1").await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    group.applied(2, 30);
    assert_eq!(later.await.expect("no panic"), 2, "woken by the position");
}

#[tokio::test]
async fn a_token_carries_writes_to_another_session() {
    let group = Group::new(3);
    let proxy = Proxy::start(&group);
    group.applied(2, 15);
    known(&proxy, 2, 15).await;
    let client = in_mode(&proxy, "read_your_writes").await;
    client.batch_execute("SET howdah.token = 'h1:0=15'").await.expect("merged");
    for _ in 0..4 {
        assert_eq!(served_by(&client, "SELECT 1").await, 2);
    }
}

#[tokio::test]
async fn asynchronous_writes_are_read_on_the_leader() {
    let proxy = Proxy::start(&Group::new(2));
    let client = in_mode(&proxy, "read_your_writes").await;
    client.batch_execute("SET howdah.replication = async").await.expect("set");
    client.execute("UPDATE items SET name = name WHERE id = 2", &[]).await.expect("written");
    assert_eq!(served_by(&client, "SELECT 1").await, 1);
    client.batch_execute("SET howdah.replication = sync").await.expect("set");
    client.execute("UPDATE items SET name = name WHERE id = 2", &[]).await.expect("written");
    assert_eq!(served_by(&client, "SELECT 1").await, 2);
}

#[tokio::test]
async fn monotonic_reads_stay_and_move_only_forward() {
    let group = Group::new(3);
    let proxy = Proxy::start_with(&group, "wait_ms = 200");
    let client = in_mode(&proxy, "monotonic").await;
    let first = served_by(&client, "SELECT 1").await;
    let other = 5 - first;
    for _ in 0..6 {
        assert_eq!(served_by(&client, "SELECT 1").await, first);
    }
    group.committed(40);
    group.silence(first);
    routed(&proxy, first, "connected", false.into()).await;
    assert_eq!(served_by(&client, "SELECT 1").await, 1, "the other is behind what was committed");
    group.applied(other, 40);
    known(&proxy, other, 40).await;
    assert_eq!(served_by(&client, "SELECT 1").await, other);
}

#[tokio::test]
async fn modes_without_a_leader() {
    let group = Group::new(3);
    let proxy = Proxy::start_with(&group, "queue_ms = 300\nwait_ms = 100");
    let eventual = in_mode(&proxy, "eventual").await;
    let own = in_mode(&proxy, "read_your_writes").await;
    let monotonic = in_mode(&proxy, "monotonic").await;
    let first = served_by(&monotonic, "SELECT 1").await;
    let strong = proxy.connect().await;
    strong.query("SELECT 1", &[]).await.expect("a leader");
    group.depose();
    eventually("the proxy sees that nobody leads", async || {
        strong.query("SELECT 1", &[]).await.err().map(|error| assert_eq!(crate::support::proxy::sqlstate(&error), "57P03"))
    })
    .await;
    served_by(&eventual, "SELECT 1").await;
    served_by(&own, "SELECT 1").await;
    assert_eq!(served_by(&monotonic, "SELECT 1").await, first);
    let error = eventual.execute("DELETE FROM items WHERE false", &[]).await.expect_err("nobody leads");
    assert_eq!(crate::support::proxy::sqlstate(&error), "57P03");
    group.promote(2);
    eventual.execute("DELETE FROM items WHERE false", &[]).await.expect("led again");
    assert_eq!(who(&eventual).await, 2);
}
