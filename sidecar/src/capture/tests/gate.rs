//! A COMMIT waits for its decision, whatever it consists of.

use super::fixture::{Postgres, until, waiting};
use super::log::{Log, Mode};
use crate::core::pgoutput::{Message, Value};

/// The first column of each inserted row.
fn inserted(changes: &[Message]) -> Vec<String> {
    let first = |message: &Message| match message {
        Message::Insert { new, .. } => match &new[0] {
            Value::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
            other => panic!("text was asked for, not {other:?}"),
        },
        other => panic!("only inserts, not {other:?}"),
    };
    changes.iter().map(first).collect()
}

#[tokio::test]
async fn a_commit_waits_for_its_decision_and_is_invisible_until_then() {
    let postgres = Postgres::start().await;
    let log = Log::default();
    let gate = postgres.gate(&log).await;
    let (client, observer) = (postgres.client().await, postgres.local().await);
    log.mode(Mode::Hold);
    let write = tokio::spawn(async move { client.batch_execute("INSERT INTO t VALUES (1, 'one')").await });
    until("the entry is proposed", async || log.held() == 1).await;
    until("the commit waits", async || waiting(&observer).await == 1).await;
    let rows = |rows: Vec<tokio_postgres::Row>| rows.len();
    assert_eq!(observer.query("SELECT FROM t", &[]).await.map(rows).unwrap(), 0);
    assert!(!write.is_finished());
    log.release(1);
    write.await.unwrap().unwrap();
    assert_eq!(observer.query("SELECT FROM t", &[]).await.map(rows).unwrap(), 1);
    assert_eq!(inserted(&log.commits()[0].changes), ["1"]);
    let state = gate.stop().await;
    assert!(state.error.is_none() && state.stopped && !state.attached);
    assert_eq!(state.confirmed, log.watermark());
}
