//! Sessions of this node that hold up the log (a long reader in front of DDL or TRUNCATE) are ended, as a hot standby does.

use super::Error;
use crate::pg::connect::Target;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Ends what blocks server process `pid`: running statements are cancelled, idle transactions and (with `terminate`) all are terminated.
/// Says how many.
pub(super) async fn unblock(target: &Target, pid: i32, terminate: bool) -> Result<i64, Error> {
    const END: &str = "
        SELECT pg_catalog.count(*) FILTER (WHERE CASE WHEN $2 OR a.state <> 'active'
                   THEN pg_catalog.pg_terminate_backend(a.pid) ELSE pg_catalog.pg_cancel_backend(a.pid) END)
          FROM pg_catalog.pg_stat_activity a
         WHERE a.pid = ANY (pg_catalog.pg_blocking_pids($1))";
    let work = async {
        let client = target.connect("howdah-unblock", "-c statement_timeout=5000 -c search_path=pg_catalog").await?;
        let row = client.query_one(END, &[&pid, &terminate]).await;
        row.map(|row| row.get(0)).map_err(|source| Error::postgres("ending sessions that block apply", source))
    };
    tokio::time::timeout(TIMEOUT, work).await.unwrap_or(Err(Error::Disconnected))
}
