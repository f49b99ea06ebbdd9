//! Positions and rows are lost together or not at all, whatever dies.

use super::fixture::Pair;
use crate::apply::Log as _;
use crate::core::entry::{Entry, Writer};
use howdah_protocol::{Epoch, InstanceId, LogIndex, NodeId};
use std::time::Duration;
use tokio::time::Instant;

/// The server process of the apply session, once there is one; a former session may not be gone yet.
async fn applier_pid(pair: &Pair) -> i32 {
    const PID: &str = "SELECT pid FROM pg_stat_activity WHERE application_name = 'howdah-apply' ORDER BY backend_start DESC LIMIT 1";
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(row) = pair.target.query_opt(PID, &[]).await.unwrap() {
            return row.get(0);
        }
        assert!(Instant::now() < deadline, "apply is connected");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A table without a key shows every double insert.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_is_resumed_exactly() {
    let mut pair = Pair::new().await;
    pair.stop().await;
    pair.options.batch_bytes_max = 2_000;
    pair.start();
    pair.both("CREATE TABLE log (n int); CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 0)").await;
    pair.captured().await;
    for n in 0..300 {
        pair.on_source(&format!("INSERT INTO log VALUES ({n}); UPDATE t SET n = {n}")).await;
    }
    let transactions = pair.captured().await;
    let mut kills = 0;
    for (at, transaction) in transactions.chunks(3).enumerate() {
        let entry = pair.framer.batch(transaction);
        pair.log.append(Some(&entry));
        if at % 60 == 30 {
            let pid = applier_pid(&pair).await;
            pair.target_server.kill(pid).await;
            kills += 1;
            pair.target = pair.target_server.client().await;
        }
    }
    assert_eq!(kills, 2);
    pair.caught_up().await;
    pair.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_applier_goes_on_where_the_old_one_stopped() {
    let mut pair = Pair::new().await;
    pair.both("CREATE TABLE log (n int)").await;
    for n in 0..5 {
        pair.on_source(&format!("INSERT INTO log VALUES ({n})")).await;
        pair.replicate().await;
        pair.stop().await;
        pair.start();
    }
    pair.caught_up().await;
    pair.compare().await;
}

/// A crash of the sidecar is an applier that is gone without a word, maybe with a transaction on its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_applier_leaves_nothing_half_done() {
    let mut pair = Pair::new().await;
    pair.both("CREATE TABLE log (n int)").await;
    for n in 0..40 {
        pair.on_source(&format!("INSERT INTO log SELECT {n} FROM generate_series(1, 50)")).await;
        pair.replicate().await;
        pair.applier = None;
        pair.start();
    }
    pair.caught_up().await;
    pair.compare().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_this_server_wrote_itself_is_not_written_again() {
    let mut pair = Pair::new().await;
    pair.both("CREATE TABLE log (n int)").await;
    pair.stop().await;
    pair.options.instance = InstanceId(101);
    pair.start();
    pair.on_source("INSERT INTO log VALUES (1)").await;
    let index = pair.replicate().await;
    pair.caught_up().await;
    let rows: i64 = pair.target.query_one("SELECT count(*) FROM log", &[]).await.unwrap().get(0);
    assert_eq!(rows, 0);
    // The position is stored soon, although nothing was written.
    let deadline = Instant::now() + Duration::from_secs(20);
    while pair.target.query_one("SELECT applied_index FROM howdah.progress", &[]).await.unwrap().get::<_, i64>(0) < index.0 as i64 {
        assert!(Instant::now() < deadline, "the position is stored");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn void_batches_and_second_copies_change_nothing() {
    let mut pair = Pair::new().await;
    pair.both("CREATE TABLE log (n int)").await;
    pair.on_source("INSERT INTO log VALUES (1)").await;
    pair.on_source("INSERT INTO log VALUES (2)").await;
    let transactions = pair.captured().await;
    let first = pair.framer.batch(&transactions[..1]);
    pair.log.append(Some(&first));
    // Again, with more behind it that relies on the description in the copy.
    let copy_and_more = pair.framer.batch(&transactions);
    pair.log.append(Some(&copy_and_more));
    pair.on_source("INSERT INTO log VALUES (3)").await;
    let late = pair.captured().await;
    let late = pair.framer.batch(&late);
    let writer = Writer { node: NodeId(9), instance: InstanceId(109), epoch: Epoch(9) };
    pair.log.append(Some(&Entry::Open { writer, time_ms: 0 }));
    pair.log.append(Some(&late));
    pair.caught_up().await;
    let rows: Vec<i32> = pair.target.query("SELECT n FROM log ORDER BY n", &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(rows, [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_holds_the_position() {
    let mut pair = Pair::new().await;
    pair.both("CREATE TABLE log (n int)").await;
    pair.caught_up().await;
    let at = pair.log.decided();
    let applier = pair.applier.as_ref().unwrap();
    applier.pause(at.next());
    pair.on_source("INSERT INTO log VALUES (1)").await;
    pair.replicate().await;
    pair.on_source("INSERT INTO log VALUES (2)").await;
    let last = pair.replicate().await;
    let applier = pair.applier.as_ref().unwrap();
    applier.wait_for(at.next(), Instant::now() + Duration::from_secs(20)).await.unwrap();
    let held = applier.wait_for(last, Instant::now() + Duration::from_millis(200)).await;
    assert!(matches!(held, Err(crate::apply::Error::NotReached { .. })), "{held:?}");
    assert!(applier.lag() > Duration::ZERO);
    applier.resume();
    pair.caught_up().await;
    assert_eq!(pair.applier.as_ref().unwrap().lag(), Duration::ZERO);
    assert_eq!(pair.applied().index, LogIndex(last.0));
}
