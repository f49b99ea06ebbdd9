//! Transactions that append to lists and read them, serializable or on a snapshot.

use super::line::{Flight, Line, Shared, rows};
use super::{Workload, own};
use crate::check::Findings;
use crate::check::append::{Answer, Call, Level, Step, check};
use crate::history::{Outcome, Recorder};
use anyhow::Result;
use futures::future::LocalBoxFuture;
use rand::Rng;
use rand::rngs::StdRng;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Instant;
use tokio_postgres::{Client, Error};

const CLIENTS: usize = 3;
/// Keys that are in use at one time, and appends until the next ones are: short lists make small histories, few keys make conflicts.
const KEYS: i32 = 4;
const VALUES_PER_KEYS: i32 = 120;
const STEPS_MAX: usize = 4;

#[derive(Debug)]
pub(super) struct Append {
    level: Level,
    history: Recorder<Call, Answer>,
    values: AtomicI32,
}

impl Append {
    pub(super) fn new(began: Instant, level: Level) -> Self {
        Self { level, history: Recorder::new(began), values: AtomicI32::new(0) }
    }

    fn table(&self) -> &'static str {
        match self.level {
            Level::Serializable => "append_serializable",
            Level::Snapshot => "append_snapshot",
            Level::ReadCommitted => "append_committed",
        }
    }

    fn isolation(&self) -> &'static str {
        match self.level {
            Level::Serializable => "SERIALIZABLE",
            Level::Snapshot => "REPEATABLE READ",
            Level::ReadCommitted => "READ COMMITTED",
        }
    }

    fn steps(&self, random: &mut StdRng) -> Call {
        let oldest = self.values.load(Ordering::Relaxed) / VALUES_PER_KEYS * KEYS;
        let step = |random: &mut StdRng| {
            let key = oldest + random.random_range(0..KEYS);
            if random.random_bool(0.5) {
                Step::Read { key }
            } else {
                Step::Append { key, value: self.values.fetch_add(1, Ordering::Relaxed) + 1 }
            }
        };
        (0..random.random_range(1..=STEPS_MAX)).map(|_| step(random)).collect()
    }

    async fn transact(&self, client: &Client, flight: &Flight, call: &Call) -> Result<Answer, Error> {
        let table = self.table();
        client.batch_execute(&format!("BEGIN ISOLATION LEVEL {}", self.isolation())).await?;
        let mut lists = Vec::new();
        for step in call {
            match step {
                Step::Read { key } => lists.push(read(client, table, *key).await?),
                Step::Append { key, value } => {
                    let append = format!(
                        "INSERT INTO {table} AS old VALUES ({key}, '{{{value}}}') ON CONFLICT (key) DO UPDATE SET list = old.list || excluded.list"
                    );
                    client.batch_execute(&append).await?;
                }
            }
        }
        flight.commits();
        client.batch_execute("COMMIT").await?;
        Ok(lists)
    }

    async fn work(self: Rc<Self>, mut line: Line, mut random: StdRng, shared: Arc<Shared>) {
        while let Some(process) = line.ready(|| self.history.process()).await {
            let call = self.steps(&mut random);
            let pending = self.history.invoke(process, call.clone());
            let outcome = line.run(async |client, flight| self.transact(client, flight, &call).await).await;
            self.history.end(pending, outcome);
            shared.think(&mut random).await;
        }
    }
}

async fn read(client: &Client, table: &str, key: i32) -> Result<Vec<i32>, Error> {
    let rows = rows(client, &format!("SELECT list FROM {table} WHERE key = {key}")).await?;
    Ok(rows.first().map(|row| list(row.get(0).expect("not null by its definition"))).unwrap_or_default())
}

/// `{1,2,3}`
fn list(text: &str) -> Vec<i32> {
    let inner = text.trim_matches(['{', '}']);
    inner.split(',').filter(|value| !value.is_empty()).map(|value| value.parse().expect("a list of numbers")).collect()
}

impl Workload for Append {
    fn name(&self) -> &'static str {
        match self.level {
            Level::Serializable => "list-append, serializable",
            Level::Snapshot => "list-append, repeatable read",
            Level::ReadCommitted => "list-append, read committed",
        }
    }

    fn schema(&self) -> String {
        format!("CREATE TABLE {} (key int PRIMARY KEY, list int[] NOT NULL)", self.table())
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
            for key in 0..last {
                let pending = self.history.invoke(self.history.process(), vec![Step::Read { key }]);
                let list = line.surely(async |client, _| read(client, self.table(), key).await).await?;
                self.history.end(pending, Outcome::Ok(vec![list]));
            }
            Ok(())
        })
    }

    fn judge(&self) -> Findings {
        check(&self.history.take(), self.level, true)
    }
}
