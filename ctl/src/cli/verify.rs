//! `howdahctl verify`: do all nodes hold the same data? Asks each for the digests of its tables at one log index and compares.

use super::target::{Target, leader};
use super::{Outcome, Verify};
use anyhow::{Context, bail};
use howdah_ctl::admin;
use howdah_ctl::core::digests::{Comparison, Verdict, compare};
use howdah_ctl::core::table::{Align, render};
use std::time::Duration;

/// Digests are only comparable when no node moved while it was read; under writes that takes luck, so it is tried a few times.
const ATTEMPTS_MAX: u32 = 10;
const PAUSE: Duration = Duration::from_millis(300);

pub(crate) async fn run(arguments: Verify) -> anyhow::Result<Outcome> {
    let comparison = verify(&arguments.target.resolve()?).await?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&comparison)?);
    } else {
        println!("{}", table(&comparison));
        let words = if comparison.identical { "identical" } else { "DIFFERENT" };
        println!("\nat log index {}: {words}", comparison.index);
    }
    Ok(if comparison.identical { Outcome::Good } else { Outcome::Bad })
}

pub(crate) async fn verify(target: &Target) -> anyhow::Result<Comparison> {
    for _ in 0..ATTEMPTS_MAX {
        if let Verdict::Comparable(comparison) = attempt(target).await? {
            return Ok(comparison);
        }
        tokio::time::sleep(PAUSE).await;
    }
    bail!("the nodes moved on while they were read, {ATTEMPTS_MAX} times; stop the writes for a moment and try again");
}

async fn attempt(target: &Target) -> anyhow::Result<Verdict> {
    let views = target.observe().await;
    let leader = leader(&views).context("no node is an open leader; `howdahctl status` shows why")?;
    if let Some((view, why)) = views.iter().find_map(|view| Some((view, view.status.as_ref().err()?))) {
        bail!("{} does not answer, so the nodes cannot all be compared: {why}", view.admin);
    }
    let index = admin::committed(&leader.admin).await.context("asking the leader for its position")?.index;
    let ask = views.iter().map(|view| admin::checksum(&view.admin, index));
    Ok(compare(&futures::future::try_join_all(ask).await?))
}

pub(crate) fn table(comparison: &Comparison) -> String {
    if comparison.tables.is_empty() {
        return "no tables".to_owned();
    }
    let nodes: Vec<_> = comparison.tables.first().into_iter().flat_map(|row| row.nodes.keys().copied()).collect();
    let names: Vec<String> = nodes.iter().map(|node| format!("node {node}: rows / sum")).collect();
    let mut columns = vec![("table", Align::Left), ("", Align::Left)];
    columns.extend(names.iter().map(|name| (name.as_str(), Align::Left)));
    let rows = comparison.tables.iter().map(|row| {
        let mark = if row.identical { "same" } else { "DIFFERENT" };
        let cells = row.nodes.values().map(|digest| match digest {
            Some(digest) => format!("{} / {}", digest.rows, digest.sum),
            None => "missing".to_owned(),
        });
        [row.table.clone(), mark.to_owned()].into_iter().chain(cells).collect()
    });
    render(&columns, &rows.collect::<Vec<_>>())
}
