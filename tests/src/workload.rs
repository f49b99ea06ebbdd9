//! What clients do while the system is broken: several small applications, each with a promise that a checker can judge.
//!
//! All go through the proxy, as an application would, on one connection per client; each notes what it asked and what it was told. Nobody
//! retries: a failure is an answer too. The random choices come from the seed; which of them meet is the machine's doing.

mod append;
mod bank;
mod line;
mod register;
mod sequence;
mod session;
mod set;

pub use line::{Counts, Shared};

use crate::check::Findings;
use crate::check::append::Level;
use anyhow::{Context, Result};
use futures::future::LocalBoxFuture;
use line::Line;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// A client ends its transaction within the time-out of one, and a reconnect.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// One application, its books, and its judge.
pub(crate) trait Workload {
    fn name(&self) -> &'static str;

    /// Statements that make its tables and fill them.
    fn schema(&self) -> String;

    fn clients(self: Rc<Self>, seeds: &mut StdRng, shared: &Arc<Shared>) -> Vec<LocalBoxFuture<'static, ()>>;

    /// Reads everything once more, when all is quiet, into the history.
    fn conclude<'a>(&'a self, line: &'a mut Line) -> LocalBoxFuture<'a, Result<()>>;

    fn judge(&self) -> Findings;
}

/// All applications. Runs on one thread, inside a [`tokio::task::LocalSet`].
pub struct Workloads {
    all: Vec<Rc<dyn Workload>>,
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Workloads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workloads").field("clients", &self.clients.len()).finish_non_exhaustive()
    }
}

impl Workloads {
    /// Makes the tables and starts the clients.
    pub async fn start(url: &str, seed: u64) -> Result<Self> {
        let shared = Arc::new(Shared::new(url));
        let began = shared.began;
        let all: Vec<Rc<dyn Workload>> = vec![
            Rc::new(bank::Bank::new(began)),
            Rc::new(append::Append::new(began, Level::Serializable)),
            Rc::new(append::Append::new(began, Level::Snapshot)),
            Rc::new(register::Register::new(began)),
            Rc::new(set::Set::new(began)),
            Rc::new(session::Sessions::new(began)),
            Rc::new(sequence::Sequence::new(began)),
        ];
        let client = crate::connect(url).await?;
        for workload in &all {
            client.batch_execute(&workload.schema()).await.with_context(|| format!("making the tables of {}", workload.name()))?;
        }
        let mut seeds = StdRng::seed_from_u64(seed);
        let futures = all.iter().flat_map(|workload| Rc::clone(workload).clients(&mut seeds, &shared));
        let clients = futures.map(tokio::task::spawn_local).collect();
        Ok(Self { all, shared, clients })
    }

    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Lets every client end what it does.
    pub async fn stop(&mut self) -> Result<()> {
        self.shared.stop();
        for client in self.clients.drain(..) {
            tokio::time::timeout(STOP_TIMEOUT, client).await.context("a client neither works nor stops")??;
        }
        Ok(())
    }

    /// Reads everything once more and judges: per application its name and what is wrong.
    pub async fn judge(&self) -> Result<Vec<(&'static str, Findings)>> {
        let mut verdicts = Vec::new();
        for workload in &self.all {
            let mut line = Line::new(&self.shared, "linearizable");
            workload.conclude(&mut line).await.with_context(|| format!("the last read of {}", workload.name()))?;
            verdicts.push((workload.name(), workload.judge()));
        }
        Ok(verdicts)
    }
}

/// A generator of one client's own, so that what one draws does not change what another does.
fn own(seeds: &mut StdRng) -> StdRng {
    StdRng::seed_from_u64(seeds.random())
}
