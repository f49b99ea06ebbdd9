//! Registers that are read, written and swapped, in linearizable mode, one statement each.

use super::line::{Flight, Line, Shared};
use super::{Workload, own};
use crate::check::Findings;
use crate::check::register::{Action, Answer, Call, INITIAL, check};
use crate::history::{Outcome, Recorder};
use anyhow::Result;
use futures::future::LocalBoxFuture;
use rand::Rng;
use rand::rngs::StdRng;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;
use tokio_postgres::{Client, Error};

const CLIENTS: usize = 4;
/// Registers in use at one time, and writes until the next ones are: the search for an order is over few operations each.
const KEYS: i64 = 2;
const VALUES_PER_KEYS: i64 = 150;

#[derive(Debug)]
pub(super) struct Register {
    history: Recorder<Call, Answer>,
    values: AtomicI64,
}

impl Register {
    pub(super) fn new(began: Instant) -> Self {
        Self { history: Recorder::new(began), values: AtomicI64::new(0) }
    }

    fn key(&self, random: &mut StdRng) -> i32 {
        i32::try_from(self.values.load(Ordering::Relaxed) / VALUES_PER_KEYS * KEYS + random.random_range(0..KEYS)).expect("keys are few")
    }

    async fn work(self: Rc<Self>, mut line: Line, mut random: StdRng, shared: Arc<Shared>) {
        // What this client saw last, where: a swap from there has a chance.
        let mut seen = (0, INITIAL);
        while let Some(process) = line.ready(|| self.history.process()).await {
            let key = self.key(&mut random);
            let action = match random.random_range(0..4) {
                0 | 1 => Action::Read,
                2 if seen.0 == key && seen.1 != INITIAL => {
                    Action::Swap { from: seen.1, to: self.values.fetch_add(1, Ordering::Relaxed) + 1 }
                }
                _ => Action::Write(self.values.fetch_add(1, Ordering::Relaxed) + 1),
            };
            let pending = self.history.invoke(process, Call { key, action });
            let outcome = line.run(async |client, flight| act(client, flight, key, action).await).await;
            if let Outcome::Ok(Answer::Value(value)) = outcome {
                seen = (key, value);
            }
            self.history.end(pending, outcome);
            shared.think(&mut random).await;
        }
    }
}

async fn act(client: &Client, flight: &Flight, key: i32, action: Action) -> Result<Answer, Error> {
    const WRITE: &str = "INSERT INTO register VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    const SWAP: &str = "UPDATE register SET value = $3 WHERE key = $1 AND value = $2";
    match action {
        Action::Read => {
            let row = client.query_opt("SELECT value FROM register WHERE key = $1", &[&key]).await?;
            Ok(Answer::Value(row.map_or(INITIAL, |row| row.get(0))))
        }
        Action::Write(value) => {
            flight.commits();
            client.execute(WRITE, &[&key, &value]).await?;
            Ok(Answer::Written)
        }
        Action::Swap { from, to } => {
            flight.commits();
            Ok(Answer::Swapped(client.execute(SWAP, &[&key, &from, &to]).await? == 1))
        }
    }
}

impl Workload for Register {
    fn name(&self) -> &'static str {
        "register"
    }

    fn schema(&self) -> String {
        "CREATE TABLE register (key int PRIMARY KEY, value bigint NOT NULL)".to_owned()
    }

    fn clients(self: Rc<Self>, seeds: &mut StdRng, shared: &Arc<Shared>) -> Vec<LocalBoxFuture<'static, ()>> {
        let client = |_| -> LocalBoxFuture<'static, ()> {
            Box::pin(Rc::clone(&self).work(Line::new(shared, "linearizable"), own(seeds), Arc::clone(shared)))
        };
        (0..CLIENTS).map(client).collect()
    }

    fn conclude<'a>(&'a self, line: &'a mut Line) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let last = (self.values.load(Ordering::Relaxed) / VALUES_PER_KEYS + 1) * KEYS;
            for key in 0..i32::try_from(last).expect("keys are few") {
                let pending = self.history.invoke(self.history.process(), Call { key, action: Action::Read });
                let answer = line.surely(async |client, flight| act(client, flight, key, Action::Read).await).await?;
                self.history.end(pending, Outcome::Ok(answer));
            }
            Ok(())
        })
    }

    fn judge(&self) -> Findings {
        check(&self.history.take())
    }
}
