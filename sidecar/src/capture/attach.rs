//! When does Postgres count the gate as its synchronous standby? It says so in `pg_stat_replication`, and only there.

use super::Error;
use crate::pg::connect::Target;
use std::time::Duration;

/// The server has to catch up with its WAL first, which takes no time on a fresh slot.
const POLL_EVERY: Duration = Duration::from_millis(2);

/// Waits until the walsender `process_id` streams and is synchronous. Ends with an error after `limit`.
pub(super) async fn wait(target: Target, process_id: i32, limit: Duration) -> Result<(), Error> {
    tokio::time::timeout(limit, poll(&target, process_id)).await.unwrap_or(Err(Error::NotAttached(limit)))
}

async fn poll(target: &Target, process_id: i32) -> Result<(), Error> {
    let client = target.connect("howdah-attach", "").await?;
    let sql = "SELECT state = 'streaming' AND sync_state IN ('sync', 'quorum') FROM pg_catalog.pg_stat_replication WHERE pid = $1";
    let statement = client.prepare(sql).await?;
    loop {
        let row = client.query_opt(&statement, &[&process_id]).await?;
        if row.and_then(|row| row.get::<_, Option<bool>>(0)).unwrap_or_default() {
            return Ok(());
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}
