//! `howdahctl switchover`: asks the leader to hand over, and waits until the new one is open.

use super::target::leader;
use super::{Outcome, Switchover};
use anyhow::{Context, bail};
use howdah_ctl::admin;
use std::time::{Duration, Instant};

const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

pub(crate) async fn run(arguments: Switchover) -> anyhow::Result<Outcome> {
    let target = arguments.target.resolve()?;
    let views = target.observe().await;
    let Some(from) = leader(&views) else {
        bail!("no node is an open leader, so there is nobody to hand over; `howdahctl status` shows why");
    };
    if let Some(to) = arguments.to
        && !views.iter().any(|view| view.id == Some(to))
    {
        let known: Vec<String> = views.iter().filter_map(|view| view.id).map(|id| id.to_string()).collect();
        bail!("there is no node {to}; the nodes are {}", known.join(", "));
    }
    if arguments.to.is_some() && arguments.to == from.id {
        println!("node {} leads already", from.id.unwrap_or_default());
        return Ok(Outcome::Good);
    }
    let secret = target.secret.as_deref().context("this changes something, so it needs the cluster's secret: --secret or HOWDAH_SECRET")?;
    let began = Instant::now();
    let done = admin::switchover(&from.admin, secret, arguments.to).await.context("the leader refused")?;
    loop {
        let now = target.observe().await;
        if leader(&now).is_some_and(|view| view.id == Some(done.to)) {
            println!("node {} leads, after node {} ({} ms)", done.to, done.from, began.elapsed().as_millis());
            return Ok(Outcome::Good);
        }
        if began.elapsed() > OPEN_TIMEOUT {
            bail!("node {} took over but did not open within {} s; `howdahctl status` shows why", done.to, OPEN_TIMEOUT.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
}
