//! Prepared statements and pipelines: names belong to the client, server connections to everybody.

use crate::support::proxy::{Proxy, sqlstate};
use crate::support::raw::{Raw, field, message};
use crate::support::sidecar::Group;
use futures::future::try_join_all;

fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{sql}\0\0\0").as_bytes())
}

fn bind(portal: &str, name: &str) -> Vec<u8> {
    message(b'B', format!("{portal}\0{name}\0\0\0\0\0\0\0").as_bytes())
}

fn execute(portal: &str, rows: u8) -> Vec<u8> {
    message(b'E', &[portal.as_bytes(), &[0, 0, 0, 0, rows]].concat())
}

fn sync() -> Vec<u8> {
    message(b'S', b"")
}

#[tokio::test]
async fn statements_are_found_on_whatever_connection() {
    let proxy = Proxy::start(&Group::new(1));
    let clients = try_join_all((0..6).map(async |_| Ok::<_, ()>(proxy.connect().await))).await.expect("connected");
    let mut statements = Vec::new();
    for client in &clients {
        statements.push(client.prepare("SELECT name FROM items WHERE id = $1").await.expect("prepared"));
    }
    for round in 1..20_i64 {
        let asked = clients.iter().zip(&statements).map(|(client, statement)| async move {
            let name: String = client.query_one(statement, &[&round]).await?.get(0);
            assert_eq!(name, format!("item {round}"));
            Ok::<_, tokio_postgres::Error>(())
        });
        try_join_all(asked).await.expect("answered");
    }
}

#[tokio::test]
async fn a_pipeline_in_one_driver_keeps_its_order() {
    let proxy = Proxy::start(&Group::new(1));
    let client = proxy.connect().await;
    let statement = client.prepare("SELECT $1::bigint * 2").await.expect("prepared");
    let numbers: Vec<i64> = (0..200).collect();
    let rows = try_join_all(numbers.iter().map(async |number| client.query_one(&statement, &[number]).await)).await.expect("answered");
    assert!(rows.iter().zip(&numbers).all(|(row, number)| row.get::<_, i64>(0) == number * 2));
}

#[tokio::test]
async fn many_executes_before_one_sync_are_one_transaction() {
    let proxy = Proxy::start(&Group::new(1));
    let mut raw = Raw::log_in(&proxy).await;
    raw.send(&message(b'Q', b"CREATE TABLE IF NOT EXISTS pipelined (id int PRIMARY KEY); TRUNCATE pipelined\0"));
    raw.until_ready();
    let insert = parse("i", "INSERT INTO pipelined VALUES (1 + (SELECT count(*) FROM pipelined))");
    let mut batch = insert;
    for _ in 0..50 {
        batch.extend(bind("", "i"));
        batch.extend(execute("", 0));
    }
    batch.extend(sync());
    raw.send(&batch);
    assert_eq!(raw.kinds(), format!("1{}Z", "2C".repeat(50)));
    // An error skips the rest, and the Sync takes everything of the pipeline back.
    let failing = [
        bind("", "i"),
        execute("", 0),
        parse("", "SELECT 1 / (random() * 0)::int"),
        bind("", ""),
        execute("", 0),
        bind("", "i"),
        execute("", 0),
        sync(),
    ];
    raw.send(&failing.concat());
    let kinds = raw.kinds();
    assert_eq!(kinds, "2C12EZ");
    raw.send(&message(b'Q', b"SELECT count(*) FROM pipelined\0"));
    let row = raw.until_ready().into_iter().find(|(kind, _)| *kind == b'D').expect("a row").1;
    assert!(row.ends_with(b"50"), "{row:?}");
}

#[tokio::test]
async fn portals_can_be_read_in_parts() {
    let proxy = Proxy::start(&Group::new(1));
    let mut raw = Raw::log_in(&proxy).await;
    let flush = message(b'H', b"");
    raw.send(&[parse("", "SELECT generate_series(1, 5)"), bind("p", ""), execute("p", 2), flush.clone()].concat());
    let kinds: Vec<u8> = (0..5).map(|_| raw.message().0).collect();
    assert_eq!(kinds, b"12DDs");
    raw.send(&[execute("p", 2), execute("p", 2), message(b'C', b"Pp\0"), sync()].concat());
    assert_eq!(raw.kinds(), "DDsDC3Z");
}

#[tokio::test]
async fn names_are_checked_as_the_server_would() {
    let proxy = Proxy::start(&Group::new(1));
    let mut raw = Raw::log_in(&proxy).await;
    let code = |raw: &mut Raw| {
        let messages = raw.until_ready();
        messages.iter().find(|(kind, _)| *kind == b'E').map(|(_, body)| field(body, b'C'))
    };
    raw.send(&[parse("s", "SELECT 1"), sync()].concat());
    assert_eq!(raw.kinds(), "1Z");
    raw.send(&[parse("s", "SELECT 2"), sync()].concat());
    assert_eq!(code(&mut raw).as_deref(), Some("42P05"));
    raw.send(&[bind("", "nope"), execute("", 0), sync()].concat());
    assert_eq!(code(&mut raw).as_deref(), Some("26000"));
    raw.send(&[message(b'D', b"Snope\0"), sync()].concat());
    assert_eq!(code(&mut raw).as_deref(), Some("26000"));
    raw.send(&[execute("nope", 0), sync()].concat());
    assert_eq!(code(&mut raw).as_deref(), Some("34000"));
    raw.send(&[message(b'C', b"Ss\0"), parse("s", "SELECT 2"), bind("", "s"), execute("", 0), sync()].concat());
    assert_eq!(raw.kinds(), "312DCZ");
    raw.send(&[parse("broken", "SELEC 1"), sync()].concat());
    assert_eq!(code(&mut raw).as_deref(), Some("42601"));
    raw.send(&[bind("", "broken"), sync()].concat());
    assert_eq!(code(&mut raw).as_deref(), Some("26000"), "a refused statement does not exist");
    raw.send(&message(b'Q', b"DEALLOCATE s\0"));
    assert_eq!(raw.kinds(), "CZ");
    raw.send(&[bind("", "s"), sync()].concat());
    assert_eq!(code(&mut raw).as_deref(), Some("26000"));
    raw.send(&[parse("t", "SELECT 3"), sync()].concat());
    assert_eq!(raw.kinds(), "1Z");
    raw.send(&message(b'Q', b"DEALLOCATE ALL\0"));
    assert_eq!(raw.kinds(), "CZ");
    raw.send(&[message(b'D', b"St\0"), sync()].concat());
    assert_eq!(code(&mut raw).as_deref(), Some("26000"));
}

#[tokio::test]
async fn the_unnamed_statement_outlives_its_sync() {
    let proxy = Proxy::start_with(&Group::new(1), "pool_size = 1\nworkers = 1");
    let (mut one, mut other) = (Raw::log_in(&proxy).await, Raw::log_in(&proxy).await);
    one.send(&[parse("", "SELECT 'one'"), sync()].concat());
    assert_eq!(one.kinds(), "1Z");
    other.send(&[parse("", "SELECT 'other'"), sync()].concat());
    assert_eq!(other.kinds(), "1Z");
    for (raw, text) in [(&mut one, "one"), (&mut other, "other")] {
        raw.send(&[bind("", ""), execute("", 0), sync()].concat());
        let messages = raw.until_ready();
        assert!(messages[1].1.ends_with(text.as_bytes()), "{messages:?}");
    }
}

#[tokio::test]
async fn a_changed_table_is_met_by_a_new_plan() {
    let proxy = Proxy::start_with(&Group::new(1), "pool_size = 1\nworkers = 1");
    let client = proxy.connect().await;
    client
        .batch_execute("DROP TABLE IF EXISTS changing; CREATE TABLE changing (a int); INSERT INTO changing VALUES (1)")
        .await
        .expect("made");
    let statement = client.prepare("SELECT * FROM changing").await.expect("prepared");
    client.query(&statement, &[]).await.expect("runs");
    client.batch_execute("ALTER TABLE changing ADD b int DEFAULT 2").await.expect("changed");
    let error = client.query(&statement, &[]).await.expect_err("as from the server itself");
    assert_eq!(sqlstate(&error), "0A000");
    let statement = client.prepare("SELECT * FROM changing").await.expect("prepared anew");
    let row = client.query_one(&statement, &[]).await.expect("runs");
    assert_eq!(row.get::<_, i32>(1), 2);
}

#[tokio::test]
async fn more_statements_than_a_connection_keeps() {
    let proxy = Proxy::start_with(&Group::new(1), "pool_size = 1\nworkers = 1");
    let client = proxy.connect().await;
    let first = client.prepare("SELECT 'first'").await.expect("prepared");
    let mut raw = Raw::log_in(&proxy).await;
    for nth in 0..1100 {
        raw.send(&[parse(&format!("s{nth}"), &format!("SELECT {nth}")), sync()].concat());
        assert_eq!(raw.kinds(), "1Z");
    }
    assert_eq!(client.query_one(&first, &[]).await.expect("prepared again").get::<_, String>(0), "first");
    raw.send(&[bind("", "s0"), execute("", 0), sync()].concat());
    assert_eq!(raw.kinds(), "2DCZ");
}
