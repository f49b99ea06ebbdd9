//! The applier's parts in a repair: it stays within a reign, takes changes back once, and reads rows as the log carries them.

use super::fixture::{Pair, SOURCE, TARGET};
use crate::apply::{Error, fetch, take_back};
use crate::core::coalesce::{Change, Coalescer, Mode, Step, Table, TableId};
use crate::core::divergence::Refused;
use crate::core::entry::{Entry, Writer};
use crate::core::pgoutput::{Identity, Value};
use bytes::Bytes;
use futures::TryStreamExt;
use howdah_protocol::Lsn;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const REPAIR: &str = "CREATE TABLE howdah.repair (only_row boolean PRIMARY KEY DEFAULT true, undone bigint NOT NULL)";

#[tokio::test(flavor = "multi_thread")]
async fn the_applier_of_a_leader_stays_within_its_reign() {
    let mut pair = Pair::new().await;
    pair.both("CREATE TABLE t (id int PRIMARY KEY)").await;
    pair.captured().await;
    let applier = pair.applier.as_ref().unwrap();
    applier.stay(true);
    // It follows until it reigns itself.
    pair.on_source("INSERT INTO t VALUES (1)").await;
    pair.same().await;
    let mine = Writer { instance: TARGET, ..SOURCE };
    let reign = pair.log.append(Some(&Entry::Open { writer: mine, time_ms: 0 }));
    pair.caught_up().await;
    pair.log.append(Some(&Entry::Open { writer: SOURCE, time_ms: 0 }));
    pair.on_source("INSERT INTO t VALUES (2)").await;
    let last = pair.replicate().await;
    let applier = pair.applier.as_ref().unwrap();
    let reached = applier.wait_for(last, Instant::now() + Duration::from_millis(300)).await;
    assert!(matches!(reached, Err(Error::NotReached { applied, .. }) if applied == reign), "{reached:?}");
    applier.stay(false);
    pair.caught_up().await;
    pair.compare().await;
}

fn keyless() -> Arc<Table> {
    let mut table = fetch::table(TableId(1 << 48), "public", "keyless", vec!["a".into(), "b".into()], &[]);
    table.relation.identity = Identity::Full;
    Arc::new(table)
}

fn row(a: &str, b: &str) -> Vec<Value> {
    [a, b].map(|text| Value::Text(Bytes::copy_from_slice(text.as_bytes()))).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_back_is_taken_back_once() {
    let mut pair = Pair::new().await;
    pair.stop().await;
    pair.target.batch_execute(REPAIR).await.unwrap();
    pair.target
        .batch_execute("SET synchronous_commit = local; CREATE TABLE keyless (a int, b text); CREATE TABLE t (id int PRIMARY KEY)")
        .await
        .unwrap();
    pair.target.batch_execute("INSERT INTO keyless VALUES (1, 'a'), (1, 'a'), (2, 'lost'); INSERT INTO t VALUES (1), (2)").await.unwrap();
    let undo = |undone: Lsn| {
        let insert = Step::Match { table: keyless(), old: row("1", "a"), new: None };
        let update = Step::Match { table: keyless(), old: row("2", "lost"), new: Some(row("2", "b")) };
        let delete = Step::Append { table: keyless(), rows: vec![row("3", "c")] };
        Ok(if undone < Lsn(50) { vec![delete, update, insert] } else { vec![] })
    };
    let table = Arc::new(fetch::table(TableId((1 << 48) + 1), "public", "t", vec!["id".into()], &["id".into()]));
    let deletes = [b"1", b"7"].map(|key| vec![Bytes::from_static(key)]).to_vec();
    let deletes = [Step::Net { table, deletes, updates: vec![], upserts: vec![] }];
    for _ in 0..3 {
        take_back(&pair.options, &deletes, undo, Lsn(50)).await.unwrap();
    }
    let rows = "SELECT (SELECT string_agg(a || b, ',' ORDER BY a) FROM keyless) || ' ' || (SELECT string_agg(id::text, ',') FROM t)";
    assert_eq!(pair.target.query_one(rows, &[]).await.unwrap().get::<_, String>(0), "1a,2b,3c 2");

    // A row that is not as it was left stops it, and nothing of it stays.
    let strange = |_| {
        Ok(vec![
            Step::Append { table: keyless(), rows: vec![row("4", "d")] },
            Step::Match { table: keyless(), old: row("9", "z"), new: None },
        ])
    };
    let refused = take_back(&pair.options, &[], strange, Lsn(60)).await;
    assert!(matches!(refused, Err(Error::TakeBack(_))), "{refused:?}");
    let refused = take_back(&pair.options, &[], |_| Err(Refused::Truncate("t".into())), Lsn(60)).await;
    assert!(matches!(refused, Err(Error::TakeBack(_))), "{refused:?}");
    assert_eq!(pair.target.query_one(rows, &[]).await.unwrap().get::<_, String>(0), "1a,2b,3c 2");
    assert_eq!(pair.target.query_one("SELECT undone FROM howdah.repair", &[]).await.unwrap().get::<_, i64>(0), 50);
}

const ODD: &str = "
    CREATE TYPE two AS (a int, b text);
    CREATE TABLE odd (k text, n numeric, PRIMARY KEY (k, n), b bool, c char(5), f bpchar, i inet, by bytea, ts timestamptz, a text[], p two,
        j json, iv interval, d float8, x \"char\", g int GENERATED ALWAYS AS (1) STORED, u int GENERATED ALWAYS AS IDENTITY);
    INSERT INTO odd VALUES ('1', 1.50, true, 'ab', 'ab  ', '10.0.0.1', '\\x00ff', '2026-11-23 05:15:14.5+02', '{a,NULL,\"x y\"}', (NULL, ''),
        '{\"a\": 1}', '1 day', 0.1, 'x');
    INSERT INTO odd VALUES ('q\"''\\,', 2), ('other', 3)";

/// Rows that are read and written again are the same, whatever their types.
#[tokio::test(flavor = "multi_thread")]
async fn rows_by_key_come_as_the_log_carries_them() {
    let mut pair = Pair::new().await;
    pair.stop().await;
    pair.both(ODD).await;
    let source = fetch::open(&pair.source_server.target(), "test").await.unwrap();
    assert!(fetch::describe(&source, "public", "none", &["k".into()]).await.unwrap().is_none());
    assert!(fetch::describe(&source, "public", "odd", &["gone".into()]).await.is_err());
    let table = Arc::new(fetch::describe(&source, "public", "odd", &["k".into(), "n".into()]).await.unwrap().unwrap());
    let keys: Vec<Vec<Bytes>> =
        [["1", "1.5"], ["q\"'\\,", "2"], ["none", "1"]].map(|key| key.map(|text| Bytes::from_static(text.as_bytes())).to_vec()).into();
    let rows: Vec<fetch::Row> = fetch::rows(&source, &table, &keys).await.unwrap().try_collect().await.unwrap();
    assert_eq!(rows.len(), 2);
    let mut coalescer = Coalescer::new(Mode::Net);
    for row in rows {
        let new = row.into_iter().map(|value| value.map_or(Value::Null, |text| Value::Text(text.into()))).collect();
        coalescer.push(&table, Change::Insert { new }).unwrap();
    }
    pair.target.batch_execute(REPAIR).await.unwrap();
    pair.target.batch_execute("SET synchronous_commit = local; DELETE FROM odd WHERE k <> 'other'").await.unwrap();
    let steps = coalescer.finish();
    take_back(&pair.options, &[], |_| Ok(steps), Lsn(1)).await.unwrap();
    pair.compare().await;
}
