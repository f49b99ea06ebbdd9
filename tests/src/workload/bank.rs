//! Transfers between accounts, and reads of all accounts in every consistency mode.

use super::line::{Line, Shared, number, rows};
use super::{Workload, own};
use crate::check::Findings;
use crate::check::bank::{Answer, Call, check};
use crate::history::{Outcome, Recorder};
use anyhow::Result;
use futures::future::LocalBoxFuture;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use tokio_postgres::{Client, Error};

const ACCOUNTS: i32 = 8;
const BALANCE: i64 = 100;
const WRITERS: usize = 2;
const READERS: [&str; 4] = ["linearizable", "read_your_writes", "monotonic", "eventual"];

#[derive(Debug)]
pub(super) struct Bank {
    history: Recorder<Call, Answer>,
}

impl Bank {
    pub(super) fn new(began: Instant) -> Self {
        Self { history: Recorder::new(began) }
    }

    async fn write(self: Rc<Self>, mut line: Line, mut random: StdRng, shared: Arc<Shared>) {
        while let Some(process) = line.ready(|| self.history.process()).await {
            let (from, to, amount) = (random.random_range(0..ACCOUNTS), random.random_range(0..ACCOUNTS), random.random_range(1..10));
            let pending = self.history.invoke(process, Call::Transfer { from, to, amount });
            let outcome = line
                .run(async |client, flight| {
                    client.batch_execute("BEGIN").await?;
                    // The lower number first: two transfers do not wait for each other.
                    for (id, change) in if from < to { [(from, -amount), (to, amount)] } else { [(to, amount), (from, -amount)] } {
                        client.execute("UPDATE bank SET balance = balance + $2 WHERE id = $1", &[&id, &change]).await?;
                    }
                    flight.commits();
                    client.batch_execute("COMMIT").await
                })
                .await;
            let outcome = match outcome {
                Outcome::Ok(()) => Outcome::Ok(Answer::Transferred),
                Outcome::Failed => Outcome::Failed,
                Outcome::Unknown => Outcome::Unknown,
            };
            self.history.end(pending, outcome);
            shared.think(&mut random).await;
        }
    }

    async fn read(self: Rc<Self>, mut line: Line, mut random: StdRng, shared: Arc<Shared>) {
        while let Some(process) = line.ready(|| self.history.process()).await {
            let pending = self.history.invoke(process, Call::ReadAll);
            // In one statement, or in several of one snapshot.
            let whole = random.random_bool(0.7);
            let outcome = line.run(async |client, _| if whole { read_all(client).await } else { read_each(client).await }).await;
            self.history.end(pending, outcome);
            shared.think(&mut random).await;
        }
    }
}

async fn read_all(client: &Client) -> Result<Answer, Error> {
    let rows = rows(client, "SELECT id, balance FROM bank").await?;
    Ok(Answer::Balances(rows.iter().map(|row| (number(row, 0), number(row, 1))).collect()))
}

async fn read_each(client: &Client) -> Result<Answer, Error> {
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let mut balances = BTreeMap::new();
    for id in 0..ACCOUNTS {
        for row in rows(client, &format!("SELECT balance FROM bank WHERE id = {id}")).await? {
            balances.insert(id, number(&row, 0));
        }
    }
    client.batch_execute("COMMIT").await?;
    Ok(Answer::Balances(balances))
}

impl Workload for Bank {
    fn name(&self) -> &'static str {
        "bank"
    }

    fn schema(&self) -> String {
        let last = ACCOUNTS - 1;
        format!(
            "CREATE TABLE bank (id int PRIMARY KEY, balance bigint NOT NULL); INSERT INTO bank SELECT i, {BALANCE} FROM generate_series(0, {last}) i"
        )
    }

    fn clients(self: Rc<Self>, seeds: &mut StdRng, shared: &Arc<Shared>) -> Vec<LocalBoxFuture<'static, ()>> {
        let mut clients: Vec<LocalBoxFuture<'static, ()>> = Vec::new();
        for _ in 0..WRITERS {
            clients.push(Box::pin(Rc::clone(&self).write(Line::new(shared, "linearizable"), own(seeds), Arc::clone(shared))));
        }
        for mode in READERS {
            clients.push(Box::pin(Rc::clone(&self).read(Line::new(shared, mode), own(seeds), Arc::clone(shared))));
        }
        clients
    }

    fn conclude<'a>(&'a self, line: &'a mut Line) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let pending = self.history.invoke(self.history.process(), Call::ReadAll);
            let answer = line.surely(async |client, _| read_all(client).await).await?;
            self.history.end(pending, Outcome::Ok(answer));
            Ok(())
        })
    }

    fn judge(&self) -> Findings {
        check(&self.history.take(), usize::try_from(ACCOUNTS).expect("accounts are few"), BALANCE)
    }
}
