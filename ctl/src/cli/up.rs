//! `howdahctl up`: starts the local cluster and stays with it, or leaves it running with `--detach`.

use super::live::summary;
use super::signals::StopSignals;
use super::{Outcome, Up};
use anyhow::{Context, bail};
use howdah_ctl::cluster::{Cluster, Info, Lifetime, Options, Port, Revived};
use std::time::Duration;

const LOOK: Duration = Duration::from_millis(500);

/// What the lock of the folder says about its holder; `down` ends only holders that it knows to end well.
pub(crate) const PURPOSE: &str = "howdahctl up";

pub(crate) async fn run(arguments: Up) -> anyhow::Result<Outcome> {
    let mut signals = StopSignals::install()?;
    let options = options(&arguments)?;
    if arguments.detach && Cluster::is_detached(&options.data)? {
        return revive(&arguments, options, signals).await;
    }
    let resumes = Info::exists(&options.data);
    let mut cluster = Cluster::open(options).await?;
    let verb = if resumes { "resuming" } else { "creating" };
    let count = cluster.info().nodes.len();
    println!("{verb} a cluster of {count} node{} in {}", if count == 1 { "" } else { "s" }, cluster.data().display());

    let started = tokio::select! {
        started = cluster.start() => Some(started),
        () = signals.received() => None,
    };
    match started {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            cluster.stop().await.context("stopping what had started")?;
            return Err(error.into());
        }
        None => return stop(cluster, signals).await,
    }
    print_welcome(&cluster, arguments.detach);
    if arguments.detach {
        cluster.detach();
        return Ok(Outcome::Good);
    }
    watch(&mut cluster, &mut signals).await;
    stop(cluster, signals).await
}

/// Of a cluster that runs by itself only what died is started: it serves meanwhile.
async fn revive(arguments: &Up, options: Options, mut signals: StopSignals) -> anyhow::Result<Outcome> {
    let data = options.data.display().to_string();
    if !arguments.set.is_empty() {
        bail!("{data}: this cluster runs already, and --set is for a new one");
    }
    let mut cluster = Cluster::take_over(options).await?;
    let revived = tokio::select! {
        revived = cluster.start_missing() => revived,
        () = signals.received() => {
            cluster.detach();
            bail!("{data}: interrupted; what was started runs on");
        }
    };
    if let Ok(revived) = &revived {
        println!("{}", in_words(revived));
        print_welcome(&cluster, true);
    }
    // Whatever came of it, the processes run on.
    cluster.detach();
    revived?;
    Ok(Outcome::Good)
}

fn in_words(revived: &Revived) -> String {
    let nodes = revived.nodes.iter().map(|node| format!("node {node}"));
    let started: Vec<String> = nodes.chain(revived.proxy.then(|| "the proxy".to_owned())).collect();
    if started.is_empty() {
        return "nothing to start: all of this cluster runs".to_owned();
    }
    format!("started again: {}; the rest was left as it was", started.join(", "))
}

fn options(arguments: &Up) -> anyhow::Result<Options> {
    let mut options = Options::new(arguments.data.dir())?;
    options.purpose = PURPOSE.to_owned();
    options.nodes_explicit = arguments.nodes.is_some();
    options.nodes = arguments.nodes.unwrap_or(options.nodes);
    options.port = arguments.port.map_or(Port::Default, Port::Fixed);
    options.settings.extend(arguments.set.iter().cloned());
    options.lifetime = if arguments.detach { Lifetime::Detached } else { Lifetime::Owned };
    Ok(options)
}

pub(crate) fn print_welcome(cluster: &Cluster, detached: bool) {
    let data = cluster.data().display();
    println!("\n  psql \"{}\"\n", cluster.info().proxy_url());
    println!("  howdahctl status --data {data}");
    println!("  howdahctl switchover --data {data}");
    let stop = if detached { format!("howdahctl down --data {data}") } else { "Ctrl-C".to_owned() };
    println!("  {stop} stops it; its data stays\n");
}

/// Says what changes, until told to stop. A process that ends is reported, not replaced: that is the operator's decision, and the others serve on.
pub(crate) async fn watch(cluster: &mut Cluster, signals: &mut StopSignals) {
    let mut last = String::new();
    loop {
        for error in cluster.take_ended() {
            println!("{error}");
        }
        let now = summary(&cluster.observe().await);
        if now != last {
            println!("{now}");
            last = now;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = signals.received() => return,
        }
    }
}

pub(crate) async fn stop(mut cluster: Cluster, mut signals: StopSignals) -> anyhow::Result<Outcome> {
    println!("\nstopping (once more to kill)");
    tokio::select! {
        stopped = cluster.stop() => stopped?,
        // Dropping the cluster kills what is left.
        () = signals.received() => println!("killed"),
    }
    Ok(Outcome::Good)
}
