//! Nodes that differ are found, to the row, while writes go on; and brought back to the leader's.

use anyhow::{Context, Result, ensure};
use howdah_ctl::admin;
use howdah_protocol::NodeId;
use howdah_protocol::verify::{Difference, VerifyReport, VerifyRequest};
use howdah_tests::{Fixture, PATIENCE, connect, eventually};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio_postgres::Client;

const TABLES: &str = "
    CREATE COLLATION odd (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    CREATE TABLE pair (a text, b numeric, v text, PRIMARY KEY (a, b));
    CREATE TABLE named (name text COLLATE odd PRIMARY KEY, v int);
    CREATE TABLE keyless (a int, b text);
    CREATE TABLE large (id int PRIMARY KEY, v int, g int GENERATED ALWAYS AS (v + 1) STORED);
    CREATE TABLE same (id int PRIMARY KEY);
    CREATE TABLE busy (id int PRIMARY KEY, n int);
    INSERT INTO pair SELECT 'k' || i % 7, i + 0.50, 'agreed' FROM generate_series(1, 2000) i;
    INSERT INTO named SELECT CASE i % 3 WHEN 0 THEN 'Name' WHEN 1 THEN 'näme' ELSE 'z z' END || i, i FROM generate_series(1, 1500) i;
    INSERT INTO keyless SELECT i % 100, 'agreed' FROM generate_series(1, 1000) i;
    INSERT INTO large SELECT i, i FROM generate_series(1, 20000) i;
    INSERT INTO same SELECT generate_series(1, 10);
    INSERT INTO busy SELECT i, 0 FROM generate_series(1, 100) i";

/// What is done to one follower behind the log's back.
const DIFFER: &str = "
    UPDATE pair SET v = 'other' WHERE a = 'k3' AND b = 1501.5;
    DELETE FROM pair WHERE b = 2.5;
    INSERT INTO pair VALUES ('zz', 1, 'surplus');
    UPDATE named SET v = -1 WHERE name = 'name3';
    UPDATE named SET name = 'NAME6' WHERE name = 'name6';
    DELETE FROM named WHERE name = 'z z2';
    DELETE FROM keyless WHERE ctid = (SELECT ctid FROM keyless WHERE a = 1 LIMIT 1);
    INSERT INTO keyless VALUES (2, 'agreed'), (7, 'surplus'), (7, 'surplus');
    UPDATE keyless SET b = NULL WHERE ctid = (SELECT ctid FROM keyless WHERE a = 3 LIMIT 1);
    UPDATE large SET v = 0 WHERE id IN (777, 15000)";

/// The node's own superuser, as the sidecar has it, writing as apply does: what no application can do.
async fn superuser(cluster: &Fixture, node: NodeId) -> Result<Client> {
    let sql = cluster.info().node(node).context("no such node")?.sql;
    let socket = cluster.pg_data(node).join("postmaster.pid");
    // The fifth line is the socket's folder.
    let lines = std::fs::read_to_string(&socket)?;
    let folder = lines.lines().nth(4).context("a socket folder")?;
    let url = format!("host={folder} port={} user=howdah dbname={}", sql.port(), cluster.info().database);
    let client = connect(&url).await?;
    client.batch_execute("SET session_replication_role = replica; SET synchronous_commit = local").await?;
    client.batch_execute("SET default_transaction_read_only = off").await?;
    Ok(client)
}

async fn verify(cluster: &Fixture, repair: bool) -> Result<VerifyReport> {
    let leader = cluster.leader().await?;
    let address = cluster.info().node(leader).context("the leader is a node")?.admin.to_string();
    Ok(admin::verify::verify(&address, &cluster.info().secret, VerifyRequest { repair }, |_| {}).await?)
}

async fn metrics(cluster: &Fixture, node: NodeId) -> Result<String> {
    let address = cluster.info().node(node).context("no such node")?.admin.to_string();
    Ok(admin::metrics(&address).await?)
}

/// Writes until told to stop; how many were acknowledged.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<Result<()>>,
}

impl Load {
    async fn start(cluster: &Fixture) -> Result<Self> {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (client, until, count) = (cluster.client().await?, Arc::clone(&stop), Arc::clone(&done));
        let task = tokio::spawn(async move {
            for nth in 0.. {
                if until.load(Ordering::Relaxed) {
                    break;
                }
                // In the tables that differ, but other rows: an update brings a row back by itself.
                let sql = format!(
                    "BEGIN; UPDATE busy SET n = n + 1 WHERE id = {}; UPDATE large SET v = v + 1 WHERE id = {}; \
                     UPDATE keyless SET b = 'x' || {nth} WHERE a = 50; UPDATE pair SET v = 'n{nth}' WHERE b = 3.5; COMMIT",
                    nth % 100 + 1,
                    nth % 500 + 1,
                );
                client.batch_execute(&sql).await?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        Ok(Self { stop, done, task })
    }

    fn acknowledged(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    async fn end(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await??;
        Ok(self.done.load(Ordering::Relaxed))
    }
}

fn difference<'a>(report: &'a VerifyReport, table: &str, node: NodeId) -> Result<&'a Difference> {
    let found = report.tables.iter().find(|row| row.table == table).with_context(|| format!("{table} is not in {report:#?}"))?;
    ensure!(found.differences.len() == 1 && found.differences[0].node == node, "{table}: {found:#?}");
    Ok(&found.differences[0])
}

fn counts(found: &Difference) -> (u64, u64, u64) {
    (found.changed, found.missing, found.surplus)
}

#[tokio::test(flavor = "multi_thread")]
async fn differences_are_found_and_repaired_while_writes_go_on() -> Result<()> {
    let cluster = Fixture::start().await?;
    let client = cluster.client().await?;
    client.batch_execute(TABLES).await?;
    cluster.wait_settled(PATIENCE).await?;
    let node = cluster.a_follower().await?;
    let load = Load::start(&cluster).await?;
    let clean = verify(&cluster, false).await?;
    ensure!(clean.identical && clean.tables.len() == 6 && clean.absent.is_empty(), "{clean:#?}");
    superuser(&cluster, node).await?.batch_execute(DIFFER).await?;

    let before = load.acknowledged();
    let found = verify(&cluster, false).await?;
    ensure!(!found.identical && found.index > clean.index, "{found:#?}");
    let pair = difference(&found, "public.pair", node)?;
    assert_eq!(counts(pair), (1, 1, 1), "{pair:#?}");
    let key = |a: &str, b: &str| Some(vec![a.to_owned(), b.to_owned()]);
    assert_eq!((&pair.from, &pair.to), (&key("k2", "2.50"), &key("zz", "1")), "{pair:#?}");
    let named = difference(&found, "public.named", node)?;
    assert_eq!(named.rows(), 4, "{named:#?}");
    assert!(named.keys.contains(&vec!["Name3".to_owned()]) && named.keys.contains(&vec!["NAME6".to_owned()]), "{named:#?}");
    let keyless = difference(&found, "public.keyless", node)?;
    assert_eq!(counts(keyless), (0, 2, 4), "{keyless:#?}");
    let large = difference(&found, "public.large", node)?;
    assert_eq!((counts(large), &large.from, &large.to), ((2, 0, 0), &Some(vec!["777".to_owned()]), &Some(vec!["15000".to_owned()])));
    for same in ["public.same", "public.busy"] {
        ensure!(found.tables.iter().any(|row| row.table == same && row.identical), "{found:#?}");
    }
    // The node knows, and tells.
    let status = cluster.observe().await;
    let told = status.node(node).and_then(|status| status.verified).context("a verdict")?;
    assert_eq!((told.tables, told.tables_differing, told.rows_differing), (6, 4, 3 + 4 + 6 + 2));
    let text = metrics(&cluster, node).await?;
    ensure!(text.contains("howdah_verify_rows_differing 15\n") && text.contains("howdah_verify_last_run_timestamp_seconds "), "{text}");

    let repaired = verify(&cluster, true).await?;
    ensure!(repaired.identical && repaired.index > found.index, "{repaired:#?}");
    let repair = repaired.repairs.get(&node).context("a repair")?;
    ensure!(repaired.repairs.len() == 1 && repair.refused.is_none(), "{repaired:#?}");
    // 3 in pair, 4 in named, 2 in large, and the five contents of keyless that are there in another number.
    assert_eq!(repair.keys, 3 + 4 + 2 + 5, "{repaired:#?}");
    ensure!(load.acknowledged() > before, "no write meanwhile");
    ensure!(verify(&cluster, false).await?.identical, "the next one is clean");
    ensure!(load.end().await? > 0, "no load");
    // By the tests' own judge too.
    cluster.assert_identical(&["public.pair", "public.named", "public.keyless", "public.large"]).await?;
    let generated = "SELECT count(*) FROM large WHERE g <> v + 1";
    assert_eq!(superuser(&cluster, node).await?.query_one(generated, &[]).await?.get::<_, i64>(0), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_done_on_a_schedule_and_told() -> Result<()> {
    let cluster = Fixture::start_with(|options| options.verify_interval_s = Some(1)).await?;
    cluster.client().await?.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)").await?;
    cluster.wait_settled(PATIENCE).await?;
    let node = cluster.a_follower().await?;
    let of = |text: &str, name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        value.unwrap_or(-1.0)
    };
    let look = async || metrics(&cluster, node).await;
    let clean = |text: &String| of(text, "howdah_verify_tables ") > 0.0 && of(text, "howdah_verify_rows_differing ") == 0.0;
    eventually("a comparison", look, clean).await?;
    superuser(&cluster, node).await?.batch_execute("DELETE FROM t WHERE id = 2").await?;
    let differs = |text: &String| of(text, "howdah_verify_rows_differing ") == 1.0;
    let text = eventually("a difference", look, differs).await?;
    ensure!(of(&text, "howdah_verify_runs_total ") >= 2.0, "{text}");
    let leader = cluster.leader().await?;
    let said = async || Ok(std::fs::read_to_string(cluster.sidecar_log(leader))?);
    eventually("a warning", said, |said: &String| said.contains("rows differ from the leader's")).await?;
    // A table that is gone altogether is told as such, and no repair promises to mend it.
    superuser(&cluster, node).await?.batch_execute("SET session_replication_role = replica; DROP TABLE t").await?;
    let told = async || Ok(cluster.observe().await.node(node).and_then(|status| status.verified));
    let gone = eventually("a missing table", told, |last| last.is_some_and(|last| last.tables_unlike > 0)).await?;
    assert_eq!(gone.map(|last| (last.tables_differing, last.tables_unlike, last.rows_differing)), Some((1, 1, 0)));
    // One that the schedule has begun may be under way.
    let repair = async || Ok(verify(&cluster, true).await.ok().and_then(|report| report.repairs.get(&node)?.refused.clone()));
    let refused = eventually("a refusal", repair, Option::is_some).await?;
    ensure!(refused.as_ref().is_some_and(|why| why.contains("node replace")), "{refused:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_needs_the_secret_and_says_who_was_not_there() -> Result<()> {
    let mut cluster = Fixture::start().await?;
    cluster.client().await?.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await?;
    let leader = cluster.leader().await?;
    let address = cluster.info().node(leader).context("the leader is a node")?.admin.to_string();
    let refused = admin::verify::verify(&address, "not the secret at all", VerifyRequest::default(), |_| {}).await;
    ensure!(matches!(&refused, Err(admin::Error::Refused { status, .. }) if status.as_u16() == 401), "{refused:?}");
    let refused = admin::checksum(&address, "not the secret at all", howdah_protocol::LogIndex(0)).await;
    ensure!(matches!(&refused, Err(admin::Error::Refused { status, .. }) if status.as_u16() == 401), "{refused:?}");
    let gone = cluster.a_follower().await?;
    cluster.kill_node(gone).await?;
    let report = verify(&cluster, false).await?;
    ensure!(!report.identical && report.absent.len() == 1 && report.tables.iter().all(|table| table.identical), "{report:#?}");
    Ok(())
}
