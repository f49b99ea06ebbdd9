//! Inserts of unique elements, some of which are taken back, and reads of the latest of them; of all, at the end.

use super::line::{Flight, Line, Shared, number, rows};
use super::{Workload, own};
use crate::check::Findings;
use crate::check::set::{Answer, Call, check};
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

const WRITERS: usize = 3;
const READERS: [(&str, bool); 2] = [("linearizable", true), ("eventual", false)];
/// A read during the run covers this many elements: an hour of reads must fit into memory.
const WINDOW: i64 = 120;

#[derive(Debug)]
pub(super) struct Set {
    history: Recorder<Call, Answer>,
    elements: AtomicI64,
}

impl Set {
    pub(super) fn new(began: Instant) -> Self {
        Self { history: Recorder::new(began), elements: AtomicI64::new(0) }
    }

    async fn write(self: Rc<Self>, mut line: Line, mut random: StdRng, shared: Arc<Shared>) {
        while let Some(process) = line.ready(|| self.history.process()).await {
            let element = self.elements.fetch_add(1, Ordering::Relaxed) + 1;
            let kept = random.random_bool(0.9);
            let pending = self.history.invoke(process, Call::Insert(element));
            let outcome = match line.run(async |client, flight| insert(client, flight, element, kept).await).await {
                Outcome::Ok(()) if kept => Outcome::Ok(Answer::Inserted),
                Outcome::Ok(()) | Outcome::Failed => Outcome::Failed,
                Outcome::Unknown => Outcome::Unknown,
            };
            self.history.end(pending, outcome);
            shared.think(&mut random).await;
        }
    }

    async fn read(self: Rc<Self>, mut line: Line, fresh: bool, mut random: StdRng, shared: Arc<Shared>) {
        while let Some(process) = line.ready(|| self.history.process()).await {
            let from = (self.elements.load(Ordering::Relaxed) - WINDOW).max(0);
            let pending = self.history.invoke(process, Call::Read { fresh, from });
            let outcome = line.run(async |client, _| elements(client, from).await).await;
            self.history.end(pending, outcome);
            shared.think(&mut random).await;
        }
    }
}

async fn insert(client: &Client, flight: &Flight, element: i64, kept: bool) -> Result<(), Error> {
    let insert = format!("INSERT INTO elements VALUES ({element})");
    if kept {
        flight.commits();
        return client.batch_execute(&insert).await;
    }
    client.batch_execute("BEGIN").await?;
    client.batch_execute(&insert).await?;
    client.batch_execute("ROLLBACK").await
}

async fn elements(client: &Client, from: i64) -> Result<Answer, Error> {
    let rows = rows(client, &format!("SELECT id FROM elements WHERE id >= {from}")).await?;
    Ok(Answer::Elements(rows.iter().map(|row| number(row, 0)).collect()))
}

impl Workload for Set {
    fn name(&self) -> &'static str {
        "set"
    }

    fn schema(&self) -> String {
        "CREATE TABLE elements (id bigint PRIMARY KEY)".to_owned()
    }

    fn clients(self: Rc<Self>, seeds: &mut StdRng, shared: &Arc<Shared>) -> Vec<LocalBoxFuture<'static, ()>> {
        let mut clients: Vec<LocalBoxFuture<'static, ()>> = Vec::new();
        for _ in 0..WRITERS {
            clients.push(Box::pin(Rc::clone(&self).write(Line::new(shared, "linearizable"), own(seeds), Arc::clone(shared))));
        }
        for (mode, fresh) in READERS {
            clients.push(Box::pin(Rc::clone(&self).read(Line::new(shared, mode), fresh, own(seeds), Arc::clone(shared))));
        }
        clients
    }

    fn conclude<'a>(&'a self, line: &'a mut Line) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let pending = self.history.invoke(self.history.process(), Call::Read { fresh: true, from: 0 });
            let answer = line.surely(async |client, _| elements(client, 0).await).await?;
            self.history.end(pending, Outcome::Ok(answer));
            Ok(())
        })
    }

    fn judge(&self) -> Findings {
        check(&self.history.take())
    }
}
