//! Every COMMIT is cancelled while it waits, and nobody sees a row that the group then loses.
//!
//! A COMMIT that waits at the gate is committed locally; the end of its wait shows it. So nobody but the server's superuser may end it: the
//! proxy holds cancel requests back and refuses `pg_cancel_backend`, and around the proxy the two functions are not the clients' to call. A
//! cancel request with the secret of a connection that was made around the proxy cannot be refused by anybody. What it shows, it shows on
//! that server only: to who reads there around the proxy, or through it in a mode that needs no lease.

use anyhow::{Context, Result, ensure};
use howdah_protocol::NodeId;
use howdah_tests::{Fixture, PATIENCE, connect, eventually, refusal, show};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_postgres::{CancelToken, Client, NoTls};

const WRITERS: usize = 6;
/// Rows that clients were told to be committed before anything is broken, and after.
const ROWS: usize = 100;
/// COMMITs that were hit while they waited.
const HITS: u64 = 100;
/// One statement of a storm, of which many meet a leader that goes.
const TRY: Duration = Duration::from_secs(15);
/// Longer than any lease that a leader may hold, with much to spare.
const LEASE_ENDS: Duration = Duration::from_secs(3);

/// What the storm's tasks have in common.
#[derive(Default)]
struct Storm {
    stop: AtomicBool,
    next: AtomicI64,
    /// Told to be committed.
    acknowledged: Mutex<BTreeSet<i64>>,
    /// Seen by somebody through the proxy, or on a follower.
    seen: Mutex<BTreeSet<i64>>,
    reads: AtomicU64,
    /// Backends that waited at the gate when they were struck.
    hits: AtomicU64,
    refused: AtomicU64,
    tokens: Mutex<Vec<CancelToken>>,
}

impl Storm {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// The last ones are of connections that live.
    fn put_back(&self, tokens: Vec<CancelToken>) {
        let mut kept = self.tokens.lock().expect("no task panics");
        kept.extend(tokens);
        let old = kept.len().saturating_sub(WRITERS * 2);
        kept.drain(..old);
    }

    fn acknowledged(&self) -> usize {
        self.acknowledged.lock().expect("no task panics").len()
    }
}

/// Connects anew whenever it has to, and never waits longer than a try.
async fn client(url: &str) -> Option<Client> {
    timeout(TRY, connect(url)).await.ok()?.ok()
}

async fn write(storm: Arc<Storm>, url: String) {
    while storm.goes_on() {
        let Some(client) = client(&url).await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        storm.tokens.lock().expect("no task panics").push(client.cancel_token());
        while storm.goes_on() {
            let id = storm.next.fetch_add(1, Ordering::Relaxed);
            match timeout(TRY, client.batch_execute(&format!("INSERT INTO t VALUES ({id})"))).await {
                Ok(Ok(())) => drop(storm.acknowledged.lock().expect("no task panics").insert(id)),
                // Refused, or unknown: either way nobody may see it and then not.
                Ok(Err(error)) if error.as_db_error().is_some() && !client.is_closed() => {}
                _ => break,
            }
        }
    }
}

/// Cancel requests for all writers' connections, and for every backend that waits at the gate, by its number.
async fn strike(storm: Arc<Storm>, direct: String, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    while storm.goes_on() {
        let Some(client) = client(&direct).await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        while storm.goes_on() {
            let Ok(Ok(rows)) = timeout(TRY, client.query(waiting, &[])).await else { break };
            for row in rows {
                storm.hits.fetch_add(1, Ordering::Relaxed);
                let how = if random.random_ratio(1, 4) { "pg_terminate_backend" } else { "pg_cancel_backend" };
                let struck = timeout(TRY, client.simple_query(&format!("SELECT {how}({})", row.get::<_, i32>(0)))).await;
                let refused = matches!(struck, Ok(Err(error)) if error.code().is_some_and(|code| code.code() == "42501"));
                storm.refused.fetch_add(u64::from(refused), Ordering::Relaxed);
            }
            let tokens = std::mem::take(&mut *storm.tokens.lock().expect("no task panics"));
            let requests = tokens.iter().map(|token| timeout(TRY, token.cancel_query(NoTls)));
            futures::future::join_all(requests).await;
            // A connection that has gone is noticed by its writer, which brings another token.
            storm.put_back(tokens);
            sleep(Duration::from_millis(2)).await;
        }
    }
}

async fn read(storm: Arc<Storm>, url: String, mode: &'static str) {
    while storm.goes_on() {
        let Some(client) = client(&url).await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        let set = format!("SET howdah.consistency = '{mode}'");
        let mut usable = matches!(timeout(TRY, client.batch_execute(&set)).await, Ok(Ok(())));
        while usable && storm.goes_on() {
            match timeout(TRY, client.query("SELECT id FROM t", &[])).await {
                Ok(Ok(rows)) => {
                    storm.seen.lock().expect("no task panics").extend(rows.iter().map(|row| row.get::<_, i64>(0)));
                    storm.reads.fetch_add(1, Ordering::Relaxed);
                }
                _ => usable = !client.is_closed(),
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Writers and readers of every kind, and strikers at every node.
fn start(storm: &Arc<Storm>, cluster: &Fixture, writers_at: &[String]) -> Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    for nth in 0..WRITERS {
        tasks.spawn(write(Arc::clone(storm), writers_at[nth % writers_at.len()].clone()));
    }
    for mode in ["linearizable", "read_your_writes", "monotonic", "eventual"] {
        tasks.spawn(read(Arc::clone(storm), cluster.info().proxy_url(), mode));
    }
    for node in cluster.nodes() {
        let url = cluster.info().node_url(node).context("no such node")?;
        tasks.spawn(strike(Arc::clone(storm), url.clone(), node.0));
        tasks.spawn(read(Arc::clone(storm), url, "eventual"));
    }
    Ok(tasks)
}

/// Whoever saw a row still sees it, and so does everybody else.
async fn conclude(storm: &Storm, mut tasks: JoinSet<()>, cluster: &Fixture) -> Result<()> {
    storm.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    cluster.wait_settled(PATIENCE * 2).await?;
    cluster.assert_identical(&["public.t"]).await?;
    let rows = cluster.client().await?.query("SELECT id FROM t", &[]).await?;
    let there: BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
    let lost = |of: &Mutex<BTreeSet<i64>>| of.lock().expect("no task panics").difference(&there).copied().collect::<Vec<i64>>();
    println!("{} rows, {storm_counts}", there.len(), storm_counts = counts(storm));
    ensure!(lost(&storm.acknowledged).is_empty(), "acknowledged and lost: {:?}", lost(&storm.acknowledged));
    ensure!(lost(&storm.seen).is_empty(), "seen by somebody, and lost: {:?}", lost(&storm.seen));
    ensure!(storm.hits.load(Ordering::Relaxed) >= HITS, "COMMITs were hardly hit while they waited: {}", counts(storm));
    Ok(())
}

fn counts(storm: &Storm) -> String {
    let (hits, refused) = (storm.hits.load(Ordering::Relaxed), storm.refused.load(Ordering::Relaxed));
    let reads = storm.reads.load(Ordering::Relaxed);
    format!("{} acknowledged, {reads} reads, {hits} COMMITs struck while they waited, {refused} times refused", storm.acknowledged())
}

async fn rows_more(storm: &Storm, what: &str) -> Result<()> {
    let goal = storm.acknowledged() + ROWS;
    eventually(what, async || Ok(storm.acknowledged()), |count| *count >= goal).await.map(drop)
}

async fn another_leader(cluster: &Fixture, than: NodeId) -> Result<()> {
    cluster.wait_until("another leader", PATIENCE, |seen| seen.leader().is_some_and(|leader| leader.id != than)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_seen_in_a_cancel_storm_stays() -> Result<()> {
    let mut cluster = Fixture::start().await?;
    cluster.client().await?.batch_execute("CREATE TABLE t (id bigint PRIMARY KEY)").await?;
    cluster.wait_settled(PATIENCE).await?;
    let storm = Arc::new(Storm::default());
    let tasks = start(&storm, &cluster, &[cluster.info().proxy_url()])?;
    rows_more(&storm, "rows in the storm").await?;
    for round in 0..2 {
        // Without its majority the leader's COMMITs wait, and are struck; then it dies with them.
        let leader = cluster.leader().await?;
        let followers: Vec<NodeId> = cluster.nodes().into_iter().filter(|node| *node != leader).collect();
        for follower in &followers {
            cluster.kill_node(*follower).await?;
        }
        let hits = storm.hits.load(Ordering::Relaxed);
        let struck = || async { Ok(storm.hits.load(Ordering::Relaxed)) };
        eventually("COMMITs struck without a majority", async || struck().await, |now| *now > hits + HITS / 2).await?;
        if round == 0 {
            cluster.kill_node(leader).await?;
        } else {
            cluster.kill_postgres(leader).await?;
            cluster.kill_sidecar(leader).await?;
        }
        for follower in &followers {
            cluster.restart_node(*follower).await?;
        }
        another_leader(&cluster, leader).await?;
        cluster.restart_node(leader).await?;
        cluster.wait_caught_up(leader, PATIENCE * 2).await?;
        rows_more(&storm, "rows after the leader's death").await?;
    }
    ensure!(storm.refused.load(Ordering::Relaxed) >= HITS / 2, "the strikes were not refused: {}", counts(&storm));
    conclude(&storm, tasks, &cluster).await
}

/// A statement that waits at the gate of a leader without its group, on a connection around the proxy.
async fn waiting_commit(cluster: &Fixture, leader: NodeId, sql: &'static str) -> Result<(CancelToken, tokio::task::JoinHandle<bool>)> {
    let direct = cluster.node_client(leader).await?;
    let token = direct.cancel_token();
    let ended = tokio::spawn(async move { direct.batch_execute(sql).await.is_ok() });
    let watch = cluster.node_client(leader).await?;
    let waits = async || show(&watch, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'").await;
    eventually("the COMMIT waits at the gate", waits, |count| count == "1").await?;
    Ok((token, ended))
}

#[tokio::test(flavor = "multi_thread")]
async fn around_the_proxy_a_wait_ends_only_by_its_own_secret_and_shows_nothing_to_the_group() -> Result<()> {
    let mut cluster = Fixture::start().await?;
    cluster.client().await?.batch_execute("CREATE TABLE t (id bigint PRIMARY KEY)").await?;
    cluster.wait_settled(PATIENCE).await?;
    let leader = cluster.leader().await?;
    let followers: Vec<NodeId> = cluster.nodes().into_iter().filter(|node| *node != leader).collect();
    let other = cluster.node_client(leader).await?;
    for follower in &followers {
        cluster.kill_node(*follower).await?;
    }
    let (token, mut ended) = waiting_commit(&cluster, leader, "INSERT INTO t VALUES (1)").await?;
    for how in ["pg_cancel_backend", "pg_terminate_backend"] {
        let sql = format!("SELECT {how}(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
        let (code, _) = refusal(other.simple_query(&sql).await)?;
        ensure!(code == "42501", "{how}: {code}");
    }
    ensure!(timeout(Duration::from_millis(300), &mut ended).await.is_err(), "the wait was ended");
    ensure!(show(&other, "SELECT count(*) FROM t").await? == "0", "a row is visible whose COMMIT waits");

    token.cancel_query(NoTls).await?;
    ensure!(ended.await?, "the wait goes on after the cancel request");
    ensure!(show(&other, "SELECT count(*) FROM t").await? == "1", "PostgreSQL shows what was cancelled: if not, the text above is wrong");
    // Through the proxy this server answers nobody who has not asked for less.
    sleep(LEASE_ENDS).await;
    let read = async { show(&cluster.client().await?, "SELECT count(*) FROM t").await };
    let read = timeout(TRY * 2, read).await;
    ensure!(!matches!(&read, Ok(Ok(count)) if count == "1"), "{read:?}");

    cluster.kill_node(leader).await?;
    for follower in &followers {
        cluster.restart_node(*follower).await?;
    }
    another_leader(&cluster, leader).await?;
    cluster.client().await?.batch_execute("INSERT INTO t VALUES (2)").await?;
    cluster.restart_node(leader).await?;
    cluster.wait_caught_up(leader, PATIENCE * 2).await?;
    ensure!(show(&cluster.client().await?, "SELECT array_agg(id) FROM t").await? == "{2}", "the row that only the old leader had");
    cluster.assert_identical(&["public.t"]).await
}
