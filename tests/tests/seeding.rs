//! A node is filled from a follower, or where there is none from the leader, in pieces while writes go on, and holds the same afterwards.

use anyhow::{Context, Result, ensure};
use howdah_ctl::admin;
use howdah_ctl::load::{Load, Options, Script, prepare};
use howdah_protocol::NodeId;
use howdah_protocol::admin::{MemberStep, Role, Seeding, SeedingStage};
use howdah_tests::{Fixture, PATIENCE, eventually, show};

const TYPES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'fine');
    CREATE TYPE pair AS (a int, b text);
    CREATE DOMAIN positive AS int CHECK (VALUE > 0)";

/// Of every kind that the copying treats differently: types whose binary form holds OIDs of what users made, generated and identity columns,
/// partitions, inheritance, foreign keys, no key, no rows; and a table of several pieces.
const TABLES: &str = "
    CREATE SCHEMA \"odd \"\"name\";
    CREATE TABLE kinds (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, m mood, moods mood[], p pair, d positive, ds positive[], n numeric,
        f float8, j jsonb, b bytea, t timestamptz, i interval, texts text[], r int4range, c regclass, x oid,
        twice int GENERATED ALWAYS AS (d * 2) STORED, gone int, s text COLLATE \"C\", u uuid);
    ALTER TABLE kinds DROP COLUMN gone;
    INSERT INTO kinds (m, moods, p, d, ds, n, f, j, b, t, i, texts, r, c, x, s, u)
        SELECT 'fine', '{sad,fine}', ROW(i, E'tab\\tline\\n\\\\')::pair, i, ARRAY[i], i / 7.0, i / 3.0, jsonb_build_object('k', i), decode(md5(i::text), 'hex'),
            now() + i * interval '1 s', i * interval '1 s', ARRAY['a', NULL, 'b,\"'], int4range(1, i + 1), 'kinds', i, 'text ' || i, gen_random_uuid()
        FROM generate_series(1, 500) i;
    INSERT INTO kinds DEFAULT VALUES;
    CREATE TABLE plain (id int PRIMARY KEY, m mood, d positive, j jsonb, texts text[]);
    INSERT INTO plain SELECT i, 'sad', i, '{\"k\": [1, null]}', ARRAY['x', NULL] FROM generate_series(1, 500) i;
    CREATE TABLE large (id bigserial PRIMARY KEY, filler text, big text);
    INSERT INTO large (filler) SELECT repeat('x', 200) FROM generate_series(1, 250000) i;
    ALTER TABLE large ALTER big SET STORAGE EXTERNAL;
    UPDATE large SET big = repeat(md5(id::text), 1000) WHERE id % 5000 = 0;
    CREATE INDEX ON large (length(big));
    CREATE TABLE parts (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
    CREATE TABLE parts_2 PARTITION OF parts DEFAULT;
    INSERT INTO parts SELECT i, date '2020-06-01' + i FROM generate_series(1, 400) i;
    CREATE TABLE child (note text) INHERITS (plain);
    INSERT INTO child SELECT 1000 + i, 'fine', i, '1', NULL, 'child' FROM generate_series(1, 10) i;
    CREATE TABLE \"odd \"\"name\".\"Odd 'one'\" (\"a b\" int PRIMARY KEY, \"c\"\"d\" text, plain int REFERENCES plain);
    INSERT INTO \"odd \"\"name\".\"Odd 'one'\" SELECT i, 'v', i FROM generate_series(1, 50) i;
    CREATE TABLE keyless (a int, b text);
    INSERT INTO keyless SELECT i % 3, 'x' FROM generate_series(1, 100) i;
    CREATE TABLE nothing (id int PRIMARY KEY);
    CREATE SEQUENCE counter INCREMENT 5;
    SELECT nextval('counter') FROM generate_series(1, 9);
    CREATE MATERIALIZED VIEW summed AS SELECT m, count(*) AS n FROM plain GROUP BY m;";

const NAMES: [&str; 10] = [
    "public.kinds",
    "public.plain",
    "public.large",
    "public.parts_1",
    "public.parts_2",
    "public.child",
    "odd \"name.Odd 'one'",
    "public.keyless",
    "public.nothing",
    "public.howdah_load",
];

/// What a copy of rows alone would not bring. One line.
const REST: &str = "
    SELECT format('%s indexes %s, constraints %s, triggers %s, summed %s, defaults %s',
        (SELECT count(*) FROM pg_indexes WHERE schemaname <> 'pg_catalog' AND schemaname <> 'howdah'),
        (SELECT md5(string_agg(indexdef, ';' ORDER BY indexdef)) FROM pg_indexes WHERE schemaname NOT IN ('pg_catalog', 'howdah')),
        (SELECT md5(string_agg(conname || pg_get_constraintdef(oid), ';' ORDER BY conname)) FROM pg_constraint
            WHERE connamespace NOT IN ('pg_catalog'::regnamespace, 'howdah'::regnamespace)),
        (SELECT count(*) FROM pg_event_trigger), (SELECT string_agg(summed::text, ';' ORDER BY m) FROM summed),
        (SELECT count(*) FROM pg_attrdef))";

/// How many fillings a node began to serve.
fn served(cluster: &Fixture, node: NodeId) -> Result<usize> {
    Ok(std::fs::read_to_string(cluster.sidecar_log(node))?.matches("fills a node").count())
}

fn slow(megabytes_per_second: i64) -> toml::Value {
    let settings =
        [("connections", 3), ("megabytes_per_second", megabytes_per_second), ("megabytes_per_second_busy", megabytes_per_second)];
    toml::Value::Table(settings.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_is_filled_in_pieces_while_writes_go_on() -> Result<()> {
    let mut cluster = Fixture::start_with(|options| {
        options.nodes = 1;
        options.sidecar.insert("seed".to_owned(), slow(25));
    })
    .await?;
    let url = cluster.info().proxy_url();
    for sql in [TYPES, TABLES] {
        cluster.client().await?.batch_execute(sql).await?;
    }
    prepare(&url).await?;
    let load = Load::start(&Options { url: url.clone(), clients: 2, script: Script::Insert, seed: 3 });
    let begun = load.window().acknowledged;
    eventually("writes before", async || Ok(load.window().acknowledged), |count| *count > begun + 50).await?;

    let mut seen: Vec<(Seeding, u64)> = Vec::new();
    let mut watch = |step: &MemberStep| seen.extend(step.seeding.map(|seeding| (seeding, load.window().acknowledged)));
    let two = cluster.add_node(None, PATIENCE * 2, &mut watch).await?;

    // It told how far it was, and never went back.
    let rows: Vec<_> = seen.iter().filter(|(seeding, _)| seeding.stage == SeedingStage::Rows).collect();
    ensure!(rows.len() >= 2, "no progress was seen: {seen:?}");
    ensure!(rows.windows(2).all(|two| two[0].0.bytes_done <= two[1].0.bytes_done && two[0].0.rows_done <= two[1].0.rows_done), "{rows:?}");
    let (first, last) = (rows[0], rows[rows.len() - 1]);
    ensure!(first.0.bytes_total > 50 << 20 && last.0.bytes_done > 0, "{last:?}");
    ensure!(last.1 > first.1, "no write was acknowledged while rows were copied: {seen:?}");
    // Where there is nobody else, the leader gives its rows.
    let leader = cluster.leader().await?;
    ensure!(last.0.from == Some(leader), "{last:?}");
    let said = std::fs::read_to_string(cluster.sidecar_log(leader))?;
    ensure!(said.contains("fills a node") && said.contains("the filling of a node is over"), "{said}");

    // Of every kind, from a follower too.
    let three = cluster.add_node(None, PATIENCE * 2, &mut |_| {}).await?;
    ensure!((served(&cluster, leader)?, served(&cluster, two)?) == (1, 1), "the follower did not serve");

    let report = load.stop().await?;
    let audit = report.audit(&url).await?;
    ensure!(audit.lost.is_empty() && audit.ghosts.is_empty(), "{:?} lost, {:?} ghosts", audit.lost, audit.ghosts);
    cluster.assert_identical(&NAMES).await?;
    let old = cluster.node_client(leader).await?;
    for node in [two, three] {
        let new = cluster.node_client(node).await?;
        assert_eq!(show(&new, REST).await?, show(&old, REST).await?);
        // The leader's, or raised from there to the log's mark.
        let counter: i64 = show(&new, "SELECT last_value FROM counter").await?.parse()?;
        ensure!(counter >= 41, "{counter}");
        // Statistics are there: its first reader gets a plan for the rows that there are.
        let estimate: f64 = show(&new, "SELECT reltuples FROM pg_class WHERE relname = 'large'").await?.parse()?;
        ensure!(estimate > 200_000.0, "{estimate}");
    }
    Ok(())
}

async fn filling(cluster: &Fixture, node: NodeId) -> Result<Option<Seeding>> {
    let address = cluster.info().node(node).context("no such node")?.admin.to_string();
    Ok(admin::status(&address).await.ok().and_then(|status| status.seeding))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filling_that_is_cut_short_begins_anew() -> Result<()> {
    let mut cluster = Fixture::start_with(|options| {
        options.nodes = 3;
        options.sidecar.insert("seed".to_owned(), slow(4));
    })
    .await?;
    let client = cluster.client().await?;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, filler text)").await?;
    client.batch_execute("INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, 60000) i").await?;
    cluster.wait_settled(PATIENCE).await?;
    let follower = cluster.a_follower().await?;
    let leader = cluster.leader().await?;

    // A node that finds the mark of a filling is filled.
    let mark = cluster.data().join(format!("node{follower}/data/seeding"));
    for round in 1..=2 {
        cluster.kill_node(follower).await?;
        if round == 1 {
            std::fs::write(&mark, "")?;
        }
        cluster.restart_node(follower).await?;
        let copies = |seeding: &Option<Seeding>| seeding.is_some_and(|now| now.stage == SeedingStage::Rows && now.bytes_done > 0);
        let seen = eventually("rows that are copied", async || filling(&cluster, follower).await, copies).await?;
        ensure!(seen.is_some_and(|now| now.bytes_done < now.bytes_total), "round {round} was done too early: {seen:?}");
        ensure!(mark.exists(), "no mark in round {round}");
    }
    cluster.wait_caught_up(follower, PATIENCE).await?;
    ensure!(!mark.exists(), "the mark outlived the filling");
    // Cut short by its own end, it begins with a follower again.
    let other = cluster.nodes().into_iter().find(|node| ![leader, follower].contains(node)).context("a third node")?;
    ensure!((served(&cluster, leader)?, served(&cluster, other)?) == (0, 2), "it was not filled by the follower twice");
    let status = admin::status(&cluster.info().node(follower).context("a node")?.admin.to_string()).await?;
    ensure!(status.role == Role::Follower && status.seeding.is_none(), "{status:?}");
    cluster.assert_identical(&["public.t"]).await
}

/// Rows that only the exact place in the log leaves right: without a key, each changed by its content; and values of a sequence.
const KEYLESS: &str = "
    WITH gone AS (DELETE FROM keyless WHERE ctid = (SELECT min(ctid) FROM keyless WHERE a = 1) RETURNING a)
    INSERT INTO keyless SELECT (i + nextval('counter')) % 3, 'y' FROM generate_series(1, 3) i";

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_fills_a_node_under_load() -> Result<()> {
    let mut cluster = Fixture::start_with(|options| {
        options.nodes = 2;
        options.sidecar.insert("seed".to_owned(), slow(8));
        // Large transactions come in chunks, of which the snapshot may hold some.
        options.settings.insert("logical_decoding_work_mem".into(), "64kB".into());
    })
    .await?;
    let (url, leader, follower) = (cluster.info().proxy_url(), cluster.leader().await?, cluster.a_follower().await?);
    let client = cluster.client().await?;
    client
        .batch_execute(
            "CREATE TABLE keyless (a int, b text); INSERT INTO keyless SELECT i % 3, 'x' FROM generate_series(1, 200) i;
             CREATE TABLE large (id bigserial PRIMARY KEY, filler text);
             INSERT INTO large (filler) SELECT repeat('x', 200) FROM generate_series(1, 80000) i;
             CREATE TABLE chunked (id int PRIMARY KEY); CREATE SEQUENCE counter",
        )
        .await?;
    prepare(&url).await?;
    let load = Load::start(&Options { url: url.clone(), clients: 2, script: Script::Insert, seed: 5 });
    let writer = cluster.client().await?;
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let writing = tokio::spawn(async move {
        let mut count = 0_u64;
        while !*stopped.borrow_and_update() {
            writer.batch_execute(KEYLESS).await?;
            count += 1;
        }
        anyhow::Ok(count)
    });
    // It is open all the while that the rows are copied; of a snapshot of the leader it could be no part.
    let chunks = cluster.client().await?;
    chunks.batch_execute("BEGIN; INSERT INTO chunked SELECT generate_series(1, 20000)").await?;

    let mut seen: Vec<(Seeding, u64)> = Vec::new();
    let mut watch = |step: &MemberStep| seen.extend(step.seeding.map(|seeding| (seeding, load.window().acknowledged)));
    let adding = cluster.add_node(None, PATIENCE * 2, &mut watch);
    let new = adding.await?;
    chunks.batch_execute("COMMIT").await?;
    stop.send_replace(true);
    ensure!(writing.await?? > 0, "no row without a key was written");
    let rows: Vec<_> = seen.iter().filter(|(seeding, _)| seeding.stage == SeedingStage::Rows).collect();
    let (first, last) = (rows.first().context("rows were copied")?, rows.last().context("rows were copied")?);
    ensure!(last.0.from == Some(follower) && last.0.bytes_total > 10 << 20, "{last:?}");
    ensure!(last.1 > first.1, "no write was acknowledged while rows were copied: {seen:?}");
    ensure!((served(&cluster, leader)?, served(&cluster, follower)?) == (0, 1), "the follower did not serve");

    let report = load.stop().await?;
    let audit = report.audit(&url).await?;
    ensure!(audit.lost.is_empty() && audit.ghosts.is_empty(), "{:?} lost, {:?} ghosts", audit.lost, audit.ghosts);
    cluster.assert_identical(&["public.keyless", "public.large", "public.chunked", "public.howdah_load"]).await?;
    let given: i64 = show(&client, "SELECT last_value FROM counter").await?.parse()?;
    let identity = "SELECT relreplident FROM pg_class WHERE relname = 'keyless'";
    ensure!(show(&cluster.node_client(new).await?, identity).await? == "f", "rows without a key cannot be changed there");

    // The new node leads: no value of a sequence is given twice.
    ensure!(cluster.switchover(Some(new)).await? == (leader, new), "another node led before");
    let next: i64 = show(&client, "SELECT nextval('counter')").await?.parse()?;
    ensure!(next > given, "{next} after {given}");
    client.batch_execute("INSERT INTO large (filler) VALUES ('new'); DELETE FROM keyless WHERE a = 2").await?;
    cluster.assert_identical(&["public.keyless", "public.large"]).await
}

/// A leader, a follower that gives its rows, and a node that gets them and is in the middle of it.
struct Filling {
    cluster: Fixture,
    leader: NodeId,
    giver: NodeId,
    empty: NodeId,
}

impl Filling {
    async fn begin(megabytes_per_second: i64) -> Result<Self> {
        let mut cluster = Fixture::start_with(|options| {
            options.nodes = 3;
            options.sidecar.insert("seed".to_owned(), slow(megabytes_per_second));
            options.sidecar.insert("apply_delay_max_s".to_owned(), 1.into());
        })
        .await?;
        let client = cluster.client().await?;
        client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, filler text)").await?;
        client.batch_execute("INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, 60000) i").await?;
        client.batch_execute("CREATE TABLE keyless (a int); INSERT INTO keyless SELECT i % 3 FROM generate_series(1, 300) i").await?;
        cluster.wait_settled(PATIENCE).await?;
        let (leader, empty) = (cluster.leader().await?, cluster.a_follower().await?);
        let giver = cluster.nodes().into_iter().find(|node| ![leader, empty].contains(node)).context("a third node")?;
        cluster.kill_node(empty).await?;
        std::fs::write(cluster.data().join(format!("node{empty}/data/seeding")), "")?;
        cluster.restart_node(empty).await?;
        let filling = Self { cluster, leader, giver, empty };
        let seen = filling.copies().await?;
        ensure!(seen.from == Some(giver), "{seen:?}");
        Ok(filling)
    }

    /// Some rows are there, and some are not.
    async fn copies(&self) -> Result<Seeding> {
        let copies = |seeding: &Option<Seeding>| seeding.is_some_and(|now| now.stage == SeedingStage::Rows && now.bytes_done > 0);
        let seen = eventually("rows that are copied", async || filling(&self.cluster, self.empty).await, copies).await?;
        let seen = seen.context("it was waited for")?;
        ensure!(seen.bytes_done < seen.bytes_total, "it was done too early: {seen:?}");
        Ok(seen)
    }

    /// How often the leader of the beginning and the follower served.
    fn served(&self) -> Result<(usize, usize)> {
        Ok((served(&self.cluster, self.leader)?, served(&self.cluster, self.giver)?))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_death_of_the_follower_that_serves_leads_to_another_attempt() -> Result<()> {
    let mut filling = Filling::begin(4).await?;
    let (giver, empty) = (filling.giver, filling.empty);
    filling.cluster.kill_node(giver).await?;
    filling.cluster.client().await?.batch_execute("UPDATE t SET filler = 'new' WHERE id <= 100").await?;
    filling.cluster.wait_caught_up(empty, PATIENCE).await?;
    ensure!(filling.served()? == (1, 1), "the leader did not take over");
    filling.cluster.restart_node(giver).await?;
    filling.cluster.wait_caught_up(giver, PATIENCE).await?;
    filling.cluster.assert_identical(&["public.t", "public.keyless"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_has_to_empty_a_table_gives_up_serving() -> Result<()> {
    let filling = Filling::begin(2).await?;
    let (cluster, client) = (&filling.cluster, filling.cluster.client().await?);
    // The leader has no snapshot to keep: there it takes no time.
    client.batch_execute("SET lock_timeout = '500ms'; TRUNCATE keyless; INSERT INTO keyless VALUES (7), (7)").await?;
    client.batch_execute("SET lock_timeout = '500ms'; TRUNCATE t; INSERT INTO t VALUES (1, 'new')").await?;
    cluster.wait_caught_up(filling.giver, PATIENCE).await?;
    let said = std::fs::read_to_string(cluster.sidecar_log(filling.giver))?;
    ensure!(said.contains("sessions that blocked apply for 1s were ended"), "apply was not held up:\n{said}");
    cluster.wait_caught_up(filling.empty, PATIENCE).await?;
    ensure!(filling.served()? == (1, 1), "the leader did not take over");
    cluster.assert_identical(&["public.t", "public.keyless"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_is_made_leader_goes_on_serving() -> Result<()> {
    let filling = Filling::begin(2).await?;
    let cluster = &filling.cluster;
    let change = "DELETE FROM keyless WHERE ctid = (SELECT min(ctid) FROM keyless WHERE a = 1); INSERT INTO keyless VALUES (1), (2)";
    let client = cluster.client().await?;
    client.batch_execute(change).await?;
    cluster.switchover(Some(filling.giver)).await?;
    client.batch_execute(change).await?;
    ensure!(cluster.leader().await? == filling.giver, "it does not lead");
    let seen = filling.copies().await?;
    ensure!(seen.from == Some(filling.giver), "{seen:?}");
    client.batch_execute("UPDATE t SET filler = 'new' WHERE id > 59900").await?;
    cluster.wait_caught_up(filling.empty, PATIENCE).await?;
    ensure!(filling.served()? == (0, 1), "it was begun anew");
    cluster.assert_identical(&["public.t", "public.keyless"]).await
}

/// The last entry that a sidecar says it has let go of.
fn let_go(said: &str) -> Option<u64> {
    let line = said.lines().rfind(|line| line.contains("let go of the older part of the log"))?;
    line.split_once("upto=")?.1.split_whitespace().next()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_for_longer_than_the_log_is_seeded_by_itself() -> Result<()> {
    // So little that after a few writes nobody is waited for any more.
    let little = |options: &mut howdah_ctl::cluster::Options| drop(options.sidecar.insert("log_bytes_max".to_owned(), (1 << 20).into()));
    let mut cluster = Fixture::start_with(little).await?;
    let client = cluster.client().await?;
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, filler text); INSERT INTO t SELECT i, 'old' FROM generate_series(1, 100) i")
        .await?;
    cluster.wait_settled(PATIENCE).await?;
    let away = cluster.a_follower().await?;
    let had = cluster.observe().await.node(away).context("it answers")?.applied_index;
    cluster.kill_node(away).await?;
    client.batch_execute("UPDATE t SET filler = 'new' WHERE id <= 50; DELETE FROM t WHERE id > 90").await?;

    // The fault: what it needs next is on no other node any more.
    let mut at = 1000;
    let logs: Vec<_> = cluster.nodes().into_iter().filter(|node| *node != away).map(|node| cluster.sidecar_log(node)).collect();
    let gone = async || {
        client.execute("INSERT INTO t SELECT $1 + i, repeat(md5(i::text), 30) FROM generate_series(1, 1000) i", &[&at]).await?;
        at += 1000;
        let texts = logs.iter().map(std::fs::read_to_string).collect::<Result<Vec<_>, _>>()?;
        Ok(texts.iter().map(|said| let_go(said)).collect::<Vec<_>>())
    };
    // It may have had some entries that it had not applied.
    let needed = had.0 + 5;
    eventually("the entries behind what it had, purged", gone, |gone| gone.iter().all(|upto| upto.is_some_and(|upto| upto > needed)))
        .await?;

    cluster.restart_node(away).await?;
    cluster.wait_caught_up(away, PATIENCE).await?;
    // For a moment after its start it follows what it has, until it hears from the leader.
    let detail = async || Ok(cluster.observe().await.node(away).map(|node| node.detail.clone()).unwrap_or_default());
    let seeded = |detail: &String| detail.contains("follows; was seeded again: the log no longer reaches back");
    eventually("the node says that it was seeded", detail, seeded).await?;
    cluster.wait_caught_up(away, PATIENCE).await?;
    cluster.assert_identical(&["public.t"]).await
}
