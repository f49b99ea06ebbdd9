//! Sessions that write versions of their own row and read it back, and sessions that watch the rows of others.

use super::line::{Line, Shared, number, rows};
use super::{Workload, own};
use crate::check::Findings;
use crate::check::session::{Answer, Call, Promise, check};
use crate::history::{Outcome, Recorder};
use anyhow::Result;
use futures::future::LocalBoxFuture;
use rand::Rng;
use rand::rngs::StdRng;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use tokio_postgres::{Client, Error};

const WRITERS: i32 = 2;
const WATCHERS: [(&str, Promise); 3] =
    [("monotonic", Promise::MonotonicReads), ("monotonic", Promise::MonotonicReads), ("eventual", Promise::Nothing)];

#[derive(Debug)]
pub(super) struct Sessions {
    history: Recorder<Call, Answer>,
}

impl Sessions {
    pub(super) fn new(began: Instant) -> Self {
        Self { history: Recorder::new(began) }
    }

    async fn write(self: Rc<Self>, mut line: Line, key: i32, mut random: StdRng, shared: Arc<Shared>) {
        let mut value = 0;
        while let Some(process) = line.ready(|| self.history.process()).await {
            value += 1;
            let pending = self.history.invoke(process, Call::Write { key, value });
            let outcome = line
                .run(async |client, flight| {
                    flight.commits();
                    client.batch_execute(&format!("UPDATE versions SET value = {value} WHERE key = {key}")).await?;
                    Ok(Answer::Written)
                })
                .await;
            self.history.end(pending, outcome);
            for _ in 0..random.random_range(1..4) {
                let Some(process) = line.ready(|| self.history.process()).await else { return };
                let pending = self.history.invoke(process, Call::Read { key, promise: Promise::ReadYourWrites });
                let outcome = line.run(async |client, _| read(client, key).await).await;
                self.history.end(pending, outcome);
            }
            shared.think(&mut random).await;
        }
    }

    async fn watch(self: Rc<Self>, mut line: Line, promise: Promise, mut random: StdRng, shared: Arc<Shared>) {
        while let Some(process) = line.ready(|| self.history.process()).await {
            let key = random.random_range(0..WRITERS);
            let pending = self.history.invoke(process, Call::Read { key, promise });
            let outcome = line.run(async |client, _| read(client, key).await).await;
            self.history.end(pending, outcome);
            shared.think(&mut random).await;
        }
    }
}

async fn read(client: &Client, key: i32) -> Result<Answer, Error> {
    let rows = rows(client, &format!("SELECT value FROM versions WHERE key = {key}")).await?;
    // The rows were there before the first client; one that is missing is seen as older than everything.
    Ok(Answer::Value(rows.first().map_or(-1, |row| number(row, 0))))
}

impl Workload for Sessions {
    fn name(&self) -> &'static str {
        "sessions"
    }

    fn schema(&self) -> String {
        let last = WRITERS - 1;
        format!(
            "CREATE TABLE versions (key int PRIMARY KEY, value bigint NOT NULL); INSERT INTO versions SELECT i, 0 FROM generate_series(0, {last}) i"
        )
    }

    fn clients(self: Rc<Self>, seeds: &mut StdRng, shared: &Arc<Shared>) -> Vec<LocalBoxFuture<'static, ()>> {
        let mut clients: Vec<LocalBoxFuture<'static, ()>> = Vec::new();
        for key in 0..WRITERS {
            clients.push(Box::pin(Rc::clone(&self).write(Line::new(shared, "read_your_writes"), key, own(seeds), Arc::clone(shared))));
        }
        for (mode, promise) in WATCHERS {
            clients.push(Box::pin(Rc::clone(&self).watch(Line::new(shared, mode), promise, own(seeds), Arc::clone(shared))));
        }
        clients
    }

    fn conclude<'a>(&'a self, line: &'a mut Line) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for key in 0..WRITERS {
                let pending = self.history.invoke(self.history.process(), Call::Read { key, promise: Promise::Nothing });
                let answer = line.surely(async |client, _| read(client, key).await).await?;
                self.history.end(pending, Outcome::Ok(answer));
            }
            Ok(())
        })
    }

    fn judge(&self) -> Findings {
        check(&self.history.take())
    }
}
