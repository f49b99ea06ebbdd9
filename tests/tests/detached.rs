//! A cluster that `howdahctl up --detach` left running: what of it dies is started again by the same command, and nothing else is touched.

use anyhow::{Context, Result, ensure};
use howdah_ctl::cluster::{Binaries, Cluster, Info, Options};
use howdah_protocol::NodeId;
use howdah_tests::{PATIENCE, connect, eventually, show};
use std::path::{Path, PathBuf};
use std::process::Output;
use tokio::process::Command;
use tokio::time::timeout;

const NODES: usize = 3;

/// Stops the cluster however the test ends.
struct Down(PathBuf);

impl Drop for Down {
    fn drop(&mut self) {
        let stopped = program().map(|program| std::process::Command::new(program).arg("down").arg("--data").arg(&self.0).output());
        drop(stopped);
    }
}

fn program() -> Result<PathBuf> {
    Ok(Binaries::find()?.sidecar.with_file_name("howdahctl"))
}

async fn howdahctl(words: &[&str], data: &Path) -> Result<Output> {
    let mut command = Command::new(program()?);
    command.args(words).arg("--data").arg(data).kill_on_drop(true);
    Ok(timeout(PATIENCE * 3, command.output()).await??)
}

async fn must(words: &[&str], data: &Path) -> Result<String> {
    let output = howdahctl(words, data).await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{words:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    Ok(said)
}

async fn refused(words: &[&str], data: &Path) -> Result<String> {
    let output = howdahctl(words, data).await?;
    ensure!(output.status.code() == Some(3), "{words:?} ended with {}", output.status);
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// As the folder records them: the nodes' sidecars, and the proxy.
fn pids(data: &Path) -> Result<Vec<i64>> {
    let nodes = (1..=NODES).map(|node| data.join(format!("node{node}/sidecar.pid")));
    let pid = |file: PathBuf| {
        let record: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file)?)?;
        record["pid"].as_i64().context("a pid")
    };
    nodes.chain([data.join("proxy.pid")]).map(pid).collect()
}

async fn kill(pid: i64) -> Result<()> {
    let killed = Command::new("kill").args(["-9", &pid.to_string()]).status().await?;
    ensure!(killed.success(), "process {pid} was not there");
    // Dead is enough: who should take note of it may be a long way off.
    let stat = format!("/proc/{pid}/stat");
    let gone = async || Ok(std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")));
    eventually("the end of a killed process", gone, |gone| *gone).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_died_is_started_again_and_the_rest_is_left_alone() -> Result<()> {
    let folder = howdah_tests::folder()?;
    // Never started: it keeps a block of ports from the other tests.
    let claimed = Cluster::create(Options::for_test(folder.path().join("claim"))?).await?;
    let port = claimed.info().proxy.port().to_string();
    let data = folder.path().join("c");
    let _down = Down(data.clone());
    must(&["up", "--detach", "--port", &port], &data).await?;
    let info = Info::load(&data)?;
    let client = connect(&info.proxy_url()).await?;
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await?;
    drop(client);

    let before = pids(&data)?;
    let all = must(&["up", "--detach"], &data).await?;
    ensure!(all.contains("nothing to start") && pids(&data)? == before, "{all}");

    let leader = info.observe().await.leader().context("a leader")?.id;
    let victim = (1..=NODES as u64).map(NodeId).find(|node| *node != leader).context("a follower")?;
    let nth = usize::try_from(victim.0)? - 1;
    // Its Postgres lives on, and holds the port.
    kill(before[nth]).await?;
    kill(before[NODES]).await?;
    ensure!(info.observe().await.node(victim).is_none(), "it answers still");

    let hint = refused(&["up"], &data).await?;
    ensure!(hint.contains("`howdahctl up --detach") && hint.contains("howdahctl down"), "{hint}");
    let setting = refused(&["up", "--detach", "--set", "work_mem=8MB"], &data).await?;
    ensure!(setting.contains("--set is for a new one"), "{setting}");
    let other = refused(&["up", "--detach", "--nodes", "5"], &data).await?;
    ensure!(other.contains("has 3 nodes"), "{other}");
    ensure!(info.observe().await.node(victim).is_none(), "a refusal started it");

    let said = must(&["up", "--detach"], &data).await?;
    ensure!(said.contains(&format!("started again: node {victim}, the proxy;")), "{said}");
    let after = pids(&data)?;
    for (place, (before, after)) in before.iter().zip(&after).enumerate() {
        let died = place == nth || place == NODES;
        ensure!((before != after) == died, "process {place}: {before} and {after}");
    }
    let open = async || Ok(info.observe().await.answers().filter(|node| node.open).count());
    eventually("all nodes open", open, |open| *open == NODES).await?;
    let client = connect(&info.proxy_url()).await?;
    client.batch_execute("INSERT INTO t VALUES (2)").await?;
    assert_eq!(show(&client, "SELECT count(*) FROM t").await?, "2");
    drop(client);
    must(&["down"], &data).await?;
    ensure!(!Cluster::is_running(&data)?, "it runs still");
    Ok(())
}
