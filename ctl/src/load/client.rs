//! One client: connects, runs transactions until told to stop, and notes each outcome.

use super::outcome::{Progress, of_failure};
use super::script::Prepared;
use super::{CONNECT_TIMEOUT, Options, Session, Shared, TRANSACTION_TIMEOUT};
use crate::core::ledger::{Ledger, Outcome, TransactionId};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Between two attempts to connect, so that a proxy that is away is not hammered.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub(crate) struct Books {
    pub(crate) acks: Vec<Duration>,
    pub(crate) ledger: Ledger,
}

pub(crate) async fn run(number: u32, options: Options, started: Instant, shared: Arc<Shared>) -> Books {
    let mut books = Books::default();
    let mut random = StdRng::seed_from_u64(options.seed ^ (u64::from(number) << 32));
    let client = i32::try_from(number).expect("clients are few");
    let mut seq = 0;
    let mut line: Option<(Session, Prepared)> = None;
    while !shared.stopping() {
        let Some((session, script)) = &line else {
            line = connect(&options).await;
            if line.is_none() {
                tokio::time::sleep(CONNECT_PAUSE).await;
            }
            continue;
        };
        seq += 1;
        let id = TransactionId { client, seq };
        let began = Instant::now();
        let (outcome, usable) = transaction(session, script, id, &mut random).await;
        if outcome == Outcome::Acknowledged {
            books.acks.push(started.elapsed());
        }
        books.ledger.note(id, outcome);
        shared.count(outcome, began.elapsed());
        if !usable {
            line = None;
        }
    }
    books
}

async fn connect(options: &Options) -> Option<(Session, Prepared)> {
    let connecting = async {
        let session = Session::open(&options.url).await.ok()?;
        let script = options.script.prepare(&session.client).await.ok()?;
        Some((session, script))
    };
    timeout(CONNECT_TIMEOUT, connecting).await.ok().flatten()
}

/// The outcome, and whether the connection can be used again.
async fn transaction(session: &Session, script: &Prepared, id: TransactionId, random: &mut StdRng) -> (Outcome, bool) {
    let progress = Progress::default();
    let error = match timeout(TRANSACTION_TIMEOUT, script.run(&session.client, id, random, &progress)).await {
        Ok(Ok(())) => return (Outcome::Acknowledged, true),
        // Given up in the middle: the connection may still carry the statement, so it goes.
        Err(_) => return (of_failure(progress.phase(), None), false),
        Ok(Err(error)) => error,
    };
    let outcome = of_failure(progress.phase(), error.code().map(tokio_postgres::error::SqlState::code));
    let alive = !session.client.is_closed() && error.as_db_error().is_some();
    // Ends the failed transaction; only a warning where there is none.
    let usable = alive && matches!(timeout(TRANSACTION_TIMEOUT, session.client.batch_execute("ROLLBACK")).await, Ok(Ok(())));
    (outcome, usable)
}
