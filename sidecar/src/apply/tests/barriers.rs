//! Where the net effect is not enough, or not possible: unique values that move, tables without a key, TRUNCATE, columns that Postgres
//! guards, names of every kind, and local sessions in the way.

use super::fixture::Pair;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn swapped_unique_values_are_applied_in_order() {
    let mut pair = Pair::new().await;
    pair.both("CREATE TABLE t (id int PRIMARY KEY, u int UNIQUE); CREATE TABLE p (id int PRIMARY KEY, a int, live bool)").await;
    pair.both("CREATE UNIQUE INDEX ON p (a) WHERE live; CREATE TABLE x (id int PRIMARY KEY, r int4range, EXCLUDE USING gist (r WITH &&))")
        .await;
    pair.on_source("INSERT INTO t VALUES (1, 1), (2, 2); INSERT INTO p VALUES (1, 5, true), (2, 5, false)").await;
    pair.on_source("INSERT INTO x VALUES (1, '[1,5)'), (2, '[5,9)')").await;
    pair.same().await;
    assert_eq!(pair.applied().fallbacks, 0);
    pair.on_source("UPDATE t SET u = -1 WHERE id = 1; UPDATE t SET u = 1 WHERE id = 2; UPDATE t SET u = 2 WHERE id = 1").await;
    pair.same().await;
    assert_eq!(pair.applied().fallbacks, 1, "the set could not satisfy the constraint");
    pair.on_source("UPDATE p SET live = false WHERE id = 1; UPDATE p SET live = true WHERE id = 2").await;
    pair.on_source(
        "UPDATE x SET r = '[100,101)' WHERE id = 1; UPDATE x SET r = '[1,5)' WHERE id = 2; UPDATE x SET r = '[5,9)' WHERE id = 1",
    )
    .await;
    pair.same().await;
    let fallbacks = pair.applied().fallbacks;
    assert!(fallbacks >= 2);
    // The way back to sets is found again.
    pair.on_source("UPDATE t SET u = u + 10").await;
    pair.same().await;
    assert_eq!(pair.applied().fallbacks, fallbacks);
}

#[tokio::test(flavor = "multi_thread")]
async fn deferrable_constraints_and_keys_that_move() {
    let mut pair = Pair::new().await;
    pair.both("CREATE TABLE d (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED)").await;
    pair.both("CREATE TABLE dk (id int PRIMARY KEY DEFERRABLE, n int); ALTER TABLE dk REPLICA IDENTITY FULL").await;
    pair.on_source("INSERT INTO d SELECT i, i FROM generate_series(1, 10) i; INSERT INTO dk SELECT i, i FROM generate_series(1, 10) i")
        .await;
    pair.same().await;
    pair.on_source("UPDATE d SET u = 11 - u; UPDATE dk SET id = 11 - id").await;
    pair.same().await;
    pair.on_source("CREATE TABLE k (id int PRIMARY KEY, n int)").await;
    pair.target.batch_execute("CREATE TABLE k (id int PRIMARY KEY, n int)").await.ok();
    pair.on_source("INSERT INTO k SELECT i, i FROM generate_series(1, 10) i").await;
    pair.on_source("UPDATE k SET id = id + 10; UPDATE k SET id = id - 9; DELETE FROM k WHERE id = 5; INSERT INTO k VALUES (5, 55)").await;
    pair.same().await;
    assert_eq!(pair.applied().rows_missing, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_exactly_one_row_is_found() {
    let mut pair = Pair::new().await;
    pair.both("CREATE TABLE t (a int, b numeric, j json, c text); ALTER TABLE t REPLICA IDENTITY FULL").await;
    pair.both("CREATE TABLE only_inserts (a int)").await;
    pair.on_source("INSERT INTO t VALUES (1, 1.0, '{}', NULL), (1, 1.00, '{}', NULL), (1, 1.0, '{ }', NULL), (1, 1.0, '{}', NULL)").await;
    pair.on_source("INSERT INTO only_inserts SELECT 1 FROM generate_series(1, 10)").await;
    pair.same().await;
    pair.on_source("DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t)").await;
    pair.on_source("UPDATE t SET c = 'x' WHERE b::text = '1.00'; UPDATE t SET c = 'y' WHERE j::text = '{ }'").await;
    pair.same().await;
    let rows: i64 = pair.target.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
    assert_eq!((rows, pair.applied().rows_missing), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_and_identity_columns() {
    let mut pair = Pair::new().await;
    pair.both("CREATE TABLE g (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED)")
        .await;
    pair.both("CREATE TABLE i (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, a int)").await;
    pair.both("CREATE TABLE b (n int GENERATED ALWAYS AS IDENTITY, a int); ALTER TABLE b REPLICA IDENTITY FULL").await;
    pair.both("CREATE TABLE nothing (); ALTER TABLE nothing REPLICA IDENTITY FULL").await;
    pair.on_source(
        "INSERT INTO g (a) SELECT i FROM generate_series(1, 5) i; INSERT INTO i (id, a) SELECT i, i FROM generate_series(1, 5) i",
    )
    .await;
    pair.on_source("INSERT INTO b (a) VALUES (1), (2), (3); INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES").await;
    pair.same().await;
    pair.on_source("UPDATE g SET a = a + 1; UPDATE i SET a = a + 1; UPDATE i SET n = DEFAULT WHERE id = 2; UPDATE b SET a = 9, n = DEFAULT WHERE a = 2").await;
    pair.on_source("DELETE FROM i WHERE id = 3; INSERT INTO i (id, a) VALUES (3, 33); DELETE FROM nothing WHERE ctid = '(0,1)'").await;
    pair.same().await;
    assert_eq!((pair.applied().rows_missing, pair.applied().fallbacks), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_every_kind() {
    let mut pair = Pair::new().await;
    let table = "\"Sch\"\"ema 象\".\"Tab'le; --\"";
    pair.both(&format!(
        "CREATE SCHEMA \"Sch\"\"ema 象\"; CREATE TYPE \"Sch\"\"ema 象\".\"E N\" AS ENUM ('a', 'b'); \
         CREATE TABLE {table} (\"Id \"\" x\" int PRIMARY KEY, \"select\" text, \"$1\" \"Sch\"\"ema 象\".\"E N\", \"c0\" \"Sch\"\"ema 象\".\"E N\"[])"
    ))
    .await;
    pair.on_source(&format!("INSERT INTO {table} VALUES (1, 'x', 'a', '{{a,b}}'), (2, 'y', 'b', NULL)")).await;
    pair.on_source(&format!(
        "UPDATE {table} SET \"select\" = '$1', \"$1\" = 'b' WHERE \"Id \"\" x\" = 1; DELETE FROM {table} WHERE \"Id \"\" x\" = 2"
    ))
    .await;
    pair.same().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_rules_truncate_and_references() {
    let mut pair = Pair::new().await;
    pair.both(
        "CREATE TABLE p (id int, at int, n int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20);
         CREATE TABLE parent (id int PRIMARY KEY);
         CREATE TABLE child (id int REFERENCES parent, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
         CREATE TABLE child1 PARTITION OF child FOR VALUES IN (1);
         CREATE TABLE ruled (id int PRIMARY KEY, n int); CREATE TABLE rule_log (n int PRIMARY KEY);
         CREATE RULE r AS ON UPDATE TO ruled DO ALSO INSERT INTO rule_log VALUES (new.n);
         CREATE TABLE base (id int PRIMARY KEY); CREATE TABLE heir (PRIMARY KEY (id)) INHERITS (base)",
    )
    .await;
    pair.on_source(
        "INSERT INTO p SELECT i, i % 20, 0 FROM generate_series(1, 100) i; UPDATE p SET at = 19 - at; UPDATE p SET n = 1 WHERE id < 50",
    )
    .await;
    pair.on_source("INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1, 1), (2, 1); INSERT INTO base VALUES (1); INSERT INTO heir VALUES (2)").await;
    pair.on_source("INSERT INTO ruled VALUES (1, 1); UPDATE ruled SET n = 2").await;
    pair.same().await;
    // In one transaction with rows before and after; and both tables that refer to each other.
    pair.on_source("BEGIN; INSERT INTO p1 VALUES (500, 1, 1); TRUNCATE p1; INSERT INTO p1 VALUES (501, 1, 1); COMMIT").await;
    pair.on_source("TRUNCATE parent, child; INSERT INTO parent VALUES (7); TRUNCATE ONLY base").await;
    pair.same().await;
    let heirs: i64 = pair.target.query_one("SELECT count(*) FROM base", &[]).await.unwrap().get(0);
    assert_eq!(heirs, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_here_is_named_and_nothing_is_skipped() {
    let mut pair = Pair::new().await;
    pair.both("CREATE TABLE t (id int PRIMARY KEY)").await;
    pair.source.batch_execute("ALTER TABLE t ADD COLUMN extra int; INSERT INTO t VALUES (1, 2)").await.unwrap();
    pair.replicate().await;
    let mut applied = pair.applier.as_ref().unwrap().applied();
    let seen =
        tokio::time::timeout(Duration::from_secs(20), applied.wait_for(|applied| applied.error.is_some())).await.unwrap().unwrap().clone();
    assert_eq!(seen.error.as_deref(), Some("column extra of table public.t in the log does not exist on this node"));
    let stored: i64 = pair.target.query_one("SELECT applied_index FROM howdah.progress", &[]).await.unwrap().get(0);
    assert!(stored < 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_in_the_way_of_truncate_is_ended() {
    let mut pair = Pair::new().await;
    pair.stop().await;
    pair.options.max_apply_delay = Duration::from_millis(300);
    pair.start();
    pair.both("CREATE TABLE t (id int PRIMARY KEY)").await;
    let reader = pair.target_server.client().await;
    reader.batch_execute("BEGIN; SELECT * FROM t").await.unwrap();
    let began = Instant::now();
    pair.on_source("TRUNCATE t; INSERT INTO t VALUES (1)").await;
    pair.same().await;
    assert!(began.elapsed() >= Duration::from_millis(300), "the reader had its time");
    assert!(reader.batch_execute("SELECT 1").await.is_err(), "the reader was ended");
}

/// Waits until apply waits for somebody.
async fn meets_a_lock(pair: &Pair) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'howdah-apply' AND wait_event_type = 'Lock'";
    let deadline = Instant::now() + Duration::from_secs(20);
    while pair.target.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(Instant::now() < deadline, "apply meets a lock");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_may_block_it_for_long_while_the_group_waits() {
    let mut pair = Pair::new().await;
    pair.stop().await;
    pair.options.max_apply_delay = Duration::from_secs(3600);
    pair.start();
    pair.both("CREATE TABLE t (id int PRIMARY KEY)").await;
    let reader = pair.target_server.client().await;
    reader.batch_execute("BEGIN; SELECT * FROM t").await.unwrap();
    pair.on_source("TRUNCATE t; INSERT INTO t VALUES (1)").await;
    pair.replicate().await;
    meets_a_lock(&pair).await;
    // In the middle of the hour that the reader was given.
    pair.applier.as_ref().unwrap().hurry(true);
    pair.caught_up().await;
    pair.compare().await;
    assert!(reader.batch_execute("SELECT 1").await.is_err(), "the reader was ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_lock_only_delays() {
    let mut pair = Pair::new().await;
    pair.both("CREATE TABLE a (id int PRIMARY KEY, n int); CREATE TABLE b (id int PRIMARY KEY, n int); INSERT INTO a VALUES (1, 0); INSERT INTO b VALUES (1, 0)").await;
    pair.captured().await;
    let other = pair.target_server.client().await;
    // Takes locks in the other order than apply does, so that one of the two is chosen as the victim of the deadlock.
    other.batch_execute("BEGIN; SELECT * FROM b FOR UPDATE").await.unwrap();
    pair.on_source("BEGIN; UPDATE a SET n = 1; UPDATE b SET n = 1; COMMIT").await;
    pair.replicate().await;
    meets_a_lock(&pair).await;
    let _ = other.batch_execute("SELECT * FROM a FOR UPDATE").await;
    drop(other);
    pair.caught_up().await;
    pair.compare().await;
}
