//! A COMMIT whose server dies under it: the client is told what the log says.
//!
//! The table `slow` sleeps in the commit of whoever inserts (a deferred trigger), so that the commit can be met under way.

use crate::failover::{named, wait_until_asleep};
use crate::support::postgres::{EPOCH, postgres};
use crate::support::proxy::{Proxy, sqlstate};
use crate::support::sidecar::Group;
use howdah_protocol::LogIndex;
use howdah_protocol::admin::Outcome;
use tokio_postgres::Client;

#[derive(Debug, Clone, Copy)]
enum How {
    /// BEGIN, INSERT, COMMIT as texts.
    Simple,
    /// The same by the extended protocol.
    Extended,
    /// The INSERT alone, by the extended protocol.
    Alone,
}

async fn commit(client: &Client, how: How) -> Result<(), tokio_postgres::Error> {
    let insert = "INSERT INTO slow VALUES (1)";
    match how {
        How::Simple => {
            client.batch_execute("BEGIN").await?;
            client.batch_execute(insert).await?;
            client.batch_execute("COMMIT").await
        }
        How::Extended => {
            client.execute("BEGIN", &[]).await?;
            client.execute(insert, &[]).await?;
            client.execute("COMMIT", &[]).await.map(|_| ())
        }
        How::Alone => client.execute(insert, &[]).await.map(|rows| assert_eq!(rows, 1)),
    }
}

/// Kills the server of a commit that is under way; returns the transaction's id and what the client was told.
async fn killed_in_commit(proxy: &Proxy, how: How, name: &str) -> (String, Client, Result<(), tokio_postgres::Error>) {
    let client = named(proxy, name).await;
    let running = tokio::spawn(async move {
        let result = commit(&client, how).await;
        (client, result)
    });
    wait_until_asleep(name).await;
    let of_client = format!("FROM pg_stat_activity WHERE application_name = '{name}'");
    let xid = postgres().psql("postgres", &format!("SELECT backend_xid {of_client}"));
    postgres().psql("postgres", &format!("SELECT pg_terminate_backend(pid) {of_client}"));
    let (client, result) = running.await.expect("no panic");
    (xid, client, result)
}

#[tokio::test]
async fn a_commit_under_way_is_answered_with_what_the_log_says() {
    let group = Group::new(1);
    let proxy = Proxy::start(&group);
    for how in [How::Simple, How::Extended, How::Alone] {
        for (outcome, expected) in
            [(Outcome::Committed { index: LogIndex(11) }, None), (Outcome::RolledBack, Some("40001")), (Outcome::Unknown, Some("08007"))]
        {
            group.outcome(outcome);
            let name = format!("commit-{how:?}-{}", expected.unwrap_or("kept")).to_lowercase();
            let (xid, client, result) = killed_in_commit(&proxy, how, &name).await;
            assert_eq!(result.err().map(|error| sqlstate(&error)).as_deref(), expected, "{name}");
            let questions = group.outcome_questions();
            let asked = questions.last().expect("asked");
            assert!(asked.contains(&format!("node=1&epoch={EPOCH}&xid={xid}&after=10")), "{asked}");
            client.batch_execute("SELECT 1").await.expect("the session lives on, in no transaction");
        }
    }
    assert_eq!(proxy.metric("howdah_proxy_outcomes_committed_total"), 3);
    assert_eq!(proxy.metric("howdah_proxy_outcomes_rolled_back_total"), 3);
    assert_eq!(proxy.metric("howdah_proxy_outcomes_unknown_total"), 3);
}

#[tokio::test]
async fn a_log_that_does_not_know_yet_is_asked_again_and_not_for_ever() {
    let group = Group::new(1);
    let proxy = Proxy::start_with(&group, "queue_ms = 500");
    group.outcome(Outcome::Pending);
    let (_, _, result) = killed_in_commit(&proxy, How::Extended, "commit-pending").await;
    assert_eq!(sqlstate(&result.expect_err("nobody knew")), "08007");
    assert!(group.outcome_questions().len() > 1, "{:?}", group.outcome_questions());

    let before = group.outcome_questions().len();
    let later = async {
        crate::support::eventually("another question", async || (group.outcome_questions().len() > before).then_some(())).await;
        group.outcome(Outcome::Committed { index: LogIndex(12) });
    };
    let ((), (_, _, result)) = tokio::join!(later, killed_in_commit(&proxy, How::Extended, "commit-late"));
    result.expect("committed after all");
}

#[tokio::test]
async fn what_only_the_client_is_not_told_is_not_done_twice() {
    let group = Group::new(1);
    let proxy = Proxy::start(&group);
    let client = named(&proxy, "returning").await;
    let rows = client.query("INSERT INTO items VALUES (5001, 'x') RETURNING id", &[]).await.expect("inserted");
    assert_eq!(rows[0].get::<_, i64>(0), 5001);
    let rows = client.query("INSERT INTO items SELECT i, repeat('x', 1000) FROM generate_series(6001, 6100) i RETURNING name", &[]).await;
    assert_eq!(rows.expect("inserted").len(), 100, "longer than what is held back");
    let error = client.execute("INSERT INTO items VALUES (5001, 'x')", &[]).await.expect_err("there already");
    assert_eq!(sqlstate(&error), "23505");
    assert!(group.outcome_questions().is_empty());
    client.execute("DELETE FROM items WHERE id > 5000", &[]).await.expect("deleted");
}
