//! What is written on the leader is on every server: rows of all kinds, DDL, roles.

use anyhow::{Context, Result, ensure};
use howdah_ctl::admin;
use howdah_protocol::NodeId;
use howdah_protocol::admin::NodeStatus;
use howdah_tests::{Fixture, PATIENCE, connect, eventually, refusal, show};

/// One column of each built-in type and of user-defined ones, a row of nulls, a row of odd values.
const TYPES: &str = r#"
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s "fine"');
    CREATE TYPE pair AS (a int, b text);
    CREATE DOMAIN positive AS int CHECK (VALUE > 0)"#;

const ROWS: &str = r#"
    CREATE TABLE every_type (id int PRIMARY KEY, b bool, i2 int2, i8 int8, f4 float4, f8 float8, n numeric, t text, v varchar(5), c char(5),
        by bytea, ts timestamp, tz timestamptz, d date, tm time, ttz timetz, iv interval, u uuid, j json, jb jsonb, ine inet, ci cidr, m macaddr,
        bi bit(3), vb varbit, p point, bx box, po polygon, ts2 tsvector, tq tsquery, x xml, mo money, r int4range, mr int4multirange, dr tstzrange,
        e mood, co pair, dm positive, ai int[], at text[][], ae mood[], ac pair[], ad date[], o oid, ln pg_lsn, na name, "Odd ""Name" text);
    INSERT INTO every_type (id) VALUES (1);
    INSERT INTO every_type VALUES (2, true, -32768, 9223372036854775807, 'NaN', '-Infinity', 'NaN', E'tab\t\\ quote'' "x" \u00e9', 'abc', 'ab',
        '\x00ff0a', 'infinity', '2024-02-29 23:59:59.999999+05:45', '4713-01-01 BC', '24:00:00', '12:00:00+15:59', '-1 year 2 mons -3 days 04:05:06.7',
        'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a": 1,   "a": 2}', '{"k": [1, null, "\u20ac"]}', '10.1.2.3/8', '10.0.0.0/8', '08:00:2b:01:02:03',
        B'101', B'1', '(1e-7,2)', '((0,0),(1,1))', '((0,0),(1,1),(2,0))', 'a fat cat', 'fat & !rat', '<a>1</a>', '-12.34', '(,5]', '{[1,2),[5,9)}',
        '["2024-01-01 00:00:00+00",)', 'it''s "fine"', '(7,"a ""q"", b")', 5, '[0:1]={1,NULL}', '{{a,"NULL"},{"",NULL}}', '{sad,"it''s \"fine\""}',
        '{"(1,x)","(,)"}', '{2024-01-01,infinity}', 4294967295, 'FFFFFFFF/FFFFFFFF', 'name', 'x');
    UPDATE every_type SET n = 1e-20, t = repeat('long ', 10000) WHERE id = 2;
    UPDATE every_type SET i2 = 7 WHERE id = 2;
"#;

#[tokio::test(flavor = "multi_thread")]
async fn rows_ddl_and_roles_reach_every_server() -> Result<()> {
    let cluster = Fixture::start().await?;
    let client = cluster.client().await?;

    client.batch_execute(TYPES).await?;
    client.batch_execute(ROWS).await?;
    client.batch_execute("CREATE TABLE no_key (a int, b json); INSERT INTO no_key SELECT i % 3, '{}' FROM generate_series(1, 9) i").await?;
    client.batch_execute("UPDATE no_key SET a = 7 WHERE ctid = (SELECT min(ctid) FROM no_key); DELETE FROM no_key WHERE a = 1").await?;

    // A migration, as tools send it: several statements in one message, in a transaction, in PL/pgSQL.
    client
        .batch_execute(
            "BEGIN; CREATE SCHEMA shop; SET LOCAL search_path = shop;
             CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text UNIQUE, price numeric(10, 2), doubled numeric GENERATED ALWAYS AS (price * 2) STORED);
             CREATE INDEX ON item (price); CREATE VIEW cheap AS SELECT * FROM item WHERE price < 10;
             INSERT INTO item (name, price) SELECT 'item ' || i, i FROM generate_series(1, 20) i; COMMIT",
        )
        .await?;
    client
        .batch_execute(
            "ALTER TABLE shop.item ADD COLUMN added timestamptz NOT NULL DEFAULT now(), ADD COLUMN code uuid DEFAULT gen_random_uuid()",
        )
        .await?;
    client
        .batch_execute(
            "DO $$ BEGIN EXECUTE 'CREATE TABLE made_by_do (id int PRIMARY KEY)'; INSERT INTO made_by_do VALUES (1); END $$;
             CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN NEW.name := NEW.name || '!'; RETURN NEW; END $f$;
             CREATE TRIGGER touch BEFORE INSERT ON shop.item FOR EACH ROW EXECUTE FUNCTION touch();
             INSERT INTO shop.item (name, price) VALUES ('triggered', 1);
             CREATE TABLE copied AS SELECT id, name, random() AS r FROM shop.item;
             COMMENT ON TABLE copied IS 'a copy'; GRANT SELECT ON copied TO PUBLIC;
             ALTER TYPE mood ADD VALUE 'new'",
        )
        .await?;
    client.batch_execute("INSERT INTO every_type (id, e) VALUES (3, 'new')").await?;
    client
        .batch_execute(
            "CREATE ROLE reader LOGIN PASSWORD 'secret'; GRANT USAGE ON SCHEMA shop TO reader; GRANT SELECT ON shop.item TO reader",
        )
        .await?;
    // Unique values swapped: no order of single statements by key gets there.
    client
        .batch_execute(
            "CREATE TABLE swap (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO swap VALUES (1, 1), (2, 2)",
        )
        .await?;
    client.batch_execute("UPDATE swap SET u = 3 - u").await?;
    client.batch_execute("BEGIN; INSERT INTO swap VALUES (3, 3); SAVEPOINT s; INSERT INTO swap VALUES (4, 4); ROLLBACK TO s; DELETE FROM swap WHERE id = 1; COMMIT").await?;

    cluster
        .assert_identical(&["public.every_type", "public.no_key", "shop.item", "public.copied", "public.made_by_do", "public.swap"])
        .await?;
    for node in cluster.nodes() {
        let url = cluster.info().node_url(node).expect("a node of this cluster").replace(&cluster.info().app_password, "secret");
        let url = url.replacen(&cluster.info().app_role, "reader", 1);
        let reader = connect(&url).await?;
        assert_eq!(show(&reader, "SELECT count(*) FROM shop.item").await?, "21", "node {node}");
        assert_eq!(show(&reader, "SELECT obj_description('copied'::regclass)").await?, "a copy", "node {node}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_replicated_is_refused() -> Result<()> {
    let cluster = Fixture::start().await?;
    let client = cluster.client().await?;
    let (code, text) = refusal(client.batch_execute("CREATE DATABASE other").await)?;
    assert_eq!(code, "0A000", "{text}");
    client.batch_execute("CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'CREATE TABLE in_sql (x int)'").await?;
    let (code, text) = refusal(client.batch_execute("SELECT f()").await)?;
    assert_eq!((code.as_str(), text.contains("PL/pgSQL")), ("0A000", true), "{text}");
    client.batch_execute("CREATE TABLE keyless (a int); INSERT INTO keyless VALUES (1)").await?;
    let (code, text) = refusal(client.batch_execute("ALTER TABLE keyless ADD COLUMN u uuid DEFAULT gen_random_uuid()").await)?;
    assert_eq!((code.as_str(), text.contains("primary key")), ("0A000", true), "{text}");
    for sql in ["SELECT lo_create(0)", "SELECT pg_logical_emit_message(true, 'howdah', '{}')"] {
        let (code, text) = refusal(client.batch_execute(sql).await)?;
        assert!(matches!(code.as_str(), "0A000" | "42501"), "{sql}: {code} {text}");
    }
    let trigger = "CREATE FUNCTION noop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
        CREATE TRIGGER t AFTER INSERT ON keyless FOR EACH ROW EXECUTE FUNCTION noop()";
    client.batch_execute(trigger).await?;
    let (code, text) = refusal(client.batch_execute("ALTER TABLE keyless ENABLE ALWAYS TRIGGER t").await)?;
    assert_eq!(code, "0A000", "{text}");
    // Session-local things stay where they are, also beside others in one message.
    client
        .batch_execute(
            "CREATE TEMP TABLE scratch (x int); CREATE TABLE kept (id int PRIMARY KEY); INSERT INTO scratch VALUES (1); DROP TABLE scratch",
        )
        .await?;
    client.batch_execute("INSERT INTO kept VALUES (1)").await?;
    cluster.assert_identical(&["public.keyless", "public.kept"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_is_cut_and_applied_whole() -> Result<()> {
    let cluster = Fixture::start().await?;
    let client = cluster.client().await?;
    client.batch_execute("CREATE TABLE big (id int PRIMARY KEY, filler text); CREATE TABLE blob (id int PRIMARY KEY, data bytea)").await?;
    let follower = cluster.node_client(cluster.a_follower().await?).await?;
    let counted = async || show(&follower, "SELECT count(*) FROM big").await;
    eventually(
        "the table on the follower",
        async || Ok(show(&follower, "SELECT to_regclass('big') IS NOT NULL").await?),
        |seen| seen == "t",
    )
    .await?;
    // Larger than logical_decoding_work_mem, so it is streamed; a part of it is rolled back.
    let work = client.batch_execute(
        "BEGIN; INSERT INTO big SELECT i, repeat('x', 600) FROM generate_series(1, 120000) i; SAVEPOINT s;
         INSERT INTO big SELECT i, repeat('y', 600) FROM generate_series(120001, 130000) i; ROLLBACK TO s; UPDATE big SET filler = 'z' WHERE id <= 10; COMMIT",
    );
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => break done?,
            seen = counted() => assert!(matches!(seen?.as_str(), "0" | "120000"), "a reader saw a part of a transaction"),
        }
    }
    client.batch_execute("INSERT INTO blob SELECT 1, decode(repeat('ab', 12000000), 'hex')").await?;
    cluster.assert_identical(&["public.big", "public.blob"]).await
}

/// A new composite type and values of it in one transaction: decoding them wants a lock that the waiting COMMIT holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_blocks_its_own_decoding_does_not_stop_the_group() -> Result<()> {
    let cluster = Fixture::start().await?;
    let client = cluster.client().await?;
    let both = "BEGIN; CREATE TYPE pair AS (a int, b text); CREATE TABLE t (id int PRIMARY KEY, p pair); INSERT INTO t VALUES (1, '(1,x)'); COMMIT";
    let (code, text) = refusal(client.batch_execute(both).await)?;
    assert_eq!(code, "08007", "{text}");
    client.batch_execute("INSERT INTO t VALUES (2, '(2,y)')").await?;
    cluster.assert_identical(&["public.t"]).await?;
    let log = std::fs::read_to_string(cluster.sidecar_log(cluster.leader().await?))?;
    assert!(log.contains("decoding it needs"), "the deadlock did not happen:\n{log}");
    Ok(())
}

/// Proxies rely on it where a session moves from one node to another, and so does every test that compares nodes.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_asked_tells_of_all_that_it_has_shown() -> Result<()> {
    let cluster = Fixture::start().await?;
    let client = cluster.client().await?;
    client.batch_execute("CREATE TABLE t (id serial PRIMARY KEY)").await?;
    cluster.wait_settled(PATIENCE).await?;
    let (leader, follower) = (cluster.leader().await?, cluster.a_follower().await?);
    let reader = cluster.node_client(follower).await?;
    let status = async |node: NodeId| -> Result<NodeStatus> {
        let address = cluster.info().node(node).context("no such node")?.admin.to_string();
        Ok(admin::status(&address).await?)
    };
    let mut before = status(leader).await?.committed_index;
    for nth in 1..=30 {
        client.batch_execute("INSERT INTO t DEFAULT VALUES").await?;
        let written = status(leader).await?.committed_index;
        ensure!(written > before, "{written:?} after write {nth}, {before:?} before it");
        // As often as it goes: what is told late is told some milliseconds late.
        let seen = async {
            while show(&reader, "SELECT count(*) FROM t").await? != nth.to_string() {}
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, seen).await.context("the row does not come")??;
        let told = status(follower).await?.committed_index;
        ensure!(told >= written, "{told:?}, and entry {written:?} is visible");
        before = written;
    }
    Ok(())
}
