//! A COMMIT whose answer was lost is answered with what the log says; a leader without a majority answers nothing that must be current.

use anyhow::{Context, Result, bail, ensure};
use howdah_protocol::NodeId;
use howdah_tests::{Fixture, PATIENCE, connect, eventually, show};
use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

/// More than this many commits are under way when the leader dies.
const SESSIONS: i64 = 24;
const ROUNDS: usize = 2;
/// `timing.election_max_ms`, where nothing else is configured.
const LEASE: Duration = Duration::from_millis(800);

/// What the sessions were told, by the unique number that each transaction inserted.
#[derive(Debug, Default)]
struct Books {
    committed: BTreeSet<i64>,
    rolled_back: BTreeSet<i64>,
    unknown: BTreeSet<i64>,
}

/// How a session speaks: the ends of its transactions are asked about in another way each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// A block by the extended protocol.
    Extended,
    /// A block whose COMMIT is a simple query; its INSERT has told the id before.
    Mixed,
    /// An INSERT of its own, which commits by itself.
    Alone,
}

/// Inserts one number. What is told about it is the answer to what commits.
async fn transaction(client: &Client, how: How, token: i64) -> Result<(), tokio_postgres::Error> {
    const INSERT: &str = "INSERT INTO tokens VALUES ($1)";
    if how == How::Alone {
        return client.execute(INSERT, &[&token]).await.map(|_| ());
    }
    client.batch_execute("BEGIN").await?;
    client.execute(INSERT, &[&token]).await?;
    match how {
        How::Extended => client.execute("COMMIT", &[]).await.map(|_| ()),
        _ => client.batch_execute("COMMIT").await,
    }
}

async fn session(client: Client, number: i64, stop: Arc<AtomicBool>, committed: Arc<AtomicU64>) -> Result<(How, Books)> {
    let how = [How::Extended, How::Mixed, How::Alone][number.unsigned_abs() as usize % 3];
    let mut books = Books::default();
    for nth in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let token = nth * 1000 + number;
        let code = match transaction(&client, how, token).await {
            Ok(()) => {
                committed.fetch_add(1, Ordering::Relaxed);
                books.committed.insert(token);
                continue;
            }
            Err(error) => error.code().map(|code| code.code().to_owned()).with_context(|| format!("the session died: {error:?}"))?,
        };
        match code.as_str() {
            "40001" => books.rolled_back.insert(token),
            "08007" => books.unknown.insert(token),
            other => bail!("session {number} was told {other}"),
        };
        // Ends a block that a lost statement left; only a warning where there is none.
        client.batch_execute("ROLLBACK").await?;
    }
    Ok((how, books))
}

/// A number of the proxy's `/metrics`.
async fn metric(cluster: &Fixture, name: &str) -> Result<u64> {
    let mut stream = tokio::net::TcpStream::connect(cluster.info().proxy_admin).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).context("no such metric")?;
    Ok(line.trim().parse()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_under_way_when_the_leader_is_killed_are_answered_from_the_log() -> Result<()> {
    let mut cluster = Fixture::start().await?;
    cluster.client().await?.batch_execute("CREATE TABLE tokens (token bigint PRIMARY KEY)").await?;
    let (stop, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut sessions: Vec<JoinHandle<_>> = Vec::new();
    for number in 0..SESSIONS {
        sessions.push(tokio::spawn(session(cluster.client().await?, number, stop.clone(), committed.clone())));
    }
    for _ in 0..ROUNDS {
        let before = committed.load(Ordering::Relaxed);
        let grows = async || Ok(committed.load(Ordering::Relaxed));
        eventually("commits before the kill", grows, |count| *count > before + 300).await?;
        let killed = cluster.kill_leader().await?;
        cluster.wait_until("another leader", PATIENCE, |seen| seen.leader().is_some_and(|leader| leader.id != killed.node)).await?;
        let before = committed.load(Ordering::Relaxed);
        eventually("commits after the kill", grows, |count| *count > before + 300).await?;
        cluster.restart_node(killed.node).await?;
        cluster.wait_caught_up(killed.node, PATIENCE).await?;
    }
    stop.store(true, Ordering::Relaxed);
    let asked = metric(&cluster, "howdah_proxy_outcomes_committed_total").await?
        + metric(&cluster, "howdah_proxy_outcomes_rolled_back_total").await?
        + metric(&cluster, "howdah_proxy_outcomes_unknown_total").await?;
    assert!(asked > 0, "no commit was under way at any of {ROUNDS} kills: nothing was tested");
    assert_eq!(metric(&cluster, "howdah_proxy_outcomes_unknown_total").await?, 0, "the new leader's log can always tell");

    let mut told = Vec::new();
    for session in sessions {
        told.push(session.await??);
    }
    let client = cluster.client().await?;
    let there: BTreeSet<i64> = client.query("SELECT token FROM tokens", &[]).await?.iter().map(|row| row.get(0)).collect();
    let (mut rolled_back, mut unknown) = (0, 0);
    for (how, books) in told {
        assert!(how == How::Alone || books.unknown.is_empty(), "{how:?} knew its id, and was told \"unknown\": {:?}", books.unknown);
        let lost: Vec<_> = books.committed.difference(&there).collect();
        assert!(lost.is_empty(), "{how:?}: told \"committed\" and not there: {lost:?}");
        let ghosts: Vec<_> = books.rolled_back.intersection(&there).collect();
        assert!(ghosts.is_empty(), "{how:?}: told \"rolled back\" and there: {ghosts:?}");
        rolled_back += books.rolled_back.len();
        unknown += books.unknown.len();
    }
    println!("{} there, {asked} asked about, {rolled_back} told \"rolled back\", {unknown} told \"unknown\"", there.len());
    cluster.assert_identical(&["public.tokens"]).await
}

/// Sidecars that stand still as long as this lives.
struct Standing(Vec<u32>);

impl Standing {
    /// SIGSTOP to the sidecars of all nodes but one; returns when they stand.
    async fn all_but(cluster: &Fixture, node: NodeId) -> Result<Self> {
        let mut standing = Self(Vec::new());
        for other in cluster.nodes().into_iter().filter(|other| *other != node) {
            let file = cluster.folder().path().join(format!("c/node{other}/sidecar.pid"));
            let record: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file)?)?;
            let pid = record["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).context("no pid")?;
            signal("-STOP", pid)?;
            standing.0.push(pid);
        }
        let stand = async || Ok(standing.0.iter().filter(|pid| state(**pid) == Some('T')).count());
        eventually("the sidecars stand", stand, |count| *count == standing.0.len()).await?;
        Ok(standing)
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        for pid in &self.0 {
            // One that is gone needs no waking.
            let _ = signal("-CONT", *pid);
        }
    }
}

fn signal(signal: &str, pid: u32) -> Result<()> {
    let sent = Command::new("kill").args([signal, &pid.to_string()]).status()?;
    ensure!(sent.success(), "kill {signal} {pid}: {sent}");
    Ok(())
}

fn state(pid: u32) -> Option<char> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.chars().next()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_a_majority_is_not_read_from_once_its_lease_is_over() -> Result<()> {
    let cluster = Fixture::start().await?;
    let (current, weak) = (cluster.client().await?, cluster.client().await?);
    current.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await?;
    cluster.wait_settled(PATIENCE).await?;
    let leader = cluster.leader().await?;
    assert_eq!(show(&current, "SELECT count(*) FROM t").await?, "1");

    let standing = Standing::all_but(&cluster, leader).await?;
    let stood = Instant::now();
    let mut last = None;
    // Reads that begin under what is left of the lease are right; then one waits.
    let waiting = loop {
        let began = Instant::now();
        let mut read = Box::pin(show(&current, "SELECT count(*) FROM t"));
        match tokio::time::timeout(Duration::from_secs(1), &mut read).await {
            Ok(seen) => {
                assert_eq!(seen?, "1");
                last = Some(began);
            }
            Err(_) => break read,
        }
    };
    if let Some(began) = last {
        let late = began.saturating_duration_since(stood);
        assert!(late <= LEASE, "a read that began {late:?} after the last follower stood was answered");
    }
    assert_eq!(show(&weak, "/* howdah: eventual */ SELECT count(*) FROM t").await?, "1", "weaker modes go on");
    assert!(metric(&cluster, "howdah_proxy_lease_waits_total").await? > 0);

    drop(standing);
    assert_eq!(tokio::time::timeout(PATIENCE, waiting).await.context("the read hangs")??, "1", "it waited for the majority");
    current.batch_execute("INSERT INTO t VALUES (2)").await?;
    cluster.assert_identical(&["public.t"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_backend_was_ended_is_answered_by_the_leader_that_goes_on() -> Result<()> {
    let cluster = Fixture::start().await?;
    let client = cluster.client().await?;
    // The commit takes long enough to stop the followers under it.
    let slow = "CREATE TABLE t (id int PRIMARY KEY);
        CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(2); RETURN NULL; END';
        CREATE CONSTRAINT TRIGGER nap AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION nap()";
    client.batch_execute(slow).await?;
    let leader = cluster.leader().await?;
    let direct = cluster.node_client(leader).await?;
    let waits = async |event: &str| show(&direct, &format!("SELECT count(*) FROM pg_stat_activity WHERE wait_event = '{event}'")).await;
    let running = tokio::spawn(async move { transaction_in(&client).await.map(|()| client) });
    eventually("the commit sleeps", async || waits("PgSleep").await, |count| count == "1").await?;
    let standing = Standing::all_but(&cluster, leader).await?;
    eventually("the commit waits at the gate", async || waits("SyncRep").await, |count| count == "1").await?;
    let superuser = connect(&cluster.info().superuser(leader).context("no such node")?).await?;
    superuser.batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'").await?;
    eventually("its backend is gone", async || waits("SyncRep").await, |count| count == "0").await?;
    assert!(!running.is_finished(), "answered although nobody has decided it");
    drop(standing);
    let told = tokio::time::timeout(PATIENCE, running).await.context("the commit hangs")??;
    let there = show(&cluster.client().await?, "SELECT count(*) FROM t").await?;
    match told {
        Ok(_) => {
            assert_eq!(there, "1", "told to be committed");
            assert_eq!(metric(&cluster, "howdah_proxy_outcomes_committed_total").await?, 1);
        }
        // The followers stood for long: they may elect another before they hear of the leader, and then the commit is nowhere.
        Err(refused) => {
            assert_eq!(refused.code().map(tokio_postgres::error::SqlState::code), Some("40001"), "{refused}");
            assert_eq!(there, "0", "told to be rolled back");
            assert_ne!(cluster.leader().await?, leader, "refused by a leader that goes on");
        }
    }
    cluster.assert_identical(&["public.t"]).await
}

async fn transaction_in(client: &Client) -> Result<(), tokio_postgres::Error> {
    client.execute("BEGIN", &[]).await?;
    client.execute("INSERT INTO t VALUES (1)", &[]).await?;
    client.execute("COMMIT", &[]).await.map(|_| ())
}
