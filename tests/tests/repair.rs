//! An ex-leader that holds commits which the group never accepted is repaired row by row, or seeded where rows are not enough.

use anyhow::{Context, Result, ensure};
use howdah_protocol::NodeId;
use howdah_protocol::admin::Role;
use howdah_tests::{Fixture, PATIENCE, eventually, show};
use serde_json::Value;
use std::process::Command;
use std::time::{Duration, Instant};

/// What an ex-leader may take to be a follower again, with 10,000 divergent rows.
const REPAIR_MAX: Duration = Duration::from_secs(30);

const TABLES: &str = "
    CREATE TABLE t (id int PRIMARY KEY, note text, u int UNIQUE);
    CREATE TABLE pair (a text, b numeric, v text, PRIMARY KEY (a, b));
    CREATE TABLE big (id int PRIMARY KEY, small int, big text);
    CREATE TABLE keyless (a int, b text);
    CREATE TABLE full_identity (id int PRIMARY KEY, big text);
    CREATE TABLE quiet (id int PRIMARY KEY);
    ALTER TABLE big ALTER big SET STORAGE EXTERNAL;
    ALTER TABLE full_identity ALTER big SET STORAGE EXTERNAL;
    ALTER TABLE full_identity REPLICA IDENTITY FULL;
    INSERT INTO t SELECT i, 'agreed', i FROM generate_series(1, 20) i;
    INSERT INTO pair SELECT 'a', i, 'agreed' FROM generate_series(1, 10) i;
    INSERT INTO big SELECT i, i, repeat(md5(i::text), 500) FROM generate_series(1, 10) i;
    INSERT INTO keyless SELECT i, 'agreed' FROM generate_series(1, 10) i;
    INSERT INTO keyless SELECT 1, 'agreed' FROM generate_series(1, 2) i;
    INSERT INTO full_identity SELECT i, repeat(md5(i::text), 500) FROM generate_series(1, 5) i;
    INSERT INTO quiet VALUES (1)";

const NAMES: [&str; 6] = ["public.t", "public.pair", "public.big", "public.keyless", "public.full_identity", "public.quiet"];

/// What only the old leader has. Each statement is a transaction; the second number is its row changes.
const LOST: [(&str, usize); 17] = [
    ("INSERT INTO t VALUES (100, 'lost', 100), (101, 'lost', 101)", 2),
    ("UPDATE t SET note = 'lost', u = 202 WHERE id = 2", 1),
    ("UPDATE t SET id = 300 WHERE id = 3", 1),
    ("UPDATE t SET id = 301, note = NULL WHERE id = 300", 1),
    ("DELETE FROM t WHERE id IN (4, 5)", 2),
    ("INSERT INTO t VALUES (4, 'lost again', 4)", 1),
    ("BEGIN; UPDATE t SET note = 'once' WHERE id = 6; UPDATE t SET note = 'twice' WHERE id = 6; DELETE FROM t WHERE id = 6; COMMIT", 3),
    ("BEGIN; INSERT INTO t VALUES (400, 'void', 400); SAVEPOINT s; INSERT INTO t VALUES (401, 'void', 401); ROLLBACK; ", 0),
    ("UPDATE pair SET v = 'lost' WHERE b = 1", 1),
    ("UPDATE pair SET a = 'quote\" comma, \\ ''' WHERE b = 2", 1),
    ("DELETE FROM pair WHERE b = 3", 1),
    ("UPDATE big SET small = -1 WHERE id = 1", 1),
    ("UPDATE big SET big = repeat('lost', 1000) WHERE id = 2", 1),
    ("UPDATE big SET id = 30 WHERE id = 3", 1),
    ("INSERT INTO keyless VALUES (1, 'agreed'), (50, 'lost')", 2),
    ("BEGIN; UPDATE keyless SET b = 'lost' WHERE a IN (2, 3); DELETE FROM keyless WHERE a = 4; COMMIT", 3),
    ("BEGIN; UPDATE full_identity SET id = 10 WHERE id = 1; DELETE FROM full_identity WHERE id = 2; COMMIT", 2),
];

/// What the group does meanwhile, at the same keys and with the same unique values.
const MEANWHILE: &str = "
    INSERT INTO t VALUES (1001, 'new', 100), (101, 'new', 1101);
    UPDATE t SET note = 'new', u = 1002 WHERE id = 2;
    INSERT INTO t VALUES (1002, 'new', 2);
    UPDATE t SET id = 301 WHERE id = 7;
    DELETE FROM t WHERE id = 3;
    UPDATE t SET id = 3 WHERE id = 8;
    UPDATE t SET note = 'new' WHERE id = 5;
    UPDATE t SET id = 60 WHERE id = 6;
    ALTER TABLE t ADD COLUMN added int DEFAULT 7;
    UPDATE t SET added = id WHERE id < 12;
    UPDATE pair SET v = 'new' WHERE b IN (1, 2);
    UPDATE big SET small = small + 1;
    UPDATE big SET big = repeat('new', 2000) WHERE id IN (1, 4);
    UPDATE keyless SET b = 'new' WHERE a IN (2, 4, 5);
    DELETE FROM keyless WHERE a = 3;
    UPDATE full_identity SET big = repeat('new', 2000) WHERE id IN (1, 2);
    INSERT INTO quiet SELECT generate_series(2, 100)";

async fn meanwhile(cluster: &Fixture) -> Result<()> {
    let client = cluster.client().await?;
    for sql in MEANWHILE.split(';') {
        client.batch_execute(sql).await.with_context(|| sql.to_owned())?;
    }
    Ok(())
}

/// Made by initdb: a node that was seeded again has another.
async fn identifier(cluster: &Fixture, node: NodeId) -> Result<String> {
    show(&cluster.node_client(node).await?, "SELECT system_identifier FROM pg_control_system()").await
}

/// Alone, the leader commits `sql` locally; then it is gone, and the others go on without. Answers who it was.
async fn diverge(cluster: &mut Fixture, lost: &[&str]) -> Result<NodeId> {
    cluster.wait_settled(PATIENCE).await?;
    let leader = cluster.leader().await?;
    let followers: Vec<_> = cluster.nodes().into_iter().filter(|node| *node != leader).collect();
    for follower in &followers {
        cluster.kill_node(*follower).await?;
    }
    let direct = cluster.node_client(leader).await?;
    direct.batch_execute("SET synchronous_commit = local").await?;
    for sql in lost {
        direct.batch_execute(sql).await.with_context(|| (*sql).to_owned())?;
    }
    cluster.kill_node(leader).await?;
    for follower in &followers {
        cluster.restart_node(*follower).await?;
    }
    another_leader(cluster, leader).await?;
    Ok(leader)
}

async fn another_leader(cluster: &Fixture, than: NodeId) -> Result<()> {
    cluster.wait_until("another leader", PATIENCE, |seen| seen.leader().is_some_and(|node| node.id != than)).await?;
    Ok(())
}

/// What the sidecar of a node has logged since `from`.
fn log(cluster: &Fixture, node: NodeId, from: usize) -> Result<String> {
    Ok(std::fs::read_to_string(cluster.sidecar_log(node))?[from..].to_owned())
}

fn log_len(cluster: &Fixture, node: NodeId) -> Result<usize> {
    Ok(usize::try_from(std::fs::metadata(cluster.sidecar_log(node))?.len())?)
}

/// The lines of the only rollback file.
fn rollback_lines(cluster: &Fixture, node: NodeId) -> Result<Vec<Value>> {
    let dir = cluster.pg_data(node).with_file_name("rollback");
    let files: Vec<_> = std::fs::read_dir(&dir)?.collect::<Result<_, _>>()?;
    ensure!(files.len() == 1, "not one rollback file: {files:?}");
    let text = std::fs::read_to_string(files[0].path())?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

fn find<'a>(lines: &'a [Value], table: &str, op: &str, column: &str, value: &str) -> Vec<&'a Value> {
    let is = |line: &&Value| line["table"] == table && line["op"] == op && (line["key"][column] == value || line["row"][column] == value);
    lines.iter().filter(is).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ex_leader_is_repaired_row_by_row() -> Result<()> {
    let mut cluster = Fixture::start().await?;
    cluster.client().await?.batch_execute(TABLES).await?;
    let statements: Vec<_> = LOST.iter().map(|(sql, _)| *sql).collect();
    let leader = diverge(&mut cluster, &statements).await?;
    meanwhile(&cluster).await?;
    let from = log_len(&cluster, leader)?;
    cluster.restart_node(leader).await?;
    cluster.wait_caught_up(leader, PATIENCE).await?;
    cluster.assert_identical(&NAMES).await?;

    let said = log(&cluster, leader, from)?;
    ensure!(said.contains("role=repairing") && said.contains("repaired rows=") && !said.contains("seeded again"), "{said}");
    let status = cluster.observe().await;
    let detail = &status.node(leader).context("the ex-leader answers")?.detail;
    ensure!(detail.contains("never accepted were taken back") && detail.contains(".jsonl"), "{detail}");
    let metrics = metrics(&cluster, leader).await?;
    let changes: usize = LOST.iter().map(|(_, changes)| changes).sum();
    ensure!(metrics.contains(&format!("howdah_repair_rows_total {changes}\n")), "{metrics}");

    let lines = rollback_lines(&cluster, leader)?;
    assert_eq!(lines.len(), changes, "{lines:#?}");
    assert_eq!(find(&lines, "public.t", "insert", "id", "100")[0]["row"]["note"], "lost");
    assert_eq!(find(&lines, "public.t", "update", "id", "301")[0]["old"]["id"], "300");
    assert_eq!(find(&lines, "public.t", "update", "id", "6").len(), 2);
    assert_eq!(find(&lines, "public.big", "update", "id", "1")[0]["row"]["big"].as_str().map(str::len), Some(32 * 500));
    assert!(lines.iter().all(|line| line.get("unchanged").is_none()), "{lines:#?}");
    assert_eq!(find(&lines, "public.big", "update", "id", "2")[0]["row"]["big"], "lost".repeat(1000));
    assert_eq!(find(&lines, "public.keyless", "delete", "a", "4")[0]["row"]["b"], "agreed");
    assert_eq!(find(&lines, "public.pair", "update", "a", "quote\" comma, \\ '").len(), 1);
    assert!(lines.iter().all(|line| line["time"].as_str().is_some_and(|time| time.starts_with("20")) && line["xid"].is_u64()));
    // It may lead again.
    cluster.switchover(Some(leader)).await?;
    cluster.client().await?.batch_execute("INSERT INTO t (id, u) VALUES (9999, 9999); DELETE FROM keyless WHERE a = 1").await?;
    cluster.assert_identical(&NAMES).await
}

/// Nothing is restarted here: the old leader's sidecar stands still while the others go on, and must not mix what they write with what
/// its Postgres committed meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn an_ex_leader_that_lives_is_repaired_too() -> Result<()> {
    const MANY: usize = 40_000;
    let cluster = Fixture::start().await?;
    let client = cluster.client().await?;
    client.batch_execute(TABLES).await?;
    cluster.wait_settled(PATIENCE).await?;
    let leader = cluster.leader().await?;
    let before = identifier(&cluster, leader).await?;
    let direct = cluster.node_client(leader).await?;
    direct.batch_execute("SET synchronous_commit = local").await?;
    let from = log_len(&cluster, leader)?;
    let pid = cluster.sidecar_pid(leader).context("its sidecar runs")?.to_string();
    ensure!(Command::new("kill").args(["-STOP", &pid]).status()?.success(), "kill -STOP");
    for (sql, _) in LOST {
        direct.batch_execute(sql).await?;
    }
    // So that it takes a while until the slot is read, and there is time to do wrong.
    direct.batch_execute(&format!("INSERT INTO quiet SELECT generate_series(1001, {})", 1000 + MANY)).await?;
    another_leader(&cluster, leader).await?;
    // Nothing that the old leader's rows would stand in the way of: applied to them too early, it would leave no trace but a wrong row.
    let client = cluster.client().await?;
    client.batch_execute("UPDATE keyless SET b = 'new' WHERE a IN (2, 4, 5)").await?;
    client.batch_execute("UPDATE t SET note = 'new'").await?;
    ensure!(Command::new("kill").args(["-CONT", &pid]).status()?.success(), "kill -CONT");
    eventually("a repair", async || log(&cluster, leader, from), |said| said.contains("repaired rows=")).await?;
    cluster.wait_caught_up(leader, PATIENCE).await?;
    cluster.assert_identical(&NAMES).await?;
    assert_eq!(identifier(&cluster, leader).await?, before);
    let changes: usize = LOST.iter().map(|(_, changes)| changes).sum();
    assert_eq!(rollback_lines(&cluster, leader)?.len(), changes + MANY);
    Ok(())
}

/// Ten thousand rows, and the ex-leader is killed in the middle of its repair again and again before it may finish.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_rows_are_repaired_in_time_whatever_happens_on_the_way() -> Result<()> {
    const KILLS: u32 = 6;
    let mut cluster = Fixture::start().await?;
    let client = cluster.client().await?;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY, note text, n int); CREATE TABLE keyless (a int, b text)").await?;
    client.batch_execute("INSERT INTO t SELECT i, md5(i::text), i FROM generate_series(1, 20000) i").await?;
    client.batch_execute("INSERT INTO keyless SELECT i, 'agreed' FROM generate_series(1, 100) i").await?;
    let lost = [
        "UPDATE t SET note = 'lost' WHERE id <= 4900",
        "INSERT INTO t SELECT i, 'lost', i FROM generate_series(30001, 33000) i",
        "DELETE FROM t WHERE id BETWEEN 18001 AND 20000",
        "UPDATE keyless SET b = 'lost' WHERE a <= 100",
    ];
    let leader = diverge(&mut cluster, &lost).await?;
    let meanwhile = "UPDATE t SET n = n + 1 WHERE id % 2 = 0; UPDATE keyless SET b = 'new' WHERE a <= 50";
    cluster.client().await?.batch_execute(meanwhile).await?;
    let from = log_len(&cluster, leader)?;
    let mut unfinished = 0;
    for kill in 0..KILLS {
        cluster.restart_node(leader).await?;
        let repairing = |seen: &howdah_ctl::cluster::Observed| {
            seen.node(leader).is_some_and(|node| matches!(node.role, Role::Repairing | Role::Follower))
        };
        cluster.wait_until("a repair", PATIENCE, repairing).await?;
        // At another place each time; where exactly is chance, and every place must do.
        tokio::time::sleep(Duration::from_millis(40) * kill).await;
        let seen = cluster.observe().await;
        println!("killed while it {:?}", seen.node(leader).map(|node| &node.detail));
        cluster.kill_node(leader).await?;
        unfinished += u32::from(!log(&cluster, leader, from)?.contains("repaired rows="));
    }
    println!("killed {unfinished} times in the middle of a repair");
    ensure!(unfinished > 0, "no kill came in the middle of a repair");

    let begun = Instant::now();
    cluster.restart_node(leader).await?;
    cluster.wait_caught_up(leader, PATIENCE).await?;
    println!("an ex-leader with 10,000 divergent rows follows {:?} after its start", begun.elapsed());
    ensure!(begun.elapsed() <= REPAIR_MAX, "{:?}", begun.elapsed());
    cluster.assert_identical(&["public.t", "public.keyless"]).await?;
    let said = log(&cluster, leader, from)?;
    ensure!(said.contains("repaired rows=") && !said.contains("seeded again"), "{said}");
    assert_eq!(rollback_lines(&cluster, leader)?.len(), 10_000);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_rows_are_not_enough_the_ex_leader_is_seeded_with_the_reason() -> Result<()> {
    let mut cluster = Fixture::start().await?;
    let client = cluster.client().await?;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await?;
    let before = identifier(&cluster, cluster.leader().await?).await?;
    let leader = diverge(&mut cluster, &["INSERT INTO t VALUES (666)", "CREATE TABLE lost (id int PRIMARY KEY)"]).await?;
    cluster.client().await?.batch_execute("INSERT INTO t VALUES (2)").await?;
    cluster.restart_node(leader).await?;
    cluster.wait_caught_up(leader, PATIENCE * 2).await?;
    cluster.assert_identical(&["public.t"]).await?;
    assert_ne!(identifier(&cluster, leader).await?, before);
    let status = cluster.observe().await;
    let detail = &status.node(leader).context("the ex-leader answers")?.detail;
    ensure!(detail.contains("was seeded again: CREATE TABLE was committed there"), "{detail}");
    // The row is kept for the operator all the same.
    let lines = rollback_lines(&cluster, leader)?;
    assert_eq!((lines.len(), &lines[0]["row"]["id"]), (1, &Value::from("666")));
    Ok(())
}

/// Begins to be filled from `node`, and takes nothing.
async fn keep_busy(cluster: &Fixture, node: NodeId) -> Result<()> {
    let secret = format!("{}: {}", howdah_ctl::admin::SECRET_HEADER, cluster.info().secret);
    let answer = ask(cluster, node, &format!("POST /v1/seed?node=99&from=0 HTTP/1.1\r\ncontent-length: 0\r\n{secret}")).await?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(())
}

/// The other follower fills a node that takes nothing, and a large transaction on the leader does not end: so the ex-leader is not filled for as long
/// as it is wanted. Meanwhile it has the log, but nothing to open.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_lead_is_given_nothing() -> Result<()> {
    let mut cluster = Fixture::start_with(|options| {
        options.settings.insert("logical_decoding_work_mem".into(), "64kB".into());
    })
    .await?;
    cluster.client().await?.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await?;
    let unfit = diverge(&mut cluster, &["CREATE TABLE lost (id int PRIMARY KEY)"]).await?;
    let now = cluster.leader().await?;
    let other = cluster.nodes().into_iter().find(|node| ![unfit, now].contains(node)).context("a third node")?;
    cluster.wait_caught_up(other, PATIENCE).await?;
    keep_busy(&cluster, other).await?;
    let holder = cluster.node_client(now).await?;
    holder.batch_execute("BEGIN; INSERT INTO t SELECT generate_series(1, 20000)").await?;
    let from = log_len(&cluster, unfit)?;
    cluster.restart_node(unfit).await?;
    eventually("a seeding", async || log(&cluster, unfit, from), |said| said.contains("seeding from")).await?;

    let address = cluster.info().node(now).context("the leader is a node")?.admin.to_string();
    let refused = howdah_ctl::admin::switchover(&address, &cluster.info().secret, Some(unfit)).await;
    let why = refused.err().context("not refused")?.to_string();
    ensure!(why.contains(&format!("node {unfit} is not fit to lead now")), "{why}");
    // Nobody was disturbed for it.
    holder.batch_execute("INSERT INTO t VALUES (-1); COMMIT").await?;
    ensure!(cluster.leader().await? == now, "it does not lead any more");
    cluster.wait_caught_up(unfit, PATIENCE * 2).await?;
    cluster.assert_identical(&["public.t"]).await
}

async fn metrics(cluster: &Fixture, node: NodeId) -> Result<String> {
    ask(cluster, node, "GET /metrics HTTP/1.1").await
}

/// The whole answer of a node's admin API.
async fn ask(cluster: &Fixture, node: NodeId, request: &str) -> Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = cluster.info().node(node).context("no such node")?.admin;
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream.write_all(format!("{request}\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await??;
    Ok(text)
}
