//! Transactions larger than an entry: streamed before they end, or cut after they did.

use super::fixture::{Postgres, until};
use super::log::Log;

/// Every third block of 1,000 rows is rolled back by its subtransaction.
const LOAD: &str = "DO $$ BEGIN
    FOR block IN 0..99 LOOP
        BEGIN
            INSERT INTO t SELECT block * 1000 + n, repeat('x', 50) FROM generate_series(0, 999) n;
            IF block % 3 = 0 THEN RAISE division_by_zero; END IF;
        EXCEPTION WHEN division_by_zero THEN NULL;
        END;
    END LOOP;
END $$";

fn expected() -> Vec<String> {
    (0..100).filter(|block| block % 3 != 0).flat_map(|block| (0..1000).map(move |n| (block * 1000 + n).to_string())).collect()
}

#[tokio::test]
async fn a_large_transaction_is_streamed_and_its_subtransactions_roll_back() {
    let postgres = Postgres::start_with(&["logical_decoding_work_mem='64kB'"]).await;
    let log = Log::default();
    let gate = postgres.gate(&log).await;
    let client = postgres.client().await;
    client.batch_execute(&format!("BEGIN; {LOAD}")).await.unwrap();
    until("chunks go ahead of the commit", async || log.proposals() > 1).await;
    client.batch_execute("ROLLBACK").await.unwrap();
    client.batch_execute(LOAD).await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (-1)").await.unwrap();
    let commits = log.commits();
    assert_eq!(commits.iter().map(|commit| commit.chunked).collect::<Vec<_>>(), [true, false]);
    let mut expected = expected();
    expected.push("-1".to_owned());
    assert_eq!(log.texts(), expected);
    assert!(gate.stop().await.error.is_none());
}

#[tokio::test]
async fn a_large_transaction_that_is_not_streamed_is_cut() {
    let postgres = Postgres::start().await;
    let log = Log::default();
    let gate = postgres.gate(&log).await;
    let client = postgres.client().await;
    client.batch_execute(LOAD).await.unwrap();
    assert!(log.commits()[0].chunked);
    assert_eq!(log.texts(), expected());
    let megabytes = format!("INSERT INTO t VALUES (-2, repeat('x', {}))", 20 << 20);
    client.batch_execute(&megabytes).await.unwrap();
    assert_eq!(log.texts().last().unwrap(), "-2");
    assert!(gate.stop().await.error.is_none());
}
