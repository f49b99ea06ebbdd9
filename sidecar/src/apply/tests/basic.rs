//! Rows travel, positions hold.

use super::fixture::Pair;

#[tokio::test(flavor = "multi_thread")]
async fn rows_with_a_primary_key() {
    let mut pair = Pair::new().await;
    pair.both("CREATE TABLE t (id int PRIMARY KEY, a text, b int)").await;
    pair.on_source("INSERT INTO t SELECT i, 'row ' || i, i FROM generate_series(1, 100) i").await;
    pair.same().await;
    pair.on_source(
        "UPDATE t SET a = a || '!', b = NULL WHERE id % 3 = 0; DELETE FROM t WHERE id % 7 = 0; UPDATE t SET id = id + 1000 WHERE id > 90",
    )
    .await;
    pair.same().await;
    let rows: i64 = pair.target.query_one("SELECT count(*) FROM t WHERE id > 1000", &[]).await.unwrap().get(0);
    assert_eq!(rows, 8);
    assert_eq!(pair.applied().fallbacks, 0);
    assert_eq!(pair.applied().rows_missing, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_updates_are_one_write() {
    let mut pair = Pair::new().await;
    pair.both("CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 0)").await;
    pair.captured().await;
    for _ in 0..500 {
        pair.on_source("UPDATE t SET n = n + 1").await;
    }
    pair.same().await;
    let (n, xmin_changes): (i32, i64) = {
        let row = pair.target.query_one("SELECT n, (SELECT n_tup_upd + pg_stat_get_xact_tuples_updated('t'::regclass) FROM pg_stat_user_tables WHERE relname = 't') FROM t", &[]).await.unwrap();
        (row.get(0), row.get(1))
    };
    assert_eq!(n, 500);
    assert!(xmin_changes <= 1, "{xmin_changes} row versions were written");
}
