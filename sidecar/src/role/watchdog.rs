//! The one deadlock that the gate can cause, and its end.
//!
//! A transaction that creates a composite type and stores values of it holds an exclusive lock on the type while its COMMIT waits at the gate;
//! decoding those values wants a share lock on the same type. Postgres' deadlock detector does not know that a COMMIT waits for decoding.
//! The transaction is committed locally and cannot be taken back, so the session that holds the lock is ended: its client learns that the
//! outcome is unknown, and the transaction is decoded, decided and replicated like any other.

use super::Error;
use crate::pg::connect::Target;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_secs(1);

const END_HOLDERS: &str = "
    SELECT holder.pid, pg_terminate_backend(holder.pid)
    FROM pg_stat_activity gate CROSS JOIN LATERAL unnest(pg_blocking_pids(gate.pid)) AS blocking(pid)
        JOIN pg_stat_activity holder ON holder.pid = blocking.pid
    WHERE gate.backend_type = 'walsender' AND gate.application_name = 'howdah' AND gate.wait_event_type = 'Lock'
        AND holder.wait_event = 'SyncRep'";

/// Runs until the server goes away.
pub(super) async fn run(target: Target) -> Error {
    let session = match target.connect("howdah-watchdog", "").await {
        Ok(session) => session,
        Err(error) => return error.into(),
    };
    loop {
        match session.query(END_HOLDERS, &[]).await {
            Ok(ended) if ended.is_empty() => {}
            Ok(ended) => {
                let pids: Vec<i32> = ended.iter().map(|row| row.get(0)).collect();
                tracing::warn!(?pids, "ended sessions whose COMMIT held a lock that decoding it needs");
            }
            Err(error) => return error.into(),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
