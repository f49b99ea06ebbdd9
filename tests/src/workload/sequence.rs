//! Rows whose key comes from a sequence.

use super::line::{Flight, Line, Shared, number, rows};
use super::{Workload, own};
use crate::check::Findings;
use crate::check::sequence::{Answer, Call, check};
use crate::history::Recorder;
use anyhow::Result;
use futures::future::LocalBoxFuture;
use rand::rngs::StdRng;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use tokio_postgres::{Client, Error};

const CLIENTS: usize = 2;

#[derive(Debug)]
pub(super) struct Sequence {
    history: Recorder<Call, Answer>,
}

impl Sequence {
    pub(super) fn new(began: Instant) -> Self {
        Self { history: Recorder::new(began) }
    }

    async fn work(self: Rc<Self>, mut line: Line, mut random: StdRng, shared: Arc<Shared>) {
        while let Some(process) = line.ready(|| self.history.process()).await {
            let pending = self.history.invoke(process, Call);
            let outcome = line.run(async |client, flight| draw(client, flight).await).await;
            self.history.end(pending, outcome);
            shared.think(&mut random).await;
        }
    }
}

async fn draw(client: &Client, flight: &Flight) -> Result<Answer, Error> {
    flight.commits();
    let rows = rows(client, "INSERT INTO tickets DEFAULT VALUES RETURNING id").await?;
    Ok(number(rows.first().expect("an INSERT that succeeded returns its row"), 0))
}

impl Workload for Sequence {
    fn name(&self) -> &'static str {
        "sequence"
    }

    fn schema(&self) -> String {
        "CREATE TABLE tickets (id bigserial PRIMARY KEY)".to_owned()
    }

    fn clients(self: Rc<Self>, seeds: &mut StdRng, shared: &Arc<Shared>) -> Vec<LocalBoxFuture<'static, ()>> {
        let client = |_| -> LocalBoxFuture<'static, ()> {
            Box::pin(Rc::clone(&self).work(Line::new(shared, "linearizable"), own(seeds), Arc::clone(shared)))
        };
        (0..CLIENTS).map(client).collect()
    }

    fn conclude<'a>(&'a self, _: &'a mut Line) -> LocalBoxFuture<'a, Result<()>> {
        // What was handed out is in the history already.
        Box::pin(async { Ok(()) })
    }

    fn judge(&self) -> Findings {
        check(&self.history.take())
    }
}
