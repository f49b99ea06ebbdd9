//! What clients do through the proxy: pgbench in all modes, psql, consistency modes, settings.

use anyhow::{Context, Result, ensure};
use howdah_ctl::{pgbench, postgres};
use howdah_tests::{Fixture, PATIENCE, connect, eventually, refusal, show};
use std::process::Output;
use std::time::Duration;
use tokio::process::Command;

async fn run(mut command: Command) -> Result<Output> {
    let output = tokio::time::timeout(PATIENCE * 2, command.kill_on_drop(true).output()).await.context("a client program hangs")??;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_in_every_mode_and_all_servers_identical() -> Result<()> {
    let cluster = Fixture::start().await?;
    let url = cluster.info().proxy_url();
    let bin_dir = postgres::bin_dir()?;
    pgbench::init(&bin_dir, &url, 1).await?;
    for mode in ["simple", "extended", "prepared"] {
        for script in ["tpcb-like", "select-only"] {
            let mut command = Command::new(postgres::program(&bin_dir, "pgbench"));
            command.args(["-n", "-M", mode, "-b", script, "-c", "4", "-j", "2", "-t", "100"]).arg(&url);
            let output = run(command).await.with_context(|| format!("pgbench -M {mode} -b {script}"))?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(said.contains("transactions actually processed: 400/400"), "{said}");
        }
    }
    let client = cluster.client().await?;
    assert_eq!(show(&client, "SELECT count(*) FROM pgbench_history").await?, "1200");
    cluster
        .assert_identical(&["public.pgbench_accounts", "public.pgbench_history", "public.pgbench_tellers", "public.pgbench_branches"])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_and_its_backslash_commands() -> Result<()> {
    let cluster = Fixture::start().await?;
    let url = cluster.info().proxy_url();
    cluster.client().await?.batch_execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one')").await?;
    let script_file = cluster.folder().path().join("script.sql");
    let script = "\\d\n\\dt+\n\\d t\n\\df\n\\du\n\\dn\n\\l\n\\conninfo\n\\dp\n\\di\n\\copy t TO STDOUT\nSELECT * FROM t \\gx\n\\timing\nSELECT 1; SELECT 2";
    std::fs::write(&script_file, script)?;
    let mut psql = Command::new("psql");
    psql.args(["-X", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&script_file).arg(&url);
    let output = run(psql).await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for expected in ["t_pkey", "1\tone", "List of schemas", "Timing is on"] {
        ensure!(said.contains(expected), "no `{expected}` in\n{said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_consistency_mode_is_served_where_it_says() -> Result<()> {
    let mut cluster = Fixture::start().await?;
    let client = cluster.client().await?;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await?;
    cluster.wait_settled(PATIENCE).await?;
    let leader = cluster.leader().await?.to_string();

    assert_eq!(show(&client, "SHOW howdah.consistency").await?, "linearizable");
    show(&client, "SELECT count(*) FROM t").await?;
    assert_eq!(show(&client, "SHOW howdah.served_by").await?, leader);

    // Each session sees its own writes at once on followers, a hundred times over.
    client.batch_execute("SET howdah.consistency = read_your_writes").await?;
    let mut on_followers = 0;
    for id in 1..=100 {
        client.batch_execute(&format!("INSERT INTO t VALUES ({id})")).await?;
        assert_eq!(show(&client, "SELECT max(id) FROM t").await?, id.to_string());
        if show(&client, "SHOW howdah.served_by").await? != leader {
            on_followers += 1;
        }
    }
    assert!(on_followers > 50, "only {on_followers} of 100 reads were served by followers");
    let token = show(&client, "SHOW howdah.token").await?;
    assert!(token.starts_with("h1:0="), "{token}");

    // Another session takes the token over, and sees what it stands for.
    let other = cluster.client().await?;
    other.batch_execute(&format!("SET howdah.consistency = read_your_writes; SET howdah.token = '{token}'")).await?;
    assert_eq!(show(&other, "SELECT max(id) FROM t").await?, "100");

    // Monotonic reads never go back while another session writes, on whichever node.
    other.batch_execute("SET howdah.consistency = monotonic").await?;
    let mut seen = 0;
    for id in 101..=200 {
        client.batch_execute(&format!("INSERT INTO t VALUES ({id})")).await?;
        let now: i32 = show(&other, "SELECT max(id) FROM t").await?.parse()?;
        assert!(now >= seen, "went back from {seen} to {now}");
        seen = now;
    }

    other.batch_execute("SET howdah.consistency = eventual").await?;
    show(&other, "SELECT count(*) FROM t").await?;
    assert_ne!(show(&other, "SHOW howdah.served_by").await?, leader);
    assert_eq!(show(&other, "/* howdah: linearizable */ SELECT count(*) FROM t").await?, "200");

    // Reads go on without any follower.
    for node in cluster.nodes().into_iter().filter(|node| node.to_string() != leader) {
        cluster.kill_node(node).await?;
    }
    eventually("a read without followers", async || Ok(show(&other, "SELECT count(*) FROM t").await?), |seen| seen == "200").await?;
    assert_eq!(show(&other, "SHOW howdah.served_by").await?, leader);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn asynchronous_commits_do_not_wait_for_the_group() -> Result<()> {
    let mut cluster = Fixture::start().await?;
    let client = cluster.client().await?;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await?;
    cluster.wait_settled(PATIENCE).await?;
    let leader = cluster.leader().await?;
    for node in cluster.nodes().into_iter().filter(|node| *node != leader) {
        cluster.kill_node(node).await?;
    }
    client.batch_execute("SET howdah.replication = async").await?;
    let insert = client.batch_execute("INSERT INTO t VALUES (1)");
    tokio::time::timeout(Duration::from_secs(5), insert).await.context("an asynchronous commit waited")??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_gets_an_error_that_helps() -> Result<()> {
    let cluster = Fixture::start().await?;
    let client = cluster.client().await?;
    let cases = [
        ("SET howdah.consistency = 'strong'", "22023", "linearizable, read_your_writes"),
        ("SET howdah.nonsense = 1", "42704", "howdah.consistency"),
        ("SHOW howdah.nonsense", "42704", "howdah.consistency"),
        ("SET howdah.replication = 'maybe'", "22023", "sync, async"),
        ("SET howdah.served_by = 1", "55P02", ""),
        ("SET howdah.token = 'x'", "22023", ""),
        ("SET synchronous_commit = off", "0A000", "howdah.replication"),
        ("ALTER SYSTEM SET fsync = off", "0A000", ""),
        ("PREPARE TRANSACTION 'x'", "0A000", "COMMIT"),
        ("SELEC 1", "42601", ""),
    ];
    for (sql, code, expected) in cases {
        let (found, text) = refusal(client.simple_query(sql).await)?;
        assert_eq!(found, code, "{sql}: {text}");
        assert!(text.contains(expected), "{sql}: {text}");
        // The session lives on.
        assert_eq!(show(&client, "SELECT 1").await?, "1");
    }
    let info = cluster.info();
    let url = info.proxy_url();
    let logins = [
        (url.replace(&info.app_password, "wrong"), "28P01"),
        (url.replacen(&info.app_role, "nobody", 1), "28P01"),
        (url.rsplit_once('/').map(|(server, _)| format!("{server}/nowhere")).unwrap_or_default(), "3D000"),
    ];
    for (url, code) in logins {
        let error = connect(&url).await.expect_err("a login that cannot be");
        let said = error.downcast_ref::<tokio_postgres::Error>().and_then(|error| error.code()).map(|found| found.code().to_owned());
        assert_eq!(said.as_deref(), Some(code), "{error:#}");
    }
    Ok(())
}
