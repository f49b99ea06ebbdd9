//! What a schema change depends on besides its text, and what PostgreSQL does in its course, comes out alike on all nodes.

use anyhow::{Result, ensure};
use howdah_tests::{Fixture, PATIENCE, eventually, show};

/// Everything that is defined, with its owner; one line.
const DEFINITIONS: &str = "
    SELECT string_agg(line, E'\\n' ORDER BY line) FROM (
        SELECT format('%s %s %s %s', c.oid::regclass, c.relowner::regrole, pg_get_expr(c.relpartbound, c.oid),
                CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END) AS line
            FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
        UNION ALL SELECT format('%s.%s default %s', d.adrelid::regclass, d.adnum, pg_get_expr(d.adbin, d.adrelid)) FROM pg_attrdef d
        UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint
        UNION ALL SELECT format('%s of %s', extname, extowner::regrole) FROM pg_extension
        UNION ALL SELECT format('%s of %s', oid::regtype, typowner::regrole) FROM pg_type WHERE typnamespace = 'public'::regnamespace
        UNION ALL SELECT format('%s of %s', oid::regprocedure, proowner::regrole) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION ALL SELECT format('%s of %s', nspname, nspowner::regrole) FROM pg_namespace WHERE nspname !~ '^pg_t'
        UNION ALL SELECT rolname FROM pg_roles) AS lines";

/// The definitions, once all nodes have the same ones.
async fn same_everywhere(cluster: &Fixture) -> Result<String> {
    cluster.wait_settled(PATIENCE).await?;
    let leader = cluster.leader().await?;
    let wanted = show(&cluster.node_client(leader).await?, DEFINITIONS).await?;
    for node in cluster.nodes() {
        let here = show(&cluster.node_client(node).await?, DEFINITIONS).await?;
        let missing: Vec<_> = wanted.lines().filter(|line| !here.contains(line)).collect();
        ensure!(here == wanted, "node {node} differs from the leader, such as in {missing:#?}");
    }
    Ok(wanted)
}

async fn run(cluster: &Fixture, script: &[&str]) -> Result<()> {
    let client = cluster.client().await?;
    for sql in script {
        client.batch_execute(sql).await.map_err(|error| anyhow::anyhow!("{sql}: {error:?}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_literal_means_what_it_meant_to_the_session() -> Result<()> {
    let cluster = Fixture::start().await?;
    let script = [
        "CREATE VIEW us AS SELECT date '12/31/2024' AS d",
        "SET DateStyle = 'SQL, DMY'; CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)",
        "ALTER TABLE t ADD COLUMN at timestamptz DEFAULT '03/04/2024 10:00', ADD COLUMN since timestamptz DEFAULT now()",
        "SET standard_conforming_strings = off",
        "CREATE VIEW backslash AS SELECT 'x\\\\y' AS t",
        "RESET standard_conforming_strings; SET transform_null_equals = on; CREATE VIEW nulls AS SELECT id FROM t WHERE at = NULL",
        "SET IntervalStyle = sql_standard; CREATE VIEW ago AS SELECT interval '-1 2:03:04' AS i",
        "SET TimeZone = 'Europe/Berlin'; CREATE TABLE day (at timestamptz PRIMARY KEY) PARTITION BY RANGE (at)",
        "CREATE TABLE january PARTITION OF day FOR VALUES FROM ('01/01/2024') TO ('01/02/2024')",
        "INSERT INTO day VALUES ('01/01/2024 00:30')",
        "SET TimeZone = 'UTC'; CREATE TABLE one (id int PRIMARY KEY); SET TimeZone = 'Asia/Tokyo'; CREATE TABLE two (id int PRIMARY KEY)",
        "BEGIN; CREATE TABLE three (id int PRIMARY KEY); COMMIT; BEGIN; CREATE TABLE four (id int PRIMARY KEY); COMMIT",
        // The next one has none of it.
        "RESET ALL; CREATE VIEW usual AS SELECT timestamptz '2024-01-02 03:04' AS at",
    ];
    run(&cluster, &script).await?;
    // A session of its own: what the trigger does is compiled under this setting.
    run(&cluster, &["SET standard_conforming_strings = off", "CREATE VIEW early AS SELECT 'x\\\\z' AS t", "CREATE ROLE pgbouncer"]).await?;
    let said = same_everywhere(&cluster).await?;
    for expected in [
        "'2024-12-31'::date",
        "2024-04-03 10:00:00",
        "'x\\y'",
        "'x\\z'",
        "pgbouncer",
        "two",
        "four",
        "IS NULL",
        "-02:03:04",
        "2023-12-31 23:00:00",
        "2024-01-02 03:04:00",
    ] {
        ensure!(said.contains(expected), "no {expected} in\n{said}");
    }
    cluster.assert_identical(&["public.t", "public.january"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_statement_does_inside_is_done_once() -> Result<()> {
    let cluster = Fixture::start().await?;
    let script = [
        // The scripts of these drop what an older version made; that of cube says ALTER EXTENSION in between.
        "CREATE EXTENSION hstore; CREATE EXTENSION cube; CREATE TABLE between (id int PRIMARY KEY)",
        "CREATE EXTENSION citext VERSION '1.5'; ALTER EXTENSION citext UPDATE",
        "DO $$ BEGIN CREATE EXTENSION seg; DROP EXTENSION seg; CREATE EXTENSION seg; END $$",
        "DROP TABLE between; CREATE TABLE t (id int PRIMARY KEY, h hstore); INSERT INTO t VALUES (1, 'a=>1')",
        "CREATE MATERIALIZED VIEW m AS SELECT id FROM t; CREATE UNIQUE INDEX ON m (id); INSERT INTO t VALUES (2, NULL)",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY m",
        "INSERT INTO t VALUES (3, NULL); DO $$ BEGIN REFRESH MATERIALIZED VIEW CONCURRENTLY m; END $$",
    ];
    run(&cluster, &script).await?;
    let said = same_everywhere(&cluster).await?;
    ensure!(said.contains("cube of app") && said.contains("seg of app") && !said.contains("between"), "{said}");
    for node in cluster.nodes() {
        ensure!(show(&cluster.node_client(node).await?, "SELECT count(*) FROM m").await? == "3", "node {node} has not refreshed it");
    }
    cluster.assert_identical(&["public.t"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_statements_cannot_be_told_apart_is_refused() -> Result<()> {
    let cluster = Fixture::start().await?;
    let client = cluster.client().await?;
    let text = "BEGIN; SAVEPOINT s; CREATE TABLE a (id int PRIMARY KEY); ROLLBACK TO s; CREATE TABLE b (id int PRIMARY KEY); COMMIT";
    let refused = client.batch_execute(text).await.err().map(|error| format!("{error:?}")).unwrap_or_default();
    ensure!(refused.contains("0A000") && refused.contains("one by one"), "{refused}");
    client.batch_execute("ROLLBACK").await?;
    for sql in text.split("; ") {
        client.batch_execute(sql).await?;
    }
    client
        .batch_execute("CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN COMMIT; ROLLBACK; END $$; CREATE TABLE c (id int PRIMARY KEY)")
        .await?;
    let said = same_everywhere(&cluster).await?;
    ensure!(said.contains("b app") && said.contains("c app") && !said.contains("\na app"), "{said}");
    Ok(())
}

/// The recipe of the manual ("Dropping Roles"), with much that can be owned.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_dropped_and_what_it_gave_away_stays() -> Result<()> {
    let cluster = Fixture::start().await?;
    let script = [
        "CREATE ROLE old; CREATE ROLE heir; GRANT old, heir TO app; GRANT CREATE ON SCHEMA public TO old, heir",
        "CREATE SCHEMA rooms AUTHORIZATION old; CREATE TABLE app_own (id int PRIMARY KEY); GRANT SELECT ON app_own TO old",
        "SET ROLE old; CREATE TABLE kept (id serial PRIMARY KEY, note text); INSERT INTO kept (note) SELECT 'x' FROM generate_series(1, 1000)",
        "CREATE DOMAIN d AS int; CREATE TYPE r AS RANGE (subtype = int4); CREATE TYPE c AS (a int); CREATE VIEW v AS SELECT 1 AS a",
        "CREATE SEQUENCE s; CREATE PROCEDURE p() LANGUAGE sql AS 'SELECT 1'; CREATE AGGREGATE a(int) (sfunc = int4pl, stype = int)",
        "CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (10)",
        "INSERT INTO parted VALUES (1); CREATE AGGREGATE every(*) (sfunc = int8inc, stype = int8, initcond = '0')",
        "CREATE STATISTICS st ON id, note FROM kept; CREATE COLLATION co FROM \"C\"; CREATE MATERIALIZED VIEW m AS SELECT 1 AS a",
        "RESET ROLE; REASSIGN OWNED BY old TO heir",
    ];
    run(&cluster, &script).await?;
    let said = same_everywhere(&cluster).await?;
    ensure!(said.contains("kept heir") && !said.contains(" old"), "{said}");
    let script = [
        // What it still owns goes, and only that.
        "SET ROLE old; CREATE TABLE gone (id int PRIMARY KEY); CREATE FUNCTION gone(int) RETURNS int LANGUAGE sql AS 'SELECT 1'; RESET ROLE",
        "GRANT SELECT ON app_own TO old; SET ROLE old; CREATE TEMP TABLE mine (id int); RESET ROLE; DROP OWNED BY old",
        "DROP ROLE old",
    ];
    run(&cluster, &script).await?;
    let said = same_everywhere(&cluster).await?;
    ensure!(said.contains("kept heir") && !said.contains("gone") && !said.contains("old"), "{said}");
    cluster.assert_identical(&["public.kept", "public.part"]).await?;
    cluster.switchover(None).await?;
    let count = async || Ok(show(&cluster.client().await?, "SELECT count(*) FROM kept").await?);
    eventually("the rows on the next leader", count, |count| count == "1000").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlogged_table_is_not_made_logged() -> Result<()> {
    let cluster = Fixture::start().await?;
    let client = cluster.client().await?;
    client.batch_execute("CREATE UNLOGGED TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100)").await?;
    let refused = client.batch_execute("ALTER TABLE t SET LOGGED").await.err().map(|error| format!("{error:?}")).unwrap_or_default();
    ensure!(refused.contains("0A000") && refused.contains("its rows are on this node only"), "{refused}");
    client.batch_execute("CREATE TABLE logged (LIKE t INCLUDING ALL); INSERT INTO logged SELECT * FROM t; DROP TABLE t").await?;
    cluster.assert_identical(&["public.logged"]).await
}
